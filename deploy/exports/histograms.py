"""A search's histograms in UHI JSON (read by hist, boost-histogram and ROOT's Python side) and as `hist.Hist`
objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...workspace import atomic
from .statement import Array, Statement

if TYPE_CHECKING:
    from hist import Hist


def histogram(statement: Statement, values: Array, variances: Array, label: str) -> Hist:
    """(bins,) values and variances on the statement's mass axis."""
    import hist
    import numpy as np

    axis = hist.axis.Variable(statement.edges, name="mass", label=f"mass [{statement.unit}]", flow=False)
    out = hist.Hist(axis, storage=hist.storage.Weight(), label=label)
    out[...] = np.stack([values, variances], axis=-1)
    return out


def histograms(statement: Statement) -> dict[str, Hist]:
    """data_obs (variance: the counts), signal (none), background (variance: its bin-by-bin uncertainty squared), and
    the background at +1 and -1 of every mode as background_NAMEUp, background_NAMEDown, which is how combine names
    them."""
    s = statement
    none = 0.0 * s.signal
    out = {
        "data_obs": histogram(s, s.observed, s.observed, "data"),
        "signal": histogram(s, s.signal, none, f"signal, {s.cross_section:g} fb"),
        "background": histogram(s, s.background, s.uncertainty**2, "background"),
    }
    for name, (up, down) in s.shifted.items():
        out[f"background_{name}Up"] = histogram(s, up, none, f"background, {name} +1")
        out[f"background_{name}Down"] = histogram(s, down, none, f"background, {name} -1")
    return out


def write_uhi(statement: Statement, path: Path) -> Path:
    """Write all histograms into one UHI JSON file, {name: histogram}; returns the path."""
    from uhi.io.json import default

    text = json.dumps(histograms(statement), default=default, indent=1)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n")
    return path
