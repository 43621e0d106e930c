"""The training loop of one rank, and the one file from which it can go on after any interruption."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import FitError, InputError
from ..workspace import atomic, digest
from .arrays import read_arrays, write_arrays
from .device import chosen
from .training_graph import GraphedSteps, set_rate
from .training_task import Progress, State, Task, TrainingRecord, TrainingResult, TrainSettings

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
_VALIDATION_BATCH = 4096


class Exchange(Protocol):
    """How ranks share the gradients of their shards."""

    rank: int
    world: int

    def gather(self, mine: Any) -> list[Any]:
        """Rows of all ranks, one list entry per rank; ``mine`` has the same shape everywhere."""
        ...

    def same(self, value: int) -> bool:
        """Whether all ranks gave the same number."""
        ...


class Alone:
    """The only rank there is."""

    rank, world = 0, 1

    def gather(self, mine: Any) -> list[Any]:
        """What was given."""
        return [mine]

    def same(self, value: int) -> bool:  # noqa: ARG002
        """Always."""
        return True


@dataclass
class Progressed:
    """What a checkpoint holds besides weights and Adam's moments."""

    epoch: int = 0
    wall_s: float = 0.0
    resumed_from: int | None = None
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    kept: list[tuple[int, State]] = field(default_factory=list)


