"""A dense variational autoencoder: its parts, its loss, and the four numbers an event can be scored by."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .dense import initialise

#: Bounds of ln variance.
_LARGEST_LOG_VARIANCE = 10.0


def build_variational(config: Mapping[str, Any]) -> Any:
    """Encoder, heads of mean and ln variance, and decoder, with first weights from ``seed``; ReLU between layers.

    ``config``: ``widths`` (from input to the last hidden layer; the decoder mirrors them), ``latent``, ``beta``, ``seed``. As a
    module it maps x (n, d) to (n, 3): squared error summed over inputs, sum of squared means, divergence, at the mean.
    """
    import torch
    from torch.nn import Linear, ReLU, Sequential
    from torch.nn.utils import skip_init

    def dense(widths: list[int]) -> list[Any]:
        return [layer for a, b in pairwise(widths) for layer in (skip_init(Linear, a, b), ReLU())]

    widths, latent = list(config["widths"]), int(config["latent"])

    class Variational(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Sequential(*dense(widths))
            self.mean: Any = skip_init(Linear, widths[-1], latent)
            self.log_variance: Any = skip_init(Linear, widths[-1], latent)
            self.decoder = Sequential(*dense([latent, *reversed(widths)])[:-1])
            self.beta = float(config["beta"])

        def forward(self, x: Any) -> Any:
            mean, log_variance = heads(self, x)
            error = (self.decoder(mean) - x).square().sum(dim=1)
            return torch.stack([error, mean.square().sum(dim=1), divergence(mean, log_variance)], dim=1)

    network = Variational()
    initialise(network, int(config["seed"]))
    with torch.no_grad():
        network.log_variance.weight.mul_(0.1)  # variances begin near 1
    return network


def heads(network: Any, x: Any) -> tuple[Any, Any]:
    """Mean and ln variance of the latent code of x (n, d), each (n, latent)."""
    hidden = network.encoder(x)
    log_variance = network.log_variance(hidden).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
    return network.mean(hidden), log_variance


def divergence(mean: Any, log_variance: Any) -> Any:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) summed over the latent code, (n,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def variational_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """Squared error of x (n, d), averaged over inputs, at a drawn code plus beta times the divergence, (n,)."""
    import torch

    mean, log_variance = heads(network, x)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    made = network.decoder(mean + (0.5 * log_variance).exp() * noise)
    return (made - x).square().mean(dim=1) + network.beta * divergence(mean, log_variance)
