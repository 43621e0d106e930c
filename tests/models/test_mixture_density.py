"""The Gaussian mixture in both coordinates: SciPy's normal densities, numbers of the first version, norm and Jacobian; and the
geometric mean of its Mahalanobis distances: the formula, row by row and component by component."""

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.base import Density
from elsewhere.models.methods import build
from elsewhere.models.scores.mixture_density import MixtureDensity, MixtureDistance
from elsewhere.models.store import load, save
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, spearmanr


def events(x, weight=None):
    x = np.asarray(x, np.float32)
    identity = np.zeros(len(x), dtype=IDENTITY)
    identity["event"] = np.arange(len(x))
    features = FeatureSet("few", tuple(Column(f"c{i}", "", "") for i in range(x.shape[1])))
    weight = np.ones(len(x)) if weight is None else weight
    return Events(x, np.full(len(x), np.nan), weight, identity, features)


def bounded(n, seed):
    """Two columns that crowd at their edges, 0 and 4."""
    return np.random.default_rng(seed).beta(0.7, 2.5, (n, 2)) * 4


def mixture(density, v):
    """ln p(v), component by component."""
    terms = [
        np.log(w) + multivariate_normal(m, f @ f.T).logpdf(v)
        for w, m, f in zip(density.weight_, density.mean_, density.factor_, strict=True)
    ]
    return logsumexp(terms, axis=0)


def logit(x, low, high):
    return np.log((x - low) / (high - x))


@pytest.fixture(scope="module")
def both():
    sample = events(bounded(4000, 1))
    return {
        c: MixtureDensity(components=5, coordinates=c).fit(sample, sample) for c in ("standardised", "logit")
    }


def test_by_default_it_is_what_it_always_was(toy):
    """Numbers of the version that knew no other coordinates."""
    found = MixtureDensity(components=3).fit(toy(2000, 1), toy(5, 2)).score(toy(6, 3, 0.5, 9000))
    assert found.tolist() == pytest.approx(
        [
            242.73899830141062,
            189.3537531641905,
            123.40798893581308,
            2.156131882782918,
            1.8482194989633678,
            2.8227426892292207,
        ],
        rel=1e-9,
    )


def test_the_default_is_the_density_of_the_columns_themselves(both):
    density, x = both["standardised"], np.float64(np.float32(bounded(300, 2)))
    expected = mixture(density, x)
    np.testing.assert_allclose(density.log_density(events(x)), expected, rtol=1e-9)
    np.testing.assert_array_equal(density.score(events(x)), -density.log_density(events(x)))
    wide = MixtureDensity(components=5).fit(events(bounded(4000, 1) * [1, 1000]), events(x))
    units = wide.log_density(events(x * [1, 1000])) + np.log(1000)
    np.testing.assert_allclose(units, expected, rtol=1e-3)  # units do not matter


def test_logit_is_the_density_of_the_transformed_with_its_jacobian(both):
    density = both["logit"]
    assert isinstance(density, Density)
    x = np.float64(np.float32(bounded(4000, 1)))
    low, high = x.min(axis=0), x.max(axis=0)
    raw = logit(x[((x > low) & (x < high)).all(axis=1)], low, high)
    fresh = np.float64(np.float32(bounded(300, 2)))
    fresh = fresh[((fresh > low) & (fresh < high)).all(axis=1)]
    v = (logit(fresh, low, high) - raw.mean(axis=0)) / raw.std(axis=0)
    odd = -mixture(density, v)
    assert density.floor_ < np.quantile(odd, 0.02)
    np.testing.assert_allclose(density.score(events(fresh)), np.maximum(odd, density.floor_), rtol=1e-6)
    step = 1e-6
    slope = (logit(fresh + step, low, high) - logit(fresh - step, low, high)) / (2 * step) / raw.std(axis=0)
    wanted = np.log(slope).sum(axis=1) - odd
    np.testing.assert_allclose(density.log_density(events(fresh)), wanted, rtol=1e-4, atol=1e-4)


def test_both_are_normalised_and_rank_differently(both):
    sample = np.random.default_rng(1).beta(0.7, 2.5, (5000, 1)) * 4
    edges = np.quantile(sample, [0, 1])
    grid = (np.arange(40_000) + 0.5)[:, None] / 40_000 * (edges[1] - edges[0]) + edges[0]
    for coordinates in ("standardised", "logit"):
        density = MixtureDensity(components=30, starts=1, coordinates=coordinates)
        density.fit(events(sample), events(sample))
        p = np.exp(density.log_density(events(grid)))
        assert p.mean() * (edges[1] - edges[0]) == pytest.approx(1, abs=0.03)
    fresh = events(bounded(2000, 3))
    rank = spearmanr(both["standardised"].score(fresh), both["logit"].score(fresh)).statistic
    assert rank < 0.9


