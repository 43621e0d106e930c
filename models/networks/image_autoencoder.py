"""The convolutional autoencoder of jet images with its code on a sphere, whose energy is normalised by `normalised` (2206.14225)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .dense import initialise
from .normalised import SHORT, SLOPE, Halves, energy, ready_for_chains

#: Channels of the convolutions: encoder before and after the pooling, decoder before and after the enlargement.
_SHAPES = ((1, 8, 8), (8, 8, 8, 1), (1, 8, 8), (8, 1))
#: Layers with an activation: all convolutions but the last, all dense layers but the one that ends in the code.
_SLOPES = 10
#: Width of the dense layer on both sides of the code.
_DENSE = 100


def build_image_autoencoder(config: Mapping[str, Any]) -> Any:
    """Encoder and decoder of images, first weights from ``seed``; as a module images (n, pixels^2) to their energy (n,).

    Convolutions 3 x 3 with a learnt slope below 0: 1-8-8, largest of 2 x 2, 8-8-8-1, dense to 100 and to ``latent``; back 100, pixels
    / 2 squared, convolutions 1-8-8, bilinear enlargement, 8-1, sigmoid. (A transposed convolution of stride 1 is a convolution.)
    Every layer's matrix (outputs, inputs) is divided by its largest singular value. The last bias begins where a flat image of sum
    ``scale`` is. ``config``: ``pixels``, ``latent``, ``scale``, ``seed``; for the second training also what `ready_for_chains` reads.
    """
    import torch
    from torch.nn import Conv2d, Linear, ModuleList, ParameterList
    from torch.nn.utils import skip_init

    pixels, latent = int(config["pixels"]), int(config["latent"])
    half = (pixels // 2) ** 2

    def convolutions(channels: tuple[int, ...]) -> Any:
        return ModuleList(skip_init(Conv2d, a, b, 3, padding=1) for a, b in pairwise(channels))

    class ImageAutoencoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts: Any = ModuleList(convolutions(c) for c in _SHAPES)
            self.dense: Any = ModuleList(
                skip_init(Linear, a, b) for a, b in pairwise((half, _DENSE, latent, _DENSE, half))
            )
            self.slopes: Any = ParameterList(torch.zeros(1) for _ in range(_SLOPES))

        def halves(self, frozen: bool = False) -> Halves:
            return _halves(self, pixels, frozen)

        @staticmethod
        def inside(x: Any) -> Any:
            return x.clamp(0, 1)  # a sigmoid makes no other pixels

        def forward(self, x: Any) -> Any:
            return energy(x, self.halves())

    network: Any = ImageAutoencoder()
    initialise(network, int(config["seed"]))
    level = float(config["scale"]) / pixels**2
    with torch.no_grad():
        network.parts[3][-1].bias.fill_(math.log(level / (1 - level)))
        for slope in network.slopes:
            slope.fill_(SLOPE)
    return ready_for_chains(network, latent, config)


def normalised_layer(layer: Any) -> tuple[Any, Any]:
    """A layer's weight over the largest singular value of its matrix (outputs, inputs), and its bias."""
    import torch

    size = torch.linalg.matrix_norm(layer.weight.flatten(1), 2).clamp_min(SHORT)
    return layer.weight / size, layer.bias


def _halves(network: Any, pixels: int, frozen: bool) -> Halves:
    """Functions images (n, pixels^2) to codes (n, latent), not yet on the sphere, and back."""
    import torch
    from torch.nn.functional import conv2d, interpolate, linear, max_pool2d, prelu

    keep = (lambda t: t.detach()) if frozen else (lambda t: t)
    wide, narrow, back, last = (
        [
            (keep(w).contiguous(memory_format=torch.channels_last), keep(b))
            for w, b in map(normalised_layer, part)
        ]
        for part in network.parts
    )
    first, code, up, grid = ([keep(t) for t in normalised_layer(layer)] for layer in network.dense)
    slopes = [keep(s) for s in network.slopes]

    def convolve(x: Any, layers: Any, slope: int) -> Any:
        for i, (weight, bias) in enumerate(layers):
            x = prelu(conv2d(x, weight, bias, padding=1), slopes[slope + i])
        return x

    def encode(x: Any) -> Any:
        x = convolve(x.reshape(-1, 1, pixels, pixels), wide, 0)
        x = convolve(max_pool2d(x, 2), narrow, 2)
        return linear(prelu(linear(x.flatten(1), *first), slopes[5]), *code)

    def decode(z: Any) -> Any:
        x = prelu(linear(prelu(linear(z, *up), slopes[6]), *grid), slopes[7])
        x = convolve(x.reshape(-1, 1, pixels // 2, pixels // 2), back, 8)
        x = interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        weight, bias = last[0]
        return torch.sigmoid(conv2d(x, weight, bias, padding=1)).flatten(1)

    return encode, decode
