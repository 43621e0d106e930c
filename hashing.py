"""The hash of an event's identity, compiled: every event of every stream passes here more than once."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@nb.njit(inline="always")
def _mix(z: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit changes every output bit."""
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


@nb.njit(cache=True, nogil=True)
def hash_kernel(
    run: NDArray[np.uint32], lumi: NDArray[np.uint32], event: NDArray[np.uint64], seed: np.uint64
) -> NDArray[np.uint64]:
    """One number per (run, luminosityBlock, event), shape (n,); additions and products wrap at 2^64."""
    out = np.empty(len(event), np.uint64)
    start = _mix(seed + _GOLDEN)
    for i in range(len(event)):
        h = _mix((start ^ np.uint64(run[i])) + _GOLDEN)
        h = _mix((h ^ np.uint64(lumi[i])) + _GOLDEN)
        out[i] = _mix((h ^ event[i]) + _GOLDEN)
    return out
