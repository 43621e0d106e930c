"""Where a signal density starts: at the Gaussian that explains most of what the known background leaves over.

A mixture's likelihood has many maxima. A density that starts as wide as the data has responsibility for the tails, where the background
is smallest, and finds a signal of half a per cent after tens of thousands of steps or never. Here small Gaussians at events of the
data are tried, the best go on by expectation maximisation (Dempster, Laird, Rubin 1977) with a covariance and a fraction of their own.
What a maximum gains is a likelihood ratio: a fraction in the window and another one beside it, against a common one. A place where the
background's density is wrong is wrong beside the window as well, and gains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from .residual_kernels import LARGEST_LOG, slope_in, tried_gains, weighed

Array = NDArray[np.float64]
#: Events that a Gaussian is tried at, its widths in standardised coordinates, and its fractions.
CENTRES, WIDTHS, FRACTIONS = 1500, (0.15, 0.3, 0.5), (1e-3, 5e-3)
#: Of these so many go on for the first steps, and the best of them for the rest.
KEPT, FIRST, BEST, REST = 60, 10, 15, 60
#: One that then holds fewer events per coordinate is no density; one of a larger fraction corrects the background's bulk.
FEWEST, MOST = 5.0, 0.15
#: Added to every variance in every step.
LEAST = 1e-3


@dataclass(frozen=True)
class Gaussian:
    """``mean`` (d,) and the lower triangular ``factor`` (d, d) of its covariance; ``fraction`` of the events, and the ``gain`` in ln
    likelihood of a fraction that the window has for itself."""

    mean: Array
    factor: Array
    fraction: float
    gain: float

    def log_prob(self, v: Array) -> Array:
        """ln density at v (n, d), shape (n,)."""
        z = solve_triangular(self.factor, (v - self.mean).T, lower=True)
        scale = np.log(np.diag(self.factor)).sum() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * (z**2).sum(axis=0) - scale

    def to_json(self) -> dict[str, Any]:
        """All of it, for `of_json`."""
        return {
            "mean": self.mean.tolist(),
            "factor": self.factor.tolist(),
            "fraction": float(self.fraction),
            "gain": self.gain,
        }

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Gaussian:
        """The Gaussian whose `to_json` this is."""
        return cls(np.array(found["mean"]), np.array(found["factor"]), found["fraction"], found["gain"])


@dataclass(frozen=True)
class Known:
    """Events in standardised coordinates ``v`` (n, d), ``log_density`` (n,) of the background there, and their weights (n,)."""

    v: Array
    log_density: Array
    weight: Array

    def ratio(self, gaussian: Gaussian) -> Array:
        """Density of the Gaussian over the background's, (n,)."""
        return np.exp(np.clip(gaussian.log_prob(self.v) - self.log_density, -LARGEST_LOG, LARGEST_LOG))


def best_fraction(ratio: Array, weight: Array) -> float:
    """The w in [0, 1) of largest sum of weight ln(1 + w (ratio - 1)), to a part in 10^4: the likelihood is concave in w."""
    excess = ratio - 1.0

    if slope_in(0.0, excess, weight) <= 0:
        return 0.0
    low, high = 0.0, 1.0 - 1e-9
    while high - low > 1e-4 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope_in(middle, excess, weight) > 0 else (low, middle)
    return low


def _tried(events: Known, rng: np.random.Generator) -> list[tuple[float, int, float]]:
    """(gain, row, width) of the best Gaussians around single events, two widths apart, each without the event it lies on."""
    v, chosen = events.v, rng.permutation(len(events.v))[:CENTRES]
    gains = tried_gains(v, events.log_density, events.weight, chosen, np.array(WIDTHS), np.array(FRACTIONS))
    found = [
        (float(gains[k, a]), int(row), width)
        for a, width in enumerate(WIDTHS)
        for k, row in enumerate(chosen)
    ]
    kept: list[tuple[float, int, float]] = []
    for one in sorted(found, key=lambda f: -f[0]):
        if all(np.sum((v[one[1]] - v[row]) ** 2) > (2 * width) ** 2 for _, row, width in kept):
            kept.append(one)
        if len(kept) == KEPT:
            break
    return kept


def _maximised(events: Known, here: Gaussian, steps: int) -> Gaussian | None:
    """Expectation maximisation from one start; None where it ends with hardly any event or with many."""
    d, every = events.v.shape[1], float(events.weight.sum())
    for _ in range(steps):
        total, first, second = weighed(
            events.v, events.log_density, events.weight, here.mean, here.factor, here.fraction
        )
        if not total > 1e-3:
            return None
        moved = first / total
        covariance = second / total - np.outer(moved, moved) + LEAST * np.eye(d)
        here = Gaussian(here.mean + moved, np.linalg.cholesky(covariance), min(total / every, 0.5), 0.0)
    return here if FEWEST * (d + 1) < here.fraction * every < MOST * every else None


def _judged(data: Known, beside: Known, found: Gaussian) -> Gaussian:
    """The same with its gain: the likelihood ratio of fractions of their own, in the data and in the control, to a common one; negative
    where the control has more."""
    ratios, weights = [sample.ratio(found) for sample in (data, beside)], [data.weight, beside.weight]
    common = best_fraction(np.concatenate(ratios), np.concatenate(weights))
    own = [best_fraction(ratio, weight) for ratio, weight in zip(ratios, weights, strict=True)]
    gain = 0.0
    for w, ratio, weight in zip(own, ratios, weights, strict=True):
        gain += float((weight * (np.log1p(w * (ratio - 1.0)) - np.log1p(common * (ratio - 1.0)))).sum())
    return Gaussian(found.mean, found.factor, found.fraction, gain if own[0] > own[1] else -gain)


def find_start(data: Known, beside: Known, rng: np.random.Generator) -> Gaussian | None:
    """The Gaussian to start from, in the ``data`` of the window, with the events ``beside`` it as control; None where there is none."""
    tried = _tried(data, rng)
    here = [
        Gaussian(data.v[row], width * np.eye(data.v.shape[1]), FRACTIONS[0], 0.0) for _, row, width in tried
    ]
    for steps, kept in ((FIRST, BEST), (REST, 1)):
        found = [f for f in (_maximised(data, one, steps) for one in here) if f is not None]
        judged = (_judged(data, beside, f) for f in found)
        here = sorted((f for f in judged if f.gain > 0), key=lambda f: -f.gain)[:kept]
    return here[0] if here else None
