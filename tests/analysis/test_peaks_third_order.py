"""The corrected root of the likelihood ratio: the formula written again, its size where the plain root fails, and where it keeps off."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis, fit_one
from elsewhere.analysis.peaks import Gaussian, fit_backgrounds, scan_masses, templates
from elsewhere.analysis.peaks_third_order import FEWEST, log_determinant
from scipy import stats

from .test_dijet import ENERGY

SHAPE = Gaussian(0.035)
#: Bins of a width of about the resolution, from where the spectrum begins.
EDGES = np.geomspace(1460.0, 6800.0, 36)


def of_order(order, events):
    """The CMS function's spectrum at 13 TeV, made one that is exactly of the family's order."""
    x = 0.5 * (EDGES[1:] + EDGES[:-1]) / ENERGY
    log = np.log(x)
    shape = np.exp(9.28 * np.log1p(-x) - 10.36 * log - 2.35 * log**2 - 0.418 * log**3) * np.diff(EDGES)
    return fit_backgrounds(events * shape / shape.sum(), basis(EDGES, order, ENERGY)).expected[0]


def at(model, signal, theta, counts):
    """Expectation (bins,), its derivatives (bins, k + 1) and the observed information, each from its formula."""
    k = len(theta) - 1
    nodes = np.exp(model.logw + model.phi @ theta[:k])
    m = nodes.sum(axis=1) + theta[k] * signal
    slope = np.column_stack([np.einsum("bq,bqi->bi", nodes, model.phi), signal])
    curve = np.zeros((len(m), k + 1, k + 1))
    curve[:, :k, :k] = np.einsum("bq,bqi,bqj->bij", nodes, model.phi, model.phi)
    information = np.einsum("b,bi,bj->ij", counts / m**2, slope, slope) - np.einsum(
        "b,bij->ij", counts / m - 1, curve
    )
    return m, slope, information


def reference(counts, model, signal):
    """(r, r*) of one spectrum by the formulas of Davison, Fraser and Reid."""
    k, use = model.order + 1, np.ones(len(counts), bool)
    fits = []
    for free in (True, False):
        theta, fisher = np.zeros(k + 1), np.zeros((k + 1, k + 1))
        half, good = fit_one(counts, use, model.phi, model.logw, signal, free, theta, fisher)
        assert good
        fits.append((half, theta))
    (half, theta), (null, nuisance) = fits
    r = np.sign(theta[k]) * np.sqrt(2 * max(null - half, 0.0))
    m, slope, observed = at(model, signal, theta, counts)
    m0, slope0, observed0 = at(model, signal, nuisance, counts)
    phi = slope.T @ (slope0 / m0[:, None])
    phi[:, k] = slope.T @ np.log(m / m0)
    u = np.linalg.det(phi) / np.linalg.det(slope.T @ (slope / m[:, None]))
    u *= np.sqrt(np.linalg.det(observed) / np.linalg.det(observed0[:k, :k]))
    return r, r + np.log(u / r) / r


@pytest.mark.parametrize(("order", "events"), [(3, 1e4), (4, 1e4), (4, 1e6)])
def test_it_is_the_formula(order, events):
    """Bins of a width differ from those of none, which the kernel takes for the curvature, by a few hundredths of the correction."""
    model = basis(EDGES, order, ENERGY)
    counts = np.random.default_rng(order).poisson(of_order(order, events), (30, len(EDGES) - 1)).astype(float)
    scan = scan_masses(counts, model, [2000.0], SHAPE)
    wanted = np.array([reference(one, model, SHAPE.fractions(EDGES, 2000.0)) for one in counts])
    far = np.abs(wanted[:, 0]) > 0.2
    assert far.sum() > 20
    correction = np.abs(wanted[far, 1] - wanted[far, 0]).max()
    assert np.abs(scan.z[far, 0] - wanted[far, 1]).max() < 0.1 * correction + 3e-3
    assert np.allclose(
        np.sign(scan.signal[:, 0]) * np.sqrt(2 * (scan.null - scan.half_deviance[:, 0])),
        wanted[:, 0],
        atol=2e-3,
    )


def test_it_has_its_size_where_the_plain_root_has_not():
    """Four shape parameters and 10^4 events: P(r > 1) is above .18, P(r < -1) below .14."""
    toys, model = 4000, basis(EDGES, 4, ENERGY)
    counts = np.random.default_rng(4).poisson(of_order(4, 1e4), (toys, len(EDGES) - 1)).astype(float)
    scan = scan_masses(counts, model, [2000.0], SHAPE)
    plain = np.sign(scan.signal[:, 0]) * np.sqrt(2 * np.maximum(scan.null - scan.half_deviance[:, 0], 0))
    p = stats.norm.sf(1)
    error = np.sqrt(p * (1 - p) / toys)
    assert np.mean(plain > 1) > p + 3 * error
    assert np.mean(plain < -1) < p - 3 * error
    assert abs(np.mean(scan.z[:, 0] > 1) - p) < 3 * error
    assert abs(np.mean(scan.z[:, 0] < -1) - p) < 3 * error
    assert np.array_equal(scan.p0[:, 0], stats.norm.sf(np.maximum(scan.z[:, 0], 0)))


def test_a_background_that_falls_to_nothing_in_empty_bins_is_no_edge():
    """Four shape parameters and 10^3 events: beside a signal the background of a quarter of the fits dies out before the bins end."""
    toys, model = 4000, basis(EDGES, 4, ENERGY)
    expected = of_order(4, 1e3)
    counts = np.random.default_rng(104).poisson(expected, (toys, len(expected))).astype(float)
    scan = scan_masses(counts, model, [2000.0], SHAPE)
    plain = np.sign(scan.signal[:, 0]) * np.sqrt(2 * np.maximum(scan.null - scan.half_deviance[:, 0], 0))
    assert not scan.at_edge.any()
    for z in (1.0, 2.0):
        p = stats.norm.sf(z)
        error = np.sqrt(p * (1 - p) / toys)
        assert np.mean(plain > z) > p + 3 * error
        assert abs(np.mean(scan.z[:, 0] > z) - p) < 3 * error


def test_where_a_handful_of_events_lie_the_root_stays_as_it_is():
    counts, model = (
        np.random.default_rng(1).poisson(of_order(3, 1e3), (50, len(EDGES) - 1)).astype(float),
        basis(EDGES, 3, ENERGY),
    )
    masses = [2500.0, 4500.0]
    scan, expected = scan_masses(counts, model, masses, SHAPE), fit_backgrounds(counts, model).expected
    plain = np.sign(scan.signal) * np.sqrt(2 * np.maximum(scan.null[:, None] - scan.half_deviance, 0))
    signals = templates(EDGES, masses, SHAPE)
    under = signals.sum(axis=1) ** 2 / (signals**2 / expected[:, None]).sum(axis=2)
    few = (under < FEWEST) & ~scan.failed
    assert few[:, 1].mean() > 0.5
    assert np.allclose(scan.z[few], plain[few], atol=1e-9)
    assert np.median(np.abs(scan.z[~few] - plain[~few])) > 0.01


def test_determinants_of_any_sign():
    rng = np.random.default_rng(2)
    for size in (1, 2, 5):
        matrix = rng.normal(size=(6, 6))
        matrix[0, 0] = 0.0 if size > 1 else -2.0
        sign, wanted = np.linalg.slogdet(matrix[:size, :size])
        found = log_determinant(matrix.copy(), size)
        assert found == pytest.approx((sign, wanted), rel=1e-10)
    assert log_determinant(np.zeros((2, 2)), 2)[0] == 0
