"""Limits against pyhf, closed forms and toys; the self-consistent limit against its published toy and by coverage."""

import math

import numpy as np
import pytest
from elsewhere.analysis.likelihood import BinnedModel, asimov, fit_at, fit_best
from elsewhere.analysis.limits import BANDS, cls, discovery, n95, q_tilde, toy_cls, toy_limit, upper_limit
from elsewhere.analysis.self_consistent import (
    coverage,
    discovery_reach,
    expected_reach,
    fit_efficiency,
    self_consistent_limit,
)
from elsewhere.errors import FitError
from scipy import optimize, stats

TWO_BINS = BinnedModel([12.0, 11.0], [50.0, 52.0], [3.0, 7.0], "poisson")
TURN_ON = np.linspace(0, 9, 40)


def logistic(sigma):
    """An efficiency of 0.002 without signal and 0.302 in the end, half way at 3.5 fb."""
    return 0.002 + 0.3 / (1 + np.exp(-(np.asarray(sigma) - 3.5) / 0.6))


def exact(sigma=TURN_ON):
    return fit_efficiency(sigma, np.repeat(logistic(sigma)[:, None], 3, axis=1), seed=1)


def test_the_golden_limit_of_pyhf():
    found = upper_limit(TWO_BINS, [51, 48])
    assert found.observed == pytest.approx(1.01156939, rel=1e-5)
    assert found.expected == pytest.approx(
        [0.55988001, 0.75702336, 1.06234693, 1.50116923, 2.05078596], rel=2e-5
    )
    assert cls(TWO_BINS, TWO_BINS.nominal([51, 48]), 1.0).observed == pytest.approx(0.052515, abs=1e-6)


def test_the_golden_discovery_of_pyhf():
    found = discovery(BinnedModel([25.0], [50.0], [7.0], "poisson"), [80])
    assert found.p0 == pytest.approx(0.003936883, rel=2e-5)
    assert found.z == pytest.approx(2.65743, abs=1e-5)
    want = [1.2205e-5, 6.4052e-4, 0.0132029, 0.111196, 0.412861]
    assert found.expected_p0[::-1] == pytest.approx(want, rel=5e-4)
    assert discovery(TWO_BINS, [30, 30]).z == 0.0


def test_events_excluded_on_100_expected_and_seen():
    found = n95(100, 100, 10)
    assert found.observed == pytest.approx(28.4, abs=0.01)
    assert found.observed == pytest.approx(found.expected[2], rel=1e-6)
    assert n95(100, 100, 10, level=0.1).observed < found.observed
    assert n95(80, 100, 10).observed < found.observed < n95(120, 100, 10).observed


def test_expected_bands_of_the_limit_are_those_of_cls():
    data, found = TWO_BINS.nominal([51, 48]), upper_limit(TWO_BINS, [51, 48])
    for i in range(len(BANDS)):
        assert cls(TWO_BINS, data, found.expected[i]).expected[i] == pytest.approx(0.05, rel=1e-6)
    assert np.all(np.diff(found.expected) > 0)


@pytest.mark.parametrize("constraint", ["poisson", "gauss"])
@pytest.mark.parametrize("signal_error", [0.0, 0.3])
def test_the_profile_is_that_of_a_general_minimiser(constraint, signal_error):
    modes = np.array([[2.0, 1.0, 0.5], [-1.0, 0.4, 0.8]])
    signal, background, sigma = (
        np.array([2.0, 9.0, 3.0]),
        np.array([40.0, 20.0, 8.0]),
        np.array([4.0, 3.0, 2.0]),
    )
    model = BinnedModel(signal, background, sigma, constraint, modes, signal_error)
    n, tau = np.array([47.0, 31.0, 5.0]), (background / sigma) ** 2
    kappa = math.log1p(signal_error)

    def nll(par):
        mu, theta, scale, own = par[0], par[1:3], par[3], par[4:]
        lam = mu * signal * math.exp(kappa * scale) + theta @ modes + own
        if np.any(lam <= 0) or np.any(own <= 0):
            return 1e9
        out = np.sum(lam - n + n * np.log(n / lam)) + 0.5 * np.sum(theta**2) + 0.5 * scale**2
        g = own / background
        if constraint == "poisson":
            return out + np.sum(tau * g - tau - tau * np.log(g))
        return out + 0.5 * np.sum(((own - background) / sigma) ** 2)

    data = model.nominal(n)
    for mu in (0.0, 0.7, 3.0):
        start = np.concatenate([[0.0, 0.0, 0.0], background])
        want = optimize.minimize(
            lambda p, mu=mu: nll(np.append(mu, p)), start, method="Nelder-Mead",
            options={"maxiter": 40_000, "maxfev": 40_000, "xatol": 1e-9, "fatol": 1e-12, "adaptive": True},
        )  # fmt: skip
        found = fit_at(model, data, mu)
        assert found.nll <= want.fun + 1e-9
        assert found.nll == pytest.approx(want.fun, abs=2e-6)
    best = fit_best(model, data)
    grid = [fit_at(model, data, m).nll for m in best.mu + np.array([-0.01, 0.01])]
    assert best.nll < min(grid)


