"""ROC, SIC, sculpting and rates against closed forms and independent codes."""

import numpy as np
import pytest
from elsewhere.analysis.metrics import hanley_mcneil, roc, sic, signal_efficiency_at, thinned
from elsewhere.analysis.rates import (
    REVOLUTION_HZ,
    crossing_khz,
    efficiency_at,
    rate_at,
    rate_curve,
    threshold_for,
    threshold_interval,
)
from elsewhere.analysis.sculpting import asymptotic_floor, jensen_shannon, sculpting
from elsewhere.errors import FitError
from scipy import stats
from scipy.spatial.distance import jensenshannon


def gaussians(n=40_000, shift=1.5):
    rng = np.random.default_rng(1)
    return rng.normal(shift, 1, n), rng.normal(0, 1, n)


def test_auc_of_two_gaussians():
    curve = roc(*gaussians())
    want = stats.norm.cdf(1.5 / np.sqrt(2))
    assert curve.auc == pytest.approx(want, abs=4 * curve.auc_error)
    assert curve.auc_error < 0.002
    signal, background = gaussians()
    u = stats.mannwhitneyu(signal, background).statistic / len(signal) / len(background)
    assert curve.auc == pytest.approx(u, abs=1e-12)


def test_auc_counts_ties_half_and_never_flips():
    assert roc(np.array([1.0, 1.0]), np.array([1.0, 1.0])).auc == 0.5
    assert roc(np.array([0.0]), np.array([1.0])).auc == 0.0


def test_weights_count_like_repeated_events():
    s, b = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.5, 2.5])
    weighted = roc(s, b, np.array([2.0, 1.0, 3.0]), np.array([1.0, 4.0, 2.0]))
    repeated = roc(np.repeat(s, [2, 1, 3]), np.repeat(b, [1, 4, 2]))
    assert weighted.auc == pytest.approx(repeated.auc)
    with pytest.raises(FitError, match="not negative"):
        roc(s, b, np.array([1.0, -1.0, 1.0]))


def test_auc_error_is_the_spread_of_samples():
    rng = np.random.default_rng(3)
    found = [roc(rng.normal(1, 1, 200), rng.normal(0, 1, 300)).auc for _ in range(400)]
    assert np.std(found) == pytest.approx(hanley_mcneil(np.mean(found), 200, 300), rel=0.15)


def test_sic_of_two_gaussians_and_its_floor():
    curve = roc(*gaussians())
    gain = sic(curve)
    t = np.linspace(-1, 5, 2000)
    inside = stats.norm.sf(t) * 40_000 >= 25
    want = (stats.norm.sf(t - 1.5) / np.sqrt(stats.norm.sf(t)))[inside].max()
    assert gain.best == pytest.approx(want, rel=0.15)
    assert np.all(curve.n_background[np.isin(curve.background, gain.background)] >= 25)
    with pytest.raises(FitError, match="too few"):
        sic(roc(np.ones(3), np.zeros(3)))


def test_efficiency_at_a_background_efficiency():
    value, low, high = signal_efficiency_at(roc(*gaussians()), 0.01)
    want = stats.norm.sf(stats.norm.isf(0.01) - 1.5)
    assert low < value < high
    assert value == pytest.approx(want, abs=0.02)


def test_thinning_keeps_ends_and_order():
    keep = thinned(np.zeros(100_000))
    assert keep[0] == 0
    assert keep[-1] == 99_999
    assert len(keep) <= 400
    assert np.all(np.diff(keep) > 0)


def test_empty_and_not_finite_samples_are_refused():
    with pytest.raises(FitError, match="needs both samples"):
        roc(np.zeros(0), np.ones(3))
    with pytest.raises(FitError, match="finite"):
        roc(np.array([np.nan]), np.ones(3))


def test_divergence_is_scipys():
    rng = np.random.default_rng(1)
    p, q = rng.random(30), rng.random(30)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)


