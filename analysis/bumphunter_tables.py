"""Scans of a bump hunt: tables of t per window and count, compiled and in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .bumphunter_kernels import fill, guard_of, scan_fixed, thresholds
from .bumphunter_laws import Expectation, t_many
from .tails import CONDITIONAL, POISSON, POISSON_GAMMA
from .windows import Windows, contents

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Limits = tuple[Ints, Ints]
#: Standard deviations beyond which windows are looked at, rising with the largest t found.
RISING = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
#: The same for the NumPy engine, pass by pass; a last pass looks at all.
PASSES = (2.5, 1.5)
#: Windows below which all are looked at.
MANY = 64
#: Standard deviations that a table reaches, its longest row, and windows at a time of the NumPy engine.
REACH, DEEPEST, CHUNK = 4.5, 4096, 2048


def _side(windows: Windows, s: int) -> Windows:
    """The sidebands below (0) or above (1) as windows."""
    return Windows(windows.sides[:, s, :1], windows.sides[:, s, 1:], windows.corners, windows.sides)


def side_limits(windows: Windows, expected: Expectation, small: float) -> Limits:
    """(sides, least and most count of each, (windows, 2, 2)) outside which a sideband has a p-value below ``small``."""
    limits = np.zeros((len(windows.start), 2, 2), np.int64)
    for s in range(2):
        params = expected.params_of(_side(windows, s))
        first, rate = params[:, 0], params[:, 1]
        if expected.kind == CONDITIONAL:
            law: Any = stats.binom(first, 1 / (1 + rate))
        elif expected.kind == POISSON_GAMMA:
            law = stats.nbinom(first, rate / (1 + rate))
        else:
            law = stats.poisson(first if expected.kind == POISSON else first / rate * params[:, 2])
        limits[:, s, 0], limits[:, s, 1] = law.ppf(small), law.isf(small)
    return np.ascontiguousarray(windows.sides), limits


class Scanner:
    """The compiled scan of spectra (n, bins) for one set of windows and expectations."""

    def __init__(self, windows: Windows, expected: Expectation, sign: int, limits: Limits | None) -> None:
        count = len(windows.start)
        zs = RISING if count >= MANY else ()
        self.corners, self.params, self.kind, self.sign = (
            windows.corners,
            expected.params,
            expected.kind,
            sign,
        )
        self.lower = np.full((len(zs) + 1, count), -(2**62), np.int64)
        self.guards = np.zeros(len(zs) + 1)
        self.base, self.offsets = _rows_of_table(expected, sign, zs[0] if zs else 0.0)
        self.table = np.full(int(self.offsets[-1]), -1.0)
        rows = self.base, self.offsets, self.table
        fill(self.params, self.kind, sign, *rows)
        for i, z in enumerate(zs):
            thresholds(expected.means, expected.spreads, sign, z, self.lower[i + 1])
            self.guards[i + 1] = guard_of(self.params, self.kind, sign, self.lower[i + 1], *rows)
        nothing = np.zeros((0, 2, 2), np.int64)
        self.sides, self.limits = (nothing, nothing) if limits is None else limits

    def __call__(self, spectra: Ints) -> tuple[Array, Ints]:
        """Largest t (n,) and its window (n,)."""
        best, where = np.zeros(len(spectra)), np.zeros(len(spectra), np.int64)
        flat = spectra[:, None] if spectra.ndim == 2 else spectra
        scan_fixed(
            np.ascontiguousarray(flat), self.corners, self.params, self.kind, self.sign, self.lower, self.guards,
            self.base, self.offsets, self.table, self.sides, self.limits, best, where,
        )  # fmt: skip
        return best, where


def _rows_of_table(expected: Expectation, sign: int, first: float) -> tuple[Ints, Ints]:
    """Signed count (windows,) at which a window's row of the table begins, and where the rows begin, (windows + 1,)."""
    base = np.zeros(len(expected.params), np.int64)
    thresholds(expected.means, expected.spreads, sign, first, base)
    base -= 1  # the count before the threshold is asked for too
    depth = np.minimum(12 + (REACH - first) * expected.spreads, DEEPEST).astype(np.int64)
    if sign < 0:  # counts end at 0
        depth = np.clip(depth, 1, np.maximum(1 - base, 1))
    return base, np.concatenate([[0], np.cumsum(depth)])


