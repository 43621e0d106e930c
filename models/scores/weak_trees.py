"""A weak classifier of boosted trees: data against reference, an ensemble with different splits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError, InputError
from ...events import Events, identity_hash


def check_training(events: Events, role: str) -> None:
    """Refuse what no classifier can learn from: nothing, numbers that are not finite, negative weights, one event."""
    if len(events) == 0:
        raise InputError(f"{role}: no events to learn from; widen the window or the sidebands")
    bad = ~np.isfinite(events.x).all(axis=0)
    if bad.any():
        name = events.features.names[int(np.argmax(bad))]
        raise InputError(
            f"{role}: column {name} has values that are not finite; look at the processor's output"
        )
    if not np.all(np.isfinite(events.weight)) or np.any(events.weight < 0) or events.weight.sum() <= 0:
        raise InputError(
            f"{role}: weights must be finite, not negative, and not all zero to train a classifier"
        )
    share = events.weight.max() / events.weight.sum()
    if share > 0.1 and events.weight.max() > 10 * np.median(events.weight[events.weight > 0]):
        raise InputError(
            f"{role}: one of {len(events)} events carries {100 * share:.3g} % of the weight; no model can learn from "
            "one event: look for its cause, then cut it or lower its weight"
        )


def check_scored(events: Events, columns: int, who: str) -> None:
    """Refuse events of another width than the model's, or with values that are not finite."""
    if len(events.features) != columns:
        raise FeatureError(f"the events have {len(events.features)} columns, the {who} takes {columns}")
    bad = ~np.isfinite(events.x).all(axis=0)
    if bad.any():
        name = events.features.names[int(np.argmax(bad))]
        raise InputError(
            f"column {name} of an event to be scored is not finite; look at the processor's output"
        )


def check_probability(score: NDArray[np.float64], who: str) -> NDArray[np.float64]:
    """``score`` (n,) as it is; raises `FeatureError` where it is no probability: the model is damaged, or another one."""
    bad = ~((score >= 0) & (score <= 1))  # NaN too
    if bad.any():
        raise FeatureError(
            f"{who} gave {int(bad.sum())} of {len(score)} scores outside 0 to 1, the first {score[np.argmax(bad)]:g}; "
            "train again"
        )
    return score


