"""One training loop for every network, in this process or on the workers of a Ray cluster, with the same result.

A global batch is always cut into ``shards`` pieces. Whoever computes a piece, its gradient is the same; the pieces are
added in their order on every rank, and every rank takes the same step. So the trained network is the same, bit
for bit, for any number of workers on machines of one kind. After each epoch all that is needed to go on is one file.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .networks.dense import one_thread
from .training_checkpoint import finish, task_key
from .training_loop import Alone, Trainer
from .training_ray import ray_session, train_on_ray
from .training_stream import ParquetSample, Scale
from .training_task import (
    Progress,
    Sample,
    State,
    Task,
    TrainingRecord,
    TrainingResult,
    TrainPlan,
    TrainSettings,
    later,
)

__all__ = [
    "ParquetSample",
    "Progress",
    "Sample",
    "Scale",
    "State",
    "Task",
    "TrainPlan",
    "TrainSettings",
    "TrainingRecord",
    "TrainingResult",
    "later",
    "ray_session",
    "train",
]


def train(
    task: Task, settings: TrainSettings, folder: Path | None = None, progress: Progress | None = None
) -> TrainingResult:
    """Train, going on from the checkpoint in ``folder`` if it is of the same task, data and settings.

    ``folder`` None: nothing is kept on disk; with several machines it must be on a file system they share.
    Raises `ConfigError` for impossible settings, `FitError` when the loss stops being finite.
    """
    if settings.keep == "best" and task.validation is None:
        raise ConfigError("keep 'best' (and so patience) needs a validation sample")
    if settings.backend == "ray":
        return train_on_ray(task, settings, folder, progress)
    key = task_key(task, settings) if folder is not None else ""
    with one_thread():
        trainer = Trainer(task, settings, Alone())
        trainer.run(folder, key, progress)
    return finish(trainer.done, task, settings)
