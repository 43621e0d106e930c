"""The level-1 anomaly score of CMS, version 5: the squared error of an autoencoder of a VICReg representation (2411.19506, 2105.04906)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events, FeatureSet, drawn_by_weight, in_identity_order
from ..augmentations.level1 import Layout, Strength
from ..networks.axol1tl_v5 import (
    Kinds,
    V5Types,
    autoencoder_kinds,
    autoencoder_loss,
    backbone_kinds,
    backbone_layers,
    backbone_loss,
    build_autoencoder,
    build_backbone,
    through,
)
from ..networks.dense import BATCH, load_weights, one_thread
from ..networks.quantised import rounded
from ..training import (
    Sample,
    State,
    Task,
    TrainingRecord,
    TrainingResult,
    TrainPlan,
    TrainSettings,
    later,
    train,
)
from .hardware_inputs import HardwareInputs, objects_of
from .weak_trees import check_scored, check_training


@dataclass
class Axol1tlV5(HardwareInputs):
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

    backbone: tuple[int, ...] = (29, 10)
    projector: int = 40
    encoder: tuple[int, ...] = (9, 6)
    latent: int = 4
    strength: Strength = field(default_factory=Strength)
    coefficients: tuple[float, float, float] = (50.0, 50.0, 1.0)
    alpha: float = 0.469
    beta: float = 0.848
    backbone_epochs: int = 50
    autoencoder_epochs: int = 100
    batch: int = 1024
    learning_rate: float = 1e-3
    quantised: bool = True
    types: V5Types = field(default_factory=V5Types)
    seed: int = 0
    shards: int = 1
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    backbone_record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.types, Mapping):  # from a configuration or a model folder
            self.types = V5Types(**self.types)
        if isinstance(self.strength, Mapping):
            self.strength = Strength(**self.strength)
        if not 0 < self.beta < 1 or not self.alpha > 0 or not self.backbone or not self.encoder:
            raise ConfigError(
                f"found alpha {self.alpha}, beta {self.beta}, backbone {self.backbone}, encoder {self.encoder}; expected a positive "
                "alpha, beta between 0 and 1 and at least one layer of each"
            )
        if any(not 0 <= p <= 1 for p in astuple(self.strength)) or min(self.coefficients) < 0:
            raise ConfigError(
                f"found {self.strength}, coefficients {self.coefficients}; expected parts from 0 to 1 and no negative coefficient"
            )

    @property
    def epochs(self) -> int:
        """What progress counts: the epochs of both trainings."""
        return self.backbone_epochs + self.autoencoder_epochs

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on what cannot be learnt from."""
        check_training(reference, "reference")
        d = len(reference.features)
        if self.quantised:
            self.types.check([d, *self.backbone], backbone_kinds(len(self.backbone)), "input")
            self.types.check(self._inner_widths(), autoencoder_kinds(len(self.encoder)), "activation")
        reference = in_identity_order(reference, self.seed)
        self.weights_ = {}
        self._learn_scale(reference)
        x, layout = (
            self.scale(reference.x[drawn_by_weight(reference, self.seed)]),
            self._layout(reference.features),
        )
        task = Task(build_backbone, self._backbone_config(layout), backbone_loss, Sample(x), draws=True)
        result = self._train(task, "backbone", self.backbone_epochs, 0)
        self.backbone_record_ = result.record
        self._keep("backbone", self._folded(task, result.state, x))
        sample = Sample(self._representation(x))
        task = Task(build_autoencoder, self._autoencoder_config(), autoencoder_loss, sample, draws=True)
        result = self._train(task, "autoencoder", self.autoencoder_epochs, self.backbone_epochs)
        self.record_ = result.record
        stems = [f"layers.{i}" for i in range(len(self._kinds("autoencoder")))]
        self._keep("autoencoder", [(result.state[f"{s}.weight"], result.state[f"{s}.bias"]) for s in stems])
        return self

    def _train(self, task: Task, part: str, epochs: int, before: int) -> TrainingResult:
        """Train one of the two networks; ``before``: epochs that are over."""
        plan = self.trainer or TrainPlan()
        settings: TrainSettings = replace(plan.settings(self, self.shards), epochs=epochs, schedule="cosine")
        folder = None if plan.folder is None else plan.folder / part
        return train(task, settings, folder, later(plan.progress, before))

    def _folded(
        self, task: Task, state: State, x: NDArray[np.float32]
    ) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The trained backbone's layers with their normalisation in them, on this machine's processor."""
        import torch

        network = load_weights(build_backbone(task.config), state)
        generator = torch.Generator().manual_seed(self.seed)
        with one_thread():
            layers = backbone_layers(network, torch.from_numpy(x), generator)
        return [(w.numpy(), b.numpy()) for w, b in layers]

    def _keep(self, part: str, layers: list[tuple[NDArray[Any], NDArray[Any]]]) -> None:
        """Keep the parameters of a part, as the firmware has them if it has types."""
        for i, (pair, kinds) in enumerate(zip(layers, self._kinds(part), strict=True)):
            for name, value, field_of in zip(("weight", "bias"), pair, kinds, strict=False):
                kept = value.astype(np.float64)
                if self.quantised:
                    kind = self.types.of(field_of)
                    kept = kind.to_float(kind.from_float(kept))
                self.weights_[f"{part}.{i}.{name}"] = kept.astype(np.float32)

    def _kinds(self, part: str) -> list[Kinds]:
        first = part == "backbone"
        return backbone_kinds(len(self.backbone)) if first else autoencoder_kinds(len(self.encoder))

    def _inner_widths(self) -> list[int]:
        h = self.backbone[-1]
        return [h, *self.encoder, self.latent, *reversed(self.encoder), h]

    def _layout(self, features: FeatureSet) -> Layout:
        empty = self.scale(np.zeros((1, self.columns_)))[0]
        return Layout.of(features, objects_of(features), self.offset_, self.shift_, empty)

    def _backbone_config(self, layout: Layout) -> dict[str, Any]:
        return {
            "widths": [self.columns_, *self.backbone], "projector": self.projector, "types": self._types(),
            "layout": layout.to_json(), "strength": list(astuple(self.strength)),
            "coefficients": list(self.coefficients), "seed": self.seed,
        }  # fmt: skip

    def _autoencoder_config(self) -> dict[str, Any]:
        return {
            "widths": [self.backbone[-1], *self.encoder], "latent": self.latent, "scale": self.alpha, "beta": self.beta,
            "types": self._types(), "seed": self.seed,
        }  # fmt: skip

    def _types(self) -> dict[str, str] | None:
        return asdict(self.types) if self.quantised else None

    def _layers(self, part: str) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        stems = [f"{part}.{i}" for i in range(len(self._kinds(part)))]
        return [(np.array(self.weights_[f"{s}.weight"]), np.array(self.weights_[f"{s}.bias"])) for s in stems]

    def _run(self, part: str, x: Any) -> Any:
        """x (n, ...) as a tensor through the layers of a part."""
        import torch

        layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in self._layers(part)]
        return through(x, layers, self._kinds(part), self.types if self.quantised else None)

    def _representation(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """h (n, width) of scaled columns x (n, d)."""
        import torch

        out = np.empty((len(x), self.backbone[-1]), np.float32)
        with one_thread(), torch.inference_mode():
            for start in range(0, len(x), BATCH):
                rows = np.zeros((BATCH, x.shape[1]), np.float32)  # always as many: no event sees its company
                part = x[start : start + BATCH]
                rows[: len(part)] = part
                given = torch.from_numpy(rows)
                given = rounded(given, self.types.of("input")) if self.quantised else given
                out[start : start + BATCH] = self._run("backbone", given).numpy()[: len(part)]
        return out

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
