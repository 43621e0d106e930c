"""Simulation reweighted to the data: the ratio is learnt beside the window and read inside it (SALAD, 2001.05001)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, Window, identity_hash
from ..networks.dense import build_dense, evaluate, load_weights
from ..scores.weak_network import cross_entropy
from ..scores.weak_trees import balance
from ..training import Sample, Task, TrainingRecord, TrainSettings, train
from ..training_task import Schedule
from .copies import (
    check_sample,
    check_width,
    effective_size,
    events_restored,
    events_state,
    ordered,
    pick,
    scaled_to,
    sides,
)


@dataclass(frozen=True)
class Reweighting:
    """What the weights w(x, m) of the simulation in the window are like.

    ``expected``: background events predicted in the window; ``effective``: (sum w)^2 / sum w^2 of the reweighted
    simulation there, of ``simulated`` events; ``clipped``: how many of them met a bound of the clipping.
    """

    expected: float
    effective: float
    simulated: int
    clipped: int


@dataclass
class Salad:
    """Simulation weighted by w(x, m) = c / (1 - c), c a classifier of data against simulation in the sidebands.

    c(x, m) takes the mass as one more input, so that w can be read at masses it was not trained at (2001.05001).
    Network 64-64-64, ReLU, Adam, sidebands of ``width`` GeV beside the window. A factor common to data and simulation
    makes both sidebands' data weigh the same; it drops out of the ratio. c is the mean over the ``best`` epochs of
    lowest loss on the part ``validation``, inputs standardised on the training part. w lies within ``clip`` and its
    inverse, and is scaled such that the simulation in the sidebands weighs what the data there weigh. ``schedule`` and
    ``stiffness`` as in `FlowSettings`: the network sees the standardised mass divided by ``stiffness``, so that a larger one makes w vary
    more slowly with the mass.

    ``simulation`` is handed in by the caller; it covers window and sidebands and has the data's features.
    Differences from the paper: the average over epochs and the held-out part (there: the last epoch).
    """

    paper: ClassVar[str] = "2001.05001"

    width: float = 300.0
    hidden: tuple[int, ...] = (64, 64, 64)
    epochs: int = 20
    best: int = 5
    batch: int = 200
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    stiffness: float = 1.0
    validation: float = 0.2
    clip: float = 1e3
    seed: int = 0
    simulation: Events | None = field(default=None, repr=False, compare=False)
    mean_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    spread_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    members_: list[dict[str, NDArray[Any]]] = field(default_factory=list, repr=False, compare=False)
    scale_: float = field(default=1.0, repr=False, compare=False)
    events_: Events | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    report_: Reweighting | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_width(self.width)
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation: found {self.validation}, expected a fraction between 0 and 1")
        if not self.clip > 1:
            raise ConfigError(f"clip: found {self.clip}, expected above 1: w is kept within 1/clip and clip")
        if not self.stiffness > 0:
            raise ConfigError(f"stiffness: found {self.stiffness}, expected a number above 0")

    def fit(self, data: Events, window: Window) -> Self:
        """Learn w beside ``window`` and weight the simulation inside it.

        No event of the data inside the window is read. Raises `InputError` for a missing simulation, negative weights,
        or an empty sideband or window.
        """
        if self.simulation is None:
            raise InputError("Salad needs its simulation sample; hand it in as `simulation`")
        data.features.require_same(self.simulation.features, "the data", "the simulation")
        real = sides(ordered(data), window, self.width, "data")
        made = sides(ordered(self.simulation), window, self.width, "simulation")
        self._learn(made, real)
        beside = Events.concatenate(made)
        self.scale_ = 1.0
        total = math.fsum(Events.concatenate(real).weight)
        self.scale_ = total / math.fsum(beside.weight * self.ratio(beside))
        self._apply(window)
        return self

    def _learn(self, made: tuple[Events, Events], real: tuple[Events, Events]) -> None:
        """Train the classifier of data (1) against simulation (0)."""
        parts = (*made, *real)
        even = [1.0 / math.fsum(part.weight) for part in real]
        factors = (*even, *even)
        weight = np.concatenate([p.weight * f for p, f in zip(parts, factors, strict=True)])
        events = Events.concatenate(parts)
        y = np.concatenate([np.zeros(sum(map(len, made))), np.ones(sum(map(len, real)))])
        inputs = self._columns(events)
        hashes = identity_hash(events.identity, self.seed)
        order = np.lexsort((y, hashes))
        held = hashes[order] / 2.0**64 < self.validation
        train_rows, held_rows = order[~held], order[held]
        balanced = balance(weight[train_rows], y[train_rows])
        self.mean_ = np.average(inputs[train_rows], axis=0, weights=balanced)
        spread = np.sqrt(np.average((inputs[train_rows] - self.mean_) ** 2, axis=0, weights=balanced))
        self.spread_ = np.where(np.ptp(inputs[train_rows], axis=0) > 0, spread, 1.0)
        self.spread_[-1] *= self.stiffness

        def sample(rows: NDArray[Any]) -> Sample:
            return Sample(self._scaled(inputs[rows]), y[rows], balance(weight[rows], y[rows]))

        settings = TrainSettings.of(self, self.seed)
        task = Task(build_dense, self._config(), cross_entropy, sample(train_rows), sample(held_rows))
        result = train(task, settings)
        self.members_, self.record_ = list(result.states), result.record

    @staticmethod
    def _columns(events: Events) -> NDArray[np.float64]:
        """Features and mass, shape (n, d + 1)."""
        return np.concatenate([events.x.astype(np.float64), events.mass[:, None]], axis=1)

    def _scaled(self, inputs: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((inputs - self.mean_) / self.spread_).astype(np.float32)

    def _config(self) -> dict[str, Any]:
        return {"sizes": [len(self.mean_), *self.hidden, 1], "seed": self.seed}

    def ratio(self, events: Events) -> NDArray[np.float64]:
        """w(x, m), the learnt density of the data over that of the simulation, clipped, shape (n,).

        It is a ratio of numbers of events per (x, m), so simulation weighted by it predicts counts, too.
        """
        if not self.members_:
            raise InputError("this Salad has not been fitted")
        inputs = self._scaled(self._columns(events))
        total = np.zeros(len(events))
        for member in self.members_:
            logit = evaluate(load_weights(build_dense(self._config()), member), inputs).reshape(len(events))
            total += 0.5 * (1.0 + np.tanh(0.5 * logit.astype(np.float64)))
        c = total / len(self.members_)
        least = 1.0 / self.clip
        return self.scale_ * np.clip(c / np.maximum(1.0 - c, least * 1e-3), least, self.clip)

    def _apply(self, window: Window) -> None:
        """Weight the simulation of the window, and say what came of it."""
        if self.simulation is None:
            raise InputError("Salad needs its simulation sample; hand it in as `simulation`")
        inside = ordered(self.simulation.take(window.contains(self.simulation.mass)))
        if len(inside) == 0:
            raise InputError(f"the simulation has no event in {window.low:g}-{window.high:g}")
        check_sample(inside, "simulation in the window")
        w = self.ratio(inside)
        bare = w / self.scale_
        clipped = int(np.sum((bare <= 1.0 / self.clip) | (bare >= self.clip)))
        weight = inside.weight * w
        self.events_ = replace(inside, weight=weight)
        self.report_ = Reweighting(math.fsum(weight), effective_size(weight), len(inside), clipped)

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """All simulation of the window, or ``n`` events of it drawn without replacement.

        Weights sum to the background events predicted in the window, however many are drawn.
        """
        if self.events_ is None or self.report_ is None:
            raise InputError("this Salad has not been fitted")
        if n is None or n >= len(self.events_):
            return self.events_
        return scaled_to(self.events_.take(pick(len(self.events_), n, rng)[0]), self.report_.expected)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights of every kept epoch, the scaler, and the reweighted simulation."""
        if self.events_ is None or self.report_ is None:
            raise InputError("this Salad has not been fitted")
        features, table = events_state(self.events_, "events")
        arrays = {f"{i}/{k}": v for i, member in enumerate(self.members_) for k, v in member.items()}
        info = {
            "members": len(self.members_),
            "scale": self.scale_,
            "features": features,
            "record": None if self.record_ is None else self.record_.to_json(),
            "report": self.report_.__dict__,
        }
        return info, {"mean": self.mean_, "spread": self.spread_, **table, **arrays}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave; the simulation outside the window is not stored."""
        self.mean_, self.spread_, self.scale_ = arrays["mean"], arrays["spread"], info["scale"]
        self.members_ = [
            {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
            for i in range(info["members"])
        ]
        self.events_ = events_restored(info["features"], arrays, "events")
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self.report_ = Reweighting(**info["report"])
        return self
