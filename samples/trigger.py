"""Level-1 objects of one crossing from its trigger towers: jets, e/gamma, muons and energy sums.

The shapes of the algorithms are those of the CMS Phase-1 level-1 trigger (CMS-TDR-12; performance 2006.10165): a
9x9 tower window with its pile-up taken from the strips around it, an electromagnetic cluster with vetoes on
hadronic energy and shape, and sums over towers and jets. Thresholds and calibration are of these samples.
"""

# ruff: noqa: NPY002  (inside numba, np.random is its own generator per thread, seeded per crossing or collision; kernels take no keywords)
from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .detector import ETA_CELLS, ETA_STEP, PHI_CELLS

#: Hardware steps: GeV; eta and phi of calorimeter objects and of muons.
PT_STEP = 0.5
CALO_ETA, CALO_PHI = 0.0435, 2 * math.pi / 144
MUON_ETA, MUON_PHI = 0.010875, 2 * math.pi / 576
#: Largest value of the hardware's fields, GeV.
MAX_JET, MAX_EG, MAX_MUON, MAX_SUM = 1023.5, 255.5, 255.5, 2047.5
#: Slots of an event and the softest object that is stored, GeV. The hardware has 12 and no such cuts; pile-up
#: fills the slots below, and they would be most of the file.
JETS, EGS, MUONS = 10, 6, 4
MIN_JET, MIN_EG, MIN_MUON = 30.0, 10.0, 3.0
JET_SEED = 4.0
EG_SEED = 2.0
EG_ETA = 2.5
MAX_H_OVER_E = 0.10
HTT_JET_PT, HTT_JET_ETA = 30.0, 2.5
MET_ETA = 3.0
#: Tower threshold of MET, GeV, rising with |eta|: pile-up makes most of the MET below it.
MET_TOWER = 4.0
MUON_ETA_MAX = 2.4
MUON_EFFICIENCY = 0.95
MUON_RESOLUTION = 0.20
#: Part of muons whose pT is assigned too high (scattering in the iron), and the mean factor beyond 1.
MUON_TAIL, MUON_TAIL_MEAN = 0.03, 2.0
#: Calibration of a window's energy less its pile-up: median response 1 within 3 % for anti-kT 0.4 jets of 40-1500 GeV
#: of the generator's visible particles under 50 collisions.
JET_SCALE, JET_OFFSET = 1.02, 5.0


@nb.njit(cache=True, nogil=True)
def _step(value: float, step: float) -> float:
    return math.floor(value / step + 0.5) * step


@nb.njit(cache=True, nogil=True)
def _quantum(pt: float, largest: float) -> float:
    """Transverse momentum in hardware steps, rounded down and saturated."""
    return min(math.floor(pt / PT_STEP) * PT_STEP, largest)


