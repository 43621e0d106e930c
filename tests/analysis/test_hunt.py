"""Cuts, the scan, its bias correction, and the global p-value on spectra whose answer is known."""

import numpy as np
import pytest
from elsewhere.analysis.counting import signed_z
from elsewhere.analysis.hunt import hunt, scan, toy_input
from elsewhere.analysis.hunt_backgrounds import Estimator
from elsewhere.analysis.spectrum import Spectra, nested_spectra, passing
from elsewhere.analysis.toys import global_p, toy_maxima
from elsewhere.analysis.validity import validity
from elsewhere.analysis.window_bias import bias_of, corrected_z, separate
from elsewhere.errors import FitError
from elsewhere.events import Window

from .test_dijet import EDGES, ENERGY, truth

WINDOWS = [Window(c - 200.0, c + 200.0) for c in range(2900, 4701, 200)]
CUTS = (1.0, 0.01)


def spectra(seed, signal=0.0):
    """One pair of nested spectra per window, each with events of its own; ``signal`` after the cut at 3.5 TeV."""
    rng, out = np.random.default_rng(seed), []
    for window in WINDOWS:
        tight = rng.poisson(truth(1000.0, 2)).astype(float)
        if window.contains(3500.0) and window.centre == 3500.0:
            tight += np.where((EDGES[:-1] >= 3400) & (EDGES[:-1] < 3600), signal / 2, 0.0)
        rest = rng.poisson(truth(99_000.0, 2)).astype(float)
        out.append(Spectra(EDGES, CUTS, np.array([tight + rest, tight])))
    return out


def run(seed, signal=0.0, toys=500, **kwargs):
    return hunt(WINDOWS, spectra(seed, signal), energy=ENERGY, signal_width=0.05, toys=toys, seed=3, **kwargs)


def test_an_excess_is_found_where_it_is():
    found = run(1, signal=100.0)
    assert found.best.window == Window(3300.0, 3700.0)
    assert found.best.cut == 0.01
    assert found.best.z > 5
    assert abs(found.before.z) < 3
    assert found.overall.bound
    assert found.peak is not None
    assert found.peak.position == pytest.approx(3500, abs=50)
    assert found.peak_error is not None


