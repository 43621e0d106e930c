"""VICReg against sums written out, its golden numbers and limits; and the views of AXOL1TL's version 5."""

import math

import numpy as np
import pytest
import torch
from elsewhere.events import Column, FeatureSet
from elsewhere.models.augmentations.level1 import Layout, Strength, blurred, filled, masked, turned, view
from elsewhere.models.networks.dense import initialise
from elsewhere.models.networks.vicreg import projector, vicreg, vicreg_terms
from elsewhere.models.scores.hardware_inputs import objects_of

Z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
OTHER = torch.tensor([[1.0, 0.5], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def numbers(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(z, other, weights, unbiased):
    """The three terms, number by number."""
    n, d = z.shape
    share = [w / sum(weights) for w in weights]
    correction = 1 / (1 - sum(s * s for s in share))
    invariance = sum(share[i] * float(z[i, k] - other[i, k]) ** 2 for i in range(n) for k in range(d)) / d
    variance = covariance = 0.0
    for view_ in (z, other):
        mean = [sum(share[i] * float(view_[i, k]) for i in range(n)) for k in range(d)]

        def moment(a, b, v=view_, m=mean):
            return sum(share[i] * float(v[i, a] - m[a]) * float(v[i, b] - m[b]) for i in range(n))

        for a in range(d):
            var = moment(a, a) * (correction if unbiased else 1.0)
            variance += max(0.0, 1 - math.sqrt(var + 1e-4)) / d / 2
            covariance += sum((moment(a, b) * correction) ** 2 for b in range(d) if b != a) / d
    return invariance, variance, covariance


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_terms_are_their_sums(unbiased, weighted):
    z, other = 0.7 * numbers((9, 4), 1), 0.7 * numbers((9, 4), 2)
    weight = torch.linspace(0.2, 3.0, 9, dtype=torch.float64) if weighted else None
    found = vicreg_terms(z, other, weight=weight, unbiased=unbiased)
    wanted = slow(z, other, [1.0] * 9 if weight is None else weight.tolist(), unbiased)
    assert [float(f) for f in found] == pytest.approx(list(wanted), rel=1e-12)
    assert min(wanted) > 0.01
    total = float(vicreg(z, other, weight=weight, unbiased=unbiased))
    assert total == pytest.approx(50 * wanted[0] + 50 * wanted[1] + wanted[2], rel=1e-12)


@pytest.mark.parametrize(
    ("unbiased", "variance", "total"), [(True, 0.0, 1.854167), (False, 0.175108, 6.231861)]
)
def test_golden_numbers(unbiased, variance, total):
    found = [float(t) for t in vicreg_terms(Z, OTHER, unbiased=unbiased)]
    assert found == pytest.approx([0.041667, variance, 0.8125], abs=1e-6)
    whole = vicreg(Z, OTHER, coefficients=(25.0, 25.0, 1.0), unbiased=unbiased)
    assert float(whole) == pytest.approx(total, abs=2e-6)


def test_limits():
    z = numbers((400, 3), 3)
    assert float(vicreg_terms(z, z)[0]) == 0.0
    one = torch.zeros((50, 3), dtype=torch.float64)  # collapsed: 1 for every dimension, less the root of 1e-4
    assert [float(t) for t in vicreg_terms(one, one)] == pytest.approx([0.0, 0.99, 0.0], abs=1e-12)
    line = torch.linspace(-2, 2, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)  # uncorrelated, and wide enough
    assert [float(t) for t in vicreg_terms(grid, grid)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-20)
    same = torch.stack([line, line], dim=1)
    spread = float(line.var())
    assert float(vicreg_terms(same, same)[2]) == pytest.approx(2 * spread**2, rel=1e-12)


def test_a_weight_is_so_many_events():
    z, other = numbers((6, 3), 4), numbers((6, 3), 5)
    times = torch.tensor([1, 3, 2, 1, 1, 4])
    found = vicreg_terms(z, other, weight=times.to(z.dtype))
    repeated = vicreg_terms(z.repeat_interleave(times, 0), other.repeat_interleave(times, 0))
    for a, b in zip(found[:2], repeated[:2], strict=True):  # the third is corrected for fewer events
        torch.testing.assert_close(a, b)
    assert torch.isfinite(vicreg(z, other, weight=torch.zeros(6, dtype=z.dtype)))


def test_wrong_shapes_are_refused():
    for z, other, weight in ((Z, OTHER[:2], None), (Z[:1], OTHER[:1], None), (Z, OTHER, torch.ones(2))):
        with pytest.raises(ValueError, match="expected views of one shape"):
            vicreg(z, other, weight=weight)


def test_the_projector_is_normalised_layers():
    network = projector(10, 40)
    initialise(network, 3)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 2]
    assert shapes == [(40, 10), (40, 40), (40, 40)]
    for part in network:
        if isinstance(part, torch.nn.BatchNorm1d):
            torch.nn.init.ones_(part.weight)
    out = network(numbers((500, 10), 6).float())
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(40), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=0, unbiased=False), torch.ones(40), atol=1e-3, rtol=0)


def columns():
    """MET, an electron, a jet and a lone number."""
    out = [
        Column(f"{name}_{part}", unit, part, low, high)
        for name in ("MET", "EG0", "Jet0")
        for part, unit, low, high in (
            ("pt", "GeV", 0, None),
            ("eta", "", -5, 5),
            ("phi", "rad", -np.pi, np.pi),
        )
    ]
    return FeatureSet("objects", (*out, Column("HT", "GeV", "sum")))


OFFSET = np.array([10.0, 0, 0.5, 20, 0, 0.25, 40, 0.5, -0.25, 100])
SHIFT = np.array([3, 0, 0, 4, 0, -1, 5, 0, 1, 6])


