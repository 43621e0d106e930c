"""Figures of limits: against mass, against the cross section with the efficiency that makes them, and local and
global p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .plots_common import (
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    INK,
    LABEL,
    MUTED,
    PURPLE,
    RED,
    VIOLET,
    axes_of,
    put_label,
    sigma_lines,
    stacked,
    styled,
)
from .self_consistent import Reach, SelfConsistentLimit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
#: One- and two-sigma bands, told apart by colour-blind readers and in grey.
INNER, OUTER = "#85d1fb", "#ffdf7f"
_FIRST = ("observed", "expected", r"expected $\pm 1\sigma$", r"expected $\pm 2\sigma$")


@dataclass(frozen=True)
class LimitCurve:
    """95 % limits against resonance mass: ``mass`` GeV (n,) rising; ``observed`` (n,) and ``expected`` (5, n) in fb at
    -2 .. +2 sigma, infinite where there is no limit; ``theory`` names and cross sections (n,) to compare with."""

    mass: Array
    observed: Array
    expected: Array
    theory: tuple[tuple[str, Array], ...] = ()


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


def _draw_bands(ax: Axes, x: Array, expected: Array) -> None:
    """Two-sigma band, one-sigma band, median; (5, n). Bands stop, and an arrow points up, where they have no upper
    edge."""
    low2, low1, middle, high1, high2 = (_finite(row) for row in expected)
    ax.fill_between(x, low2, high2, color=OUTER, lw=0)
    ax.fill_between(x, low1, high1, color=INNER, lw=0)
    ax.plot(x, middle, color=INK, ls=(0, (5, 2)), lw=1.5, label="expected")
    ax.fill_between([], [], [], color=INNER, lw=0, label=r"expected $\pm 1\sigma$")
    ax.fill_between([], [], [], color=OUTER, lw=0, label=r"expected $\pm 2\sigma$")
    open_ended = np.isfinite(middle) & ~np.isfinite(high2)
    if open_ended.any():
        ax.errorbar(
            x[open_ended], middle[open_ended], yerr=0.6 * middle[open_ended], lolims=True, fmt="none", color=MUTED,
            lw=1.0, capsize=3, label="no upper edge",
        )  # fmt: skip


def _ordered_legend(ax: Axes, first: Sequence[str], **options: Any) -> None:
    """A legend that lists these entries first."""
    handles, names = ax.get_legend_handles_labels()
    rank = {name: i for i, name in enumerate(first)}
    order = sorted(range(len(names)), key=lambda i: (rank.get(names[i], len(first)), i))
    ax.legend([handles[i] for i in order], [names[i] for i in order], **options)


@styled
def plot_limit_mass(
    curve: LimitCurve, ax: Axes | None = None, *, label: str = LABEL, right: str = ""
) -> Figure:
    """Observed and expected limits against mass with one- and two-sigma bands; a gap is a mass without a limit."""
    figure, ax = axes_of(ax, 6.6, 4.8)
    _draw_bands(ax, curve.mass, curve.expected)
    ax.plot(curve.mass, _finite(curve.observed), color=INK, marker="o", ms=4, lw=1.6, label="observed")
    for i, (name, sigma) in enumerate(curve.theory):
        ax.plot(
            curve.mass, sigma, color=(RED, *CYCLE)[i % (1 + len(CYCLE))], ls=DASHES[1 + i % 4], label=name
        )
    drawn = np.concatenate([curve.observed, curve.expected.ravel(), *(s for _, s in curve.theory)])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    ax.set_yscale("log")
    if drawn.size:
        ax.set_ylim(0.5 * drawn.min(), 30 * drawn.max())
    ax.set(xlabel="resonance mass [GeV]", ylabel=r"95% CL limit on $\sigma$ [fb]")
    if len(curve.mass) > 1:
        pad = 0.25 * float(np.diff(curve.mass).min())
        ax.set_xlim(curve.mass[0] - pad, curve.mass[-1] + pad)
    none = ~np.isfinite(curve.observed)
    if none.any():
        where = ax.get_xaxis_transform()
        ax.plot(
            curve.mass[none], np.full(none.sum(), 0.03), "^", color=INK, ms=6, mfc="white", transform=where,
            label="no observed limit", clip_on=False,
        )  # fmt: skip
    _ordered_legend(ax, _FIRST, loc="upper right", ncols=2)
    put_label(ax, label, right)
    return figure


@styled
def plot_limit_sigma(
    found: SelfConsistentLimit, reaches: Sequence[Reach] = (), *, label: str = LABEL, right: str = ""
) -> Figure:
    """CLs against the cross section with the limit, and below it the efficiency that every point rests on.

    Upper panel: observed and expected CLs, the level, the self-consistent limit and what the trained efficiency would
    have given. Lower panel: every retraining, their isotonic fit and its band; discovery reaches if given.
    """
    figure, axes = stacked((1.5, 1.0), 6.6, 6.2)
    top, bottom = axes[:, 0]
    # Bands of CLs: row 0 is a deficit, the smallest CLs.
    _draw_bands(top, found.sigma, found.expected_cls)
    top.plot(found.sigma, found.observed_cls, color=INK, lw=2.0, label="observed")
    top.axhline(found.level, color=RED, lw=1.0, ls=DASHES[1])
    for sigma, name, style in (
        (found.observed, rf"limit {found.observed:.3g} fb", "-"),
        (found.naive, f"with the trained efficiency {found.naive:.3g} fb (not valid)", DASHES[3]),
    ):
        if np.isfinite(sigma):
            for ax in (top, bottom):
                ax.axvline(sigma, color=RED, lw=1.4, ls=style, label=name if ax is top else None)
    top.set_yscale("log")
    top.set(ylabel=r"$\mathrm{CL}_s$", ylim=(1e-3, 30.0))
    top.annotate(
        f"{found.level:g}", (1, found.level), (-4, -3), ("axes fraction", "data"), "offset points",
        ha="right", va="top", size=9.5, color=RED,
    )  # fmt: skip
    _ordered_legend(top, _FIRST, loc="upper right", ncols=2)
    _draw_efficiency(bottom, found)
    for i, reach in enumerate(r for r in reaches if np.isfinite(r.sigma)):
        bottom.axvline(
            reach.sigma,
            color=(PURPLE, VIOLET)[i % 2],
            lw=1.4,
            ls=DASHES[2],
            label=rf"{reach.z:g}$\sigma$ reach",
        )
    bottom.set(xlabel=r"cross section $\sigma$ [fb]", xlim=(0, float(found.sigma[-1])))
    bottom.legend(loc="upper left", ncols=2, fontsize=9)
    figure.align_ylabels(axes)
    put_label(top, label, right)
    return figure


def _draw_efficiency(ax: Axes, found: SelfConsistentLimit) -> None:
    one = found.efficiency
    x = np.repeat(one.sigma, one.measured.shape[1])
    ax.plot(x, one.measured.ravel(), "o", color=GREY, ms=2.6, alpha=0.6, label="retrainings", zorder=1)
    ax.fill_between(one.sigma, one.low, one.high, color=BLUE, alpha=0.3, lw=0, zorder=2)
    ax.plot(one.sigma, one.value, color=BLUE, lw=1.8, label="isotonic fit", zorder=3)
    ax.set(ylabel=r"$A\,\epsilon(\sigma)$", ylim=(0, 1.45 * max(float(one.measured.max()), 1e-6)))


@dataclass(frozen=True)
class PScan:
    """p-values of one search over ``mass`` GeV (n,): ``p_local`` and ``p_global`` (what it means that the largest
    excess of the whole search is at least as large), with the 68 % interval of the latter from its toys, (n,) each;
    nan: fit failed."""

    name: str
    mass: Array
    p_local: Array
    p_global: Array
    p_global_low: Array
    p_global_high: Array


@styled
def plot_p_scan(
    scans: Sequence[PScan], ax: Axes | None = None, *, label: str = LABEL, right: str = ""
) -> Figure:
    """Local (thin, dashed) and global (thick, with its band) p-value against mass, lines at 1 .. 5 sigma."""
    figure, ax = axes_of(ax, 7.0, 4.9)
    lowest = 1.0
    for i, one in enumerate(scans):
        color, marker = CYCLE[i % len(CYCLE)], "osD^v"[i % 5]
        name = f"{one.name}: " if one.name else ""
        ax.plot(
            one.mass, one.p_local, color=color, ls=DASHES[1], lw=1.2, marker=marker, ms=3.2, mfc="white",
            label=f"{name}local",
        )  # fmt: skip
        ax.fill_between(one.mass, one.p_global_low, one.p_global_high, color=color, alpha=0.25, lw=0)
        ax.plot(one.mass, one.p_global, color=color, lw=2.0, label=f"{name}global")
        good = one.p_local[np.isfinite(one.p_local) & (one.p_local > 0)]
        lowest = min(lowest, float(good.min(initial=1.0)))
    sigma_lines(ax)
    ax.set_yscale("log")
    ax.set(xlabel="resonance mass [GeV]", ylabel="p-value", ylim=(min(2e-8, 1e-3 * lowest), 3.0))
    ax.margins(x=0.04)
    ax.legend(loc="lower left", ncols=max(1, min(2, len(scans))))
    put_label(ax, label, right)
    return figure


@dataclass(frozen=True)
class InjectionScan:
    """Significance of complete searches after injection: ``s_over_b`` (k,) in the signal region, ``z`` (k, runs), and
    ``per_sqrt_b`` (k,) the same injections as S/sqrt(B), None to leave that axis out."""

    name: str
    s_over_b: Array
    z: Array
    per_sqrt_b: Array | None = None


@styled
def plot_significance(
    scans: Sequence[InjectionScan],
    ax: Axes | None = None,
    *,
    label: str = LABEL,
    right: str = "",
    what: str = "significance Z of the whole search",
) -> Figure:
    """Z against injected S/B in per cent: median and 16-84 % band over injections, lines at 3 and 5 sigma, S/sqrt(B)
    on top."""
    figure, ax = axes_of(ax, 6.6, 5.2)
    top = 5.0
    for i, one in enumerate(scans):
        low, middle, high = np.nanquantile(one.z, (0.1587, 0.5, 0.8413), axis=1)
        x, color = 100 * one.s_over_b, CYCLE[i % len(CYCLE)]
        ax.fill_between(x, low, high, color=color, alpha=0.2, lw=0)
        ax.plot(
            x, middle, color=color, ls=DASHES[i % len(DASHES)], marker="osD^v"[i % 5], ms=4.5, label=one.name
        )
        top = max(top, float(high.max()))
    for z in (3, 5):
        ax.axhline(z, color=GREY, lw=0.9, ls=(0, (4, 3)), zorder=0)
        ax.annotate(
            rf"{z}$\sigma$", (1, z), (-4, 2), ("axes fraction", "data"), "offset points",
            ha="right", size=9.5, color=MUTED,
        )  # fmt: skip
    ax.axhline(0, color=MUTED, lw=0.7)
    runs = sorted({one.z.shape[1] for one in scans})
    many = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]}-{runs[-1]}"
    ax.legend(
        loc="upper left", title=f"median and 68% of {many} injections", title_fontsize=9.5, alignment="left"
    )
    ax.set(xlabel="injected S/B in the signal region [%]", ylabel=what, ylim=(-1.5, 1.3 * top))
    ax.margins(x=0.03)
    _second_axis(ax, scans[0])
    put_label(ax, label, right)
    return figure


def _second_axis(ax: Axes, one: InjectionScan) -> None:
    """S/sqrt(B) as a second scale below the first: proportional, because all injections share one background."""
    if one.per_sqrt_b is None:
        return
    rise = one.s_over_b > 0
    scale = float(np.median(one.per_sqrt_b[rise] / (100 * one.s_over_b[rise]))) if rise.any() else 1.0

    def there(x: Any) -> Any:
        return scale * x

    def back(x: Any) -> Any:
        return x / scale

    second = ax.secondary_xaxis(-0.19, functions=(there, back))
    second.set_xlabel(r"injected $S/\sqrt{B}$")
    second.tick_params(which="both", direction="out")
