"""Compiled window scans: the largest t over all windows of many spectra.

t depends on the window and on a whole number, so it is tabulated per (window, count). Most windows of a spectrum are
far from the largest t: a window is looked at only if its count passes a threshold, and the thresholds rise with the
largest t found.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .tails import (
    CONDITIONAL,
    NORMALISED,
    log_point,
    log_poisson,
    mean_of,
    point_ratio,
    poisson_tail,
    t_of,
    tail_of,
)

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@nb.njit(cache=True, nogil=True)
def accumulate(counts: Any, total: Any) -> None:
    """Summed-area table (rows + 1, columns + 1) of counts (rows, columns)."""
    rows, columns = counts.shape
    for i in range(rows):
        run = total[0, 0] * 0
        for j in range(columns):
            run += counts[i, j]
            total[i + 1, j + 1] = total[i, j + 1] + run


@nb.njit(cache=True, nogil=True)
def count_in(total: Any, corners: Ints, w: int) -> Any:
    """Content of window w: corners (windows, 2) in one dimension or (windows, 4), indices into the flat table."""
    if corners.shape[1] == 2:
        return total[corners[w, 1]] - total[corners[w, 0]]
    return total[corners[w, 3]] - total[corners[w, 2]] - total[corners[w, 1]] + total[corners[w, 0]]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def thresholds(means: Array, spreads: Array, sign: int, z: float, out: Ints) -> None:
    """Signed count (windows,) about ``z`` standard deviations out."""
    for w in range(len(means)):
        if sign > 0:
            near = math.ceil(means[w] + z * spreads[w] + (z * z + 2.0) / 6.0)
        else:
            near = math.floor(means[w] - z * spreads[w] + (z * z - 4.0) / 6.0)
        out[w] = int(sign * near)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def entry(
    params: Array, kind: int, sign: int, base: Ints, offsets: Ints, table: Array, w: int, d: int
) -> float:
    """t of d in window w: from the table, or computed."""
    slot = sign * d - base[w]
    if slot < 0 or slot >= offsets[w + 1] - offsets[w]:
        return t_of(kind, params[w], float(d), sign)
    slot += offsets[w]
    if table[slot] < 0.0:
        table[slot] = t_of(kind, params[w], float(d), sign)
    return float(table[slot])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def guard_of(
    params: Array, kind: int, sign: int, lower: Ints, base: Ints, offsets: Ints, table: Array
) -> float:
    """Largest t of the counts just before the signed thresholds ``lower`` (windows,)."""
    out = 0.0
    for w in range(len(params)):
        before = sign * (lower[w] - 1)
        if before >= 0:
            out = max(out, entry(params, kind, sign, base, offsets, table, w, before))
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def cumulate(means: Array, first: Ints, offsets: Ints, out: Array) -> None:
    """Cumulative Poisson probabilities of every mean from count ``first`` on, row by row."""
    for b in range(len(means)):
        d, total = float(first[b]), 0.0
        point = math.exp(log_poisson(d, means[b])) if means[b] > 0.0 else 1.0
        for k in range(offsets[b], offsets[b + 1]):
            total += point
            out[k] = total
            d += 1.0
            point *= means[b] / d


@nb.njit(cache=True, nogil=True, error_model="numpy")
def invert(uniform: Array, guide: Ints, first: Ints, cumulative: Array, offsets: Ints, out: Ints) -> None:
    """Counts (n, bins) of the distributions whose ``cumulative`` probabilities start at ``offsets`` with count
    ``first``.

    ``guide`` (bins, cells): where in a distribution to start looking, for every cell of the unit interval.
    """
    cells = guide.shape[1]
    for i in range(len(uniform)):
        for b in range(uniform.shape[1]):
            u = uniform[i, b]
            k, end = guide[b, int(u * cells)], offsets[b + 1] - 1
            while k < end and cumulative[k] <= u:
                k += 1
            out[i, b] = first[b] + k - offsets[b]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def agrees(total: NDArray, sides: Ints, limits: Ints, w: int) -> bool:
    """Whether both sidebands of window w hold counts within their limits; sides (windows, 2, 2), limits (windows, 2,
    2).
    """
    for s in range(2):
        d = total[sides[w, s, 1]] - total[sides[w, s, 0]]
        if d < limits[w, s, 0] or d > limits[w, s, 1]:
            return False
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def fill(params: Array, kind: int, sign: int, base: Ints, offsets: Ints, table: Array) -> None:
    """t of every tabulated count: the tail of the last one, then point probabilities are added one by one.

    The normalised kind has a mean of its own for every count: its entries stay negative, to be computed when met.
    """
    if kind == NORMALISED:
        return
    for w in range(len(params)):
        last = offsets[w + 1] - offsets[w] - 1
        d = float(sign * (base[w] + last))
        if d < 0.0 or (kind == CONDITIONAL and d > params[w, 0]):
            continue
        # exp(-top) is the tail at the end; all else is relative to it, so that nothing underflows.
        top = tail_of(kind, params[w], d, sign)
        point = math.exp(min(log_point(kind, params[w], d) + top, 0.0))
        total = 1.0
        for slot in range(last, -1, -1):
            side = sign * (d - mean_of(kind, params[w], d)) > 0.0
            table[offsets[w] + slot] = max(top - math.log(total), 0.0) if side else 0.0
            point *= point_ratio(kind, params[w], d, -sign)
            total += point
            d -= sign


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _look(
    flat: Ints, corners: Ints, params: Array, kind: int, sign: int, lower: Ints, guards: Array, row: int, base: Ints,
    offsets: Ints, table: Array, sides: Ints, limits: Ints,
) -> tuple[float, int]:  # fmt: skip
    """Largest t and its window among those whose count reaches the thresholds of ``row``, raised as t grows."""
    best, where = 0.0, 0
    rows, level = len(lower), lower[row]
    for w in range(len(corners)):
        d = count_in(flat, corners, w)
        if sign * d < level[w]:
            continue
        t = entry(params, kind, sign, base, offsets, table, w, d)
        if t > best and (len(sides) == 0 or agrees(flat, sides, limits, w)):
            best, where = t, w
            while row + 1 < rows and best >= guards[row + 1]:
                row += 1
            level = lower[row]
    return best, where


@nb.njit(cache=True, nogil=True, error_model="numpy")
def scan_fixed(
    counts: Ints, corners: Ints, params: Array, kind: int, sign: int, lower: Ints, guards: Array, base: Ints,
    offsets: Ints, table: Array, sides: Ints, limits: Ints, best: Array, where: Ints,
) -> None:  # fmt: skip
    """Largest t (n,) and its window (n,) of spectra (n, rows, columns).

    ``lower`` (rows, windows): row 0 leaves nothing out, what row i leaves out has a t of at most ``guards`` [i].
    Counts of window w from ``base`` on have ``table`` entries from ``offsets`` on; rarer ones are computed when met.
    """
    n, rows, columns = counts.shape
    total = np.zeros((rows + 1, columns + 1), np.int64)
    flat = total[1] if rows == 1 else total.reshape(-1)
    first = min(1, len(lower) - 1)
    rest = (base, offsets, table, sides, limits)
    for i in range(n):
        accumulate(counts[i], total)
        best[i], where[i] = _look(flat, corners, params, kind, sign, lower, guards, first, *rest)
        if best[i] < guards[first]:
            best[i], where[i] = _look(flat, corners, params, kind, sign, lower, guards, 0, *rest)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def scan_each(
    counts: Ints,
    expected: Array,
    corners: Ints,
    sign: int,
    sides: Ints,
    small: float,
    best: Array,
    where: Ints,
) -> None:
    """`scan_fixed` where every spectrum has an expectation of its own, (n, rows, columns).

    A window is skipped if its point probability alone, a bound of its tail from below, keeps it under the best so far.
    """
    n, rows, columns = counts.shape
    total = np.zeros((rows + 1, columns + 1), np.int64)
    mean = np.zeros((rows + 1, columns + 1))
    flat = total[1] if rows == 1 else total.reshape(-1)
    level = mean[1] if rows == 1 else mean.reshape(-1)
    for i in range(n):
        accumulate(counts[i], total)
        accumulate(expected[i], mean)
        best[i], where[i] = 0.0, 0
        for w in range(len(corners)):
            d, b = count_in(flat, corners, w), count_in(level, corners, w)
            if not sign * (d - b) > 0.0 or not b > 0.0:
                continue
            bound = (
                d * math.log(d / b) - (d - b) + 0.5 * math.log(6.2832 * d) + 1.0 / (12.0 * d) if d > 0 else b
            )
            if bound <= best[i]:
                continue
            t = poisson_tail(float(d), b, sign)
            if t > best[i] and (len(sides) == 0 or _sides_agree(flat, level, sides, w, small)):
                best[i], where[i] = t, w


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sides_agree(flat: Any, level: Any, sides: Ints, w: int, small: float) -> bool:
    for s in range(2):
        d = float(flat[sides[w, s, 1]] - flat[sides[w, s, 0]])
        b = level[sides[w, s, 1]] - level[sides[w, s, 0]]
        if b > 0.0 and d != b and poisson_tail(d, b, 1 if d > b else -1) > small:
            return False
    return True
