"""A fast parametrised detector: tracks in a 3.8 T field, calorimeter towers, and energy flow from both.

Acceptances, efficiencies and resolutions are those of the public Delphes CMS card (1307.6346); the code is not
Delphes. Every event has a random stream of its own from (seed, event number), so batches do not matter.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

FIELD_T = 3.8
RADIUS_M = 1.29  # where tracks enter the calorimeter
PHI_CELLS = 72
ETA_STEP = 0.087
ETA_MAX = 5.0
ETA_CELLS = 2 * int(ETA_MAX / ETA_STEP) + 2
#: Columns of a candidate: pT, eta, phi and, where asked for, what it is taken for (a PDG code).
KINEMATIC, LABELLED = 3, 4
PHOTON, NEUTRAL_HADRON = 22, 130


@nb.njit(cache=True, nogil=True)
def _track_efficiency(pt: float, eta: float) -> float:
    """Charged-hadron tracking efficiency of the Delphes CMS card."""
    central = abs(eta) <= 1.5
    if abs(eta) > 2.5 or pt < 0.1:
        return 0.0
    if pt < 1.0:
        return 0.70 if central else 0.60
    return 0.95 if central else 0.85


@nb.njit(cache=True, nogil=True)
def _track_resolution(pt: float, eta: float) -> float:
    """Relative pT resolution: constant and linear terms in quadrature."""
    if abs(eta) <= 0.5:
        return math.hypot(0.01, 1e-4 * pt)
    if abs(eta) <= 1.5:
        return math.hypot(0.015, 1.5e-4 * pt)
    return math.hypot(0.025, 3.5e-4 * pt)


@nb.njit(cache=True, nogil=True)
def _ecal_sigma(energy: float, eta: float) -> float:
    """ECAL resolution in GeV."""
    if abs(eta) <= 3.0:
        return math.sqrt((0.007 * energy) ** 2 + 0.07**2 * energy + 0.35**2)
    return math.sqrt((0.107 * energy) ** 2 + 2.08**2 * energy)


@nb.njit(cache=True, nogil=True)
def _hcal_sigma(energy: float, eta: float) -> float:
    """HCAL resolution in GeV."""
    if abs(eta) <= 3.0:
        return math.sqrt((0.05 * energy) ** 2 + 1.5**2 * energy)
    return math.sqrt((0.13 * energy) ** 2 + 2.7**2 * energy)


@nb.njit(cache=True, nogil=True)
def _log_normal(mean: float, sigma: float) -> float:
    """A positive number of this mean and standard deviation."""
    if mean <= 0.0:
        return 0.0
    b = math.sqrt(math.log(1.0 + (sigma / mean) ** 2))
    return math.exp(math.log(mean) - 0.5 * b * b + b * np.random.normal())


@nb.njit(cache=True, nogil=True)
def _wrap(phi: float) -> float:
    while phi >= math.pi:
        phi -= 2 * math.pi
    while phi < -math.pi:
        phi += 2 * math.pi
    return phi


@nb.njit(cache=True, nogil=True)
def _flow_towers(
    truth: NDArray[np.float64], tracked: NDArray[np.float64], electromagnetic: bool, threshold: float,
    out: NDArray[np.float64], n: int,
) -> int:  # fmt: skip
    """Smear every tower and keep what the tracks do not explain as a neutral candidate; returns the new count."""
    for i in range(ETA_CELLS):
        eta = (i - ETA_CELLS // 2 + np.random.random()) * ETA_STEP
        for j in range(PHI_CELLS):
            energy = truth[i, j]
            if energy <= 0.0:
                continue
            sigma = _ecal_sigma(energy, eta) if electromagnetic else _hcal_sigma(energy, eta)
            left = _log_normal(energy, sigma) - tracked[i, j]
            if left < threshold or (tracked[i, j] > 0.0 and left < sigma) or n >= len(out):
                continue
            pt = left / math.cosh(eta)
            out[n, 0], out[n, 1] = pt, eta
            out[n, 2] = -math.pi + (j + np.random.random()) * 2 * math.pi / PHI_CELLS
            if out.shape[1] == LABELLED:
                out[n, 3] = PHOTON if electromagnetic else NEUTRAL_HADRON
            n += 1
    return n


@nb.njit(cache=True, nogil=True)
def _track_code(kind: int, charge: int) -> int:
    """PDG code of a track: electrons and muons are told from hadrons, hadrons are all pions."""
    if kind == 0:
        return 211 * charge
    return -11 * charge if kind == 1 else -13 * charge


@nb.njit(cache=True, nogil=True)
def simulate_event(
    pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64], kind: NDArray[np.int8],
    charge: NDArray[np.int8], seed: int, out: NDArray[np.float64],
) -> tuple[int, int]:  # fmt: skip
    """Energy-flow candidates (pT, eta, phi) of one event into ``out``, tracks first; returns how many, and how many tracks.

    ``kind``: 0 hadron, 1 photon or electron, 2 muon. GeV and radians; candidates are massless. Where ``out`` has four columns
    the last is a PDG code: 211, 11 and 13 with the track's charge, 22 what the ECAL saw beyond tracks, 130 the HCAL.
    """
    np.random.seed(seed)
    ecal = np.zeros((ETA_CELLS, PHI_CELLS))
    hcal = np.zeros((ETA_CELLS, PHI_CELLS))
    ecal_tracks = np.zeros((ETA_CELLS, PHI_CELLS))
    hcal_tracks = np.zeros((ETA_CELLS, PHI_CELLS))
    n = 0
    for k in range(len(pt)):
        if abs(eta[k]) >= ETA_MAX:
            continue
        at = phi[k]
        seen = False
        smeared = 0.0
        if charge[k] != 0:
            bend = 0.3 * FIELD_T * RADIUS_M / (2.0 * pt[k])
            if bend >= 1.0:
                continue
            at = _wrap(phi[k] - charge[k] * math.asin(bend))
            seen = np.random.random() < _track_efficiency(pt[k], eta[k])
            if seen:
                smeared = _log_normal(pt[k], pt[k] * _track_resolution(pt[k], eta[k]))
                out[n, 0], out[n, 1], out[n, 2] = smeared, eta[k], phi[k]
                if out.shape[1] == LABELLED:
                    out[n, 3] = _track_code(kind[k], charge[k])
                n += 1
        if kind[k] == 2:
            continue
        i = math.floor(eta[k] / ETA_STEP) + ETA_CELLS // 2
        j = int((at + math.pi) / (2 * math.pi) * PHI_CELLS) % PHI_CELLS
        energy = pt[k] * math.cosh(eta[k])
        if kind[k] == 1:
            ecal[i, j] += energy
            ecal_tracks[i, j] += smeared * math.cosh(eta[k])
        else:
            hcal[i, j] += energy
            hcal_tracks[i, j] += smeared * math.cosh(eta[k])
    tracks = n
    n = _flow_towers(ecal, ecal_tracks, True, 0.5, out, n)
    return _flow_towers(hcal, hcal_tracks, False, 1.0, out, n), tracks


@nb.njit(cache=True, nogil=True)
def simulate_batch(
    offsets: NDArray[np.int64], pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64],
    kind: NDArray[np.int8], charge: NDArray[np.int8], seeds: NDArray[np.int64], most: int, columns: int = KINEMATIC,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
    """Candidates of many events: (offsets (n+1,), (total, columns), (n,) how many of each event are tracks).

    ``columns``: `KINEMATIC` for pT, eta, phi; `LABELLED` for the PDG code as a fourth.
    """
    n = len(offsets) - 1
    room = np.empty((most, columns))
    counts = np.zeros(n + 1, np.int64)
    tracks = np.zeros(n, np.int64)
    whole = np.empty((n * 700 + most, columns))
    used = 0
    for i in range(n):
        a, b = offsets[i], offsets[i + 1]
        m, tracks[i] = simulate_event(pt[a:b], eta[a:b], phi[a:b], kind[a:b], charge[a:b], seeds[i], room)
        if used + m > len(whole):
            bigger = np.empty((2 * len(whole) + m, columns))
            bigger[:used] = whole[:used]
            whole = bigger
        whole[used : used + m] = room[:m]
        used += m
        counts[i + 1] = used
    return counts, whole[:used], tracks
