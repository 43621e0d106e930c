"""The data outside the window as they are: what densities given the mass are learnt from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from ...errors import ConfigError, InputError
from ...events import Events, Window


@dataclass
class Outside:
    """Every event outside the window, with its own weight (the outer region of ANODE, 2001.04990).

    ``width``: only events within so many GeV of the window; 0 takes all. Unlike `Sidebands`, nothing is reweighted: a
    score that learns p(x | m) interpolates in the mass itself. A classifier of data against these events learns the
    mass dependence of the features as well.
    """

    paper: ClassVar[str] = "2001.04990"

    width: float = 0.0
    events_: Events | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.width >= 0:
            raise ConfigError(
                f"width: found {self.width}, expected GeV, or 0 for all events outside the window"
            )

    def fit(self, data: Events, window: Window) -> Self:
        """Keep the events outside ``window``; raises `InputError` when one side has none: m cannot be interpolated."""
        self.events_ = outside(data, window, self.width)
        return self

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """All of them, or ``n`` drawn without replacement."""
        if self.events_ is None:
            raise InputError("this reference has not been fitted")
        if n is None or n >= len(self.events_):
            return self.events_
        return self.events_.take(np.sort(rng.permutation(len(self.events_))[:n]))


def outside(data: Events, window: Window, width: float) -> Events:
    """Events outside ``window``, within ``width`` GeV of it (0: all).

    Raises `InputError` for an empty side, or a mass that is not finite.
    """
    if not np.isfinite(data.mass).all():
        raise InputError(
            f"{int((~np.isfinite(data.mass)).sum())} of {len(data)} events have no finite mass; use features with one"
        )
    reach = width if width > 0 else np.inf
    low = (data.mass < window.low) & (data.mass >= window.low - reach)
    high = (data.mass >= window.high) & (data.mass < window.high + reach)
    for side, where in (("below", low), ("above", high)):
        if not where.any():
            raise InputError(
                f"no events {side} {window.low:g}-{window.high:g} GeV to interpolate from; choose another window or "
                "widen reference.width"
            )
    return data.take(low | high)
