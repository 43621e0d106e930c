"""The weak classifiers: minimum of rounds, weights, errors, and the likelihood ratio they must approach."""

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import Column, Events, FeatureSet
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.scores.weak_trees import WeakTrees, balance

BOTH = [
    WeakTrees(members=2, rounds=40),
    WeakNetwork(hidden=(16,), epochs=12, best=2, batch=64, learning_rate=5e-3),
]


@pytest.fixture(params=BOTH, ids=lambda m: type(m).__name__)
def score(request):
    return replace(request.param)


def test_without_signal_every_member_still_has_its_minimum_of_trees(toy):
    score = WeakTrees(members=3, min_rounds=20).fit(toy(2000, 1), toy(2000, 2, first=10_000))
    assert [lgb.Booster(model_str=t).num_trees() for t in score.trees_] == [20, 20, 20]


def test_early_stopping_stops_and_keeps_the_best_round(toy):
    data = toy(4000, 2, 0.5, first=10_000)
    score = WeakTrees(members=1, min_rounds=2).fit(toy(4000, 1), data)
    n = lgb.Booster(model_str=score.trees_[0]).num_trees()
    assert 2 < n < 200
    all_rounds = WeakTrees(members=1, min_rounds=n + 30).fit(toy(4000, 1), data)
    fresh = toy(500, 3, 0.5, first=20_000)
    assert lgb.Booster(model_str=all_rounds.trees_[0]).num_trees() == n + 30
    first = lgb.Booster(model_str=all_rounds.trees_[0]).predict(fresh.x, num_iteration=n)
    assert np.array_equal(first, score.score(fresh))


def test_members_have_different_trees_and_threads_change_nothing(toy):
    parts = toy(300, 1), toy(300, 2, 0.2, first=10_000)
    one = WeakTrees(members=2, rounds=3, min_rounds=3).fit(*parts)
    assert one.trees_[0] != one.trees_[1]
    two = WeakTrees(members=2, rounds=3, min_rounds=3, threads=2).fit(*parts)
    assert np.array_equal(two.score(parts[0]), one.score(parts[0]))


def test_a_member_splits_on_its_own_columns_alone(toy):
    rng = np.random.default_rng(5)
    features = FeatureSet("six", tuple(Column(f"x{i}", "", "") for i in range(6)))
    parts = [
        replace(e, x=rng.normal(size=(1000, 6)).astype(np.float32), features=features)
        for e in (toy(1000, 1), toy(1000, 2, first=10_000))
    ]
    score = WeakTrees(members=8, rounds=20, max_features=0.5).fit(*parts)
    used = [np.flatnonzero(lgb.Booster(model_str=t).feature_importance()).tolist() for t in score.trees_]
    assert [len(one) for one in used] == [3] * 8
    assert len({tuple(one) for one in used}) > 2
    assert {i for one in used for i in one} == set(range(6))
    few = WeakTrees(members=2, rounds=20, max_features=0.01).fit(*parts)
    assert [np.count_nonzero(lgb.Booster(model_str=t).feature_importance()) for t in few.trees_] == [1, 1]
    assert score.score(parts[0]).shape == (1000,)


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_of_columns_outside_0_to_1_is_refused(share):
    with pytest.raises(ConfigError, match="max_features"):
        WeakTrees(max_features=share)


def test_the_scale_of_a_samples_weights_changes_next_to_nothing(toy, score):
    reference, data = toy(1500, 1), toy(1500, 2, 0.2, first=10_000)
    fresh = toy(300, 3, 0.5, first=20_000)
    plain = replace(score).fit(reference, data).score(fresh)
    # a power of two is exact in floating point, so nothing at all may change
    heavier = replace(score).fit(replace(reference, weight=1024 * reference.weight), data).score(fresh)
    assert np.array_equal(plain, heavier)


