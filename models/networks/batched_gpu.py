"""The members of `batched` on one GPU: all of them in every product, and a step recorded once and replayed.

A member keeps what is its own: first weights, order of minibatches, Adam, validation part, choice of epochs. Against the
processor only the order of sums differs. Members with fewer batches, and those that have stopped, keep their place and
take no steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError
from .stacked import BatchSettings, Scratch, backward, cross_entropies, first_weights, forward, views

if TYPE_CHECKING:
    from .batched import Member, Trained

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
#: Validation events of every member at once.
_COLUMNS = 4096


def _padded(columns: Sequence[NDArray[Any]], device: Any) -> Any:
    """Arrays of one kind as a tensor (members, longest, ...), filled up with zeros."""
    import torch

    longest = max(len(c) for c in columns)
    out = np.zeros((len(columns), longest, *columns[0].shape[1:]), np.float32)
    for place, column in zip(out, columns, strict=True):
        place[: len(column)] = column
    return torch.from_numpy(out).to(device)


class _Steps:
    """The state of all members on the GPU, and one step of each."""

    def __init__(self, members: Sequence[Member], settings: BatchSettings, device: Any) -> None:
        import torch

        self.settings, self.device, m = settings, device, len(members)
        self.x = _padded([one.inputs(one.rows) for one in members], device)
        self.y = _padded([np.asarray(one.y[one.rows], np.float32) for one in members], device)
        self.weight = _padded([np.asarray(one.weight, np.float32) for one in members], device)
        start = np.stack([first_weights(one.seed, settings) for one in members])
        self.value = torch.from_numpy(start).to(device)
        self.gradient, self.first, self.second = (torch.zeros_like(self.value) for _ in range(3))
        self.taken = torch.zeros(m, 1, dtype=torch.float64, device=device)
        self.layers, self.slopes = views(self.value, settings), views(self.gradient, settings)
        self.scratch = Scratch(device)
        self.rows = torch.zeros(m, settings.batch, dtype=torch.int64, device=device)
        self.there = torch.zeros(m, settings.batch, device=device)
        self.loss = torch.zeros(m, dtype=torch.float64, device=device)
        self.graph: Any = None

    def step(self) -> None:
        """One step of every member whose batch has weight."""
        import torch

        rows = self.rows[:, :, None].expand(-1, -1, self.x.shape[2])
        x = self.x.gather(1, rows).transpose(1, 2).contiguous()
        y = self.y.gather(1, self.rows)[:, None]
        weight = (self.weight.gather(1, self.rows) * self.there)[:, None]
        norm = weight.double().sum(dim=(1, 2))
        live = norm[:, None] > 0
        scaled = weight / torch.where(live, norm[:, None], 1.0).float()[:, :, None]
        loss = backward(self.layers, self.slopes, x, y, scaled, self.scratch)
        self.loss += loss.double() * norm
        self.taken += live
        taken = self.taken.clamp_min(1.0)
        size = (self.settings.learning_rate / (1.0 - _BETA1**taken)).float()
        scale = (1.0 / torch.sqrt(1.0 - _BETA2**taken)).float()
        on = live.float()
        self.first += on * (1.0 - _BETA1) * (self.gradient - self.first)
        self.second += on * (1.0 - _BETA2) * (self.gradient.square() - self.second)
        self.value -= on * size * self.first / (self.second.sqrt() * scale + _EPSILON)

    def record(self) -> None:
        """Record a step. All weights in ``there`` are zero while it is tried: nothing changes."""
        import torch

        self.there.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    def epoch(self, rows: Any, there: Any) -> NDArray[np.float64]:
        """All steps of an epoch, rows and there (steps, members, batch); summed losses (members,)."""
        rows, there = rows.to(self.device).long(), there.to(self.device).float()
        self.loss.zero_()
        for k in range(len(rows)):
            self.rows.copy_(rows[k])
            self.there.copy_(there[k])
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
        return self.loss.cpu().numpy()


class _Held:
    """The validation events of all members, and their losses."""

    def __init__(self, members: Sequence[Member], device: Any) -> None:
        self.x = _padded([one.inputs(one.held_rows) for one in members], device).transpose(1, 2)
        self.y = _padded([np.asarray(one.y[one.held_rows], np.float32) for one in members], device)
        self.weight = _padded([np.asarray(one.held_weight, np.float32) for one in members], device)
        self.device = device

    def losses(self, layers: Sequence[tuple[Any, Any]]) -> NDArray[np.float64]:
        """Weighted mean cross entropies, (members,)."""
        import torch

        total = torch.zeros(len(self.x), dtype=torch.float64, device=self.device)
        for start in range(0, self.x.shape[2], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            logit = forward(layers, self.x[:, :, part], Scratch(self.device))[-1][:, 0]
            total += (cross_entropies(logit, self.y[:, part]).double() * self.weight[:, part]).sum(dim=1)
        return (total / self.weight.double().sum(dim=1)).cpu().numpy()


def _orders(
    members: Sequence[Member], live: NDArray[np.bool_], batch: int, epoch: int, pool: ThreadPoolExecutor
) -> tuple[Any, Any]:
    """Rows (steps, members, batch) of an epoch in each member's own order, and where they are (1) or fill up (0)."""
    import torch

    longest = max(len(m.rows) for m in members)
    steps = -(-longest // batch)
    rows = np.zeros((len(members), steps * batch), np.int32)
    there = np.zeros((len(members), steps * batch), np.uint8)

    def fill(i: int) -> None:
        if live[i]:
            n = len(members[i].rows)
            rows[i, :n] = np.random.default_rng([members[i].seed, epoch]).permutation(n)
            there[i, :n] = 1

    list(pool.map(fill, range(len(members))))
    shape = (len(members), steps, batch)
    first, second = (torch.from_numpy(a.reshape(shape).transpose(1, 0, 2).copy()) for a in (rows, there))
    return first, second


def train_on_gpu(members: Sequence[Member], settings: BatchSettings, device: Any = "cuda") -> list[Trained]:
    """`train_batched` with all members as one group on a GPU; the next epoch's order is drawn while one runs."""
    import torch

    from .batched import History

    with torch.no_grad(), ThreadPoolExecutor() as pool, ThreadPoolExecutor(1) as ahead:
        state, held = _Steps(members, settings, device), _Held(members, device)
        if torch.device(device).type == "cuda":
            state.record()
        histories = [History() for _ in members]
        live = np.ones(len(members), bool)
        norm = state.weight.double().sum(dim=1).cpu().numpy()
        coming = ahead.submit(_orders, members, live.copy(), settings.batch, 0, pool)
        for epoch in range(settings.epochs):
            now = coming.result()
            if epoch + 1 < settings.epochs:
                coming = ahead.submit(_orders, members, live.copy(), settings.batch, epoch + 1, pool)
            losses = state.epoch(*now) / norm
            validation = held.losses(state.layers)
            states = state.value.cpu().numpy()
            for i in np.flatnonzero(live):
                if not (np.isfinite(losses[i]) and np.isfinite(validation[i])):
                    raise FitError(
                        f"the loss of member {i} is {losses[i]} in training and {validation[i]} in validation in "
                        f"epoch {epoch + 1}; lower learning_rate or check the inputs"
                    )
                histories[i].add(float(losses[i]), float(validation[i]), states[i].copy(), settings.best)
                live[i] = not histories[i].stopped(settings.patience)
            if not live.any():
                break
    return [h.result() for h in histories]
