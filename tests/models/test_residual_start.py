"""The start of a signal density: found where the signal is, not in a tail that the background's density gets wrong."""

import numpy as np
import pytest
from elsewhere.models.networks.residual_kernels import slope_in, tried_gains, weighed
from elsewhere.models.networks.residual_start import Gaussian, Known, best_fraction, find_start
from scipy import stats

SIGNAL = stats.multivariate_normal([1.5, -1.0, 0.5], np.diag([0.2, 0.3, 0.25]) ** 2)
BACKGROUND = stats.multivariate_normal(np.zeros(3), np.eye(3))
#: Where the known density misses half a per cent of the events.
TAIL = stats.multivariate_normal([-3.5, 0.0, 0.0], np.diag([0.4, 0.4, 0.4]) ** 2)


def sample(seed, n=15_000, signal=0.0, tail=0.0):
    """Events of the three, with the density of the background alone."""
    rng = np.random.default_rng(seed)
    parts = [(SIGNAL, rng.binomial(n, signal)), (TAIL, rng.binomial(n, tail))]
    v = [one.rvs(k, random_state=rng).reshape(k, 3) for one, k in parts]
    v = np.concatenate([BACKGROUND.rvs(n, random_state=rng), *v])
    v = v[rng.permutation(len(v))]
    return Known(v, BACKGROUND.logpdf(v), np.ones(len(v)))


def test_kernels_are_their_formulas():
    data, rng = sample(4, 400, signal=0.05), np.random.default_rng(1)
    weight, width, w = rng.uniform(0.5, 2, len(data.v)), 0.3, np.array([1e-3, 5e-3])
    at = stats.multivariate_normal(data.v[7], width**2 * np.eye(3))
    excess = np.exp(at.logpdf(data.v) - data.log_density) - 1
    excess[7] = 0
    wanted = (weight[:, None] * np.log1p(excess[:, None] * w)).sum(axis=0).max()
    gains = tried_gains(data.v, data.log_density, weight, np.array([3, 7]), np.array([0.1, width]), w)
    assert gains[1, 1] == pytest.approx(wanted, abs=1e-6)
    assert slope_in(0.02, excess, weight) == pytest.approx((weight * excess / (1 + 0.02 * excess)).sum())
    odds = 0.05 / 0.95 * np.exp(SIGNAL.logpdf(data.v) - data.log_density)
    share, moved = weight * odds / (1 + odds), data.v - SIGNAL.mean
    total, first, second = weighed(
        data.v, data.log_density, weight, SIGNAL.mean, np.linalg.cholesky(SIGNAL.cov), 0.05
    )
    assert total == pytest.approx(share.sum(), rel=1e-6)
    assert first == pytest.approx(share @ moved, rel=1e-5)
    assert second == pytest.approx((moved * share[:, None]).T @ moved, rel=1e-5)


def test_it_is_at_the_signal_with_its_width_and_its_fraction():
    found = find_start(sample(1, signal=0.01), sample(2), np.random.default_rng(0))
    assert found is not None
    assert found.mean == pytest.approx([1.5, -1.0, 0.5], abs=0.1)
    assert np.sqrt(np.diag(found.factor @ found.factor.T)) == pytest.approx([0.2, 0.3, 0.25], rel=0.35)
    assert found.fraction == pytest.approx(0.01, rel=0.35)
    assert found.gain > 30


def test_what_the_density_misses_beside_the_window_too_is_no_signal():
    """The tail gains more than the signal; only the control knows that it is none."""
    data = sample(1, signal=0.006, tail=0.01)
    misled = find_start(data, sample(2), np.random.default_rng(0))
    told = find_start(data, sample(2, tail=0.01), np.random.default_rng(0))
    assert misled is not None
    assert told is not None
    assert misled.mean[0] < -2
    assert told.mean == pytest.approx([1.5, -1.0, 0.5], abs=0.2)


def test_what_there_is_more_of_beside_the_window_is_no_signal():
    """A defect twice as large in the control has a large likelihood ratio, too: of the wrong sign."""
    data, control = sample(1, signal=0.006, tail=0.01), sample(2, tail=0.03)
    found = find_start(data, control, np.random.default_rng(0))
    assert found is not None
    assert found.mean == pytest.approx([1.5, -1.0, 0.5], abs=0.2)


def test_without_a_signal_it_gains_little():
    found = find_start(sample(1), sample(2), np.random.default_rng(0))
    assert found is None or found.gain < 20


def test_events_of_weight_two_are_two_events():
    data = sample(3, 6000, signal=0.02)
    twice = Known(*(np.concatenate([a, a]) for a in (data.v, data.log_density, data.weight)))
    heavy = Known(data.v, data.log_density, 2 * data.weight)
    gaussian = Gaussian(SIGNAL.mean, np.linalg.cholesky(SIGNAL.cov), 0.01, 0.0)
    assert gaussian.log_prob(data.v) == pytest.approx(SIGNAL.logpdf(data.v))
    each = [best_fraction(d.ratio(gaussian), d.weight) for d in (data, twice, heavy)]
    assert each == pytest.approx([each[0]] * 3, rel=1e-3)
    assert each[0] == pytest.approx(0.02, rel=0.2)
    start = find_start(heavy, sample(2), np.random.default_rng(0))
    assert start is not None
    assert start.fraction == pytest.approx(0.02, rel=0.3)


def test_a_fraction_is_not_negative_and_its_likelihood_is_the_largest():
    ratio = np.array([0.5, 0.2, 0.9, 3.0])
    weight = np.ones(4)
    w = best_fraction(ratio, weight)
    near = [np.log1p(x * (ratio - 1)).sum() for x in (0.98 * w, w, 1.02 * w)]
    assert near[1] >= max(near)
    assert best_fraction(np.full(3, 0.5), np.ones(3)) == 0.0


def test_a_handful_of_events_is_no_start():
    few = sample(5, 30)
    assert find_start(few, sample(2, 100), np.random.default_rng(0)) is None
