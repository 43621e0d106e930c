"""The order by the likelihood ratio keeps its size; goodness of fit by toys where chi2 has none."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis
from elsewhere.analysis.order_choice import choose_orders, goodness_of_fit, ratio_by_toys
from elsewhere.analysis.peaks import fit_backgrounds
from elsewhere.errors import ConfigError, FitError
from scipy import stats

from . import test_peaks_third_order
from .test_dijet import EDGES, ENERGY, truth


def of_order(order, events):
    """A spectrum that is exactly of the family's ``order``."""
    return fit_backgrounds(truth(events), basis(EDGES, order, ENERGY)).expected[0]


@pytest.mark.parametrize("events", [1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("order", [2, 3])
def test_the_ratio_keeps_its_size(order, events):
    toys = np.random.default_rng(order).poisson(of_order(order, events), (3000, 40)).astype(float)
    found = choose_orders(toys, EDGES, ENERGY, least=order, most=order + 1)
    assert not found.failed.any()
    assert np.mean(found.order == order + 1) == pytest.approx(0.05, abs=0.015)
    np.testing.assert_array_equal(found.order == order + 1, found.gain[:, 0] > stats.chi2.isf(0.05, 1))
    assert np.mean(
        choose_orders(toys, EDGES, ENERGY, least=order, most=order + 1, size=0.3).order > order
    ) == pytest.approx(0.3, abs=0.04)


def test_the_fifth_parameter_keeps_its_size_at_few_events():
    """What it gains follows no chi2 there: .075 of the spectra would ask for it."""
    expected = test_peaks_third_order.of_order(4, 1e3)
    thrown = np.random.default_rng(4).poisson(expected, (3000, len(expected))).astype(float)
    edges = test_peaks_third_order.EDGES
    found = choose_orders(thrown, edges, ENERGY, least=4, most=5)
    assert np.mean(found.gain[:, 0] > stats.chi2.isf(0.05, 1)) > 0.065
    assert np.mean(found.order == 5) == pytest.approx(0.05, abs=0.01)
    again = choose_orders(thrown, edges, ENERGY, least=4, most=5, seed=2)
    assert 0 < np.sum(again.order != found.order) < 100


def test_a_needed_parameter_is_taken_and_the_steps_stop_where_they_should():
    toys = np.random.default_rng(1).poisson(truth(3e6), (20, 40)).astype(float)
    found = choose_orders(toys, EDGES, ENERGY)
    assert np.mean(found.order >= 3) == 1
    for order, gain in zip(found.order, found.gain, strict=True):
        tried = np.isfinite(gain)
        assert np.all(gain[: order - 2] > 3.84)
        assert tried.sum() == min(order - 1, 3)


def test_a_spectrum_without_a_fit_has_order_0_and_is_marked():
    counts = np.stack([np.zeros(40), truth(1e4).round()])
    found = choose_orders(counts, EDGES, ENERGY)
    np.testing.assert_array_equal(found.failed, [True, False])
    assert found.order[0] == 0
    assert found.order[1] >= 2


def test_the_window_is_not_looked_at():
    use = ~((EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700))
    counts = truth(1e5).round()
    spoilt = np.where(use, counts, 10 * counts)
    assert (
        choose_orders(spoilt, EDGES, ENERGY, use).order[0]
        == choose_orders(counts, EDGES, ENERGY, use).order[0]
    )
    assert choose_orders(spoilt, EDGES, ENERGY).order[0] > choose_orders(counts, EDGES, ENERGY, use).order[0]


def test_ratio_by_toys_agrees_with_chi2_where_that_holds():
    counts = np.random.default_rng(4).poisson(of_order(2, 1e5)).astype(float)
    gain = choose_orders(counts, EDGES, ENERGY, most=3).gain[0, 0]
    p, low, high = ratio_by_toys(counts, EDGES, ENERGY, 2, toys=2000)
    assert p == pytest.approx(stats.chi2.sf(gain, 1), abs=0.04)
    assert low <= p <= high
    assert ratio_by_toys(truth(3e6).round(), EDGES, ENERGY, 2, toys=200)[0] == 1 / 201


def test_goodness_of_fit_has_its_size_at_few_events():
    """1000 events: chi2 calls 0.4 % of the spectra bad where 5 % are."""
    toys = np.random.default_rng(3).poisson(of_order(3, 1e3), (200, 40)).astype(float)
    model = basis(EDGES, 3, ENERGY)
    found = [goodness_of_fit(t, model, toys=200) for t in toys]
    p = np.array([f.p_value for f in found])
    assert found[0].method == "toys"
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    chi2 = [stats.chi2.sf(2 * f.half_deviance, f.ndf) for f in found]
    assert stats.kstest(chi2, "uniform").pvalue < 1e-3


def test_goodness_of_fit_sees_a_bad_fit_and_uses_chi2_at_many_events():
    bump = np.where((EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700), 1.3, 1.0)
    model = basis(EDGES, 2, ENERGY)
    many = goodness_of_fit((truth(1e6) * bump).round(), model)
    assert (many.method, many.toys, many.ndf) == ("chi2", 0, 37)
    assert many.p_value < 1e-6
    few = goodness_of_fit((truth(5e4) * bump).round(), model, toys=100)
    assert few.p_value == 1 / 101
    assert few.low <= few.p_value <= few.high
    same = goodness_of_fit((truth(5e4) * bump).round(), model, toys=100)
    assert same == few


def test_toys_without_a_fit_count_as_worse(monkeypatch):
    from elsewhere.analysis import order_choice

    def some_fail(counts, model, use=None):
        fits = fit_backgrounds(counts, model, use)
        fits.converged[1:21] = False
        return fits

    monkeypatch.setattr(order_choice, "fit_backgrounds", some_fail)
    bad = truth(5e4) * np.where((EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700), 1.5, 1.0)
    found = goodness_of_fit(bad.round(), basis(EDGES, 2, ENERGY), toys=100)
    assert found.failed == 20
    assert found.p_value == 21 / 101


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="size 1"):
        choose_orders(truth(1e4), EDGES, ENERGY, size=1.0)
    with pytest.raises(ConfigError, match="orders 4 to 3"):
        choose_orders(truth(1e4), EDGES, ENERGY, least=4, most=3)
    with pytest.raises(ConfigError, match=r"10 toys cannot show a probability of 0\.05: at least 19 can"):
        choose_orders(truth(1e3), EDGES, ENERGY, toys=10)
    choose_orders(truth(1e5), EDGES, ENERGY, toys=10)  # none are thrown
    with pytest.raises(FitError, match="did not converge"):
        goodness_of_fit(np.zeros(40), basis(EDGES, 2, ENERGY))
    with pytest.raises(FitError, match="did not converge"):
        ratio_by_toys(np.zeros(40), EDGES, ENERGY, 2)
