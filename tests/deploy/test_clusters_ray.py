"""Ray on the nodes that a Dask cluster holds: comes up, computes on the node and not on the head, and is gone at the end."""

import os
import subprocess
import sys

import psutil
import pytest
from elsewhere.deploy.clusters import cluster_client, ray_on_dask
from elsewhere.deploy.clusters.ray_nodes import stop_node
from elsewhere.errors import ConfigError

#: In a process of its own: Ray's driver changes the process it runs in.
DRIVER = """
import sys, warnings
warnings.simplefilter("ignore")
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
def work(x):
    return x * x

print("RESULT", sum(ray.get([work.remote(i) for i in range(4)])), int(ray.cluster_resources()["CPU"]))
"""


class NoWorkers:
    def scheduler_info(self):
        return {"workers": {}}


def test_a_cluster_without_workers_is_an_error():
    with pytest.raises(ConfigError, match="no workers yet"), ray_on_dask(NoWorkers()):
        pass


def test_stopping_what_was_not_started_is_nothing():
    stop_node("127.0.0.1:1")


def ray_processes() -> list[psutil.Process]:
    """Ray's servers among the processes that this one and its Dask workers started."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and p.name() in ("raylet", "gcs_server")]


@pytest.mark.slow
def test_ray_runs_where_the_dask_workers_are_and_ends():
    with cluster_client({"kind": "local", "workers": 2}) as client:
        with ray_on_dask(client, wait_s=120) as head:
            servers = ray_processes()
            assert sorted(p.name() for p in servers) == ["gcs_server", "raylet", "raylet"]
            command = [sys.executable, "-c", DRIVER, head]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert "RESULT 14 2" in done.stdout, done.stdout + done.stderr
            stranger = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=120, check=False, env=stranger
            )
            assert "RESULT" not in done.stdout
            assert "token" in done.stderr.lower()
        _, left = psutil.wait_procs(servers, timeout=30)
        assert left == []
        assert client.submit(pow, 2, 3).result(timeout=30) == 8
