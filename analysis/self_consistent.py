"""Limits of a search that learns its selection from the data: the efficiency depends on the signal that is there.

A weakly supervised selection is a random cut without signal (eps = eps_B) and becomes a good one only once enough
signal is in the data, so the efficiency of a well-trained selection excludes cross sections that the search could not
have seen. The self-consistent limit (2005.02983, 2412.03747) is the smallest cross section sigma95 for which, for
every sigma >= sigma95,

    CLs( sigma L eps(sigma) ) <= 0.05,

with eps(sigma) measured on injections of signal at several cross sections, everything retrained each time. The
efficiency is never used outside the injected range: a limit that would lie beyond it is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from ..errors import ElsewhereError, FitError
from .counting import clopper_pearson, cut_and_count_z
from .likelihood import BinnedModel
from .limits import BANDS, LEVEL, Cls, cls, upper_limit

Array = NDArray[np.float64]
#: Fewest injected cross sections and retrainings at each that make an efficiency curve.
MIN_POINTS, MIN_RETRAININGS = 4, 3


@dataclass(frozen=True)
class SignalEfficiency:
    """eps(sigma) between the injected cross sections ``sigma`` (k,) fb: ``value``, 68 % bootstrap band ``low``,
    ``high``.

    eps is acceptance times efficiency: the fraction of all signal events that is selected. ``spread`` (k,) is the
    relative standard deviation between single retrainings: what a search that trains once must carry as a nuisance.
    ``measured`` (k, retrainings) are the points themselves.
    """

    sigma: Array
    value: Array
    low: Array
    high: Array
    spread: Array
    measured: Array

    def at(self, sigma: ArrayLike, which: str = "value") -> Array:
        """eps (or its ``low``, ``high``, ``spread``) at cross sections inside the injected range, linear in
        between."""
        s = np.asarray(sigma, dtype=np.float64)
        if np.any((s < self.sigma[0]) | (s > self.sigma[-1])):
            raise FitError(
                f"the efficiency was measured from {self.sigma[0]:g} to {self.sigma[-1]:g} fb; inject signal at "
                f"{float(s.max()):g} fb too"
            )
        return np.interp(s, self.sigma, getattr(self, which))


def fit_efficiency(
    sigma: ArrayLike, measured: ArrayLike, *, seed: int, bootstraps: int = 400, monotone: bool = True
) -> SignalEfficiency:
    """Isotonic fit of the efficiencies ``measured`` (k, retrainings) at cross sections ``sigma`` (k,), and a band.

    The first cross section must be 0 (a training without signal); efficiencies are those of held-out signal, one
    value per independent injection and complete retraining. The band resamples the retrainings at each cross section.
    With ``monotone=False`` the means are taken as they are. Raises `FitError` for too few points.
    """
    s, eps = np.asarray(sigma, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    if eps.ndim != 2 or s.shape != eps.shape[:1]:
        raise FitError(f"sigma {s.shape} and efficiencies {eps.shape}: expected (k,) and (k, retrainings)")
    if len(s) < MIN_POINTS or eps.shape[1] < MIN_RETRAININGS:
        raise FitError(
            f"{len(s)} cross sections with {eps.shape[1]} retrainings: "
            f"at least {MIN_POINTS} with {MIN_RETRAININGS} are needed"
        )
    if s[0] != 0 or np.any(np.diff(s) <= 0):
        raise FitError(
            "cross sections must rise from 0: the efficiency without signal in the data is part of the curve"
        )
    if not np.all(np.isfinite(eps)) or np.any((eps < 0) | (eps > 1)):
        raise FitError("efficiencies must lie between 0 and 1")

    def curve(mean: Array) -> Array:
        return optimize.isotonic_regression(mean).x if monotone else mean

    value, rng = curve(eps.mean(axis=1)), np.random.default_rng(seed)
    picked = rng.integers(0, eps.shape[1], (bootstraps, *eps.shape))
    drawn = np.stack([curve(np.take_along_axis(eps, p, axis=1).mean(axis=1)) for p in picked])
    low, high = np.quantile(drawn, [0.1587, 0.8413], axis=0)
    spread = np.divide(eps.std(axis=1, ddof=1), value, out=np.zeros(len(s)), where=value > 0)
    return SignalEfficiency(s, value, np.minimum(low, value), np.maximum(high, value), spread, eps)


@dataclass(frozen=True)
class SelfConsistentLimit:
    """Limit on the cross section in fb; infinite where the largest injected one is not excluded.

    ``expected`` (5,) at `BANDS`; ``crossings``: every cross section where the observed CLs crosses the level;
    ``eps_low``, ``eps_high``: the observed limit with the efficiency at the ends of its band; ``naive``: what the
    efficiency of the largest injection would give, for comparison only. ``sigma``, ``observed_cls`` (points,),
    ``expected_cls`` (5, points).
    """

    observed: float
    expected: Array
    crossings: tuple[float, ...]
    eps_low: float
    eps_high: float
    naive: float
    level: float
    luminosity: float
    efficiency: SignalEfficiency
    sigma: Array
    observed_cls: Array
    expected_cls: Array

    @property
    def words(self) -> str:
        """The observed limit as it must be quoted."""
        if math.isinf(self.observed):
            return f"no limit up to {self.efficiency.sigma[-1]:.3g} fb, the largest cross section injected"
        more = "" if len(self.crossings) < 2 else f" (CLs crosses {self.level:g} {len(self.crossings)} times)"
        return f"{self.observed:.3g} fb at {100 * (1 - self.level):g} % CL{more}"


def self_consistent_limit(
    model: BinnedModel,
    counts: ArrayLike,
    efficiency: SignalEfficiency,
    luminosity: float,
    *,
    level: float = LEVEL,
    points: int = 12,
    nuisance: bool = True,
    bands: bool = True,
) -> SelfConsistentLimit:
    """sigma95 = inf{s: CLs(s' L eps(s')) <= level for all s' >= s}, for ``luminosity`` in 1/fb.

    ``model``: its ``signal`` is only a shape, mu counts signal events. ``points`` per injected interval are examined
    and crossings refined between them. ``nuisance``: the retrainings' spread and half the band's width are a
    log-normal error of the signal, in quadrature with the model's own. Without ``bands`` the expected limits and those
    at the ends of the efficiency's band are nan, which is enough for coverage studies.
    """
    if not luminosity > 0:
        raise FitError(f"luminosity {luminosity:g} 1/fb: expected more than 0")
    shaped = replace(model, signal=model.signal / model.signal.sum())
    knots = efficiency.sigma
    steps = [np.linspace(a, b, points, endpoint=False) for a, b in pairwise(knots)]
    sigma = np.concatenate([*steps, knots[-1:]])[1:]

    def test(s: float, which: str = "value") -> Cls:
        events = s * luminosity * float(efficiency.at(s, which))
        error = _signal_error(efficiency, s) if nuisance else 0.0
        if events <= 0:
            return Cls(0.0, 1.0, np.ones(len(BANDS)))
        one = shaped.with_signal_error(math.hypot(model.signal_error, error))
        return cls(one, one.nominal(counts), events)

    found = [test(float(s)) for s in sigma]
    observed = np.array([f.observed for f in found])
    expected = np.stack([f.expected for f in found], axis=1)
    crossings, limit = _crossings(sigma, observed, lambda s: test(s).observed, level)
    medians, ends = np.full(len(BANDS), np.nan), [math.nan, math.nan]
    if bands:
        for i, row in enumerate(expected):
            medians[i] = _crossings(sigma, row, lambda s, i=i: float(test(s).expected[i]), level)[1]
        for i, which in enumerate(("low", "high")):
            values = np.array([test(float(s), which).observed for s in sigma])
            ends[i] = _crossings(sigma, values, lambda s, w=which: test(s, w).observed, level)[1]
    trained = float(efficiency.value[-1])
    naive = upper_limit(shaped, counts, level).observed / (luminosity * trained) if trained > 0 else math.inf
    return SelfConsistentLimit(
        limit, medians, crossings, ends[0], ends[1], naive, level, luminosity, efficiency,
        sigma, observed, expected,
    )  # fmt: skip


def _signal_error(efficiency: SignalEfficiency, sigma: float) -> float:
    """Relative error of eps: spread of single retrainings, and of the mean curve itself."""
    value = float(efficiency.at(sigma))
    if value <= 0:
        return 0.0
    band = 0.5 * float(efficiency.at(sigma, "high") - efficiency.at(sigma, "low")) / value
    return math.hypot(float(efficiency.at(sigma, "spread")), band)


def _crossings(
    sigma: Array, values: Array, function: Callable[[float], float], level: float
) -> tuple[tuple[float, ...], float]:
    """(every crossing of ``level``, the smallest sigma above which all is excluded)."""
    out = []
    excluded = values <= level
    if excluded[0]:  # CLs is 1 without signal, so it crosses before the first point
        out.append(_root(function, 1e-6 * float(sigma[0]), float(sigma[0]), level))
    for i in np.flatnonzero(np.diff(excluded.astype(int))):
        out.append(_root(function, float(sigma[i]), float(sigma[i + 1]), level))
    return tuple(out), out[-1] if excluded[-1] and out else math.inf


def _root(function: Callable[[float], float], low: float, high: float, level: float) -> float:
    root: Any = optimize.brentq(lambda s: function(s) - level, low, high, xtol=1e-9 * high)
    return float(root)


@dataclass(frozen=True)
class Reach:
    """Smallest cross section (fb) whose median local Z after injection reaches ``z``; infinite beyond the injections.

    ``low``, ``high``: 68 % bootstrap over the injections.
    """

    z: float
    sigma: float
    low: float
    high: float


def discovery_reach(
    sigma: ArrayLike, z: ArrayLike, level: float, *, seed: int, bootstraps: int = 400
) -> Reach:
    """Reach at ``level`` standard deviations from the Z of complete searches ``z`` (k, injections) at ``sigma`` (k,)
    fb.

    The median at each cross section is fitted by a rising function, linear between the injected ones.
    """
    s, found = np.asarray(sigma, dtype=np.float64), np.asarray(z, dtype=np.float64)
    if found.ndim != 2 or s.shape != found.shape[:1] or np.any(np.diff(s) <= 0):
        raise FitError(f"sigma {s.shape} and Z {found.shape}: expected rising (k,) and (k, injections)")

    def cross(values: Array) -> float:
        rising = optimize.isotonic_regression(np.median(values, axis=1)).x
        above = np.flatnonzero(rising >= level)
        if not above.size:
            return math.inf
        i = int(above[0])
        if i == 0:
            return float(s[0])
        return float(s[i - 1] + (level - rising[i - 1]) / (rising[i] - rising[i - 1]) * (s[i] - s[i - 1]))

    rng = np.random.default_rng(seed)
    picked = rng.integers(0, found.shape[1], (bootstraps, *found.shape))
    drawn = np.array([cross(np.take_along_axis(found, p, axis=1)) for p in picked])
    low, high = np.quantile(drawn, [0.1587, 0.8413], method="closest_observation")
    return Reach(level, cross(found), float(low), float(high))


def expected_reach(
    b: float, sigma_b: float, efficiency: SignalEfficiency, luminosity: float, level: float
) -> float:
    """The cross section (fb) whose Asimov Z of sigma L eps(sigma) on b +- sigma_b is ``level``; infinite if none
    injected is."""

    def gain(s: float) -> float:
        return cut_and_count_z(b + s * luminosity * float(efficiency.at(s)), b, sigma_b) - level

    top = float(efficiency.sigma[-1])
    grid = np.linspace(0.0, top, 400)[1:]
    above = np.flatnonzero([gain(float(s)) >= 0 for s in grid])
    if not above.size:
        return math.inf
    i = int(above[0])
    low = float(grid[i - 1]) if i else 1e-9 * top
    root: Any = optimize.brentq(gain, low, float(grid[i])) if gain(low) < 0 else low
    return float(root)


@dataclass(frozen=True)
class Coverage:
    """How often complete searches excluded a signal that was there.

    ``excluded`` of ``pseudo_data`` limits lay below ``sigma`` (fb); [``low``, ``high``] 68 % Clopper-Pearson of the
    fraction; ``failed`` searches gave no limit and count as excluding it, the worst they could have said.
    """

    sigma: float
    pseudo_data: int
    excluded: int
    failed: int
    level: float
    low: float
    high: float

    @property
    def fraction(self) -> float:
        """Share of the pseudo-data sets that exclude the truth; a valid limit has at most the level."""
        return self.excluded / self.pseudo_data

    @property
    def holds(self) -> bool:
        """Whether the fraction is at most the level and twice its binomial standard deviation."""
        allowed = self.level + 2 * math.sqrt(self.level * (1 - self.level) / self.pseudo_data)
        return self.fraction <= allowed


def coverage(
    chain: Callable[[float, np.random.Generator], float],
    sigma: float,
    *,
    seed: int,
    pseudo_data: int = 200,
    level: float = LEVEL,
) -> Coverage:
    """Run ``chain(sigma, rng)``, the whole search on new pseudo-data with signal of cross section ``sigma``, many
    times.

    The chain draws data, trains, cuts, fits and returns its limit in fb. Every run has a random stream of its own.
    """
    if pseudo_data < 1:
        raise FitError("coverage needs at least one pseudo-data set")
    excluded = failed = 0
    for rng in np.random.default_rng(seed).spawn(pseudo_data):
        try:
            limit = chain(sigma, rng)
        except ElsewhereError:
            failed += 1
            continue
        excluded += bool(limit < sigma)
        failed += math.isnan(limit)
    low, high = clopper_pearson(excluded + failed, pseudo_data)
    return Coverage(sigma, pseudo_data, excluded + failed, failed, level, low, high)
