"""Conditional flow matching: a velocity field that carries a normal distribution into the data (2210.02747)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

#: Frequencies of the time embedding: cos and sin of pi k t.
_FREQUENCIES = 3


def _times(t: Any) -> Any:
    """Embedding (n, 2 * _FREQUENCIES) of the time t (n,)."""
    import torch

    angles = t[:, None] * (math.pi * torch.arange(1, _FREQUENCIES + 1, dtype=t.dtype, device=t.device))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _with_divergence(linear: Sequence[Any], x: Any, t: float, c: Any) -> tuple[Any, Any]:
    """Velocity (n, d) at x (n, d) and its divergence (n,): one pass through the ``linear`` layers carries d tangents.

    d layer(x) / d x_i goes through a linear layer as x does, and through ELU times the slope of ELU.
    """
    import torch
    from torch.nn.functional import elu

    n, d = x.shape
    h = torch.cat([x, _times(torch.full((n,), t, dtype=x.dtype, device=x.device)), c], dim=1)
    tangent: Any = None
    for i, layer in enumerate(linear):
        weight = layer.weight.T
        h = h @ weight + layer.bias
        tangent = weight[:d].expand(n, -1, -1) if tangent is None else tangent @ weight
        if i < len(linear) - 1:
            tangent = tangent * torch.where(h > 0, torch.ones_like(h), h.exp())[:, None, :]
            h = elu(h)
    return h, tangent.diagonal(dim1=1, dim2=2).sum(dim=1)


def build_velocity(config: Mapping[str, Any]) -> Any:
    """A module with the face of flow_modules: velocity v(x_t, t, c), an ELU network with ``config["hidden"]`` units.

    Training: x_t = (1 - t) x_0 + t x_1 + ``sigma`` noise, x_0 normal, t uniform and stratified in the batch; the loss
    is the squared error of x_1 - x_0. Randomness comes from a generator of the module; validation uses the same
    numbers every time. Likelihood and samples: midpoint rule with ``config["steps"]`` steps, the divergence of the
    velocity exact (its Jacobian is carried through the layers).
    """
    import torch

    class Velocity(torch.nn.Module):
        #: Its random numbers come from the processor, the same on every device: no step of it can be recorded.
        draws_on_cpu = True

        def __init__(self) -> None:
            super().__init__()
            features, context = int(config["features"]), int(config["context"])
            sizes = [features + 2 * _FREQUENCIES + context, *config["hidden"], features]
            layers: list[Any] = []
            for inputs, outputs in pairwise(sizes):
                layers += [torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs), torch.nn.ELU()]
            self.layers = torch.nn.Sequential(*layers[:-1])
            self.steps = int(config["steps"])
            self.sigma, self.seed = float(config["sigma"]), int(config["seed"])
            self.generator = torch.Generator().manual_seed(self.seed)

        def velocity(self, x: Any, t: Any, c: Any) -> Any:
            return self.layers(torch.cat([x, _times(t), c], dim=1))

        def with_divergence(self, x: Any, t: float, c: Any) -> tuple[Any, Any]:
            return _with_divergence(list(self.layers)[::2], x, t, c)

        def latent(self, v: Any, c: Any) -> Any:
            """Carry v at t = 1 back to z at t = 0."""
            step, x, change = 1.0 / self.steps, v, torch.zeros_like(v[:, 0])
            for i in range(self.steps, 0, -1):
                middle = x - 0.5 * step * self.with_divergence(x, i * step, c)[0]
                velocity, divergence = self.with_divergence(middle, (i - 0.5) * step, c)
                x, change = x - step * velocity, change - step * divergence
            return x, change

        def data(self, z: Any, c: Any) -> Any:
            """Carry z at t = 0 to v at t = 1."""
            step, x, ones = 1.0 / self.steps, z, torch.ones_like(z[:, 0])
            for i in range(self.steps):
                middle = x + 0.5 * step * self.velocity(x, i * step * ones, c)
                x = x + step * self.velocity(middle, (i + 0.5) * step * ones, c)
            return x

        def loss(self, v: Any, c: Any) -> Any:
            generator = self.generator if self.training else torch.Generator().manual_seed(self.seed + 1)
            n = len(v)
            start = torch.randn(v.shape, generator=generator).to(v.device)
            t = ((torch.rand(1, generator=generator) + torch.arange(n) / n) % 1.0).to(v.device)
            between = (1 - t[:, None]) * start + t[:, None] * v
            between = between + self.sigma * torch.randn(v.shape, generator=generator).to(v.device)
            return (self.velocity(between, t, c) - (v - start)).square().sum(dim=1)

    return Velocity()
