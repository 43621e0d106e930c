"""The report's parts for the studies of a hunt, drawn from studies.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .analysis.plots_limits import plot_significance
from .analysis.plots_studies import (
    Importance,
    StabilityCell,
    injection_columns,
    injection_table,
    plot_bands,
    plot_importance,
    plot_injection,
    plot_stability,
)
from .analysis.report import ReportFigure, ReportPart, ReportTable
from .analysis.scan_metrics import Band
from .analysis.studies_trials import CutCount, injection_row, significance_scan
from .events import Window
from .report_hunt import percent
from .resonance import SEARCH
from .stages import Search
from .workspace import read_json

#: Fewest trials from which the spread of an injection says something.
FEW = 5


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([_number(v) for v in values], dtype=np.float64)


def _interval(raw: Mapping[str, float]) -> str:
    return f"{raw['low']:g}-{raw['high']:g}"


def _counts(strength: Mapping[str, Any], cut: float) -> list[CutCount]:
    """One strength's trials behind a cut; a trial whose fit failed has none."""
    return [CutCount(**c) for t in strength["trials"] for c in t["counts"] if c["cut"] == cut]


def _cuts(window: Mapping[str, Any]) -> list[float]:
    """All cuts of a window, loosest first."""
    found = {c["cut"] for s in window["strengths"] for t in s["trials"] for c in t["counts"]}
    return sorted(found, reverse=True)


def _in_window(strength: Mapping[str, Any]) -> float:
    return float(np.mean([t["in_window"] for t in strength["trials"]]))


