"""delta_sys: recovered where it is built in, absent where not, and its place in the significance."""

import math

import numpy as np
import pytest
from elsewhere.analysis.delta_sys import (
    Correction,
    DeltaSys,
    Passing,
    asimov_z,
    closure,
    correction,
    measure,
    passing_counts,
    significance,
    tolerance,
    verdict,
)
from elsewhere.errors import FitError
from elsewhere.events import Window
from scipy import stats

WINDOWS = [Window(2900.0 + 400 * i, 3300.0 + 400 * i) for i in range(6)]


def sample(n, seed, shift=0.0):
    """Scores, folds and hashes of n events; shifted scores stand for a template that is not the background."""
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, n), rng.integers(0, 5, n), rng.integers(0, 2**64, n, dtype=np.uint64)


def counts_of(shift, cut, trainings=4, n=40_000, m=80_000):
    return [
        [
            passing_counts(*sample(n, 100 * w + t, shift), *sample(m, 10_000 + 100 * w + t), cut)
            for t in range(trainings)
        ]
        for w in range(len(WINDOWS))
    ]


@pytest.mark.parametrize("cut", [1e-2, 1e-3])
def test_a_known_bias_is_measured(cut):
    found = measure(cut, WINDOWS, counts_of(0.15, cut))
    truth = stats.norm.sf(stats.norm.isf(cut) - 0.15) / cut - 1
    assert found.value == pytest.approx(truth, abs=3 * found.error)
    assert found.value > 10 * found.error or cut < 1e-2
    assert "%" in found.words


@pytest.mark.parametrize("cut", [1e-2, 1e-3])
def test_no_bias_is_found_where_there_is_none_and_its_errors_are_right(cut):
    found = measure(cut, WINDOWS, counts_of(0.0, cut))
    assert abs(found.value) < 3 * found.error
    assert found.spread == pytest.approx(found.sigma_stat, rel=0.4)
    for one in (c for row in counts_of(0.0, cut, 1) for c in row):
        assert 0.93 * cut < one.efficiency <= cut
        assert one.sigma_stat == pytest.approx(math.sqrt(1 / (40_000 * cut) + 1 / (80_000 * cut)), rel=0.04)


def test_the_error_keeps_the_data_common_to_all_trainings():
    row = [Passing(420, 40_000, 800, 80_000, 800)] * 10  # ten trainings that agree to the event
    found = measure(1e-2, WINDOWS[:1], [row])
    assert found.error == pytest.approx(row[0].sigma_stat)
    overlapping = [Window(2900 + 100 * i, 3300 + 100 * i) for i in range(9)]
    assert measure(1e-2, overlapping, [row] * 9).error == pytest.approx(row[0].sigma_stat / math.sqrt(3))


def test_equal_scores_are_cut_by_hash_in_data_as_in_the_template():
    _, fold, tie = sample(40_000, 1)
    _, fold2, tie2 = sample(80_000, 2)
    found = passing_counts(np.ones(40_000), fold, tie, np.ones(80_000), fold2, tie2, 0.01)
    assert found.tied == 1.0
    assert found.m_after == pytest.approx(800, abs=5)
    assert abs(found.delta) < 4 * found.sigma_stat
    again = np.random.default_rng(1).permutation(40_000)
    assert (
        passing_counts(np.ones(40_000), fold[again], tie[again], np.ones(80_000), fold2, tie2, 0.01) == found
    )


def test_template_weights_count():
    score, fold, tie = sample(20_000, 1)
    template, fold2, tie2 = sample(40_000, 2)
    weight = np.random.default_rng(3).exponential(2.0, 40_000)
    found = passing_counts(score, fold, tie, template, fold2, tie2, 0.02, weight)
    assert found.efficiency == pytest.approx(0.02, rel=0.01)
    assert found.m_effective < found.m_after
    assert abs(found.delta) < 4 * found.sigma_stat
    doubled = passing_counts(score, fold, tie, template, fold2, tie2, 0.02, 2 * weight)
    assert (doubled.n_after, doubled.m_effective) == pytest.approx((found.n_after, found.m_effective))
    with pytest.raises(FitError, match="not be negative"):
        passing_counts(score, fold, tie, template, fold2, tie2, 0.02, -weight)