def balance(weight: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights with which both labels sum to half the number of rows, whatever the order of the rows.

    Raises `InputError` if a label has no weight.
    """
    out = weight.astype(np.float64)
    for label in (0, 1):
        # fsum rounds once, so the order of the rows changes no bit
        total = math.fsum(weight[y == label])
        if total <= 0:
            name = "data" if label else "reference"
            raise InputError(f"{len(y)} events: a part of the {name} is empty after the split for validation")
        out[y == label] *= 0.5 * len(y) / total
    return out


class _LateStop:
    """LightGBM's early stopping that may end the training only after ``least`` rounds."""

    before_iteration = False

    def __init__(self, patience: int, least: int) -> None:
        import lightgbm as lgb

        self.stop, self.least = lgb.early_stopping(patience, verbose=False), least
        self.order = self.stop.order  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(self, env: Any) -> None:
        from lightgbm.callback import EarlyStopException

        try:
            self.stop(env)
        except EarlyStopException:
            if env.iteration + 1 >= self.least:
                raise


@dataclass
class WeakTrees:
    """Gradient-boosted trees trained on mixed samples (2309.13111).

    Classes weigh the same; every member has its own half for training and half for early stopping, chosen by a hash
    of the event's identity and the member's seed; the score is the mean probability of "data", in (0, 1). Beside the
    paper's defaults (200 rounds, 31 leaves, learning rate 0.1, 255 bins, stop after 10 rounds), every member keeps at
    least ``min_rounds`` trees, because early stopping at small signal fractions otherwise stops after one or two.

    ``max_features``: share of the columns that a member sees, another random subset for each (attribute bagging,
    2604.20965); of tens of columns without information a member then meets few, so more of its splits are on the others.
    """

    paper: ClassVar[str] = "2309.13111"

    members: int = 10
    rounds: int = 200
    leaves: int = 31
    learning_rate: float = 0.1
    bins: int = 255
    min_per_leaf: int = 20
    min_rounds: int = 20
    stop_after: int = 10
    validation: float = 0.5
    max_features: float = 1.0
    seed: int = 0
    threads: int = 1
    trees_: list[str] = field(default_factory=list, repr=False, compare=False)
    _boosters: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.members < 1 or not 0 < self.validation < 1 or not 1 <= self.min_rounds <= self.rounds:
            raise ConfigError(
                f"found members {self.members}, validation {self.validation}, min_rounds {self.min_rounds}, rounds "
                f"{self.rounds}; expected members >= 1, validation between 0 and 1, 1 <= min_rounds <= rounds"
            )
        if not 0 < self.max_features <= 1:
            raise ConfigError(
                f"max_features: found {self.max_features}, expected a share above 0 and at most 1"
            )

    def fit(self, reference: Events, data: Events) -> Self:
        """Train all members; raises `InputError` on empty samples, bad values or negative weights."""
        check_training(reference, "reference")
        check_training(data, "data")
        x = np.concatenate([reference.x, data.x])
        y = np.concatenate([np.zeros(len(reference)), np.ones(len(data))])
        weight = np.concatenate([reference.weight, data.weight])
        identity = np.concatenate([reference.identity, data.identity])
        # Rows in the order of their identity, so that the order of files or workers changes nothing.
        order = np.lexsort((y, identity_hash(identity, self.seed)))
        x, y, weight, identity = x[order], y[order], weight[order], identity[order]
        self.trees_ = [self._member(i, x, y, weight, identity) for i in range(self.members)]
        self._boosters = []
        return self

    def _member(
        self, i: int, x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any], identity: NDArray[np.void]
    ) -> str:
        import lightgbm as lgb

        seed = int(np.random.SeedSequence([self.seed, i]).generate_state(1)[0] >> 1)
        held = identity_hash(identity, seed) / 2.0**64 < self.validation
        x = self._seen(x, seed)
        settings = {
            "objective": "binary",
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "max_bin": self.bins,
            "min_data_in_leaf": self.min_per_leaf,
            "num_threads": self.threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        }
        train = lgb.Dataset(x[~held], y[~held], weight=balance(weight[~held], y[~held]), free_raw_data=False)
        stop = lgb.Dataset(x[held], y[held], weight=balance(weight[held], y[held]), reference=train)
        halt = _LateStop(self.stop_after, self.min_rounds)
        # Without keep_training_booster LightGBM drops every tree after the best round at once.
        booster = lgb.train(
            settings, train, self.rounds, valid_sets=[stop], callbacks=[halt], keep_training_booster=True
        )
        rounds = max(booster.best_iteration, self.min_rounds)
        return booster.model_to_string(num_iteration=rounds)

    def _seen(self, x: NDArray[Any], seed: int) -> NDArray[Any]:
        """``x`` as a member sees it: a column that it does not is constant, and no tree splits on that."""
        columns = x.shape[1]
        hidden = columns - max(1, round(self.max_features * columns))
        if hidden == 0:
            return x
        seen = x.copy()
        seen[:, np.random.default_rng([seed, 1]).permutation(columns)[:hidden]] = 0.0
        return seen

    def score(self, events: Events) -> NDArray[np.float64]:
        """Mean probability that the event is from the data, shape (n,)."""
        import lightgbm as lgb

        if len(self._boosters) != len(self.trees_):
            self._boosters = [lgb.Booster(model_str=text) for text in self.trees_]
        if not self._boosters:
            raise InputError("this WeakTrees has not been fitted")
        check_scored(events, self._boosters[0].num_feature(), "WeakTrees")
        if len(events) == 0:
            return np.zeros(0)
        total = np.zeros(len(events))
        for booster in self._boosters:
            total += np.asarray(booster.predict(events.x, num_threads=self.threads), dtype=np.float64)
        return check_probability(total / len(self._boosters), "WeakTrees")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the tree text, not the library's handles."""
        return {**self.__dict__, "_boosters": []}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The trees in LightGBM's own text format."""
        return {"members": len(self.trees_)}, {}, {f"trees_{i}": t for i, t in enumerate(self.trees_)}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.trees_ = [texts[f"trees_{i}"] for i in range(info["members"])]
        self._boosters = []
        return self
