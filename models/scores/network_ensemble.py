"""An ensemble of weak network classifiers that are trained together (2109.00546), alone or all those of a scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash
from ..jobs import FitJob
from ..networks.batched import Member, Trained, train_batched
from ..networks.stacked import BatchSettings, evaluate_stack, restack, standardised, unstack
from .weak_trees import balance, check_probability, check_scored, check_training

#: Rows that are standardised and evaluated at once.
_ROWS = 16_384


class ScanJob(NamedTuple):
    """One fit of a scan: samples, the ensemble whose settings are used (it stays as it is), and the seed."""

    reference: Events
    data: Events
    settings: NetworkEnsemble
    seed: int
    held: tuple[Events, Events] | None = None


@dataclass
class NetworkEnsemble:
    """``members`` networks 64-64-64 on mixed samples, Adam, batches of 128 (the classifier of CATHODE, 2109.00546).

    Each member is the `WeakNetwork` of one seed: both classes weigh the same, a hash of identity and the member's seed
    puts the part ``validation`` of the events aside, inputs have mean 0 and width 1 in its training part, and its
    score is the mean probability of "data" over the ``best`` epochs of lowest validation loss. The ensemble's score,
    in (0, 1), is the mean over members. All members train as one batched model with the same result as one after
    another; ``threads`` changes the time only. ``patience``: epochs without improvement after which a member stops.
    """

    paper: ClassVar[str] = "2109.00546"

    members: int = 10
    hidden: tuple[int, ...] = (64, 64, 64)
    epochs: int = 100
    best: int = 10
    patience: int | None = None
    batch: int = 128
    learning_rate: float = 1e-3
    validation: float = 0.5
    seed: int = 0
    threads: int = 1
    mean_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    width_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    states_: list[NDArray[np.float32]] = field(default_factory=list, repr=False, compare=False)
    losses_: list[dict[str, Any]] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.members < 1 or not 0 < self.validation < 1 or self.threads < 1:
            raise ConfigError(
                f"found members {self.members}, validation {self.validation}, threads {self.threads}; expected "
                "members >= 1, validation between 0 and 1, threads >= 1"
            )

    def fit(self, reference: Events, data: Events) -> Self:
        """Train all members; raises `InputError` on empty samples, bad values or negative weights."""
        one = fit_many([ScanJob(reference, data, self, self.seed)], self.threads)[0]
        self.mean_, self.width_, self.states_, self.losses_ = one.mean_, one.width_, one.states_, one.losses_
        return self

    def fit_jobs(self, jobs: Iterable[FitJob]) -> list[NetworkEnsemble]:
        """One fitted copy per job, all trained together."""
        scan = [
            ScanJob(j.reference, j.data, self, self.seed if j.seed is None else j.seed, j.held) for j in jobs
        ]
        return fit_many(scan, self.threads)

    def layout(self, columns: int) -> BatchSettings:
        """Sizes and training settings for events of so many columns."""
        sizes = (columns, *self.hidden, 1)
        return BatchSettings(
            sizes, self.epochs, self.batch, self.learning_rate, min(self.best, self.epochs), self.patience
        )

    def score(self, events: Events) -> NDArray[np.float64]:
        """Mean probability that the event is from the data, shape (n,)."""
        if not self.states_:
            raise InputError("this NetworkEnsemble has not been fitted")
        columns = self.mean_.shape[1]
        check_scored(events, columns, "NetworkEnsemble")
        layout, total = self.layout(columns), np.zeros(len(events))
        for start in range(0, len(events), _ROWS):
            rows = events.x[start : start + _ROWS]
            for mean, width, states in zip(self.mean_, self.width_, self.states_, strict=True):
                logit = evaluate_stack(states, layout, standardised(rows, mean, width)).astype(np.float64)
                total[start : start + _ROWS] += (0.5 * (1.0 + np.tanh(0.5 * logit))).sum(axis=0) / len(states)
        return check_probability(total / len(self.states_), "NetworkEnsemble")

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights of all members' kept epochs as one array per layer, (members * best, out, in), and the losses."""
        layout = self.layout(self.mean_.shape[1])
        arrays = unstack(np.concatenate(self.states_), layout) if self.states_ else {}
        info = {"kept": [len(s) for s in self.states_], "losses": self.losses_}
        return info, {"mean": self.mean_, "width": self.width_, **arrays}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.mean_, self.width_, self.losses_ = arrays["mean"], arrays["width"], info["losses"]
        self.states_ = []
        if info["kept"]:
            every = restack(arrays, self.layout(self.mean_.shape[1]))
            self.states_ = np.split(every, np.cumsum(info["kept"])[:-1])
        return self

    def take(self, members: Sequence[Member], trained: Sequence[Trained]) -> Self:
        """Learn from what became of the members; their data are not kept."""
        self.mean_ = np.stack([m.mean for m in members])
        self.width_ = np.stack([m.width for m in members])
        self.states_ = [t.states for t in trained]
        self.losses_ = [
            {"train": list(t.train_loss), "validation": list(t.validation_loss), "epochs": list(t.epochs)}
            for t in trained
        ]
        return self


