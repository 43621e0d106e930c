"""A dense autoencoder for the trigger: what it cannot rebuild is odd (2108.03986)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...events import Events
from ..networks.dense import BATCH, build_dense, evaluate_columns, layers_of, load_weights
from ..training import ParquetSample, Sample, Task, TrainPlan, train
from .hardware_inputs import HardwareNetwork
from .weak_trees import check_scored


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
class Autoencoder(HardwareNetwork):
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

    def _train(self, sample: Sample | ParquetSample) -> Self:
        plan = self.trainer or TrainPlan()
        settings = plan.settings(self, self.shards)
        result = train(
            Task(build_dense, self._config(), reconstruction, sample), settings, plan.folder, plan.progress
        )
        return self._keep(result.state, result.record)

    def score(self, events: Events) -> NDArray[np.float64]:
        """Squared distance between the scaled event and its reconstruction, shape (n,)."""
        self._check()
        check_scored(events, self.columns_, "Autoencoder")
        if self._ready is None:
            self._ready = layers_of(self.weights_)
        out = np.empty(len(events))
        for start in range(0, len(events), BATCH):
            columns = self._columns(events.x[start : start + BATCH], BATCH)
            difference = evaluate_columns(self._ready, columns)
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
