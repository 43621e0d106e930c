"""Clusters that somebody else started: a Dask scheduler to connect to, the address Ray should join.

The local Dask cluster belongs to the processors; here is only what one line of search.yaml points elsewhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

_SCHEMES = ("tcp://", "tls://")
#: Packages that must agree between client, scheduler and workers: they define what is sent over the wire.
_MUST_AGREE = ("dask", "distributed", "msgpack", "cloudpickle")


def connect(scheduler: str, timeout_s: float = 20.0) -> Client | None:
    """A client of a running Dask scheduler, or None for ``local``.

    Raises `ConfigError` for another kind of address, an unreachable scheduler, or a cluster with other versions of
    Python, Dask or what they send messages with.
    """
    if scheduler == "local":
        return None
    if not scheduler.startswith(_SCHEMES):
        raise ConfigError(f"scheduler '{scheduler}': expected 'local', tcp://HOST:PORT or tls://HOST:PORT")
    from distributed import Client

    try:
        client = Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answered at {scheduler} within {timeout_s:g} s ({error}); check the address and that it runs"
        ) from error
    try:
        versions: Any = client.get_versions(check=False)
        _require_versions(versions, scheduler)
    except BaseException:
        client.close()
        raise
    log.info("connected to %s", scheduler)
    return client


def _require_versions(versions: dict[str, Any], scheduler: str) -> None:
    """Raise `ConfigError` naming the first package whose version differs from the client's."""
    mine = versions["client"]
    others = {"the scheduler": versions["scheduler"]}
    others |= {f"worker {name}": found for name, found in versions["workers"].items()}
    for who, found in others.items():
        if found is None:
            raise ConfigError(f"{who} of {scheduler} did not tell its versions; restart it")
        here = ".".join(mine["host"]["python"].split(".")[:2])
        there = ".".join(found["host"]["python"].split(".")[:2])
        if here != there:
            raise ConfigError(
                f"{who} of {scheduler} runs Python {there}, this process {here}; use one environment"
            )
        for package in _MUST_AGREE:
            if found["packages"].get(package) != mine["packages"].get(package):
                raise ConfigError(
                    f"{who} of {scheduler} has {package} {found['packages'].get(package)}, this process "
                    f"{mine['packages'].get(package)}; use one environment"
                )


def ray_address(spec: str) -> str | None:
    """What ``ray.init(address=...)`` takes for a line of search.yaml: None starts Ray on this machine.

    ``local``, ``auto`` (a cluster of this machine that already runs), ``HOST:PORT`` or ``ray://HOST:PORT``.
    """
    if spec == "local":
        return None
    if spec == "auto":
        return spec
    host, _, port = spec.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ConfigError(f"Ray address '{spec}': expected 'local', 'auto', HOST:PORT or ray://HOST:PORT")
    return spec
