"""Rates over luminosity sections: the p-value is uniform without a change and small with one."""

import numpy as np
import pytest
from elsewhere.analysis.rate_stability import rate_by_section, rate_ratio, section_groups
from elsewhere.errors import FitError
from scipy import stats

N = 4000


def sample(seed, factor=1.0):
    """Crossings of 40 sections with uneven weights; the last ten sections pass ``factor`` as often."""
    rng = np.random.default_rng(seed)
    section = np.sort(rng.integers(1, 41, N))
    chance = np.where(section > 30, 0.02 * factor, 0.02)
    return rng.random(N) < chance, rng.exponential(1.0, N), np.ones(N, int), section


def test_without_a_change_the_p_value_is_uniform():
    p = [rate_by_section(*sample(s), 2544, seed=s, permutations=99).p_value for s in range(150)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_change_is_seen():
    assert rate_by_section(*sample(1, 6.0), 2544).p_value == pytest.approx(1e-3)


def test_groups_are_in_time_order_and_split_no_section():
    run, section = np.array([2, 1, 1, 2, 1, 1]), np.array([1, 7, 7, 1, 3, 9])
    group, first, last = section_groups(run, section, 3)
    assert first[0] == (1, 3)
    assert last[-1] == (2, 1)
    assert group[1] == group[2]
    assert group[0] == group[3] == group.max()


def test_the_p_value_does_not_know_the_order_of_the_rows():
    kept, weight, run, section = sample(5, 2.0)
    mixed = np.random.default_rng(1).permutation(N)
    found = [rate_by_section(kept[i], weight[i], run[i], section[i], 2544) for i in (slice(None), mixed)]
    assert found[0].p_value == found[1].p_value < 0.5


def test_one_section_is_refused():
    kept, weight, run, section = sample(1)
    with pytest.raises(FitError, match="nothing to compare"):
        rate_by_section(kept, weight, run, np.ones_like(section), 2544)


def test_the_ratios_error_is_of_the_crossings_that_change():
    before = np.arange(1000) < 100
    after = np.arange(1000) < 110
    ratio, error = rate_ratio(before, after, np.ones(1000))
    assert ratio == pytest.approx(1.1)
    assert error == pytest.approx(np.sqrt(100 * 0.1**2 + 10) / 100)
    with pytest.raises(FitError, match="no ratio"):
        rate_ratio(np.zeros(4, bool), np.ones(4, bool), np.ones(4))
