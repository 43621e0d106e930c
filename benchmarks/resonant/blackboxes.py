"""The three black boxes by one command, nothing tuned: every box gets the demo's search, and only then is its seal opened.

    python benchmarks/resonant/blackboxes.py [--events N] [--seed S] [--workers N]

The published boxes (2101.08320) have a million events; here N, 60,000 unless asked otherwise, with signal in proportion to sqrt(N)
so that S/sqrt(B) is the published one while S/B is larger. Settings are those of templates/dijet.yaml, whose windows are made to reach
from 2.7 to 6.1 TeV because nobody is told where to look. The global Z is that of toys, which cannot show more than their number allows (a
bound is said to be one), and Gross-Vitells' beside it. Results: results/blackboxes.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml
from common import CACHE, publish, table
from elsewhere.analysis.challenge import Entry, Truth, score_box
from elsewhere.analysis.counting import z_of
from elsewhere.hunting import summary, words
from elsewhere.samples.blackbox import BOXES, make_box, unseal
from elsewhere.search import open_search, run_search, template
from elsewhere.workspace import read_json

#: The resonance of the box whose card draws no mass, GeV.
FIXED = 4200.0


def search_of(box: Path, number: int) -> Path:
    """The demo's search.yaml with this box as its data."""
    raw = yaml.safe_load(template("dijet"))
    raw["name"] = f"box{number}"
    raw["events"]["datasets"] = {"box": {"files": str(box), "role": "data"}}
    raw["hunt"] |= {"mass_high": 7000.0, "control": False}
    raw["hunt"]["windows"] = {"first": 2900.0, "last": 5900.0, "step": 200.0, "width": 400.0}
    raw["report"]["title"] = f"Black box {number}"
    path = box.with_name(f"box{number}.yaml")
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def answer(found: dict[str, Any]) -> Entry:
    """What the hunt says: the mass of the peak where it claims something."""
    best, overall, peak = found["best"], found["overall"], found["peak"]
    mass = peak["position"] if peak else 0.5 * (best["window"]["low"] + best["window"]["high"])
    claims = z_of(overall["p_high"]) >= 3.0
    excess = best["n"] - best["b"] * (1 + best["delta"])
    return Entry(
        overall["p"] if not overall["bound"] else overall["p_high"], mass if claims else None, found["peak_error"],
        excess if claims else None,
    )  # fmt: skip


def truth_of(sealed: Path) -> Truth:
    """The resonance of a box; two decay modes are one resonance."""
    signals = unseal(sealed)["signals"]
    if not signals:
        return Truth(None)
    masses = [max(_numbers(s["masses_gev"]), default=FIXED) for s in signals.values()]
    return Truth(float(masses[0]), float(sum(len(s["events"]) for s in signals.values())))


def _numbers(values: Any) -> list[float]:
    return [float(v) for v in (values.values() if isinstance(values, dict) else np.atleast_1d(values))]


def one(number: int, events: int, seed: int, workers: int) -> dict[str, Any]:
    """Make a box, search it, then open it."""
    folder = CACHE / "resonant" / f"boxes-{seed}-{events}"
    made = make_box(number, events, folder, seed, workers)
    search = open_search(search_of(made.path, number), overrides=[f"run.workers={workers}"])
    run_search(search)
    found = read_json(search.space.path("hunt.json"))["search"]
    print(f"box {number}, {made.events:,} events: {words(found)[1]}", *summary(found), sep="\n  ", flush=True)
    entry = answer(found)
    truth = truth_of(made.sealed)  # nothing is decided after this
    score = score_box(entry, truth)
    print(f"  opened: {score.words}", flush=True)
    overall, best = found["overall"], found["best"]
    return {
        f"blackbox{number}_events": events, f"blackbox{number}_global_p": overall["p_high"] if overall["bound"] else overall["p"],
        f"blackbox{number}_global_z": overall["z_low"] if overall["bound"] else overall["z"],
        f"blackbox{number}_is_bound": overall["bound"], f"blackbox{number}_gross_vitells_z": z_of(overall["gross_vitells"]),
        f"blackbox{number}_local_z": best["z"], f"blackbox{number}_window": list(best["window"].values())[:2],
        f"blackbox{number}_cut": best["cut"], f"blackbox{number}_mass_gev": entry.mass, f"blackbox{number}_true_mass_gev": truth.mass,
        f"blackbox{number}_mass_error_gev": abs(entry.mass - truth.mass) if entry.mass and truth.mass else None,
        f"blackbox{number}_signal_events": truth.events, f"blackbox{number}_verdict": score.words,
    }  # fmt: skip


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for number in BOXES:
        figures |= one(number, asked.events, asked.seed, asked.workers)
    wanted = {
        "blackbox1_mass_error_gev": "< 100",
        "blackbox1_global_z": "> 5",
        "blackbox2_global_p": "nothing found",
    }
    table([(k, v, wanted.get(k, "")) for k, v in figures.items()])
    publish("blackboxes", figures)


if __name__ == "__main__":
    main()
