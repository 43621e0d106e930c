"""Overlap removal between primary datasets, exact and in bounded memory, and the search for repeated events inside one.

An event that passed the triggers of two primary datasets is in both. Here it is kept in the first of them, in an order that is
given. Two passes: `overlapindex` writes each file's identities sorted by their hash, `overlapmerge` compares one range of
hashes of all files at a time. Nothing depends on the order of files or workers. Datasets compared must be taken from the same
luminosity sections and selected alike afterwards, or an event may be dropped where it would pass and kept where it fails.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from .overlapfilter import OverlapFilter, write_drops, write_manifest
from .overlapindex import Indexed, index_file
from .overlapmerge import EXAMPLES, Found, Part, merge_part
from .places import PATIENCE, RemoteSettings
from .preflight import FileRecord

log = logging.getLogger(__name__)

#: Events compared at once; the merge takes some 30 bytes of memory for each.
ROWS = 8_000_000
Files = Mapping[str, Sequence[FileRecord]]
#: ``run(function, jobs)``: the results in the order of the jobs, for example `map` or an executor's.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Shared:
    """Events of two datasets, or rows of one (``first`` = ``second``) that repeat an event of it.

    ``examples``: (run, luminosityBlock, event, the file that keeps it, the other one), the first by number.
    """

    first: str
    second: str
    events: int
    examples: tuple[tuple[int, int, int, str, str], ...]

    def __str__(self) -> str:
        run, section, event, one, other = self.examples[0]
        what = (
            f"{self.first} and {self.second} share" if self.first != self.second else f"{self.first} repeats"
        )
        return f"{what} {self.events} events, for example {run}:{section}:{event} in {one} and {other}"


@dataclass(frozen=True)
class OverlapReport:
    """What was compared and found. ``dropped``: rows dropped of each dataset; ``left_out``: datasets not compared, and why.

    ``collisions``: different events whose 64-bit hashes agree; they were told apart and cost nothing.
    """

    order: tuple[str, ...]
    files: int
    events: int
    shared: tuple[Shared, ...]
    repeated: tuple[Shared, ...]
    dropped: dict[str, int]
    left_out: dict[str, str]
    collisions: int

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Compared:
    """What is compared: files by rank (the order of their datasets, then UUID), and the dataset of each."""

    datasets: tuple[str, ...]
    left_out: dict[str, str]
    records: tuple[FileRecord, ...]
    owner: NDArray[np.int64]
    bounds: NDArray[np.int64]

    @cached_property
    def uuids(self) -> tuple[str, ...]:
        return tuple(r.uuid for r in self.records)

    def jobs(self, folder: Path) -> list[Part]:
        """One job per range of hashes."""
        out = folder / "parts"
        return [
            Part(str(folder), str(out / f"{i}.npy"), self.uuids, self.owner, self.bounds[:, i : i + 2])
            for i in range(self.bounds.shape[1] - 1)
        ]

    def shared(self, found: Sequence[Found]) -> tuple[Shared, ...]:
        """The parts' counts added up, pairs in the order of the datasets."""
        out = []
        for a, b in sorted({pair for f in found for pair in f.counts}):
            mine = sorted(e for f in found for e in f.examples.get((a, b), ()))[:EXAMPLES]
            examples = tuple((*e[:3], self.records[e[3]].path, self.records[e[4]].path) for e in mine)
            events = sum(f.counts.get((a, b), 0) for f in found)
            out.append(Shared(self.datasets[a], self.datasets[b], events, examples))
        return tuple(out)

    def report(self, found: Sequence[Found], dropped: NDArray[np.int64]) -> OverlapReport:
        """The whole pass; ``dropped`` (files,): entries to drop of each file."""
        shared = self.shared(found)
        rows = {d: int(dropped[self.owner == i].sum()) for i, d in enumerate(self.datasets)}
        return OverlapReport(
            self.datasets, len(self.records), sum(r.entries for r in self.records),
            tuple(s for s in shared if s.first != s.second), tuple(s for s in shared if s.first == s.second),
            rows, self.left_out, sum(f.collisions for f in found),
        )  # fmt: skip


