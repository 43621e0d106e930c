"""What every figure shares: style, label, colours, Poisson bars, mass windows. Nothing here touches pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

#: Second half of the label at the top left of every figure; never "Preliminary".
LABEL = "Simulation"

#: Colours told apart by colour-blind readers (Petroff 2021, arXiv 2107.02270), by what they stand for.
BLUE, ORANGE, RED, PURPLE, GREY, VIOLET = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"
INK, MUTED = "#1b2330", "#6b7380"
CYCLE = (BLUE, ORANGE, PURPLE, RED, VIOLET, GREY)
#: Line styles in step with `CYCLE`, so that curves are told apart without colour too.
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (1.5, 1.2)), (0, (9, 2)), "-")

#: On top of mplhep's CMS style: sizes for a web page, lighter lines, a maths font that does not need rc at draw time.
_OVERRIDES: dict[str, Any] = {
    "font.size": 11,
    "axes.labelsize": 12,
    "axes.titlesize": 11,
    "axes.linewidth": 0.9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 6,
    "ytick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.minor.size": 3,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "xtick.minor.width": 0.6,
    "ytick.minor.width": 0.6,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
    "legend.fontsize": 10,
    "legend.handlelength": 1.8,
    "legend.labelspacing": 0.4,
    "legend.borderpad": 0.6,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.frameon": True,
    "lines.linewidth": 1.8,
    "mathtext.fontset": "stixsans",
    "mathtext.default": "it",
    "figure.facecolor": "white",
    "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
}


def styled(make: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the package's style, leaving matplotlib's settings as they were."""

    @wraps(make)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib as mpl
        import mplhep

        settings: Any = {**mplhep.style.CMS, **_OVERRIDES}
        with mpl.rc_context(settings):
            return make(*args, **kwargs)

    return inside


def new_figure(width: float = 6.4, height: float = 4.6) -> Figure:
    """An empty figure of this size in inches, drawn by Agg, unknown to pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def axes_of(ax: Axes | None, width: float = 6.4, height: float = 4.6) -> tuple[Figure, Axes]:
    """The figure and axes to draw in: those given, or new ones."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.subplots()
    return ax.get_figure(root=True), ax  # type: ignore[return-value]


def stacked(
    ratios: Sequence[float] = (3.0, 1.0), width: float = 6.4, height: float = 5.6, columns: int = 1
) -> tuple[Figure, NDArray[Any]]:
    """A figure of panels above one another that share x, shape (len(ratios), columns)."""
    figure = new_figure(width, height)
    figure.get_layout_engine().set(hspace=0.02, h_pad=0.03)  # type: ignore[union-attr]
    axes = figure.subplots(
        len(ratios), columns, sharex="col", squeeze=False, gridspec_kw={"height_ratios": list(ratios)}
    )
    return figure, axes


def put_label(ax: Axes, label: str = LABEL, right: str = "") -> None:
    """'elsewhere  Simulation' above the top left corner, ``right`` above the top right one."""
    name = ax.annotate(
        "elsewhere", (0, 1), (0, 4), "axes fraction", "offset points", weight="bold", size=12.5, va="baseline"
    )
    ax.annotate(
        label,
        (1, 1),
        (5, 4),
        (name, "axes fraction"),
        "offset points",
        style="italic",
        size=11.5,
        va="baseline",
        annotation_clip=False,
    )
    if right:
        ax.annotate(
            right,
            (1, 1),
            (0, 4),
            "axes fraction",
            "offset points",
            size=10.5,
            ha="right",
            va="baseline",
            color=MUTED,
        )


def garwood(counts: ArrayLike, level: float = 0.6827) -> NDArray[np.float64]:
    """Central Poisson interval of each count (Garwood 1936) as distances from it, shape (2, n), as errorbar wants."""
    n = np.asarray(counts, dtype=np.float64)
    tail = 0.5 * (1.0 - level)
    low = np.where(n > 0, stats.gamma.ppf(tail, np.where(n > 0, n, 1.0)), 0.0)
    high = stats.gamma.isf(tail, n + 1.0)
    return np.stack([n - low, high - n])


def weighted_errors(sums: ArrayLike, squares: ArrayLike) -> NDArray[np.float64]:
    """Garwood bars of weighted sums through n_eff = (sum w)^2 / sum w^2, shape (2, n); sqrt(sum w^2) where a sum is negative."""
    w, w2 = np.asarray(sums, dtype=np.float64), np.asarray(squares, dtype=np.float64)
    good = (w > 0) & (w2 > 0)
    scale = np.where(good, w2 / np.where(good, w, 1.0), 1.0)
    effective = np.where(good, w / scale, 0.0)
    bars = garwood(effective) * scale
    return np.where(good | (w == 0), bars, np.sqrt(w2))


def draw_counts(
    ax: Axes,
    edges: ArrayLike,
    counts: ArrayLike,
    label: str = "data",
    errors: ArrayLike | None = None,
    **style: Any,
) -> None:
    """Black points at the bin centres with Poisson bars (or the ``errors`` (2, n) given)."""
    e, n = np.asarray(edges, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    bars = garwood(n) if errors is None else np.asarray(errors, dtype=np.float64)
    options = {"fmt": "o", "color": INK, "ms": 3.4, "lw": 1.0, "zorder": 5, **style}
    ax.errorbar(0.5 * (e[1:] + e[:-1]), n, yerr=bars, label=label, **options)


def curve_style(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th curve of a panel; no two of the first 30 are the same."""
    return {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[(i + i // len(CYCLE)) % (len(DASHES) - 1)]}


def draw_steps(
    ax: Axes,
    edges: ArrayLike,
    values: ArrayLike,
    color: str,
    label: str,
    *,
    filled: bool = False,
    **style: Any,
) -> None:
    """A histogram's outline, filled if asked."""
    e, v = np.asarray(edges), np.asarray(values, dtype=np.float64)
    if filled:
        ax.stairs(v, e, color=color, fill=True, alpha=0.28, lw=0)
    ax.stairs(v, e, color=color, label=label, lw=style.pop("lw", 1.7), **style)


def draw_band(
    ax: Axes, edges: ArrayLike, low: ArrayLike, high: ArrayLike, color: str, *, label: str | None = None
) -> None:
    """A stepped band between two histograms."""
    ax.stairs(
        np.asarray(high),
        np.asarray(edges),
        baseline=np.asarray(low),
        fill=True,
        color=color,
        alpha=0.3,
        lw=0,
        label=label,
    )


def shade_window(ax: Axes, low: float, high: float, label: str | None = None) -> None:
    """The signal region, shaded."""
    ax.axvspan(low, high, color=ORANGE, alpha=0.13, lw=0, zorder=0, label=label)


def sigma_lines(ax: Axes, up_to: int = 5) -> None:
    """Lines at the one-sided p-values of 1 .. ``up_to`` standard deviations, named at the right edge."""
    for z in range(1, up_to + 1):
        p = float(stats.norm.sf(z))
        ax.axhline(p, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
        ax.annotate(
            rf"{z}$\sigma$",
            (1, p),
            (-4, 2),
            ("axes fraction", "data"),
            "offset points",
            size=9,
            ha="right",
            color=MUTED,
        )


def percent(efficiency: float) -> str:
    """A cut's efficiency in words: 0.003 is '0.3%'."""
    return f"{100 * efficiency:g}%"


def to_svg(figure: Figure, name: str = "figure") -> str:
    """The figure as SVG text: letters as outlines, the same bytes for the same figure (``name`` seeds its ids)."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, dpi=170)
    return out.getvalue()
