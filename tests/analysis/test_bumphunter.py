"""BumpHunter: t by SciPy, the published example, honest global p-values in every mode, and the known faults of
others.
"""

import numpy as np
import pytest
from elsewhere.analysis.bumphunter import BumpHunter
from elsewhere.analysis.bumphunter_laws import BLOCK, Reference, expectation_of
from elsewhere.analysis.bumphunter_tables import NumpyScanner, Scanner, side_limits
from elsewhere.analysis.dijet import basis
from elsewhere.analysis.peaks import fit_backgrounds
from elsewhere.analysis.windows import contents, windows_of
from elsewhere.errors import ConfigError, FitError
from scipy import stats

from .test_dijet import EDGES, ENERGY, truth

#: The example that comes with pyBumpHunter: 60 bins of 0-20, exponentials of 100,000 with 150 events at 5.5 in the
#: data.
BACKGROUND = np.array([
    15394, 13137, 11006, 9232, 7911, 6636, 5661, 4729, 4024, 3412, 2788, 2551, 2108, 1789, 1474, 1264, 1078,
    894, 705, 624, 552, 495, 394, 322, 275, 239, 178, 189, 151, 133, 100, 66, 69, 65, 47, 38, 43, 35, 32, 25,
    19, 19, 23, 13, 10, 8, 5, 7, 5, 5, 3, 4, 1, 1, 2, 1, 1, 3, 0, 1,
], dtype=float)  # fmt: skip
DATA = np.array([
    15133, 13122, 11053, 9347, 7862, 6678, 5629, 4645, 4125, 3404, 2916, 2509, 2028, 1818, 1510, 1268, 1121,
    950, 771, 667, 513, 488, 398, 324, 267, 231, 222, 183, 153, 132, 101, 82, 79, 60, 59, 44, 41, 35, 43, 22,
    19, 19, 15, 6, 8, 6, 9, 5, 5, 3, 2, 4, 2, 5, 3, 0, 1, 1, 1, 0,
])  # fmt: skip
FALLING = 400 * np.exp(-np.arange(20) / 6.0)


def spectra(expected, n, seed=1):
    return np.random.default_rng(seed).poisson(expected, (n, *np.shape(expected)))


def hunter(**settings):
    return BumpHunter(**{"toys": 500, "max_width": 6, **settings})


# --- t ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", [(40,), (9, 8)])
@pytest.mark.parametrize("kind", ["exact", "normalised", "reference", "weighted"])
def test_both_engines_find_the_largest_of_all_windows(kind, shape, sign):
    rng = np.random.default_rng(2)
    expected = 60 * np.exp(-np.arange(np.prod(shape)) / 20.0).reshape(shape) + 0.2
    data = rng.poisson(expected)
    weights = rng.uniform(0.5, 1.5, shape)
    background = {
        "reference": Reference.of_events(rng.poisson(expected * 3), 1 / 3),
        "weighted": Reference(expected * weights, expected * weights * 0.3),
    }.get(kind, expected)
    windows = windows_of(shape, 1, None, 1)
    law = expectation_of(data, background, windows, kind == "normalised", None)
    toys = law.throw(np.random.default_rng(3), 200)
    every = law.t_all(toys, windows, sign)
    for scanner in (Scanner, NumpyScanner):
        best, where = scanner(windows, law, sign, None)(toys)
        np.testing.assert_allclose(best, every.max(axis=1), atol=1e-9)
        np.testing.assert_allclose(every[np.arange(200), where], every.max(axis=1), atol=1e-9)


def test_windows_hold_what_they_say():
    counts = np.arange(30).reshape(5, 6)
    windows = windows_of((5, 6), 1, 3, 1)
    for w in (0, 40, len(windows.start) - 1):
        (a, b), (c, d) = windows.start[w], windows.stop[w]
        assert contents(windows, counts)[w] == counts[a:c, b:d].sum()
    assert len(windows_of((60,), 1, 30, 1).start) == 1365
    assert len(windows_of((60,), 2, 6, 1).start) == 285
    assert np.all(np.diff(windows_of((20,), 4, 4, "half").start[:, 0]) == 2)
    assert np.all(np.diff(windows_of((20,), 4, 4, "full").start[:, 0]) == 4)


def test_the_published_example():
    """pyBumpHunter and its C++ ancestor: bins 16-19, local p 0.0001734, global p 0.0177 of 10,000."""
    found = BumpHunter(min_width=2, max_width=6, toys=20_000).hunt(DATA[:58], BACKGROUND[:58])
    assert (found.start, found.stop) == ((16,), (20,))
    assert found.t == pytest.approx(8.659847913307976, abs=1e-10)
    assert found.p_local == pytest.approx(0.0001734, abs=5e-8)
    assert found.signal == 208
    assert found.p_global == pytest.approx(0.0177, abs=0.004)
    assert found.z_global == pytest.approx(stats.norm.isf(found.p_global))
    assert not found.bound


