"""One-bin significances, intervals and toy p-values against published and independent numbers."""

import numpy as np
import pytest
from elsewhere.analysis.counting import (
    clopper_pearson,
    cut_and_count_z,
    effective,
    p_of,
    signed_z,
    toy_p,
    z_of,
)
from elsewhere.errors import FitError
from scipy import optimize, stats

#: (n, b, sigma) -> Z by the formula of 1007.1727 as used in 2411.00085.
GOLDEN = [
    (120, 100, 0, 1.9383), (120, 100, 10, 1.3493), (150, 100, 10, 3.1730), (90, 100, 0, -1.0174),
    (90, 100, 10, -0.7256), (12, 5, 0, 2.6479), (12, 5, 1, 2.3435), (10, 10, 2, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("n", "b", "sigma", "z"), GOLDEN)
def test_published_significances(n, b, sigma, z):
    assert cut_and_count_z(n, b, sigma) == pytest.approx(z, abs=1e-4)


@pytest.mark.parametrize(("n", "b", "s"), [(150, 100, 10), (20, 8, 3), (3, 9, 2), (0, 4, 1), (40, 10, 0.5)])
def test_profiled_significance_is_that_of_a_numerical_profile(n, b, s):
    def nll(hat, mu):
        return mu + hat - n * np.log(mu + hat) + 0.5 * ((hat - b) / s) ** 2

    free = optimize.minimize_scalar(
        lambda h: nll(h, max(n - b, -h + 1e-9)), bounds=(1e-6, 10 * b), method="bounded"
    )
    null = optimize.minimize_scalar(lambda h: nll(h, 0.0), bounds=(1e-6, 10 * max(b, n)), method="bounded")
    best = min(free.fun, nll(b, n - b) if n > 0 else b * 0.0)
    assert signed_z(n, b, s) == pytest.approx(np.sign(n - b) * np.sqrt(2 * (null.fun - best)), abs=2e-3)


def test_a_known_background_gives_the_poisson_likelihood_ratio():
    for n, b in ((120, 100), (12, 5), (90, 100)):
        assert signed_z(n, b, 0.0) == pytest.approx(cut_and_count_z(n, b, 0.0))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (500, 100_000)])
def test_clopper_pearson_is_scipys(k, n):
    low, high = clopper_pearson(k, n, 0.95)
    want = stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((want.low, want.high))


def test_impossible_counts_are_refused():
    with pytest.raises(FitError):
        clopper_pearson(3, 2)
    with pytest.raises(FitError):
        cut_and_count_z(1, 0, 1)


def test_a_toy_p_is_never_zero_and_a_bound_where_no_toy_exceeds():
    assert toy_p(0, 999)[0] == pytest.approx(1e-3)
    p, low, high = toy_p(0, 60_000)
    assert low == 0
    assert (1 - high) ** 60_000 == pytest.approx(1 - 0.6827)
    p, low, high = toy_p(100, 10_000)
    assert low < 0.01 < high
    assert p == pytest.approx(101 / 10_001)


def test_p_and_z_are_each_others_inverse():
    assert p_of(5.0) == pytest.approx(2.8665e-7, rel=1e-4)
    assert z_of(p_of(3.3)) == pytest.approx(3.3)


def test_effective_counts():
    assert effective(np.ones(7)) == (7.0, 7.0)
    assert effective(np.array([3.0, 1.0]))[1] == pytest.approx(1.6)
