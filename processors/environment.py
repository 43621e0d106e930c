"""The workers' environment, owned in one place: allocator thresholds, one thread each, and a check that it took.

Dask's nanny sets MALLOC_TRIM_THRESHOLD_=65536, which makes glibc give every large array back to the system at once:
a columnar task then costs more than twice its CPU. Both thresholds must be raised together, before Python starts.
"""

# distributed accepts None and exports less than its documentation uses.
# pyright: reportArgumentType=false, reportPrivateImportUsage=false

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def prepare_process() -> list[str]:
    """Run in a worker before its first task: one torch thread; returns what differs from the environment asked for."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return [k for k, v in WORKER_ENVIRONMENT.items() if os.environ.get(k) != v]


@contextmanager
def dask_client(scheduler: str, workers: int) -> Iterator[Any]:
    """A client of a local cluster on 127.0.0.1 ('local') or of the scheduler at an address; closed at the end."""
    import dask
    from distributed import Client, LocalCluster

    if scheduler != "local":
        with Client(scheduler, timeout="20s") as client:
            found_by_worker: Any = client.run(prepare_process)
            wrong = {k for found in dict(found_by_worker).values() for k in found}
            if wrong:
                log.warning(
                    "workers at %s lack %s: tasks may take more than twice the CPU", scheduler, sorted(wrong)
                )
            yield client
        return
    settings: dict[str, Any] = {
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        "distributed.worker.memory.terminate": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        client.run(prepare_process)
        yield client