def test_the_published_library_finds_the_same_t():
    peer = pytest.importorskip("pyBumpHunter")
    its = peer.BumpHunter1D(
        rang=[0, 20], bins=60, width_min=2, width_max=6, width_step=1, scan_step=1, npe=10, nworker=1
    )
    its.bump_scan(DATA.copy(), BACKGROUND.copy(), is_hist=True)
    ours = BumpHunter(min_width=2, max_width=6, toys=10, empty=1.84).hunt(DATA, BACKGROUND)
    assert ours.t == pytest.approx(float(its.t_ar[0]), abs=1e-10)


# --- global p ---------------------------------------------------------------------------------------------------------


def small_p(hunt, data, level=0.05):
    """Share of p below ``level``."""
    return np.mean([hunt(d).p_global <= level for d in data])


@pytest.mark.parametrize("settings", [{}, {"mode": "deficit"}, {"sidebands": 1e-3}, {"step": "half"}])
def test_global_p_of_background_is_uniform(settings):
    p = [hunter(toys=200, **settings).hunt(d, FALLING).p_global for d in spectra(FALLING, 200)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.055)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_a_bump_is_found_in_one_and_in_two_dimensions():
    data = spectra(FALLING, 1)[0]
    data[9:11] += 60
    found = hunter().hunt(data, FALLING)
    assert (found.start, found.stop) == ((9,), (11,))
    assert found.bound
    assert found.p_global == 1 / 501
    flat = np.full((12, 10), 5.0)
    plane = spectra(flat, 1)[0]
    plane[3:5, 6:9] += 12
    found = hunter(max_width=4).hunt(plane, flat)
    assert (found.start, found.stop) == ((3, 6), (5, 9))
    assert found.signal == plane[3:5, 6:9].sum() - 30


def test_sidebands_disqualify_a_step_and_not_a_bump():
    step = np.where(np.arange(30) >= 15, 150, 100)
    bump = np.full(30, 100)
    bump[14:16] += 50
    flat, asked = np.full(30, 100.0), hunter(max_width=4, sidebands=1e-3)
    windows, t = asked.tomography(step, flat)
    found = asked.hunt(step, flat)
    assert found.t < hunter(max_width=4).hunt(step, flat).t
    w, side = (
        np.flatnonzero((windows.start[:, 0] == found.start[0]) & (windows.stop[:, 0] == found.stop[0]))[0],
        windows.sides,
    )
    assert found.t == pytest.approx(t[w])
    law = expectation_of(step, flat, windows, False, None)
    limits = side_limits(windows, law, 1e-3)[1]
    for s in range(2):
        n = step[side[w, s, 0] : side[w, s, 1]].sum()
        b = flat[side[w, s, 0] : side[w, s, 1]].sum()
        assert limits[w, s, 0] <= n <= limits[w, s, 1]
        if b > 0:
            assert min(stats.poisson.sf(n - 1, b), stats.poisson.cdf(n, b)) >= 1e-3
    assert asked.hunt(bump, flat).start == (14,)
    assert asked.hunt(bump, flat).t == pytest.approx(
        hunter(max_width=4, engine="numpy", sidebands=1e-3).hunt(bump, flat).t
    )


def test_threads_toys_and_seeds():
    data = spectra(FALLING, 1)[0]
    one = hunter(toys=2 * BLOCK + 10).hunt(data, FALLING)
    two = hunter(toys=2 * BLOCK + 10, threads=2).hunt(data, FALLING)
    np.testing.assert_array_equal(one.t_toys, two.t_toys)
    np.testing.assert_array_equal(hunter(toys=30).hunt(data, FALLING).t_toys, one.t_toys[:30])
    assert not np.array_equal(hunter(toys=30, seed=2).hunt(data, FALLING).t_toys, one.t_toys[:30])


# --- the ten known faults
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_1_a_finite_reference_is_not_exact(size):
    """Taken as exact, a reference of the data's size makes p <= 0.05 in most signal-free searches."""
    rng, p, naive = np.random.default_rng(5), [], []
    for _ in range(150):
        reference, data = rng.poisson(FALLING * size), rng.poisson(FALLING)
        p.append(hunter(toys=200).hunt(data, Reference.of_events(reference, 1 / size)).p_global)
        naive.append(hunter(toys=200, empty=1.84 / size).hunt(data, reference / size).p_global)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.06)
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    if size == 1:
        assert np.mean(np.array(naive) <= 0.05) > 0.3


