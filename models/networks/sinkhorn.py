"""The debiased Sinkhorn divergence between two weighted clouds of points, and its gradient (1810.08278)."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from ...errors import FitError
from .sinkhorn_kernels import slopes, solved


def _schedule(reach: float, blur: float, scaling: float) -> list[float]:
    """Temperatures eps = length^2 from the size of the clouds down to ``blur`` by factors ``scaling`` in length."""
    steps = max(0, math.ceil(math.log(blur / max(reach, blur)) / math.log(scaling)))
    return [max(reach * scaling**k, blur) ** 2 for k in range(steps)] + [blur**2]


def _logarithms(points: Any, weight: Any) -> Any:
    """Of the normalised weights, (n,); those of weight 0 have -inf."""
    import torch

    even = torch.full((len(points),), 1.0 / len(points), dtype=points.dtype)
    return torch.log(even if weight is None else (weight / weight.sum()).to(points.dtype))


@cache
def _divergence() -> Any:
    """The differentiable function of (x, y, ln a, ln b, blur, scaling, polish)."""
    import torch

    class Divergence(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, y: Any, log_a: Any, log_b: Any, how: tuple[float, float, int]) -> Any:
            p, q, a, b = (t.detach().contiguous().numpy() for t in (x, y, log_a, log_b))
            both = np.concatenate([p, q])
            blur, scaling, polish = how
            if not np.isfinite(both).all():
                raise FitError(
                    "points of a Sinkhorn divergence are not finite; lower learning_rate or check the inputs"
                )
            temperatures = _schedule(float(np.linalg.norm(np.ptp(both, axis=0))), blur, scaling)
            found = solved(p, q, a, b, np.array(temperatures + temperatures[-1:] * polish))
            ctx.given, ctx.potentials, ctx.eps = (p, q, a, b), found[:4], temperatures[-1]
            value = np.exp(a) @ (found[4] - found[6]) + np.exp(b) @ (found[5] - found[7])
            return torch.tensor(value, dtype=x.dtype)

        @staticmethod
        def backward(ctx: Any, weight: Any) -> Any:
            if torch.is_grad_enabled():  # asked for with create_graph
                raise RuntimeError("the Sinkhorn divergence cannot be differentiated twice")
            x, y, log_a, log_b = ctx.given
            to_x, to_y = slopes(x, y, log_a, log_b, ctx.potentials, ctx.eps)
            return weight * torch.from_numpy(to_x), weight * torch.from_numpy(to_y), None, None, None

    return Divergence.apply


def sinkhorn_divergence(
    x: Any, y: Any, blur: float = 0.01, scaling: float = 0.7, a: Any = None, b: Any = None, polish: int = 2
) -> Any:
    """S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 for the cost |x - y|^2, a scalar torch tensor >= 0.

    x (n, d) and y (m, d) of one precision, weights a (n,) and b (m,) >= 0 (None: equal), normalised here. In the limit blur -> 0 it is
    the squared Wasserstein distance W2^2; for a cloud and its translation it is |shift|^2 at every ``blur``. ``blur`` is
    the length below which points are not told apart, ``scaling`` the factor by which the temperature's length falls
    from the clouds' size to it, ``polish`` the number of steps after that at the last temperature. The potentials are
    found without gradient and enter the last step as constants: the gradient is that of the optimum (1810.08278, sect. 3),
    in x and y alone. Raises `FitError` for points that are not finite.
    """
    return _divergence()(x, y, _logarithms(x, a), _logarithms(y, b), (blur, scaling, polish))
