"""The debiased Sinkhorn divergence between two weighted clouds of points, and its gradient (1810.08278)."""

from __future__ import annotations

import math
from typing import Any


def _softmin(epsilon: float, cost: Any, potential: Any) -> Any:
    """-eps ln sum_j exp(potential_j - cost_ij / eps) of four problems at once, (4, k) for cost (4, k, k)."""
    return -epsilon * (potential[:, None, :] - cost / epsilon).logsumexp(dim=2)


def _cost(x: Any, y: Any) -> Any:
    """Squared distances (4, k, k) from differences: the expanded form loses the small ones to rounding."""
    return ((x[:, :, None, :] - y[:, None, :, :]) ** 2).sum(dim=3)


def _padded(points: Any, weight: Any, rows: int) -> tuple[Any, Any]:
    """Points (rows, d) and the logarithms of their normalised weights (rows,); rows that pad have weight 0."""
    import torch

    n = len(points)
    even = torch.full((n,), 1.0 / n, dtype=points.dtype)
    logs = torch.log(even if weight is None else weight / weight.sum())
    filled = torch.cat([points, points.new_zeros(rows - n, points.shape[1])])
    return filled, torch.cat([logs, logs.new_full((rows - n,), -math.inf)])


def _schedule(reach: float, blur: float, scaling: float) -> list[float]:
    """Temperatures eps = length^2 from the size of the clouds down to ``blur`` by factors ``scaling`` in length."""
    steps = max(0, math.ceil(math.log(blur / max(reach, blur)) / math.log(scaling)))
    return [max(reach * scaling**k, blur) ** 2 for k in range(steps)] + [blur**2]


def sinkhorn_divergence(
    x: Any, y: Any, blur: float = 0.01, scaling: float = 0.7, a: Any = None, b: Any = None, polish: int = 2
) -> Any:
    """S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 for the cost |x - y|^2, a scalar torch tensor >= 0.

    x (n, d) and y (m, d), weights a (n,) and b (m,) >= 0 (None: equal), normalised here. In the limit blur -> 0 it is
    the squared Wasserstein distance W2^2; for a cloud and its translation it is |shift|^2 at every ``blur``. ``blur`` is
    the length below which points are not told apart, ``scaling`` the factor by which the temperature's length falls
    from the clouds' size to it, ``polish`` the number of steps after that at the last temperature. The potentials are
    found without gradient and enter the last step as constants: the gradient is that of the optimum (1810.08278, sect. 3).
    """
    import torch

    rows = max(len(x), len(y))
    (x_all, la), (y_all, lb) = _padded(x, a, rows), _padded(y, b, rows)
    with torch.no_grad():
        both = torch.cat([x, y])
        reach = float((both.amax(dim=0) - both.amin(dim=0)).norm())
        temperatures = _schedule(reach, blur, scaling)
        # the problems x to y, y to x, x to itself and y to itself; the first two use one another's potentials
        near, far = torch.stack([x_all, y_all, x_all, y_all]), torch.stack([y_all, x_all, x_all, y_all])
        logs, cost = torch.stack([lb, la, la, lb]), _cost(near, far)
        other = torch.tensor([1, 0, 2, 3])
        potential = torch.zeros_like(logs)
        for eps in temperatures + temperatures[-1:] * polish:
            # all updates from the old potentials, and the mean of both: no cloud goes first
            potential = 0.5 * (potential + _softmin(eps, cost, logs + potential[other] / eps))
    eps = temperatures[-1]
    near = torch.stack([x_all, y_all, x_all, y_all])
    end = _softmin(eps, _cost(near, far), logs + potential[other] / eps)
    return (la.exp() * (end[0] - end[2])).sum() + (lb.exp() * (end[1] - end[3])).sum()
