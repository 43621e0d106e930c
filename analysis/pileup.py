"""Trigger rates at another pile-up: zero bias reweighted by how many collisions a crossing has.

A crossing knows of the mean pile-up through its own number of collisions alone, so a sample simulated at one mean gives the rate at
another by weights, as far as its numbers of collisions reach. In-time pile-up only: what neighbouring crossings leave is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import FitError
from .rates import REVOLUTION_HZ, Rate, rate_of

Array = NDArray[np.float64]
#: Crossings a number of collisions must have to stand for it, and the largest part of a target that may lie beyond.
LEAST_CROSSINGS = 20
MOST_UNCOVERED = 0.01
#: Part of the crossings, those of most collisions, that bounds how often crossings beyond the sample pass.
OUTERMOST = 0.02


@dataclass(frozen=True)
class PileupRate:
    """The rate at a mean pile-up. ``spread``: standard deviation of the mean between bunches and in time.

    ``luminosity``: instantaneous, 1e34 / cm^2 / s; ``uncovered``: probability of numbers of collisions that the sample lacks, which
    widens the interval; ``n_effective``: what the reweighted sample is worth.
    """

    mean: float
    spread: float
    luminosity: float
    rate: Rate
    uncovered: float
    n_effective: float


@dataclass(frozen=True)
class PileupBin:
    """The rate of crossings with ``low`` to ``high`` collisions, both included, if all crossings were such; their ``mean`` number."""

    low: int
    high: int
    mean: float
    rate: Rate


def luminosity_e34(mean: float, bunches: int, inelastic_mb: float) -> float:
    """Instantaneous luminosity in 1e34 / cm^2 / s: mean x bunches x revolution frequency / inelastic cross-section."""
    return mean * bunches * REVOLUTION_HZ / (inelastic_mb * 1e-27) / 1e34


def number_probability(largest: int, mean: float, spread: float = 0.0) -> Array:
    """Probability of 0 .. ``largest`` collisions: Poisson, its mean Gaussian with ``spread`` and not below 0."""
    if spread == 0:
        means, share = np.array([mean]), np.ones(1)
    else:
        pulls = np.linspace(-5, 5, 201)
        means = mean + spread * pulls
        share = np.where(means >= 0, np.exp(-0.5 * pulls**2), 0.0)
    number = np.arange(largest + 1)
    return stats.poisson.pmf(number[None, :], np.maximum(means, 0.0)[:, None]).T @ (share / share.sum())


def _checked(n_pileup: NDArray[np.integer], weight: Array) -> None:
    if len(n_pileup) != len(weight) or len(weight) == 0:
        raise FitError(f"found {len(n_pileup)} numbers of collisions for {len(weight)} crossings")
    if n_pileup.min() < 0:
        raise FitError(
            f"{int((n_pileup < 0).sum())} of {len(weight)} crossings do not know their number of collisions (Pileup_nPU); a rate "
            "against pile-up needs simulated zero bias"
        )


def reweighted(
    n_pileup: NDArray[np.integer], weight: Array, mean: float, spread: float = 0.0
) -> tuple[Array, float]:
    """(weights (n,) of the crossings at another mean pile-up, the part of that pile-up's crossings the sample has none of).

    Raises `FitError` where a number is unknown or more than 1 % of the target lies beyond the sample.
    """
    _checked(n_pileup, weight)
    seen = np.bincount(n_pileup)
    total = np.bincount(n_pileup, weights=weight)
    wanted = number_probability(len(seen) - 1, mean, spread)
    covered = (seen >= LEAST_CROSSINGS) & (total > 0)
    uncovered = max(0.0, 1.0 - float(wanted[covered].sum()))
    if uncovered > MOST_UNCOVERED:
        reach = np.flatnonzero(covered)
        span = f"{reach[0]} to {reach[-1]}" if len(reach) else "none"
        raise FitError(
            f"mean pile-up {mean:g}: {100 * uncovered:.2g} % of its crossings have numbers of collisions of which the sample has "
            f"fewer than {LEAST_CROSSINGS} crossings (it has {span}); simulate zero bias nearer to it"
        )
    ratio = np.where(covered, wanted, 0.0) / np.where(covered, total, 1.0)
    return weight * ratio[n_pileup], uncovered


def _beyond(kept: NDArray[np.bool_], weight: Array, n_pileup: NDArray[np.integer], bunches: int) -> float:
    """The upper end of the rate, kHz, of the crossings with most collisions."""
    outer = n_pileup >= np.quantile(n_pileup, 1 - OUTERMOST)
    return rate_of(kept[outer], weight[outer], bunches).high


def pileup_rate(
    kept: NDArray[np.bool_], weight: Array, n_pileup: NDArray[np.integer], bunches: int, mean: float, *,
    spread: float = 0.0, inelastic_mb: float = 80.0,
) -> PileupRate:  # fmt: skip
    """The rate of the crossings ``kept`` (n,) at a mean pile-up, from zero bias with the weights ``weight`` (n,).

    The interval is that of the effective counts of the reweighted sample. Crossings beyond the sample are taken to pass as often as
    the others, never at the lower end, and at the upper one as often as the sample's crossings of most collisions may. Raises `FitError` as `reweighted` does.
    """
    weights, uncovered = reweighted(n_pileup, weight, mean, spread)
    rate = rate_of(kept, weights, bunches)
    beyond = _beyond(kept, weight, n_pileup, bunches) if uncovered > 1e-9 else 0.0
    low, high = rate.low * (1 - uncovered), rate.high * (1 - uncovered) + uncovered * beyond
    square = float((weights**2).sum())
    return PileupRate(
        mean, spread, luminosity_e34(mean, bunches, inelastic_mb), replace(rate, low=low, high=high), uncovered,
        float(weights.sum() ** 2 / square),
    )  # fmt: skip


def rate_by_pileup(
    kept: NDArray[np.bool_], weight: Array, n_pileup: NDArray[np.integer], bunches: int, bins: int = 10
) -> list[PileupBin]:
    """Rates in bins of the number of collisions with about as many crossings each."""
    _checked(n_pileup, weight)
    lower = np.unique(np.quantile(n_pileup, np.linspace(0, 1, bins + 1)[:-1]).astype(np.int64))
    edges = np.append(lower, n_pileup.max() + 1)
    out = []
    for low, high in pairwise(edges.tolist()):
        inside = (n_pileup >= low) & (n_pileup < high)
        if weight[inside].sum() > 0:
            mean = float(np.average(n_pileup[inside], weights=weight[inside]))
            out.append(
                PileupBin(int(low), int(high) - 1, mean, rate_of(kept[inside], weight[inside], bunches))
            )
    return out
