"""Upcrossings counted by hand, a process whose number of them is known, and the global p-value of mass scans."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis
from elsewhere.analysis.gross_vitells import GrossVitells, gross_vitells, upcrossings
from elsewhere.analysis.peaks import Gaussian, scan_masses
from elsewhere.errors import ConfigError, FitError
from scipy import stats

from .test_dijet import EDGES, ENERGY, truth


def test_crossings_are_counted_upwards_only():
    z = [[0.0, 1.0, 0.0, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0, 0.6], [1.0, 1.0, 1.0, 1.0, 1.0]]
    np.testing.assert_array_equal(upcrossings(np.array(z), 0.5), [2, 1, 0])


def smooth(toys, seed):
    """A Gaussian process on 0-20 with correlation exp(-d^2 / 2): Rice's formula gives 20 / 2 pi exp(-u^2 / 2)
    upcrossings.
    """
    x = np.linspace(0, 20, 401)
    root = np.linalg.cholesky(np.exp(-0.5 * (x[:, None] - x) ** 2) + 1e-8 * np.eye(401))
    return np.random.default_rng(seed).standard_normal((toys, 401)) @ root.T


def test_rices_formula():
    found = gross_vitells(smooth(2000, 1), level=0.5)
    assert found.upcrossings == pytest.approx(20 / (2 * np.pi) * np.exp(-0.125), abs=4 * found.error)
    z = smooth(10_000, 2).max(axis=1)
    for u in (3.0, 3.5):
        p, low, high = found.p_global(u)
        seen = np.mean(z >= u)
        assert low < p < high
        assert p == pytest.approx(seen, abs=0.1 * seen + 4 * np.sqrt(seen / 10_000))
    assert found.p_global(4.0)[0] == pytest.approx(
        stats.norm.sf(4) + found.upcrossings * np.exp(-0.5 * (16 - 0.25))
    )


def test_mass_scans():
    """The bound holds at 2, is loose there, and good at 3; about 3.5 upcrossings in this range and width."""
    model, masses = basis(EDGES, 3, ENERGY), np.geomspace(2700, 6000, 40)
    toys = np.random.default_rng(5).poisson(truth(1e5), (1500, 40)).astype(float)
    scan = scan_masses(toys, model, masses, Gaussian(0.035))
    found = gross_vitells(scan.z[:400])
    assert 1.5 < found.upcrossings < 4.0
    assert found.failed == 0
    at_2 = np.mean(scan.z_max >= 2)
    assert found.p_global(2.0)[0] > at_2 - 3 * np.sqrt(at_2 / 1500)
    at_3 = np.mean(scan.z_max >= 2.7)
    assert found.p_global(2.7)[0] == pytest.approx(at_3, abs=0.25 * at_3 + 4 * np.sqrt(at_3 / 1500))
    assert found.trials(3.0) > 10


def test_the_uncertainty_covers_the_mean():
    many = [gross_vitells(z) for z in smooth(6000, 4).reshape(60, 100, 401)]
    pulls = [(m.upcrossings - 20 / (2 * np.pi) * np.exp(-0.125)) / m.error for m in many]
    assert np.std(pulls) == pytest.approx(1.0, abs=0.3)
    z, low, high = many[0].z_global(5.0)
    assert low < z < high < 5.0


def test_failed_toys_widen_the_interval_and_no_crossing_is_a_bound():
    z = smooth(200, 3)
    plain = gross_vitells(z)
    z[:20, 7] = np.inf
    found = gross_vitells(z)
    assert (found.toys, found.failed) == (180, 20)
    assert found.error > plain.error + 0.3
    nothing = gross_vitells(np.full((200, 5), -1.0))
    assert nothing.upcrossings == 0
    assert nothing.error == pytest.approx(1.84 / 200, rel=0.01)
    assert nothing.p_global(4.0)[2] > nothing.p_global(4.0)[0] == stats.norm.sf(4.0)


def test_what_is_no_set_of_toys_is_refused():
    with pytest.raises(FitError, match="at least 100"):
        gross_vitells(np.zeros((99, 5)))
    with pytest.raises(FitError, match="at least two masses"):
        gross_vitells(np.zeros(500))
    with pytest.raises(FitError, match="toy 3"):
        gross_vitells(np.where(np.arange(200)[:, None] == 3, np.nan, np.zeros((200, 4))))
    with pytest.raises(ConfigError, match="level 5"):
        gross_vitells(np.zeros((200, 5)), level=5.0)
    with pytest.raises(FitError, match="below the level"):
        GrossVitells(0.5, 3.0, 0.1, 200, 0).p_global(0.2)
