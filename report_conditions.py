"""The report's part on a trigger rate's circumstances, from rates.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .analysis.plots_conditions import (
    FaultPoint,
    PileupLines,
    RatePoints,
    SectionLine,
    plot_faults,
    plot_pileup,
    plot_sections,
)
from .analysis.report import ReportFigure, ReportPart, ReportTable
from .conditions import sentences
from .menus import percent, shown


def _points(x: Sequence[float], rates: Sequence[Mapping[str, Any]]) -> RatePoints:
    columns = [np.array([r[k] for r in rates], dtype=np.float64) for k in ("khz", "low", "high")]
    return RatePoints(np.array(x, dtype=np.float64), *columns)


def _pileup(rows: Sequence[Mapping[str, Any]], label: str) -> tuple[list[ReportFigure], list[ReportTable]]:
    lines = []
    for row in rows:
        good = [m for m in row["means"] if "failed" not in m]
        bins = row["bins"]
        if good or bins:
            by_number = _points([b["mean"] for b in bins], [b["rate"] for b in bins])
            lines.append(
                PileupLines(
                    row["target_khz"],
                    by_number,
                    _points([m["mean"] for m in good], [m["rate"] for m in good]),
                )
            )
    cells: list[tuple[Any, ...]] = [
        (row["target_khz"], m["mean"], None, m["failed"], None, None)
        if "failed" in m
        else (
            row["target_khz"],
            m["mean"],
            m["luminosity"],
            shown(m["rate"]),
            round(m["n_effective"]),
            m["uncovered"],
        )
        for row in rows
        for m in row["means"]
    ]
    heads = (
        "threshold for [kHz]",
        "mean pile-up",
        "luminosity [1e34/cm2/s]",
        "rate [kHz]",
        "effective crossings",
        "beyond the sample",
    )
    table = ReportTable(
        heads, cells, "Zero bias reweighted by its number of collisions. The interval is wider for what lies beyond the sample."
    )  # fmt: skip
    caption = "Rate against the number of collisions of a crossing, and of a machine whose mean is such."
    return ([ReportFigure("pileup", plot_pileup(lines, label=label), caption, rows)] if lines else []), [
        table
    ]


def _sections(rows: Sequence[Mapping[str, Any]], label: str) -> list[ReportFigure]:
    lines = [
        SectionLine(
            r["target_khz"], _points(range(len(r["rates"])), r["rates"]), r["common"]["khz"], r["p_value"]
        )
        for r in rows
        if "failed" not in r
    ]
    if not lines:
        return []
    caption = (
        "Rates of groups of luminosity sections; p-value from dealing the crossings to the groups at random."
    )
    return [ReportFigure("sections", plot_sections(lines, label=label), caption, rows)]


def _faults(
    rows: Sequence[Mapping[str, Any]], working: Sequence[Mapping[str, Any]], label: str
) -> tuple[list[ReportFigure], list[ReportTable]]:
    healthy = {p["target_khz"]: p["efficiency"] for p in working if "threshold" in p}
    points = [
        FaultPoint(one["name"], p["target_khz"], *p["ratio"])
        for one in rows
        for p in one["points"]
        if "ratio" in p
    ]
    signals = list(rows[0]["points"][0]["efficiency"]) if rows[0]["points"] else []
    cells = [
        (
            one["name"],
            p["target_khz"],
            shown(p["rate"]) if "rate" in p else p["failed"],
            f"{p['ratio'][0]:.2f} +- {p['ratio'][1]:.2f}" if "ratio" in p else None,
            *(f"{100 * healthy[p['target_khz']][s][0]:.3g}, {percent(p['efficiency'][s])}" for s in signals),
        )
        for one in rows
        for p in one["points"]
    ]
    table = ReportTable(
        ("fault", "threshold for [kHz]", "rate [kHz]", "over the healthy rate", *(f"{s}, without and with [%]" for s in signals)), cells,
        "The same crossings as a faulty detector shows them, at the healthy detector's thresholds.",
    )  # fmt: skip
    caption = "Rate with a fault over the rate without, of the same crossings."
    return ([ReportFigure("faults", plot_faults(points, label=label), caption, rows)] if points else []), [
        table
    ]


def conditions_part(
    found: Mapping[str, Any], working: Sequence[Mapping[str, Any]], label: str
) -> ReportPart | None:
    """Figures and tables of `conditions_study` at the ``working`` points of its score; None where nothing was asked."""
    if not found:
        return None
    figures: list[ReportFigure] = []
    tables: list[ReportTable] = []
    if found.get("pileup"):
        figures, tables = _pileup(found["pileup"], label)
    if found.get("faults"):
        more, cells = _faults(found["faults"], working, label)
        figures, tables = [*figures, *more], [*tables, *cells]
    if found.get("sections"):
        figures += _sections(found["sections"], label)
    words = " ".join(f"{line[0].upper()}{line[1:]}." for line in sentences(found))
    return ReportPart("Circumstances", words, figures=figures, tables=tables)
