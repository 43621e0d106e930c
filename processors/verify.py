"""Recount a finished workspace against its input files: the proof that every event is there exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import ElsewhereError, IncompleteError
from ..events import identity_hash
from ..workspace import chunk_name, read_chunk, read_chunk_meta
from .core import Unit, column_digest, identity_rows
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


def _against_file(row: Mapping[str, Any], record: FileRecord, unit: Unit) -> list[str]:
    """What differs between a ledger row and the range of the input file, read again."""
    try:
        tree = open_tree(record.path, record.uuid)
        raw = tree.arrays(list(row["columns"]), unit.start, min(unit.stop, tree.entries))
        columns = {n: ak.to_numpy(v) if v.ndim == 1 else v for n, v in raw.items()}
        identity = identity_rows(columns, unit, min(unit.stop, tree.entries) - unit.start)
    except Exception as error:  # a file that went bad can raise anything; verify says so and goes on
        return [f"{record.path}, entries {unit.start}-{unit.stop}: not readable any more ({error})"]
    with np.errstate(over="ignore"):
        total = int(identity_hash(identity).sum(dtype=np.uint64))
    if int(row["hash_sum"]) != total:
        return [f"{chunk_name(unit.uuid, unit.start, unit.stop)}: its events are not those of {record.path}"]
    changed = [n for n, values in columns.items() if column_digest(values) != row["columns"][n]]
    return [
        f"{record.path}, entries {unit.start}-{unit.stop}: {name} is not what was read; the file has changed"
        for name in changed
    ]


def verify(
    root: Path, files: Mapping[str, Sequence[FileRecord]], chunk: int, kind: str = "columns"
) -> VerifyReport:
    """Compare rows, ledgers and the input files: their events by the sum of identity hashes, every column by its digest."""
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
        problems += _against_file(meta["ledger"], records[unit.uuid], unit)
    try:
        close_ledger(ledgers, units, {u: r.entries for u, r in records.items()})
    except IncompleteError as error:
        problems.append(str(error))
    return VerifyReport(len(units), total_in, total_out, tuple(problems))
