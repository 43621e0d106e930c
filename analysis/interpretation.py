"""What a score follows and what a space knows: rank correlations, principal axes and linear probes. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
#: Fewest events from which anything is said.
FEWEST = 20
#: Resamplings of the held-out events behind a probe's interval.
REPEATS = 200
#: Part of the events whose score counts as high.
TOP = 0.01


@dataclass(frozen=True)
class Followed:
    """Spearman's coefficient of a score with one observable and its 68 % interval, NaN where the observable is constant.

    ``kind``: what the observable is, "feature", "carried" (an extra), "mass" or "derived". ``top``: where the events of highest
    score lie in it, the median and the central 68 % of the part of all events that is lower (0.5 where the score does not care).
    """

    name: str
    unit: str
    kind: str
    rho: float
    low: float
    high: float
    top: float
    top_low: float
    top_high: float


@dataclass(frozen=True)
class Probe:
    """R^2 of one observable's least-squares prediction on events that the fit did not see, with its 68 % interval.

    1: a linear function gives it exactly; 0: no better than its mean; below 0: worse. NaN where the observable is constant.
    """

    name: str
    r2: float
    low: float
    high: float


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes (d, d), one a row, largest variance first; ``shares`` (d,) of the variance. Inputs are (x - mean) / scale.

    The largest component of every axis is positive, so that the same data give the same picture.
    """

    mean: Array
    scale: Array
    axes: Array
    shares: Array

    def coordinates(self, x: NDArray[np.floating], n: int = 2) -> Array:
        """The first ``n`` coordinates of x (m, d), shape (m, n)."""
        return ((np.asarray(x, np.float64) - self.mean) / self.scale) @ self.axes[:n].T

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the shares: 1 where all lies on a line, d where all directions are alike; NaN without variance."""
        seen = self.shares[self.shares > 0]
        return float(np.exp(-(seen * np.log(seen)).sum())) if len(seen) else float("nan")


def weighted_ranks(x: NDArray[np.floating], weight: Array) -> Array:
    """Mid-ranks of every column of x (n, k) as parts of the total weight, shape (n, k): the weight below, and half of the equal.

    With equal weights (rank - 1/2) / n, ties sharing their mean rank. Weights may be negative; their sum must be above 0.
    """
    x = np.asarray(x, np.float64)
    out = np.empty(x.shape)
    for j in range(x.shape[1]):
        order = np.argsort(x[:, j], kind="stable")
        one = x[order, j]
        group = np.cumsum(np.concatenate([[0], one[1:] != one[:-1]]).astype(np.int64)) if len(one) else order
        held = np.bincount(group, weight[order])
        out[order, j] = (np.cumsum(held) - 0.5 * held)[group]
    return out / weight.sum()


def rank_correlations(a: NDArray[np.floating], b: NDArray[np.floating], weight: Array | None = None) -> Array:
    """Spearman's coefficients of every column of a (n, k) with every column of b (n, l), shape (k, l).

    The weighted correlation of weighted mid-ranks: with equal weights Spearman's own, ties sharing their mean rank. ``a`` must
    be finite; of a column of ``b`` the events count where it is. NaN where a column is constant, or for fewer than `FEWEST` events.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    w = np.ones(len(a)) if weight is None else weight
    out = np.full((a.shape[1], b.shape[1]), np.nan)
    finite = np.isfinite(b)
    whole = finite.all(axis=0)
    groups = [
        (np.flatnonzero(whole), np.ones(len(a), bool)),
        *((np.array([j]), finite[:, j]) for j in np.flatnonzero(~whole)),
    ]
    for columns, rows in groups:
        mine = w[rows]
        if len(columns) and len(mine) >= FEWEST and mine.sum() > 0:
            out[:, columns] = _correlations(
                weighted_ranks(a[rows], mine), weighted_ranks(b[np.ix_(rows, columns)], mine), mine
            )
    return out


def _correlations(a: Array, b: Array, w: Array) -> Array:
    """Weighted linear correlations of the columns of a and b; NaN where one has no variance."""
    total = w.sum()
    a, b = a - (w @ a) / total, b - (w @ b) / total
    own, other = ((w @ v**2) / total for v in (a, b))
    # Ranks lie between 0 and 1: a variance below this is rounding of a constant, or of weights that cancel.
    own, other = (np.where(v > 1e-12, v, np.nan) for v in (own, other))
    return np.clip((a * w[:, None]).T @ b / total / np.sqrt(own[:, None] * other), -1.0, 1.0)


def rank_interval(rho: Array, events: float) -> tuple[Array, Array]:
    """The 68 % interval of Spearman's coefficients from ``events`` (effective) events: Fisher's transformation with the standard
    error sqrt((1 + rho^2 / 2) / (n - 3)) of Bonett and Wright (2000); the whole range for three events or fewer."""
    rho = np.asarray(rho, np.float64)
    if events <= 3:
        return np.where(np.isnan(rho), np.nan, -1.0), np.where(np.isnan(rho), np.nan, 1.0)
    z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    error = np.sqrt((1 + rho**2 / 2) / (events - 3))
    return np.tanh(z - error), np.tanh(z + error)


