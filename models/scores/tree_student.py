"""Boosted trees that imitate another score in whole numbers, for firmware that only compares and adds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, in_identity_order
from ...fixed import Fixed, Ints
from ...trees import IntegerTrees
from ..base import Score
from ..nesting import restore_under, state_under
from .hardware_inputs import input_scale
from .weak_trees import check_scored, check_training

#: LightGBM refuses more leaves in a tree.
MAX_DEPTH = 12


def integer_trees(booster: Any, columns: int, source: Fixed, leaf: Fixed) -> IntegerTrees:
    """A LightGBM regression on integers as trees of integers.

    Thresholds lie between two integers and are rounded down, which changes no decision; leaves are rounded to ``leaf``.
    The sum's type has as many more bits as the number of trees asks for. Raises `InputError` for a leaf beyond its type.
    """
    rows: list[tuple[int, int, int, int, float]] = []

    def walk(node: dict[str, Any]) -> int:
        here = len(rows)
        rows.append((-1, 0, 0, 0, float(node.get("leaf_value", 0.0))))
        if "split_feature" in node:
            threshold = int(np.floor(node["threshold"]))
            left, right = walk(node["left_child"]), walk(node["right_child"])
            rows[here] = (int(node["split_feature"]), threshold, left, right, 0.0)
        return here

    bounds = leaf.low * leaf.step, leaf.high * leaf.step
    roots = [walk(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    feature, threshold, left, right, value = zip(*rows, strict=True)
    if min(value) < bounds[0] or max(value) > bounds[1]:
        raise InputError(
            f"leaves from {min(value):g} to {max(value):g} do not fit into {leaf}; widen leaf, or learn the logarithm"
        )
    more = int(np.ceil(np.log2(max(len(roots), 2))))
    return IntegerTrees(
        columns, source, Fixed(leaf.width + more, leaf.integer + more), np.array(feature, np.int32),
        np.array(threshold, np.int64), np.array(left, np.int32), np.array(right, np.int32),
        leaf.from_float(np.array(value)), np.array(roots, np.int32),
    )  # fmt: skip


@dataclass
class TreeStudent:
    """Boosted trees distilled from ``inner``, with the arithmetic of their firmware (trees on FPGAs: 2002.02534).

    ``inner`` is fitted first; then least-squares trees learn ln(its score) (``target`` "plain": the score itself) of the
    reference from inputs scaled and rounded as in level-1 hardware: (x - offset) * 2^-shift, see `input_scale`, in the
    fixed-point type ``input``. Leaves are rounded to ``leaf``. So the score, a sum of leaves, is what the
    firmware computes, bit by bit. A crossing counts alike whatever its weight: a threshold lies in the tail, where samples
    with weights have many crossings of little weight.
    """

    paper: ClassVar[str] = "2002.02534"

    inner: Score
    trees: int = 100
    depth: int = 4
    learning_rate: float = 0.2
    min_per_leaf: int = 20
    target: Literal["log", "plain"] = "log"
    input: str = "fixed<16,8,RND_CONV,SAT>"
    leaf: str = "fixed<16,6,RND_CONV,SAT>"
    low: float = 5.0
    high: float = 95.0
    seed: int = 0
    threads: int = 1
    offset_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    shift_: NDArray[Any] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False
    )
    trees_: IntegerTrees | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.trees < 1 or not 1 <= self.depth <= MAX_DEPTH:
            raise ConfigError(
                f"found trees {self.trees}, depth {self.depth}; expected at least 1 tree and a depth of 1 to {MAX_DEPTH}"
            )
        for name in ("input", "leaf"):
            try:
                Fixed.parse(getattr(self, name))
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from None

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit the teacher, then its student on ``reference``; raises `InputError` where ln(score) does not exist."""
        check_training(reference, "reference")
        self.inner = self.inner.fit(reference, data)
        events = in_identity_order(reference, self.seed)
        wanted = self.inner.score(events)
        if self.target == "log":
            if not (wanted > 0).all():
                raise InputError(
                    f"the teacher gives {int((wanted <= 0).sum())} of {len(wanted)} events a score that is not above 0, "
                    "which has no logarithm; set target: plain"
                )
            wanted = np.log(wanted)
        self.offset_, self.shift_ = input_scale(events, self.low, self.high)
        self.trees_ = self._grow(self.codes(events.x), wanted)
        return self

    def _grow(self, codes: Ints, wanted: NDArray[np.float64]) -> IntegerTrees:
        import lightgbm as lgb

        settings = {
            "objective": "regression", "num_leaves": 2**self.depth, "max_depth": self.depth, "verbose": -1,
            "learning_rate": self.learning_rate, "min_data_in_leaf": self.min_per_leaf, "num_threads": self.threads,
            "bagging_fraction": 0.9, "bagging_freq": 1, "seed": self.seed, "deterministic": True,
            "force_row_wise": True, "use_missing": False,
        }  # fmt: skip
        booster = lgb.train(settings, lgb.Dataset(codes.astype(np.float64), wanted), self.trees)
        return integer_trees(booster, codes.shape[1], Fixed.parse(self.input), Fixed.parse(self.leaf))

    def codes(self, x: NDArray[Any]) -> Ints:
        """Input integers (n, d) of raw columns x (n, d)."""
        scaled = (np.asarray(x, np.float64) - self.offset_) * np.ldexp(1.0, -self.shift_)
        return Fixed.parse(self.input).from_float(scaled)

    def score(self, events: Events) -> NDArray[np.float64]:
        """The sum of leaves, shape (n,), exact multiples of the last bit of `leaf`."""
        trees = self.integers()
        check_scored(events, trees.columns, "TreeStudent")
        return trees.output.to_float(trees.evaluate(self.codes(events.x)))

    def integers(self) -> IntegerTrees:
        """The trees as firmware has them; an `InputError` before `fit`."""
        if self.trees_ is None:
            raise InputError("this TreeStudent has not been fitted")
        return self.trees_

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The integers of the trees, offsets and shifts, and the teacher."""
        info, arrays, texts = state_under("inner", self.inner)
        if self.trees_ is None:
            return {"inner": info, "columns": None}, arrays, texts
        t = self.trees_
        own = {"offset": self.offset_, "shift": self.shift_}
        own |= {k: getattr(t, k) for k in ("feature", "threshold", "left", "right", "value", "roots")}
        about = {"columns": t.columns, "input": str(t.input), "output": str(t.output)}
        return {"inner": info, **about}, own | arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        if info["columns"] is None:
            return self
        self.offset_, self.shift_ = arrays["offset"], arrays["shift"]
        own = {k: arrays[k] for k in ("feature", "threshold", "left", "right", "value", "roots")}
        self.trees_ = IntegerTrees(
            info["columns"], Fixed.parse(info["input"]), Fixed.parse(info["output"]), **own
        )
        return self
