"""``mode: dask-awkward``: the same units and columns with the feature function mapped over a lazy awkward array."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle
import numpy as np

from ..workspace import write_chunk
from .core import Unit, finish_unit
from .environment import dask_client
from .features import Features
from .preflight import FileRecord
from .reading import open_tree, wanted_branches
from .report import StreamReport
from .stream import do_unit, pack, process, unit_path


def _finish(events: ak.Array, unit: Unit, packed: bytes, out: str, kind: str) -> ak.Array:
    """Partition to chunk, on a worker; returns one row: the number of events. The typetracer pass writes nothing."""
    if ak.backend(events) == "typetracer":
        for name in events.fields:
            ak.typetracer.touch_data(events[name])
        return ak.Array(ak.to_layout(ak.Array(np.zeros(1, np.int64))).to_typetracer(forget_length=True))
    columns = {
        n: np.asarray(ak.to_numpy(events[n])) if events[n].ndim == 1 else events[n] for n in events.fields
    }
    write_chunk(unit_path(Path(out), kind, unit), finish_unit(columns, cloudpickle.loads(packed), unit))
    return ak.Array(np.array([len(events)], dtype=np.int64))


def _lazy(units: Sequence[Unit], features: Features) -> Any:
    """The units of one file as a lazy awkward array, one partition each."""
    import uproot

    first = units[0]
    available = set(open_tree(first.path, first.uuid).keys(recursive=False))
    branches = set(wanted_branches(features, available, first.by_entry))
    where = {first.path: {"object_path": "Events", "steps": [[u.start, u.stop] for u in units]}}
    return uproot.dask(where, filter_name=lambda name: name in branches, open_files=True)


def run_dask_awkward(
    jobs: Sequence[tuple[Any, ...]], scheduler: str, workers: int
) -> Iterator[tuple[Unit, float]]:
    """`process`'s executor through dask-awkward: one partition per unit, computed by the given scheduler."""
    import dask
    import dask_awkward as dak

    files: dict[str, list[tuple[Any, ...]]] = {}
    for job in jobs:
        unit = job[0]
        if unit.stop == unit.start:
            yield unit, do_unit(*job)
        else:
            files.setdefault(unit.uuid, []).append(job)
    lazy = []
    for mine in files.values():
        whole = _lazy([job[0] for job in mine], mine[0][1].features)
        lazy += [
            dak.map_partitions(_finish, whole.partitions[i], *packed) for i, packed in enumerate(pack(mine))
        ]
    if not lazy:
        return
    if scheduler in ("loop", "processes"):
        dask.compute(*lazy, scheduler="synchronous")
    else:
        with dask_client(scheduler, workers):
            dask.compute(*lazy)
    yield from ((job[0], 0.0) for mine in files.values() for job in mine)


def process_dask_awkward(
    files: Mapping[str, Sequence[FileRecord]], features: Features, out: Path, **settings: Any
) -> StreamReport:
    """`process` with dask-awkward in the middle: same arguments, same columns, same checks."""
    return process(files, features, out, run=run_dask_awkward, **settings)