def fit_many(jobs: Sequence[ScanJob], threads: int = 1) -> list[NetworkEnsemble]:
    """A fitted ensemble per job, in the order given; the members of all jobs with the same settings train together.

    The result of a job does not depend on the other jobs nor on ``threads``. Raises `InputError` on samples nobody
    can learn from and `FitError`, naming the member, when a loss is not finite.
    """
    members = [members_of(job) for job in jobs]
    layouts = [job.settings.layout(len(job.data.features)) for job in jobs]
    out: list[NetworkEnsemble | None] = [None] * len(jobs)
    for layout in dict.fromkeys(layouts):
        mine = [k for k, one in enumerate(layouts) if one == layout]
        flat = [m for k in mine for m in members[k]]
        trained = iter(train_batched(flat, layout, threads))
        for k in mine:
            fresh = replace(jobs[k].settings, seed=jobs[k].seed)
            out[k] = fresh.take(members[k], [next(trained) for _ in members[k]])
    return [one for one in out if one is not None]


def members_of(job: ScanJob) -> list[Member]:
    """The tasks of one ensemble's members: their split, balanced weights, means and widths."""
    check_training(job.reference, "reference")
    check_training(job.data, "data")
    job.reference.features.require_same(job.data.features, "the reference", "the data")
    held = list(job.held) if job.held else []
    for events, role in zip(held, ("validation reference", "validation data"), strict=False):
        check_training(events, role)
    parts = [job.reference, job.data, *held]
    x = np.concatenate([p.x for p in parts]).astype(np.float32)
    y = np.concatenate([np.full(len(p), k % 2, np.float64) for k, p in enumerate(parts)])
    weight = np.concatenate([p.weight for p in parts])
    identity = np.concatenate([p.identity for p in parts])
    given = np.arange(len(x)) >= len(job.reference) + len(job.data) if held else None
    # Rows in the order of their identity, so that the order of files or workers changes nothing.
    order = np.lexsort((y, identity_hash(identity, job.seed)))
    out = []
    for i in range(job.settings.members):
        seed = int(np.random.SeedSequence([job.seed, i]).generate_state(1)[0] >> 1)
        aside = (
            given if given is not None else identity_hash(identity, seed) / 2.0**64 < job.settings.validation
        )
        rows, held_rows = order[~aside[order]], order[aside[order]]
        balanced = balance(weight[rows], y[rows])
        mean, width = _scaling(x[rows].astype(np.float64), balanced)
        held_weight = balance(weight[held_rows], y[held_rows])
        out.append(Member(x, y, rows, balanced, held_rows, held_weight, mean, width, seed))
    return out


def _scaling(
    x: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean and standard deviation of each column; width 1 for a constant one."""
    mean = np.average(x, axis=0, weights=weight)
    spread = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    # A constant column's deviation is rounding, by which nothing may be divided.
    return mean, np.where(np.ptp(x, axis=0) > 0, spread, 1.0)
