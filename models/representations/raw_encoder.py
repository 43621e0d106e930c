"""What representations share whose network takes the columns as they are: inputs, evaluation, a standardised latent space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from ..networks.cl4ad import settle
from ..networks.dense import BATCH, one_thread
from ..networks.encoder_inputs import Scheme, describe
from ..training import ParquetSample, Sample, Task, train
from ..training_task import TrainPlan
from .object_encoder import Encoder


@dataclass
class RawEncoder(Encoder):
    """An encoder of raw columns: objects, constituents of a jet or plain columns, see `describe`.

    Who inherits has the settings ``epochs``, ``batch``, ``learning_rate``, ``schedule``, makes a sample of training, and says in
    ``_recipe`` how network and loss are made. What is given on is standardised by the reference: mean 0, width 1 there.
    """

    inputs_: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    center_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    spread_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def _learn(
        self,
        reference: Events,
        sample: Sample | ParquetSample,
        shown: NDArray[Any],
        scheme: Scheme = "angles",
    ) -> None:
        """Train on ``sample``; ``shown`` (n, d) are raw columns of its events, by which inputs and normalisations are scaled."""
        import torch

        self.features_, self._network, self.weights_ = reference.features, None, {}
        self.inputs_ = describe(reference.features, shown, scheme)
        plan = self.trainer or TrainPlan()
        build, loss = self._recipe()
        task = Task(build, self._config(), loss, sample, draws=True)
        result = train(task, plan.settings(self._how(), 1), plan.folder, plan.progress)
        network = build(self._config())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(torch.from_numpy(result.state[name]))
        with one_thread():
            settle(network, torch.from_numpy(np.ascontiguousarray(shown, np.float32)))
        self.weights_ = {name: value.numpy().copy() for name, value in network.state_dict().items()}
        self.record_ = result.record
        self._standardise(reference)

    def _standardise(self, reference: Events) -> None:
        """Mean and width of the latent space from ``reference``, and a look at it."""
        h = self._latent(reference.x).astype(np.float64)
        self.center_, spread = h.mean(axis=0), h.std(axis=0)
        self.spread_ = np.where(np.ptp(h, axis=0) > 0, spread, 1.0)
        if len(reference) > 1:
            self._look(reference.take(slice(0, 2000)))

    def _how(self) -> Any:
        """Who has the settings of the training as attributes."""
        return self

    def _latent(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Latent vectors of raw columns x (n, d), (n, width), not standardised."""
        step = BATCH if self._config()["network"] == "dense" else 256
        return self._evaluated(x, step, lambda network, rows: network.represent(rows))

    def transform(self, events: Events) -> Events:
        """The same events with the standardised latent vector as features, (n, width)."""
        self._require_known(events)
        h = (self._latent(events.x) - self.center_) / self.spread_
        return replace(events, x=h.astype(np.float32), features=self.features(events.features))

    def _width(self) -> int:
        how: Any = self
        return how.latent

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by their names, the columns and their scale, how it was trained and what came of it."""
        info, arrays, texts = super().state()
        weights = {f"weights/{name}": value for name, value in arrays.items()}
        return (
            {**info, "inputs": self.inputs_},
            {**weights, "center": self.center_, "spread": self.spread_},
            texts,
        )

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.inputs_, self.center_, self.spread_ = info["inputs"], arrays["center"], arrays["spread"]
        super().restore(info, weights, texts)
        return self


#: Sizes of the transformer of `Cl4ad`.
TRANSFORMER: Mapping[str, Any] = {"width": 64, "heads": 8, "layers": 4, "feedforward": 256, "dropout": 0.025}


def check_sizes(**widths: Any) -> None:
    """Raise `ConfigError` naming the first width, or tuple of them, that is not at least 1."""
    for name, value in widths.items():
        if not value or min(value if isinstance(value, tuple) else (value,)) < 1:
            raise ConfigError(f"{name}: found {value}, expected widths of at least 1")
