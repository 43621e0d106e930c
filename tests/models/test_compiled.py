"""The compiled loop of dense classifiers against plain formulas: products and slopes of every shape, gradient against autograd."""

import numpy as np
import pytest
import torch
from elsewhere.models.networks.compiled import Network, add_product, backward, forward, losses, slopes
from elsewhere.models.networks.dense import build_dense
from elsewhere.models.networks.stacked import BatchSettings, restack, unstack


def numbers(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("o", [1, 7, 8, 17])
@pytest.mark.parametrize("i", [1, 3, 4, 10])
def test_products_of_every_shape(o, i):
    rng = np.random.default_rng(10 * o + i)
    n = 21
    a, turned, b, delta = numbers(rng, o, i), numbers(rng, i, o).T, numbers(rng, i, n), numbers(rng, o, n)
    for left in (a, turned):
        c = numbers(rng, o, n)
        wanted = c + left.astype(float) @ b
        add_product(left, b, c)
        assert np.allclose(c, wanted, atol=1e-5)
    found = np.full((o, i), np.nan, np.float32)
    slopes(delta, b, found)
    assert np.allclose(found, delta.astype(float) @ b.T, atol=1e-5)


def test_loss_and_its_derivative_at_any_logit():
    """Weighted ln(1 + e^z) - y z: no logit is too large for it."""
    z = np.array([-200, -3, -1e-3, 0, 0.5, 4, 90], np.float32)
    y, weight = (np.arange(7) % 2).astype(np.float32), np.linspace(0.1, 1, 7).astype(np.float32)
    delta = np.zeros(7, np.float32)
    found = losses(z, y, weight, delta)
    exact = z.astype(float)
    assert found == pytest.approx(np.sum(weight * (np.logaddexp(0, exact) - y * exact)), rel=1e-6)
    assert np.allclose(delta, weight * (1 / (1 + np.exp(-exact)) - y), atol=1e-7)


@pytest.mark.parametrize("sizes", [(5, 20, 9, 1), (4, 1), (3, 64, 64, 1)])
def test_the_gradient_is_autograds(sizes):
    settings, n, rng = BatchSettings(sizes, 1, 37), 37, np.random.default_rng(1)
    network = Network(settings, 3)
    held, spare, labels = network.room
    x, y, weight = numbers(rng, n, sizes[0]), (rng.random(n) < 0.4).astype(np.float32), rng.random(n) / n
    held[: sizes[0], :n] = x.T
    held[: sizes[0], n:] = 0
    labels[0, :n], labels[1, :n] = y, weight
    forward(network.value, network.layers, network.offsets, held)
    loss = losses(held[-1], labels[0], labels[1], spare[0, 0])
    backward(network.value, network.state[1, 0], network.layers, network.offsets, held, spare)
    plain = build_dense({"sizes": list(sizes), "seed": 3})
    logit = plain(torch.from_numpy(x))[:, 0].double()
    wanted = (
        torch.from_numpy(weight) * (torch.nn.functional.softplus(logit) - torch.from_numpy(y) * logit)
    ).sum()
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    found = unstack(network.state[1, 0], settings)
    for k, parameter in enumerate(plain.parameters()):
        name = f"{('weight', 'bias')[k % 2]}{k // 2}"
        assert np.allclose(found[name], parameter.grad.numpy(), atol=1e-6), name
    # units that fill up a layer never learn
    assert np.array_equal(restack(found, settings), network.state[1, 0])


def test_what_is_no_number_is_not_hidden_by_a_relu():
    network = Network(BatchSettings((4, 16, 16, 1), 1, 8), 1)
    sample = np.ones((20, 4), np.float32), np.zeros(20, np.float32), np.ones(20, np.float32)
    assert np.isfinite(network.loss(sample))
    network.value[network.offsets[0]] = np.nan
    assert np.isnan(network.loss(sample))
    assert np.isnan(network.epoch(sample, np.arange(20), 1e-3))


def test_evaluation_in_pieces_is_that_of_the_network():
    """More events than one piece holds, and a last piece that is not full."""
    settings, rng = BatchSettings((4, 16, 1), 1, 16), np.random.default_rng(2)
    network, n = Network(settings, 1), 53
    x, y, weight = numbers(rng, n, 4), (rng.random(n) < 0.5).astype(np.float32), rng.random(n)
    with torch.no_grad():
        logit = build_dense({"sizes": [4, 16, 1], "seed": 1})(torch.from_numpy(x))[:, 0].double().numpy()
    wanted = np.average(np.logaddexp(0, logit) - y * logit, weights=weight)
    assert network.loss((x, y, weight.astype(np.float32))) == pytest.approx(wanted, rel=1e-6)
