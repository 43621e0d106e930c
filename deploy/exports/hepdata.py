"""HEPData submission: submission.yaml and one YAML table per result (format 1.1 of hepdata-submission)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...workspace import atomic
from .statement import Statement, significant

#: Names of HEPData tables may not be longer.
LONGEST_NAME = 64
#: What HEPData shows where there is no number.
MISSING = "-"


@dataclass(frozen=True)
class Table:
    """One table: its entry in submission.yaml and the content of its data file."""

    file: str
    name: str
    description: str
    observables: tuple[str, ...]
    independent: tuple[dict[str, Any], ...]
    dependent: tuple[dict[str, Any], ...]

    def content(self) -> dict[str, Any]:
        """The data file."""
        return {"independent_variables": list(self.independent), "dependent_variables": list(self.dependent)}


def _value(number: float) -> Any:
    return significant(float(number)) if math.isfinite(number) else MISSING


def _header(name: str, units: str = "") -> dict[str, str]:
    return {"name": name, **({"units": units} if units else {})}


def _column(
    header: dict[str, str], values: Sequence[Any], qualifiers: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    out = {"header": header, "qualifiers": list(qualifiers), "values": list(values)}
    return out if qualifiers else {k: v for k, v in out.items() if k != "qualifiers"}


def _numbers(values: Sequence[float]) -> list[dict[str, Any]]:
    return [{"value": _value(v)} for v in values]


def _with_error(value: float, minus: float, plus: float, label: str) -> dict[str, Any]:
    if not math.isfinite(value):
        return {"value": MISSING}
    ends = {key: _value(e) if math.isfinite(e) else "" for key, e in (("minus", -minus), ("plus", plus))}
    error = {"asymerror": ends, "label": label}
    return {"value": _value(value), "errors": [error]}


def _qualifiers(s: Statement) -> list[dict[str, Any]]:
    return [
        {"name": "SQRT(S)", "value": significant(s.energy), "units": "GeV"},
        {"name": "LUMINOSITY", "value": significant(s.luminosity), "units": "fb$^{-1}$"},
    ]


def spectrum_table(s: Statement) -> Table:
    """Mass spectrum: data, background with its total error, signal."""
    edges = [
        {"low": significant(a), "high": significant(b)}
        for a, b in zip(s.edges[:-1], s.edges[1:], strict=True)
    ]
    background = [
        {"value": _value(b), "errors": [{"symerror": _value(e), "label": "total"}]}
        for b, e in zip(s.background, s.total_error, strict=True)
    ]
    return Table(
        "spectrum.yaml", "Mass spectrum",
        f"{s.title}: events per mass bin, background with its total uncertainty (correlated between bins), and the "
        f"signal for a cross section of {s.cross_section:g} fb.",
        ("DN/DM",),
        (_column(_header("Mass", s.unit), edges),),
        (
            _column(_header("Data", "events"), _numbers(list(s.observed)), _qualifiers(s)),
            _column(_header("Background", "events"), background, _qualifiers(s)),
            _column(_header("Signal", "events"), _numbers(list(s.signal)), _qualifiers(s)),
        ),
    )  # fmt: skip


def limit_table(s: Statement) -> Table:
    """95 % limits against mass with one- and two-sigma bands."""
    rows = s.limits
    median = np.array([r.expected[2] for r in rows])
    bands = [
        [
            _with_error(m, m - r.expected[2 - n], r.expected[2 + n] - m, f"{n} sigma")
            for m, r in zip(median, rows, strict=True)
        ]
        for n in (1, 2)
    ]
    both = [
        {"value": a["value"], "errors": a.get("errors", []) + b.get("errors", [])} if "errors" in a else a
        for a, b in zip(*bands, strict=True)
    ]
    return Table(
        "limits.yaml", "Upper limits",
        f"{s.title}: 95 % CL upper limits on the cross section. The selection is learned from the data, so the limit "
        "is self-consistent: at and above it, the signal would have been selected with the efficiency used.",
        ("SIG",),
        (_column(_header("Resonance mass", "GeV"), _numbers([r.mass for r in rows])),),
        (
            _column(_header("Observed limit", "fb"), _numbers([r.observed for r in rows]), _qualifiers(s)),
            _column(_header("Expected limit", "fb"), both, _qualifiers(s)),
        ),
    )  # fmt: skip


def scan_table(s: Statement) -> Table:
    """Local p-values against mass; the global one is a qualifier."""
    scan = s.scan
    if scan is None:
        raise InputError("the statement holds no scan of p-values")
    overall = {
        "name": "GLOBAL P-VALUE",
        "value": f"{scan.p_global:.3g} [{scan.p_global_low:.3g}, {scan.p_global_high:.3g}], {scan.toys} toys",
    }
    return Table(
        "pvalues.yaml", "Local p-values",
        f"{s.title}: local p-values of the background-only hypothesis. The global p-value counts every mass and cut.",
        ("CLS",),
        (_column(_header("Resonance mass", "GeV"), _numbers(list(scan.mass))),),
        (_column(_header("Local p-value"), _numbers(list(scan.p_local)), [*_qualifiers(s), overall]),),
    )  # fmt: skip


def efficiency_table(s: Statement) -> Table:
    """Signal efficiency against the injected cross section."""
    one = s.efficiency
    if one is None:
        raise InputError("the statement holds no signal efficiency")
    values = [
        _with_error(v, v - a, b - v, "68 % over retrainings")
        for v, a, b in zip(one.value, one.low, one.high, strict=True)
    ]
    return Table(
        "efficiency.yaml", "Signal efficiency",
        f"{s.title}: acceptance times efficiency of the signal against the cross section injected into the data before "
        "training.",
        ("EFF",),
        (_column(_header("Injected cross section", "fb"), _numbers(list(one.sigma))),),
        (_column(_header("Acceptance times efficiency"), values, _qualifiers(s)),),
    )  # fmt: skip


def tables(statement: Statement) -> list[Table]:
    """Every table the statement has numbers for."""
    s = statement
    out = [spectrum_table(s)]
    if s.limits:
        out.append(limit_table(s))
    if s.scan is not None:
        out.append(scan_table(s))
    if s.efficiency is not None:
        out.append(efficiency_table(s))
    return out


def write_hepdata(
    statement: Statement,
    folder: Path,
    *,
    reaction: str = "P P --> JET JET X",
    resources: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write submission.yaml and its tables into ``folder``; returns the path of submission.yaml.

    ``resources``: (file in ``folder``, description) of further files, the likelihood for instance. Raises `InputError`
    where one does not exist, because HEPData refuses the submission then.
    """
    import yaml

    for name, _ in resources:
        if not (folder / name).exists():
            raise InputError(f"{folder / name} does not exist; write it before the submission that names it")
    s, made = statement, tables(statement)
    head: dict[str, Any] = {"comment": s.title}
    if resources:
        head["additional_resources"] = [{"location": name, "description": text} for name, text in resources]
    documents = [head]
    for table in made:
        keywords = [
            {"name": "reactions", "values": [reaction]},
            {"name": "observables", "values": list(table.observables)},
            {"name": "cmenergies", "values": [significant(s.energy)]},
            {"name": "phrases", "values": ["Anomaly detection", "Resonance search"]},
        ]
        documents.append({
            "name": table.name[:LONGEST_NAME], "description": table.description, "keywords": keywords,
            "data_file": table.file,
        })  # fmt: skip
        with atomic(folder / table.file) as temporary:
            temporary.write_text(yaml.safe_dump(table.content(), sort_keys=False, allow_unicode=True))
    path = folder / "submission.yaml"
    with atomic(path) as temporary:
        temporary.write_text(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
    return path
