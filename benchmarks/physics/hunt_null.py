"""How often a hunt's global p-value of background alone is at most 0.05, with each background estimate.

    python benchmarks/physics/hunt_null.py [--experiments N] [--seed S]

Three windows and two cuts of falling spectra with 100,000 events before the cut and 1,000 after it; 19 toys each, so that
p = (k + 1) / 20 and an exact test gives 1/20. The pulls are those of all windows after the cut, with delta_sys. The dijet fit is asked
too where the classifier is biased: by 20 % in every window, and by a Gaussian 10 % of each window's own. The Gaussian process
gets a quarter of the experiments. `fit` and `fit_biased` are signal fits instead of the windows' counts, without and with the common
bias. Twenty minutes of a core; results/hunt_null.json.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

import numpy as np
from common import publish, table
from elsewhere.analysis.counting import clopper_pearson
from elsewhere.analysis.hunt import Statistic, hunt
from elsewhere.analysis.hunt_backgrounds import Kind
from elsewhere.analysis.spectrum import Spectra
from elsewhere.events import Window
from fits import EDGES, ENERGY, truth

#: Whole bins near 2.9, 3.5 and 4.1 TeV.
WINDOWS = [Window(float(EDGES[i]), float(EDGES[i + 3])) for i in (14, 18, 22)]
CUTS, PASSING, FAILING, TOYS = (1.0, 0.01), 1e3, 99e3, 19
#: Biases of the classifier: common to all windows, and the spread of each window's own.
BIASED = {"biased": (0.2, 0.0), "biased_apart": (0.0, 0.1)}
#: The same, common, where the statistic is a signal fit.
FITTED = {"fit": 0.0, "fit_biased": 0.2}


def spectra(rng: np.random.Generator, common: float, own: float) -> list[Spectra]:
    """Background of one experiment: every window has events of its own, as from its own classifier, whose relative bias
    inside is ``common`` to all windows plus one of each with spread ``own``."""
    out, centre = [], 0.5 * (EDGES[1:] + EDGES[:-1])
    for window in WINDOWS:
        bias = common + own * rng.standard_normal() if own else common
        tight = rng.poisson(truth(PASSING) * np.where(window.contains(centre), 1 + bias, 1.0)).astype(float)
        rest = rng.poisson(truth(FAILING)).astype(float)
        out.append(Spectra(EDGES, CUTS, np.stack([tight + rest, tight])))
    return out


def null(
    kind: Kind, experiments: int, seed: int, name: str = "", common: float = 0.0, own: float = 0.0,
    statistic: Statistic = "count",
) -> dict[str, Any]:  # fmt: skip
    """Share of p <= 0.05 with its 68 % interval, and mean and deviation of Z; ``common``, ``own`` as in `spectra`."""
    started, p, z = time.process_time(), [], []
    for i in range(experiments):
        made = spectra(np.random.default_rng([seed, i]), common, own)
        found = hunt(
            WINDOWS, made, energy=ENERGY, signal_width=0.035, toys=TOYS, seed=i, background=kind, statistic=statistic
        )  # fmt: skip
        p.append(found.overall.p)
        z += [r.z for r in found.results if r.cut < 1]
    low = sum(one <= 0.05 + 1e-9 for one in p)
    interval, name = clopper_pearson(low, experiments), name or kind
    return {
        f"null_{name}": low / experiments, f"null_{name}_low": interval[0], f"null_{name}_high": interval[1],
        f"z_mean_{name}": float(np.mean(z)), f"z_sd_{name}": float(np.std(z)), f"cpu_s_{name}": time.process_time() - started,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiments", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    figures: dict[str, Any] = {"experiments": asked.experiments}
    for kind in get_args(Kind):
        many = asked.experiments // 4 if kind == "gaussian_process" else asked.experiments
        figures |= null(kind, many, asked.seed)
    for name, biases in BIASED.items():
        figures |= null("dijet", asked.experiments, asked.seed, name, *biases)
    for name, common in FITTED.items():
        figures |= null("dijet", asked.experiments, asked.seed, name, common, statistic="fit")
    wanted = {f"null_{name}": "0.025 to 0.08" for name in (*get_args(Kind), *BIASED, *FITTED)}
    table([(name, value, wanted.get(name, "")) for name, value in figures.items()])
    publish("hunt_null", figures)
