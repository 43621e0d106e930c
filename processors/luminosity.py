"""Luminosity per luminosity section, as brilcalc prints it, and its integral over what was really processed."""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .lumis import LAST_LUMI, Lumis, count, difference, from_pairs, intervals, shown

log = logging.getLogger(__name__)

#: One unit of inverse cross-section in /pb.
PER_PB = {"/mb": 1e-9, "/ub": 1e-6, "/nb": 1e-3, "/pb": 1.0, "/fb": 1e3}
#: What rounded numbers may differ by, relatively.
ROUNDING = 1e-3
_COLUMN = re.compile(r"(recorded|delivered)(?:\((?P<bril>[^)]*)\)|_(?P<plain>[a-z]b))")


@dataclass(frozen=True)
class Luminosity:
    """An integral over processed luminosity sections, /pb. ``missing``: processed sections the table does not know."""

    recorded_pb: float
    delivered_pb: float | None
    sections: int
    missing: Lumis = field(default_factory=dict)

    @property
    def recorded_fb(self) -> float:
        """Recorded luminosity in /fb."""
        return self.recorded_pb * 1e-3


@dataclass(frozen=True)
class LuminosityTable:
    """Luminosity of each section: ``number`` = run * 2^32 + luminosityBlock, sorted, (m,); both luminosities (m,) in /pb.

    ``delivered`` is None where the file has no such column.
    """

    path: str
    number: NDArray[np.uint64]
    recorded: NDArray[np.float64]
    delivered: NDArray[np.float64] | None = None

    @classmethod
    def read(cls, path: Path) -> LuminosityTable:
        """Read the output of `brilcalc lumi --byls --output-style csv`, or a CSV with the header run,lumi,recorded_pb.

        The unit comes from the header ((/ub), _pb, ...). Raises `InputError` naming file and line for a missing header or
        unit, a value that is not a finite number, a section that is there twice, or rows that do not add up to brilcalc's
        own total (the file was cut).
        """
        try:
            with path.open(encoding="utf-8", newline="") as handle:
                return _parse(str(path), handle.read().splitlines())
        except OSError as error:
            raise InputError(
                f"{path}: the luminosity table cannot be read ({error.strerror or error})"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} is not a text file ({error.reason}); expected brilcalc's CSV"
            ) from error

    def integrate(self, processed: Lumis, tolerance: float = 0.0) -> Luminosity:
        """Sum over the sections of ``processed`` (`lumis.LumiReport.processed`), never over what was asked.

        Raises `InputError` when more than the fraction ``tolerance`` of them is not in the table.
        """
        spans = intervals(processed)
        low, high = (np.searchsorted(self.number, spans[:, i]) for i in (0, 1))
        rows = np.concatenate(
            [np.empty(0, np.int64), *(np.arange(a, b) for a, b in zip(low, high, strict=True))]
        )
        total = count(processed)
        missing: Lumis = {}
        if len(rows) < total:
            there = self.number[rows]
            missing = difference(processed, from_pairs(there >> np.uint64(32), there & np.uint64(0xFFFFFFFF)))
            text = f"{self.path} lacks {total - len(rows)} of {total} processed luminosity sections ({shown(missing)})"
            if total - len(rows) > tolerance * total:
                raise InputError(
                    f"{text}; make it again with the processed JSON: brilcalc lumi --byls -i processedLumis.json"
                )
            log.warning("%s; their luminosity counts as zero", text)
        delivered = None if self.delivered is None else math.fsum(self.delivered[rows])
        return Luminosity(math.fsum(self.recorded[rows]), delivered, total, missing)


@dataclass(frozen=True)
class _Columns:
    """Where the columns of a table stand and what one unit of its luminosities is in /pb."""

    section: int
    recorded: tuple[int, float]
    delivered: tuple[int, float] | None
    width: int
    bril: bool


def _unit(name: str) -> tuple[str, float] | None:
    match = _COLUMN.fullmatch(name)
    if match is None:
        return None
    unit = match["bril"] if match["bril"] is not None else "/" + match["plain"]
    if unit not in PER_PB:
        raise InputError(f"column {name} has unit '{unit}', expected one of {', '.join(PER_PB)}")
    return match[1], PER_PB[unit]


def _header(names: Sequence[str]) -> _Columns | None:
    """The columns of a header line, None for any other line."""
    bril = list(names[:2]) == ["run:fill", "ls"]
    if not bril and list(names[:2]) != ["run", "lumi"]:
        return None
    found: dict[str, tuple[int, float]] = {}
    for i, name in enumerate(names):
        unit = _unit(name)
        if unit is not None:
            found[unit[0]] = (i, unit[1])
    if "recorded" not in found:
        raise InputError(
            f"its header ({','.join(names)}) has no column recorded(UNIT) or recorded_UNIT, UNIT for example /pb or pb"
        )
    return _Columns(1, found["recorded"], found.get("delivered"), len(names), bril)


