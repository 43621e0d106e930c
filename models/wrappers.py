"""Wrappers that take any score and are a score again: an ensemble over seeds, and standardised features."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..events import Events
from .base import Score


@dataclass
class Ensemble:
    """The mean of ``n`` copies of ``inner``, which differ in their seed only."""

    paper: ClassVar[str] = ""

    inner: Score
    n: int = 5
    members_: list[Any] = field(default_factory=list, repr=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit every copy on the same events."""
        first = getattr(self.inner, "seed", None)
        if first is None:
            raise InputError(f"{type(self.inner).__name__} has no seed: its copies would be equal")
        copies = [deepcopy(self.inner) for _ in range(self.n)]
        for i, copy in enumerate(copies):
            setattr(copy, "seed", first + 1000 * i)  # noqa: B010  (Score does not promise a seed)
        self.members_ = [copy.fit(reference, data) for copy in copies]
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """Mean score, shape (n,)."""
        if not self.members_:
            raise InputError("this Ensemble has not been fitted")
        return np.mean([member.score(events) for member in self.members_], axis=0)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Every member's state under its number."""
        states = [member.state() for member in self.members_]
        arrays = {f"{k}.{n}": v for k, s in enumerate(states) for n, v in s[1].items()}
        texts = {f"{k}.{n}": v for k, s in enumerate(states) for n, v in s[2].items()}
        return {"members": [s[0] for s in states]}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.members_ = []
        for k, one in enumerate(info["members"]):
            mine = {n.removeprefix(f"{k}."): v for n, v in arrays.items() if n.startswith(f"{k}.")}
            words = {n.removeprefix(f"{k}."): v for n, v in texts.items() if n.startswith(f"{k}.")}
            self.members_.append(deepcopy(self.inner).restore(one, mine, words))  # pyright: ignore[reportAttributeAccessIssue]
        return self


@dataclass
class Standardized:
    """``inner`` on features with mean 0 and standard deviation 1 in the reference."""

    paper: ClassVar[str] = ""

    inner: Score
    mean_: NDArray[np.float64] | None = field(default=None, repr=False)
    std_: NDArray[np.float64] | None = field(default=None, repr=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Weighted mean and deviation of the reference, then the inner fit; a constant column is an error."""
        self.mean_ = np.average(reference.x.astype(np.float64), axis=0, weights=reference.weight)
        variance = np.average((reference.x - self.mean_) ** 2, axis=0, weights=reference.weight)
        self.std_ = np.sqrt(variance)
        if np.any(self.std_ == 0):
            name = reference.features.names[int(np.argmin(self.std_))]
            raise InputError(f"column {name} is constant in the reference; leave it out")
        self.inner = self.inner.fit(self._apply(reference), self._apply(data))
        return self

    def _apply(self, events: Events) -> Events:
        if self.mean_ is None or self.std_ is None:
            raise InputError("this Standardized has not been fitted")
        return replace(events, x=((events.x - self.mean_) / self.std_).astype(np.float32))

    def score(self, events: Events) -> NDArray[np.float64]:
        """The inner score of the standardised events, shape (n,)."""
        return self.inner.score(self._apply(events))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The inner state and the scaler."""
        info, arrays, texts = self.inner.state()  # pyright: ignore[reportAttributeAccessIssue]
        if self.mean_ is None or self.std_ is None:
            raise InputError("this Standardized has not been fitted")
        return info, {**arrays, "mean": self.mean_, "std": self.std_}, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        rest = dict(arrays)
        self.mean_, self.std_ = rest.pop("mean"), rest.pop("std")
        self.inner = self.inner.restore(info, rest, texts)  # pyright: ignore[reportAttributeAccessIssue]
        return self