def _injection_rows(name: str, window: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Table rows of a window: what was hidden, and the median Z behind every cut."""
    out = []
    for s in window["strengths"]:
        inside = _in_window(s)
        for cut in _cuts(window):
            made = _counts(s, cut)
            z = np.array([c.z for c in made])
            low, middle, high = np.quantile(z, (0.1587, 0.5, 0.8413)) if len(z) else (math.nan,) * 3
            out.append((
                name, _interval(window["window"]), s["injected"], round(inside, 1),
                round(100 * inside / max(window["background"], 1), 3), percent(cut), round(float(middle), 2),
                f"{low:.2f} to {high:.2f}", len(made),
            ))  # fmt: skip
    return out


def _warnings(made: Mapping[str, Any]) -> list[str]:
    """What the repetitions of one signal lack."""
    failed = sum(len(t["failed"]) for w in made["windows"] for s in w["strengths"] for t in s["trials"])
    out = [f"{failed} fits of the repeated searches failed; the numbers are without them"] if failed else []
    if made["trials"] < FEW:
        out.append(
            f"{made['trials']} trials of each strength are too few for the spread and the pulls to be quoted"
        )
    return out


def _injection_part(name: str, made: Mapping[str, Any], quoted: float, label: str) -> ReportPart:
    """Repetitions with other strengths: Z against what was injected, and the excess found."""
    title, rows = f"Injected signal: {name}", made["rows"]
    if "why" in made:
        return ReportPart(title, warnings=[f"no injection study: {made['why']}"])
    first = made["windows"][0]
    cuts, strengths = _cuts(first), first["strengths"]
    inside = [_in_window(s) for s in strengths]
    scans = [
        significance_scan(percent(c), first["background"], inside, [[t.z for t in _counts(s, c)] for s in strengths])
        for c in cuts
        if all(_counts(s, c) for s in strengths)
    ]  # fmt: skip
    shown = quoted if quoted in cuts and quoted < 1 else cuts[-1]
    found = [
        injection_row(s["injected"], made_of := _counts(s, shown), made["trials"] - len(made_of))
        for s in strengths
    ]
    where = f"{_interval(first['window'])} GeV"
    figures = []
    if scans and max(inside) > 0:
        figures.append(ReportFigure(
            f"significance-{name}", plot_significance(scans, label=label, right=where, what="local significance Z"),
            "Local Z of repeated searches, without and with the classifier, delta_sys inside.", scans,
        ))  # fmt: skip
    usable = [r for r in found if r.fits]
    rounded = [replace(r, injected=round(r.injected, 1)) for r in usable]
    hidden = [s["injected"] for s, r in zip(strengths, found, strict=True) if r.fits]
    if usable:
        figures.append(ReportFigure(
            f"injection-{name}", plot_injection(usable, label=label, right=f"{where}, {percent(shown)}", unit="events that pass"),
            "Excess over the fit against the injected events that pass the cut, by the efficiency of the held-out signal.", found,
        ))  # fmt: skip
    return ReportPart(
        title,
        f"The search of the windows that hold the signal, repeated {made['trials']} times with each strength: other rows of "
        f"{name} hidden, every classifier trained anew, cut and fitted. Rows are hidden from {rows['hidden_from']:,} of its "
        f"events and the efficiency is measured with the {rows['measured_with']:,} others. All trials share the same data: "
        "bands show the draw of the signal and the training, and the data's own fluctuation, which moves all points "
        "together, is what is found at 0 injected; pulls therefore spread by less than 1. Less is found than injected where "
        "signal beside the window raises the fit. delta_sys is the one of the hunt, not measured again in each trial.",
        figures=figures,
        tables=[
            ReportTable(
                ("signal", "window [GeV]", "injected", "in window", "S/B [%]", "cut", "median Z", "68 %", "fits"),
                [r for w in made["windows"] for r in _injection_rows(name, w)], "Local Z of the repeated searches.",
            ),
            ReportTable(
                ("hidden", *injection_columns()),
                [(s, *row) for s, row in zip(hidden, injection_table(rounded), strict=True)],
                f"Excess found against injected events that pass, {where}, {percent(shown)}.",
            ),
        ],
        warnings=_warnings(made),
    )  # fmt: skip


def _band(raw: Mapping[str, Any]) -> Band:
    lines = {k: _array(raw[k]) for k in ("x", "median", "low", "high")}
    return Band(raw["name"], raw["kind"], **lines, trainings=raw["trainings"], floor=raw["floor"])


def _bands_part(name: str, made: Mapping[str, Any], label: str) -> ReportPart | None:
    """ROC and SIC over trainings, with the ceilings that labels would reach."""
    if not made["bands"].get("sic"):
        return None
    where = f"{_interval(made['windows'][0]['window'])} GeV"
    sics, rejections = ([_band(b) for b in made["bands"][kind]] for kind in ("sic", "rejection"))
    return ReportPart(
        f"Separation over trainings: {name}",
        f"{made['trials']} trainings with {made['own']} injected events, tested on the same held-out signal and on the data's "
        "background of the window. Supervised: the same kind of classifier with the labels of signal simulation against data, "
        "cross-fitted. Idealised: one half of the window's background as reference, the other half with all of the hidden signal "
        "as data, which is as clear a difference as the whole window would show against an endless reference. Both use labels "
        "that the search does not have.",
        figures=[
            ReportFigure(f"sic-bands-{name}", plot_bands(sics, label=label, right=where), "Significance improvement.", sics),
            ReportFigure(
                f"roc-bands-{name}", plot_bands(rejections, label=label, right=where), "Background rejection.", rejections
            ),
        ],
    )  # fmt: skip


def _stability_part(raw: Sequence[Mapping[str, Any]], cut: float, label: str) -> ReportPart | None:
    cells = [
        StabilityCell(
            c["order"], c["binning"], Window(**c["window"]), _number(c["z"]), _number(c["gof_p"]), c["nominal"]
        )
        for c in raw
    ]  # fmt: skip
    if not cells:
        return None
    z = np.array([c.z for c in cells if np.isfinite(c.z) and not c.gof_p < 0.05])
    spread = f" Z lies between {z.min():.2f} and {z.max():.2f} where the fit is good." if len(z) else ""
    quoted = any(c.nominal for c in cells)
    framed = "The choice that is quoted is framed." if quoted else "None of these is the fit that is quoted."
    return ReportPart(
        "Stability",
        f"Local Z of the largest excess over the dijet function with other numbers of parameters, bins and window edges, "
        f"{percent(cut)}. Nothing was trained again; delta_sys was measured anew for every choice.{spread}",
        figures=[ReportFigure("stability", plot_stability(cells, label=label), framed, list(raw), wide=True)],
    )


def _importance_part(raw: Mapping[str, Any], label: str) -> ReportPart:
    rows = [Importance(r["feature"], r["value"], r["error"]) for r in raw["rows"]]
    truth = raw["second_is"] == "background"
    measure = "largest significance improvement" if raw["measure"] == "sic" else "area under the ROC"
    told = (
        f"{raw['first']:,} held-out signal events from {raw['second']:,} of the data's background in the window"
        if truth
        else f"{raw['first']:,} events of the window from {raw['second']:,} beside it, without any truth"
    )
    what = "loss of max SIC when shuffled" if raw["measure"] == "sic" else "loss of AUC when shuffled"
    return ReportPart(
        "Feature importance",
        f"What the score of {_interval(raw['window'])} GeV loses when one feature's values are replaced by those of random "
        f"events ({raw['repeats']} shuffles; the error is that of their mean). The whole score tells {told}: {measure} "
        f"{raw['whole']:.3g}. Features that know the same share their importance.",
        figures=[ReportFigure("importance", plot_importance(rows, what=what, label=label), "Permutation importance.", raw)],
    )  # fmt: skip


def _oddest_part(raw: Mapping[str, Any]) -> ReportPart | None:
    events = raw["events"]
    if not events:
        return None
    names = [f"{n} [{unit}]" if unit else n for n, unit in raw["units"].items()]
    rows = [
        (str(e["run"]), str(e["luminosityBlock"]), str(e["event"]), round(e["mass"], 1), e["score"], *e["features"].values())
        for e in events
    ]  # fmt: skip
    return ReportPart(
        "The oddest events",
        f"The {len(rows)} events of largest score in {_interval(raw['window'])} GeV, each scored by the fold that did not see "
        "it. Nothing here knows which of them were injected.",
        tables=[ReportTable(("run", "lumi", "event", "mass [GeV]", "score", *names), rows)],
        folded=True,
    )


def studies_parts(search: Search) -> list[ReportPart]:
    """The parts of every study in studies.json; none where the search asks for no studies."""
    if search.config.studies is None:
        return []
    made, label = read_json(search.space.path("studies.json")), search.config.report.label
    best = read_json(search.space.path("hunt.json"))[SEARCH]["best"]
    parts: list[ReportPart | None] = []
    for name, one in made["injections"].items():
        quoted = best["cut"] if best is not None else 1.0
        parts += [_injection_part(name, one, quoted, label), _bands_part(name, one, label)]
    if best is not None:
        parts += [
            _stability_part(made["stability"], best["cut"], label), _importance_part(made["importance"], label),
            _oddest_part(made["oddest"]),
        ]  # fmt: skip
    return [p for p in parts if p is not None]
