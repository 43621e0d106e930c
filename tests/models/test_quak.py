"""The QUAK plane and its densities against Gaussians whose likelihood ratio is known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import Events
from elsewhere.models.base import Density, Score
from elsewhere.models.folds import CrossFit
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.mixture_density import MixtureDensity
from elsewhere.models.scores.quak import PlaneBins, Quak, least_losses

SHIFT = np.array([0.6, 0.1, 0.0, 0.0])
COVARIANCE = np.kron(np.eye(2), [[1.0, 0.9], [0.9, 0.9]])  # of the toy: x, 0.9 x + 0.3 z


def auc(score, n):
    """``n`` signal events first."""
    return float((score[:n, None] > score[None, n:]).mean())


def exact(x, shift):
    """ln p(x | shifted) - ln p(x) of the toy."""
    inverse = np.linalg.inv(COVARIANCE)
    return x.astype(float) @ inverse @ shift - 0.5 * shift @ inverse @ shift


def shifted(events: Events, shift) -> Events:
    return replace(events, x=(events.x + np.asarray(shift)).astype(np.float32))


@pytest.fixture(scope="module")
def parts(toy):
    """Background, three priors (the signal, its neighbour, one far away), and half signal, half background to score."""
    reference = toy(6000, 1)
    priors = [
        shifted(toy(4000, 10 + k, first=100_000 * (k + 1)), s)
        for k, s in enumerate((SHIFT, SHIFT * [1, 2, 1, 1], [0, 0, 0.8, 0.2]))
    ]
    signal = shifted(toy(1500, 20, first=600_000), SHIFT)
    return reference, priors, Events.concatenate([signal, toy(1500, 21, first=700_000)])


SMALL = MixtureDensity(components=3, starts=1)


def fit(parts, which, **settings):
    priors = tuple(parts[1][k] for k in which)
    return Quak(priors=priors, density=SMALL, **settings).fit(parts[0], parts[0])


@pytest.mark.parametrize(
    ("density", "says"),
    [
        (MixtureDensity(components=3, coordinates="logit"), "coordinates: standardised"),
        (FlowDensity(), "preprocess: standard"),
    ],
)
def test_a_density_that_ends_where_its_sample_does_is_refused(parts, density, says):
    with pytest.raises(ConfigError, match=says):
        Quak(priors=tuple(parts[1][:1]), density=density).fit(parts[0], parts[0])


def test_with_the_signal_as_prior_it_is_the_likelihood_ratio(parts):
    score = fit(parts, [0])
    values, best = score.score(parts[2]), exact(parts[2].x, SHIFT)
    assert abs(auc(values, 1500) - auc(best, 1500)) < 0.02
    assert np.corrcoef(values, best)[0, 1] > 0.97
    plane = score.plane(parts[2])
    assert plane.shape == (3000, 2)
    assert np.array_equal(values, plane[:, 0] - plane[:, 1])


def test_a_wrong_prior_is_worse_but_a_near_one_beats_none(parts):
    right, near, far = (auc(fit(parts, [k]).score(parts[2]), 1500) for k in range(3))
    none = auc(fit(parts, [], combine="background").score(parts[2]), 1500)
    assert right > near > none
    assert right > far


def test_several_priors(parts):
    plane = fit(parts, [0, 2]).plane(parts[2])
    ratio = fit(parts, [0, 2]).score(parts[2])
    nearest = fit(parts, [0, 2], combine="nearest").score(parts[2])
    assert np.allclose(ratio, plane[:, 0] + np.log(np.exp(-plane[:, 1:]).mean(axis=1)))
    assert np.allclose(nearest, plane[:, 0] - plane[:, 1:].min(axis=1))
    assert np.array_equal(least_losses(plane, [1, 2])[:, 1], plane[:, 1:].min(axis=1))
    assert auc(ratio, 1500) > 0.8


def test_inputs_are_clipped(parts):
    wild = replace(parts[2], x=parts[2].x * np.float32(1e20))
    assert np.isfinite(fit(parts, [0]).score(wild)).all()
    score = fit(parts, [0], clip=3.0)
    far, farther = (shifted(parts[2], s) for s in ([100, 0, 0, 0], [1000, 0, 0, 0]))
    assert np.array_equal(score.score(far), score.score(farther))


def test_bins_have_equal_population_in_background_and_catch_the_signal(parts, toy):
    score = fit(parts, [0])
    background = score.plane(toy(6000, 30, first=800_000))
    bins = PlaneBins.of(background, 0.3, 3)
    counts = np.bincount(bins.bin_of(background) + 1, minlength=10)
    assert counts[0] == pytest.approx(4200, abs=5)
    assert np.abs(counts[1:] - 200).max() <= 3
    signal = np.bincount(bins.bin_of(score.plane(parts[2])[:1500]) + 1, minlength=10)[1:]
    assert np.argmax(signal) % 3 == 0  # smallest L_S of its slice
    assert signal.max() > 150  # 50 in as much background
    with pytest.raises(InputError, match="too few for 3 x 3"):
        PlaneBins.of(background[:50], 0.3, 3)
    with pytest.raises(ConfigError, match="share"):
        PlaneBins.of(background, 1.3, 3)


def test_the_mixture_density_is_normalised_and_right(toy):
    """Two components of known density in two of the toy's columns."""
    rng = np.random.default_rng(0)
    base = toy(12_000, 3)
    features = replace(base.features, columns=base.features.columns[:2])
    first = rng.random(12_000) < 0.3
    x = np.where(
        first[:, None], [2.0, 1.0] + 0.5 * rng.normal(size=(12_000, 2)), rng.normal(size=(12_000, 2))
    )
    sample = Events(x.astype(np.float32), base.mass, np.ones(12_000), base.identity, features)
    density = MixtureDensity(components=2).fit(sample, sample)
    assert isinstance(density, Density)
    assert isinstance(density, Score)

    def truth(v):
        narrow = np.exp(-((v - [2.0, 1.0]) ** 2).sum(1) / 0.5) / (2 * np.pi * 0.25)
        return np.log(0.3 * narrow + 0.7 * np.exp(-(v**2).sum(1) / 2) / (2 * np.pi))

    found = density.log_density(sample)
    assert np.sqrt(np.mean((found - truth(x)) ** 2)) < 0.05
    axis = np.arange(-7.0, 7.0, 0.05)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2).astype(np.float32)
    grid = Events(
        points, np.zeros(len(points)), np.ones(len(points)), np.resize(base.identity, len(points)), features
    )
    assert np.exp(density.log_density(grid)).sum() * 0.05**2 == pytest.approx(1.0, abs=0.01)
    # weights: without the narrow component its place is empty
    weighted = MixtureDensity(components=2).fit(replace(sample, weight=np.where(first, 1e-9, 1.0)), sample)
    middle = grid.take([int(np.argmin(((points - [2.0, 1.0]) ** 2).sum(1)))])
    assert weighted.log_density(middle)[0] < density.log_density(middle)[0] - 1.0


