"""Figures of how well a score separates: ROC, significance improvement, mass sculpting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .plots_common import (
    CYCLE,
    GREY,
    INK,
    LABEL,
    axes_of,
    curve_style,
    percent,
    put_label,
    stacked,
    styled,
    weighted_errors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class EfficiencyCurve:
    """Background against signal efficiency, (n,) each, signal efficiency ascending.

    ``n_background`` (n,) background events that pass; ``low`` and ``high`` (n,) ends of the 68% band of the background
    efficiency, None for none.
    """

    name: str
    signal: NDArray[np.float64]
    background: NDArray[np.float64]
    n_background: NDArray[np.float64]
    auc: float | None = None
    auc_error: float | None = None
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


@styled
def plot_roc(
    curves: Sequence[EfficiencyCurve], ax: Axes | None = None, label: str = LABEL, right: str = ""
) -> Figure:
    """1/eps_B against eps_S, log y, with bands; AUC in the legend."""
    figure, ax = axes_of(ax, 5.9, 4.7)
    top = 10.0
    for i, c in enumerate(curves):
        seen = (c.background > 0) & (c.n_background > 0)
        x, style = c.signal[seen], curve_style(i)
        name = c.name if c.auc is None else f"{c.name}, AUC {c.auc:.3f}"
        name += "" if c.auc is None or c.auc_error is None else f" ± {c.auc_error:.3f}"
        ax.plot(x, 1 / c.background[seen], **style, label=name)
        if c.low is not None and c.high is not None:
            low, high = np.maximum(c.low[seen], 1e-9), np.maximum(c.high[seen], 1e-9)
            ax.fill_between(x, 1 / high, 1 / low, color=style["color"], alpha=0.2, lw=0)
        top = max(top, float((1 / c.background[seen & (c.n_background >= 1)]).max(initial=1.0)))
    grid = np.linspace(1e-3, 1, 400)
    ax.plot(grid, 1 / grid, color=GREY, lw=1.0, ls=(0, (4, 3)), label="random", zorder=1)
    ax.set_yscale("log")
    ax.set(xlabel=r"signal efficiency $\epsilon_S$", ylabel=r"background rejection $1/\epsilon_B$")
    ax.set(xlim=(0, 1), ylim=(1, 8 * top))
    ax.legend(loc="upper right")
    put_label(ax, label, right)
    return figure


@styled
def plot_sic(
    curves: Sequence[EfficiencyCurve],
    floor: int = 25,
    ax: Axes | None = None,
    label: str = LABEL,
    right: str = "",
) -> Figure:
    """eps_S / sqrt(eps_B) against eps_S, drawn only where at least ``floor`` background events pass; maximum in the legend."""
    figure, ax = axes_of(ax, 5.9, 4.7)
    top = 1.5
    for i, c in enumerate(curves):
        seen = (c.n_background >= floor) & (c.background > 0) & (c.signal > 0)
        x, sic, style = c.signal[seen], c.signal[seen] / np.sqrt(c.background[seen]), curve_style(i)
        best = f"max {sic.max():.2f}" if sic.size else f"never {floor} events"
        ax.plot(x, sic, **style, label=f"{c.name}, {best}")
        if c.low is not None and c.high is not None:
            ends = [x / np.sqrt(np.maximum(e[seen], 1e-9)) for e in (c.high, c.low)]
            ax.fill_between(x, ends[0], ends[1], color=style["color"], alpha=0.2, lw=0)
        top = max(top, float(sic.max(initial=0.0)))
    grid = np.linspace(0, 1, 200)
    ax.plot(grid, np.sqrt(grid), color=GREY, lw=1.0, ls=(0, (4, 3)), label="random", zorder=1)
    ax.set(xlabel=r"signal efficiency $\epsilon_S$", ylabel=r"$\epsilon_S/\sqrt{\epsilon_B}$")
    ax.set(xlim=(0, 1), ylim=(0, 1.5 * top))
    head = f"drawn where at least {floor} background events pass"
    ax.legend(loc="upper right", title=head, title_fontsize=9, alignment="left")
    put_label(ax, label, right)
    return figure


@dataclass(frozen=True)
class SculptedShape:
    """The background's mass spectrum behind one cut, (bins,), with its JSD in bits and the JSD expected without sculpting."""

    cut: float
    values: NDArray[np.float64]
    squares: NDArray[np.float64]
    jsd: float
    floor: float


@styled
def plot_sculpting(
    edges: NDArray[np.float64],
    before: NDArray[np.float64],
    shapes: Sequence[SculptedShape],
    *,
    label: str = LABEL,
    right: str = "",
    mass: str = r"$m_{\mathrm{jj}}$ [GeV]",
) -> Figure:
    """Background mass shape before (filled) and behind each cut, ratio below; the legend gives JSD minus its floor."""
    figure, axes = stacked((2.4, 1.0), 6.6, 5.4)
    top, bottom = axes[:, 0]
    centres, reference = 0.5 * (edges[1:] + edges[:-1]), before / max(before.sum(), 1e-300)
    top.stairs(reference, edges, fill=True, color=GREY, alpha=0.35, lw=0, label="before the cut")
    for i, s in enumerate(shapes):
        total = max(float(s.values.sum()), 1e-300)
        y, bars, color = s.values / total, weighted_errors(s.values, s.squares) / total, CYCLE[i % len(CYCLE)]
        seen = (y > 0) & (reference > 0)
        style = {"fmt": "osD^v"[i % 5], "color": color, "ms": 3.4, "lw": 1.0}
        name = f"cut {percent(s.cut)}: JSD − floor = {s.jsd - s.floor:.1e} bit"
        top.errorbar(centres[seen], y[seen], yerr=bars[:, seen], label=name, **style)
        bottom.errorbar(
            centres[seen], y[seen] / reference[seen], yerr=bars[:, seen] / reference[seen], **style
        )
    bottom.axhline(1, color=INK, lw=0.8)
    seen_before = reference[reference > 0]
    top.set_yscale("log")
    top.set_ylim(0.3 * seen_before.min(initial=1.0), 60 * reference.max(initial=1e-9))
    top.set_ylabel("share of events / bin")
    bottom.set(xlabel=mass, ylabel="after / before", xlim=(edges[0], edges[-1]), ylim=(0, 2.4))
    top.legend(loc="upper right")
    figure.align_ylabels([top, bottom])
    put_label(top, label, right)
    return figure