def _whole(text: str, low: int, what: str) -> int:
    if not text.isascii() or not text.isdecimal() or not low <= int(text) <= LAST_LUMI:
        raise InputError(f"{what} {text!r} is not a whole number from {low} on")
    return int(text)


def _section(row: Sequence[str], columns: _Columns) -> tuple[int, int]:
    """(run, luminosityBlock) of a row; brilcalc writes run:fill and section:CMS section, the latter 0 when CMS was off."""
    if not columns.bril:
        return _whole(row[0], 1, "run"), _whole(row[1], 1, "lumi")
    run, _, _ = row[0].partition(":")
    mine, colon, cms = row[columns.section].partition(":")
    number = _whole(mine, 1, "ls")
    if not colon or _whole(cms, 0, "ls") not in (0, number):
        raise InputError(f"ls {row[columns.section]!r}: expected the same number twice, or 0 as the second")
    return _whole(run, 1, "run"), number


def _value(row: Sequence[str], column: tuple[int, float]) -> float:
    text = row[column[0]]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or "_" in text:
        raise InputError(f"luminosity {text!r} is not a number from 0 on")
    return value * column[1]


def _rows(path: str, lines: Sequence[str]) -> Iterator[tuple[int, list[str], bool]]:
    """(line number, fields, whether it is a comment) of every line that is not empty."""
    for i, line in enumerate(lines, 1):
        text = line.strip()
        if text[:1] in ("+", "|"):
            raise InputError(f"{path}, line {i}: a printed table; ask brilcalc for --output-style csv")
        row = [f.strip() for f in next(csv.reader([text.lstrip("#").strip()]))]
        if row:
            yield i, row, text.startswith("#")


def _parse(path: str, lines: Sequence[str]) -> LuminosityTable:
    reader = _Reader()
    for i, row, comment in _rows(path, lines):
        try:
            if comment:
                reader.comment(row)
            else:
                reader.row(i, row)
        except InputError as error:
            raise InputError(f"{path}, line {i}: {error}") from error
    if not reader.lines:
        raise InputError(
            f"{path} has no luminosity section; expected brilcalc --byls or run,lumi,recorded_pb"
        )
    number = np.array([run << 32 | lumi for run, lumi in reader.lines], dtype=np.uint64)
    order = np.argsort(number)
    delivered = np.array(reader.delivered)[order] if reader.delivered else None
    return LuminosityTable(path, number[order], np.array(reader.recorded)[order], delivered)


@dataclass
class _Reader:
    """What was read so far; luminosities in /pb, in the order of the lines. Outputs of several calls may follow each other."""

    columns: _Columns | None = None
    summary: list[str] | None = None
    summed: int = 0
    lines: dict[tuple[int, int], int] = field(default_factory=dict)
    recorded: list[float] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)

    def comment(self, row: list[str]) -> None:
        """A header, or one of the two lines of brilcalc's summary; all else is talk."""
        if self.summary is not None and len(row) == len(self.summary):
            self._check_summary(row, self.summary)
            self.summary, self.summed = None, len(self.recorded)
        elif row[0] == "nfill":
            self.summary = row
        else:
            self._use(_header(row))

    def row(self, i: int, row: list[str]) -> None:
        """One luminosity section, or a header without its '#'."""
        columns = self.columns
        if columns is None:
            self._use(_header(row))
            if self.columns is None:
                raise InputError("a row before the header; expected run:fill,ls,... or run,lumi,recorded_pb")
            return
        if len(row) != columns.width:
            raise InputError(f"{len(row)} fields, the header has {columns.width}: the line may be cut")
        run, section = _section(row, columns)
        if (run, section) in self.lines:
            raise InputError(
                f"run {run}, section {section} is there twice (line {self.lines[run, section]}); one row per section is "
                "needed, so not one per trigger path"
            )
        self.lines[run, section] = i
        self.recorded.append(_value(row, columns.recorded))
        if columns.delivered is not None:
            self.delivered.append(_value(row, columns.delivered))
            if self.recorded[-1] > self.delivered[-1] * (1 + ROUNDING):
                raise InputError(
                    f"{row[columns.recorded[0]]} recorded of {row[columns.delivered[0]]} delivered; are the columns swapped?"
                )

    def _use(self, header: _Columns | None) -> None:
        if (
            header is not None
            and self.columns is not None
            and (header.delivered is None) != (not self.delivered)
        ):
            raise InputError("a second header with other columns; give tables of one kind")
        self.columns = header or self.columns

    def _check_summary(self, row: Sequence[str], names: Sequence[str]) -> None:
        """Compare the rows above with the total that brilcalc writes below them."""
        for name, text in zip(names, row, strict=True):
            unit = _unit(name.removeprefix("tot")) if name.startswith("totrecorded") else None
            if unit is None:
                continue
            told, found = _value([text], (0, unit[1])), math.fsum(self.recorded[self.summed :])
            if abs(told - found) > ROUNDING * max(told, found):
                raise InputError(
                    f"the rows add up to {found:g}/pb recorded, the summary says {told:g}/pb: rows are missing"
                )
