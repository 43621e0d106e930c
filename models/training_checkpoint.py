"""What a training has come to: the one file from which it can go on after any interruption, and its result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..workspace import digest
from .arrays import read_arrays
from .device import chosen
from .training_task import State, Task, TrainingRecord, TrainingResult, TrainSettings

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Progressed:
    """What a checkpoint holds besides weights and the optimiser's moments."""

    epoch: int = 0
    wall_s: float = 0.0
    resumed_from: int | None = None
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    epoch_s: list[float] = field(default_factory=list)
    epoch_cpu_s: list[float] = field(default_factory=list)
    kept: list[tuple[int, State]] = field(default_factory=list)


def task_key(task: Task, settings: TrainSettings) -> str:
    """sha256 of all that the result depends on: a checkpoint with another key is not gone on with."""
    samples = {"train": task.train, "validation": task.validation}
    sums = {name: sample.identity() for name, sample in samples.items() if sample is not None}
    functions = [f"{f.__module__}.{f.__qualname__}" for f in (task.build, task.loss)]
    return digest(
        [version("elsewhere"), version("torch"), chosen()],
        functions,
        dict(task.config),
        settings.identity(),
        sums,
    )


def over(done: Progressed, settings: TrainSettings) -> bool:
    """Whether a training has had its last epoch, or as many without a lower validation loss as its patience bears."""
    losses = done.validation_loss
    stale = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
    return done.epoch >= settings.epochs or bool(settings.patience and stale >= settings.patience)


def progressed(info: Mapping[str, Any], arrays: State) -> Progressed:
    """The part of a checkpoint that is not the network now."""
    kept = []
    for epoch in info["kept"]:
        prefix = f"kept/{epoch}/"
        kept.append((epoch, {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}))
    names = ("epoch", "wall_s", "resumed_from", "train_loss", "validation_loss", "epoch_s", "epoch_cpu_s")
    return Progressed(**{n: info[n] for n in names}, kept=kept)


def read_checkpoint(folder: Path, key: str) -> tuple[dict[str, Any], State] | None:
    """The checkpoint in ``folder``: (description, arrays); None if there is none, a damaged one, or another task's.

    A checkpoint only saves time, so one that cannot be trusted is not worth stopping for.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        info, arrays = read_arrays(path)
    except InputError as error:
        log.warning("training starts from nothing: %s", error)
        return None
    if info.get("key") != key:
        log.info("%s belongs to other settings or data; training starts from nothing", path)
        return None
    return info, arrays


def finish(done: Progressed, task: Task, settings: TrainSettings) -> TrainingResult:
    """The result of a training whose last epoch is over."""
    record = TrainingRecord(
        tuple(done.train_loss),
        tuple(done.validation_loss),
        settings.learning_rate,
        done.wall_s,
        len(task.train) * done.epoch / done.wall_s if done.wall_s > 0 else 0.0,
        done.epoch,
        settings.workers,
        settings.backend,
        done.resumed_from,
        done.epoch if settings.patience and done.epoch < settings.epochs else None,
        tuple(done.epoch_s),
        tuple(done.epoch_cpu_s),
    )
    states = tuple(state for _, state in done.kept)
    return TrainingResult(states[0], record, states)
