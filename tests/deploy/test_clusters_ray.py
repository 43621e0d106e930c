"""Ray on the nodes that a Dask cluster holds: comes up, computes on the node and not on the head, and is gone at the end."""

import subprocess
import sys
import time

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


def of(head: str) -> list[psutil.Process]:
    """The processes of a Ray cluster, by the address of its head."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if head in " ".join(process.info["cmdline"] or []) and process.pid != psutil.Process().pid:
            found.append(process)
    return found


@pytest.mark.slow
def test_ray_runs_where_the_dask_workers_are_and_ends():
    with cluster_client({"kind": "local", "workers": 2}) as client:
        with ray_on_dask(client, wait_s=120) as head:
            assert len(of(head)) >= 2
            command = [sys.executable, "-c", DRIVER, head]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert "RESULT 14 2" in done.stdout, done.stdout + done.stderr
        end = time.monotonic() + 30
        while of(head):
            assert time.monotonic() < end, [p.cmdline() for p in of(head)]
            time.sleep(0.2)
        assert client.submit(pow, 2, 3).result(timeout=30) == 8
