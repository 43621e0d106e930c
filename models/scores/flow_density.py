"""A flow's density as an outlier score: what is rare given its mass is odd."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...events import Events, in_identity_order
from ..densities import check_density, check_known, fit_flow, flow_settings
from ..networks.flows import ConditionalFlow, Kind
from ..training_task import Schedule

#: Events of the reference that the lowest score is looked for among.
_FLOOR_EVENTS: Mapping[str, int] = {"maf": 20_000, "nsf": 20_000, "cfm": 2000}
#: Score of an event inside the flow's domain whose density is no number.
_FAR = 1e100


@dataclass
class FlowDensity:
    """score = -ln p(x | m) of a flow learnt on ``reference`` (the flow of CATHODE, 2109.00546, as a density).

    The condition on the mass decorrelates the score from it; ``conditional`` False learns p(x), for feature sets
    without a mass. ``kind``: "maf" and "nsf" are flows, "cfm" is flow matching (2210.02747), whose density is that of the point of
    a normal distribution whence a learnt velocity carries the event in ``steps`` steps (which flows have none of), less the
    integral of the velocity's exact divergence; it costs a thousand times a flow's. A density depends on its coordinates: ``preprocess`` "logit" and "standard" differ in how well
    they are learnt, not in what is learnt; -ln p is always quoted in the units of x.

    An event outside the flow's domain (logit only) has no density: it gets the lowest score there is, the smallest
    one of the reference, which is also the floor of all others. ``dropped_`` of the flow counts them. One inside that is so far off
    that its density is no number gets the highest, 1e100.
    """

    paper: ClassVar[str] = "2109.00546"
    kind_papers: ClassVar[Mapping[str, tuple[str, ...]]] = {"nsf": ("1906.04032",), "cfm": ("2210.02747",)}
    reads_mass: ClassVar[bool] = True

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
    preprocess: Literal["logit", "standard"] = "logit"
    steps: int = 100
    conditional: bool = True
    seed: int = 0
    flow_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    floor_: float = field(default=0.0, repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on what no density can be learnt from (a mass that is not finite: set conditional: false).
        """
        check_density(reference, "reference", self.conditional)
        self.flow_ = fit_flow(reference, flow_settings(self), self.seed, conditional=self.conditional)
        known = self.log_density(first(reference, self.seed, _FLOOR_EVENTS[self.kind]))
        self.floor_ = float(-known.max())
        return self

    def log_density(self, events: Events) -> NDArray[np.float64]:
        """ln p(x | m), shape (n,), x in the units of the features; -inf outside the flow's domain."""
        flow = check_known(events, self.flow_, "FlowDensity", self.conditional)
        return flow.log_prob(events.x, events.mass if self.conditional else np.zeros(len(events)))

    def score(self, events: Events) -> NDArray[np.float64]:
        """-ln p(x | m), shape (n,), not below that of the commonest event of the reference."""
        flow = check_known(events, self.flow_, "FlowDensity", self.conditional)
        with np.errstate(over="ignore", invalid="ignore"):  # what is far off: see below
            found = -self.log_density(events)
        found = np.nan_to_num(found, nan=_FAR, posinf=_FAR, neginf=_FAR)
        return np.where(flow.domain_.inside(events.x), np.clip(found, self.floor_, _FAR), self.floor_)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The flow and the floor."""
        info: dict[str, Any] = {"floor": self.floor_, "flow": None}
        if self.flow_ is None:
            return info, {}, {}
        flow, arrays, texts = self.flow_.state()
        return info | {"flow": flow}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.floor_ = float(info["floor"])
        self.flow_ = None if info["flow"] is None else ConditionalFlow.restore(info["flow"], arrays, texts)
        return self


def first(events: Events, seed: int, n: int = 20_000) -> Events:
    """The ``n`` events (or all) whose hash comes first: a sample that does not depend on the order of the rows."""
    return in_identity_order(events, seed, n)
