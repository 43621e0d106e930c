"""The backbone of AXOL1TL's version 5, which its score and a representation share: VICReg in the types of the firmware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events, FeatureSet, drawn_by_weight, in_identity_order
from ..augmentations.level1 import Layout, Strength
from ..networks.axol1tl_v5 import (
    Kinds,
    V5Types,
    backbone_kinds,
    backbone_layers,
    backbone_loss,
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

#: A dense layer: weight (out, in) and bias (out,).
Layer = tuple[NDArray[Any], NDArray[Any]]


@dataclass
class HardwareBackbone(HardwareInputs):
    """Settings, training and evaluation of h, the output of a backbone d - 29 - 10 with ReLU on inputs of level-1 hardware.

    Trained under a ``projector`` of three layers that is thrown away, by VICReg (2105.04906) with ``coefficients`` on two views
    of a crossing (`Strength` says what differs). With ``quantised`` in the types of its firmware (`V5Types`). Crossings are drawn
    by weight (`drawn_by_weight`), as zero bias would have them. The normalisation that stays in the layers is that of one view
    of every crossing after the last epoch.
    """

    backbone: tuple[int, ...] = (29, 10)
    projector: int = 40
    strength: Strength = field(default_factory=Strength)
    coefficients: tuple[float, float, float] = (50.0, 50.0, 1.0)
    batch: int = 1024
    learning_rate: float = 1e-3
    quantised: bool = True
    types: V5Types = field(default_factory=V5Types)
    seed: int = 0
    shards: int = 1
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.types, Mapping):  # from a configuration or a model folder
            self.types = V5Types(**self.types)
        if isinstance(self.strength, Mapping):
            self.strength = Strength(**self.strength)
        if not self.backbone or min(*self.backbone, self.projector) < 1:
            raise ConfigError(
                f"found backbone {self.backbone}, projector {self.projector}; expected widths of at least 1"
            )
        if any(not 0 <= p <= 1 for p in astuple(self.strength)) or min(self.coefficients) < 0:
            raise ConfigError(
                f"found {self.strength}, coefficients {self.coefficients}; expected parts from 0 to 1 and no negative coefficient"
            )

    def _learn_backbone(self, reference: Events, epochs: int) -> tuple[NDArray[np.float32], TrainingRecord]:
        """Learn scale and backbone; the scaled crossings it was trained on, (n, d), and how it went."""
        if self.quantised:
            widths = [len(reference.features), *self.backbone]
            self.types.check(widths, backbone_kinds(len(self.backbone)), "input")
        reference = in_identity_order(reference, self.seed)
        self.weights_ = {}
        self._learn_scale(reference)
        x = self.scale(reference.x[drawn_by_weight(reference, self.seed)])
        config = self._backbone_config(self._layout(reference.features))
        task = Task(build_backbone, config, backbone_loss, Sample(x), draws=True)
        result = self._train(task, "backbone", epochs, 0)
        self._keep("backbone", self._folded(task, result.state, x))
        return x, result.record

    def _train(self, task: Task, part: str, epochs: int, before: int) -> TrainingResult:
        """Train one network; ``before``: epochs that are over."""
        plan = self.trainer or TrainPlan()
        settings: TrainSettings = replace(plan.settings(self, self.shards), epochs=epochs, schedule="cosine")
        folder = None if plan.folder is None else plan.folder / part
        return train(task, settings, folder, later(plan.progress, before))

    def _folded(self, task: Task, state: State, x: NDArray[np.float32]) -> list[Layer]:
        """The trained backbone's layers with their normalisation in them, on this machine's processor."""
        import torch

        network = load_weights(build_backbone(task.config), state)
        generator = torch.Generator().manual_seed(self.seed)
        with one_thread():
            layers = backbone_layers(network, torch.from_numpy(x), generator)
        return [(w.numpy(), b.numpy()) for w, b in layers]

    def _keep(self, part: str, layers: list[Layer]) -> None:
        """Keep the parameters of a part, as the firmware has them if it has types."""
        for i, (pair, kinds) in enumerate(zip(layers, self._kinds(part), strict=True)):
            for name, value, field_of in zip(("weight", "bias"), pair, kinds, strict=False):
                kept = value.astype(np.float64)
                if self.quantised:
                    kind = self.types.of(field_of)
                    kept = kind.to_float(kind.from_float(kept))
                self.weights_[f"{part}.{i}.{name}"] = kept.astype(np.float32)

    def _kinds(self, part: str) -> list[Kinds]:  # noqa: ARG002
        """The types of a part's layers; here there is the backbone alone."""
        return backbone_kinds(len(self.backbone))

    def _layout(self, features: FeatureSet) -> Layout:
        empty = self.scale(np.zeros((1, self.columns_)))[0]
        return Layout.of(features, objects_of(features), self.offset_, self.shift_, empty)

    def _backbone_config(self, layout: Layout) -> dict[str, Any]:
        return {
            "widths": [self.columns_, *self.backbone], "projector": self.projector, "types": self._types(),
            "layout": layout.to_json(), "strength": list(astuple(self.strength)),
            "coefficients": list(self.coefficients), "seed": self.seed,
        }  # fmt: skip

    def _types(self) -> dict[str, str] | None:
        return asdict(self.types) if self.quantised else None

    def _layers(self, part: str) -> list[Layer]:
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
