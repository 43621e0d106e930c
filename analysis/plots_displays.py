"""Displays of single events: objects or constituents in the eta-phi plane, calorimeter images, or quantiles of plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .event_objects import PlacedObject
from .plots_common import (
    BLUE,
    GREY,
    INK,
    LABEL,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    VIOLET,
    curve_style,
    new_figure,
    put_label,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
#: Colour, marker and short name of every kind of object; others take grey diamonds.
_LOOKS = {
    "jet": (BLUE, "o", "j"), "large-R jet": (VIOLET, "o", "J"), "e/gamma": (ORANGE, "s", "e"), "electron": (ORANGE, "s", "e"),
    "photon": ("#c17a12", "D", "g"), "muon": (RED, "^", "m"), "tau": (PURPLE, "v", "t"), "constituent": (BLUE, "o", ""),
}  # fmt: skip
_OTHER = (GREY, "D", "")
#: Objects that are listed beside a display.
_LISTED = 9


@dataclass(frozen=True)
class EventDisplay:
    """One event: its number among the oddest, a title of its identity, lines of numbers beside it, and its objects."""

    number: int
    title: str
    lines: Sequence[str]
    objects: Sequence[PlacedObject]


@dataclass(frozen=True)
class EventImage:
    """One event as a calorimeter image ``et`` (phi, eta) in GeV, with its number among the oddest and a title."""

    number: int
    title: str
    et: Array


@dataclass(frozen=True)
class EventNumbers:
    """One event without objects: its number, title, and for every feature the part of the data that is lower."""

    number: int
    title: str
    quantiles: Sequence[float]


def _panels(
    count: int, width: float, height: float, extra: float = 0.0, columns: int = 2
) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows + extra)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, list(axes.flat[:count])


def _head(ax: Axes, number: int, title: str) -> None:
    ax.annotate(
        f"{number}",
        (0, 1),
        (0, 4),
        "axes fraction",
        "offset points",
        size=11,
        weight="bold",
        color=RED,
        va="baseline",
    )
    ax.annotate(
        title,
        (0, 1),
        (14 if number < 10 else 21, 4),
        "axes fraction",
        "offset points",
        size=9.5,
        color=MUTED,
        va="baseline",
    )


def _label(ax: Axes, label: str) -> None:
    """The label above the first panel's own title."""
    name = ax.annotate(
        "elsewhere",
        (0, 1),
        (0, 21),
        "axes fraction",
        "offset points",
        weight="bold",
        size=12.5,
        va="baseline",
    )
    ax.annotate(
        label, (1, 1), (5, 21), (name, "axes fraction"), "offset points", style="italic", size=11.5, va="baseline",
        annotation_clip=False,
    )  # fmt: skip


def area(pt: float, largest: float) -> float:
    """A marker's area in square points, in proportion to pT: 420 for the largest that is drawn."""
    return 420.0 * pt / largest


def _listing(event: EventDisplay) -> list[tuple[str, str]]:
    """Lines beside a display with their colours: the event's numbers, then its objects by falling pT."""
    ranked = sorted(event.objects, key=lambda o: -o.pt)
    out = [(line, MUTED) for line in event.lines]
    for o in ranked[:_LISTED]:
        color = INK if o.kind == "MET" else _LOOKS.get(o.kind, _OTHER)[0]
        out.append((f"{o.name}  {o.pt:.3g} GeV", color))
    rest = len(ranked) - _LISTED
    return [*out, (f"and {rest} softer", MUTED)] if rest > 0 else out


def _draw_objects(ax: Axes, event: EventDisplay, largest: float, named: bool) -> None:
    """Markers of every object, with short names of the listed ones; missing energy as a line at its phi."""
    from matplotlib.patheffects import withStroke

    white = [withStroke(linewidth=2.0, foreground="white")]
    ranked = sorted(event.objects, key=lambda o: -o.pt)
    for i, o in enumerate(ranked):
        if o.kind == "MET":
            ax.axhline(o.phi, color=INK, lw=1.2, ls=(0, (5, 2.5)), zorder=1)
            ax.annotate(
                "MET", (1, o.phi), (-3, -9 if o.phi > 2.7 else 2), ("axes fraction", "data"), "offset points", size=8, ha="right", color=INK,
                path_effects=white, zorder=6,
            )  # fmt: skip
            continue
        color, marker, short = _LOOKS.get(o.kind, _OTHER)
        ax.scatter(
            [o.eta],
            [o.phi],
            s=area(o.pt, largest),
            marker=marker,
            color=color,
            alpha=0.55,
            lw=0.8,
            ec=INK,
            zorder=3,
        )
        if named and i < _LISTED:
            number = o.name.removeprefix(o.kind).strip()
            away = 1.5 + 0.5 * math.sqrt(area(o.pt, largest))
            side = -1.4 if o.phi > 2.5 else 1.0  # inside the plane
            left = o.kind not in ("jet", "large-R jet")  # a lepton's name and that of the jet around it
            ax.annotate(
                f"{short}{number}", (o.eta, o.phi), ((-0.7 if left else 0.7) * away, side * 0.7 * away), "data", "offset points", size=8,
                color=INK, ha="right" if left else "left",
                path_effects=white, zorder=6,
            )  # fmt: skip


