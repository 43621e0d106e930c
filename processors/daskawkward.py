"""``mode: dask-awkward``: the same units and columns with the feature function mapped over a lazy awkward array."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import IncompleteError, InputError
from ..workspace import write_chunk
from .core import Unit, finish_unit
from .driver import Job, Outcome, do_unit, losses_named, pack, unit_path, unpack
from .environment import dask_client
from .features import Features
from .preflight import FileRecord
from .reading import open_tree, wanted_branches
from .report import StreamReport
from .stream import process


def _finish(events: ak.Array, unit: Unit, name: str, packed: bytes) -> ak.Array:
    """Partition to chunk, on a worker; returns one row: the number of events. The typetracer pass writes nothing."""
    if ak.backend(events) == "typetracer":
        for field in events.fields:
            ak.typetracer.touch_data(events[field])
        return ak.Array(ak.to_layout(ak.Array(np.zeros(1, np.int64))).to_typetracer(forget_length=True))
    columns = {
        n: np.asarray(ak.to_numpy(events[n])) if events[n].ndim == 1 else events[n] for n in events.fields
    }
    job = unpack(name, packed)
    write_chunk(unit_path(Path(job.out), job.kind, unit), finish_unit(columns, job.recipe, unit))
    return ak.Array(np.array([len(events)], dtype=np.int64))


def _lazy(units: Sequence[Unit], job: Job) -> Any:
    """The units of one file as a lazy awkward array, one partition each."""
    import uproot

    first = units[0]
    tree = open_tree(first.path, first.uuid)
    if any(name != stored for name, stored in tree.names.items()):
        raise InputError(
            f"{first.path} is an RNTuple, which mode: dask-awkward cannot read; use mode: stream"
        )
    branches = set(wanted_branches(job.recipe, first.dataset, tree.names, first.by_entry))
    where = {first.path: {"object_path": "Events", "steps": [[u.start, u.stop] for u in units]}}
    return uproot.dask(where, filter_name=lambda name: name in branches, open_files=True)


def _compute(lazy: list[Any], client: Any) -> None:
    """All of it, by the workers of ``client``; nothing of a range that kills its workers is named here, so the other mode is."""
    from distributed import KilledWorker

    address = client.scheduler.address
    try:
        with losses_named(address):
            client.gather(client.compute(lazy))
    except KilledWorker as error:
        raise IncompleteError(
            f"a range of events has killed its workers on the Dask cluster at {address} again and again; mode: stream says which"
        ) from error


def run_dask_awkward(
    units: Sequence[Unit], job: Job, scheduler: str, workers: int, client: Any = None
) -> Iterator[Outcome]:
    """`process`'s executor through dask-awkward: one partition per unit, computed by the given scheduler."""
    import dask
    import dask_awkward as dak

    files: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.stop == unit.start:
            yield do_unit(unit, job)
        else:
            files.setdefault(unit.uuid, []).append(unit)
    name, packed = pack(job)
    lazy = []
    for mine in files.values():
        whole = _lazy(mine, job)
        lazy += [
            dak.map_partitions(_finish, whole.partitions[i], u, name, packed) for i, u in enumerate(mine)
        ]
    if not lazy:
        return
    if client is not None:
        _compute(lazy, client)
    elif scheduler in ("loop", "processes"):
        dask.compute(*lazy, scheduler="synchronous")
    else:
        with dask_client(scheduler, workers) as own:
            _compute(lazy, own)
    yield from (Outcome(unit) for mine in files.values() for unit in mine)


def process_dask_awkward(
    files: Mapping[str, Sequence[FileRecord]], features: Features, out: Path, **settings: Any
) -> StreamReport:
    """`process` with dask-awkward in the middle: same arguments, same columns, same checks; a bad file is always an error."""
    return process(files, features, out, run=run_dask_awkward, **{**settings, "strict": True})