def test_determinism_order_and_storage(parts, toy):
    values = fit(parts, [0, 1]).score(parts[2])
    rng = np.random.default_rng(0)
    shuffled = parts[0].take(rng.permutation(6000)), [p.take(rng.permutation(4000)) for p in parts[1]]
    assert np.array_equal(fit(shuffled, [0, 1]).score(parts[2]), values)
    score = fit(parts, [0, 1])
    assert np.array_equal(score.score(parts[2].take(slice(7, 9))), values[7:9])
    assert score.score(parts[2].take(slice(0, 0))).shape == (0,)
    back = Quak(density=SMALL).restore(*score.state())
    assert np.array_equal(back.score(parts[2]), values)
    folds = CrossFit(Quak(priors=tuple(parts[1][:1]), density=SMALL), folds=2).fit(
        parts[0], toy(300, 2, first=9_000)
    )
    assert np.isfinite(folds.score(parts[0])).all()


@dataclass
class NoDensity:
    paper = ""

    def fit(self, reference, data):
        return self


def test_errors(parts):
    reference = parts[0]
    with pytest.raises(InputError, match="no signal prior"):
        Quak().fit(reference, reference)
    with pytest.raises(InputError, match="signal prior 0: weights"):
        Quak(priors=(replace(reference, weight=-reference.weight),)).fit(reference, reference)
    with pytest.raises(InputError, match="NoDensity has no log_density"):
        Quak(priors=(reference,), density=NoDensity()).fit(reference, reference)
    with pytest.raises(InputError, match="not been fitted"):
        Quak().score(reference)
    for bad in ({"combine": "sum"}, {"clip": 0.0}):
        with pytest.raises(ConfigError):
            Quak(**bad)
    with pytest.raises(InputError, match="too few for 8 components"):
        MixtureDensity().fit(reference.take(slice(0, 30)), reference)
    with pytest.raises(ConfigError, match="floor"):
        MixtureDensity(floor=0.0)
    narrow = replace(reference.features, columns=reference.features.columns[:3])
    with pytest.raises(FeatureError, match="3 columns"):
        fit(parts, [0]).score(replace(reference, x=reference.x[:, :3], features=narrow))
