"""The isolation forest: its trees, path lengths and weights against the paper's formulas and what can be counted by hand."""

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.models.scores.isolation_forest import IsolationForest, _grow, expected_path
from elsewhere.models.store import load, save

from .test_outlier_scores import cloud, events, fit, standard


def test_expected_paths_are_those_of_binary_search():
    assert expected_path(np.array([0, 1, 2])).tolist() == [0.0, 0.0, 1.0]
    for n in (3, 20, 256):
        harmonic = sum(1 / i for i in range(1, n))
        assert float(expected_path(n)) == pytest.approx(2 * harmonic - 2 * (n - 1) / n, abs=1 / (n - 1))
    assert float(expected_path(256)) == pytest.approx(10.2448, abs=1e-4)


def descend(forest, tree, row):
    """Depth of a row in one tree, by recursion over the arrays, and the number of its leaf."""

    def step(node, depth):
        j = forest.feature_[tree, node]
        if j < 0:
            return depth, node
        right = row[j] > forest.threshold_[tree, node]
        return step(forest.child_[tree, node] + right, depth + 1)

    return step(0, 0)


def test_the_score_is_the_papers_of_slow_trees():
    x, y = cloud(2000, 3, 1), cloud(25, 3, 2)
    forest = fit(IsolationForest(trees=20, samples=64, seed=4), x)
    scaled, slow = standard(x), []
    for row in scaled(y):
        paths = []
        for tree in range(20):
            depth, leaf = descend(forest, tree, row)
            paths.append(forest.length_[tree, leaf])
            assert depth <= 6
            assert forest.length_[tree, leaf] >= depth
        slow.append(2 ** (-np.mean(paths) / float(expected_path(64))))
    found = forest.score(events(y))
    assert np.allclose(found, slow, rtol=1e-12)
    assert ((found > 0) & (found < 1)).all()
    assert forest.score(events([[1e6, 1e6, 1e6]]))[0] > forest.score(events(x)).max() - 0.05


def test_a_leaf_adds_the_path_that_its_events_would_need():
    x = np.round(cloud(50, 2, 1), -1)  # values that come more than once, so that leaves keep several
    forest = fit(IsolationForest(trees=10, samples=64), x)  # all events in every tree
    crowded = 0
    for tree in range(10):
        found = [descend(forest, tree, row) for row in standard(x)(x)]
        for depth, leaf in found:
            n = sum(other == leaf for _, other in found)
            crowded += n > 2
            more = 0.0 if n == 1 else 1.0 if n == 2 else 2 * (np.log(n - 1) + 0.5772156649) - 2 * (n - 1) / n
            assert forest.length_[tree, leaf] == pytest.approx(depth + more, rel=1e-9)
    assert crowded > 20
    assert forest.scale_[0] == pytest.approx(2 * (np.log(49) + 0.5772156649) - 2 * 49 / 50)


def test_every_event_of_a_tree_falls_into_a_leaf_that_counted_it():
    x, rng = cloud(100, 2, 1), np.random.default_rng(3)
    feature, threshold, child, depth, count = _grow(x, rng.random((200, 2)), 7)
    leaves = np.zeros(len(feature), int)
    for row in x:
        node, level = 0, 0
        while feature[node] >= 0:
            node = child[node] + (row[feature[node]] > threshold[node])
            level += 1
        leaves[node] += 1
        assert level == depth[node]
    ends = (feature < 0) & (count > 0)
    assert np.array_equal(leaves[ends], count[ends])
    assert leaves.sum() == 100
    inner = np.flatnonzero(feature >= 0)
    assert np.array_equal(count[inner], count[child[inner]] + count[child[inner] + 1])
    assert (count[child[inner]] > 0).all()


def test_three_points_are_cut_where_chance_has_it():
    """Points 0, 0.2, 1: the first cut sets 0 apart with probability 0.2, and 1 with 0.8; what is left needs one more."""
    x, rng = np.array([[0.0], [0.2], [1.0]]), np.random.default_rng(1)
    depth = []
    for _ in range(20_000):
        feature, threshold, child, levels, _ = _grow(x, rng.random((6, 2)), 5)
        row = []
        for value in x[:, 0]:
            node = 0
            while feature[node] >= 0:
                node = child[node] + (value > threshold[node])
            row.append(levels[node])
        depth.append(row)
    assert np.mean(depth, axis=0) == pytest.approx([1.8, 2.0, 1.2], abs=0.012)


def test_constant_columns_of_a_node_are_not_cut():
    x = np.c_[np.zeros(50), np.arange(50.0), np.zeros(50)]
    feature, *_ = _grow(x, np.random.default_rng(1).random((100, 2)), 20)
    assert set(feature[feature >= 0]) == {1}


def test_events_are_drawn_by_weight():
    x = np.r_[cloud(1000, 2, 1), np.add(cloud(1000, 2, 1), [60, 600])]
    y = events(np.r_[cloud(200, 2, 2), np.add(cloud(200, 2, 2), [60, 600])])
    even, heavy = (
        fit(IsolationForest(seed=1), x, np.r_[np.ones(1000), np.full(1000, w)]).score(y) for w in (1.0, 0.01)
    )
    assert abs(even[:200].mean() - even[200:].mean()) < 0.03
    assert heavy[200:].mean() > heavy[:200].mean() + 0.1
    assert (fit(IsolationForest(seed=1), x, np.r_[np.ones(1000), np.zeros(1000)]).score(y)[200:] > 0.5).all()


def test_it_is_stored_without_running_code(tmp_path):
    forest, y = fit(IsolationForest(trees=30), cloud(500, 3, 1)), events(cloud(100, 3, 2))
    save(forest, tmp_path / "m", y.features, {})
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"model.json", "weights.safetensors"}
    assert np.array_equal(load(tmp_path / "m")[0].score(y), forest.score(y))


def test_errors():
    with pytest.raises(ConfigError, match="trees 0"):
        IsolationForest(trees=0)
    with pytest.raises(InputError, match="not been fitted"):
        IsolationForest().score(events(cloud(5, 2, 1)))