def test_no_fit_of_many_different_models_fails():
    rng = np.random.default_rng(1)
    for i in range(60):
        bins = int(rng.integers(1, 30))
        background = rng.exponential(10 ** rng.uniform(-1, 4), bins) + 0.05
        signal = np.exp(-0.5 * ((np.arange(bins) - bins / 2) / 2) ** 2) * rng.uniform(0.5, 50)
        sigma = background * rng.uniform(0, 0.4, bins) * (i % 3 > 0)
        modes = background * rng.normal(0, 0.12, (i % 4, bins))
        model = BinnedModel(
            signal, background, sigma, ("poisson", "gauss")[i % 2], modes, (0.0, 0.1, 0.4)[i // 2 % 3]
        )
        n = rng.poisson(background * rng.lognormal(0, 0.1, bins) + signal * (i % 5 == 0))
        found = upper_limit(model, n)
        assert cls(model, model.nominal(n), found.observed).observed == pytest.approx(0.05, rel=1e-6)
        assert np.all(np.diff(found.expected) > 0)
        assert 0 <= discovery(model, n).p0 <= 0.5


def test_the_asimov_data_fit_back_to_what_they_were_made_from():
    model = BinnedModel([3.0, 8.0], [30.0, 20.0], [3.0, 2.0], "poisson", [[1.0, 2.0]], 0.1)
    at = fit_at(model, model.nominal([41, 30]), 0.6)
    again = fit_best(model, asimov(model, at))
    assert again.mu == pytest.approx(0.6, abs=1e-6)
    assert again.nll == pytest.approx(0.0, abs=1e-9)


def test_a_covariance_says_what_its_modes_say():
    modes = np.array([[3.0, 5.0], [1.0, -2.0]])
    one = BinnedModel([12.0, 11.0], [50.0, 52.0], [0.0, 0.0], "gauss", modes)
    other = BinnedModel.correlated([12.0, 11.0], [50.0, 52.0], modes.T @ modes)
    assert upper_limit(one, [51, 48]).observed == pytest.approx(
        upper_limit(other, [51, 48]).observed, rel=1e-7
    )
    diagonal = BinnedModel.correlated([12.0, 11.0], [50.0, 52.0], np.diag([9.0, 49.0]))
    bins = BinnedModel([12.0, 11.0], [50.0, 52.0], [3.0, 7.0])
    assert upper_limit(diagonal, [51, 48]).observed == pytest.approx(
        upper_limit(bins, [51, 48]).observed, rel=1e-6
    )


def test_an_uncertain_signal_weakens_the_limit():
    assert n95(100, 100, 10, signal_error=0.3).observed > 1.03 * n95(100, 100, 10).observed


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")
@pytest.mark.parametrize("constraint", ["poisson", "gauss"])
def test_pyhf_agrees(constraint):
    pyhf = pytest.importorskip("pyhf")
    kind = "shapesys" if constraint == "poisson" else "staterror"
    sample = {
        "name": "b",
        "data": [20.0, 12.0, 4.0],
        "modifiers": [{"name": "u", "type": kind, "data": [3.0, 2.0, 1.0]}],
    }
    signal = {
        "name": "s",
        "data": [1.0, 5.0, 2.0],
        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
    }
    other = pyhf.Model({"channels": [{"name": "c", "samples": [signal, sample]}]}, poi_name="mu")
    data = [22.0, 15.0, 3.0, *other.config.auxdata]
    model = BinnedModel(signal["data"], sample["data"], [3.0, 2.0, 1.0], constraint)
    for mu in (0.5, 1.2):
        found = cls(model, model.nominal(data[:3]), mu)
        observed, bands = pyhf.infer.hypotest(mu, data, other, return_expected_set=True)
        assert found.observed == pytest.approx(float(observed), rel=2e-3)
        assert found.expected == pytest.approx(np.array(bands, dtype=float), rel=5e-3)


def test_nothing_seen_and_nothing_expected_excludes_three_events_by_toys_only():
    model = BinnedModel([1.0], [1e-9], [0.0])
    found = toy_limit(model, [0], toys=4000, seed=1)
    assert found.observed == pytest.approx(-math.log(0.05), abs=4 * found.error)
    assert found.error < 0.1
    assert upper_limit(model, [0]).observed < 2.2  # the asymptotic formula excludes too much here


def test_toys_agree_with_the_asymptotic_limit_at_high_counts_and_repeat():
    model = BinnedModel.counting(100, 10)
    found = toy_limit(model, [104], toys=4000, seed=3)
    assert found.observed == pytest.approx(upper_limit(model, [104]).observed, abs=4 * found.error)
    assert found.expected[2] == pytest.approx(28.4, abs=2.0)
    again = toy_limit(model, [104], toys=4000, seed=3)
    assert again.observed == found.observed
    assert (again.method, again.toys, again.failed) == ("toys", 4000, 0)


def test_toys_at_low_counts_give_the_exact_cls_of_a_known_background():
    b, n, mu = 2.0, 1, 4.5
    found = toy_cls(BinnedModel.counting(b, 0.0), [n], mu, toys=40_000, rng=np.random.default_rng(1))
    want = stats.poisson.cdf(n, mu + b) / stats.poisson.cdf(n, b)
    assert found.observed == pytest.approx(want, abs=4 * found.error)


def test_limits_refuse_what_they_cannot_say():
    with pytest.raises(FitError, match="expect events"):
        BinnedModel([0.0], [1.0], [0.1])
    with pytest.raises(FitError, match="cannot have an uncertainty"):
        BinnedModel([1.0], [0.0], [0.1])
    with pytest.raises(FitError, match="2 counts for a model of 1"):
        BinnedModel.counting(1, 0.1).nominal([1, 2])
    with pytest.raises(FitError, match="not be negative"):
        BinnedModel.counting(1, 0.1).nominal([-1])
    with pytest.raises(FitError, match="where none are expected"):
        q_tilde(
            BinnedModel([1.0, 0.0], [1.0, 0.0], [0.0, 0.0]),
            BinnedModel([1.0, 0.0], [1.0, 0.0], [0, 0]).nominal([1, 1]),
            1.0,
        )
    with pytest.raises(FitError, match="level"):
        upper_limit(TWO_BINS, [50, 50], level=0.7)
    with pytest.raises(FitError, match="at least 100"):
        toy_cls(TWO_BINS, [50, 50], 1.0, toys=10, rng=np.random.default_rng(1))


def test_the_self_consistent_limit_is_three_times_weaker_than_the_naive_one():
    found = self_consistent_limit(BinnedModel.counting(100, 10), [100], exact(), 100.0)
    assert found.observed == pytest.approx(3.01, abs=0.01)
    assert found.naive == pytest.approx(0.94, abs=0.005)
    assert 100 * found.observed * logistic(found.observed) == pytest.approx(28.4, rel=5e-3)
    assert found.expected[2] == pytest.approx(found.observed, rel=1e-6)
    assert np.all(np.diff(found.expected) > 0)
    assert found.crossings == (found.observed,)
    assert found.words.startswith("3.01 fb at 95 % CL")
    assert found.eps_low == pytest.approx(found.eps_high)


def test_every_crossing_is_reported_and_the_last_one_is_the_limit():
    sigma = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    eps = np.array([0.01, 0.4, 0.5, 0.02, 0.02, 0.3])  # a selection that loses the signal at 3 fb
    curve = fit_efficiency(sigma, np.repeat(eps[:, None], 3, axis=1), seed=1, monotone=False)
    found = self_consistent_limit(BinnedModel.counting(100, 10), [100], curve, 100.0)
    assert len(found.crossings) == 3
    assert found.observed == max(found.crossings) > 4
    assert "crosses 0.05 3 times" in found.words


def test_a_limit_beyond_the_injections_is_none():
    sigma = TURN_ON[TURN_ON < 2.5]
    found = self_consistent_limit(BinnedModel.counting(100, 10), [100], exact(sigma), 100.0)
    assert math.isinf(found.observed)
    assert "no limit up to" in found.words
    with pytest.raises(FitError, match="inject signal at 4 fb"):
        exact(sigma).at(4.0)


def test_the_spread_of_retrainings_is_a_nuisance_and_the_band_reaches_the_limit():
    rng = np.random.default_rng(2)
    sigma = np.linspace(0, 9, 13)
    eps = np.clip(logistic(sigma)[:, None] * rng.normal(1.0, 0.25, (13, 8)), 0, 1)
    curve = fit_efficiency(sigma, eps, seed=1)
    assert np.all(np.diff(curve.value) >= 0)
    assert curve.spread[-4:].mean() == pytest.approx(0.25, abs=0.1)
    assert np.mean((curve.low <= logistic(sigma)) & (logistic(sigma) <= curve.high)) > 0.4
    model = BinnedModel.counting(100, 10)
    with_it = self_consistent_limit(model, [100], curve, 100.0)
    without = self_consistent_limit(model, [100], curve, 100.0, nuisance=False)
    assert with_it.observed > without.observed
    assert with_it.eps_high < with_it.observed < with_it.eps_low


def test_efficiency_points_are_checked():
    with pytest.raises(FitError, match="rise from 0"):
        fit_efficiency([1, 2, 3, 4], np.full((4, 3), 0.1), seed=1)
    with pytest.raises(FitError, match="at least 4 with 3"):
        fit_efficiency([0, 1, 2], np.full((3, 3), 0.1), seed=1)
    with pytest.raises(FitError, match="between 0 and 1"):
        fit_efficiency([0, 1, 2, 3], np.full((4, 3), 1.1), seed=1)


def test_reach_from_injections_and_expected():
    sigma = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    z = 2.0 * sigma[:, None] + np.random.default_rng(1).normal(0, 0.5, (5, 41))
    found = discovery_reach(sigma, z, 3.0, seed=1)
    assert found.sigma == pytest.approx(1.5, abs=0.15)
    assert found.low <= found.sigma <= found.high
    assert math.isinf(discovery_reach(sigma, z, 12.0, seed=1).sigma)
    reach = expected_reach(100, 10, exact(), 100.0, 3.0)
    from elsewhere.analysis.counting import cut_and_count_z

    assert cut_and_count_z(100 + 100 * reach * logistic(reach), 100, 10) == pytest.approx(3.0, abs=0.02)
    assert math.isinf(expected_reach(1e9, 1e8, exact(), 100.0, 3.0))


class CellSearch:
    """A whole weakly supervised search: half the data picks the 8 fullest of 40 cells, the other half is counted there.

    Signal sits in 8 of the cells. ``sigma`` is the number of signal events: the luminosity is 1.
    """

    signal = np.arange(40) < 8
    background = 4000.0
    model = BinnedModel.counting(400.0, 4.0)

    def train_and_count(self, sigma, rng):
        mean = np.full(40, self.background / 80) + self.signal * sigma / 16
        picked = np.argsort(-rng.poisson(mean) - rng.random(40))[:8]
        return rng.poisson(mean[picked]).sum(), self.signal[picked].mean() / 2

    def efficiency(self, seed):
        sigma, rng = np.array([0.0, 40.0, 80.0, 120.0, 160.0, 240.0, 400.0]), np.random.default_rng(seed)
        return fit_efficiency(
            sigma, [[self.train_and_count(s, rng)[1] for _ in range(30)] for s in sigma], seed=seed
        )


def test_complete_searches_exclude_a_signal_at_the_limit_rarely_enough_and_the_naive_limit_does_not():
    search = CellSearch()
    curve = search.efficiency(5)
    expected = self_consistent_limit(search.model, [400], curve, 1.0, points=6).expected[2]

    def limits(which):
        def chain(sigma, rng):
            n, _ = search.train_and_count(sigma, rng)
            return getattr(self_consistent_limit(search.model, [n], curve, 1.0, points=3, bands=False), which)

        return chain

    good = coverage(limits("observed"), expected, seed=7, pseudo_data=80)
    assert good.holds, good
    assert good.low <= good.fraction <= good.high
    naive = self_consistent_limit(search.model, [400], curve, 1.0, points=6).naive
    assert naive < 0.8 * expected
    bad = coverage(limits("naive"), naive, seed=7, pseudo_data=80)
    assert not bad.holds, bad
    assert bad.fraction > 0.12


def test_a_search_without_an_answer_counts_against_the_coverage():
    def broken(sigma, rng):
        raise FitError("no fit")

    found = coverage(broken, 1.0, seed=1, pseudo_data=20)
    assert (found.failed, found.fraction, found.holds) == (20, 1.0, False)
    assert coverage(lambda s, rng: math.nan, 1.0, seed=1, pseudo_data=20).failed == 20
    draws = []
    coverage(lambda s, rng: draws.append(rng.random()) or 2.0, 1.0, seed=1, pseudo_data=5)
    assert len(set(draws)) == 5
