"""Tails of counts against SciPy and beyond its range; counts thrown by inversion."""

import numpy as np
import pytest
from elsewhere.analysis.bumphunter_laws import PoissonThrower
from elsewhere.analysis.tails import gamma_tail, poisson_tail
from scipy import special, stats


def test_tails_are_scipys_and_go_on_where_those_end():
    rng = np.random.default_rng(0)
    for _ in range(400):
        b = 10 ** rng.uniform(-2, 5.5)
        d = np.floor(b + rng.uniform(0, 8) * np.sqrt(b) + 1)
        assert poisson_tail(d, b, 1) == pytest.approx(-np.log(special.gammainc(d, b)), abs=1e-9)
        rate, r = 10 ** rng.uniform(-1, 2), np.floor(10 ** rng.uniform(0, 4))
        d = np.floor(r / rate + rng.uniform(0, 6) * np.sqrt(r / rate * (1 + 1 / rate)) + 1)
        assert gamma_tail(d, r + 1, rate, 1) == pytest.approx(
            -stats.binom.logsf(d - 1, d + r, 1 / (1 + rate)), abs=1e-7
        )
        d = np.floor(max(b - rng.uniform(0, 6) * np.sqrt(b) - 1, 0))
        if d < b:
            assert poisson_tail(d, b, -1) == pytest.approx(-stats.poisson.logcdf(d, b), abs=1e-9)
    assert poisson_tail(30.0, 20.0, 1) == pytest.approx(-np.log(0.0218182), abs=1e-5)
    # Where p underflows: Stirling's point probability over 1 - b / (d + 1).
    far = 5000 * np.log(5) - 4000 + 0.5 * np.log(2 * np.pi * 5000) + np.log(1 - 1000 / 5001)
    assert poisson_tail(5000.0, 1000.0, 1) == pytest.approx(far, abs=1e-3)


def test_thrown_counts_are_poisson():
    means = np.array([0.0, 0.3, 4.0, 250.0, 2e5])
    found = PoissonThrower(means)(np.random.default_rng(1), 20_000)
    assert np.all(np.abs(found.mean(axis=0) - means) <= 5 * np.sqrt(means / 20_000))
    for b in (1, 2, 3):
        k = np.arange(found[:, b].max() + 1)
        want = 20_000 * stats.poisson.pmf(k, means[b])
        seen = np.bincount(found[:, b])
        many = want > 20
        assert stats.chi2.sf(((seen - want)[many] ** 2 / want[many]).sum(), many.sum()) > 1e-3
