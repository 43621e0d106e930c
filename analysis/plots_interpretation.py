"""Figures of what a score follows and what a space knows: rank correlations, a map, a spectrum, linear probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .interpretation import TOP, Followed, Probe
from .plots_common import (
    BLUE,
    GREY,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    axes_of,
    new_figure,
    put_label,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
#: Colours of the kinds of observables, and their names in the legend.
_KINDS = {
    "feature": (BLUE, "feature"),
    "carried": (ORANGE, "carried"),
    "mass": (RED, "mass"),
    "derived": (PURPLE, "derived"),
}


def _rows(ax: Axes, names: Sequence[str]) -> None:
    """Names at the left, the first on top, without ticks."""
    ax.set_yticks(np.arange(len(names)), names)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set_ylim(len(names) - 0.4, -0.6)


@styled
def plot_followed(
    rows: Sequence[Followed], *, share: float = TOP, label: str = LABEL, right: str = "", most: int = 20
) -> Figure:
    """Spearman's coefficient of the score with every observable, the largest on top, at most ``most``; bars: 68 % intervals.

    On the right, where the ``share`` of events of highest score lies in each: median and central 68 % of their quantiles.
    """
    from matplotlib.patches import Patch

    known = sorted((r for r in rows if np.isfinite(r.rho)), key=lambda r: -abs(r.rho))
    ranked = known[:most]
    figure = new_figure(8.8, 1.7 + 0.29 * max(1, len(ranked)))
    left, ax = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (1.5, 1.0)})
    y, rho = np.arange(len(ranked)), np.array([r.rho for r in ranked])
    colors = [_KINDS[r.kind][0] for r in ranked]
    left.barh(y, rho, height=0.62, color=colors, alpha=0.75, lw=0)
    for i, r in enumerate(ranked):
        left.errorbar(
            [r.rho], [i], xerr=[[max(0.0, r.rho - r.low)], [max(0.0, r.high - r.rho)]], fmt="none", color=INK,
            lw=1.0, capsize=2.0,
        )  # fmt: skip
        ax.plot([r.top_low, r.top_high], [i, i], color=colors[i], lw=3.0, alpha=0.6, solid_capstyle="butt")
        ax.plot([r.top], [i], "o", color=INK, ms=4)
    left.axvline(0, color=INK, lw=0.8)
    ax.axvline(0.5, color=GREY, lw=0.8, ls=(0, (4, 3)))
    _rows(left, [r.name for r in ranked])
    ax.tick_params(axis="y", which="both", length=0)
    rest = len(known) - len(ranked)
    left.set_xlabel("rank correlation with the score" + (f"  ({rest} smaller not shown)" if rest else ""))
    ends = [r.low for r in ranked], [r.high for r in ranked]
    reach = [1.08 * float(v) for v in (np.min([*ends[0], -0.02]), np.max([*ends[1], 0.02]))]
    left.set_xlim(min(reach[0], -0.12 * reach[1]), max(reach[1], -0.12 * reach[0]))
    ax.set(xlabel=f"quantile of the {100 * share:g}% highest scores", xlim=(-0.03, 1.03))
    kinds = [k for k in _KINDS if any(r.kind == k for r in ranked)]
    if len(kinds) > 1:
        handles = [Patch(color=_KINDS[k][0], alpha=0.75, lw=0, label=_KINDS[k][1]) for k in kinds]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds))
    put_label(left, label)
    if right:
        put_label(ax, "", right)
    return figure


@dataclass(frozen=True)
class RankMatrix:
    """Spearman's coefficients rho (k, l) of ``coordinates`` with ``observables``."""

    coordinates: Sequence[str]
    observables: Sequence[str]
    rho: Array


