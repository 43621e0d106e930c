"""Figures of a trigger rate against pile-up, over time, and with a detector that misbehaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plots_common import CYCLE, GREY, LABEL, new_figure, put_label, stacked, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RatePoints:
    """Rates in kHz at places ``x`` (n,) with the ends of their intervals."""

    x: Array
    khz: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class PileupLines:
    """One working point: rates of crossings by their number of collisions, and of the whole machine at mean values."""

    target_khz: float
    by_number: RatePoints
    by_mean: RatePoints


@dataclass(frozen=True)
class SectionLine:
    """One working point over time: rates of groups of luminosity sections, the common one, and the p-value of one rate."""

    target_khz: float
    groups: RatePoints
    common: float
    p_value: float


@dataclass(frozen=True)
class FaultPoint:
    """A fault's rate over the healthy one at a working point, with its standard deviation."""

    name: str
    target_khz: float
    ratio: float
    error: float


def _bars(ax: Axes, points: RatePoints, **style: object) -> None:
    seen = points.khz > 0
    reach = np.stack([points.khz - points.low, points.high - points.khz])
    ax.errorbar(points.x[seen], points.khz[seen], yerr=np.maximum(reach[:, seen], 0.0), **style)  # type: ignore[arg-type]
    ax.plot(points.x[~seen], points.high[~seen], ls="none", marker="v", color=style.get("color"), ms=5)  # type: ignore[arg-type]


@styled
def plot_pileup(lines: Sequence[PileupLines], *, label: str = LABEL, right: str = "") -> Figure:
    """Rate against pile-up: open points for crossings with so many collisions, full ones for a machine of such a mean."""
    figure = new_figure(6.8, 4.8)
    ax = figure.subplots()
    for i, line in enumerate(lines):
        color = CYCLE[i % len(CYCLE)]
        style = {"color": color, "ms": 4.5, "lw": 1.1}
        _bars(ax, line.by_number, fmt="o", mfc="none", **style)
        _bars(ax, line.by_mean, fmt="s", label=f"{line.target_khz:g} kHz", **{**style, "ms": 6})
    ax.set_yscale("log")
    ax.set(xlabel="collisions per crossing", ylabel="rate [kHz]")
    ax.plot([], [], "o", mfc="none", color=GREY, label="crossings with so many")
    ax.plot([], [], "s", color=GREY, label="machine of this mean")
    ax.legend(
        loc="upper left",
        ncols=2,
        title="threshold for, and what is shown",
        title_fontsize=9,
        alignment="left",
    )
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)  # room for the legend
    put_label(ax, label, right)
    return figure


@styled
def plot_sections(lines: Sequence[SectionLine], *, label: str = LABEL, right: str = "") -> Figure:
    """Rate over its common value in groups of luminosity sections, a panel for each working point."""
    figure, grid = stacked((1.0,) * len(lines), 6.8, 1.2 + 1.5 * len(lines))
    for i, (ax, line) in enumerate(zip(grid[:, 0], lines, strict=True)):
        scale = 1.0 / line.common if line.common > 0 else 1.0
        shown = RatePoints(
            line.groups.x, *(scale * v for v in (line.groups.khz, line.groups.low, line.groups.high))
        )
        ax.axhline(1.0, color=GREY, lw=0.9, ls=(0, (4, 3)))
        _bars(ax, shown, fmt="o", color=CYCLE[i % len(CYCLE)], ms=4.5, lw=1.1)
        ax.set_ylabel(f"{line.target_khz:g} kHz")
        text = f"p = {line.p_value:.3f} for one rate"
        ax.annotate(text, (1, 1), (-6, -14), "axes fraction", "offset points", ha="right", size=9.5)
        ax.set_ylim(0.0, max(2.0, 1.25 * float(shown.high.max())))
    grid[-1, 0].set_xlabel("group of luminosity sections, in time order")
    figure.supylabel("rate over the common rate", fontsize=11)
    put_label(grid[0, 0], label, right)
    return figure


@styled
def plot_faults(points: Sequence[FaultPoint], *, label: str = LABEL, right: str = "") -> Figure:
    """Rate with a fault over the rate without, a row for each fault, a colour for each working point."""
    names = list(dict.fromkeys(p.name for p in points))
    targets = list(dict.fromkeys(p.target_khz for p in points))
    figure = new_figure(6.8, 1.6 + 0.45 * len(names))
    ax = figure.subplots()
    for i, target in enumerate(targets):
        mine = [p for p in points if p.target_khz == target]
        place = [len(names) - 1 - names.index(p.name) + 0.18 * (0.5 * (len(targets) - 1) - i) for p in mine]
        ratio, error = [p.ratio for p in mine], [min(p.error, 0.999 * p.ratio) for p in mine]
        ax.errorbar(
            ratio, place, xerr=error, fmt="o", ms=4.5, color=CYCLE[i % len(CYCLE)], label=f"{target:g} kHz"
        )
    ax.axvline(1.0, color=GREY, lw=0.9, ls=(0, (4, 3)), zorder=0)
    if max(p.ratio for p in points) > 5 * max(min(p.ratio for p in points), 1e-3):
        ax.set_xscale("log")
    ax.set_yticks(range(len(names)), names[::-1])
    ax.tick_params(axis="y", which="minor", left=False, right=False)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.set_xlabel("rate with the fault over the rate without")
    ax.legend(loc="best", title="threshold for", title_fontsize=9)
    put_label(ax, label, right)
    return figure
