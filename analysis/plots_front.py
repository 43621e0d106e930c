"""The figure of resources against physics: look-up tables and signal efficiency of every setting of a trigger score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plots_common import CYCLE, GREY, INK, LABEL, new_figure, put_label, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_MARKERS = "osD^vPX*"
#: Panels of single signals beside one another at most.
_COLUMNS = 3


@dataclass(frozen=True)
class FrontLine:
    """One efficiency of every point, (n,) each, with the ends of its interval; ``best``: points that no other one beats."""

    name: str
    efficiency: Array
    low: Array
    high: Array
    best: NDArray[np.bool_]


@dataclass(frozen=True)
class FrontPoints:
    """Points by look-up tables, bits of a weight and pruned part, (n,) each; the first of ``lines`` is shown largest."""

    lut: Array
    bits: NDArray[np.int64]
    pruning: Array
    lines: tuple[FrontLine, ...]
    target_khz: float
    counted: bool = False


def _panel(ax: Axes, points: FrontPoints, line: FrontLine, size: float) -> None:
    """Points with bars, full where no other one is better, and the step line through those."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    widths, parts = list(np.unique(points.bits)), list(np.unique(points.pruning))
    order = np.flatnonzero(line.best)[np.argsort(points.lut[line.best], kind="stable")]
    right = 1.25 * points.lut.max()
    ends = np.append(points.lut[order], right), np.append(line.efficiency[order], line.efficiency[order[-1]])
    ax.step(*ends, where="post", color=GREY, lw=1.3, zorder=1)
    for i, lut in enumerate(points.lut):
        color = CYCLE[widths.index(points.bits[i]) % len(CYCLE)]
        value = line.efficiency[i]
        reach = [[value - line.low[i]], [line.high[i] - value]]
        ax.errorbar(
            lut, value, yerr=np.maximum(reach, 0.0), fmt=_MARKERS[parts.index(points.pruning[i]) % len(_MARKERS)], color=color,
            mfc=color if line.best[i] else "white", ms=size, lw=0.9, zorder=3 if line.best[i] else 2,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(points.lut.min() / 1.25, right)
    ax.set_ylim(0.0, 1.12 * float(line.high.max()))


def _names(ax: Axes, points: FrontPoints, line: FrontLine) -> None:
    """Bits and pruned part beside every point, on the first of four sides where it covers neither a point nor a name.

    The best points come first; a name that has no free side stands at the first. Sizes are in parts of the panel.
    """
    (left, right), top = np.log(ax.get_xlim()), ax.get_ylim()[1]
    at = np.stack([(np.log(points.lut) - left) / (right - left), line.efficiency / top], axis=1)
    taken = [(x - 0.01, y - 0.02, x + 0.01, y + 0.02) for x, y in at]
    for i in np.argsort(~line.best, kind="stable"):
        text = f"{points.bits[i]}b" + (f" {100 * points.pruning[i]:g}%" if points.pruning[i] else "")
        width, (x, y) = 0.0095 * len(text), at[i]
        sides = [
            (sx * 5, sy, (x + 0.011 if sx > 0 else x - 0.011 - width, y + dy, x + 0.011 + width if sx > 0 else x - 0.011, y + dy + 0.032))
            for sy, dy in ((3, 0.01), (-10, -0.042)) for sx in (1, -1)
        ]  # fmt: skip
        dx, dy, box = next((s for s in sides if not any(_overlap(s[2], t) for t in taken)), sides[0])
        taken.append(box)
        ax.annotate(
            text, (points.lut[i], line.efficiency[i]), (dx, dy), textcoords="offset points", size=8, color=INK,
            ha="left" if dx > 0 else "right", weight="bold" if line.best[i] else "normal",
        )  # fmt: skip


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _thousands(value: float, _place: int | None = None) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _legend(ax: Axes, points: FrontPoints) -> None:
    for i, bits in enumerate(np.unique(points.bits)):
        ax.plot([], [], "s", color=CYCLE[i % len(CYCLE)], ms=6, label=f"{bits} bits")
    for i, part in enumerate(np.unique(points.pruning)):
        ax.plot(
            [], [], _MARKERS[i % len(_MARKERS)], color=INK, mfc="none", ms=6, label=f"{100 * part:g}% pruned"
        )
    ax.step([], [], color=GREY, lw=1.3, label="not beaten (full)")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


@styled
def plot_front(points: FrontPoints, *, label: str = LABEL, right: str = "") -> Figure:
    """Efficiency at one rate against look-up tables: a large panel of the first line, small ones of the others."""
    first, *others = points.lines
    rows = -(-len(others) // _COLUMNS)
    figure = new_figure(9.4, 5.0 + 2.7 * rows)
    columns = max(1, min(_COLUMNS, len(others)))
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[1.7] + [1.0] * rows)
    top = figure.add_subplot(grid[0, :])
    _panel(top, points, first, 6.5)
    _names(top, points, first)
    _legend(top, points)
    top.set_ylabel(f"{first.name}: efficiency at {points.target_khz:g} kHz")
    x_label = "look-up tables " + ("(yosys)" if points.counted else "(da4ml's estimate)")
    top.set_xlabel(x_label)
    for i, line in enumerate(others):
        ax = figure.add_subplot(grid[1 + i // columns, i % columns], sharex=top)
        _panel(ax, points, line, 4.5)
        ax.set_title(line.name)
        ax.set_xlabel("look-up tables")
        if i % columns == 0:
            ax.set_ylabel("efficiency")
    put_label(top, label, right)
    return figure
