"""The linear probe against what is known of Gaussians, and against plain descent."""

import math

import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.models.probe import area, linear_probe


def gaussians(n, seed, d=5):
    """Two normal classes of one covariance; class 1 a third of the events. Returns x, y, and the best direction."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(d, d)) + 2 * np.eye(d)
    shift = np.linspace(0.2, 1.0, d)
    y = rng.random(n) < 1 / 3
    x = rng.normal(size=(n, d)) @ mixing.T + 7.0 + y[:, None] * shift
    best = np.linalg.solve(mixing @ mixing.T, shift)
    return x.astype(np.float32), y, best, float(shift @ best)


def test_gaussians_give_fishers_direction_and_the_known_area():
    x, y, best, squared = gaussians(60_000, 2)
    held = gaussians(60_000, 3)[:2]
    found = linear_probe(x, y, *held, penalty=1e-6)
    # ln of the likelihood ratio is linear: weights are those of Fisher, the area is Phi(distance / sqrt 2)
    np.testing.assert_allclose(found.weights, best, atol=0.04)
    middle = 7.0 * best.sum() + 0.5 * squared
    assert found.bias == pytest.approx(-middle, abs=0.3)
    wanted = 0.5 * (1 + math.erf(math.sqrt(squared) / 2))
    assert found.auc == pytest.approx(wanted, abs=0.006)
    scores = found.score(held[0])
    assert found.auc == area(scores[held[1]], scores[~held[1]])
    entropy = np.mean([np.logaddexp(0, -scores[held[1]]).mean(), np.logaddexp(0, scores[~held[1]]).mean()])
    assert found.loss == pytest.approx(entropy)


def test_it_is_at_the_minimum_of_its_objective():
    x, y, *_ = gaussians(500, 4)
    found = linear_probe(x, y, x, y, penalty=0.1)
    z = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)) / x.std(axis=0, dtype=np.float64)
    w, b = np.zeros(5), 0.0
    share = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    for _ in range(4000):
        pull = share * (1 / (1 + np.exp(-(z @ w + b))) - y)
        w, b = w - 0.5 * (z.T @ pull + 0.1 * w), b - 0.5 * pull.sum()
    np.testing.assert_allclose(found.weights * x.std(axis=0, dtype=np.float64), w, atol=1e-4)
    np.testing.assert_allclose(found.score(x), z @ w + b, atol=1e-3)


def test_the_result_is_one_number_and_scales_do_not_matter():
    x, y, *_ = gaussians(2000, 5)
    held = gaussians(2000, 6)[:2]
    one, same = linear_probe(x, y, *held), linear_probe(x, y, *held)
    assert np.array_equal(one.weights, same.weights)
    assert one.auc == same.auc
    factor = np.array([1, 1e3, 1e-3, 5, 1], np.float32)
    other = linear_probe(x * factor, y, held[0] * factor, held[1])
    assert other.auc == pytest.approx(one.auc, abs=1e-3)
    np.testing.assert_allclose(other.weights * factor, one.weights, atol=2e-3)


def test_classes_count_the_same_however_many():
    """Every event of class 1 three times: the objective is the same for one scale of the columns."""
    x, y, *_ = gaussians(2000, 5)
    held = gaussians(2000, 6)[:2]
    many = np.concatenate([np.arange(2000), *[np.flatnonzero(y)] * 2])
    one, other = (linear_probe(x[i], y[i], *held, penalty=0.0) for i in (np.arange(2000), many))
    np.testing.assert_allclose(other.weights, one.weights, atol=1e-3)
    assert other.bias == pytest.approx(one.bias, abs=1e-2)


@pytest.mark.parametrize("width", [150, 16])
def test_raw_constituents_and_latents_alike(width):
    """Columns that are 0 for most, constant or repeated do no harm; without information the area is a half."""
    rng = np.random.default_rng(7)
    y = rng.random(3000) < 0.5
    x = rng.exponential(20.0, (3000, width)).astype(np.float32) * (rng.random((3000, width)) < 0.3)
    x[:, -1], x[:, -2] = 0.0, x[:, 0]
    chance = linear_probe(x[:1500], y[:1500], x[1500:], y[1500:])
    assert chance.auc == pytest.approx(0.5, abs=0.05)
    assert chance.weights[-1] == 0.0
    assert chance.weights[0] == pytest.approx(chance.weights[-2], rel=1e-3)
    x[:, 3] += 30 * y
    assert linear_probe(x[:1500], y[:1500], x[1500:], y[1500:]).auc > 0.85
    x[:, -1] = 1000.0
    again = linear_probe(x[:1500], y[:1500], x[1500:], y[1500:])
    assert again.weights[-1] == 0.0


def test_ties_count_one_half():
    assert area(np.array([1.0, 2.0]), np.array([1.0, 1.0, 3.0])) == pytest.approx(
        (0.5 + 0.5 + 0 + 1 + 1 + 0) / 6
    )
    assert area(np.ones(4), np.ones(9)) == 0.5


def test_samples_it_cannot_use_are_refused():
    x, y, *_ = gaussians(50, 1)
    with pytest.raises(InputError, match="held_x: expected finite features of events of both classes"):
        linear_probe(x, y, x, np.zeros(50, bool))
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="x: expected finite"):
        linear_probe(broken, y, x, y)
    with pytest.raises(InputError, match=r"held_x: found \(50, 4\)"):
        linear_probe(x, y, x[:, :4], y)
    with pytest.raises(InputError, match=r"x: found \(50, 5\) with labels \(49,\)"):
        linear_probe(x, y[:49], x, y)
