"""Quasi-anomalous knowledge: the plane of background loss and signal-prior loss (2011.03550)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, in_identity_order
from ..nesting import Stateful, restore_under, state_under
from .mixture_density import MixtureDensity
from .weak_trees import check_scored, check_training


@dataclass
class Quak:
    """Odd = unlike the background and like a signal prior: large L_B, small L_S (2011.03550).

    L_B and L_S,k are -ln of densities of the background (the ``reference``) and of each sample of ``priors``, all
    learnt by copies of ``density`` (a `MixtureDensity` unless given; any score with ``log_density`` whose ``fit``
    learns from its first sample). Inputs are standardised on the reference and clipped at +- ``clip``, as in the CMS
    version.

    ``combine`` makes one number of the plane: "ratio": L_B + ln of the mean of exp(-L_S,k), for one prior L_B - L_S,
    the logarithm of the likelihood ratio; "nearest": L_B - min L_S,k; "background": L_B alone, for comparison.
    `plane` gives all axes and `PlaneBins` the equal-population bins for a simultaneous fit.

    Simplified: the paper's densities are losses of VAEs with planar flows; here they are normalised densities.
    """

    paper: ClassVar[str] = "2011.03550"

    priors: Any = field(default=(), repr=False, compare=False)  # of Events
    density: Any = None
    combine: Literal["ratio", "nearest", "background"] = "ratio"
    clip: float = 10.0
    seed: int = 0
    mean_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    width_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    densities_: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.combine not in ("ratio", "nearest", "background") or not self.clip > 0:
            raise ConfigError(
                f"found combine {self.combine!r}, clip {self.clip}; expected ratio, nearest or background, "
                "and a clip above 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn the background's density and one per prior; ``data`` is not looked at.

        Raises `InputError` on bad samples, or without a prior (unless combine is "background"), `ConfigError` for a density in
        logit coordinates.
        """
        check_training(reference, "reference")
        if not self.priors and self.combine != "background":
            raise InputError(
                "Quak has no signal prior; hand in samples as priors=(Events, ...), or set combine = background"
            )
        for k, prior in enumerate(self.priors):
            check_training(prior, f"signal prior {k}")
            reference.features.require_same(prior.features, "the reference", f"signal prior {k}")
        ordered = in_identity_order(reference, self.seed)
        self.mean_ = np.average(ordered.x.astype(np.float64), axis=0, weights=ordered.weight)
        spread = np.sqrt(np.average((ordered.x - self.mean_) ** 2, axis=0, weights=ordered.weight))
        self.width_ = np.where(np.ptp(ordered.x, axis=0) > 0, spread, 1.0)
        self.densities_ = []
        for k, sample in enumerate([reference, *self.priors]):
            one = MixtureDensity() if self.density is None else deepcopy(self.density)
            if not hasattr(one, "log_density"):
                raise InputError(f"{type(one).__name__} has no log_density(events): it is no density")
            for name in ("coordinates", "preprocess"):
                if getattr(one, name, "") == "logit":  # -ln p is endless outside, and a score is a number
                    raise ConfigError(
                        f"Quak: a {type(one).__name__} with {name} logit knows nothing outside the range of its sample; use "
                        f"{name}: {'standard' if name == 'preprocess' else 'standardised'}"
                    )
            if hasattr(one, "seed"):
                one.seed = self.seed + 1000 * k
            self.densities_.append(one.fit(self._inputs(sample), self._inputs(sample)))
        return self

    def _inputs(self, events: Events) -> Events:
        x = np.clip((events.x.astype(np.float64) - self.mean_) / self.width_, -self.clip, self.clip)
        return replace(events, x=x.astype(np.float32))

    def plane(self, events: Events) -> NDArray[np.float64]:
        """L_B and L_S,k of every event, shape (n, 1 + priors)."""
        if not self.densities_:
            raise InputError("this Quak has not been fitted")
        check_scored(events, len(self.mean_), "Quak")
        inputs = self._inputs(events)
        return -np.column_stack([d.log_density(inputs) for d in self.densities_])

    def score(self, events: Events) -> NDArray[np.float64]:
        """The plane as one number, shape (n,)."""
        plane = self.plane(events)
        if self.combine == "background":
            return plane[:, 0]
        signal = -plane[:, 1:]
        highest = signal.max(axis=1)
        if self.combine == "nearest":
            return plane[:, 0] + highest
        return plane[:, 0] + highest + np.log(np.exp(signal - highest[:, None]).mean(axis=1))

    def state(self) -> Stateful:
        """Every density's state under its number, and the scaling."""
        states = [state_under(f"density{k}", d) for k, d in enumerate(self.densities_)]
        arrays = {n: v for s in states for n, v in s[1].items()}
        texts = {n: v for s in states for n, v in s[2].items()}
        return (
            {"densities": [s[0] for s in states]},
            {**arrays, "mean": self.mean_, "width": self.width_},
            texts,
        )

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.mean_, self.width_, self.densities_ = arrays["mean"], arrays["width"], []
        for k, one in enumerate(info["densities"]):
            fresh = MixtureDensity() if self.density is None else deepcopy(self.density)
            self.densities_.append(restore_under(f"density{k}", fresh, one, arrays, texts))
        return self


@dataclass(frozen=True)
class PlaneBins:
    """Bins of the (L_B, L_S) plane: the least background-like ``share``, then n x n of equal population.

    ``floor``: L_B that an event must reach; ``background`` edges (n - 1,) in L_B; ``signal`` edges (n, n - 1) in L_S of
    each L_B slice.
    """

    floor: float
    background: NDArray[np.float64]
    signal: NDArray[np.float64]

    @classmethod
    def of(cls, plane: NDArray[np.float64], share: float, n: int) -> PlaneBins:
        """Bins of equal population in ``plane`` (events, 2): of background, not of the data to be searched."""
        if not 0 < share <= 1 or n < 1 or plane.ndim != 2 or plane.shape[1] != 2:
            raise ConfigError(
                f"found share {share}, n {n}, plane {plane.shape}; expected 0 < share <= 1, n >= 1 and two columns"
            )
        if share * len(plane) < 2 * n * n:
            raise InputError(
                f"{share * len(plane):.0f} events are too few for {n} x {n} bins; expected {2 * n * n} or more"
            )
        floor = float(np.quantile(plane[:, 0], 1.0 - share))
        kept = plane[plane[:, 0] >= floor]
        inner = np.arange(1, n) / n
        background = np.quantile(kept[:, 0], inner)
        slices = np.searchsorted(background, kept[:, 0], side="right")
        signal = np.array([np.quantile(kept[slices == k, 1], inner) for k in range(n)]).reshape(n, n - 1)
        return cls(floor, background, signal)

    def bin_of(self, plane: NDArray[np.float64]) -> NDArray[np.int64]:
        """Bin 0 .. n^2 - 1 of each event, -1 where it is too background-like, shape (n,)."""
        slices = np.searchsorted(self.background, plane[:, 0], side="right")
        column = (plane[:, 1:2] >= self.signal[slices]).sum(axis=1)
        return np.where(plane[:, 0] >= self.floor, slices * len(self.signal) + column, -1)


def least_losses(plane: NDArray[np.float64], columns: Sequence[int]) -> NDArray[np.float64]:
    """(L_B, smallest L_S among ``columns``) for `PlaneBins` with several priors, shape (n, 2)."""
    return np.column_stack([plane[:, 0], plane[:, list(columns)].min(axis=1)])
