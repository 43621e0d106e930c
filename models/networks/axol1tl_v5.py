"""AXOL1TL's version 5 in training: a backbone in fixed-point types under VICReg, then a variational autoencoder of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...errors import ConfigError
from ..augmentations.level1 import Layout, Strength, view
from .dense import initialise
from .quantised import EXACT, FixedTypes, rounded, typed_layer
from .vicreg import projector, vicreg

#: Bounds of ln variance in training.
_LARGEST_LOG_VARIANCE = 10.0
#: Added to a variance before its root is taken.
_EPSILON = 1e-3
#: Events whose sums are computed at once.
_ROWS = 4096

#: Names in `V5Types` of a layer's weight, bias and result; what has the activation's type has a ReLU.
Kinds = tuple[str, str, str]


@dataclass(frozen=True)
class V5Types(FixedTypes):
    """Types of version 5: AXOL1TL's public firmware, layer by layer.

    ``narrow``: weights of the backbone and of the layer that leaves the latent space, ``weight``: all others; ``bias``: all but
    ``latent_bias`` (of the mean) and ``positive_bias`` (hidden layers of the decoder). Firmware has ``weight`` and ``bias`` for
    all layers, which hold the others exactly. Of its own: ``linear``, of the mean and of what the decoder makes, is as wide
    as ``difference``, so that nothing is rounded there.
    """

    input: str = "fixed<14,6,RND_CONV,SAT>"
    narrow: str = "fixed<4,1,RND_CONV,SAT>"
    weight: str = "fixed<5,2,RND_CONV,SAT>"
    bias: str = "fixed<4,1,RND_CONV,SAT>"
    latent_bias: str = "fixed<3,0,RND_CONV,SAT>"
    positive_bias: str = "ufixed<3,0,RND_CONV,SAT>"
    activation: str = "ufixed<10,6,RND_CONV,SAT>"
    linear: str = "fixed<18,11,RND_CONV,SAT>"
    difference: str = "fixed<18,11,RND_CONV,SAT>"
    score: str = "fixed<18,14,RND_CONV,SAT>"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, around in (("narrow", "weight"), ("latent_bias", "bias"), ("positive_bias", "bias")):
            self.require_inside(name, around)

    def check(self, widths: Sequence[int], kinds: Sequence[Kinds], source: str) -> None:
        """Raise `ConfigError` where a sum could be too long for float32, in which the layers are trained and scored."""
        for inputs, (weight, bias, result) in zip(widths[:-1], kinds, strict=True):
            x, w, b = self.of(source), self.of(weight), self.of(bias)
            fraction = max(x.fraction + w.fraction, b.fraction)
            largest = [max(-k.low, k.high) * 2.0**-k.fraction for k in (x, w, b)]
            if (inputs * largest[0] * largest[1] + largest[2]) * 2.0**fraction > 2**EXACT:
                raise ConfigError(
                    f"a layer of {inputs} inputs in {x} and weights in {w} adds up numbers that {EXACT} bits do not hold, which "
                    "is what float32 has: narrow the types"
                )
            source = result


def backbone_kinds(layers: int) -> list[Kinds]:
    """The types of a backbone of so many layers."""
    return [("narrow", "bias", "activation")] * layers


def autoencoder_kinds(hidden: int) -> list[Kinds]:
    """The types of an autoencoder with so many hidden layers on either side: encoder, mean, decoder, output."""
    return [
        *[("weight", "bias", "activation")] * hidden, ("weight", "latent_bias", "linear"),
        ("narrow", "positive_bias", "activation"), *[("weight", "positive_bias", "activation")] * (hidden - 1),
        ("weight", "bias", "linear"),
    ]  # fmt: skip


def through(x: Any, layers: Sequence[tuple[Any, Any]], kinds: Sequence[Kinds], types: V5Types | None) -> Any:
    """x (n, d) through ``layers`` of (weight (out, in), bias (out,)); ``types`` None: plain floats."""
    for (weight, bias), names in zip(layers, kinds, strict=True):
        fixed = None if types is None else (types.of(names[0]), types.of(names[1]), types.of(names[2]))
        x = typed_layer(x, weight, bias, fixed, relu=names[2] == "activation")
    return x


def _dense(widths: Sequence[int], *, bias: bool = True) -> Any:
    from torch.nn import Linear, ModuleList
    from torch.nn.utils import skip_init

    return ModuleList(skip_init(Linear, a, b, bias=bias) for a, b in pairwise(widths))


def _pairs(layers: Any) -> list[tuple[Any, Any]]:
    return [(layer.weight, layer.bias) for layer in layers]


def _start_inside(layers: Any, kinds: Sequence[Kinds], types: V5Types | None) -> None:
    """Weights that begin outside their type would never be given a gradient."""
    import torch

    with torch.no_grad():
        for layer, names in zip(layers, kinds, strict=True):
            if types is not None:
                kind = types.of(names[0])
                layer.weight.clamp_(kind.low * kind.step, kind.high * kind.step)


def build_backbone(config: Mapping[str, Any]) -> Any:
    """Backbone and projector, with first weights from ``seed``.

    Every layer of the backbone is normalised by its batch before its ReLU, as in the public code (``gains``, ``shifts``), which
    is part of the layer's weights and biases before they are rounded: see `folded`.
    ``config``: ``widths`` (from input to representation), ``projector`` (width), ``types`` (of `V5Types`, or None),
    ``layout``, ``strength``, ``coefficients``, ``seed``.
    """
    import torch
    from torch.nn import Parameter, ParameterList

    network: Any = torch.nn.Module()
    widths = list(config["widths"])
    network.layers = _dense(widths, bias=False)
    network.projector = projector(widths[-1], int(config["projector"]))
    network.types = None if config["types"] is None else V5Types(**config["types"])
    network.kinds = backbone_kinds(len(network.layers))
    network.layout, network.strength = Layout.from_json(config["layout"]), Strength(*config["strength"])
    network.coefficients = tuple(config["coefficients"])
    initialise(network, int(config["seed"]))
    network.gains, network.shifts = (
        ParameterList(Parameter(torch.full((n,), value)) for n in widths[1:]) for value in (1.0, 0.0)
    )
    with torch.no_grad():
        for part in network.projector:
            if isinstance(part, torch.nn.BatchNorm1d):
                part.weight.fill_(1.0)
    return network


def folded(network: Any, i: int, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Weight (out, in) and bias (out,) of layer ``i`` with the normalisation of its sums, mean and variance (out,), in it."""
    factor = network.gains[i] / (variance + _EPSILON).sqrt()
    return network.layers[i].weight * factor[:, None], network.shifts[i] - mean * factor


