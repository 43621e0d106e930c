"""CLs upper limits and discovery p-values of counting and binned searches with an uncertain background.

q~_mu and q_0 in the asymptotic formulas of 1007.1727 with bands from the Asimov data set; CLs as hep-ex/9902006.
Below a few expected events the formulas exclude too much: `toy_limit` draws pseudo-data with the nuisances fitted to
the data at the tested mu (as the LHC experiments do) and repeats every fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from ..errors import FitError
from .likelihood import (
    BinnedModel,
    Observation,
    Profile,
    asimov,
    expectation,
    fit_at,
    fit_best,
    packed,
)
from .likelihood_kernels import q_tilde_of_toys

Array = NDArray[np.float64]
#: Expected bands are quoted at these standard deviations of the background-only distribution, lowest limit first.
BANDS = (-2.0, -1.0, 0.0, 1.0, 2.0)
LEVEL = 0.05


@dataclass(frozen=True)
class Cls:
    """CLs at one mu: ``observed``, and ``expected`` (5,) at `BANDS` (-2: a deficit of background, which excludes
    more)."""

    mu: float
    observed: float
    expected: Array


@dataclass(frozen=True)
class Limit:
    """Upper limit on mu at confidence 1 - ``level``: ``observed`` and ``expected`` (5,) at `BANDS`.

    ``error`` is the statistical one of ``observed`` from the number of toys, 0 for asymptotic limits; ``failed`` toys
    whose fit did not converge (they count as not excluding).
    """

    observed: float
    expected: Array
    level: float = LEVEL
    method: Literal["asymptotic", "toys"] = "asymptotic"
    error: float = 0.0
    toys: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Discovery:
    """Against background alone: ``p0`` and ``z`` (0 for a deficit), ``expected_p0`` (5,) at `BANDS` if mu = 1 is true,
    ``mu`` the fitted strength (not below 0)."""

    p0: float
    z: float
    mu: float
    expected_p0: Array


def q_tilde(model: BinnedModel, data: Observation, mu: float, best: Profile | None = None) -> float:
    """q~_mu = 2 [NLL(mu) - NLL(mu-hat)], mu-hat >= 0; 0 where mu-hat exceeds mu. ``best``: the fit of mu, if known."""
    best = fit_best(model, data) if best is None else best
    return max(2 * (fit_at(model, data, mu).nll - best.nll), 0.0) if best.mu < mu else 0.0


@dataclass(frozen=True)
class _Test:
    """A data set and the Asimov one of its background, each with its best fit: what CLs needs at every mu."""

    model: BinnedModel
    data: Observation
    best: Profile
    null: Observation
    null_best: Profile

    @classmethod
    def of(cls, model: BinnedModel, data: Observation) -> _Test:
        null = asimov(model, fit_at(model, data, 0.0))
        return cls(model, data, fit_best(model, data), null, fit_best(model, null))

    def spread(self, mu: float) -> float:
        """sqrt(q_A): how many standard deviations mu is from 0."""
        return math.sqrt(q_tilde(self.model, self.null, mu, self.null_best))

    def at(self, mu: float) -> Cls:
        root, spread = math.sqrt(q_tilde(self.model, self.data, mu, self.best)), self.spread(mu)
        if spread == 0.0:
            return Cls(mu, 1.0, np.ones(len(BANDS)))
        # Beyond q_A the distribution of q~ is another one (1007.1727, eq. 66).
        shift = root - spread if root <= spread else (root**2 - spread**2) / (2 * spread)
        bands = np.array(BANDS)
        expected = stats.norm.sf(spread + bands[::-1]) / stats.norm.sf(bands[::-1])
        return Cls(mu, _ratio(shift + spread, shift), expected)


def cls(model: BinnedModel, data: Observation, mu: float) -> Cls:
    """Asymptotic CLs at ``mu`` > 0, observed and expected."""
    if not mu > 0:
        raise FitError(f"CLs is asked for mu = {mu:g}; a limit needs mu > 0")
    return _Test.of(model, data).at(mu)


def _ratio(both: float, background: float) -> float:
    """sf(both) / sf(background), finite far in the tails too."""
    return float(np.exp(stats.norm.logsf(both) - stats.norm.logsf(background)))


def _crossing(function: Callable[[float], float], start: float, what: str) -> float:
    """Where a falling function of mu > 0 crosses 0, from a bracket grown around ``start``."""
    low = high = start
    for _ in range(80):
        if function(high) < 0:
            break
        low, high = high, 2 * high
    else:
        raise FitError(f"no {what} below mu = {high:g}: the signal does not change what is expected")
    while function(low) < 0:
        high, low = low, 0.5 * low
        if low < 1e-12 * start:
            raise FitError(f"no {what} above mu = {low:g}")
    root: Any = optimize.brentq(function, low, high, xtol=1e-10 * high)
    return float(root)


def _start(model: BinnedModel, counts: Array) -> float:
    """A first guess of the limit in mu, from the weighted count."""
    s = model.signal
    spread = np.sqrt(counts + model.uncertainty**2 + (model.modes**2).sum(axis=0) + 1.0)
    return float(2.0 / math.sqrt(float(((s / spread) ** 2).sum())))


def upper_limit(model: BinnedModel, counts: ArrayLike, level: float = LEVEL) -> Limit:
    """Asymptotic CLs limit on mu, observed and expected.

    ``counts`` (bins,). Good where a few events are expected below the limit; otherwise use `toy_limit`. The expected
    bands are those for the background as fitted to these data (as pyhf's).
    """
    _check_level(level)
    data = model.nominal(counts)
    start = _start(model, data.counts)
    test = _Test.of(model, data)
    observed = _crossing(lambda mu: test.at(mu).observed - level, start, "observed limit")
    expected = np.empty(len(BANDS))
    for i, band in enumerate(BANDS):
        # sf(r + x) / sf(x) = level has one root r: the limit is where the Asimov root q~ reaches it.
        wanted = float(stats.norm.isf(level * stats.norm.sf(-band))) + band

        def short(mu: float, wanted: float = wanted) -> float:
            return wanted - test.spread(mu)

        expected[i] = _crossing(short, start, "expected limit")
    return Limit(observed, expected, level)


def n95(n: float, b: float, sigma: float, *, signal_error: float = 0.0, level: float = LEVEL) -> Limit:
    """Upper limit in signal events of n seen on b +- sigma (Gaussian), asymptotic."""
    return upper_limit(BinnedModel.counting(b, sigma, signal_error=signal_error), [n], level)


def discovery(model: BinnedModel, counts: ArrayLike) -> Discovery:
    """q_0 test of the background alone, asymptotic, with what mu = 1 would be expected to give."""
    data = model.nominal(counts)

    def root(one: Observation) -> tuple[float, float]:
        best = fit_best(model, one)
        return math.sqrt(max(2 * (fit_at(model, one, 0.0).nll - best.nll), 0.0)), best.mu

    z, mu = root(data)
    expected = root(asimov(model, fit_at(model, data, 1.0)))[0]
    p0 = stats.norm.sf(expected + np.array(BANDS))
    return Discovery(float(stats.norm.sf(z)), z, mu, p0)


def _check_level(level: float) -> None:
    if not 0 < level < 0.5:
        raise FitError(f"level {level:g}: expected between 0 and 0.5 (0.05 is a 95 % limit)")


def draw(
    model: BinnedModel, data: Observation, mu: float, toys: int, rng: np.random.Generator
) -> Observation:
    """Pseudo-data at ``mu`` with nuisances as fitted to ``data`` there: counts and auxiliary (toys, bins), centres
    (toys, k + 1)."""
    at = fit_at(model, data, mu)
    mean = asimov(model, at)
    counts = rng.poisson(np.maximum(expectation(model, at), 0.0), (toys, model.bins)).astype(np.float64)
    if model.constraint == "poisson":
        auxiliary = rng.poisson(mean.auxiliary, (toys, model.bins)).astype(np.float64)
    else:
        auxiliary = rng.normal(mean.auxiliary, model.uncertainty, (toys, model.bins))
    return Observation(counts, auxiliary, rng.normal(mean.centres, 1.0, (toys, len(mean.centres))))


@dataclass(frozen=True)
class ToyCls:
    """CLs at one mu by toys, its binomial ``error``, ``expected`` (5,) at `BANDS`, and the fits that ``failed``."""

    mu: float
    observed: float
    error: float
    expected: Array
    failed: int


def toy_cls(
    model: BinnedModel, counts: ArrayLike, mu: float, *, toys: int, rng: np.random.Generator
) -> ToyCls:
    """CLs at ``mu`` from ``toys`` pseudo-data sets of signal + background and as many of background alone.

    p = (k + 1) / (toys + 1), never 0. A toy whose fit failed counts as having the larger q~ with signal (not
    excluding). The expected band at -2 rests on about one signal toy in a thousand: give it 1e5 toys to be smooth.
    """
    if toys < 100:
        raise FitError(f"{toys} toys: at least 100 are needed to see a CLs of 0.05")
    data = model.nominal(counts)
    seen = q_tilde(model, data, mu)
    both, background = draw(model, data, mu, toys, rng), draw(model, data, 0.0, toys, rng)
    q_both, bad1 = q_tilde_of_toys(mu, both.counts, both.auxiliary, both.centres, *packed(model))
    q_back, bad2 = q_tilde_of_toys(
        mu, background.counts, background.auxiliary, background.centres, *packed(model)
    )
    q_both, q_back = np.nan_to_num(q_both, nan=np.inf), np.nan_to_num(q_back, nan=0.0)

    def ratio(q: float) -> tuple[float, float]:
        near = q - 1e-9 * (1.0 + q)  # counts are whole: equal values of q must count as equal
        p, r = (float(((x >= near).sum() + 1) / (toys + 1)) for x in (q_both, q_back))
        return p / r, p / r * math.sqrt((1 - p) / (p * toys) + (1 - r) / (r * toys))

    observed, error = ratio(seen)
    # A deficit of background has a large q~ and a strong limit: band -2 is the 97.7 % quantile of q~.
    quantiles = np.quantile(q_back, stats.norm.sf(BANDS), method="closest_observation")
    return ToyCls(mu, observed, error, np.array([ratio(float(q))[0] for q in quantiles]), bad1 + bad2)


def toy_limit(
    model: BinnedModel,
    counts: ArrayLike,
    *,
    toys: int,
    seed: int,
    level: float = LEVEL,
    points: int = 13,
) -> Limit:
    """CLs limit by toys on a grid of ``points`` values of mu around the asymptotic limit.

    ln CLs is interpolated between grid points after a monotone (falling) fit, because toys of neighbouring points are
    independent. Raises `FitError` where the grid does not bracket the observed limit.
    """
    _check_level(level)
    rough = upper_limit(model, counts, level)
    ends = min(rough.observed, rough.expected[0]), max(rough.observed, rough.expected[-1])
    grid = np.geomspace(0.5 * ends[0], 2.2 * ends[1], points)
    streams = np.random.default_rng(seed).spawn(points)
    found = [
        toy_cls(model, counts, float(mu), toys=toys, rng=rng) for mu, rng in zip(grid, streams, strict=True)
    ]
    observed, slope = _interpolated(grid, np.array([f.observed for f in found]), level)
    if not math.isfinite(observed):
        raise FitError(
            f"CLs does not cross {level:g} between mu = {grid[0]:g} and {grid[-1]:g}; use more toys"
        )
    near = found[int(np.argmin(np.abs(grid - observed)))]
    expected = np.array(
        [_interpolated(grid, column, level)[0] for column in np.stack([f.expected for f in found]).T]
    )
    error = near.error / near.observed / max(abs(slope), 1e-12)
    return Limit(observed, expected, level, "toys", error, toys, sum(f.failed for f in found))


def _interpolated(grid: Array, values: Array, level: float) -> tuple[float, float]:
    """(mu where the falling fit of CLs reaches ``level``, d ln CLs / d mu there); nan where the grid does not hold
    it."""
    falling = np.log(optimize.isotonic_regression(values, increasing=False).x)
    wanted = math.log(level)
    below = np.flatnonzero(falling <= wanted)
    if not below.size or below[0] == 0:
        return math.nan, math.nan
    i = int(below[0])
    slope = (falling[i] - falling[i - 1]) / (grid[i] - grid[i - 1])
    return float(grid[i - 1] + (wanted - falling[i - 1]) / slope), float(slope)
