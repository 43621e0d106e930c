"""A dense autoencoder for the trigger: what it cannot rebuild is odd (2108.03986)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...events import Events, in_identity_order
from ..networks.dense import BATCH, build_dense, evaluate_columns, layers_of, load_weights
from ..training import Sample, Task, TrainingRecord, TrainPlan, train
from .hardware_inputs import HardwareInputs
from .weak_trees import check_scored, check_training


def reconstruction(network: Any, x: Any, y: Any) -> Any:  # noqa: ARG001
    """Sum of squared differences between x (n, d) and what the network makes of it, shape (n,)."""
    return (network(x) - x).square().sum(dim=1)


def _distance(layers: Any) -> Any:
    """A module (n, d) -> (n,): the squared distance between input and ``layers(input)``, in operations firmware has."""
    import torch

    class Distance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Any) -> Any:
            difference = self.layers(x) - x
            return torch.einsum("bi,bi->b", difference, difference)

    return Distance()


@dataclass
class Autoencoder(HardwareInputs):
    """Dense autoencoder d - hidden - latent - hidden - d with ReLU; score = sum of squared reconstruction errors.

    Inputs are scaled as in Level-1 hardware (2411.19506): (x - offset) * 2^-shift, see `input_scale`, then clipped to
    +- ``clip`` as the firmware's input type saturates (its default, fixed<16,8>, ends at 128). An empty slot is the
    number 0 in every column and goes through the same formula as any other number, for hardware does not know better.
    Training: Adam on the score itself, on ``reference`` alone, events in the order of their identity.
    """

    paper: ClassVar[str] = "2108.03986"

    hidden: tuple[int, ...] = (32, 16)
    latent: int = 8
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    shards: int = 4
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _layers: list[Any] = field(default_factory=list, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on an empty sample, values that are not finite or negative weights, `FitError` if the
        loss diverges.
        """
        check_training(reference, "reference")
        reference = in_identity_order(reference, self.seed)
        self._learn_scale(reference)
        plan = self.trainer or TrainPlan()
        settings = plan.settings(self, self.shards)
        sample = Sample(self.scale(reference.x), weight=reference.weight)
        result = train(
            Task(build_dense, self._config(), reconstruction, sample), settings, plan.folder, plan.progress
        )
        self.weights_, self.record_, self._network = result.state, result.record, []
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """Squared distance between the scaled event and its reconstruction, shape (n,)."""
        self._check()
        check_scored(events, self.columns_, "Autoencoder")
        if not self._layers:
            self._layers = layers_of(self.weights_)
        out = np.empty(len(events))
        for start in range(0, len(events), BATCH):
            columns = self._columns(events.x[start : start + BATCH], BATCH)
            difference = evaluate_columns(self._layers, columns)
            difference -= columns
            difference *= difference
            out[start : start + BATCH] = difference.sum(axis=0)[: len(events) - start]
        return out

    def network(self) -> Any:
        """The score as one ``torch.nn.Module`` in eval mode: `scale`'s output (n, d) to scores (n,)."""
        self._check()
        return _distance(load_weights(build_dense(self._config()), self.weights_)).eval()

    def _config(self) -> Mapping[str, Any]:
        middle = [*self.hidden, self.latent, *reversed(self.hidden)]
        return {"sizes": [self.columns_, *middle, self.columns_], "seed": self.seed}

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**super().__getstate__(), "_layers": []}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by parameter name, offsets and shifts, and how it was trained."""
        record = None if self.record_ is None else self.record_.to_json()
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        arrays = {"offset": self.offset_, "shift": self.shift_, **weights}
        return {"columns": self.columns_, "record": record}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_, self.offset_, self.shift_ = info["columns"], arrays["offset"], arrays["shift"]
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self._layers = []
        return self
