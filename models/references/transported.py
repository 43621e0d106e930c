"""The sample that moved sideband events make, and how well they close beside the window."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FitError, InputError
from ...events import Events, Window
from .closure import Closure, closure
from .copies import check_width, copy_identity, events_restored, events_state, pick, scaled_to
from .spectrum import SidebandSpectrum

#: Features (n, d) of events after they were moved to the masses (n,); NaN where that is impossible.
Move = Callable[[Events, NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class TransportReport:
    """What a reference of moved events is like.

    ``expected``: background events predicted in the window; ``lost``: fraction of the events that cannot be moved or
    leave the allowed range of a column; ``below``, ``above``: each sideband moved outwards to the band of ``outer`` GeV
    beyond it against the data there (None: there are too few data, or ``outer`` is 0).
    """

    expected: float
    lost: float
    below: Closure | None
    above: Closure | None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        each = {
            k: None if v is None else dict(v.__dict__)
            for k, v in (("below", self.below), ("above", self.above))
        }
        return {"expected": self.expected, "lost": self.lost, **each}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Undo `to_json`."""
        each = {k: None if raw[k] is None else Closure(**raw[k]) for k in ("below", "above")}
        return cls(raw["expected"], raw["lost"], each["below"], each["above"])


def check_transport(width: float, outer: float, oversampling: int) -> None:
    """Raise `ConfigError` for sidebands without width, a negative outer band or no copy of an event."""
    check_width(width)
    if not outer >= 0:
        raise ConfigError(f"outer: found {outer}, expected GeV, 0 for no outer bands")
    if oversampling < 1:
        raise ConfigError(f"oversampling: found {oversampling}, expected at least 1 copy of every event")


def allowed(x: NDArray[np.float64], events: Events) -> NDArray[np.bool_]:
    """Which rows of x (n, d) are finite and within the allowed ranges of the columns of ``events``, (n,)."""
    out = np.asarray(np.isfinite(x).all(axis=1))
    for i, column in enumerate(events.features.columns):
        if column.low is not None:
            out &= x[:, i] >= column.low
        if column.high is not None:
            out &= x[:, i] <= column.high
    return out


@dataclass(frozen=True)
class Template:
    """The sideband events that are moved, in their order, and the mass spectrum they get."""

    parents: Events
    spectrum: SidebandSpectrum

    @classmethod
    def of(cls, low: Events, high: Events, window: Window) -> Self:
        """Of the two sidebands of ``window``."""
        return cls(Events.concatenate([low, high]), SidebandSpectrum.fit(low, high, window))

    def draw(self, move: Move, n: int, rng: np.random.Generator) -> Events:
        """About ``n`` events in the window: every parent equally often, each time to another mass of the spectrum.

        Those that cannot be moved are left out; the weights sum to the background expected in the window all the same.
        """
        rows, copies = pick(len(self.parents), n, rng)
        made = moved_events(self.parents.take(rows), copies, self.spectrum.sample(n, rng), move)
        if n and not len(made):
            raise FitError(
                "none of the sideband events can be moved into the window; train longer or check the columns"
            )
        return scaled_to(made, self.spectrum.expected())

    def lost(self, move: Move, seed: int) -> float:
        """Fraction of the parents that are lost on the way to one mass each."""
        mass = self.spectrum.sample(len(self.parents), np.random.default_rng(seed))
        return 1.0 - float(allowed(move(self.parents, mass), self.parents).mean())

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """JSON-ready numbers and arrays."""
        features, arrays = events_state(self.parents, "parents")
        s = self.spectrum
        numbers = [s.window.low, s.window.high, s.centre, s.half, *s.coefficients]
        return {"features": features, "spectrum": numbers}, arrays

    @classmethod
    def restored(cls, info: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Self:
        """Undo `state`."""
        low, high, centre, half, a, b, c = info["spectrum"]
        spectrum = SidebandSpectrum(Window(low, high), centre, half, (a, b, c))
        return cls(events_restored(info["features"], arrays, "parents"), spectrum)


def moved_events(parents: Events, copies: NDArray[Any], mass: NDArray[np.float64], move: Move) -> Events:
    """Copies of ``parents`` at other masses (n,), without those that cannot be moved or leave a column's range."""
    x = move(parents, mass)
    keep = allowed(x.astype(np.float32).astype(np.float64), parents)
    identity = copy_identity(parents.identity, copies)
    whole = replace(
        parents, x=np.where(keep[:, None], x, 0.0).astype(np.float32), mass=mass, identity=identity
    )
    return whole.take(keep)


def outer_closure(data: Events, band: Events, width: float, move: Move, seed: int) -> Closure | None:
    """A sideband ``band`` moved to the masses of the data within ``width`` GeV beyond it, against those data.

    ``width`` is negative for the band below. None where the data there are fewer than 100 or ``width`` is 0.
    """
    edge = float(band.mass.max()) if width > 0 else float(band.mass.min())
    outside = Window(np.nextafter(edge, np.inf), edge + width) if width > 0 else Window(edge + width, edge)
    there = data.take(outside.contains(data.mass))
    if width == 0 or len(there) < 100 or math.fsum(there.weight) <= 0:
        return None
    if (there.weight < 0).any():
        raise InputError(
            "data beyond the sidebands: weights must not be negative to compare them; set outer to 0"
        )
    rng = np.random.default_rng(seed)
    mass = rng.choice(there.mass, len(band), p=there.weight / there.weight.sum())
    return closure(moved_events(band, np.zeros(len(band)), mass, move), there, seed=seed)


def report_of(
    data: Events, template: Template, bands: tuple[Events, Events], outer: float, move: Move, seed: int
) -> TransportReport:
    """The report of a fitted reference: losses in the window, closure in the outer bands."""
    below = outer_closure(data, bands[0], -outer, move, seed)
    above = outer_closure(data, bands[1], outer, move, seed)
    return TransportReport(template.spectrum.expected(), template.lost(move, seed), below, above)
