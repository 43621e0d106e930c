"""Recount a finished workspace against its input files: the proof that every event is there exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np

from ..errors import ElsewhereError, IncompleteError
from ..events import identity_hash
from ..workspace import read_chunk, read_chunk_meta
from .core import IDENTITY_BRANCHES, Unit, identity_rows
from .driver import unit_path
from .preflight import FileRecord
from .reading import open_tree
from .report import close_ledger
from .stream import split


@dataclass(frozen=True)
class VerifyReport:
    """What was recounted. ``problems`` is empty when every entry of every file is in the columns once."""

    units: int
    events_in: int
    events_out: int
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is missing and nothing is there twice."""
        return not self.problems


def _check_unit(path: Path) -> tuple[int, int, list[str]]:
    """(events in, events out, problems) of one chunk: its rows against its own ledger."""
    chunk = read_chunk(path)
    row, rows = chunk.ledger, len(chunk.events)
    problems = []
    if rows != row["n_out"]:
        problems.append(f"{path.name}: {rows} rows, its ledger says {row['n_out']}")
    if len(set(chunk.events.identity.tolist())) != rows:
        problems.append(f"{path.name}: an event is there twice")
    return row["n_in"], row["n_out"], problems


def _hash_of_file(record: FileRecord, start: int, stop: int) -> int:
    """Sum of identity hashes of an entry range, read again from the input file."""
    tree = open_tree(record.path, record.uuid)
    names = [] if record.by_entry else list(IDENTITY_BRANCHES)
    raw = {n: ak.to_numpy(v) for n, v in tree.arrays(names, start, stop).items()} if names else {}
    unit = Unit("", record.path, record.uuid, start, stop, by_entry=record.by_entry)
    identity = identity_rows(raw, unit, min(stop, tree.entries) - start)
    with np.errstate(over="ignore"):
        return int(identity_hash(identity).sum(dtype=np.uint64))


def verify(
    root: Path, files: Mapping[str, Sequence[FileRecord]], chunk: int, kind: str = "columns"
) -> VerifyReport:
    """Compare rows, ledgers and the input files' own events (by the sum of their identity hashes)."""
    units = split(files, chunk, {})
    records = {r.uuid: r for rs in files.values() for r in rs}
    problems: list[str] = []
    ledgers, total_in, total_out = [], 0, 0
    for unit in units:
        path = unit_path(root, kind, unit)
        try:
            meta = read_chunk_meta(path)
            n_in, n_out, found = _check_unit(path)
        except (ElsewhereError, OSError) as error:
            problems.append(f"{path.name} ({unit.dataset}): {error}")
            continue
        problems += found
        ledgers.append(meta["ledger"])
        total_in, total_out = total_in + n_in, total_out + n_out
        if int(meta["ledger"]["hash_sum"]) != _hash_of_file(records[unit.uuid], unit.start, unit.stop):
            problems.append(f"{path.name}: its events are not those of {unit.path}")
    try:
        close_ledger(ledgers, units, {u: r.entries for u, r in records.items()})
    except IncompleteError as error:
        problems.append(str(error))
    return VerifyReport(len(units), total_in, total_out, tuple(problems))
