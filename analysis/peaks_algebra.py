"""Pieces of the compiled fits: expectation, likelihood and information of binned counts, and a small Cholesky
solver.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FAST = {"contract", "reassoc", "nsz"}


@nb.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def background_of(phi: Array, logw: Array, theta: Array, lam: Array, grad: Array, u: Array) -> None:
    """Background (bins,) and its derivatives (k, bins); ``u`` (bins,) is scratch."""
    k, nodes, bins = phi.shape
    for b in range(bins):
        lam[b] = 0.0
    for j in range(k):
        for b in range(bins):
            grad[j, b] = 0.0
    for q in range(nodes):
        for b in range(bins):
            u[b] = logw[q, b]
        for j in range(k):
            t = theta[j]
            for b in range(bins):
                u[b] += t * phi[j, q, b]
        for b in range(bins):
            u[b] = math.exp(max(min(u[b], 200.0), -500.0))
        for b in range(bins):
            lam[b] += u[b]
        for j in range(k):
            for b in range(bins):
                grad[j, b] += u[b] * phi[j, q, b]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def terms_of(counts: Array, total: Array, floor: Array, slope: Array, curve: Array) -> float:
    """Half the Poisson deviance; fills its first and second derivative by the expectation of every bin.

    An empty bin whose expectation falls below ``floor`` meets a cubic wall: without it the likelihood of a deficit has
    no minimum but an end, where the expectation turns negative.
    """
    out = 0.0
    for b in range(len(counts)):
        n, t = counts[b], total[b]
        if n > 0.0:
            if not t > 0.0:
                return np.inf
            out += t - n + n * math.log(n / t)
            slope[b] = 1.0 - n / t
            curve[b] = n / (t * t)
        else:
            out += t
            slope[b] = 1.0
            curve[b] = 0.0
            if t < floor[b]:
                depth = 1.0 - t / floor[b]
                out += floor[b] * depth * depth * depth
                slope[b] -= 3.0 * depth * depth
                curve[b] = 6.0 * depth / floor[b]
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def at_wall(total: float, background: float, floor: float) -> bool:
    """Whether it is the signal, a deficit, that holds an empty bin at its wall; a background that falls that low needs none."""
    return total < floor and total < 0.5 * background


@nb.njit(cache=True, nogil=True, error_model="numpy")
def factorise(matrix: Array, size: int) -> bool:
    """Cholesky of the leading ``size`` block, in place (lower triangle); False when it is not positive definite."""
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for m in range(j):
                total -= matrix[i, m] * matrix[j, m]
            if i == j:
                if not total > 1e-14 * matrix[i, i] or not total < np.inf:
                    return False
                matrix[i, i] = math.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def solve(factor: Array, size: int, right: Array, out: Array) -> None:
    """out = A^-1 right for the Cholesky ``factor`` of A."""
    for i in range(size):
        total = right[i]
        for m in range(i):
            total -= factor[i, m] * out[m]
        out[i] = total / factor[i, i]
    for i in range(size - 1, -1, -1):
        total = out[i]
        for m in range(i + 1, size):
            total -= factor[m, i] * out[m]
        out[i] = total / factor[i, i]


@nb.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def weighted_products(grad: Array, weight: Array, k: int, out: Array) -> None:
    """Lower triangle of sum_b weight grad grad', (k, k)."""
    for i in range(k):
        for j in range(i + 1):
            total = 0.0
            for b in range(len(weight)):
                total += weight[b] * grad[i, b] * grad[j, b]
            out[i, j] = total


@nb.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _border(grad: Array, signal: Array, weight: Array, k: int, out: Array) -> None:
    """The signal's row of the information."""
    for i in range(k):
        total = 0.0
        for b in range(len(weight)):
            total += weight[b] * grad[i, b] * signal[b]
        out[k, i] = total
    total = 0.0
    for b in range(len(weight)):
        total += weight[b] * signal[b] * signal[b]
    out[k, k] = total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def information(
    grad: Array, signal: Array, size: int, cells: Array, floor: Array, observed: bool, out: Array
) -> bool:
    """Factorised information of the first ``size`` parameters at the point that ``cells`` holds; False: not positive.

    ``cells`` (6, bins): background, total, slope, curvature and two of scratch.
    """
    k = len(grad)
    for b in range(cells.shape[1]):
        lam, total = max(cells[0, b], 1e-300), cells[1, b]
        if observed:
            cells[4, b] = cells[3, b] + cells[2, b] / lam
            cells[5, b] = cells[3, b]
        else:
            wall = cells[3, b] if total < floor[b] else 0.0
            cells[4, b] = 1.0 / max(total, floor[b], 1e-300) + wall
            cells[5, b] = cells[4, b]
    weighted_products(grad, cells[4], k, out)
    if size > k:
        _border(grad, signal, cells[5], k, out)
    return factorise(out, size)
