"""The law of every window's count in a bump hunt, and the pseudo-experiments that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..errors import FitError
from .bumphunter_kernels import cumulate, invert
from .tails import CONDITIONAL, NORMALISED, POISSON, POISSON_GAMMA, t_of
from .windows import Windows, contents

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Pseudo-experiments of a block. Each has a random stream of its own, so threads do not change the result, and rows are
#: thrown in order, so more pseudo-experiments begin with the same ones.
BLOCK = 500
#: Mean above which counts are not thrown by inversion, and cells of its guide tables.
LARGE, CELLS = 1e5, 1024


@dataclass(frozen=True)
class Reference:
    """A background sample of finite size: ``counts`` sums of weights and ``squares`` sums of squared weights per bin,
    weighted to the data's luminosity."""

    counts: Array
    squares: Array

    @classmethod
    def of_events(cls, events: Any, scale: float) -> Reference:
        """``events`` per bin of a sample 1 / ``scale`` times as large as the data."""
        if not 0 < scale < np.inf:
            raise FitError(f"scale {scale:g}: expected the luminosity of the data over the sample's, above 0")
        number = np.asarray(events, dtype=np.float64)
        return cls(number * scale, number * scale**2)


@dataclass(frozen=True)
class Expectation:
    """The law of every window's count: ``kind`` and ``params`` (windows, 3) of `tails`; ``means`` and ``spreads``
    (windows,) of the counts of pseudo-experiments, ``expected`` (bins) and ``throw``, which makes (toys, bins) of
    them."""

    kind: int
    params: Array
    means: Array
    spreads: Array
    expected: Array
    params_of: Callable[[Windows], Array] = field(repr=False)
    throw: Callable[[np.random.Generator, int], Ints] = field(repr=False)

    def mean_in(self, counts: Ints, windows: Windows) -> Array:
        """Events expected in every window, given the data where they fix the scale, (windows,)."""
        d = contents(windows, counts).astype(np.float64)
        return _means(self.kind, self.params, d)

    def t_all(self, spectra: Ints, windows: Windows, sign: int) -> Array:
        """t of every window, (n, windows), by SciPy."""
        d = contents(windows, spectra).astype(np.float64)
        params = np.broadcast_to(self.params, (*d.shape, 3))
        return t_many(self.kind, params.reshape(-1, 3), d.ravel(), sign).reshape(d.shape)


def _means(kind: int, params: Array, d: Array) -> Array:
    if kind == NORMALISED:
        rest = params[..., 1] - params[..., 0]
        return np.where(rest > 0, params[..., 0] * (params[..., 2] - d) / np.where(rest > 0, rest, 1.0), d)
    if kind == CONDITIONAL:
        return (params[..., 0] - d) / params[..., 1]
    return params[..., 2] if kind == POISSON_GAMMA else params[..., 0]


def t_many(kind: int, params: Array, d: Array, sign: int) -> Array:
    """`tails.t_of` for arrays (m, 3) and (m,), from SciPy's incomplete gamma and beta functions."""
    out = np.zeros(len(d))
    use = np.flatnonzero(sign * (d - _means(kind, params, d)) > 0)
    p, n = params[use], d[use]
    if kind in (POISSON, NORMALISED):
        mean = _means(kind, p, n)
        tail = special.gammainc(n, mean) if sign > 0 else special.gammaincc(n + 1, mean)
    elif kind == POISSON_GAMMA:
        share = 1 / (1 + p[:, 1])
        tail = special.betainc(n, p[:, 0], share) if sign > 0 else special.betaincc(n + 1, p[:, 0], share)
    else:
        share, rest = 1 / (1 + p[:, 1]), p[:, 0] - n
        tail = (
            special.betainc(n, rest + 1, share)
            if sign > 0
            else special.betaincc(n + 1, np.maximum(rest, 1e-9), share)
        )
    small = ~(tail > 1e-290)
    out[use] = -np.log(np.where(small, 1.0, tail))
    for i in np.flatnonzero(small):
        out[use[i]] = t_of(kind, p[i], float(n[i]), sign)
    return np.maximum(out, 0.0)


