"""Outlier scores of plain vectors against brute force, formulas, SciPy and what is known of their distributions."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.base import Density
from elsewhere.models.scores.kernel_density import KernelDensity
from elsewhere.models.scores.mahalanobis import Mahalanobis, ledoit_wolf
from elsewhere.models.scores.nearest_neighbours import NearestNeighbours
from elsewhere.models.scores.process_density import (
    GaussianProcessDensity,
    log_marginal,
    squared_exponential,
)
from scipy.stats import chi2, expon, gaussian_kde, kstest, multivariate_normal, spearmanr


def events(x, weight=None, first=0):
    x = np.asarray(x, np.float32)
    identity = np.zeros(len(x), dtype=IDENTITY)
    identity["event"] = first + np.arange(len(x))
    features = FeatureSet("few", tuple(Column(f"c{i}", "", "") for i in range(x.shape[1])))
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    return Events(x, np.full(len(x), np.nan), weight, identity, features)


def cloud(n, d, seed):
    """Correlated columns of different widths and places."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) + 2 * np.eye(d)
    return rng.normal(size=(n, d)) @ mix * 10.0 ** np.arange(d) + 7


def standard(x, weight=None):
    """The standardisation that a score learns from x, as a function, in double precision."""
    x = np.asarray(x, np.float32).astype(float)
    mean = np.average(x, axis=0, weights=weight)
    std = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    return lambda y: (np.asarray(y, np.float32).astype(float) - mean) / std


def fit(score, x, weight=None):
    sample = events(x, weight)
    return score.fit(sample, sample)


@pytest.mark.parametrize("distance", ["kth", "mean"])
def test_neighbours_are_those_of_brute_force(distance):
    x, y = cloud(300, 3, 1), cloud(40, 3, 2)
    scaled = standard(x)
    far = np.sort(np.linalg.norm(scaled(y)[:, None] - scaled(x)[None], axis=2), axis=1)[:, :7]
    expected = far[:, -1] if distance == "kth" else far.mean(axis=1)
    found = fit(NearestNeighbours(k=7, distance=distance), x).score(events(y))
    assert np.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("distance", ["kth", "mean"])
def test_an_event_of_weight_three_is_three_events(distance):
    x, y = cloud(400, 2, 1), cloud(50, 2, 2)
    weight = np.where(np.arange(400) % 2, 1.0, 3.0)
    several = np.repeat(x, weight.astype(int), axis=0)
    found = fit(NearestNeighbours(k=5, distance=distance), x, weight).score(events(y))
    assert np.allclose(
        found, fit(NearestNeighbours(k=10, distance=distance), several).score(events(y)), rtol=1e-9
    )
    assert not np.allclose(
        found, fit(NearestNeighbours(k=5, distance=distance), x).score(events(y)), rtol=1e-3
    )


def test_the_search_goes_on_until_the_neighbours_weigh_enough():
    x, y = cloud(400, 2, 1), cloud(30, 2, 2)
    heavy = np.arange(400) % 40 == 7
    heavy[[0, 1]] = True  # twelve
    weight = np.where(heavy, 1.0, 1e-6)
    found = fit(NearestNeighbours(k=310), x, weight).score(events(y))  # 9.3 of the 12
    scaled = standard(x, weight)
    far = np.linalg.norm(scaled(y)[:, None] - scaled(x[heavy])[None], axis=2)
    assert np.allclose(found, np.sort(far, axis=1)[:, 9], rtol=1e-12)


def test_a_cap_takes_events_by_their_identity():
    x = cloud(500, 2, 1)
    capped = fit(NearestNeighbours(events=100), x)
    assert len(capped.points_) == 100
    kept = np.isclose(standard(x)(x)[:, :1], capped.points_[:, 0], rtol=1e-12).any(axis=1)
    assert kept.sum() == 100
    assert 20 < kept[:250].sum() < 80  # not the first rows
    with pytest.raises(InputError, match="9 events have no 10 neighbours"):
        fit(NearestNeighbours(), x[:9])


