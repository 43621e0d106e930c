"""Methods with a simulated signal grid (PAWS, GBI, QUAK) and Tag N' Train on the common problem, set half.

    python benchmarks/resonant/priors.py [--minutes M] [--trials N] [--table]

The grid is W' (3.5 TeV) to X(qq) Y(qq), m_X and m_Y from 50 to 600 GeV by 50, as many of its points as are on disk; heavier jet first
as published (2405.08889), every event with its two masses in either order; three-prong decays are left out. The grid's classifier is
trained once, on background that is in no data, and kept. Then at each S/B the fit of (m_X, m_Y, mu), and SIC on the test events beside
the idealised weak classifier's of the same trial. Fewer starts and a shorter patience than published (`FIT`): the lowest point of the
landscape over the grid is a start too. Variants: `noise` adds fifty normal columns, `shifted` a tenth of the hunted mass to both jet
masses, in data and grid alike. Results: results/resonant_priors.json. Trainings are kept one by one, under the digest of the code that
made them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, code_of, publish, table
from elsewhere.analysis.metrics import roc, sic
from elsewhere.events import Events
from elsewhere.models.arrays import read_arrays, write_arrays
from elsewhere.models.networks import ratio
from elsewhere.models.networks.ratio import PriorGrid
from elsewhere.models.references.outside import Outside
from elsewhere.models.scores import (
    mixture_density,
    paws,
    prior_fit,
    prior_global,
    prior_problem,
    quak,
    tag_n_train,
    weak_trees,
)
from elsewhere.samples.resonant import Part, parts_of
from elsewhere.workspace import atomic, read_json, write_json
from features import missing, read_part
from methods import supervised, trees
from problem import (
    S_OVER_B,
    SEED,
    SET,
    SHIFT,
    WIDER,
    WINDOW,
    Problem,
    heavy_first,
    identity_of,
    in_window,
    noise,
)

FOLDER = CACHE / "resonant" / "priors"
#: Masses of the hidden signal's daughters, heavier first, GeV.
TRUTH = np.array([500.0, 100.0])
STRENGTHS = (0.003, 0.0, 0.001, 0.0005, S_OVER_B)
#: Of Paws and Gbi; published are 10 starts, patience 20, 20,000 events of calibration at every step.
FIT: dict[str, Any] = {"starts": 2, "fit_patience": 10, "calibration": 5000}
#: Thetas of each background event of the grid's classifier; chosen by its validation loss (1: .246, 8: .240), SIC of one trial in sight.
DRAWS = 16
#: Of the p-value that counts the trials in the masses.
TOYS = 500
#: The modules that decide a method's figures.
SOURCES: dict[str, Sequence[Any]] = {
    "paws": (ratio, paws, prior_fit, prior_problem), "gbi": (ratio, paws, prior_fit, prior_problem), "grid": (ratio,),
    "global": (ratio, prior_problem, prior_global),
    "quak": (quak, mixture_density), "tnt": (tag_n_train,), "idealised": (weak_trees,), "supervised": (weak_trees,),
}  # fmt: skip
#: (method, variant, S/B, trial)
Job = tuple[str, str, float, int]


def shifted(events: Events, more: np.ndarray) -> Events:
    """Both mass columns plus a tenth of the hunted mass, heavier jet first."""
    found = heavy_first(events, more)
    x = found.x.copy()
    x[:, [0, 3]] += (SHIFT * found.mass[:, None]).astype(np.float32)
    return replace(found, x=x, features=replace(found.features, name="dijet/paws_shifted"))


WIDER |= {"paws_noise": lambda events, more: noise(heavy_first(events, more)), "paws_shifted": shifted}


def kept(name: str, variant: str, ending: str) -> Path:
    """Where a training is kept: other code of the method or other events are another place."""
    here = Path(__file__).parent
    files = [Path(str(module.__file__)) for module in SOURCES[name]] + [here / "problem.py"]
    files += [here / "methods.py", here / "settings.py"] if name in ("supervised", "idealised", "tnt") else []
    settings = f"{FIT} {DRAWS} {len(two_prong())}" if ratio in SOURCES[name] else ""
    text = "".join(map(code_of, files)) + identity_of(SET) + settings
    return FOLDER / f"{name}-{variant}-{hashlib.sha256(text.encode()).hexdigest()[:10]}-{ending}"


def two_prong() -> list[Part]:
    """The grid's points whose tables are on disk; 225 parts of set paws are made by features.py."""
    points = [p for p in parts_of("paws") if p.name.startswith("paws_qq_") and p.meaning == "grid point"]
    there = [p for p in points if not missing([p])]
    if len(there) < 20:
        raise SystemExit(
            f"{len(there)} of {len(points)} points of the grid are there; make them: features.py paws --parts 'paws_qq_*'"
        )
    return there


