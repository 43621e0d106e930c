"""Rounding in training is that of the fixed-point types, and its gradient is the straight-through estimator's."""

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.fixed import Fixed
from elsewhere.models.networks.quantised import (
    Pruner,
    Types,
    mask_of,
    masked,
    quantised_layers,
    rounded,
    sparsity_at,
)

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


def test_a_mask_takes_out_the_smallest():
    rng = np.random.default_rng(4)
    weight = np.round(rng.normal(size=(7, 9)), 1)  # many of equal size
    for sparsity in (0.0, 0.31, 0.5, 0.9, 0.999):
        mask = mask_of(torch.from_numpy(weight), sparsity).numpy()
        taken = min(round(sparsity * 63), 62)
        assert (mask == 0).sum() == taken
        assert set(np.unique(mask)) <= {0.0, 1.0}
        if taken:
            assert np.abs(weight[mask == 0]).max() <= np.abs(weight[mask == 1]).min()


def test_gradients_pass_a_mask_and_leave_it():
    value, mask = torch.tensor([1.0, -2.0, 3.0], requires_grad=True), torch.tensor([1.0, 0.0, 1.0], requires_grad=True)  # fmt: skip
    made = masked(value, mask)
    assert made.tolist() == [1.0, 0.0, 3.0]
    (made * torch.tensor([5.0, 6.0, 7.0])).sum().backward()
    assert value.grad.tolist() == [5.0, 6.0, 7.0]
    assert mask.grad.tolist() == [0.0, 0.0, 0.0]


def test_the_sparsity_rises_as_published_and_stays():
    found = [sparsity_at(0.8, k, 1000) for k in range(1000)]
    assert found[:100] == [0.0] * 100
    assert found[599:] == [0.8] * 401
    t = (np.arange(101, 600) - 100) / 500  # 1710.01878: s_f + (s_i - s_f) (1 - t)^3 with s_i = 0
    np.testing.assert_allclose(found[100:599], 0.8 + (0.0 - 0.8) * (1 - t) ** 3, rtol=0, atol=1e-12)
    assert sparsity_at(0.8, 0, 1) == 0.8


def test_masks_follow_the_weights_until_the_sparsity_is_full():
    weight, mask = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.ones(1, 4)
    pruner = Pruner(0.5, [weight], [mask])
    for step in range(6):
        pruner.at_step(step, 10)
    assert mask.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
    for step in range(6, 10):
        pruner.at_step(step, 10)
    assert mask.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    pruner.at_step(5, 10)
    assert mask.tolist() == [[1.0, 1.0, 0.0, 0.0]]
