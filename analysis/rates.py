"""Trigger rates: zero-bias crossings above a threshold, normalised to the machine, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .counting import clopper_pearson, effective, refuse_outlier

Array = NDArray[np.float64]
#: Revolution frequency of the LHC in Hz.
REVOLUTION_HZ = 11_245.6


@dataclass(frozen=True)
class Rate:
    """A rate in kHz with its 68 % interval at one threshold. ``n_pass`` crossings pass, worth ``n_effective``."""

    threshold: float
    khz: float
    low: float
    high: float
    n_pass: int
    n_effective: float


@dataclass(frozen=True)
class RateCurve:
    """Rate against threshold, (n,) each, kHz. ``crossings``: how many zero-bias crossings it rests on."""

    name: str
    threshold: Array
    khz: Array
    low: Array
    high: Array
    crossings: int
    bunches: int


def crossing_khz(bunches: int) -> float:
    """Rate of colliding crossings in kHz."""
    return bunches * REVOLUTION_HZ / 1000.0


def rate_at(score: Array, weight: Array, threshold: float, bunches: int) -> Rate:
    """Rate of score > threshold. ``weight``: of every zero-bias crossing, not negative.

    The interval is Clopper-Pearson on effective counts: k of n with n_eff = (sum w)^2 / sum w^2 of the crossings that
    pass (unit weights give the exact binomial interval); with nothing passing, of all crossings.
    """
    return rate_of(score > threshold, weight, bunches, threshold)


def rate_of(
    kept: Array | NDArray[np.bool_], weight: Array, bunches: int, threshold: float = math.nan
) -> Rate:
    """Rate of crossings that are kept with the probabilities ``kept`` (n,), 0 to 1; interval as in `rate_at`.

    Raises `FitError` without crossings, for weights that are negative or not finite, and where one crossing carries them all.
    """
    if len(kept) == 0 or not np.all(weight >= 0) or not 0 < weight.sum() < math.inf:
        raise FitError("a rate needs zero-bias crossings with weights that are finite and not negative")
    refuse_outlier(weight, "crossings")
    worth = weight * kept
    passing = worth > 0
    fraction = float(worth.sum() / weight.sum())
    if passing.any():
        k = effective(worth[passing])[1]
        n = k / fraction
    else:
        k, n = 0.0, effective(weight)[1]
    low, high = clopper_pearson(k, max(n, k))
    scale = crossing_khz(bunches)
    return Rate(float(threshold), fraction * scale, low * scale, high * scale, int(passing.sum()), float(k))


def rate_curve(
    name: str, score: Array, weight: Array, thresholds: Sequence[float], bunches: int
) -> RateCurve:
    """`rate_at` over thresholds."""
    points = [rate_at(score, weight, t, bunches) for t in thresholds]
    columns = [np.array([getattr(p, key) for p in points]) for key in ("threshold", "khz", "low", "high")]
    return RateCurve(name, *columns, crossings=len(score), bunches=bunches)


def threshold_for(score: Array, weight: Array, khz: float, bunches: int) -> float:
    """The smallest score whose rate (score > threshold) is at most ``khz``: one of the scores, or just below all.

    Raises `FitError` when even one crossing, or those that share the largest score, are a higher rate than asked.
    """
    refuse_outlier(weight, "crossings")
    order = np.argsort(-score, kind="stable")
    rate = np.cumsum(weight[order]) / weight.sum() * crossing_khz(bunches)
    ranked = score[order]
    # Passing score > t keeps everything before the first occurrence of t.
    first = np.searchsorted(-ranked, -ranked, side="left")
    above = np.where(first > 0, rate[first - 1], 0.0)
    allowed = np.flatnonzero((above <= khz) & (above > 0))
    if len(allowed) == 0:
        shared = int((ranked == ranked[0]).sum())
        if shared > 1:
            raise FitError(
                f"the largest score, {ranked[0]:g}, is that of {shared} crossings ({rate[shared - 1]:.3g} kHz): no threshold gives "
                f"{khz:g} kHz"
            )
        raise FitError(
            f"{khz:g} kHz is less than one of {len(score)} crossings ({rate[0]:.3g} kHz); use more zero bias or a higher target"
        )
    return float(ranked[allowed[-1]])


def threshold_interval(score: Array, weight: Array, khz: float, bunches: int) -> tuple[float, float, float]:
    """(threshold, low, high): where the rate, and the ends of its interval, meet the target."""
    threshold = threshold_for(score, weight, khz, bunches)
    at = rate_at(score, weight, threshold, bunches)
    up = khz * khz / max(at.low, 1e-12)
    down = khz * khz / at.high
    ends = []
    for target in (up, down):
        try:
            ends.append(threshold_for(score, weight, min(target, crossing_khz(bunches)), bunches))
        except FitError:
            ends.append(float(score.max()))
    return threshold, min(ends), max(ends)


def efficiency_at(score: Array, weight: Array, threshold: float) -> tuple[float, float, float]:
    """(efficiency, low, high) of score > threshold, 68 % interval on effective counts; for signals."""
    if len(score) == 0 or weight.sum() <= 0:
        raise FitError("an efficiency needs events with positive weight")
    n = effective(weight)[1]
    value = float(weight[score > threshold].sum() / weight.sum())
    low, high = clopper_pearson(min(value * n, n), n)
    return value, low, high