@cache
def signals(name: str, variant: str) -> Events:
    """A grid point's events in the window."""
    part = next(p for p in two_prong() if p.name == name)
    return in_window(WIDER[variant](*read_part(part, SEED)))


@cache
def grid(variant: str) -> PriorGrid:
    """Signals in the window with (m, m') of their two jets' parents in either order, and background of its own."""
    events, theta = [], []
    for part in two_prong():
        found = signals(part.name, variant)
        masses = [float(m) for m in part.name.split("_")[2:]]
        swap = np.arange(len(found)) % 2 == 0
        events.append(found)
        theta.append(np.where(swap[:, None], masses[::-1], masses))
    background, _ = Problem(0, 0.0, variant).supervised
    return PriorGrid(Events.concatenate(events), np.concatenate(theta), background)


@cache
def classifier(variant: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """State of PAWS with the trained f(x; theta), kept for the points that it was learnt from."""
    path = kept("grid", variant, "f.safetensors")
    if not path.exists():
        started = time.process_time()
        info, arrays, _ = paws.Paws(grids=(grid(variant),), theta_draws=DRAWS).pretrain().state()
        with atomic(path) as temporary:
            write_arrays(temporary, arrays, {**info, "cpu_s": time.process_time() - started})
    return read_arrays(path)


def prior(method: Any, variant: str) -> Any:
    """PAWS or GBI with the grid's classifier."""
    known = paws.Paws().restore(*classifier(variant), {})
    return replace(method, networks_=known.networks_, points_=known.points_)


def measured(problem: Problem, score: Any) -> float:
    """Max SIC on the test events."""
    background, signal = problem.test
    return sic(roc(score.score(signal), score.score(background))).best


def prior_figures(problem: Problem, method: Any) -> dict[str, Any]:
    """A fit of PAWS or GBI to data against true background, and how far it is from the truth."""
    fitted = prior(method, problem.variant).fit(problem.template, problem.inside)
    found = np.sort(fitted.best_["theta"])[::-1]
    hidden = len(in_window(problem.hidden))
    low, high = fitted.interval(3.84)
    return {"max_sic": measured(problem, fitted), "mass": found.tolist(), "mu": fitted.best_["mu"], "z": fitted.z,
            "mass_error_gev": float(np.abs(found - TRUTH).max()), "mu_low": low, "mu_high": high,
            "mu_true": hidden / len(problem.inside)}  # fmt: skip


def quak_figures(problem: Problem) -> dict[str, Any]:
    """QUAK with the grid's point of the signal, with a neighbour, and with no prior."""
    out = {}
    for name, masses, combine in (
        ("max_sic", (100, 500), "ratio"), ("max_sic_neighbour", (100, 400), "ratio"),
        ("max_sic_background", (100, 500), "background"),
    ):  # fmt: skip
        signal = signals("paws_qq_{}_{}".format(*masses), problem.variant)
        score = quak.Quak(priors=(signal,), combine=combine, seed=problem.seed)
        out[name] = measured(problem, score.fit(problem.template, problem.inside))
    return out


def tag_figures(problem: Problem) -> dict[str, Any]:
    """Tag N' Train on the two jets, taught by the events beside the window and in it; its first taggers alone."""
    beside = Outside().fit(problem.data, WINDOW).sample(None, np.random.default_rng([problem.trial, 3]))
    fitted = tag_n_train.TagNTrain(objects=("_h1", "_h2"), seed=problem.seed).fit(beside, problem.inside)
    background, signal = (fitted.object_scores(e, of="taggers").prod(axis=1) for e in problem.test)
    return {"max_sic": measured(problem, fitted), "max_sic_taggers": sic(roc(signal, background)).best}


def one(job: Job) -> dict[str, Any]:
    """A training of a method."""
    name, variant, s_over_b, trial = job
    problem = Problem(trial, s_over_b, variant)
    if name in ("paws", "gbi"):
        method = paws.Paws if name == "paws" else paws.Gbi
        return prior_figures(problem, method(seed=problem.seed, **FIT))
    if name == "global":
        known = prior(paws.Paws(seed=problem.seed), variant)
        return {"global_p": prior_global.global_p(known, problem.template, problem.inside, TOYS)}
    if name in ("quak", "tnt"):
        return quak_figures(problem) if name == "quak" else tag_figures(problem)
    score = supervised(problem) if name == "supervised" else trees(problem, problem.template, problem.inside)
    return {"max_sic": measured(problem, score)}


def jobs(trials: int) -> list[Job]:
    """Most wanted first."""
    out: list[Job] = []
    for trial in range(trials):
        for s in STRENGTHS:
            out += [(m, "paws", s, trial) for m in ("paws", "global")]
            out += [("idealised", "paws", s, trial)] if s else []
        out += [(m, "paws", S_OVER_B, trial) for m in ("supervised", "quak", "tnt")]
        out += [("gbi", "paws", s, trial) for s in (0.003, 0.0)]
    for variant in ("paws_shifted", "paws_noise"):
        # Tag N' Train reads no column that belongs to neither jet.
        names = ("supervised", "paws", "quak") + (("tnt",) if variant == "paws_shifted" else ())
        out += [(m, variant, S_OVER_B, 0) for m in names]
    return out


Found = dict[tuple[str, str, float], dict[int, dict[str, Any]]]


def run(trials: int, minutes: float) -> Found:
    """Train what is missing until the time is over; everything that is there, by method, variant, S/B, then trial."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    found: Found = {}
    for job in jobs(trials):
        name, variant, s_over_b, trial = job
        path = kept(name, variant, f"{s_over_b:g}-{trial}.json")
        if not path.exists() and time.monotonic() < end:
            started = time.process_time()
            write_json(path, {**one(job), "cpu_s": time.process_time() - started})
            print(f"  {name} {variant} S/B {s_over_b:g} trial {trial}: {read_json(path)}", flush=True)
        if path.exists():
            found.setdefault(job[:3], {})[trial] = read_json(path)
    return found


def median(found: Found, key: tuple[str, str, float], what: str = "max_sic") -> float | None:
    """Over trainings; None where there are none."""
    values = [r[what] for r in found.get(key, {}).values() if what in r]
    return float(np.median(values)) if values else None


def ratios(found: Found) -> dict[str, Any]:
    """R of each method against the supervised classifier on the same features, and how many trainings it is of."""
    out: dict[str, Any] = {}
    for (name, variant, s), trainings in found.items():
        ceiling = median(found, ("supervised", variant, S_OVER_B))
        if s != S_OVER_B or not ceiling:
            continue
        suffix = variant.removeprefix("paws")
        if name == "supervised":
            out[f"supervised_max_sic_paws_features{suffix}"] = ceiling
            continue
        out[f"n_{name}{suffix}"] = len(trainings)
        for what in ("max_sic", "max_sic_neighbour", "max_sic_background", "max_sic_taggers"):
            value = median(found, (name, variant, s), what)
            if value:
                out[f"r_{name}{what.removeprefix('max_sic')}{suffix}"] = value / ceiling
    noisy, tagged = (
        median(found, (*key, S_OVER_B)) for key in (("supervised", "paws_noise"), ("tnt", "paws"))
    )
    if noisy and tagged:  # it reads the columns of the jets, and noise is no jet's
        out["r_tnt_noise"] = tagged / noisy
    return out


def fits(found: Found, name: str) -> dict[str, Any]:
    """Masses and mu of the fits of PAWS or GBI at S/B 0.3 %, and without signal."""
    out: dict[str, Any] = {}
    at = list(found.get((name, "paws", 0.003), {}).values())
    if at:
        out[f"{name}_mass_error_gev"] = float(np.median([r["mass_error_gev"] for r in at]))
        out[f"{name}_mu_ratio"] = float(np.median([r["mu"] / r["mu_true"] for r in at]))
        out[f"{name}_mu_in_interval"] = sum(r["mu_low"] <= r["mu_true"] <= r["mu_high"] for r in at)
        out[f"n_{name}_0.003"] = len(at)
    trials = found.get((name, "paws", 0.0), {})
    null, p = list(trials.values()), found.get(("global", "paws", 0.0), {})
    if null:
        out[f"{name}_null_mu_low_one_theta"] = max(r["mu_low"] for r in null)
        if trials.keys() <= p.keys():
            low = [
                prior_global.global_interval((r["mu_low"], r["mu_high"]), p[t]["global_p"])[0]
                for t, r in trials.items()
            ]
            out[f"{name}_null_mu_low"] = max(low)
        out[f"{name}_null_mu"] = max(r["mu"] for r in null)
        out[f"{name}_null_local_z"] = max(r["z"] for r in null)
        out[f"n_{name}_null"] = len(null)
    return out


def figures(found: Found) -> dict[str, Any]:
    """The published keys; SIC against the idealised weak classifier is the median of the trials' ratios."""
    out = {"grid_points": len(two_prong()), **fits(found, "paws"), **fits(found, "gbi"), **ratios(found)}
    null = found.get(("global", "paws", 0.0), {})
    if null:
        out["paws_null_global_p"] = min(r["global_p"] for r in null.values())
    for s in STRENGTHS:
        mine, other = (found.get((name, "paws", s), {}) for name in ("paws", "idealised"))
        both = [mine[t]["max_sic"] / other[t]["max_sic"] for t in mine if t in other]
        if both:
            out[f"paws_over_idealised_{s:g}"] = float(np.median(both))
            out[f"paws_sic_{s:g}"] = median(found, ("paws", "paws", s))
            out[f"paws_global_p_{s:g}"] = median(found, ("global", "paws", s), "global_p")
            out[f"paws_mass_error_gev_{s:g}"] = median(found, ("paws", "paws", s), "mass_error_gev")
    return out


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if SET != "half":
        raise SystemExit(f"found set {SET}; the grid belongs to set half: unset ELSEWHERE_SET")
    import torch

    torch.set_num_threads(1)
    result = figures(run(asked.trials, 0.0 if asked.table else asked.minutes))
    wanted = {"r_paws": ">= 0.85", "r_quak": ">= 0.6", "paws_mass_error_gev": "<= 50", "paws_mu_ratio": "0.67 to 1.5",
              "paws_null_mu_low": "0", "gbi_null_mu_low": "0", "paws_null_global_p": "> 0.05", "paws_over_idealised_0.001": ">= 2",
              "paws_over_idealised_0.0005": ">= 2"}  # fmt: skip
    table([(k, v, wanted.get(k, "")) for k, v in result.items()])
    publish("resonant_priors", result)


if __name__ == "__main__":
    main()
