"""Figures of events before any statement: scores, features, cutflow, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .plots_common import (
    BLUE,
    CYCLE,
    DASHES,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    RED,
    axes_of,
    draw_counts,
    draw_steps,
    new_figure,
    put_label,
    stacked,
    styled,
    weighted_errors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["data", "background", "signal"]


@dataclass(frozen=True)
class Overlay:
    """One histogram of an overlay: sums of weights and of their squares per bin, shapes (bins,), and what it is.

    ``data`` is drawn as points with Poisson bars, ``background`` filled, ``signal`` as a line.
    """

    label: str
    values: NDArray[np.float64]
    squares: NDArray[np.float64]
    kind: Kind

    @staticmethod
    def of(
        label: str,
        x: NDArray[np.floating],
        edges: NDArray[np.float64],
        kind: Kind,
        weight: NDArray[np.float64] | None = None,
    ) -> Overlay:
        """Histogram ``x`` (n,) in ``edges``, weighted by ``weight`` (n,) if given."""
        w = np.ones(len(x)) if weight is None else weight
        values = np.histogram(x, edges, weights=w)[0]
        return Overlay(label, values, np.histogram(x, edges, weights=w**2)[0], kind)

    def scaled(self, factor: float) -> Overlay:
        """The same histogram times ``factor``."""
        return Overlay(self.label, self.values * factor, self.squares * factor**2, self.kind)


def _draw_overlays(ax: Axes, edges: NDArray[np.float64], overlays: Sequence[Overlay]) -> None:
    colors = {"background": (BLUE, "#9cbcf7", "#5c6fa3"), "signal": (RED, ORANGE, "#964a8b", "#7a21dd")}
    drawn = dict.fromkeys(colors, 0)
    for one in overlays:
        bars = weighted_errors(one.values, one.squares)
        if one.kind == "data":
            shown = one.values > 0
            values = np.where(shown, one.values, np.nan)
            draw_counts(ax, edges, values, one.label, errors=np.where(shown, bars, np.nan))
            continue
        (turn, i), known = divmod(drawn[one.kind], len(colors[one.kind])), colors[one.kind]
        drawn[one.kind] += 1
        color, dash = known[i], DASHES[turn % len(DASHES)]  # more than the colours: told apart by the line
        draw_steps(ax, edges, one.values, color, one.label, filled=one.kind == "background", ls=dash)
        if one.kind == "signal":
            centres = 0.5 * (edges[1:] + edges[:-1])
            seen = one.values > 0
            ax.errorbar(centres[seen], one.values[seen], yerr=bars[:, seen], fmt="none", color=color, lw=1.0)


def _log_limits(ax: Axes, overlays: Sequence[Overlay], room: float = 30.0) -> None:
    seen = np.concatenate([o.values[o.values > 0] for o in overlays])
    if seen.size:
        ax.set_yscale("log")
        ax.set_ylim(0.4 * seen.min(), room * seen.max())


@styled
def plot_scores(
    edges: NDArray[np.float64],
    overlays: Sequence[Overlay],
    thresholds: Mapping[str, float] | None = None,
    *,
    ax: Axes | None = None,
    x_label: str = "score",
    y_label: str = "events / bin",
    label: str = LABEL,
    right: str = "",
) -> Figure:
    """Score distributions, log y, a line for every named threshold."""
    figure, ax = axes_of(ax)
    _draw_overlays(ax, edges, overlays)
    _log_limits(
        ax, overlays, 30.0 * 4.0 ** max(0, len(overlays) - 4)
    )  # the legend needs a line for each pair
    for name, value in sorted((thresholds or {}).items(), key=lambda kv: kv[1]):
        ax.axvline(value, color=INK, lw=1.0, ls=(0, (4, 2.5)), ymax=0.72, zorder=4)
        ax.annotate(
            name, (value, 0.71), (-3, 0), ("data", "axes fraction"), "offset points", size=9.5,
            ha="right", va="top", rotation=90, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.0}, zorder=6,
        )  # fmt: skip
    ax.set(xlabel=x_label, ylabel=y_label, xlim=(edges[0], edges[-1]))
    if not np.allclose(np.diff(edges), edges[1] - edges[0]):
        ax.set_xscale("log")
    ax.legend(loc="upper right", ncols=2 if len(overlays) > 3 else 1)
    put_label(ax, label, right)
    return figure


def score_edges(low: float, high: float, bins: int = 50) -> NDArray[np.float64]:
    """Bin edges for scores between ``low`` and ``high``: even, or even in the logarithm where they span decades."""
    if 0 < low < 0.02 * high:
        return np.geomspace(low, high, bins + 1)
    return np.linspace(low, high, bins + 1)


@dataclass(frozen=True)
class FeatureOverlay:
    """One feature's histograms: its axis title with unit, bin edges (bins + 1,), and what is compared."""

    title: str
    edges: NDArray[np.float64]
    overlays: Sequence[Overlay]


