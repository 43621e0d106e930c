"""The parts of the transporting references: Sinkhorn divergence, invertible map, spectrum, copies, closure."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FitError, InputError
from elsewhere.events import IDENTITY, Window, fold_of
from elsewhere.models.networks.descent import descend
from elsewhere.models.networks.sinkhorn import sinkhorn_divergence
from elsewhere.models.networks.transport import (
    TransportSettings,
    between,
    build_transport,
    in_batches,
    moved,
    weights_of,
    with_weights,
)
from elsewhere.models.references.closure import closure, weighted_auc
from elsewhere.models.references.copies import copy_identity, effective_size, ordered, pick
from elsewhere.models.references.spectrum import SidebandSpectrum
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp

WINDOW = Window(3400.0, 3600.0)


def cloud(n, seed, d=3, width=0.25):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, d)) * width)


def test_sinkhorn_of_equal_samples_is_zero_in_any_order():
    x = cloud(80, 0)
    assert float(sinkhorn_divergence(x, x.clone())) == pytest.approx(0.0, abs=1e-12)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert float(sinkhorn_divergence(x, x[order], blur=0.05)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("blur", [0.01, 0.1, 1.0])
def test_sinkhorn_of_a_translation_is_its_length_squared_at_every_blur(blur):
    x, shift = cloud(120, 1), torch.tensor([0.3, -0.1, 0.2], dtype=torch.float64)
    found = sinkhorn_divergence(x, x + shift, blur, polish=30)
    assert float(found) == pytest.approx(0.14, rel=2e-4)
    assert float(sinkhorn_divergence(x + shift, x, blur, polish=30)) == pytest.approx(float(found), rel=1e-6)


def test_sinkhorn_at_small_blur_is_the_optimal_assignment():
    x, y = cloud(100, 2), cloud(100, 3, width=0.3) + 0.1
    cost = ((x[:, None] - y[None]) ** 2).sum(dim=2).numpy()
    exact = cost[linear_sum_assignment(cost)].mean()
    assert float(sinkhorn_divergence(x, y, 0.003, 0.95)) == pytest.approx(exact, rel=0.02)
    # without the published number of steps the value is a few per cent low, never more
    assert float(sinkhorn_divergence(x, y)) == pytest.approx(exact, rel=0.08)


def test_sinkhorn_weights_count_as_so_many_points():
    x, y = cloud(40, 4), cloud(50, 5) + 0.2
    a = torch.ones(40, dtype=torch.float64)
    a[:10] = 2.0
    twice = torch.cat([x, x[:10]])
    weighted = sinkhorn_divergence(x, y, 0.1, a=a)
    assert float(weighted) == pytest.approx(float(sinkhorn_divergence(twice, y, 0.1)), rel=1e-6)
    assert float(weighted) != pytest.approx(float(sinkhorn_divergence(x, y, 0.1)), rel=1e-3)


def test_sinkhorn_gradient_is_that_of_the_squared_distance():
    x = cloud(60, 6).requires_grad_()
    shift = torch.tensor([0.2, 0.0, -0.1], dtype=torch.float64)
    sinkhorn_divergence(x, x.detach() + shift, 0.3, polish=100).backward()
    assert x.grad is not None
    assert torch.allclose(60 * x.grad, (-2.0 * shift).expand(60, 3), atol=2e-3)


def by_formula(x, y, a, b, temperatures):
    """The divergence with NumPy alone; the potentials of a problem come from the other's old ones."""
    pairs = [(x, y, b, 1), (y, x, a, 0), (x, x, a, 2), (y, y, b, 3)]
    potentials = [np.zeros(len(near)) for near, *_ in pairs]

    def softmin(eps, k):
        near, far, weight, other = pairs[k]
        cost = ((near[:, None] - far[None]) ** 2).sum(axis=2)
        return -eps * logsumexp(
            (potentials[other] - cost) / eps, axis=1, b=np.broadcast_to(weight, cost.shape)
        )

    for eps in temperatures:
        potentials = [0.5 * (old + softmin(eps, k)) for k, old in enumerate(potentials)]
    f, g, p, q = (softmin(temperatures[-1], k) for k in range(4))
    return a @ (f - p) + b @ (g - q)


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_sinkhorn_is_its_formula(precision, tolerance):
    x, y = cloud(37, 7).to(precision), (cloud(21, 8) + 0.2).to(precision)
    a = np.random.default_rng(1).uniform(0.5, 1.5, 37)
    a[4] = 0.0
    reach = np.linalg.norm(np.ptp(torch.cat([x, y]).double().numpy(), axis=0))
    lengths = [reach * 0.5**k for k in range(12)]
    temperatures = [c**2 for c in lengths if c > 0.05] + 3 * [0.05**2]
    wanted = by_formula(
        x.double().numpy(), y.double().numpy(), a / a.sum(), np.full(21, 1 / 21), temperatures
    )
    found = sinkhorn_divergence(x, y, 0.05, 0.5, a=torch.tensor(a))
    assert found.dtype == precision
    assert float(found) == pytest.approx(wanted, rel=tolerance)