def _sizes(largest: float) -> list[float]:
    """Three round values of pT for the legend of areas."""
    top = 10 ** math.floor(math.log10(largest))
    step = max(m * top for m in (1, 2, 5) if m * top <= largest)
    return [step / 10, step / 4 if step / 4 >= 1 else step / 2, step]


@styled
def plot_displays(events: Sequence[EventDisplay], *, label: str = LABEL) -> Figure:
    """One eta-phi plane per event: marker areas in proportion to pT on one scale, the hardest objects named beside it.

    Constituents are drawn about the jet axis; all planes of a figure show the same range.
    """
    from matplotlib.lines import Line2D

    inside = all(o.kind == "constituent" for e in events for o in e.objects)
    figure, axes = _panels(len(events), 4.75 if inside else 5.3, 3.25 if inside else 3.05, 1.0)
    drawn = [o for e in events for o in e.objects if o.kind != "MET"]
    largest = max((o.pt for o in drawn), default=1.0)
    reach = max((abs(o.eta) for o in drawn), default=1.0)
    high = max([abs(o.phi) for o in drawn], default=1.0)
    for ax, event in zip(axes, events, strict=True):
        _draw_objects(ax, event, largest, named=not inside)
        _head(ax, event.number, event.title)
        if inside:
            both = 1.1 * max(reach, high, 0.4)
            ax.set(xlim=(-both, both), ylim=(-both, both), xlabel=r"$\Delta\eta$", ylabel=r"$\Delta\phi$")
            ax.plot([0], [0], marker="+", color=GREY, ms=9, zorder=1)
        else:
            ax.set(
                xlim=(-1.12 * max(reach, 2.4), 1.12 * max(reach, 2.4)),
                ylim=(-3.3, 3.3),
                xlabel=r"$\eta$",
            )
            ax.set_ylabel(r"$\phi$", loc="center")
            ax.set_yticks([-math.pi, 0, math.pi], [r"$-\pi$", "0", r"$\pi$"])
            ax.axhspan(-3.3, -math.pi, color=GREY, alpha=0.2, lw=0)
            ax.axhspan(math.pi, 3.3, color=GREY, alpha=0.2, lw=0)
        for i, (text, color) in enumerate(_listing(event)):
            ax.annotate(
                text, (1.03, 0.97 - 0.077 * i), xycoords="axes fraction", size=8.5, color=color, va="top"
            )
    kinds = [k for k in _LOOKS if any(o.kind == k for o in drawn)]
    kinds += sorted({o.kind for o in drawn} - set(kinds))
    looks: dict[str, Any] = {"ls": "none", "alpha": 0.6, "mec": INK}
    handles = [
        Line2D(
            [], [], marker=_LOOKS.get(k, _OTHER)[1], color=_LOOKS.get(k, _OTHER)[0], ms=8, label=k, **looks
        )
        for k in kinds
    ]
    handles += [
        Line2D([], [], marker="o", color="white", ms=math.sqrt(area(s, largest)), label=f"{s:g} GeV", **looks)
        for s in (_sizes(largest) if drawn else ())
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(8, len(handles)),
        handletextpad=0.7,
        columnspacing=1.6,
    )
    _label(axes[0], label)
    return figure


@styled
def plot_images(events: Sequence[EventImage], *, label: str = LABEL) -> Figure:
    """One calorimeter image per event, transverse energy in GeV on one logarithmic scale; empty regions white."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    figure, axes = _panels(len(events), 3.6, 4.0, 0.4, columns=3)
    top = max(float(e.et.max()) for e in events)
    least = min((float(e.et[e.et > 0].min()) for e in events if (e.et > 0).any()), default=1.0)
    scale = LogNorm(least, max(top, 1.01 * least))
    image: Any = None
    for ax, event in zip(axes, events, strict=True):
        image = ax.imshow(
            np.where(event.et > 0, event.et, np.nan),
            origin="lower",
            aspect="auto",
            cmap="viridis_r",
            norm=scale,
        )
        _head(ax, event.number, event.title)
        ax.set(xlabel="region in $\\eta$", ylabel="region in $\\phi$")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.minorticks_off()
    figure.colorbar(image, ax=axes, pad=0.015, aspect=30).set_label("transverse energy [GeV]")
    _label(axes[0], label)
    return figure


@styled
def plot_quantiles(
    names: Sequence[str], events: Sequence[EventNumbers], *, label: str = LABEL, right: str = ""
) -> Figure:
    """Where the oddest events lie in each feature: the part of the data that is lower, one line per event."""
    figure = new_figure(6.6, 1.7 + 0.34 * len(names) + 0.2 * -(-len(events) // 3))
    ax = figure.subplots()
    y = np.arange(len(names))
    for i, event in enumerate(events):
        style = curve_style(i)
        ax.plot(
            event.quantiles,
            y,
            marker="o",
            ms=5,
            lw=1.0,
            alpha=0.85,
            label=f"{event.number}: {event.title}",
            **style,
        )
    for edge in (0.01, 0.99):
        ax.axvline(edge, color=GREY, lw=0.8, ls=(0, (4, 3)), zorder=0)
    ax.set_yticks(y, names)
    ax.tick_params(axis="y", which="both", length=0)
    ax.set(
        xlabel="quantile in the data (dashed: 1% and 99%)", xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5)
    )
    ax.grid(axis="y", color=GREY, alpha=0.3, lw=0.6)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8.5)
    put_label(ax, label, right)
    return figure
