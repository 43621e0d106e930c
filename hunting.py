"""The hunt stage: spectra after the cuts of every window, the scan, its global p-value, and the truth's verdict on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .analysis.counting import p_of
from .analysis.hunt import HuntResult, hunt
from .analysis.hunt_bumps import bumps, in_words
from .analysis.metrics import roc, sic, thinned
from .analysis.report import plain
from .analysis.sculpting import sculpting
from .analysis.spectrum import Spectra, nested_spectra, passing
from .analysis.validity import validity
from .config import HuntSection
from .errors import FitError
from .events import Window, fold_of, identity_hash
from .resonance import SEARCH, Sample, fit_edges, held_out_signal, model_name, sample, variants
from .stages import Progress, Search
from .workspace import read_json, write_json


def all_cuts(section: HuntSection) -> tuple[float, ...]:
    """The cut efficiencies with 1 (no cut) first."""
    return (1.0, *(c for c in section.cuts if c < 1.0))


def hunt_inputs(search: Search) -> Any:
    """Settings of the hunt."""
    return search.config.hunt.model_dump() if search.config.hunt else None


def spectra_of(search: Search, data: Sample, variant: str) -> tuple[list[Window], list[Spectra]]:
    """The windows and their nested spectra, from the scores of each window's own model."""
    config = search.config
    if config.hunt is None:
        raise ValueError("a hunt is needed")
    events = data.table.events
    fold = fold_of(events.identity, config.folds, config.seed)
    tie = identity_hash(events.identity, config.seed)
    edges, cuts = fit_edges(config.hunt), all_cuts(config.hunt)
    windows = config.hunt.windows.windows()
    made = [
        nested_spectra(events.mass, data.table.scores[model_name(variant, w)], cuts, edges, fold, tie)
        for w in windows
    ]
    return windows, made


def in_range(data: Sample, section: HuntSection) -> np.ndarray:
    """Mask of the events in the fit range, shape (n,)."""
    return Window(section.mass_low, section.mass_high).contains(data.table.events.mass)


def nothing(why: str) -> dict[str, Any]:
    """The result of a hunt without events: a p-value is not 0 and not 1, it does not exist."""
    return {
        "overall": None,
        "best": None,
        "before": None,
        "peak": None,
        "results": [],
        "failed": [],
        "why": why,
    }


