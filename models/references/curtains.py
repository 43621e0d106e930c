"""Sideband events moved into the window by an invertible map that transports one sideband to the other (2203.09470)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, Window
from ..networks.descent import check_descent, descend
from ..networks.sinkhorn import sinkhorn_divergence
from ..networks.transport import TransportSettings, between, build_transport, in_batches, with_weights
from ..training import TrainingRecord
from .copies import ordered, sides
from .transported import Template, TransportReport, check_transport, report_of


@dataclass
class Curtains:
    """An invertible map T(x; m1 -> m2), trained such that either sideband moved to the other's masses looks like it.

    Coupling layers of rational-quadratic splines told m2 - m1, features scaled to -1..1 over the sidebands. Loss: the
    debiased Sinkhorn divergence (`blur`, `scaling`) of a moved batch to a batch of the band it goes to, whose masses
    it gets. Every second epoch goes between the sidebands, one step up (the map) and one down (its inverse); the
    others go from one random half of each sideband to its other half, so that small steps are learnt too. Adam, cosine
    schedule, gradients clipped. The window's events are never read; sidebands are ``width`` GeV wide, and the band of
    ``outer`` GeV beyond each validates the map (``report_``). `sample` moves every sideband event to ``oversampling``
    masses drawn from the sidebands' smooth spectrum; its weights sum to the expected background.

    Named differences from the paper: splines end at the extremes of the sidebands (`bound` 1, published 1.2), so that no
    event is moved beyond them: columns that pile up at an end, as a difference of masses does at 0, else leave a gap
    there that a classifier takes for signal; the map is the identity for m1 = m2 by construction, not by training; the loss
    compares the masses beside the features, without which every pairing of masses would do; the spectrum is
    log-quadratic over the sidebands. The divergence of two batches of one distribution is not zero but falls with
    ``batch``, and its gradient narrows what is moved; map and inverse are trained alike, so that this nearly cancels.
    Weights are chances to be drawn into a batch.
    """

    paper: ClassVar[str] = "2203.09470"

    width: float = 200.0
    outer: float = 200.0
    layers: int = 4
    hidden: tuple[int, ...] = (32, 32)
    bins: int = 4
    bound: float = 1.0
    epochs: int = 100
    batch: int = 100
    learning_rate: float = 1e-4
    clip_gradient: float = 5.0
    blur: float = 0.01
    scaling: float = 0.7
    oversampling: int = 4
    seed: int = 0
    state_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    scale_: NDArray[Any] = field(default_factory=lambda: np.zeros((2, 0)), repr=False, compare=False)
    masses_: tuple[float, float] = field(default=(0.0, 1.0), repr=False, compare=False)
    template_: Template | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    report_: TransportReport | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_transport(self.width, self.outer, self.oversampling)
        check_descent(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            clip_gradient=self.clip_gradient,
            blur=self.blur,
            scaling=self.scaling * (self.scaling < 1),
        )
        self._settings(1)

    def _settings(self, features: int) -> TransportSettings:
        return TransportSettings(
            features, "difference", self.layers, self.hidden, self.bins, self.bound, self.seed
        )

    def fit(self, data: Events, window: Window) -> Self:
        """Train on the sidebands of ``window``.

        Raises `InputError` for an empty sideband, a constant column or negative weights.
        """
        data = ordered(data)
        bands = sides(data, window, self.width, "data")
        both = Events.concatenate(bands)
        low, high = both.x.min(axis=0).astype(np.float64), both.x.max(axis=0).astype(np.float64)
        if not (high > low).all():
            name = data.features.names[int(np.argmin(high > low))]
            raise InputError(f"column {name} is constant beside the window: it cannot be moved; leave it out")
        self.scale_ = np.stack([0.5 * (low + high), 0.5 * (high - low)])
        self.masses_ = (window.centre, 0.5 * (window.high - window.low) + self.width)
        self._train(bands)
        self.template_ = Template.of(*bands, window)
        self.report_ = report_of(data, self.template_, bands, self.outer, self.move, self.seed)
        return self

    def _mass(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """-1 to 1 from the lower end of the low sideband to the upper end of the high one."""
        return (mass - self.masses_[0]) / self.masses_[1]

    def _train(self, bands: tuple[Events, Events]) -> None:
        import torch

        centre, half = self.scale_
        clouds = [
            torch.from_numpy(
                np.concatenate([(b.x - centre) / half, self._mass(b.mass)[:, None]], axis=1).astype(
                    np.float32
                )
            )
            for b in bands
        ]
        chances = [b.weight / b.weight.sum() for b in bands]
        settings = self._settings(len(centre))
        network = build_transport(settings)
        steps = max(1, max(len(b) for b in bands) // self.batch)
        size = min(self.batch, *(max(len(b) // 2, 1) for b in bands))

        def loss(batch: Any) -> Any:
            start, end = (
                clouds[band][torch.from_numpy(rows)] for rows, band in zip(batch[:2], batch[2], strict=True)
            )
            y = between(network, settings, start[:, :-1], start[:, -1], end[:, -1])[0]
            return sinkhorn_divergence(torch.cat([y, end[:, -1:]], dim=1), end, self.blur, self.scaling)

        def batches(epoch: int) -> list[Any]:
            rng = np.random.default_rng([self.seed, epoch])
            draw = _between_bands if epoch % 2 == 0 else _within_bands
            return draw(chances, steps, size, rng)

        self.state_, self.record_ = descend(
            network, batches, loss, self.epochs, self.learning_rate, self.clip_gradient
        )

    def move(self, events: Events, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """The features of ``events`` at other masses (n,) [GeV], shape (n, d)."""
        if not self.state_:
            raise InputError("this Curtains has not been fitted")
        centre, half = self.scale_
        settings = self._settings(len(centre))
        network = with_weights(settings, self.state_)
        u = (events.x.astype(np.float64) - centre) / half
        y = in_batches(
            lambda a, b, c: between(network, settings, a, b, c)[0],
            u,
            self._mass(events.mass),
            self._mass(mass),
        )
        return centre + half * y

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Extremes of the sidebands' columns, shape (d,) each: what lies on one of them is moved off it."""
        if not self.state_:
            raise InputError("this Curtains has not been fitted")
        centre, half = self.scale_
        return centre - half, centre + half

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """``n`` sideband events at masses of the window (None: ``oversampling`` times the sidebands)."""
        if self.template_ is None:
            raise InputError("this Curtains has not been fitted")
        asked = self.oversampling * len(self.template_.parents) if n is None else n
        return self.template_.draw(self.move, asked, rng)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights of the map, scalers, the sideband events, and how it went."""
        if self.template_ is None or self.record_ is None or self.report_ is None:
            raise InputError("this Curtains has not been fitted")
        info, arrays = self.template_.state()
        info |= {
            "masses": list(self.masses_),
            "record": self.record_.to_json(),
            "report": self.report_.to_json(),
        }
        return info, {**arrays, "scale": self.scale_, **{f"map/{k}": v for k, v in self.state_.items()}}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.template_ = Template.restored(info, arrays)
        self.state_ = {k.removeprefix("map/"): v for k, v in arrays.items() if k.startswith("map/")}
        self.scale_, self.masses_ = arrays["scale"], (info["masses"][0], info["masses"][1])
        self.record_ = TrainingRecord.from_json(info["record"])
        self.report_ = TransportReport.from_json(info["report"])
        return self


def _between_bands(
    chances: list[NDArray[np.float64]], steps: int, size: int, rng: np.random.Generator
) -> list[tuple[NDArray[Any], NDArray[Any], tuple[int, int]]]:
    """(rows that move, rows of the goal, (their bands)): up and down, ``steps`` times."""
    rows = [_rows(p, steps * size, rng).reshape(steps, size) for p in chances]
    return [(rows[i][k], rows[1 - i][k], (i, 1 - i)) for k in range(steps) for i in (0, 1)]


def _within_bands(
    chances: list[NDArray[np.float64]], steps: int, size: int, rng: np.random.Generator
) -> list[tuple[NDArray[Any], NDArray[Any], tuple[int, int]]]:
    """The same within each band, from one half of its events to the other."""
    out = []
    halves = [np.array_split(rng.permutation(len(p)), 2) for p in chances]
    pairs = [
        [h[_rows(p[h], steps * size, rng)].reshape(steps, size) for h in halves[i]]
        for i, p in enumerate(chances)
    ]
    for k in range(steps):
        out += [(pairs[i][0][k], pairs[i][1][k], (i, i)) for i in (0, 1)]
    return out


def _rows(chance: NDArray[np.float64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``n`` rows: round after round in a new order where all chances are equal, else drawn by them, shape (n,)."""
    if np.ptp(chance) > 1e-12 * chance.max():
        return rng.choice(len(chance), n, p=chance / chance.sum())
    rounds = -(-n // len(chance))
    return np.concatenate([rng.permutation(len(chance)) for _ in range(rounds)])[:n]
