"""Reconstructed objects of an event under pile-up: isolated electrons and muons, missing energy, and what jets are made of.

Efficiencies and resolutions are those of the public Delphes CMS card (1307.6346), its identification of leptons continued below
its 10 GeV; the code is not Delphes. A lepton is isolated as in 1811.10276, which has the mixture of the challenge: less than
0.45 of its pT flies beside it within 0.3; the card's 0.12 and 0.25 within 0.5 would leave a twentieth of the QCD.

Tracks know their collision: those of pile-up make no candidate (charged hadron subtraction), they only explain what the
calorimeter sees. What pile-up leaves there is subtracted from a jet as its area times the median density of the event, from an
isolation as a part of its tracks in the cone; missing energy is not corrected for it. Isolation sums tracks and the
electromagnetic calorimeter: the fluctuations of the hadronic one under 20 collisions would count as much as real company.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .detector import (
    ETA_CELLS,
    ETA_MAX,
    ETA_STEP,
    FIELD_T,
    PHI_CELLS,
    RADIUS_M,
    _flow_towers,
    _log_normal,
    _track_efficiency,
    _track_resolution,
    _wrap,
)
from .overlay import Pool

HADRON, PHOTON, MUON, ELECTRON = 0, 1, 2, 3
#: pT in GeV above which leptons are objects, the |eta| within which, and that of the one for which an event is kept.
LEPTON_PT, TRIGGER_PT = 3.0, 23.0
ELECTRON_ETA, MUON_ETA = 3.0, 2.1
#: Isolation: radius, least pT of what counts, largest part of the lepton's pT; around an electron its own cluster is left out.
CONE, ISOLATION_PT, ISOLATION = 0.3, 0.5, 0.45
FOOTPRINT = 0.1
#: Of the pT of pile-up's tracks in a cone, what pile-up leaves in the electromagnetic calorimeter.
UNDER_ISOLATION = 0.55
#: Most candidates and leptons of an event; cells in phi and in eta, of one region, that the density is the median of.
CANDIDATES, LEPTONS = 20_000, 16
DENSITY_PHI, DENSITY_ETA = 8, 6
TRACKER_ETA = 2.5


class Seen(NamedTuple):
    """What is seen of n events. Candidates (total, 3) of event i are rows offsets[i]:offsets[i+1], none where it is not kept.

    ``leptons`` (n, LEPTONS, 5) pT, eta, phi, charge, PDG code without sign, by falling pT, ``count`` (n,) of them;
    ``met`` (n, 2) pT and phi; ``density`` (n, 2) GeV per unit of area inside and outside the tracker; ``pileup`` (n,).
    """

    offsets: NDArray[np.int64]
    candidates: NDArray[np.float64]
    leptons: NDArray[np.float64]
    count: NDArray[np.int64]
    met: NDArray[np.float64]
    density: NDArray[np.float64]
    pileup: NDArray[np.int64]


@nb.njit(cache=True, nogil=True)
def _lepton_tracking(kind: int, pt: float, eta: float) -> float:
    """Tracking efficiency of an electron or a muon."""
    central = abs(eta) <= 1.5
    if abs(eta) > TRACKER_ETA or pt < 0.1:
        return 0.0
    if kind == MUON:
        if pt < 1.0:
            return 0.75 if central else 0.70
        return 0.99 if central else 0.98
    if pt < 1.0:
        return 0.73 if central else 0.50
    if pt < 100.0:
        return 0.95 if central else 0.83
    return 0.99 if central else 0.90


@nb.njit(cache=True, nogil=True)
def _electron_resolution(pt: float, eta: float) -> float:
    """Relative pT resolution of an electron."""
    if abs(eta) <= 0.5:
        return math.hypot(0.03, 1.3e-3 * pt)
    if abs(eta) <= 1.5:
        return math.hypot(0.05, 1.7e-3 * pt)
    return math.hypot(0.15, 3.1e-3 * pt)


@nb.njit(cache=True, nogil=True)
def _identified(kind: int, eta: float) -> float:
    """Efficiency to tell a track as a lepton, within the acceptance of its kind."""
    if kind == MUON:
        return 0.95 if abs(eta) < MUON_ETA else 0.0
    if abs(eta) >= ELECTRON_ETA:
        return 0.0
    return 0.95 if abs(eta) <= 1.5 else 0.85


@nb.njit(cache=True, nogil=True)
def _particle(
    pt: float, eta: float, phi: float, kind: int, charge: int, grids: NDArray[np.float64], track: NDArray[np.float64]
) -> bool:  # fmt: skip
    """A particle into the calorimeter ``grids`` (ECAL, HCAL, their tracks; eta, phi) and, if seen, its ``track`` (3,)."""
    at, seen, explained = phi, False, 0.0
    if charge != 0:
        bend = 0.3 * FIELD_T * RADIUS_M / (2.0 * pt)
        if bend >= 1.0:
            return False
        at = _wrap(phi - charge * math.asin(bend))
        chance = _lepton_tracking(kind, pt, eta) if kind >= MUON else _track_efficiency(pt, eta)
        seen = np.random.random() < chance
        if seen:
            width = _electron_resolution(pt, eta) if kind == ELECTRON else _track_resolution(pt, eta)
            track[0], track[1], track[2] = _log_normal(pt, pt * width), eta, phi
            # The energy of an electron is known better than its track: its cluster is its own.
            explained = pt if kind == ELECTRON else track[0]
    if kind == MUON:
        return seen
    i = math.floor(eta / ETA_STEP) + ETA_CELLS // 2
    j = int((at + math.pi) / (2 * math.pi) * PHI_CELLS) % PHI_CELLS
    where = 1 if kind == HADRON else 0
    grids[where, i, j] += pt * math.cosh(eta)
    grids[2 + where, i, j] += explained * math.cosh(eta)
    return seen


@nb.njit(cache=True, nogil=True)
def _overlay(
    pool: Pool, many: int, grids: NDArray[np.float64], room: NDArray[np.float64]
) -> int:  # fmt: skip
    """Lay ``many`` collisions of the pool, turned in phi and mirrored in z, into the grids; number of their tracks in ``room``."""
    n = 0
    for _ in range(many):
        k = np.random.randint(len(pool.offsets) - 1)
        turn = 2 * math.pi * np.random.random()
        side = -1.0 if np.random.random() < 0.5 else 1.0
        for p in range(pool.offsets[k], pool.offsets[k + 1]):
            phi = _wrap(pool.phi[p] + turn)
            seen = _particle(
                pool.pt[p], side * pool.eta[p], phi, pool.kind[p], pool.charge[p], grids, room[n]
            )
            if seen and n < len(room) - 1:
                n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _isolation(
    lepton: NDArray[np.float64], own: int, electron: bool, candidates: NDArray[np.float64], tracks: int,
    pileup: NDArray[np.float64],
) -> float:  # fmt: skip
    """pT in the cone over the lepton's: tracks of its collision, and neutral ones less a part of the tracks of pile-up.

    ``candidates``: tracks first, then those of the electromagnetic calorimeter; ``own``: the row of the lepton.
    """
    charged = neutral = 0.0
    for k in range(len(candidates)):
        if k == own or candidates[k, 0] < ISOLATION_PT or abs(candidates[k, 1] - lepton[1]) >= CONE:
            continue
        apart = math.hypot(candidates[k, 1] - lepton[1], _wrap(candidates[k, 2] - lepton[2]))
        if apart >= CONE:
            continue
        if k < tracks:
            charged += candidates[k, 0]
        elif not (electron and apart < FOOTPRINT):
            neutral += candidates[k, 0]
    for k in range(len(pileup)):
        near = pileup[k, 0] >= ISOLATION_PT and abs(pileup[k, 1] - lepton[1]) < CONE
        if near and math.hypot(pileup[k, 1] - lepton[1], _wrap(pileup[k, 2] - lepton[2])) < CONE:
            neutral -= UNDER_ISOLATION * pileup[k, 0]
    return (charged + max(neutral, 0.0)) / lepton[0]


@nb.njit(cache=True, nogil=True)
def density(candidates: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Median pT per unit of area over cells of one region inside the tracker and one outside, into ``out`` (2,)."""
    sums = np.zeros((2, DENSITY_PHI, DENSITY_ETA))
    for k in range(len(candidates)):
        eta = candidates[k, 1]
        outside = abs(eta) >= TRACKER_ETA
        from_edge = abs(eta) - TRACKER_ETA if outside else eta + TRACKER_ETA
        width = (ETA_MAX - TRACKER_ETA) * 2 / DENSITY_ETA
        i = int(from_edge / width)
        if outside and eta < 0:
            i += DENSITY_ETA // 2
        j = int((candidates[k, 2] + math.pi) / (2 * math.pi) * DENSITY_PHI) % DENSITY_PHI
        sums[1 if outside else 0, j, min(i, DENSITY_ETA - 1)] += candidates[k, 0]
    area = 2 * math.pi / DENSITY_PHI * (ETA_MAX - TRACKER_ETA) * 2 / DENSITY_ETA
    for region in range(2):
        out[region] = np.median(sums[region]) / area


