"""What the driver costs: CPU of client and scheduler per task, and the client's memory after 100,000 tasks.

    python benchmarks/speed/driver.py [--quick]

`process` runs as it is on a cluster of this machine, whose scheduler lives in the client's process, so that the CPU and
memory of both are counted. The tasks are dry: on the workers `do_unit` is replaced by one that does nothing, and the
driver's last step reads the ledger row of one real chunk again and again. Beside it, in turn and on the same workers,
Dask's own cost: as many no-op tasks, all submitted, then awaited and released one by one.
"""

import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from case import Case, case_of, file_of, finish
from elsewhere.processors import stream
from elsewhere.processors.environment import dask_client

EVENTS_OF_TASK = 10
MANY = 100_000


def dry_workers() -> None:
    """On a worker: units cost nothing."""
    from elsewhere.processors import driver

    driver.do_unit = lambda unit, _job: driver.Outcome(unit)


@contextmanager
def dry_footers(chunk: Path) -> Iterator[None]:
    """In the client: a chunk's metadata is that of ``chunk``, read anew, with the file and range of its own name, and no
    units are put together into one task."""
    from elsewhere.processors import driver

    real, together = stream.read_chunk_meta, driver.tasks

    def made_up(path: Path) -> dict[str, Any]:
        uuid, start, stop = path.stem.split("_")
        meta = real(chunk)
        ledger = {"dataset": path.parent.name, "uuid": uuid, "start": int(start), "stop": int(stop)}
        meta["ledger"] |= {**ledger, "n_in": int(stop) - int(start)}
        return meta

    stream.read_chunk_meta = made_up
    driver.tasks = lambda units, _threads: [[unit] for unit in units]
    try:
        yield
    finally:
        stream.read_chunk_meta, driver.tasks = real, together


def chunk_of(case: Case) -> Path:
    """A real chunk of the case, without scores as the dry runs are."""
    case.run(scorers={}, thresholds={})
    return next((case.folder / "run").glob("columns/*/*.parquet"))


def dry_run(client: Any, case: Case, tasks: int) -> tuple[float, float]:
    """(CPU, wall) seconds of `process` over ``tasks`` dry units of a file of that many ranges."""
    real = case.records["big"][0]
    record = replace(real, entries=tasks * EVENTS_OF_TASK, clusters=())
    out = case.folder / "dry"
    shutil.rmtree(out, ignore_errors=True)
    cpu, wall = time.process_time(), time.perf_counter()
    report = stream.process(
        {"big": [record]}, case.features, out, chunk=EVENTS_OF_TASK, client=client, workers=2
    )  # fmt: skip
    if report.units != tasks:
        raise RuntimeError(f"{report.units} units of {tasks} were counted")
    return time.process_time() - cpu, time.perf_counter() - wall


def noop(number: int) -> int:
    """Hardly anything."""
    return number


def bare(client: Any, tasks: int) -> tuple[float, float]:
    """(CPU, wall) seconds of Dask alone over ``tasks`` no-op tasks."""
    from distributed import as_completed

    cpu, wall = time.process_time(), time.perf_counter()
    for future in as_completed(client.map(noop, range(tasks), pure=False)):
        future.result()
        future.release()
    return time.process_time() - cpu, time.perf_counter() - wall


def main(quick: bool) -> dict[str, Any]:
    """Cost per task in turn with Dask's own, then the many tasks."""
    tasks = 300 if quick else 5_000
    case = case_of("l1", [file_of("l1", 10_000)], "driver")
    figures: dict[str, Any] = {"client_gib_100k_tasks": None}
    with dry_footers(chunk_of(case)), dask_client("local", 2) as client:
        client.run(dry_workers)
        dry_run(client, case, 100)
        bare(client, 100)
        pairs = [(dry_run(client, case, tasks), bare(client, tasks)) for _ in range(2)]
        ours, theirs = (min(p[i][0] for p in pairs) for i in (0, 1))
        figures |= {
            "driver_ms_per_task": 1e3 * ours / tasks,
            "noop_ms_per_task": 1e3 * theirs / tasks,
            "driver_over_noop": ours / theirs,
            "driver_tasks_per_s": tasks / min(p[0][1] for p in pairs),
            "noop_tasks_per_s": tasks / min(p[1][1] for p in pairs),
        }
        if not quick:
            before = psutil.Process().memory_info().rss / 2**30
            cpu, wall = dry_run(client, case, MANY)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            figures |= {
                "client_gib_100k_tasks": peak - before,
                "driver_ms_per_task_100k": 1e3 * cpu / MANY,
                "driver_wall_s_100k": wall,
            }
    shutil.rmtree(case.folder)
    return figures


if __name__ == "__main__":
    finish(main("--quick" in sys.argv))
