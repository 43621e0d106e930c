"""A score behind a representation: together they are a score again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..events import Events
from .base import Representation, Score


@dataclass
class Represented:
    """``score`` looking at ``representation``'s space; events go in as they are in the columns."""

    paper: ClassVar[str] = ""

    representation: Representation
    inner: Score

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit the representation on both samples, then the score on what it gives."""
        self.representation = self.representation.fit(reference, data)
        self.inner = self.inner.fit(self.representation.transform(reference), self.representation.transform(data))
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """The inner score of the transformed events, shape (n,)."""
        return self.inner.score(self.representation.transform(events))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The inner score's state: representations with nothing to learn have none of their own."""
        return self.inner.state()  # pyright: ignore[reportAttributeAccessIssue]

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back the inner score's state."""
        self.inner = self.inner.restore(info, arrays, texts)  # pyright: ignore[reportAttributeAccessIssue]
        return self
