"""The report's part on resources against physics, from front.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .analysis.plots_front import FrontLine, FrontPoints, plot_front
from .analysis.report import ReportFigure, ReportPart, ReportTable
from .fronts import RESULT, lut_of, sentences
from .menus import percent, shown
from .stages import Search
from .workspace import read_json


def front_points(found: Mapping[str, Any]) -> FrontPoints:
    """What the figure is drawn from: the points of front.json that have a score."""
    good = [p for p in found["points"] if "failed" not in p]

    def line(name: str, key: str, values: Sequence[Any]) -> FrontLine:
        value, low, high = np.array(values, dtype=np.float64).T
        return FrontLine(name, value, low, high, np.array([key in p["best"] for p in good]))

    signals = found["signals"]
    lines = [line(n, n, [p["efficiency"][n] for p in good]) for n in signals]
    mean = line(f"mean of {len(signals)} signals", "mean", [p["mean"] for p in good])
    columns = [np.array([p[k] for p in good]) for k in ("bits", "pruning")]
    return FrontPoints(
        np.array([lut_of(p) for p in good], dtype=np.float64), columns[0], columns[1].astype(np.float64),
        (mean, *lines) if len(lines) > 1 else tuple(lines), found["target_khz"], found["cost"] == "yosys",
    )  # fmt: skip


def _row(point: Mapping[str, Any], signals: Sequence[str], counted: bool) -> tuple[Any, ...]:
    setting = (point["bits"], f"{100 * point['pruning']:g} %")
    if "failed" in point:
        nothing = (None for _ in range(7 if counted else 5))
        return (*setting, *nothing, point["failed"], *(None for _ in signals), "")
    return (
        *setting, point["weight"], f"{100 * point['zero']:.1f} %", point["lut_estimate"],
        *((point["lut"], point["ff"]) if counted else ()),
        f"{point['stages']} ({point['latency_ns']:g} ns)", point["threshold"], shown(point["rate"]),
        *(percent(point["efficiency"][n]) for n in signals), "yes" if "mean" in point["best"] else "",
    )  # fmt: skip


def front_part(search: Search, label: str) -> ReportPart | None:
    """Figure and table of the front; None where none was asked for."""
    if search.config.front is None:
        return None
    found = read_json(search.space.path(RESULT))
    counted = found["cost"] == "yosys"
    heads = (
        "bits", "pruned", "weights' type", "zero weights", "LUT, da4ml's estimate", *(("LUT, yosys", "FF, yosys") if counted else ()),
        "pipeline stages", "threshold", "rate [kHz]", *(f"{n} [%]" for n in found["signals"]), "not beaten in the mean",
    )  # fmt: skip
    caption = (
        f"Look-up tables against signal efficiency at {found['target_khz']:g} kHz of zero bias. Colour: bits of a weight; marker: "
        "part of the weights that is pruned. The step line joins the points that no other one beats. Bars: 68 % intervals of the "
        "counted events"
        + (
            ". A point is one training, and how much another seed would move it is not in the bars."
            if found["trainings"] == 1
            else f" and of the mean of {found['trainings']} trainings with seeds of their own."
        )
    )
    first = sentences(found)[0]
    words = (
        f"{first[0].upper()}{first[1:]}. {found['method']} trained on {found['reference_events']:,} crossings and measured on "
        f"{found['crossings']:,} for every setting. The traced logic of each gives the trained score in every one of the events "
        "compared. The threshold is a number of the score's own, few steps wide where weights are few: the rate is what it gives, at "
        "most the target."
    )
    return ReportPart(
        "Resources against physics",
        words,
        figures=[
            ReportFigure("front", plot_front(front_points(found), label=label), caption, found, wide=True)
        ],
        tables=[
            ReportTable(
                heads, [_row(p, found["signals"], counted) for p in found["points"]], "Every setting."
            )
        ],
    )
