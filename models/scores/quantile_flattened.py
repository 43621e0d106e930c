"""A score whose cut passes the same part of the events at every mass: its conditional quantiles, taken out (VAE-QR)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash, in_identity_order
from ..base import Score
from ..nesting import restore_under, state_under
from ..quantiles import QuantileCurves
from .weak_trees import check_training

#: Turns the seed into one of its own: who is held back must not follow from the fold of a cross-fit with the same seed.
_HELD = 0x51A7


@dataclass
class QuantileFlattened:
    """``inner`` as the part of events of its mass that are odder: score = -ln eps, flat in the mass (VAE-QR of 2412.03747).

    For every one of ``efficiencies`` the quantile q_eps(m) of the inner score s is learnt by the pinball loss, as a cubic spline
    of ln m in ``pieces`` parts of equal weight. Between two curves, and beyond the outer ones, -ln eps is linear in s: so a cut
    at -ln eps passes eps of the background at each mass for every one of ``efficiencies``, and about that between them. Order at
    one mass is that of ``inner``. With one efficiency the score is the published s - q_eps(m), plus -ln eps: the cut there is
    the published one, and only there it is flat. (Published: a network for q, one eps per cut.) Beyond the masses learnt from,
    the curves stay what they are at the end.

    ``sample``: the curves are learnt from "data", from "reference", or from "both", which in a hunt with `Outside` or `Sidebands`
    are all the data there are, as published; the data of a hunt lie inside one window alone. A curve must be too stiff to follow a
    resonance: keep ``pieces`` few. ``held``: the part of both samples, by a hash of the identity, that ``inner`` does not see
    and the curves are learnt from; 0: both see all, for an inner score that does not know its events again.
    """

    paper: ClassVar[str] = "2412.03747"
    reads_mass: ClassVar[bool] = True

    inner: Score
    efficiencies: tuple[float, ...] = (0.5, 0.1, 0.01)
    pieces: int = 3
    sample: Literal["both", "data", "reference"] = "both"
    held: float = 0.5
    seed: int = 0
    curves_: QuantileCurves | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = [1.0, *self.efficiencies, 0.0]
        if not self.efficiencies or any(a <= b for a, b in pairwise(ordered)):
            raise ConfigError(
                f"efficiencies: found {list(self.efficiencies)}, expected at least one between 0 and 1, in falling order"
            )
        if self.pieces < 1 or not 0 <= self.held < 1:
            raise ConfigError(
                f"found pieces {self.pieces}, held {self.held}; expected at least 1, and a part from 0 to below 1"
            )
        if self.sample not in ("both", "data", "reference"):
            raise ConfigError(f"sample: found {self.sample!r}, expected both, data or reference")

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit the inner score, then the curves of what it gives.

        Raises `InputError` for events without mass, negative weights, or too few events.
        """
        parts = [self._split(events) for events in (reference, data)]
        chosen = {"reference": [parts[0][1]], "data": [parts[1][1]], "both": [p[1] for p in parts]}[
            self.sample
        ]
        learnt = in_identity_order(Events.concatenate(chosen), self.seed)
        check_training(learnt, "reference and data" if self.sample == "both" else self.sample)
        u = _log_mass(learnt)
        self.inner = self.inner.fit(parts[0][0], parts[1][0])
        taus = [1 - eps for eps in self.efficiencies]
        self.curves_ = QuantileCurves.fit(u, self.inner.score(learnt), learnt.weight, taus, self.pieces)
        return self

    def _split(self, events: Events) -> tuple[Events, Events]:
        """The events that the inner score learns from, and those that the curves do."""
        if self.held == 0:
            return events, events
        held = identity_hash(events.identity, self.seed ^ _HELD) / 2.0**64 < self.held
        return events.take(~held), events.take(held)

    def curves(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """q_eps(m) of the inner score for masses (n,) in the feature set's unit, shape (n, efficiencies)."""
        if self.curves_ is None:
            raise InputError("this QuantileFlattened has not been fitted")
        return self.curves_(np.log(mass))

    def score(self, events: Events) -> NDArray[np.float64]:
        """-ln of the part of events of its mass that are odder, shape (n,)."""
        if self.curves_ is None:
            raise InputError("this QuantileFlattened has not been fitted")
        q, s = self.curves_(_log_mass(events)), self.inner.score(events)
        level = -np.log(np.array(self.efficiencies))
        if len(level) == 1:
            return level[0] + (s - q[:, 0])
        rows = np.arange(len(s))
        left = (s[:, None] >= q[:, 1:-1]).sum(axis=1)  # the two curves that it lies between, or is nearest to
        slope = np.diff(level)[left] / (q[rows, left + 1] - q[rows, left])
        return level[left] + (s - q[rows, left]) * slope

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The inner state and the curves."""
        info, arrays, texts = state_under("inner", self.inner)
        if self.curves_ is not None:
            arrays |= {"knots": self.curves_.knots, "coefficients": self.curves_.coefficients}
        return {"inner": info, "fitted": self.curves_ is not None}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.inner = restore_under("inner", self.inner, info["inner"], arrays, texts)
        self.curves_ = QuantileCurves(arrays["knots"], arrays["coefficients"]) if info["fitted"] else None
        return self


def _log_mass(events: Events) -> NDArray[np.float64]:
    """ln m, shape (n,); raises `InputError` where an event has none."""
    bad = ~(np.isfinite(events.mass) & (events.mass > 0))
    if bad.any():
        known = events.features.mass
        missing = f"feature set '{events.features.name}' has no mass"
        raise InputError(
            f"QuantileFlattened flattens a score in the mass, and "
            f"{missing if known is None else f'{known.name} of {int(bad.sum())} events is not a number above 0'}; use the "
            "inner score alone"
        )
    return np.log(events.mass)
