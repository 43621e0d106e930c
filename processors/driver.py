"""Where units run: a loop, a process pool, or Dask; what comes back is small, and only so much is asked for at once."""

# distributed exports less than its documentation uses.
# pyright: reportPrivateImportUsage=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle

from ..errors import IncompleteError, InputError
from ..workspace import chunk_name, digest, write_chunk
from .core import Recipe, Unit, finish_unit
from .reading import read_columns

log = logging.getLogger(__name__)

#: How often a unit is tried again after the death of its worker.
RETRIES = 3
#: Tasks in flight per Dask thread: enough to hide the scheduler's latency, few enough for a client of any run's size.
AHEAD = 32
#: Entries of one file that go into one task at most, and tasks per thread below which none are put together.
TASK_EVENTS, TASKS_PER_THREAD = 1_000_000, 16


class WorkerlessError(IncompleteError):
    """All workers are gone, and none came back."""


@dataclass(frozen=True)
class Outcome:
    """What a worker says of a unit. ``error``: why its input cannot be used (None: its chunk is written)."""

    unit: Unit
    cpu_s: float = 0.0
    bytes_read: int = 0
    tries: int = 1
    error: str | None = None
    server: str = "local"


@dataclass(frozen=True)
class Job:
    """What is the same for all units of a run: the recipe, and where chunks go."""

    recipe: Recipe
    out: str
    kind: str


def unit_path(out: Path, kind: str, unit: Unit) -> Path:
    """Where a unit's chunk lies."""
    return out / kind / unit.dataset / chunk_name(unit.uuid, unit.start, unit.stop)


def do_unit(unit: Unit, job: Job) -> Outcome:
    """Read, compute and write one unit, on a worker.

    An input that cannot be used is told in the outcome; everything else is raised.
    """
    cpu = time.process_time()
    try:
        columns, delivery = read_columns(unit, job.recipe)
        chunk = finish_unit(columns, job.recipe, unit)
    except InputError as error:
        text = str(error)
        if unit.path not in text:
            text = f"{unit.path}, entries {unit.start}-{unit.stop}: {text}"
        return Outcome(unit, time.process_time() - cpu, error=text)
    except MemoryError:
        text = f"{unit.path}, entries {unit.start}-{unit.stop}: not enough memory; set events.chunk to fewer entries"
        return Outcome(unit, time.process_time() - cpu, error=text)
    write_chunk(unit_path(Path(job.out), job.kind, unit), chunk)
    return Outcome(unit, time.process_time() - cpu, delivery.bytes, delivery.tries, server=delivery.server)


def _loop(units: Sequence[Unit], job: Job) -> Iterator[Outcome]:
    for unit in units:
        yield do_unit(unit, job)


#: The jobs of this process by their digest: a recipe may hold functions of a user's own file, which is not importable here.
_jobs: dict[str, Job] = {}


def pack(job: Job) -> tuple[str, bytes]:
    """(digest, bytes) of a job as other processes can take it."""
    packed = cloudpickle.dumps(job)
    return digest(packed.hex()), packed


def unpack(name: str, packed: bytes) -> Job:
    """The job of `pack`, unpacked once per process."""
    if name not in _jobs:
        _jobs[name] = cloudpickle.loads(packed)
    return _jobs[name]


def do_packed(unit: Unit, name: str, packed: bytes) -> Outcome:
    """`do_unit` for a job of `pack`, on a worker."""
    return do_unit(unit, unpack(name, packed))


def _processes(units: Sequence[Unit], job: Job, workers: int) -> Iterator[Outcome]:
    """A pool of processes; one that dies takes the pool with it, so what was not done goes into a new one."""
    name, packed = pack(job)
    left = list(units)
    for attempt in range(RETRIES + 1):
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                futures = {pool.submit(do_packed, unit, name, packed): unit for unit in left}
                for future in as_completed(futures):
                    outcome = future.result()
                    left.remove(futures[future])
                    yield outcome
                return
        except BrokenProcessPool:
            log.warning("a worker process died; %d ranges go into a new pool (%d)", len(left), attempt + 1)
    # One of them kills its process: each alone, so that it can be named.
    for unit in left:
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                outcome = pool.submit(do_packed, unit, name, packed).result()
        except BrokenProcessPool:
            outcome = Outcome(unit, tries=RETRIES + 2, error=_killed(unit, RETRIES + 2))
        yield outcome


def _killed(unit: Unit, times: int) -> str:
    return f"{unit.path}, entries {unit.start}-{unit.stop}: killed its worker {times} times"


class JobPlugin:
    """Brings the job to every Dask worker once, those that join later included: a task then carries its unit alone."""

    def __init__(self, name: str, packed: bytes) -> None:
        self.job, self.packed = name, packed
        self.name = f"elsewhere-job-{name[:16]}"

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        """Unpack on a worker."""
        unpack(self.job, self.packed)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002
        """Forget the job."""
        _jobs.pop(self.job, None)


