"""The particles of the hard process with their mothers, and whether a jet holds one of them with all of its decay."""

# awkward's own annotations are unions of everything an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false, reportIndexIssue=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from .nano import collection
from .particles import Particles

#: Pythia's status: incoming, decayed, outgoing.
INCOMING, DECAYED, OUTGOING = 21, 22, 23
#: isHardProcess among NanoAOD's statusFlags.
HARD_FLAG = 1 << 7


@dataclass(frozen=True)
class Partons:
    """Particles of status 21 to 29, flat; ``mothers``: row within the event, -1 if it is not among them; ``status`` (21 to 29).

    Rows of ``particles.offsets[i]`` to ``[i + 1]`` are of event i. A mother is looked for through the copies that a shower
    makes of a particle, so that a decay is found below what decayed.
    """

    particles: Particles
    mothers: NDArray[np.int16]
    status: NDArray[np.int32]

    def __len__(self) -> int:
        """Events."""
        return len(self.particles.offsets) - 1

    def collection(self, keep: NDArray[np.bool_]) -> ak.Array:
        """NanoAOD's GenPart of the events of ``keep`` (n_events,)."""
        counts = np.diff(self.particles.offsets)
        rows = np.repeat(keep, counts)
        p = self.particles
        return collection(
            counts[keep],
            pt=p.pt[rows],
            eta=np.clip(p.eta[rows], -20.0, 20.0),
            phi=p.phi[rows],
            mass=p.mass[rows],
            pdgId=p.pdg[rows].astype(np.int32),
            status=self.status[rows],
            statusFlags=np.full(rows.sum(), HARD_FLAG, np.uint16),
            genPartIdxMother=self.mothers[rows],
        )

    def inside(
        self, event: int, eta: float, phi: float, radius: float, codes: Sequence[int], contained: bool
    ) -> bool:
        """Whether a particle with |PDG code| in ``codes`` is within ``radius`` of a direction, its decay too if ``contained``.

        The decay is what it ends in within the hard process: the quarks, not those of the shower.
        """
        a, b = self.particles.offsets[event : event + 2]
        distance = np.hypot(
            self.particles.eta[a:b] - eta, (self.particles.phi[a:b] - phi + np.pi) % (2 * np.pi) - np.pi
        )
        mothers, near = self.mothers[a:b], distance < radius
        for row in np.flatnonzero(np.isin(np.abs(self.particles.pdg[a:b]), codes) & near):
            if not contained or all(near[k] for k in _ends(mothers, int(row))):
                return True
        return False


def _ends(mothers: NDArray[np.int16], row: int) -> list[int]:
    """What a particle ends in: rows without daughters below it, itself if it has none."""
    daughters = [k for k in np.flatnonzero(mothers == row).tolist() if k != row]
    return [end for k in daughters for end in _ends(mothers, k)] if daughters else [row]


def partons(batch: Any) -> Partons:
    """The hard process of a batch as it is in the event, after the recoil against what was radiated before it."""
    status = abs(batch.prt.status)
    keep = (status >= INCOMING) & (status <= 29)
    counts = ak.to_numpy(ak.num(batch.prt.id))
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]

    def flat(values: Any) -> NDArray[Any]:
        return np.asarray(ak.to_numpy(ak.flatten(values)))

    kept, code, first = flat(keep), flat(batch.prt.id), np.repeat(starts, counts)
    mother = flat(batch.prt.mother1) + first
    rows = np.flatnonzero(kept)
    at = mother[rows]
    # Follow copies of the mother to the one of the hard process; a mother that is no copy ends at row 0 of its event.
    while True:
        move = ~kept[at] & (code[at] == code[mother[at]]) & (mother[at] != at)
        if not move.any():
            break
        at = np.where(move, mother[at], at)
    number = np.cumsum(kept) - 1
    event = np.repeat(np.arange(len(counts)), counts)[rows]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(event, minlength=len(counts)))]).astype(np.int64)
    mothers = np.where(kept[at], number[at] - offsets[event], -1).astype(np.int16)
    px, py, pz = (flat(batch.prt.p[k])[rows] for k in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    particles = Particles(
        offsets,
        pt,
        np.arcsinh(pz / np.maximum(pt, 1e-9)),
        np.arctan2(py, px),
        flat(batch.prt.m)[rows],
        code[rows],
    )
    return Partons(particles, mothers, flat(status)[rows].astype(np.int32))
