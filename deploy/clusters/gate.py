"""What a worker passes before its first task: the package, the same versions, then the plugins handed in.

This module travels as source text, so that a worker which has no elsewhere, another one, or another Python can still
read it and say so. It imports the standard library, cloudpickle and distributed, nothing of the package.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import shutil
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import cloudpickle
from distributed.diagnostics.plugin import NannyPlugin, WorkerPlugin

log = logging.getLogger("elsewhere.deploy.clusters.gate")

#: Distributions that must agree everywhere: they define what is sent, or what a feature or a column holds.
PACKAGES = (
    "dask",
    "distributed",
    "msgpack",
    "cloudpickle",
    "numpy",
    "awkward",
    "uproot",
    "coffea",
    "pyarrow",
)
#: Topic of the scheduler's event log: who came to the gate, and why it was refused (None: it was let in).
TOPIC = "elsewhere"
#: Names the folders in which model folders that were sent lie under their checksum.
MODELS = "ELSEWHERE_MODELS"
_REVIVE = "(lambda space: (exec(source, space), space[name].revived(source, state))[1])({'__name__': 'elsewhere_gate'})"


def package_files(root: Path) -> list[Path]:
    """The package's modules below ``root``, relative and sorted; folders without __init__.py are not of it."""
    found = [p.relative_to(root) for p in root.glob("*.py")]
    for folder in root.iterdir():
        if (folder / "__init__.py").is_file():
            found += [folder.relative_to(root) / p for p in package_files(folder)]
    return sorted(found)


def source_digest(root: Path) -> str:
    """The same for the same source text, installed or in a checkout; 16 hexadecimal digits."""
    whole = hashlib.sha256()
    for path in package_files(root):
        whole.update(f"{path.as_posix()}\0".encode() + (root / path).read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def package_root() -> Path | None:
    """The folder `import elsewhere` finds, without importing it."""
    found = importlib.util.find_spec("elsewhere")
    return Path(found.origin).parent if found is not None and found.origin else None


def found_versions() -> dict[str, str]:
    """Python, the packages that must agree, and the digest of elsewhere's source, as they are in this process."""
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    root = package_root()
    found["elsewhere (digest of its source)"] = source_digest(root) if root is not None else "none"
    return found


def first_difference(mine: dict[str, str], theirs: dict[str, str]) -> str | None:
    """'has X 1, this process 2', or None."""
    for name, version in mine.items():
        if theirs.get(name, "none") != version:
            return f"has {name} {theirs.get(name, 'none')}, the client {version}"
    return None


def private_folder() -> Path:
    """A folder only this user can read, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="elsewhere-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def unpack(archive: bytes) -> None:
    """Put the package of ``archive`` first on this process's path, and forget another one that was imported."""
    folder = private_folder()
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(folder)
    sys.path.insert(0, str(folder))
    for name in [n for n in sys.modules if n.split(".")[0] == "elsewhere"]:
        del sys.modules[name]
    importlib.invalidate_caches()


class _BySource:
    """An object that is pickled as this module's text and its own state."""

    source = ""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {k: v for k, v in self.__dict__.items() if k != "source"}
        text = self.source or Path(__file__).read_text()
        return eval, (_REVIVE, {"source": text, "name": type(self).__name__, "state": state})

    @classmethod
    def revived(cls, source: str, state: dict[str, Any]) -> Any:
        """The object on the other side."""
        made = cls.__new__(cls)
        made.__dict__.update(state, source=source)
        return made


class Gate(_BySource, WorkerPlugin):
    """Lets a worker in, or sends it away.

    ``expected``: the client's `found_versions`. ``archive``: a zip with the package for workers that have another
    one, or None. ``packed``: pickled plugins to set up behind the gate, in order. Called without a worker it only
    compares: that is how the scheduler and the workers already there are asked.
    """

    name = "elsewhere-gate"

    def __init__(self, expected: dict[str, str], archive: bytes | None, packed: list[bytes]) -> None:
        self.expected, self.archive, self.packed = expected, archive, packed
        self.inside: list[Any] = []

    def __call__(self) -> str | None:
        """The first difference to the client, or None; unpacks the package where it is needed."""
        found = found_versions()
        if self.archive is not None and first_difference(self.expected, found) is not None:
            own = list(self.expected)[-1]
            if found[own] != self.expected[own]:
                unpack(self.archive)
                found = found_versions()
        return first_difference(self.expected, found)

    async def setup(self, worker: Any) -> None:
        """Compare, set up what is inside; a worker that fails either is closed before it gets a task."""
        try:
            why = await asyncio.to_thread(self)
            if why is None:
                self.inside = [cloudpickle.loads(one) for one in self.packed]
                for plugin in self.inside:
                    await asyncio.to_thread(plugin.setup, worker)
        except Exception as error:
            why = f"failed to prepare: {type(error).__name__}: {error}"
        worker.log_event(TOPIC, {"worker": worker.address, "host": os.uname().nodename, "why": why})
        if why is not None:
            await self._refuse(worker, why)

    async def _refuse(self, worker: Any, why: str) -> None:
        log.error("this worker %s: refused", why)
        # Not awaited: it waits for the nanny, which waits for this worker to have started.
        self.leaving = asyncio.create_task(worker.close(nanny=True, reason=f"refused: it {why}"))
        await asyncio.sleep(0)
        raise RuntimeError(why)

    def teardown(self, worker: Any) -> None:
        """Tear down what is inside."""
        for plugin in self.inside:
            getattr(plugin, "teardown", lambda _worker: None)(worker)


class ModelFolders(_BySource, WorkerPlugin):
    """Model folders for workers without the client's disk: {sha256 of the model: {file name: content}}."""

    def __init__(self, name: str, folders: dict[str, dict[str, bytes]]) -> None:
        self.name, self.folders = name, folders

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        """Write each folder under its checksum, and name the place in the environment."""
        root = private_folder()
        for sha256, files in self.folders.items():
            (root / sha256).mkdir()
            for name, content in files.items():
                (root / sha256 / Path(name).name).write_bytes(content)
        before = os.environ.get(MODELS)
        os.environ[MODELS] = f"{root}{os.pathsep}{before}" if before else str(root)


class NannyEnvironment(_BySource, NannyPlugin):
    """Variables that must be set before a worker's Python starts, where no job script can set them; restarts workers."""

    name = "elsewhere-environment"
    restart = True

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def setup(self, nanny: Any) -> None:
        """Hand the variables to the nanny, which starts its worker with them."""
        nanny.pre_spawn_env.update(self.environment)
        nanny.env.update(self.environment)
