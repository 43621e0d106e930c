"""Rational-quadratic splines (1906.04032) in compiled loops: values, their slopes, inverses and gradients.

`LANES` splines side by side, every loop over them without a branch, so that it becomes vector code. ``raw`` (n, 3 K - 1) holds the
unconstrained widths, heights and inner slopes of one spline per row, see `spline.Spline`; the other arrays are (n,), in single or
double precision, all alike.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

LANES = 32
#: The least slope of a spline, and the inverse of the largest: zuko's.
SLOPE = 1e-3
_SOFT = -1.0 / math.log(SLOPE)
#: Of exp(u / 32) - 1 in |u| < 7, to double precision.
_EXP = tuple(1.0 / math.factorial(k) for k in range(12))
# no check for division by zero, which would forbid vector code
_KERNEL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
#: Rows of what `_locate` finds: of the value's bin along its own axis and the other one what lies below, its size and the sum of all
#: sizes; slopes at its ends; its number; and two rows to work with.
_BELOW, _SIZE, _TOTAL, _BELOW2, _SIZE2, _TOTAL2, _LEFT, _RIGHT, _INDEX, _, _, _ROWS = range(12)


@nb.njit(**_KERNEL)
def _load(raw: Any, start: int, rows: int, sizes: Any, soft: Any) -> None:
    """``sizes`` (3 K - 1, LANES): exp of the softly clipped entries of a block; ``soft``: their clipping factors."""
    t = sizes.dtype.type
    p = sizes.shape[0]
    one, two = t(1), t(2)
    for j in range(rows):
        for i in range(p):
            sizes[i, j] = raw[start + j, i]
    for j in range(rows, LANES):
        for i in range(p):
            sizes[i, j] = t(0)
    for i in range(p):
        inverse = t(2 * _SOFT) if 3 * i < 2 * (p + 1) else t(_SOFT)
        row, factor = sizes[i], soft[i]
        for j in range(LANES):
            factor[j] = one / (one + abs(row[j]) * inverse)
            u = row[j] * factor[j] * t(1 / 32)
            d = t(_EXP[9]) + u * (t(_EXP[10]) + u * t(_EXP[11]))
            d = t(_EXP[6]) + u * (t(_EXP[7]) + u * (t(_EXP[8]) + u * d))
            d = t(_EXP[3]) + u * (t(_EXP[4]) + u * (t(_EXP[5]) + u * d))
            d = u * (one + u * (t(_EXP[2]) + u * d))
            for _ in range(5):  # exp(2 u) - 1 of exp(u) - 1
                d = d * (two + d)
            row[j] = one + d


@nb.njit(**_KERNEL)
def _locate(sizes: Any, axis: int, bound: Any, value: Any, found: Any) -> None:
    """The bins that hold ``value`` (LANES,), searched for along the widths (``axis`` 0) or the heights (1)."""
    t = sizes.dtype.type
    bins = (sizes.shape[0] + 1) // 3
    one, mine, other = t(1), axis * bins, (1 - axis) * bins
    found[:] = t(0)
    below, size, total, below2, size2, total2 = found[0], found[1], found[2], found[3], found[4], found[5]
    left, right, index, goal, sums = found[6], found[7], found[8], found[9], found[10]
    for i in range(bins):
        a, b = sizes[mine + i], sizes[other + i]
        for j in range(LANES):
            total[j] += a[j]
            total2[j] += b[j]
    for j in range(LANES):
        goal[j] = (value[j] + bound) / (t(2) * bound) * total[j]
        size[j], size2[j], left[j], right[j] = sizes[mine, j], sizes[other, j], one, sizes[2 * bins, j]
    for i in range(1, bins):
        last, number = i == bins - 1, t(i)
        a, b, a1, b1 = sizes[mine + i - 1], sizes[other + i - 1], sizes[mine + i], sizes[other + i]
        s0, s1 = sizes[2 * bins + i - 1], sizes[2 * bins + i - (1 if last else 0)]
        for j in range(LANES):
            sums[j] += a[j]
            beyond = sums[j] < goal[j]
            below[j] = sums[j] if beyond else below[j]
            below2[j] += b[j] if beyond else t(0)
            size[j] = a1[j] if beyond else size[j]
            size2[j] = b1[j] if beyond else size2[j]
            left[j] = s0[j] if beyond else left[j]
            right[j] = (one if last else s1[j]) if beyond else right[j]
            index[j] = number if beyond else index[j]


@nb.njit(**_KERNEL)
def values(raw: Any, x: Any, bound: float, y: Any, slope: Any) -> None:
    """``y`` and dy/dx of ``x``."""
    t = raw.dtype.type
    one, two, limit = t(1), t(2), t(bound)
    sizes, soft = np.empty((raw.shape[1], LANES), raw.dtype), np.empty((raw.shape[1], LANES), raw.dtype)
    found, v = np.empty((_ROWS, LANES), raw.dtype), np.zeros(LANES, raw.dtype)
    out = np.empty((2, LANES), raw.dtype)
    for start in range(0, len(x), LANES):
        rows = min(LANES, len(x) - start)
        v[:rows] = x[start : start + rows]
        _load(raw, start, rows, sizes, soft)
        _locate(sizes, 0, limit, v, found)
        for j in range(LANES):
            inside = (v[j] > -limit) & (v[j] <= limit)
            across, up = two * limit / found[_TOTAL, j], two * limit / found[_TOTAL2, j]
            width, height = across * found[_SIZE, j], up * found[_SIZE2, j]
            mean = height / width
            z = (v[j] - (across * found[_BELOW, j] - limit)) / width if inside else t(0)
            rest = one - z
            both = z * rest
            below = mean + (found[_LEFT, j] + found[_RIGHT, j] - two * mean) * both
            part = (mean * z * z + found[_LEFT, j] * both) / below
            steep = two * mean * both + found[_LEFT, j] * rest * rest + found[_RIGHT, j] * z * z
            out[0, j] = up * found[_BELOW2, j] - limit + height * part if inside else v[j]
            out[1, j] = steep * (mean / below) * (mean / below) if inside else one
        y[start : start + rows], slope[start : start + rows] = out[0, :rows], out[1, :rows]


@nb.njit(**_KERNEL)
def inverses(raw: Any, y: Any, bound: float, x: Any) -> None:
    """``x`` of ``y``."""
    t = raw.dtype.type
    two, four, limit = t(2), t(4), t(bound)
    sizes, soft = np.empty((raw.shape[1], LANES), raw.dtype), np.empty((raw.shape[1], LANES), raw.dtype)
    found, v, out = (
        np.empty((_ROWS, LANES), raw.dtype),
        np.zeros(LANES, raw.dtype),
        np.empty(LANES, raw.dtype),
    )
    for start in range(0, len(y), LANES):
        rows = min(LANES, len(y) - start)
        v[:rows] = y[start : start + rows]
        _load(raw, start, rows, sizes, soft)
        _locate(sizes, 1, limit, v, found)
        for j in range(LANES):
            inside = (v[j] > -limit) & (v[j] <= limit)
            up, across = two * limit / found[_TOTAL, j], two * limit / found[_TOTAL2, j]
            height, width = up * found[_SIZE, j], across * found[_SIZE2, j]
            mean = height / width
            rise = v[j] - (up * found[_BELOW, j] - limit) if inside else t(0)
            curve = rise * (found[_LEFT, j] + found[_RIGHT, j] - two * mean)
            a = height * (mean - found[_LEFT, j]) + curve
            b = height * found[_LEFT, j] - curve
            c = mean * rise
            z = two * c / (b + np.sqrt(b * b + four * a * c))
            out[j] = across * found[_BELOW2, j] - limit + z * width if inside else v[j]
        x[start : start + rows] = out[:rows]


#: Rows of the slopes of a loss: in x; in the size of the bin, in what is below it and in the total, of widths and of heights; in the
#: slopes at its ends.
_X, _DSIZE, _DBELOW, _DTOTAL, _DSIZE2, _DBELOW2, _DTOTAL2, _DLEFT, _DRIGHT, _SLOPES = range(10)


@nb.njit(**_KERNEL)
def _slopes(v: Any, to_y: Any, to_log: Any, limit: Any, found: Any, out: Any) -> None:
    """Slopes of a loss in what `_locate` found, from those in y and in ln dy/dx, (LANES,) each."""
    t = found.dtype.type
    one, two, zero = t(1), t(2), t(0)
    for j in range(LANES):
        inside = (v[j] > -limit) & (v[j] <= limit)
        across, up = two * limit / found[_TOTAL, j], two * limit / found[_TOTAL2, j]
        width, height = across * found[_SIZE, j], up * found[_SIZE2, j]
        left, right, mean = found[_LEFT, j], found[_RIGHT, j], height / width
        z = (v[j] - (across * found[_BELOW, j] - limit)) / width if inside else zero
        rest = one - z
        both, turn, bend = z * rest, one - two * z, left + right - two * mean
        below = mean + bend * both
        part = (mean * z * z + left * both) / below
        steep = two * mean * both + left * rest * rest + right * z * z
        in_y, in_log = (to_y[j], to_log[j]) if inside else (zero, zero)
        # y = low + height * top / below, ln dy/dx = 2 ln mean + ln steep - 2 ln below
        in_top, in_steep = in_y * height / below, in_log / steep
        in_below = -two * in_log / below - in_top * part
        in_mean = in_top * z * z + in_below * (one - two * both) + in_steep * two * both + two * in_log / mean
        in_z = in_top * (two * mean * z + left * turn) + in_below * bend * turn
        in_z += in_steep * two * (mean * turn - left * rest + right * z)
        in_x, in_height = in_z / width, in_y * part + in_mean / width
        in_width = -(in_mean * mean + in_z * z) / width
        out[_X, j] = in_x if inside else to_y[j]
        out[_DSIZE, j], out[_DSIZE2, j] = across * in_width, up * in_height
        out[_DBELOW, j], out[_DBELOW2, j] = -across * in_x, up * in_y
        out[_DTOTAL, j] = -(in_width * width - in_x * across * found[_BELOW, j]) / found[_TOTAL, j]
        out[_DTOTAL2, j] = -(in_height * height + in_y * up * found[_BELOW2, j]) / found[_TOTAL2, j]
        out[_DLEFT, j] = (in_top + in_below) * both + in_steep * rest * rest
        out[_DRIGHT, j] = in_below * both + in_steep * z * z


@nb.njit(**_KERNEL)
def _to_raw(found: Any, slopes: Any, sizes: Any, soft: Any) -> None:
    """Slopes of a loss in the unconstrained entries, in place of ``sizes``."""
    t = sizes.dtype.type
    zero = t(0)
    bins = (sizes.shape[0] + 1) // 3
    for i in range(bins):
        here = t(i)
        for j in range(LANES):
            at, under = found[_INDEX, j] == here, found[_INDEX, j] > here
            wide = (slopes[_DBELOW, j] if under else zero) + (slopes[_DSIZE, j] if at else zero)
            high = (slopes[_DBELOW2, j] if under else zero) + (slopes[_DSIZE2, j] if at else zero)
            sizes[i, j] *= (wide + slopes[_DTOTAL, j]) * soft[i, j] * soft[i, j]
            sizes[bins + i, j] *= (high + slopes[_DTOTAL2, j]) * soft[bins + i, j] * soft[bins + i, j]
    for i in range(bins - 1):
        k, here, following = 2 * bins + i, t(i), t(i + 1)
        for j in range(LANES):
            left = slopes[_DLEFT, j] if found[_INDEX, j] == following else zero
            right = slopes[_DRIGHT, j] if found[_INDEX, j] == here else zero
            sizes[k, j] *= (left + right) * soft[k, j] * soft[k, j]


@nb.njit(**_KERNEL)
def gradients(raw: Any, x: Any, to_y: Any, to_log: Any, bound: float, to_raw: Any, to_x: Any) -> None:
    """Slopes of a loss in ``raw`` and ``x``, from those in y and in ln dy/dx."""
    limit = raw.dtype.type(bound)
    sizes, soft = np.empty((raw.shape[1], LANES), raw.dtype), np.empty((raw.shape[1], LANES), raw.dtype)
    found, slopes = np.empty((_ROWS, LANES), raw.dtype), np.empty((_SLOPES, LANES), raw.dtype)
    block = np.zeros((3, LANES), raw.dtype)
    for start in range(0, len(x), LANES):
        rows = min(LANES, len(x) - start)
        end = start + rows
        block[0, :rows], block[1, :rows], block[2, :rows] = x[start:end], to_y[start:end], to_log[start:end]
        _load(raw, start, rows, sizes, soft)
        _locate(sizes, 0, limit, block[0], found)
        _slopes(block[0], block[1], block[2], limit, found, slopes)
        _to_raw(found, slopes, sizes, soft)
        for j in range(rows):
            to_x[start + j] = slopes[_X, j]
            for i in range(raw.shape[1]):
                to_raw[start + j, i] = sizes[i, j]
