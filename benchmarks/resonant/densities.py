"""How well a flow learnt beside the window knows the background inside it: likelihood of true events, and whether trees see a difference.

    [ELSEWHERE_SET=small] python benchmarks/resonant/densities.py [--trials N]

No signal. `ln_p` is the mean log density of background events of the window that no flow has seen (features in GeV and without unit);
`auc` is that of trees that tell drawn events from such ones, half of each to learn from, 0.5 for a perfect density. The flow of the
other benchmarks (`settings.FLOW`) beside CATHODE's published network at a constant rate. Results: results/densities.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import publish, table
from elsewhere.analysis.metrics import roc
from elsewhere.errors import FitError
from elsewhere.events import Events
from elsewhere.models.references.cathode import Cathode
from elsewhere.models.scores.weak_trees import WeakTrees
from problem import WINDOW, Problem
from settings import FLOW

#: The published network and its number of epochs would take an hour of a core; these are larger steps, fewer of them.
CONSTANT: dict[str, Any] = {"kind": "maf", "batch": 2048, "learning_rate": 8e-4, "epochs": 20, "best": 5}
SETTINGS = {
    "nsf_cosine": FLOW,
    "maf_constant": CONSTANT,
    "maf_cosine": {**FLOW, "kind": "maf", "transforms": 0, "epochs": 12},
}


def measured(settings: dict[str, Any], trial: int) -> dict[str, float]:
    """One training; {} of a training that diverges, which is counted."""
    problem, started = Problem(trial, 0.0), time.process_time()
    true = Events.concatenate([problem.template, problem.test[0]])
    try:
        flow = Cathode(seed=problem.seed, **settings).fit(problem.data, WINDOW)
        spent = time.process_time() - started
        drawn = flow.sample(len(true), np.random.default_rng([trial, 2]))
    except FitError:
        return {}
    ln_p = flow.log_density(true)
    first, second = ([e.take(slice(i, None, 2)) for e in (true, drawn)] for i in (0, 1))
    told = WeakTrees(members=1, seed=trial).fit(*first)
    auc = roc(told.score(second[1]), told.score(second[0])).auc
    return {
        "ln_p": float(ln_p[np.isfinite(ln_p)].mean()),
        "outside": int(np.isinf(ln_p).sum()),
        "auc": auc,
        "cpu_s": spent,
    }


def main() -> None:
    """Train and print."""
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"trials": asked.trials}
    for name, settings in SETTINGS.items():
        found = [one for trial in range(asked.trials) if (one := measured(settings, trial))]
        figures[f"{name}_diverged"] = asked.trials - len(found)
        for key in found[0] if found else ():
            figures[f"{name}_{key}"] = float(np.mean([one[key] for one in found]))
        print(f"  {name}: {found}", flush=True)
    table([(k, v, "0.5" if k.endswith("auc") else "") for k, v in figures.items()])
    publish("densities", figures)


if __name__ == "__main__":
    main()
