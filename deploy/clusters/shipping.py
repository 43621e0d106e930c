"""What must be where the work is: the package, model folders, and a folder that workers and client both see."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, InputError
from ...workspace import digest, read_json
from . import gate

if TYPE_CHECKING:
    from distributed import Client

#: Files beside the modules that the package reads at run time on a worker; the sample events stay at home.
_DATA = ("py.typed", "templates/*", "samples/cards/*.yaml")
#: A model plugin lives in the scheduler's memory and is sent to every worker.
MAX_MODELS_MB = 200


def package_archive() -> bytes:
    """A zip of the running package, as importable from; the same bytes for the same source."""
    root = gate.package_root()
    if root is None:
        raise ConfigError("elsewhere cannot be sent: it is not on this process's import path")
    names = gate.package_files(root) + sorted(p.relative_to(root) for glob in _DATA for p in root.glob(glob))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            member = zipfile.ZipInfo(f"elsewhere/{name.as_posix()}", (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(member, (root / name).read_bytes())
    return buffer.getvalue()


def send_models(client: Client, folders: Sequence[Path]) -> list[str]:
    """Send model folders to the workers there are and to those that join later; returns their checksums.

    A worker keeps each under its sha256 in a folder of its own, listed in the environment variable
    ``ELSEWHERE_MODELS``. Raises `InputError` for a folder that is no model, `ConfigError` above 200 MB.
    """
    contents: dict[str, dict[str, bytes]] = {}
    for folder in folders:
        known = read_json(folder / "model.json")
        if not isinstance(known, dict) or "sha256" not in known:
            raise InputError(f"{folder / 'model.json'} has no sha256; train again")
        names = ("model.json", *known["files"])
        contents[known["sha256"]] = {name: (folder / name).read_bytes() for name in names}
    size = sum(len(b) for files in contents.values() for b in files.values()) / 1e6
    if size > MAX_MODELS_MB:
        raise ConfigError(
            f"{len(contents)} model folders of {size:.0f} MB are too much to send to every worker (at most "
            f"{MAX_MODELS_MB} MB); put the workspace on a file system that the workers see"
        )
    client.register_plugin(gate.ModelFolders(f"elsewhere-models-{digest(sorted(contents))[:16]}", contents))
    return list(contents)


def _leave(folder: str, token: str, dask_worker: Any) -> str | None:
    """On a worker: read the client's probe and write one of its own; returns what failed."""
    try:
        if (Path(folder) / f".probe-{token}").read_text() != token:
            return "reads another file than the client wrote"
        (Path(folder) / f".probe-{token}-{dask_worker.id}").write_text(dask_worker.address)
    except OSError as error:
        return f"cannot use it ({error})"
    return None


def require_shared(client: Client, folder: Path) -> None:
    """Raise `ConfigError` unless every worker reads what this process wrote in ``folder``, and the other way round.

    Workers write their chunks there themselves, so the folder must be on a file system that all of them mount at
    the same path.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    probe = folder / f".probe-{token}"
    probe.write_text(token)
    cure = "put the workspace on a file system that client and workers mount at the same path"
    try:
        answers: Any = client.run(_leave, str(folder), token)
        for worker, problem in dict(answers).items():
            if problem is not None:
                raise ConfigError(f"{folder}: worker {worker} {problem}; {cure}")
        seen = {path.read_text() for path in folder.glob(f".probe-{token}-*")}
        for worker in dict(answers):
            if worker not in seen:
                raise ConfigError(f"{folder}: what worker {worker} wrote is not seen here; {cure}")
    finally:
        for path in folder.glob(f".probe-{token}*"):
            path.unlink(missing_ok=True)
