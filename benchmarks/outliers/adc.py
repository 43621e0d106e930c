"""Four signals in the ADC2021 mixture: an autoencoder on what contrastive learning makes of the objects, beside one on the objects.

    python benchmarks/outliers/adc.py [SEEDS]

Events of the set `adc`: objects of events with a lepton, W, QCD, Z and tt in the proportions of the challenge (2107.02157), and four
signals. Half of the mixture is learnt from, the other half tests. Spaces: the objects as they are; AnomCLR+ with the two terms of VICReg
that hold events apart, AnomCLR (2301.04660) and the embedding of the four processes (CL4AD, 2502.15926; told what each event is).
Anomalous views are of the paper's three kinds; `anomclr_plus_two` has the two that the public code draws, without more energy. That
was the benchmark's until its figures were known; all three is the one change that was tried after.
Scores on each: an autoencoder and a normalised one (2206.14225); beside them the scalar sum of transverse momenta. Wanted: AnomCLR+
above the objects for all four signals where 0.1 % of the mixture is kept, the better of the two scores on each. Bands are over SEEDS (3) trainings and halves.

Smaller than published: 10,000 events instead of millions, `HOW`'s widths, layers and epochs. 0.1 % is 10 events of the mixture, so
that a signal efficiency there is known to a third; 1 % is printed as well. The mixture's weights count (see the cards). Results go to
results/outliers.json, family adc.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import columns_of, publish, separation
from elsewhere.analysis.metrics import roc, signal_efficiency_at
from elsewhere.events import Events
from elsewhere.models.representations.anomclr import AnomClr
from elsewhere.models.representations.cl4ad import Cl4ad
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.normalised_autoencoder import NormalisedAutoencoder

MIXTURE = ("adc_w", "adc_qcd", "adc_z", "adc_tt")
SIGNALS = ("adc_a4l", "adc_lq", "adc_h0", "adc_hplus")
HOW: dict[str, Any] = {
    "width": 32, "heads": 4, "layers": 2, "feedforward": 64, "out": 32, "epochs": 20, "batch": 128, "learning_rate": 5e-4,
}  # fmt: skip
#: Anomalous views of all three kinds of the paper: more objects, split ones, more energy.
MODES = ("add", "split", "shift")
PARTS = (0.01, 0.001)


class Columns:
    """The objects' columns as they are, without those that never change: the eta of MET, slots that are always empty."""

    kept: Any = ()

    def fit(self, reference: Events, data: Events) -> "Columns":  # noqa: ARG002
        """Which columns change."""
        self.kept = np.flatnonzero(np.ptp(reference.x, axis=0) > 0)
        return self

    def transform(self, events: Events) -> Events:
        """Those columns."""
        features = replace(events.features, columns=tuple(events.features.columns[i] for i in self.kept))
        return replace(events, x=np.ascontiguousarray(events.x[:, self.kept]), features=features)


def halves(kinds: dict[str, Events], seed: int) -> tuple[dict[str, Events], dict[str, Events]]:
    """Every process of the mixture cut in two: to learn from, and to test with."""
    rng, first, second = np.random.default_rng([seed, 5]), {}, {}
    for k in MIXTURE:
        order = rng.permutation(len(kinds[k]))
        first[k], second[k] = (kinds[k].take(part) for part in np.array_split(order, 2))
    return first, second


def spaces(learnt: dict[str, Events], seed: int) -> dict[str, Any]:
    """The representations, not fitted yet."""
    plus: dict[str, Any] = {**HOW, "loss": "anomclr_plus", "variance": 25.0, "covariance": 1.0, "seed": seed}
    return {
        "raw": Columns(),
        "anomclr_plus": AnomClr(**plus, modes=MODES),
        "anomclr_plus_two": AnomClr(**plus),
        "anomclr": AnomClr(**HOW, loss="anomclr", modes=MODES, seed=seed),
        "cl4ad": Cl4ad(classes=learnt, reference_class=False, latent=6, optimizer="adam", epochs=20, batch=256, seed=seed),
    }  # fmt: skip