def test_1_so_is_a_weighted_one():
    rng, p = np.random.default_rng(6), []
    for _ in range(150):
        n, w = rng.poisson(FALLING * 2), np.where(np.arange(20) % 2, 0.4, 0.6)
        reference = Reference(n * w, n * w**2)
        p.append(hunter(toys=200).hunt(rng.poisson(2 * w * FALLING), reference).p_global)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.06)


def refit(model):
    def run(counts):
        fits = fit_backgrounds(counts, model)
        return fits.expected, fits.converged

    return run


def test_2_a_fitted_background_is_fitted_again():
    """Without it p <= 0.05 happens in less than 1 %, and power is lost."""
    expected, fit = truth(1e4), refit(basis(EDGES, 3, ENERGY))
    data = spectra(expected, 120, seed=7)
    again = np.array([hunter(toys=200).hunt_fitted(d, fit).p_global for d in data])
    fixed = np.array([hunter(toys=200).hunt(d, fit(d[None].astype(float))[0][0]).p_global for d in data])
    assert 0.015 <= np.mean(again <= 0.05) <= 0.1
    assert np.mean(fixed <= 0.05) <= 0.025
    assert stats.kstest(again, "uniform").pvalue > 1e-3
    bump = data + np.where((EDGES[:-1] >= 3300) & (EDGES[:-1] < 3500), 40, 0)
    again = [hunter(toys=200).hunt_fitted(d, fit).p_global for d in bump[:40]]
    fixed = [hunter(toys=200).hunt(d, fit(d[None].astype(float))[0][0]).p_global for d in bump[:40]]
    assert np.mean(np.array(again) <= 0.01) > np.mean(np.array(fixed) <= 0.01)


def test_2_a_toy_without_a_fit_counts_as_exceeding():
    def fit(counts):
        return np.tile(FALLING, (len(counts), 1)), np.arange(len(counts)) % 10 != 9

    found = hunter(toys=100).hunt_fitted(spectra(FALLING, 1)[0], fit)
    assert found.failed == 10
    assert found.exceeding >= 10
    with pytest.raises(FitError, match="did not converge"):
        hunter().hunt_fitted(
            spectra(FALLING, 1)[0], lambda c: (np.tile(FALLING, (len(c), 1)), np.zeros(len(c), bool))
        )


def test_2_the_scan_with_a_fit_of_its_own_is_the_scan():
    data = spectra(FALLING, 1)[0]
    for settings in ({}, {"mode": "deficit"}, {"sidebands": 0.01}):
        same = hunter(**settings).hunt_fitted(
            data, lambda c: (np.tile(FALLING, (len(c), 1)), np.ones(len(c), bool))
        )
        plain = hunter(**settings).hunt(data, FALLING)
        assert same.t == pytest.approx(plain.t, abs=1e-10)
        assert same.start == plain.start


def test_3_data_where_nothing_is_expected_are_refused_or_bounded():
    empty, data = FALLING.copy(), spectra(FALLING, 1)[0]
    empty[12:14], data[12:14] = 0.0, 30
    with pytest.raises(FitError, match=r"nothing in bin \(12,\).*`empty`"):
        hunter().hunt(data, empty)
    found = hunter(empty=1.84).hunt(data, empty)
    assert (found.start, found.stop, found.b[0]) == ((12,), (14,), pytest.approx(3.68))
    found = hunter().hunt(data, Reference.of_events(empty.round(), 1.0))
    assert found.start[0] <= 12 < found.stop[0]
    assert found.bound
    # Nothing seen and nothing expected is no excess, and empty bins at the ends do not move the others.
    ends = np.r_[0.0, FALLING, 0.0]
    there = hunter().hunt(np.r_[0, spectra(FALLING, 1)[0], 0], ends)
    assert there.t == pytest.approx(hunter().hunt(spectra(FALLING, 1)[0], FALLING).t)
    assert there.start[0] == hunter().hunt(spectra(FALLING, 1)[0], FALLING).start[0] + 1


def test_4_channels_share_the_window_and_keep_their_counts():
    flat = np.full(40, 50.0)
    one, two = spectra(flat, 2, seed=9)
    one[29:34] += 15
    two[29:34] += 25
    found = hunter().hunt_channels([one, two], [flat, flat])
    assert (found.start, found.stop) == ((29,), (34,))
    assert found.n == (one[29:34].sum(), two[29:34].sum())
    assert found.b == (250.0, 250.0)
    t = sum(-stats.poisson.logsf(c[29:34].sum() - 1, 250.0) for c in (one, two))
    assert found.t == pytest.approx(t)
    p = [hunter(toys=200).hunt_channels(list(d), [flat, flat / 5]).p_global for d in
         zip(spectra(flat, 30, 1), spectra(flat / 5, 30, 2), strict=True)]  # fmt: skip
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_5_nothing_is_infinite_or_zero():
    found = hunter(toys=100).hunt(np.full(20, 3000), np.full(20, 100.0))
    assert np.isfinite([found.t, found.z_local]).all()
    assert found.t > 1e4
    assert found.z_local > 100
    assert found.p_global == 1 / 101
    assert np.isfinite(found.z_global)


