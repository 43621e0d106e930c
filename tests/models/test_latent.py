"""LaCATHODE: the latent space does not know the mass, the signal stands out in it, and a cut does not sculpt."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.base import Representation, Score
from elsewhere.models.folds import CrossFit
from elsewhere.models.representations.flow_latent import FlowLatent
from elsewhere.models.represented import Represented
from elsewhere.models.scores.latent import LaCathode
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import load, save
from scipy.stats import spearmanr

WINDOW = Window(3300.0, 3700.0)
FEATURES = FeatureSet("toy", (Column("a", "GeV", ""), Column("b", "", "")), Column("m", "GeV", "mass"))
FLOW: dict[str, Any] = {"transforms": 3, "hidden": (24,), "epochs": 16, "best": 2, "learning_rate": 2e-3}
QUICK: dict[str, Any] = {"transforms": 1, "hidden": (8,), "epochs": 2, "best": 1, "batch": 256}


def make(n: int, seed: int, low: float, high: float, fraction: float = 0.0) -> Events:
    """Background whose means move with the mass; the first ``fraction`` a signal at its lower left."""
    rng = np.random.default_rng(seed)
    m = rng.uniform(low, high, n)
    x = np.column_stack([m / 700, -m / 1400]) + rng.standard_normal((n, 2))
    k = round(fraction * n)
    x[:k] += [-2.5, 1.5]
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, 10**6 * seed + np.arange(n)
    return Events(x.astype(np.float32), m, np.ones(n), identity, FEATURES)


def beside(n: int, seed: int) -> Events:
    events = make(n, seed, 2500, 4500)
    return events.take(~WINDOW.contains(events.mass))


def trees(seed: int = 0) -> WeakTrees:
    return WeakTrees(members=2, rounds=40, seed=seed)


@cache
def fitted() -> LaCathode:
    return LaCathode(trees(), **FLOW).fit(beside(10_000, 1), make(6000, 2, *WINDOW, fraction=0.1))


@cache
def quick() -> LaCathode:
    return LaCathode(trees(), **QUICK).fit(beside(1500, 1), make(800, 2, *WINDOW))


def test_the_signal_is_found_in_the_latent_space():
    score = fitted().score(make(4000, 3, *WINDOW, fraction=0.5))
    assert (score[:2000, None] > score[None, 2000:]).mean() > 0.8  # 0.98 with the likelihood ratio
    assert isinstance(fitted(), Score)


def test_a_cut_does_not_sculpt_the_mass_and_one_in_the_features_does():
    events = make(20_000, 4, 2500, 4500)
    plain = trees().fit(beside(10_000, 1), make(6000, 2, *WINDOW, fraction=0.1))

    def spread(score: np.ndarray) -> float:
        """How uneven the flat spectrum is after a cut at 10 %; 0.06 is counting."""
        counts = np.histogram(events.mass[score >= np.quantile(score, 0.9)], 8, (2500, 4500))[0]
        return float(counts.std() / counts.mean())

    assert spread(fitted().score(events)) < 0.15
    assert spread(plain.score(events)) > 0.22


def test_out_of_domain_events_get_the_lowest_score():
    fresh = make(500, 5, *WINDOW)
    far = replace(fresh, x=fresh.x + np.float32(100))
    assert (fitted().score(far) == fitted().floor_).all()
    assert fitted().score(fresh).min() >= fitted().floor_
    assert fitted().floor_ > 0.0  # of the events that were learnt from, not a number beyond them
    assert (
        fitted().score(replace(fresh, x=np.where(np.arange(500)[:, None] == 2, far.x, fresh.x)))[2]
        == fitted().floor_
    )


def test_any_score_can_be_inside():
    inner = WeakNetwork(hidden=(16,), epochs=6, best=2, learning_rate=5e-3)
    model = LaCathode(inner, **FLOW, oversampling=1.0).fit(
        beside(6000, 1), make(4000, 2, *WINDOW, fraction=0.15)
    )
    score = model.score(make(2000, 3, *WINDOW, fraction=0.5))
    assert (score[:1000, None] > score[None, 1000:]).mean() > 0.8


def test_flow_latent_is_normal_at_every_mass():
    representation = FlowLatent(**FLOW).fit(beside(10_000, 1), beside(10, 2))
    assert isinstance(representation, Representation)
    events = make(5000, 6, 2500, 4500)
    z = representation.transform(events)
    assert z.features.names == ("z0", "z1")
    assert z.features.mass == FEATURES.mass
    assert np.array_equal(z.identity, events.identity)
    assert z.x.mean(axis=0) == pytest.approx([0, 0], abs=0.1)
    assert np.cov(z.x.T) == pytest.approx(np.eye(2), abs=0.25)
    assert abs(spearmanr(z.x[:, 0], events.mass)[0]) < 0.06
    assert spearmanr(events.x[:, 0], events.mass)[0] > 0.6
    far = representation.transform(replace(events, x=events.x + np.float32(100)))
    assert (far.x == 0).all()


def test_a_score_behind_flow_latent_finds_the_signal():
    model = Represented(FlowLatent(**FLOW), trees()).fit(
        beside(10_000, 1), make(6000, 2, *WINDOW, fraction=0.1)
    )
    score = model.score(make(4000, 3, *WINDOW, fraction=0.5))
    assert (score[:2000, None] > score[None, 2000:]).mean() > 0.8


MADE = {
    "LaCathode": lambda seed: LaCathode(trees(seed), **QUICK, seed=seed),
    "FlowLatent": lambda seed: Represented(FlowLatent(**QUICK, seed=seed), trees(seed)),
}


@pytest.mark.parametrize("name", MADE)
def test_promises(name, tmp_path):
    """Batches, order of rows and seeds; a cross-fit; storage (bit for bit)."""
    make_one = MADE[name]
    reference, data, fresh = beside(1500, 1), make(800, 2, *WINDOW, fraction=0.1), make(300, 3, *WINDOW)
    score = make_one(0).fit(reference, data)
    values = score.score(fresh)
    assert np.isfinite(values).all()
    rows = np.random.default_rng(0).permutation(300)[:70]
    assert np.array_equal(score.score(fresh.take(rows)), values[rows])
    assert score.score(fresh.take(slice(0, 0))).shape == (0,)
    mixed = [e.take(np.random.default_rng(1).permutation(len(e))) for e in (reference, data)]
    assert np.array_equal(make_one(0).fit(*mixed).score(fresh), values)
    assert not np.array_equal(make_one(1).fit(reference, data).score(fresh), values)
    fitted = CrossFit(make_one(0), folds=2).fit(reference, data)
    save(fitted, tmp_path / "model", FEATURES, {})
    allow = tuple(f"{c.__module__}.{c.__qualname__}" for c in (LaCathode, FlowLatent))
    back, _ = load(tmp_path / "model", FEATURES, allow=allow)
    assert np.array_equal(back.score(data), fitted.score(data))


def test_errors():
    reference, data = beside(400, 1), make(200, 2, *WINDOW)
    with pytest.raises(InputError, match="LaCathode has not been fitted"):
        LaCathode(trees()).score(data)
    with pytest.raises(InputError, match="FlowLatent has not been fitted"):
        FlowLatent().transform(data)
    with pytest.raises(InputError, match="m is not finite"):
        quick().score(replace(data, mass=data.mass * np.nan))
    with pytest.raises(InputError, match="no event of the data lies inside"):
        LaCathode(trees(), **QUICK).fit(reference, replace(data, x=data.x + np.float32(100)))
    with pytest.raises(ConfigError, match="oversampling: found 0"):
        LaCathode(trees(), oversampling=0)
