"""First pass of the overlap removal: for every file the identities of its events on disk, sorted by their hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ..errors import InputError
from ..events import IDENTITY, identity_hash
from ..workspace import atomic
from .core import IDENTITY_BRANCHES, Unit, identity_rows
from .lumis import lumi_numbers
from .places import RemoteSettings
from .preflight import FileRecord
from .reading import Tree, open_tree
from .remote import attempt

#: Rows of an index, each (n,) uint64: the hash; run * 2^32 + luminosityBlock; event; the entry in the file.
HASH, LUMI, EVENT, ENTRY = range(4)
ROWS = 4
#: Entries read at once, and events hashed at once: the temporaries of a hash then stay in the cache.
STEP, HASHED = 1_000_000, 16_384


@dataclass(frozen=True)
class Indexed:
    """A file's index. ``bounds`` (parts + 1,): where each range of hashes begins. ``simulated``: not indexed, it has genWeight."""

    uuid: str
    bounds: NDArray[np.int64]
    simulated: bool = False


def index_path(folder: Path, uuid: str) -> Path:
    """Where a file's index lies."""
    return folder / "index" / f"{uuid}.npy"


def hashes(lumi: NDArray[np.uint64], event: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`events.identity_hash` of (run * 2^32 + luminosityBlock, event), shape (n,)."""
    out = np.empty(len(event), dtype=np.uint64)
    identity = np.zeros(min(len(event), HASHED), dtype=IDENTITY)
    for start in range(0, len(event), HASHED):
        part = slice(start, start + HASHED)
        rows = identity[: len(event[part])]
        rows["run"], rows["luminosityBlock"] = lumi[part] >> np.uint64(32), lumi[part] & np.uint64(0xFFFFFFFF)
        rows["event"] = event[part]
        out[part] = identity_hash(rows)
    return out


def edges(parts: int) -> NDArray[np.uint64]:
    """The lowest hash of each of ``parts`` equal ranges but the first, shape (parts - 1,)."""
    return np.array([(i << 64) // parts for i in range(1, parts)], dtype=np.uint64)


def write_index(path: Path, lumi: NDArray[np.uint64], event: NDArray[np.uint64]) -> None:
    """Write the index of a file whose entries have these identities, (n,) each, atomically."""
    key = hashes(lumi, event)
    order = np.argsort(key)
    with atomic(path) as temporary, temporary.open("wb") as handle:
        shape = (ROWS, len(key))
        npy.write_array_header_1_0(handle, {"descr": "<u8", "fortran_order": False, "shape": shape})
        for row in (key, lumi, event):
            row[order].astype("<u8", copy=False).tofile(handle)
        order.astype("<u8", copy=False).tofile(handle)


def read_rows(path: Path, rows: tuple[int, ...], start: int, stop: int) -> Iterator[NDArray[np.uint64]]:
    """The given rows of an index from ``start`` to ``stop``, read without the rest, (stop - start,) each."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        npy.read_magic(handle)
        (_, n), _, _ = npy.read_array_header_1_0(handle)
        data = handle.tell()
        if size != data + 8 * ROWS * n or not 0 <= start <= stop <= n:
            raise InputError(f"{path} is damaged; delete it and run again")
        for row in rows:
            handle.seek(data + 8 * (row * n + start))
            yield np.fromfile(handle, dtype="<u8", count=stop - start)


def _bounds(path: Path, entries: int, parts: int) -> NDArray[np.int64] | None:
    """Where the ranges of hashes begin in an index; None where there is none of this file's size."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, EOFError, ValueError):  # not there, empty, or cut: it is made again
        return None
    if rows.shape != (ROWS, entries) or rows.dtype != np.dtype("<u8"):
        return None
    inner = np.searchsorted(rows[HASH], edges(parts))
    return np.concatenate([[0], inner, [entries]]).astype(np.int64)


def _identities(tree: Tree, record: FileRecord) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(run * 2^32 + luminosityBlock, event) of every entry of a file, (n,) each."""
    if tree.entries != record.entries:
        raise InputError(f"{record.path} has {tree.entries} entries, it had {record.entries} when checked")
    lumi, event = np.empty(record.entries, np.uint64), np.empty(record.entries, np.uint64)
    for start in range(0, record.entries, STEP):
        stop = min(start + STEP, record.entries)
        raw = tree.arrays(IDENTITY_BRANCHES, start, stop)
        rows = identity_rows(raw, Unit("", record.path, record.uuid, start, stop), stop - start)
        lumi[start:stop] = lumi_numbers(rows["run"], rows["luminosityBlock"])
        event[start:stop] = rows["event"]
    return lumi, event


def _made(record: FileRecord, path: Path, simulation: bool, settings: RemoteSettings) -> bool:
    """Write a file's index; False where it is simulation and not wanted."""

    def work(place: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64]] | None:
        tree = open_tree(place, record.uuid, settings)
        wanted = simulation or "genWeight" not in tree.names
        return _identities(tree, record) if wanted else None

    def drop(_place: str) -> None:
        open_tree.cache_clear()

    found, _, _ = attempt(record.path, settings, work, drop)
    if found is None:
        return False
    write_index(path, *found)
    return True


def index_file(job: tuple[FileRecord, str, int, bool, RemoteSettings]) -> Indexed:
    """Make a file's index or find the one that is there; a job (record, folder, parts, simulation too, patience) for a worker.

    Takes 40 bytes of memory per event of the file, and 32 on disk.
    """
    record, folder, parts, simulation, settings = job
    path = index_path(Path(folder), record.uuid)
    found = _bounds(path, record.entries, parts)
    if found is None:
        if not _made(record, path, simulation, settings):
            return Indexed(record.uuid, np.zeros(parts + 1, dtype=np.int64), simulated=True)
        found = _bounds(path, record.entries, parts)
        if found is None:
            raise InputError(f"{path} cannot be read back; is the disk full or shared with another run?")
    return Indexed(record.uuid, found)
