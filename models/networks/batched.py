"""Many small dense classifiers of the same sizes trained together: one set of batched matrix products for all of them.

A small network spends its time between the products, not in them. Here the members of a group lie one behind the
other in memory, and each step is one batched product per layer for all of them. Yet every member has rows, weights,
order of minibatches, validation part, Adam and choice of epochs of its own, and ends with the weights it would have
got alone, whoever trains beside it, on any number of threads: a member with fewer batches takes fewer steps, and no
sum ever runs over two members.
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
from .dense import one_thread
from .stacked import (
    COLUMNS,
    LANES,
    BatchSettings,
    Floats,
    Scratch,
    adam,
    backward,
    cross_entropies,
    filled,
    first_weights,
    forward,
    standardised,
    views,
)


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

    On a GPU (`models.device`) all members are one group. Raises `FitError` when the loss of a member stops being finite.
    """
    if chosen() == "cuda":
        from .batched_gpu import train_on_gpu

        return train_on_gpu(members, settings)
    steps = [-(-len(m.rows) // settings.batch) for m in members]
    order = sorted(range(len(members)), key=lambda i: -steps[i])
    share = max(1, min(settings.group, -(-len(members) // max(1, threads))))
    groups = [order[i : i + share] for i in range(0, len(order), share)]

    def one(group: list[int]) -> list[Trained]:
        with one_thread():
            return _Group([members[i] for i in group], group, settings).run()

    with one_thread():
        if threads <= 1:
            done = [one(g) for g in groups]
        else:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(one, groups))
    found = dict(zip((i for g in groups for i in g), (t for d in done for t in d), strict=True))
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

    def result(self) -> Trained:
        """What is handed out."""
        states = np.stack([s for _, _, s in self.kept])
        return Trained(states, tuple(e for _, e, _ in self.kept), tuple(self.train), tuple(self.held))


class _Group:
    """Members that train side by side, those with the most batches first, so that the active ones are a slice."""

    def __init__(self, members: Sequence[Member], names: Sequence[int], settings: BatchSettings) -> None:
        import torch

        self.members, self.names, self.settings = list(members), list(names), settings
        self.inputs = [m.inputs(m.rows) for m in members]
        self.labels = [np.asarray(m.y[m.rows], np.float32) for m in members]
        self.weights = [np.asarray(m.weight, np.float32) for m in members]
        self.held = [_Held(m, settings) for m in members]
        self.histories = [History() for _ in members]
        # torch's own memory is aligned, NumPy's need not be
        self.value = torch.from_numpy(np.stack([first_weights(m.seed, settings) for m in members])).clone()
        self.gradient, self.first, self.second = (torch.zeros_like(self.value) for _ in range(3))
        self.steps = np.zeros(len(members), np.int64)
        self.scratch, self.scratch_held = Scratch(), Scratch()

    def run(self) -> list[Trained]:
        """All epochs."""
        active = list(range(len(self.members)))
        for epoch in range(self.settings.epochs):
            losses = self._epoch(epoch, active)
            for place, i in enumerate(active):
                state = self.value[place].numpy().copy()
                held = self.held[i].loss(state, self.scratch_held)
                if not (np.isfinite(losses[place]) and np.isfinite(held)):
                    raise FitError(
                        f"the loss of member {self.names[i]} is {losses[place]} in training and {held} in validation "
                        f"in epoch {epoch + 1}; lower learning_rate or check the inputs"
                    )
                self.histories[i].add(losses[place], held, state, self.settings.best)
            active = self._drop_stopped(active)
            if not active:
                break
        return [h.result() for h in self.histories]

    def _drop_stopped(self, active: list[int]) -> list[int]:
        """Take the members out that have been patient enough."""
        stay = [k for k, i in enumerate(active) if not self.histories[i].stopped(self.settings.patience)]
        if len(stay) < len(active):
            self.value, self.gradient, self.first, self.second = (
                a[stay] for a in (self.value, self.gradient, self.first, self.second)
            )
            self.steps = self.steps[stay]
        return [active[k] for k in stay]

    def _laid_out(self, epoch: int, active: list[int]) -> tuple[Any, Any, Any, NDArray[np.float64]]:
        """x (steps, members, batch, d), y and weight / norm (steps, members, 1, batch), norm (steps, members).

        Rows that fill up a last batch have weight zero.
        """
        import torch

        batch = self.settings.batch
        counts = [-(-len(self.labels[i]) // batch) for i in active]
        shape = (max(counts), len(active), filled(batch, LANES), self.settings.sizes[0])
        tensors = (
            torch.zeros(shape),
            torch.zeros(*shape[:2], 1, shape[2]),
            torch.zeros(*shape[:2], 1, shape[2]),
        )
        x, y, weight = (t.numpy() for t in tensors)
        for place, (i, n) in enumerate(zip(active, counts, strict=True)):
            rows = len(self.labels[i])
            order = np.random.default_rng([self.members[i].seed, epoch]).permutation(rows)
            full = np.concatenate([order, np.zeros(n * batch - rows, order.dtype)])
            there = self.weights[i][full]
            there[rows:] = 0.0
            x[:n, place, :batch] = self.inputs[i][full].reshape(n, batch, -1)
            y[:n, place, 0, :batch] = self.labels[i][full].reshape(n, batch)
            weight[:n, place, 0, :batch] = there.reshape(n, batch)
        norm = weight.astype(np.float64).sum(axis=(2, 3))
        weight /= np.where(norm > 0, norm, 1.0).astype(np.float32)[:, :, None, None]
        return *tensors, norm

    def _epoch(self, epoch: int, active: list[int]) -> NDArray[np.float64]:
        """One pass over everyone's events; weighted mean losses, (members,)."""
        x, y, weight, norm = self._laid_out(epoch, active)
        counts = np.array([-(-len(self.labels[i]) // self.settings.batch) for i in active])
        whole = views(self.value, self.settings), views(self.gradient, self.settings)
        total = np.zeros(len(active))
        here, slopes, last, scratch = *whole, len(active), self.scratch
        for step in range(len(x)):
            n = int((counts > step).sum())
            if n < last:
                here, slopes, last = *([(w[:n], b[:n]) for w, b in v] for v in whole), n
            loss = backward(here, slopes, x[step, :n].transpose(1, 2), y[step, :n], weight[step, :n], scratch)
            total[:n] += loss.numpy() * norm[step, :n]
            adam(
                self.value[:n].numpy(),
                self.gradient[:n].numpy(),
                self.first[:n].numpy(),
                self.second[:n].numpy(),
                self.steps[:n],
                norm[step, :n] > 0,
                self.settings.learning_rate,
            )
        return total / norm.sum(axis=0)


class _Held:
    """Validation events in pieces of `COLUMNS`: x (pieces, d, COLUMNS), y and weight (pieces, COLUMNS)."""

    def __init__(self, member: Member, settings: BatchSettings) -> None:
        import torch

        self.settings, rows = settings, member.held_rows
        pieces = -(-len(rows) // COLUMNS)
        self.x = torch.zeros(pieces, settings.sizes[0], COLUMNS)
        self.y, self.weight = torch.zeros(pieces, COLUMNS), torch.zeros(pieces, COLUMNS, dtype=torch.float64)
        inputs = member.inputs(rows)
        for k in range(pieces):
            part = slice(k * COLUMNS, min((k + 1) * COLUMNS, len(rows)))
            n = part.stop - part.start
            self.x[k, :, :n] = torch.from_numpy(inputs[part].T.copy())
            self.y[k, :n] = torch.from_numpy(np.asarray(member.y[rows[part]], np.float32))
            self.weight[k, :n] = torch.from_numpy(np.asarray(member.held_weight[part], np.float64))

    def loss(self, state: Floats, scratch: Scratch) -> float:
        """Weighted mean cross entropy of the network with these parameters."""
        import torch

        layers = views(torch.from_numpy(state[None]).clone(), self.settings)
        total = 0.0
        for x, y, weight in zip(self.x, self.y, self.weight, strict=True):
            logit = forward(layers, x[None], scratch)[-1][0, 0]
            total += float((cross_entropies(logit, y).double() * weight).sum())
        return total / float(self.weight.sum())
