"""CICADA's networks: a convolutional autoencoder as the teacher, and a dense student with folded batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .quantised import FixedTypes, Pruner, masked, rounded

#: Factor of the logarithm in a target, and the type that a target is clipped and rounded to: ufixed<16,8>.
SCALE = 32.0
STEP, TOP = 2.0**-8, 256.0 - 2.0**-8
#: Added to a variance before its root is taken.
_EPSILON = 1e-3
#: Where batch normalisation begins: outputs of about half the range, and folded weights above a step of their types.
_GAIN = 8.0
#: Size of a kernel's first weight: with it a region of 300 steps does not yet fill the type of an activation.
_PEAK = 0.2
#: Events whose errors or sums are computed at once.
ROWS = 4096


@dataclass(frozen=True)
class StudentTypes(FixedTypes):
    """Types of the student's numbers: of version 1.1.2 of CICADA, and for the convolution of 2.1.2."""

    input: str = "ufixed<10,10,RND_CONV,SAT>"
    kernel: str = "fixed<12,4,RND_CONV,SAT>"
    weight: str = "fixed<8,2,RND_CONV,SAT>"
    bias: str = "fixed<8,4,RND_CONV,SAT>"
    last: str = "fixed<12,4,RND_CONV,SAT>"
    activation: str = "ufixed<10,6,RND_CONV,SAT>"
    score: str = "ufixed<16,8,RND_CONV,SAT>"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("kernel", "weight", "bias"):
            self.require_inside(name, "last")


def target(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the student learns, (n,): 32 ln(mean squared error), rounded to 1/256 and clipped to [0, 256 - 1/256].

    Errors below 1 give 0, and so does an error of 0, whose logarithm is never taken.
    """
    return np.clip(np.rint(SCALE * np.log(np.maximum(error, 1.0)) / STEP) * STEP, 0.0, TOP)


def _initialise(module: Any, seed: int) -> None:
    """Weights from one seeded generator: uniform in +- sqrt(6 / inputs of a unit) (1502.01852); vectors zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(_GAIN if name in ("gain", "shift") else 0.0)
                continue
            bound = math.sqrt(6.0 / math.prod(parameter.shape[1:]))
            torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)


