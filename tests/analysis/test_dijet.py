"""The dijet fit: against iminuit, on pulls, on the size of the order test, and what it refuses."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import (
    basis,
    choose_order,
    fit_background,
    fit_signal,
    gaussian_template,
    gradient_of,
)
from elsewhere.errors import FitError
from iminuit import Minuit

ENERGY = 13_000.0
EDGES = np.arange(2500.0, 6501.0, 100.0)


def truth(total, order=3, edges=EDGES):
    """A dijet spectrum like those of the shipped samples, integrated per bin."""
    nodes, weights = np.polynomial.legendre.leggauss(9)
    p = np.array([9.28, 8.0, 1.2, 0.0][:order])
    centre, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    x = (centre[:, None] + half[:, None] * nodes) / ENERGY
    log = np.log(x)
    powers = np.stack([np.log1p(-x), -log, -(log**2), -(log**3)][:order], axis=-1)
    shape = (np.exp(powers @ p) * weights).sum(axis=1) * half
    return shape / shape.sum() * total


def test_a_perfect_spectrum_is_fitted_perfectly():
    fit = fit_background(truth(1e5), basis(EDGES, 3, ENERGY))
    np.testing.assert_allclose(fit.expected, truth(1e5), rtol=1e-4)
    assert fit.half_deviance < 1e-3
    assert fit.ndf == 36


@pytest.mark.parametrize("total", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_minimum_is_iminuits(total, order):
    """The same likelihood in the same orthogonal coordinates, minimised by MIGRAD from elsewhere."""
    counts = np.random.default_rng(order).poisson(truth(total)).astype(float)
    model = basis(EDGES, order, ENERGY)
    fit = fit_background(counts, model)

    def cost(theta):
        lam = gradient_of(model, np.asarray(theta))[0]
        log = np.log(np.where(counts > 0, counts, 1) / lam)
        return float((lam - counts + np.where(counts > 0, counts * log, 0)).sum())

    start = fit.theta + 0.3 * np.sqrt(np.diag(fit.covariance))
    minuit = Minuit(cost, start)
    minuit.errordef, minuit.strategy, minuit.tol = Minuit.LIKELIHOOD, 2, 1e-3
    minuit.migrad()
    minuit.hesse()
    assert fit.half_deviance <= minuit.fval + 1e-4
    assert fit.half_deviance == pytest.approx(minuit.fval, abs=1e-3)
    errors = np.sqrt(np.diag(fit.covariance))
    np.testing.assert_allclose((fit.theta - np.array(minuit.values)) / errors, 0, atol=0.02)
    np.testing.assert_allclose(errors, np.array(minuit.errors), rtol=0.05 if total > 1e4 else 0.25)


def test_pulls_of_the_masked_prediction():
    """n - b over the expected spread of both, in a window that the fit never sees."""
    expected, inside = truth(1e5), (EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700)
    model, rng, pulls = basis(EDGES, 3, ENERGY), np.random.default_rng(5), []
    for _ in range(400):
        counts = rng.poisson(expected).astype(float)
        fit = fit_background(counts, model, ~inside)
        b, s = fit.integral(inside, gradient_of(model, fit.theta)[1])
        pulls.append((counts[inside].sum() - b) / np.sqrt(b + s**2))
    assert abs(np.mean(pulls)) < 0.15
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("strength", [0.0, 2.0, 5.0])
def test_pulls_of_an_injected_signal(strength):
    expected = truth(1e5)
    template = gaussian_template(EDGES, 3500.0, 175.0)
    injected = strength * np.sqrt((expected * (template > 0.05)).sum())
    model, rng, pulls = basis(EDGES, 3, ENERGY), np.random.default_rng(int(strength)), []
    for _ in range(300):
        fit = fit_signal(rng.poisson(expected + injected * template).astype(float), model, 3500.0, 0.05)
        pulls.append((fit.signal - injected) / fit.error)
    assert abs(np.mean(pulls)) < 0.2
    assert np.std(pulls) == pytest.approx(1.0, abs=0.12)


def test_q0_is_half_a_chi2_without_signal():
    expected, model, rng = truth(1e5), basis(EDGES, 3, ENERGY), np.random.default_rng(9)
    q0 = np.array(
        [fit_signal(rng.poisson(expected).astype(float), model, 3500.0, 0.05).q0 for _ in range(600)]
    )
    assert np.mean(q0 == 0) == pytest.approx(0.5, abs=0.07)
    assert np.mean(q0 > 2.706) == pytest.approx(0.05, abs=0.03)


@pytest.mark.parametrize("total", [3e3, 1e5])
def test_the_order_test_keeps_its_size(total):
    """A spectrum of two shape parameters asks for a third in 5 % of the cases."""
    expected, rng = truth(total, order=2), np.random.default_rng(2)
    use = np.ones(len(expected), bool)
    more = [choose_order(rng.poisson(expected).astype(float), EDGES, ENERGY, use) > 2 for _ in range(400)]
    assert np.mean(more) == pytest.approx(0.05, abs=0.03)


def test_a_third_parameter_is_taken_where_it_is_needed():
    counts = np.random.default_rng(1).poisson(truth(1e6, order=3))
    assert choose_order(counts.astype(float), EDGES, ENERGY, np.ones(len(counts), bool)) >= 3


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.full(40, np.nan), "finite"),
        (-np.ones(40), "not negative"),
        (np.zeros(40), "empty outside the window"),
    ],
)
def test_what_cannot_be_fitted_is_refused(counts, message):
    with pytest.raises(FitError, match=message):
        fit_background(counts, basis(EDGES, 3, ENERGY))


def test_too_few_bins_and_a_range_beyond_the_beams_are_refused():
    with pytest.raises(FitError, match="use more bins"):
        fit_background(np.ones(4), basis(EDGES[:5], 3, ENERGY))
    with pytest.raises(FitError, match="13000"):
        basis(np.array([2000.0, 14_000.0]), 3, ENERGY)
