"""What to train and how, and what comes of it: plain data that travels to workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError

#: Called after each epoch with (epoch counted from 1, training loss, validation loss or None).
Progress = Callable[[int, float, "float | None"], None]
State = dict[str, NDArray[Any]]
#: How the learning rate changes in the course of a training.
Schedule = Literal["constant", "cosine"]
#: Part of the steps over which a rate that changes first rises.
_RISE = 0.01


@dataclass(frozen=True)
class Sample:
    """What is learnt from: x (n, d) float32, y (n,) or (n, k) float32 or None, weight (n,) >= 0 (None: all one)."""

    x: NDArray[Any]
    y: NDArray[Any] | None = None
    weight: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if len(self.x) == 0:
            raise InputError("a training or validation sample has no events")
        for name, value in (("x", self.x), ("y", self.y), ("weight", self.weight)):
            if value is not None and (len(value) != len(self.x) or not np.isfinite(value).all()):
                raise InputError(f"{name} of a training sample must be finite and have {len(self.x)} rows")
        if self.weight is not None and (self.weight.min() < 0 or self.weight.sum() <= 0):
            raise InputError("weights of a training sample must not be negative, nor all zero")

    def arrays(self) -> State:
        """x, y (if any) and weight as contiguous float32."""
        weight = np.ones(len(self.x)) if self.weight is None else self.weight
        found = {"x": self.x, "weight": weight} | ({} if self.y is None else {"y": self.y})
        return {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in found.items()}


@dataclass(frozen=True)
class Task:
    """What to train. ``build`` and ``loss`` are functions of a module, so that workers can import them.

    ``build(config)`` gives the network with its first weights, ``config`` is JSON-ready and holds the seed of those;
    ``loss(network, x, y)`` gives one loss per event, shape (n,). With ``draws`` it takes a ``torch.Generator`` as fourth argument,
    seeded by the training's seed, the step and the shard: the same numbers on any worker and after any interruption. A network
    that has a method ``at_step(step, steps)`` is told of every step (counted from 0) before it.
    """

    build: Callable[[Mapping[str, Any]], Any]
    config: Mapping[str, Any]
    loss: Callable[..., Any]
    train: Sample
    validation: Sample | None = None
    draws: bool = False


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Only the second group of fields is free to change without changing the result.

    ``keep``: "last" gives the state after the last epoch, "best" the ``best`` epochs of lowest validation loss.
    ``schedule``: "constant", or "cosine" from ``learning_rate`` down to 0 after a rise over the first hundredth of the steps.
    """

    epochs: int
    batch: int
    learning_rate: float = 1e-3
    seed: int = 0
    shards: int = 4
    keep: Literal["last", "best"] = "last"
    best: int = 1
    schedule: Schedule = "constant"

    backend: Literal["plain", "ray"] = "plain"
    workers: int = 1
    ray_address: str = "local"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "shards", "best", "workers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if self.backend not in ("plain", "ray") or self.keep not in ("last", "best"):
            raise ConfigError(
                f"found backend {self.backend!r}, keep {self.keep!r}; expected plain or ray, last or best"
            )
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f"schedule: found {self.schedule!r}, expected constant or cosine")
        if self.workers > self.shards:
            raise ConfigError(
                f"{self.workers} workers cannot share {self.shards} shards; ask for at most {self.shards}"
            )
        if self.backend == "plain" and self.workers != 1:
            raise ConfigError(f"backend 'plain' has one worker, {self.workers} asked for; use backend 'ray'")

    @classmethod
    def of(cls, how: Any, seed: int) -> Self:
        """What a method's fields say: epochs, batch, learning_rate, best and perhaps schedule; the best epochs are kept."""
        return cls(
            how.epochs, how.batch, how.learning_rate, seed, shards=1, keep="best", best=how.best,
            schedule=getattr(how, "schedule", "constant"),
        )  # fmt: skip

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step``, counted from 0, of ``steps``."""
        if self.schedule == "constant":
            return self.learning_rate
        rise = min(1.0, (step + 1) / max(1.0, _RISE * steps))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / steps))

    def identity(self) -> dict[str, Any]:
        """The fields that the result depends on."""
        free = ("backend", "workers", "ray_address")
        return {k: v for k, v in asdict(self).items() if k not in free}


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went: losses per epoch (weighted mean per event), learning rate, time [s], events per second.

    ``resumed_from``: number of finished epochs that were found on disk, None if it started from nothing.
    """

    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    learning_rate: float
    wall_s: float
    events_per_s: float
    epochs: int
    workers: int
    backend: str
    resumed_from: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TrainingRecord:
        """Undo `to_json`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**values)


@dataclass(frozen=True)
class TrainingResult:
    """The trained weights by parameter name, how it went, and all kept states, the best first."""

    state: State
    record: TrainingRecord
    states: tuple[State, ...]


@dataclass(frozen=True)
class TrainPlan:
    """Where a method is trained; no setting of the method, because the result does not depend on it."""

    backend: Literal["plain", "ray"] = "plain"
    workers: int = 1
    ray_address: str = "local"
    folder: Path | None = None
    progress: Progress | None = None

    def settings(self, how: Any, shards: int) -> TrainSettings:
        """What a method's fields say (epochs, batch, learning_rate, seed), trained here; the last epoch is kept."""
        return TrainSettings(
            how.epochs, how.batch, how.learning_rate, how.seed, shards, backend=self.backend, workers=self.workers,
            ray_address=self.ray_address,
        )  # fmt: skip


def later(progress: Progress | None, before: int) -> Progress | None:
    """The same progress for a training that others of ``before`` epochs came before."""
    if progress is None:
        return None
    return lambda epoch, loss, held: progress(before + epoch, loss, held)
