"""Many fits of one score at once: what a scan of windows, folds and starts asks for, and who can do it faster."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from ..events import Events
from .base import Score


class FitJob(NamedTuple):
    """One fit: the samples, the seed, and the (reference, data) that may be looked at to choose the epoch.

    ``seed`` None: the score's own. ``held`` None: the score puts a part of the samples aside itself.
    """

    reference: Events
    data: Events
    seed: int | None = None
    held: tuple[Events, Events] | None = None


@runtime_checkable
class FitsMany(Protocol):
    """A score that can train many copies of itself together, each as if it were alone."""

    def fit_jobs(self, jobs: Iterable[FitJob]) -> list[Self]:
        """One fitted copy per job, in the order given; the score itself stays as it is."""
        ...


def fit_jobs(score: Score, jobs: Iterable[FitJob]) -> list[Any]:
    """One fitted copy of ``score`` per job, together where the score can, one after another where it cannot.

    A score that trains one after another does not look at a job's held events, one without a seed not at its seed.
    """
    if isinstance(score, FitsMany):
        return score.fit_jobs(jobs)
    out = []
    for job in jobs:
        copy = deepcopy(score)
        if job.seed is not None and hasattr(copy, "seed"):
            setattr(copy, "seed", job.seed)  # noqa: B010  (Score does not promise a seed)
        out.append(copy.fit(job.reference, job.data))
    return out
