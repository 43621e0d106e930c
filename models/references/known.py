"""A background sample that is known to be background: the ceiling of every data-driven reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from ...errors import InputError
from ...events import Events, Window


@dataclass
class KnownBackground:
    """The idealised reference (2109.00546): true background events inside the window, independent of the data.

    ``background`` is given by the caller, for example simulation; an empty window is an error.
    """

    paper: ClassVar[str] = "2109.00546"

    background: Events | None = field(default=None, repr=False)
    events_: Events | None = field(default=None, repr=False)

    def fit(self, data: Events, window: Window) -> Self:
        """Keep the background inside ``window``; it must have the data's features and none of its events."""
        if self.background is None:
            raise InputError("KnownBackground needs its background sample")
        data.features.require_same(self.background.features, "the data", "the background")
        self.events_ = self.background.take(window.contains(self.background.mass))
        if len(self.events_) == 0:
            raise InputError(f"the background has no event in {window.low:g}-{window.high:g}")
        return self

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """All events of the window, or ``n`` of them drawn without replacement."""
        if self.events_ is None:
            raise InputError("this reference has not been fitted")
        if n is None or n >= len(self.events_):
            return self.events_
        return self.events_.take(np.sort(rng.permutation(len(self.events_))[:n]))
