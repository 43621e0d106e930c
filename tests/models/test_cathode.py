"""CATHODE's drawn background against the truth in the window, and the plain events outside it."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of
from elsewhere.models.arrays import read_arrays, write_arrays
from elsewhere.models.base import Density, Reference, Storable
from elsewhere.models.references.cathode import Cathode
from elsewhere.models.references.outside import Outside
from elsewhere.models.scores.weak_trees import WeakTrees
from scipy.stats import multivariate_normal

WINDOW = Window(3300.0, 3700.0)
FEATURES = FeatureSet("toy", (Column("a", "GeV", ""), Column("b", "", "")), Column("m", "GeV", "mass"))
COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.0]])
SETTINGS: dict[str, Any] = {
    "kind": "nsf",
    "transforms": 1,
    "hidden": (24,),
    "epochs": 12,
    "best": 4,
    "learning_rate": 3e-3,
}
QUICK: dict[str, Any] = {"transforms": 1, "hidden": (8,), "epochs": 1, "best": 1, "batch": 512}


def mean(m: np.ndarray) -> np.ndarray:
    return np.column_stack([m / 1000, -m / 2000])


def background(n: int, seed: int, first: int = 0, low: float = 2500.0, high: float = 4500.0) -> Events:
    """Columns whose means move with the mass, on an exponentially falling spectrum."""
    rng = np.random.default_rng(seed)
    a, b = np.exp(-low / 1500), np.exp(-high / 1500)
    m = -1500 * np.log(a - rng.random(n) * (a - b))
    x = mean(m) + rng.multivariate_normal([0, 0], COVARIANCE, n)
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), m, np.ones(n), identity, FEATURES)


@cache
def fitted() -> Cathode:
    return Cathode(**SETTINGS).fit(background(14_000, 1), WINDOW)


@cache
def quick(mass: Any = "data") -> Cathode:
    return Cathode(**QUICK, mass=mass).fit(background(3000, 1), WINDOW)


def test_the_sample_is_the_background_of_the_window():
    drawn = fitted().sample(None, np.random.default_rng(2))
    n_inside = int(WINDOW.contains(background(14_000, 1).mass).sum())
    assert len(drawn) == 4 * n_inside
    assert drawn.weight.sum() == pytest.approx(n_inside)
    assert WINDOW.contains(drawn.mass).all()
    x = drawn.x - mean(drawn.mass)
    assert x.mean(axis=0) == pytest.approx([0, 0], abs=0.12)
    assert np.cov(x.T) == pytest.approx(COVARIANCE, abs=0.12)
    assert drawn.features == FEATURES
    assert isinstance(fitted(), Reference)


def test_no_classifier_tells_the_sample_from_true_background():
    """Closure; the same trees do tell a sideband from the window."""
    truth = background(9000, 5, 10**6, WINDOW.low, WINDOW.high)
    drawn = fitted().sample(9000, np.random.default_rng(2))
    beside = background(9000, 6, 10**7, 2500, 3300)

    def auc(reference: Events) -> float:
        trees = WeakTrees(members=2, rounds=40).fit(
            reference.take(slice(0, 5000)), truth.take(slice(0, 5000))
        )
        data, other = (np.sort(trees.score(e.take(slice(5000, None)))) for e in (truth, reference))
        return float(np.searchsorted(other, data).mean() / len(other))

    assert auc(drawn) == pytest.approx(0.5, abs=0.03)
    assert auc(beside) > 0.6


def test_log_density_is_that_of_background():
    truth = background(2000, 7, 10**6, WINDOW.low, WINDOW.high)
    assert isinstance(fitted(), Density)
    found = fitted().log_density(truth) - multivariate_normal([0, 0], COVARIANCE).logpdf(
        truth.x - mean(truth.mass)
    )
    assert found[np.isfinite(found)].mean() == pytest.approx(0, abs=0.05)
    assert (~np.isfinite(found)).sum() <= 3


def test_the_features_in_the_window_are_not_looked_at():
    data = background(3000, 1)
    inside = WINDOW.contains(data.mass)
    other = replace(data, x=np.where(inside[:, None], data.x + 3, data.x))
    drawn = [Cathode(**QUICK).fit(d, WINDOW).sample(50, np.random.default_rng(0)) for d in (data, other)]
    assert np.array_equal(drawn[0].x, drawn[1].x)


def test_with_the_sidebands_mass_nothing_in_the_window_is_looked_at():
    data = background(3000, 1)
    inside = WINDOW.contains(data.mass)
    few = data.take(~inside | (np.cumsum(inside) < 20))
    method = Cathode(**QUICK, mass="sidebands")
    drawn = [replace(method).fit(d, WINDOW).sample(None, np.random.default_rng(0)) for d in (data, few)]
    assert np.array_equal(drawn[0].x, drawn[1].x)
    assert np.array_equal(drawn[0].mass, drawn[1].mass)
    assert drawn[0].weight.sum() == pytest.approx(inside.sum(), rel=0.1)
    assert len(drawn[0]) == pytest.approx(4 * inside.sum(), rel=0.1)
    assert WINDOW.contains(drawn[0].mass).all()


def test_identities_are_distinct_made_up_and_fall_into_folds():
    drawn = quick().sample(4000, np.random.default_rng(3))
    again, other = (quick().sample(4000, np.random.default_rng(s)) for s in (3, 4))
    assert len(np.unique(drawn.identity)) == 4000
    assert np.array_equal(drawn.identity, again.identity)
    assert np.array_equal(drawn.x, again.x)
    assert len(np.intersect1d(drawn.identity, other.identity)) == 0
    assert (drawn.identity["run"] == 2**32 - 1).all()
    counts = np.bincount(fold_of(drawn.identity, 5, 1), minlength=5)
    assert counts.min() > 700


def test_the_order_of_rows_does_not_matter_and_the_seed_does():
    data = background(3000, 1)
    mixed = data.take(np.random.default_rng(8).permutation(len(data)))
    draws = [
        Cathode(**QUICK, seed=s).fit(d, WINDOW).sample(100, np.random.default_rng(0)).x
        for s, d in ((0, data), (0, mixed), (1, data))
    ]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_width_limits_the_sidebands():
    data = background(3000, 1)
    far = (data.mass < 2900) | (data.mass >= 4100)
    other = replace(data, x=np.where(far[:, None], data.x + 3, data.x))
    drawn = [
        Cathode(**QUICK, width=400.0).fit(d, WINDOW).sample(50, np.random.default_rng(0))
        for d in (data, other)
    ]
    assert np.array_equal(drawn[0].x, drawn[1].x)


@pytest.mark.parametrize("mass", ["data", "sidebands"])
def test_storage(mass, tmp_path):
    assert isinstance(quick(mass), Storable)
    info, arrays, texts = quick(mass).state()
    write_arrays(tmp_path / "cathode.safetensors", arrays, info)
    back = Cathode(**QUICK, mass=mass).restore(*read_arrays(tmp_path / "cathode.safetensors"), texts)
    before, after = (c.sample(None, np.random.default_rng(5)) for c in (quick(mass), back))
    assert np.array_equal(before.x, after.x)
    assert np.array_equal(before.mass, after.mass)
    assert before.features == after.features


def test_errors():
    data = background(600, 1)
    with pytest.raises(InputError, match="not been fitted"):
        Cathode().sample(3, np.random.default_rng(0))
    with pytest.raises(InputError, match="no events above 4400-4600"):
        Cathode().fit(data, Window(4400.0, 4600.0))
    with pytest.raises(InputError, match="no events in 3300-3700"):
        Cathode().fit(data.take(~WINDOW.contains(data.mass)), WINDOW)
    with pytest.raises(InputError, match="column b is constant"):
        Cathode().fit(replace(data, x=data.x * np.float32([1, 0])), WINDOW)
    with pytest.raises(InputError, match="not negative"):
        Cathode().fit(replace(data, weight=np.where(np.arange(600) == 0, -1.0, 1.0)), WINDOW)
    with pytest.raises(InputError, match="1 of 600 events have no finite mass"):
        Cathode().fit(replace(data, mass=np.where(np.arange(600) == 0, np.nan, data.mass)), WINDOW)
    for wrong, text in (
        ({"kind": "gan"}, "expected one of"),
        ({"oversampling": 0.0}, "oversampling 0.0"),
        ({"bandwidth": -1.0}, "bandwidth -1.0"),
        ({"mass": "guess"}, "expected data or sidebands"),
    ):
        with pytest.raises(ConfigError, match=text):
            Cathode(**wrong)


def test_outside():
    data = background(3000, 1)
    found = Outside().fit(data, WINDOW).sample(None, np.random.default_rng(0))
    inside = WINDOW.contains(data.mass)
    assert np.array_equal(found.identity, data.identity[~inside])
    assert np.array_equal(found.weight, data.weight[~inside])
    near = Outside(300.0).fit(data, WINDOW).sample(None, np.random.default_rng(0))
    assert near.mass.min() >= 3000
    assert near.mass.max() < 4000
    assert len(near) == ((data.mass >= 3000) & (data.mass < 4000) & ~inside).sum()
    part = Outside().fit(data, WINDOW).sample(70, np.random.default_rng(1))
    assert len(np.unique(part.identity)) == 70
    assert not WINDOW.contains(part.mass).any()
    assert isinstance(Outside(), Reference)
    with pytest.raises(InputError, match="not been fitted"):
        Outside().sample(3, np.random.default_rng(0))
    with pytest.raises(InputError, match="no events below 2400-3000 GeV"):
        Outside().fit(data, Window(2400.0, 3000.0))
    with pytest.raises(ConfigError, match="width: found -1"):
        Outside(-1.0)
