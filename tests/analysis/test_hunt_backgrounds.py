"""The hunt with a Gaussian process and with the sideband count: pulls, a hidden signal, toys that repeat the estimate, bumps."""

import numpy as np
import pytest
from elsewhere.analysis.dijet import basis, fit_background, gradient_of
from elsewhere.analysis.hunt import hunt, scan, toy_input
from elsewhere.analysis.hunt_backgrounds import Estimator
from elsewhere.analysis.hunt_bumps import bumps, in_words
from elsewhere.analysis.hunt_toys import EstimatedToys, significances
from elsewhere.analysis.report import plain
from elsewhere.analysis.spectrum import Spectra
from elsewhere.analysis.toys import toy_maxima
from elsewhere.analysis.validity import validity
from elsewhere.errors import FitError
from elsewhere.events import Window

from .test_dijet import EDGES, ENERGY
from .test_hunt import CUTS, WINDOWS, spectra

OTHERS = ("gaussian_process", "abcd")
CENTRE = 0.5 * (EDGES[1:] + EDGES[:-1])
INSIDE = WINDOWS[3].contains(CENTRE)


def estimator(kind, guard=0.0):
    return Estimator(kind, ENERGY, 0.035, guard)


@pytest.mark.parametrize("kind", OTHERS)
def test_pulls_of_background_are_normal(kind):
    """(n - b) / sqrt(b + s^2) of 40 spectra in each of three windows. The count's systematics make it conservative."""
    pulls = []
    for seed in range(40):
        for window, one in zip(WINDOWS[1:8:3], spectra(300 + seed)[1:8:3], strict=True):
            inside = window.contains(CENTRE)
            found = estimator(kind)(one.counts, 1, EDGES, inside)
            pulls.append((one.counts[1, inside].sum() - found.b) / np.sqrt(found.b + found.s**2))
    assert abs(np.mean(pulls)) < 0.3
    assert (0.85 if kind == "gaussian_process" else 0.7) < np.std(pulls) < 1.15


@pytest.mark.parametrize("kind", OTHERS)
def test_a_signal_is_found_in_its_window(kind):
    found = hunt(
        WINDOWS, spectra(1, 100.0), energy=ENERGY, signal_width=0.05, toys=5, seed=3, background=kind
    )
    assert found.best.window == WINDOWS[3]
    assert found.best.cut == 0.01
    assert found.best.z > 5
    assert found.overall.exceeding == 0
    assert found.peak is not None
    assert found.peak.position == pytest.approx(3500, abs=50)
    assert found.best.gof_p > 1e-3


def test_the_count_is_the_passing_share_of_the_sidebands():
    """By hand; and with a share that rises with the mass its error covers what it then misses."""
    counts = np.stack([np.full(len(CENTRE), 1000.0), np.full(len(CENTRE), 20.0)])
    found = estimator("abcd")(counts, 1, EDGES, INSIDE)
    assert found.b == pytest.approx(20.0 * INSIDE.sum())
    assert found.order == 0
    assert np.sqrt(found.covariance[np.ix_(INSIDE, INSIDE)].sum()) == pytest.approx(found.s)
    rising = counts.copy()
    rising[1] = 1000.0 * 0.02 * (CENTRE / 3500.0) ** 3
    high = (CENTRE > 4300) & (CENTRE < 4700)
    tilted = estimator("abcd")(rising, 1, EDGES, high)
    assert tilted.s > 2 * found.s
    assert abs(rising[1, high].sum() - tilted.b) < 1.5 * tilted.s
    # without a cut nothing fails: the dijet fit
    whole = spectra(2)[3].counts
    one, other = (estimator(k)(whole, 0, EDGES, INSIDE) for k in ("abcd", "dijet"))
    assert (one.b, one.s) == (other.b, other.s)


def test_the_dijet_estimate_is_the_masked_fit():
    counts = spectra(2)[3].counts
    found = estimator("dijet")(counts, 1, EDGES, INSIDE)
    model = basis(EDGES, found.order, ENERGY)
    fit = fit_background(counts[1], model, ~INSIDE)
    assert (found.b, found.s) == fit.integral(INSIDE, gradient_of(model, fit.theta)[1])
    np.testing.assert_array_equal(found.error, fit.error)  # bit for bit: numbers of a search do not move
    np.testing.assert_array_equal(found.expected, fit.expected)
    np.testing.assert_allclose(np.diag(found.covariance), fit.error**2, rtol=1e-9)


@pytest.mark.parametrize("kind", ["dijet", *OTHERS])
def test_bins_of_the_guard_change_nothing(kind):
    """Whatever lies there; and without a guard it does change the estimate."""
    counts = spectra(2)[3].counts
    spoilt, near = counts.copy(), (CENTRE > 3200) & (CENTRE < 3800) & ~INSIDE
    assert near.sum() == 2
    spoilt[:, near] += 1000.0
    one, other = (estimator(kind, 100.0)(c, 1, EDGES, INSIDE) for c in (counts, spoilt))
    assert (one.b, one.s, one.half_deviance, one.ndf) == (other.b, other.s, other.half_deviance, other.ndf)
    plain = estimator(kind)(counts, 1, EDGES, INSIDE)
    assert estimator(kind)(spoilt, 1, EDGES, INSIDE).b > plain.b
    assert one.b != plain.b
    if kind != "gaussian_process":  # degrees of freedom of a process are no whole number
        assert plain.ndf == one.ndf + 2


