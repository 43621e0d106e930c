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
    offsets: NDArray[np.int64],
    pt: Array,
    eta: Array,
    phi: Array,
    mass: Array,
    tau1: Array,
    tau2: Array,
    tau3: Array,
) -> Array:
    """Rows (n, 11): m_J1, dm_J, tau21_1, tau21_2, m_jj, pt_1, pt_2, eta_1, eta_2, tau32_1, tau32_2.

    The two jets of highest pT; J1 is the lighter. Events with fewer than two jets give zeros.
    """
    n = len(offsets) - 1
    out = np.zeros((n, 11))
    for i in range(n):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 2:
            continue
        a, b = start, -1
        for k in range(start + 1, stop):
            if pt[k] > pt[a]:
                a, b = k, a
            elif b < 0 or pt[k] > pt[b]:
                b = k
        za, zb = pt[a] * _sinh(eta[a]), pt[b] * _sinh(eta[b])
        ea = math.sqrt(pt[a] ** 2 + za**2 + mass[a] ** 2)
        eb = math.sqrt(pt[b] ** 2 + zb**2 + mass[b] ** 2)
        dot = ea * eb - za * zb - pt[a] * pt[b] * math.cos(phi[a] - phi[b])
        square = mass[a] ** 2 + mass[b] ** 2 + 2.0 * dot
        light, heavy = (a, b) if mass[a] <= mass[b] else (b, a)
        out[i, 0], out[i, 1] = mass[light], mass[heavy] - mass[light]
        out[i, 2] = tau2[light] / (tau1[light] + 1e-5)
        out[i, 3] = tau2[heavy] / (tau1[heavy] + 1e-5)
        out[i, 4] = math.sqrt(max(square, 0.0))
        out[i, 5], out[i, 6], out[i, 7], out[i, 8] = pt[a], pt[b], eta[a], eta[b]
        out[i, 9] = tau3[light] / (tau2[light] + 1e-5)
        out[i, 10] = tau3[heavy] / (tau2[heavy] + 1e-5)
    return out


@nb.njit(cache=True, nogil=True)
def first_kernel(
    offsets: NDArray[np.int64], kinds: NDArray[np.int64], use: NDArray[np.bool_], kind: int, values: Array
) -> Array:
    """The value of each event's first used object of ``kind``, 0 where there is none, shape (n,)."""
    out = np.zeros(len(offsets) - 1)
    for i in range(len(out)):
        for k in range(offsets[i], offsets[i + 1]):
            if use[k] and kinds[k] == kind:
                out[i] = values[k]
                break
    return out


@nb.njit(cache=True, nogil=True)
def leading_kernel(
    offsets: NDArray[np.int64], pt: Array, eta: Array, phi: Array, use: NDArray[np.bool_], most: int,
    out: NDArray[np.float32], column: int,
) -> None:  # fmt: skip
    """Write pT, eta, phi of the ``most`` hardest used objects of each event into ``out`` from ``column`` on."""
    taken = np.empty(most, np.int64)
    for i in range(len(offsets) - 1):
        count = 0
        for k in range(offsets[i], offsets[i + 1]):
            if not use[k]:
                continue
            at = count if count < most else most
            while at > 0 and pt[taken[at - 1]] < pt[k]:
                at -= 1
            if at >= most:
                continue
            last = count if count < most else most - 1
            for j in range(last, at, -1):
                taken[j] = taken[j - 1]
            taken[at] = k
            if count < most:
                count += 1
        for j in range(count):
            out[i, column + 3 * j] = pt[taken[j]]
            out[i, column + 3 * j + 1] = eta[taken[j]]
            out[i, column + 3 * j + 2] = phi[taken[j]]
