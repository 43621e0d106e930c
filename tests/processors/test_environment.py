"""The workers' environment: set before Python starts, checked, warm before the first task, also where workers join late."""

import os
import time

import pytest
from distributed import Client, LocalCluster
from elsewhere.errors import ConfigError
from elsewhere.processors.environment import (
    WORKER_ENVIRONMENT,
    Warm,
    dask_client,
    environment_problems,
    prepare_process,
    warm_kernels,
    warn_of_environment,
)
from elsewhere.processors.features import Dijet, Level1
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.shipped import shipped

#: Asked of a worker by name alone, because it cannot import this module.
ASK = "sorted({'uproot', 'hist', 'pyarrow.parquet', 'elsewhere.processors.stream', 'torch'} & set(__import__('sys').modules))"


class FakeWorker:
    address = "tcp://w:1"


def test_a_wrong_variable_is_named(monkeypatch):
    for name, value in WORKER_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert prepare_process() == []
    Warm().setup(FakeWorker())
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert prepare_process() == ["MALLOC_TRIM_THRESHOLD_"]
    with pytest.raises(ConfigError, match="worker tcp://w:1 lacks MALLOC_TRIM_THRESHOLD_=536870912"):
        Warm().setup(FakeWorker())


def test_workers_of_somebody_else_are_warned_of(monkeypatch, caplog):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    Warm(strict=False).setup(FakeWorker())
    assert "lacks" in caplog.text
    assert "OMP_NUM_THREADS=1" in caplog.text
    caplog.clear()
    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            protocol="tcp",
            dashboard_address="127.0.0.1:0",
            threads_per_worker=1,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        warn_of_environment(client)
        [wrong] = environment_problems(client).values()
    assert "OMP_NUM_THREADS" in wrong
    assert "1 workers lack" in caplog.text


def test_what_a_scorer_needs_is_imported_and_nothing_else(monkeypatch):
    seen = []
    monkeypatch.setattr("elsewhere.processors.environment.import_module", seen.append)
    monkeypatch.setattr("elsewhere.processors.environment.warm_kernels", lambda: seen.append("kernels"))
    Warm(["lightgbm"], strict=False).setup(FakeWorker())
    assert "elsewhere.processors.stream" in seen
    assert seen[-2:] == ["lightgbm", "kernels"]
    assert "torch" not in seen


def test_the_kernels_are_warm_for_real_files(records, tmp_path):
    """A real file's types need no compilation after the warm-up."""
    from elsewhere.processors.kernels import dijet_kernel, leading_kernel, sums_kernel

    kernels = (dijet_kernel, leading_kernel, sums_kernel)
    warm_kernels()
    before = [list(kernel.signatures) for kernel in kernels]
    assert all(before)
    process(records, Dijet(), tmp_path / "dijet", scheduler="loop")
    level1 = preflight({"zb": [str(shipped("zerobias"))]}, Level1())
    process(level1, Level1(), tmp_path / "l1", scheduler="loop")
    assert [list(kernel.signatures) for kernel in kernels] == before


def test_a_local_cluster_is_warm_before_its_first_task_and_so_is_a_worker_that_joins():
    with dask_client("local", 1) as client:
        assert environment_problems(client) == {}
        assert list(client.run(os.environ.get, "MALLOC_MMAP_THRESHOLD_").values()) == ["33554432"]
        client.cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        end = time.monotonic() + 30
        while len(client.run(prepare_process)) < 2:
            assert time.monotonic() < end
        # A task starts on a worker only after its plugins were set up.
        workers = list(client.scheduler_info()["workers"])
        loaded = [client.submit(eval, ASK, workers=[w], pure=False).result(timeout=30) for w in workers]
    assert loaded == [["elsewhere.processors.stream", "hist", "pyarrow.parquet", "uproot"]] * 2
