"""Compiled fits of a log-linear background plus a signal template: Newton's method, arrays with bins last.

The background of a bin is a sum over quadrature nodes, b = sum_q exp(logw_q + phi_q . theta); expected is b + mu s. The
Hessian is that of narrow bins (the curvature of b is grad b grad b' / b), which is exact for bins of no width and a
positive definite stand-in for the rest; the expected (Fisher) information takes its place where it is not.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .peaks_algebra import at_wall, background_of, factorise, information, solve, terms_of, weighted_products
from .peaks_third_order import corrected_root

Array = NDArray[np.float64]
MAX_STEPS = 1000
DECREMENT = 1e-8
#: A decrement that a fit may end with where rounding lets it go no further.
STALLED = 1e-6
#: Two starts must end within this negative log-likelihood.
AGREE = 1e-4
#: Yields, in usual errors, from which a fit starts whose first three starts end in three minima.
RETRIES = (-0.5, 0.5, 1.0, 2.0, -1.0)
#: Share of the background below which an empty bin pushes back.
WALL = 1e-3
#: Outcome of a fit: a minimum; at the edge of what is allowed (a deficit in empty bins); no minimum.
GOOD, EDGE, FAILED = 0, 1, 2


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _direction(
    grad: Array,
    signal: Array,
    size: int,
    cells: Array,
    floor: Array,
    reach: float,
    matrix: Array,
    work: Array,
) -> bool:
    """Newton step into work[1], slope in work[0]; False when no information is positive definite.

    Empty bins have no curvature: where that would move the yield further than ``reach`` the expected information rules.
    """
    k = len(grad)
    for j in range(k):
        total = 0.0
        for b in range(cells.shape[1]):
            total += cells[2, b] * grad[j, b]
        work[0, j] = total
    if size > k:
        total = 0.0
        for b in range(cells.shape[1]):
            total += cells[2, b] * signal[b]
        work[0, k] = total
    if information(grad, signal, size, cells, floor, True, matrix):
        solve(matrix, size, work[0], work[1])
        if size == k or abs(work[1, k]) <= reach:
            return True
    if not information(grad, signal, size, cells, floor, False, matrix):
        return False
    solve(matrix, size, work[0], work[1])
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _evaluate(
    counts: Array,
    phi: Array,
    logw: Array,
    signal: Array,
    floor: Array,
    theta: Array,
    cells: Array,
    grad: Array,
) -> float:
    """Half deviance at theta (k + 1,); fills cells and grad."""
    k = len(phi)
    background_of(phi, logw, theta, cells[0], grad, cells[4])
    for b in range(cells.shape[1]):
        cells[1, b] = cells[0, b] + theta[k] * signal[b]
    return terms_of(counts, cells[1], floor, cells[2], cells[3])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def minimise(
    counts: Array, phi: Array, logw: Array, signal: Array, floor: Array, free: bool, scale: float,
    theta: Array, cells: Array, grad: Array, matrix: Array, work: Array,
) -> tuple[float, bool]:  # fmt: skip
    """Half deviance at the minimum near ``theta`` (k + 1,), which is moved there, and whether it is one.

    ``scale``: a usual error of the yield, which bounds a step. ``matrix`` is left as the factorised information at
    the minimum.
    """
    k = len(phi)
    size = k + 1 if free else k
    now = _evaluate(counts, phi, logw, signal, floor, theta, cells, grad)
    if not now < np.inf:
        return now, False
    for _ in range(MAX_STEPS):
        reach = 3.0 * scale + abs(theta[k])
        if not _direction(grad, signal, size, cells, floor, reach, matrix, work):
            return now, False
        decrement = 0.0
        for i in range(size):
            decrement += work[0, i] * work[1, i]
        if decrement < DECREMENT:
            return now, True
        for i in range(size):
            work[2, i] = theta[i]
        fraction, moved = 1.0, False
        for _ in range(40):
            for i in range(size):
                theta[i] = work[2, i] - fraction * work[1, i]
            then = _evaluate(counts, phi, logw, signal, floor, theta, cells, grad)
            if then <= now + 1e-10:
                moved = True
                break
            fraction *= 0.5
        if not moved:
            for i in range(size):
                theta[i] = work[2, i]
            _evaluate(counts, phi, logw, signal, floor, theta, cells, grad)
            return now, decrement < STALLED
        now = then
    return now, False


@nb.njit(cache=True, nogil=True, error_model="numpy")
def start_of(
    counts: Array, phi: Array, logw: Array, power: float, theta: Array, matrix: Array, work: Array
) -> None:
    """Least squares of ln(n + 1/2) at the middle node, weighted by (n + 1/2)^power."""
    k, nodes, bins = phi.shape
    middle = nodes // 2
    matrix[:k, :k] = 0.0
    work[0, :k] = 0.0
    for b in range(bins):
        width = 0.0
        for q in range(nodes):
            width += math.exp(logw[q, b])
        y, w = math.log((counts[b] + 0.5) / width), (counts[b] + 0.5) ** power
        for i in range(k):
            work[0, i] += w * y * phi[i, middle, b]
            for j in range(i + 1):
                matrix[i, j] += w * phi[i, middle, b] * phi[j, middle, b]
    for i in range(k):
        matrix[i, i] *= 1.0 + 1e-9
    theta[:] = 0.0
    if factorise(matrix, k):
        solve(matrix, k, work[0], theta)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def fit_null(
    counts: Array,
    phi: Array,
    logw: Array,
    theta: Array,
    cells: Array,
    grad: Array,
    matrix: Array,
    work: Array,
) -> tuple[float, bool]:
    """Background fit from two starts; theta (k + 1,), cells and grad are those of the better one."""
    bins = len(counts)
    none = np.zeros(bins)
    start_of(counts, phi, logw, 1.0, theta, matrix, work)
    half, good = minimise(counts, phi, logw, none, none, False, 0.0, theta, cells, grad, matrix, work)
    other = np.zeros(len(theta))
    start_of(counts, phi, logw, 0.0, other, matrix, work)
    again, fine = minimise(counts, phi, logw, none, none, False, 0.0, other, cells, grad, matrix, work)
    if fine and (again < half or not good):
        theta[:] = other
    agree = good and fine and abs(half - again) < AGREE
    best = again if fine and (again < half or not good) else half
    _evaluate(counts, phi, logw, none, none, theta, cells, grad)
    return best, agree


@nb.njit(cache=True, nogil=True, error_model="numpy")
def fit_many(
    counts: Array, phi: Array, logw: Array, thetas: Array, halves: Array, good: NDArray[np.bool_]
) -> None:
    """Background fit of every spectrum (n, bins): thetas (n, k), half deviances (n,), convergence (n,)."""
    k, bins = len(phi), phi.shape[2]
    theta, cells, grad = np.zeros(k + 1), np.empty((6, bins)), np.empty((k, bins))
    matrix, work = np.zeros((k + 1, k + 1)), np.empty((3, k + 1))
    for t in range(len(counts)):
        halves[t], good[t] = fit_null(counts[t], phi, logw, theta, cells, grad, matrix, work)
        for j in range(k):
            thetas[t, j] = theta[j]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def expect_many(phi: Array, logw: Array, thetas: Array, out: Array) -> None:
    """Expected counts (n, bins) at thetas (n, k)."""
    k, bins = len(phi), phi.shape[2]
    grad, scratch = np.empty((k, bins)), np.empty(bins)
    for t in range(len(thetas)):
        background_of(phi, logw, thetas[t], out[t], grad, scratch)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _null_error(grad: Array, signal: Array, lam: Array, fisher: Array, work: Array) -> float:
    """Standard deviation of the yield on background alone; ``fisher`` holds the factorised (k, k) block."""
    k = len(grad)
    total = 0.0
    for b in range(len(signal)):
        total += signal[b] * signal[b] / max(lam[b], 1e-300)
    for i in range(k):
        work[0, i] = 0.0
        for b in range(len(signal)):
            work[0, i] += grad[i, b] * signal[b] / max(lam[b], 1e-300)
    solve(fisher, k, work[0], work[1])
    for i in range(k):
        total -= work[0, i] * work[1, i]
    return 1.0 / math.sqrt(total) if total > 0.0 else np.inf


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fit_signal(
    counts: Array, phi: Array, logw: Array, signal: Array, floor: Array, null: Array, sigma: float,
    cells: Array, grad: Array, matrix: Array, work: Array, theta: Array,
) -> tuple[float, float, float, int]:  # fmt: skip
    """(yield, error, half deviance, outcome), from the background fit with no signal and with a large one; theta is the minimum.

    Where the two ends differ there are more starts, `RETRIES` last, until two have found the lowest of all ends.
    """
    k, best = len(phi), null.copy()
    mu, error, half, edge, found = 0.0, sigma, np.inf, False, 0
    for start in range(3 + len(RETRIES)):
        theta[:] = null
        if start == 1:
            theta[k] = 3.0 * sigma
        elif start == 2:
            theta[:] = best
            theta[k] += sigma if mu > 0.0 else -0.5 * mu
        elif start > 2:
            theta[k] = RETRIES[start - 3] * sigma
        now, good = minimise(counts, phi, logw, signal, floor, True, sigma, theta, cells, grad, matrix, work)
        if good and now < half - AGREE:
            best[:] = theta
            # The inverse of the information at [k, k] is one over the last pivot squared.
            mu, error, half = theta[k], 1.0 / matrix[k, k], now
            edge, found = _touches(counts, cells, floor), 1
        elif good and now < half + AGREE:
            found += 1
        if found == 2:
            break
    theta[:] = best
    if found < 2:
        return mu, sigma, half, FAILED
    return (mu, sigma, half, EDGE) if edge else (mu, error, half, GOOD)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _touches(counts: Array, cells: Array, floor: Array) -> bool:
    """Whether an empty bin is at its wall."""
    touching = False
    for b in range(len(counts)):
        touching |= counts[b] == 0.0 and at_wall(cells[1, b], cells[0, b], floor[b])
    return touching


@nb.njit(cache=True, nogil=True, error_model="numpy")
def scan_many(
    counts: Array, phi: Array, logw: Array, signals: Array, nulls: Array, mu: Array, error: Array, half: Array,
    root: Array, outcome: NDArray[np.int8],
) -> None:  # fmt: skip
    """Background fit of every spectrum (n, bins), a signal fit for every template (masses, bins) and its `corrected_root`."""
    k, bins = len(phi), phi.shape[2]
    null, theta = np.zeros(k + 1), np.zeros(k + 1)
    cells, grad, base = np.empty((6, bins)), np.empty((k, bins)), np.empty((k, bins))
    matrix, fisher, work = np.zeros((k + 1, k + 1)), np.zeros((k + 1, k + 1)), np.empty((3, k + 1))
    lam, floor = np.empty(bins), np.empty(bins)
    for t in range(len(counts)):
        nulls[t], good = fit_null(counts[t], phi, logw, null, cells, grad, matrix, work)
        null[k] = 0.0
        for b in range(bins):
            lam[b] = cells[0, b]
            floor[b] = max(WALL * lam[b], 1e-290)
            cells[4, b] = 1.0 / max(lam[b], 1e-300)
        base[:, :] = grad
        weighted_products(base, cells[4], k, fisher)
        good = factorise(fisher, k) and good
        for m in range(len(signals)):
            if not good:
                mu[t, m], error[t, m], half[t, m], outcome[t, m] = 0.0, np.inf, nulls[t], FAILED
                continue
            sigma = _null_error(base, signals[m], lam, fisher, work)
            mu[t, m], error[t, m], half[t, m], outcome[t, m] = _fit_signal(
                counts[t], phi, logw, signals[m], floor, null, sigma, cells, grad, matrix, work, theta
            )
            root[t, m] = math.copysign(math.sqrt(2.0 * max(nulls[t] - half[t, m], 0.0)), mu[t, m])
            if outcome[t, m] == GOOD:
                _evaluate(counts[t], phi, logw, signals[m], floor, theta, cells, grad)
                root[t, m] = corrected_root(
                    root[t, m], grad, signals[m], cells, floor, base, lam, fisher, matrix
                )
