"""Predictions of a masked window by three models, and the ABCD count with its two systematic uncertainties."""

import numpy as np
import pytest
from elsewhere.analysis.abcd import abcd, abcd_of_scores, closure_grid, fit_with_signal
from elsewhere.analysis.background_models import (
    BackgroundModel,
    DijetBackground,
    GaussianProcessBackground,
    SidebandCount,
)
from elsewhere.analysis.gaussian_process import fit_process
from elsewhere.errors import ConfigError, FitError
from scipy import stats

from .test_dijet import EDGES, ENERGY, truth

INSIDE = (EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700)
CENTRE = 0.5 * (EDGES[1:] + EDGES[:-1])


def models(failing=None):
    return [
        DijetBackground(ENERGY, 3),
        GaussianProcessBackground(0.3, 0.2),
        SidebandCount(truth(1e6).round() if failing is None else failing),
    ]


@pytest.mark.parametrize("which", range(3))
def test_pulls_and_the_protocol(which):
    model, pulls = models()[which], []
    assert isinstance(model, BackgroundModel)
    for counts in np.random.default_rng(1).poisson(truth(1e5), (150, 40)).astype(float):
        found = model.predict(counts, EDGES, INSIDE)
        pulls.append((counts[INSIDE].sum() - found.b) / np.hypot(found.statistical, np.sqrt(found.b)))
    assert abs(np.mean(pulls)) < 0.3
    assert np.std(pulls) == pytest.approx(1.0, abs=0.18)
    assert found.b == pytest.approx(found.expected[INSIDE].sum())
    assert found.statistical == pytest.approx(np.sqrt(found.covariance[np.ix_(INSIDE, INSIDE)].sum()))
    assert found.bin_error.shape == (40,)


@pytest.mark.parametrize("which", range(3))
def test_the_window_is_not_looked_at(which):
    counts = np.random.default_rng(2).poisson(truth(1e5)).astype(float)
    spoilt = np.where(INSIDE, 10 * counts, counts)
    assert (
        models()[which].predict(spoilt, EDGES, INSIDE).b == models()[which].predict(counts, EDGES, INSIDE).b
    )


def test_a_chosen_order_is_the_likelihoods():
    counts = np.random.default_rng(2).poisson(truth(1e6)).astype(float)
    free, fixed = (
        DijetBackground(ENERGY).predict(counts, EDGES, INSIDE),
        DijetBackground(ENERGY, 2).predict(counts, EDGES, INSIDE),
    )
    assert abs(free.b - truth(1e6)[INSIDE].sum()) < abs(fixed.b - truth(1e6)[INSIDE].sum())


# --- Gaussian process
# -----------------------------------------------------------------------------------------------------


def test_a_turn_on_bends_a_function_and_not_a_process():
    """A score's turn-on at 2.7 TeV: fits of three parameters are off by many sigma, a masked process by a fraction."""
    turned = truth(1e5) * (0.25 + 0.75 / (1 + np.exp(-(CENTRE - 2700) / 150)))
    want = turned[INSIDE].sum()
    off = [
        abs(m.predict(turned, EDGES, INSIDE).b - want) / np.sqrt(want)
        for m in (DijetBackground(ENERGY, 2), GaussianProcessBackground())
    ]
    assert off[0] > 3
    assert off[1] < 1.0
    plain = GaussianProcessBackground().predict(truth(1e5), EDGES, INSIDE)
    assert abs(plain.b - truth(1e5)[INSIDE].sum()) < 0.3 * np.sqrt(want)


def test_an_unmasked_process_eats_a_signal_the_more_the_shorter_its_length():
    signal = stats.norm.pdf(CENTRE, 3500, 120)
    signal *= 3 * np.sqrt(truth(1e5)[INSIDE].sum()) / signal.sum()
    kept = []
    for length in (0.05, 0.1, 0.2, 0.4):
        fits = [
            fit_process(truth(1e5) + s, EDGES, np.ones(40, bool), length, 0.2, (0.1, 1.0)).expected
            for s in (signal, 0 * signal)
        ]
        kept.append(1 - (fits[0] - fits[1])[INSIDE].sum() / signal[INSIDE].sum())
    assert np.all(np.diff(kept) > 0)
    assert kept[0] < 0.4
    assert kept[3] > 0.45
    masked = [
        GaussianProcessBackground(0.4, 0.2).predict(truth(1e5) + s, EDGES, np.abs(CENTRE - 3500) < 400).b
        for s in (signal, 0 * signal)
    ]
    assert masked[0] == pytest.approx(masked[1], abs=1.0)


