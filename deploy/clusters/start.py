"""Start or find a cluster of any kind, hand it the environment, and let in only workers that agree with the client."""

# distributed exports less than its documentation uses, and the libraries of clusters have no types.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import cloudpickle

from ...errors import ConfigError
from . import gate
from .batch import make_cluster, optional, security_of
from .sections import (
    Address,
    Batch,
    ClusterSection,
    Gateway,
    Kubernetes,
    Local,
    cluster_section,
    require_scheme,
)
from .shipping import package_archive

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

#: Packages that must agree between client, scheduler and workers: they define what is sent over the wire.
_ON_THE_WIRE = ("dask", "distributed", "msgpack", "cloudpickle")


#: Seconds a local cluster has for its end; what is left then ends with this process.
CLOSING_S = 30.0
#: Seconds after which tasks of a local cluster without any worker fail.
LOST_S = 60.0


@contextmanager
def cluster_client(
    section: ClusterSection | Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    plugins: Sequence[Any] = (),
) -> Iterator[Client]:
    """A client of the cluster that ``section`` describes; what was started for it is stopped at the end.

    ``environment``: variables set before a worker's Python starts, where this process starts the workers or their
    nannies. ``plugins``: worker plugins set up on every worker, also on those that join later, once its versions
    were found to be the client's. A worker with other versions gets no task. Raises `ConfigError` for an unreachable
    scheduler, the first difference in versions, a missing optional library, or no worker within ``wait_s``.
    """
    section = cluster_section(section)
    variables = dict(environment or {})
    with ExitStack() as stack:
        cluster = _started(section, variables, stack)
        client = stack.enter_context(_client(section, cluster))
        stack.enter_context(_admitted(client, section, variables, plugins))
        _scale(cluster, section)
        if getattr(section, "maximum", None) is None or getattr(section, "minimum", 0):
            wait_for_worker(client, section)
        if isinstance(section, Local):
            with suppress(TimeoutError):  # one that died while it started is not waited for
                client.wait_for_workers(section.workers, timeout=CLOSING_S)
        yield client


def _started(section: ClusterSection, environment: dict[str, str], stack: ExitStack) -> Any:
    """The cluster object, or None where somebody else runs the scheduler."""
    if isinstance(section, Local):
        return stack.enter_context(_local(section, environment))
    if isinstance(section, Batch):
        if section.tls is None:
            log.warning(
                "the scheduler takes code from anyone who reaches its port; give tls on a shared network"
            )
        return stack.enter_context(make_cluster(section, environment))
    if isinstance(section, Gateway):
        return stack.enter_context(_gateway(section))
    if isinstance(section, Kubernetes):
        return stack.enter_context(_kubernetes(section, environment))
    return None


@contextmanager
def exported(environment: Mapping[str, str]) -> Iterator[None]:
    """Set variables, because nannies prefer this process's environment to any configuration; put back at the end."""
    before = {
        name: os.environ.get(name) for name in (*environment, "PYTHONHASHSEED")
    }  # nannies set the last one
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _local(section: Local, environment: dict[str, str]) -> Iterator[Any]:
    import dask
    from distributed import LocalCluster

    settings: dict[str, Any] = {
        "distributed.worker.memory.terminate": False,
        # A nanny whose worker dies while it starts gives up, and tasks without any worker would wait for ever.
        "distributed.scheduler.no-workers-timeout": f"{LOST_S}s",
    }
    if environment:
        settings["distributed.nanny.pre-spawn-environ"] = environment
    encrypted = {} if section.tls is None else {"protocol": "tls://", "security": security_of(section.tls)}
    with exported(environment), dask.config.set(settings):
        # Without workers at first: Dask waits for ever for a worker that is killed while it starts.
        cluster = LocalCluster(
            n_workers=0, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR,
            memory_limit=section.memory or "auto", **encrypted,
        )  # fmt: skip
        try:
            cluster.scale(section.workers)
            yield cluster
        finally:
            with suppress(TimeoutError):
                cluster.close(timeout=CLOSING_S)


