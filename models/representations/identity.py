"""The features as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ...events import Events


@dataclass
class Identity:
    """Look at the features as the processor made them."""

    paper: ClassVar[str] = ""

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def transform(self, events: Events) -> Events:
        """The same events."""
        return events
