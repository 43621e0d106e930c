"""What AXOL1TL's version 5 learns before its autoencoder, as a representation of its own (2105.04906, 2411.19506)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError, FitError
from ...events import Column, Events, FeatureSet
from ..scores.hardware_backbone import HardwareBackbone
from ..scores.weak_trees import check_scored, check_training
from ..training import TrainingRecord
from .object_encoder import LatentRecord

log = logging.getLogger(__name__)

#: Events whose latent space is looked at after a training, and the effective rank below which it is one number per event: h is
#: not centred nor scaled, so that the energy of a crossing is most of its variance, and only a rank that rounds to 1 is a line.
_LOOKED_AT, _COLLAPSED = 2000, 1.05


@dataclass
class Level1VicReg(HardwareBackbone):
    """h of `Axol1tlV5`: the output of its backbone d - 29 - 10, the same to the last bit for the same settings and seed.

    Inputs scaled as in level-1 hardware, VICReg 50/50/1 on the two views of `Strength`, trained in the types of the firmware,
    ReLU after every layer; see `HardwareBackbone`, and `Axol1tlV5` for what differs from the public training. `VicReg` is the
    other way to do it: ln(1 + pT) and angles as inputs, physical views, no types. Trained on ``reference`` alone. ``latent_``
    tells how much of the space is used.
    """

    paper: ClassVar[str] = "2105.04906"
    more_papers: ClassVar[tuple[str, ...]] = ("2411.19506",)

    epochs: int = 50
    features_: FeatureSet | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    latent_: LatentRecord | None = field(default=None, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on what cannot be learnt from, `FitError` where the latent space has collapsed to a line.
        """
        check_training(reference, "reference")
        self.features_ = reference.features
        x, self.record_ = self._learn_backbone(reference, self.epochs)
        self.latent_ = LatentRecord.of(self._representation(x[:_LOOKED_AT]))
        log.info("%s: %s", type(self).__name__, self.latent_)
        if self.latent_.effective_rank < _COLLAPSED:
            raise FitError(
                f"Level1VicReg: the latent space has collapsed to a line ({self.latent_}); train with another seed, other "
                "coefficients or for fewer epochs"
            )
        return self

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set of h: h0, h1, ... without unit; the mass stays."""
        columns = tuple(Column(f"h{i}", "", f"output {i} of the backbone") for i in range(self.backbone[-1]))
        return replace(before, name=f"{before.name}/level1_vicreg", columns=columns, extras=())

    def transform(self, events: Events) -> Events:
        """The same events with h as features, (n, width); with ``quantised`` in multiples of its type's last bit."""
        self._check()
        check_scored(events, self.columns_, "Level1VicReg")
        if self.features_ is not None and self.features_.names != events.features.names:
            raise FeatureError(
                f"Level1VicReg was trained on feature set '{self.features_.name}', the events have '{events.features.name}'"
            )
        h = self._representation(self.scale(events.x))
        return replace(events, x=h, features=self.features(events.features))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The backbone's layers, offsets and shifts, the columns, how it was trained and what came of it."""
        parts = {"features": self.features_, "record": self.record_, "latent": self.latent_}
        info = {k: None if v is None else v.to_json() for k, v in parts.items()}
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        arrays = {"offset": self.offset_, "shift": self.shift_, **weights}
        return {"columns": self.columns_, **info}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_ = info["columns"]
        self.offset_, self.shift_ = np.asarray(arrays["offset"]), np.asarray(arrays["shift"])
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.features_ = None if info["features"] is None else FeatureSet.from_json(info["features"])
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self.latent_ = None if info["latent"] is None else LatentRecord.from_json(info["latent"])
        return self
