"""Boosted trees in whole numbers: what a tree student and its firmware hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .errors import FeatureError
from .fixed import Fixed, Ints


@nb.njit(cache=True, nogil=True)
def _sum_leaves(
    codes: Ints, feature: NDArray[np.int32], threshold: Ints, left: NDArray[np.int32], right: NDArray[np.int32],
    value: Ints, roots: NDArray[np.int32],
) -> Ints:  # fmt: skip
    out = np.zeros(len(codes), np.int64)
    for i in range(len(codes)):
        for node in roots:
            here = node
            while feature[here] >= 0:
                here = left[here] if codes[i, feature[here]] <= threshold[here] else right[here]
            out[i] += value[here]
    return out


@dataclass(frozen=True)
class IntegerTrees:
    """Trees whose thresholds and leaves are integers of fixed-point types; an event's score is the sum of its leaves.

    All trees lie in one list of nodes: ``feature`` (m,), -1 at a leaf; ``threshold`` (m,) in units of the last bit of
    ``input``, an event goes ``left`` (m,) where its input is at most that, else ``right`` (m,); ``value`` (m,) of the
    leaves in units of the last bit of ``output``, whose range holds every possible sum; ``roots`` (t,): where each tree begins.
    """

    columns: int
    input: Fixed
    output: Fixed
    feature: NDArray[np.int32]
    threshold: Ints
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Ints
    roots: NDArray[np.int32]

    def evaluate(self, codes: Ints) -> Ints:
        """Sums of leaves (n,) of input integers ``codes`` (n, columns)."""
        if codes.ndim != 2 or codes.shape[1] != self.columns:
            raise FeatureError(f"the trees take {self.columns} inputs per event, found {codes.shape}")
        nodes: tuple[Any, ...] = (self.feature, self.threshold, self.left, self.right, self.value, self.roots)
        return _sum_leaves(np.ascontiguousarray(codes), *nodes)

    @property
    def depth(self) -> int:
        """Comparisons on the longest way from a root to a leaf."""
        deepest, below = 0, [(int(root), 0) for root in self.roots]
        while below:
            node, level = below.pop()
            deepest = max(deepest, level)
            if self.feature[node] >= 0:
                below += [(int(self.left[node]), level + 1), (int(self.right[node]), level + 1)]
        return deepest
