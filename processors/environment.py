"""The workers' environment, owned in one place: allocator thresholds, one thread each, warm imports, and a check.

Dask's nanny sets MALLOC_TRIM_THRESHOLD_=65536, which makes glibc give every large array back to the system at once:
a columnar task then costs more than twice its CPU. Both thresholds must be raised together, before Python starts.
"""

# distributed accepts None and exports less than its documentation uses.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from distributed.diagnostics.plugin import WorkerPlugin

from ..errors import ConfigError

log = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # so that the two below hold for Parquet too
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
#: Seconds the workers of a local cluster have to start, the last one of them to come back, and the cluster to end.
START_S, LOST_S, CLOSING_S = 120.0, 60.0, 30.0
#: What every unit needs; scorers add theirs.
MODULES = ("numpy", "awkward", "uproot", "pyarrow.parquet", "hist", "elsewhere.processors.stream")
#: Types of the branches that are not float32.
_KIND = {"bx": "int16", "etSumType": "int32"}


def prepare_process() -> list[str]:
    """Run in a worker before its first task: one torch thread; returns what differs from the environment asked for."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return [k for k, v in WORKER_ENVIRONMENT.items() if os.environ.get(k) != v]


def warm_kernels() -> None:
    """Compile the numba kernels, or load them from the cache, on events of the types NanoAOD has."""
    import awkward as ak

    from .features import Dijet, Level1

    one = ak.Array([[1.0], [1.0]])  # of two events: an array of one is of either memory order
    for features in (Dijet(), Level1()):
        names = (*features.branches, *features.optional)
        columns = {
            name: ak.values_astype(one, _KIND.get(name.partition("_")[2], "float32")) for name in names
        }
        features.compute({name: c for name, c in columns.items() if name != "Pileup_nPU"})


class Warm(WorkerPlugin):
    """Checks a worker's environment and imports what its tasks need, so that no task pays for it.

    A plugin also reaches the workers that join later. ``modules``: what the scorers need beyond `MODULES`, such as
    ``torch`` or ``lightgbm``. ``strict``: a wrong environment is a `ConfigError` (clusters this process starts);
    otherwise a warning.
    """

    name = "elsewhere-warm"

    def __init__(self, modules: Sequence[str] = (), *, strict: bool = True) -> None:
        self.modules, self.strict = (*MODULES, *modules), strict

    def setup(self, worker: Any) -> None:
        """Import, compile, check; raises `ConfigError` for a wrong environment where ``strict``."""
        for module in self.modules:
            import_module(module)
        warm_kernels()
        wrong = prepare_process()
        if not wrong:
            return
        text = f"worker {worker.address} lacks {', '.join(f'{k}={WORKER_ENVIRONMENT[k]}' for k in wrong)}"
        if self.strict:
            raise ConfigError(
                f"{text}; set them before its Python starts, or run where Dask starts the workers"
            )
        log.warning("%s: its tasks may take more than twice the CPU", text)


def environment_problems(client: Any) -> dict[str, list[str]]:
    """Which variables are wrong, by worker of ``client``; empty when all is well."""
    answers: Any = client.run(prepare_process)
    return {worker: wrong for worker, wrong in dict(answers).items() if wrong}


@contextmanager
def dask_client(scheduler: str, workers: int) -> Iterator[Any]:
    """A client of a local cluster on 127.0.0.1 ('local') or of the scheduler at an address; closed at the end."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler != "local":
        with Client(scheduler, timeout="20s") as client:
            warn_of_environment(client)
            client.register_plugin(Warm(strict=False))
            yield client
        return
    settings: dict[str, Any] = {
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        "distributed.worker.memory.terminate": False,
        # A nanny whose worker dies while it starts gives up, and tasks without any worker would wait for ever.
        "distributed.scheduler.no-workers-timeout": f"{LOST_S}s",
    }
    with dask.config.set(settings), _exported(WORKER_ENVIRONMENT):
        # Without workers at first: Dask waits for ever for a worker that is killed while it starts.
        cluster = LocalCluster(
            n_workers=0, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0",
            silence_logs=logging.ERROR,
        )  # fmt: skip
        try:
            with Client(cluster) as client:
                client.register_plugin(Warm())
                cluster.scale(workers)
                client.wait_for_workers(workers, timeout=START_S)
                yield client
        finally:
            with suppress(TimeoutError):
                cluster.close(timeout=CLOSING_S)


@contextmanager
def _exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables while a cluster starts: a nanny prefers this process's environment, which an earlier one may have
    changed, to any configuration."""
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def warn_of_environment(client: Any) -> None:
    """Say once which variables workers that somebody else started lack."""
    wrong = environment_problems(client)
    if wrong:
        names = sorted({name for found in wrong.values() for name in found})
        log.warning("%d workers lack %s: tasks may take more than twice the CPU", len(wrong), names)
