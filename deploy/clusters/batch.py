"""Jobs of a batch system: what a section becomes for dask-jobqueue, and the submit file that a dry run shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ...errors import ConfigError
from .sections import Address, Batch, ClusterSection, Gateway, HTCondor, Kubernetes, Local, Slurm, Tls


def optional(module: str, extra: str) -> Any:
    """A module of an optional library; raises `ConfigError` that says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"cluster.kind {extra} needs {module.split('.', maxsplit=1)[0].replace('_', '-')} ({error}); "
            f"install it: pip install 'elsewhere[{extra}]'"
        ) from error


def security_of(tls: Tls | None) -> Any:
    """distributed's `Security` that refuses connections without these certificates, or None.

    Raises `ConfigError` for a file that is not there.
    """
    if tls is None:
        return None
    from distributed.security import Security

    for name in ("ca", "certificate", "key"):
        path = getattr(tls, name)
        if not os.path.isfile(path):
            raise ConfigError(f"cluster.tls.{name}: {path} is not a file; give the path of a PEM file")
    roles = {f"tls_{role}_{what}": value for role in ("client", "scheduler", "worker")
             for what, value in (("cert", tls.certificate), ("key", tls.key))}  # fmt: skip
    return Security(tls_ca_file=tls.ca, require_encryption=True, **roles)


def prologue(section: Batch, environment: Mapping[str, str]) -> list[str]:
    """The shell commands of a job before its workers start: the environment, then the user's own."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return [*exports, *section.prologue]


def job_arguments(section: Batch, environment: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments of dask-jobqueue's job class for a section."""
    common: dict[str, Any] = {
        "cores": section.cores,
        "processes": section.cores,
        "memory": section.memory,
        "python": section.python,
        "log_directory": section.log_folder,
        "local_directory": section.scratch,
        "death_timeout": section.death_timeout_s,
        "worker_extra_args": list(section.worker_extra),
        "job_script_prologue": prologue(section, environment),
        "job_name": "elsewhere",
        "interface": section.scheduler.interface,
        "protocol": "tls://" if section.tls else None,
        "security": security_of(section.tls),
    }
    if isinstance(section, HTCondor):
        image = {"MY.SingularityImage": f'"{section.image}"'} if section.image else {}
        return {
            **common,
            "disk": section.disk,
            "job_extra_directives": image | dict(section.directives),
            "submit_command_extra": list(section.submit_extra),
        }
    if isinstance(section, Slurm):
        return {
            **common,
            "queue": section.partition,
            "account": section.account,
            "walltime": section.walltime,
            "job_extra_directives": list(section.directives),
        }
    raise ConfigError(f"cluster.kind {section.kind} is not a batch system")


def _library(section: Batch) -> tuple[Any, Any]:
    """dask-jobqueue's cluster and job class of a section."""
    name = "htcondor" if isinstance(section, HTCondor) else "slurm"
    module = optional(f"dask_jobqueue.{name}", name)
    prefix = "HTCondor" if name == "htcondor" else "SLURM"
    return getattr(module, f"{prefix}Cluster"), getattr(module, f"{prefix}Job")


def make_cluster(section: Batch, environment: Mapping[str, str]) -> Any:
    """A dask-jobqueue cluster without jobs; its scheduler runs in this process and listens where the section says."""
    cluster, _ = _library(section)
    options: dict[str, Any] = {
        "port": section.scheduler.port,
        "dashboard_address": section.scheduler.dashboard,
    }
    if section.scheduler.host is not None:
        options["host"] = section.scheduler.host
    return cluster(n_workers=0, scheduler_options=options, **job_arguments(section, environment))


def job_script(section: Batch, environment: Mapping[str, str] | None = None) -> str:
    """The submit file or job script of one job, with ``SCHEDULER:PORT`` for the address; submits nothing."""
    _, job = _library(section)
    scheme = "tls" if section.tls else "tcp"
    arguments = job_arguments(section, environment or {})
    arguments["log_directory"] = None  # or it would be made
    made = job(scheduler=f"{scheme}://SCHEDULER:PORT", name="WORKER", **arguments)
    return made.job_script()


def describe(section: ClusterSection, environment: Mapping[str, str] | None = None) -> str:
    """What would be started, for a dry run; starts nothing."""
    lines = [f"cluster: {section.kind}, {_size(section)}{'' if section.tls is None else ', TLS'}"]
    if isinstance(section, Address):
        lines.append(f"  scheduler: {section.scheduler}")
    if section.package == "ship":
        lines.append("  this copy of elsewhere is sent to the workers")
    if isinstance(section, Batch):
        lines += [f"  {line}".rstrip() for line in job_script(section, environment).strip().splitlines()]
    return "\n".join(lines)


def _size(section: ClusterSection) -> str:
    if isinstance(section, Local):
        return f"{section.workers} workers at 127.0.0.1"
    if isinstance(section, Batch):
        jobs = (
            f"{section.jobs or 1}" if section.maximum is None else f"{section.minimum} to {section.maximum}"
        )
        return f"{jobs} jobs of {section.cores} cores and {section.memory}"
    if isinstance(section, Gateway | Kubernetes):
        if section.maximum is not None:
            return f"{section.minimum} to {section.maximum} workers"
        return f"{section.workers or 2} workers"
    return "as it is"