def test_sculpting_is_seen_above_its_floor_and_not_below():
    rng = np.random.default_rng(5)
    shape = np.exp(-np.arange(40) / 8.0)
    same = sculpting(rng.poisson(200 * shape), rng.poisson(20_000 * shape), seed=1)
    assert same.jsd < same.floor_high * 1.3
    assert same.p_value > 0.001
    n_pass, n_fail = same.n_pass, same.n_fail
    assert same.floor == pytest.approx(asymptotic_floor(40, n_pass, n_fail), rel=0.35)
    bump = shape + 0.4 * np.exp(-0.5 * ((np.arange(40) - 15) / 2.0) ** 2)
    assert sculpting(rng.poisson(200 * bump), rng.poisson(20_000 * shape), seed=1).jsd > same.floor_high
    with pytest.raises(FitError, match="both sides"):
        sculpting(np.zeros(3), np.ones(3), seed=1)


def test_the_rate_of_everything_is_the_crossing_rate():
    score, weight = np.random.default_rng(1).random(1000), np.ones(1000)
    assert rate_at(score, weight, -1.0, 2544).khz == pytest.approx(2544 * REVOLUTION_HZ / 1e3)
    assert crossing_khz(2544) == pytest.approx(28_608.8, abs=0.1)


def test_unit_weights_give_the_exact_binomial_interval():
    score, weight = np.arange(1000.0), np.ones(1000)
    found = rate_at(score, weight, 989.0, 100)
    want = stats.binomtest(10, 1000).proportion_ci(0.6827, "exact")
    assert found.n_pass == 10
    assert (found.low, found.high) == pytest.approx(
        (want.low * crossing_khz(100), want.high * crossing_khz(100))
    )
    nothing = rate_at(score, weight, 1e9, 100)
    assert nothing.khz == nothing.low == 0
    assert nothing.high > 0


def test_intervals_of_weighted_rates_cover():
    """Samples with wildly different weights: the 68 % interval holds the true rate about that often."""
    rng, hits = np.random.default_rng(2), 0
    for _ in range(600):
        weight = rng.choice([0.02, 1.0], 3000)
        score = rng.exponential(1.0, 3000)
        found = rate_at(score, weight, 4.0, 1)
        hits += found.low <= np.exp(-4.0) * crossing_khz(1) <= found.high
    assert 0.6 < hits / 600 < 0.8


def test_the_threshold_gives_at_most_the_rate_asked():
    rng = np.random.default_rng(4)
    score, weight = np.round(rng.exponential(1, 5000), 2), rng.uniform(0.1, 1, 5000)
    for khz in (5.0, 50.0, 500.0):
        threshold, low, high = threshold_interval(score, weight, khz, 100)
        assert threshold == threshold_for(score, weight, khz, 100)
        assert rate_at(score, weight, threshold, 100).khz <= khz
        below = np.unique(score[score < threshold])[-1]
        assert rate_at(score, weight, below, 100).khz > khz
        assert low <= threshold <= high
    with pytest.raises(FitError, match="less than one of 5000 crossings"):
        threshold_for(score, weight, 1e-6, 100)


def test_a_largest_score_that_many_share_has_no_threshold_below_their_rate():
    score = np.r_[np.zeros(900), np.full(100, 7.0)]
    khz = 0.1 * 100 * 11.2456
    assert threshold_for(score, np.ones(1000), 1.01 * khz, 100) == 0.0
    with pytest.raises(FitError, match="largest score, 7, is that of 100 crossings"):
        threshold_for(score, np.ones(1000), 0.99 * khz, 100)


def test_rate_curves_fall():
    curve = rate_curve("s", np.arange(100.0), np.ones(100), [10.0, 50.0, 90.0], 10)
    assert np.all(np.diff(curve.khz) < 0)
    assert curve.crossings == 100
    value, low, high = efficiency_at(np.arange(100.0), np.ones(100), 74.0)
    assert low < value == 0.25 < high


def test_bad_weights_are_refused():
    with pytest.raises(FitError, match="not negative"):
        rate_at(np.ones(2), np.array([1.0, -1.0]), 0.0, 10)
