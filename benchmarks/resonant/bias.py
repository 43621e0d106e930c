"""delta_sys of every reference on signal-free data (2411.00085), and CWoLa hunting's when a feature knows the mass.

    python benchmarks/resonant/bias.py [--minutes M] [--trials N] [--methods a,b] [--table]

The classifier learns one half of the reference against the data; the cut is set on the other half, in which no event is a copy of one that
was learnt from; counted are true background events of the window that nothing has seen. Methods that have a density instead of a sample
(`DENSITIES`): the cut is set on events drawn from it. One window (3.3-3.7 TeV), N trainings, each with its own split and seed. `cwola_dr`
is CWoLa hunting with the distance of the jets, which grows with m_jj, as a fifth feature: its verdict must be that the search is not
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
from elsewhere.events import Events, fold_of, identity_hash
from elsewhere.models.densities import sampled_events
from elsewhere.models.references.comparable import comparable
from elsewhere.workspace import read_json, write_json
from methods import METHODS, REFERENCES, trees
from problem import SET, WINDOW, Problem, identity_of
from settings import SETTINGS, TREES

CUTS = (1e-2, 1e-3)
#: In the order of their cost.
NAMES = (
    "idealised", "cwola", "cwola_dr", "salad", "anode", "cathode", "lacathode", "feta", "ranode", "curtainsf4f", "curtains",
)  # fmt: skip
#: Methods without a sample for a background, but with a density of it: how many events are drawn from that.
DENSITIES, DRAWN = ("anode", "lacathode", "ranode"), 240_000


def _counts(problem: Problem, cut: float, own: np.ndarray, scores: np.ndarray, held: Events) -> Passing:
    """Of the test's background with scores ``own`` and the predicted events ``held``."""
    background, _ = problem.test
    folds = [np.zeros(len(s), np.int64) for s in (own, scores)]
    # drawn events have no numbers of their own: their place is what breaks ties
    ties = [identity_hash(background.identity, problem.seed), np.arange(len(held), dtype=np.uint64)]
    return passing_counts(own, folds[0], ties[0], scores, folds[1], ties[1], cut, held.weight.astype(float))


def by_template(problem: Problem, name: str) -> tuple[Any, Events, np.ndarray]:
    """A classifier against one half of the reference ``name``, the other half, and its scores."""
    reference = REFERENCES[name](problem).fit(problem.data, WINDOW)
    template = reference.sample(None, np.random.default_rng([problem.trial, 2]))
    # by parent: a copy of what was taught is known to the classifier
    half = fold_of(template.identity, 2, problem.seed)
    taught, held = (template.take(half == k) for k in (0, 1))
    learnt = trees(problem, taught, comparable(problem.inside, reference))
    return learnt, held, learnt.score(held)


def by_density(problem: Problem, name: str) -> tuple[Any, Events, np.ndarray]:
    """The fitted method, events drawn from its own background density at the data's masses, and their scores."""
    learnt = METHODS[name](problem)
    seen = learnt.representation.transform(problem.inside)
    flow = learnt.inner.flow_ if name == "lacathode" else learnt.inner.background_
    rng = np.random.default_rng([problem.trial, 6])
    mass = rng.choice(seen.mass, DRAWN)
    held = sampled_events(seen.features, flow.sample(mass, rng), mass, float(len(seen)), rng)
    return learnt, held, learnt.inner.score(held)


def one(name: str, trial: int) -> dict[str, Any]:
    """A training: what passes each cut."""
    problem = Problem(trial, 0.0, "dr" if name.endswith("_dr") else "baseline")
    predicted = by_density if name in DENSITIES else by_template
    learnt, held, scores = predicted(problem, name.removesuffix("_dr"))
    own = learnt.score(problem.test[0])
    return {f"{cut:g}": asdict(_counts(problem, cut, own, scores, held)) for cut in CUTS}


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