def task_key(task: Task, settings: TrainSettings) -> str:
    """sha256 of all that the result depends on: a checkpoint with another key is not gone on with."""
    sums = {}
    for name, sample in (("train", task.train), ("validation", task.validation)):
        for key, array in (sample.arrays() if sample else {}).items():
            sums[f"{name}/{key}"] = [list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    functions = [f"{f.__module__}.{f.__qualname__}" for f in (task.build, task.loss)]
    return digest(
        [version("elsewhere"), version("torch"), chosen()],
        functions,
        dict(task.config),
        settings.identity(),
        sums,
    )


class Trainer:
    """The loop: network, optimiser and data of one rank."""

    def __init__(self, task: Task, settings: TrainSettings, exchange: Exchange) -> None:
        import torch

        self.settings, self.exchange, self.loss, self.draws = settings, exchange, task.loss, task.draws
        self.device = torch.device(chosen())
        self.network = task.build(task.config).train().to(self.device)
        self.names = [n for n, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        on_gpu = self.device.type == "cuda"
        rate = torch.tensor(settings.learning_rate, device=self.device) if on_gpu else settings.learning_rate
        self.adam = torch.optim.Adam(self.parameters, lr=rate, capturable=on_gpu)
        self.train = {k: torch.from_numpy(v).to(self.device) for k, v in task.train.arrays().items()}
        held = task.validation.arrays() if task.validation else {}
        self.held = {k: torch.from_numpy(v).to(self.device) for k, v in held.items()}
        self.at_step = getattr(self.network, "at_step", None)
        whole = settings.shards == 1 and exchange.world == 1 and bool((self.train["weight"] > 0).all())
        self.graphed = (
            GraphedSteps(self.network, self.adam, self.loss, self.train, settings.batch)
            if on_gpu
            and whole
            and not task.draws
            and not getattr(self.network, "draws_on_cpu", False)
            and not self.at_step
            else None
        )
        self.steps = 0
        self.all_steps = settings.epochs * -(-len(self.train["x"]) // settings.batch)
        self.done = Progressed()

    def run(self, folder: Path | None, key: str, report: Progress | None) -> None:
        """Train from the checkpoint in ``folder`` (if its key fits) to the last epoch."""
        if folder is not None:
            self._resume(folder, key)
        if not self.exchange.same(self.done.epoch):
            raise FitError(
                "the workers found different checkpoints; the folder must be the same for all of them"
            )
        while self.done.epoch < self.settings.epochs:
            start = time.perf_counter()
            loss = self._epoch(self.done.epoch)
            if not np.isfinite(loss):
                raise FitError(
                    f"the loss is {loss} in epoch {self.done.epoch + 1}; lower learning_rate or check the inputs"
                )
            self.done.train_loss.append(loss)
            self.done.epoch += 1
            if self.exchange.rank == 0:
                self._keep()
                self.done.wall_s += time.perf_counter() - start
                if folder is not None:
                    self._save(folder, key)
            if report is not None:
                report(
                    self.done.epoch,
                    loss,
                    self.done.validation_loss[-1] if self.done.validation_loss else None,
                )

    def _epoch(self, epoch: int) -> float:
        """One pass over the events in an order of its own; the weighted mean loss."""
        import torch

        n, batch = len(self.train["x"]), self.settings.batch
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(n)
        if self.graphed is not None:
            following = range(self.steps, self.steps + -(-n // batch))
            self.steps = following.stop
            rates = [self.settings.rate(k, self.all_steps) for k in following]
            return self.graphed.epoch(order, rates) / float(self.train["weight"].double().sum())
        loss = 0.0
        for start in range(0, n, batch):
            rows = order[start : start + batch]
            shards = np.array_split(rows, self.settings.shards)
            if self.at_step is not None:
                self.at_step(self.steps, self.all_steps)
            total = self._sum([torch.from_numpy(s).to(self.device) for s in shards])
            norm = float(self.train["weight"][torch.from_numpy(rows).to(self.device)].double().sum())
            loss += float(total[-1])
            if norm > 0:
                self._step(total[:-1] / norm)
        return loss / float(self.train["weight"].double().sum())

    def _sum(self, shards: list[Any]) -> Any:
        """Gradient (and loss, the last entry) of a batch: its shards', added in their order."""
        import torch

        rank, world = self.exchange.rank, self.exchange.world
        mine = [self._shard(s, rank + world * i) for i, s in enumerate(shards[rank::world])]
        rounds = -(-len(shards) // world)
        while len(mine) < rounds:
            mine.append(torch.zeros_like(mine[0]))
        gathered = self.exchange.gather(torch.stack(mine))
        total = gathered[0][0].clone()
        for i in range(1, len(shards)):
            total += gathered[i % world][i // world]
        return total

    def _generator(self, *key: int) -> tuple[Any, ...]:
        """The fourth argument of a loss that draws, seeded by ``key``; nothing for others."""
        import torch

        if not self.draws:
            return ()
        seed = np.random.SeedSequence([self.settings.seed, *key]).generate_state(1, np.uint64)[0]
        return (torch.Generator(self.device).manual_seed(int(seed >> np.uint64(1))),)

    def _shard(self, rows: Any, shard: int) -> Any:
        import torch

        if len(rows) == 0:
            return torch.zeros(sum(p.numel() for p in self.parameters) + 1, device=self.device)
        x, weight = self.train["x"][rows], self.train["weight"][rows]
        y = self.train["y"][rows] if "y" in self.train else None
        loss = (self.loss(self.network, x, y, *self._generator(1, self.steps, shard)) * weight).sum()
        gradients = torch.autograd.grad(loss, self.parameters)
        return torch.cat([*(g.reshape(-1) for g in gradients), loss.detach().reshape(1)])

    def _step(self, gradient: Any) -> None:
        sizes = [p.numel() for p in self.parameters]
        for parameter, part in zip(self.parameters, gradient.split(sizes), strict=True):
            parameter.grad = part.reshape(parameter.shape)
        set_rate(self.adam, self.settings.rate(self.steps, self.all_steps))
        self.adam.step()
        self.steps += 1

    def _validate(self) -> float:
        """Weighted mean loss of the validation sample."""
        import torch

        total = 0.0
        self.network.eval()
        with torch.no_grad():
            for start in range(0, len(self.held["x"]), _VALIDATION_BATCH):
                part = {k: v[start : start + _VALIDATION_BATCH] for k, v in self.held.items()}
                loss = self.loss(self.network, part["x"], part.get("y"), *self._generator(2, start))
                total += float((loss.double() * part["weight"].double()).sum())
        self.network.train()
        return total / float(self.held["weight"].double().sum())

    def _keep(self) -> None:
        """Validate, and remember this epoch's weights if they are to be kept."""
        done, state = self.done, self.state()
        if self.held:
            done.validation_loss.append(self._validate())
        if self.settings.keep == "last":
            done.kept = [(done.epoch, state)]
            return
        ranked = [*done.kept, (done.epoch, state)]
        done.kept = sorted(ranked, key=lambda item: (done.validation_loss[item[0] - 1], item[0]))[
            : self.settings.best
        ]

    def state(self) -> State:
        """A copy of the weights as they are now."""
        return {n: p.detach().cpu().numpy().copy() for n, p in self.network.named_parameters()}

    def _save(self, folder: Path, key: str) -> None:
        done = self.done
        arrays = {f"now/{n}": a for n, a in self.state().items()}
        for name, parameter in zip(self.names, self.parameters, strict=True):
            for moment in ("exp_avg", "exp_avg_sq"):
                arrays[f"{moment}/{name}"] = self.adam.state[parameter][moment].cpu().numpy()
        for epoch, state in done.kept:
            arrays |= {f"kept/{epoch}/{n}": a for n, a in state.items()}
        info = {
            "key": key,
            "epoch": done.epoch,
            "steps": self.steps,
            "wall_s": done.wall_s,
            "resumed_from": done.resumed_from,
            "train_loss": done.train_loss,
            "validation_loss": done.validation_loss,
            "kept": [epoch for epoch, _ in done.kept],
        }
        with atomic(folder / CHECKPOINT) as temporary:
            write_arrays(temporary, arrays, info)

    def _resume(self, folder: Path, key: str) -> None:
        """Take back what `_save` wrote, if it was written for this very task."""
        import torch

        found = read_checkpoint(folder, key)
        if found is None:
            return
        info, arrays = found
        with torch.no_grad():
            for name, parameter in zip(self.names, self.parameters, strict=True):
                parameter.copy_(torch.from_numpy(arrays[f"now/{name}"]).to(self.device))
                moments = {m: torch.from_numpy(arrays[f"{m}/{name}"]) for m in ("exp_avg", "exp_avg_sq")}
                state = {"step": torch.tensor(float(info["steps"]))} | moments
                self.adam.state[parameter] = {k: v.to(self.device) for k, v in state.items()}
        self.steps = info["steps"]
        self.done = progressed(info, arrays)
        if self.done.epoch < self.settings.epochs:
            self.done.resumed_from = self.done.epoch


def progressed(info: Mapping[str, Any], arrays: State) -> Progressed:
    """The part of a checkpoint that is not the network now."""
    kept = []
    for epoch in info["kept"]:
        prefix = f"kept/{epoch}/"
        kept.append((epoch, {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}))
    names = ("epoch", "wall_s", "resumed_from", "train_loss", "validation_loss")
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
        len(task.train.x) * done.epoch / done.wall_s if done.wall_s > 0 else 0.0,
        done.epoch,
        settings.workers,
        settings.backend,
        done.resumed_from,
    )
    states = tuple(state for _, state in done.kept)
    return TrainingResult(states[0], record, states)