def test_an_event_that_has_no_coordinates_is_the_least_odd(both):
    outside = events([[-1.0, 1.0], [1.0, 9.0], bounded(4000, 1).max(axis=0)])
    density = both["logit"]
    assert density.score(outside).tolist() == [density.floor_] * 3
    assert (density.log_density(outside) == -np.inf).all()
    assert (density.score(events(bounded(2000, 3))) >= density.floor_).all()
    assert (
        both["standardised"].score(outside)[1] > both["standardised"].score(events(bounded(2000, 3))).mean()
    )


@pytest.mark.parametrize("coordinates", ["standardised", "logit"])
def test_it_comes_back_from_disk(coordinates, both, tmp_path):
    density, fresh = both[coordinates], events(bounded(500, 4))
    save(density, tmp_path / "m", fresh.features, {})
    back, _ = load(tmp_path / "m", fresh.features)
    np.testing.assert_array_equal(back.score(fresh), density.score(fresh))
    np.testing.assert_array_equal(back.log_density(fresh), density.log_density(fresh))
    if coordinates == "standardised":  # folders of the first version hold this and no more
        info, arrays, texts = density.state()
        assert (info, sorted(arrays), texts) == ({}, ["factor", "mean", "weight"], {})


def test_the_setting_is_checked_and_the_baseline_can_be_named():
    with pytest.raises(ConfigError, match="coordinates: found 'polar', expected standardised or logit"):
        MixtureDensity(coordinates="polar")
    made = build("MixtureDensity", {"components": 30, "coordinates": "logit"}, "score")
    assert made == MixtureDensity(components=30, coordinates="logit")
    constant = events(np.c_[bounded(200, 1), np.ones(200)])
    with pytest.raises(InputError, match="column c2 is constant"):
        MixtureDensity(coordinates="logit").fit(constant, constant)
    MixtureDensity().fit(constant, constant)
    for density in (MixtureDensity(), MixtureDensity(coordinates="logit")):
        with pytest.raises(InputError, match="has not been fitted"):
            density.score(constant)
        with pytest.raises(InputError, match="events are too few for 8 components in 2 columns"):
            density.fit(events(bounded(24, 1)), constant)


def slow_distance(model, rows, weights):
    """Products over components of distances by the inverse of the covariance, one event at a time."""
    out = []
    for row in rows:
        product = 1.0
        for w, mean, factor in zip(weights, model.mean_, model.factor_, strict=True):
            away = row - mean
            product *= float(away @ np.linalg.inv(factor @ factor.T) @ away) ** (0.5 * w)
        out.append(product)
    return out


@pytest.mark.parametrize("weighted", [True, False])
def test_the_distance_score_is_the_geometric_mean_of_the_distances(weighted):
    sample, fresh = events(bounded(4000, 1)), np.float64(np.float32(bounded(60, 2)))
    model = MixtureDistance(components=3, weighted=weighted).fit(sample, sample)
    assert model.weight_.max() > 1.3 * model.weight_.min()
    weights = model.weight_ if weighted else np.full(3, 1 / 3)
    np.testing.assert_allclose(model.score(events(fresh)), slow_distance(model, fresh, weights), rtol=1e-9)
    same = MixtureDensity(components=3).fit(sample, sample)
    np.testing.assert_array_equal(same.mean_, model.mean_)  # one fit for both scores
    assert not isinstance(model, Density)


@pytest.mark.parametrize(("weighted", "wanted"), [(True, 3**0.75), (False, 3**0.5)])
def test_the_distance_score_by_hand(weighted, wanted):
    """Unit circles about (0, 0) and (4, 0) that hold 1/4 and 3/4 of the events: (1, 0) is 1 and 3 away from them."""
    model = MixtureDistance(components=2, weighted=weighted)
    model._use_columns(2)
    model.weight_, model.mean_ = np.array([0.25, 0.75]), np.array([[0.0, 0.0], [4.0, 0.0]])
    model.factor_ = np.repeat(np.eye(2)[None], 2, axis=0)
    found = model.score(events([[1, 0], [1, 0], [4, 0], [1e30, 0]]))
    assert found[:2].tolist() == pytest.approx([wanted] * 2, rel=1e-12)
    assert 0 <= found[2] < 1e-20
    assert found[3] == pytest.approx(1e30, rel=1e-6)


def test_the_distance_score_comes_back_from_disk_and_can_be_named(tmp_path):
    sample, fresh = events(bounded(2000, 1)), events(bounded(100, 4))
    model = build("MixtureDistance", {"components": 2, "weighted": False}, "score").fit(sample, sample)
    save(model, tmp_path / "m", fresh.features, {})
    back, _ = load(tmp_path / "m", fresh.features)
    assert not back.weighted
    np.testing.assert_array_equal(back.score(fresh), model.score(fresh))
