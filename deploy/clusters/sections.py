"""The ``cluster`` mapping of search.yaml: one small frozen section per kind, with just the fields that kind uses."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from ...errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Size = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?(M|G|T|Mi|Gi|Ti)i?B?$")]
Scalar = str | int | float | bool

SCHEMES = ("tcp://", "tls://")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tls(_Section):
    """Certificate files in PEM; the scheduler, the client and the workers show the same one."""

    ca: str = Field(description="certificate of the authority all must be signed by")
    certificate: str
    key: str


class SchedulerOptions(_Section):
    """Where the scheduler that this process starts listens."""

    host: str | None = Field(None, description="address or name the workers can reach; default: found")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(0, description="0: any free one")
    interface: str | None = Field(None, description="network interface instead of a host, such as ib0")
    dashboard: str = Field(":0", description="address of the dashboard, HOST:PORT")


class ClusterSection(_Section):
    """What every kind has."""

    kind: str
    tls: Tls | None = None
    package: Literal["installed", "ship"] = Field(
        "installed",
        description="ship: send this process's copy of elsewhere to workers that lack it or have another",
    )
    wait_s: Seconds = Field(60.0, description="how long to wait for the scheduler and the first worker")


class _Scaled(ClusterSection):
    """A cluster of ``workers``, or one that grows and shrinks between ``minimum`` and ``maximum``."""

    workers: Positive | None = Field(None, description="a fixed number; default 2 without a maximum")
    minimum: Annotated[int, Field(ge=0)] = 0
    maximum: Positive | None = None

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        return _scaled(self, "workers", self.workers)


def _scaled(section: Any, name: str, fixed: int | None) -> Any:
    if section.maximum is None and section.minimum:
        raise ValueError(f"minimum {section.minimum} needs a maximum; for a fixed number say {name}")
    if section.maximum is not None and fixed is not None:
        raise ValueError(f"give either {name} or minimum and maximum")
    if section.maximum is not None and section.minimum > section.maximum:
        raise ValueError(f"minimum {section.minimum} is above maximum {section.maximum}")
    return section


class Local(ClusterSection):
    """Processes of this machine, at 127.0.0.1."""

    kind: Literal["local"] = "local"
    workers: Positive = 2
    memory: Size | None = Field(None, description="limit of a worker; default: its share of the machine")


class Address(ClusterSection):
    """A scheduler that somebody else runs, such as the one in a facility's pod."""

    kind: Literal["address"] = "address"
    scheduler: str = Field(description="tcp://HOST:PORT or tls://HOST:PORT")

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        require_scheme(self.scheduler, self.tls is not None)
        return self


class Batch(ClusterSection):
    """What batch systems share: ``jobs`` of ``cores`` one-thread workers each."""

    wait_s: Seconds = Field(3600.0, description="how long to wait for the first job to start")
    jobs: Positive | None = Field(None, description="a fixed number; default 1 without a maximum")
    minimum: Annotated[int, Field(ge=0)] = Field(0, description="jobs")
    maximum: Positive | None = Field(None, description="jobs")
    cores: Positive = Field(1, description="of a job; each is a worker of one thread")
    memory: Size = Field("2 GB", description="of a job, shared by its workers")
    python: str | None = Field(
        None, description="the workers' interpreter, such as 'apptainer exec IMAGE python'; default: this one"
    )
    prologue: list[str] = Field(default_factory=list, description="shell commands before the workers start")
    worker_extra: list[str] = Field(default_factory=list, description="further options of `dask worker`")
    log_folder: str | None = None
    scratch: str | None = Field(None, description="the workers' folder for temporary files")
    death_timeout_s: Seconds = Field(60.0, description="a worker without a scheduler ends after this")
    scheduler: SchedulerOptions = Field(default_factory=lambda: SchedulerOptions.model_validate({}))

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        return _scaled(self, "jobs", self.jobs)


class HTCondor(Batch):
    """Jobs of an HTCondor pool."""

    kind: Literal["htcondor"] = "htcondor"
    disk: Size = "2 GB"
    image: str | None = Field(None, description="container of a job (MY.SingularityImage)")
    directives: dict[str, Scalar] = Field(
        default_factory=dict, description="further lines of the submit file"
    )
    submit_extra: list[str] = Field(default_factory=list, description="further options of condor_submit")


