"""Whether a trigger rate is the same all the time, and how much it moves when the detector does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .rates import Rate, rate_of

Array = NDArray[np.float64]
PERMUTATIONS = 999


@dataclass(frozen=True)
class SectionRates:
    """Rates of groups of luminosity sections in time order. ``first``, ``last``: (run, section) at a group's ends.

    ``p_value``: how often crossings dealt to the groups at random differ as much between them, from ``permutations``; never 0.
    """

    first: tuple[tuple[int, int], ...]
    last: tuple[tuple[int, int], ...]
    crossings: tuple[int, ...]
    rates: tuple[Rate, ...]
    common: Rate
    p_value: float
    permutations: int


def section_groups(
    run: NDArray[np.integer], section: NDArray[np.integer], groups: int
) -> tuple[NDArray[np.int64], list[tuple[int, int]], list[tuple[int, int]]]:
    """(group of each crossing (n,), first and last section of each): neighbours in time, like numbers of crossings, none split."""
    pairs, where, counts = np.unique(
        np.stack([run, section], axis=1).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    middle = np.cumsum(counts) - 0.5 * counts
    group = np.unique(
        np.minimum((middle / counts.sum() * groups).astype(np.int64), groups - 1), return_inverse=True
    )[1]
    first = [tuple(pairs[np.flatnonzero(group == g)[0]].tolist()) for g in range(group.max() + 1)]
    last = [tuple(pairs[np.flatnonzero(group == g)[-1]].tolist()) for g in range(group.max() + 1)]
    return group[where.reshape(-1)], first, last


def _differ(worth: NDArray[Any], share: Array) -> float:
    """Sum over groups of (worth - expected)^2 / share; ``share`` (g,): of all crossings."""
    return float(((worth - worth.sum() * share) ** 2 / share).sum())


def rate_by_section(
    kept: NDArray[np.bool_], weight: Array, run: NDArray[np.integer], section: NDArray[np.integer], bunches: int, *,
    groups: int = 10, seed: int = 0, permutations: int = PERMUTATIONS,
) -> SectionRates:  # fmt: skip
    """Rates in up to ``groups`` groups of luminosity sections, and the p-value of their being one rate.

    The p-value comes of dealing the crossings to the groups anew: exact for any weights and any counts. Raises `FitError` where all
    crossings are of one section.
    """
    group, first, last = section_groups(run, section, groups)
    if len(first) < 2:
        raise FitError(
            f"all {len(kept)} crossings are of run {first[0][0]}, luminosity section {first[0][1]}: nothing to compare"
        )
    sizes = np.bincount(group)
    share, passing = sizes / len(group), np.flatnonzero(kept)
    seen = _differ(np.bincount(group[passing], weights=weight[passing], minlength=len(sizes)), share)
    worth = np.sort(weight[passing])  # the p-value must not know the order of the rows
    rng, ends, above = np.random.default_rng(seed), np.cumsum(sizes), 0
    for _ in range(permutations):
        dealt = np.searchsorted(ends, rng.choice(len(group), len(passing), replace=False), side="right")
        drawn = _differ(np.bincount(dealt, weights=worth, minlength=len(sizes)), share)
        above += drawn >= seen * (1 - 1e-12)
    rates = tuple(rate_of(kept[group == g], weight[group == g], bunches) for g in range(len(sizes)))
    return SectionRates(
        tuple(first), tuple(last), tuple(sizes.tolist()), rates, rate_of(kept, weight, bunches),
        (above + 1) / (permutations + 1), permutations,
    )  # fmt: skip


def rate_ratio(before: NDArray[np.bool_], after: NDArray[np.bool_], weight: Array) -> tuple[float, float]:
    """(ratio, its standard deviation) of two rates of the same crossings: those that pass both cancel in the error.

    Raises `FitError` where none passes before.
    """
    base = float(weight[before].sum())
    if base <= 0:
        raise FitError("no crossing passes before the change: its rate has no ratio")
    ratio = float(weight[after].sum()) / base
    pull = weight * (after.astype(np.float64) - ratio * before)
    return ratio, math.sqrt(float((pull**2).sum())) / base
