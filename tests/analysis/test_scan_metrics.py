"""Medians, bands, ratios, DeLong and ARGOS against closed forms, repeated sampling and independent codes."""

import math

import numpy as np
import pytest
from elsewhere.analysis.challenge import Entry, Truth, false_positives, score_box
from elsewhere.analysis.metrics import hanley_mcneil, roc, sic
from elsewhere.analysis.scan_metrics import (
    accept,
    argos,
    argos_value,
    band,
    calibration_error,
    compare_aucs,
    delong,
    max_sic,
    mean_ratio,
    ranking,
    ratio_to_supervised,
    rejection_at,
    sic_at,
)
from elsewhere.errors import FitError
from scipy import stats


def curves(shifts, n_s=3000, n_b=20_000, seed=1):
    """Trainings of different quality on one test sample: only the separation differs."""
    rng = np.random.default_rng(seed)
    s, b = rng.normal(0, 1, n_s), rng.normal(0, 1, n_b)
    return [roc(s + shift, b) for shift in shifts]


def test_the_median_of_the_maxima_and_its_band():
    found = max_sic("weak", curves([1.0, 1.5, 2.0, 2.5, 3.0]))
    each = [sic(c).best for c in curves([1.0, 1.5, 2.0, 2.5, 3.0])]
    np.testing.assert_allclose(found.values, each)
    assert found.median == each[2]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(each, [0.1587, 0.8413])))
    assert found.error > sic(curves([2.0])[0]).best_error
    assert np.all(found.at * 20_000 >= 25 - 1e-9)
    assert not found.comparable
    assert "5 trainings" in found.words
    assert math.isinf(max_sic("one", curves([1.0])).error)


def test_thresholds_below_the_floor_do_not_count():
    rng = np.random.default_rng(2)
    b = rng.normal(0, 1, 20_000)
    s = np.concatenate(
        [np.full(500, 10.0), rng.normal(0, 1, 500)]
    )  # half the signal above every background event
    found = max_sic("perfect", [roc(s, b)] * 2)
    assert found.values[0] == pytest.approx(0.5 / math.sqrt(25 / 20_000), rel=0.02)
    assert max_sic("perfect", [roc(s, b)] * 2, floor=100).values[0] < 0.55 * found.values[0]


def test_the_error_of_a_median_is_its_spread():
    rng = np.random.default_rng(3)
    medians, errors = [], []
    for i in range(60):
        found = max_sic("m", curves(rng.normal(1.5, 0.3, 10), 2000, 4000, seed=4), seed=i)
        medians.append(found.median)
        errors.append(math.sqrt(found.error**2 - sic(curves([1.5], 2000, 4000, seed=4)[0]).best_error ** 2))
    assert np.median(errors) == pytest.approx(np.std(medians), rel=0.5)


def test_the_ratio_to_supervised_and_its_verdicts():
    best = max_sic("supervised", curves([3.0] * 10))
    half = max_sic("half", curves(np.linspace(1.8, 2.2, 10)))
    found = ratio_to_supervised(half, best)
    assert found.value == pytest.approx(half.median / best.median)
    assert found.low < found.value < found.high
    assert accept(found, found.value + 0.05).verdict == "pass"
    assert accept(found, found.value + 0.2).verdict == "fail"
    assert accept(found, 0.1, most=found.value - 0.01).verdict == "suspect"
    assert "labels" in accept(ratio_to_supervised(best, half), 0.9).words
    with pytest.raises(FitError, match="supervised with"):
        ratio_to_supervised(max_sic("other", curves([2.0], n_b=10_000)), best)
    with pytest.raises(FitError, match="one test sample"):
        max_sic("mixed", [*curves([1.0]), *curves([1.0], n_b=10_000)])
    assert [name for name, _ in ranking({"half": half, "supervised": best})] == ["supervised", "half"]


def test_values_at_working_points():
    c = curves([2.0], 50_000, 200_000)[0]
    want = stats.norm.sf(stats.norm.isf(0.01) - 2.0) / 0.1
    found = sic_at(c, 0.01)
    assert found.low < want < found.high or found.value == pytest.approx(want, rel=0.03)
    assert math.isnan(sic_at(c, 1e-9).value)
    want = 1 / stats.norm.sf(stats.norm.isf(0.3) + 2.0)
    found = rejection_at(c, 0.3)
    assert found.value == pytest.approx(want, rel=0.1)
    assert found.low < found.value < found.high
    assert math.isinf(rejection_at(roc(np.full(5, 9.0), np.zeros(5)), 0.5).value)


def test_delong_is_the_definition_and_its_error_the_spread():
    rng = np.random.default_rng(5)
    s, b = np.round(rng.normal(1, 1, 40), 1), np.round(rng.normal(0, 1, 60), 1)  # with ties
    beats = (s[:, None] > b) + 0.5 * (s[:, None] == b)
    found = delong(s, b)
    assert found.value == pytest.approx(beats.mean(), abs=1e-12)
    want = beats.mean(axis=1).var(ddof=1) / 40 + beats.mean(axis=0).var(ddof=1) / 60
    assert found.error == pytest.approx(math.sqrt(want), abs=1e-12)
    many = [delong(rng.normal(1, 1, 200), rng.normal(0, 1, 300)) for _ in range(300)]
    assert np.std([m.value for m in many]) == pytest.approx(np.mean([m.error for m in many]), rel=0.12)
    assert many[0].error == pytest.approx(hanley_mcneil(many[0].value, 200, 300), rel=0.2)


