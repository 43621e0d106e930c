"""A dense variational autoencoder for search and trigger: one training, four ways to call an event odd (2108.03986)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from ..networks.dense import BATCH, evaluate, load_weights
from ..networks.variational import build_variational, variational_loss
from ..training import ParquetSample, Sample, Task, TrainPlan, train
from .hardware_inputs import HardwareNetwork
from .weak_trees import check_scored

Kind = Literal["mse", "mu2", "kl", "elbo"]


@dataclass
class VariationalAutoencoder(HardwareNetwork):
    """Dense encoder d - hidden - latent (mean, ln variance) and mirrored decoder, ReLU; loss = MSE + ``beta`` KL.

    ``kind`` of score, all of the mean code, nothing drawn: "mse" squared error summed over inputs, "mu2" sum of squared means, "kl"
    divergence from N(0, 1), "elbo" the loss itself. They rank events differently. "mse" and "mu2" have a network of Linear and
    ReLU and can become firmware; the others have an exponential and cannot.

    Inputs are scaled as in Level-1 hardware, see `input_scale`: by powers of two, not to exactly unit variance, and an empty slot is
    a number like any other, not masked. Trained on ``reference`` alone, events in the order of their identity.
    """

    paper: ClassVar[str] = "2108.03986"

    hidden: tuple[int, ...] = (32, 16)
    latent: int = 8
    beta: float = 0.01
    kind: Kind = "mse"
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    shards: int = 4

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind: found {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if not self.beta > 0 or not self.hidden or self.latent < 1:
            raise ConfigError(
                f"found beta {self.beta}, hidden {self.hidden}, latent {self.latent}; expected a positive beta, at least one "
                "hidden layer and one latent number"
            )

    def _train(self, sample: Sample | ParquetSample) -> Self:
        plan = self.trainer or TrainPlan()
        task = Task(build_variational, self._config(), variational_loss, sample, draws=True)
        result = train(task, plan.settings(self, self.shards), plan.folder, plan.progress)
        return self._keep(result.state, result.record)

    def _config(self) -> Mapping[str, Any]:
        widths = [self.columns_, *self.hidden]
        return {"widths": widths, "latent": self.latent, "beta": self.beta, "seed": self.seed}

    def score(self, events: Events) -> NDArray[np.float64]:
        """The number that ``kind`` names, shape (n,)."""
        self._check()
        check_scored(events, self.columns_, "VariationalAutoencoder")
        if self._ready is None:
            self._ready = load_weights(build_variational(self._config()), self.weights_)
        parts = [np.zeros((0, 3), np.float32)]
        for start in range(0, len(events), BATCH):
            parts.append(evaluate(self._ready, self.scale(events.x[start : start + BATCH])))
        error, squares, divergence = np.concatenate(parts).astype(np.float64).T
        elbo = error / self.columns_ + self.beta * divergence
        return {"mse": error, "mu2": squares, "kl": divergence, "elbo": elbo}[self.kind]

    def network(self) -> Any:
        """The score as one ``torch.nn.Module`` in eval mode: `scale`'s output (n, d) to scores (n,).

        Raises `ConfigError` for the kinds "kl" and "elbo", which have an exponential.
        """
        import torch

        self._check()
        if self.kind in ("kl", "elbo"):
            raise ConfigError(
                f"kind: '{self.kind}' has an exponential, which firmware has not; use mse or mu2"
            )
        whole, error = load_weights(build_variational(self._config()), self.weights_), self.kind == "mse"
        decoder = list(whole.decoder) if error else []

        class Deployed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.Sequential(*whole.encoder, whole.mean, *decoder)

            def forward(self, x: Any) -> Any:
                out = self.layers(x) - x if error else self.layers(x)
                return torch.einsum("bi,bi->b", out, out)

        return Deployed().eval()
