"""A Gaussian process for the logarithm of a falling rate, with the Poisson likelihood by Laplace's approximation.

ln(rate / width) = h(x) beta + g(x), x = ln m standardised; h = 1, x, x^2 with a broad prior on beta about its own
fit, g a process with covariance amplitude^2 exp(-d^2 / 2 length^2) in d = ln m - ln m' (Rasmussen and Williams 2006,
chapters 2.7 and 3.4; for dijets Frate et al. 1709.05681, who use a Gaussian likelihood: with empty bins that has no
meaning, hence Laplace). Bins outside ``use`` take no part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from ..errors import FitError

Array = NDArray[np.float64]
#: Prior standard deviation of the parabola's coefficients, in units of ln(rate) per unit of standardised x.
BROAD = 3.0
#: Bounds of the amplitude when it is looked for: a share of the rate.
AMPLITUDES = (0.01, 3.0)
STEPS, TOLERANCE = 100, 1e-8


@dataclass(frozen=True)
class Process:
    """``expected`` (bins,) and ``covariance`` (bins, bins) in events; ``log_evidence`` at the ``length`` (ln m) and
    ``amplitude``.
    """

    expected: Array
    covariance: Array
    length: float
    amplitude: float
    log_evidence: float


@dataclass(frozen=True)
class _Mode:
    f: Array
    slope: Array
    root: Array
    factor: Array
    log_evidence: float


def _parabola(log_mass: Array) -> Array:
    x = (log_mass - log_mass.mean()) / log_mass.std()
    return np.stack([np.ones_like(x), x, x**2], axis=1)


def _fitted_parabola(counts: Array, offset: Array, h: Array) -> Array:
    """Poisson fit of beta (3,), from a weighted line through ln(n + 1/2): only where the prior is centred, so few
    steps do.
    """
    weight = np.sqrt(counts + 0.5)
    found, *_ = np.linalg.lstsq(h * weight[:, None], (np.log(counts + 0.5) - offset) * weight, rcond=None)
    beta = np.asarray(found, dtype=np.float64)
    for _ in range(20):
        rate = np.exp(np.minimum(offset + h @ beta, 50.0))
        beta = beta + np.clip(
            np.linalg.solve(h.T @ (rate[:, None] * h) + 1e-6 * np.eye(3), h.T @ (counts - rate)), -1, 1
        )
    return beta


def _prior(log_mass: Array, length: float, amplitude: float) -> Array:
    h = _parabola(log_mass)
    d = log_mass[:, None] - log_mass[None, :]
    return BROAD**2 * (h @ h.T) + amplitude**2 * np.exp(-0.5 * (d / length) ** 2)


def _mode(counts: Array, offset: Array, prior: Array) -> _Mode:
    """Most likely f given counts ~ Poisson(exp(offset + f)) and f ~ N(0, prior): Newton with halving."""
    f = np.zeros(len(counts))
    a = np.zeros(len(counts))
    value = _objective(counts, offset, f, a)
    for _ in range(STEPS):
        rate = np.exp(np.minimum(offset + f, 200.0))
        root = np.sqrt(rate)
        factor = linalg.cholesky(np.eye(len(f)) + root[:, None] * prior * root, lower=True)
        b = rate * f + counts - rate
        inner = linalg.cho_solve((factor, True), root * (prior @ b))
        step = b - root * inner - a
        fraction = 1.0
        while True:
            trial = a + fraction * step
            then = _objective(counts, offset, prior @ trial, trial)
            if then >= value - 1e-12 * (1 + abs(value)) or fraction < 1e-8:
                break
            fraction *= 0.5
        a, f = trial, prior @ trial
        done, value = abs(then - value) < TOLERANCE, then
        if done:
            rate = np.exp(np.minimum(offset + f, 200.0))
            root = np.sqrt(rate)
            factor = linalg.cholesky(np.eye(len(f)) + root[:, None] * prior * root, lower=True)
            return _Mode(f, counts - rate, root, factor, float(value - np.log(np.diag(factor)).sum()))
    raise FitError("the Gaussian process found no mode; give it wider bins or a longer length")


def _objective(counts: Array, offset: Array, f: Array, a: Array) -> float:
    """ln likelihood without its constant, plus ln prior, at f = prior a."""
    rate = np.exp(np.minimum(offset + f, 200.0))
    n = np.where(counts > 0, counts, 1.0)
    deviance = np.where(counts > 0, counts * (np.log(n) - offset - f), 0.0) + rate - counts
    return float(-deviance.sum() - 0.5 * a @ f)


def fit_process(
    counts: Array,
    edges: Array,
    use: NDArray[np.bool_],
    length: float | None,
    amplitude: float | None,
    lengths: tuple[float, float],
) -> Process:
    """Condition on the bins in ``use`` and predict all. What is None is found by the evidence. Raises `FitError`."""
    if counts[use].sum() <= 0 or use.sum() < 4:
        raise FitError(
            f"{int(use.sum())} bins with {counts[use].sum():g} events: too little for a Gaussian process"
        )
    log_mass, offset = np.log(0.5 * (edges[1:] + edges[:-1])), np.log(np.diff(edges))
    h = _parabola(log_mass)
    offset = offset + h @ _fitted_parabola(counts[use], offset[use], h[use])

    def evidence(point: tuple[float, float]) -> float:
        prior = _prior(log_mass, *point)[np.ix_(use, use)]
        return _mode(counts[use], offset[use], prior).log_evidence

    point = _hyperparameters(evidence, length, amplitude, lengths)
    prior = _prior(log_mass, *point)
    mode = _mode(counts[use], offset[use], prior[np.ix_(use, use)])
    cross = prior[:, use]
    mean = cross @ mode.slope
    part = linalg.solve_triangular(mode.factor, mode.root[:, None] * cross.T, lower=True)
    covariance = prior - part.T @ part
    variance = np.maximum(np.diag(covariance), 0.0)
    expected = np.exp(np.minimum(offset + mean + 0.5 * variance, 200.0))
    return Process(
        expected,
        np.outer(expected, expected) * np.expm1(np.clip(covariance, -50, 50)),
        *point,
        mode.log_evidence,
    )


def _hyperparameters(
    evidence: Callable[[tuple[float, float]], float],
    length: float | None,
    amplitude: float | None,
    lengths: tuple[float, float],
) -> tuple[float, float]:
    """(length, amplitude) of the largest evidence: a coarse grid, then Nelder and Mead inside the bounds."""
    if length is not None and amplitude is not None:
        return length, amplitude
    low = np.log(
        [lengths[0] if length is None else length, AMPLITUDES[0] if amplitude is None else amplitude]
    )
    high = np.log(
        [lengths[1] if length is None else length, AMPLITUDES[1] if amplitude is None else amplitude]
    )
    grid = [np.linspace(lo, hi, 5) if hi > lo else np.array([lo]) for lo, hi in zip(low, high, strict=True)]

    def cost(point: Array) -> float:
        scale, size = np.exp(np.clip(point, low, high))
        return -evidence((float(scale), float(size))) + 1e3 * float(
            np.abs(point - np.clip(point, low, high)).sum()
        )

    start = min((np.array([i, j]) for i in grid[0] for j in grid[1]), key=cost)
    found = optimize.minimize(
        cost, start, method="Nelder-Mead", options={"xatol": 0.02, "fatol": 0.01, "maxfev": 120}
    )
    scale, size = np.exp(np.clip(found.x, low, high))
    return float(scale), float(size)
