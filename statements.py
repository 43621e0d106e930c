"""What a hunt hands over: limits in signal events window by window, and the likelihood for other people's programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from .analysis.hunt_backgrounds import Estimator
from .analysis.likelihood import BinnedModel
from .analysis.limits import Limit, n95
from .analysis.report import plain
from .analysis.window_bias import corrected_background
from .config import HuntSection
from .deploy.exports.statement import Scan, Statement
from .deploy.exports.write import write_exports
from .errors import FitError
from .events import Window
from .stages import Progress, Search
from .workspace import read_json, write_json

#: Share of a fit's variance that its smallest mode must have to be written down.
NEGLIGIBLE = 1e-9


def window_limit(row: dict[str, Any]) -> Limit:
    """95 % CLs limit on the signal events that pass a window's cut, with the bias inside; raises `FitError` without one."""
    b, error = corrected_background(row["b"], row["b_error"], row["delta"], row["delta_error"])
    if not b > 0:
        raise FitError("the fit expects no background, so there is no limit")
    return n95(row["n"], b, error)


def limits_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The limits of a hunt's windows and cuts, and those that have none with the reason."""
    found, missing = [], []
    for row in rows:
        where = {"window": row["window"], "cut": row["cut"]}
        try:
            limit = window_limit(row)
        except FitError as error:
            missing.append({**where, "why": str(error)})
        else:
            found.append(plain({**where, "observed": limit.observed, "expected": limit.expected}))
    return {"limits": found, "missing": missing}


def binned_model(
    before: dict[str, Any], best: dict[str, Any], edges: np.ndarray, section: HuntSection, mass: float
) -> BinnedModel:
    """The best window's spectrum as a likelihood: its background with all correlations, delta_sys as one more mode, and a
    Gaussian signal of one event at ``mass`` GeV."""
    counts = np.array([before["counts"], best["counts"]], dtype=np.float64)
    window = Window(best["window"]["low"], best["window"]["high"])
    inside = window.contains(0.5 * (edges[1:] + edges[:-1]))
    estimate = Estimator(section.background, section.collision_energy, section.signal_width, section.guard)
    cut = int(best["cut"] < 1)
    fit = estimate(counts, cut, edges, inside)
    value, vector = np.linalg.eigh(fit.covariance)
    kept = value > NEGLIGIBLE * value.max()
    modes = (vector[:, kept] * np.sqrt(value[kept])).T
    # The bias is measured inside windows; the fit beside this one has it already.
    scale = np.where(inside, max(1.0 + best["delta"], 1e-3), 1.0)
    bias = np.where(inside, np.hypot(best["delta"], best["delta_error"]) * fit.expected, 0.0)
    every = np.vstack([modes * scale, bias]) if bias.any() else modes * scale
    signal = np.diff(stats.norm.cdf(edges, mass, section.signal_width * mass))
    return BinnedModel(signal, fit.expected * scale, np.zeros(len(fit.expected)), modes=every)


def export(search: Search, variant: str, found: dict[str, Any], section: HuntSection) -> None:
    """Write one variant's likelihood and scan into exports/VARIANT."""
    best, edges = found["best"], np.array(found["edges"])
    centre = 0.5 * (best["window"]["low"] + best["window"]["high"])
    mass = found["peak"]["position"] if found["peak"] else centre
    model = binned_model(found["before"], best, edges, section, mass)
    rows = [r for r in found["results"] if r["cut"] == best["cut"]]
    overall = found["overall"]
    scan = Scan(
        np.array([0.5 * (r["window"]["low"] + r["window"]["high"]) for r in rows]),
        np.array([r["p_local"] for r in rows]), overall["p"], overall["p_low"], overall["p_high"], overall["toys"],
    )  # fmt: skip
    title = f"{search.config.name}: {best['window']['low']:g}-{best['window']['high']:g} GeV at a cut of {best['cut']:g}, signal of one event"
    statement = Statement.of(
        variant, title, edges, np.array(best["counts"]), model, energy=section.collision_energy, scan=scan
    )
    write_exports(statement, search.space.path("exports", variant))


def run_limits(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Limits of every window and cut, and the exports of every variant with a result."""
    section = search.config.hunt
    if section is None:
        raise ValueError("limits need a hunt")
    out: dict[str, Any] = {}
    hunts = read_json(search.space.path("hunt.json"))
    for i, (variant, found) in enumerate(hunts.items()):
        out[variant] = limits_of(found["results"])
        if found["best"] is not None:
            export(search, variant, found, section)
        progress(i + 1, len(hunts))
    write_json(search.space.path("limits.json"), out)
    return ["limits.json"], {"limits": sum(len(one["limits"]) for one in out.values())}
