"""The two streaming stages of every search: features to columns, and the same pass again with scorers handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Dataset
from .deploy.clusters import cluster_client, dashboard_link, require_shared, section_for
from .errors import ConfigError
from .processors.bits import WithBits
from .processors.environment import WORKER_ENVIRONMENT, Warm
from .processors.features import Features, definition_digest, load_features
from .processors.fileset import discover, is_url, read_fileset
from .processors.places import RemoteSettings
from .processors.preflight import FileRecord, Quarantined, over_processes, preflight
from .processors.stream import probe, process
from .quality import filters_of, quality_key, write_lumis
from .stages import Progress, Search, Stage, role_of
from .workspace import Workspace, digest, read_json, write_json


def features_of(search: Search) -> Features:
    """The feature definition of the search."""
    events = search.config.events
    found = load_features(events.features, search.source)
    return WithBits(found, tuple(events.bits)) if events.bits else found


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


#: From so many files on the preflight is spread.
MANY_FILES = 64


@dataclass(frozen=True)
class Inputs:
    """What the preflight found: files by dataset, and those that cannot be used."""

    files: dict[str, list[FileRecord]]
    quarantine: tuple[Quarantined, ...]


_seen: dict[str, Inputs] = {}


def inputs_of(search: Search) -> dict[str, list[FileRecord]]:
    """Every input file that passed the preflight, by dataset."""
    return checked(search).files


def checked(search: Search) -> Inputs:
    """The preflight of all input files; they are opened once per process and configuration.

    Raises `InputError` for a file that cannot be used if the search is strict.
    """
    paths = {name: _paths(search, name, d) for name, d in search.config.events.datasets.items()}
    if search.config.events.fileset is not None:
        paths.update(read_fileset(search.source / search.config.events.fileset))
    local = [Path(p) for files in paths.values() for p in files if not is_url(p)]
    state = [(p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else None for p in local]
    asked = (search.config.events.model_dump(), search.config.run.model_dump())
    key = digest(asked, paths, state, str(search.source))
    if key not in _seen:
        by_entry = [n for n, d in search.config.events.datasets.items() if d.identity == "entry"]
        bad: list[Quarantined] | None = None if search.config.run.strict else []
        found = preflight(
            paths, features_of(search), by_entry, bad, remote_of(search), _preflight_run(search, paths)
        )
        _seen[key] = Inputs(found, tuple(bad or ()))
    return _seen[key]


def _preflight_run(search: Search, paths: Mapping[str, Sequence[str]]) -> Any:
    """Where the preflight opens files: here, or for many files in processes, or on a scheduler that already runs."""
    run = search.config.run
    if sum(len(files) for files in paths.values()) < MANY_FILES:
        return None
    section = run.cluster or section_for(run.scheduler, run.workers)
    if section.kind != "address":
        return over_processes(run.workers)

    def mapped(function: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
        with cluster_client(section, environment=WORKER_ENVIRONMENT) as client:
            found: Any = client.gather(client.map(function, list(jobs), pure=False))
            return found

    return mapped


@contextmanager
def _client(search: Search, scorers: Mapping[str, Any]) -> Iterator[Any]:
    """A Dask client of the search's cluster, warmed; None for the schedulers that need no Dask."""
    run = search.config.run
    if run.cluster is None and run.scheduler in ("loop", "processes"):
        yield None
        return
    section = run.cluster or section_for(run.scheduler, run.workers)
    started = section.kind not in ("address", "gateway")
    warm = Warm(("torch",) if scorers else (), strict=started)
    with cluster_client(section, environment=WORKER_ENVIRONMENT, plugins=[warm]) as client:
        if section.kind != "local":
            require_shared(client, search.space.root)
        yield client


def remote_of(search: Search) -> RemoteSettings:
    """How patient to be with files of other machines."""
    asked = search.config.run.remote.model_dump()
    return RemoteSettings(**{**asked, "redirectors": tuple(asked["redirectors"])})