def test_6_deep_deficits_are_finite():
    """No event on 477.005 expected: t is 477.005."""
    expected = np.full(10, 477.005)
    data = np.full(10, 477)
    data[4] = 0
    found = hunter(max_width=1, mode="deficit").hunt(data, expected)
    assert found.t == pytest.approx(477.005, abs=1e-9)
    assert found.start == (4,)
    assert hunter(max_width=1).hunt(data, expected).t < 1


@pytest.mark.parametrize(
    ("data", "background", "message"),
    [
        (np.r_[np.nan, np.ones(19)], FALLING, r"data bin \(0,\) holds nan"),
        (np.r_[1.0, -1.0, np.ones(18)], FALLING, r"data bin \(1,\) holds -1"),
        (np.full(20, 0.5), FALLING, "whole number"),
        (np.ones(20), np.r_[np.nan, FALLING[1:]], r"background bin \(0,\) is nan"),
        (np.ones(20), np.zeros(20), "background is empty"),
        (np.ones(20), FALLING[:-1], "same bins"),
        (np.ones((2, 2, 2)), FALLING, "one or two dimensions"),
        (np.ones(20), Reference(FALLING, np.r_[0.0, FALLING[1:]]), "no squared weight"),
    ],
)
def test_7_what_is_no_spectrum_is_refused(data, background, message):
    with pytest.raises(FitError, match=message):
        hunter().hunt(data, background)


@pytest.mark.parametrize("ratio", [0.01, 100.0])
def test_8_a_background_scaled_to_the_data_is_thrown_at_its_scale(ratio):
    data = spectra(FALLING, 150, seed=11)
    p = [hunter(toys=200, normalise=True).hunt(d, FALLING * ratio).p_global for d in data]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.06)
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    bump = data[0].copy()
    bump[9:11] += 80
    found = hunter(normalise=True).hunt(bump, FALLING * ratio)
    rest = np.r_[0:9, 11:20]
    assert found.start == (9,)
    assert found.b[0] == pytest.approx(FALLING[9:11].sum() * bump[rest].sum() / FALLING[rest].sum())


def test_9_no_global_seed_and_no_setting_is_touched():
    kind, keys, *_ = before = np.random.get_state()  # noqa: NPY002
    settings, background, data = hunter(), FALLING.copy(), spectra(FALLING, 1)[0]
    first, again = settings.hunt(data, background), settings.hunt(data, background)
    np.testing.assert_array_equal(first.t_toys, again.t_toys)
    np.testing.assert_array_equal(background, FALLING)
    assert settings == hunter()
    after = np.random.get_state()  # noqa: NPY002
    assert after[0] == kind
    np.testing.assert_array_equal(after[1], keys)
    assert after[2] == before[2]
    with pytest.raises(AttributeError):
        settings.max_width = 3


def test_10_kernels_run_without_the_interpreters_lock():
    from elsewhere.analysis import bumphunter_kernels as kernels

    for kernel in (kernels.scan_fixed, kernels.scan_each, kernels.invert):
        assert kernel.targetoptions["nogil"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "both"}, "excess or deficit"),
        ({"engine": "c"}, "numba or numpy"),
        ({"step": 0}, "step 0"),
        ({"sidebands": 1.0}, "sidebands 1"),
        ({"empty": 0.0}, "empty 0"),
        ({"toys": 0}, "toys 0"),
        ({"min_width": 7}, "widths 7 to 6"),
        ({"max_width": 21}, "widths 1 to 21 of 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        hunter(**settings).hunt(np.ones(20), FALLING)


def test_combinations_without_a_definition_are_refused():
    with pytest.raises(ConfigError, match="one dimension"):
        hunter(sidebands=0.01, max_width=2).hunt(np.ones((5, 5)), np.ones((5, 5)))
    with pytest.raises(FitError, match="normalise"):
        hunter(normalise=True).hunt(np.ones(20), Reference.of_events(FALLING.round(), 1.0))
    with pytest.raises(FitError, match="pairs of one shape"):
        hunter().hunt_channels([np.ones(20), np.ones(19)], [FALLING, FALLING[:-1]])
    with pytest.raises(ConfigError, match="refitted background"):
        hunter(normalise=True).hunt_fitted(np.ones(20), refit(basis(EDGES, 3, ENERGY)))