class Slurm(Batch):
    """Jobs of a SLURM partition."""

    kind: Literal["slurm"] = "slurm"
    partition: str | None = None
    account: str | None = None
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){1,2}$")] = Field("01:00:00")
    directives: list[str] = Field(default_factory=list, description="further #SBATCH options")


class Gateway(_Scaled):
    """A cluster that a Dask Gateway server makes. Encrypted and authenticated by the server: no ``tls`` here."""

    kind: Literal["gateway"] = "gateway"
    tls: None = None
    wait_s: Seconds = 600.0
    address: str | None = Field(
        None, description="http(s)://HOST; default: the facility's Dask configuration"
    )
    proxy_address: str | None = None
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = None
    name: str | None = Field(None, description="join this running cluster instead of making one")
    options: dict[str, Any] = Field(default_factory=dict, description="cluster options the server offers")


class Kubernetes(_Scaled):
    """Pods of the Dask operator, reached through the operator's own service: no ``tls`` here."""

    kind: Literal["kubernetes"] = "kubernetes"
    tls: None = None
    wait_s: Seconds = 600.0
    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")] = "elsewhere"
    namespace: str | None = None
    image: str = Field(
        description="image with this environment, such as deploy/containers/Containerfile makes"
    )
    cores: Positive = Field(1, description="CPUs of a pod; its worker has one thread")
    memory: Size = "2 GB"
    environment: dict[str, str] = Field(default_factory=dict, description="further variables of the pods")


KINDS: tuple[type[ClusterSection], ...] = (Local, Address, HTCondor, Slurm, Gateway, Kubernetes)


def require_scheme(scheduler: str, encrypted: bool) -> None:
    """Raise `ConfigError` unless the address is tcp:// or tls://, and tls:// where certificates are given."""
    if not scheduler.startswith(SCHEMES):
        raise ConfigError(f"scheduler '{scheduler}': expected 'local', tcp://HOST:PORT or tls://HOST:PORT")
    if encrypted and not scheduler.startswith("tls://"):
        raise ConfigError(
            f"scheduler '{scheduler}' is not encrypted but tls is given; use tls://, or leave tls out"
        )


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"


def _known_at(model: Any, path: Sequence[int | str]) -> list[str]:
    for step in path:
        annotation = model.model_fields[str(step)].annotation
        options = (annotation, *getattr(annotation, "__args__", ()))
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)


def _problem(model: type[ClusterSection], item: Any) -> str:
    path = item["loc"]
    where = ".".join(str(p) for p in path) or str(model.model_fields["kind"].default)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{_nearest(str(path[-1]), _known_at(model, path[:-1]))}"
    if item["type"] == "missing":
        return f"{where}: is missing and has no default"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    return f"{where}: found {item['input']!r}, expected: {item['msg'].removeprefix('Input should be ')}"


def cluster_section(raw: Any) -> ClusterSection:
    """The section of a ``cluster`` mapping; raises `ConfigError` that names every wrong key and the nearest valid one."""
    if isinstance(raw, ClusterSection):
        return raw
    kinds = {str(k.model_fields["kind"].default): k for k in KINDS}
    if not isinstance(raw, Mapping) or "kind" not in raw:
        raise ConfigError(
            f"cluster: expected a mapping with a kind, one of {', '.join(kinds)}; found {raw!r}"
        )
    model = kinds.get(str(raw["kind"]))
    if model is None:
        raise ConfigError(f"cluster.kind: unknown '{raw['kind']}'{_nearest(str(raw['kind']), list(kinds))}")
    try:
        return model.model_validate(dict(raw))
    except ValidationError as error:
        problems = "; ".join(_problem(model, item) for item in error.errors())
        raise ConfigError(f"cluster.{problems}") from None


#: A field of search.yaml that holds any kind of section.
AnyCluster = Annotated[SerializeAsAny[ClusterSection], BeforeValidator(cluster_section)]


def section_for(scheduler: str, workers: int) -> ClusterSection:
    """The section that the short form ``scheduler: local | tcp://...`` stands for."""
    if scheduler == "local":
        return Local.model_validate({"workers": workers})
    require_scheme(scheduler, encrypted=False)
    return Address.model_validate({"scheduler": scheduler})
