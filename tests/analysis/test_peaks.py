"""Signal fits of whole mass scans: against iminuit, on pulls and sizes, at the edge of empty bins, and what they
refuse.
"""

from itertools import pairwise

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis, fit_signal
from elsewhere.analysis.peaks import CrystalBall, Gaussian, fit_backgrounds, scan_masses, templates
from elsewhere.analysis.peaks_kernels import WALL
from elsewhere.errors import ConfigError, FitError
from scipy import integrate, stats

from .test_dijet import EDGES, ENERGY, truth

MASSES = np.arange(2800.0, 6001.0, 200.0)
SHAPE = Gaussian(0.035)


def thrown(events, toys, seed=1, signal=0.0):
    expected = truth(events) + signal
    return np.random.default_rng(seed).poisson(expected, (toys, len(EDGES) - 1)).astype(float)


def cost_of(counts, model, signal, floor):
    """The likelihood, written again in NumPy."""

    def cost(theta):
        total = np.exp(model.logw + model.phi @ theta[:-1]).sum(axis=1) + theta[-1] * signal
        seen = counts > 0
        if not np.all(total[seen] > 0):
            return 1e9 * (1 - total[seen].min())
        wall = np.where(~seen & (total < floor), floor * (1 - total / floor) ** 3, 0.0)
        return float(
            (total - counts + wall).sum() + (counts[seen] * np.log(counts[seen] / total[seen])).sum()
        )

    return cost


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@pytest.mark.parametrize("events", [500.0, 1e5])
def test_no_minimum_of_iminuit_lies_lower(order, events):
    iminuit = pytest.importorskip("iminuit")
    counts, model, mass = thrown(events, 3, seed=order), basis(EDGES, order, ENERGY), 3600.0
    scan, nulls = scan_masses(counts, model, [mass], SHAPE), fit_backgrounds(counts, model)
    assert not scan.failed.any()
    signal = SHAPE.fractions(EDGES, mass)
    for i in range(3):
        cost = cost_of(counts[i], model, signal, WALL * nulls.expected[i])
        found = []
        for start in (0.0, scan.signal[i, 0], 3 * scan.error[i, 0]):
            minuit = iminuit.Minuit(cost, np.append(nulls.theta[i], start))
            minuit.errordef, minuit.strategy = iminuit.Minuit.LIKELIHOOD, 1
            minuit.errors = np.append(np.full(order + 1, 0.1), scan.error[i, 0])
            minuit.migrad().hesse().migrad()
            found.append(minuit)
        best = min(found, key=lambda m: m.fval)
        assert scan.half_deviance[i, 0] <= best.fval + 1e-6
        if abs(scan.half_deviance[i, 0] - best.fval) < 1e-5 and not scan.at_edge[i, 0]:
            assert scan.signal[i, 0] == pytest.approx(best.values[order + 1], abs=0.02 * scan.error[i, 0])
            assert scan.error[i, 0] == pytest.approx(best.errors[order + 1], rel=0.1)


def test_a_scan_is_the_fits_one_by_one():
    counts, model = thrown(1e5, 2), basis(EDGES, 3, ENERGY)
    scan = scan_masses(counts, model, MASSES, SHAPE)
    for i in range(2):
        for m in (0, 5, 11):
            one = fit_signal(counts[i], model, float(MASSES[m]), 0.035)
            assert scan.signal[i, m] == pytest.approx(one.signal, abs=0.01 * one.error)
            assert scan.q0[i, m] == pytest.approx(one.q0, abs=1e-3)
            assert scan.error[i, m] == pytest.approx(
                one.error, rel=0.1
            )  # expected information there, observed here
    np.testing.assert_array_equal(scan_masses(counts[1], model, MASSES, SHAPE).q0[0], scan.q0[1])