def run_hunt(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Hunt in every variant and write hunt.json."""
    config = search.config
    section = config.hunt
    if section is None:
        raise ValueError("a hunt is needed")
    names = variants(config)
    out: dict[str, Any] = {}
    for i, variant in enumerate(names):
        data = sample(search.space, config, variant, "scores")
        weight = data.table.events.weight
        if not np.all(weight == 1):
            raise FitError(
                "the hunt counts events: the data must have unit weights; leave out cross_section_pb"
            )
        if not in_range(data, section).any():
            out[variant] = nothing(f"no events in {section.mass_low:g}-{section.mass_high:g} GeV")
            continue
        windows, spectra = spectra_of(search, data, variant)
        result = hunt(
            windows, spectra, energy=section.collision_energy, signal_width=section.signal_width, toys=section.toys,
            seed=config.seed + i, threads=config.run.workers, background=section.background, guard=section.guard,
            statistic=section.statistic,
            progress=lambda d, t, i=i: progress(i * t + d, len(names) * t),
        )  # fmt: skip
        judged = {
            "validity": plain(validity(result.results)),
            "background": section.background,
            "guard": section.guard,
            "statistic": section.statistic,
        }
        if section.bumphunter:
            bumped, missed = bumps(
                result, section.collision_energy, section.signal_width, section.toys, config.seed + i, config.run.workers
            )  # fmt: skip
            judged |= {"bumphunter": plain(bumped), "failed": [*result.failed, *missed]}
        out[variant] = {**plain(result), **judged, **_truth(search, data, result, variant)}
    write_json(search.space.path("hunt.json"), out)
    return ["hunt.json"], {}


def _truth(search: Search, data: Sample, result: HuntResult, variant: str) -> dict[str, Any]:
    """What simulation knows: efficiency of the held-out signal, ROC and SIC in the best window, and the sculpting."""
    best = result.best
    name = model_name(variant, best.window)
    events, score = data.table.events, data.table.scores[name]
    out: dict[str, Any] = {"sculpting": plain(_sculpting(search, data, best.window, best.cut, score))}
    signal = held_out_signal(search.space, search.config)
    if signal is None:
        return out
    in_data = best.window.contains(events.mass) & ~data.is_signal
    in_signal = best.window.contains(signal.events.mass)
    if not in_signal.any():
        return out
    curve = roc(signal.scores[name][in_signal], score[in_data])
    gain = sic(curve)
    top = (
        np.searchsorted(curve.background, gain.at, side="right") - 1
    )  # so that the figure shows the quoted maximum
    keep = np.union1d(thinned(curve.signal), [top])
    out["roc"] = {
        "signal": curve.signal[keep].tolist(), "background": curve.background[keep].tolist(),
        "n_background": curve.n_background[keep].tolist(), "auc": curve.auc, "auc_error": curve.auc_error,
        "n_signal": curve.n_signal_total, "n_background_total": curve.n_background_total,
    }  # fmt: skip
    out["sic"] = {"best": gain.best, "best_error": gain.best_error, "at": gain.at, "floor": gain.floor}
    out["injected"] = int(data.is_signal.sum())
    out["injected_in_window"] = int((data.is_signal & best.window.contains(events.mass)).sum())
    return out


def _sculpting(search: Search, data: Sample, window: Window, cut: float, score: np.ndarray) -> Any:
    """Mass shape of background that passes and fails the best cut, outside the best window."""
    config = search.config
    section = config.hunt
    if section is None or cut >= 1:
        return None
    events = data.table.events
    edges = fit_edges(section)
    inside = (events.mass >= edges[0]) & (events.mass < edges[-1])
    fold = fold_of(events.identity, config.folds, config.seed)
    chosen = passing(score, cut, fold, inside, identity_hash(events.identity, config.seed))
    use = inside & ~data.is_signal & ~window.contains(events.mass)
    counts = [np.histogram(events.mass[m], edges)[0] for m in (chosen & use, ~chosen & use)]
    keep = counts[0] + counts[1] > 0
    return sculpting(counts[0][keep], counts[1][keep], config.seed)


def words(found: dict[str, Any]) -> tuple[str, str]:
    """(global p and Z as they must be quoted: bounds as bounds, verdict in plain words)."""
    overall, best = found["overall"], found["best"]
    if overall is None:
        return "no p-value", found["why"]
    centre = 0.5 * (best["window"]["low"] + best["window"]["high"])
    if overall["bound"]:
        quoted = (
            f"global p < {overall['p_high']:.2g} (Z > {overall['z_low']:.2f}), 0 of {overall['toys']:,} toys"
        )
    else:
        quoted = f"global p = {overall['p']:.3g} (Z = {overall['z']:.2f}), {overall['exceeding']:,} of {overall['toys']:,} toys"
    if overall["p_high"] < p_of(3.0):
        mass = found["peak"]["position"] if found["peak"] else centre
        verdict = f"excess at {mass:.0f} GeV"
    elif overall["bound"]:
        verdict = "too few toys to decide"
    else:
        verdict = "nothing found"
    return quoted, verdict


def _excess(best: dict[str, Any], window: str, cut: str) -> str:
    """Where it is and how large, in the terms of the statistic."""
    if best["mass"] is not None:
        return f"at {best['mass']:.0f} GeV {cut} (window {window}): {best['signal']:.0f} +- {best['signal_error']:.0f} signal events"
    return f"in {window} {cut}: {best['n']:.0f} events on {best['b'] * (1 + best['delta']):.1f}"


def summary(found: dict[str, Any]) -> list[str]:
    """A variant's result in three lines."""
    best, before = found["best"], found["before"]
    quoted, verdict = words(found)
    if best is None:
        return [f"{verdict}: {quoted}"]
    cut = f"at a cut of {100 * best['cut']:g} %" if best["cut"] < 1 else "without a cut"
    window = f"{best['window']['low']:g}-{best['window']['high']:g} GeV"
    lines = [
        f"{verdict}: {quoted}",
        f"largest excess {_excess(best, window, cut)}, local Z = {best['z']:.2f} (delta_sys {100 * best['delta']:+.1f} %)",
        f"before the cut, same window: {before['n']:.0f} on {before['b']:.0f} +- {before['b_error']:.0f}, "
        f"local Z = {before['z']:.2f}",
    ]
    if not found["validity"]["valid"]:
        lines.insert(0, found["validity"]["words"])
    lines += [in_words(one) for one in found.get("bumphunter", [])]
    if found["failed"]:
        lines.append(f"{len(found['failed'])} fits failed: {found['failed'][0]}")
    return lines


def outcome(search: Search) -> list[str]:
    """What the hunt found, in a few lines per variant."""
    found = read_json(search.space.path("hunt.json"))
    lines = []
    for variant, result in found.items():
        injected = result.get("injected")
        name = "with" if variant == SEARCH else "without"
        head = f"{name} {'injected signal' if variant != SEARCH or not injected else f'{injected} injected signal events'}"
        lines += [head, *(f"  {text}" for text in summary(result))]
    return lines