def scores(seed: int) -> dict[str, Any]:
    """The scores on every space, not fitted yet."""
    return {
        "ae": Autoencoder(hidden=(32, 16), latent=8, epochs=30, batch=256, seed=seed),
        "nae": NormalisedAutoencoder(hidden=(32, 16), latent=4, autoencoder_epochs=30, normalised_epochs=10, batch=256, seed=seed),
    }  # fmt: skip


def efficiencies(background: Any, weight: Any, signal: Any, own: Any) -> dict[str, float]:
    """Signal efficiency where a part of the background is kept, AUC, SIC and rejections; all weighted."""
    curve = roc(signal, background, own, weight)
    return {f"{kept:g}": signal_efficiency_at(curve, kept)[0] for kept in PARTS} | separation(curve)


def sum_pt(events: Events) -> Any:
    """The scalar sum of the transverse momenta of all objects, GeV."""
    columns = [i for i, name in enumerate(events.features.names) if name.endswith("_pt")]
    return events.x[:, columns].sum(axis=1).astype(np.float64)


def measure(kinds: dict[str, Events], seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Figures by score and signal of one seed."""
    learnt, test = halves(kinds, seed)
    reference, mixture = (Events.concatenate([part[k] for k in MIXTURE]) for part in (learnt, test))
    found: dict[str, dict[str, dict[str, float]]] = {}

    def every(name: str, score: Callable[[Events], Any]) -> None:
        background = score(mixture)
        found[name] = {
            s: efficiencies(background, mixture.weight, score(kinds[s]), kinds[s].weight) for s in SIGNALS
        }

    every("sum_pt", sum_pt)
    for name, space in spaces(learnt, seed).items():
        start = time.process_time()
        learned = space.fit(reference, reference)
        seen = learned.transform(reference)
        for kind, score in scores(seed).items():
            every(f"{name}_{kind}", Represented(learned, score.fit(seen, seen)).score)
        print(f"  seed {seed}: {name}, {time.process_time() - start:.0f} s", flush=True)
    return found


def main() -> None:
    """Train, test, print, publish."""
    trials, kinds = int(sys.argv[1]) if len(sys.argv) > 1 else 3, columns_of("adc", "objects")
    rows = [measure(kinds, seed) for seed in range(trials)]
    out: dict[str, Any] = {"adc_trainings": trials, "adc_settings": HOW}
    for figure in rows[0]["sum_pt"][SIGNALS[0]]:
        print(f"  {'signal kept at ' + figure if figure.startswith('0.') else figure}")
        for name in rows[0]:
            values = {s: [row[name][s][figure] for row in rows] for s in SIGNALS}
            for s, v in values.items():
                out[f"{s}_{name}_{figure}"] = [float(f(v)) for f in (np.median, min, max)]
            print(
                f"    {name:18s}"
                + "".join(
                    f"  {s.removeprefix('adc_')} {np.median(v):.4f} [{min(v):.4f}, {max(v):.4f}]"
                    for s, v in values.items()
                )
            )
    kinds_of_score = tuple(scores(0))
    at = f"{PARTS[-1]:g}"
    best = {
        space: {s: max(out[f"{s}_{space}_{kind}_{at}"][0] for kind in kinds_of_score) for s in SIGNALS}
        for space in ("raw", "anomclr_plus")
    }
    out["anomclr_signals_better_than_raw"] = sum(best["anomclr_plus"][s] > best["raw"][s] for s in SIGNALS)
    for kind in kinds_of_score:
        pairs = [(out[f"{s}_anomclr_plus_{kind}_{at}"][0], out[f"{s}_raw_{kind}_{at}"][0]) for s in SIGNALS]
        out[f"anomclr_signals_better_than_raw_{kind}"] = sum(a > b for a, b in pairs)
    print(
        f"  AnomCLR+ above the objects, the better score on each: {out['anomclr_signals_better_than_raw']} of {len(SIGNALS)} signals, "
        f"wanted all; score by score {', '.join(str(out[f'anomclr_signals_better_than_raw_{k}']) for k in kinds_of_score)}"
    )
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
