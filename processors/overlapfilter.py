"""Which entries of each file are to be dropped: how the lists get on disk, and the filter that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteError, InputError
from ..workspace import atomic, file_digest, read_json, write_json

if TYPE_CHECKING:
    from .core import Unit

#: The list of the lists: {drop: {file UUID: sha256 of its list, or null where nothing is dropped}, left_out: ..., report}.
MANIFEST = "overlap.json"


@dataclass(frozen=True)
class OverlapFilter:
    """A filter that drops what `overlap.find_overlap` found; ``path``: its overlap.json, ``sha256``: that file's digest.

    Loaded when first used, once per process.
    """

    path: str
    sha256: str
    name: str = "overlap removal"

    def keep(self, identity: NDArray[np.void], unit: Unit) -> NDArray[np.bool_]:
        """Which events count, shape (n,). Raises `InputError` for a file that was not compared or a list that was changed."""
        if len(identity) != unit.stop - unit.start:
            raise IncompleteError(
                f"{unit.path}: entries {unit.start}-{unit.stop} came as {len(identity)} events; filter whole units"
            )
        manifest = _manifest(self.path, self.sha256)
        out = np.ones(len(identity), dtype=np.bool_)
        if unit.dataset in manifest["left_out"]:
            return out
        if unit.uuid not in manifest["drop"]:
            raise InputError(
                f"{unit.path} ({unit.dataset}) is not in {self.path}; run the overlap pass over all files again"
            )
        sha256 = manifest["drop"][unit.uuid]
        if sha256 is not None:
            drop = _list(str(drop_path(Path(self.path).parent, unit.uuid)), sha256)
            low, high = np.searchsorted(drop, np.array([unit.start, unit.stop], dtype=np.uint64))
            out[drop[low:high].astype(np.int64) - unit.start] = False
        return out


def drop_path(folder: Path, uuid: str) -> Path:
    """Where the list of a file lies: a sorted array of entries, (k,) uint64."""
    return folder / "drop" / f"{uuid}.npy"


def _checked(path: str, sha256: str) -> Path:
    try:
        found = file_digest(Path(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); run the overlap pass again") from error
    if found != sha256:
        raise InputError(f"{path} is not as it was written (its sha256 differs); run the overlap pass again")
    return Path(path)


@lru_cache(maxsize=4)
def _manifest(path: str, sha256: str) -> dict[str, Any]:
    return read_json(_checked(path, sha256))


@lru_cache(maxsize=64)
def _list(path: str, sha256: str) -> NDArray[np.uint64]:
    return np.load(_checked(path, sha256), allow_pickle=False)


def write_array(path: Path, array: NDArray[np.uint64]) -> None:
    """Write one array atomically."""
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.save(handle, array, allow_pickle=False)


def _blocks(sizes: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of files whose lists hold at most ``most`` entries together, or one file each."""
    start = 0
    while start < len(sizes):
        stop = start + max(1, int(np.searchsorted(np.cumsum(sizes[start:]), most, "right")))
        yield start, stop
        start = stop


def write_drops(
    folder: Path, uuids: Sequence[str], sizes: NDArray[np.int64], parts: Sequence[Path], most: int
) -> dict[str, str | None]:
    """Gather the parts' (rank of the file, entry) into one sorted list per file; the manifest's ``drop``.

    ``sizes`` (files,): entries of each list; lists of at most ``most`` entries are in memory at once.
    """
    drop: dict[str, str | None] = {}
    for start, stop in _blocks(sizes, most):
        pieces = [np.empty((2, 0), dtype=np.uint64)]
        for path in parts if sizes[start:stop].any() else ():
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            low, high = np.searchsorted(rows[0], np.array([start, stop], dtype=np.uint64))
            pieces.append(rows[:, low:high])
        file, entry = np.concatenate(pieces, axis=1)
        order = np.lexsort((entry, file))
        lists = np.split(entry[order], np.cumsum(sizes[start:stop])[:-1])
        for uuid, entries in zip(uuids[start:stop], lists, strict=True):
            drop[uuid] = _write_list(drop_path(folder, uuid), entries)
    return drop


def _write_list(path: Path, entries: NDArray[np.uint64]) -> str | None:
    if not len(entries):
        path.unlink(missing_ok=True)
        return None
    write_array(path, entries)
    return file_digest(path)


def write_manifest(
    folder: Path, drop: Mapping[str, str | None], left_out: Mapping[str, str], report: Mapping[str, Any]
) -> OverlapFilter:
    """Write overlap.json, the last file of a pass, and give the filter that trusts no other."""
    path = folder / MANIFEST
    write_json(path, {**report, "left_out": left_out, "drop": drop})
    return OverlapFilter(str(path), file_digest(path))
