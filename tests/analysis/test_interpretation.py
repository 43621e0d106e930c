"""What a score follows and what a space knows, against known answers: scipy, repeated events, Gaussians, exact covariances."""

import numpy as np
import pytest
from elsewhere.analysis.interpretation import (
    FEWEST,
    linear_probes,
    principal_axes,
    rank_correlations,
    rank_interval,
    top_places,
    weighted_ranks,
)
from scipy import stats


def with_covariance(n, wanted, seed=1):
    """n rows of mean 0 whose sample covariance is exactly ``wanted``."""
    z = np.random.default_rng(seed).normal(size=(n, len(wanted)))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
    return z @ np.linalg.cholesky(wanted).T


# Rank correlations


def test_spearman_is_scipys_ties_included():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, (400, 2)), rng.normal(size=(400, 3)).round(1)
    b[:, 1] += a[:, 0]
    b[:, 2] = np.exp(a[:, 1])  # a monotone function: 1
    wanted = [[stats.spearmanr(a[:, i], b[:, j]).statistic for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(rank_correlations(a, b), wanted, atol=1e-12)
    assert rank_correlations(a, b)[1, 2] == pytest.approx(1.0)


def test_a_weight_is_that_many_events():
    rng = np.random.default_rng(4)
    a, b, times = rng.integers(0, 9, (300, 1)), rng.normal(size=(300, 2)), rng.integers(0, 5, 300)
    got = rank_correlations(a, b, times.astype(float))
    again = np.repeat(np.arange(300), times)
    np.testing.assert_allclose(got, rank_correlations(a[again], b[again]), atol=1e-12)
    assert abs(got - rank_correlations(a, b)).max() > 1e-3


def test_a_negative_weight_takes_an_event_away():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(300, 1)), rng.normal(size=(300, 1))
    b += a
    twice = np.concatenate([np.arange(300), np.arange(50)])
    weight = np.concatenate([np.ones(300), -np.ones(50)])
    got = rank_correlations(a[twice], b[twice], weight)
    np.testing.assert_allclose(got, rank_correlations(a[50:], b[50:]), atol=1e-12)


def test_the_ranks_of_equal_weights_are_the_mean_ranks_of_ties():
    x = np.array([3.0, 1.0, 3.0, 2.0])[:, None]
    np.testing.assert_allclose(weighted_ranks(x, np.full(4, 2.0))[:, 0], [0.75, 0.125, 0.75, 0.375])


def test_what_is_constant_or_missing_has_no_correlation_of_its_own():
    rng = np.random.default_rng(6)
    a = rng.normal(size=(200, 1))
    b = np.column_stack([np.full(200, 7.3), a[:, 0] + rng.normal(size=200), np.full(200, np.nan)])
    b[::3, 1] = np.nan
    constant, some, none = rank_correlations(a, b)[0]
    assert np.isnan([constant, none]).all()
    there = np.isfinite(b[:, 1])
    assert some == pytest.approx(stats.spearmanr(a[there, 0], b[there, 1]).statistic)
    assert np.isnan(rank_correlations(a[: FEWEST - 1], b[: FEWEST - 1])).all()


def test_gaussians_have_the_known_coefficient_and_the_interval_covers_68_percent():
    rng, true = np.random.default_rng(7), 0.6
    known = 6 / np.pi * np.arcsin(true / 2)
    x = rng.normal(size=(600, 150, 2))
    x[..., 1] = true * x[..., 0] + np.sqrt(1 - true**2) * x[..., 1]
    rho = np.array([rank_correlations(one[:, :1], one[:, 1:])[0, 0] for one in x])
    assert rho.mean() == pytest.approx(known, abs=0.01)
    low, high = rank_interval(rho, 150)
    assert np.mean((low < known) & (known < high)) == pytest.approx(0.683, abs=0.06)
    low, high = rank_interval(np.array([0.5, np.nan]), 3)
    assert (low[0], high[0]) == (-1, 1)
    assert np.isnan([low[1], high[1]]).all()


def test_the_highest_scores_are_found_where_a_rank_correlation_sees_nothing():
    x = np.random.default_rng(8).uniform(-1, 1, (20_000, 2))
    score = np.abs(x[:, 0])
    weight = np.ones(len(x))
    assert abs(rank_correlations(score[:, None], x)[0, 0]) < 0.03
    middle, low, high = top_places(score, x, weight)
    # Half of them below 0.005, half above 0.995; 16 % of all is 32 % of a half.
    assert (low[0], high[0]) == pytest.approx((0.32 * 0.005, 1 - 0.32 * 0.005), abs=2e-4)
    assert middle[1] == pytest.approx(0.5, abs=0.1)
    middle, low, high = top_places(x[:, 0], x, weight)
    assert (low[0], middle[0], high[0]) == pytest.approx((0.9916, 0.995, 0.9984), abs=2e-4)
    # A weight is that many events.
    times = np.random.default_rng(9).integers(0, 4, 20_000)
    times[x[:, 0] < 0] *= 5
    again = np.repeat(np.arange(20_000), times)
    wanted = top_places(x[again, 0], x[again], np.ones(len(again)))
    np.testing.assert_allclose(top_places(x[:, 0], x, times.astype(float)), wanted, atol=1e-3)
    assert np.isnan(top_places(x[:5, 0], x[:5], np.ones(5))[0]).all()


# Principal axes


def test_the_axes_of_a_known_covariance():
    turn = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    wanted = turn.T @ np.diag([9.0, 1.0, 4.0]) @ turn
    x = with_covariance(500, wanted) + np.array([5.0, -3.0, 100.0])
    found = principal_axes(x, standardised=False)
    np.testing.assert_allclose(found.shares, np.array([9, 4, 1]) / 14, atol=1e-10)
    np.testing.assert_allclose(found.axes, [[0.8, 0.6, 0.0], [0.0, 0.0, 1.0], [-0.6, 0.8, 0.0]], atol=1e-8)
    at = found.coordinates(x, 3)
    np.testing.assert_allclose(at.T @ at / 500, np.diag([9.0, 4.0, 1.0]), atol=1e-8)
    shares = np.array([9, 4, 1]) / 14
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_standardised_axes_are_those_of_the_correlations_and_a_constant_has_no_part():
    x = with_covariance(400, np.array([[1e6, 600.0], [600.0, 1.0]]))
    x = np.column_stack([x, np.full(400, 0.1)])
    found = principal_axes(x, standardised=True)
    np.testing.assert_allclose(found.shares, [0.8, 0.2, 0.0], atol=1e-10)  # eigenvalues 1 +- 0.6
    np.testing.assert_allclose(np.abs(found.axes[0]), [np.sqrt(0.5), np.sqrt(0.5), 0.0], atol=1e-8)
    assert (found.axes[np.arange(3), np.abs(found.axes).argmax(axis=1)] > 0).all()
    assert principal_axes(np.ones((50, 2)), standardised=True).shares.tolist() == [0.0, 0.0]


def test_weighted_axes_are_those_of_repeated_events():
    rng = np.random.default_rng(9)
    x, times = rng.normal(size=(200, 3)) * [1, 2, 3], rng.integers(0, 4, 200)
    got = principal_axes(x, standardised=True, weight=times.astype(float))
    wanted = principal_axes(np.repeat(x, times, axis=0), standardised=True)
    for name in ("mean", "scale", "shares", "axes"):
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=1e-10)


