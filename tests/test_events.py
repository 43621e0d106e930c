import numpy as np
import pytest
from elsewhere.errors import FeatureError
from elsewhere.events import (
    IDENTITY,
    Column,
    Events,
    FeatureSet,
    Window,
    drawn_by_weight,
    fold_of,
    identity_hash,
    in_identity_order,
)

FEATURES = FeatureSet(
    "toy", (Column("a", "GeV", "first"), Column("b", "", "second")), Column("m", "GeV", "mass")
)


def identity(n, **keys):
    out = np.zeros(n, IDENTITY)
    out["event"] = np.arange(n)
    for key, value in keys.items():
        out[key] = value
    return out


def events(n=10):
    x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return Events(x, np.arange(n, dtype=float), np.ones(n), identity(n), FEATURES)


def test_identity_order_is_not_that_of_the_rows_and_changes_with_the_seed():
    some = identity(50)
    events = Events(
        np.zeros((50, 1), np.float32),
        np.zeros(50),
        np.ones(50),
        some,
        FeatureSet("f", (Column("x", "", ""),)),
    )
    mixed = events.take(np.random.default_rng(1).permutation(50))
    ordered = in_identity_order(events, 3)
    np.testing.assert_array_equal(in_identity_order(mixed, 3).identity, ordered.identity)
    np.testing.assert_array_equal(in_identity_order(mixed, 3, 7).identity, ordered.identity[:7])
    assert not np.array_equal(in_identity_order(mixed, 4).identity, ordered.identity)


def test_folds_ignore_order_and_file_but_not_the_seed():
    some = identity(10_000, run=7)
    fold = fold_of(some, 5, seed=3)
    order = np.random.default_rng(0).permutation(len(some))
    assert np.array_equal(fold_of(some[order], 5, 3), fold[order])
    assert np.array_equal(fold_of(identity(10_000, run=7, file_hi=9), 5, 3), fold)
    assert 0.15 < np.mean(fold_of(some, 5, 4) == fold) < 0.25


def test_folds_are_even_and_independent_of_each_other():
    some = identity(100_000, run=1)
    counts = np.bincount(fold_of(some, 5, 1), minlength=5)
    assert np.sum((counts - 20_000) ** 2 / 20_000) < 18.5  # chi2 with 4 dof, p = 0.001
    assert len(np.unique(identity_hash(some))) == len(some)


def test_every_part_of_the_identity_counts():
    base = identity_hash(identity(1))
    for key in ("run", "luminosityBlock", "event"):
        assert identity_hash(identity(1, **{key: 1}))[0] != base[0]


def test_hash_equals_splitmix64_in_python_integers():
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    h = mix(4 + golden)
    for key in (1, 2, 3):
        h = mix(((h ^ key) + golden) & mask)
    assert int(identity_hash(identity(1, run=1, luminosityBlock=2, event=3), seed=4)[0]) == h
    assert h == 0x57F5666859B19686  # folds of published results must never change


def test_take_and_concatenate_are_inverse():
    all_of = events()
    parts = [all_of.take(slice(0, 4)), all_of.take(slice(4, None))]
    joined = Events.concatenate(parts)
    assert np.array_equal(joined.x, all_of.x)
    assert np.array_equal(joined.identity, all_of.identity)


def test_shapes_are_checked():
    with pytest.raises(FeatureError, match="2 columns"):
        Events(np.zeros((3, 4), np.float32), np.zeros(3), np.zeros(3), identity(3), FEATURES)
    with pytest.raises(FeatureError, match="weight"):
        Events(np.zeros((3, 2), np.float32), np.zeros(3), np.zeros(2), identity(3), FEATURES)


def test_feature_set_round_trip_and_first_difference():
    again = FeatureSet.from_json(FEATURES.to_json())
    assert again == FEATURES
    assert again.digest == FEATURES.digest
    other = FeatureSet("toy", (Column("a", "GeV", "first"), Column("c", "", "second")))
    with pytest.raises(FeatureError, match=r"column 1: model has b \[\], data has c \[\]"):
        FEATURES.require_same(other, "model", "data")


def test_window_is_half_open():
    inside = Window(1.0, 2.0).contains(np.array([0.9, 1.0, 1.9, 2.0]))
    assert inside.tolist() == [False, True, True, False]


def test_events_are_drawn_as_often_as_their_weights_ask():
    many = events(1000)
    assert np.array_equal(drawn_by_weight(many, 3), np.arange(1000))
    weight = np.random.default_rng(1).exponential(size=1000) ** 3
    weight[::7] = 0.0
    heavy = Events(many.x, many.mass, weight, many.identity, many.features)
    times = np.bincount(drawn_by_weight(heavy, 3), minlength=1000)
    assert times.sum() == 1000
    assert np.abs(times - 1000 * weight / weight.sum()).max() < 1
    assert not times[::7].any()
    assert np.array_equal(drawn_by_weight(heavy, 3), drawn_by_weight(heavy, 3))
    assert not np.array_equal(drawn_by_weight(heavy, 3), drawn_by_weight(heavy, 4))
    mean = np.mean([np.bincount(drawn_by_weight(heavy, s), minlength=1000) for s in range(400)], axis=0)
    assert np.abs(mean - 1000 * weight / weight.sum()).max() < 0.15  # without bias