@styled
def plot_matrix(matrix: RankMatrix, *, label: str = LABEL, right: str = "") -> Figure:
    """Coefficients of every coordinate (columns) with every observable (rows), written in the cells where there is room."""
    k, n = len(matrix.coordinates), len(matrix.observables)
    figure = new_figure(2.9 + 0.5 * max(k, 4), 1.5 + 0.3 * n)
    ax = figure.subplots()
    rho = np.asarray(matrix.rho, np.float64)
    image = ax.imshow(rho.T, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    ax.set_xticks(range(k), matrix.coordinates)
    ax.set_yticks(range(n), matrix.observables)
    ax.tick_params(which="both", length=0)
    ax.minorticks_off()
    for i in range(k):
        for j in range(n):
            if np.isfinite(rho[i, j]) and abs(rho[i, j]) >= 0.05:
                color = "white" if abs(rho[i, j]) > 0.6 else INK
                ax.text(
                    i,
                    j,
                    f"{rho[i, j]:.2f}".replace("0.", "."),
                    ha="center",
                    va="center",
                    size=7.5,
                    color=color,
                )
    bar = figure.colorbar(image, ax=ax, pad=0.02, aspect=24)
    bar.set_label("rank correlation")
    bar.ax.minorticks_off()
    put_label(ax, label, right)
    return figure


@dataclass(frozen=True)
class SpaceMap:
    """Events on the first two principal axes of a space: x, y (n,), ``shares`` of the variance on each, the part of all events
    whose score is lower, ``score`` (n,), and likewise of one ``observable``; ``odd`` (k, 2): the oddest events' places, by
    ``odd_numbers`` (NaN where they are not in this space)."""

    x: Array
    y: Array
    shares: tuple[float, float]
    score: Array
    observable: str
    values: Array
    odd: Array
    odd_numbers: Sequence[int]


@styled
def plot_map(space: SpaceMap, *, label: str = LABEL, right: str = "") -> Figure:
    """The map twice: coloured by the score's quantile and by that of the observable the score follows most."""
    figure = new_figure(10.4, 4.5)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    image: Any = None
    for ax, values, title in zip(
        axes, (space.score, space.values), ("the score", space.observable), strict=True
    ):
        order = np.argsort(np.nan_to_num(values, nan=-1.0), kind="stable")  # the rare high ones on top
        image = ax.scatter(
            space.x[order], space.y[order], c=values[order], s=5, cmap="viridis", vmin=0, vmax=1, lw=0, alpha=0.75,
            rasterized=True,
        )  # fmt: skip
        ax.annotate(
            f"colour: {title}", (0.97, 0.96), xycoords="axes fraction", ha="right", va="top", size=10,
            bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 2.0}, zorder=6,
        )  # fmt: skip
        _mark_odd(ax, space)
        ax.set_xlabel(f"axis 1 ({100 * space.shares[0]:.3g}% of the variance)")
    for k, values in enumerate((space.x, space.y)):
        _stretch(axes[0], "xy"[k], values, space.odd[:, k])
    axes[0].set_ylabel(f"axis 2 ({100 * space.shares[1]:.3g}% of the variance)")
    bar = figure.colorbar(image, ax=list(axes), pad=0.012, aspect=24)
    bar.set_label("quantile in the data")
    bar.ax.minorticks_off()
    put_label(axes[0], label)
    if right:
        put_label(axes[1], "", right)
    return figure


def _stretch(ax: Axes, axis: str, values: Array, odd: Array) -> None:
    """Set an axis' ends; far out it is logarithmic where they are many times the width of most events."""
    from matplotlib.ticker import AsinhLocator

    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    width = max(float(high - low), 1e-12)
    ends = np.concatenate([np.quantile(values, (0.002, 0.998)), odd[np.isfinite(odd)]])
    mine = ax.xaxis if axis == "x" else ax.yaxis
    if np.abs(ends - middle).max() > 8 * width:
        getattr(ax, f"set_{axis}scale")("asinh", linear_width=width)
        mine.set_major_locator(AsinhLocator(width, numticks=7))
    scale = mine.get_transform()
    first, last = scale.transform(np.array([ends.min(), ends.max()]))
    room = 0.08 * max(float(last - first), 1e-9)
    limits = scale.inverted().transform(
        np.array([first - room, last + (room if axis == "x" else 2.6 * room)])
    )
    getattr(ax, f"set_{axis}lim")(*limits)


