"""Rates of a menu of trigger seeds: each seed's total, what it alone takes, and what it adds to those before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FitError
from .rates import Rate, rate_of

Array = NDArray[np.float64]
#: Passing crossings whose own weights say too little of the others'.
FEW = 10


@dataclass(frozen=True)
class SeedRates:
    """Rates of one seed in kHz with 68 % intervals. ``prescale`` p: one of p passing crossings is kept.

    ``total``: kept by this seed; ``pure``: by it and no other of the menu; ``unique``: by it and none before it.
    """

    name: str
    prescale: float
    total: Rate
    pure: Rate
    unique: Rate


@dataclass(frozen=True)
class MenuRates:
    """A menu: its seeds in order, the rate of crossings that any of them keeps, and how the seeds overlap.

    ``overlap`` (n, n): the fraction of the crossings kept by seed i that seed j keeps too; the row of a seed that keeps
    nothing is NaN. ``crossings``: how many zero-bias crossings the numbers rest on.
    """

    seeds: tuple[SeedRates, ...]
    overall: Rate
    overlap: Array
    crossings: int
    bunches: int


def _probabilities(
    passes: Mapping[str, NDArray[np.bool_]], weight: Array, prescales: Mapping[str, float]
) -> Array:
    """The probability that seed i keeps crossing j, shape (seeds, n)."""
    if not passes:
        raise ConfigError("a menu needs at least one seed")
    unknown = sorted(set(prescales) - set(passes))
    if unknown:
        raise ConfigError(f"prescale of '{unknown[0]}': the menu has {', '.join(passes)}")
    kept = np.empty((len(passes), len(weight)))
    for i, (name, passing) in enumerate(passes.items()):
        if passing.shape != weight.shape or passing.dtype != np.bool_:
            raise FitError(
                f"seed {name}: found {passing.dtype} of shape {passing.shape}, expected a bool for each of "
                f"{len(weight)} crossings"
            )
        prescale = prescales.get(name, 1.0)
        if not 1 <= prescale < np.inf:
            raise ConfigError(f"prescale of '{name}': found {prescale:g}, expected a number from 1 on")
        kept[i] = passing / prescale
    return kept


def _bounded(rate: Rate, nothing: Rate, whole: Rate | None = None) -> Rate:
    """A rate whose upper end is at least that of ``nothing`` passing where few pass, and no higher than that of the ``whole``.

    A few crossings may all happen to be of an enriched kind with small weights, whose interval says nothing of the common kind.
    """
    high = max(rate.high, nothing.high) if rate.n_pass < FEW else rate.high
    return replace(rate, high=high if whole is None else min(high, whole.high))


def menu_rates(
    passes: Mapping[str, NDArray[np.bool_]],
    weight: Array,
    bunches: int,
    prescales: Mapping[str, float] | None = None,
) -> MenuRates:
    """Rates of the seeds ``passes`` (name: which crossings pass, (n,)) on zero bias with the weights ``weight`` (n,).

    A prescale counts for what it does on average, with counters of different seeds independent: another seed leaves a
    crossing to this one with probability 1 - 1/p, so a pure rate is larger than that of the same menu without prescales.
    Raises `ConfigError` for an empty menu or a wrong prescale, `FitError` for shapes and weights that do not fit.
    """
    kept = _probabilities(passes, weight, prescales or {})
    lost = 1.0 - kept
    before = np.cumprod(np.vstack([np.ones(len(weight)), lost]), axis=0)
    after = np.cumprod(np.vstack([np.ones(len(weight)), lost[::-1]]), axis=0)[::-1]
    nothing = rate_of(np.zeros(len(weight)), weight, bunches)
    seeds = []
    for i, name in enumerate(passes):
        added = kept[i] * before[i]
        total = _bounded(rate_of(kept[i], weight, bunches), nothing)
        unique = _bounded(rate_of(added, weight, bunches), nothing, total)
        pure = _bounded(rate_of(added * after[i + 1], weight, bunches), nothing, unique)
        seeds.append(SeedRates(name, (prescales or {}).get(name, 1.0), total, pure, unique))
    both = (kept * weight) @ kept.T
    single = (kept * weight).sum(axis=1)
    np.fill_diagonal(both, single)  # a seed keeps a crossing once
    with np.errstate(invalid="ignore"):
        overlap = both / single[:, None]
    return MenuRates(tuple(seeds), rate_of(1.0 - before[-1], weight, bunches), overlap, len(weight), bunches)
