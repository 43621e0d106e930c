"""How good every method of the resonant search is: max SIC as a fraction of the supervised classifier's.

    [ELSEWHERE_SET=small] python benchmarks/resonant/run.py [--minutes M] [--trials N] [--methods a,b] [--variants baseline]
                                                            [--device cuda] [--table]

Trainings are kept one by one, so a run that ends after M minutes goes on where it was; --table only prints what is there. Every
training has its own signal draw, split and seed; SIC is read at thresholds that keep at least 25 of the test's background events;
a method's value is the median. Results go to results/resonant_methods.json with the number of trainings behind each, those of a GPU to
resonant_methods_gpu.json.
"""

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, code_of, publish, table
from elsewhere.analysis.metrics import roc, sic
from elsewhere.errors import FitError
from elsewhere.models.device import Device, on
from elsewhere.samples.resonant import parts_of
from elsewhere.workspace import read_json, write_json
from features import make
from problem import S_OVER_B, SET, VARIANTS, Problem, identity_of, inclusive, simulated
from settings import SETTINGS, TREES

#: What a half-size set is asked for, as fractions of supervised: pass, target (2109.00546 scaled to the size).
WANTED = {
    "idealised": (0.60, 0.72), "cathode": (0.55, 0.67), "cwola": (0.39, 0.51), "anode": (0.19, 0.31),
    "curtains": (0.45, 0.60), "curtainsf4f": (0.45, 0.60), "salad": (0.45, 0.60), "feta": (0.45, 0.60),
    "lacathode": (0.45, 0.60), "ranode": (0.58, 0.72), "paws": (0.85, 0.95), "quak": (0.60, 0.80),
}  # fmt: skip
SCAN = tuple(S_OVER_B * f for f in (2.0, 0.5, 0.25))
#: A training: method, variant, S/B, trial.
Job = tuple[str, str, float, int]


def jobs(methods: list[str], trials: int) -> Iterator[Job]:
    """Most wanted first: a first training of everything, then more of each; the scan and the null last."""
    for trial in range(trials):
        for variant in VARIANTS:
            yield from (("supervised", variant, S_OVER_B, trial), ("idealised", variant, S_OVER_B, trial))
        yield from ((m, "baseline", S_OVER_B, trial) for m in methods if m not in ("supervised", "idealised"))
        yield ("idealised", "baseline", 0.0, trial)
        yield from (("idealised", "baseline", s, trial) for s in SCAN)
        for variant in ("shifted", "noise"):
            yield from (
                (m, variant, S_OVER_B, trial) for m in methods if m not in ("supervised", "idealised")
            )


def path_of(job: Job, device: Device = "cpu") -> Path:
    """Where the result of a training is kept; other events, other code of the benchmark, other settings, a GPU is another place."""
    method, variant, s_over_b, trial = job
    folder = Path(__file__).parent
    text = "".join(code_of(folder / name) for name in ("problem.py", "methods.py"))
    text += repr((SETTINGS[method], TREES)) + ("" if device == "cpu" else device)
    key = hashlib.sha256((text + identity_of(SET)).encode()).hexdigest()[:12]
    return CACHE / "resonant" / "trainings" / f"{method}-{variant}-{s_over_b:g}-{trial}-{key}.json"


def train(job: Job, device: Device = "cpu") -> None:
    """One training and its figures on the test events; ``device`` is the networks'."""
    import torch
    from methods import METHODS

    torch.set_num_threads(1)
    method, variant, s_over_b, trial = job
    problem, started = Problem(trial, s_over_b, variant), time.process_time()
    try:
        with on(device):
            score = METHODS[method](problem)
    except FitError as error:  # a training that diverges is a result too: it is counted, not repeated
        write_json(path_of(job, device), {"failed": str(error)})
        print(f"  {method} {variant} S/B {s_over_b:g} trial {trial}: FAILED, {error}", flush=True)
        return
    background, signal = problem.test
    curve = roc(score.score(signal), score.score(background))
    gain = sic(curve)
    found: dict[str, Any] = {"max_sic": gain.best, "at": gain.at, "auc": curve.auc, "n_background": len(background),
                             "n_signal": len(signal), "cpu_s": time.process_time() - started}  # fmt: skip
    for cut in (1e-1, 1e-2, 1e-3):
        at = int(np.searchsorted(curve.background, cut, side="right")) - 1
        found[f"sic_{cut:g}"] = float(curve.signal[at] / np.sqrt(curve.background[at])) if at >= 0 else None
    write_json(path_of(job, device), found)
    print(
        f"  {method} {variant} S/B {s_over_b:g} trial {trial}: max SIC {gain.best:.2f}, AUC {curve.auc:.3f}, "
        f"{found['cpu_s']:.0f} s",
        flush=True,
    )