def _checked(values: Any, shape: tuple[int, ...], what: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise FitError(f"{what} of shape {array.shape}, data of shape {shape}: expected the same bins")
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise FitError(
            f"{what} bin {place} is {array[place]:g}; expected a finite number of events, not negative"
        )
    if not array.sum() > 0:
        raise FitError(f"{what} is empty; there is nothing to compare the data with")
    return array


def expectation_of(
    counts: Ints, background: Array | Reference, windows: Windows, normalise: bool, empty: float | None
) -> Expectation:
    """The law of every window under ``background``; see `bumphunter`."""
    if isinstance(background, Reference):
        if normalise:
            raise FitError("normalise: scale the finite reference to the data's luminosity instead")
        weights = _checked(background.counts, counts.shape, "reference")
        squares = _checked(background.squares, counts.shape, "squared weights of the reference")
        return _finite(counts, weights, squares, windows)
    expected = _checked(background, counts.shape, "background")
    if empty is not None:
        expected = np.where(expected > 0, expected, empty)
    impossible = (expected == 0) & (counts > 0)
    if impossible.any():
        place = tuple(int(i) for i in np.argwhere(impossible)[0])
        raise FitError(
            f"the background expects nothing in bin {place} and the data hold {counts[place]} events there: no p-value "
            "says how unlikely that is. Give `empty` (say 1.84 times the weight of a simulated event) or the "
            "sample as a `Reference`"
        )
    return _scaled(counts, expected, windows) if normalise else _exact(expected, windows)


def _parameters(*columns: Any) -> Array:
    return np.ascontiguousarray(np.stack(np.broadcast_arrays(*columns), axis=1), dtype=np.float64)


class PoissonThrower:
    """Poisson counts by inversion: tables of cumulative probabilities, exact to about 1e-13.

    Bins that expect more than ``LARGE`` are left to NumPy, whose rejection needs no table.
    """

    def __init__(self, expected: Array) -> None:
        self.expected, self.small = expected, expected.ravel() < LARGE
        mean = expected.ravel()[self.small]
        reach = 8.5 * np.sqrt(mean) + 30
        self.first = np.maximum(np.floor(mean - reach), 0).astype(np.int64)
        length = np.ceil(mean + reach).astype(np.int64) - self.first
        self.offsets = np.concatenate([[0], np.cumsum(length)])
        self.cumulative = np.zeros(int(self.offsets[-1]))
        cumulate(mean, self.first, self.offsets, self.cumulative)
        cells = np.arange(CELLS) / CELLS
        self.guide = np.zeros((len(mean), CELLS), np.int64)
        for b in range(len(mean)):
            row = self.cumulative[self.offsets[b] : self.offsets[b + 1]]
            self.guide[b] = self.offsets[b] + np.searchsorted(row, cells, side="right")

    def __call__(self, rng: np.random.Generator, toys: int) -> Ints:
        """Counts (toys, bins)."""
        out = np.zeros((toys, self.expected.size), np.int64)
        some = np.zeros((toys, len(self.first)), np.int64)
        invert(rng.random(some.shape), self.guide, self.first, self.cumulative, self.offsets, some)
        if self.small.all():
            out = some
        else:
            out[:, self.small] = some
            out[:, ~self.small] = rng.poisson(
                self.expected.ravel()[~self.small], (toys, int((~self.small).sum()))
            )
        return out.reshape(toys, *self.expected.shape)


def _exact(expected: Array, windows: Windows) -> Expectation:
    def params(of: Windows) -> Array:
        return _parameters(contents(of, expected), 0.0, 0.0)

    thrown = PoissonThrower(expected)
    b = contents(windows, expected)
    return Expectation(POISSON, params(windows), b, np.sqrt(b), expected, params, thrown)


def _scaled(counts: Ints, expected: Array, windows: Windows) -> Expectation:
    total, seen = float(expected.sum()), int(counts.sum())
    shape = expected / total
    mean = contents(windows, shape) * seen

    def params(of: Windows) -> Array:
        return _parameters(contents(of, expected), total, float(seen))

    def throw(rng: np.random.Generator, toys: int) -> Ints:
        return rng.multinomial(seen, shape.ravel(), toys).reshape(toys, *shape.shape)

    spread = np.sqrt(np.maximum(mean * (1 - mean / max(seen, 1)), 0.0))
    return Expectation(NORMALISED, params(windows), mean, spread, shape * seen, params, throw)


def _finite(counts: Ints, weights: Array, squares: Array, windows: Windows) -> Expectation:
    filled = weights > 0
    if not np.all(squares[filled] > 0):
        raise FitError("a bin of the reference has a weight but no squared weight")
    each = squares[filled] / weights[filled]
    typical = float(squares.sum() / weights.sum())
    if np.allclose(each, each[0], rtol=1e-9):
        return _shared(counts + np.round(weights / typical).astype(np.int64), 1 / typical, windows)
    return _matched(weights, squares, 1 / typical, windows)


def _shared(both: Ints, rate: float, windows: Windows) -> Expectation:
    """Events of data and sample together are split anew: exact."""
    share = 1 / (1 + rate)

    def params(of: Windows) -> Array:
        return _parameters(contents(of, both).astype(float), rate, 0.0)

    def throw(rng: np.random.Generator, toys: int) -> Ints:
        return rng.binomial(both, share, (toys, *both.shape))

    n = contents(windows, both)
    spread = np.sqrt(n * share * (1 - share))
    return Expectation(
        CONDITIONAL, params(windows), n * share, spread, np.asarray(both * share, np.float64), params, throw
    )


def _matched(weights: Array, squares: Array, typical: float, windows: Windows) -> Expectation:
    """A Gamma of the mean and variance of every window's sum of weights; approximate."""
    filled = weights > 0
    rates = np.where(filled, weights / np.where(filled, squares, 1.0), typical)

    def params(of: Windows) -> Array:
        sums, variances = contents(of, weights), contents(of, squares)
        rate = np.where(sums > 0, sums / np.where(sums > 0, variances, 1.0), typical)
        return _parameters(sums * rate + 1, rate, sums)

    def throw(rng: np.random.Generator, toys: int) -> Ints:
        means = rng.gamma(weights * rates, 1.0, (max(toys, BLOCK), *rates.shape)) / rates
        return rng.poisson(means[:toys])

    sums = contents(windows, weights)
    spread = np.sqrt(sums + contents(windows, squares))
    return Expectation(POISSON_GAMMA, params(windows), sums, spread, weights, params, throw)
