"""What the early cut loses: events are made whole while the cut only notes which it would have given up.

    python benchmarks/physics/early_cut.py [CARD] [EVENTS]

CARD: one with an early cut (default qcd_region); EVENTS: hard processes (default 20,000; a minute). "lost": fraction of the
selected events that the cut would have given up, which no distribution can be changed by more than; "change": the largest
distance of the cumulative distributions with and without the cut, on the same events.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import awkward as ak
import numpy as np
from common import publish, table
from elsewhere.processors.features import Dijet
from elsewhere.samples import dijets
from elsewhere.samples.card import load_card
from elsewhere.samples.early import early_veto
from elsewhere.samples.particles import generator


def selected(name: str, events: int) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Features of the selected events, which the cut would have given up (n,), and the fraction of all that it passes."""
    card = load_card(name)
    hook = early_veto(card.early, dry=True)
    pythia, rng = generator(card.commands, 4711, hook), np.random.default_rng(4711)
    jets, lost, passed, tried = [], [], 0, 0
    while tried < events:
        hook.dropped.clear()
        columns, keep = dijets._batch(pythia, card, rng)
        dropped = np.array(hook.dropped)
        tried, passed = tried + len(dropped), passed + int(np.sum(~dropped))
        if len(dropped) == len(keep):  # else Pythia began an event again: whose note is whose is not known
            jets.append(columns["FatJet"])
            lost.append(dropped[keep])
    whole = ak.concatenate(jets)
    made = Dijet().compute({f"FatJet_{f}": whole[f] for f in whole.fields})
    values = {n: made.x[:, i] for i, n in enumerate(Dijet().features.names)}
    return values | {"m_jj": made.mass, **made.extras}, np.concatenate(lost), passed / tried


def change(values: np.ndarray, lost: np.ndarray) -> float:
    """Largest distance of the cumulative distributions of all and of those not lost."""
    order = np.argsort(values, kind="stable")
    kept = ~lost[order]
    return float(np.max(np.abs(np.cumsum(kept) / kept.sum() - np.arange(1, len(kept) + 1) / len(kept))))


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "qcd_region"
    values, lost, passed = selected(name, int(sys.argv[2]) if len(sys.argv) > 2 else 20_000)
    figures = {"card": name, "selected": len(lost), "passed_early": passed, "lost": float(lost.mean())}
    figures["lost_error"] = float(np.sqrt(max(lost.sum(), 1)) / len(lost))
    figures |= {f"change_{k}": change(v, lost) for k, v in values.items()}
    table([(k, v, "") for k, v in figures.items()])
    publish(f"early_cut_{name}", figures)
