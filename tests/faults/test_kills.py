"""Death in the middle: of a worker, of the driver, of the scheduler, by the memory limit, and by one poisoned range."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import cloudpickle
import pytest
from elsewhere.errors import IncompleteError, InputError
from elsewhere.processors import environment
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace

from .conftest import EVENTS, checked, child, products

#: The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Mass:
    """An honest scorer."""

    def score(self, events):
        return events.mass / 1000.0


class KillOnce:
    """Kills its own worker the first time it is asked."""

    def __init__(self, flag):
        self.flag = str(flag)

    def score(self, events):
        if not os.path.exists(self.flag):
            Path(self.flag).touch()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        return events.mass / 1000.0


class Poison:
    """Kills its worker whenever it meets event 450 of luminosity block 1: entries 400-600 of file a."""

    def score(self, events):
        if ((events.identity["event"] == 450) & (events.identity["luminosityBlock"] == 1)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return events.mass / 1000.0


SETTINGS = {"chunk": 200, "thresholds": {"mass": [3.0]}, "key": "k"}


@pytest.fixture(scope="module")
def whole(good, tmp_path_factory):
    """(fileset, what an undisturbed run makes)."""
    found, out = checked(good.a, good.b), tmp_path_factory.mktemp("whole")
    process(found, Dijet(), out, scheduler="loop", scorers={"mass": Mass()}, **SETTINGS)
    return found, products(out)


@pytest.mark.fault(25)
@pytest.mark.parametrize("scheduler", ["local", "processes"])
def test_a_killed_worker_changes_no_bit(whole, tmp_path, scheduler):
    found, want = whole
    scorers = {"mass": KillOnce(tmp_path / "killed")}
    process(found, Dijet(), tmp_path / "out", scheduler=scheduler, workers=2, scorers=scorers, **SETTINGS)
    assert (tmp_path / "killed").exists()
    assert products(tmp_path / "out") == want


@pytest.mark.fault(26)
def test_a_range_that_kills_every_worker_is_refused_by_its_range(whole, tmp_path):
    with pytest.raises(InputError, match=r"a\.root, entries 400-600: killed its worker 4 times"):
        process(whole[0], Dijet(), tmp_path, scheduler="local", workers=2, scorers={"mass": Poison()}, **SETTINGS)  # fmt: skip
    assert not (tmp_path / "histograms.root").exists()


@pytest.mark.fault(26)
def test_a_range_that_kills_every_worker_is_put_aside_and_the_rest_finishes(whole, tmp_path):
    found, want = whole
    report = process(
        found, Dijet(), tmp_path, scheduler="local", workers=2, scorers={"mass": Poison()}, strict=False, **SETTINGS
    ).to_json()  # fmt: skip
    (aside,) = report["quarantine"]
    assert aside["path"] == found["data"][0].path
    assert re.search(r"400-600.*killed its worker", aside["reason"])
    assert report["complete"] is False
    kept = report["datasets"]["data"]["kept"]
    assert kept == 2 * EVENTS - aside["events"]
    assert len(Workspace(tmp_path).read_table("data")) == kept
    made = products(tmp_path)
    assert all(want[name] == sha for name, sha in made.items() if name.endswith(".parquet"))


@pytest.mark.fault(25)
@pytest.mark.parametrize("clusters", [1, 9])
def test_a_cluster_that_has_lost_all_workers_is_replaced(whole, tmp_path, monkeypatch, clusters):
    """The first, or every one, loses them before anything is done."""
    started, real = [], environment.dask_client

    @contextmanager
    def losing(scheduler, workers):
        with real(scheduler, workers) as client:
            started.append(scheduler)
            if len(started) <= clusters:
                client.cluster.scale(0)
                while client.nthreads():
                    time.sleep(0.05)
            yield client

    monkeypatch.setattr(environment, "LOST_S", 1.0)
    monkeypatch.setattr(environment, "dask_client", losing)

    def run():
        process(
            whole[0], Dijet(), tmp_path, scheduler="local", workers=1, scorers={"mass": Mass()}, **SETTINGS
        )

    if clusters == 1:
        run()
        assert products(tmp_path) == whole[1]
    else:
        with pytest.raises(IncompleteError, match="has no worker left; run the same command again"):
            run()
    assert started == ["local"] * min(clusters + 1, 4)


RUN = """
    import sys
    from pathlib import Path
    from elsewhere.processors.features import Dijet
    from elsewhere.processors.preflight import preflight
    from elsewhere.processors.stream import process
    class Mass:
        def score(self, events):
            return events.mass / 1000.0
    out, scheduler, chunk, *files = sys.argv[1:]
    if __name__ == "__main__":
        process(preflight({"data": files}, Dijet()), Dijet(), Path(out), scheduler=scheduler, chunk=int(chunk),
                scorers={"mass": Mass()}, thresholds={"mass": [3.0]}, key="k",
                progress=lambda d, t: print(d, flush=True))
