"""Fixed-point numbers in training: forward as the firmware computes them, backward as if they were not rounded.

The straight-through estimator (1308.3432): the gradient passes where the number lies in the type's range, and is 0 where it is
clipped. Bit widths are settings here; HGQ (2405.00645) learns one for every weight. Weights that firmware is to do without are
taken out in training as well (`Pruner`), which costs less of a narrow network than pruning it afterwards (2102.11289).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any

from ...errors import ConfigError
from ...fixed import Fixed

#: Bits that a float32 sum holds exactly.
EXACT = 24


#: Parts of the steps after which the sparsity begins to rise, and is full: from there on the masks are fixed.
_BEGIN, _END = 0.1, 0.6


@cache
def _function() -> Any:
    import torch

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Any, kind: Fixed) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            scaled = value * 2.0**kind.fraction
            whole = torch.round(scaled) if kind.quantisation == "RND_CONV" else torch.floor(scaled)
            ctx.save_for_backward((whole >= kind.low) & (whole <= kind.high))
            return whole.clamp(kind.low, kind.high) * kind.step

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * ctx.saved_tensors[0], None

    return Rounded


def rounded(value: Any, kind: Fixed) -> Any:
    """``value`` in the type ``kind``, exactly; the gradient is 1 inside its range and 0 outside.

    Raises `ConfigError` for a type that wraps, or rounds in another way than TRN or RND_CONV: no gradient belongs to those.
    """
    require_trainable(kind)
    return _function().apply(value, kind)


def require_trainable(kind: Fixed) -> None:
    """Raise `ConfigError` for a type that no gradient belongs to."""
    if kind.overflow != "SAT" or kind.quantisation not in ("TRN", "RND_CONV"):
        raise ConfigError(f"{kind} cannot be trained for; use RND_CONV or TRN, and SAT")


@cache
def _masking() -> Any:
    import torch

    class Masked(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Any, mask: Any) -> Any:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
            return value * mask

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient, torch.zeros_like(gradient)

    return Masked


def masked(value: Any, mask: Any) -> Any:
    """``value`` times ``mask`` of the same shape; the gradient is 1 for every value, the mask's is 0.

    So a weight that was taken out goes on learning, and comes back where it grows while the masks are still made anew.
    """
    return _masking().apply(value, mask)


def mask_of(weight: Any, sparsity: float) -> Any:
    """Ones, and zeros at the ``sparsity`` of a matrix's smallest weights (to the nearest whole number; one weight stays)."""
    import torch

    taken = min(round(sparsity * weight.numel()), weight.numel() - 1)
    mask = torch.ones(weight.numel(), device=weight.device)
    mask[torch.argsort(weight.detach().abs().flatten(), stable=True)[:taken]] = 0.0
    return mask.view(weight.shape)


def sparsity_at(sparsity: float, step: int, steps: int) -> float:
    """The sparsity in step ``step``, counted from 0, of ``steps``: rises as 1 - (1 - t)^3 (1710.01878), then ``sparsity``."""
    done = ((step + 1) / steps - _BEGIN) / (_END - _BEGIN)
    return sparsity * (1.0 - (1.0 - min(max(done, 0.0), 1.0)) ** 3)


class Pruner:
    """Masks of ``weights`` in a training whose final part has ``sparsity`` zeros in each of them (1710.01878).

    The same sparsity in every layer, as published: sizes of weights are not comparable between layers, whose inputs differ in
    size, and a ranking of all together can leave a layer with none. Made anew in each step while the sparsity rises (theirs:
    every hundred steps), from the weights of that step alone. ``masks``: parameters of zero gradient, which Adam leaves as they
    are, so that they are in checkpoint and result as all that a training holds.
    """

    def __init__(self, sparsity: float, weights: Sequence[Any], masks: Sequence[Any]) -> None:
        self.sparsity, self.weights, self.masks = sparsity, weights, masks

    def at_step(self, step: int, steps: int) -> None:
        """Bring the masks to step ``step`` of ``steps``."""
        import torch

        now = sparsity_at(self.sparsity, step, steps)
        if now <= (sparsity_at(self.sparsity, step - 1, steps) if step else 0.0):
            return
        with torch.no_grad():
            for weight, mask in zip(self.weights, self.masks, strict=True):
                mask.copy_(mask_of(weight, now))


