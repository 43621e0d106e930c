"""A flow's density and flow matching's as scores, against analytic densities and one another."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.methods import build, papers_of
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.mixture_density import MixtureDensity
from scipy.stats import multivariate_normal, norm

ROOT = np.array([[1, 0.5, 0, 0.3], [0, 1, 0.4, 0], [0, 0, 1, -0.6], [0, 0, 0, 0.5]])
QUICK = {"learning_rate": 5e-3, "schedule": "cosine", "best": 1, "conditional": False, "steps": 25}


def events(x, first=0):
    identity = np.zeros(len(x), IDENTITY)
    identity["event"] = first + np.arange(len(x))
    features = FeatureSet("toy", tuple(Column(f"f{i}", "", "") for i in range(x.shape[1])))
    return Events(x.astype(np.float32), np.full(len(x), np.nan), np.ones(len(x)), identity, features)


def gaussian(n, seed, first=0):
    """Four correlated columns."""
    return events(np.random.default_rng(seed).normal(size=(n, 4)) @ ROOT.T, first)


def ring(n, seed, first=0):
    rng = np.random.default_rng(seed)
    r, angle = rng.normal(1, 0.2, n), rng.uniform(-np.pi, np.pi, n)
    return events(np.column_stack([r * np.cos(angle), r * np.sin(angle)]), first)


def matching(sample, preprocess="standard", **settings):
    made = {"hidden": (48, 48), "epochs": 25, "batch": 256, **QUICK, "preprocess": preprocess, **settings}
    return FlowDensity("cfm", **made).fit(sample, sample)


@pytest.mark.parametrize("preprocess", ["standard", "logit"])
def test_flow_matching_gives_the_density_of_a_gaussian_in_either_coordinates(preprocess):
    train, test = gaussian(6000, 1), gaussian(1000, 2, first=10**6)
    score = matching(train, preprocess)
    truth = multivariate_normal(np.zeros(4), ROOT @ ROOT.T).logpdf(test.x)
    known = np.isfinite(score.log_density(test))
    assert known.sum() >= (1000 if preprocess == "standard" else 990)
    away = score.log_density(test)[known] - truth[known]
    assert away.mean() == pytest.approx(
        0, abs=0.05 if preprocess == "standard" else 0.1
    )  # minus the Kullback-Leibler divergence
    assert np.median(np.abs(away)) < 0.15
    assert np.sqrt((away**2).mean()) < (0.25 if preprocess == "standard" else 0.7)
    # the same in units of x as a density of another kind
    mixture = MixtureDensity(components=1, starts=1).fit(train, train).log_density(test)
    assert np.corrcoef(mixture[known], score.log_density(test)[known])[0, 1] > (
        0.97 if preprocess == "standard" else 0.9
    )
    assert np.array_equal(score.score(test)[known], np.maximum(-score.log_density(test)[known], score.floor_))
    fine = replace(score, steps=100)
    fine.flow_ = replace(score.flow_, settings=replace(score.flow_.settings, steps=100), _networks={})
    assert fine.log_density(test)[known] == pytest.approx(score.log_density(test)[known], abs=0.02)


def test_flow_matching_and_a_flow_agree_on_a_ring():
    train, test = ring(10_000, 1), ring(1000, 2, first=10**6)
    r = np.hypot(*test.x.T.astype(float))
    truth = np.log((norm.pdf(r, 1, 0.2) + norm.pdf(-r, 1, 0.2)) / (2 * np.pi * r))
    flow = FlowDensity("nsf", 2, (32, 32), epochs=10, **QUICK, preprocess="standard").fit(train, train)
    scores = (matching(train), flow)
    found = [score.log_density(test) for score in scores]
    for values in found:
        assert -0.12 < (values - truth).mean() < 0.03
        assert np.median(np.abs(values - truth)) < 0.2
    assert np.corrcoef(*found)[0, 1] > 0.85
    middle = events(np.zeros((1, 2)))  # a hole, which a Gaussian would fill
    assert all(s.score(middle)[0] > np.quantile(s.score(test), 0.9) for s in scores)


@pytest.mark.parametrize("kind", ["maf", "cfm"])
def test_what_is_far_off_is_odd_whatever_becomes_of_its_density(kind):
    train = gaussian(1000, 1)
    score = FlowDensity(kind, 2, (8,), epochs=1, **QUICK, preprocess="standard").fit(train, train)
    far = events(np.array([[0.0] * 4, [30.0] * 4, [1e37] * 4, [-1e37, 1e37, 0, 0]]))
    values = score.score(far)
    assert np.isfinite(values).all()
    assert values[0] < values[1] < values[2:].min()


def test_what_a_kind_is_cited_with():
    assert papers_of("FlowDensity", {"kind": "cfm"}, "score") == ["2109.00546", "2210.02747"]
    assert papers_of("FlowDensity", {}, "score") == ["2109.00546"]
    assert build("FlowDensity", {"kind": "cfm", "steps": 20}, "score").steps == 20
