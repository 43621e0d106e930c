"""Simulation morphed into data by a flow for a flow that is learnt beside the window (FETA, 2212.11285)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FitError, InputError
from ...events import Events, Window, identity_hash
from ..nesting import state_under
from ..networks.flow_for_flow import Rows, base_settings, frozen_base, top_settings, train_top
from ..networks.flows import ConditionalFlow
from ..networks.transport import TransportSettings, in_batches, moved, with_weights
from ..training import TrainingRecord
from ..training_task import Schedule
from .closure import Closure, closure
from .copies import (
    check_sample,
    check_width,
    copy_identity,
    events_restored,
    events_state,
    ordered,
    pick,
    scaled_to,
    sides,
)
from .spectrum import SidebandSpectrum
from .transported import allowed

#: Sidebands no wider than this [GeV] say how many events the window holds.
_SPECTRUM = 400.0
#: The last shared base by the digest of what it was learnt from: the windows of a search ask for the same.
_BASES: dict[str, ConditionalFlow] = {}


@dataclass(frozen=True)
class MorphReport:
    """What the morphed simulation is like.

    ``expected``: background events predicted in the window; ``lost``: fractions of the simulation there and of the
    sideband data that lie outside the simulation's domain or leave the allowed range of a column; ``beside``: the
    simulation of the sidebands, morphed, against the data there.
    """

    expected: float
    lost_simulation: float
    lost_data: float
    beside: Closure


def _with_mass(network: Any, settings: TransportSettings, v: Any, own: Any, goal: Any) -> Any:  # noqa: ARG001
    """Data to simulation at the same mass, for `train_top`."""
    return moved(network, settings, v, goal[:, None], None, back=False)


@dataclass
class Feta:
    """A base flow p(x | m) of the simulation, and a top flow between simulation and data learnt in the sidebands.

    The top flow takes sideband data to where the simulation's density is high, at the same mass, by maximum likelihood
    with the base as its density; its inverse morphs the simulation of the window (2212.11285). Likelihood fixes what
    comes out, not which event becomes which: only the start at the identity and a low ``learning_rate`` keep moves small. `sample` gives every
    simulated event of the window ``oversampling`` times: once itself, the other times an event that the base flow makes
    at its mass, all morphed. Weights: the simulation's, times the ratio of the mass spectra beside the window, scaled
    to the background expected in it; both spectra are log-quadratic within 400 GeV of the window.

    ``simulation`` is handed in by the caller; it covers window and sidebands and has the data's features. No data of
    the window are read. ``shared_base``: the base learns all simulation instead of that of window and sidebands, once for all windows
    that a process fits. ``kind`` to ``base_epochs`` are the base's (0 and (): the kind's published sizes), the fields
    after them the top flow's. Named differences from the paper: the base is six spline transforms instead of one with
    15 residual blocks of 128; the top flow is made of coupling layers; coordinates are standardised (logits) instead of
    scaled to -3..3; no weight decay.
    """

    paper: ClassVar[str] = "2212.11285"

    width: float = 1800.0
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
    epochs: int = 100
    batch: int = 128
    learning_rate: float = 1e-4
    validation: float = 0.2
    oversampling: int = 6
    shared_base: bool = False
    seed: int = 0
    simulation: Events | None = field(default=None, repr=False, compare=False)
    base_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    top_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    parents_: Events | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    report_: MorphReport | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_width(self.width)
        if self.oversampling < 1:
            raise ConfigError(
                f"oversampling: found {self.oversampling}, expected at least 1 copy of every event"
            )
        base_settings(self)
        top_settings(self)
        self._map(1)

    def _map(self, features: int) -> TransportSettings:
        return TransportSettings(
            features, "alone", self.layers, self.hidden, self.bins, self.bound, self.seed
        )

    def fit(self, data: Events, window: Window) -> Self:
        """Train the base on the simulation, the top flow on sideband data, and keep the simulation of the window.

        Raises `InputError` for a missing simulation, negative weights, or an empty sideband or window.
        """
        if self.simulation is None:
            raise InputError("Feta needs its simulation sample; hand it in as `simulation`")
        data.features.require_same(self.simulation.features, "the data", "the simulation")
        real = sides(ordered(data), window, self.width, "data")
        simulation = ordered(self.simulation)
        made = sides(simulation, window, self.width, "simulation")
        inside = simulation.take(window.contains(simulation.mass))
        if len(inside) == 0:
            raise InputError(f"the simulation has no event in {window.low:g}-{window.high:g}")
        check_sample(inside, "simulation in the window")
        self._learn_base(simulation if self.shared_base else Events.concatenate([*made, inside]))
        lost_data = self._learn_top(Events.concatenate(real))
        spectra = [SidebandSpectrum.fit(*_near(bands, window), window) for bands in (real, made)]
        expected = spectra[0].expected()
        factor = spectra[0].density(inside.mass) / spectra[1].density(inside.mass)
        self.parents_ = scaled_to(replace(inside, weight=inside.weight * factor), expected)
        beside = self._morphed(Events.concatenate(made), np.zeros(sum(map(len, made))))
        lost = 1.0 - len(self._morphed(inside, np.zeros(len(inside)))) / len(inside)
        close = closure(beside, Events.concatenate(real), seed=self.seed)
        self.report_ = MorphReport(expected, lost, lost_data, close)
        return self

    def _learn_base(self, simulation: Events) -> None:
        """Train the base, or take the one of the same simulation that is there already."""
        settings, hashes = base_settings(self), identity_hash(simulation.identity, self.seed)
        content = hashlib.sha256(repr((settings, self.seed)).encode())
        for column in (simulation.x, simulation.mass, simulation.weight, hashes):
            content.update(np.ascontiguousarray(column).tobytes())
        key = content.hexdigest()
        if not self.shared_base or key not in _BASES:
            self.base_ = ConditionalFlow.fit(
                simulation.x, simulation.mass, simulation.weight, hashes, settings, self.seed
            )
            if self.shared_base:
                _BASES.clear()
                _BASES[key] = self.base_
        else:
            self.base_ = _BASES[key]

    def _learn_top(self, data: Events) -> float:
        """Train data -> simulation; the fraction of the data outside the simulation's domain."""
        base = self._fitted()
        inside = base.domain_.inside(data.x)
        kept = data.take(inside)
        if len(kept) == 0:
            raise InputError("no event of the data beside the window lies in the range of the simulation")
        own = self._mass(kept.mass)
        hashes = identity_hash(kept.identity, self.seed)
        rows = Rows(base.domain_.forward(kept.x), own, lambda _: own, kept.weight, hashes)
        self.top_, self.record_ = train_top(
            frozen_base(base), self._map(data.x.shape[1]), top_settings(self), rows, _with_mass
        )
        return 1.0 - len(kept) / len(data)

    def _fitted(self) -> ConditionalFlow:
        if self.base_ is None:
            raise InputError("this Feta has not been fitted")
        return self.base_

    def _mass(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Masses as the base takes them."""
        base = self._fitted()
        return (mass - base.centre_[0]) / base.width_[0]

    def morph(self, x: NDArray[Any], mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Features of simulation x (n, d) made into features of data at the same masses (n,); NaN outside the domain."""
        base = self._fitted()
        settings = self._map(x.shape[1])
        network = with_weights(settings, self.top_)
        inside = base.domain_.inside(x)
        out = np.full(x.shape, np.nan)
        y = in_batches(
            lambda a, c: moved(network, settings, a, c[:, None], None, back=True)[0],
            base.domain_.forward(x[inside]),
            self._mass(mass[inside]),
        )
        out[inside] = base.domain_.inverse(y)
        return out

    def _morphed(self, events: Events, copies: NDArray[Any]) -> Events:
        """Morphed copies of ``events``, without those that cannot be morphed or leave a column's range."""
        x = self.morph(events.x, events.mass)
        keep = allowed(x.astype(np.float32).astype(np.float64), events)
        identity = copy_identity(events.identity, copies)
        x = np.where(keep[:, None], x, 0.0).astype(np.float32)
        return replace(events, x=x, identity=identity).take(keep)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends of the domain of the simulation's flow, shape (d,) each, within which events are morphed."""
        return self._fitted().domain_.bounds()

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """``n`` morphed events (None: ``oversampling`` times the simulation of the window).

        Copies beyond the first are drawn from the base flow at their parent's mass. The weights sum to the background
        expected in the window.
        """
        if self.parents_ is None or self.report_ is None:
            raise InputError("this Feta has not been fitted")
        asked = self.oversampling * len(self.parents_) if n is None else n
        rows, copies = pick(len(self.parents_), asked, rng)
        events = self.parents_.take(rows)
        drawn = copies > 0
        if drawn.any():
            x = events.x.copy()
            x[drawn] = self._fitted().sample(events.mass[drawn], rng)
            events = replace(events, x=x)
        made = self._morphed(events, copies)
        if asked and not len(made):
            raise FitError("no event of the simulation can be morphed; train longer or check the columns")
        return scaled_to(made, self.report_.expected)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Both flows, the simulation of the window, and how it went."""
        if self.parents_ is None or self.record_ is None or self.report_ is None:
            raise InputError("this Feta has not been fitted")
        features, table = events_state(self.parents_, "parents")
        base, base_arrays, _ = state_under("base", self.base_)
        report = {**self.report_.__dict__, "beside": self.report_.beside.__dict__}
        info = {"features": features, "base": base, "record": self.record_.to_json(), "report": report}
        return info, {**table, **base_arrays, **{f"top/{k}": v for k, v in self.top_.items()}}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave; the simulation outside the window is not stored."""
        mine = {k.removeprefix("base."): v for k, v in arrays.items() if k.startswith("base.")}
        self.base_ = ConditionalFlow.restore(info["base"], mine, {})
        self.parents_ = events_restored(info["features"], arrays, "parents")
        self.top_ = {k.removeprefix("top/"): v for k, v in arrays.items() if k.startswith("top/")}
        self.record_ = TrainingRecord.from_json(info["record"])
        self.report_ = MorphReport(**{**info["report"], "beside": Closure(**info["report"]["beside"])})
        return self


def _near(bands: tuple[Events, Events], window: Window) -> tuple[Events, Events]:
    """The parts of the sidebands from which the spectrum in the window can be read; raises `InputError` if one is empty."""
    low, high = bands
    near = low.take(low.mass >= window.low - _SPECTRUM), high.take(high.mass < window.high + _SPECTRUM)
    if min(map(len, near)) == 0:
        raise InputError(
            f"no events within {_SPECTRUM:g} GeV on one side of {window.low:g}-{window.high:g}: the window's "
            "background cannot be counted"
        )
    return near
