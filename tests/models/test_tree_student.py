"""A tree student in whole numbers: against LightGBM's own predictions, its teacher, and a walk by hand."""

import lightgbm as lgb
import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.fixed import Fixed
from elsewhere.models.base import TreeExportable
from elsewhere.models.methods import build
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.tree_student import TreeStudent, integer_trees
from elsewhere.trees import IntegerTrees
from scipy.stats import spearmanr

TEACHER = {"hidden": (16,), "latent": 2, "epochs": 15, "batch": 128, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def student(toy):
    return TreeStudent(Autoencoder(**TEACHER), trees=60, depth=4).fit(toy(4000, 1), toy(10, 2))


def test_two_trees_by_hand():
    source, output = Fixed(8, 6), Fixed(10, 4)
    trees = IntegerTrees(
        2, source, output, np.array([1, -1, 0, -1, -1, -1], np.int32), np.array([3, 0, -2, 0, 0, 0]),
        np.array([1, 0, 3, 0, 0, 0], np.int32), np.array([2, 0, 4, 0, 0, 0], np.int32),
        np.array([0, 5, 0, 7, -11, 100]), np.array([0, 5], np.int32),
    )  # fmt: skip
    codes = np.array([[0, 3], [-2, 4], [-1, 4]])
    np.testing.assert_array_equal(trees.evaluate(codes), [105, 107, 89])
    assert trees.depth == 2
    with pytest.raises(FeatureError, match="take 2 inputs per event, found"):
        trees.evaluate(codes[:, :1])


def test_the_integers_are_lightgbms_trees_with_rounded_leaves():
    rng = np.random.default_rng(1)
    source, leaf = Fixed(9, 5), Fixed(20, 6, quantisation="RND_CONV", overflow="SAT")
    codes = rng.integers(source.low, source.high + 1, (4000, 3))
    y = np.sin(codes[:, 0] / 40) + codes[:, 1] / 100
    settings = {"num_leaves": 8, "verbose": -1, "num_threads": 1, "deterministic": True}
    booster = lgb.train(settings, lgb.Dataset(codes.astype(float), y), 30)
    trees = integer_trees(booster, 3, source, leaf)
    wanted = booster.predict(codes.astype(float))
    found = trees.output.to_float(trees.evaluate(codes))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=30 * leaf.step / 2)
    assert np.abs(found - wanted).max() > 0
    assert trees.output == Fixed(25, 11)


def test_the_student_orders_events_as_its_teacher(student, toy):
    assert isinstance(student, TreeExportable)
    for signal, wanted in ((0.0, 0.8), (0.5, 0.8)):  # the signal lies outside what the student has seen
        fresh = toy(3000, 3, signal, first=50_000)
        assert spearmanr(student.score(fresh), student.inner.score(fresh)).statistic > wanted


def test_scores_are_multiples_of_the_last_bit_and_sums_cannot_overflow(student, toy):
    trees = student.integers()
    scores = student.score(toy(500, 4)) / trees.output.step
    np.testing.assert_array_equal(scores, np.rint(scores))
    leaf = Fixed.parse(student.leaf)
    assert len(trees.roots) * leaf.high <= trees.output.high
    assert len(trees.roots) * leaf.low >= trees.output.low


def test_a_teacher_without_logarithm_is_refused(toy):
    class Flat(Autoencoder):
        def score(self, events):
            return np.zeros(len(events))

    with pytest.raises(InputError, match=r"4000 of 4000 events a score that is not above 0.*target: plain"):
        TreeStudent(Flat(**TEACHER)).fit(toy(4000, 1), toy(10, 2))


def test_leaves_beyond_their_type_are_refused(toy):
    """Clipping them would give a score that looks like one."""
    narrow = TreeStudent(Autoencoder(**TEACHER), target="plain", leaf="fixed<8,0,RND_CONV,SAT>")
    with pytest.raises(InputError, match=r"leaves from .* do not fit into fixed<8,0,.*>; widen leaf"):
        narrow.fit(toy(4000, 1), toy(10, 2))


def test_before_the_fit_there_are_no_trees(toy):
    with pytest.raises(InputError, match="has not been fitted"):
        TreeStudent(Autoencoder()).score(toy(10, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": {"method": "Autoencoder"}, "trees": 0}, "expected at least 1 tree"),
        ({"inner": {"method": "Autoencoder"}, "depth": 20}, "a depth of 1 to 12"),
        ({"inner": {"method": "Autoencoder"}, "leaf": "float"}, "leaf: 'float' is not a fixed-point type"),
        ({"inner": {"method": "Autoencoder", "latents": 3}}, r"score.latents: unknown.*'latent'"),
        ({"inner": {"method": "Autoencode"}}, "did you mean 'Autoencoder'"),
        ({}, r"score.inner: found None, expected the score that TreeStudent is around"),
        ({"inner": "Autoencoder"}, r"score.inner: found 'Autoencoder', expected"),
    ],
)
def test_errors_say_what_is_expected(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("TreeStudent", settings, "score")


def test_a_configuration_names_the_teacher():
    made = build("TreeStudent", {"inner": {"method": "Autoencoder", "latent": 3}, "depth": 2}, "score")
    assert made == TreeStudent(Autoencoder(latent=3), depth=2)
