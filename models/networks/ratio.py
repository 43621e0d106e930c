"""A classifier f(x; theta) of a simulated signal grid against background: the likelihood ratio for every theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError, InputError, LeakError
from ...events import Events, identity_hash
from .batched import Member, train_batched
from .dense import one_thread
from .stacked import BatchSettings, restack, standardised, unstack

#: Added to 1 - f in the ratio f / (1 - f) (2405.08889): no event may count as more than 1e5.
GUARD = 1e-5
#: Epochs without progress after which the learning rate halves.
HALVE_AFTER = 5
_ROWS = 16_384


@dataclass(frozen=True)
class PriorGrid:
    """A signal grid: simulated ``signal`` events, the ``theta`` (n, p) each was made with, and ``background``.

    Theta may have any unit. Background None: the method takes its reference's events. The events must be others than
    those of the search: no event is used twice.
    """

    signal: Events
    theta: NDArray[np.float64]
    background: Events | None = None

    def __post_init__(self) -> None:
        if self.theta.ndim != 2 or len(self.theta) != len(self.signal) or not np.isfinite(self.theta).all():
            raise InputError(
                f"theta has shape {self.theta.shape}, expected ({len(self.signal)}, parameters), all finite"
            )
        if len(self.signal) == 0 or (self.theta.min(axis=0) == self.theta.max(axis=0)).any():
            raise InputError("a signal grid needs events, and at least two values of each parameter")

    @property
    def points(self) -> NDArray[np.float64]:
        """The grid's points, each once, (points, p)."""
        return np.unique(self.theta, axis=0)

    def refuse(self, *samples: Events) -> None:
        """Raise `LeakError` if one of the background's events is in ``samples`` too."""
        if self.background is None:
            return
        mine = identity_hash(self.background.identity)
        for events in samples:
            shared = int(np.isin(identity_hash(events.identity), mine).sum())
            if shared:
                raise LeakError(
                    f"{shared} of {len(events)} events were used to train the signal-grid classifier; give it a "
                    "background of its own"
                )