def test_mahalanobis_is_its_formula_and_follows_chi_squared():
    x, y = cloud(4000, 4, 1), cloud(2000, 4, 2)
    found = fit(Mahalanobis(), x).score(events(y))
    scaled = standard(x)
    v = scaled(x)
    mean, covariance, shrink = ledoit_wolf(v, np.ones(len(v)))
    assert 0 < shrink < 0.02
    inverse = np.linalg.inv(covariance)
    slow = [np.sqrt((row - mean) @ inverse @ (row - mean)) for row in scaled(y)]
    assert np.allclose(found, slow, rtol=1e-9)
    assert kstest(found**2, chi2(4).cdf).pvalue > 0.01


def test_the_shrinkage_is_that_of_ledoit_and_wolf():
    x = np.random.default_rng(3).normal(size=(40, 5)) * [1, 2, 3, 4, 5]
    away = x - x.mean(axis=0)
    n, d = x.shape
    sample = sum(np.outer(r, r) for r in away) / n
    scale = np.trace(sample) / d
    apart = ((sample - scale * np.eye(d)) ** 2).sum() / d
    error = sum(((np.outer(r, r) - sample) ** 2).sum() for r in away) / n**2 / d
    _, covariance, shrink = ledoit_wolf(x, np.full(n, 2.5))
    assert shrink == pytest.approx(min(error, apart) / apart, rel=1e-12)
    assert 0.01 < shrink < 0.9
    assert np.allclose(covariance, (1 - shrink) * sample + shrink * scale * np.eye(d))
    weight = np.arange(1, 41)
    mean, weighted, shrink = ledoit_wolf(x, weight)
    assert np.allclose(mean, np.average(x, axis=0, weights=weight))
    raw = np.cov(x.T, aweights=weight, bias=True)
    assert np.allclose(weighted - shrink * np.trace(raw) / d * np.eye(d), (1 - shrink) * raw)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_kernel_density_is_scipys(d):
    x, y = cloud(800, d, 1), cloud(100, d, 2)
    weight = np.random.default_rng(4).uniform(0.2, 2, 800)
    density = fit(KernelDensity(), x, weight)
    assert isinstance(density, Density)
    theirs = gaussian_kde(np.asarray(x, np.float32).astype(float).T, weights=weight)
    expected = theirs.logpdf(np.asarray(y, np.float32).astype(float).T)
    assert np.allclose(density.log_density(events(y)), expected, rtol=1e-9, atol=1e-9)
    constant = density.score(events(y)) + expected
    assert np.allclose(constant, constant[0])  # -ln p of standardised columns: another unit, the same order


def test_a_density_far_away_is_small_not_lost():
    found = fit(KernelDensity(), cloud(500, 2, 1)).score(events([[1e6, 1e6], [1e7, 1e7]]))
    assert np.isfinite(found).all()
    assert found[1] > found[0] > 1e6


def test_mirrors_keep_the_density_up_to_a_hard_edge():
    x = np.random.default_rng(1).random((20_000, 1))
    grid = (np.arange(2000) + 0.5)[:, None] / 2000
    edged = fit(KernelDensity(edges={"c0": (0.0, 1.0)}), x)
    p, plain = (
        np.exp(edged.log_density(events(grid))),
        np.exp(fit(KernelDensity(), x).log_density(events(grid))),
    )
    assert p.mean() == pytest.approx(1, abs=2e-4)
    assert plain.mean() < 0.97
    assert p[:20].mean() == pytest.approx(1, abs=0.06)
    assert plain[:20].mean() == pytest.approx(0.5, abs=0.06)
    assert edged.score(events([[1.5], [-0.5]])).tolist() == [edged.floor_] * 2  # where nothing can be
    assert edged.log_density(events([[1.5]]))[0] == -np.inf


