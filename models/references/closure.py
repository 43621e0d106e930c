"""Does a reference look like data where there is no signal? A classifier that tries to tell them apart says it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, fold_of
from ..folds import CrossFit
from ..scores.weak_trees import WeakTrees


@dataclass(frozen=True)
class Closure:
    """Area under the ROC curve of data against reference: 0.5 where they cannot be told apart.

    ``error``: of a perfect reference, from the numbers of events alone.
    """

    auc: float
    error: float
    data: int
    reference: int


def weighted_auc(
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    w_high: NDArray[np.float64],
    w_low: NDArray[np.float64],
) -> float:
    """Weighted probability that a score of ``high`` is above one of ``low``, ties counting one half."""
    order = np.argsort(low, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(w_low[order])])
    left = below[np.searchsorted(low[order], high, side="left")]
    right = below[np.searchsorted(low[order], high, side="right")]
    return math.fsum(w_high * 0.5 * (left + right)) / (math.fsum(w_high) * below[-1])


def closure(reference: Events, data: Events, folds: int = 5, seed: int = 0) -> Closure:
    """Train boosted trees on data against reference, never scoring an event by trees that saw it or a copy of it.

    Ranks are compared within each fold and averaged by weight, since two trainings' scores have no common scale.
    Raises `InputError` for samples that are empty or that trees refuse.
    """
    if min(len(reference), len(data)) < 2 * folds:
        raise InputError(
            f"{len(reference)} reference and {len(data)} data events are too few to compare in {folds} folds"
        )
    trees = CrossFit(WeakTrees(members=1, validation=0.3, seed=seed), folds=folds, seed=seed).fit(
        reference, data
    )
    scores = trees.score(data), trees.score(reference)
    own = fold_of(data.identity, folds, seed), fold_of(reference.identity, folds, seed)
    total = sum_weight = 0.0
    for k in range(folds):
        d, r = own[0] == k, own[1] == k
        if data.weight[d].sum() > 0 and reference.weight[r].sum() > 0:
            w = math.fsum(data.weight[d])
            total += w * weighted_auc(scores[0][d], scores[1][r], data.weight[d], reference.weight[r])
            sum_weight += w
    sizes = [math.fsum(e.weight) ** 2 / math.fsum(e.weight**2) for e in (data, reference)]
    error = math.sqrt((sizes[0] + sizes[1] + 1) / (12 * sizes[0] * sizes[1]))
    return Closure(float(total / sum_weight), float(error), len(data), len(reference))
