"""A score behind a representation: together they are a score again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..events import Events
from .base import Representation, Score, Storable, Streamed
from .jobs import FitJob, fit_jobs
from .nesting import restore_under, state_under
from .training_files import EventFiles


@dataclass
class Represented:
    """``score`` looking at ``representation``'s space; events go in as they are in the columns."""

    paper: ClassVar[str] = ""

    representation: Representation
    inner: Score

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit the representation on both samples, then the score on what it gives."""
        self.representation = self.representation.fit(reference, data)
        seen = self.representation.transform(reference)
        self.inner = self.inner.fit(seen, seen if data is reference else self.representation.transform(data))
        return self

    def fit_stream(self, files: EventFiles) -> Self:
        """Learn the representation from files that are never held whole; what is held for the score is the space it gives.

        Raises `ConfigError` for a representation that cannot learn so.
        """
        if not isinstance(self.representation, Streamed):
            raise ConfigError(
                f"run.stream: a {type(self.representation).__name__} learns from events in memory only; set run.stream: false"
            )
        self.representation = self.representation.fit_stream(files)
        seen = Events.concatenate([self.representation.transform(events) for events in files.events()])
        self.inner = self.inner.fit(seen, seen)
        return self

    def fit_jobs(self, jobs: Iterable[FitJob]) -> list[Self]:
        """One fitted copy per job, each with a representation of its own; the scores together where they can."""
        looking: list[Representation] = []

        def seen() -> Iterator[FitJob]:
            for job in jobs:
                looking.append(deepcopy(self.representation).fit(job.reference, job.data))
                transform = looking[-1].transform
                held = (transform(job.held[0]), transform(job.held[1])) if job.held else None
                yield FitJob(transform(job.reference), transform(job.data), job.seed, held)

        fitted = fit_jobs(self.inner, seen())
        return [replace(self, representation=r, inner=s) for r, s in zip(looking, fitted, strict=True)]

    def score(self, events: Events) -> NDArray[np.float64]:
        """The inner score of the transformed events, shape (n,)."""
        return self.inner.score(self.representation.transform(events))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Both states; a representation with nothing to learn has none."""
        info, arrays, texts = state_under("inner", self.inner)
        if not isinstance(self.representation, Storable):
            return {"inner": info}, arrays, texts
        own = state_under("representation", self.representation)
        return {"inner": info, "representation": own[0]}, arrays | own[1], texts | own[2]

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        if "representation" in info:
            found = info["representation"]
            self.representation = restore_under("representation", self.representation, found, arrays, texts)
        return self
