"""delta_sys of every reference on signal-free data (2411.00085), and CWoLa hunting's when a feature knows the mass.

    python benchmarks/resonant/bias.py [--minutes M] [--trials N] [--methods a,b] [--table]

The classifier learns one half of the reference against the data; the cut is set on the other half; counted are true background
events of the window that nothing has seen. One window (3.3-3.7 TeV), N trainings, each with its own split and seed. `cwola_dr` is
CWoLa hunting with the distance of the jets, which grows with m_jj, as a fifth feature: its verdict must be that the search is not
valid. Results: results/resonant_bias.json. Trainings are kept one by one, under the digest of the benchmark's code.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, code_of, publish, table
from elsewhere.analysis.delta_sys import Passing, measure, passing_counts, verdict
from elsewhere.events import Events, identity_hash
from elsewhere.models.references.comparable import comparable
from elsewhere.workspace import read_json, write_json
from methods import REFERENCES, trees
from problem import SET, WINDOW, Problem, identity_of
from settings import SETTINGS, TREES

CUTS = (1e-2, 1e-3)
#: In the order of their cost.
NAMES = ("idealised", "cwola", "cwola_dr", "salad", "cathode", "curtainsf4f", "feta", "curtains")


def _counts(problem: Problem, cut: float, learnt: Any, held: Events) -> Passing:
    background, _ = problem.test
    scores = [learnt.score(sample) for sample in (background, held)]
    folds = [np.zeros(len(s), np.int64) for s in scores]
    # drawn events have no numbers of their own: their place is what breaks ties
    ties = [identity_hash(background.identity, problem.seed), np.arange(len(held), dtype=np.uint64)]
    return passing_counts(
        scores[0], folds[0], ties[0], scores[1], folds[1], ties[1], cut, held.weight.astype(float)
    )


def one(name: str, trial: int) -> dict[str, Any]:
    """A training: what passes each cut."""
    problem = Problem(trial, 0.0, "dr" if name.endswith("_dr") else "baseline")
    reference = REFERENCES[name.removesuffix("_dr")](problem).fit(problem.data, WINDOW)
    template = reference.sample(None, np.random.default_rng([problem.trial, 2]))
    order = np.random.default_rng([problem.trial, 4]).permutation(len(template))
    taught, held = (template.take(half) for half in np.array_split(order, 2))
    learnt = trees(problem, taught, comparable(problem.inside, reference))
    return {f"{cut:g}": asdict(_counts(problem, cut, learnt, held)) for cut in CUTS}


def path_of(name: str, trial: int) -> Path:
    """Where a training is kept; other events, other code of the benchmark or other settings of the method are another place."""
    here = Path(__file__).parent
    text = "".join(code_of(here / part) for part in ("problem.py", "methods.py", "bias.py"))
    text += repr((SETTINGS[name.removesuffix("_dr")], TREES)) + identity_of(SET)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return CACHE / "resonant" / "bias" / f"{name}-{trial}-{key}.json"


def run(names: list[str], trials: int, minutes: float) -> dict[str, list[dict[str, Any]]]:
    """Train what is missing until the time is over; everything that is there."""
    end, found = time.monotonic() + 60 * minutes, {}
    for trial in range(trials):
        for name in names:
            path = path_of(name, trial)
            if not path.exists() and time.monotonic() < end:
                path.parent.mkdir(parents=True, exist_ok=True)
                started = time.process_time()
                write_json(path, one(name, trial))
                shown = {c: round(Passing(**v).delta, 3) for c, v in read_json(path).items()}
                print(f"  {name} trial {trial}: {shown}, {time.process_time() - started:.0f} s", flush=True)
            if path.exists():
                found.setdefault(name, []).append(read_json(path))
    return found


def figures(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """delta_sys with its error and the verdict, per reference and cut."""
    out: dict[str, Any] = {}
    for name, trainings in found.items():
        out[f"delta_sys_{name}_trainings"] = len(trainings)
        for cut in CUTS if len(trainings) > 1 else ():
            bias = measure(cut, [WINDOW], [[Passing(**t[f"{cut:g}"]) for t in trainings]])
            out[f"delta_sys_{name}_{cut:g}"], out[f"delta_sys_{name}_{cut:g}_error"] = bias.value, bias.error
            out[f"verdict_{name}_{cut:g}"] = verdict(bias).words
    return out


def main() -> None:
    """Run and print."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--methods", default=",".join(NAMES))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = figures(run(asked.methods.split(","), asked.trials, 0.0 if asked.table else asked.minutes))
    wanted = {
        "delta_sys_cathode_0.01": "within 0.10",
        "delta_sys_cathode_0.001": "within 0.25",
        "delta_sys_cwola_dr_0.01": "> 0.5",
    }
    table([(k, v, wanted.get(k, "")) for k, v in result.items()])
    publish("resonant_bias", result)


if __name__ == "__main__":
    main()
