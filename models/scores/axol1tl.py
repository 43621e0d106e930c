"""The level-1 anomaly score of CMS, versions 1 to 4: the squared mean of a variational encoder (2312.10009, 2411.19506)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events, FeatureSet
from ..networks.dense import BATCH, initialise, one_thread
from ..networks.quantised import Pruner, Types, masked, quantised_layers
from ..training import ParquetSample, Sample, Task, TrainPlan, train
from .hardware_inputs import HardwareNetwork
from .weak_trees import check_scored

#: Bounds of ln variance in training.
_LARGEST_LOG_VARIANCE = 10.0


def build_vae(config: Mapping[str, Any]) -> Any:
    """Encoder, heads of mean and ln variance, and decoder, with first weights from ``seed``.

    ``config``: ``encoder`` (widths from input to the last hidden layer), ``latent``, ``decoder`` (hidden widths), ``beta``,
    ``types`` (of `Types`, or None), ``seed``, and perhaps ``pruning``. The first layers, `encoder` and `mean`, are the firmware's.
    """
    import torch
    from torch.nn import Linear, ModuleList
    from torch.nn.utils import skip_init

    def dense(widths: list[int]) -> Any:
        return ModuleList(skip_init(Linear, a, b) for a, b in pairwise(widths))

    network = torch.nn.Module()
    encoder, latent = list(config["encoder"]), int(config["latent"])
    network.encoder = dense(encoder)
    network.mean, network.log_variance = (
        skip_init(Linear, encoder[-1], latent),
        skip_init(Linear, encoder[-1], latent),
    )
    network.decoder = dense([latent, *config["decoder"], encoder[0]])
    types = None if config["types"] is None else Types(**config["types"])
    network.beta, network.types = float(config["beta"]), types  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    initialise(network, int(config["seed"]))
    with torch.no_grad():
        for parameter in network.log_variance.parameters():
            parameter.mul_(0.1)  # variances begin near 1
    if config.get("pruning"):
        weights: list[Any] = [layer.weight for layer in (*network.encoder, network.mean)]
        masks = torch.nn.ParameterList([torch.ones_like(w) for w in weights])
        network.masks, pruner = masks, Pruner(config["pruning"], weights, list(masks))
        network.at_step = pruner.at_step  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
    return network


def _pairs(layers: Any) -> list[tuple[Any, Any]]:
    return [(layer.weight, layer.bias) for layer in layers]


def _deployed(network: Any) -> list[tuple[Any, Any]]:
    """Weight and bias of the firmware's layers, without the weights that are pruned."""
    pairs = _pairs([*network.encoder, network.mean])
    if not hasattr(network, "masks"):
        return pairs
    return [(masked(weight, mask), bias) for (weight, bias), mask in zip(pairs, network.masks, strict=True)]