def test_paired_comparison_has_the_right_size_and_sees_what_unpaired_errors_hide():
    rng = np.random.default_rng(6)
    p = []
    for _ in range(300):
        s, b = rng.normal(1, 1, 150), rng.normal(0, 1, 150)
        first, second = ((s + rng.normal(0, 0.3, 150), b + rng.normal(0, 0.3, 150)) for _ in range(2))
        p.append(compare_aucs(first, second).p)
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    s, b = rng.normal(1, 1, 2000), rng.normal(0, 1, 2000)
    blurred = (s + rng.normal(0, 0.4, 2000), b + rng.normal(0, 0.4, 2000))
    found = compare_aucs((s, b), blurred)
    assert found.difference > 3 * found.error
    assert found.error < 0.6 * math.hypot(found.first.error, found.second.error)
    assert compare_aucs((s, b), (s, b)).p == 1.0
    with pytest.raises(FitError, match="same events"):
        compare_aucs((s, b), (s[1:], b))


def test_argos_ranks_like_sic_without_labels():
    assert float(argos_value(0.002, 0.001)) == pytest.approx(0.031623, abs=1e-6)
    rng = np.random.default_rng(7)
    w, n = 0.05, 40_000
    background, signal = rng.normal(0, 1, n), rng.normal(2.5, 1, int(w * n))
    found = argos(np.concatenate([background[: n - len(signal)], signal]), rng.normal(0, 1, n))
    b = found.background
    want = w * (stats.norm.sf(stats.norm.isf(b) - 2.5) / np.sqrt(b) - np.sqrt(b))
    assert np.max(np.abs(found.value - want)[b > 0.02]) < 0.03
    assert found.best == pytest.approx(want.max(), rel=0.15)
    with pytest.raises(FitError, match="template"):
        argos(np.ones(30), np.ones(10))


def test_calibration():
    rng = np.random.default_rng(8)
    p = rng.random(40_000)
    label = rng.random(40_000) < p
    assert calibration_error(p, label) < 0.01
    assert calibration_error(p**3, label) > 0.1
    x = rng.normal(0, 1, 50_000)
    right = mean_ratio(x - 0.5)  # ln N(1,1)/N(0,1)
    assert abs(right.value - 1) < 4 * (right.high - right.value)
    assert abs(mean_ratio(1.2 * x - 0.5).value - 1) > 0.1


def test_bands_over_trainings():
    many = curves(np.linspace(1.5, 2.5, 11), 20_000, 100_000)
    found = band("weak", many, "sic")
    seen = np.isfinite(found.median)
    assert np.all(found.low[seen] <= found.median[seen])
    assert np.all(found.median[seen] <= found.high[seen])
    middle = np.abs(found.x - 0.5) < 0.2
    want = found.x / np.sqrt(stats.norm.sf(stats.norm.isf([*found.x[:-1], 0.999999]) + 2.0))
    np.testing.assert_allclose(found.median[middle], want[middle], rtol=0.08)
    one = many[5]
    kept = one.n_background[np.searchsorted(one.signal, found.x * (1 - 1e-12))] >= 25
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(np.isfinite(band("one", [one], "sic").median), kept)
    reject = band("weak", many, "rejection")
    np.testing.assert_allclose(
        reject.median[middle], (found.median[middle] / found.x[middle]) ** 2, rtol=1e-6
    )
    assert reject.median[-1] == pytest.approx(1.0, rel=0.05)


def test_false_positives_are_counted():
    rng = np.random.default_rng(9)
    assert false_positives(np.maximum(rng.random(100), 1e-3)).honest
    assert not false_positives(np.maximum(rng.random(100) ** 3, 1e-3)).honest
    one = np.linspace(0.06, 1, 100)
    assert not false_positives(np.append(one, 1e-6)).honest
    with pytest.raises(FitError, match="never 0"):
        false_positives(np.zeros(100))


def test_black_boxes_are_scored():
    right = score_box(Entry(1e-6, 3800.0, 50.0, 900.0, 100.0), Truth(3823.0, 834))
    assert right.correct
    assert right.mass_pull == pytest.approx(-0.46)
    assert right.events_ratio == pytest.approx(900 / 834)
    assert not score_box(Entry(1e-6, 4600.0, 100.0), Truth(None)).correct
    assert score_box(Entry(0.4), Truth(None)).words == "nothing found, and nothing is there"
    assert score_box(Entry(0.02, 4600.0, 100.0), Truth(None)).correct  # 2 sigma is no claim
    assert not score_box(Entry(0.4), Truth(4200.0, 3200)).correct
    assert not score_box(Entry(1e-6, 5250.0, 100.0), Truth(4200.0, 3200)).correct