def nuisances_of(search: Search) -> dict[str, tuple[Any, ...]]:
    """The nuisances of every dataset that is varied."""
    asked = search.config.systematics
    if asked is None:
        return {}
    from .processors.nuisances.registry import build_nuisance

    for name in asked.datasets:
        real = [r.path for r in inputs_of(search)[name] if r.sum_genweight is None]
        if real:
            raise ConfigError(
                f"systematics.datasets: {name} is no simulation ({real[0]} has no Runs.genEventSumw); only simulation is varied"
            )
    made = tuple(build_nuisance(n, s.model_dump(), search.source) for n, s in asked.nuisances.items())
    return dict.fromkeys(asked.datasets, made)


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
    systematics = search.config.systematics
    varied = {n: [repr(one) for one in every] for n, every in nuisances_of(search).items()}
    return [
        files,
        definition_digest(features_of(search)),
        events.chunk,
        events.mode,
        asked,
        events.luminosity_fb,
        varied,
        systematics.shifts if systematics else None,
        quality_key(search),
    ]


def streamed(search: Search, kind: str) -> dict[str, list[FileRecord]]:
    """The input files of a pass: scores leave out the reference datasets, which are learnt from and never scored."""
    found = inputs_of(search)
    if kind == "columns":
        return found
    return {n: rs for n, rs in found.items() if role_of(search.config, n) != "reference"}


def _threads(client: Any) -> int:
    """Threads of all workers; 0 without a client."""
    return 0 if client is None else sum(client.nthreads().values())


def counts_name(kind: str) -> str:
    """The file of a pass's counts."""
    return "counts.json" if kind == "columns" else f"counts_{kind}.json"


def _stream(
    search: Search, key: str, progress: Progress, kind: str, scorers: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    found = streamed(search, kind)
    config = search.config
    every = {n: [r.to_json() for r in rs] for n, rs in inputs_of(search).items()}
    write_json(search.space.path("fileset.json"), every)
    unusable = checked(search).quarantine
    probe(search.space.root, kind, found)
    systematics = config.systematics
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
        "nuisances": nuisances_of(search),
        "shifts": tuple(systematics.shifts) if systematics else (),
        "strict": config.run.strict,
        "remote": remote_of(search),
        "filters": filters_of(search, found, remote_of(search)),
        "quarantined": [q for q in unusable if q.dataset in found],
    }
    with _client(search, scorers) as client:
        link = dashboard_link(client) if client is not None else None
        where = {"scheduler": config.run.scheduler, "workers": _threads(client) or config.run.workers}
        if config.events.mode == "dask-awkward":
            from .processors.daskawkward import process_dask_awkward

            report = process_dask_awkward(**settings, **where, client=client)
        else:
            report = process(**settings, **where, client=client)
    counts = counts_name(kind)
    more = write_lumis(search, found, report, remote_of(search)) if kind == "columns" else []
    write_json(search.space.path(counts), report.to_json())
    made = {"kind": kind, "files": len(list(search.space.path(kind).glob("*/*.parquet")))}
    record = {
        "dashboard": link,
        "throughput": report.throughput,
        "chunks": made,
        "quarantine": sorted(q.path for q in report.quarantine),
    }
    return [counts, "fileset.json", kind, *more], record


def process_stage() -> Stage:
    """Features to columns and histograms."""
    return Stage("process", (), _inputs, lambda s, k, p: _stream(s, k, p, "columns", {}), "events")


def score_stage(scorers: Callable[[Search], dict[str, Any]], after: tuple[str, ...] = ("train",)) -> Stage:
    """The same stream with the trained models handed in."""
    return Stage("score", after, _inputs, lambda s, k, p: _stream(s, k, p, "scores", scorers(s)), "events")


def verify_workspace(space: Workspace) -> tuple[list[str], bool]:
    """Recount columns and scores against the input files; (lines to print, everything there exactly once)."""
    from .processors.verify import verify

    files = {
        name: [FileRecord.from_json(r) for r in records]
        for name, records in read_json(space.path("fileset.json")).items()
    }
    lines, good = [], True
    for kind in ("columns", "scores"):
        path = space.path(counts_name(kind))
        if not path.exists():
            lines.append(f"{kind}: not made yet")
            continue
        counts = read_json(path)
        lost = {q["uuid"]: q for q in counts["quarantine"]}
        mine = {n: [r for r in files[n] if r.uuid not in lost] for n in counts["datasets"]}
        report = verify(space.root, mine, counts["chunk"], kind)
        good = good and report.good and counts["complete"]
        verdict = "every event exactly once" if report.good else f"{len(report.problems)} problems"
        lines.append(
            f"{kind}: {report.units} units, {report.events_in:,} events in, {report.events_out:,} kept, {verdict}"
        )
        lines += [f"  {p}" for p in report.problems]
        lines += [f"  not used: {q['reason']}" for q in counts["quarantine"]]
    return lines, good
