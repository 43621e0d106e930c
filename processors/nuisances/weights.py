"""Weights of pile-up, scales, parton densities and the shower, continuous in nu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ..features import Columns
from .base import Jagged, check_name, flat, interpolate
from .corrections import Correction, Side

#: Where LHEScaleWeight keeps (down, up) of each scale, by the number of weights: nine with the nominal one, eight without.
#: The order is that of its documentation string: [0] muR=0.5 muF=0.5; [1] 0.5, 1; [2] 0.5, 2; [3] 1, 0.5; [4] 1, 1; ...
SCALE_INDICES = {
    9: {"muR": (1, 7), "muF": (3, 5), "both": (0, 8)},
    8: {"muR": (1, 6), "muF": (3, 4), "both": (0, 7)},
}
_TRUE = "Pileup_nTrueInt"


@dataclass(frozen=True)
class PileupWeight:
    """Pile-up weight of CMS's correctionlib files: w0 (w_side / w0)^|nu|, exact at -1, 0 and 1; see `interpolate`."""

    name: str
    file: str
    correction: str
    sha256: str = ""
    branch: str = _TRUE
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def source(self) -> Correction:
        """The correction, its inputs called NumTrueInteractions and weights as in all of CMS's files."""
        sides = {side: side for side in ("nominal", "up", "down")}
        inputs = {"NumTrueInteractions": self.branch, "weights": sides}
        return Correction(self.file, self.correction, inputs, self.sha256)

    @property
    def branches(self) -> tuple[str, ...]:
        """The true number of interactions."""
        return (self.branch,)

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,). Raises `InputError` for numbers of interactions outside the correction."""
        nominal = self._side(columns, "nominal")
        if nu == 0.0:
            return nominal
        side = self._side(columns, "up" if nu > 0 else "down")
        return interpolate(nominal, side, side, nu)

    def _side(self, columns: Columns, side: Side) -> NDArray[np.float64]:
        return self.source.evaluate(columns, None, side, self.name)


@dataclass(frozen=True)
class PileupProfileWeight:
    """Pile-up weight from profiles: target / simulated, each normalised, in bins [0, 1), [1, 2), ... of ``branch``.

    ``up`` and ``down``: the target with the inelastic cross-section one standard deviation higher and lower. Between
    them as in `PileupWeight`. An event where ``simulated`` is empty or the lists end is an `InputError`: then the
    profile is not that of the sample.
    """

    name: str
    target: Sequence[float]
    up: Sequence[float]
    down: Sequence[float]
    simulated: Sequence[float]
    branch: str = _TRUE
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in ("target", "up", "down", "simulated"):
            values = np.asarray(getattr(self, key), dtype=np.float64)
            if len(values) != len(self.simulated):
                raise ConfigError(
                    f"nuisance '{self.name}': {key} has {len(values)} bins, simulated has {len(self.simulated)}"
                )
            if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
                raise ConfigError(
                    f"nuisance '{self.name}': {key} must be finite, not negative, and not all zero"
                )

    @property
    def branches(self) -> tuple[str, ...]:
        """The true number of interactions."""
        return (self.branch,)

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,): one interpolation per bin, then a look-up."""
        simulated = _normalised(self.simulated)
        filled = simulated > 0

        def ratio(values: Sequence[float]) -> NDArray[np.float64]:
            return np.divide(_normalised(values), simulated, out=np.zeros(len(simulated)), where=filled)

        table = interpolate(ratio(self.target), ratio(self.up), ratio(self.down), nu)
        values = flat(columns, self.branch, self.name)
        inside = np.isfinite(values) & (values >= 0) & (values < len(table))
        index = np.where(inside, values, 0).astype(np.int64)
        bad = ~(inside & filled[index])
        if bad.any():
            raise InputError(
                f"nuisance '{self.name}': {self.branch} is {values[bad][0]} in an event ({bad.sum()} of {len(bad)} such), "
                f"where the simulated profile of {len(table)} bins is empty; give the profile of this sample"
            )
        return table[index]


def _normalised(values: Sequence[float]) -> NDArray[np.float64]:
    out = np.asarray(values, dtype=np.float64)
    return out / out.sum()


def weight_table(columns: Columns, branch: str, who: str) -> NDArray[Any]:
    """A branch of weights per event as (n, k), a view in its own type.

    Raises `InputError` where events have no weights, or not all the same number.
    """
    lists = Jagged.of(columns, branch, who)
    counts = lists.counts
    if len(counts) == 0:
        return np.ones((0, 0))
    most = int(counts.max())
    short = int(np.sum(counts != most))
    if most == 0 or short:
        few = len(counts) if most == 0 else short
        what = "are empty" if not counts[counts != most].any() else f"do not hold {most} weights"
        raise InputError(
            f"nuisance '{who}': {few} of {len(counts)} events' lists in {branch} {what}; this sample has no such "
            "weights, or only for some events: leave the nuisance out for it"
        )
    return lists.content.reshape(-1, most)


def _pick(
    columns: Columns, branch: str, who: str, needed: Sequence[int], most: str
) -> list[NDArray[np.float64]]:
    """Columns ``needed`` of `weight_table`; a list too short for them is an `InputError`."""
    table = weight_table(columns, branch, who)
    if len(table) == 0:
        return [np.ones(0) for _ in needed]
    if max(needed) >= table.shape[1]:
        raise InputError(
            f"nuisance '{who}': {branch} holds {table.shape[1]} weights per event, number {max(needed)} is wanted "
            f"({most}); leave the nuisance out for this sample"
        )
    return [table[:, i].astype(np.float64) for i in needed]


