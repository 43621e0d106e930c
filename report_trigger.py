"""The report's group for a trigger study, drawn from rates.json, the model's record and the scored columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .analysis.metrics import roc, thinned
from .analysis.plots import (
    EfficiencyCurve,
    EfficiencyLine,
    Overlay,
    RateLine,
    plot_firmware,
    plot_rates,
    plot_roc,
    plot_scores,
    score_edges,
)
from .analysis.report import ReportFigure, ReportPart, ReportSearch, ReportTable
from .deploy.cms_export import cms_rows
from .deploy.rtl_export import hardware_rows
from .deploy.side_by_side import side_by_side_table, side_by_side_words
from .menus import sentences, tables
from .report_conditions import conditions_part
from .report_front import front_part
from .report_training import training_part
from .resonance import join
from .stages import Search
from .trigger import FIRMWARE, FLOAT, MODEL, names_with, outcome, represented
from .workspace import Table, read_json


def _rates_part(found: dict[str, Any], label: str) -> ReportPart:
    lines, signals = [], []
    for name, one in found["scorers"].items():
        c = one["curve"]
        arrays = [np.array(c[k]) for k in ("threshold", "khz", "low", "high")]
        lines.append(RateLine(name, *arrays))
    main = found["scorers"].get(FIRMWARE) or found["scorers"][FLOAT]
    threshold = np.array(main["curve"]["threshold"])
    for name, values in main["efficiency"].items():
        e = np.array(values)
        signals.append(EfficiencyLine(name, threshold, e[:, 0], e[:, 1], e[:, 2]))
    targets = [p["target_khz"] for p in main["points"]]
    rows = []
    for name, one in found["scorers"].items():
        for p in one["points"]:
            if "failed" in p:
                rows.append(
                    (name, p["target_khz"], None, p["failed"], None, *(None for _ in one["efficiency"]))
                )
                continue
            r = p["rate"]
            seen = [
                f"{100 * e[0]:.1f} [{100 * e[1]:.1f}, {100 * e[2]:.1f}] %" for e in p["efficiency"].values()
            ]
            text = f"{r['khz']:.3g} [{r['low']:.3g}, {r['high']:.3g}]"
            rows.append((name, p["target_khz"], p["threshold"], text, r["n_pass"], *seen))
    heads = ("score", "target [kHz]", "threshold", "rate [kHz]", "crossings that pass", *main["efficiency"])
    return ReportPart(
        "Rate",
        f"Rate = weighted fraction of {found['crossings']:,} zero-bias crossings x {found['bunches']} bunches x 11,245.6 Hz "
        f"({found['crossing_khz']:,.0f} kHz in all); 68 % intervals on effective counts. None of these crossings was trained on.",
        figures=[
            ReportFigure(
                "rates",
                plot_rates(lines, targets, signals, label=label),
                "Rate and signal efficiency against threshold.",
                found["scorers"],
            )
        ],
        tables=[ReportTable(heads, rows, "Working points.")],
    )


def _firmware_part(search: Search, data: Table, found: dict[str, Any], label: str) -> ReportPart | None:
    if FIRMWARE not in data.scores:
        return None
    record = read_json(search.space.path("firmware", "firmware.json"))
    verified, agreement = record["verified"], found["firmware_against_float"]
    figure = plot_firmware(data.scores[FLOAT], data.scores[FIRMWARE], label=label)
    rows = [
        (r["target_khz"], r["threshold"], r["float"]["khz"], r["firmware"]["khz"]) for r in agreement["rates"]
    ]
    layers = [
        (x["name"], x["kind"], ", ".join(f"{k} {v}" for k, v in x["precision"].items()))
        for x in record["layers"]
    ]
    hardware, both = hardware_rows(record) + cms_rows(record), side_by_side_table(record)
    return ReportPart(
        "Firmware",
        f"hls4ml project compiled by g++ and used as a score in the stream. {verified['mismatches']} of "
        f"{verified['events']:,} events (saturations and extreme patterns among them) differ from an independent fixed-point "
        f"evaluation; correlation with the float score {agreement['pearson']:.6f}, of ranks {agreement['spearman']:.6f}.",
        figures=[
            ReportFigure(
                "firmware", figure, "The same crossings scored by software and by firmware.", agreement
            )
        ],
        tables=[
            ReportTable(
                ("target [kHz]", "float threshold", "float rate [kHz]", "firmware rate [kHz]"),
                rows,
                "Same threshold for both.",
            ),
            *([ReportTable(("quantity", "value"), hardware, "The network as hardware.")] if hardware else []),
            *([ReportTable(*both, side_by_side_words(record))] if both else []),
            ReportTable(("layer", "kind", "types"), layers, "What every number of the firmware is."),
        ],
    )


def _menu_part(found: dict[str, Any]) -> ReportPart | None:
    if "menu" not in found:
        return None
    words = " ".join(f"{line[0].upper()}{line[1:]}." for line in sentences(found["menu"]))
    return ReportPart("Menu", words, tables=tables(found["menu"]))


def _scores_part(data: Table, signals: dict[str, Table], label: str) -> ReportPart:
    name = FIRMWARE if FIRMWARE in data.scores else FLOAT
    every = [data.scores[name], *(t.scores[name] for t in signals.values())]
    low, top = (f([float(np.quantile(v, q)) for v in every]) for f, q in ((min, 0.001), (max, 0.999)))
    edges = score_edges(low, top)
    weight = data.events.weight
    overlays = [Overlay.of("zero bias", data.scores[name], edges, "data", weight)]
    for n, t in signals.items():
        factor = float(weight.sum() / t.events.weight.sum())
        shape = Overlay.of(f"{n} (same area)", t.scores[name], edges, "signal", t.events.weight)
        overlays.append(shape.scaled(factor))
    curves = []
    for n, t in signals.items():
        c = roc(t.scores[name], data.scores[name], t.events.weight, weight)
        k = thinned(c.signal)
        curves.append(EfficiencyCurve(n, c.signal[k], c.background[k], c.n_background[k], c.auc, c.auc_error))
    figures = [
        ReportFigure(
            "scores",
            plot_scores(edges, overlays, x_label=f"{name} score", label=label),
            "Score distributions.",
        )
    ]
    if curves:
        figures.append(
            ReportFigure(
                "roc",
                plot_roc(curves, label=label),
                "Signals against zero bias, both weighted; the AUC error is that of the effective counts.",
            )
        )
    return ReportPart("Scores", figures=figures)


def trigger_search(search: Search, shared: Sequence[ReportPart]) -> ReportSearch:
    """The one group of a trigger study."""
    config, label = search.config, search.config.report.label
    found = read_json(search.space.path("rates.json"))
    data = join([search.space.read_table(n, "scores") for n in names_with(config, "data")])
    signals = {n: search.space.read_table(n, "scores") for n in names_with(config, "signal")}
    lines = outcome(search)
    main = found["scorers"].get(FIRMWARE) or found["scorers"][FLOAT]
    points = [p for p in main["points"] if "threshold" in p]
    first = points[0] if points else None
    verdict = (
        "no working point"
        if first is None
        else f"{first['rate']['khz']:.2f} kHz at score > {first['threshold']:.4g}"
    )
    facts = [("crossings", f"{found['crossings']:,}")]
    if "firmware_against_float" in found:
        facts.append(("rank correlation", f"{found['firmware_against_float']['spearman']:.5f}"))
    space = f" in the space of {config.representation.method}" if represented(config) else ""
    parts = [
        _rates_part(found, label), _menu_part(found), conditions_part(found["conditions"], main["points"], label), _firmware_part(search, data, found, label), front_part(search, label), _scores_part(data, signals, label),
        training_part(search.space.path("models", MODEL), label), *shared,
    ]  # fmt: skip
    return ReportSearch(
        config.report.title or config.name,
        f"What would a level-1 trigger on the {config.score.method} score{space} take, and at which rate?",
        " ".join(f"{t[0].upper()}{t[1:]}." for t in lines[-1:]), verdict, "measured",
        facts=facts, parts=parts, numbers={"rates": found},
    )  # fmt: skip