def vae_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """(1 - beta) times the squared error summed over inputs plus beta times the divergence from N(0, 1), per event (n,)."""
    import torch

    deployed, hidden = _deployed(network), x
    mean = quantised_layers(x, deployed, network.types)
    for weight, bias in deployed[:-1]:  # the variance is needed in training alone, in plain numbers
        hidden = torch.relu(torch.nn.functional.linear(hidden, weight, bias))
    log_variance = network.log_variance(hidden).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    made = quantised_layers(mean + (0.5 * log_variance).exp() * noise, _pairs(network.decoder), None)
    error = (made - x).square().sum(dim=1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return (1 - network.beta) * error + network.beta * divergence


@dataclass
class Axol1tl(HardwareNetwork):
    """Variational encoder d - hidden - latent; score = sum of squared means, the encoder alone is deployed (2411.19506).

    Inputs are scaled as in level-1 hardware, see `input_scale`. With ``quantised`` the encoder is trained in the types of its
    firmware (`Types`), and the score is that firmware's, bit for bit. ``pruning``: part of the weights of every layer of the encoder
    that is zero, the smallest, taken out in the course of the training (`Pruner`). Differences from the published training: squared error in
    the scaled inputs (theirs: cylindrical coordinates), Adam (theirs: Lion), 20 epochs of small batches (theirs: 5 epochs of
    16,384 events of 2 million). Trained on ``reference`` alone, events in the order of their identity.
    """

    paper: ClassVar[str] = "2411.19506"

    hidden: tuple[int, ...] = (28, 15)
    latent: int = 8
    decoder: tuple[int, ...] = (24, 32, 64, 128)
    beta: float = 0.604
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 1e-3
    quantised: bool = True
    types: Types = field(default_factory=Types)
    pruning: float = 0.0
    seed: int = 0
    shards: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.types, Mapping):  # from a configuration or a model folder
            self.types = Types(**self.types)
        if not 0 < self.beta < 1 or not self.hidden:
            raise ConfigError(
                f"found beta {self.beta}, hidden {self.hidden}; expected beta between 0 and 1 and at least one layer"
            )
        if not 0 <= self.pruning < 1:
            raise ConfigError(
                f"pruning: found {self.pruning}, expected the part of zero weights, from 0 to below 1"
            )

    def _accept(self, features: FeatureSet) -> None:
        if self.quantised:
            self.types.check([len(features), *self.hidden, self.latent])

    def _train(self, sample: Sample | ParquetSample) -> Self:
        plan = self.trainer or TrainPlan()
        task = Task(build_vae, self._config(), vae_loss, sample, draws=True)
        result = train(task, plan.settings(self, self.shards), plan.folder, plan.progress)
        weights = self._pruned(result.state).items()
        kept = {k: self._stored(k, v) for k, v in weights if k.startswith(("encoder", "mean"))}
        return self._keep(kept, result.record)

    def _config(self) -> dict[str, Any]:
        types = asdict(self.types) if self.quantised else None
        rest = {"latent": self.latent, "decoder": list(self.decoder), "beta": self.beta, "seed": self.seed}
        pruning = {"pruning": self.pruning} if self.pruning else {}
        return {"encoder": [self.columns_, *self.hidden], "types": types, **rest, **pruning}

    def _pruned(self, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """A trained state without the weights that its masks take out."""
        masks = {f"{s}.weight": state[f"masks.{i}"] for i, s in enumerate(self._stems()) if self.pruning}
        return {k: v * masks[k] if k in masks else v for k, v in state.items()}

    def _stems(self) -> list[str]:
        return [*(f"encoder.{i}" for i in range(len(self.hidden))), "mean"]

    def _stored(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """A parameter as the firmware has it."""
        if not self.quantised:
            return value
        kind = self.types.of("bias" if name.endswith("bias") else "weight")
        return kind.to_float(kind.from_float(value.astype(np.float64))).astype(np.float32)

    def score(self, events: Events) -> NDArray[np.float64]:
        """Sum of squared means, shape (n,); with ``quantised`` in multiples of the score type's last bit."""
        import torch

        self._check()
        check_scored(events, self.columns_, "Axol1tl")
        layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in self._layers()]
        types, out = self.types if self.quantised else None, np.empty(len(events))
        with one_thread(), torch.inference_mode():
            for start in range(0, len(events), BATCH):
                rows = np.zeros(
                    (BATCH, self.columns_), np.float32
                )  # always as many: no event sees its company
                part = self.scale(events.x[start : start + BATCH])
                rows[: len(part)] = part
                mean = (
                    quantised_layers(torch.from_numpy(rows), layers, types)
                    .numpy()[: len(part)]
                    .astype(np.float64)
                )
                out[start : start + BATCH] = (mean * mean).sum(axis=1)
        if types is None:
            return out
        kind = types.of("score")
        return kind.to_float(kind.from_float(out))

    def _layers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        return [
            (np.array(self.weights_[f"{s}.weight"]), np.array(self.weights_[f"{s}.bias"]))
            for s in self._stems()
        ]

    def network(self) -> Any:
        """The score as one ``torch.nn.Module`` in eval mode: `scale`'s output (n, d) to scores (n,), without rounding."""
        import torch

        self._check()
        parts: list[Any] = []
        for weight, bias in self._layers():
            layer: Any = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], weight.shape[0])
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight))
                layer.bias.copy_(torch.from_numpy(bias))
            parts += [layer, torch.nn.ReLU()]

        class SquaredMean(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.Sequential(*parts[:-1])

            def forward(self, x: Any) -> Any:
                mean = self.layers(x)
                return torch.einsum("bi,bi->b", mean, mean)

        return SquaredMean().eval()

    def firmware_types(self) -> Mapping[str, str]:
        """The types that the firmware must have to give this score; none if it was trained in plain numbers."""
        return asdict(self.types) if self.quantised else {}