@pytest.mark.parametrize(
    ("s", "b", "sigma", "z"),
    [(5, 1, 0, 3.3913), (10, 100, 0, 0.9840), (30, 100, 10, 1.9810), (50, 100, 10, 3.1730), (20, 10, 2, 4.0247),
     (5, 0.1, 0.05, 5.0591)],
)  # fmt: skip
def test_asimov_significances(s, b, sigma, z):
    assert asimov_z(s, b, sigma) == pytest.approx(z, abs=1e-4)


def test_the_bias_is_inside_the_significance():
    counts = Passing(150, 10_000, 1e6, 1e8, 1e6)
    assert significance(counts, Correction(0.0, 0.0)).z == pytest.approx(asimov_z(50, 100, 0.1), abs=1e-3)
    assert significance(counts, Correction(0.0, 0.1)).z == pytest.approx(3.1730, abs=1e-3)
    moved = significance(counts, Correction(0.2, 0.2))
    assert (moved.b, moved.sigma) == pytest.approx((120, 24), rel=1e-3)
    assert moved.z < 1.2
    assert significance(Passing(90, 10_000, 1e6, 1e8, 1e6), Correction(0.0, 0.1)).z == pytest.approx(
        -0.7256, abs=1e-3
    )
    small = Passing(150, 10_000, 100, 10_000, 100)
    assert significance(small, Correction(0.0, 0.0)).sigma == pytest.approx(10)
    with pytest.raises(FitError, match="no background"):
        significance(counts, Correction(-1.0, 1.0))


def test_the_correction_has_its_own_size_as_error():
    assert correction([]) == Correction(0.0, 0.0)
    assert correction([-0.1]) == Correction(-0.1, 0.1)
    both = correction([0.3, -0.4])
    assert (both.delta, both.error) == pytest.approx((-0.5, 0.5))


def found_with(value, error, cut=1e-2):
    return DeltaSys(cut, (WINDOWS[0],), np.array([[value]]), value, error, 0.0, 0.0, 0.0)


def test_verdicts():
    bad = verdict(found_with(0.57, 0.03))
    assert bad.verdict == "not valid"
    assert bad.words.startswith("this search is not valid: background biased by +57 %")
    assert verdict(found_with(-0.57, 0.03)).verdict == "not valid"
    assert verdict(found_with(0.03, 0.02)).verdict == "valid"
    assert verdict(found_with(0.12, 0.10)).verdict == "undecided"
    assert "more signal-free data" in verdict(found_with(0.0, 0.2)).words
    assert verdict(found_with(0.2, 0.04, 1e-3)).verdict == "valid"
    assert verdict(found_with(0.2, 0.04, 1e-2)).verdict == "not valid"
    assert (tolerance(0.05), tolerance(0.01), tolerance(0.001), tolerance(1e-4)) == (0.10, 0.10, 0.25, 0.25)


def test_a_corrected_search_closes_and_an_uncorrected_biased_one_does_not():
    rows = [
        passing_counts(*sample(20_000, s, 0.1), *sample(200_000, 10_000 + s), 0.01) for s in range(24)
    ]  # fmt: skip
    truth = stats.norm.sf(stats.norm.isf(0.01) - 0.1) / 0.01 - 1
    assert not closure(rows, Correction(0.0, 0.0)).closes
    good = closure(rows, Correction(truth, 0.0))
    assert good.closes
    assert good.sd == pytest.approx(1.0, abs=3 * good.sd_error)
    with pytest.raises(FitError, match="at least 4"):
        closure(rows[:3], Correction(0.0, 0.0))


def test_bad_input_is_refused():
    data, template = sample(1000, 1), sample(100, 2)
    with pytest.raises(FitError, match="none of them among the best"):
        passing_counts(*data, *template, 1e-3)
    with pytest.raises(FitError, match="finite"):
        passing_counts(np.full(1000, np.nan), *data[1:], *template, 0.1)
    with pytest.raises(FitError, match="between 0 and 1"):
        passing_counts(*data, *template, 1.0)
    one = Passing(1, 10, 1, 10, 1)
    with pytest.raises(FitError, match="two trainings"):
        measure(0.1, WINDOWS[:1], [[one]])
    with pytest.raises(FitError, match="1 rows of counts for 6 windows"):
        measure(0.1, WINDOWS, [[one, one]])
