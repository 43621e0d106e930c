"""Bin-integrated fits of the dijet function by Fisher scoring in an orthogonal basis.

The family is log-linear: ln f(m) = a + p1 ln(1-x) - p2 ln x - p3 ln^2 x - p4 ln^3 x - p5 x, x = m / sqrt(s), as in the
dijet searches of ATLAS and CMS (1910.08447, 1911.03947). In those coordinates the parameters are nearly degenerate and a
general minimiser reports convergence where there is none; a QR-orthogonalised basis and the Fisher matrix do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import FitError

Array = NDArray[np.float64]
NODES = 5
MAX_STEPS = 60
DECREMENT = 1e-8
#: Shape parameters beside the normalisation: least and most of a hunt.
MIN_ORDER, MAX_ORDER = 2, 4
#: Most that a basis can have; the fifth is the exponential of the CMS family.
HIGHEST_ORDER = 5


@dataclass(frozen=True)
class Basis:
    """The family on a binning: ``phi`` (bins, nodes, order + 1) orthogonalised, ``logw`` (bins, nodes) node weights."""

    edges: Array
    order: int
    phi: Array
    logw: Array


def _check_edges(edges: Array, energy: float) -> None:
    rising = np.diff(edges) > 0  # False for NaN too
    if not rising.all():
        first = int(np.argmin(rising))
        raise FitError(f"bin edges must increase, found {edges[first]:g} and then {edges[first + 1]:g}")
    if not (edges[0] > 0 and edges[-1] < energy):
        raise FitError(f"bin edges must lie inside 0 to {energy:g} GeV, found {edges[0]:g} to {edges[-1]:g}")


def basis(edges: Array, order: int, energy: float) -> Basis:
    """Basis of ``order`` shape parameters on ``edges`` (GeV) for collisions of ``energy`` GeV."""
    edges = np.asarray(edges, dtype=np.float64)
    if not MIN_ORDER <= order <= HIGHEST_ORDER:
        raise FitError(f"order {order}: expected {MIN_ORDER} to {HIGHEST_ORDER} shape parameters")
    _check_edges(edges, energy)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = 0.5 * np.diff(edges)
    x = ((0.5 * (edges[1:] + edges[:-1]))[:, None] + half[:, None] * nodes) / energy
    log = np.log(x)
    raw = np.stack([np.ones_like(x), np.log1p(-x), -log, -(log**2), -(log**3), -x][: order + 1], axis=-1)
    flat = raw.reshape(-1, order + 1)
    # Weighted like a falling spectrum, so that the columns are near-orthogonal under the Fisher metric.
    root = np.exp(-2.5 * (log.ravel() - log.max()) + 2.5 * (log.min() - log.max()))
    _, triangle = np.linalg.qr(flat * root[:, None])
    phi = np.linalg.solve(triangle.T, flat.T).T.reshape(raw.shape)
    logw = np.log(half[:, None] * weights / (2 * half.mean()))
    return Basis(edges, order, np.ascontiguousarray(phi), np.ascontiguousarray(logw))


@nb.njit(cache=True, nogil=True)
def _expect(phi: Array, logw: Array, theta: Array, lam: Array, grad: Array) -> None:
    """Expected counts (bins,) and their derivatives (bins, k) at ``theta``."""
    bins, nodes, k = phi.shape
    for b in range(bins):
        total = 0.0
        for j in range(k):
            grad[b, j] = 0.0
        for q in range(nodes):
            u = logw[b, q]
            for j in range(k):
                u += phi[b, q, j] * theta[j]
            e = math.exp(min(u, 200.0))
            total += e
            for j in range(k):
                grad[b, j] += e * phi[b, q, j]
        lam[b] = total


@nb.njit(cache=True, nogil=True)
def _nll(counts: Array, use: NDArray[np.bool_], lam: Array) -> float:
    """Half the Poisson deviance: 0 for a perfect fit, so that nothing large cancels; infinite where lambda <= 0."""
    out = 0.0
    for b in range(len(counts)):
        if use[b]:
            if not lam[b] > 0.0:
                return np.inf
            out += lam[b] - counts[b]
            if counts[b] > 0.0:
                out += counts[b] * math.log(counts[b] / lam[b])
    return out


@nb.njit(cache=True, nogil=True)
def _start(counts: Array, use: NDArray[np.bool_], phi: Array, logw: Array, theta: Array) -> None:
    """Least squares of ln(n + 1/2), weighted by n + 1/2, at the middle node."""
    bins, nodes, k = phi.shape
    middle = nodes // 2
    matrix, right = np.zeros((k, k)), np.zeros(k)
    for b in range(bins):
        if not use[b]:
            continue
        total = 0.0
        for q in range(nodes):
            total += math.exp(logw[b, q])
        y, w = math.log((counts[b] + 0.5) / total), counts[b] + 0.5
        for i in range(k):
            right[i] += w * y * phi[b, middle, i]
            for j in range(k):
                matrix[i, j] += w * phi[b, middle, i] * phi[b, middle, j]
    for i in range(k):
        matrix[i, i] *= 1.0 + 1e-9
    theta[:k] = np.linalg.solve(matrix, right)


@nb.njit(cache=True, nogil=True)
def _score_and_fisher(
    counts: Array, use: NDArray[np.bool_], lam: Array, grad: Array, size: int, fisher: Array
) -> Array:
    """Slope of the negative log-likelihood (size,); fills the expected information of the first ``size`` parameters."""
    slope = np.zeros(size)
    fisher[:, :] = 0.0
    for b in range(len(lam)):
        if not use[b]:
            continue
        r = 1.0 - counts[b] / lam[b]
        for i in range(size):
            slope[i] += r * grad[b, i]
            for j in range(i + 1):
                fisher[i, j] += grad[b, i] * grad[b, j] / lam[b]
    for i in range(size):
        for j in range(i):
            fisher[j, i] = fisher[i, j]
    return slope


@nb.njit(cache=True, nogil=True)
def fit_one(
    counts: Array,
    use: NDArray[np.bool_],
    phi: Array,
    logw: Array,
    signal: Array,
    free: bool,
    theta: Array,
    fisher: Array,
) -> tuple[float, bool]:
    """Fit theta (k,) and, if ``free``, the signal yield theta[k]; returns (half deviance, converged).

    ``theta`` (k + 1,) and ``fisher`` (k + 1, k + 1) are filled. ``signal`` (bins,): expected per unit yield.
    """
    bins, _, k = phi.shape
    size = k + 1 if free else k
    lam, grad = np.empty(bins), np.zeros((bins, k + 1))
    _start(counts, use, phi, logw, theta)
    theta[k] = 0.0
    _expect(phi, logw, theta, lam, grad)
    now = _nll(counts, use, lam)
    for _ in range(MAX_STEPS):
        grad[:, k] = signal
        slope = _score_and_fisher(counts, use, lam, grad, size, fisher)
        damped = fisher[:size, :size].copy()
        for i in range(size):
            damped[i, i] = damped[i, i] * (1.0 + 1e-10) + 1e-12
        step = np.linalg.solve(damped, slope)
        decrement = 0.0
        for i in range(size):
            decrement += step[i] * slope[i]
        if decrement < DECREMENT:
            return now, True
        fraction, moved = 1.0, False
        trial = theta.copy()
        for _ in range(30):
            for i in range(size):
                trial[i] = theta[i] - fraction * step[i]
            _expect(phi, logw, trial, lam, grad)
            for b in range(bins):
                lam[b] += trial[k] * signal[b]
            then = _nll(counts, use, lam)
            if then <= now + 1e-12:
                moved = True
                break
            fraction *= 0.5
        if not moved:
            return now, decrement < 1e-6
        theta[:] = trial
        now = then
    return now, False


@dataclass(frozen=True)
class Fit:
    """A background fit. ``expected`` and ``error`` (bins,): counts and their standard deviation, masked bins too.

    ``half_deviance`` is the Poisson likelihood's; ``ndf`` used bins minus parameters; ``p_value`` the asymptotic one of
    the deviance (use toys below about 1e5 events); ``covariance`` (order + 1, order + 1) in the orthogonal basis.
    """

    order: int
    expected: Array
    error: Array
    half_deviance: float
    ndf: int
    p_value: float
    theta: Array
    covariance: Array

    def integral(self, which: NDArray[np.bool_], gradient: Array) -> tuple[float, float]:
        """Expected counts in the bins of ``which`` and their standard deviation, correlations included."""
        slope = gradient[which].sum(axis=0)
        return float(self.expected[which].sum()), float(np.sqrt(slope @ self.covariance @ slope))


def _check(counts: Array, use: NDArray[np.bool_], edges: Array, order: int) -> None:
    good = np.isfinite(counts) & (counts >= 0)
    if not good.all():
        bad = int(np.argmin(good))
        raise FitError(
            f"bin {edges[bad]:g}-{edges[bad + 1]:g} GeV holds {counts[bad]:g} events; a spectrum to fit must be finite "
            "and not negative"
        )
    if use.sum() <= order + 1:
        raise FitError(f"{int(use.sum())} bins cannot determine {order + 1} parameters; use more bins")
    if counts[use].sum() <= 0:
        raise FitError("the spectrum is empty outside the window; widen the range or loosen the cut")


def gradient_of(model: Basis, theta: Array) -> tuple[Array, Array]:
    """(expected (bins,), derivatives (bins, order + 1)) at theta."""
    bins, _, k = model.phi.shape
    lam, grad = np.empty(bins), np.zeros((bins, k + 1))
    _expect(model.phi, model.logw, np.append(theta, 0.0), lam, grad)
    return lam, grad[:, :k]


def fit_background(counts: Array, model: Basis, use: NDArray[np.bool_] | None = None) -> Fit:
    """Poisson fit of the bins in ``use`` (None: all). Raises `FitError` when it does not converge."""
    counts = np.asarray(counts, dtype=np.float64)
    use = np.ones(len(counts), bool) if use is None else use
    _check(counts, use, model.edges, model.order)
    k = model.order + 1
    theta, fisher = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    half, good = fit_one(counts, use, model.phi, model.logw, np.zeros(len(counts)), False, theta, fisher)
    if not good or not np.isfinite(half):
        raise FitError(
            f"the fit with {model.order} shape parameters did not converge on {int(counts[use].sum())} events"
        )
    expected, grad = gradient_of(model, theta[:k])
    covariance = np.asarray(np.linalg.pinv(fisher[:k, :k], hermitian=True), dtype=np.float64)
    error = np.sqrt(np.maximum(np.einsum("bi,ij,bj->b", grad, covariance, grad), 0.0))
    ndf = int(use.sum()) - k
    return Fit(
        model.order, expected, error, half, ndf, float(stats.chi2.sf(2 * half, ndf)), theta[:k], covariance
    )


@dataclass(frozen=True)
class SignalFit:
    """A signal-plus-background fit: yield with its error (events), q0 = 2 (NLL(0) - NLL(mu)) for mu > 0, else 0."""

    position: float
    signal: float
    error: float
    q0: float
    half_deviance: float


def gaussian_template(edges: Array, mean: float, width: float) -> Array:
    """Fraction of a Gaussian (mean and standard deviation in GeV) in every bin, (bins,)."""
    return np.diff(stats.norm.cdf((np.asarray(edges) - mean) / width))


def fit_signal(counts: Array, model: Basis, mean: float, relative_width: float) -> SignalFit:
    """Fit background plus a Gaussian at ``mean`` (GeV) of width ``relative_width`` x mean; the yield has a free sign."""
    counts = np.asarray(counts, dtype=np.float64)
    use = np.ones(len(counts), bool)
    _check(counts, use, model.edges, model.order + 1)
    k = model.order + 1
    template = gaussian_template(model.edges, mean, relative_width * mean)
    theta, fisher = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    half, good = fit_one(counts, use, model.phi, model.logw, template, True, theta, fisher)
    null, good0 = fit_one(
        counts, use, model.phi, model.logw, template, False, np.zeros(k + 1), np.zeros((k + 1, k + 1))
    )
    if not (good and good0):
        raise FitError(f"the signal fit at {mean:g} GeV did not converge")
    error = float(np.sqrt(np.linalg.pinv(fisher, hermitian=True)[k, k]))
    q0 = max(0.0, 2 * (null - half)) if theta[k] > 0 else 0.0
    return SignalFit(mean, float(theta[k]), error, q0, half)


def choose_order(
    counts: Array, edges: Array, energy: float, use: NDArray[np.bool_], size: float = 0.05
) -> int:
    """Number of shape parameters by the Poisson likelihood ratio: one more while 2 dNLL beats chi2(1) at ``size``.

    Unlike the Pearson F-test its size holds from 1e3 to 1e6 events.
    """
    critical = float(stats.chi2.isf(size, 1))
    order = MIN_ORDER
    best = fit_background(counts, basis(edges, order, energy), use).half_deviance
    while order < MAX_ORDER and use.sum() > order + 2:
        try:
            more = fit_background(counts, basis(edges, order + 1, energy), use).half_deviance
        except FitError:
            break
        if 2 * (best - more) < critical:
            break
        order, best = order + 1, more
    return order
