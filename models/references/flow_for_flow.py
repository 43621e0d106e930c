"""Sideband events moved into the window by a flow for a flow: CURTAINs by maximum likelihood (2305.04646)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, Window, identity_hash
from ..nesting import state_under
from ..networks.flow_for_flow import Rows, base_settings, frozen_base, top_settings, train_top
from ..networks.flows import ConditionalFlow
from ..networks.transport import TransportSettings, between, in_batches, with_weights
from ..training import TrainingRecord
from ..training_task import Schedule
from .copies import ordered, sides
from .transported import Template, TransportReport, check_transport, report_of


@dataclass
class CurtainsFlow:
    """CURTAINsF4F: a base flow p(x | m) of the sidebands, and a top flow that moves events from one mass to another.

    The top flow y = T(x; m_in -> m_target) is told both masses (``condition`` "difference": m_target - m_in only, which
    asks for no interpolation across the window) and maximises ln p(y | m_target) + ln |det dy/dx| over
    sideband events whose targets are drawn anew every epoch from all sideband masses, up and down. Splines in coupling
    layers, in the base's coordinates (``preprocess``). The window's events are never read. Sidebands of ``width`` GeV,
    and bands of ``outer`` GeV beyond them which validate (``report_``); `sample` as of `Curtains`.

    ``kind``, ``transforms``, ``base_hidden`` (0 and (): the kind's published ones) and ``base_epochs`` are the base's;
    the fields after them the top flow's. Named differences from the paper: moving down is the inverse of moving up, and
    T is the identity for equal masses, both by construction; the sizes of the networks are not the paper's, which the
    package's sources do not give; the mass spectrum is log-quadratic over the sidebands.
    """

    paper: ClassVar[str] = "2305.04646"

    width: float = 200.0
    outer: float = 200.0
    kind: Literal["maf", "nsf"] = "nsf"
    transforms: int = 0
    base_hidden: tuple[int, ...] = ()
    base_epochs: int = 100
    base_schedule: Schedule = "constant"
    preprocess: Literal["logit", "standard"] = "logit"
    layers: int = 8
    hidden: tuple[int, ...] = (64, 64)
    bins: int = 8
    bound: float = 8.0
    condition: Literal["both", "difference"] = "both"
    epochs: int = 100
    batch: int = 256
    learning_rate: float = 5e-4
    validation: float = 0.2
    oversampling: int = 4
    seed: int = 0
    base_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    top_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    template_: Template | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    report_: TransportReport | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_transport(self.width, self.outer, self.oversampling)
        base_settings(self)
        top_settings(self)
        self._map(1)

    def _map(self, features: int) -> TransportSettings:
        return TransportSettings(
            features, self.condition, self.layers, self.hidden, self.bins, self.bound, self.seed
        )

    def fit(self, data: Events, window: Window) -> Self:
        """Train base and top flow on the sidebands of ``window``.

        Raises `InputError` for an empty sideband, a constant column or negative weights.
        """
        data = ordered(data)
        bands = sides(data, window, self.width, "data")
        both = Events.concatenate(bands)
        hashes = identity_hash(both.identity, self.seed)
        self.base_ = ConditionalFlow.fit(
            both.x, both.mass, both.weight, hashes, base_settings(self), self.seed
        )
        inside = self.base_.domain_.inside(both.x)
        kept = both.take(inside)
        own = self._mass(kept.mass)
        chance = kept.weight / kept.weight.sum()

        def goal(epoch: int) -> NDArray[np.float64]:
            rng = np.random.default_rng([self.seed, 1, epoch + 1])
            return own[rng.choice(len(own), len(own), p=chance)]

        rows = Rows(self.base_.domain_.forward(kept.x), own, goal, kept.weight, hashes[inside])
        self.top_, self.record_ = train_top(
            frozen_base(self.base_), self._map(both.x.shape[1]), top_settings(self), rows, between
        )
        self.template_ = Template.of(*bands, window)
        self.report_ = report_of(data, self.template_, bands, self.outer, self.move, self.seed)
        return self

    def _mass(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Masses as the base takes them."""
        if self.base_ is None:
            raise InputError("this CurtainsFlow has not been fitted")
        return (mass - self.base_.centre_[0]) / self.base_.width_[0]

    def move(self, events: Events, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """The features of ``events`` at other masses (n,) [GeV], shape (n, d); NaN outside the base's domain."""
        if self.base_ is None or not self.top_:
            raise InputError("this CurtainsFlow has not been fitted")
        settings = self._map(events.x.shape[1])
        network = with_weights(settings, self.top_)
        inside = self.base_.domain_.inside(events.x)
        out = np.full(events.x.shape, np.nan)
        v = self.base_.domain_.forward(events.x[inside])
        y = in_batches(
            lambda a, b, c: between(network, settings, a, b, c)[0],
            v,
            self._mass(events.mass[inside]),
            self._mass(mass[inside]),
        )
        out[inside] = self.base_.domain_.inverse(y)
        return out

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the base's domain, shape (d,) each, within which events are moved."""
        if self.base_ is None:
            raise InputError("this CurtainsFlow has not been fitted")
        return self.base_.domain_.bounds()

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """``n`` sideband events at masses of the window (None: ``oversampling`` times the sidebands)."""
        if self.template_ is None:
            raise InputError("this CurtainsFlow has not been fitted")
        asked = self.oversampling * len(self.template_.parents) if n is None else n
        return self.template_.draw(self.move, asked, rng)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Both flows, the sideband events, and how it went."""
        if self.template_ is None or self.record_ is None or self.report_ is None:
            raise InputError("this CurtainsFlow has not been fitted")
        info, arrays = self.template_.state()
        base, base_arrays, _ = state_under("base", self.base_)
        info |= {"base": base, "record": self.record_.to_json(), "report": self.report_.to_json()}
        return info, {**arrays, **base_arrays, **{f"top/{k}": v for k, v in self.top_.items()}}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        mine = {k.removeprefix("base."): v for k, v in arrays.items() if k.startswith("base.")}
        self.base_ = ConditionalFlow.restore(info["base"], mine, {})
        self.template_ = Template.restored(info, arrays)
        self.top_ = {k.removeprefix("top/"): v for k, v in arrays.items() if k.startswith("top/")}
        self.record_ = TrainingRecord.from_json(info["record"])
        self.report_ = TransportReport.from_json(info["report"])
        return self
