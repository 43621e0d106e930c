"""Throughput of `process`: features, network score, histogram and Parquet columns of a 500,000-event zstd file.

    python benchmarks/speed/process.py [EVENTS]

The floor is the CPU time in which uproot reads and decompresses the same branches in the same ranges; both are measured
in this process, in turn, and the best of three is taken (`ratios.py`). Then the same through Dask on two workers, which
start within the time given. benchmarks/streaming.py has the rest.
"""

import shutil
import sys

from case import KINDS, case_of, file_of
from common import publish, table
from ratios import against_floor


def measure(kind: str, events: int) -> dict[str, float]:
    """CPU seconds of the floor and of the whole chain on one file, and the wall time on two Dask workers."""
    path = file_of(kind, events)
    case = case_of(kind, [path], "process")
    floor, ours = against_floor(case, path, 3)
    report = case.run("dask", "local", workers=2)
    shutil.rmtree(case.folder)
    return {
        "floor_cpu_s": floor,
        "process_cpu_s": ours,
        "floor_ratio": ours / floor,
        "events_per_s_per_core": events / ours,
        "dask_cpu_s_in_tasks": report.cpu_s,
        "dask_wall_s": report.wall_s,
        "file_mb": path.stat().st_size / 1e6,
    }


def main(events: int) -> dict:
    """Both kinds; level 1 is the headline, because its branches hold what a real file holds."""
    figures: dict = {"events": events}
    for kind in KINDS:
        found = measure(kind, events)
        print(f"{kind}: {events:,} events, zstd")
        table([(k, v, "<= 4" if k == "floor_ratio" else "") for k, v in found.items()])
        figures.update({f"{kind}_{k}": v for k, v in found.items()})
    # In the dijet skim every event passes and is scored.
    figures["floor_ratio"] = figures["l1_floor_ratio"]
    figures["events_per_s_per_core"] = figures["l1_events_per_s_per_core"]
    return figures


if __name__ == "__main__":
    publish("process", main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000))