@pytest.mark.parametrize("guard", [0.0, 200.0])
@pytest.mark.parametrize("kind", ["dijet", *OTHERS])
def test_a_toy_is_scanned_as_the_data_are(kind, guard):
    """With the data as the toy, every Z is that of the scan; and the dijet's toys are those of the compiled ones."""
    made = spectra(3, 60.0)
    windows, made = WINDOWS[::3], made[::3]
    results, _ = scan(windows, made, ENERGY, estimator(kind, guard))
    given = toy_input(windows, made, results, ENERGY, guard)
    assert given.fitted.all()
    zs = significances(np.stack([s.counts for s in made]), given, estimator(kind, guard))
    want = [[next(r.z for r in results if r.window == w and r.cut == c) for c in CUTS] for w in windows]
    np.testing.assert_allclose(zs, want, atol=1e-6)
    if kind == "dijet":
        slow, fast = EstimatedToys(estimator(kind, guard))(given, 30, 5), toy_maxima(given, 30, 5)
        # the compiled toys keep the order that the data chose
        assert np.mean(np.abs(slow[0] - fast[0]) < 2e-3) > 0.5


def test_toys_do_not_depend_on_threads_and_a_failed_one_exceeds():
    windows, made = WINDOWS[::3], spectra(4)[::3]
    results, _ = scan(windows, made, ENERGY, estimator("abcd"))
    given = toy_input(windows, made, results, ENERGY)
    runs = [EstimatedToys(estimator("abcd"))(given, 260, 5, threads) for threads in (1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.isfinite(runs[0][0]).all()

    def never(*_):
        raise FitError("no")

    assert np.isinf(EstimatedToys(never)(given, 3, 5)[0]).all()


def test_global_p_of_background_with_the_count_is_not_small_too_often():
    p = []
    for seed in range(16):
        found = hunt(
            WINDOWS[::3], spectra(500 + seed)[::3], energy=ENERGY, signal_width=0.05, toys=60, seed=seed,
            background="abcd",
        )  # fmt: skip
        p.append(found.overall.p)
    assert np.mean(np.array(p) <= 0.1) <= 0.3125  # binomial(16, 0.1) above 5: 0.3 %
    assert np.median(p) > 0.15


def test_bumphunter_sees_the_bump_of_the_best_window_and_where_it_is():
    found = hunt(WINDOWS[::3], spectra(1, 100.0)[::3], energy=ENERGY, signal_width=0.05, toys=5, seed=3)
    (before, after), failed = bumps(found, ENERGY, 0.035, 100, 1)
    assert failed == []
    assert (before.cut, after.cut) == (1.0, 0.01)
    assert before.t < 0.5 * after.t
    assert after.bound
    assert 3300 <= after.low < 3500 < after.high <= 3700
    assert after.n - after.b == pytest.approx(100, abs=40)
    assert "p < " in in_words(plain(after))
    assert "before the cut" in in_words(plain(before))


def test_bumphunter_takes_every_cut_of_the_best_window_and_names_what_it_cannot_fit():
    windows, made = WINDOWS[::3], []
    for one in spectra(1, 100.0)[::3]:
        none = np.zeros_like(one.counts[0])
        none[0] = 1.0
        tight = np.random.default_rng(5).binomial(one.counts[1].astype(int), 0.5).astype(float)
        made.append(Spectra(EDGES, (1.0, 0.01, 0.005, 0.001), np.stack([*one.counts, tight, none])))
    found = hunt(windows, made, energy=ENERGY, signal_width=0.05, toys=5, seed=3, background="abcd")
    assert found.best.window == windows[1]
    seen, failed = bumps(found, ENERGY, 0.035, 20, 1)
    assert [b.cut for b in seen] == [1.0, 0.01, 0.005]
    assert [f.split(":")[0] for f in failed] == ["BumpHunter, window 3300-3700 GeV, cut 0.001"]


@pytest.mark.parametrize("kind", OTHERS)
def test_a_classifier_that_knows_the_mass_makes_the_search_invalid(kind):
    """Every window's own cut multiplies what is in it by 2.5: not valid; without that, valid."""
    windows, clean, told = WINDOWS[::3], spectra(3)[::3], []
    for window, one in zip(windows, clean, strict=True):
        counts = one.counts.copy()
        counts[1, window.contains(CENTRE)] = np.round(counts[1, window.contains(CENTRE)] * 2.5)
        told.append(Spectra(EDGES, CUTS, counts))
    assert validity(scan(windows, clean, ENERGY, estimator(kind))[0]).valid
    biased = validity(scan(windows, told, ENERGY, estimator(kind))[0])
    assert not biased.valid
    assert len(biased.biased) == len(windows)


def test_where_the_count_expects_nothing_a_toy_has_the_bound_of_the_data():
    """Three events that all pass, nothing that fails: the count expects 0, and Z is that of the bins beside the window."""
    windows = [Window(2900, 3300), Window(5900, 6300)]
    whole = np.round(1e5 * np.exp(-(CENTRE - 2300) / 300))
    whole[windows[1].contains(CENTRE)] = 0
    whole[np.flatnonzero(windows[1].contains(CENTRE))[0]] = 3
    tight = np.where(windows[1].contains(CENTRE), whole, np.round(0.01 * whole))
    made = [Spectra(EDGES, CUTS, np.stack([whole, tight]))] * 2
    results, _ = scan(windows, made, ENERGY, estimator("abcd"))
    given = toy_input(windows, made, results, ENERGY)
    zs = significances(np.stack([s.counts for s in made]), given, estimator("abcd"))
    last = next(r for r in results if r.window == windows[1] and r.cut < 1)
    assert last.b == 0.0
    assert 0 < last.z < 3
    assert zs[1, 1] == pytest.approx(last.z)
