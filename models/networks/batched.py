"""Many small dense classifiers of the same sizes trained together, on the processor or on a GPU.

A small network spends its time between the products, not in them. On the processor the epochs of a member are one compiled loop
(`compiled`), as many members at a time as there are threads; on a GPU all members are in every product (`batched_gpu`). Every member has
rows, weights, order of minibatches, validation part, Adam and choice of epochs of its own, and ends with the weights it would have got
alone, whoever trains beside it, on any number of threads: no sum ever runs over two members.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError, InputError
from ..device import chosen
from .compiled import Network
from .stacked import BatchSettings, Floats, standardised


@dataclass(frozen=True)
class Member:
    """One network's task. x (n, d) float32 and y (n,) of 0 and 1 may be shared with other members, rows may not.

    Inputs are (x - ``mean``) / ``width``. ``seed`` gives the first weights and the order of minibatches.
    """

    x: Floats
    y: NDArray[Any]
    rows: NDArray[np.int64]
    weight: NDArray[Any]
    held_rows: NDArray[np.int64]
    held_weight: NDArray[Any]
    mean: NDArray[np.float64]
    width: NDArray[np.float64]
    seed: int

    def __post_init__(self) -> None:
        for name, rows, weight in (
            ("training", self.rows, self.weight),
            ("validation", self.held_rows, self.held_weight),
        ):
            if len(rows) == 0 or len(weight) != len(rows):
                raise InputError(
                    f"{len(rows)} {name} rows with {len(weight)} weights; both must be the same number"
                )
            if not np.isfinite(weight).all() or np.min(weight) < 0 or not np.sum(weight) > 0:
                raise InputError(f"the {name} weights must be finite, not negative, and not all zero")

    def inputs(self, rows: NDArray[np.int64]) -> Floats:
        """Standardised features of ``rows``, (len(rows), d)."""
        return standardised(self.x[rows], self.mean, self.width)


@dataclass(frozen=True)
class Trained:
    """What became of a member: ``states`` (kept, parameters) of the best epochs, the best first, and the losses.

    ``epochs``: which epochs they are, counted from 1.
    """

    states: Floats
    epochs: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]


def train_batched(members: Sequence[Member], settings: BatchSettings, threads: int = 1) -> list[Trained]:
    """Train every member, in the order given; ``threads`` changes the time only.

    On a GPU (`models.device`) all members are one group, unless the learning rate is each one's own (``halve_after``): those stay on
    the processor. Raises `FitError` when the loss of a member stops being finite.
    """
    if chosen() == "cuda" and settings.halve_after is None:
        from .batched_gpu import train_on_gpu

        return train_on_gpu(members, settings)
    if threads <= 1:
        return [_trained(m, i, settings) for i, m in enumerate(members)]
    # the longest first, so that no thread is left alone with one at the end
    order = sorted(range(len(members)), key=lambda i: -len(members[i].rows))
    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(order, pool.map(lambda i: _trained(members[i], i, settings), order), strict=True))
    return [found[i] for i in range(len(members))]


@dataclass
class History:
    """One member while it trains: its losses and the epochs kept so far."""

    train: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    kept: list[tuple[float, int, Floats]] = field(default_factory=list)

    def add(self, train: float, held: float, state: Floats, best: int) -> None:
        """One epoch more; ``state`` stays if it is one of the ``best``."""
        self.train.append(train)
        self.held.append(held)
        self.kept = sorted([*self.kept, (held, len(self.held), state)], key=lambda k: k[:2])[:best]

    def stopped(self, patience: int | None) -> bool:
        """Whether the last ``patience`` epochs brought nothing."""
        return patience is not None and len(self.held) - self.kept[0][1] >= patience

    def halvings(self, after: int | None) -> int:
        """How often ``after`` epochs in a row brought nothing."""
        best, since, times = float("inf"), 0, 0
        for loss in self.held if after is not None else ():
            best, since = (loss, 0) if loss < best else (best, since + 1)
            if since == after:
                since, times = 0, times + 1
        return times

    def result(self) -> Trained:
        """What is handed out."""
        states = np.stack([s for _, _, s in self.kept])
        return Trained(states, tuple(e for _, e, _ in self.kept), tuple(self.train), tuple(self.held))


def _trained(member: Member, name: int, settings: BatchSettings) -> Trained:
    """All epochs of one member, with nothing of Python between its batches."""
    network, history = Network(settings, member.seed), History()
    sample, held = (
        (member.inputs(rows), np.asarray(member.y[rows], np.float32), np.asarray(weight, np.float32))
        for rows, weight in ((member.rows, member.weight), (member.held_rows, member.held_weight))
    )
    for epoch in range(settings.epochs):
        order = np.random.default_rng([member.seed, epoch]).permutation(len(member.rows))
        rate = settings.learning_rate * 0.5 ** history.halvings(settings.halve_after)
        loss, held_loss = network.epoch(sample, order, rate), network.loss(held)
        if not (np.isfinite(loss) and np.isfinite(held_loss)):
            raise FitError(
                f"the loss of member {name} is {loss} in training and {held_loss} in validation in epoch {epoch + 1}; "
                "lower learning_rate or check the inputs"
            )
        history.add(loss, held_loss, network.value.copy(), settings.best)
        if history.stopped(settings.patience):
            break
    return history.result()
