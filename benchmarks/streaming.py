"""The acceptance figures of streaming: every part of speed/ that measures one, each in a process of its own.

    python benchmarks/streaming.py [--quick]

About 20 minutes on two quiet cores; --quick is a smoke run of small sizes whose figures are printed and not kept. A part
that fails leaves its figures empty, is named under ``failed``, and makes the exit status 1.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, publish, table
from elsewhere.processors.environment import WORKER_ENVIRONMENT
from elsewhere.workspace import read_json

SPEED = Path(__file__).resolve().parent / "speed"
sys.path.insert(0, str(SPEED))
PARTS = ("ratios", "peer", "memory", "scaling", "driver")


def whole(value: Any) -> bool:
    """Whether a figure like "28 of 28" says that everything held."""
    held, _, tried = str(value).partition(" of ")
    return held == tried != "0"


#: Figure: (what is wanted, whether a value is that).
TARGETS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "floor_ratio_zstd": ("<= 2.0", lambda v: v <= 2.0),
    "floor_ratio_lzma": ("<= 1.5", lambda v: v <= 1.5),
    "floor_ratio_rntuple": ("<= 2.0", lambda v: v <= 2.0),
    "speedup_over_usual_coffea": (">= 5", lambda v: v >= 5),
    "dask_task_over_loop": ("<= 1.3", lambda v: v <= 1.3),
    "two_workers_over_one": (">= 1.8", lambda v: v >= 1.8),
    "peak_rss_gib_1m": ("< 1.5", lambda v: v < 1.5),
    "peak_rss_gib_5m": ("< 1.5", lambda v: v < 1.5),
    "peak_rss_gib_20m": ("< 1.5", lambda v: v < 1.5),
    "ten_variations_over_nominal": ("<= 4", lambda v: v <= 4),
    "driver_over_noop": ("<= 2", lambda v: v <= 2),
    "driver_ms_per_task": ("", lambda _v: True),
    "client_gib_100k_tasks": ("< 1", lambda v: v < 1),
    "kills_identical": ("all of them", whole),
    "faults_met": ("all of them", whole),
}
#: Figures that other benchmarks measure: (file in results/, key of how many were tried).
ELSEWHERE = {"kills_identical": ("exactly_once", "kills_tried"), "faults_met": ("faults", "faults_tried")}


def part(name: str, quick: bool) -> dict[str, Any]:
    """Run one part in the environment that workers have, show what it prints, and return the JSON of its last line."""
    command = [sys.executable, str(SPEED / f"{name}.py"), *(["--quick"] if quick else [])]
    print(f"\nspeed/{name}.py", flush=True)
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **WORKER_ENVIRONMENT}
    )
    *shown, last = done.stdout.splitlines()
    print("\n".join(shown), flush=True)
    return json.loads(last)


def from_others() -> dict[str, Any]:
    """Figures in the results of other benchmarks, as "28 of 28", None where those have not run."""
    found: dict[str, Any] = {}
    for key, (name, tried) in ELSEWHERE.items():
        path = RESULTS / f"{name}.json"
        result = read_json(path) if path.exists() else {}
        found[key] = f"{result[key]} of {result[tried]}" if key in result and tried in result else None
    return found


def verdict(name: str, value: Any) -> str:
    """What was wanted of a figure, and whether it is so."""
    wanted, holds = TARGETS[name]
    if value is None:
        return f"{wanted}  not measured"
    return f"{wanted}  {'met' if holds(value) else 'NOT MET'}" if wanted else ""


def main(quick: bool) -> dict[str, Any]:
    """All figures, those with a target first."""
    start, figures, failed = time.perf_counter(), {}, []
    for name in PARTS:
        try:
            figures |= part(name, quick)
        except (subprocess.CalledProcessError, json.JSONDecodeError) as error:
            failed.append(f"{name}: {error.__class__.__name__}")
    figures |= from_others() | {"failed": failed, "minutes": (time.perf_counter() - start) / 60}
    figures = {key: figures.get(key) for key in TARGETS} | figures
    if not quick:
        from paper import write

        print("\n10^10 events on 1,000 cores")
        figures["on_paper"] = write(figures)
    print()
    table([(key, figures[key], verdict(key, figures[key])) for key in TARGETS])
    return figures


if __name__ == "__main__":
    smoke = "--quick" in sys.argv
    result = main(smoke)
    if smoke:
        print(json.dumps(result))
    else:
        publish("streaming", result)
    sys.exit(1 if result["failed"] else 0)
