"""A weak classifier of boosted trees: data against reference, an ensemble with different splits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, identity_hash


def check_training(events: Events, role: str) -> None:
    """Refuse what no classifier can learn from: nothing, numbers that are not finite, negative weights."""
    if len(events) == 0:
        raise InputError(f"{role}: no events to learn from; widen the window or the sidebands")
    bad = ~np.isfinite(events.x).all(axis=0)
    if bad.any():
        names = [n for n, b in zip(events.features.names, bad, strict=True) if b]
        raise InputError(f"{role}: column {names[0]} has values that are not finite")
    if not np.all(np.isfinite(events.weight)) or np.any(events.weight < 0) or events.weight.sum() <= 0:
        raise InputError(f"{role}: weights must be finite, not negative, and not all zero to train a classifier")


def balanced(reference: Events, data: Events) -> NDArray[np.float64]:
    """Weights of (reference, data) one after the other, each class summing to half the number of rows."""
    half = (len(reference) + len(data)) / 2
    parts = [e.weight * (half / e.weight.sum()) for e in (reference, data)]
    return np.concatenate(parts)


@dataclass
class WeakTrees:
    """Gradient-boosted trees trained on mixed samples (2309.13111).

    Classes weigh the same; every member has its own half for training and half for early stopping, chosen by a hash
    of the event's identity and the member's seed; the score is the mean probability of "data", in (0, 1). Beside the
    paper's defaults (200 rounds, 31 leaves, learning rate 0.1, 255 bins, stop after 10 rounds), ``min_rounds`` keeps
    a minimum because early stopping at small signal fractions otherwise stops after a few.
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
    seed: int = 0
    threads: int = 1
    trees_: list[str] = field(default_factory=list, repr=False)
    _boosters: list[Any] = field(default_factory=list, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Train all members; raises `InputError` on empty samples, bad values or negative weights."""
        check_training(reference, "reference")
        check_training(data, "data")
        x = np.concatenate([reference.x, data.x])
        y = np.concatenate([np.zeros(len(reference)), np.ones(len(data))])
        weight = balanced(reference, data)
        identity = np.concatenate([reference.identity, data.identity])
        # Rows in the order of their identity, so that the order of files or workers changes nothing.
        order = np.argsort(identity_hash(identity, self.seed), kind="stable")
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
        if held.all() or not held.any():
            raise InputError(f"validation {self.validation} leaves nothing to train or to stop on ({len(y)} events)")
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
        train = lgb.Dataset(x[~held], y[~held], weight=weight[~held], free_raw_data=False)
        stop = lgb.Dataset(x[held], y[held], weight=weight[held], reference=train)
        halt = lgb.early_stopping(self.stop_after, verbose=False)
        booster = lgb.train(settings, train, self.rounds, valid_sets=[stop], callbacks=[halt])
        best = booster.best_iteration or booster.num_trees()
        rounds = min(max(best, self.min_rounds), booster.num_trees())
        return booster.model_to_string(num_iteration=rounds)

    def score(self, events: Events) -> NDArray[np.float64]:
        """Mean probability that the event is from the data, shape (n,)."""
        import lightgbm as lgb

        if len(self._boosters) != len(self.trees_):
            self._boosters = [lgb.Booster(model_str=text) for text in self.trees_]
        if not self._boosters:
            raise InputError("this WeakTrees has not been fitted")
        if len(events) == 0:
            return np.zeros(0)
        total = np.zeros(len(events))
        for booster in self._boosters:
            total += np.asarray(booster.predict(events.x, num_threads=self.threads), dtype=np.float64)
        return total / len(self._boosters)

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