def _mark_odd(ax: Axes, space: SpaceMap) -> None:
    """A cross and a number where the oddest events lie."""
    from matplotlib.patheffects import withStroke

    for i, (number, (x, y)) in enumerate(zip(space.odd_numbers, space.odd, strict=True)):
        turn = 2 * np.pi * (i % 6 + 0.5) / 6  # neighbours' numbers go different ways
        if np.isfinite([x, y]).all():
            ax.plot([x], [y], marker="x", color=RED, ms=6, mew=1.6, ls="none", zorder=7)
            ax.annotate(
                str(number), (x, y), (9 * np.cos(turn), 9 * np.sin(turn)), "data", "offset points", size=9.5, weight="bold",
                color=RED, zorder=8, ha="center", va="center",
                path_effects=[withStroke(linewidth=2.2, foreground="white")],
            )  # fmt: skip


@styled
def plot_space_spectrum(
    shares: Sequence[float],
    effective_rank: float,
    ax: Axes | None = None,
    *,
    label: str = LABEL,
    right: str = "",
    most: int = 30,
) -> Figure:
    """The parts of the variance on the principal axes, and their sum."""
    from matplotlib.ticker import MaxNLocator

    figure, ax = axes_of(ax, 5.4, 3.9)
    shown = np.asarray(shares, np.float64)[:most]
    x = np.arange(1, len(shown) + 1)
    ax.bar(x, shown, color=BLUE, alpha=0.75, lw=0, label="of one axis")
    ax.plot(x, np.cumsum(shown), "o-", color=ORANGE, ms=3.5, lw=1.4, label="of all up to it")
    ax.axvline(
        effective_rank, color=INK, lw=1.0, ls=(0, (4, 3)), label=f"effective rank {effective_rank:.3g}"
    )
    ax.set(
        xlabel="principal axis", ylabel="part of the variance", xlim=(0.3, len(shown) + 0.7), ylim=(0, 1.32)
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", ncols=2)
    put_label(ax, label, right)
    return figure


@styled
def plot_probes(
    probes: Sequence[Probe], ax: Axes | None = None, *, label: str = LABEL, right: str = "", most: int = 20
) -> Figure:
    """R^2 of the linear probes on events they did not see, the largest on top; what is below 0 is drawn at 0."""
    known = sorted((p for p in probes if np.isfinite(p.r2)), key=lambda p: -p.r2)
    ranked = known[:most]
    figure, ax = axes_of(ax, 6.2, 1.5 + 0.29 * max(1, len(ranked)))
    y, shown = np.arange(len(ranked)), np.array([max(0.0, p.r2) for p in ranked])
    ax.barh(y, shown, height=0.62, color=BLUE, alpha=0.75, lw=0)
    for i, p in enumerate(ranked):
        low, high = (float(np.clip(v, 0, 1)) for v in (p.low, p.high))
        ax.plot([low, high], [i, i], color=INK, lw=1.2)
        ax.annotate(
            f"{p.r2 + 0.0:.2f}".replace("-0.00", "0.00") if p.r2 > -1 else "< −1", (max(high, shown[i]), i), (5, 0), "data", "offset points", size=9, va="center",
            color=MUTED,
        )  # fmt: skip
    ax.axvline(1, color=GREY, lw=0.8, ls=(0, (4, 3)))
    _rows(ax, [p.name for p in ranked])
    left = len(known) - len(ranked)
    ax.set_xlabel(r"$R^2$ on events not fitted" + (f"  ({left} smaller ones not shown)" if left else ""))
    ax.set_xlim(0, 1.12)
    put_label(ax, label, right)
    return figure
