"""What a score looks at, and what it finds: permutation importance of features, and the events of largest score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from ..events import Events
from .metrics import FLOOR, roc, sic
from .plots_studies import Importance

Array = NDArray[np.float64]
#: What a feature's importance is a loss of: the largest significance improvement, or the area under the ROC.
Measure = Literal["sic", "auc"]


@dataclass(frozen=True)
class Importances:
    """Loss of ``measure`` without each feature; ``whole`` its value with all of them, ``repeats`` shuffles of each.

    ``first`` and ``second`` say how many events were told apart.
    """

    measure: Measure
    whole: float
    rows: tuple[Importance, ...]
    repeats: int
    first: int
    second: int


def _separation(
    score: Callable[[Events], Array], first: Events, second: Events, measure: Measure, floor: int
) -> float:
    both = score(Events.concatenate([first, second]))
    curve = roc(both[: len(first)], both[len(first) :], first.weight, second.weight)
    return sic(curve, floor).best if measure == "sic" else curve.auc


def importances(
    score: Callable[[Events], Array], first: Events, second: Events, measure: Measure,
    *, repeats: int = 3, seed: int = 0, floor: int = FLOOR,
) -> Importances:  # fmt: skip
    """Permutation importance (Breiman 2001): what telling ``first`` from ``second`` loses without one feature at a time.

    A feature's values are replaced in both samples by those of random events of ``second``, so that it tells nothing and
    keeps a range the score knows; correlated features share their importance. ``error`` is the standard error over
    ``repeats`` shuffles; 0 for one. Raises `FitError` where ``repeats`` < 1 or a sample is empty.
    """
    if repeats < 1:
        raise FitError(f"repeats: found {repeats}, expected at least 1")
    whole = _separation(score, first, second, measure, floor)
    rows = []
    for j, name in enumerate(first.features.names):
        rng = np.random.default_rng(np.random.SeedSequence([seed, j]))
        losses = np.empty(repeats)
        for r in range(repeats):
            drawn = []
            for sample in (first, second):
                x = sample.x.copy()
                x[:, j] = (
                    rng.choice(second.x[:, j], len(x)) if sample is first else rng.permutation(second.x[:, j])
                )
                drawn.append(replace(sample, x=x))
            losses[r] = whole - _separation(score, drawn[0], drawn[1], measure, floor)
        error = float(losses.std(ddof=1) / np.sqrt(repeats)) if repeats > 1 else 0.0
        rows.append(Importance(name, float(losses.mean()), error))
    return Importances(measure, whole, tuple(rows), repeats, len(first), len(second))


def oddest(score: Array, tie: NDArray[np.uint64], most: int = 20) -> NDArray[np.int64]:
    """Rows of the ``most`` largest scores, largest first; of equal ones the larger ``tie`` (a hash of the event) first."""
    return np.lexsort((tie, score))[::-1][:most]