def top_places(
    score: Array, values: NDArray[np.floating], weight: Array, share: float = TOP
) -> tuple[Array, Array, Array]:
    """Where the ``share`` of events of highest score (by weight, at least `FEWEST` events) lies in every column of values (n, k):
    (median, 16 %, 84 %) of the part of all events that is lower, (k,) each; NaN for fewer than `FEWEST` events.

    Sees what a rank correlation does not: a score that is high at both ends of an observable, or only far out.
    """
    order, out = np.argsort(-score, kind="stable"), np.full((3, values.shape[1]), np.nan)
    if len(score) < FEWEST or weight.sum() <= 0:
        return out[0], out[1], out[2]
    most = np.searchsorted(np.cumsum(weight[order]), share * weight.sum()) + 1
    chosen = order[: max(int(most), FEWEST)]
    places, held = weighted_ranks(values, weight)[chosen], np.clip(weight[chosen], 0.0, None)
    for j in range(values.shape[1]) if held.sum() > 0 else ():
        rising = np.argsort(places[:, j], kind="stable")
        part = np.cumsum(held[rising]) / held.sum()
        at = np.searchsorted(part, (0.5, 0.1587, 0.8413)).clip(0, len(chosen) - 1)
        out[:, j] = np.where(np.isfinite(values[:, j]).all(), places[rising[at], j], np.nan)
    return out[0], out[1], out[2]


def principal_axes(
    x: NDArray[np.floating], *, standardised: bool, weight: Array | None = None
) -> PrincipalAxes:
    """Principal axes of x (n, d), each column first divided by its standard deviation if ``standardised``.

    By the eigenvectors of the covariance, in float64, with ``weight`` (n,) >= 0. Constant columns have no part in any axis that has
    variance.
    """
    x = np.asarray(x, np.float64)
    w = np.full(len(x), 1.0 / len(x)) if weight is None else weight / weight.sum()
    mean = w @ x
    spread = np.sqrt(w @ (x - mean) ** 2)
    # A constant has a spread of rounding, which must not be blown up.
    moving = spread > 1e-9 * np.maximum(np.abs(mean), 1e-30)
    scale = np.where(moving, spread, 1.0) if standardised else np.ones(x.shape[1])
    centred = np.where(moving, (x - mean) / scale, 0.0)
    values, vectors = np.linalg.eigh((centred * w[:, None]).T @ centred)
    values, axes = np.clip(values[::-1], 0.0, None), vectors[:, ::-1].T
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    total = values.sum()
    return PrincipalAxes(mean, scale, axes, values / total if total > 0 else values)


def linear_probes(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    names: Sequence[str],
    learnt: NDArray[np.bool_],
    seed: int,
    weight: Array | None = None,
) -> tuple[Probe, ...]:
    """Predict each column of y (n, t) from x (n, d) by least squares with a constant, fitted where ``learnt`` (n,) and judged on the
    other events, both with ``weight`` (n,) >= 0.

    Intervals: the central 68 % of `REPEATS` resamplings of the events that judge (bootstrap, random numbers from ``seed``). Events
    where an observable is not finite are left out of its fit. NaN for fewer than `FEWEST` events to learn from or to judge.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    w = np.ones(len(x)) if weight is None else weight
    out: dict[int, Probe] = {}
    finite = np.isfinite(y)
    whole = finite.all(axis=0)
    groups = [
        (np.flatnonzero(whole), np.ones(len(x), bool)),
        *((np.array([j]), finite[:, j]) for j in np.flatnonzero(~whole)),
    ]
    for columns, rows in groups:
        if len(columns):
            found = _probed(x[rows], y[np.ix_(rows, columns)], learnt[rows], seed, w[rows])
            out |= {int(j): Probe(names[int(j)], *r) for j, r in zip(columns, found, strict=True)}
    return tuple(out[j] for j in range(len(names)))


def _probed(
    x: Array, y: Array, learnt: NDArray[np.bool_], seed: int, w: Array
) -> list[tuple[float, float, float]]:
    """(R^2, low, high) of every column of y."""
    if min((w[learnt] > 0).sum(), (w[~learnt] > 0).sum()) < FEWEST:
        return [(float("nan"),) * 3] * y.shape[1]
    of = w[learnt]
    axes = principal_axes(x[learnt], standardised=True, weight=of)
    design = np.column_stack([np.ones(len(x)), (x - axes.mean) / axes.scale])
    middle = of @ y[learnt] / of.sum()
    spread = np.sqrt(of @ (y[learnt] - middle) ** 2 / of.sum())
    scaled, root = (y - middle) / np.where(spread > 0, spread, 1.0), np.sqrt(of)[:, None]
    found = np.linalg.lstsq(design[learnt] * root, scaled[learnt] * root, rcond=None)[0]
    judged = scaled[~learnt]
    wrong = (judged - design[~learnt] @ found) ** 2
    # Weights in units of their mean, so that a variance of rounding is known as one.
    by = w[~learnt] / w[~learnt].mean()
    times = np.random.default_rng([seed, 0x9B0B]).poisson(1.0, (REPEATS, len(judged))) * by
    whole = _explained(by[None], judged, wrong)[0]
    again = _explained(times, judged, wrong)
    low, high = np.nanquantile(np.where(np.isnan(whole), 0.0, again), (0.1587, 0.8413), axis=0)
    known = [np.where(np.isnan(whole), np.nan, v).tolist() for v in (whole, low, high)]
    return list(zip(*known, strict=True))


def _explained(times: Array, y: Array, wrong: Array) -> Array:
    """R^2 (r, t) with every event taken ``times`` (r, n): 1 - sum of squared errors over that about the mean."""
    n = times.sum(axis=1, keepdims=True)
    about = times @ y**2 - (times @ y) ** 2 / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(about > 1e-12 * n, 1.0 - times @ wrong / about, np.nan)
