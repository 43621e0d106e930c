"""Overlap removal between two primary datasets: 20 million made-up events in 20 files, 1 % of the rows in both datasets.

    python benchmarks/speed/overlap.py [EVENTS]

Both passes run in one process of their own, so that its peak memory is theirs; then the same with the indexes there. The
number of events found is compared with the number put in, and the filter is run over every file.
"""

import multiprocessing
import resource
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import uproot
from common import CACHE, publish, table
from elsewhere.processors.core import Unit, identity_rows
from elsewhere.processors.overlap import find_overlap
from elsewhere.processors.preflight import preflight
from elsewhere.processors.reading import open_tree

FILES = 20
NAMES = ("JetHT", "HTMHT")
SHARED = 0.02  # of the second dataset's rows, so 1 % of all
UNIT = 500_000


def columns(number: np.ndarray) -> dict[str, np.ndarray]:
    """A made-up event of each number: runs of 10 million events, sections of 20,000."""
    return {
        "run": (300_000 + number // 10_000_000).astype(np.uint32),
        "luminosityBlock": (1 + number % 10_000_000 // 20_000).astype(np.uint32),
        "event": (number * 7 + 2**33).astype(np.uint64),
    }


def make(folder: Path, events: int) -> dict[str, list[str]]:
    """The files: consecutive events of their own; in the second dataset, some of the first's instead."""
    folder.mkdir(parents=True, exist_ok=True)
    each, half = events // FILES, FILES // 2
    files: dict[str, list[str]] = {name: [] for name in NAMES}
    for i in range(FILES):
        path = folder / f"{i:02}.root"
        files[NAMES[i // half]].append(str(path))
        if path.exists():
            continue
        number = np.arange(i * each, (i + 1) * each)
        if i >= half:
            rng = np.random.default_rng(i)
            shared = rng.choice(each, int(each * SHARED), replace=False)
            number[shared] -= half * each
            number.sort()
        with uproot.recreate(path.with_suffix(".tmp"), compression=uproot.ZSTD(1)) as file:
            raw = columns(number)
            tree = file.mktree("Events", {k: v.dtype for k, v in raw.items()})
            for start in range(0, each, 100_000):
                tree.extend({k: v[start : start + 100_000] for k, v in raw.items()})
        path.with_suffix(".tmp").replace(path)
    return files


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(files: dict[str, list[str]], folder: Path, pipe) -> None:
    """Both passes, the merge again, and the filter over all units."""
    shutil.rmtree(folder, ignore_errors=True)
    records = preflight(files, SimpleNamespace(branches=(), optional=(), features=None))
    before, out = peak_mb(), {}
    for name in ("both_passes", "indexes_there"):
        wall, cpu = time.perf_counter(), time.process_time()
        report, keep = find_overlap(records, NAMES, folder)
        out[f"{name}_cpu_s"] = time.process_time() - cpu
        out[f"{name}_wall_s"] = time.perf_counter() - wall
    out["peak_rss_mb"], out["before_rss_mb"] = peak_mb(), before
    out["index_mb"] = sum(p.stat().st_size for p in (folder / "index").iterdir()) / 1e6
    out["shared"], out["dropped"] = report.shared[0].events, report.dropped["HTMHT"]
    spent, kept = 0.0, 0
    for dataset, record in ((d, r) for d, rs in records.items() for r in rs):
        for start in range(0, record.entries, UNIT):
            unit = Unit(dataset, record.path, record.uuid, start, min(start + UNIT, record.entries))
            raw = open_tree(unit.path, unit.uuid).arrays(
                ("run", "luminosityBlock", "event"), unit.start, unit.stop
            )
            rows = identity_rows(raw, unit, unit.stop - unit.start)
            cpu = time.process_time()
            kept += int(keep.keep(rows, unit).sum())
            spent += time.process_time() - cpu
    out["filter_cpu_s"], out["kept"] = spent, kept
    pipe.send(out)


def main(events: int) -> dict:
    files = make(CACHE / f"overlap_{events}", events)
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=measure, args=(files, CACHE / "overlap_work", there)
    )
    process.start()
    there.close()
    found = here.recv()
    process.join()
    shutil.rmtree(CACHE / "overlap_work")
    wanted = int(events // FILES * SHARED) * (FILES // 2)
    found["right"] = found["shared"] == found["dropped"] == wanted and found["kept"] == events - wanted
    found["events_per_cpu_s"] = events / found["both_passes_cpu_s"]
    print(f"{events:,} events in {FILES} files, {wanted:,} of them in both datasets")
    table([(k, v, f"{wanted}" if k in ("shared", "dropped") else "") for k, v in found.items()])
    if not found["right"]:
        raise SystemExit("the events found are not those put in")
    return {"events": events, **found}


if __name__ == "__main__":
    publish("overlap", main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000))
