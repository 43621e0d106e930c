"""A weak classifier that is a network: data against reference, mean over its best epochs (2109.00546)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash
from ..networks.dense import BATCH, build_dense, evaluate_columns, layers_of, scaled_columns
from ..training import Sample, Task, TrainingRecord, TrainSettings, train
from .weak_trees import balance, check_probability, check_scored, check_training


def cross_entropy(network: Any, x: Any, y: Any) -> Any:
    """-ln p(label y) where the network's output (n, 1) is ln p / (1 - p) of label 1, shape (n,)."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(network(x)[:, 0], y, reduction="none")


@dataclass
class WeakNetwork:
    """Network 64-64-64 trained on mixed samples, Adam, batches of 128 (the classifier of CATHODE, 2109.00546).

    Both classes weigh the same. A hash of identity and seed puts the part ``validation`` of the events aside; the
    score is the mean probability of "data", in (0, 1), over the ``best`` epochs of lowest validation loss. Inputs are
    standardised with mean and width of the training part.
    """

    paper: ClassVar[str] = "2109.00546"

    hidden: tuple[int, ...] = (64, 64, 64)
    epochs: int = 100
    best: int = 10
    batch: int = 128
    learning_rate: float = 1e-3
    validation: float = 0.5
    seed: int = 0
    mean_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    width_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    members_: list[dict[str, NDArray[Any]]] = field(default_factory=list, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _layers: list[Any] = field(default_factory=list, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Train; raises `InputError` on empty samples, bad values or negative weights, `ConfigError` on a bad split."""
        check_training(reference, "reference")
        check_training(data, "data")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation: found {self.validation}, expected a fraction between 0 and 1")
        x = np.concatenate([reference.x, data.x]).astype(np.float64)
        y = np.concatenate([np.zeros(len(reference)), np.ones(len(data))])
        weight = np.concatenate([reference.weight, data.weight])
        hashes = identity_hash(np.concatenate([reference.identity, data.identity]), self.seed)
        order = np.lexsort((y, hashes))
        held = hashes[order] / 2.0**64 < self.validation
        train_rows, held_rows = order[~held], order[held]
        balanced = balance(weight[train_rows], y[train_rows])
        self.mean_ = np.average(x[train_rows], axis=0, weights=balanced)
        spread = np.sqrt(np.average((x[train_rows] - self.mean_) ** 2, axis=0, weights=balanced))
        # A constant column's deviation is rounding, by which nothing may be divided.
        self.width_ = np.where(np.ptp(x[train_rows], axis=0) > 0, spread, 1.0)

        def sample(rows: NDArray[Any]) -> Sample:
            return Sample(self._inputs(x[rows]), y[rows], balance(weight[rows], y[rows]))

        settings = TrainSettings.of(self, self.seed)
        result = train(
            Task(build_dense, self._config(), cross_entropy, sample(train_rows), sample(held_rows)), settings
        )
        self.members_, self.record_, self._layers = list(result.states), result.record, []
        return self

    def _inputs(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return ((x.astype(np.float64) - self.mean_) / self.width_).astype(np.float32)

    def _config(self) -> Mapping[str, Any]:
        return {"sizes": [len(self.mean_), *self.hidden, 1], "seed": self.seed}

    def score(self, events: Events) -> NDArray[np.float64]:
        """Mean probability that the event is from the data, shape (n,)."""
        if not self.members_:
            raise InputError("this WeakNetwork has not been fitted")
        check_scored(events, len(self.mean_), "WeakNetwork")
        if len(self._layers) != len(self.members_):
            self._layers = [layers_of(m) for m in self.members_]
        total, factor = np.zeros(len(events)), 1.0 / self.width_
        for start in range(0, len(events), BATCH):
            rows = events.x[start : start + BATCH]
            columns = scaled_columns(rows, self.mean_, factor, np.inf, BATCH)
            for layers in self._layers:
                logit = evaluate_columns(layers, columns)[0, : len(rows)].astype(np.float64)
                total[start : start + BATCH] += 0.5 * (1.0 + np.tanh(0.5 * logit))
        return check_probability(total / len(self._layers), "WeakNetwork")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch modules."""
        return {**self.__dict__, "_layers": []}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights of every kept epoch, means and widths, and how it was trained."""
        arrays = {f"{i}/{k}": v for i, member in enumerate(self.members_) for k, v in member.items()}
        record = None if self.record_ is None else self.record_.to_json()
        info = {"members": len(self.members_), "record": record}
        return info, {"mean": self.mean_, "width": self.width_, **arrays}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.mean_, self.width_ = arrays["mean"], arrays["width"]
        self.members_ = [
            {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
            for i in range(info["members"])
        ]
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self._layers = []
        return self
