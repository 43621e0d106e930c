"""The hot loops: offsets and contents in, feature rows out. The tests hold them against loops over plain Python lists."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@nb.njit(inline="always")
def _sinh(x: float) -> float:
    # Half the cost of math.sinh; its error near 0 is lost beside the jet's pT.
    e = math.exp(x)
    return 0.5 * (e - 1.0 / e)


@nb.njit(cache=True, nogil=True)
def dijet_kernel(
    offsets: NDArray[np.int64], pt: Array, eta: Array, phi: Array, mass: Array, tau1: Array, tau2: Array, tau3: Array,
    x: NDArray[np.float32], m_jj: Array, extras: NDArray[np.float32],
) -> None:  # fmt: skip
    """Fill ``x`` (n, 4): m_J1, dm_J, tau21_1, tau21_2; ``m_jj`` (n,); ``extras`` (6, n): pt_1, pt_2, eta_1, eta_2, tau32_1,
    tau32_2 in double precision, whatever the inputs'.

    The two jets of highest pT; J1 is the lighter. Events with fewer than two jets give zeros.
    """
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 2:
            x[i, :] = 0.0
            m_jj[i] = 0.0
            extras[:, i] = 0.0
            continue
        a, b = start, -1
        for k in range(start + 1, stop):
            if pt[k] > pt[a]:
                a, b = k, a
            elif b < 0 or pt[k] > pt[b]:
                b = k
        pta, ptb, ma, mb = np.float64(pt[a]), np.float64(pt[b]), np.float64(mass[a]), np.float64(mass[b])
        za, zb = pta * _sinh(np.float64(eta[a])), ptb * _sinh(np.float64(eta[b]))
        ea = math.sqrt(pta**2 + za**2 + ma**2)
        eb = math.sqrt(ptb**2 + zb**2 + mb**2)
        dot = ea * eb - za * zb - pta * ptb * math.cos(np.float64(phi[a]) - np.float64(phi[b]))
        light, heavy = (a, b) if ma <= mb else (b, a)
        x[i, 0], x[i, 1] = min(ma, mb), max(ma, mb) - min(ma, mb)
        x[i, 2] = tau2[light] / (np.float64(tau1[light]) + 1e-5)
        x[i, 3] = tau2[heavy] / (np.float64(tau1[heavy]) + 1e-5)
        m_jj[i] = math.sqrt(max(ma**2 + mb**2 + 2.0 * dot, 0.0))
        extras[0, i], extras[1, i], extras[2, i], extras[3, i] = pta, ptb, eta[a], eta[b]
        extras[4, i] = tau3[light] / (np.float64(tau2[light]) + 1e-5)
        extras[5, i] = tau3[heavy] / (np.float64(tau2[heavy]) + 1e-5)


@nb.njit(cache=True, nogil=True)
def sums_kernel(
    offsets: NDArray[np.int64], pt: Array, phi: Array, kinds: NDArray[np.int64], use: NDArray[np.bool_],
    out: NDArray[np.float32], first_jet: int, ht: NDArray[np.float32],
) -> None:  # fmt: skip
    """Missing energy into columns 0-2 of ``out``, HT into ``ht``: an event's first used sum of each kind.

    CMS's etSumType: 1 is HTT, 2 is MET. Without an HTT the pT of the jets is added up, every third column from ``first_jet``.
    """
    for i in range(len(offsets) - 1):
        met, met_phi, total, found, seen = 0.0, 0.0, 0.0, False, False
        for k in range(offsets[i], offsets[i + 1]):
            if use[k] and kinds[k] == 2 and not found:
                met, met_phi, found = pt[k], phi[k], True
            elif use[k] and kinds[k] == 1 and not seen:
                total, seen = pt[k], True
        if not total > 0.0:
            for j in range(first_jet, out.shape[1], 3):
                total += out[i, j]
        out[i, 0], out[i, 1], out[i, 2] = met, 0.0, met_phi
        ht[i] = total


@nb.njit(inline="always")
def hardest(pt: Array, use: NDArray[np.bool_], start: int, stop: int, taken: NDArray[np.int64]) -> int:
    """Indices of the used objects of highest pT into ``taken``, hardest first, as many as fit; returns how many."""
    most, count, last = len(taken), 0, np.inf
    for k in range(start, stop):  # files hold them in this order already, nearly always
        if not use[k]:
            continue
        if pt[k] > last:
            break
        last = pt[k]
        if count < most:
            taken[count] = k
            count += 1
    else:
        return count
    count = 0
    for k in range(start, stop):
        if not use[k]:
            continue
        at = count
        while at > 0 and pt[taken[at - 1]] < pt[k]:
            at -= 1
        if at >= most:
            continue
        count = min(count + 1, most)
        for j in range(count - 1, at, -1):
            taken[j] = taken[j - 1]
        taken[at] = k
    return count


@nb.njit(cache=True, nogil=True)
def leading_kernel(
    offsets: NDArray[np.int64], pt: Array, eta: Array, phi: Array, use: NDArray[np.bool_], most: int,
    out: NDArray[np.float32], column: int, zeros: bool,
) -> None:  # fmt: skip
    """Write pT, eta, phi of the ``most`` hardest used objects of each event into ``out`` from ``column`` on.

    What is left of the slots becomes 0, unless they are ``zeros`` already.
    """
    taken = np.empty(most, np.int64)
    for i in range(len(offsets) - 1):
        count = hardest(pt, use, offsets[i], offsets[i + 1], taken)
        for j in range(count):
            k = taken[j]
            out[i, column + 3 * j] = pt[k]
            out[i, column + 3 * j + 1] = eta[k]
            out[i, column + 3 * j + 2] = phi[k]
        if not zeros:
            for j in range(column + 3 * count, column + 3 * most):
                out[i, j] = 0.0
