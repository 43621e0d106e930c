"""Clusters of separate processes: certificates, versions, workers that die and join, another or no package on workers."""

import subprocess
import time
from pathlib import Path

import pytest
from distributed import Client
from distributed.security import Security
from elsewhere.deploy.clusters import cluster_client, require_shared
from elsewhere.deploy.clusters.gate import TOPIC
from elsewhere.deploy.clusters.sections import cluster_section
from elsewhere.deploy.clusters.start import connected
from elsewhere.errors import ConfigError
from elsewhere.processors.environment import Warm
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.nano import write_nano
from elsewhere.workspace import file_digest

from ..processors.conftest import dijet_columns
from .cluster_processes import Processes, write_certificates


def columns(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): file_digest(p) for p in sorted(out.glob("columns/*/*"))}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    for seed in range(16):
        write_nano(folder / f"{seed}.root", dijet_columns(250, seed))
    return preflight({"qcd": sorted(str(p) for p in folder.iterdir())}, Dijet())


@pytest.fixture(scope="module")
def loop(records, tmp_path_factory):
    out = tmp_path_factory.mktemp("loop")
    process(records, Dijet(), out, scheduler="loop", key="k")
    return columns(out)


@pytest.fixture(scope="module")
def facility(tmp_path_factory):
    """A scheduler that asks for certificates, and two workers."""
    folder = tmp_path_factory.mktemp("facility")
    started = Processes(folder, write_certificates(folder))
    try:
        started.scheduler()
        started.worker()
        started.worker()
        yield started
    finally:
        started.stop()


def section(started: Processes, **more):
    tls = {} if started.tls is None else {"tls": started.tls}
    return {"kind": "address", "scheduler": started.address, "wait_s": 30.0, **tls, **more}


def two_workers(client: Client) -> None:
    client.wait_for_workers(2, timeout=30)


def fake(folder: Path, name: str, version: str) -> dict[str, str]:
    """An environment in which a package seems to have another version."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return {"PYTHONPATH": str(folder)}


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_columns_over_tls_are_those_of_the_loop(facility, records, loop, tmp_path):
    assert facility.address.startswith("tls://")
    with cluster_client(section(facility), plugins=[Warm()]) as client:
        two_workers(client)
        require_shared(client, tmp_path)
        process(records, Dijet(), tmp_path, client=client, key="k")
    assert columns(tmp_path) == loop
    assert not list(tmp_path.glob(".probe*"))


def test_a_client_without_a_certificate_is_refused(facility):
    ca_only = Security(tls_ca_file=facility.tls["ca"], require_encryption=True)
    with pytest.raises((OSError, TypeError)):
        Client(facility.address, security=ca_only, timeout=2)
    with pytest.raises(ConfigError, match="needs certificates"):
        connected(cluster_section({"kind": "address", "scheduler": facility.address}))
    plain = facility.address.replace("tls://", "tcp://")
    with pytest.raises(ConfigError, match="no Dask scheduler answered"):
        connected(cluster_section({"kind": "address", "scheduler": plain, "wait_s": 2.0}))


def test_a_worker_of_other_versions_is_refused_when_it_joins(facility, tmp_path):
    with cluster_client(section(facility)) as client:
        two_workers(client)
        stranger = facility.worker(fake(tmp_path, "uproot", "0.0.1"))
        wait_for(lambda: stranger.poll() is not None)
        assert len(client.scheduler_info()["workers"]) == 2
        refused = [told["why"] for _, told in client.get_events(TOPIC) if told["why"] is not None]
    assert len(refused) == 1
    assert refused[0].startswith("has uproot 0.0.1, the client ")


def test_a_worker_of_other_versions_that_is_there_is_named(tmp_path):
    started = Processes(tmp_path)
    try:
        started.scheduler()
        started.worker(fake(tmp_path, "awkward", "9.9"))
        with Client(started.address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
        expected = r"worker tcp://.* has awkward 9.9, the client .*one environment"
        with pytest.raises(ConfigError, match=expected), cluster_client(section(started)):
            pass
    finally:
        started.stop()


class Slow:
    """A score that takes long enough for something to happen meanwhile."""

    def score(self, events):
        time.sleep(0.2)
        return events.mass


@pytest.mark.slow
def test_a_worker_dies_and_another_joins_mid_run(records, tmp_path):
    started = Processes(tmp_path)
    settings = {"key": "k", "scorers": {"slow": Slow()}}
    process(records, Dijet(), tmp_path / "loop", scheduler="loop", **settings)
    try:
        started.scheduler()
        first = started.worker()
        joined: list[subprocess.Popen] = []

        def replace(done: int, _total: int) -> None:
            if done >= 1000 and not joined:
                joined.append(started.worker())
                started.kill(first)

        with cluster_client(section(started), plugins=[Warm()]) as client:
            before = set(client.scheduler_info()["workers"])
            process(records, Dijet(), tmp_path / "dask", client=client, progress=replace, **settings)
            after = set(client.scheduler_info()["workers"])
            warm = [told for _, told in client.get_events(TOPIC) if told["worker"] in after]
    finally:
        started.stop()
    assert len(before) == len(after) == 1
    assert before != after
    assert [told["why"] for told in warm] == [None]
    assert columns(tmp_path / "dask") == columns(tmp_path / "loop")


def where_the_package_is() -> str:
    import elsewhere

    return elsewhere.__file__


@pytest.mark.slow
def test_the_package_is_sent_to_workers_that_have_another(records, loop, tmp_path):
    old = tmp_path / "old" / "elsewhere"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text('__version__ = "0.0.0"\n')
    started = Processes(tmp_path, environment={"PYTHONPATH": str(old.parent)})
    try:
        started.scheduler()
        started.worker()
        with Client(started.address, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
            assert set(client.run(where_the_package_is).values()) == {str(old / "__init__.py")}
        refused = pytest.raises(ConfigError, match=r"has elsewhere .*package: ship")
        with refused, cluster_client(section(started)):
            pass
        with cluster_client(section(started, package="ship"), plugins=[Warm()]) as client:
            started.worker()
            two_workers(client)
            found = client.run(where_the_package_is)
            process(records, Dijet(), tmp_path / "out", client=client, key="k")
    finally:
        started.stop()
    assert len(found) == 2
    assert not any(str(old) in path for path in found.values())
    assert columns(tmp_path / "out") == loop
