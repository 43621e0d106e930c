"""Outlier scores on the dijet problem: how odd the hidden W' looks to what has seen no signal label and no second sample.

    [ELSEWHERE_SET=small] python benchmarks/outliers/dijets.py

Each score learns from the data of the signal region, hidden signal among them, in standardised and in logit coordinates, three times
with other events and seeds (small: two minutes, and ten for its events at first), and is tested on background and signal that it never saw. Measured elsewhere on LHC Olympics events:
AUC .6 to .8, max SIC 1.0 to 1.5; far more would be a leak. Results go to results/outliers.json.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "resonant"))

import numpy as np
from common import publish, separation
from elsewhere.analysis.metrics import roc, sic
from elsewhere.models.methods import build
from methods import supervised
from problem import S_OVER_B, SET, Problem

TRIALS = 3
BOTH = ("standardised", "logit")
#: Name, method, settings; with "coordinates" measured in both.
SCORES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "mixture_30": ("MixtureDensity", {"components": 30}, BOTH),
    "mahalanobis": ("Mahalanobis", {}, BOTH),
    "isolation_forest": ("IsolationForest", {}, BOTH),
    "nearest_neighbours": ("NearestNeighbours", {}, BOTH),
    "kernel_density": ("KernelDensity", {"events": 5000}, BOTH),
    "gaussian_process": ("GaussianProcessDensity", {"columns": ["m_J1", "tau21_1"]}, BOTH),
    "autoencoder": ("Autoencoder", {"hidden": [32], "latent": 2, "epochs": 20}, ()),
    "vae_mse": ("VariationalAutoencoder", {"hidden": [32], "latent": 2, "kind": "mse"}, ()),
    "vae_mu2": ("VariationalAutoencoder", {"hidden": [32], "latent": 2, "kind": "mu2"}, ()),
    "vae_elbo": ("VariationalAutoencoder", {"hidden": [32], "latent": 2, "kind": "elbo"}, ()),
}
#: AUC and max SIC in standardised and logit coordinates, measured on the arrays of the LHC Olympics.
KNOWN = {
    "mixture_30": ((0.79, 1.34), (0.67, 1.08)), "mahalanobis": ((0.74, 1.25), (0.68, 1.09)),
    "isolation_forest": ((0.79, 1.39), (0.71, 1.14)), "autoencoder": ((0.68, 1.08), None),
}  # fmt: skip


def figures(score: Callable[[Any], Any], problem: Problem) -> dict[str, float]:
    """AUC, largest SIC (at least 25 background events), SIC at fixed background, rejection at fixed signal."""
    background, signal = problem.test
    curve = roc(score(signal), score(background))
    return {"max_sic": sic(curve).best, **separation(curve)}


def main() -> None:
    """Train, test, print, publish."""
    problems = [Problem(t, S_OVER_B) for t in range(TRIALS)]
    ceiling = float(np.median([figures(supervised(p).score, p)["max_sic"] for p in problems]))
    out: dict[str, Any] = {"set": SET, "trainings": TRIALS, "supervised_max_sic": ceiling}
    print(f"  supervised trees: max SIC {ceiling:.2f} (median of {TRIALS})")
    for name, (method, settings, coordinates) in SCORES.items():
        for i, how in enumerate(coordinates or ("",)):
            more, rows, start = ({"coordinates": how} if how else {}), [], time.process_time()
            for p in problems:
                seeded = {"seed": p.seed} if method not in ("Mahalanobis", "GaussianProcessDensity") else {}
                made = build(method, {**settings, **more, **seeded}, "score").fit(p.inside, p.inside)
                rows.append(figures(made.score, p))
            key = f"dijet_{name}" + (f"_{how}" if how else "")
            for figure in rows[0]:
                out[f"{key}_{figure}"] = [float(f([r[figure] for r in rows])) for f in (np.median, min, max)]
            out[f"{key}_r"] = out[f"{key}_max_sic"][0] / ceiling
            known = KNOWN.get(name, (None, None))[i]
            said = f"; elsewhere AUC {known[0]}, max SIC {known[1]}" if known else ""
            auc, best = out[f"{key}_auc"], out[f"{key}_max_sic"]
            print(
                f"  {name:18s} {how:13s} AUC {auc[0]:.3f} [{auc[1]:.3f}, {auc[2]:.3f}], max SIC {best[0]:.2f}, R {out[key + '_r']:.3f}, "
                f"{(time.process_time() - start) / TRIALS:.0f} s{said}",
                flush=True,
            )
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
