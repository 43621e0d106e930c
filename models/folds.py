"""No event is scored by a model that saw it: cross-fitting by identity hash, and a guard that checks it every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError, LeakError
from ..events import Events, fold_of, identity_hash
from .base import Score, Streamed
from .jobs import FitJob, fit_jobs
from .nesting import restore_under, state_under

if TYPE_CHECKING:
    from .training_files import EventFiles


def seen_hashes(*samples: Events) -> NDArray[np.uint64]:
    """Sorted identity hashes of all events of the samples."""
    return np.unique(np.concatenate([identity_hash(s.identity) for s in samples]))


@nb.njit(cache=True, nogil=True)
def _among(hashes: NDArray[np.uint64], seen: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which ``hashes`` are in the sorted ``seen``, shape (n,): each is compared with those that share its first bits."""
    out = np.zeros(len(hashes), np.bool_)
    bits = 1
    while (1 << bits) < 2 * len(seen):
        bits += 1
    shift = np.uint64(64 - bits)
    starts = np.zeros((1 << bits) + 1, np.int64)
    for one in seen:
        starts[int(one >> shift) + 1] += 1
    for i in range(1, len(starts)):
        starts[i] += starts[i - 1]
    for i in range(len(hashes)):
        bucket = int(hashes[i] >> shift)
        for k in range(starts[bucket], starts[bucket + 1]):
            if seen[k] == hashes[i]:
                out[i] = True
                break
    return out


def refuse_seen(events: Events, seen: NDArray[np.uint64], who: str) -> None:
    """Raise `LeakError` if one of ``events`` is among the ``seen`` hashes."""
    hashes = identity_hash(events.identity)
    if len(hashes) * 8 < len(seen):  # not worth a table of what was seen
        at = np.searchsorted(seen, hashes).clip(0, len(seen) - 1)
        leaked = seen[at] == hashes
    else:
        leaked = _among(hashes, seen)
    if leaked.any():
        one = events.identity[np.flatnonzero(leaked)[0]]
        raise LeakError(
            f"{who} was trained on {int(leaked.sum())} of the {len(events)} events it is asked to score, the first "
            f"run {one['run']}, luminosityBlock {one['luminosityBlock']}, event {one['event']}; score other events, "
            "or train with CrossFit"
        )


@dataclass
class CrossFit:
    """``inner`` trained ``folds`` times: member k never sees fold k, and scores fold k only.

    The fold is a hash of (run, luminosityBlock, event, seed), the same however the data were split or merged. Every
    member keeps the hashes of the events it was trained on and refuses them (`LeakError`).
    """

    paper: ClassVar[str] = ""

    inner: Score
    folds: int = 5
    seed: int = 0
    members_: list[Any] = field(default_factory=list, repr=False)
    seen_: list[NDArray[np.uint64]] = field(default_factory=list, repr=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit member k on the events of all folds but k; raises `ConfigError` for fewer than two folds."""
        if self.folds < 2:
            raise ConfigError(
                f"folds: found {self.folds}, expected at least 2: no event may be scored by its own model"
            )
        fit_together([self], [(reference, data)])
        return self

    def jobs(self, reference: Events, data: Events) -> Iterator[FitJob]:
        """What each member is to be trained on; what it will have seen is remembered."""
        fold_r, fold_d = (fold_of(e.identity, self.folds, self.seed) for e in (reference, data))
        self.seen_ = []
        for k in range(self.folds):
            train_r, train_d = reference.take(fold_r != k), data.take(fold_d != k)
            self.seen_.append(seen_hashes(train_r, train_d))
            yield FitJob(train_r, train_d)

    def score(self, events: Events) -> NDArray[np.float64]:
        """Each event's score by the member of its own fold, shape (n,)."""
        if len(self.members_) != self.folds:
            raise InputError("this CrossFit has not been fitted")
        fold = fold_of(events.identity, self.folds, self.seed)
        out = np.zeros(len(events))
        for k, (member, seen) in enumerate(zip(self.members_, self.seen_, strict=True)):
            mine = events.take(fold == k)
            if len(mine):
                refuse_seen(mine, seen, f"member {k} of CrossFit")
                out[fold == k] = member.score(mine)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Every member's state under its number, and what each has seen."""
        info: dict[str, Any] = {"members": []}
        arrays: dict[str, NDArray[Any]] = {}
        texts: dict[str, str] = {}
        for k, member in enumerate(self.members_):
            i, a, t = state_under(f"member{k}", member)
            info["members"].append(i)
            arrays |= {**a, f"seen{k}": self.seen_[k]}
            texts |= t
        return info, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.members_, self.seen_ = [], []
        for k, inner in enumerate(info["members"]):
            self.seen_.append(np.asarray(arrays[f"seen{k}"], dtype=np.uint64))
            self.members_.append(restore_under(f"member{k}", deepcopy(self.inner), inner, arrays, texts))
        return self


def fit_together(models: Sequence[CrossFit], samples: Sequence[tuple[Events, Events]]) -> None:
    """Fit each of ``models``, whose scores have the same settings, on its (reference, data).

    The networks of all folds and models train as one batched model where the score can (`jobs.FitsMany`), with the result
    that each would have alone.
    """
    every = (
        job
        for one, (reference, data) in zip(models, samples, strict=True)
        for job in one.jobs(reference, data)
    )
    fitted = iter(fit_jobs(models[0].inner, every))
    for one in models:
        one.members_ = [next(fitted) for _ in range(one.folds)]


@dataclass
class Guarded:
    """One model that refuses the events it was trained on: for scores that cannot be cross-fitted, as in firmware."""

    paper: ClassVar[str] = ""

    inner: Score
    seen_: NDArray[np.uint64] = field(
        default_factory=lambda: np.zeros(0, np.uint64), repr=False, compare=False
    )

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit, and remember every event of both samples."""
        self.inner = self.inner.fit(reference, data)
        self.seen_ = seen_hashes(reference, data)
        return self

    def fit_stream(self, files: EventFiles) -> Self:
        """The same from files that are never held whole; `ConfigError` for a score that cannot learn so."""
        if not isinstance(self.inner, Streamed):
            raise ConfigError(
                f"run.stream: a {type(self.inner).__name__} learns from events in memory only; set run.stream: false"
            )
        self.inner = self.inner.fit_stream(files)
        self.seen_ = files.hashes()
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """The inner score, shape (n,); raises `LeakError` for an event of the training sample."""
        refuse_seen(events, self.seen_, "the model")
        return self.inner.score(events)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The inner state and what was seen."""
        info, arrays, texts = state_under("inner", self.inner)
        return {"inner": info}, {**arrays, "seen": self.seen_}, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.seen_ = np.asarray(arrays["seen"], dtype=np.uint64)
        self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        return self
