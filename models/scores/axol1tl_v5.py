"""The level-1 anomaly score of CMS, version 5: the squared error of an autoencoder of a VICReg representation (2411.19506, 2105.04906)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from ..networks.axol1tl_v5 import (
    Kinds,
    autoencoder_kinds,
    autoencoder_loss,
    build_autoencoder,
)
from ..networks.dense import BATCH, one_thread
from ..networks.quantised import rounded
from ..training import Sample, Task, TrainingRecord
from .hardware_backbone import HardwareBackbone
from .weak_trees import check_scored, check_training


@dataclass
class Axol1tlV5(HardwareBackbone):
    """Backbone d - 29 - 10 with ReLU gives h; autoencoder 10 - 9 - 6 - 4 - 6 - 9 - 10 of h; score = sum of (out - h)^2.

    First the backbone, normalised by its batches before every ReLU and under a ``projector`` of three such layers that is thrown
    away, by VICReg (2105.04906) on two views of a crossing (`Strength` says what differs); then, on h as it is, a variational
    autoencoder with loss ``alpha`` (1 - ``beta``) times the squared error plus ``beta`` times the divergence, each summed over its
    dimensions, whose mean path is deployed. Inputs are scaled as in level-1 hardware, see `input_scale`. With ``quantised`` both
    are trained in the types of their firmware (`V5Types`), normalisation as part of weights and biases, and the score is that
    firmware's, bit for bit.

    Crossings are drawn by weight (`drawn_by_weight`), as zero bias would have them. Differences from the public training: ``batch``
    1,024 and a rate of 1e-3 for both (theirs: 4,096 of 2 million, 1.0e-4 and 1.3e-4), fewer ``autoencoder_epochs`` (theirs: 480), one
    fall of the rate as a cosine after a short rise (theirs: ten epochs of rise, then restarts for the autoencoder), widths of types
    as the public firmware has them, where theirs were learnt in training (2405.00645). The normalisation that stays is that of one
    view of every crossing after the last epoch, in place of a running mean. With ``shards`` above 1 each piece of a batch is a
    batch of its own to VICReg and the normalisation, and as many workers can share it. Trained on ``reference`` alone, events in
    the order of their identity.
    """

    paper: ClassVar[str] = "2411.19506"
    more_papers: ClassVar[tuple[str, ...]] = ("2105.04906",)

    encoder: tuple[int, ...] = (9, 6)
    latent: int = 4
    alpha: float = 0.469
    beta: float = 0.848
    backbone_epochs: int = 50
    autoencoder_epochs: int = 100
    backbone_record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < 1 or not self.alpha > 0 or not self.encoder:
            raise ConfigError(
                f"found alpha {self.alpha}, beta {self.beta}, encoder {self.encoder}; expected a positive alpha, beta between 0 and "
                "1 and at least one layer"
            )

    @property
    def epochs(self) -> int:
        """What progress counts: the epochs of both trainings."""
        return self.backbone_epochs + self.autoencoder_epochs

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on what cannot be learnt from."""
        check_training(reference, "reference")
        if self.quantised:
            self.types.check(self._inner_widths(), autoencoder_kinds(len(self.encoder)), "activation")
        x, self.backbone_record_ = self._learn_backbone(reference, self.backbone_epochs)
        sample = Sample(self._representation(x))
        task = Task(build_autoencoder, self._autoencoder_config(), autoencoder_loss, sample, draws=True)
        result = self._train(task, "autoencoder", self.autoencoder_epochs, self.backbone_epochs)
        self.record_ = result.record
        stems = [f"layers.{i}" for i in range(len(self._kinds("autoencoder")))]
        self._keep("autoencoder", [(result.state[f"{s}.weight"], result.state[f"{s}.bias"]) for s in stems])
        return self

    def _kinds(self, part: str) -> list[Kinds]:
        return super()._kinds(part) if part == "backbone" else autoencoder_kinds(len(self.encoder))

    def _inner_widths(self) -> list[int]:
        h = self.backbone[-1]
        return [h, *self.encoder, self.latent, *reversed(self.encoder), h]

    def _autoencoder_config(self) -> dict[str, Any]:
        return {
            "widths": [self.backbone[-1], *self.encoder], "latent": self.latent, "scale": self.alpha, "beta": self.beta,
            "types": self._types(), "seed": self.seed,
        }  # fmt: skip

    def score(self, events: Events) -> NDArray[np.float64]:
        """Sum of squared errors of h, shape (n,); with ``quantised`` in multiples of the score type's last bit."""
        import torch

        self._check()
        check_scored(events, self.columns_, "Axol1tlV5")
        out = np.empty(len(events))
        for start in range(0, len(events), BATCH):
            h = self._representation(self.scale(events.x[start : start + BATCH]))
            rows = np.zeros((BATCH, h.shape[1]), np.float32)
            rows[: len(h)] = h
            with one_thread(), torch.inference_mode():
                given = torch.from_numpy(rows)
                difference = self._run("autoencoder", given) - given
                if self.quantised:
                    difference = rounded(difference, self.types.of("difference"))
            d = difference.numpy()[: len(h)].astype(np.float64)
            out[start : start + BATCH] = (d * d).sum(axis=1)
        if not self.quantised:
            return out
        kind = self.types.of("score")
        return kind.to_float(kind.from_float(out))

    def network(self) -> Any:
        """The score as one ``torch.nn.Module`` in eval mode: `scale`'s output (n, d) to scores (n,), without rounding."""
        import torch

        self._check()
        made: dict[str, Any] = {}
        for part in ("backbone", "autoencoder"):
            modules: list[Any] = []
            for (weight, bias), kinds in zip(self._layers(part), self._kinds(part), strict=True):
                layer: Any = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], weight.shape[0])
                with torch.no_grad():
                    layer.weight.copy_(torch.from_numpy(weight))
                    layer.bias.copy_(torch.from_numpy(bias))
                modules += [layer, torch.nn.ReLU()] if kinds[2] == "activation" else [layer]
            made[part] = torch.nn.Sequential(*modules)

        class SquaredError(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone, self.autoencoder = made["backbone"], made["autoencoder"]

            def forward(self, x: Any) -> Any:
                h = self.backbone(x)
                difference = self.autoencoder(h) - h
                return torch.einsum("bi,bi->b", difference, difference)

        return SquaredError().eval()

    def firmware_types(self) -> Mapping[str, str]:
        """The types that the firmware must have to give this score; none if it was trained in plain numbers.

        One type for all weights and one for all biases: the parameters are numbers of their narrower types already.
        """
        names = ("input", "weight", "bias", "activation", "linear", "difference", "score")
        return {n: getattr(self.types, n) for n in names} if self.quantised else {}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The firmware's weights by part and layer, offsets and shifts, and how both networks were trained."""
        records = {"record": self.record_, "backbone_record": self.backbone_record_}
        info = {k: None if v is None else v.to_json() for k, v in records.items()}
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        return (
            {"columns": self.columns_, **info},
            {"offset": self.offset_, "shift": self.shift_, **weights},
            {},
        )

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_, self.offset_, self.shift_ = info["columns"], arrays["offset"], arrays["shift"]
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        for name in ("record", "backbone_record"):
            made = None if info[name] is None else TrainingRecord.from_json(info[name])
            setattr(self, f"{name}_", made)
        return self
