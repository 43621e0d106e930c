"""A training loop for losses of whole batches: gradient clipping, a cosine schedule, the epochs that validate best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FitError
from ..training import TrainingRecord
from .dense import one_thread


def check_descent(**numbers: float) -> None:
    """Raise `ConfigError` naming the first of ``numbers`` that is not above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"{name}: found {value}, expected a number above 0")


def descend(
    network: Any,
    batches: Callable[[int], Sequence[Any]],
    loss: Callable[[Any], Any],
    epochs: int,
    learning_rate: float,
    clip: float,
    validate: Callable[[], float] | None = None,
) -> tuple[dict[str, NDArray[Any]], TrainingRecord]:
    """Adam from ``learning_rate`` down to 0 along a cosine; (weights by name, how it went). ``network`` is changed.

    ``batches(epoch)`` gives the epoch's batches, always equally many; ``loss(batch)`` a scalar tensor, one step each.
    Gradients longer than ``clip`` are shortened to it. The weights are those of the epoch of lowest ``validate()``
    (None: of the last epoch). `models.training.train` has losses per event, which a distance of two samples has not.
    Raises `FitError` when the loss stops being finite.
    """
    import torch

    parameters = [p for p in network.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=learning_rate)
    train_loss: list[float] = []
    held_loss: list[float] = []
    kept: dict[str, NDArray[Any]] = {}
    start, seen = time.perf_counter(), 0
    schedule: Any = None
    with one_thread():
        for epoch in range(epochs):
            todo = batches(epoch)
            if schedule is None:
                schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=epochs * len(todo))
            total = 0.0
            for batch in todo:
                value = loss(batch)
                adam.zero_grad()
                value.backward()
                torch.nn.utils.clip_grad_norm_(parameters, clip)
                adam.step()
                schedule.step()
                total += float(value.detach())
                seen += len(batch[0])
            train_loss.append(total / len(todo))
            if not np.isfinite(train_loss[-1]):
                raise FitError(
                    f"the loss is {train_loss[-1]} in epoch {epoch + 1}; lower learning_rate or check the inputs"
                )
            if validate is not None:
                with torch.no_grad():
                    held_loss.append(validate())
            if validate is None or held_loss[-1] <= min(held_loss):
                kept = {k: v.detach().numpy().copy() for k, v in network.state_dict().items()}
    wall = time.perf_counter() - start
    record = TrainingRecord(
        tuple(train_loss), tuple(held_loss), learning_rate, wall, seen / max(wall, 1e-9), epochs, 1, "plain"
    )
    return kept, record
