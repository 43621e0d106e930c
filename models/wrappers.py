"""Wrappers that take any score and are a score again: an ensemble over seeds, and standardised features."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..events import Events, in_identity_order
from .base import Score
from .nesting import restore_under, state_under


@dataclass
class Ensemble:
    """The mean of ``n`` copies of ``inner``, which differ in their seed only."""

    paper: ClassVar[str] = ""

    inner: Score
    n: int = 5
    members_: list[Any] = field(default_factory=list, repr=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit every copy on the same events; raises `ConfigError` if there would be no copy."""
        if self.n < 1:
            raise ConfigError(f"n: found {self.n}, expected at least 1")
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
        states = [state_under(f"member{k}", member) for k, member in enumerate(self.members_)]
        arrays = {n: v for s in states for n, v in s[1].items()}
        texts = {n: v for s in states for n, v in s[2].items()}
        return {"members": [s[0] for s in states]}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.members_ = []
        for k, one in enumerate(info["members"]):
            self.members_.append(restore_under(f"member{k}", deepcopy(self.inner), one, arrays, texts))
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
        # Summed in the order of identity: floating-point sums depend on the order of the rows.
        ordered = in_identity_order(reference)
        self.mean_ = np.average(ordered.x.astype(np.float64), axis=0, weights=ordered.weight)
        variance = np.average((ordered.x - self.mean_) ** 2, axis=0, weights=ordered.weight)
        self.std_ = np.sqrt(variance)
        # Not by the deviation: rounding of the mean makes it a tiny number, by which nothing may be divided.
        constant = np.ptp(ordered.x, axis=0) == 0
        if constant.any():
            name = reference.features.names[int(np.argmax(constant))]
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
        if self.mean_ is None or self.std_ is None:
            raise InputError("this Standardized has not been fitted")
        info, arrays, texts = state_under("inner", self.inner)
        return {"inner": info}, {**arrays, "mean": self.mean_, "std": self.std_}, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.mean_, self.std_ = arrays["mean"], arrays["std"]
        self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        return self
