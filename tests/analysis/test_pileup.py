"""Rates at another pile-up against the analytic answer, and what the sample cannot give."""

import numpy as np
import pytest
from elsewhere.analysis.pileup import (
    luminosity_e34,
    number_probability,
    pileup_rate,
    rate_by_pileup,
    reweighted,
)
from elsewhere.analysis.rates import crossing_khz
from elsewhere.errors import FitError

BUNCHES = 2544


@pytest.fixture
def sample():
    """Poisson(50) crossings of which one with n collisions passes with probability (n / 100)^2, under random weights."""
    rng = np.random.default_rng(3)
    n = rng.poisson(50, 400_000)
    return n, rng.random(len(n)) < (n / 100) ** 2, rng.uniform(0.5, 1.5, len(n))


@pytest.mark.parametrize("mean", [45.0, 50.0, 57.0])
def test_the_rate_at_another_mean_is_the_analytic_one(sample, mean):
    n, kept, weight = sample
    found = pileup_rate(kept, weight, n, BUNCHES, mean)
    expected = (mean**2 + mean) / 1e4 * crossing_khz(BUNCHES)  # E[n^2] of a Poisson variable
    width = found.rate.high - found.rate.low
    assert abs(found.rate.khz - expected) < 2 * width
    assert width < 0.04 * expected
    assert found.rate.low < found.rate.khz < found.rate.high


def test_a_spread_mean_is_a_wider_distribution():
    p = number_probability(200, 50.0, 5.0)
    n = np.arange(201)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert p @ n == pytest.approx(50, abs=1e-6)
    assert p @ n**2 - 50**2 == pytest.approx(50 + 25, rel=1e-3)


def test_a_mean_beyond_the_sample_is_refused(sample):
    n, kept, weight = sample
    with pytest.raises(FitError, match=r"mean pile-up 80: .* simulate zero bias nearer"):
        pileup_rate(kept, weight, n, BUNCHES, 80.0)


def test_what_lies_beyond_the_sample_widens_the_interval(sample):
    n, kept, weight = sample
    near, far = (pileup_rate(kept, weight, n, BUNCHES, m) for m in (50.0, 58.0))
    assert near.uncovered < 1e-3 < far.uncovered < 0.01
    assert (far.rate.high - far.rate.khz) / far.rate.khz > 2 * (
        near.rate.high - near.rate.khz
    ) / near.rate.khz


def test_unknown_pileup_is_refused(sample):
    n, _, weight = sample
    with pytest.raises(FitError, match="do not know their number"):
        reweighted(np.where(np.arange(len(n)) == 7, -1, n), weight, 50.0)


def test_bins_hold_every_crossing_once(sample):
    n, kept, weight = sample
    bins = rate_by_pileup(kept, weight, n, BUNCHES)
    assert [b.low for b in bins[1:]] == [b.high + 1 for b in bins[:-1]]
    assert (bins[0].low, bins[-1].high) == (n.min(), n.max())
    assert sum(b.rate.n_pass for b in bins) == kept.sum()


def test_one_number_of_collisions_is_one_bin():
    kept = np.arange(100) < 30
    (only,) = rate_by_pileup(kept, np.ones(100), np.full(100, 50), BUNCHES)
    assert (only.low, only.high, only.rate.n_pass) == (50, 50, 30)


def test_luminosity():
    # 50 collisions in each of 2544 bunches: 50 * 2544 * 11245.6 / 8e-26 cm^2
    assert luminosity_e34(50.0, 2544, 80.0) == pytest.approx(1.788, rel=1e-3)
