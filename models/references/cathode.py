"""Background drawn from a density that was learnt beside the window and interpolated into it (2109.00546)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, FeatureSet, Window
from ..densities import check_density, check_known, fit_flow, flow_settings, in_order, sampled_events
from ..networks.flows import ConditionalFlow, Kind
from ..networks.mass_density import SidebandMass, WindowMass
from ..training_task import Schedule
from .outside import outside


@dataclass
class Cathode:
    """CATHODE (2109.00546): p(x | m) of the events outside the window, sampled at the masses of the window.

    The flow and its settings are those of `FlowSettings`. ``mass``: "data" draws m from a kernel density of the logit
    of the window's own masses, as published, right where only shapes matter; "sidebands" continues the spectrum from
    outside, so that the sum of weights too is a prediction. ``oversampling``: drawn events per event in the window; all
    of them together weigh what the window's events weigh (with "sidebands" what is predicted for them).
    ``width``: as in `Outside`.

    Drawn events have made-up identities, which fall into folds as any other. The flow saw the events outside the
    window, so a classifier on the drawn events knows of those through the flow; `Outside` with `LaCathode` keeps the
    flow inside the folds too.
    """

    paper: ClassVar[str] = "2109.00546"

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
    width: float = 0.0
    oversampling: float = 4.0
    mass: Literal["data", "sidebands"] = "data"
    bandwidth: float = 0.01
    seed: int = 0
    flow_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    mass_: WindowMass | SidebandMass | None = field(default=None, repr=False, compare=False)
    features_: FeatureSet | None = field(default=None, repr=False, compare=False)
    expected_: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)
        if not self.oversampling > 0 or not self.bandwidth > 0 or not self.width >= 0:
            raise ConfigError(
                f"found oversampling {self.oversampling}, bandwidth {self.bandwidth}, width {self.width}; "
                "expected numbers above 0, and a width not below 0"
            )
        if self.mass not in ("data", "sidebands"):
            raise ConfigError(f"mass: found '{self.mass}', expected data or sidebands")

    def fit(self, data: Events, window: Window) -> Self:
        """Learn the density outside ``window``; inside, at most the masses are looked at.

        Raises `InputError` for an empty window or side and for what no density can be learnt from, `FitError` where
        the training or the mass fit fails.
        """
        beside = outside(data, window, self.width)
        check_density(beside, "events outside the window")
        inside = in_order(data.take(window.contains(data.mass)), self.seed)
        if len(inside) == 0:
            raise InputError(f"no events in {window.low:g}-{window.high:g} GeV")
        if self.mass == "data":
            self.mass_ = WindowMass.fit(inside.mass, inside.weight, window, self.bandwidth)
            self.expected_ = round(self.oversampling * len(inside))
        else:
            self.mass_ = SidebandMass.fit(beside.mass, beside.weight, window)
            share = beside.weight.mean()
            self.expected_ = round(self.oversampling * self.mass_.total / share)
        self.flow_ = fit_flow(beside, flow_settings(self), self.seed)
        self.features_ = data.features
        return self

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """``n`` drawn events in the window (None: ``oversampling`` times what is there), of equal weight."""
        if self.flow_ is None or self.mass_ is None or self.features_ is None:
            raise InputError("this Cathode has not been fitted")
        mass = self.mass_.sample(self.expected_ if n is None else n, rng)
        x = self.flow_.sample(mass, rng)
        return sampled_events(self.features_, x, mass, self.mass_.total, rng)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the flow's domain, shape (d,) each: the extremes of what it learnt from, which it cannot reach."""
        if self.flow_ is None:
            raise InputError("this Cathode has not been fitted")
        return self.flow_.domain_.bounds()

    def log_density(self, events: Events) -> NDArray[np.float64]:
        """ln p(x | m) of background, shape (n,); -inf outside the flow's domain."""
        return check_known(events, self.flow_, "Cathode").log_prob(events.x, events.mass)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The flow, the mass distribution and the feature set."""
        if self.flow_ is None or self.mass_ is None or self.features_ is None:
            raise InputError("this Cathode has not been fitted")
        info, arrays, texts = self.flow_.state()
        mine: dict[str, Any] = {
            "flow": info,
            "features": self.features_.to_json(),
            "expected": self.expected_,
            "window": list(self.mass_.window),
        }
        if isinstance(self.mass_, WindowMass):
            return mine, arrays | {"mass": np.stack([self.mass_.mass, self.mass_.weight])}, texts
        mine["spectrum"] = [self.mass_.centre, self.mass_.scale]
        return mine, arrays | {"mass": self.mass_.coefficients}, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.flow_ = ConditionalFlow.restore(info["flow"], arrays, texts)
        self.features_, self.expected_ = FeatureSet.from_json(info["features"]), int(info["expected"])
        window, mass = Window(*info["window"]), np.asarray(arrays["mass"], dtype=np.float64)
        if "spectrum" in info:
            self.mass_ = SidebandMass(window, mass, *info["spectrum"])
        else:
            self.mass_ = WindowMass(window, mass[0], mass[1], self.bandwidth)
        return self
