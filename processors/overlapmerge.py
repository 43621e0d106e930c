"""Second pass of the overlap removal: one range of hashes of all files, its shared events and the entries to drop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .overlapfilter import write_array
from .overlapindex import ENTRY, EVENT, HASH, LUMI, hashes, index_path, read_rows

#: Shared events quoted per pair of datasets: the first by (run, luminosityBlock, event).
EXAMPLES = 5
#: Hashes compared at once.
STEP = 1 << 20
Example = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Part:
    """One range of hashes. Files are numbered by rank: the order of their datasets, then their UUIDs.

    ``bounds`` (files, 2): each index's rows of this range. ``dataset`` (files,): each file's dataset, not decreasing.
    """

    folder: str
    out: str
    uuids: tuple[str, ...]
    dataset: NDArray[np.int64]
    bounds: NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What a part holds. Keys are pairs of datasets, (a, a) for repetitions inside one; `Example` is run, section, event
    and the two files' ranks. ``dropped`` (files,): entries to drop; ``collisions``: different events of equal hash.
    """

    counts: dict[tuple[int, int], int]
    examples: dict[tuple[int, int], list[Example]]
    dropped: NDArray[np.int64]
    collisions: int


@dataclass(frozen=True)
class Rows:
    """Candidates, (m,) each: run * 2^32 + luminosityBlock, event, the file's rank, the entry."""

    lumi: NDArray[np.uint64]
    event: NDArray[np.uint64]
    file: NDArray[np.int64]
    entry: NDArray[np.uint64]

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Rows:
        """The rows that an index array or a mask selects."""
        return Rows(self.lumi[which], self.event[which], self.file[which], self.entry[which])


