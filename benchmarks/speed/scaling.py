"""What Dask costs a task, and what a second worker brings: level-1 events through warm workers on this machine.

    python benchmarks/speed/scaling.py [--quick]

CPU inside the tasks over the CPU of the plain loop on the same files; wall time on one worker over that on two, in the
steady state, start and first tasks left out and stated apart. The machine's own limit for two workers is measured with
the floor, uproot reading one file in one worker and two files in two, at the same time.
"""

import resource
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from bigfiles import copies
from case import Case, case_of, file_of, finish
from elsewhere.processors.environment import dask_client
from elsewhere.workspace import read_chunk_meta

BLOCK = 500_000


def read_all(path: str, branches: Sequence[str]) -> float:
    """Wall seconds of reading a whole file three times, on a worker."""
    import uproot

    start = time.perf_counter()
    for _ in range(3):
        file = uproot.open(path)
        for _ in file["Events"].iterate(list(branches), step_size=100_000, library="ak", how=dict):
            pass
    return time.perf_counter() - start


def machine_limit(client: Any, case: Case) -> float:
    """Throughput of two workers reading at once over that of one reading alone, the best of three of each."""
    workers = list(client.scheduler_info()["workers"])
    paths = [r.path for r in case.records["big"][:2]]

    def together(number: int) -> float:
        jobs = zip(paths[:number], workers, strict=False)
        futures = [
            client.submit(read_all, p, case.features.branches, workers=[w], pure=False) for p, w in jobs
        ]
        return max(client.gather(futures))

    together(2)
    alone, both = zip(*((together(1), together(2)) for _ in range(3)), strict=True)
    return 2 * min(alone) / min(both)


def worker_peak() -> float:
    """Peak memory of the worker so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def footer_ms(case: Case) -> float:
    """Milliseconds in which the driver reads the ledger row of one chunk back."""
    paths = list((case.folder / "dask").glob("columns/*/*.parquet"))
    start = time.perf_counter()
    for path in paths:
        read_chunk_meta(path)
    return 1e3 * (time.perf_counter() - start) / len(paths)


def on_cluster(case: Case, small: Case, workers: int, repeats: int) -> dict[str, float]:
    """Start, warm-up and steady state on ``workers`` fresh workers."""
    start = time.perf_counter()
    with dask_client("local", workers) as client:
        started = time.perf_counter() - start
        start = time.perf_counter()
        for _ in range(2):  # one task may warm one worker only
            small.run("warm", client=client, workers=workers, chunk=20_000)
        warmed = time.perf_counter() - start
        walls, cpus = [], []
        for _ in range(repeats):
            marks: list[float] = []
            start = time.perf_counter()
            report = case.run(
                "dask",
                client=client,
                workers=workers,
                progress=lambda _d, _t, marks=marks: marks.append(time.perf_counter()),
            )
            walls.append(marks[-1] - start)
            cpus.append(report.cpu_s)
        found = {
            "start_s": started,
            "warm_up_s": warmed,
            "wall_s": min(walls),
            "cpu_in_tasks_s": min(cpus),
            "range_events": case.events / report.units,
            "worker_peak_gib": max(client.run(worker_peak).values()),
        }
        if workers == 2:
            found["machine_limit"] = machine_limit(client, case)
    return found


def main(quick: bool) -> dict[str, Any]:
    """Loop, one worker and two, the same files."""
    files = copies(file_of("l1", 100_000 if quick else BLOCK), 4 if quick else 10)
    case, small = case_of("l1", files, "scaling"), case_of("l1", files[:1], "scaling_warm")
    small.run()
    repeats = 1 if quick else 2
    loop = min(case.run().cpu_s for _ in range(repeats))
    one, two = (on_cluster(case, small, n, repeats) for n in (1, 2))
    footer = footer_ms(case)
    for folder in (case.folder, small.folder):
        shutil.rmtree(folder)
    figures: dict[str, Any] = {
        "scaling_events": case.events,
        "range_events": one["range_events"],
        "footer_ms_per_unit": footer,
        "loop_cpu_s": loop,
        "dask_task_over_loop": one["cpu_in_tasks_s"] / loop,
        "dask_task_over_loop_two_workers": two["cpu_in_tasks_s"] / loop,
        "two_workers_over_one": one["wall_s"] / two["wall_s"],
        "machine_two_over_one": two.pop("machine_limit"),
        "dask_events_per_s_per_core": case.events / two["cpu_in_tasks_s"],
    }
    workers = (("one", one), ("two", two))
    rest = {
        f"{name}_{key}": v for name, found in workers for key, v in found.items() if key != "range_events"
    }
    return figures | rest


if __name__ == "__main__":
    finish(main("--quick" in sys.argv))
