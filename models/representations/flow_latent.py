"""The latent space of a flow as the space to look in: background is normal there at every mass."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...events import Events, FeatureSet
from ..densities import check_density, check_known, fit_flow, flow_settings
from ..networks.flows import ConditionalFlow, Kind
from ..scores.latent import latent_features
from ..training_task import Schedule


@dataclass
class FlowLatent:
    """x -> z(x, m), the base space of p(x | m) learnt from the reference (LaCATHODE, 2210.14924).

    With `Outside` as reference, any score learns data against the latent image of the events outside the window
    (`LaCathode` draws N(0, 1) instead, as published). An event outside the flow's domain has no z; it is put at z = 0,
    the commonest place of background, so that no score finds it odd.
    """

    paper: ClassVar[str] = "2210.14924"

    kind: Kind = "maf"
    transforms: int = 0
    hidden: tuple[int, ...] = ()
    epochs: int = 100
    batch: int = 256
    learning_rate: float = 1e-4
    validation: float = 0.2
    best: int = 10
    schedule: Schedule = "constant"
    stiffness: float = 1.0
    seed: int = 0
    flow_: ConditionalFlow | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn p(x | m) of ``reference``; raises `InputError` on what no density can be learnt from."""
        check_density(reference, "reference")
        self.flow_ = fit_flow(reference, flow_settings(self), self.seed)
        return self

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set of the latent space."""
        return latent_features(before)

    def transform(self, events: Events) -> Events:
        """The same events with z(x, m) as features."""
        flow = check_known(events, self.flow_, "FlowLatent")
        z = flow.to_latent(events.x, events.mass)
        z[~flow.domain_.inside(events.x)] = 0.0
        return Events(
            z.astype(np.float32), events.mass, events.weight, events.identity, self.features(events.features)
        )

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The flow."""
        if self.flow_ is None:
            return {"flow": None}, {}, {}
        info, arrays, texts = self.flow_.state()
        return {"flow": info}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.flow_ = None if info["flow"] is None else ConditionalFlow.restore(info["flow"], arrays, texts)
        return self