#: A training asks for the same few types in every step.
_parsed = cache(Fixed.parse)


@dataclass(frozen=True)
class FixedTypes:
    """Fields that name fixed-point types, in the grammar of `Fixed`, which a network is trained in."""

    def __post_init__(self) -> None:
        for one in fields(self):
            try:
                require_trainable(self.of(one.name))
            except ConfigError as error:
                raise ConfigError(f"types.{one.name}: {error}") from None

    def of(self, name: str) -> Fixed:
        """The parsed type of a field."""
        return _parsed(getattr(self, name))

    def require_inside(self, name: str, around: str) -> None:
        """Raise `ConfigError` unless every number of the field ``name`` is one of ``around``, which firmware has for all."""
        kind, wide = self.of(name), self.of(around)
        ends = wide.low * wide.step <= kind.low * kind.step and kind.high * kind.step <= wide.high * wide.step
        if kind.fraction > wide.fraction or not ends:
            raise ConfigError(
                f"types.{name}: {kind} is not inside types.{around}, {wide}, which firmware has for all"
            )


@dataclass(frozen=True)
class Types(FixedTypes):
    """Types of a network's numbers, in the grammar of `Fixed`: inputs, weights, biases, after a ReLU, of a last layer, the score.

    Defaults: AXOL1TL v3 and v4 (2411.19506), where weights and biases saturate because they are trained to fit, and the score
    saturates too (theirs wraps).
    """

    input: str = "fixed<8,6,RND_CONV,SAT>"
    weight: str = "fixed<6,3,RND_CONV,SAT>"
    bias: str = "fixed<10,7,RND_CONV,SAT>"
    activation: str = "ufixed<10,6,RND_CONV,SAT>"
    linear: str = "fixed<10,7,RND_CONV,SAT>"
    score: str = "ufixed<18,14,RND_CONV,SAT>"

    def check(self, widths: Sequence[int]) -> None:
        """Raise `ConfigError` where a layer's sum could be too long for float32, in which it is trained and scored."""
        source, weight = self.of("input"), self.of("weight")
        for inputs, _ in pairwise(widths):
            bits = source.width + weight.width + max(0, inputs - 1).bit_length()
            if bits > EXACT + 1:  # one of the signs is counted twice
                raise ConfigError(
                    f"a layer of {inputs} inputs in {source} and weights in {weight} adds up numbers of {bits} bits; float32 "
                    f"holds {EXACT}: narrow the types"
                )
            source = self.of("activation")


def typed_layer(
    x: Any, weight: Any, bias: Any, kinds: tuple[Fixed, Fixed, Fixed] | None, *, relu: bool = False
) -> Any:
    """One dense layer of x (n, d), with a ReLU where asked for; ``kinds`` of weight, bias and result, None: plain floats."""
    import torch

    if kinds is not None:
        weight, bias = rounded(weight, kinds[0]), rounded(bias, kinds[1])
    x = torch.nn.functional.linear(x, weight, bias)
    x = torch.relu(x) if relu else x
    return x if kinds is None else rounded(x, kinds[2])


def quantised_layers(x: Any, layers: Sequence[tuple[Any, Any]], types: Types | None) -> Any:
    """A dense network x (n, d) through ``layers`` of (weight (out, in), bias (out,)), ReLU between them, in ``types``.

    None: plain floats. The last layer's result is in ``types.linear``.
    """
    if types is not None:
        x = rounded(x, types.of("input"))
    for i, (weight, bias) in enumerate(layers):
        last, kinds = i == len(layers) - 1, None
        if types is not None:
            kinds = types.of("weight"), types.of("bias"), types.of("linear" if last else "activation")
        x = typed_layer(x, weight, bias, kinds, relu=not last)
    return x
