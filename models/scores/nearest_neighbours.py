"""Distance to the nearest events of the reference: the cheapest density there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events
from .coordinates import Coordinates

#: A sum of weights that is short by no more than rounding has been reached.
_ROUNDING = 1e-9


@dataclass
class NearestNeighbours(Coordinates):
    """Euclidean distance to the ``k`` nearest events of ``reference``: to the last of them ("kth") or on average ("mean").

    With weights the neighbours are those that together weigh as much as ``k`` average events: with equal weights the ``k``
    nearest. ``events``: look among so many, chosen by a hash of their identity (None: all). In an embedding: wrap it in
    `Represented`.
    """

    paper: ClassVar[str] = ""
    _learnt: ClassVar[tuple[str, ...]] = ("points_", "weight_")

    k: int = 10
    distance: Literal["kth", "mean"] = "kth"
    events: int | None = None
    seed: int = 0
    points_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    weight_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    _tree: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1 or (self.events is not None and self.events < self.k):
            raise ConfigError(
                f"found k {self.k}, events {self.events}; expected at least 1, and as many events as k"
            )
        if self.distance not in ("kth", "mean"):
            raise ConfigError(f"distance: found {self.distance!r}, expected kth or mean")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Remember ``reference``; ``data`` is not looked at. Raises `InputError` on fewer than k events or bad ones."""
        self.points_, self.weight_ = self._learn_coordinates(reference, self.seed, self.events)
        if len(self.points_) < self.k:
            raise InputError(f"reference: {len(self.points_)} events have no {self.k} neighbours; lower k")
        self.weight_ = self.weight_ / self.weight_.mean()
        self._tree = None
        self._learn_floor(self.points_)
        return self

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.spatial import KDTree

        if self._tree is None:
            self._tree = KDTree(self.points_)
        out, todo, ask = np.zeros(len(v)), np.arange(len(v)), 2 * self.k
        while len(todo):
            ask = min(ask, len(self.points_))
            far, which = self._tree.query(v[todo], k=np.arange(1, ask + 1))
            weight = self.weight_[which]
            until = np.cumsum(weight, axis=1)
            enough = until[:, -1] >= self.k * (1 - _ROUNDING)
            if ask == len(self.points_):  # all there are
                enough[:] = True
            out[todo[enough]] = self._measure(far[enough], weight[enough], until[enough])
            todo, ask = todo[~enough], 2 * ask
        return out

    def _measure(
        self, far: NDArray[np.float64], weight: NDArray[np.float64], until: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """From sorted distances, weights and their running sums (n, neighbours): one distance per event."""
        if self.distance == "kth":
            last = np.minimum((until < self.k * (1 - _ROUNDING)).sum(axis=1), far.shape[1] - 1)
            return far[np.arange(len(far)), last]
        share = np.clip(self.k - (until - weight), 0.0, weight)
        return (
            np.cumsum(share * far, axis=1)[:, -1] / self.k
        )  # a running sum adds in one order for any number of neighbours

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the points, not the tree made of them."""
        return {**self.__dict__, "_tree": None}