def test_mirrors_in_two_columns_are_those_of_the_formula():
    rng = np.random.default_rng(5)
    x = np.abs(rng.normal(size=(300, 2)) @ [[1, 0.6], [0, 1]]).astype(np.float32).astype(float)
    y = np.array([[0.01, 0.02], [0.5, 0.1], [2.0, 2.0]], np.float32).astype(float)
    found = fit(KernelDensity(edges={"c0": (0, None), "c1": (0.0, None)}), x).log_density(events(y))
    kernel = multivariate_normal([0, 0], np.cov(x.T) * len(x) ** (-1 / 3))
    slow = [
        np.mean([kernel.pdf(p * [a, b] - x) for a in (1, -1) for b in (1, -1)], axis=0).mean() * 4 for p in y
    ]
    assert np.allclose(found, np.log(slow), rtol=1e-9)


def test_logit_coordinates_are_normalised_too_and_rank_otherwise():
    x = np.random.default_rng(1).beta(0.8, 3.0, (5000, 1)) * 4
    grid = (np.arange(20_000) + 0.5)[:, None] * (x.max() - x.min()) / 20_000 + x.min()
    density = fit(KernelDensity(coordinates="logit"), x)
    inside = density.log_density(events(grid))
    assert np.exp(inside).mean() * (x.max() - x.min()) == pytest.approx(1, abs=0.01)
    standardised = fit(KernelDensity(), x)
    sample = events(x[:500])
    rank = spearmanr(density.score(sample), standardised.score(sample)).statistic
    assert rank < 0.7
    assert density.score(events([[9.0], [-1.0]])).tolist() == [density.floor_] * 2
    assert (density.score(sample) >= density.floor_).all()


def test_the_process_is_its_algebra():
    rng = np.random.default_rng(2)
    theta, bins = np.log([2.0, 3.0, 5.0]), rng.uniform(0, 10, (30, 2))
    y, noise = rng.normal(size=30), rng.uniform(0.1, 1, 30)
    kernel = squared_exponential(bins, bins, theta)
    a, b = bins[3], bins[7]
    assert kernel[3, 7] == pytest.approx(2 * np.exp(-0.5 * (((a - b) / [3, 5]) ** 2).sum()))
    assert log_marginal(theta, bins, y, noise) == pytest.approx(
        multivariate_normal(np.zeros(30), kernel + np.diag(noise)).logpdf(y), rel=1e-10
    )


@pytest.fixture(scope="module")
def falling():
    x = np.random.default_rng(3).exponential(2.0, (20_000, 1))
    return x[x[:, 0] < 8], fit(GaussianProcessDensity(), x[x[:, 0] < 8])


def test_the_process_learns_a_falling_spectrum_and_how_well(falling):
    x, density = falling
    grid = np.linspace(x.min(), x.max(), 4001)
    p = np.exp(density.log_density(events(grid[:, None])))
    assert np.trapezoid(p, grid) == pytest.approx(1, abs=0.01)
    template = density.template()
    width = (x.max() - x.min()) / 24
    truth = np.log(len(x) * width * expon.pdf(template.centres[:, 0], scale=2) / expon.cdf(8, scale=2))
    sigma = np.sqrt(np.diag(template.covariance))
    pull = (template.log_counts - truth) / sigma
    assert np.abs(pull).max() < 3.5
    assert np.abs(template.log_counts - truth).max() < 0.1
    counts = np.histogram(x, 24)[0]
    assert (sigma < 1 / np.sqrt(counts)).all()  # smoother than any bin of its own
    assert np.exp(density.theta_[1]) >= 3 - 1e-9


def test_the_template_is_the_posterior_of_its_bins(falling):
    x, density = falling
    counts = np.histogram(x.astype(np.float32), 24, (x.astype(np.float32).min(), x.astype(np.float32).max()))[
        0
    ]
    at = np.arange(24)[:, None] + 0.5
    kernel = squared_exponential(at, at, density.theta_)
    gain = kernel @ np.linalg.inv(kernel + np.diag(1 / counts))
    template = density.template()
    assert np.allclose(template.covariance, kernel - gain @ kernel, atol=1e-9)
    assert np.allclose(template.log_counts, np.log(0.5) + gain @ np.log(counts / 0.5), rtol=1e-8)


