"""What to train and how, and what comes of it: plain data that travels to workers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from .training_stream import ParquetSample

#: Called after each epoch with (epoch counted from 1, training loss, validation loss or None).
Progress = Callable[[int, float, "float | None"], None]
State = dict[str, NDArray[Any]]
#: How the learning rate changes in the course of a training.
Schedule = Literal["constant", "cosine"]
Optimizer = Literal["adam", "adamw", "lars"]
#: Of the products of matrices; weights, moments and sums of gradients are float32 always.
Precision = Literal["float32", "bfloat16"]
#: Settings that a method has as fields of its own if it wants another value than the default.
_RECIPE = (
    "schedule", "warmup", "final_rate", "optimizer", "weight_decay", "drop_last", "patience", "precision",
)  # fmt: skip
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

    def __len__(self) -> int:
        return len(self.x)

    def identity(self) -> dict[str, Any]:
        """Shape and sha256 of every array."""
        found = self.arrays().items()
        return {k: [list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()] for k, a in found}


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
    train: Sample | ParquetSample
    validation: Sample | ParquetSample | None = None
    draws: bool = False


@dataclass(frozen=True)
class TrainSettings:
    """How to train. Only the second group of fields is free to change without changing the result.

    ``keep``: "last" gives the state after the last epoch, "best" the ``best`` epochs of lowest validation loss.
    ``schedule``: "constant", or "cosine" from ``learning_rate`` down to the part ``final_rate`` of it, after a rise over the first
    ``warmup`` epochs (0: over the first hundredth of the steps).
    ``optimizer``: "adam" (``weight_decay`` adds to the gradient), "adamw" (it shrinks the weights), "lars" (`Lars`).
    ``drop_last``: an epoch's last batch is left out if it is not full. ``patience``: stop after so many epochs without a lower
    validation loss (0: never). ``precision``: "bfloat16" computes the loss of the training (not of the validation) in it, where
    torch's autocast does.
    """

    epochs: int
    batch: int
    learning_rate: float = 1e-3
    seed: int = 0
    shards: int = 4
    keep: Literal["last", "best"] = "last"
    best: int = 1
    schedule: Schedule = "constant"
    warmup: int = 0
    final_rate: float = 0.0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    drop_last: bool = False
    patience: int = 0
    precision: Precision = "float32"

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
        self._check_recipe()
        if self.workers > self.shards:
            raise ConfigError(
                f"{self.workers} workers cannot share {self.shards} shards; ask for at most {self.shards}"
            )
        if self.backend == "plain" and self.workers != 1:
            raise ConfigError(f"backend 'plain' has one worker, {self.workers} asked for; use backend 'ray'")

    def _check_recipe(self) -> None:
        for name, kind in (("schedule", Schedule), ("optimizer", Optimizer), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                *rest, last = get_args(kind)
                raise ConfigError(
                    f"{name}: found {getattr(self, name)!r}, expected {', '.join(rest)} or {last}"
                )
        if min(self.weight_decay, self.patience, self.warmup) < 0 or not 0 <= self.final_rate <= 1:
            raise ConfigError(
                f"found weight_decay {self.weight_decay}, patience {self.patience}, warmup {self.warmup}, final_rate "
                f"{self.final_rate}; expected nothing below 0 and a final_rate of at most 1"
            )
        if (self.warmup or self.final_rate) and self.schedule != "cosine":
            raise ConfigError("warmup and final_rate belong to schedule: cosine")
        if self.patience and self.keep != "best":
            raise ConfigError("patience needs keep 'best': the last epochs are those that were no better")

    @classmethod
    def of(cls, how: Any, seed: int) -> Self:
        """What a method's fields say: epochs, batch, learning_rate, best and perhaps more; the best epochs are kept."""
        return cls(
            how.epochs, how.batch, how.learning_rate, seed, shards=1, keep="best", best=how.best, **_recipe(how),
        )  # fmt: skip

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step ``step``, counted from 0, of ``steps``."""
        if self.schedule == "constant":
            return self.learning_rate
        if not self.warmup:
            rise = min(1.0, (step + 1) / max(1.0, _RISE * steps))
            return self.learning_rate * rise * self._fall(step / steps)
        first = (
            steps * self.warmup // self.epochs
        )  # beyond the end where there are fewer epochs than that: it only rises
        if step < first:
            return self.learning_rate * (step + 1) / first
        return self.learning_rate * self._fall((step - first) / (steps - first))

    def _fall(self, done: float) -> float:
        """The rate, as a part of the peak, when the part ``done`` of the cosine is over."""
        half = 0.5 * (1 + math.cos(math.pi * done))
        return self.final_rate + (1 - self.final_rate) * half if self.final_rate else half

    def identity(self) -> dict[str, Any]:
        """The fields that the result depends on."""
        free = ("backend", "workers", "ray_address")
        return {k: v for k, v in asdict(self).items() if k not in free}


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went: losses per epoch (weighted mean per event), learning rate, time [s], events per second.

    ``resumed_from``: number of finished epochs that were found on disk, None if it started from nothing. ``stopped_at``: the epoch
    after which ``patience`` ended it, None if it went on to the last. ``epoch_s``, ``epoch_cpu_s``: of every epoch with its
    validation, on the first worker and in all threads of its process.
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
    stopped_at: int | None = None
    epoch_s: tuple[float, ...] = ()
    epoch_cpu_s: tuple[float, ...] = ()

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
    """Where a method is trained, and in which ``precision`` where the method has no field of that name.

    Nothing else here is a setting of the method, because the result does not depend on it.
    """

    backend: Literal["plain", "ray"] = "plain"
    workers: int = 1
    ray_address: str = "local"
    folder: Path | None = None
    progress: Progress | None = None
    precision: Precision = "float32"

    def settings(self, how: Any, shards: int) -> TrainSettings:
        """What a method's fields say (epochs, batch, learning_rate, seed and perhaps more), trained here.

        The last epoch is kept, the best one where the method has patience.
        """
        recipe: dict[str, Any] = {"precision": self.precision} | _recipe(how)
        return TrainSettings(
            how.epochs, how.batch, how.learning_rate, how.seed, shards, keep="best" if recipe.get("patience") else "last",
            backend=self.backend, workers=self.workers, ray_address=self.ray_address, **recipe,
        )  # fmt: skip


def _recipe(how: Any) -> dict[str, Any]:
    """The settings that are fields of a method."""
    return {name: getattr(how, name) for name in _RECIPE if hasattr(how, name)}


def later(progress: Progress | None, before: int) -> Progress | None:
    """The same progress for a training that others of ``before`` epochs came before."""
    if progress is None:
        return None
    return lambda epoch, loss, held: progress(before + epoch, loss, held)
