"""What a stream did: files and events asked, read, kept and why not, cutflow, throughput, histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from ..chunks import NOMINAL
from ..errors import IncompleteError
from ..events import FeatureSet
from ..workspace import atomic
from .core import Unit, histogram
from .preflight import Quarantined


@dataclass(frozen=True)
class DatasetCounts:
    """One dataset's counts. ``cutflow``: (name, raw, weighted) after each cut in order, 'all' first; ``sum_varied``: the sum of weights of
    all events under every weight variation, to normalise it by; ``lumis_seen``: sections before any mask;
    ``effective_events`` (sum w)^2 / sum w^2; ``largest_weight_share``: of one event in the sum of weights."""

    files: int
    entries: int
    read: int
    kept: int
    units: int
    sum_weights: float
    cutflow: tuple[tuple[str, int, float], ...]
    sum_varied: dict[str, float] = field(default_factory=dict)
    lumis_seen: dict[str, list[list[int]]] = field(default_factory=dict)
    effective_events: float = 0.0
    largest_weight_share: float = 0.0


@dataclass(frozen=True)
class StreamReport:
    """The whole stream; `histogram` is dataset x variation x cut x mass."""

    datasets: dict[str, DatasetCounts]
    units: int
    reused: int
    wall_s: float
    cpu_s: float
    workers: int
    histogram: hist.Hist = field(repr=False)
    quarantine: tuple[Quarantined, ...] = ()
    bytes_read: int = 0
    retried: int = 0
    chunk: int = 0
    servers: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every event of every file was counted."""
        return not self.quarantine

    @property
    def throughput(self) -> dict[str, float]:
        """Events per second of wall time and of CPU in the tasks, CPU over wall time of all workers, bytes read; 0 where
        nothing was left to do."""
        read = sum(d.read for d in self.datasets.values())
        done = read if self.reused == 0 else 0
        return {
            "events": read,
            "wall_s": round(self.wall_s, 3),
            "cpu_s": round(self.cpu_s, 3),
            "events_per_s": round(done / self.wall_s, 1) if self.wall_s > 0 else 0.0,
            "events_per_cpu_s": round(done / self.cpu_s, 1) if self.cpu_s > 0 else 0.0,
            "workers": self.workers,
            "cpu_efficiency": round(self.cpu_s / (self.wall_s * self.workers), 3) if self.wall_s > 0 else 0.0,
            "bytes_read": self.bytes_read,
        }

    def to_json(self) -> dict[str, Any]:
        """counts.json: everything but the histogram."""
        return {
            "datasets": {n: asdict(d) for n, d in self.datasets.items()},
            "units": self.units,
            "reused": self.reused,
            "chunk": self.chunk,
            "retried": self.retried,
            "bytes_by_server": self.servers,
            "complete": self.complete,
            "quarantine": [asdict(q) for q in self.quarantine],
            "throughput": self.throughput,
        }


def close_ledger(
    ledgers: Sequence[Mapping[str, Any]], units: Sequence[Unit], entries: Mapping[str, int]
) -> None:
    """Raise `IncompleteError` unless every unit has its row and the rows tile every file's entries."""
    missing = {u.uuid: u.path for u in units}
    for row in ledgers:
        missing.pop(row["uuid"], None)
    if missing:
        raise IncompleteError(f"{next(iter(missing.values()))}: no entry was counted")
    check_tiling(ledgers, entries)


def check_tiling(ledgers: Sequence[Mapping[str, Any]], entries: Mapping[str, int]) -> None:
    """Raise `IncompleteError` unless the ranges of every file (by UUID) tile its entries, each counted once."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    names: dict[str, str] = {}
    for row in ledgers:
        if row["n_in"] != row["stop"] - row["start"]:
            raise IncompleteError(
                f"{row['path']}: entries {row['start']}-{row['stop']} counted {row['n_in']} events"
            )
        ranges.setdefault(row["uuid"], []).append((row["start"], row["stop"]))
        names[row["uuid"]] = row["path"]
    for uuid, found in ranges.items():
        at = 0
        for start, stop in sorted(found):
            if start != at:
                what = "missing" if start > at else "counted twice"
                raise IncompleteError(f"{names[uuid]}: entries {min(start, at)}-{max(start, at)} are {what}")
            at = stop
        if at != entries[uuid]:
            raise IncompleteError(f"{names[uuid]}: entries {at}-{entries[uuid]} are missing")


def merge_histograms(
    features: FeatureSet,
    cuts: Sequence[str],
    parts: Sequence[tuple[str, Sequence[str], NDArray[np.float64]]],
    datasets: Sequence[str] = (),
) -> hist.Hist:
    """Add up (dataset, variations, array (2, variations, cuts, bins) of values and variances) in the order given, which
    fixes every rounding; ``datasets`` are there even if they have no part."""
    names = list(dict.fromkeys([*datasets, *(d for d, _, _ in parts)]))
    variations = list(dict.fromkeys([NOMINAL, *(v for _, vs, _ in parts for v in vs)]))
    whole = histogram(features, names, cuts, variations)
    view: Any = whole.view(flow=True)
    for dataset, labels, (values, variances) in parts:
        d = names.index(dataset)
        for v, label in enumerate(labels):
            where = (d, variations.index(label), slice(len(cuts)))
            view.value[where] += values[v]
            view.variance[where] += variances[v]
    return whole


def sum_cutflows(flows: Sequence[Sequence[Sequence[Any]]]) -> tuple[tuple[str, int, float], ...]:
    """Add cutflows of the same cuts, in order."""
    return tuple(
        (step[0][0], sum(s[1] for s in step), sum(s[2] for s in step)) for step in zip(*flows, strict=True)
    )


def write_root_histograms(path: Path, whole: hist.Hist) -> None:
    """One TH1D with weights per dataset, variation and cut: DATASET/VARIATION/CUT."""
    import uproot

    with atomic(path) as temporary, uproot.recreate(temporary) as file:
        for dataset in whole.axes["dataset"]:
            for variation in whole.axes["variation"]:
                for cut in whole.axes["cut"]:
                    name = f"{dataset}/{variation}/{cut}".replace(">", "_above_")
                    where: Any = {"dataset": dataset, "variation": variation, "cut": cut}
                    file[name] = whole[where]
