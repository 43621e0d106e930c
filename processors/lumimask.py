"""The list of certified luminosity sections ("golden JSON"), read strictly and asked quickly."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .lumis import LAST_LUMI, Lumis, intervals, lumi_numbers, to_json

if TYPE_CHECKING:
    from .core import Unit

log = logging.getLogger(__name__)

#: A year's mask has some 30 kB; what is larger than this is not a mask.
MOST_BYTES = 64 << 20
#: Flags and run numbers up to which sections are looked up in a table; a year of CMS has some 250,000 sections.
TABLE = 1 << 24
_RUN = re.compile(r"[1-9][0-9]{0,9}")


@nb.njit(cache=True, nogil=True)
def _kernel(
    run: NDArray[np.uint32], lumi: NDArray[np.uint32], base: int, slots: NDArray[np.int64], good: NDArray[np.bool_]
) -> NDArray[np.bool_]:  # fmt: skip
    """Whether (run, lumi) is certified, (n,). Run base + i has its flags in good[slots[i]:slots[i + 1]], from section 0 on."""
    out = np.empty(len(run), np.bool_)
    seen_run, seen_lumi, inside, start, length = np.int64(-1), np.int64(-1), False, 0, 0
    for i in range(len(run)):
        r, s = np.int64(run[i]), np.int64(lumi[i])
        if r != seen_run:
            at = r - base
            known = 0 <= at < len(slots) - 1
            start = slots[at] if known else 0
            length = slots[at + 1] - start if known else 0
            seen_run, seen_lumi = r, np.int64(-1)
        if s != seen_lumi:  # neighbours in a file are of the same section
            inside = s < length and good[start + s]
            seen_lumi = s
        out[i] = inside
    return out


def _no_twins(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise InputError(
                f"run {key} is there twice, with {out[key]} and {value}; merge its ranges by hand: which one is meant?"
            )
        out[key] = value
    return out


def _checked_range(run: str, pair: Any) -> tuple[int, int]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise InputError(f"run {run}: {pair!r} is not a range; expected [first, last]")
    for value in pair:
        if type(value) is not int:  # a bool is an int to isinstance
            raise InputError(f"run {run}: {value!r} in {pair!r} is not a whole number")
        if not 1 <= value <= LAST_LUMI:
            raise InputError(f"run {run}: {value} in {pair!r} is not between 1 and {LAST_LUMI}")
    if pair[0] > pair[1]:
        raise InputError(f"run {run}: range {pair!r} ends before it begins")
    return pair[0], pair[1]


def _checked(raw: Any) -> tuple[Lumis, list[str]]:
    """The mask as it stands and the runs that were not in order; raises `InputError` that names run and value."""
    if not isinstance(raw, dict):
        raise InputError(f"holds a {type(raw).__name__}, expected {{run: [[first, last], ...]}}")
    if not raw:
        raise InputError("names no run, so no event would be left; give the mask of the data's year")
    found: Lumis = {}
    untidy = []
    for run, ranges in raw.items():
        if not isinstance(run, str) or not _RUN.fullmatch(run) or int(run) >= 2**32:
            raise InputError(f"{run!r} is not a run number")
        if not isinstance(ranges, list) or not ranges:
            raise InputError(f"run {run}: {ranges!r} is not a list of ranges [first, last]; remove the run")
        pairs = [_checked_range(run, pair) for pair in ranges]
        if any(b[0] <= a[1] for a, b in pairwise(pairs)):
            untidy.append(run)
        found[run] = [list(pair) for pair in pairs]
    return found, untidy


@dataclass(frozen=True)
class LumiMask:
    """A filter that keeps the events of certified luminosity sections.

    ``ranges``: (run, first, last), both ends included, sorted and disjoint. ``path`` is only for messages.
    """

    ranges: tuple[tuple[int, int, int], ...]
    path: str = field(default="the lumi mask", compare=False)
    name: str = "golden JSON"

    def __post_init__(self) -> None:
        tidy = all(1 <= first <= last <= LAST_LUMI for _, first, last in self.ranges)
        if not self.ranges or not tidy or any(b[:2] <= (a[0], a[2]) for a, b in pairwise(self.ranges)):
            raise InputError(
                f"{self.path}: ranges must be there, sorted and disjoint; use LumiMask.from_json"
            )

    @classmethod
    def read(cls, path: Path, name: str = "golden JSON") -> LumiMask:
        """Read CMS's JSON format, {run: [[first, last], ...]}.

        Ranges that overlap or are out of order are united, which the log says. Raises `InputError` naming file, run and
        value for everything else that is not a mask: a run twice, strings, floats, first > last, no run at all.
        """
        try:
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"has {path.stat().st_size} bytes, which is no lumi mask")
            raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_twins)
            return cls.from_json(raw, str(path), name)
        except OSError as error:
            raise InputError(f"{path}: the lumi mask cannot be read ({error.strerror or error})") from error
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path} is not JSON ({error}); expected {{run: [[first, last], ...]}}"
            ) from error

    @classmethod
    def from_json(cls, raw: Any, path: str = "the lumi mask", name: str = "golden JSON") -> LumiMask:
        """A mask from what JSON gave, under the same rules as `read`."""
        try:
            found, untidy = _checked(raw)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if untidy:
            log.warning(
                "%s: ranges of %d runs overlap or are out of order and were united (the first: run %s: %s)",
                path, len(untidy), untidy[0], found[untidy[0]],
            )  # fmt: skip
        united = to_json(intervals(found))
        ranges = tuple((int(run), a, b) for run, pairs in united.items() for a, b in pairs)
        return cls(ranges, path, name)

    def to_json(self) -> Lumis:
        """The mask in CMS's JSON format, ranges sorted, disjoint and not adjacent."""
        out: Lumis = {}
        for run, first, last in self.ranges:
            out.setdefault(str(run), []).append([first, last])
        return out

    @cached_property
    def _lookup(self) -> tuple[int, NDArray[np.int64], NDArray[np.bool_]] | None:
        """The kernel's tables; None where they would be larger than `TABLE`."""
        base, ends = self.ranges[0][0], {run: last + 1 for run, _, last in self.ranges}
        span = self.ranges[-1][0] - base + 1
        if span + sum(ends.values()) > TABLE:
            return None
        slots = np.zeros(span + 1, dtype=np.int64)
        for run, end in ends.items():
            slots[run - base + 1] = end
        slots = np.cumsum(slots)
        good = np.zeros(slots[-1], dtype=np.bool_)
        for run, first, last in self.ranges:
            good[slots[run - base] + first : slots[run - base] + last + 1] = True
        return base, slots, good

    def __getstate__(self) -> dict[str, Any]:
        # The lookup table may be megabytes; every process makes its own.
        return {k: v for k, v in self.__dict__.items() if k != "_lookup"}

    def contains(self, run: NDArray[np.uint32], lumi: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which (run, luminosityBlock), each (n,), are certified, shape (n,)."""
        if self._lookup is not None:
            return _kernel(run, lumi, *self._lookup)
        spans, numbers = intervals(self.to_json()), lumi_numbers(run, lumi)
        before = [np.searchsorted(spans[:, i].copy(), numbers, "right") for i in (0, 1)]
        return before[0] > before[1]

    def keep(self, identity: NDArray[np.void], unit: Unit) -> NDArray[np.bool_]:
        """Which events count, shape (n,); events known by their entry number alone are an `InputError`."""
        if unit.by_entry:
            raise InputError(
                f"{unit.path} ({unit.dataset}) has no run and luminosityBlock, so {self.path} says nothing about it; "
                "remove the mask or 'identity: entry'"
            )
        return self.contains(identity["run"], identity["luminosityBlock"])


def require_same_year(mask: LumiMask, seen: Mapping[str, Iterable[Lumis]]) -> None:
    """Raise `InputError` where the mask is that of other data; to be called when all units are done.

    ``seen``: for every file (or dataset) the sections that were read, before the mask, as `lumis_of` gave them for its units.
    A file is of another year when all its runs lie before the mask's first or after its last run. A file whose runs lie
    between them but were never certified is only logged, unless all files are like that.
    """
    low, high, known = mask.ranges[0][0], mask.ranges[-1][0], {run for run, _, _ in mask.ranges}
    foreign, empty = [], []
    files = 0
    for name, parts in seen.items():
        runs = sorted({int(run) for lumis in parts for run in lumis})
        files += bool(runs)
        if runs and not known.intersection(runs):
            where = f"{name} (runs {runs[0]}-{runs[-1]})" if len(runs) > 1 else f"{name} (run {runs[0]})"
            (foreign if all(r < low or r > high for r in runs) else empty).append(where)
    if foreign or (empty and len(empty) == files):
        bad = foreign or empty
        raise InputError(
            f"{mask.path} has no run of {len(bad)} of {files} inputs, the first: {bad[0]}; the mask's runs are {low}-{high}. "
            "Give the mask of the year these data were taken in"
        )
    for where in empty:
        log.warning("%s has no certified run of %s", mask.path, where)