"""


def until(running, events):
    """Read a run's progress until so many events are done."""
    for line in running.stdout:
        if line.strip().isdigit() and int(line) >= events:
            return
    raise AssertionError(running.stderr.read())


@pytest.mark.fault(27)
def test_a_driver_killed_three_times_ends_as_if_it_had_not_been(good, whole, tmp_path):
    found, settings = whole[0], {**SETTINGS, "chunk": 20, "scorers": {"mass": Mass()}}
    process(found, Dijet(), tmp_path / "whole", scheduler="loop", **settings)
    for events in (60, 400, 900):
        with child(RUN, tmp_path / "out", "loop", 20, good.a, good.b) as running:
            until(running, events)
            running.kill()
        assert not (tmp_path / "out" / "histograms.root").exists()
    report = process(found, Dijet(), tmp_path / "out", scheduler="loop", **settings)
    assert 45 <= report.reused < 60
    assert report.datasets["data"].kept == 2 * EVENTS
    assert products(tmp_path / "out") == products(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """(address, scheduler, worker) of a Dask cluster of two processes on this machine."""
    address = f"tcp://127.0.0.1:{free_port()}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = child(
        """
        import asyncio, sys
        from distributed import Scheduler
        async def main():
            async with Scheduler(host="127.0.0.1", port=int(sys.argv[1].rpartition(":")[2]), dashboard=False) as one:
                await one.finished()
        asyncio.run(main())
        """,
        address, **quiet,
    )  # fmt: skip
    worker = child(
        """
        import asyncio, sys
        from distributed import Worker
        async def main():
            async with Worker(sys.argv[1], nthreads=1, host="127.0.0.1", dashboard=False) as one:
                await one.finished()
        asyncio.run(main())
        """,
        address, **quiet,
    )  # fmt: skip
    yield address, scheduler, worker
    for process_ in (worker, scheduler):
        process_.kill()
        process_.wait()


@pytest.mark.fault(28)
def test_a_lost_scheduler_ends_the_run_with_its_name_and_the_rerun_goes_on(good, cluster, tmp_path):
    address, scheduler, _ = cluster
    with child(RUN, tmp_path / "out", address, 4, good.a, good.b) as running:
        until(running, 40)
        scheduler.kill()
        code = running.wait(timeout=40)
        said = running.stderr.read()
    assert code != 0
    assert re.search(f"(IncompleteError|InputError|OSError).*{address}", said), said[-2000:]
    assert not (tmp_path / "out" / "histograms.root").exists()
    settings = {**SETTINGS, "chunk": 4, "scorers": {"mass": Mass()}}
    report = process(checked(good.a, good.b), Dijet(), tmp_path / "out", scheduler="loop", **settings)
    assert 0 < report.reused < report.units
    process(checked(good.a, good.b), Dijet(), tmp_path / "whole", scheduler="loop", **settings)
    assert products(tmp_path / "out") == products(tmp_path / "whole")


HUNGRY = """
    import resource, sys
    from pathlib import Path
    import numpy as np
    from elsewhere.errors import ElsewhereError
    from elsewhere.events import Column, FeatureSet
    from elsewhere.processors.features import FunctionFeatures
    from elsewhere.processors.preflight import preflight
    from elsewhere.processors.stream import process
    MEGABYTES = float(sys.argv[3])
    def hungry(columns):
        n = len(columns["FatJet_pt"])
        np.ones(int(n * MEGABYTES * 2**17)).sum()
        return {"a": np.ones(n), "keep": np.ones(n, bool)}
    features = FunctionFeatures(FeatureSet("hungry", (Column("a", "", ""),)), ("FatJet_pt",), hungry)
    found = preflight({"data": [sys.argv[2]]}, features)
    process(found, features, Path(sys.argv[1]) / "warm", scheduler="loop", chunk=10_000, key="w") if MEGABYTES < 0.1 else None
    from elsewhere.processors import reading, report
    import uproot, pyarrow
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20, used + 400 * 2**20))
    try:
        made = process(found, features, Path(sys.argv[1]) / "out", scheduler="loop", chunk=600, key="k")
    except ElsewhereError as error:
        sys.exit(f"refused: {error}")
    print(made.datasets["data"].kept)
"""


@pytest.mark.fault(29)
def test_a_range_too_large_for_the_memory_is_halved_or_named(good, tmp_path):
    """One megabyte per event and 400 to spare: 600 events at once do not fit, 300 do."""
    with child(HUNGRY, tmp_path, good.a, 1.0) as running:
        out, said = running.communicate(timeout=60)
    if running.returncode == 0:
        assert int(out) == EVENTS
    else:
        assert re.search(r"refused: .*a\.root, entries 0-600: .*memory", said), said[-2000:]


@pytest.mark.fault(29)
def test_a_single_event_too_large_for_the_memory_is_named(good, tmp_path):
    with child(HUNGRY, tmp_path, good.a, 500.0) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert re.search(r"refused: .*a\.root, entries \d+-\d+: .*memory", said), said[-2000:]