def run(
    methods: list[str], variants: list[str], trials: int, minutes: float, workers: int, device: Device
) -> None:
    """Train what is missing until the time is over; a training that has begun is finished."""
    end = time.monotonic() + 60 * minutes
    todo = iter([j for j in jobs(methods, trials) if j[1] in variants and not path_of(j, device).exists()])
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=8) as pool:
        waiting: list[Any] = []
        while True:
            for one in [w for w in waiting if w.ready()]:
                one.get()  # raises what the training raised
                waiting.remove(one)
            while len(waiting) < workers and time.monotonic() < end and (job := next(todo, None)):
                waiting.append(pool.apply_async(train, (job, device)))
            if not waiting:
                return
            time.sleep(0.2)


def collect(
    methods: list[str], trials: int, device: Device
) -> dict[tuple[str, str, float], list[dict[str, Any]]]:
    """The finished trainings by (method, variant, S/B)."""
    out: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for job in jobs(methods, trials):
        if path_of(job, device).exists():
            out.setdefault(job[:3], []).append(read_json(path_of(job, device)))
    return out


def figures(found: dict[tuple[str, str, float], list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over trainings, ratios to the supervised classifier on the same features, and how many trainings each has."""
    good = {key: [one["max_sic"] for one in many if "failed" not in one] for key, many in found.items()}
    best = {key: values for key, values in good.items() if values}
    failed = {f"{m}_{v}_{s:g}": sum("failed" in one for one in many) for (m, v, s), many in found.items()}
    out: dict[str, Any] = {"set": SET, "s_over_b": S_OVER_B, "failed": {k: n for k, n in failed.items() if n}}
    for (method, variant, s_over_b), values in best.items():
        ceiling = best.get(("supervised", variant, S_OVER_B))
        suffix = "" if variant == "baseline" else f"_{variant}"
        if s_over_b == 0.0:
            out["null_max_sic"], out["null_trainings"] = max(values), len(values)
        elif s_over_b != S_OVER_B:
            out[f"sic_{method}_at_{s_over_b:g}"] = float(np.median(values))
        elif method == "supervised":
            out[f"supervised_max_sic{suffix}"] = float(np.median(values))
        elif ceiling:
            out[f"r_{method}{suffix}"] = float(np.median(values) / np.median(ceiling))
            out[f"n_{method}{suffix}"] = len(values)
    return out


def main() -> None:
    """Run and print."""
    from methods import METHODS

    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--variants", default="baseline,shifted,noise")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    methods = asked.methods.split(",")
    # here, not by two trainings at once
    used = [p for p in parts_of(SET) if p.name not in ("three_prong", "inclusive" if SET == "half" else "")]
    used += [inclusive()] if SET == "half" else []
    used += simulated() if {"salad", "feta"} & set(methods) else []
    make(used, asked.workers, minutes=float("inf"))
    if not asked.table:
        run(methods, asked.variants.split(","), asked.trials, asked.minutes, asked.workers, asked.device)
    result = figures(collect(methods, asked.trials, asked.device))
    wanted = {f"r_{m}": f">= {low:g}, target {aim:g}" for m, (low, aim) in WANTED.items()}
    wanted |= {"null_max_sic": "< 2", "r_cwola_shifted": "< 0.25"}
    table([(k, v, wanted.get(k, "")) for k, v in result.items()])
    name = "resonant_methods" if SET == "half" else f"resonant_methods_{SET}"
    publish(name if asked.device == "cpu" else f"{name}_gpu", result)


if __name__ == "__main__":
    main()
