"""Ray: on this machine, at an address, or on the nodes that a Dask cluster holds (a head here, one Ray node per host).

Each cluster made here has a fresh token that its nodes and its driver must show; a token that the user keeps elsewhere is
neither read nor used. Traffic is not encrypted. Hosts that join Dask later get no Ray node.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError
from .start import exported

if TYPE_CHECKING:
    from distributed import Client

_STORE_BYTES = 150_000_000
#: Ray nodes that this process started, by address of their head.
_nodes: dict[str, subprocess.Popen[bytes]] = {}


def ray_address(spec: str) -> str | None:
    """What ``ray.init(address=...)`` takes for a line of search.yaml: None starts Ray on this machine.

    ``local``, ``auto`` (a cluster of this machine that already runs), ``HOST:PORT`` or ``ray://HOST:PORT``; ``dask``
    is not an address: see `ray_on_dask`.
    """
    if spec == "local":
        return None
    if spec == "auto":
        return spec
    host, _, port = spec.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(f"Ray address '{spec}': expected 'local', 'auto', HOST:PORT or ray://HOST:PORT")
    return spec


@contextmanager
def ray_on_dask(client: Client, wait_s: float = 60.0) -> Iterator[str]:
    """Ray on the hosts of a Dask cluster; gives HOST:PORT for ``ray.init`` and stops every node at the end.

    The head runs beside the client and takes no work; each host gets one node with as many CPUs as its Dask
    workers have threads. Meanwhile the cluster's token is in this process's environment; Ray reads it once per
    process, so enter this before Ray is first used. Raises `ConfigError` when a node does not come up within ``wait_s`` seconds.
    """
    threads: dict[str, int] = {}
    first: dict[str, str] = {}
    for worker, known in client.scheduler_info()["workers"].items():
        host = known["host"]
        first.setdefault(host, worker)
        threads[host] = threads.get(host, 0) + known["nthreads"]
    if not first:
        raise ConfigError("Ray on Dask: the cluster has no workers yet; wait for them first")
    here = _my_address(client)
    port = _free_port(here)
    head = f"{here}:{port}"
    token = secrets.token_hex(32)
    start_node(head, here, 0, token, head_node=True)
    workers = list(first.values())
    try:
        _wait_for_port(here, port, wait_s)
        for host, worker in first.items():
            client.run(start_node, head, host, threads[host], token, workers=[worker])
        with exported(_authentication(token)):
            _wait_for_nodes(head, len(first) + 1, wait_s)
            yield head
    finally:
        try:
            client.run(
                stop_node, head, workers=[w for w in workers if w in client.scheduler_info()["workers"]]
            )
        finally:
            stop_node(head)


def _my_address(client: Client) -> str:
    """This machine as the scheduler's network sees it."""
    from distributed.comm.addressing import get_address_host
    from distributed.utils import get_ip

    if client.scheduler is None:
        raise ConfigError("Ray on Dask: the client is closed")
    host = get_address_host(str(client.scheduler.address))
    return host if host.startswith("127.") else str(get_ip(host))


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _authentication(token: str) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


def start_node(head: str, host: str, cpus: int, token: str, *, head_node: bool = False) -> None:
    """Start the head, or a node that joins it, as a child of this process; it ends with this process."""
    host_of_head, _, port = head.rpartition(":")
    command = [_ray_command(), "start", "--block", "--disable-usage-stats", f"--num-cpus={cpus}", "--num-gpus=0",
               f"--node-ip-address={host}", f"--object-store-memory={_STORE_BYTES}", "--log-color=false"]  # fmt: skip
    if head_node:
        folder = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it, and their paths are limited
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        command += ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    else:
        command.append(f"--address={host_of_head}:{port}")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **_authentication(token)}
    key = f"{head}{' (head)' if head_node else ''}"
    _nodes[key] = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    atexit.register(stop_node, head)


def stop_node(head: str) -> None:
    """Stop what `start_node` started here for this head; nothing when there is none."""
    for key in [k for k in _nodes if k.startswith(head)]:
        process = _nodes.pop(key)
        for sign, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
            try:
                os.killpg(process.pid, sign)
                process.wait(patience)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _ray_command() -> str:
    beside = Path(sys.executable).with_name("ray")
    found = str(beside) if beside.exists() else shutil.which("ray")
    if found is None:
        raise ConfigError(
            f"no `ray` command beside {sys.executable}; install ray in the workers' environment"
        )
    return found


def _wait_for_port(host: str, port: int, wait_s: float) -> None:
    import socket

    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.1)
    raise ConfigError(f"Ray's head did not come up at {host}:{port} within {wait_s:g} s")


def _wait_for_nodes(head: str, nodes: int, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    alive = 0
    while time.monotonic() < end:
        alive = alive_nodes(head)
        if alive >= nodes:
            return
        time.sleep(0.5)
    raise ConfigError(f"Ray: {alive} of {nodes} nodes joined {head} within {wait_s:g} s; are its ports open?")


#: In a process of its own, which reads the token afresh.
_COUNT = """
import sys
from ray._raylet import GcsClient
print(sum(1 for node in GcsClient(address=sys.argv[1]).get_all_node_info().values() if node.state == 0))
"""


def alive_nodes(head: str) -> int:
    """How many Ray nodes are alive, the head counted; 0 where none answers."""
    asked = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _COUNT, head], capture_output=True, text=True, check=False
    )
    return int(asked.stdout) if asked.returncode == 0 else 0