def build_teacher(config: Mapping[str, Any]) -> Any:
    """The autoencoder of images (n, phi * eta) to images (n, phi * eta).

    ``config``: ``shape`` (phi, eta; even numbers), ``filters`` of the two kinds of convolution, ``latent``, ``upsample``
    ("nearest" or "transposed"), ``seed``.
    """
    import torch
    from torch.nn import AvgPool2d, Conv2d, ConvTranspose2d, Flatten, Linear, ReLU, Unflatten, Upsample
    from torch.nn.utils import skip_init

    (phi, eta), (first, second) = config["shape"], config["filters"]
    small = (second, phi // 2, eta // 2)

    def conv(inputs: int, outputs: int) -> Any:
        return skip_init(Conv2d, inputs, outputs, 3, padding=1)

    up: Any = (
        Upsample(scale_factor=2, mode="nearest")
        if config["upsample"] == "nearest"
        else skip_init(ConvTranspose2d, second, second, 3, stride=2, padding=1, output_padding=1)
    )
    network: Any = torch.nn.Sequential(
        Unflatten(1, (1, phi, eta)), conv(1, first), ReLU(), AvgPool2d(2), conv(first, second), ReLU(), Flatten(),
        skip_init(Linear, math.prod(small), config["latent"]), ReLU(),
        skip_init(Linear, config["latent"], math.prod(small)), ReLU(), Unflatten(1, small),
        conv(second, second), ReLU(), up, conv(second, first), ReLU(), conv(first, 1), ReLU(), Flatten(),
    )  # fmt: skip
    _initialise(network, int(config["seed"]))
    return network.to(memory_format=torch.channels_last)  # a third faster on a processor


def teacher_loss(network: Any, x: Any, y: Any) -> Any:  # noqa: ARG001
    """Mean squared error of an image, shape (n,)."""
    return (network(x) - x).square().mean(dim=1)


def teacher_errors(network: Any, x: Any) -> NDArray[np.float64]:
    """`teacher_loss` of x (n, d), on the device where both are, in batches of exactly `ROWS`, the last filled with zeros."""
    import torch

    parts = []
    with torch.inference_mode():
        for start in range(0, len(x), ROWS):
            rows = x[start : start + ROWS]
            full = torch.zeros((ROWS, x.shape[1]), dtype=x.dtype, device=x.device)
            full[: len(rows)] = rows
            parts.append(teacher_loss(network, full, None)[: len(rows)].double().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def build_student(config: Mapping[str, Any]) -> Any:
    """d - hidden - 1 with batch normalisation folded into the first layer; version 2: 2 x 2 convolutions of stride 2 before it.

    ``config``: ``shape`` (phi, eta), ``kernels`` (number of convolutions, 0: none), ``hidden``, ``dropout`` (after the
    convolution, after the hidden layer), ``types`` (of `StudentTypes`, or None), ``level`` (a typical target), ``seed``, and
    perhaps ``pruned`` (part of the dense layer's weights that ends at zero).
    """
    import torch
    from torch.nn import Conv2d, Linear, Parameter
    from torch.nn.utils import skip_init

    network: Any = torch.nn.Module()
    (phi, eta), kernels, hidden = config["shape"], int(config["kernels"]), int(config["hidden"])
    inputs = phi * eta if kernels == 0 else kernels * (phi // 2) * (eta // 2)
    conv: Any = skip_init(Conv2d, 1, kernels, 2, stride=2, bias=False) if kernels else None
    network.conv = conv
    network.dense = skip_init(Linear, inputs, hidden, bias=False)
    network.gain, network.shift = Parameter(torch.empty(hidden)), Parameter(torch.empty(hidden))
    last: Any = skip_init(Linear, hidden, 1, bias=False)
    network.last = last
    _initialise(network, int(config["seed"]))
    with torch.no_grad():
        if conv is not None:
            conv.weight.copy_(_peaks(kernels))
        # Half of each sign around a mean that gives ``level`` at the hidden units' first mean.
        last.weight.mul_(0.2).add_(float(config["level"]) / (_GAIN * hidden))
    network.shape, network.rates = (phi, eta), tuple(config["dropout"])
    network.types = None if config["types"] is None else StudentTypes(**config["types"])
    network.statistics, network.mask = None, None
    if config.get("pruned"):
        network.mask = Parameter(torch.ones(hidden, inputs))
        network.at_step = Pruner(config["pruned"], [network.dense.weight], [network.mask]).at_step
    return network


def _peaks(kernels: int) -> Any:
    """First kernels (k, 1, 2, 2): one region, another in each kernel, minus a third of each of the others.

    Usual images are even, and what a sum of 2 x 2 regions tells of a single hot one the dense layer can see without it.
    """
    import torch

    weight = torch.full((kernels, 4), -_PEAK / 3)
    weight[torch.arange(kernels), torch.arange(kernels) % 4] = _PEAK
    return weight.view(kernels, 1, 2, 2)


def cast(network: Any, value: Any, name: str) -> Any:
    """A number of the student in the type ``name``; as it is without types."""
    return value if network.types is None else rounded(value, network.types.of(name))


def student_inputs(network: Any, x: Any) -> Any:
    """What the dense layer gets from images x (n, d): themselves, or the convolutions of them."""
    import torch

    if network.conv is None:
        return x
    image = x.reshape(len(x), 1, *network.shape)
    made = torch.nn.functional.conv2d(image, cast(network, network.conv.weight, "kernel"), stride=2)
    return cast(network, torch.relu(made), "activation").flatten(1)


def _dropped(value: Any, rate: float, generator: Any) -> Any:
    import torch

    if generator is None or rate == 0:
        return value
    kept = torch.rand(value.shape, generator=generator, device=value.device) >= rate
    return value * kept / (1 - rate)


def dense_weight(network: Any) -> Any:
    """Weight (hidden, inputs) of the dense layer before normalisation, without what is pruned."""
    weight = network.dense.weight
    return weight if network.mask is None else masked(weight, network.mask)


def folded(network: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
    """Weight (hidden, inputs) and bias (hidden,) of the dense layer with batch normalisation in it, in their types."""
    factor = network.gain / (variance + _EPSILON).sqrt()
    weight = cast(network, dense_weight(network) * factor[:, None], "weight")
    return weight, cast(network, network.shift - mean * factor, "bias")


def student_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:
    """|output - target| (n,), 0 where both lie at or beyond the same end of the target's range.

    Training normalises with the batch; the running mean, which the validation uses, follows it.
    """
    import torch

    training = network.training
    inputs = _dropped(student_inputs(network, x), network.rates[0], generator if training else None)
    if training:
        raw = torch.nn.functional.linear(inputs, dense_weight(network))
        mean, variance = raw.mean(dim=0), raw.var(dim=0, unbiased=False)
        now = torch.stack([mean, variance]).detach()
        network.statistics = now if network.statistics is None else 0.99 * network.statistics + 0.01 * now
    else:
        mean, variance = network.statistics
    weight, bias = folded(network, mean, variance)
    hidden = cast(network, torch.relu(torch.nn.functional.linear(inputs, weight, bias)), "activation")
    hidden = _dropped(hidden, network.rates[1], generator if training else None)
    out = torch.nn.functional.linear(hidden, cast(network, network.last.weight, "last"))[:, 0]
    beyond = ((y <= 0) & (out < 0)) | ((y >= TOP) & (out > TOP))
    return torch.where(beyond, torch.zeros_like(out), (out - y).abs())


def block_matrix(kernel: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Convolutions (k, 1, 2, 2) of stride 2 on an image (phi, eta) as one matrix (k * phi/2 * eta/2, phi * eta).

    Its four numbers a row are the kernel's; rows in the order in which the convolution's output is flattened.
    """
    phi, eta = shape
    out = np.zeros((len(kernel), phi // 2, eta // 2, phi, eta), kernel.dtype)
    for p in range(phi // 2):
        for e in range(eta // 2):
            out[:, p, e, 2 * p : 2 * p + 2, 2 * e : 2 * e + 2] = kernel[:, 0]
    return out.reshape(-1, phi * eta)


def student_layers(network: Any, x: Any) -> list[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
    """The trained student as dense layers (weight, bias) with a ReLU after each; normalised by the mean of x (n, d), in double.

    ``x``: what it was trained on, on the processor.
    """
    import torch

    network = network.double().cpu()
    with torch.inference_mode():
        parts = [student_inputs(network, x[i : i + ROWS].double()) for i in range(0, len(x), ROWS)]
        raw = torch.cat([torch.nn.functional.linear(p, dense_weight(network)) for p in parts])
        weight, bias = folded(network, raw.mean(dim=0), raw.var(dim=0, unbiased=False))
        last = cast(network, network.last.weight, "last")
        layers: list[tuple[Any, Any]] = [(weight.numpy(), bias.numpy()), (last.numpy(), None)]
        if network.conv is not None:
            kernel = cast(network, network.conv.weight, "kernel").numpy()
            layers.insert(0, (block_matrix(kernel, network.shape), None))
    return layers
