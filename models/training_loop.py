"""The training loop of one rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FitError, InputError
from ..workspace import atomic
from .arrays import write_arrays
from .device import chosen
from .training_checkpoint import CHECKPOINT, Progressed, over, progressed, read_checkpoint
from .training_graph import GraphedSteps, set_rate
from .training_optimisers import MOMENTS, optimiser
from .training_stream import ParquetSample, Reader, Stream, in_this_process
from .training_task import Progress, Sample, State, Task, TrainSettings

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

    def first(self, value: int) -> int:
        """What rank 0 gave."""
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

    def first(self, value: int) -> int:
        """What was given."""
        return value


class Trainer:
    """The loop: network, optimiser and data of one rank; ``read`` brings the rows of samples that are in files."""

    def __init__(
        self, task: Task, settings: TrainSettings, exchange: Exchange, read: Reader = in_this_process
    ) -> None:
        import torch

        self.settings, self.exchange, self.loss, self.draws = settings, exchange, task.loss, task.draws
        self.device = torch.device(chosen())
        self.network = task.build(task.config).train().to(self.device)
        self.names = [n for n, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        self.sizes = [p.numel() for p in self.parameters]
        self.optimiser = optimiser(self.parameters, settings, self.device)
        self.train, self.stream = self._taken(task.train, settings.batch, read)
        self.held, self.held_stream = self._taken(task.validation, _VALIDATION_BATCH, read)
        self.at_step = getattr(self.network, "at_step", None)
        self.graphed = (
            GraphedSteps(self.network, self.optimiser, self.loss, self.train, settings.batch)
            if self._fits_a_graph(task)
            else None
        )
        self.steps, self.rows = 0, len(task.train)
        if settings.drop_last:
            self.rows -= self.rows % settings.batch
        if self.rows == 0:
            raise ConfigError(
                f"drop_last leaves none of {len(task.train)} events: a batch has {settings.batch}"
            )
        self.all_steps = settings.epochs * -(-self.rows // settings.batch)
        self.done = Progressed()

    def _taken(
        self, sample: Sample | ParquetSample | None, batch: int, read: Reader
    ) -> tuple[dict[str, Any], Stream | None]:
        """The arrays of a sample on this device, or how they come from its files."""
        if isinstance(sample, ParquetSample):
            return {}, Stream(sample, batch, read, self.settings.epochs)
        return self._here(sample.arrays() if sample else {}), None

    def _here(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        return {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}

    def _fits_a_graph(self, task: Task) -> bool:
        """Whether every step is the same few operations on arrays that lie on a GPU."""
        how = self.settings
        return (
            self.device.type == "cuda"
            and how.shards == self.exchange.world == 1
            and (how.optimizer, how.precision, how.drop_last) == ("adam", "float32", False)
            and self.stream is None
            and bool((self.train["weight"] > 0).all())
            and not task.draws
            and not getattr(self.network, "draws_on_cpu", False)
            and not self.at_step
        )

    def run(self, folder: Path | None, key: str, report: Progress | None) -> None:
        """Train from the checkpoint in ``folder`` (if its key fits) to the last epoch."""
        try:
            self._run(folder, key, report)
        finally:
            for stream in (self.stream, self.held_stream):
                if stream is not None:
                    stream.close()

    def _run(self, folder: Path | None, key: str, report: Progress | None) -> None:
        if folder is not None:
            self._resume(folder, key)
        if not self.exchange.same(self.done.epoch):
            raise FitError(
                "the workers found different checkpoints; the folder must be the same for all of them"
            )
        while not self._over():
            start, cpu = time.perf_counter(), time.process_time()
            loss = self._epoch(self.done.epoch)
            if not np.isfinite(loss):
                raise FitError(
                    f"the loss is {loss} in epoch {self.done.epoch + 1}; lower learning_rate or check the inputs"
                )
            self.done.train_loss.append(loss)
            self.done.epoch += 1
            if self.exchange.rank == 0:
                self._keep()
                self.done.epoch_s.append(time.perf_counter() - start)
                self.done.epoch_cpu_s.append(time.process_time() - cpu)
                self.done.wall_s += self.done.epoch_s[-1]
                if folder is not None:
                    self._save(folder, key)
            if report is not None:
                report(
                    self.done.epoch,
                    loss,
                    self.done.validation_loss[-1] if self.done.validation_loss else None,
                )

    def _over(self) -> bool:
        """Whether this was the last epoch; rank 0, which alone knows the validation, decides for all."""
        if not self.settings.patience:
            return self.done.epoch >= self.settings.epochs
        return bool(self.exchange.first(int(over(self.done, self.settings))))

    def _orders(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The rows of ``train`` in the order in which an epoch takes them; of a sample in files one piece after another."""
        seed, batch = self.settings.seed, self.settings.batch
        if self.stream is None:
            yield np.random.default_rng([seed, epoch]).permutation(len(self.train["x"]))[: self.rows]
            return
        for arrays in self.stream.pieces(seed, epoch):
            self.train, n = self._here(arrays), len(arrays["x"])
            yield np.arange(n - n % batch if self.settings.drop_last else n)

    def _epoch(self, epoch: int) -> float:
        """One pass over the events in an order of its own; the weighted mean loss."""
        loss = weight = 0.0
        for order in self._orders(epoch):
            if self.graphed is not None:
                following = range(self.steps, self.steps + -(-len(order) // self.settings.batch))
                self.steps = following.stop
                rates = [self.settings.rate(k, self.all_steps) for k in following]
                return self.graphed.epoch(order, rates) / float(self.train["weight"].double().sum())
            for rows in self._batches(order):
                if self.at_step is not None:
                    self.at_step(self.steps, self.all_steps)
                weights = self.train["weight"][rows]
                if self.settings.shards == 1:  # nothing is sent, so nothing is packed
                    *gradient, total = self._gradients(rows, weights, 0)
                else:
                    packed = self._sum(list(rows.tensor_split(self.settings.shards)))
                    *gradient, total = packed.split([*self.sizes, 1])
                norm = float(weights.double().sum())
                loss, weight = loss + float(total), weight + norm
                if norm > 0:
                    self._step(gradient, norm)
        if weight == 0:
            raise InputError("weights of a training sample must not be all zero")
        if self.stream is None and not self.settings.drop_last:
            weight = float(self.train["weight"].double().sum())
        return loss / weight

    def _batches(self, order: NDArray[np.int64]) -> Iterator[Any]:
        """The rows of ``train`` of every batch. What a stream brings lies in order: for a batch in one shard no row is copied again."""
        import torch

        batch, n = self.settings.batch, len(order)
        if self.stream is not None and self.settings.shards == 1:
            return (slice(start, min(start + batch, n)) for start in range(0, n, batch))
        return iter(torch.from_numpy(order).to(self.device).split(batch))

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
            return torch.zeros(sum(self.sizes) + 1, device=self.device)
        return torch.cat([g.reshape(-1) for g in self._gradients(rows, self.train["weight"][rows], shard)])

    def _gradients(self, rows: Any, weight: Any, shard: int) -> tuple[Any, ...]:
        """The gradient of every parameter, and the loss last: sums over these rows, of weight (n,)."""
        import torch

        x = self.train["x"][rows]
        y = self.train["y"][rows] if "y" in self.train else None
        with self._precision():
            losses = self.loss(self.network, x, y, *self._generator(1, self.steps, shard))
        loss = (
            losses * weight
        ).sum()  # of float32 weights: a sum in float32, whatever the losses were made in
        gradients = torch.autograd.grad(loss, self.parameters)
        return *gradients, loss.detach()

    def _precision(self) -> AbstractContextManager[Any]:
        """Where a loss is computed."""
        import torch

        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _step(self, gradient: Sequence[Any], norm: float) -> None:
        import torch

        # into new memory: a gradient may be one number in many places
        mean = torch._foreach_div(list(gradient), norm)  # pyright: ignore[reportPrivateImportUsage,reportCallIssue,reportArgumentType]
        for parameter, part in zip(self.parameters, mean, strict=True):
            parameter.grad = part if part.shape == parameter.shape else part.reshape(parameter.shape)
        set_rate(self.optimiser, self.settings.rate(self.steps, self.all_steps))
        self.optimiser.step()
        self.steps += 1

    def _validate(self) -> float:
        """Weighted mean loss of the validation sample, in float32."""
        import torch

        total = weight = 0.0
        start = 0
        self.network.eval()
        with torch.no_grad():
            for part in self._held_parts():
                loss = self.loss(self.network, part["x"], part.get("y"), *self._generator(2, start))
                total += float((loss.double() * part["weight"].double()).sum())
                weight += float(part["weight"].double().sum()) if self.held_stream is not None else 0.0
                start += len(part["x"])
        self.network.train()
        return total / (weight or float(self.held["weight"].double().sum()))

    def _held_parts(self) -> Iterator[dict[str, Any]]:
        """The validation sample in its own order, batch by batch."""
        stream = self.held_stream
        for piece in (
            [self.held] if stream is None else map(self._here, stream.pieces(None, self.done.epoch - 1))
        ):
            for start in range(0, len(piece["x"]), _VALIDATION_BATCH):
                yield {k: v[start : start + _VALIDATION_BATCH] for k, v in piece.items()}

    def _keep(self) -> None:
        """Validate, and remember this epoch's weights if they are to be kept."""
        done, state = self.done, self.state()
        if self.held or self.held_stream is not None:
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
            for moment in MOMENTS[self.settings.optimizer]:
                arrays[f"{moment}/{name}"] = self.optimiser.state[parameter][moment].cpu().numpy()
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
            "epoch_s": done.epoch_s,
            "epoch_cpu_s": done.epoch_cpu_s,
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
                moments = {
                    m: torch.from_numpy(arrays[f"{m}/{name}"]) for m in MOMENTS[self.settings.optimizer]
                }
                state = {"step": torch.tensor(float(info["steps"]))} | moments
                self.optimiser.state[parameter] = {k: v.to(self.device) for k, v in state.items()}
        self.steps = info["steps"]
        self.done = progressed(info, arrays)
        if not over(self.done, self.settings):
            self.done.resumed_from = self.done.epoch