@dataclass(frozen=True)
class RatioNetwork:
    """The trained f(x; theta): ``state`` (parameters,), scaling of the inputs (x, then theta), and its losses."""

    sizes: tuple[int, ...]
    state: NDArray[np.float32]
    mean: NDArray[np.float64]
    width: NDArray[np.float64]
    validation_loss: tuple[float, ...] = ()
    parameters: int = field(default=1)

    @cached_property
    def _layers(self) -> list[tuple[Any, Any]]:
        import torch

        arrays = unstack(self.state, BatchSettings(self.sizes, 1, 1))
        return [
            (torch.from_numpy(arrays[f"weight{k}"].copy()), torch.from_numpy(arrays[f"bias{k}"].copy()))
            for k in range(len(self.sizes) - 1)
        ]

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the arrays, not the tensors."""
        return {k: v for k, v in self.__dict__.items() if k != "_layers"}

    def prepared(self, x: NDArray[Any]) -> Any:
        """What the first layer makes of x (n, d) alone: a tensor (n, width), the same for every theta."""
        import torch

        d = len(self.mean) - self.parameters
        scaled = torch.from_numpy(standardised(x, self.mean[:d], self.width[:d]))
        with one_thread(), torch.no_grad():
            return scaled @ self._layers[0][0][:, :d].T

    def logit(self, prepared: Any, theta: Any) -> Any:
        """ln f / (1 - f) at ``theta`` (p,) or (n, p), a double tensor that may need its gradient; shape (n,)."""
        import torch

        d = len(self.mean) - self.parameters
        mean, width = torch.from_numpy(self.mean[d:]), torch.from_numpy(self.width[d:])
        scaled = ((theta - mean) / width).float()
        weight, bias = self._layers[0]
        out = prepared + (scaled @ weight[:, d:].T + bias)
        for after, shift in self._layers[1:]:
            out = torch.relu(out) @ after.T + shift
        return out[..., 0].double()

    def ratio(self, prepared: Any, theta: Any) -> Any:
        """f / (1 - f + 1e-5), shape (n,): p(x | signal, theta) / p(x | background)."""
        import torch

        inverse = torch.exp(-self.logit(prepared, theta).clamp(min=-60.0))
        return 1.0 / (inverse * (1.0 + GUARD) + GUARD)

    def ratios(self, x: NDArray[Any], theta: NDArray[np.float64]) -> NDArray[np.float64]:
        """`ratio` for x (n, d) at one theta (p,), shape (n,); evaluated in full batches, so no event sees another."""
        import torch

        out, point = np.empty(len(x)), torch.from_numpy(np.asarray(theta, np.float64))
        with one_thread(), torch.no_grad():
            for start in range(0, len(x), _ROWS):
                rows = np.asarray(x[start : start + _ROWS])
                full = np.zeros((_ROWS if len(x) > 1024 else 1024, x.shape[1]), np.float32)
                full[: len(rows)] = rows
                out[start : start + len(rows)] = self.ratio(self.prepared(full), point)[: len(rows)].numpy()
        return out

    def to_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """A JSON-ready dictionary and arrays."""
        arrays: dict[str, NDArray[Any]] = dict(unstack(self.state, BatchSettings(self.sizes, 1, 1)))
        info = {
            "sizes": list(self.sizes),
            "validation_loss": list(self.validation_loss),
            "parameters": self.parameters,
        }
        return info, {**arrays, "mean": self.mean, "width": self.width}

    @classmethod
    def from_state(cls, info: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> RatioNetwork:
        """Undo `to_state`."""
        sizes = tuple(info["sizes"])
        state = restack(arrays, BatchSettings(sizes, 1, 1))
        losses = tuple(info["validation_loss"])
        return cls(sizes, state, arrays["mean"], arrays["width"], losses, info["parameters"])


def _both_classes(
    grid: PriorGrid, background: Events, seed: int, theta_draws: int
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.uint64]]:
    """Columns with theta behind them (n, d + p), labels, weights and hashes of identity (n,), in an order that those decide."""
    signal = grid.signal
    rng = np.random.default_rng([seed % 2**64, 1])
    # In the order of identity, so that the order of the rows changes nothing.
    order_b = np.argsort(identity_hash(background.identity, seed), kind="stable")
    order_s = np.lexsort((*grid.theta.T, identity_hash(signal.identity, seed)))
    theta_s, weight_s = grid.theta[order_s], signal.weight[order_s]
    order_b = np.tile(order_b, theta_draws)
    drawn = theta_s[rng.choice(len(signal), len(order_b), p=weight_s / weight_s.sum())]
    x = np.concatenate(
        [
            np.column_stack([signal.x[order_s], theta_s]),
            np.column_stack([background.x[order_b], drawn]),
        ]
    ).astype(np.float32)
    y = (np.arange(len(x)) < len(signal)).astype(np.float64)
    weight = np.concatenate([weight_s, background.weight[order_b]]).astype(np.float64)
    hashes = np.concatenate(
        [identity_hash(signal.identity, seed)[order_s], identity_hash(background.identity, seed)[order_b]]
    )
    return x, y, weight, hashes


def train_ratio(
    grid: PriorGrid,
    background: Events,
    hidden: Sequence[int],
    epochs: int,
    batch: int,
    learning_rate: float,
    patience: int,
    validation: float,
    seed: int,
    theta_draws: int = 1,
) -> RatioNetwork:
    """f(x; theta) of ``grid`` against ``background``, whose events get a theta drawn from the signal's (2405.08889).

    With one theta per event, as published, a place of the grid has few background events of its own; with ``theta_draws`` of them
    every event is used so many times, and what is learnt is the same with less noise.

    Both classes weigh the same, so the classes are balanced at each theta and the paper's kappa(theta), the ratio of
    the two priors, is 1. A hash of the identity puts ``validation`` of the events aside; the epoch of lowest validation
    loss is kept. The learning rate halves after `HALVE_AFTER` epochs without progress, as in the public code.
    """
    x, y, weight, hashes = _both_classes(grid, background, seed, theta_draws)
    held = hashes / 2.0**64 < validation
    parts = []
    for mine in (~held, held):
        rows = np.flatnonzero(mine)
        balanced = weight[rows]
        for label in (0, 1):
            total = balanced[y[rows] == label].sum()
            if not total > 0:
                raise InputError("a part of the signal grid or its background is empty after the split")
            balanced[y[rows] == label] *= 0.5 * len(rows) / total
        parts += [rows, balanced]
    mean = np.average(x[parts[0]].astype(np.float64), axis=0, weights=parts[1])
    spread = np.sqrt(np.average((x[parts[0]] - mean) ** 2, axis=0, weights=parts[1]))
    width = np.where(np.ptp(x[parts[0]], axis=0) > 0, spread, 1.0)
    sizes = (x.shape[1], *hidden, 1)
    settings = BatchSettings(sizes, epochs, batch, learning_rate, 1, patience, HALVE_AFTER)
    member = Member(x, y, parts[0], parts[1], parts[2], parts[3], mean, width, seed % 2**63)
    found = train_batched([member], settings)[0]
    if not np.isfinite(found.states).all():
        raise FitError("the signal-grid classifier has weights that are not finite; lower learning_rate")
    return RatioNetwork(sizes, found.states[0], mean, width, found.validation_loss, grid.theta.shape[1])
