"""The driver: units over Dask, processes or a loop; every event exactly once, whatever is killed on the way."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle

from ..errors import ElsewhereError, InputError
from ..workspace import chunk_name, read_chunk_meta, write_chunk
from .core import Recipe, Unit, finish_unit
from .environment import dask_client
from .features import Features
from .preflight import FileRecord
from .reading import read_columns
from .report import (
    DatasetCounts,
    StreamReport,
    close_ledger,
    merge_histograms,
    sum_cutflows,
    write_root_histograms,
)

log = logging.getLogger(__name__)

#: Events of a range. The arrays of a 57-number feature set then stay below glibc's largest mmap threshold (32 MiB), above
#: which every allocation is page-faulted in again.
CHUNK = 100_000
#: How often a unit is tried again after an error that may pass (OSError) or the death of its worker.
RETRIES = 3
Progress = Callable[[int, int], None]
_OURS = re.compile(r"^[0-9a-f-]{36}_\d+_\d+\.parquet(\.tmp\..*)?$")


def split(files: Mapping[str, Sequence[FileRecord]], chunk: int, scales: Mapping[str, float]) -> list[Unit]:
    """Every file cut into ranges of at most ``chunk`` entries; an empty file is one empty range."""
    units = []
    for dataset, records in files.items():
        for record in records:
            for start in range(0, max(record.entries, 1), chunk):
                stop = min(start + chunk, record.entries)
                factor = scales.get(dataset, 1.0)
                units.append(Unit(dataset, record.path, record.uuid, start, stop, factor, record.by_entry))
    return units


def unit_path(out: Path, kind: str, unit: Unit) -> Path:
    """Where a unit's chunk lies."""
    return out / kind / unit.dataset / chunk_name(unit.uuid, unit.start, unit.stop)


def do_unit(unit: Unit, recipe: Recipe, out: str, kind: str) -> float:
    """Read, compute and write one unit, on a worker; returns CPU seconds. Errors that may pass are tried again."""
    cpu = time.process_time()
    for attempt in range(RETRIES + 1):
        try:
            columns = read_columns(unit, recipe.features)
            break
        except OSError as error:
            if attempt == RETRIES:
                raise InputError(
                    f"{unit.path}, entries {unit.start}-{unit.stop}: not readable after {RETRIES + 1} tries ({error})"
                ) from error
            time.sleep(0.2 * 2**attempt)
    else:
        raise InputError(f"{unit.path}: never read")
    write_chunk(unit_path(Path(out), kind, unit), finish_unit(columns, recipe, unit))
    return time.process_time() - cpu


def pack(jobs: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The jobs as other processes can take them: a recipe may hold functions of a user's own file, not importable there.

    Each recipe is packed once, however many jobs share it.
    """
    packed: dict[int, bytes] = {}
    for _, recipe, *_ in jobs:
        packed.setdefault(id(recipe), cloudpickle.dumps(recipe))
    return [(unit, packed[id(recipe)], *rest) for unit, recipe, *rest in jobs]


def do_packed(unit: Unit, recipe: bytes, out: str, kind: str) -> float:
    """`do_unit` for a job of `pack`, on a worker."""
    return do_unit(unit, cloudpickle.loads(recipe), out, kind)


def is_done(path: Path, key: str) -> bool:
    """Whether a unit's chunk is there, whole, and made by the same recipe."""
    if not path.exists():
        return False
    try:
        return read_chunk_meta(path)["ledger"]["key"] == key
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
        path.unlink()


def _loop(jobs: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Unit, float]]:
    for job in jobs:
        yield job[0], do_unit(*job)


def _processes(jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[Unit, float]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(do_packed, *job): job[0] for job in pack(jobs)}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _dask(jobs: Sequence[tuple[Any, ...]], scheduler: str, workers: int) -> Iterator[tuple[Unit, float]]:
    from distributed import KilledWorker
    from distributed import as_completed as dask_completed

    with dask_client(scheduler, workers) as client:
        futures = {client.submit(do_packed, *job, pure=False, retries=RETRIES): job[0] for job in pack(jobs)}
        for future in dask_completed(futures):
            unit = futures[future]
            try:
                yield unit, future.result()
            except KilledWorker as error:
                raise InputError(
                    f"{unit.path}, entries {unit.start}-{unit.stop}: killed its worker {RETRIES + 1} times ({error})"
                ) from error
            future.release()


