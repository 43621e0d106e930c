"""Monotonic rational-quadratic splines (1906.04032): the transform of spline flows and of transport maps.

The map is that of ``zuko.transforms.MonotonicRQSTransform``, whose softmax over eight bins and stacks of knots take most of a flow's
training on a processor. There it is compiled (`spline_kernels`); on a GPU it is PyTorch's operations.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from .spline_kernels import SLOPE, gradients, inverses, values


def _flat(tensor: Any) -> Any:
    """As an array, one number per spline."""
    return tensor.detach().contiguous().numpy().reshape(-1)


def _rows(raw: Any) -> Any:
    """As an array, one spline per row."""
    return raw.detach().contiguous().numpy().reshape(-1, raw.shape[-1])


@cache
def _compiled() -> tuple[Any, Any]:
    """Two differentiable functions of (raw, x, bound): (y, ln dy/dx), and the inverse."""
    import torch

    class Values(torch.autograd.Function):
        @staticmethod
        def forward(raw: Any, x: Any, bound: float) -> tuple[Any, Any]:
            y, slope = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
            values(_rows(raw), _flat(x), bound, _flat(y), _flat(slope))
            return y, slope.log_()

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
            ctx.save_for_backward(*inputs[:2])
            ctx.bound = inputs[2]

        @staticmethod
        def backward(ctx: Any, to_y: Any, to_log: Any) -> tuple[Any, Any, None]:
            raw, x = ctx.saved_tensors
            return *_slopes(raw, x, to_y, to_log, ctx.bound), None

    class Inverses(torch.autograd.Function):
        @staticmethod
        def forward(raw: Any, y: Any, bound: float) -> Any:
            x = torch.empty(y.shape, dtype=y.dtype)
            inverses(_rows(raw), _flat(y), bound, _flat(x))
            return x

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(inputs[0], output)
            ctx.bound = inputs[2]

        @staticmethod
        def backward(ctx: Any, to_x: Any) -> tuple[Any, Any, None]:
            """y(x, raw) stays: dx = (dy - dy/draw draw) / (dy/dx)."""
            raw, x = ctx.saved_tensors
            _, log_slope = Values.forward(raw, x, ctx.bound)
            to_y = to_x * torch.exp(-log_slope)
            to_raw, _ = _slopes(raw, x, -to_y, torch.zeros_like(to_y), ctx.bound)
            return to_raw, to_y, None

    return Values.apply, Inverses.apply


def _slopes(raw: Any, x: Any, to_y: Any, to_log: Any, bound: float) -> tuple[Any, Any]:
    """Of a loss in ``raw`` and in ``x``."""
    import torch

    if torch.is_grad_enabled():  # asked for with create_graph
        raise RuntimeError(
            "compiled splines cannot be differentiated twice; spline_values and spline_inverses can"
        )
    to_raw, to_x = torch.empty(raw.shape, dtype=raw.dtype), torch.empty(x.shape, dtype=x.dtype)
    gradients(_rows(raw), _flat(x), _flat(to_y), _flat(to_log), bound, _rows(to_raw), _flat(to_x))
    return to_raw, to_x


@cache
def _spline_class() -> Any:
    """Made when first asked for: it is one of PyTorch's classes."""
    import torch
    from torch.distributions import Transform, constraints

    class Spline(Transform):
        domain: Any = constraints.real
        codomain: Any = constraints.real
        bijective: Any = True
        sign: Any = 1

        def __init__(self, raw: Any, bound: float) -> None:
            super().__init__()
            self.raw, self.bound, self.bins = raw, bound, (raw.shape[-1] + 1) // 3

        def _alike(self, x: Any) -> tuple[Any, Any]:
            """``raw`` and ``x`` of one shape and one precision, single or double."""
            kind = torch.promote_types(torch.promote_types(self.raw.dtype, x.dtype), torch.float32)
            shape = torch.broadcast_shapes(self.raw.shape[:-1], x.shape)
            return self.raw.to(kind).expand(*shape, -1), x.to(kind).expand(shape)

        def call_and_ladj(self, x: Any) -> tuple[Any, Any]:
            """y and ln dy/dx, of the shape of ``x``."""
            raw, x = self._alike(x)
            return _compiled()[0](raw, x, self.bound) if _compiles(x) else spline_values(raw, x, self.bound)

        def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:  # noqa: ARG002
            return self.call_and_ladj(x)[1]

        def _call(self, x: Any) -> Any:
            return self.call_and_ladj(x)[0]

        def _inverse(self, y: Any) -> Any:
            raw, y = self._alike(y)
            return _compiled()[1](raw, y, self.bound) if _compiles(y) else spline_inverses(raw, y, self.bound)

    return Spline