def do_known(units: Sequence[Unit], name: str) -> list[Outcome]:
    """`do_unit` for units of one file, whose tree is opened once, with a job that `JobPlugin` brought."""
    return [do_unit(unit, _jobs[name]) for unit in units]


def tasks(units: Sequence[Unit], threads: int) -> list[list[Unit]]:
    """Neighbouring units of one file together, up to `TASK_EVENTS`, if there is enough to do for every thread."""
    total = sum(u.stop - u.start for u in units)
    most = min(TASK_EVENTS, total // (TASKS_PER_THREAD * max(threads, 1)))
    out: list[list[Unit]] = []
    for unit in units:
        last = out[-1] if out else []
        same = bool(last) and last[0].uuid == unit.uuid
        if same and unit.stop - unit.start + sum(u.stop - u.start for u in last) <= most:
            last.append(unit)
        else:
            out.append([unit])
    return out


@contextmanager
def losses_named(address: str) -> Iterator[None]:
    """Turns what Dask says of a cluster that has lost its workers or its scheduler into what to do."""
    from concurrent.futures import CancelledError

    from distributed.comm import CommClosedError
    from distributed.scheduler import NoWorkerError

    try:
        yield
    except NoWorkerError as error:
        raise WorkerlessError(
            f"the Dask cluster at {address} has no worker left; run the same command again, what is done is kept"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise IncompleteError(
            f"the Dask scheduler at {address} was lost ({error}); run the same command again, what is done is kept"
        ) from error


def run_dask(units: Sequence[Unit], job: Job, client: Any) -> Iterator[Outcome]:
    """The units over a Dask client, at most `AHEAD` tasks per thread at a time; a unit that kills its workers is an outcome.

    A worker that dies takes the tasks waiting for it along, and Dask blames them all: whatever was blamed runs again alone.
    """
    from distributed import WorkerPlugin
    from distributed.comm import CommClosedError

    name, packed = pack(job)
    address = client.scheduler.address
    # Dask wants its own base class, which is not imported before it is needed.
    plugin = type("JobPlugin", (JobPlugin, WorkerPlugin), {})(name, packed)
    suspects: list[Unit] = []
    try:
        with losses_named(address):
            client.register_plugin(plugin)
            threads = sum(client.nthreads().values())
            for mine, outcomes in _flights(tasks(units, threads), name, client, AHEAD):
                if outcomes is None:
                    suspects += mine
                else:
                    yield from outcomes
            for mine, outcomes in _flights([[u] for u in suspects], name, client, 0):
                yield from outcomes or [
                    Outcome(u, tries=RETRIES + 1, error=_killed(u, RETRIES + 1)) for u in mine
                ]
    finally:
        # A worker that dies at this moment, or a scheduler that is gone, must not lose a finished run.
        with suppress(OSError, CommClosedError):
            if client.status == "running":
                client.unregister_worker_plugin(plugin.name)


def _flights(
    waiting: Sequence[list[Unit]], name: str, client: Any, ahead: int
) -> Iterator[tuple[list[Unit], list[Outcome] | None]]:
    """Every task and its outcomes as they come, None where its workers died; ``ahead`` 0: one task at a time."""
    from distributed import KilledWorker
    from distributed import as_completed as dask_completed

    left, running = iter(waiting), dask_completed(loop=client.loop)
    flying: dict[str, list[Unit]] = {}

    def refill() -> None:
        most = max(1, ahead * sum(client.nthreads().values()))
        if len(flying) > most // 2:
            return
        batch = list(islice(left, most - len(flying)))
        futures = client.map(do_known, batch, name=name, pure=False, retries=RETRIES)
        flying.update({f.key: u for f, u in zip(futures, batch, strict=True)})
        running.update(futures)

    refill()
    for future in running:
        mine = flying.pop(future.key)
        try:
            outcomes = future.result()
        except KilledWorker:
            outcomes = None
        future.release()
        refill()
        yield mine, outcomes


def execute(
    units: Sequence[Unit], job: Job, scheduler: str, workers: int, client: Any = None
) -> Iterator[Outcome]:
    """Run `do_unit` on every unit; outcomes as they come. ``client``: a Dask client to use instead of ``scheduler``."""
    if not units:
        return
    if client is not None:
        yield from run_dask(units, job, client)
    elif scheduler == "loop":
        yield from _loop(units, job)
    elif scheduler == "processes":
        yield from _processes(units, job, workers)
    else:
        yield from _own_client(units, job, scheduler, workers)


def _own_client(units: Sequence[Unit], job: Job, scheduler: str, workers: int) -> Iterator[Outcome]:
    """`run_dask` at an address, or on a local cluster: where that has lost all its workers what is left goes to a new one."""
    from .environment import dask_client

    left = dict.fromkeys(units)
    for attempt in range(RETRIES + 1):
        try:
            with dask_client(scheduler, workers) as client:
                for outcome in run_dask(list(left), job, client):
                    del left[outcome.unit]
                    yield outcome
                return
        except WorkerlessError:
            if scheduler != "local" or attempt == RETRIES:
                raise
            log.warning("all workers are gone; %d ranges go to a new cluster (%d)", len(left), attempt + 1)
