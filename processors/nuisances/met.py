"""Missing energy: what a change of jets does to it, and the energy that is in no jet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..features import Columns
from .base import Jagged, check_name, flat

#: CMS's etSumType of missing transverse energy.
L1_MET = 2
L1_SUMS = "L1EtSum"


@nb.njit(cache=True, nogil=True)
def sums_kernel(
    offsets: NDArray[np.int64], new: Any, old: Any, cosine: Any, sine: Any, use: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vector sum of (new - old) over each event's used objects, x and y of shape (n,), float64."""
    n = len(offsets) - 1
    x, y = np.zeros(n), np.zeros(n)
    for i in range(n):
        for k in range(offsets[i], offsets[i + 1]):
            if use[k]:
                change = np.float64(new[k]) - np.float64(old[k])
                x[i] += change * cosine[k]
                y[i] += change * sine[k]
    return x, y


@nb.njit(cache=True, nogil=True)
def _first_kernel(
    offsets: NDArray[np.int64], found: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each event's first object is that was ``found``, and those events; events without one are left out."""
    n = len(offsets) - 1
    at, event, many = np.empty(n, np.int64), np.empty(n, np.int64), 0
    for i in range(n):
        for k in range(offsets[i], offsets[i + 1]):
            if found[k]:
                at[many], event[many] = k, i
                many += 1
                break
    return at[:many], event[:many]


def met_branches(met: str | None) -> tuple[str, ...]:
    """Branches of a missing-energy collection that must be there, none for None."""
    if met is None:
        return ()
    kinds = (f"{L1_SUMS}_etSumType",) if met == L1_SUMS else ()
    return (f"{met}_pt", f"{met}_phi", *kinds)


def met_optional(met: str | None) -> tuple[str, ...]:
    """The crossing number of level-1 sums."""
    return (f"{L1_SUMS}_bx",) if met == L1_SUMS else ()


def met_touches(met: str | None) -> tuple[str, ...]:
    """What `moved` replaces."""
    return () if met is None else (f"{met}_pt", f"{met}_phi")


def _vector(pt: NDArray[Any], phi: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y, (n,) each."""
    # NumPy's float32 cosine is ten times faster than the float64 one, and the branch has no more digits.
    return pt * np.cos(phi).astype(np.float64), pt * np.sin(phi).astype(np.float64)


def _polar(
    pt: NDArray[Any], phi: NDArray[Any], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(pt, phi) after adding (x, y), in the types given; where nothing is added the numbers stay bit by bit."""
    px, py = _vector(pt, phi)
    px, py = px + x, py + y
    angle = np.arctan2(py, px).astype(phi.dtype)
    angle[angle >= phi.dtype.type(np.pi)] = phi.dtype.type(-np.pi)
    still = (x == 0.0) & (y == 0.0)
    return (
        np.where(still, pt, np.sqrt(px * px + py * py).astype(pt.dtype)),
        np.where(still, phi, angle),
    )


def _level1(columns: Columns, x: NDArray[Any], y: NDArray[Any], who: str) -> dict[str, Any]:
    """`moved` for the first in-time level-1 sum of the right type in each event; events without one stay."""
    pt, phi, kind = (Jagged.of(columns, f"{L1_SUMS}_{v}", who) for v in ("pt", "phi", "etSumType"))
    for other, value in ((phi, "phi"), (kind, "etSumType")):
        pt.require_same(other, f"{L1_SUMS}_pt", f"{L1_SUMS}_{value}")
    found = kind.content == L1_MET
    if f"{L1_SUMS}_bx" in columns:
        found &= Jagged.of(columns, f"{L1_SUMS}_bx", who).content == 0
    at, event = _first_kernel(pt.offsets, found)
    new_pt, new_phi = pt.content.copy(), phi.content.copy()
    new_pt[at], new_phi[at] = _polar(pt.content[at], phi.content[at], x[event], y[event])
    return {f"{L1_SUMS}_pt": pt.like(new_pt), f"{L1_SUMS}_phi": phi.like(new_phi)}


def moved(columns: Columns, met: str, x: NDArray[Any], y: NDArray[Any], who: str) -> dict[str, Any]:
    """The missing energy ``met`` with (x, y) added, GeV, each (n,): its pt and phi columns."""
    if met == L1_SUMS:
        return _level1(columns, x, y, who)
    pt, phi = flat(columns, f"{met}_pt", who), flat(columns, f"{met}_phi", who)
    new_pt, new_phi = _polar(pt, phi, x, y)
    return {f"{met}_pt": new_pt, f"{met}_phi": new_phi}


@dataclass(frozen=True)
class UnclusteredMET:
    """Missing energy moved by nu times the change that CMS computed for energy in no jet and no lepton.

    The change is (MET_MetUnclustEnUpDeltaX, MET_MetUnclustEnUpDeltaY) in NanoAOD up to version 9 and the vector
    (PuppiMET_ptUnclusteredUp, PuppiMET_phiUnclusteredUp) minus the nominal one later; the stored down vector is not
    used. The second form needs the missing energy as the file has it, so this nuisance acts before those that move jets.
    """

    name: str
    met: str = "PuppiMET"
    corrects = False
    first = True

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def branches(self) -> tuple[str, ...]:
        """The nominal vector."""
        return self.touches

    @property
    def optional(self) -> tuple[str, ...]:
        """Both spellings of the change; a file must have one."""
        return (*self._deltas, *self._shifted)

    @property
    def touches(self) -> tuple[str, ...]:
        """The vector."""
        return (f"{self.met}_pt", f"{self.met}_phi")

    @property
    def _deltas(self) -> tuple[str, str]:
        return f"{self.met}_MetUnclustEnUpDeltaX", f"{self.met}_MetUnclustEnUpDeltaY"

    @property
    def _shifted(self) -> tuple[str, str]:
        return f"{self.met}_ptUnclusteredUp", f"{self.met}_phiUnclusteredUp"

    def change(self, columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """One standard deviation, GeV: x and y, each (n,). Raises `InputError` where the file has neither spelling."""
        first, second = self._deltas, self._shifted
        if all(b in columns for b in first):
            x, y = (flat(columns, b, self.name).astype(np.float64) for b in first)
            return x, y
        if not all(b in columns for b in second):
            raise InputError(
                f"nuisance '{self.name}' needs {' and '.join(first)}, or {' and '.join(second)}; the file has neither. "
                "Choose another missing energy"
            )
        up, nominal = (
            _vector(*(flat(columns, b, self.name) for b in pair)) for pair in (second, self.touches)
        )
        return up[0] - nominal[0], up[1] - nominal[1]

    def shift(self, columns: Columns, nu: float, identity: NDArray[np.void]) -> dict[str, Any]:  # noqa: ARG002
        """The vector at nu standard deviations."""
        x, y = self.change(columns)
        return moved(columns, self.met, nu * x, nu * y, self.name)