@nb.njit(cache=True, nogil=True)
def _leptons(
    found: NDArray[np.float64], many: int, candidates: NDArray[np.float64], tracks: int, pileup: NDArray[np.float64],
    out: NDArray[np.float64],
) -> int:  # fmt: skip
    """The isolated ones of ``found`` (pT, eta, phi, charge, code, row of the track) into ``out``, by falling pT; how many."""
    n = 0
    for r in np.argsort(-found[:many, 0]):
        electron = found[r, 4] == 11
        if (
            n < LEPTONS
            and _isolation(found[r], int(found[r, 5]), electron, candidates, tracks, pileup) < ISOLATION
        ):
            out[n] = found[r, :5]
            n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _missing(candidates: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """pT and phi of what balances all candidates, into ``out`` (2,)."""
    x = y = 0.0
    for k in range(len(candidates)):
        x -= candidates[k, 0] * math.cos(candidates[k, 2])
        y -= candidates[k, 0] * math.sin(candidates[k, 2])
    out[0], out[1] = math.hypot(x, y), math.atan2(y, x)


@nb.njit(cache=True, nogil=True)
def _hard(
    pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64], kind: NDArray[np.int8],
    charge: NDArray[np.int8], grids: NDArray[np.float64], room: NDArray[np.float64], found: NDArray[np.float64],
) -> tuple[int, int]:  # fmt: skip
    """The event's own particles: tracks into ``room``, identified leptons into ``found``; how many of each."""
    n = many = 0
    for k in range(len(pt)):
        if abs(eta[k]) >= ETA_MAX:
            continue
        if not _particle(pt[k], eta[k], phi[k], kind[k], charge[k], grids, room[n]):
            continue
        lepton = kind[k] >= MUON and room[n, 0] >= LEPTON_PT and many < len(found)
        if lepton and np.random.random() < _identified(kind[k], eta[k]):
            found[many, :3], found[many, 3] = room[n], charge[k]
            found[many, 4], found[many, 5] = 13 if kind[k] == MUON else 11, n
            many += 1
        n += 1
    return n, many