@contextmanager
def _gateway(section: Gateway) -> Iterator[Any]:
    library = optional("dask_gateway", "gateway")
    where = {"address": section.address, "proxy_address": section.proxy_address, "auth": section.auth}
    try:
        with library.Gateway(**where) as server:
            made = server.connect(section.name) if section.name else server.new_cluster(**section.options)
            with made as cluster:
                yield cluster
    except (OSError, ValueError, library.GatewayServerError, library.GatewayClusterError) as error:
        raise ConfigError(
            f"cluster.address: the gateway at {section.address or 'the configured address'} gave no cluster ({error}); "
            "check address, auth and options"
        ) from error


def _kubernetes(section: Kubernetes, environment: dict[str, str]) -> Any:
    operator = optional("dask_kubernetes.operator", "kubernetes")
    return operator.KubeCluster(custom_cluster_spec=pod_spec(section, environment), namespace=section.namespace,
                                resource_timeout=int(section.wait_s), quiet=True)  # fmt: skip


def pod_spec(section: Kubernetes, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The DaskCluster resource of a section, with one-thread workers and the environment in their pods."""
    operator = optional("dask_kubernetes.operator", "kubernetes")
    memory = section.memory.replace(" ", "").removesuffix("B").removesuffix("i")
    memory += "i" if "i" in section.memory else ""
    amount = {"cpu": str(section.cores), "memory": memory}
    return operator.make_cluster_spec(
        name=section.name, image=section.image,
        n_workers=section.minimum if section.maximum is not None else section.workers or 2,
        resources={"requests": amount, "limits": amount}, env={**(environment or {}), **section.environment},
        worker_command=["dask", "worker", "--nthreads", "1"],
    )  # fmt: skip


@contextmanager
def _client(section: ClusterSection, cluster: Any) -> Iterator[Client]:
    """A client of the cluster, or of the address in the section."""
    from distributed import Client

    if cluster is not None:
        with Client(cluster, timeout=section.wait_s) as client:
            yield client
        return
    if not isinstance(section, Address):
        raise ConfigError(f"cluster.kind {section.kind} cannot be connected to")
    with connected(section, default=True) as client:
        yield client


def connected(section: Address, *, default: bool = False) -> Client:
    """A client of a running scheduler, ``default``: for everything Dask computes in this process meanwhile.

    Raises `ConfigError` that says why there is none.
    """
    import dask
    from distributed import Client

    security = security_of(section.tls)
    configured = dask.config.get("distributed.comm.tls.client.cert", None)
    if section.scheduler.startswith("tls://") and security is None and not configured:
        raise ConfigError(
            f"scheduler '{section.scheduler}' needs certificates; give cluster.tls: {{ca, certificate, key}}"
        )
    try:
        _reach(section.scheduler, section.wait_s, security)
        return Client(section.scheduler, timeout=section.wait_s, set_as_default=default, security=security)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no Dask scheduler answered at {section.scheduler} within {section.wait_s:g} s ({error}); check the "
            "address, that it runs, and whether it asks for certificates"
        ) from error


def _reach(address: str, timeout_s: float, security: Any) -> None:
    """Shake hands with a scheduler and hang up: a Client whose first connection fails leaves its event loop behind."""
    from distributed.comm import connect as shake_hands
    from distributed.security import Security

    async def once() -> None:
        arguments = (security or Security()).get_connection_args("client")
        comm = await shake_hands(address, timeout=timeout_s, **arguments)
        await comm.close()

    # In a thread of its own, for this one may be running an event loop already, as notebooks do.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(once())).result()


def connect(scheduler: str, timeout_s: float = 20.0) -> Client | None:
    """A client of a running Dask scheduler whose versions agree with this process's, or None for ``local``.

    The caller closes it; `cluster_client` does more. Raises `ConfigError` as that does.
    """
    if scheduler == "local":
        return None
    require_scheme(scheduler, encrypted=False)
    client = connected(Address.model_validate({"scheduler": scheduler, "wait_s": timeout_s}))
    try:
        versions: Any = client.get_versions(check=False)
        require_versions(versions, scheduler)
    except BaseException:
        client.close()
        raise
    log.info("connected to %s", scheduler)
    return client


def require_versions(versions: dict[str, Any], scheduler: str) -> None:
    """Raise `ConfigError` naming the first package of the wire whose version differs from the client's.

    Asked first and in plain messages: where these differ, nothing else that is sent can be read.
    """
    mine = versions["client"]
    others = {"the scheduler": versions["scheduler"]}
    others |= {f"worker {name}": found for name, found in versions["workers"].items()}
    for who, found in others.items():
        if found is None:
            raise ConfigError(f"{who} of {scheduler} did not tell its versions; restart it")
        here, there = (".".join(v["host"]["python"].split(".")[:2]) for v in (mine, found))
        if here != there:
            raise ConfigError(
                f"{who} of {scheduler} runs Python {there}, this process {here}; use one environment"
            )
        for package in _ON_THE_WIRE:
            if found["packages"].get(package) != mine["packages"].get(package):
                raise ConfigError(
                    f"{who} of {scheduler} has {package} {found['packages'].get(package)}, this process "
                    f"{mine['packages'].get(package)}; use one environment"
                )


@contextmanager
def _admitted(
    client: Client, section: ClusterSection, environment: dict[str, str], plugins: Sequence[Any]
) -> Iterator[None]:
    """Compare versions everywhere, put up the gate for workers that join, and wait for the first to pass it."""
    where = str(client.scheduler.address) if client.scheduler is not None else section.kind
    versions: Any = client.get_versions(check=False)
    require_versions(versions, where)
    archive = package_archive() if section.package == "ship" else None
    guard = gate.Gate(gate.found_versions(), archive, [cloudpickle.dumps(p) for p in plugins])
    of_workers: Any = client.run(guard)
    answers: Any = {"the scheduler": client.run_on_scheduler(guard)}
    answers |= {f"worker {name}": why for name, why in dict(of_workers).items()}
    for who, why in answers.items():
        if why is not None:
            raise ConfigError(f"{who} of {where} {why}; use one environment{_or_ship(section)}")
    if isinstance(section, Gateway) and environment:
        client.register_plugin(gate.NannyEnvironment(environment))
    client.subscribe_topic(gate.TOPIC, _told)
    try:
        client.register_plugin(guard)
    except RuntimeError as error:
        raise ConfigError(f"a worker of {where} {error}") from error
    try:
        yield
    finally:
        # A worker that dies at this moment is no reason to lose what the others did.
        with suppress(OSError):
            client.unsubscribe_topic(gate.TOPIC)
            if isinstance(section, Address):
                client.unregister_worker_plugin(guard.name)


def _or_ship(section: ClusterSection) -> str:
    return "" if section.package == "ship" else ", or say package: ship where only elsewhere differs"


def _told(event: Any) -> None:
    told = event[1]
    if told["why"] is not None:
        log.error("worker %s on %s was refused: it %s", told["worker"], told["host"], told["why"])


def _scale(cluster: Any, section: ClusterSection) -> None:
    """Ask for workers."""
    if isinstance(section, Batch):
        if section.maximum is not None:
            cluster.adapt(minimum_jobs=section.minimum, maximum_jobs=section.maximum)
        else:
            cluster.scale(jobs=section.jobs or 1)
    elif isinstance(section, Gateway | Kubernetes):
        if section.maximum is not None:
            cluster.adapt(minimum=section.minimum, maximum=section.maximum)
        elif section.workers is not None or getattr(section, "name", None) is None:
            cluster.scale(section.workers or 2)


def wait_for_worker(client: Client, section: ClusterSection) -> None:
    """Wait until a worker has passed the gate; raises `ConfigError` with what the refused ones lacked."""
    end = time.monotonic() + section.wait_s
    while time.monotonic() < end:
        events: Any = client.get_events(gate.TOPIC)
        told = [event[1] for event in events]
        present = client.scheduler_info()["workers"]
        if any(one["why"] is None and one["worker"] in present for one in told):
            return
        if told and told[-1]["why"] is not None:
            raise ConfigError(f"the first worker to join was refused: it {told[-1]['why']}")
        time.sleep(0.05)
    raise ConfigError(
        f"no worker joined within {section.wait_s:g} s (cluster.wait_s); look at the queue and the jobs' logs"
    )


def dashboard_link(client: Client) -> str | None:
    """The address of the scheduler's pages (full of plots where bokeh is installed), or None where it has none."""
    services: Any = client.scheduler_info().get("services", {})
    return str(client.dashboard_link) if services.get("dashboard") else None
