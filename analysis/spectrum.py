"""Score cuts and the mass spectra they leave."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError

Array = NDArray[np.float64]


def passing(
    score: Array,
    efficiency: float,
    fold: NDArray[np.int64],
    inside: NDArray[np.bool_],
    tie: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Mask (n,) of the events above the (1 - efficiency) quantile of their own fold's scores over all mass bins.

    Folds are cut one by one because each has a model of its own. ``inside``: events in the fit range, the others never
    pass. Equal scores are ordered by ``tie``, a hash of the event, so exactly round(efficiency x n) events pass.
    """
    out = np.zeros(len(score), dtype=bool)
    if efficiency >= 1.0:
        return inside.copy()
    for k in np.unique(fold):
        mine = np.flatnonzero((fold == k) & inside)
        order = np.lexsort((tie[mine], score[mine]))
        keep = round(efficiency * len(mine))
        out[mine[order[len(mine) - keep :]]] = True
    return out


@dataclass(frozen=True)
class Spectra:
    """Nested spectra of one window: ``counts`` (cuts, bins) for ``cuts`` (efficiencies, decreasing, 1 first)."""

    edges: Array
    cuts: tuple[float, ...]
    counts: Array


def nested_spectra(
    mass: Array,
    score: Array,
    cuts: tuple[float, ...],
    edges: Array,
    fold: NDArray[np.int64],
    tie: NDArray[np.uint64],
) -> Spectra:
    """Spectra after each cut; every cut's events are among those of the one before."""
    if any(b >= a for a, b in pairwise(cuts)):
        raise FitError(f"cuts {cuts} must decrease")
    inside = (mass >= edges[0]) & (mass < edges[-1])
    rows = [np.histogram(mass[passing(score, c, fold, inside, tie)], edges)[0] for c in cuts]
    return Spectra(np.asarray(edges, dtype=np.float64), tuple(cuts), np.array(rows, dtype=np.float64))