def test_sinkhorn_gradient_is_that_of_finite_differences():
    x, y = cloud(6, 7).requires_grad_(), (cloud(5, 8) + 0.2).requires_grad_()
    a = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda u, v: sinkhorn_divergence(u, v, 0.3, 0.5, a=a, polish=400), (x, y), atol=1e-6
    )
    value = sinkhorn_divergence(x, y)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(value, x, create_graph=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sinkhorn_of_points_that_are_no_numbers_is_an_error(value):
    x = cloud(6, 7)
    x[2, 1] = value
    with pytest.raises(FitError, match="not finite"):
        sinkhorn_divergence(x, cloud(5, 8))


def shaken(condition, seed=0, d=4):
    settings = TransportSettings(d, condition, seed=seed)
    network = build_transport(settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return settings, with_weights(settings, weights_of(network))


@pytest.mark.parametrize("condition", ["difference", "both"])
def test_the_map_is_the_identity_at_equal_masses_and_there_and_back(condition):
    settings, network = shaken(condition)
    rng = np.random.default_rng(0)
    x, a, b = rng.uniform(-1, 1, (500, 4)), rng.uniform(-1, 1, 500), rng.uniform(-1, 1, 500)

    def go(*parts):
        return in_batches(lambda *t: between(network, settings, *t)[0], *parts)

    there = go(x, a, b)
    assert np.abs(there - x).max() > 0.1
    assert np.abs(go(x, a, a) - x).max() < 1e-6
    assert np.abs(go(there, b, a) - x).max() < 1e-5
    with torch.no_grad():
        t = [torch.tensor(v) for v in (x, a, b)]
        y, change = between(network, settings, *t)
        back = between(network, settings, y, t[2], t[1])[1]
    assert torch.allclose(change, -back, atol=1e-5)


@pytest.mark.parametrize("back", [False, True])
def test_the_jacobian_is_that_of_automatic_differentiation(back):
    settings, network = shaken("alone")
    x = torch.tensor(np.random.default_rng(1).uniform(-1, 1, (5, 4)))
    condition = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    change = moved(network, settings, x, condition, None, back)[1].detach()
    for i in range(5):

        def one(v, i=i):
            return moved(network, settings, v[None], condition[i : i + 1], None, back)[0][0]

        jacobian = torch.autograd.functional.jacobian(one, x[i])
        assert float(torch.linalg.det(jacobian).abs().log()) == pytest.approx(float(change[i]), abs=1e-6)


def test_every_column_is_moved_and_settings_are_checked():
    for d in (1, 2, 5):
        pairs = TransportSettings(d).halves()
        assert len(pairs) == 4
        for kept, changed in pairs:
            assert sorted(kept + changed) == list(range(d))
        assert sorted(pairs[0][1] + (pairs[1][1] if d > 1 else [])) == list(range(d))
    for bad in ({"layers": 0}, {"bins": 1}, {"bound": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TransportSettings(2, **bad)


def test_descent_stops_on_a_loss_that_is_not_finite_and_keeps_the_best_epoch():
    network = torch.nn.Linear(1, 1)
    with pytest.raises(FitError, match="loss is nan in epoch 1"):
        descend(network, lambda _: [(np.zeros(1),)], lambda _: network.weight.sum() * math.nan, 2, 0.1, 5.0)
    seen = []

    def validate():
        seen.append(float(network.weight.detach()))
        return [3.0, 1.0, 2.0][len(seen) - 1]

    with torch.no_grad():
        network.weight.fill_(1.0)
    kept, record = descend(
        network, lambda _: [(np.zeros(1),)], lambda _: (network.weight**2).sum(), 3, 0.1, 5.0, validate
    )
    assert kept["weight"][0, 0] == pytest.approx(seen[1])
    assert record.validation_loss == (3.0, 1.0, 2.0)


def test_descent_clips_gradients_and_slows_down_along_a_cosine():
    network = torch.nn.Linear(1, 1, bias=False)
    start = float(network.weight.detach())
    descend(network, lambda _: [(np.zeros(1),)] * 50, lambda _: 1e3 * network.weight.sum(), 2, 0.01, 5.0)
    assert network.weight.grad is not None
    assert float(network.weight.grad.norm()) == pytest.approx(5.0, rel=1e-4)
    # every step of Adam on a constant slope is the learning rate, whose mean along the cosine is one half
    assert start - float(network.weight.detach()) == pytest.approx(0.5 * 100 * 0.01, rel=0.03)


def falling(toy, n, seed, rate=500.0):
    """``toy`` events with masses of an exponential above 3000 GeV."""
    events = toy(n, seed)
    mass = 3000 + np.random.default_rng(seed).exponential(rate, n)
    return replace(events, mass=mass, weight=np.ones(n))


def test_the_spectrum_beside_predicts_the_window_and_never_looks_inside(toy):
    data = falling(toy, 200_000, 1)
    low, high = (data.take(Window(*w).contains(data.mass)) for w in ((3200, 3400), (3600, 3800)))
    found = SidebandSpectrum.fit(low, high, WINDOW)
    true = 200_000 * (math.exp(-0.8) - math.exp(-1.2))
    assert found.expected() == pytest.approx(true, rel=0.02)
    mass = found.sample(50_000, np.random.default_rng(0))
    assert WINDOW.contains(mass).all()
    inside = data.mass[WINDOW.contains(data.mass)]
    assert mass.mean() == pytest.approx(inside.mean(), abs=1.0)
    assert found.expected(Window(3200, 3400)) == pytest.approx(len(low), rel=0.01)
    double = [replace(p, weight=2 * p.weight) for p in (low, high)]
    assert SidebandSpectrum.fit(*double, WINDOW).expected() == pytest.approx(2 * found.expected(), rel=1e-6)
    with pytest.raises(InputError, match="both sides"):
        SidebandSpectrum.fit(low, high.take(slice(0, 0)), WINDOW)


def test_a_curved_spectrum_is_followed(toy):
    data = toy(100_000, 1)
    mass = np.random.default_rng(2).normal(3500, 150, 100_000)
    data = replace(data, mass=mass, weight=np.ones(100_000))
    low, high = (data.take(Window(*w).contains(mass)) for w in ((3200, 3400), (3600, 3800)))
    inside = WINDOW.contains(mass).sum()
    assert SidebandSpectrum.fit(low, high, WINDOW).expected() == pytest.approx(inside, rel=0.03)


def test_copies_are_distinct_and_stay_in_the_fold_of_their_parent():
    rng = np.random.default_rng(0)
    parents = np.zeros(300, dtype=IDENTITY)
    parents["run"], parents["event"] = rng.integers(1, 5, 300), np.arange(300)
    parents["file_hi"], parents["file_lo"] = rng.integers(0, 2**63, 300), rng.integers(0, 2**63, 300)
    rows, copies = pick(300, 1000, rng)
    made = copy_identity(parents[rows], copies)
    assert len(np.unique(np.concatenate([made, parents]))) == 1300
    for folds, seed in ((2, 0), (5, 3), (7, 99)):
        assert np.array_equal(fold_of(made, folds, seed), fold_of(parents, folds, seed)[rows])
    assert np.array_equal(made, copy_identity(parents[rows], copies))


def test_picking_takes_every_parent_equally_often():
    rows, copies = pick(10, 34, np.random.default_rng(1))
    counts = np.bincount(rows, minlength=10)
    assert counts.sum() == 34
    assert set(counts) == {3, 4}
    assert len(set(zip(rows, copies, strict=True))) == 34
    assert len(pick(10, 0, np.random.default_rng(1))[0]) == 0
    with pytest.raises(InputError, match="-1 events"):
        pick(10, -1, np.random.default_rng(1))


def test_order_and_effective_size(toy):
    events = toy(100, 1)
    mixed = events.take(np.random.default_rng(0).permutation(100))
    assert np.array_equal(ordered(mixed).identity, ordered(events).identity)
    assert effective_size(np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(4.0)
    assert effective_size(np.array([3.0, 1.0])) == pytest.approx(1.6)
    assert effective_size(np.zeros(0)) == 0.0


def test_weighted_auc_by_hand():
    high, low = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0])
    w, v = np.array([1.0, 2.0, 1.0]), np.array([3.0, 1.0])
    by_hand = sum(
        a * b * ((x > y) + 0.5 * (x == y))
        for x, a in zip(high, w, strict=True)
        for y, b in zip(low, v, strict=True)
    )
    assert weighted_auc(high, low, w, v) == pytest.approx(by_hand / (w.sum() * v.sum()))


def test_closure_sees_a_difference_and_only_a_difference(toy):
    same = closure(toy(3000, 1), toy(3000, 2, first=10_000))
    assert same.auc == pytest.approx(0.5, abs=4 * same.error)
    assert same.error == pytest.approx(math.sqrt(1 / (12 * 3000 / 2)), rel=0.1)
    assert closure(toy(3000, 1), toy(3000, 2, 0.3, first=10_000)).auc > 0.6
    with pytest.raises(InputError, match="too few"):
        closure(toy(3, 1), toy(3000, 2))