def test_the_evidence_prefers_the_truth():
    """Of wiggles of 20 % on a scale of 0.1 in ln m the evidence finds the amplitude, and of none that there is none."""
    rng, x = np.random.default_rng(3), np.log(CENTRE)
    root = np.linalg.cholesky(np.exp(-0.5 * ((x[:, None] - x) / 0.1) ** 2) + 1e-8 * np.eye(40))
    wiggled = rng.poisson(truth(1e6) * np.exp(0.2 * root @ rng.standard_normal(40))).astype(float)
    use = np.ones(40, bool)
    found = fit_process(wiggled, EDGES, use, None, None, (0.03, 1.0))
    assert 0.05 < found.length < 0.2
    assert 0.08 < found.amplitude < 0.5
    for length, amplitude in ((0.5, 0.2), (0.1, 0.02), (0.1, 2.0)):
        assert (
            fit_process(wiggled, EDGES, use, length, amplitude, (0.03, 1.0)).log_evidence < found.log_evidence
        )
    smooth = rng.poisson(truth(1e5)).astype(float)
    assert fit_process(smooth, EDGES, use, 0.1, None, (0.03, 1.0)).amplitude < 0.08


def test_a_process_on_few_events_is_finite():
    counts = np.random.default_rng(3).poisson(truth(100.0)).astype(float)
    found = GaussianProcessBackground().predict(counts, EDGES, INSIDE)
    assert np.isfinite([found.b, found.error]).all()
    assert found.b == pytest.approx(truth(100.0)[INSIDE].sum(), abs=5 * found.error)


# --- sideband count
# ---------------------------------------------------------------------------------------------------------


def test_sideband_counts_by_hand():
    failing, passing = np.array([100.0, 200, 300, 200]), np.array([10.0, 99, 99, 20])
    edges, inside = np.array([1.0, 2, 3, 4, 5]), np.array([False, True, True, False])
    found = SidebandCount(failing).predict(passing, edges, inside)
    assert found.b == pytest.approx(500 * 30 / 300)
    assert found.statistical == pytest.approx(50 * np.sqrt(1 / 500 + 1 / 30 + 1 / 300))
    assert found.systematic["non-closure"] == 0  # 10 of 100 and 20 of 200 pass
    assert 0 < found.systematic["correlation"] < 50


def test_a_share_that_rises_with_mass_is_covered():
    failing = truth(1e6)
    passing = 0.01 * failing * (CENTRE / 3500) ** 2
    found = SidebandCount(failing).predict(passing, EDGES, INSIDE)
    off = passing[INSIDE].sum() - found.b
    assert abs(off) > 3 * found.statistical
    assert 0.5 < abs(off) / found.systematic["correlation"] < 2
    assert found.systematic["non-closure"] > 5 * found.statistical
    flat = SidebandCount(failing).predict(0.01 * failing, EDGES, INSIDE)
    assert flat.error < 0.5 * found.error


# --- ABCD
# -------------------------------------------------------------------------------------------------------------------


def test_the_golden_count():
    found = abcd(100, 500, 400, 2000)
    assert found.expected == 100.0
    assert found.statistical == pytest.approx(7.0711, abs=1e-4)


def test_pulls_of_the_count_down_to_20_events():
    n = np.random.default_rng(1).poisson([20, 200, 200, 2000], (4000, 4))
    pulls = [
        (a - f.expected) / np.hypot(np.sqrt(f.expected), f.statistical)
        for a, f in ((r[0], abcd(*r)) for r in n)
    ]
    assert abs(np.mean(pulls)) < 0.1
    assert np.std(pulls) == pytest.approx(1.0, abs=0.05)


