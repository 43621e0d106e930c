"""A pyhf workspace (HistFactory JSON, schema 1.0.0), whose likelihood is exactly the one the limit was made with.

Poisson-constrained bins are a ``shapesys``, Gaussian ones a ``staterror``, correlated shifts ``histosys``, the
signal's relative error a ``normsys``. The one difference: pyhf bends a ``normsys`` smoothly between -1 and +1
standard deviation, so limits with a large signal error agree to a few per mille.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...workspace import write_json
from .statement import Statement

#: Parameter of interest: the signal strength; 1 means ``Statement.cross_section``.
POI = "mu"


def pyhf_workspace(statement: Statement) -> dict[str, Any]:
    """The workspace as a JSON-ready dictionary: ``pyhf.Workspace(...)`` takes it as it is."""
    s = statement
    signal: list[dict[str, Any]] = [{"name": POI, "type": "normfactor", "data": None}]
    if s.signal_error > 0:
        ends = {"hi": 1 + s.signal_error, "lo": 1 / (1 + s.signal_error)}
        signal.append({"name": "signal_efficiency", "type": "normsys", "data": ends})
    background: list[dict[str, Any]] = []
    if (s.uncertainty > 0).any():
        kind = "shapesys" if s.constraint == "poisson" else "staterror"
        background.append({"name": f"{s.name}_bins", "type": kind, "data": s.uncertainty.tolist()})
    for name, mode in zip(s.mode_names, s.modes, strict=True):
        ends = {"hi_data": (s.background + mode).tolist(), "lo_data": (s.background - mode).tolist()}
        background.append({"name": name, "type": "histosys", "data": ends})
    samples = [
        {"name": "signal", "data": s.signal.tolist(), "modifiers": signal},
        {"name": "background", "data": s.background.tolist(), "modifiers": background},
    ]
    # mu-hat must not touch its upper bound: ten times all events that could be signal.
    top = 10.0 * (float(s.observed.sum() + s.background.sum()) + 10.0) / float(s.signal.sum())
    poi = {"name": POI, "inits": [min(1.0, 0.5 * top)], "bounds": [[0.0, top]]}
    measurement = {"name": "search", "config": {"poi": POI, "parameters": [poi]}}
    return {
        "version": "1.0.0",
        "channels": [{"name": s.name, "samples": samples}],
        "observations": [{"name": s.name, "data": s.observed.tolist()}],
        "measurements": [measurement],
    }


def write_pyhf(statement: Statement, path: Path) -> Path:
    """Write the workspace; returns the path."""
    write_json(path, pyhf_workspace(statement))
    return path
