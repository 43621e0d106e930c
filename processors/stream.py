"""A whole stream: every event exactly once, or the run says which are not, whatever is killed on the way."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chunks import NOMINAL
from ..errors import ElsewhereError, InputError
from ..workspace import check_pages, read_chunk_meta
from .core import Recipe, Unit
from .driver import Job, Outcome, execute, unit_path
from .features import Features
from .lumis import merge
from .places import PATIENCE, RemoteSettings
from .preflight import FileRecord
from .report import (
    DatasetCounts,
    Quarantined,
    StreamReport,
    close_ledger,
    merge_histograms,
    sum_cutflows,
    write_root_histograms,
)

log = logging.getLogger(__name__)

#: Bytes of a range's feature array at most: below glibc's largest mmap threshold (32 MiB), above which every allocation is
#: page-faulted in again.
RANGE_BYTES = 24 << 20
#: Entries of a range at least and at most, where the driver chooses.
SMALLEST, LARGEST = 50_000, 500_000
Progress = Callable[[int, int], None]
Executor = Callable[[Sequence[Unit], Job, str, int, Any], Iterator[Outcome]]
_OURS = re.compile(r"^[0-9a-f-]{36}_\d+_\d+\.parquet(\.tmp\..*)?$")


def best_chunk(features: Features) -> int:
    """Entries of a range that keep the feature array in `RANGE_BYTES`."""
    row = 4 * (len(features.features) + len(features.features.extras))
    return min(max(RANGE_BYTES // row, SMALLEST), LARGEST) // 1000 * 1000


def _ranges(record: FileRecord, chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``chunk`` entries that end where all branches' baskets do, if such places are near enough."""
    at = 0
    while at < record.entries:
        limit = min(at + chunk, record.entries)
        passed = bisect_right(record.clusters, limit)
        near = record.clusters[passed - 1] if passed else 0
        stop = near if near > at + chunk // 2 else limit
        yield at, stop
        at = stop
    if record.entries == 0:
        yield 0, 0


def split(files: Mapping[str, Sequence[FileRecord]], chunk: int, scales: Mapping[str, float]) -> list[Unit]:
    """Every file cut into ranges of at most ``chunk`` entries; an empty file is one empty range."""
    return [
        Unit(dataset, r.path, r.uuid, start, stop, scales.get(dataset, 1.0), r.by_entry)
        for dataset, records in files.items()
        for r in records
        for start, stop in _ranges(r, chunk)
    ]


def is_done(path: Path, unit: Unit, key: str) -> bool:
    """Whether a unit's chunk is there, whole to the last page, and made of this range by the same recipe."""
    if not path.exists():
        return False
    try:
        row = read_chunk_meta(path)["ledger"]
        wanted = (unit.uuid, unit.start, unit.stop, key)
        if (row["uuid"], row["start"], row["stop"], row["key"]) != wanted:
            return False
        check_pages(path)
        return True
    except ElsewhereError:
        log.warning("%s is damaged and is made again", path)
        return False


def _tidy(out: Path, kind: str, units: Sequence[Unit]) -> None:
    """Remove chunks of other ranges and half-written ones; a file that is not ours stops the run."""
    wanted = {unit_path(out, kind, u) for u in units}
    for path in (out / kind).glob("*/*"):
        if path in wanted:
            continue
        if not _OURS.match(path.name):
            raise InputError(f"{path} was not written by elsewhere; move it out of the workspace")
        path.unlink(missing_ok=True)  # a worker that outlived its driver may be renaming it


def probe(out: Path, kind: str, datasets: Iterable[str]) -> None:
    """Raise OSError at once, not after the first range, where a chunk could not be written."""
    for dataset in datasets:
        folder = out / kind / dataset
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@dataclass
class _Run:
    """The state of one stream while it runs."""

    files: Mapping[str, Sequence[FileRecord]]
    units: list[Unit]
    job: Job
    strict: bool
    chunk: int
    bad: dict[str, str]
    cpu_s: float = 0.0
    bytes_read: int = 0
    retried: int = 0
    reused: int = 0
    servers: Counter[str] = field(default_factory=Counter)

    def path(self, unit: Unit) -> Path:
        return unit_path(Path(self.job.out), self.job.kind, unit)

    def take(self, outcome: Outcome) -> None:
        """Account for an outcome; a bad input stops a strict run and else puts its whole file into quarantine."""
        self.cpu_s, self.bytes_read = self.cpu_s + outcome.cpu_s, self.bytes_read + outcome.bytes_read
        self.retried += outcome.tries - 1
        self.servers[outcome.server] += outcome.bytes_read
        if outcome.error is None:
            return
        if self.strict:
            raise InputError(outcome.error)
        if outcome.unit.uuid not in self.bad:
            log.warning("quarantined: %s", outcome.error)
        self.bad.setdefault(outcome.unit.uuid, outcome.error)


