"""The hunt by signal fits: what they gain on the window's count, what a bias does to them, and their toys."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis
from elsewhere.analysis.hunt import hunt, scan, toy_input
from elsewhere.analysis.hunt_fits import FittedToys, PeakFits, masses_of, response, without_bias
from elsewhere.analysis.peaks import Gaussian, scan_masses, templates
from elsewhere.analysis.spectrum import Spectra
from elsewhere.analysis.toys import throw
from elsewhere.errors import FitError
from elsewhere.events import Window
from scipy import stats

from .test_dijet import EDGES, ENERGY, truth

WINDOWS = [Window(c - 200.0, c + 200.0) for c in range(2900, 4701, 300)]
CUTS = (1.0, 0.01)
WIDTH = 0.04
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])
FITS = PeakFits(masses_of(WINDOWS), WIDTH, ENERGY)


def spectra(seed, signal=0.0, mass=3500.0, bias=1.0):
    """A pair per window; after the cut ``signal`` events at ``mass`` where the window holds it, and ``bias`` inside every window."""
    rng, out = np.random.default_rng(seed), []
    peak = Gaussian(WIDTH).fractions(EDGES, mass)
    for window in WINDOWS:
        inside = window.contains(CENTRES)
        tight = rng.poisson(truth(1000.0, 2) * np.where(inside, bias, 1.0)).astype(float)
        if window.low <= mass < window.high:
            tight += rng.poisson(signal * peak)
        rest = rng.poisson(truth(99_000.0, 2)).astype(float)
        out.append(Spectra(EDGES, CUTS, np.array([tight + rest, tight])))
    return out


def run(seed, toys=250, statistic="fit", **kwargs):
    made = spectra(seed, **kwargs)
    return hunt(WINDOWS, made, energy=ENERGY, signal_width=WIDTH, toys=toys, seed=3, statistic=statistic)


def test_masses_of_evenly_spaced_windows_are_one_even_grid():
    every = masses_of(WINDOWS).ravel()
    assert np.allclose(np.diff(every), 75.0)
    assert masses_of(WINDOWS[:1]).tolist() == [[2700.0, 2800.0, 2900.0, 3000.0]]
    apart = masses_of([Window(2900.0, 3100.0), Window(4000.0, 4200.0)])
    assert apart.tolist() == [[2900.0, 2950.0, 3000.0, 3050.0], [4000.0, 4050.0, 4100.0, 4150.0]]


def test_a_signal_that_a_window_cuts_in_two_is_worth_more_to_the_fit_than_to_the_count():
    """At 3650 GeV no window holds it whole: the fit's Z is larger in every one of ten spectra, and it says where and how much."""
    found = [run(seed, 20, signal=80.0, mass=3650.0) for seed in range(10)]
    counted = [run(seed, 20, "count", signal=80.0, mass=3650.0) for seed in range(10)]
    assert all(f.best.z > c.best.z + 0.3 for f, c in zip(found, counted, strict=True))
    assert all(abs(f.best.mass - 3650.0) < 100 for f in found)
    pulls = [(f.best.signal - 80.0) / f.best.signal_error for f in found]
    assert abs(np.mean(pulls)) < 1.0  # the largest of several fits is a little high
    assert counted[0].best.mass is None


def test_the_significance_is_that_of_the_peak_fit_and_the_order_that_of_the_masked_fit():
    made = spectra(5)
    for r in scan(WINDOWS, made, ENERGY, fits=FITS)[0][::3]:
        i = WINDOWS.index(r.window)
        fits = scan_masses(r.counts, basis(EDGES, r.order, ENERGY), FITS.masses[i], Gaussian(WIDTH))
        best = int(np.argmin(abs(fits.masses - r.mass)))
        assert r.z_raw == pytest.approx(fits.root[0, best])
        assert r.signal == pytest.approx(fits.signal[0, best])
        if r.cut == 1:
            assert r.z == pytest.approx(r.z_raw)


