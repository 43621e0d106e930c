"""Rounding in training is that of the fixed-point types, and its gradient is the straight-through estimator's."""

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.fixed import Fixed
from elsewhere.models.networks.quantised import Types, quantised_layers, rounded

KINDS = [
    Fixed(8, 6, True, "RND_CONV", "SAT"), Fixed(6, 3, True, "TRN", "SAT"), Fixed(10, 6, False, "RND_CONV", "SAT"),
    Fixed(5, 7, True, "RND_CONV", "SAT"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rounded_is_the_type(kind):
    codes = (
        np.arange(4 * kind.low - 8, 4 * kind.high + 8) / 4.0
    )  # every value, ties, quarters, beyond both ends
    values = np.concatenate([codes * kind.step, np.random.default_rng(0).normal(0, 20 * kind.step, 1000)])
    values = values.astype(np.float32).astype(np.float64)
    wanted = kind.to_float(kind.from_float(values))
    found = rounded(torch.from_numpy(values).float(), kind).double().numpy()
    np.testing.assert_array_equal(found, wanted)


def test_gradients_pass_inside_the_range_alone():
    kind = Fixed(4, 2, True, "RND_CONV", "SAT")  # -2 to 1.75
    value = torch.tensor([-3.0, -1.9, 0.1, 1.7, 1.9, 5.0], requires_grad=True)
    (3 * rounded(value, kind)).sum().backward()
    assert value.grad.tolist() == [0.0, 3.0, 3.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("text", ["fixed<8,6>", "fixed<8,6,RND,SAT>", "fixed<8,6,RND_CONV,WRAP>"])
def test_types_without_a_gradient_are_refused(text):
    with pytest.raises(ConfigError, match=r"types.weight: .* cannot be trained for"):
        Types(weight=text)
    with pytest.raises(ConfigError, match="cannot be trained for"):
        rounded(torch.zeros(1), Fixed.parse(text))
    with pytest.raises(ConfigError, match=r"types.input: 'float32' is not a fixed-point type"):
        Types(input="float32")


def test_sums_that_float32_cannot_hold_are_refused():
    Types().check([57, 28, 15, 8])
    with pytest.raises(
        ConfigError, match=r"a layer of 57 inputs .* adds up numbers of 30 bits; float32 holds 24"
    ):
        Types(weight="fixed<16,3,RND_CONV,SAT>").check([57, 28])


def test_layers_in_types_are_sums_of_integers():
    rng = np.random.default_rng(3)
    types = Types()
    layers = [
        (rng.normal(0, 1, (6, 5)), rng.normal(0, 1, 6)),
        (rng.normal(0, 1, (3, 6)), rng.normal(0, 1, 3)),
    ]
    x = rng.normal(0, 10, (500, 5))

    def cast(value, name):
        kind = types.of(name)
        return kind.to_float(kind.from_float(value))

    h = cast(x, "input")
    for (w, b), name in zip(layers, ("activation", "linear"), strict=True):
        h = h @ cast(w, "weight").T + cast(b, "bias")
        h = cast(np.maximum(h, 0) if name == "activation" else h, name)
    tensors = [tuple(torch.from_numpy(v).float() for v in pair) for pair in layers]
    found = quantised_layers(torch.from_numpy(x).float(), tensors, types)
    np.testing.assert_array_equal(found.double().numpy(), h)
    plain = quantised_layers(
        torch.from_numpy(x), [tuple(map(torch.from_numpy, p)) for p in layers], None
    ).numpy()
    assert np.abs(plain - h).max() > 0.1
