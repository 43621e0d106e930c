"""Figures of the trigger study: rate against threshold, and software against firmware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plots_common import (
    BLUE,
    GREY,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    curve_style,
    new_figure,
    put_label,
    stacked,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RateLine:
    """Rate in kHz against threshold, (n,) each, with the ends of its interval; ``name`` such as 'float' or 'firmware'."""

    name: str
    threshold: NDArray[np.float64]
    khz: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class EfficiencyLine:
    """A signal's efficiency against threshold, (n,) each, with the ends of its interval."""

    name: str
    threshold: NDArray[np.float64]
    efficiency: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@styled
def plot_rates(
    rates: Sequence[RateLine],
    targets_khz: Sequence[float] = (),
    signals: Sequence[EfficiencyLine] = (),
    *,
    label: str = LABEL,
    right: str = "",
    x_label: str = "score threshold",
) -> Figure:
    """Rates in kHz with statistical bands, a line per target; the signals' efficiencies on a second panel."""
    figure, grid = stacked((1.7, 1.0) if signals else (1.0,), 6.8, 6.2 if signals else 4.6)
    top, bottom = grid[0, 0], grid[-1, 0]
    for i, r in enumerate(rates):
        style, seen = curve_style(i), r.khz > 0
        top.fill_between(
            r.threshold, np.maximum(r.low, 1e-12), r.high, color=style["color"], alpha=0.25, lw=0
        )
        top.plot(r.threshold, np.where(seen, r.khz, np.nan), **style, label=r.name)
    for khz in targets_khz:
        top.axhline(khz, color=GREY, lw=0.9, ls=(0, (4, 3)), zorder=0)
        text = f"{khz:g} kHz"
        top.annotate(
            text, (0, khz), (5, 3), ("axes fraction", "data"), "offset points", size=9.5, color=MUTED
        )
    seen = np.concatenate([r.khz[r.khz > 0] for r in rates])
    top.set_yscale("log")
    # Far below the smallest target a rate is a handful of crossings of tiny weight: nobody runs a trigger there.
    lowest = max(float(seen.min()), 1e-3 * min(targets_khz, default=0.0)) if seen.size else 0.1
    top.set_ylim(0.3 * lowest, 6 * float(seen.max()) if seen.size else 10)
    top.set_ylabel("rate [kHz]")
    top.legend(loc="upper right", title="band: 68% interval", title_fontsize=9, alignment="left")
    for i, s in enumerate(signals):
        style = curve_style(i + 1)
        bottom.fill_between(s.threshold, s.low, s.high, color=style["color"], alpha=0.25, lw=0)
        bottom.plot(s.threshold, s.efficiency, **style, label=s.name)
    if signals:
        bottom.set(ylabel="signal efficiency", ylim=(0, 1.08))
        bottom.legend(loc="upper right", ncols=2 if len(signals) > 4 else 1)
        figure.align_ylabels([top, bottom])
    bottom.set_xlabel(x_label)
    shown = [r.threshold[r.khz > 0.3 * lowest] for r in rates if np.any(r.khz > 0.3 * lowest)]
    first, last = min(t[0] for t in shown), max(t[-1] for t in shown)
    if 0 < first < 0.02 * last:
        bottom.set_xscale("log")
    bottom.set_xlim(first, last)
    put_label(top, label, right)
    return figure


@styled
def plot_firmware(
    software: NDArray[np.float64],
    firmware: NDArray[np.float64],
    label: str = LABEL,
    right: str = "",
    most: int = 20_000,
) -> Figure:
    """Firmware score against software score of the same events (n,), and the histogram of their difference.

    Of more than ``most`` events every k-th is drawn as a point; the histogram and the correlation use all.
    """
    figure = new_figure(9.8, 4.5)
    left, diff = figure.subplots(1, 2)
    step = max(1, -(-len(software) // most))
    left.plot(software[::step], firmware[::step], ".", ms=2.2, alpha=0.35, color=BLUE, mew=0, rasterized=True)
    ends = [min(software.min(), firmware.min()), max(software.max(), firmware.max())]
    left.plot(ends, ends, color=INK, lw=0.9, ls=(0, (4, 3)), label="equal")
    left.set(xlabel="software score (float)", ylabel="firmware score (fixed point)")
    left.legend(loc="lower right")
    spread = software.std() > 0 and firmware.std() > 0
    rho = float(np.corrcoef(software, firmware)[0, 1]) if spread else float("nan")
    text = f"{len(software):,} events\ncorrelation {rho:.6f}"
    left.annotate(text, (0.05, 0.95), xycoords="axes fraction", va="top", size=10, linespacing=1.4)
    delta = firmware - software
    reach = float(np.quantile(np.abs(delta), 0.999)) or 1.0
    edges = np.linspace(-reach, reach, 61)
    counts = np.histogram(np.clip(delta, -reach, reach), edges)[0]
    diff.stairs(counts, edges, fill=True, color=ORANGE, alpha=0.35, lw=0)
    diff.stairs(counts, edges, color=ORANGE, lw=1.5)
    diff.axvline(0, color=INK, lw=0.8)
    diff.set_yscale("log")
    diff.set(xlabel="firmware − software", ylabel="events / bin", ylim=(0.5, 12 * max(1, counts.max())))
    words = f"mean {delta.mean():.3g}\nstd {delta.std():.3g}\nlargest {np.abs(delta).max():.3g}"
    diff.annotate(
        words, (0.95, 0.95), xycoords="axes fraction", va="top", ha="right", size=10, linespacing=1.4
    )
    diff.locator_params(axis="x", nbins=5)
    put_label(left, label)
    if right:
        put_label(diff, "", right)
    return figure