def execute(jobs: Sequence[tuple[Any, ...]], scheduler: str, workers: int) -> Iterator[tuple[Unit, float]]:
    """Run `do_unit` on every job; (unit, CPU seconds) as they finish."""
    if scheduler == "loop" or not jobs:
        return _loop(jobs)
    if scheduler == "processes":
        return _processes(jobs, workers)
    return _dask(jobs, scheduler, workers)


def process(
    files: Mapping[str, Sequence[FileRecord]],
    features: Features,
    out: Path,
    *,
    kind: str = "columns",
    scorers: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, Sequence[float]] | None = None,
    chunk: int = CHUNK,
    scheduler: str = "local",
    workers: int = 2,
    scales: Mapping[str, float] | None = None,
    key: str = "",
    progress: Progress | None = None,
    run: Callable[[Sequence[tuple[Any, ...]], str, int], Iterator[tuple[Unit, float]]] = execute,
) -> StreamReport:
    """Stream ``files`` into ``out``/``kind``/DATASET, one Parquet file per unit, and histograms.root.

    Units whose chunk is there with the same ``key`` are kept, so a run that was killed goes on where it was, and the
    result does not depend on scheduler, workers or kills. ``scheduler``: local (a Dask cluster on this machine), loop,
    processes, or the address of a Dask scheduler. Raises `IncompleteError` unless every event was counted once.
    """
    wall = time.perf_counter()
    recipe = Recipe(features, scorers or {}, thresholds or {}, key)
    units = split(files, chunk, scales or {})
    _tidy(out, kind, units)
    todo = [u for u in units if not is_done(unit_path(out, kind, u), key)]
    total = sum(u.stop - u.start for u in units)
    done = total - sum(u.stop - u.start for u in todo)
    cpu = 0.0
    show = progress or (lambda _done, _total: None)
    show(done, total)
    for unit, seconds in run([(u, recipe, str(out), kind) for u in todo], scheduler, workers):
        done, cpu = done + unit.stop - unit.start, cpu + seconds
        show(done, total)
    return _close(files, recipe, units, out, kind, (wall, cpu, workers, len(units) - len(todo)))


def _close(
    files: Mapping[str, Sequence[FileRecord]], recipe: Recipe, units: Sequence[Unit], out: Path, kind: str,
    spent: tuple[float, float, int, int],
) -> StreamReport:  # fmt: skip
    """Prove that every event is there once, merge the histograms in the order of the units, and count."""
    metas = [read_chunk_meta(unit_path(out, kind, u)) for u in units]
    ledgers = [m["ledger"] for m in metas]
    close_ledger(ledgers, units, {r.uuid: r.entries for rs in files.values() for r in rs})
    parts = [(row["dataset"], meta["histograms"]) for row, meta in zip(ledgers, metas, strict=True)]
    whole = merge_histograms(recipe.features.features, recipe.cuts, parts)
    write_root_histograms(
        out / ("histograms.root" if kind == "columns" else f"histograms_{kind}.root"), whole
    )
    counts = {}
    for dataset, records in files.items():
        rows = [row for row in ledgers if row["dataset"] == dataset]
        counts[dataset] = DatasetCounts(
            files=len(records), entries=sum(r.entries for r in records), read=sum(r["n_in"] for r in rows),
            kept=sum(r["n_out"] for r in rows), units=len(rows), sum_weights=sum(r["sumw"] for r in rows),
            cutflow=sum_cutflows([r["cutflow"] for r in rows]),
        )  # fmt: skip
    start, cpu, workers, reused = spent
    return StreamReport(counts, len(units), reused, time.perf_counter() - start, cpu, workers, whole)
