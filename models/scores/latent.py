"""A weak classifier in a flow's latent space, where background looks the same at every mass (2210.14924)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Column, Events, FeatureSet
from ..base import Score
from ..densities import check_density, check_known, fit_flow, flow_settings, in_order, sampled_events
from ..nesting import restore_under, state_under
from ..networks.flows import ConditionalFlow, Kind
from ..training_task import Schedule


def latent_features(before: FeatureSet) -> FeatureSet:
    """The feature set of the latent space: z0, z1, ... without unit; the mass stays."""
    columns = tuple(
        Column(f"z{i}", "", "latent coordinate, normal for background") for i in range(len(before))
    )
    return replace(before, name=f"{before.name}/latent", columns=columns, extras=())


def to_latent(events: Events, flow: ConditionalFlow) -> Events:
    """The events with z(x, m) as features; all must lie inside the flow's domain."""
    z = flow.to_latent(events.x, events.mass).astype(np.float32)
    return replace(events, x=z, features=latent_features(events.features))


@dataclass
class LaCathode:
    """LaCATHODE (2210.14924): ``inner`` learns to tell data from N(0, 1) in the latent space of p(x | m).

    ``reference``: the events outside the window (`Outside`), which the flow is learnt from; ``data``: those inside.
    z = f(x; m) of background is normal at every mass, so the score may be used outside the window and a cut on it does
    not sculpt the spectrum. ``oversampling``: normal draws per event of the data. The map is that of the best epoch.

    An event outside the flow's domain has no z: it gets the lowest score of the data and of the normal draws, which is
    also the floor of all others.
    """

    paper: ClassVar[str] = "2210.14924"
    reads_mass: ClassVar[bool] = True

    inner: Score
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
    oversampling: float = 4.0
    seed: int = 0
    flow_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    floor_: float = field(default=0.0, repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)
        if not self.oversampling > 0:
            raise ConfigError(f"oversampling: found {self.oversampling}, expected a number above 0")

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn the flow, then the classifier; raises `InputError` on what no density can be learnt from."""
        check_density(reference, "reference")
        check_density(data, "data")
        flow = fit_flow(reference, flow_settings(self), self.seed)
        data = in_order(data, self.seed)
        data = data.take(flow.domain_.inside(data.x))
        if len(data) == 0:
            raise InputError("no event of the data lies inside the domain of the density beside the window")
        latent = to_latent(data, flow)
        rng = np.random.default_rng(self.seed)
        n = max(1, round(self.oversampling * len(data)))
        mass = data.mass[rng.integers(len(data), size=n)]
        z = rng.standard_normal((n, len(data.features)))
        normal = sampled_events(latent.features, z, mass, float(data.weight.sum()), rng)
        self.flow_, self.inner = flow, self.inner.fit(normal, latent)
        self.floor_ = float(min(self.inner.score(normal).min(), self.inner.score(latent).min()))
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """The inner score of z(x, m), shape (n,), not below the floor."""
        flow = check_known(events, self.flow_, "LaCathode")
        inside = flow.domain_.inside(events.x)
        out = np.full(len(events), self.floor_)
        if inside.any():
            found = self.inner.score(to_latent(events.take(inside), flow))
            out[inside] = np.maximum(found, self.floor_)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The flow, the inner state and the floor."""
        if self.flow_ is None:
            return {"flow": None, "floor": self.floor_}, {}, {}
        f, i = state_under("flow", self.flow_), state_under("inner", self.inner)
        return {"flow": f[0], "inner": i[0], "floor": self.floor_}, f[1] | i[1], f[2] | i[2]

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.floor_ = float(info["floor"])
        if info["flow"] is not None:
            self.flow_ = restore_under("flow", ConditionalFlow, info["flow"], arrays, texts)
            self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        return self