@styled
def plot_features(features: Sequence[FeatureOverlay], label: str = LABEL, columns: int = 2) -> Figure:
    """One panel per feature; every histogram scaled to unit area so that shapes compare."""
    columns = min(columns, len(features))
    rows = -(-len(features) // columns)
    figure = new_figure(4.9 * columns, 3.35 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax, one in zip(axes.flat, features, strict=False):
        width = np.diff(one.edges)
        unit = []
        for o in one.overlays:
            total = float((o.values).sum())
            unit.append(o.scaled(1.0 / total if total > 0 else 0.0))
        per_width = [Overlay(o.label, o.values / width, o.squares / width**2, o.kind) for o in unit]
        _draw_overlays(ax, one.edges, per_width)
        top = max((o.values.max() for o in per_width if o.values.size), default=1.0)
        ax.set(
            xlabel=one.title,
            ylabel="density",
            xlim=(one.edges[0], one.edges[-1]),
            ylim=(0, 1.22 * (top or 1.0)),
        )
    for ax in axes.flat[len(features) :]:
        ax.set_visible(False)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    put_label(axes[0, 0], label)
    return figure


@dataclass(frozen=True)
class CutflowStep:
    """What is left after a step: number of events and sum of weights."""

    name: str
    events: int
    weight: float


@styled
def plot_cutflow(
    flows: Mapping[str, Sequence[CutflowStep]], ax: Axes | None = None, label: str = LABEL
) -> Figure:
    """Share of the events (bars) and of the weight (ticks) left after each step, per dataset."""
    steps = list(dict.fromkeys(s.name for flow in flows.values() for s in flow))
    figure, ax = axes_of(ax, 7.2, 0.9 + len(steps) * (0.32 + 0.13 * len(flows)))
    height = 0.8 / max(1, len(flows))
    for i, (name, flow) in enumerate(flows.items()):
        at = np.array([steps.index(s.name) for s in flow]) + (i - 0.5 * (len(flows) - 1)) * height
        events = np.array([s.events for s in flow], dtype=float)
        weights = np.array([s.weight for s in flow])
        share = events / events[0] if events[0] else events
        ax.barh(at, share, 0.86 * height, color=CYCLE[i % len(CYCLE)], alpha=0.75, label=name, zorder=2)
        if weights[0]:
            ax.plot(weights / weights[0], at, ls="none", marker="|", ms=12, mew=1.8, color=INK, zorder=3)
        for y, s, n in zip(at, share, events, strict=True):
            text = f"{int(n):,}".replace(",", "\u2009")
            ax.annotate(text, (s, y), (6, 0), "data", "offset points", size=8.5, va="center", color=MUTED)
    ax.plot([], [], ls="none", marker="|", ms=12, mew=1.8, color=INK, label="weighted")
    ax.set_yticks(range(len(steps)), steps)
    ax.tick_params(axis="y", which="both", left=False, right=False)
    ax.set(xlabel="share left", xlim=(0, 1.17), ylim=(len(steps) - 0.45, -0.55))
    ax.set_xticks(np.linspace(0, 1, 6))
    figure.legend(loc="outside lower center", ncols=min(4, len(flows) + 1))
    put_label(ax, label)
    return figure


def cutflow_rows(flows: Mapping[str, Sequence[CutflowStep]]) -> list[tuple[str, str, int, float, float]]:
    """(dataset, step, events, weight, events relative to the dataset's first step) for a table."""
    return [
        (name, s.name, s.events, s.weight, s.events / flow[0].events if flow[0].events else float("nan"))
        for name, flow in flows.items()
        for s in flow
    ]


@dataclass(frozen=True)
class TrainingCurve:
    """One training: loss per epoch (n,), and where known validation loss, learning rate and events/s, (n,) each."""

    name: str
    loss: Sequence[float]
    validation: Sequence[float] = ()
    learning_rate: Sequence[float] = ()
    events_per_s: Sequence[float] = ()


@styled
def plot_training(
    curves: Sequence[TrainingCurve], label: str = LABEL, step: str = "epoch", loss: str = "loss"
) -> Figure:
    """Loss against epoch (validation dashed), learning rate and events/s below where they are known."""
    below = [n for n in ("learning_rate", "events_per_s") if any(len(getattr(c, n)) for c in curves)]
    figure, grid = stacked([2.6, *(1.0 for _ in below)], height=3.6 + 1.15 * len(below))
    axes = grid[:, 0]
    many = len(curves) > len(CYCLE)
    for i, curve in enumerate(curves):
        color = BLUE if many else CYCLE[i % len(CYCLE)]
        style = {"color": color, "alpha": 0.35 if many else 1.0, "lw": 1.1 if many else 1.8}
        name = None if many and i else (f"{len(curves)} trainings" if many else curve.name)
        axes[0].plot(np.arange(1, len(curve.loss) + 1), curve.loss, label=name, **style)
        if len(curve.validation):
            tag = None if name is None else f"{name}, validation"
            axes[0].plot(
                np.arange(1, len(curve.validation) + 1), curve.validation, ls=DASHES[1], label=tag, **style
            )
        for ax, field in zip(axes[1:], below, strict=True):
            values = getattr(curve, field)
            ax.plot(np.arange(1, len(values) + 1), values, **style)
    axes[0].set_ylabel(loss)
    losses = [v for c in curves for v in (*c.loss, *c.validation)]
    if min(losses) > 0 and max(losses) > 50 * min(losses):
        axes[0].set_yscale("log")
    for ax, field in zip(axes[1:], below, strict=True):
        ax.set_ylabel({"learning_rate": "learning rate", "events_per_s": "events / s"}[field])
        ax.set_ylim(bottom=0)
    axes[-1].set_xlabel(step)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(loc="upper right")
    figure.align_ylabels(axes)
    put_label(axes[0], label)
    return figure
