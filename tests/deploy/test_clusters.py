"""Connecting to clusters that somebody else started."""

import copy

import pytest
from distributed import LocalCluster
from elsewhere.deploy.clusters import _require_versions, connect, ray_address
from elsewhere.errors import ConfigError


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as made:
        yield made


def test_local_needs_no_client():
    assert connect("local") is None


def test_a_running_scheduler_does_work(cluster):
    client = connect(cluster.scheduler_address, timeout_s=10)
    assert client is not None
    with client:
        assert client.submit(pow, 2, 10).result(timeout=10) == 1024


def test_other_versions_are_refused(cluster):
    client = connect(cluster.scheduler_address)
    assert client is not None
    with client:
        versions = client.get_versions()
    _require_versions(versions, "tcp://x")
    other = copy.deepcopy(versions)
    other["scheduler"]["packages"]["distributed"] = "1.0"
    with pytest.raises(ConfigError, match=r"the scheduler of tcp://x has distributed 1.0"):
        _require_versions(other, "tcp://x")
    other = copy.deepcopy(versions)
    next(iter(other["workers"].values()))["host"]["python"] = "3.9.1.final.0"
    with pytest.raises(ConfigError, match=r"worker .* runs Python 3.9"):
        _require_versions(other, "tcp://x")


def test_a_scheduler_that_does_not_answer_is_named():
    with pytest.raises(ConfigError, match=r"no Dask scheduler answered at tcp://127.0.0.1:9 within 1 s"):
        connect("tcp://127.0.0.1:9", timeout_s=1)


@pytest.mark.parametrize("scheduler", ["cluster", "http://a:1", ""])
def test_an_address_of_another_kind_is_refused(scheduler):
    with pytest.raises(ConfigError, match="expected 'local'"):
        connect(scheduler)


def test_ray_addresses():
    assert ray_address("local") is None
    for spec in ("auto", "head:6379", "ray://head:10001"):
        assert ray_address(spec) == spec
    for spec in ("head", "ray://head", "tcp://head:1"):
        with pytest.raises(ConfigError, match="Ray address"):
            ray_address(spec)