@nb.njit(cache=True, nogil=True)
def reconstruct(
    offsets: NDArray[np.int64], pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64],
    kind: NDArray[np.int8], charge: NDArray[np.int8], pool: Pool, mean: float, seeds: NDArray[np.int64],
) -> Seen:  # fmt: skip
    """Objects of many events of particles (``kind`` as `Pool`'s) under ``mean`` collisions; each has a random stream of its own.

    Kept are events with a lepton above `TRIGGER_PT`; of the others only the numbers are there, no candidates.
    """
    n = len(offsets) - 1
    leptons, count = np.zeros((n, LEPTONS, 5)), np.zeros(n, np.int64)
    met, rho, pileup = np.zeros((n, 2)), np.zeros((n, 2)), np.zeros(n, np.int64)
    ends, used = np.zeros(n + 1, np.int64), 0
    room, behind, found = np.empty((CANDIDATES, 3)), np.empty((CANDIDATES, 3)), np.empty((64, 6))
    grids, whole = np.empty((4, ETA_CELLS, PHI_CELLS)), np.empty((n * 500 + CANDIDATES, 3))
    for event in range(n):
        a, b = offsets[event], offsets[event + 1]
        np.random.seed(seeds[event])
        grids[:] = 0.0
        tracks, many = _hard(pt[a:b], eta[a:b], phi[a:b], kind[a:b], charge[a:b], grids, room, found)
        pileup[event] = np.random.poisson(mean)
        other = behind[: _overlay(pool, pileup[event], grids, behind)]
        m = _flow_towers(grids[0], grids[2], True, 0.5, room, tracks)
        count[event] = _leptons(found, many, room[:m], tracks, other, leptons[event])
        m = _flow_towers(grids[1], grids[3], False, 1.0, room, m)
        _missing(room[:m], met[event])
        density(room[:m], rho[event])
        if leptons[event, 0, 0] > TRIGGER_PT:
            if used + m > len(whole):
                bigger = np.empty((2 * len(whole) + m, 3))
                bigger[:used] = whole[:used]
                whole = bigger
            whole[used : used + m] = room[:m]
            used += m
        ends[event + 1] = used
    return Seen(ends, whole[:used].copy(), leptons, count, met, rho, pileup)