def _repeated(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The values that are there more than once, sorted; sorts ``values`` in place."""
    values.sort()
    again = values[1:][values[1:] == values[:-1]]
    return again[np.concatenate([[True], again[1:] != again[:-1]])] if len(again) else again


def _members(values: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where ``values`` are among the sorted ``wanted`` (not empty)."""
    out = []
    for start in range(0, len(values), STEP):
        part = values[start : start + STEP]
        at = np.minimum(np.searchsorted(wanted, part), len(wanted) - 1)
        out.append(start + np.flatnonzero(wanted[at] == part))
    return np.concatenate(out)


def _hashes(part: Part) -> NDArray[np.uint64]:
    """The hashes of all files in this range, file after file."""
    sizes = part.bounds[:, 1] - part.bounds[:, 0]
    out, at = np.empty(int(sizes.sum()), dtype=np.uint64), 0
    for uuid, (start, stop) in zip(part.uuids, part.bounds.tolist(), strict=True):
        if start == stop:
            continue
        path = index_path(Path(part.folder), uuid)
        (values,) = read_rows(path, (HASH,), start, stop)
        if np.any(values[1:] < values[:-1]):
            raise InputError(f"{path} is damaged: its hashes are not sorted; delete it and run again")
        out[at : at + len(values)] = values
        at += len(values)
    return out


def _candidates(part: Part) -> Iterator[Rows]:
    """The rows whose hash is there more than once in this range, with their true identities, file after file."""
    values = _hashes(part)
    wanted = _repeated(values.copy())
    if not len(wanted):
        return
    found = _members(values, wanted)
    starts = np.concatenate([[0], np.cumsum(part.bounds[:, 1] - part.bounds[:, 0])])
    cuts = np.searchsorted(found, starts)
    for i in np.flatnonzero(np.diff(cuts)):
        mine = found[cuts[i] : cuts[i + 1]]
        path = index_path(Path(part.folder), part.uuids[i])
        start, stop = part.bounds[i].tolist()
        lumi, event, entry = (
            row[mine - starts[i]] for row in read_rows(path, (LUMI, EVENT, ENTRY), start, stop)
        )
        if not np.array_equal(hashes(lumi, event), values[mine]):
            raise InputError(f"{path} is damaged: its events do not have its hashes; delete it and run again")
        yield Rows(lumi, event, np.full(len(mine), i, dtype=np.int64), entry)


def sorted_rows(parts: Sequence[Rows]) -> Rows:
    """The rows by identity, then rank of the file, then entry: a hash says nothing any more from here on."""
    whole = Rows(
        *(np.concatenate([getattr(p, k) for p in parts]) for k in ("lumi", "event", "file", "entry"))
    )
    return whole.take(np.lexsort((whole.entry, whole.file, whole.event, whole.lumi)))


def groups_of(rows: Rows) -> NDArray[np.int64]:
    """The number of each row's event, (m,): rows of one event follow each other."""
    new = np.ones(len(rows.event), dtype=bool)
    new[1:] = (rows.lumi[1:] != rows.lumi[:-1]) | (rows.event[1:] != rows.event[:-1])
    return np.cumsum(new) - 1


def _pairs(group: NDArray[np.int64], kind: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Pairs of rows (first, second) of one event: each row and the one before it of its dataset, then first rows of two
    datasets."""
    same = np.flatnonzero((group[1:] == group[:-1]) & (kind[1:] == kind[:-1]))
    yield same, same + 1
    heads = np.flatnonzero(np.concatenate([[True], (group[1:] != group[:-1]) | (kind[1:] != kind[:-1])]))
    for step in range(1, len(heads)):
        first, second = heads[:-step], heads[step:]
        one = group[first] == group[second]
        if not one.any():
            return
        yield first[one], second[one]


def count_pairs(rows: Rows, group: NDArray[np.int64], dataset: NDArray[np.int64]) -> tuple[dict, dict]:
    """Shared events per pair of datasets and the first examples of each; ``dataset``: of every file's rank."""
    kind = dataset[rows.file]
    counts: dict[tuple[int, int], int] = {}
    examples: dict[tuple[int, int], list[Example]] = {}
    number = int(dataset.max()) + 1
    for first, second in _pairs(group, kind):
        code = kind[first] * number + kind[second]
        for value in np.unique(code).tolist():
            pair, mine = divmod(value, number), np.flatnonzero(code == value)
            counts[pair] = counts.get(pair, 0) + len(mine)
            few = [_example(rows, int(first[k]), int(second[k])) for k in mine[:EXAMPLES]]
            examples[pair] = sorted([*examples.get(pair, []), *few])[:EXAMPLES]
    return counts, examples


def _example(rows: Rows, first: int, second: int) -> Example:
    lumi = int(rows.lumi[first])
    files = int(rows.file[first]), int(rows.file[second])
    return lumi >> 32, lumi & 0xFFFFFFFF, int(rows.event[first]), *files


def merge_part(part: Part) -> Found:
    """Find the events that are there more than once in one range of hashes; a job for a worker.

    Writes the entries to drop as (2, k) uint64 (rank of the file, entry) to ``part.out``: of every event all rows but the
    first in the order of the ranks. Equal hashes of different events are told apart by (run, luminosityBlock, event).
    """
    pieces = list(_candidates(part))
    none = np.empty((2, 0), dtype=np.uint64)
    dropped = np.zeros(len(part.uuids), dtype=np.int64)
    if not pieces:
        write_array(Path(part.out), none)
        return Found({}, {}, dropped, 0)
    rows = sorted_rows(pieces)
    group = groups_of(rows)
    size = np.bincount(group)
    counts, examples = count_pairs(rows, group, part.dataset)
    again = rows.take(np.flatnonzero(group[1:] == group[:-1]) + 1)
    order = np.lexsort((again.entry, again.file))
    write_array(Path(part.out), np.stack([again.file[order].astype(np.uint64), again.entry[order]]))
    dropped += np.bincount(again.file, minlength=len(dropped))
    return Found(counts, examples, dropped, int(np.count_nonzero(size == 1)))
