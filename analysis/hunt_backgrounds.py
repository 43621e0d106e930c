"""What the hunt expects in a window: the masked dijet fit, a masked Gaussian process, or the sideband (ABCD) count.

All three look at the spectrum after a cut outside the window (and its guard) only; the count also at the events that fail the cut in
it. Their numerics are in `dijet`, `gaussian_process` and `background_models`; here they answer with the same numbers, so
that scan, bias and toys need not know which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .background_models import SidebandCount, beside
from .counting import z_of
from .dijet import Basis, basis, choose_order, fit_background, gradient_of
from .gaussian_process import fit_process

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Kind = Literal["dijet", "gaussian_process", "abcd"]
#: Expected events below which a fit's extrapolation is no estimate of the background.
NO_BACKGROUND = 0.01
#: Correlation length of the process in ln m, in units of the signal's relative width: a peak is not absorbed.
LENGTHS = 10.0
#: Amplitudes that the evidence chooses from, as a share of the rate. Few, so that every toy can choose again.
AMPLITUDES = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Estimate:
    """Background ``b`` +- ``s`` events in the window; ``expected`` of every bin +- ``error``, (bins,) each, with their
    ``covariance`` (bins, bins).

    ``half_deviance``, ``ndf`` and ``gof_p``: Poisson deviance of the bins outside. ``order``: shape parameters of the
    dijet function, 0 where it is not one.
    """

    b: float
    s: float
    expected: Array
    error: Array
    covariance: Array
    order: int
    half_deviance: float
    ndf: int
    gof_p: float


@dataclass(frozen=True)
class Estimator:
    """How the background is estimated: ``kind``, collision ``energy`` [GeV], and the signal's relative ``width``.

    A cut of 1 lets everything pass, so that nothing is left to count with: "abcd" takes the dijet fit there. ``guard``: bins within so many
    GeV of the window are masked as well.
    """

    kind: Kind
    energy: float
    width: float = 0.035
    guard: float = 0.0

    def __call__(self, counts: Array, cut: int, edges: Array, inside: Mask) -> Estimate:
        """For nested ``counts`` (cuts, bins) and the cut of that number. Raises `FitError`."""
        if self.kind == "gaussian_process":
            return _process(counts[cut], edges, inside, LENGTHS * self.width, self.guard)
        if self.kind == "abcd" and cut > 0:
            return _count(counts[cut], counts[0] - counts[cut], edges, inside, self.guard)
        return dijet_estimate(counts[cut], edges, inside, self.energy, guard=self.guard)


@lru_cache(maxsize=64)
def _basis(edges: bytes, order: int, energy: float) -> Basis:
    """A basis is the same for every toy."""
    return basis(np.frombuffer(edges), order, energy)


def dijet_estimate(
    counts: Array, edges: Array, inside: Mask, energy: float, order: int | None = None, guard: float = 0.0
) -> Estimate:
    """The masked fit of counts (bins,) with ``order`` shape parameters, by likelihood ratio where None. Raises `FitError`."""
    use = beside(edges, inside, guard)
    order = choose_order(counts, edges, energy, use) if order is None else order
    model = _basis(np.ascontiguousarray(edges, dtype=np.float64).tobytes(), order, energy)
    fit = fit_background(counts, model, use)
    slope = gradient_of(model, fit.theta)[1]
    b, s = fit.integral(inside, slope)
    covariance = slope @ fit.covariance @ slope.T
    return Estimate(
        b, s, fit.expected, fit.error, covariance, fit.order, fit.half_deviance, fit.ndf, fit.p_value
    )


def _half_deviance(counts: Array, expected: Array) -> float:
    """Poisson, of bins (n,)."""
    logs = np.where(counts > 0, counts * np.log(np.where(counts > 0, counts, 1.0) / expected), 0.0)
    return float((logs + expected - counts).sum())


def _closed(
    counts: Array, use: Mask, b: float, s: float, expected: Array, covariance: Array, free: float
) -> Estimate:
    """With the deviance of the bins that were looked at, ``free`` of whose degrees of freedom went into the estimate."""
    half = _half_deviance(counts[use], np.maximum(expected[use], 1e-12))
    ndf = max(1, round(float(use.sum()) - free))
    error = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return Estimate(b, s, expected, error, covariance, 0, half, ndf, float(stats.chi2.sf(2 * half, ndf)))


def _process(counts: Array, edges: Array, inside: Mask, length: float, guard: float) -> Estimate:
    """The amplitude of the largest evidence; degrees of freedom: the trace of posterior variance times rate."""
    use = beside(edges, inside, guard)
    found = [fit_process(counts, edges, use, length, a, (length, length)) for a in AMPLITUDES]
    best = max(found, key=lambda p: p.log_evidence)
    variance = np.diag(best.covariance)
    within = np.ix_(inside, inside)
    b, s = float(best.expected[inside].sum()), float(np.sqrt(max(best.covariance[within].sum(), 0.0)))
    free = float((np.log1p(variance / best.expected**2) * best.expected)[use].sum())
    return _closed(counts, use, b, s, best.expected, best.covariance, free)


def _count(counts: Array, failing: Array, edges: Array, inside: Mask, guard: float) -> Estimate:
    made = SidebandCount(failing, guard).predict(counts, edges, inside)
    # What the share could be wrong by concerns the window, into which it is carried.
    wrong = float(np.sqrt(sum(s**2 for s in made.systematic.values()))) / made.b if made.b > 0 else 0.0
    carried = np.where(inside, wrong * made.expected, 0.0)
    covariance = made.covariance + np.outer(carried, carried)
    use = beside(edges, inside, guard)
    return _closed(counts, use, made.b, made.error, made.expected, covariance, 1.0)


def capped_z(z: float, b: float, counts: Array, inside: Mask) -> float:
    """``z``, or `unfitted_z` where that is less and the fit expects (almost) nothing."""
    return min(z, unfitted_z(counts, inside)) if b < NO_BACKGROUND else z


def unfitted_z(counts: Array, inside: Mask) -> float:
    """Z of the events inside where the fit expects none: exact Poisson, on an upper bound of the background.

    The bound (68 %) is that of the bins beside the window, together as wide as it: a function that has fallen to nothing
    says nothing, and counts that are zero still allow one event. 0 where fewer events than the bound were seen.
    """
    n, width, first = float(counts[inside].sum()), int(inside.sum()), int(np.argmax(inside))
    half = -(-width // 2)
    beside = [*counts[max(first - half, 0) : first], *counts[first + width : first + width + half]]
    bound = 0.5 * float(stats.chi2.isf(1 - 0.6827, 2 * (sum(beside) + 1)))
    return 0.0 if n < bound else z_of(float(stats.poisson.sf(n - 1, bound)))
