"""Supervised and idealised weak classification of W' in dijets: area under the ROC and largest significance improvement.

    python benchmarks/physics/weak.py [TRAININGS]

Signal region 3.3-3.7 TeV, four features. Background: 80,000 events of the card qcd_sr; signal: 30,000 of wprime; made
by `elsewhere simulate` on first use (about an hour on 2 cores) and kept. Supervised: trees on half of both with labels.
Idealised: an independent background sample against the same number of events with S/B = 1.3 %. Largest improvement over
thresholds that keep at least 25 background events; median over TRAININGS (default 5) with other seeds and other signal.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, publish, table
from elsewhere.analysis.metrics import roc, sic
from elsewhere.events import Events, Window, identity_hash
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace

WINDOW = Window(3300.0, 3700.0)
SAMPLES = {"qcd_sr": ("qcd_sr", 80_000, 1), "wprime_large": ("wprime", 30_000, 2)}
S_OVER_B = 0.013
TEST, HALF = 30_000, 24_000


def sample(name: str) -> Events:
    """Events of one of the samples inside the window, in an order that has nothing to do with how they were made."""
    card, events, seed = SAMPLES[name]
    path = CACHE / f"{name}.root"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        program = str(Path(sys.executable).with_name("elsewhere"))
        options = ["--events", str(events), "--seed", str(seed), "--out", str(path)]
        subprocess.run([program, "simulate", card, *options], check=True)
    features = load_features("dijet")
    with tempfile.TemporaryDirectory() as folder:
        process(preflight({name: [str(path)]}, features), features, Path(folder), scheduler="loop")
        found = Workspace(Path(folder)).read_table(name).events
    found = found.take(WINDOW.contains(found.mass))
    return found.take(np.argsort(identity_hash(found.identity, 99)))


def measure(trainings: int) -> dict[str, float]:
    """The figures: each training has its own seed, its own split of the background and its own signal."""
    background, signal = sample("qcd_sr"), sample("wprime_large")
    held, rest = background.take(slice(0, TEST)), background.take(slice(TEST, None))
    held_signal, rest_signal = (
        signal.take(slice(0, len(signal) // 2)),
        signal.take(slice(len(signal) // 2, None)),
    )
    areas, best, ideal = [], [], []
    for seed in range(trainings):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(rest))
        reference, data = rest.take(rows[:HALF]), rest.take(rows[HALF : 2 * HALF])
        hidden = rest_signal.take(rng.permutation(len(rest_signal))[: round(S_OVER_B * HALF)])
        for mixed, area, gain in (
            (rest_signal, areas, best),
            (Events.concatenate([data, hidden]), None, ideal),
        ):
            against = rest if mixed is rest_signal else reference
            score = WeakTrees(members=10, seed=seed).fit(against, mixed)
            curve = roc(score.score(held_signal), score.score(held))
            gain.append(sic(curve).best)
            if area is not None:
                area.append(curve.auc)
        print(
            f"  seed {seed}: AUC {areas[-1]:.4f}, supervised SIC {best[-1]:.2f}, idealised {ideal[-1]:.2f}",
            flush=True,
        )
    return {
        "supervised_auc": float(np.median(areas)),
        "supervised_max_sic": float(np.median(best)),
        "idealised_max_sic": float(np.median(ideal)),
        "idealised_over_supervised": float(np.median(ideal) / np.median(best)),
        "trainings": trainings,
    }


if __name__ == "__main__":
    figures = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    wanted = {"supervised_auc": ">= 0.94", "idealised_over_supervised": ">= 0.6"}
    table([(k, v, wanted.get(k, "")) for k, v in figures.items()])
    publish("weak", figures)
