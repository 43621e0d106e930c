"""The two streaming stages of every search: features to columns, and the same pass again with scorers handed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .config import Dataset, SearchConfig
from .errors import ConfigError
from .processors.features import Features, definition_digest, load_features
from .processors.fileset import discover, read_fileset
from .processors.preflight import FileRecord, preflight
from .processors.stream import process
from .stages import Progress, Search, Stage
from .workspace import digest, write_json


def features_of(search: Search) -> Features:
    """The feature definition of the search."""
    return load_features(search.config.events.features, search.source)


def role_of(config: SearchConfig, dataset: str) -> str:
    """The role of a dataset; those of a coffea fileset are data."""
    known = config.events.datasets.get(dataset)
    return known.role if known is not None else "data"


def _paths(search: Search, name: str, dataset: Dataset) -> list[str]:
    """The files of a dataset, with shipped: and relative paths resolved."""
    from .samples.shipped import shipped

    found: list[str] = []
    asked = [dataset.files] if isinstance(dataset.files, str) else dataset.files
    for item in asked:
        if item.startswith("shipped:"):
            found.append(str(shipped(item.removeprefix("shipped:"))))
        else:
            found.extend(discover(item, search.source))
    if not found:
        raise ConfigError(
            f"events.datasets.{name}.files: nothing matches {dataset.files!r} under {search.source}"
        )
    return found


_seen: dict[str, dict[str, list[FileRecord]]] = {}


def inputs_of(search: Search) -> dict[str, list[FileRecord]]:
    """Every input file after the preflight, by dataset; the files are opened once per process and configuration."""
    key = digest(search.config.events.model_dump(), str(search.source))
    if key not in _seen:
        paths = {name: _paths(search, name, d) for name, d in search.config.events.datasets.items()}
        if search.config.events.fileset is not None:
            paths.update(read_fileset(search.source / search.config.events.fileset))
        by_entry = [n for n, d in search.config.events.datasets.items() if d.identity == "entry"]
        _seen[key] = preflight(paths, features_of(search), by_entry)
    return _seen[key]


def scales(search: Search, found: dict[str, list[FileRecord]]) -> dict[str, float]:
    """Cross-section times luminosity over the sum of generator weights, where a dataset gives a cross-section."""
    events = search.config.events
    out: dict[str, float] = {}
    for name, dataset in events.datasets.items():
        if dataset.cross_section_pb is None:
            continue
        if events.luminosity_fb is None:
            raise ConfigError(f"events.datasets.{name}.cross_section_pb needs events.luminosity_fb")
        sums = [r.sum_genweight for r in found[name]]
        if any(s is None for s in sums) or sum(s for s in sums if s is not None) <= 0:
            raise ConfigError(
                f"events.datasets.{name}: a cross-section needs Runs.genEventSumw in every file"
            )
        total = sum(s for s in sums if s is not None)
        out[name] = dataset.cross_section_pb * 1000.0 * events.luminosity_fb / total
    return out


def _inputs(search: Search) -> Any:
    files = {n: [(r.uuid, r.entries, r.size, r.by_entry) for r in rs] for n, rs in inputs_of(search).items()}
    events = search.config.events
    asked = {n: d.cross_section_pb for n, d in events.datasets.items()}
    return [
        files,
        definition_digest(features_of(search)),
        events.chunk,
        events.mode,
        asked,
        events.luminosity_fb,
    ]


def streamed(search: Search, kind: str) -> dict[str, list[FileRecord]]:
    """The input files of a pass: scores leave out the reference datasets, which are learnt from and never scored."""
    found = inputs_of(search)
    if kind == "columns":
        return found
    return {n: rs for n, rs in found.items() if role_of(search.config, n) != "reference"}


def _stream(
    search: Search, key: str, progress: Progress, kind: str, scorers: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    found = streamed(search, kind)
    config = search.config
    every = {n: [r.to_json() for r in rs] for n, rs in inputs_of(search).items()}
    write_json(search.space.path("fileset.json"), every)
    settings = {
        "files": found,
        "features": features_of(search),
        "out": search.space.root,
        "kind": kind,
        "scorers": scorers,
        "chunk": config.events.chunk,
        "scales": scales(search, found),
        "key": key,
        "progress": progress,
    }
    if config.events.mode == "dask-awkward":
        from .processors.daskawkward import process_dask_awkward

        report = process_dask_awkward(**settings, scheduler=config.run.scheduler, workers=config.run.workers)
    else:
        report = process(**settings, scheduler=config.run.scheduler, workers=config.run.workers)
    counts = f"counts_{kind}.json" if kind == "scores" else "counts.json"
    write_json(search.space.path(counts), report.to_json())
    return [counts, "fileset.json", kind], {"throughput": report.throughput}


def process_stage() -> Stage:
    """Features to columns and histograms."""
    return Stage("process", (), _inputs, lambda s, k, p: _stream(s, k, p, "columns", {}), "events")


def score_stage(scorers: Callable[[Search], dict[str, Any]], after: tuple[str, ...] = ("train",)) -> Stage:
    """The same stream with the trained models handed in."""
    return Stage("score", after, _inputs, lambda s, k, p: _stream(s, k, p, "scores", scorers(s)), "events")


def verify_workspace(search: Search) -> tuple[list[str], bool]:
    """Recount columns and scores against the input files; (lines to print, everything there exactly once)."""
    from .processors.verify import verify

    chunk = search.config.events.chunk
    lines, good = [], True
    for kind in ("columns", "scores"):
        if not search.space.path(kind).exists():
            lines.append(f"{kind}: not made yet")
            continue
        report = verify(search.space.root, streamed(search, kind), chunk, kind)
        good = good and report.good
        lines.append(
            f"{kind}: {report.units} units, {report.events_in:,} events in, {report.events_out:,} kept, "
            f"{'every event exactly once' if report.good else f'{len(report.problems)} problems'}"
        )
        lines += [f"  {p}" for p in report.problems]
    return lines, good