@pytest.mark.parametrize("sigmas", [0.0, 1.0, 2.0, 3.0, 5.0])
def test_injected_signals_come_back(sigmas):
    model, signal = basis(EDGES, 3, ENERGY), SHAPE.fractions(EDGES, 3600.0)
    error = scan_masses(truth(1e5), model, [3600.0], SHAPE).error[0, 0]
    scan = scan_masses(
        thrown(1e5, 1500, seed=int(sigmas), signal=sigmas * error * signal), model, [3600.0], SHAPE
    )
    pulls = (scan.signal[:, 0] - sigmas * error) / scan.error[:, 0]
    assert not scan.failed.any()
    assert abs(pulls.mean()) < 0.1
    assert 0.95 < pulls.std() < 1.1


@pytest.mark.parametrize("events", [1e4, 1e6])
def test_local_significances_have_their_size(events):
    scan = scan_masses(thrown(events, 4000, seed=3), basis(EDGES, 3, ENERGY), [3300.0], SHAPE)
    for z in (1.0, 2.0):
        p = stats.norm.sf(z)
        assert np.mean(scan.z > z) == pytest.approx(p, abs=4 * np.sqrt(p / 4000))
    np.testing.assert_allclose(scan.p0, stats.norm.sf(np.maximum(scan.z, 0)), rtol=1e-6)


def test_a_deficit_in_empty_bins_is_an_edge_and_not_a_failure():
    """30 events: beyond 4 TeV nothing is seen, and a negative signal there is worth the background at most."""
    counts = thrown(60.0, 200, seed=4)
    scan = scan_masses(counts, basis(EDGES, 3, ENERGY), MASSES, SHAPE)
    assert scan.failed.mean() < 0.001
    assert scan.at_edge[:, -1].mean() > 0.5
    assert np.all(scan.q0[scan.at_edge & (scan.signal < 0)] == 0)
    assert np.all(scan.z[scan.at_edge & (scan.signal < 0)] <= 0)
    assert np.isfinite(scan.error).all()
    assert np.mean(scan.z_max > 3) < 0.1


def test_of_two_minima_the_lower_counts():
    """One event in each tail of the signal and none between: a small excess and a deficit both end a fit, the first starts in neither."""
    edges, counts = np.arange(2700.0, 7001.0, 100.0), np.zeros(43)
    counts[:24] = [22, 11, 10, 14, 19, 7, 8, 4, 3, 8, 5, 4, 4, 2, 4, 1, 1, 1, 1, 0, 2, 0, 0, 1]
    counts[[28, 35]] = 1
    scan = scan_masses(counts, basis(edges, 2, ENERGY), [5850.0], Gaussian(0.035))
    assert not scan.failed.any()
    assert scan.signal[0, 0] == pytest.approx(-0.691, abs=0.002)
    assert scan.half_deviance[0, 0] == pytest.approx(16.58787, abs=1e-4)


def test_a_failed_fit_counts_as_exceeding(monkeypatch):
    from elsewhere.analysis import peaks

    def broken(counts, phi, logw, signals, null, mu, error, half, root, outcome):
        outcome[0, 1] = 2

    monkeypatch.setattr(peaks, "scan_many", broken)
    scan = scan_masses(thrown(1e4, 2), basis(EDGES, 3, ENERGY), [3000.0, 3500.0], SHAPE)
    np.testing.assert_array_equal(scan.failed, [[False, True], [False, False]])
    assert scan.q0[0, 1] == np.inf
    assert scan.z_max[0] == np.inf
    assert scan.p0[0, 1] == 0.0


def test_steps_that_run_out_are_reported(monkeypatch):
    """The kernel itself, given starts that no step can leave, says that it has no minimum."""
    from elsewhere.analysis.peaks import laid_out
    from elsewhere.analysis.peaks_kernels import minimise

    model = basis(EDGES, 3, ENERGY)
    phi, logw = laid_out(model)
    theta = np.full(5, np.nan)
    cells, grad, matrix, work = np.empty((6, 40)), np.empty((4, 40)), np.zeros((5, 5)), np.empty((3, 5))
    half, good = minimise(
        truth(1e4), phi, logw, np.zeros(40), np.zeros(40), False, 0.0, theta, cells, grad, matrix, work
    )
    assert not good
    assert not half < np.inf


