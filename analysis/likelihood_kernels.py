"""Compiled profile likelihood of binned counts: closed forms bin by bin, Newton's method in the common nuisances."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Newton decrement (twice the distance in NLL to the minimum) that counts as converged, and the one still accepted.
DECREMENT, ACCEPTED = 1e-12, 1e-7
MAX_STEPS = 60


@nb.njit(cache=True, nogil=True)
def _bin(a: float, n: float, aux: float, b: float, s: float, poisson: bool, out: Array) -> bool:
    """Profile one bin's own nuisance. ``a``: expectation from everything else. False where no expectation is positive.

    ``out``: NLL, its first and second derivative in a, the bin's own background.
    """
    penalty, slope, bend = 0.0, 0.0, 0.0
    if s <= 0.0:
        own = b
        lam = a + own
        if lam < 0.0 or (lam == 0.0 and n > 0.0):
            return False
        slope = 1.0 - (n / lam if n > 0.0 else 0.0)
        bend = n / lam**2 if n > 0.0 else 0.0
    elif poisson:
        tau = (b / s) ** 2
        square, linear = b * b + tau * b, (b + tau) * a - (n + aux) * b
        root = math.sqrt(max(linear * linear + 4.0 * square * aux * a, 0.0))
        # The stable one of the two ways to write the larger root.
        g = (root - linear) / (2.0 * square) if linear <= 0.0 else 2.0 * aux * a / (linear + root)
        g = max(g, 1e-300)
        own = g * b
        lam = a + own
        if lam <= 0.0:
            return False
        penalty = tau * g - aux + (aux * math.log(aux / (tau * g)) if aux > 0.0 else 0.0)
        slope = 1.0 - n / lam
        down = b * b * n / lam**2 + aux / (g * g)
        inner = 1.0 - b * b * n / lam**2 / down if down > 0.0 else 1.0
        bend = n / lam**2 * inner
    else:
        half = a + aux - s * s
        root = math.sqrt(half * half + 4.0 * n * s * s)
        lam = 0.5 * (half + root) if half >= 0.0 else 2.0 * n * s * s / (root - half)
        own = lam - a
        penalty = 0.5 * ((own - aux) / s) ** 2
        slope = (aux - own) / (s * s)
        bend = (1.0 - (lam / root if root > 0.0 else 0.0)) / (s * s)
        if lam <= 0.0 and n > 0.0:
            return False
    out[0] = lam - n + penalty + (n * math.log(n / lam) if n > 0.0 else 0.0)
    out[1], out[2], out[3] = slope, max(bend, 0.0), own
    return True


@nb.njit(cache=True, nogil=True)
def _evaluate(
    mu: float, theta: Array, n: Array, aux: Array, centres: Array, s: Array, b: Array, sigma: Array,
    poisson: bool, modes: Array, log_kappa: float, grad: Array, hess: Array, own: Array,
) -> tuple[float, float, float]:  # fmt: skip
    """(NLL, its derivative in mu, bend) at theta; fills gradient, Hessian in theta, and the bins' own backgrounds.

    ``hess`` is always positive definite; ``bend``, to be added to its last entry, makes it exact but maybe indefinite:
    the log-normal signal is the one part that is not convex.
    """
    k = len(modes)
    scale = math.exp(log_kappa * theta[k])
    out = np.empty(4)
    nll, in_mu, bend = 0.0, 0.0, 0.0
    for j in range(k + 1):
        d = theta[j] - centres[j]
        nll += 0.5 * d * d
        grad[j] = d
        for i in range(k + 1):
            hess[j, i] = 1.0 if i == j else 0.0
    deriv = np.empty(k + 1)
    for i in range(len(n)):
        a = mu * s[i] * scale
        deriv[k] = a * log_kappa
        for j in range(k):
            a += theta[j] * modes[j, i]
            deriv[j] = modes[j, i]
        if not _bin(a, n[i], aux[i], b[i], sigma[i], poisson, out):
            return np.inf, 0.0, 0.0
        nll += out[0]
        in_mu += out[1] * s[i] * scale
        bend += out[1] * deriv[k] * log_kappa
        own[i] = out[3]
        for j in range(k + 1):
            grad[j] += out[1] * deriv[j]
            for q in range(k + 1):
                hess[j, q] += out[2] * deriv[j] * deriv[q]
    return nll, in_mu, bend


@nb.njit(cache=True, nogil=True)
def profile_at(
    mu: float, n: Array, aux: Array, centres: Array, s: Array, b: Array, sigma: Array,
    poisson: bool, modes: Array, log_kappa: float, theta: Array, own: Array,
) -> tuple[float, float, bool]:  # fmt: skip
    """(NLL, slope in mu, converged) of the likelihood minimised over all nuisances at ``mu``; fills theta and own."""
    k = len(modes) + 1
    grad, hess, trial, spare = np.empty(k), np.empty((k, k)), theta.copy(), own.copy()
    theta[:] = centres
    now, slope, bend = _evaluate(
        mu, theta, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, grad, hess, own
    )
    if k == 1 and (log_kappa == 0.0 or mu == 0.0):
        return now, slope, np.isfinite(now)
    decrement = np.inf
    for _ in range(MAX_STEPS):
        if not np.isfinite(now):
            return now, slope, False
        positive = hess[k - 1, k - 1]
        hess[k - 1, k - 1] += bend
        step = np.linalg.solve(hess, grad)
        decrement = float(step @ grad)
        if decrement <= 0.0 or not np.isfinite(decrement):
            hess[k - 1, k - 1] = positive
            step = np.linalg.solve(hess, grad)
            decrement = float(step @ grad)
        if decrement < DECREMENT:
            return now, slope, True
        fraction, moved = 1.0, False
        for _ in range(40):
            for j in range(k):
                trial[j] = theta[j] - fraction * step[j]
            then, new, bend = _evaluate(
                mu, trial, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, grad, hess, spare
            )
            if then < now:
                moved = True
                break
            fraction *= 0.5
        if not moved:
            # Rounding: nothing lower is to be found. Leave gradient and backgrounds as they are at theta.
            now, slope, bend = _evaluate(
                mu, theta, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, grad, hess, own
            )
            return now, slope, decrement < ACCEPTED
        theta[:] = trial
        own[:] = spare
        now, slope = then, new
    return now, slope, decrement < ACCEPTED


@nb.njit(cache=True, nogil=True)
def _above(
    low: float, n: Array, aux: Array, centres: Array, s: Array, b: Array, sigma: Array,
    poisson: bool, modes: Array, log_kappa: float, theta: Array, own: Array,
) -> tuple[float, float, bool]:  # fmt: skip
    """(mu, slope there, found): a strength above mu-hat, where the profile rises."""
    high = low + (n.sum() + 1.0) / s.sum()
    for _ in range(60):
        _, g, good = profile_at(high, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, theta, own)
        if not good:
            return high, g, False
        if g > 0.0:
            return high, g, True
        high *= 2.0
    return high, 0.0, False


@nb.njit(cache=True, nogil=True)
def best_mu(  # noqa: PLR0912
    n: Array, aux: Array, centres: Array, s: Array, b: Array, sigma: Array,
    poisson: bool, modes: Array, log_kappa: float, theta: Array, own: Array,
) -> tuple[float, float, bool]:  # fmt: skip
    """(mu-hat >= 0, NLL there, converged): the root of the profile's slope, by safeguarded false position
    (Illinois)."""
    low = 0.0
    f_low, g_low, good = profile_at(0.0, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, theta, own)
    if good and g_low >= 0.0:
        return 0.0, f_low, True
    # Where no background is expected, mu = 0 is impossible and the root lies above it.
    if not good and np.isfinite(f_low):
        return 0.0, f_low, False
    high, g_high, good = _above(low, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, theta, own)
    if not good:
        return high, np.inf, False
    if not np.isfinite(f_low):
        g_low = -1e3 * abs(g_high) - 1.0
    mu, f, side = high, 0.0, 0
    for _ in range(200):
        mu = (low * g_high - high * g_low) / (g_high - g_low)
        if not low < mu < high:
            mu = 0.5 * (low + high)
        f, g, good = profile_at(mu, n, aux, centres, s, b, sigma, poisson, modes, log_kappa, theta, own)
        if not good:
            return mu, f, False
        if g == 0.0 or high - low < 1e-12 * high:
            break
        if g > 0.0:
            high, g_high = mu, g
            if side == 1:
                g_low *= 0.5
            side = 1
        else:
            low, g_low = mu, g
            if side == -1:
                g_high *= 0.5
            side = -1
        if abs(g) * (high - low) < 1e-13:
            break
    return mu, f, True


@nb.njit(cache=True, nogil=True)
def q_tilde_of_toys(
    mu: float, n: Array, aux: Array, centres: Array, s: Array, b: Array, sigma: Array,
    poisson: bool, modes: Array, log_kappa: float,
) -> tuple[Array, int]:  # fmt: skip
    """q~(mu) of every row of ``n``, ``aux`` (toys, bins) and ``centres`` (toys, k + 1); and how many fits failed
    (nan)."""
    out, failed = np.empty(len(n)), 0
    theta, own = np.zeros(len(modes) + 1), np.zeros(len(s))
    for t in range(len(n)):
        hat, best, good = best_mu(
            n[t], aux[t], centres[t], s, b, sigma, poisson, modes, log_kappa, theta, own
        )
        out[t] = 0.0
        if good and hat < mu:
            at, _, good = profile_at(
                mu, n[t], aux[t], centres[t], s, b, sigma, poisson, modes, log_kappa, theta, own
            )
            out[t] = max(2.0 * (at - best), 0.0)
        if not good:
            out[t], failed = np.nan, failed + 1
    return out, failed