def layout():
    empty = -OFFSET * 2.0**-SHIFT
    features = columns()
    return Layout.of(features, objects_of(features), OFFSET, SHIFT, empty.astype(np.float32))


def crossings(n, seed):
    """Raw columns, half of the objects missing, and the same scaled."""
    rng = np.random.default_rng(seed)
    raw = np.empty((n, 10))
    for i in range(3):
        raw[:, 3 * i : 3 * i + 3] = np.stack(
            [rng.exponential(20, n) + 1, rng.uniform(-3, 3, n), rng.uniform(-np.pi, np.pi, n)], axis=1
        )
        raw[rng.random(n) < 0.5, 3 * i : 3 * i + 3] = 0.0
    raw[:, 9] = rng.exponential(100, n)
    return raw, torch.from_numpy(((raw - OFFSET) * 2.0**-SHIFT).astype(np.float32))


def unscaled(x):
    return x.double().numpy() * 2.0**SHIFT + OFFSET


def draw(seed=1):
    return torch.Generator().manual_seed(seed)


def test_the_layout_knows_objects_angles_and_empty_slots():
    found = layout()
    assert found.owner == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3)
    assert found.phi == (2, 5, 8)
    np.testing.assert_allclose(np.array(found.period), 2 * np.pi * 2.0 ** -SHIFT[[2, 5, 8]])
    np.testing.assert_allclose(np.array(found.low) * 2.0 ** SHIFT[[2, 5, 8]] + OFFSET[[2, 5, 8]], -np.pi)
    assert Layout.from_json(found.to_json()) == found
    raw, x = crossings(500, 1)
    there = filled(x, found).numpy()
    np.testing.assert_array_equal(there[:, :3], raw[:, [0, 3, 6]] > 0)
    lone = torch.tensor([found.empty])
    lone[0, 4] += 1.0  # one column is enough
    assert filled(lone, found).tolist() == [[False, True, False, False]]


def test_a_mask_sets_whole_objects_to_their_offset():
    _, x = crossings(20_000, 2)
    out = masked(x, layout(), 0.571, draw())
    whole = out.reshape(-1, 10)
    for owner in range(4):
        own = np.flatnonzero(np.array(layout().owner) == owner)
        gone = (whole[:, own] == 0).all(dim=1)
        assert float(gone.float().mean()) == pytest.approx(0.571, abs=0.012)
        torch.testing.assert_close(out[~gone][:, own], x[~gone][:, own], rtol=0, atol=0)
    both = (out[:, :3] == 0).all(dim=1) & (out[:, 3:6] == 0).all(dim=1)
    assert float(both.float().mean()) == pytest.approx(0.571**2, abs=0.012)  # each for itself
    assert torch.equal(masked(x, layout(), 0.0, draw()), x)


def test_a_blur_mixes_in_uniform_noise():
    _, x = crossings(40_000, 3)
    out = blurred(x, 0.9, 0.75, 0.927, draw())
    touched = out != x
    assert float(touched.float().mean()) == pytest.approx(0.9 * 0.75, abs=0.01)
    assert float(touched.any(dim=1).float().mean()) == pytest.approx(0.9, abs=0.01)
    noise = ((out - (1 - 0.927) * x) / 0.927)[touched]
    assert float(noise.min()) > -1e-4
    assert float(noise.max()) < 1 + 1e-4
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(noise.var()) == pytest.approx(1 / 12, abs=0.002)


def test_a_turn_is_one_angle_per_event_and_wraps():
    raw, x = crossings(20_000, 4)
    there = filled(x, layout())
    out = turned(x, layout(), there, 1.0, draw())
    phi, other = [2, 5, 8], [0, 1, 3, 4, 6, 7, 9]
    assert torch.equal(out[:, other], x[:, other])
    after, full = unscaled(out), raw[:, [0, 3, 6]] > 0
    assert np.abs(after[:, phi]).max() <= np.pi + 1e-5
    np.testing.assert_array_equal(out[:, phi].numpy()[~full], x[:, phi].numpy()[~full])  # empty stays empty
    angle = np.remainder(after[:, phi] - raw[:, phi], 2 * np.pi)
    all_there = full.all(axis=1)
    apart = np.remainder(angle[all_there] - angle[all_there][:, :1] + np.pi, 2 * np.pi) - np.pi
    assert np.abs(apart).max() < 1e-5
    counts, _ = np.histogram(angle[all_there][:, 0], 8, (0, 2 * np.pi))
    assert counts.min() > 0.85 * counts.mean()
    half = turned(x, layout(), there, 0.5, draw(2))
    moved = (half[:, 2] != x[:, 2])[there[:, 0]]
    assert float(moved.float().mean()) == pytest.approx(0.5, abs=0.015)


def test_a_view_is_the_generators():
    _, x = crossings(300, 5)
    first, again, other = (view(x, layout(), Strength(), draw(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    nothing = Strength(0.0, 0.0, 0.0, 0.0, 0.0)
    assert torch.equal(view(x, layout(), nothing, draw()), x)
    masks = Strength(1.0, 1.0, 1.0, 1.0, 0.0)
    assert not view(x, layout(), masks, draw()).any()
    turns = Strength(0.0, 1.0, 1.0, 1.0, 1.0)  # all is noise, and still only what was there is turned
    out, empty = view(x, layout(), turns, draw()), ~filled(x, layout())
    assert float(out[:, 2][empty[:, 0]].min()) >= 0
    assert float(out[:, 2][empty[:, 0]].max()) <= 1
    assert float(out[:, 2][~empty[:, 0]].min()) < -1