def test_the_response_is_what_a_fit_makes_of_a_bias_inside_the_window():
    """Asimov: 5 % more in the window and nothing else; the fitted yield is that of the linear response."""
    model, expected = basis(EDGES, 3, ENERGY), truth(1e5, 3)
    for i, window in enumerate(WINDOWS[1:-1], 1):
        inside, masses = window.contains(CENTRES), FITS.masses[i]
        fits = scan_masses(
            expected * np.where(inside, 1.05, 1.0), model, masses, Gaussian(WIDTH)
        )  # truth is of the family, so nothing else is fitted
        moved = response(model, expected, inside, templates(EDGES, masses, Gaussian(WIDTH)))
        np.testing.assert_allclose(fits.signal[0], 0.05 * moved, rtol=0.06)


def test_a_bias_is_taken_out_and_its_size_counts_as_an_error():
    z, signal, error = np.array([4.0]), np.array([40.0]), np.array([11.0])
    moved = np.array([100.0])
    assert without_bias(z, signal, error, moved, 0.0, 0.0) == pytest.approx(4.0)
    # 10 of the 40 events are the bias's; the error is 10, as Z says, and 100 x .1 in quadrature
    assert without_bias(z, signal, error, moved, 0.1, 0.1) == pytest.approx(30 / np.hypot(10, 10))
    nothing = np.zeros(1)
    assert without_bias(nothing, nothing, error, moved, 0.1, 0.1) == pytest.approx(-10 / np.hypot(11, 10))
    assert without_bias(np.array([np.inf]), signal, error, moved, 0.1, 0.1) == np.inf


def test_a_bias_shared_by_the_windows_is_no_excess():
    results, _ = scan(WINDOWS, spectra(11, bias=1.6), ENERGY, fits=FITS)
    tight = [r for r in results if r.cut < 1]
    assert max(r.z_raw for r in tight) > 3
    assert max(r.z for r in tight) < 1.5


def test_a_toy_is_scanned_as_the_data_are():
    made = spectra(3, 50.0)
    results, _ = scan(WINDOWS, made, ENERGY, fits=FITS)
    given = toy_input(WINDOWS, made, results, ENERGY)
    toys = FittedToys(FITS)
    counts = np.stack([s.counts for s in made])[None]
    zs = toys.significances(counts, given, toys.responses(given))[0].max(axis=-1)
    want = np.array(
        [[next(r.z for r in results if r.window == w and r.cut == c) for c in CUTS] for w in WINDOWS]
    )
    np.testing.assert_allclose(zs, want, atol=0.02)


def test_toys_do_not_depend_on_threads_and_an_empty_spectrum_has_no_signal():
    made = spectra(1)
    given = toy_input(WINDOWS, made, scan(WINDOWS, made, ENERGY, fits=FITS)[0], ENERGY)
    toys = FittedToys(FITS)
    one, two = toys(given, 300, 5, threads=1), toys(given, 300, 5, threads=2)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    counts = throw(given, 5, 0, 4)
    counts[1, 2] = 0.0
    zs = toys.significances(counts, given, toys.responses(given))
    assert np.isneginf(zs[1, 2]).all()
    assert np.isfinite(zs[[0, 2, 3]]).all()


@pytest.mark.filterwarnings("error")
def test_toys_with_hardly_an_event_after_the_cut_have_no_warning_and_no_excess():
    """Five events in the first bin: most fits have no minimum, which counts as exceeding and is no warning."""
    made = spectra(1)
    given = toy_input(WINDOWS, made, scan(WINDOWS, made, ENERGY, fits=FITS)[0], ENERGY)
    counts = throw(given, 5, 0, 20)
    counts[:, :, 1] = 0.0
    counts[:, :, 1, 0] = 5.0  # all in the first bin: the function falls to nothing behind it
    toys = FittedToys(FITS)
    zs = toys.significances(counts, given, toys.responses(given))[:, :, 1]
    assert (np.isposinf(zs) | (zs < 1)).all()


def test_the_global_p_value_of_background_is_uniform_with_and_without_a_bias():
    p = [run(100 + i, bias=1.0 if i % 2 else 1.1).overall for i in range(30)]
    assert stats.kstest([one.p for one in p], "uniform").pvalue > 0.01
    assert sum(one.failed for one in p) < 10


def test_another_background_is_refused():
    with pytest.raises(FitError, match="signal fits need the dijet function as their background, not abcd"):
        hunt(
            WINDOWS, spectra(1), energy=ENERGY, signal_width=WIDTH, toys=5, seed=1, statistic="fit", background="abcd"
        )  # fmt: skip