def test_background_fits_predict_masked_bins_and_mark_empty_spectra():
    counts, use = thrown(1e5, 3), ~((EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700))
    counts[1] = 0.0
    fits = fit_backgrounds(counts, basis(EDGES, 3, ENERGY), use)
    np.testing.assert_array_equal(fits.converged, [True, False, True])
    assert fits.failed == 1
    spoilt = counts.copy()
    spoilt[:, ~use] += 1e4
    np.testing.assert_array_equal(
        fit_backgrounds(spoilt, basis(EDGES, 3, ENERGY), use).expected[0], fits.expected[0]
    )
    inside = truth(1e5)[~use].sum()
    assert fits.expected[0, ~use].sum() == pytest.approx(inside, abs=5 * np.sqrt(inside))


@pytest.mark.parametrize(
    "shape", [CrystalBall(0.035, 1.2, 2.5, 1.8, 4.0), CrystalBall(0.05), Gaussian(0.035)]
)
def test_templates_are_integrals_of_the_density(shape):
    """Against numerical integration of the textbook density."""
    mean, width = 3500.0, shape.relative_width * 3500.0

    def density(m):
        t = (m - mean) / width
        if isinstance(shape, Gaussian):
            return np.exp(-0.5 * t * t)
        if t < -shape.alpha_low:
            a, n = shape.alpha_low, shape.n_low
        elif t > shape.alpha_high:
            a, n = shape.alpha_high, shape.n_high
        else:
            return np.exp(-0.5 * t * t)
        return (n / a) ** n * np.exp(-0.5 * a * a) / (n / a - a + abs(t)) ** n

    turns = [mean - width * getattr(shape, "alpha_low", 0), mean + width * getattr(shape, "alpha_high", 0)]
    low = integrate.quad(density, -np.inf, turns[0], epsabs=1e-9)[0]
    middle = integrate.quad(density, turns[0], turns[1], epsabs=1e-9)[0]
    high = integrate.quad(density, turns[1], np.inf, epsabs=1e-9)[0]
    area = low + middle + high
    want = [
        integrate.quad(density, a, b, points=[t for t in turns if a < t < b] or None)[0] / area
        for a, b in pairwise(EDGES)
    ]
    np.testing.assert_allclose(shape.fractions(EDGES, mean), want, atol=1e-7)


def test_a_tail_is_fitted_by_a_crystal_ball_and_not_by_a_gaussian():
    ball, model = CrystalBall(0.03, 1.0, 2.0, 2.0, 5.0), basis(EDGES, 3, ENERGY)
    signal = 2000.0 * ball.fractions(EDGES, 3800.0)
    right = scan_masses(truth(1e5) + signal, model, [3800.0], ball)
    wrong = scan_masses(truth(1e5) + signal, model, [3800.0], Gaussian(0.03))
    assert right.signal[0, 0] == pytest.approx(2000.0, rel=0.01)
    assert wrong.signal[0, 0] < 1800.0
    assert wrong.q0[0, 0] < right.q0[0, 0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Gaussian(0.0), ConfigError, "relative_width 0"),
        (lambda: CrystalBall(0.03, n_low=1.0), ConfigError, "n_low 1"),
        (lambda: CrystalBall(0.03, alpha_high=-1.0), ConfigError, "alpha_high -1"),
        (lambda: templates(EDGES, [9000.0], SHAPE), FitError, "9000 GeV lies outside"),
        (lambda: scan_masses(np.ones(7), basis(EDGES, 3, ENERGY), [3000.0], SHAPE), FitError, "40 bins"),
        (lambda: scan_masses(np.zeros(40), basis(EDGES, 3, ENERGY), [3000.0], SHAPE), FitError, "is empty"),
        (
            lambda: scan_masses(np.full(40, np.nan), basis(EDGES, 3, ENERGY), [3000.0], SHAPE),
            FitError,
            "finite",
        ),
        (
            lambda: fit_backgrounds(np.ones(40), basis(EDGES, 3, ENERGY), np.arange(40) < 4),
            FitError,
            "more bins",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