def test_weights_count_as_so_many_events(toy):
    """Signal weighted to zero in the data must leave a classifier that sees no signal."""
    data = toy(3000, 2, 0.2, first=10_000)
    weight = data.weight.copy()
    weight[:600] = 0.0
    fresh = toy(600, 3, 0.5, first=20_000)
    for score in BOTH:
        seen = replace(score).fit(toy(3000, 1), data).score(fresh)
        blind = replace(score).fit(toy(3000, 1), replace(data, weight=weight)).score(fresh)
        assert np.median(seen[:300]) > 0.75
        assert np.median(blind[:300]) < 0.65


def test_the_trees_approach_the_likelihood_ratio(toy):
    """One column, data 30 % N(2, 1) and 70 % N(0, 1): p = q / (q + 1) with q = 0.7 + 0.3 exp(2 x - 2)."""
    features = FeatureSet("one", (Column("x", "", ""),))
    base = [toy(20_000, i, first=i * 50_000) for i in (1, 2)]
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(20_000, 1)), rng.normal(size=(20_000, 1)) + 2.0 * (rng.random((20_000, 1)) < 0.3)]
    reference, data = (
        Events(v.astype(np.float32), b.mass, np.ones(20_000), b.identity, features)
        for v, b in zip(x, base, strict=True)
    )
    at = np.linspace(-1.5, 3.0, 40)
    probe = replace(reference.take(slice(0, 40)), x=at[:, None].astype(np.float32))
    q = 0.7 + 0.3 * np.exp(2 * at - 2)
    found = WeakTrees(members=10, leaves=8).fit(reference, data).score(probe)
    assert np.abs(found - q / (1 + q)).max() < 0.06


def test_balance_is_exact_and_does_not_depend_on_the_order():
    rng = np.random.default_rng(1)
    weight, y = rng.random(1001), (rng.random(1001) < 0.2).astype(float)
    found = balance(weight, y)
    assert found[y == 0].sum() == pytest.approx(1001 / 2)
    assert found[y == 1].sum() == pytest.approx(1001 / 2)
    order = rng.permutation(1001)
    assert np.array_equal(balance(weight[order], y[order]), found[order])
    with pytest.raises(InputError, match="part of the data is empty"):
        balance(weight, np.zeros(1001))


def test_bad_training_samples_are_refused(toy, score):
    reference, data = toy(100, 1), toy(100, 2, first=10_000)
    x = data.x.copy()
    x[3, 2] = np.nan
    with pytest.raises(InputError, match="data: column f2 has values that are not finite"):
        score.fit(reference, replace(data, x=x))
    with pytest.raises(InputError, match="reference: weights must be finite, not negative"):
        score.fit(replace(reference, weight=reference.weight - 1.0), data)
    with pytest.raises(InputError, match="data: no events"):
        score.fit(reference, data.take(slice(0, 0)))
    with pytest.raises(ConfigError, match="validation"):
        replace(score, validation=1.0).fit(reference, data)


def test_bad_events_are_refused(toy, score):
    with pytest.raises(InputError, match="not been fitted"):
        score.score(toy(5, 1))
    score.fit(toy(300, 1), toy(300, 2, 0.2, first=10_000))
    events = toy(5, 9)
    x = events.x.copy()
    x[4, 1] = np.inf
    with pytest.raises(InputError, match="column f1"):
        score.score(replace(events, x=x))
    narrow = replace(events.features, columns=events.features.columns[:3])
    with pytest.raises(FeatureError, match="3 columns"):
        score.score(replace(events, x=events.x[:, :3], features=narrow))


def test_the_network_keeps_its_best_epochs(toy):
    score = WeakNetwork(hidden=(8,), epochs=6, best=3, batch=256).fit(
        toy(800, 1), toy(800, 2, 0.2, first=10_000)
    )
    record = score.record_
    assert record is not None
    assert len(score.members_) == 3
    assert len(record.train_loss) == len(record.validation_loss) == record.epochs == 6
    assert record.events_per_s > 0
