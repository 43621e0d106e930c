"""Resources against physics: AXOL1TL's encoder of version 4 for every width of its weights and every part of them pruned.

    python benchmarks/trigger/front.py

`elsewhere front` on the set `trigger` (made first: 15 core minutes), three trainings of every setting, half an hour of two cores; goes
on where it was. The figure is in the report of the search, its numbers in results/trigger_front.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import publish
from elsewhere.samples.resonant import make_set
from elsewhere.search import open_search, outcome, run_search
from elsewhere.workspace import read_json
from run import FOLDER, settings_of, write_template

FRONT = {
    "bits": [2, 3, 4, 6, 8],
    "pruning": [0.0, 0.5, 0.75, 0.9],
    "target_khz": 10.0,
    "epochs": 10,
    "trainings": 3,
}


def main() -> None:
    """Run, print, publish."""
    settings: dict[str, Any] = settings_of("axol1tl", make_set("trigger", 1, 2))
    settings = {k: v for k, v in settings.items() if not k.startswith("firmware.")}
    settings |= {"name": "front", "front": FRONT, "firmware": None}
    search = open_search(write_template(), [f"{k}={json.dumps(v)}" for k, v in settings.items()])
    run_search(search, "report")
    print("\n".join(outcome(search, "front")))
    print(f"report: {search.space.path('report.html')} in {FOLDER}")
    found = read_json(search.space.path("front.json"))
    points = [
        {k: v for k, v in p.items() if k not in ("threshold", "rate", "checked")} for p in found["points"]
    ]
    publish("trigger_front", {**found, "points": points})


if __name__ == "__main__":
    main()