# Linear probes


def test_a_probe_explains_what_is_linear_and_no_more():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(8000, 3)) * [1.0, 100.0, 0.01] + 7
    signal = (x[:, 0] - 7) + (x[:, 1] - 7) / 100
    noise = rng.normal(size=8000)
    y = np.column_stack([signal, signal + noise, noise, (x[:, 0] - 7) ** 2, np.full(8000, 3.0)])
    learnt = np.arange(8000) % 2 == 0
    probes = linear_probes(x, y, ["exact", "noisy", "nothing", "square", "constant"], learnt, seed=1)
    assert [p.name for p in probes] == ["exact", "noisy", "nothing", "square", "constant"]
    exact, noisy, nothing, square, constant = probes
    assert exact.r2 == pytest.approx(1.0)
    assert noisy.r2 == pytest.approx(2 / 3, abs=0.02)  # variance 2 of 3
    assert noisy.low < noisy.r2 < noisy.high
    assert 0.01 < noisy.high - noisy.low < 0.03
    assert abs(nothing.r2) < 0.01
    assert abs(square.r2) < 0.02
    assert np.isnan([constant.r2, constant.low, constant.high]).all()


def test_a_probe_is_judged_on_events_it_did_not_see():
    """Of pure noise in as many dimensions as nearly half the events, the fitted half would be explained well."""
    rng = np.random.default_rng(11)
    x, y, learnt = rng.normal(size=(200, 80)), rng.normal(size=(200, 1)), np.arange(200) < 100
    (probe,) = linear_probes(x, y, ["noise"], learnt, seed=1)
    assert probe.r2 < -0.5
    design = np.column_stack([np.ones(100), x[:100]])
    told = design @ np.linalg.lstsq(design, y[:100], rcond=None)[0]
    assert 1 - ((y[:100] - told) ** 2).sum() / y[:100].var() / 100 > 0.6


def test_a_probe_is_compared_with_the_mean_of_the_events_that_judge_it():
    rng = np.random.default_rng(14)
    x, learnt = rng.normal(size=(4000, 1)), np.arange(4000) < 2000
    y = np.where(learnt, 0.0, 5.0)[:, None] + rng.normal(size=(4000, 1))
    (probe,) = linear_probes(x, y, ["moved"], learnt, seed=1)
    assert probe.r2 == pytest.approx(-25, rel=0.1)  # 5^2 of a variance of 1


def test_the_seed_of_a_probe_moves_its_interval_alone():
    rng = np.random.default_rng(12)
    x = rng.normal(size=(500, 2))
    y, learnt = x[:, :1] + rng.normal(size=(500, 1)), rng.random(500) < 0.5
    one, same, other = (linear_probes(x, y, ["y"], learnt, seed)[0] for seed in (1, 1, 2))
    assert one == same
    assert (one.r2, one.low != other.low) == (other.r2, True)


def test_weights_and_missing_values_of_a_probe_are_those_of_the_events_that_are_left():
    rng = np.random.default_rng(13)
    x = rng.normal(size=(600, 2))
    y = x @ [[1.0], [2.0]] + rng.normal(size=(600, 1))
    learnt, spoilt = rng.random(600) < 0.5, rng.random(600) < 0.2
    wild = np.where(spoilt[:, None], 1e3, y)
    wanted = linear_probes(x[~spoilt], y[~spoilt], ["y"], learnt[~spoilt], 1)[0].r2
    (weighted,) = linear_probes(x, wild, ["y"], learnt, 1, weight=(~spoilt).astype(float))
    (missing,) = linear_probes(x, np.where(spoilt[:, None], np.nan, y), ["y"], learnt, 1)
    assert (weighted.r2, missing.r2) == pytest.approx((wanted, wanted))
    assert np.isnan(linear_probes(x[:30], y[:30], ["y"], learnt[:30], 1)[0].r2)
