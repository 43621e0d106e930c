"""Dark showers of every r_inv and Lambda against QCD jets: scores on DarkCLR's space, on constituents, and single numbers (2312.03067).

    python benchmarks/outliers/dark.py [SEEDS]

Events of the set `dark`: jets of 150 to 350 GeV. Encoder and scores learn from QCD jets alone, once for all points. Scores: an
autoencoder and the distance to the 5th neighbour, both on h and on the constituents; multiplicity, girth and pT dispersion, and how far
the three lie from their mean (Mahalanobis). Wanted: on h above constituents at every point, and a smaller spread between points.
Bands are over SEEDS (3) encoders and samples of QCD jets.

Smaller than published: `LEARNT` jets instead of 100,000, `HOW`'s widths, layers and epochs, a dense autoencoder instead of the
normalised one. Results go to results/outliers.json, family dark.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import columns_of, publish, separation
from elsewhere.analysis.metrics import roc
from elsewhere.events import Column, Events
from elsewhere.models.representations.darkclr import DarkClr
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.scores.nearest_neighbours import NearestNeighbours

LEARNT, TESTED = 8000, 5000
HOW: dict[str, Any] = {
    "width": 64, "heads": 4, "layers": 2, "feedforward": 128, "out": 128, "epochs": 20, "batch": 256, "learning_rate": 5e-4,
}  # fmt: skip
NUMBERS = ("multiplicity", "girth", "dispersion")


def scores_of(seed: int) -> dict[str, Any]:
    """The scores that are put on either space."""
    return {
        "ae": Autoencoder(hidden=(64, 32), latent=8, epochs=30, batch=256, seed=seed),
        "knn": NearestNeighbours(seed=seed),
    }


def numbers(events: Events) -> Events:
    """Multiplicity (of the 50 hardest), girth and pT dispersion sqrt(sum pT^2) / sum pT of every jet."""
    pt, eta, phi = np.moveaxis(events.x.reshape(len(events), -1, 3).astype(np.float64), 2, 0)
    total = pt.sum(axis=1)
    columns = (
        (pt > 0).sum(axis=1),
        (pt * np.hypot(eta, phi)).sum(axis=1) / total,
        np.sqrt((pt**2).sum(axis=1)) / total,
    )
    features = replace(
        events.features, name="numbers", columns=tuple(Column(n, "", n) for n in NUMBERS), extras=()
    )
    return replace(events, x=np.stack(columns, axis=1).astype(np.float32), features=features)


def measure(parts: dict[str, Events], seed: int) -> dict[str, dict[str, Any]]:
    """Figures of every score by point, and the encoder's record."""
    order = np.random.default_rng([seed, 4]).permutation(len(parts["qcd"]))
    known, plain = (parts["qcd"].take(part) for part in (order[:LEARNT], order[LEARNT : LEARNT + TESTED]))
    points = {k: e for k, e in parts.items() if k != "qcd"}
    encoder = DarkClr(**HOW, seed=seed).fit(known, known)
    found: dict[str, dict[str, Any]] = {}

    def every(name: str, score: Any) -> None:
        background = score(plain)
        found[name] = {k: separation(roc(score(e), background)) for k, e in points.items()}

    for name, space in (("darkclr", encoder.transform), ("raw", lambda e: e)):
        reference = space(known)
        for kind, fresh in scores_of(seed).items():
            score = fresh.fit(reference, reference)
            every(f"{name}_{kind}", lambda e, s=score, space=space: s.score(space(e)))
    far = Mahalanobis().fit(numbers(known), numbers(known))
    every("numbers", lambda e: far.score(numbers(e)))
    for i, name in enumerate(NUMBERS):
        every(name, lambda e, i=i: numbers(e).x[:, i].astype(np.float64))
    record, latent = encoder.record_, encoder.latent_
    found["encoder"] = {
        "loss_first": record.train_loss[0], "loss_last": record.train_loss[-1], "rank": latent.effective_rank,
    }  # fmt: skip
    return found


def main() -> None:
    """Train, test, print, publish."""
    trials, parts = int(sys.argv[1]) if len(sys.argv) > 1 else 3, columns_of("dark", "constituents")
    start = time.process_time()
    rows = [measure(parts, seed) for seed in range(trials)]
    out: dict[str, Any] = {"dark_trainings": trials, "dark_jets": LEARNT, "dark_settings": HOW}
    points = [k for k in parts if k != "qcd"]
    print(f"  {'AUC':14s}" + "".join(f"{p.removeprefix('dark_'):>9s}" for p in points) + "   spread")
    for name in (n for n in rows[0] if n != "encoder"):
        for p in points:
            for figure in rows[0][name][p]:
                values = [row[name][p][figure] for row in rows]
                out[f"{p}_{name}_{figure}"] = [float(f(values)) for f in (np.median, min, max)]
        medians = [out[f"{p}_{name}_auc"][0] for p in points]
        areas = [[row[name][p]["auc"] for p in points] for row in rows]
        spreads = [max(a) - min(a) for a in areas]
        out[f"{name}_auc_spread"] = float(np.median(spreads))
        print(f"  {name:14s}" + "".join(f"{v:9.3f}" for v in medians) + f"   {np.median(spreads):.3f}")
    for name in ("darkclr", "raw"):
        out[f"{name}_auc_spread"] = out[f"{name}_ae_auc_spread"]
    out["dark_encoder"] = [row["encoder"] for row in rows]
    print(f"  encoders {out['dark_encoder']}; {(time.process_time() - start) / trials:.0f} s each")
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