def test_four_regions_are_solved_with_contamination():
    background, signal = np.array([100.0, 500, 400, 2000]), np.array([1.0, 0.3, 0.2, 0.1])
    found = fit_with_signal(background + 50 * signal, signal)
    assert found.mu == pytest.approx(50.0)
    assert fit_with_signal(background, signal).q0 == pytest.approx(0.0, abs=1e-9)
    pure = fit_with_signal(background + np.array([50, 0, 0, 0]), np.array([1.0, 0, 0, 0]))
    assert pure.mu == pytest.approx(50.0)
    table = stats.contingency.chi2_contingency(
        [[150, 500], [400, 2000]], correction=False, lambda_="log-likelihood"
    )
    assert pure.q0 == pytest.approx(table[0])
    deficit = fit_with_signal(background - np.array([50, 0, 0, 0]), np.array([1.0, 0, 0, 0]))
    assert deficit.q0 == 0
    assert deficit.z < -3


def scores(rho, n=20_000, seed=1):
    return np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T


def test_independent_scores_close_and_correlated_ones_are_covered():
    pulls, sizes = [], []
    for seed in range(40):
        found = abcd_of_scores(*scores(0.0, seed=seed), 1.5, 1.5)
        pulls.append((found.n[0] - found.expected) / np.hypot(np.sqrt(found.expected), found.error))
        sizes.append((found.correlation / found.statistical, found.non_closure / found.statistical))
    assert abs(np.mean(pulls)) < 0.4
    assert 0.5 < np.std(pulls) < 1.2
    assert np.all(np.median(sizes, axis=0) < 2)
    found = abcd_of_scores(*scores(0.2, 50_000), 1.5, 1.5)
    off = found.n[0] - found.expected
    assert off > 5 * found.statistical
    assert 0.4 < off / found.correlation < 2.5
    assert off < 3 * np.hypot(found.correlation, found.non_closure)


def test_a_dependence_without_correlation_shows_in_the_grid():
    """Both scores wide together or narrow together: their tails go together. The planes below A see that there is
    something, of opposite signs, so that their mean does not; how much of it there is in A they cannot know."""
    rng = np.random.default_rng(2)
    wide = np.where(rng.random(100_000) < 0.3, 2.0, 1.0)
    first, second = rng.standard_normal((2, 100_000)) * wide
    found = abcd_of_scores(first, second, 2.0, 2.0)
    assert found.n[0] - found.expected > 5 * found.statistical
    assert found.non_closure > 3 * found.statistical
    grid = closure_grid(first, second, 2.0, 2.0)
    assert abs(np.average(grid[:, 0], weights=grid[:, 1] ** -2)) * found.expected < found.statistical


def test_region_a_is_not_looked_at_but_for_its_number():
    first, second = scores(0.0)
    grid = closure_grid(first, second, 1.5, 1.5)
    inside = (first >= 1.5) & (second >= 1.5)
    again = closure_grid(np.where(inside, 9.0, first), np.where(inside, 9.0, second), 1.5, 1.5)
    np.testing.assert_array_equal(grid, again)
    np.testing.assert_array_equal(grid, closure_grid(first[~inside], second[~inside], 1.5, 1.5))
    assert len(grid) >= 9


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GaussianProcessBackground(length=0.0), ConfigError, "length 0"),
        (lambda: GaussianProcessBackground(lengths=(0.5, 0.1)), ConfigError, "rising"),
        (lambda: DijetBackground(ENERGY).predict(np.ones(5), EDGES, INSIDE), FitError, "41 edges, 5 counts"),
        (
            lambda: DijetBackground(ENERGY).predict(truth(1e4), EDGES, np.ones(40, bool)),
            FitError,
            "leave some",
        ),
        (lambda: GaussianProcessBackground().predict(-truth(1e4), EDGES, INSIDE), FitError, "bin 0"),
        (lambda: GaussianProcessBackground().predict(np.zeros(40), EDGES, INSIDE), FitError, "too little"),
        (
            lambda: SidebandCount(np.zeros(40)).predict(truth(1e4), EDGES, INSIDE),
            FitError,
            "widen the sidebands",
        ),
        (lambda: abcd(1, 0, 3, 4), FitError, "B 0"),
        (lambda: abcd_of_scores(np.array([np.nan, 1]), np.ones(2), 0.5, 0.5), FitError, "not finite"),
        (lambda: abcd_of_scores(np.zeros(2), np.ones(3), 0.5, 0.5), FitError, "same length"),
        (lambda: fit_with_signal(np.ones(4), np.array([0.0, 1, 1, 1])), FitError, "signal in A"),
        (
            lambda: fit_with_signal(np.array([1.0, 10, 10, 1]), np.array([1.0, 9, 9, 1])),
            FitError,
            "move the cuts",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
