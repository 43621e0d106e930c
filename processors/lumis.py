"""Sets of luminosity sections in the form of CMS's JSON files, {run: [[first, last], ...]}, and how they are combined.

Inside, a set is an array (m, 2) of half-open intervals of the number run * 2^32 + luminosityBlock, so that union, intersection
and difference never write out single sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..workspace import write_json

#: {run: [[first, last], ...]}, both ends included, runs and ranges sorted, ranges disjoint and not adjacent.
Lumis = dict[str, list[list[int]]]
#: Largest number of a luminosity section; the next one must still fit into 32 bits.
LAST_LUMI = 2**32 - 2
_SHIFT = np.uint64(32)


def lumi_numbers(run: NDArray[np.unsignedinteger], lumi: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
    """run * 2^32 + luminosityBlock, shape (n,)."""
    return run.astype(np.uint64) << _SHIFT | lumi.astype(np.uint64)


def intervals(lumis: Mapping[str, Sequence[Sequence[int]]]) -> NDArray[np.uint64]:
    """Half-open intervals (m, 2), sorted and disjoint, of a set in JSON form, however its ranges overlap."""
    rows = [(int(run), first, last) for run, ranges in lumis.items() for first, last in ranges]
    for run, first, last in rows:
        if not (0 <= run < 2**32 and 0 <= first <= last <= LAST_LUMI):
            raise InputError(f"run {run}: [{first}, {last}] is not a range of luminosity sections")
    pairs = [(run << 32 | first, (run << 32 | last) + 1) for run, first, last in rows]
    return _united(np.array(pairs, dtype=np.uint64).reshape(-1, 2))


def _united(parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    starts, stops = np.sort(parts[:, 0]), np.sort(parts[:, 1])
    points = np.unique(parts)
    return _joined(points, _depth(starts, stops, points) > 0)


def _depth(
    starts: NDArray[np.uint64], stops: NDArray[np.uint64], at: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """In how many intervals each point lies; starts and stops are sorted, each on its own."""
    return np.searchsorted(starts, at, "right") - np.searchsorted(stops, at, "right")


def _joined(points: NDArray[np.uint64], inside: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Intervals where ``inside`` holds from each point to the next; the last point is never inside."""
    edges = np.diff(np.concatenate([[False], inside]).astype(np.int8))
    return np.stack([points[edges == 1], points[edges == -1]], axis=1)


def to_json(parts: NDArray[np.uint64]) -> Lumis:
    """The JSON form of sorted disjoint intervals."""
    out: Lumis = {}
    for start, stop in parts.tolist():
        out.setdefault(str(start >> 32), []).append([start & 0xFFFFFFFF, (stop - 1) & 0xFFFFFFFF])
    return out


def lumis_of(identity: NDArray[np.void]) -> Lumis:
    """The luminosity sections that ``identity`` (dtype `events.IDENTITY`) has events of: a unit's ledger row."""
    return from_pairs(identity["run"], identity["luminosityBlock"])


def from_pairs(run: NDArray[np.unsignedinteger], lumi: NDArray[np.unsignedinteger]) -> Lumis:
    """The set of the sections (run, luminosityBlock), each (n,), in any order and number."""
    if len(lumi) and int(lumi.max()) > LAST_LUMI:
        raise InputError(f"luminosityBlock {int(lumi.max())} is not a luminosity section of CMS")
    numbers = lumi_numbers(run, lumi)
    changes = np.ones(len(numbers), bool)  # events lie in the order of their sections: little is left to sort
    changes[1:] = numbers[1:] != numbers[:-1]
    numbers = numbers[changes]
    return to_json(_united(np.stack([numbers, numbers + np.uint64(1)], axis=1)))


def merge(sets: Iterable[Lumis]) -> Lumis:
    """The union of any number of sets; its result does not depend on their order."""
    found = [intervals(s) for s in sets]
    return to_json(_united(np.concatenate([np.empty((0, 2), np.uint64), *found])))


def _combined(
    a: Lumis, b: Lumis, rule: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]]
) -> Lumis:
    first, second = intervals(a), intervals(b)
    points = np.unique(np.concatenate([first, second]))
    inside = [_depth(p[:, 0], p[:, 1], points) > 0 for p in (first, second)]
    return to_json(_joined(points, rule(*inside)))


def intersection(a: Lumis, b: Lumis) -> Lumis:
    """The sections in both sets."""
    return _combined(a, b, lambda x, y: x & y)


def difference(a: Lumis, b: Lumis) -> Lumis:
    """The sections of ``a`` that are not in ``b``."""
    return _combined(a, b, lambda x, y: x & ~y)


def count(lumis: Lumis) -> int:
    """How many sections a set holds."""
    parts = intervals(lumis)
    return int((parts[:, 1] - parts[:, 0]).sum())


def shown(lumis: Lumis, most: int = 5) -> str:
    """The first ``most`` ranges of a set, for a message."""
    ranges = [f"{run}:{a}" if a == b else f"{run}:{a}-{b}" for run, rs in lumis.items() for a, b in rs]
    return ", ".join(ranges[:most]) + (f" and {len(ranges) - most} more ranges" if len(ranges) > most else "")


@dataclass(frozen=True)
class LumiReport:
    """What was asked, done and left, in the three lists of CRAB's report."""

    asked: Lumis
    processed: Lumis
    not_finished: Lumis

    def to_json(self) -> dict[str, Lumis]:
        """One JSON-ready dictionary with CRAB's names."""
        return {
            "inputDatasetLumis": self.asked,
            "processedLumis": self.processed,
            "notFinishedLumis": self.not_finished,
        }

    def write(self, folder: Path) -> None:
        """inputDatasetLumis.json, processedLumis.json and notFinishedLumis.json, as brilcalc reads them."""
        for name, lumis in self.to_json().items():
            write_json(folder / f"{name}.json", lumis)


def lumi_report(
    asked: Lumis, done: Iterable[Lumis], unfinished: Iterable[Lumis] = (), mask: Lumis | None = None
) -> LumiReport:
    """The report of a run: what its files hold, and the sections of its finished and unfinished units.

    A section that an unfinished unit has events of is not processed, whatever else was done of it: its luminosity must not be
    counted. With a ``mask`` (`LumiMask.to_json`), sections outside are neither processed nor missing.
    """
    left = merge(unfinished)
    processed = difference(merge(done), left)
    whole = merge([asked, processed, left])
    wanted = whole if mask is None else intersection(whole, mask)
    return LumiReport(whole, intersection(processed, wanted), difference(wanted, processed))
