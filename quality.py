"""Which data count and how much they are: lumi masks, events of several primary datasets, integrated luminosity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import InputError
from .processors.filters import filters_key
from .processors.lumiblocks import file_lumis
from .processors.lumimask import LumiMask, require_same_year
from .processors.luminosity import LuminosityTable
from .processors.lumis import LumiReport, Lumis, lumi_report, merge
from .processors.overlap import Map, find_overlap
from .processors.places import RemoteSettings
from .processors.preflight import FileRecord
from .processors.report import DatasetCounts, StreamReport
from .stages import Search, role_of
from .workspace import file_digest, write_json

Files = Mapping[str, Sequence[FileRecord]]


@lru_cache(maxsize=16)
def _mask(path: Path) -> LumiMask:
    return LumiMask.read(path)


def masks_of(search: Search) -> dict[str, LumiMask]:
    """The lumi mask of every dataset that has one."""
    datasets = search.config.events.datasets
    return {n: _mask(search.source / d.lumi_mask) for n, d in datasets.items() if d.lumi_mask is not None}


def quality_key(search: Search) -> Any:
    """What the selection of data depends on beside the files."""
    events = search.config.events
    table = search.source / events.luminosity_table if events.luminosity_table else None
    if table is not None and not table.is_file():
        raise InputError(f"events.luminosity_table: {table} does not exist")
    return [
        {name: filters_key([mask]) for name, mask in masks_of(search).items()},
        events.overlap.model_dump() if events.overlap else None,
        file_digest(table) if table else None,
    ]


def _compared(search: Search, files: Files) -> list[str]:
    """Datasets whose events must not be there twice though nobody asked: all data that have event numbers."""
    return [
        name
        for name, records in files.items()
        if records
        and role_of(search.config, name) == "data"
        and not any(r.by_entry or r.sum_genweight is not None for r in records)
    ]


def filters_of(
    search: Search, files: Files, remote: RemoteSettings, run: Map = map
) -> dict[str, tuple[Any, ...]]:
    """The filters of every dataset; overlap.json says what was found in more than one place.

    Raises `InputError` for events of data that are there twice and that nobody asked to drop.
    """
    out: dict[str, tuple[Any, ...]] = {name: (mask,) for name, mask in masks_of(search).items()}
    asked = search.config.events.overlap
    order = asked.order if asked is not None else _compared(search, files)
    if not order:
        return out
    mine = {name: files[name] for name in order}
    folder, repeated = search.space.path("overlap"), asked is not None and asked.drop_repeated
    report, drop = find_overlap(mine, order, folder, drop_repeated=repeated, remote=remote, run=run)
    write_json(search.space.path("overlap.json"), report.to_json())
    if asked is None:
        if report.shared:
            raise InputError(
                f"{'; '.join(str(s) for s in report.shared)}. Name the datasets in events.overlap.order: an event is then "
                "kept in the first that has it"
            )
        return out
    for name in order:
        if name not in report.left_out:
            out[name] = (*out.get(name, ()), drop)
    return out


def _known(record: FileRecord, remote: RemoteSettings, lost: bool) -> Lumis:
    """The sections a file was made from, those without a selected event included; none where it does not tell."""
    try:
        return file_lumis(record.path, record.uuid, remote) or {}
    except InputError:
        if not lost:
            raise
        return {}  # in quarantine: its sections cannot be known


def _report(
    records: Sequence[FileRecord],
    counts: DatasetCounts,
    lost: set[str],
    mask: LumiMask | None,
    remote: RemoteSettings,
) -> LumiReport:
    """The luminosity sections of one dataset; raises `InputError` for a mask of another year.

    Sections of good files were searched even where no event of theirs was selected.
    """
    known = {r.path: _known(r, remote, r.path in lost) for r in records}
    if mask is not None:
        seen = {path: [lumis] for path, lumis in known.items() if lumis}
        require_same_year(mask, seen or {"the dataset": [counts.lumis_seen]})
    asked = merge([*known.values(), counts.lumis_seen])
    done = [counts.lumis_seen, *(lumis for path, lumis in known.items() if path not in lost)]
    unfinished = [lumis for path, lumis in known.items() if path in lost]
    return lumi_report(asked, done, unfinished, mask.to_json() if mask is not None else None)


def write_lumis(search: Search, files: Files, report: StreamReport, remote: RemoteSettings) -> list[str]:
    """lumis.json: luminosity sections asked, processed and not finished of every dataset of data, and the luminosity of the
    processed ones where there is a table; returns the names of what was written.

    Raises `InputError` for a lumi mask of another year, or a table that lacks processed sections.
    """
    where, masks = search.config.events.luminosity_table, masks_of(search)
    table = LuminosityTable.read(search.source / where) if where else None
    out: dict[str, Any] = {}
    for name, counts in report.datasets.items():
        if not counts.lumis_seen or (name not in masks and table is None):
            continue
        lost = {q.path for q in report.quarantine if q.dataset == name}
        found = _report(files[name], counts, lost, masks.get(name), remote)
        out[name] = found.to_json()
        if table is not None:
            total = table.integrate(found.processed)
            out[name] |= {"recorded_fb": total.recorded_fb, "sections": total.sections}
    if not out:
        return []
    write_json(search.space.path("lumis.json"), out)
    return ["lumis.json"]
