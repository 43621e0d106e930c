"""How a trigger rate depends on its circumstances: pile-up, time, and a detector that misbehaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .analysis.pileup import pileup_rate, rate_by_pileup
from .analysis.rate_stability import rate_by_section, rate_ratio
from .analysis.rates import efficiency_at, rate_of
from .analysis.report import plain
from .detector_faults import with_fault
from .errors import ConfigError, FitError
from .sections import FaultSection, PileupSection, RatesSection
from .workspace import Table

#: (target rate in kHz, threshold) of the working points that have one.
Points = Sequence[tuple[float, float]]


def conditions_study(
    data: Table, signals: Mapping[str, Table], points: Sequence[Mapping[str, Any]], name: str, scorer: Any,
    section: RatesSection, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What `section` asks of the score ``name``, whose ``scorer`` scores crossings anew where a fault changed them.

    Thresholds are those of the working points. A number that the sample cannot give is there as ``failed`` with the reason.
    """
    at = [(p["target_khz"], p["threshold"]) for p in points if "threshold" in p]
    out: dict[str, Any] = {}
    if section.pileup is not None:
        out["pileup"] = _pileup(data, at, name, section.pileup, section.bunches)
    if section.section_groups is not None:
        out["sections"] = _sections(data, at, name, section.section_groups, section.bunches, seed)
    if section.faults:
        out["faults"] = [
            _fault(data, signals, at, name, scorer, kind, fault, section.bunches, seed)
            for kind, fault in section.faults.items()
        ]
    return {"scorer": name, **out} if out else {}


def _pileup(
    data: Table, points: Points, name: str, asked: PileupSection, bunches: int
) -> list[dict[str, Any]]:
    if "n_pileup" not in data.extras:
        raise ConfigError(
            f"rates.pileup: the columns of features '{data.events.features.name}' have no n_pileup"
        )
    n, weight, rows = data.extras["n_pileup"], data.events.weight, []
    for target, threshold in points:
        kept = data.scores[name] > threshold
        made: dict[str, Any] = {"target_khz": target, "threshold": threshold, "means": []}
        for mean in asked.means:
            try:
                one = pileup_rate(
                    kept, weight, n, bunches, mean, spread=asked.spread, inelastic_mb=asked.inelastic_mb
                )
                made["means"].append(plain(one))
            except FitError as error:
                made["means"].append({"mean": mean, "failed": str(error)})
        try:
            made["bins"] = plain(rate_by_pileup(kept, weight, n, bunches))
        except FitError as error:
            made["bins"], made["failed"] = [], str(error)
        rows.append(made)
    return rows


def _sections(
    data: Table, points: Points, name: str, groups: int, bunches: int, seed: int
) -> list[dict[str, Any]]:
    identity, rows = data.events.identity, []
    for target, threshold in points:
        try:
            found = rate_by_section(
                data.scores[name] > threshold, data.events.weight, identity["run"], identity["luminosityBlock"], bunches,
                groups=groups, seed=seed,
            )  # fmt: skip
            rows.append({"target_khz": target, **plain(found)})
        except FitError as error:
            rows.append({"target_khz": target, "failed": str(error)})
    return rows


def _fault(
    data: Table, signals: Mapping[str, Table], points: Points, name: str, scorer: Any, kind: str, fault: FaultSection,
    bunches: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Rates at the thresholds of the healthy detector, against them, and the signals' efficiencies."""
    score = scorer.score(with_fault(data.events, fault, kind, seed))
    faulty = {n: scorer.score(with_fault(t.events, fault, kind, seed)) for n, t in signals.items()}
    rows = []
    for target, threshold in points:
        row: dict[str, Any] = {"target_khz": target}
        try:
            row["rate"] = plain(rate_of(score > threshold, data.events.weight, bunches, threshold))
            row["ratio"] = rate_ratio(data.scores[name] > threshold, score > threshold, data.events.weight)
        except FitError as error:
            row["failed"] = str(error)
        row["efficiency"] = {
            n: efficiency_at(faulty[n], t.events.weight, threshold) for n, t in signals.items()
        }
        rows.append(row)
    return {"name": kind, "fault": fault.model_dump(exclude_unset=True), "points": rows}


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found, a line each."""
    lines = []
    for row in found.get("pileup", ()):
        seen = ", ".join(
            f"{m['rate']['khz']:.3g} [{m['rate']['low']:.3g}, {m['rate']['high']:.3g}] at {m['mean']:g}"
            for m in row["means"]
            if "failed" not in m
        )
        lines.append(
            f"{found['scorer']} threshold for {row['target_khz']:g} kHz, rate in kHz at mean pile-up: {seen or 'none'}"
        )
        lines += [m["failed"] for m in row["means"] if "failed" in m]
    for row in found.get("sections", ()):
        lines.append(
            row["failed"]
            if "failed" in row
            else f"{row['target_khz']:g} kHz over {len(row['rates'])} groups of luminosity sections: p = {row['p_value']:.3f} for one rate"
        )
    for one in found.get("faults", ()):
        seen = ", ".join(
            f"x {p['ratio'][0]:.2f} +- {p['ratio'][1]:.2f} at {p['target_khz']:g} kHz"
            for p in one["points"]
            if "ratio" in p
        )
        lines.append(f"fault {one['name']}: rate {seen or 'not measured'}")
    return lines
