"""The data beside the window as the picture of its background."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from ...errors import ConfigError, InputError
from ...events import Events, Window


@dataclass
class Sidebands:
    """CWoLa hunting's reference (1708.02949, 1902.02634): events within ``width`` of the window, both sides equal.

    The low and the high sideband each weigh half, so that a feature that changes linearly with the mass averages
    to its value in the window. Valid only where the features hardly depend on the mass.
    """

    paper: ClassVar[str] = "1902.02634"

    width: float = 400.0
    events_: Events | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ConfigError(
                f"width: found {self.width}, expected GeV above 0: a sideband must have a width"
            )

    def fit(self, data: Events, window: Window) -> Self:
        """Keep the sidebands of ``window``; raises `InputError` when one of them is empty."""
        low = Window(window.low - self.width, window.low).contains(data.mass)
        high = Window(window.high, window.high + self.width).contains(data.mass)
        weight = np.zeros(len(data))
        for side, where in (("below", low), ("above", high)):
            total = math.fsum(data.weight[where])
            if total <= 0:
                raise InputError(
                    f"no events within {self.width:g} GeV {side} {window.low:g}-{window.high:g}; widen reference.width"
                )
            weight[where] = data.weight[where] / total
        keep = low | high
        self.events_ = replace(data.take(keep), weight=weight[keep] * keep.sum() / 2)
        return self

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """All sideband events, or ``n`` of them drawn without replacement."""
        if self.events_ is None:
            raise InputError("this reference has not been fitted")
        if n is None or n >= len(self.events_):
            return self.events_
        return self.events_.take(np.sort(rng.permutation(len(self.events_))[:n]))
