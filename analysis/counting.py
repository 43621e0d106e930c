"""One-bin statistics: n seen against b +- s expected, and the intervals of counts."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from scipy import stats

from ..errors import FitError


@nb.njit(cache=True, nogil=True)
def signed_z(n: float, b: float, s: float) -> float:
    """Z of n events on b +- s: Poisson times Gaussian profile likelihood (Cowan et al. 1007.1727), signed.

    q0 has a closed form because the conditional best background solves a quadratic. A deficit is negative.
    """
    if b <= 0.0:
        b = 1e-9
    if s <= 0.0:
        hat = b
        penalty = 0.0
    else:
        half = b - s * s
        hat = 0.5 * (half + math.sqrt(half * half + 4.0 * n * s * s))
        penalty = ((hat - b) / s) ** 2
    hat = max(hat, 1e-12)
    q = 2.0 * (hat - n) + penalty
    if n > 0.0:
        q += 2.0 * n * math.log(n / hat)
    z = math.sqrt(max(q, 0.0))
    return z if n >= b else -z


def cut_and_count_z(n: float, b: float, sigma: float) -> float:
    """Z of n events on b with a background uncertainty (2411.00085, formula of 1007.1727), signed by n - b."""
    if b <= 0 or sigma < 0 or n < 0:
        raise FitError(f"n {n:g}, b {b:g}, sigma {sigma:g}: expected n >= 0, b > 0, sigma >= 0")
    if sigma == 0:
        q = 2 * ((n * math.log(n / b) if n > 0 else 0.0) - (n - b))
    else:
        v = sigma**2
        first = n * math.log(n * (b + v) / (b**2 + n * v)) if n > 0 else 0.0
        q = 2 * (first - b**2 / v * math.log(1 + v * (n - b) / (b * (b + v))))
    return math.copysign(math.sqrt(max(q, 0.0)), n - b)


def clopper_pearson(k: float, n: float, level: float = 0.6827) -> tuple[float, float]:
    """Central interval of a binomial probability; real-valued (effective) counts are allowed."""
    if not 0 <= k <= n or n <= 0:
        raise FitError(f"{k:g} of {n:g}: expected 0 <= k <= n and n > 0")
    tail = 0.5 * (1 - level)
    low = float(stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(stats.beta.isf(tail, k + 1, n - k)) if k < n else 1.0
    return low, high


def toy_p(exceeding: int, toys: int, level: float = 0.6827) -> tuple[float, float, float]:
    """(p, low, high): p = (k + 1) / (n + 1), never 0, and the Clopper-Pearson interval of k of n.

    For k = 0 ``high`` is the upper limit at ``level`` of one-sided coverage, because p is then a bound.
    """
    p = (exceeding + 1) / (toys + 1)
    if exceeding == 0:
        return p, 0.0, float(1 - (1 - level) ** (1 / toys)) if toys else 1.0
    low, high = clopper_pearson(exceeding, toys, level)
    return p, low, high


def z_of(p: float) -> float:
    """One-sided Z of a p-value."""
    return float(stats.norm.isf(p))


def p_of(z: float) -> float:
    """One-sided p-value of Z."""
    return float(stats.norm.sf(z))


def refuse_outlier(weights: np.ndarray, what: str) -> None:
    """Raise `FitError` when one of the weights (n,) is more than a tenth of their sum and ten times the usual one.

    A statement that rests on a single event has no interval; few events of like weights are no outliers.
    """
    size = np.abs(weights)
    total, largest = float(size.sum()), float(size.max(initial=0.0))
    if largest > 0.1 * total and largest > 10 * float(np.median(size[size > 0])):
        raise FitError(
            f"one of {len(weights)} {what} carries {100 * largest / total:.3g} % of the weight ({largest:.3g}); "
            "look for its cause, then cut it or lower its weight"
        )


def effective(weights: np.ndarray) -> tuple[float, float]:
    """(sum of weights, effective number of events (sum w)^2 / sum w^2)."""
    total, square = float(weights.sum()), float((weights**2).sum())
    return total, total**2 / square if square > 0 else 0.0