def test_the_global_p_value_of_background_is_uniform():
    """40 pseudo-experiments of background: Kolmogorov-Smirnov against uniform, and the trials are really counted."""
    from scipy import stats

    p = [run(100 + i, toys=250).overall.p for i in range(40)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_classifier_that_knows_the_mass_makes_the_search_invalid():
    """Every window's own cut doubles and more what is in it: not valid, with the window named; without that, valid."""
    told = []
    for window, one in zip(WINDOWS, spectra(3), strict=True):
        inside = window.contains(0.5 * (EDGES[1:] + EDGES[:-1]))
        counts = one.counts.copy()
        counts[1, inside] = np.round(counts[1, inside] * 2.5)
        told.append(Spectra(EDGES, CUTS, counts))
    biased = validity(scan(WINDOWS, told, ENERGY)[0])
    assert not biased.valid
    assert "this search is not valid" in biased.words
    assert len(biased.biased) == len(WINDOWS)
    clean = validity(scan(WINDOWS, spectra(3), ENERGY)[0])
    assert clean.valid
    assert not clean.biased


def test_trials_cost_significance():
    found = run(7, signal=22.0, toys=2000)
    assert 2.5 < found.best.z < 4
    assert 5 * found.best.p_local < found.overall.p < 60 * found.best.p_local


def test_corrected_significances_of_background_are_normal():
    """Closure over windows and pseudo-experiments: mean 0 +- 0.2, standard deviation 1 +- 0.2."""
    z = np.array([[r.z for r in scan(WINDOWS, spectra(200 + i), ENERGY)[0] if r.cut < 1] for i in range(60)])
    assert abs(z.mean()) < 0.2
    assert z.std() == pytest.approx(1.0, abs=0.2)


def test_toys_are_the_same_on_any_number_of_threads_and_more_toys_begin_with_the_same():
    results, _ = scan(WINDOWS, spectra(1), ENERGY)
    given = toy_input(WINDOWS, spectra(1), results, ENERGY)
    one, up_one = toy_maxima(given, 600, seed=5, threads=1)
    two, up_two = toy_maxima(given, 600, seed=5, threads=3)
    more, _ = toy_maxima(given, 900, seed=5, threads=2)
    other, _ = toy_maxima(given, 600, seed=6)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(up_one, up_two)
    np.testing.assert_array_equal(more[:600], one)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("guard", [0.0, 200.0])
def test_the_toy_scan_is_the_scan(guard):
    """The compiled scan of a toy gives the Z of `scan` on the same counts."""
    from elsewhere.analysis.dijet import MAX_ORDER, basis
    from elsewhere.analysis.toys import _scan_toy

    made = spectra(3, 60.0)
    results, _ = scan(WINDOWS, made, ENERGY, Estimator("dijet", ENERGY, guard=guard))
    given = toy_input(WINDOWS, made, results, ENERGY, guard)
    full = basis(EDGES, MAX_ORDER, ENERGY)
    phis = np.zeros((MAX_ORDER + 1, *full.phi.shape))
    for order in (2, 3, 4):
        phis[order, :, :, : order + 1] = basis(EDGES, order, ENERGY).phi
    zs = np.empty((len(WINDOWS), len(CUTS)))
    counts = np.stack([s.counts for s in made])
    assert _scan_toy(
        counts, phis, full.logw, given.order, given.inside, given.use, given.apart, given.biased, given.bias, zs
    )  # fmt: skip
    # A toy takes the size of the bias from the data, and here the toy is the data.
    want = np.array(
        [[next(r.z for r in results if r.window == w and r.cut == c) for c in CUTS] for w in WINDOWS]
    )
    np.testing.assert_allclose(zs, want, atol=2e-3)


def test_a_bias_shared_by_the_windows_is_no_excess():
    """A classifier that sculpts every window alike: 60 % more inside than the fit expects, everywhere."""
    made = spectra(11)
    for window, one in zip(WINDOWS, made, strict=True):
        inside = window.contains(0.5 * (EDGES[1:] + EDGES[:-1]))
        one.counts[1, inside] = np.round(one.counts[1, inside] * 1.6)
    results, _ = scan(WINDOWS, made, ENERGY)
    tight = [r for r in results if r.cut < 1]
    assert max(r.z_raw for r in tight) > 2.5
    assert max(r.z for r in tight) < 1.5
    assert np.median([r.delta for r in tight]) == pytest.approx(0.6, abs=0.2)


def test_bias_is_measured_on_the_windows_that_overlap_neither_this_one_nor_the_candidate():
    windows = [Window(c, c + 2.0) for c in (0.0, 1.0, 2.0, 4.0, 6.0)]
    n, b = np.array([10.0, 12.0, 30.0, 40.0, 90.0]), np.array([10.0, 10.0, 20.0, np.nan, 30.0])
    s = np.array([1.0, 1.0, 3.0, np.nan, 1.0])
    delta, error = bias_of(separate(windows), n, b, s)
    np.testing.assert_allclose(delta, [30 / 20 - 1, 0.0, 10 / 10 - 1, 52 / 40 - 1, 52 / 40 - 1])
    np.testing.assert_allclose(error[:4], [29**0.5 / 20, 0.0, 11**0.5 / 10, 51**0.5 / 40])
    assert corrected_z(150, 100, 10, 0.0, 0.0) == pytest.approx(signed_z(150, 100, 10))
    assert corrected_z(150, 100, 10, 0.2, 0.1) == pytest.approx(
        signed_z(150, 120, np.sqrt(12**2 + 20**2 + 10**2))
    )


def test_windows_within_the_guard_measure_nobodys_bias():
    windows = [Window(c, c + 2.0) for c in (0.0, 2.0, 3.0, 4.0)]
    np.testing.assert_array_equal(separate(windows)[0], [False, True, True, True])
    np.testing.assert_array_equal(separate(windows, 1.0)[0], [False, False, True, True])
    np.testing.assert_array_equal(separate(windows, 2.0)[3], [True, False, False, False])


def test_a_guard_keeps_a_wide_signal_out_of_the_fit():
    """A signal of which 18 % lie beside its window, without fluctuations: the guarded fit is not raised by them."""
    from scipy import stats

    wide = 60.0 * np.diff(stats.norm.cdf(EDGES, 3500.0, 150.0))
    there = [wide * (w.centre == 3500.0) for w in WINDOWS]
    made = [Spectra(EDGES, CUTS, np.stack([truth(1e5, 2) + one, truth(1e3, 2) + one])) for one in there]
    plain, guarded = (
        hunt(WINDOWS, made, energy=ENERGY, signal_width=0.05, toys=250, seed=3, guard=guard).best
        for guard in (0.0, 100.0)
    )
    assert plain.window == guarded.window == Window(3300.0, 3700.0)
    true = truth(1e3, 2)[Window(3300.0, 3700.0).contains(0.5 * (EDGES[1:] + EDGES[:-1]))].sum()
    assert guarded.b == pytest.approx(true, rel=0.04)
    assert plain.b > 1.08 * true
    assert guarded.b_error > plain.b_error  # fewer bins, longer way
    assert guarded.z > plain.z


def test_failed_toys_count_against_a_discovery(monkeypatch):
    from elsewhere.analysis import toys

    results, _ = scan(WINDOWS, spectra(1), ENERGY)
    given = toy_input(WINDOWS, spectra(1), results, ENERGY)
    monkeypatch.setattr(toys, "_scan_block", lambda *a: (np.array([np.inf, 1.0, 2.0, 0.5]), np.zeros(4)))
    monkeypatch.setattr(toys, "BLOCK", 4)
    found = global_p(given, 9.0, toys=4, seed=1)
    assert (found.failed, found.exceeding, found.bound) == (1, 1, False)


def test_a_first_cut_that_is_not_one_is_refused():
    with pytest.raises(FitError, match="first cut must be 1"):
        hunt(WINDOWS, [Spectra(EDGES, (0.1,), s.counts[1:]) for s in spectra(1)], energy=ENERGY, signal_width=0.05, toys=1, seed=1)  # fmt: skip


def test_a_window_that_cannot_be_fitted_is_named():
    made = spectra(1)
    made[2].counts[1] = 0.0
    _, failed = scan(WINDOWS, made, ENERGY)
    assert failed == ["window 3100-3500 GeV, cut 0.01: the spectrum is empty outside the window; widen the range or loosen the cut"]  # fmt: skip


def test_cuts_keep_their_share_of_every_fold_and_break_ties_by_hash():
    rng = np.random.default_rng(1)
    score, fold = np.round(rng.random(3000), 1), rng.integers(0, 5, 3000)
    inside, tie = rng.random(3000) < 0.8, rng.permutation(3000).astype(np.uint64)
    for eff in (0.3, 0.05):
        keep = passing(score, eff, fold, inside, tie)
        assert not keep[~inside].any()
        for k in range(5):
            mine = (fold == k) & inside
            assert keep[mine].sum() == round(eff * mine.sum())
            assert score[mine & keep].min() >= score[mine & ~keep].max()
    assert np.all(passing(score, 0.3, fold, inside, tie)[passing(score, 0.05, fold, inside, tie)])
    shuffled = rng.permutation(3000)
    again = passing(score[shuffled], 0.05, fold[shuffled], inside[shuffled], tie[shuffled])
    np.testing.assert_array_equal(again, passing(score, 0.05, fold, inside, tie)[shuffled])


def test_spectra_are_nested_and_cuts_must_decrease():
    rng = np.random.default_rng(2)
    mass, score, fold = rng.uniform(2000, 7000, 5000), rng.random(5000), rng.integers(0, 3, 5000)
    tie = np.arange(5000, dtype=np.uint64)
    made = nested_spectra(mass, score, (1.0, 0.1, 0.01), EDGES, fold, tie)
    assert np.all(np.diff(made.counts, axis=0) <= 0)
    assert made.counts[0].sum() == ((mass >= 2500) & (mass < 6500)).sum()
    with pytest.raises(FitError, match="must decrease"):
        nested_spectra(mass, score, (1.0, 0.01, 0.1), EDGES, fold, tie)
