"""Peak memory of a process that streams 1, 5 and 20 million level-1 events, each size in a fresh process.

    python benchmarks/speed/memory.py [--quick]

The process is driver and worker in one (`scheduler="loop"`), so the figure holds the driver's books too. The files are
distinct to reader and operating system (`bigfiles.copies`). It must not grow with the number of events.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bigfiles import copies
from case import Stored, case_of, file_of, finish, model, model_folder, peak_gib

BLOCK = 500_000
SIZES = {"1m": 1_000_000, "5m": 5_000_000, "20m": 20_000_000}


def stream(events: int) -> dict[str, float]:
    """Stream ``events`` events in this process; its peak before and after, and how long it took."""
    paths = copies(file_of("l1", BLOCK), events // BLOCK)
    case = case_of("l1", paths, "memory", Stored.at(model_folder("l1")))
    before = peak_gib()
    start, spent = time.perf_counter(), time.process_time()
    case.run()
    figures = {
        "rss_before_gib": before,
        "peak_rss_gib": peak_gib(),
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - spent,
    }
    shutil.rmtree(case.folder)
    return figures


def in_fresh_process(events: int) -> dict[str, float]:
    """`stream` in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--stream", str(events)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(quick: bool) -> dict[str, Any]:
    """Every size; a smoke run has the smallest only."""
    model("l1")
    figures: dict[str, Any] = {}
    for name, events in SIZES.items():
        if quick and name != "1m":
            figures[f"peak_rss_gib_{name}"] = None
            continue
        found = in_fresh_process(events)
        figures |= {f"{key}_{name}": value for key, value in found.items()}
    return figures


if __name__ == "__main__":
    if "--stream" in sys.argv:
        print(json.dumps(stream(int(sys.argv[-1]))))
    else:
        finish(main("--quick" in sys.argv))