def process(
    files: Mapping[str, Sequence[FileRecord]],
    features: Features,
    out: Path,
    *,
    kind: str = "columns",
    scorers: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    filters: Mapping[str, tuple[Any, ...]] | None = None,
    nuisances: Mapping[str, tuple[Any, ...]] | None = None,
    shifts: tuple[float, ...] = (-1.0, 1.0),
    chunk: int | None = None,
    scheduler: str = "local",
    workers: int = 2,
    client: Any = None,
    scales: Mapping[str, float] | None = None,
    key: str = "",
    remote: RemoteSettings = PATIENCE,
    strict: bool = True,
    quarantined: Sequence[Quarantined] = (),
    progress: Progress | None = None,
    run: Executor = execute,
) -> StreamReport:
    """Stream ``files`` into ``out``/``kind``/DATASET, one Parquet file per unit, and histograms.root.

    ``filters`` and ``nuisances`` by dataset, the latter at each of ``shifts`` standard deviations; ``chunk``: entries of
    a range (None: `best_chunk`). Units whose chunk is there with the same ``key`` are kept, so a run that was killed goes
    on where it was, and the result does not depend on scheduler, workers or kills. ``scheduler``: local (a Dask cluster on
    this machine), loop, processes, or the address of a Dask scheduler; ``client``: a Dask client to use instead.

    A file that turns out unusable raises `InputError`; with ``strict=False`` none of its events are used, the report
    lists it beside those ``quarantined`` before, and the rest finishes. Raises `IncompleteError` unless every event of
    the other files was counted once.
    """
    wall = time.perf_counter()
    recipe = Recipe(
        features, scorers or {}, thresholds or {}, key, filters or {}, nuisances or {}, shifts, remote
    )
    chunk = chunk or best_chunk(features)
    units = split(files, chunk, scales or {})
    _tidy(out, kind, units)
    probe(out, kind, files)
    state = _Run(files, units, Job(recipe, str(out), kind), strict, chunk, {})
    todo = [u for u in units if not is_done(state.path(u), u, key)]
    state.reused = len(units) - len(todo)
    total = sum(u.stop - u.start for u in units)
    done = total - sum(u.stop - u.start for u in todo)
    show = progress or (lambda _done, _total: None)
    show(done, total)
    for outcome in run(todo, state.job, scheduler, workers, client):
        state.take(outcome)
        done += outcome.unit.stop - outcome.unit.start
        show(done, total)
    _tidy(out, kind, units)  # a worker that was killed leaves what it was writing
    return _close(state, list(quarantined), time.perf_counter() - wall, workers)


def _close(run: _Run, before: list[Quarantined], wall_s: float, workers: int) -> StreamReport:
    """Prove that every event is there once, merge the histograms in the order of the units, and count."""
    recipe, out, kind = run.job.recipe, Path(run.job.out), run.job.kind
    for unit in run.units:
        if unit.uuid in run.bad:
            run.path(unit).unlink(missing_ok=True)
    good = {d: [r for r in records if r.uuid not in run.bad] for d, records in run.files.items()}
    units = [u for u in run.units if u.uuid not in run.bad]
    # A large run must not hold the feature set of every chunk.
    used = ("ledger", "kinematic", "weights", "histograms")
    metas = [{k: m[k] for k in used} for m in (read_chunk_meta(run.path(u)) for u in units)]
    ledgers = [m["ledger"] for m in metas]
    close_ledger(ledgers, units, {r.uuid: r.entries for rs in good.values() for r in rs})
    parts = [
        (m["ledger"]["dataset"], [NOMINAL, *m["kinematic"], *m["weights"]], m["histograms"]) for m in metas
    ]
    whole = merge_histograms(recipe.features.features, recipe.cuts, parts, tuple(run.files))
    name = "histograms.root" if kind == "columns" else f"histograms_{kind}.root"
    write_root_histograms(out / name, whole)
    lost = [
        Quarantined(d, r.path, r.uuid, r.entries, run.bad[r.uuid])
        for d, records in run.files.items()
        for r in records
        if r.uuid in run.bad
    ]
    counts = {d: _counts(records, [w for w in ledgers if w["dataset"] == d]) for d, records in good.items()}
    return StreamReport(
        counts, len(run.units), run.reused, wall_s, run.cpu_s, workers, whole, tuple(before + lost),
        run.bytes_read, run.retried, run.chunk, dict(run.servers),
    )  # fmt: skip


def _counts(records: Sequence[FileRecord], rows: Sequence[Mapping[str, Any]]) -> DatasetCounts:
    total, squares = (sum(r[k] for r in rows) for k in ("sumw", "sumw2"))
    return DatasetCounts(
        files=len(records), entries=sum(r.entries for r in records), read=sum(r["n_in"] for r in rows),
        kept=sum(r["n_out"] for r in rows), units=len(rows), sum_weights=sum(r["sumw"] for r in rows),
        cutflow=sum_cutflows([r["cutflow"] for r in rows]),
        lumis_seen=merge(r["lumis_seen"] for r in rows),
        effective_events=total**2 / squares if squares > 0 else 0.0,
        largest_weight_share=max((r["largest"] for r in rows), default=0.0) / abs(total) if total else 0.0,
        sum_varied={k: sum(r["sumw_varied"][k] for r in rows) for k in (rows[0]["sumw_varied"] if rows else ())},
    )  # fmt: skip
