"""What the search for a signal density's start spends its time with, compiled: events far from a Gaussian are passed over."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

_KERNEL: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
#: A ratio of densities below exp(-18) is none (all events together would not change a gain by 1e-4), one above exp(60) is that.
LEAST_LOG, LARGEST_LOG = 18.0, 60.0


@nb.njit(**_KERNEL)
def tried_gains(v: Any, log_density: Any, weight: Any, rows: Any, widths: Any, fractions: Any) -> Any:
    """What round Gaussians at events gain in ln likelihood, the best of the ``fractions``, shape (len(rows), len(widths)).

    ``v`` (n, d), ``log_density`` and ``weight`` (n,): the events, with ln density of the background; ``rows``: where Gaussians lie, each
    without its own event.
    """
    n, d = v.shape
    without, every = np.log1p(-fractions), weight.sum()
    curvature, scale = 0.5 / widths**2, 0.5 * d * np.log(2 * math.pi * widths**2)
    gains = np.empty((len(rows), len(widths)))
    sums = np.empty((len(widths), len(fractions)))
    for k, row in enumerate(rows):
        sums[:] = 0.0
        for i in range(n):
            distance = 0.0
            for j in range(d):
                distance += (v[i, j] - v[row, j]) ** 2
            for a in range(len(widths)):
                log = -distance * curvature[a] - scale[a] - log_density[i]
                if log > -LEAST_LOG and i != row:
                    excess = math.exp(min(log, LARGEST_LOG)) - 1.0
                    for b, w in enumerate(fractions):
                        sums[a, b] += weight[i] * (math.log1p(w * excess) - without[b])
        for a in range(len(widths)):
            gains[k, a] = (sums[a] + (every - weight[row]) * without).max()
    return gains


@nb.njit(**_KERNEL)
def weighed(v: Any, log_density: Any, weight: Any, mean: Any, factor: Any, fraction: float) -> Any:
    """Sums over the events of the weight a Gaussian is responsible for, of it times v - mean, and times the outer square of that.

    ``factor`` (d, d): the lower triangular factor of the covariance; shapes (), (d,), (d, d).
    """
    n, d = v.shape
    scale = 0.5 * d * math.log(2 * math.pi)
    for j in range(d):
        scale += math.log(factor[j, j])
    total, first, second = 0.0, np.zeros(d), np.zeros((d, d))
    moved, z = np.empty(d), np.empty(d)
    for i in range(n):
        distance = 0.0
        for j in range(d):
            moved[j] = v[i, j] - mean[j]
            rest = moved[j]
            for k in range(j):
                rest -= factor[j, k] * z[k]
            z[j] = rest / factor[j, j]
            distance += z[j] ** 2
        log = -0.5 * distance - scale - log_density[i]
        if log > -LEAST_LOG:
            odds = fraction * math.exp(min(log, LARGEST_LOG))
            share = weight[i] * odds / (odds + 1.0 - fraction)
            total += share
            for j in range(d):
                first[j] += share * moved[j]
                for k in range(j + 1):
                    second[j, k] += share * moved[j] * moved[k]
    for j in range(d):
        for k in range(j):
            second[k, j] = second[j, k]
    return total, first, second


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def slope_in(w: float, excess: Any, weight: Any) -> float:
    """The slope of the sum of weight ln(1 + w excess) in w."""
    out = 0.0
    for i in range(len(excess)):
        out += weight[i] * excess[i] / (1.0 + w * excess[i])
    return out