def _check(files: Files, order: Sequence[str]) -> None:
    """Raise `ConfigError` unless ``order`` names every dataset once, `InputError` for one file given twice."""
    odd = sorted(set(order) ^ set(files)) or [d for i, d in enumerate(order) if d in order[:i]]
    if odd:
        raise ConfigError(
            f"the overlap order {', '.join(order)} must name each dataset ({', '.join(files)}) once; '{odd[0]}' is wrong"
        )
    seen: dict[str, str] = {}
    for dataset, record in ((d, r) for d in order for r in files[d]):
        if record.by_entry:
            raise ConfigError(
                f"dataset '{dataset}' has 'identity: entry', so its events cannot be found again elsewhere; "
                "take it out of the overlap order"
            )
        if record.uuid in seen:
            raise InputError(f"{record.path} is a copy of {seen[record.uuid]} (same UUID); give one of them")
        seen[record.uuid] = record.path


def _simulated(files: Files, indexed: Mapping[str, Indexed]) -> dict[str, str]:
    """The datasets to leave out, and why; raises `InputError` for one that is data and simulation."""
    out = {}
    for dataset, records in files.items():
        with_weights = [r for r in records if indexed[r.uuid].simulated]
        if with_weights and len(with_weights) < len(records):
            raise InputError(
                f"dataset '{dataset}' mixes data and simulation: {with_weights[0].path} has genWeight, "
                f"{len(records) - len(with_weights)} others have not; divide the dataset"
            )
        if with_weights:
            out[dataset] = "simulation (it has genWeight): event numbers repeat there"
    return out


def _index(
    files: Files,
    order: Sequence[str],
    folder: Path,
    simulation: bool,
    rows: int,
    remote: RemoteSettings,
    run: Map,
) -> _Compared:
    """The first pass, and what is left to compare after it."""
    records = [r for d in order for r in sorted(files[d], key=lambda r: r.uuid)]
    parts = max(1, -(-sum(r.entries for r in records) // rows))
    jobs = [(r, str(folder), parts, simulation, remote) for r in records]
    indexed = {one.uuid: one for one in run(index_file, jobs)}
    left_out = _simulated(files, indexed)
    datasets = tuple(d for d in order if d not in left_out)
    kept = tuple(r for r in records if not indexed[r.uuid].simulated)
    owner = np.repeat(np.arange(len(datasets)), [len(files[d]) for d in datasets])
    bounds = np.array([indexed[r.uuid].bounds for r in kept], dtype=np.int64).reshape(len(kept), parts + 1)
    return _Compared(datasets, left_out, kept, owner, bounds)


def find_overlap(
    files: Files, order: Sequence[str], folder: Path, *, drop_repeated: bool = False, simulation: bool = False,
    rows: int = ROWS, remote: RemoteSettings = PATIENCE, run: Map = map,
) -> tuple[OverlapReport, OverlapFilter]:  # fmt: skip
    """Find the events that are in more than one place; write into ``folder`` which entries of each file to drop.

    ``files``: datasets and their records (`preflight`); ``order``: all of them, the one that keeps a shared event first.
    ``run`` maps both passes over workers, all of which must see ``folder``; jobs and results are small. Indexes that are
    there are used again; ``remote``: patience with other machines. Simulation (a genWeight branch) is left out unless asked for.

    Raises `InputError` where an event is twice in one dataset, unless ``drop_repeated``: then the one in the file of lower
    UUID, at the lower entry, is kept.
    """
    _check(files, order)
    compared = _index(files, order, folder, simulation, rows, remote, run)
    jobs = compared.jobs(folder)
    try:
        found = list(run(merge_part, jobs))
        dropped = np.stack([f.dropped for f in found]).sum(axis=0)
        report = compared.report(found, dropped)
        if report.repeated and not drop_repeated:
            raise InputError(
                "the same event is there more than once inside a dataset: "
                + "; ".join(str(s) for s in report.repeated)
                + ". Remove one of the files, or ask for repeated events to be dropped"
            )
        drop = write_drops(folder, compared.uuids, dropped, [Path(j.out) for j in jobs], rows)
    finally:
        for job in jobs:
            Path(job.out).unlink(missing_ok=True)
    for shared in (*report.shared, *report.repeated):
        log.info("%s", shared)
    return report, write_manifest(folder, drop, compared.left_out, report.to_json())
