"""Entropic optimal transport between two small clouds in compiled loops: potentials, their last step and its slopes.

Four problems are solved side by side: x to y, y to x, and each cloud to itself; the first two use one another's potentials. Points that
weigh nothing have a logarithm of -inf and are nobody's goal.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np

_KERNEL: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}
#: Of exp(u) - 1 in -0.68 < u <= 0, to double precision; exponents below `_LOWEST` count as that.
_EXP = tuple(1.0 / math.factorial(k) for k in range(14))
_LOWEST = -87.0


@nb.njit(**_KERNEL)
def _costs(near: Any, far: Any, out: Any) -> None:
    """Squared distances (k, l), from differences: the expanded form loses the small ones to rounding."""
    for i in range(len(near)):
        row = out[i]
        row[:] = near.dtype.type(0)
        for d in range(near.shape[1]):
            place, column = near[i, d], far[:, d]
            for j in range(len(row)):
                row[j] += (place - column[j]) ** 2


@nb.njit(**_KERNEL)
def _shares(cost: Any, potential: Any, inverse: Any, out: Any) -> Any:
    """exp of potential - cost * inverse less its largest value into ``out`` (l,); that value, and the sum of ``out``."""
    t = out.dtype.type
    top = potential[0] - cost[0] * inverse
    for j in range(len(out)):
        out[j] = potential[j] - cost[j] * inverse
        top = max(top, out[j])
    total = t(0)
    for j in range(len(out)):
        u = max(out[j] - top, t(_LOWEST)) * t(1 / 128)
        d = t(_EXP[11]) + u * (t(_EXP[12]) + u * t(_EXP[13]))
        d = t(_EXP[8]) + u * (t(_EXP[9]) + u * (t(_EXP[10]) + u * d))
        d = t(_EXP[5]) + u * (t(_EXP[6]) + u * (t(_EXP[7]) + u * d))
        d = u * (t(1) + u * (t(_EXP[2]) + u * (t(_EXP[3]) + u * (t(_EXP[4]) + u * d))))
        for _ in range(7):  # exp(2 u) - 1 of exp(u) - 1
            d = d * (t(2) + d)
        out[j] = t(1) + d
        total += out[j]
    return top, total


@nb.njit(**_KERNEL)
def _softmin(cost: Any, goal: Any, eps: Any, spare: Any, out: Any) -> None:
    """-eps ln sum_j exp(goal_j - cost_ij / eps) of every near point i, (k,)."""
    inverse = out.dtype.type(1) / eps
    for i in range(len(out)):
        top, total = _shares(cost[i], goal, inverse, spare)
        out[i] = -eps * (top + np.log(total))


@nb.njit(**_KERNEL)
def solved(x: Any, y: Any, log_a: Any, log_b: Any, temperatures: Any) -> Any:
    """Potentials of x to y (n,), y to x (m,), x to x (n,) and y to y (m,) after a step at every temperature; and the last step's.

    x (n, d), y (m, d), logarithms of their weights (n,), (m,). All potentials change at once, to the mean of old and new: no cloud goes
    first. The second four are the softmin of the first at the last temperature, of which the divergence is made.
    """
    t = x.dtype.type
    n, m = len(x), len(y)
    there, back = np.empty((n, m), x.dtype), np.empty((m, n), x.dtype)
    own_x, own_y = np.empty((n, n), x.dtype), np.empty((m, m), x.dtype)
    _costs(x, y, there)
    _costs(y, x, back)
    _costs(x, x, own_x)
    _costs(y, y, own_y)
    f, g, p, q = np.zeros(n, x.dtype), np.zeros(m, x.dtype), np.zeros(n, x.dtype), np.zeros(m, x.dtype)
    f1, g1, p1, q1 = f.copy(), g.copy(), p.copy(), q.copy()
    spare_x, spare_y, half = np.empty(n, x.dtype), np.empty(m, x.dtype), t(0.5)
    for step in range(len(temperatures) + 1):
        last = step == len(temperatures)
        eps = t(temperatures[step - 1 if last else step])
        _softmin(there, log_b + g / eps, eps, spare_y, f1)
        _softmin(back, log_a + f / eps, eps, spare_x, g1)
        _softmin(own_x, log_a + p / eps, eps, spare_x, p1)
        _softmin(own_y, log_b + q / eps, eps, spare_y, q1)
        if not last:
            f, g, p, q = half * (f + f1), half * (g + g1), half * (p + p1), half * (q + q1)
    return f, g, p, q, f1, g1, p1, q1


@nb.njit(**_KERNEL)
def _pull(near: Any, far: Any, goal: Any, eps: Any, weight: Any, out: Any) -> None:
    """Add the slopes of sum_i weight_i softmin_i in the near points, all else held."""
    t = near.dtype.type
    cost, share = np.empty((len(near), len(far)), near.dtype), np.empty(len(far), near.dtype)
    _costs(near, far, cost)
    for i in range(len(near)):
        _, total = _shares(cost[i], goal, t(1) / eps, share)
        scale = t(2) * weight[i] / total
        for d in range(near.shape[1]):
            place, column, here = near[i, d], far[:, d], t(0)
            for j in range(len(far)):
                here += share[j] * (place - column[j])
            out[i, d] += scale * here


@nb.njit(**_KERNEL)
def slopes(x: Any, y: Any, log_a: Any, log_b: Any, potentials: Any, eps: float) -> Any:
    """Slopes of the divergence in x (n, d) and y (m, d), ``potentials`` the first four of `solved`.

    Those of the optimum: a point's own potential changes by its cost, the others' are held.
    """
    f, g, p, q = potentials
    e, a, b = x.dtype.type(eps), np.exp(log_a), np.exp(log_b)
    to_x, to_y = np.zeros_like(x), np.zeros_like(y)
    _pull(x, y, log_b + g / e, e, a, to_x)
    _pull(y, x, log_a + f / e, e, b, to_y)
    _pull(x, x, log_a + p / e, e, -a, to_x)
    _pull(y, y, log_b + q / e, e, -b, to_y)
    return to_x, to_y
