"""What outlier scores of plain feature vectors share: the coordinates they measure in, and which events have none."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, FeatureSet, in_identity_order
from ..densities import check_density
from ..nesting import Stateful
from ..networks.domain import Domain
from .weak_trees import check_scored

#: Events of the reference that the lowest score is looked for among.
_FLOOR_EVENTS = 2000


def columns_named(features: FeatureSet, names: Sequence[str], most: int, who: str) -> NDArray[np.int64]:
    """Indices of the columns of these names (none: all); `ConfigError` for an unknown one or for more than ``most``."""
    known = list(features.names)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(
                f"columns: no column '{name}' in '{features.name}'{hint} There are: {', '.join(known)}"
            )
    found = [known.index(name) for name in names] or list(range(len(known)))
    if len(found) > most:
        raise ConfigError(
            f"{who} takes at most {most} columns, '{features.name}' has {len(found)} ({', '.join(known)}); name those to "
            "look at under columns"
        )
    return np.array(found, dtype=np.int64)


@dataclass
class Coordinates:
    """Settings and learnt values of the coordinates: "standardised" (x - mean) / std, or "logit" of the place in the range.

    What is far depends on the coordinates, so run both (see `Domain`). Logit: an event at or outside the extremes of the
    reference has no coordinates; it gets the lowest score there is, that of the least odd of 2,000 events of the reference,
    which is the floor of all others. Who inherits says in ``_odd`` how odd rows of coordinates (n, d) are, shape (n,), and in
    ``_learnt`` which of its arrays are stored.
    """

    _learnt: ClassVar[tuple[str, ...]] = ()

    coordinates: Literal["standardised", "logit"] = "standardised"
    width_: int = field(default=0, repr=False, compare=False)
    columns_: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False
    )
    domain_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((4, 0)), repr=False, compare=False)
    floor_: float | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.coordinates not in ("standardised", "logit"):
            raise ConfigError(f"coordinates: found {self.coordinates!r}, expected standardised or logit")

    def _learn_coordinates(
        self,
        reference: Events,
        seed: int = 0,
        events: int | None = None,
        columns: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates v (n, d) and weights (n,) of ``reference``, in the order of their identity, without weights of zero.

        ``events``: only so many, those whose hash comes first; ``columns``: only these. Raises `InputError` on what nothing can
        be learnt from: no events, values that are not finite, negative weights, a constant column.
        """
        self.width_ = len(reference.features)
        self.columns_ = np.arange(self.width_) if columns is None else columns
        picked = tuple(reference.features.columns[i] for i in self.columns_)
        known = Events(
            reference.x[:, self.columns_], reference.mass, reference.weight, reference.identity,
            replace(reference.features, columns=picked),
        )  # fmt: skip
        check_density(known, "reference", conditional=False)
        known = in_identity_order(known, seed)
        domain = Domain.fit(known.x, known.weight, self.coordinates == "logit")
        self.domain_ = domain.arrays()["domain"]
        known = known.take(domain.inside(known.x) & (known.weight > 0)).take(slice(0, events))
        return domain.forward(known.x), known.weight

    def _learn_floor(self, v: NDArray[np.float64]) -> None:
        """Remember the lowest score, if there are events that nothing is known of."""
        self.floor_ = float(self._odd(v[:_FLOOR_EVENTS]).min()) if self._bounded() else None

    def _bounded(self) -> bool:
        return self.coordinates == "logit"

    def _inside(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of the columns in use have coordinates, shape (n,)."""
        return self._domain().inside(x)

    def _domain(self) -> Domain:
        if self.width_ == 0:
            raise InputError(f"this {type(self).__name__} has not been fitted")
        return Domain.of_arrays({"domain": self.domain_}, self.coordinates == "logit")

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG002
        raise InputError(f"{type(self).__name__} says of no event how odd it is")

    def _picked(self, events: Events) -> NDArray[Any]:
        """The columns in use of events that are checked."""
        check_scored(events, self.width_, type(self).__name__)
        return events.x[:, self.columns_]

    def score(self, events: Events) -> NDArray[np.float64]:
        """How odd each event is, shape (n,), in the coordinates of this method."""
        domain = self._domain()
        x = self._picked(events)
        inside = self._inside(x)
        out = np.full(len(events), 0.0 if self.floor_ is None else self.floor_)
        if inside.any():
            found = self._odd(domain.forward(x[inside]))
            out[inside] = found if self.floor_ is None else np.maximum(found, self.floor_)
        return out

    def state(self) -> Stateful:
        """The coordinates, the lowest score and what was learnt in them."""
        arrays = {name: getattr(self, name) for name in ("columns_", "domain_", *self._learnt)}
        return {"width": self.width_, "floor": self.floor_}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.width_, self.floor_ = info["width"], info["floor"]
        for name in ("columns_", "domain_", *self._learnt):
            setattr(self, name, arrays[name])
        return self


@dataclass
class CoordinateDensity(Coordinates):
    """A density of the coordinates: score = -ln p(v), which differs between coordinates; `log_density` is in units of x."""

    def log_density(self, events: Events) -> NDArray[np.float64]:
        """ln p(x) of the columns in use, shape (n,), in their units; -inf for events that have no coordinates."""
        domain = self._domain()
        x = self._picked(events)
        inside = self._inside(x)
        out = np.full(len(events), -np.inf)
        if inside.any():
            out[inside] = domain.log_jacobian(x[inside]) - self._odd(domain.forward(x[inside]))
        return out


@nb.njit(cache=True, nogil=True)
def whiten(
    v: NDArray[np.float64], mean: NDArray[np.float64], inverse: NDArray[np.float64]
) -> NDArray[np.float64]:
    """inverse (d, d; lower triangular) times (v - mean), row by row of v (n, d): no row's sum depends on the others."""
    n, d = v.shape
    out = np.zeros((n, d))
    for i in range(n):
        for a in range(d):
            for b in range(a + 1):
                out[i, a] += inverse[a, b] * (v[i, b] - mean[b])
    return out