def represent(network: Any, x: Any) -> Any:
    """The representation h (n, width) of scaled columns x (n, d), each layer normalised by these n events."""
    import torch

    x = x if network.types is None else rounded(x, network.types.of("input"))
    for i, kinds in enumerate(network.kinds):
        sums = torch.nn.functional.linear(x, network.layers[i].weight)
        layer = folded(network, i, sums.mean(dim=0), sums.var(dim=0, unbiased=False))
        x = through(x, [layer], [kinds], network.types)
    return x


def backbone_layers(network: Any, x: Any, generator: Any) -> list[tuple[Any, Any]]:
    """The trained backbone as layers of (weight, bias), not rounded: normalised by one view of each of the events x (n, d)."""
    import torch

    with torch.inference_mode():
        parts = [view(rows, network.layout, network.strength, generator) for rows in torch.split(x, _ROWS)]
        if network.types is not None:
            parts = [rounded(p, network.types.of("input")) for p in parts]
        layers = []
        for i, kinds in enumerate(network.kinds):
            weight = network.layers[i].weight.double()
            sums = torch.cat([torch.nn.functional.linear(p.double(), weight) for p in parts])
            mean, variance = (m.float() for m in (sums.mean(dim=0), sums.var(dim=0, unbiased=False)))
            layers.append(folded(network, i, mean, variance))
            parts = [through(p, layers[-1:], [kinds], network.types) for p in parts]
    return layers


def backbone_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """VICReg of two views of a batch x (n, d), given to each of its events, (n,).

    A batch of one event, the last of an epoch perhaps, gives 0: one event has no variance.
    """
    if len(x) < 2:
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    z, other = (
        network.projector(represent(network, view(x, network.layout, network.strength, generator)))
        for _ in range(2)
    )
    return vicreg(z, other, coefficients=network.coefficients).expand(len(x))


def build_autoencoder(config: Mapping[str, Any]) -> Any:
    """Encoder, heads of mean and ln variance, and decoder, with first weights from ``seed``.

    ``config``: ``widths`` (from input to the last hidden layer), ``latent``, ``scale`` (of the squared error), ``beta``,
    ``types`` (of `V5Types`, or None), ``seed``. `layers` are the firmware's in order, the mean and not the variance among them.
    """
    import torch
    from torch.nn import Linear
    from torch.nn.utils import skip_init

    network: Any = torch.nn.Module()
    widths, latent = list(config["widths"]), int(config["latent"])
    network.layers = _dense([*widths, latent, *reversed(widths)])
    spread: Any = skip_init(Linear, widths[-1], latent)
    network.log_variance = spread
    network.hidden, network.kinds = len(widths) - 1, autoencoder_kinds(len(widths) - 1)
    network.types = None if config["types"] is None else V5Types(**config["types"])
    network.scale, network.beta = float(config["scale"]), float(config["beta"])
    initialise(network, int(config["seed"]))
    _start_inside(network.layers, network.kinds, network.types)
    with torch.no_grad():
        spread.weight.mul_(0.1)  # variances begin near 1
    return network


def autoencoder_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """scale (1 - beta) times the squared error of x (n, d) plus beta times the divergence from N(0, 1), both summed, (n,)."""
    import torch

    layers, kinds, types, split = _pairs(network.layers), network.kinds, network.types, network.hidden
    hidden = through(x, layers[:split], kinds[:split], types)
    mean = through(hidden, layers[split : split + 1], kinds[split : split + 1], types)
    log_variance = network.log_variance(hidden).clamp(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    drawn = mean + (0.5 * log_variance).exp() * noise
    drawn = drawn if types is None else rounded(drawn, types.of("linear"))
    made = through(drawn, layers[split + 1 :], kinds[split + 1 :], types)
    error = (made - x).square().sum(dim=1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return network.scale * (1 - network.beta) * error + network.beta * divergence