@nb.njit(cache=True, nogil=True)
def _cell_eta(i: float) -> float:
    return (i - ETA_CELLS // 2 + 0.5) * ETA_STEP


@nb.njit(cache=True, nogil=True)
def _cell_phi(j: float) -> float:
    phi = -math.pi + (j + 0.5) * 2 * math.pi / PHI_CELLS
    return phi if phi < math.pi else phi - 2 * math.pi


@nb.njit(cache=True, nogil=True)
def _hardware_phi(phi: float, step: float) -> float:
    """Phi in hardware steps, in [-pi, pi)."""
    out = _step(phi, step)
    return out - 2 * math.pi if out >= math.pi - step / 4 else out


@nb.njit(cache=True, nogil=True)
def _block(et: NDArray[np.float64], i0: int, i1: int, j0: int, j1: int) -> float:
    """Sum over rows i0..i1 and columns j0..j1 inclusive, around in phi, cut at the end of the calorimeter."""
    total = 0.0
    for i in range(max(i0, 0), min(i1, ETA_CELLS - 1) + 1):
        for j in range(j0, j1 + 1):
            total += et[i, j % PHI_CELLS]
    return total


@nb.njit(cache=True, nogil=True)
def _is_peak(et: NDArray[np.float64], i: int, j: int, half: int) -> bool:
    """The largest tower of its window; of equal ones, the one at the lower diagonal."""
    here = et[i, j]
    for di in range(-half, half + 1):
        if not 0 <= i + di < ETA_CELLS:
            continue
        for dj in range(-half, half + 1):
            other = et[i + di, (j + dj) % PHI_CELLS]
            before = di + dj < 0 or (di + dj == 0 and di < 0)
            if other > here or (before and other == here):
                return False
    return True


@nb.njit(cache=True, nogil=True)
def _pileup(et: NDArray[np.float64], i: int, j: int) -> float:
    """Energy under a 9x9 window: the three quietest of the four 3x9 strips beside it have its area."""
    strips = np.array([
        _block(et, i - 7, i - 5, j - 4, j + 4), _block(et, i + 5, i + 7, j - 4, j + 4),
        _block(et, i - 4, i + 4, j - 7, j - 5), _block(et, i - 4, i + 4, j + 5, j + 7),
    ])  # fmt: skip
    return strips.sum() - strips.max()


@nb.njit(cache=True, nogil=True)
def _keep(found: NDArray[np.float64], n: int, most: int) -> int:
    """Sort the first ``n`` rows by falling pT in place; returns how many of ``most`` remain."""
    order = np.argsort(-found[:n, 0], kind="mergesort")
    found[:n] = found[:n][order]
    return min(n, most)


@nb.njit(cache=True, nogil=True)
def find_jets(et: NDArray[np.float64], out: NDArray[np.float64]) -> int:
    """Jets (pT, eta, phi) above 5 GeV by falling pT into ``out``; returns how many. ``et``: towers, GeV."""
    n = 0
    for i in range(4, ETA_CELLS - 4):
        for j in range(PHI_CELLS):
            if et[i, j] < JET_SEED or not _is_peak(et, i, j, 4):
                continue
            pt = JET_SCALE * (_block(et, i - 4, i + 4, j - 4, j + 4) - _pileup(et, i, j)) + JET_OFFSET
            if pt >= 5.0 and n < len(out):
                out[n, 0] = _quantum(pt, MAX_JET)
                out[n, 1] = _step(_cell_eta(i), CALO_ETA)
                out[n, 2] = _hardware_phi(_cell_phi(j), CALO_PHI)
                n += 1
    return _keep(out, n, len(out))


@nb.njit(cache=True, nogil=True)
def find_eg(towers: NDArray[np.float64], out: NDArray[np.float64]) -> int:
    """e/gamma (pT, eta, phi) by falling pT into ``out``: a tower and its best neighbours in phi and eta.

    ``towers``: (eta, phi, 2) electromagnetic and hadronic transverse energy, GeV.
    """
    em, had = towers[:, :, 0], towers[:, :, 1]
    n = 0
    for i in range(1, ETA_CELLS - 1):
        if abs(_cell_eta(i)) > EG_ETA:
            continue
        for j in range(PHI_CELLS):
            if em[i, j] < EG_SEED or not _is_peak(em, i, j, 1):
                continue
            left, right = em[i, (j - 1) % PHI_CELLS], em[i, (j + 1) % PHI_CELLS]
            di = 1 if em[i + 1, j] > em[i - 1, j] else -1
            dj = 1 if right > left else -1
            side, up = max(left, right), em[i + di, j]
            pt = em[i, j] + side + up + em[i + di, (j + dj) % PHI_CELLS]
            hadronic = had[i, j] + had[i, (j + dj) % PHI_CELLS]
            around = _block(em, i - 1, i + 1, j - 1, j + 1)
            if pt < MIN_EG or hadronic > MAX_H_OVER_E * pt or pt < 0.8 * around or n >= len(out):
                continue
            out[n, 0] = _quantum(pt, MAX_EG)
            out[n, 1] = _step(_cell_eta(i + 0.5 * di * (up / pt > 0.25)), CALO_ETA)
            out[n, 2] = _hardware_phi(_cell_phi(j + 0.5 * dj * (side / pt > 0.25)), CALO_PHI)
            n += 1
    return _keep(out, n, EGS)


@nb.njit(cache=True, nogil=True)
def find_muons(true: NDArray[np.float64], out: NDArray[np.float64]) -> int:
    """Muons (pT, eta, phi, charge) by falling pT into ``out`` from true ones of the same columns, smeared."""
    n = 0
    for k in range(len(true)):
        eta = true[k, 1]
        if abs(eta) >= MUON_ETA_MAX or np.random.random() > MUON_EFFICIENCY:
            continue
        pt = true[k, 0] * math.exp(MUON_RESOLUTION * np.random.normal())
        if np.random.random() < MUON_TAIL:
            pt *= 1.0 + np.random.exponential(MUON_TAIL_MEAN)
        if pt < MIN_MUON or n >= len(out):
            continue
        wrong = np.random.random() < 0.01
        out[n, 0], out[n, 1] = _quantum(pt, MAX_MUON), _step(eta, MUON_ETA)
        # The stations see phi after the bend; the trigger takes most of it out again.
        out[n, 2] = _hardware_phi(true[k, 2] + 0.1 / pt * np.random.normal(), MUON_PHI)
        out[n, 3] = -true[k, 3] if wrong else true[k, 3]
        n += 1
    return _keep(out, n, MUONS)


@nb.njit(cache=True, nogil=True)
def find_sums(et: NDArray[np.float64], jets: NDArray[np.float64]) -> tuple[float, float, float]:
    """HTT, MET (GeV, in steps) and the phi of MET from towers and all jets (rows of pT, eta, phi)."""
    x = y = htt = 0.0
    for i in range(ETA_CELLS):
        eta = abs(_cell_eta(i))
        if eta > MET_ETA:
            continue
        threshold = MET_TOWER * (1.0 + max(eta - 1.5, 0.0))
        for j in range(PHI_CELLS):
            if et[i, j] >= threshold:
                x -= et[i, j] * math.cos(_cell_phi(j))
                y -= et[i, j] * math.sin(_cell_phi(j))
    for k in range(len(jets)):
        if jets[k, 0] >= HTT_JET_PT and abs(jets[k, 1]) < HTT_JET_ETA:
            htt += jets[k, 0]
    met = _quantum(math.hypot(x, y), MAX_SUM)
    return min(htt, MAX_SUM), met, _hardware_phi(math.atan2(y, x), CALO_PHI)
