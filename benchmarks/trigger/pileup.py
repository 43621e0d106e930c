"""Does zero bias reweighted to another pile-up give the rate that zero bias simulated near it gives?

    python benchmarks/trigger/pileup.py

Three seeds on the set `trigger` (made first: 15 core minutes), their rates at mean pile-up 55 and 57 from crossings simulated at 50
and from others simulated at 60. Results go to results/trigger_pileup.json.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from uuid import UUID

import numpy as np
import uproot
from common import publish
from elsewhere.analysis.pileup import PileupRate, pileup_rate
from elsewhere.events import Events, make_identity
from elsewhere.menus import passing
from elsewhere.processors.features import Level1
from elsewhere.samples.resonant import make_set
from elsewhere.sections import SeedSection
from elsewhere.workspace import Table

BUNCHES, MEANS = 2544, (55.0, 57.0)
SEEDS = {"SingleJet60": ("Jet", 60.0, 1), "SingleJet100": ("Jet", 100.0, 1), "QuadJet40": ("Jet", 40.0, 4)}


def read(paths: Sequence[Path]) -> Table:
    """Level-1 columns of a part of the set."""
    features = Level1()
    names = [*features.branches, "Pileup_nPU", "genWeight", "run", "luminosityBlock", "event"]
    columns = uproot.concatenate([f"{path}:Events" for path in paths], names)
    made = features.compute({n: columns[n] for n in (*features.branches, "Pileup_nPU")})
    identity = make_identity(*(np.asarray(columns[n]) for n in names[-3:]), UUID(int=0))
    weight = np.asarray(columns["genWeight"], np.float64)
    return Table(Events(made.x, made.mass, weight, identity, features.features), made.extras, {})


def pull(a: PileupRate, b: PileupRate) -> float:
    """Difference of two rates over the half intervals that face each other."""
    lower, upper = sorted((a.rate, b.rate), key=lambda r: r.khz)
    return (upper.khz - lower.khz) / math.hypot(lower.high - lower.khz, upper.khz - upper.low)


def main() -> None:
    """Read, reweight, compare, publish."""
    made = make_set("trigger", 1, 2)
    samples = {"50": read(made.paths("rates")), "60": read(made.paths("rates_pu60"))}
    figures: dict[str, Any] = {f"crossings_{name}": len(table) for name, table in samples.items()}
    for seed, (kind, pt, count) in SEEDS.items():
        asked = SeedSection.model_validate({"object": kind, "pt": pt, "count": count})
        for mean in MEANS:
            found = {}
            for name, table in samples.items():
                kept = passing(table, seed, asked)
                found[name] = pileup_rate(kept, table.events.weight, table.extras["n_pileup"], BUNCHES, mean)
                rate = found[name].rate
                figures[f"khz_{seed}_{mean:g}_from_{name}"] = [rate.khz, rate.low, rate.high]
            figures[f"pull_{seed}_{mean:g}"] = pull(found["50"], found["60"])
            shown = ", ".join(
                f"from {n} {f.rate.khz:.4g} [{f.rate.low:.4g}, {f.rate.high:.4g}] kHz"
                for n, f in found.items()
            )
            print(
                f"  {seed} at {mean:g}: {shown}; {figures[f'pull_{seed}_{mean:g}']:.1f} sigma (wanted: below 2)"
            )
    publish("trigger_pileup", figures)


if __name__ == "__main__":
    main()
