"""Figures that convince a sceptic: injection, stability under the fit's choices, feature importance, methods
compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..events import Window
from .plots_common import (
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    INK,
    LABEL,
    MUTED,
    axes_of,
    curve_style,
    new_figure,
    put_label,
    stacked,
    styled,
)
from .scan_metrics import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class InjectionRow:
    """Fits of pseudo-data with ``injected`` signal events: ``found`` mean fitted yield and ``spread`` its standard
    deviation; ``pull_mean`` and ``pull_sd`` of (found - injected) / error; ``fits`` that converged and ``failed``
    ones."""

    injected: float
    found: float
    spread: float
    pull_mean: float
    pull_sd: float
    fits: int
    failed: int = 0


def injection_columns() -> tuple[str, ...]:
    """Heads of the table that `injection_table` fills."""
    return ("injected", "found", "± per fit", "pull mean", "pull sd", "fits", "failed")


def injection_table(rows: Sequence[InjectionRow]) -> list[tuple[Any, ...]]:
    """Table rows as text and numbers: pulls with their statistical errors."""
    return [
        (
            f"{r.injected:g}", f"{r.found:.4g}", f"{r.spread:.3g}",
            f"{r.pull_mean:+.2f} ± {r.pull_sd / np.sqrt(r.fits):.2f}",
            f"{r.pull_sd:.2f} ± {r.pull_sd / np.sqrt(2 * max(r.fits - 1, 1)):.2f}", r.fits, r.failed,
        )
        for r in rows
    ]  # fmt: skip


@styled
def plot_injection(
    rows: Sequence[InjectionRow], *, label: str = LABEL, right: str = "", unit: str = "events"
) -> Figure:
    """Found against injected signal with the line of no bias; below, mean and standard deviation of the pulls.

    Thick bars are the error of the mean, thin ones the spread of single fits.
    """
    figure, axes = stacked((1.7, 1.0), 5.9, 5.6)
    top, bottom = axes[:, 0]
    x, y = np.array([r.injected for r in rows]), np.array([r.found for r in rows])
    spread, fits = np.array([r.spread for r in rows]), np.array([max(r.fits, 1) for r in rows])
    reach = float(max(x.max(), 1.0))
    ends = np.array([-0.05, 1.08]) * reach
    top.plot(ends, ends, color=GREY, lw=1.0, ls=DASHES[1], label="found = injected")
    top.errorbar(x, y, yerr=spread, fmt="none", color=BLUE, lw=1.0, alpha=0.6, label="spread of single fits")
    top.errorbar(
        x, y, yerr=spread / np.sqrt(fits), fmt="o", color=BLUE, ms=5, lw=2.4, label="mean and its error"
    )
    top.set(ylabel=f"found [{unit}]", xlim=tuple(ends), ylim=(float((y - spread).min()) - 0.08 * reach, None))
    top.set_ylim(top=float((y + spread).max()) + 0.35 * reach)
    top.legend(loc="upper left")
    mean, sd = np.array([r.pull_mean for r in rows]), np.array([r.pull_sd for r in rows])
    offset = 0.008 * reach
    bottom.axhspan(-0.1, 0.1, color=GREY, alpha=0.2, lw=0)
    bottom.axhspan(0.95, 1.1, color=GREY, alpha=0.2, lw=0)
    bottom.errorbar(
        x - offset, mean, yerr=sd / np.sqrt(fits), fmt="o", color=BLUE, ms=4.5, lw=1.4, label="pull mean"
    )
    bottom.errorbar(
        x + offset, sd, yerr=sd / np.sqrt(2 * np.maximum(fits - 1, 1)), fmt="D", color=CYCLE[1],
        ms=4.5, lw=1.4, label="pull sd",
    )  # fmt: skip
    bottom.set(xlabel=f"injected [{unit}]", ylabel="pull")
    bottom.set_ylim(min(-0.45, 1.2 * float(mean.min())), max(1.75, 1.4 * float(sd.max())))
    bottom.legend(loc="center right", ncols=2, bbox_to_anchor=(1.0, 0.42))
    figure.align_ylabels(axes)
    put_label(top, label, right)
    return figure


@dataclass(frozen=True)
class StabilityCell:
    """The result of one choice of the fit: ``order`` shape parameters, ``binning`` by name, ``window``; ``z`` local
    significance and ``gof_p`` of its background fit, nan where the fit failed. ``nominal`` marks the choice that is
    quoted."""

    order: int
    binning: str
    window: Window
    z: float
    gof_p: float
    nominal: bool = False


@styled
def plot_stability(cells: Sequence[StabilityCell], *, label: str = LABEL, right: str = "") -> Figure:
    """Local Z for every fit order (rows) and binning (columns), one panel per window, on one colour scale.

    The quoted choice is framed; fits with a goodness-of-fit p below 5 % are in brackets, failed ones a dash.
    """
    windows = list(dict.fromkeys(c.window for c in cells))
    orders, binnings = sorted({c.order for c in cells}), list(dict.fromkeys(c.binning for c in cells))
    wide, high = 1.05 + len(windows) * max(1.5, 0.82 * len(binnings)) + 1.0, 1.6 + 0.55 * len(orders)
    figure = new_figure(wide, high)
    axes = figure.subplots(1, len(windows), sharey=True, squeeze=False)[0]
    finite = [abs(c.z) for c in cells if np.isfinite(c.z)]
    reach = max([3.0, *finite])
    image = None
    for ax, window in zip(axes, windows, strict=True):
        grid = np.full((len(orders), len(binnings)), np.nan)
        for c in cells:
            if c.window == window:
                grid[orders.index(c.order), binnings.index(c.binning)] = c.z
        image = ax.imshow(grid, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        for c in cells:
            if c.window == window:
                _draw_cell(ax, binnings.index(c.binning), orders.index(c.order), c, reach)
        ax.set_xticks(range(len(binnings)), binnings)
        ax.set_yticks(range(len(orders)), [str(o) for o in orders])
        ax.set_xlabel(f"{window.low:g}–{window.high:g} GeV", size=11)
        ax.tick_params(which="both", length=0)
        ax.minorticks_off()
    axes[0].set_ylabel("shape parameters")
    if image is not None:
        bar = figure.colorbar(image, ax=list(axes), pad=0.015, aspect=14)
        bar.set_label("local Z")
        bar.ax.minorticks_off()
    put_label(axes[0], label)
    key = f"{right}   (Z): fit p < 5%".strip()
    place = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "size": 9.5,
        "ha": "right",
        "color": MUTED,
    }
    axes[-1].annotate(key, (1, 1), (0, 4), **place)
    return figure


def _draw_cell(ax: Axes, x: int, y: int, cell: StabilityCell, reach: float) -> None:
    from matplotlib.patches import Rectangle

    text = "–" if not np.isfinite(cell.z) else f"{cell.z:.2f}"
    if np.isfinite(cell.z) and cell.gof_p < 0.05:
        text = f"({text})"
    dark = np.isfinite(cell.z) and abs(cell.z) > 0.6 * reach
    ax.text(x, y, text, ha="center", va="center", size=9.5, color="white" if dark else INK)
    if cell.nominal:
        ax.add_patch(
            Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec="white" if dark else INK, lw=2.0)
        )


@dataclass(frozen=True)
class Importance:
    """What a score loses without one feature (its values shuffled): ``value`` +- ``error`` over trainings."""

    feature: str
    value: float
    error: float


@styled
def plot_importance(
    rows: Sequence[Importance], ax: Axes | None = None, *, what: str = "loss of max SIC when shuffled",
    label: str = LABEL, right: str = "", most: int = 20,
) -> Figure:  # fmt: skip
    """Horizontal bars, the largest on top, at most ``most`` of them (the rest is counted in the axis label)."""
    ranked = sorted(rows, key=lambda r: -r.value)[:most]
    figure, ax = axes_of(ax, 6.2, 1.5 + 0.32 * len(ranked))
    y = np.arange(len(ranked))
    values = np.array([r.value for r in ranked])
    errors = np.array([r.error for r in ranked])
    ax.barh(y, values, height=0.62, color=BLUE, alpha=0.75, lw=0)
    ax.errorbar(values, y, xerr=errors, fmt="none", color=INK, lw=1.2, capsize=2.5)
    ax.axvline(0, color=INK, lw=0.8)
    ax.set_yticks(y, [r.feature for r in ranked])
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_ylim(len(ranked) - 0.4, -0.6)
    left = len(rows) - len(ranked)
    ax.set_xlabel(what + (f"  ({left} smaller ones not shown)" if left > 0 else ""))
    ax.margins(x=0.06)
    put_label(ax, label, right)
    return figure


@styled
def plot_bands(
    bands: Sequence[Band], ax: Axes | None = None, *, label: str = LABEL, right: str = ""
) -> Figure:
    """SIC or background rejection against signal efficiency for many methods: median and 16-84 % of their trainings.

    All bands must be of one kind. Curves end where half the trainings keep too few background events.
    """
    kind, floor = bands[0].kind, bands[0].floor
    figure, ax = axes_of(ax, 6.8 if len(bands) > 4 else 6.0, 5.0)
    top = 1.5
    for i, one in enumerate(bands):
        style = curve_style(i)
        best = float(np.nanmax(one.median)) if np.isfinite(one.median).any() else np.nan
        name = f"{one.name}, max {best:.1f}" if kind == "sic" and np.isfinite(best) else one.name
        ax.fill_between(one.x, one.low, one.high, color=style["color"], alpha=0.16, lw=0)
        ax.plot(one.x, one.median, **style, label=name)
        top = max(top, float(np.nanmax(one.high)) if np.isfinite(one.high).any() else top)
    grid = np.linspace(1e-3, 1, 400)
    line = np.sqrt(grid) if kind == "sic" else 1 / grid
    ax.plot(grid, line, color=GREY, lw=1.0, ls=(0, (4, 3)), label="random", zorder=1)
    columns = 2 if len(bands) > 4 else 1
    rows = -(-(len(bands) + 1) // columns)
    if kind == "sic":
        ax.set(ylabel=r"$\epsilon_S/\sqrt{\epsilon_B}$", ylim=(0, top * (1.15 + 0.09 * rows)))
    else:
        ax.set_yscale("log")
        ax.set(ylabel=r"background rejection $1/\epsilon_B$", ylim=(1, top ** (1.12 + 0.07 * rows)))
    ax.set(xlabel=r"signal efficiency $\epsilon_S$", xlim=(0, 1))
    runs = sorted({one.trainings for one in bands})
    many = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]}–{runs[-1]}"
    head = rf"median, 68% of {many} trainings; $n_B\geq{floor}$"
    ax.legend(loc="upper right", ncols=columns, title=head, title_fontsize=9, alignment="left", fontsize=9.5)
    put_label(ax, label, right)
    return figure
