"""Toys of a hunt whose background is no dijet fit: every estimate is made again in every one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .hunt_backgrounds import Estimator, capped_z
from .toys import BLOCK, GV_LEVEL, ToyInput, throw
from .window_bias import bias_of, corrected_z

Array = NDArray[np.float64]


def significances(counts: Array, given: ToyInput, estimate: Estimator) -> Array:
    """Z of every window and cut, (windows, cuts), of one toy's ``counts`` (windows, cuts, bins); -inf where the data have none.

    The bias is measured again; its uncertainty is the one assigned from the data, as for the data. So is the bound where
    nothing is expected. Raises `FitError`.
    """
    n, b, s = np.full((3, *given.fitted.shape), np.nan)
    for i, c in np.argwhere(given.fitted):
        found = estimate(counts[i], int(c), given.edges, given.inside[i])
        n[i, c], b[i, c], s[i, c] = counts[i, c, given.inside[i]].sum(), found.b, found.s
    out = np.full(n.shape, -np.inf)
    for c in range(n.shape[1]):
        delta, error = np.zeros((2, len(n)))
        if given.biased[c]:
            delta, error = bias_of(given.apart, n[:, c], b[:, c], s[:, c])
        for i in np.flatnonzero(given.fitted[:, c]):
            z = corrected_z(n[i, c], b[i, c], s[i, c], delta[i], error[i], given.bias[i, c])
            out[i, c] = capped_z(z, b[i, c], counts[i, c], given.inside[i])
    return out


@dataclass(frozen=True)
class EstimatedToys:
    """`toys.toy_maxima` with another ``estimate`` of the background."""

    estimate: Estimator

    def __call__(
        self, given: ToyInput, toys: int, seed: int, threads: int = 1, progress: Any = None
    ) -> tuple[Array, Array]:
        """Largest Z of every toy (toys,), infinite where an estimate failed, and its upcrossings (toys,)."""
        best, crossings = np.full(toys, np.inf), np.zeros(toys)

        def one(block: int) -> None:
            many = min(BLOCK, toys - block * BLOCK)
            for k, counts in enumerate(throw(given, seed, block, BLOCK)[:many], start=block * BLOCK):
                try:
                    zs = significances(counts, given, self.estimate)
                except FitError:
                    continue  # it counts as exceeding
                before = np.vstack([np.full(zs.shape[1], -np.inf), zs[:-1]])
                best[k], crossings[k] = zs.max(), ((zs > GV_LEVEL) & (before <= GV_LEVEL)).sum()

        with ThreadPoolExecutor(threads) as pool:
            for done, _ in enumerate(pool.map(one, range(-(-toys // BLOCK))), start=1):
                if progress is not None:
                    progress(min(done * BLOCK, toys), toys)
        return best, crossings
