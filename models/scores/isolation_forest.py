"""Isolation forest: what a few random cuts set apart is odd."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from .coordinates import Coordinates


def expected_path(n: NDArray[Any] | int) -> NDArray[np.float64]:
    """Mean depth of an unsuccessful search among ``n`` values: 2 H(n - 1) - 2 (n - 1) / n with H(i) = ln i + 0.5772; 0 and 1 for n = 1, 2."""
    number = np.asarray(n, dtype=np.float64)
    many = np.maximum(number, 3.0)
    long = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(number > 2, long, np.where(number == 2, 1.0, 0.0))


@nb.njit(cache=True, nogil=True)
def _grow(
    x: NDArray[np.float64], draws: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """One tree of rows x (n, d): feature (-1: a leaf), threshold, first child (the second follows), depth, events; per node.

    ``draws`` (nodes, 2): uniform numbers, for the column (among those not constant in the node) and the cut.
    """
    n, d = x.shape
    size = len(draws)
    feature, threshold = np.full(size, -1, np.int32), np.zeros(size)
    child, depth, count = np.zeros(size, np.int32), np.zeros(size, np.int64), np.zeros(size, np.int64)
    begin, end, rows = np.zeros(size, np.int64), np.zeros(size, np.int64), np.arange(n)
    lows, highs, free = np.empty(d), np.empty(d), np.empty(d, np.int64)
    end[0], made, node = n, 1, 0
    while node < made:
        first, last, found = begin[node], end[node], 0
        count[node] = last - first
        for j in range(d if depth[node] < limit else 0):
            lows[j] = highs[j] = x[rows[first], j]
            for i in range(first + 1, last):
                lows[j], highs[j] = min(lows[j], x[rows[i], j]), max(highs[j], x[rows[i], j])
            if highs[j] > lows[j]:
                free[found] = j
                found += 1
        if found > 0:
            j = free[min(int(draws[node, 0] * found), found - 1)]
            cut = lows[j] + draws[node, 1] * (highs[j] - lows[j])
            cut = lows[j] if cut >= highs[j] else cut  # rounding must not leave a side empty
            middle = first
            for i in range(first, last):
                if x[rows[i], j] <= cut:
                    rows[i], rows[middle] = rows[middle], rows[i]
                    middle += 1
            feature[node], threshold[node], child[node] = j, cut, made
            begin[made], end[made], begin[made + 1], end[made + 1] = first, middle, middle, last
            depth[made] = depth[made + 1] = depth[node] + 1
            made += 2
        node += 1
    return feature, threshold, child, depth, count


@nb.njit(cache=True, nogil=True)
def path_lengths(
    x: NDArray[np.float64], feature: NDArray[np.int32], threshold: NDArray[np.float64],
    child: NDArray[np.int32], length: NDArray[np.float64],
) -> NDArray[np.float64]:  # fmt: skip
    """Mean over the trees (rows of the arrays) of the path length of each row of x, shape (n,)."""
    trees, out = len(feature), np.zeros(len(x))
    for i in range(len(x)):
        for t in range(trees):
            node = 0
            while feature[t, node] >= 0:
                node = child[t, node] + (0 if x[i, feature[t, node]] <= threshold[t, node] else 1)
            out[i] += length[t, node]
        out[i] /= trees
    return out


@dataclass
class IsolationForest(Coordinates):
    """Trees of random cuts on ``samples`` events each; score = 2^(-path / c), in (0, 1) (Liu, Ting and Zhou, ICDM 2008).

    A node cuts a column drawn at random, where it is not constant, at a place drawn uniformly between its extremes, down to
    depth ceil(log2(samples)); a leaf of n events adds the c(n) of `expected_path`, and c is that of the tree's events. The events
    of a tree are drawn without replacement, with probabilities in proportion to their weights.
    """

    paper: ClassVar[str] = ""
    _learnt: ClassVar[tuple[str, ...]] = ("feature_", "threshold_", "child_", "length_", "scale_")

    trees: int = 200
    samples: int = 256
    seed: int = 0
    feature_: NDArray[np.int32] = field(
        default_factory=lambda: np.zeros((0, 0), np.int32), repr=False, compare=False
    )
    threshold_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False
    )
    child_: NDArray[np.int32] = field(
        default_factory=lambda: np.zeros((0, 0), np.int32), repr=False, compare=False
    )
    length_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    scale_: NDArray[np.float64] = field(default_factory=lambda: np.ones(1), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trees < 1 or self.samples < 2:
            raise ConfigError(f"found trees {self.trees}, samples {self.samples}; expected at least 1 and 2")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on what cannot be learnt from."""
        v, weight = self._learn_coordinates(reference, self.seed)
        size, p = min(self.samples, len(v)), weight / weight.sum()
        limit, grown = int(np.ceil(np.log2(max(size, 2)))), []
        for tree in range(self.trees):
            rng = np.random.default_rng([self.seed % 2**64, tree])
            chosen = rng.choice(len(v), size, replace=False, p=p)
            grown.append(_grow(v[chosen], rng.random((2 * size, 2)), limit))
        self.feature_, self.threshold_, self.child_, depth, count = (
            np.stack([g[i] for g in grown]) for i in range(5)
        )
        self.length_ = depth + expected_path(count)
        self.scale_ = np.array([float(expected_path(size))])
        self._learn_floor(v)
        return self

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        path = path_lengths(v, self.feature_, self.threshold_, self.child_, self.length_)
        return np.exp2(-path / self.scale_[0])
