"""Which data count and how much they are: lumi masks, events of several primary datasets, integrated luminosity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from .config import EventsSection
from .errors import InputError
from .processors.filters import filters_key
from .processors.lumiblocks import file_lumis
from .processors.lumimask import LumiMask, require_same_year
from .processors.luminosity import LuminosityTable
from .processors.lumis import Lumis, lumi_report, merge
from .processors.overlap import Map, find_overlap
from .processors.preflight import FileRecord
from .processors.report import StreamReport
from .stages import Search
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


def filters_of(search: Search, files: Files, run: Map) -> dict[str, tuple[Any, ...]]:
    """The filters of every dataset; overlap.json says what was found in more than one place."""
    out: dict[str, tuple[Any, ...]] = {name: (mask,) for name, mask in masks_of(search).items()}
    asked = search.config.events.overlap
    if asked is None:
        return out
    mine = {name: files[name] for name in asked.order}
    report, drop = find_overlap(
        mine, asked.order, search.space.path("overlap"), drop_repeated=asked.drop_repeated, run=run
    )
    write_json(search.space.path("overlap.json"), report.to_json())
    for name in asked.order:
        if name not in report.left_out:
            out[name] = (*out.get(name, ()), drop)
    return out


def _asked(records: Sequence[FileRecord]) -> Lumis:
    """The sections that files were made from, those without a selected event included."""
    return merge(lumis for r in records if (lumis := file_lumis(r.path, r.uuid)) is not None)


def write_lumis(search: Search, files: Files, report: StreamReport) -> list[str]:
    """lumis.json: luminosity sections asked, processed and not finished of every dataset of data, and the luminosity of the
    processed ones where there is a table; returns the names of what was written.

    Raises `InputError` for a lumi mask of another year.
    """
    events: EventsSection = search.config.events
    masks = masks_of(search)
    table = LuminosityTable.read(search.source / events.luminosity_table) if events.luminosity_table else None
    out: dict[str, Any] = {}
    for name, counts in report.datasets.items():
        if not counts.lumis or (name not in masks and table is None):
            continue
        lost = [q.path for q in report.quarantine if q.dataset == name]
        asked = _asked(files[name])
        unfinished = [_asked([r]) for r in files[name] if r.path in lost]
        mask = masks[name].to_json() if name in masks else None
        found = lumi_report(asked, [counts.lumis], unfinished, mask)
        out[name] = found.to_json()
        if table is not None:
            total = table.integrate(found.processed)
            out[name] |= {"recorded_fb": total.recorded_fb, "sections": total.sections}
    for name, mask in masks.items():
        if name in report.datasets:
            require_same_year(mask, {r.path: [_asked([r])] for r in files[name]})
    if not out:
        return []
    write_json(search.space.path("lumis.json"), out)
    return ["lumis.json"]
