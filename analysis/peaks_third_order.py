"""Local significances that hold at few events: the signed root of the likelihood ratio, corrected to third order.

r = sign(mu) sqrt(2 dNLL) is normal up to terms of 1 / sqrt(N), which a flexible background makes large: with four shape parameters and
10^4 events P(r > 1) can be .186 where .159 is meant. r* = r + ln(u / r) / r is normal up to N^(-3/2) (Barndorff-Nielsen 1986). For
counts u is that of the tangent exponential model (Davison, Fraser, Reid 2006; in particle physics 2304.10574): with expectations m(theta),
derivatives V = dm / dtheta at the fit, and phi(theta) = V' ln m(theta),

    u = |phi(fit) - phi(null), dphi / dnuisance (null)| / |dphi / dtheta (fit)| * sqrt(|J(fit)| / |J_nuisance(null)|).

Below `FEWEST` background events under the signal counts are too coarse for any such law: r is left as it is, and toys must say the rest.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .peaks_algebra import at_wall, information

Array = NDArray[np.float64]
#: Nearer to zero r is given as it is: what rounding leaves of a minimum would be divided by r^2.
SMALL = 0.01
#: Background events under the signal, (sum s)^2 / sum s^2 / b, from which on r* is used.
FEWEST = 5.0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def log_determinant(matrix: Array, size: int) -> tuple[float, float]:
    """(sign, ln |determinant|) of the leading ``size`` block, which elimination with pivots destroys."""
    sign, total = 1.0, 0.0
    for i in range(size):
        best = i
        for j in range(i + 1, size):
            if abs(matrix[j, i]) > abs(matrix[best, i]):
                best = j
        if not abs(matrix[best, i]) > 0.0:
            return 0.0, -np.inf
        if best != i:
            sign = -sign
            for j in range(i, size):
                matrix[i, j], matrix[best, j] = matrix[best, j], matrix[i, j]
        sign *= 1.0 if matrix[i, i] > 0.0 else -1.0
        total += math.log(abs(matrix[i, i]))
        for j in range(i + 1, size):
            share = matrix[j, i] / matrix[i, i]
            for m in range(i, size):
                matrix[j, m] -= share * matrix[i, m]
    return sign, total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _log_root(factor: Array, size: int) -> float:
    """ln sqrt of the determinant of what ``factor`` is the Cholesky factor of."""
    total = 0.0
    for i in range(size):
        total += math.log(factor[i, i])
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _under(signal: Array, lam: Array) -> float:
    """Background events that the signal lies on, weighted by its shape."""
    total, square = 0.0, 0.0
    for b in range(len(signal)):
        total += signal[b]
        square += signal[b] * signal[b] / max(lam[b], 1e-300)
    return total * total / square


@nb.njit(cache=True, nogil=True, error_model="numpy")
def corrected_root(
    r: float, grad: Array, signal: Array, cells: Array, floor: Array, base: Array, lam: Array, null_factor: Array,
    matrix: Array,
) -> float:  # fmt: skip
    """r* of a fit whose ``cells`` and background derivatives ``grad`` (k, bins) are those of the minimum; r where there is none.

    ``base`` (k, bins), ``lam`` (bins,) and the factorised information ``null_factor`` are those of the background alone, whose
    observed and expected information are the same because the family is log-linear. ``matrix`` (k + 1, k + 1) is scratch.
    """
    k, bins = grad.shape
    if abs(r) < SMALL or not _under(signal, lam) >= FEWEST:
        return r
    if not information(grad, signal, k + 1, cells, floor, True, matrix):
        return r
    log_u = _log_root(matrix, k + 1) - _log_root(null_factor, k)
    if not information(grad, signal, k + 1, cells, floor, False, matrix):
        return r
    log_u -= 2.0 * _log_root(matrix, k + 1)
    for b in range(bins):
        if at_wall(cells[1, b], cells[0, b], floor[b]) or not lam[b] > 0.0:
            return r  # at the wall of an empty bin the likelihood is no longer one of counts
        cells[4, b] = math.log(max(cells[1, b], 1e-300) / lam[b])
        cells[5, b] = 1.0 / lam[b]
    for i in range(k + 1):
        slope = grad[i] if i < k else signal
        total = 0.0
        for b in range(bins):
            total += slope[b] * cells[4, b]
        matrix[i, k] = total
        for j in range(k):
            total = 0.0
            for b in range(bins):
                total += slope[b] * base[j, b] * cells[5, b]
            matrix[i, j] = total
    sign, more = log_determinant(matrix, k + 1)
    if sign * r <= 0.0:
        return r
    return r + (log_u + more - math.log(abs(r))) / r
