"""What a linear classifier finds in JetCLR's space of jets, beside what it finds in their constituents (2108.04253).

    python benchmarks/outliers/jets.py [SEEDS]

Events of the set `jets`: QCD jets and hadronic tops of 550 to 650 GeV. The encoder sees both kinds without labels; the probe is fitted
to other jets with labels and tested on a third part. The encoder with its first weights, which has learnt nothing, stands beside
it. Wanted: the area under the curve of the latent probe at least 0.02 above that of the constituents'. Bands are over SEEDS (3)
encoders and parts.

Smaller than published: `LEARNT` jets instead of 100,000, `HOW`'s widths, layers and epochs instead of 1000, 4 and 500, at a higher
rate. Results go to results/outliers.json, family jetclr.
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
from elsewhere.events import Events
from elsewhere.models.networks.constituent_table import constituent_columns
from elsewhere.models.probe import linear_probe
from elsewhere.models.representations.jetclr import JetClr, build_jetclr

LEARNT, PROBED = 8000, 8000
HOW: dict[str, Any] = {
    "width": 64, "heads": 4, "layers": 2, "feedforward": 64, "out": 64, "epochs": 15, "batch": 128, "learning_rate": 5e-4,
}  # fmt: skip


def first_weights(how: JetClr, like: Events) -> JetClr:
    """The same encoder before any training."""
    made = replace(how, features_=like.features)
    network = build_jetclr(made._config())
    made.weights_ = {k: v.detach().numpy() for k, v in network.state_dict().items()}
    return made


def measure(kinds: dict[str, Events], seed: int) -> dict[str, float]:
    """Figures of the probes of one encoder: constituents, every layer, and the sum before the training."""
    rng = np.random.default_rng([seed, 3])
    learnt, probed, held = [], [], []
    for k in ("qcd", "top"):
        order = rng.permutation(len(kinds[k]))
        cuts = LEARNT // 2, (LEARNT + PROBED) // 2
        for out, part in zip((learnt, probed, held), np.split(order, cuts), strict=True):
            out.append(kinds[k].take(part))
    labels = [np.repeat([False, True], [len(e) for e in pair]) for pair in (probed, held)]
    sample, fit, test = (Events.concatenate(pair) for pair in (learnt, probed, held))

    def probed_by(name: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        score = linear_probe(a, labels[0], b, labels[1]).score(b)
        figures = separation(roc(score[labels[1]], score[~labels[1]]))
        return {f"{name}_{figure}": value for figure, value in figures.items()}

    flat = constituent_columns(fit.features).ravel()
    found = probed_by("raw", fit.x[:, flat], test.x[:, flat])
    how = JetClr(**HOW, seed=seed)
    fresh = first_weights(how, sample)
    found |= probed_by("untrained", fresh.transform(fit).x, fresh.transform(test).x)
    made = how.fit(sample, sample)
    for layer in ("sum", "hidden", "head"):
        made.layer = layer
        found |= probed_by(layer, made.transform(fit).x, made.transform(test).x)
    found["loss_first"], found["loss_last"] = made.record_.train_loss[0], made.record_.train_loss[-1]
    return found


def main() -> None:
    """Train, test, print, publish."""
    trials, kinds = (
        int(sys.argv[1]) if len(sys.argv) > 1 else 3,
        columns_of("jets", "constituents", ("qcd", "top")),
    )
    start = time.process_time()
    rows = [measure(kinds, seed) for seed in range(trials)]
    out: dict[str, Any] = {"jetclr_trainings": trials, "jetclr_jets": LEARNT, "jetclr_settings": HOW}
    for name in rows[0]:
        values = [row[name] for row in rows]
        out[f"jetclr_{name}"] = [float(f(values)) for f in (np.median, min, max)]
        print(f"  {name:24s} {np.median(values):.4f} [{min(values):.4f}, {max(values):.4f}]")
    gains = [row["sum_auc"] - row["raw_auc"] for row in rows]
    out["jetclr_probe_gain_auc"] = float(np.median(gains))
    out["jetclr_probe_gain_auc_band"] = [float(min(gains)), float(max(gains))]
    print(
        f"  gain {np.median(gains):+.4f}, wanted +0.02; {(time.process_time() - start) / trials:.0f} s each"
    )
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