class NumpyScanner:
    """`Scanner` in NumPy and SciPy: one incomplete gamma or beta function per (window, count) that turns up."""

    def __init__(self, windows: Windows, expected: Expectation, sign: int, limits: Limits | None) -> None:
        self.windows, self.expected, self.sign, self.limits = windows, expected, sign, limits
        zs = PASSES if len(windows.start) >= MANY else ()
        self.passes: list[tuple[Ints | None, float]] = [self._pass(z) for z in zs]
        self.passes.append((None, 0.0))
        self.base, self.offsets = _rows_of_table(expected, sign, zs[-1] if zs else 0.0)
        self.table = np.full(int(self.offsets[-1]), -1.0)

    def _pass(self, z: float) -> tuple[Ints, float]:
        """Signed counts (windows,) from which windows are looked at, and the largest t of those before."""
        near = np.ceil(self.sign * self.expected.means + z * self.expected.spreads).astype(np.int64)
        before = np.maximum(self.sign * (near - 1), 0).astype(float)
        return near, float(
            t_many(self.expected.kind, self.expected.params, before, self.sign).max(initial=0.0)
        )

    def __call__(self, spectra: Ints) -> tuple[Array, Ints]:
        """Largest t (n,) and its window (n,)."""
        best, where = np.zeros(len(spectra)), np.zeros(len(spectra), np.int64)
        rows = np.arange(len(spectra))
        for near, guard in self.passes:
            top, place = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
            for first in range(0, len(self.windows.start), CHUNK):
                self._improve(spectra[rows], slice(first, first + CHUNK), near, top, place)
            done = top >= guard
            best[rows[done]], where[rows[done]] = top[done], place[done]
            rows = rows[~done]
            if len(rows) == 0:
                break
        return best, where

    def _improve(self, spectra: Ints, part: slice, near: Ints | None, top: Array, place: Ints) -> None:
        """Raise ``top`` and ``place`` (n,) by the windows of ``part``."""
        some = Windows(*(getattr(self.windows, name)[part] for name in ("start", "stop", "corners", "sides")))
        d = contents(some, spectra)
        keep = self.sign * d >= near[part] if near is not None else np.ones(d.shape, bool)
        if self.limits is not None:
            for s in range(2):
                beside = contents(_side(some, s), spectra)
                keep &= (beside >= self.limits[1][part, s, 0]) & (beside <= self.limits[1][part, s, 1])
        row, w = np.nonzero(keep)
        if len(row) == 0:
            return
        t = self._look_up(w + part.start, d[row, w])
        # Candidates come row by row: the largest of each row, and the first of equals.
        begin = np.flatnonzero(np.diff(row, prepend=-1))
        largest = np.maximum.reduceat(t, begin)
        length = np.diff(begin, append=len(row))
        first = np.flatnonzero(t == np.repeat(largest, length))
        first = first[np.diff(row[first], prepend=-1) > 0]
        better = largest > top[row[begin]]
        hit = row[begin][better]
        top[hit], place[hit] = largest[better], w[first][better] + part.start

    def _look_up(self, w: Ints, d: Ints) -> Array:
        """t of counts d in windows w, (m,) each."""
        kind, params = self.expected.kind, self.expected.params
        slot = self.sign * d - self.base[w]
        inside = (slot >= 0) & (slot < np.diff(self.offsets)[w])
        out = np.zeros(len(w))
        out[~inside] = t_many(kind, params[w[~inside]], d[~inside].astype(float), self.sign)
        key = self.offsets[w[inside]] + slot[inside]
        wanted = np.zeros(len(self.table), bool)
        wanted[key] = self.table[key] < 0
        new = np.flatnonzero(wanted)
        if len(new):
            which = np.searchsorted(self.offsets, new, side="right") - 1
            count = self.sign * (new - self.offsets[which] + self.base[which])
            self.table[new] = t_many(kind, params[which], count.astype(float), self.sign)
        out[inside] = self.table[key]
        return out