def test_the_process_takes_two_columns_weights_and_empty_bins():
    x = cloud(4000, 3, 1)
    weight = np.random.default_rng(2).uniform(0.5, 1.5, 4000)
    density = fit(GaussianProcessDensity(columns=("c2", "c0"), bins=16), x, weight)
    y = cloud(300, 3, 2)
    truth = multivariate_normal(x[:, [2, 0]].mean(axis=0), np.cov(x[:, [2, 0]].T)).logpdf(y[:, [2, 0]])
    assert spearmanr(-density.score(events(y)), truth).statistic > 0.98
    near = truth > np.median(truth)
    assert np.abs(density.log_density(events(y))[near] - truth[near]).max() < 0.3
    again = fit(GaussianProcessDensity(columns=("c2", "c0"), bins=16), x, weight * 1000)
    assert np.allclose(again.score(events(y)), density.score(events(y)), rtol=1e-4)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: NearestNeighbours(k=0), "k 0"),
        (lambda: NearestNeighbours(distance="median"), "expected kth or mean"),
        (lambda: Mahalanobis(coordinates="polar"), "standardised or logit"),
        (
            lambda: KernelDensity(edges={"c0": (0.0, 1.0)}, coordinates="logit"),
            "logit coordinates have no edges",
        ),
        (lambda: KernelDensity(edges={"c0": (0.0,)}), "expected {column"),
        (lambda: GaussianProcessDensity(bins=3), "bins: found 3"),
        (lambda: fit(KernelDensity(), cloud(100, 5, 1)), "at most 4 columns"),
        (lambda: fit(GaussianProcessDensity(), cloud(100, 3, 1)), "at most 2 columns"),
        (
            lambda: fit(KernelDensity(columns=("c00",)), cloud(100, 2, 1)),
            r"no column 'c00'.*did you mean 'c0'",
        ),
        (lambda: fit(KernelDensity(edges={"m": (0, None)}), cloud(100, 2, 1)), r"edges\.m: no such column"),
        (lambda: fit(KernelDensity(edges={"c0": (2, 1)}), cloud(100, 2, 1)), "low < high"),
    ],
)
def test_impossible_settings_say_so(made, message):
    with pytest.raises(ConfigError, match=message):
        made()


@pytest.mark.parametrize(
    "score", [NearestNeighbours(), Mahalanobis(), KernelDensity(), GaussianProcessDensity()]
)
def test_what_cannot_be_learnt_from_is_refused(score):
    x = cloud(100, 2, 1)
    with pytest.raises(InputError, match="not been fitted"):
        type(score)().score(events(x))
    with pytest.raises(InputError, match="weights must be finite, not negative"):
        fit(score, x, np.where(np.arange(100) < 3, -1.0, 1.0))
    with pytest.raises(InputError, match="column c1 is constant"):
        fit(score, np.c_[x[:, 0], np.ones(100)])
    fit(score, x)
    with pytest.raises(FeatureError, match="3 columns"):
        score.score(events(cloud(5, 3, 1)))
    bad = events(x)
    bad.x[0, 1] = np.nan
    with pytest.raises(InputError, match="c1"):
        score.score(bad)


def test_edges_that_the_reference_crosses_are_wrong():
    with pytest.raises(InputError, match="column c0 has values outside its edges"):
        fit(KernelDensity(edges={"c0": (0.0, None)}), np.random.default_rng(1).normal(size=(100, 2)))
    x = cloud(100, 1, 1)
    with pytest.raises(InputError, match="depend on one another"):
        fit(KernelDensity(), np.c_[x, 2 * x])


def test_an_event_of_no_weight_is_none():
    x = cloud(400, 2, 1)
    far = np.r_[x, x + 1e3]
    weight = np.r_[np.ones(400), np.zeros(400)]
    y = events(cloud(20, 2, 2))
    for score in (NearestNeighbours(), Mahalanobis(), KernelDensity()):
        assert np.allclose(fit(score, far, weight).score(y), fit(replace(score), x).score(y), rtol=1e-6)