@dataclass(frozen=True)
class ScaleWeight:
    """Renormalisation and factorisation scale of the matrix element: twice at nu = 1, half at nu = -1.

    ``scale``: muR, muF or both. LHEScaleWeight holds w_var / w_nominal; see `SCALE_INDICES` for its order.
    """

    name: str
    scale: Literal["muR", "muF", "both"] = "both"
    branches: tuple[str, ...] = field(default=("LHEScaleWeight",), init=False)
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.scale not in SCALE_INDICES[9]:
            raise ConfigError(f"nuisance '{self.name}': scale is '{self.scale}', expected muR, muF or both")

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,). Raises `InputError` unless every event has eight or nine of them."""
        table = weight_table(columns, self.branches[0], self.name)
        if len(table) == 0:
            return np.ones(0)
        if table.shape[1] not in SCALE_INDICES:
            raise InputError(
                f"nuisance '{self.name}': LHEScaleWeight holds {table.shape[1]} weights per event, expected 9 or 8; the "
                "order of others is not known: leave the nuisance out for this sample"
            )
        down, up = SCALE_INDICES[table.shape[1]][self.scale]
        higher, lower = (table[:, i].astype(np.float64) for i in (up, down))
        return interpolate(np.ones(len(table)), higher, lower, nu)


@dataclass(frozen=True)
class PDFWeight:
    """Parton densities from LHEPdfWeight, which holds w_var / w_nominal with the set's central member first.

    ``members``: hessian, eigenvector i is 1 + nu (w_i - w_0); pairs, of asymmetric sets: the pair (2i - 1, 2i) is up and
    down; replicas: 1 + nu s, with s the standard deviation of members 1 to ``count``, event by event: one direction that
    covers the spread of each event and takes all events to move together (1510.03865).
    ``eigenvector``: i, from 1 on. ``count``: error members that belong to the set, all of the list where None; say 100
    for the sets with two values of alpha_s at their end.
    """

    name: str
    members: Literal["hessian", "pairs", "replicas"] = "hessian"
    eigenvector: int | None = None
    count: int | None = None
    branches: tuple[str, ...] = field(default=("LHEPdfWeight",), init=False)
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.members not in ("hessian", "pairs", "replicas"):
            raise ConfigError(
                f"nuisance '{self.name}': members is '{self.members}', expected hessian, pairs or replicas"
            )
        if (self.members == "replicas") != (self.eigenvector is None):
            raise ConfigError(
                f"nuisance '{self.name}': hessian and pairs take an eigenvector, replicas take none"
            )
        if self.eigenvector is not None and self.eigenvector < 1:
            raise ConfigError(
                f"nuisance '{self.name}': eigenvector is {self.eigenvector}, the first one is 1"
            )
        if self.count is not None and self.count < max(2, *self._needed):
            raise ConfigError(
                f"nuisance '{self.name}': count is {self.count}, expected {max(2, *self._needed)} or more"
            )

    @property
    def _needed(self) -> tuple[int, ...]:
        i = self.eigenvector
        if i is None:
            return (0, self.count or 2)
        return (0, i) if self.members == "hessian" else (0, 2 * i - 1, 2 * i)

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,). Raises `InputError` where events lack the members."""
        branch = self.branches[0]
        central, *sides = _pick(columns, branch, self.name, self._needed, "a member of the set")
        if self.members == "replicas":
            spread = self._spread(columns, len(central))
            return 1.0 + nu * spread
        if self.members == "hessian":
            return 1.0 + nu * (sides[0] - central)
        return interpolate(np.ones(len(central)), 1.0 + sides[0] - central, 1.0 + sides[1] - central, nu)

    def _spread(self, columns: Columns, n: int) -> NDArray[np.float64]:
        if n == 0:
            return np.zeros(0)
        table = weight_table(columns, self.branches[0], self.name)
        last = None if self.count is None else self.count + 1
        return np.std(table[:, 1:last], axis=1, ddof=1, dtype=np.float64)


@dataclass(frozen=True)
class ShowerWeight:
    """Scale of the shower, initial (ISR) or final (FSR) state: twice at nu = 1, half at nu = -1.

    PSWeight holds w_var / w_nominal in an order that changed with the NanoAOD version; its documentation string says
    "[0] is ISR=0.5 FSR=1; [1] is ISR=1 FSR=0.5; [2] is ISR=2 FSR=1; [3] is ISR=1 FSR=2" in old files and
    "[0] is ISR=2 FSR=1; [1] is ISR=1 FSR=2; [2] is ISR=0.5 FSR=1; [3] is ISR=1 FSR=0.5" in newer ones (12 and 15 do).
    ``first``: the number it gives for [0]. Half the scale is more radiation.
    """

    name: str
    radiation: Literal["ISR", "FSR"] = "ISR"
    first: float = 2.0
    branches: tuple[str, ...] = field(default=("PSWeight",), init=False)
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.radiation not in ("ISR", "FSR"):
            raise ConfigError(f"nuisance '{self.name}': radiation is '{self.radiation}', expected ISR or FSR")
        if self.first not in (0.5, 2.0):
            raise ConfigError(
                f"nuisance '{self.name}': first is {self.first}, expected 2 (newer files) or 0.5 (old ones); it is what "
                "PSWeight's documentation string gives as ISR of [0]"
            )

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,). Raises `InputError` where events hold fewer than four: a single one is the generator's dummy."""
        start = 0 if self.radiation == "ISR" else 1
        sides: Any = _pick(columns, self.branches[0], self.name, (start, start + 2), "a single 1 is a dummy")
        up, down = sides if self.first == 2.0 else sides[::-1]
        return interpolate(np.ones(len(up)), up, down, nu)