def _compiles(x: Any) -> bool:
    return x.device.type == "cpu"


def spline(raw: Any, bound: float) -> Any:
    """The transform from (-bound, bound) onto itself, the identity beyond, one for every entry of ``raw``'s leading axes.

    ``raw`` (..., 3 K - 1): unconstrained widths (K) and heights (K) of the bins, and slopes (K - 1) between them. On a processor it
    cannot be differentiated twice.
    """
    return _spline_class()(raw, bound)


def _bins(raw: Any, axis: int, value: Any, bound: float) -> tuple[Any, ...]:
    """Whether ``value`` lies between the bounds; start and width of its bin, the other axis' start and width, slopes at the ends."""
    import torch

    k = (raw.shape[-1] + 1) // 3
    inverse = torch.full((3 * k - 1,), -2 / math.log(SLOPE), dtype=raw.dtype, device=raw.device)
    inverse[2 * k :] *= 0.5
    sizes = (raw / (1 + raw.abs() * inverse)).exp()  # softly clipped, so no largest one need be taken off
    sums = [s.cumsum(-1) for s in (sizes[..., :k], sizes[..., k : 2 * k])]
    ends = [s * (2 * bound / s[..., -1:]) - bound for s in sums]
    index = (ends[axis][..., :-1].detach() < value[..., None]).sum(-1)
    first, last, below = index == 0, index == k - 1, (index - 1).clamp(min=0)

    def at(table: Any, where: Any) -> Any:
        return table.gather(-1, where[..., None])[..., 0]

    found: list[Any] = [(value > -bound) & (value <= bound)]
    for table in (ends[axis], ends[1 - axis]):
        start = torch.where(first, -bound, at(table, below))
        found += [start, at(table, index) - start]
    slopes = sizes[..., 2 * k :]
    left = torch.where(first, 1.0, at(slopes, below.clamp(max=k - 2)))
    return *found, left, torch.where(last, 1.0, at(slopes, index.clamp(max=k - 2)))


def spline_values(raw: Any, x: Any, bound: float) -> tuple[Any, Any]:
    """y and ln dy/dx of ``x`` (...), by PyTorch's operations; ``raw`` (..., 3 K - 1)."""
    import torch

    inside, start, width, low, height, left, right = _bins(raw, 0, x, bound)
    mean = height / width
    z = torch.where(inside, (x - start) / width, 0.0)
    both = z * (1 - z)
    below = mean + (left + right - 2 * mean) * both
    y = low + height * (mean * z**2 + left * both) / below
    slope = (2 * mean * both + left * (1 - z) ** 2 + right * z**2) * (mean / below) ** 2
    return torch.where(inside, y, x), torch.where(inside, slope.log(), 0.0)


def spline_inverses(raw: Any, y: Any, bound: float) -> Any:
    """x of ``y`` (...), by PyTorch's operations."""
    import torch

    inside, low, height, start, width, left, right = _bins(raw, 1, y, bound)
    mean = height / width
    up = torch.where(inside, y - low, 0.0)
    curve = up * (left + right - 2 * mean)
    a, b = height * (mean - left) + curve, height * left - curve
    z = 2 * mean * up / (b + (b**2 + 4 * a * mean * up).sqrt())
    return torch.where(inside, start + z * width, y)
