"""How many shape parameters a spectrum asks for, and whether the fit describes it.

The order rises while twice the gain in log-likelihood beats chi2 of one degree of freedom (Wilks): nested Poisson
fits keep that size from 10^3 to 10^6 events, where the usual F-test of Pearson's chi2 does not. The fifth parameter is the
exception: below `SPARSE` events it can only bend an empty tail, all that it gains lies on one side, and .075 of spectra with 10^3
events would ask for it where .05 is meant. There the step must convince pseudo-experiments too. The deviance of a fit
follows chi2 only where every bin holds events, so below `ASYMPTOTIC` events its p-value is that of pseudo-experiments
thrown from the fit and fitted again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import ConfigError, FitError
from .counting import toy_p
from .dijet import HIGHEST_ORDER, MAX_ORDER, MIN_ORDER, Basis, basis
from .peaks import fit_backgrounds, spectra_of

Array = NDArray[np.float64]
#: Events above which the deviance's chi2 is trusted.
ASYMPTOTIC = 1e5
#: Events in use below which a step beyond `MAX_ORDER` is judged by toys as well.
SPARSE = 1e4


@dataclass(frozen=True)
class OrderChoice:
    """``order`` of every spectrum (spectra,); ``gain`` (spectra, steps): 2 dNLL of the steps from order to order + 1,
    nan where a step was not tried; ``failed`` (spectra,): a fit on the way did not converge, and the order is the
    last that did, or 0."""

    order: NDArray[np.int64]
    gain: Array
    failed: NDArray[np.bool_]


def choose_orders(
    counts: Array,
    edges: Array,
    energy: float,
    use: NDArray[np.bool_] | None = None,
    *,
    size: float = 0.05,
    least: int = MIN_ORDER,
    most: int = HIGHEST_ORDER,
    toys: int = 399,
    seed: int = 1,
) -> OrderChoice:
    """Order of every spectrum (bins,) or (spectra, bins) by the likelihood ratio at ``size``, from ``least`` to
    ``most``; steps beyond `MAX_ORDER` of spectra with fewer than `SPARSE` events in use need p <= ``size`` in ``toys``
    pseudo-experiments, too.
    """
    if not 0 < size < 1:
        raise ConfigError(f"size {size:g}: expected a probability between 0 and 1")
    if not MIN_ORDER <= least <= most <= HIGHEST_ORDER:
        raise ConfigError(
            f"orders {least} to {most}: expected {MIN_ORDER} <= least <= most <= {HIGHEST_ORDER}"
        )
    critical = float(stats.chi2.isf(size, 1))
    first = basis(edges, least, energy)
    counts = spectra_of(counts, first)
    fits = fit_backgrounds(counts, first, use)
    order = np.where(fits.converged, least, 0).astype(np.int64)
    failed, gain = ~fits.converged, np.full((len(counts), most - least), np.nan)
    half, active = fits.half_deviance.copy(), np.flatnonzero(fits.converged)
    seen = counts if use is None else counts[:, np.asarray(use, dtype=bool)]
    sparse = (seen.sum(axis=1) < SPARSE) & (most > MAX_ORDER)
    if sparse.any() and size * (toys + 1) < 1:
        raise ConfigError(
            f"{toys} toys cannot show a probability of {size:g}: at least {1 / size - 1:.0f} can"
        )
    for more in range(least + 1, most + 1):
        if seen.shape[1] <= more + 1 or len(active) == 0:
            break
        fits = fit_backgrounds(counts[active], basis(edges, more, energy), use)
        failed[active[~fits.converged]] = True
        found = 2 * (half[active] - fits.half_deviance)
        gain[active[fits.converged], more - least - 1] = found[fits.converged]
        up = fits.converged & (found > critical)
        for i in np.flatnonzero(up & sparse[active]) if more > MAX_ORDER else ():
            p, *_ = ratio_by_toys(counts[active[i]], edges, energy, more - 1, use, toys=toys, seed=seed)
            up[i] = p <= size
        half[active[up]] = fits.half_deviance[up]
        active = active[up]
        order[active] = more
    return OrderChoice(order, gain, failed)


@dataclass(frozen=True)
class GoodnessOfFit:
    """``p_value`` of the deviance, from chi2 or from toys, then with its 68 % interval; ``failed`` toys count as
    worse fits.
    """

    p_value: float
    low: float
    high: float
    half_deviance: float
    ndf: int
    method: Literal["chi2", "toys"]
    toys: int
    failed: int


def goodness_of_fit(
    counts: Array,
    model: Basis,
    use: NDArray[np.bool_] | None = None,
    *,
    toys: int = 1000,
    seed: int = 1,
    asymptotic: float = ASYMPTOTIC,
) -> GoodnessOfFit:
    """How often a spectrum of the fitted shape is described worse than ``counts`` (bins,).

    Above ``asymptotic`` events in use the chi2 probability is given. Raises `FitError` when the data cannot be fitted.
    """
    spectrum = spectra_of(counts, model)
    mask = np.ones(spectrum.shape[1], bool) if use is None else np.asarray(use, dtype=bool)
    fit = fit_backgrounds(spectrum, model, mask)
    if not fit.converged[0]:
        raise FitError(
            f"the fit with {model.order} shape parameters did not converge on {spectrum[0, mask].sum():g} events"
        )
    half, ndf = float(fit.half_deviance[0]), int(mask.sum()) - model.order - 1
    if spectrum[0, mask].sum() >= asymptotic:
        p = float(stats.chi2.sf(2 * half, ndf))
        return GoodnessOfFit(p, p, p, half, ndf, "chi2", 0, 0)
    rng = np.random.default_rng(seed)
    again = fit_backgrounds(
        rng.poisson(fit.expected[0], (toys, spectrum.shape[1])).astype(np.float64), model, mask
    )
    worse = int(np.sum(~again.converged | (again.half_deviance >= half)))
    p, low, high = toy_p(worse, toys)
    return GoodnessOfFit(p, low, high, half, ndf, "toys", toys, again.failed)


def ratio_by_toys(
    counts: Array,
    edges: Array,
    energy: float,
    order: int,
    use: NDArray[np.bool_] | None = None,
    *,
    toys: int = 1000,
    seed: int = 1,
) -> tuple[float, float, float]:
    """(p, low, high) of the step from ``order`` to ``order`` + 1 by toys of the smaller fit, both refitted.

    For spectra so empty that chi2 of one degree is not the law of 2 dNLL. Toys without a fit count as exceeding. Raises
    `FitError` when the data cannot be fitted.
    """
    small, large = basis(edges, order, energy), basis(edges, order + 1, energy)
    spectrum = spectra_of(counts, small)
    fit, more = fit_backgrounds(spectrum, small, use), fit_backgrounds(spectrum, large, use)
    if not (fit.converged[0] and more.converged[0]):
        raise FitError(f"a fit with {order} or {order + 1} shape parameters did not converge")
    gain = float(fit.half_deviance[0] - more.half_deviance[0])
    thrown = (
        np.random.default_rng(seed).poisson(fit.expected[0], (toys, spectrum.shape[1])).astype(np.float64)
    )
    null, other = fit_backgrounds(thrown, small, use), fit_backgrounds(thrown, large, use)
    fine = null.converged & other.converged
    # Nothing gained twice is nothing gained: rounding must not decide.
    exceeding = ~fine | (null.half_deviance - other.half_deviance >= gain - 1e-9)
    return toy_p(int(exceeding.sum()), toys)
