"""Tag N' Train on a toy of two objects: what tags what, how much it enriches, and that it beats its autoencoders."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, fold_of
from elsewhere.models.folds import CrossFit
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.network_ensemble import NetworkEnsemble
from elsewhere.models.scores.tag_n_train import TagNTrain, object_columns, reweighted

NAMES = ("pt_j1", "a_j1", "b_j1", "c_j1", "met", "pt_j2", "a_j2", "b_j2", "c_j2")
FEATURES = FeatureSet("two", tuple(Column(n, "", "") for n in NAMES), Column("m", "GeV", ""))
FIRST, SECOND = [0, 1, 2, 3], [5, 6, 7, 8]


def make(n: int, seed: int, signal: float, first: int = 0) -> Events:
    """Per object pt and three features near a line; signal (the first ones) moves along it and a little off it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 9))
    for start in (1, 6):
        line = rng.normal(size=(n, 1))
        x[:, start : start + 3] = line * [1.0, 0.8, -0.6] + 0.35 * rng.normal(size=(n, 3))
        x[: round(signal * n), start : start + 3] += [1.6, 0.9, -0.4]
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), np.full(n, 3500.0), np.ones(n), identity, FEATURES)


def auc(score, n):
    return float((score[:n, None] > score[None, n:]).mean())


QUICK: dict[str, Any] = {
    "tagger": Autoencoder(hidden=(8,), latent=1, epochs=6, batch=128, learning_rate=1e-2),
    "classifier": NetworkEnsemble(members=1, hidden=(16,), epochs=15, best=3, learning_rate=3e-3),
}


@pytest.fixture(scope="module")
def parts():
    return make(8000, 1, 0.0), make(8000, 2, 0.06, first=20_000), make(2000, 3, 0.5, first=50_000)


@pytest.fixture(scope="module")
def fitted(parts):
    return TagNTrain(**QUICK).fit(*parts[:2])


def test_after_one_iteration_it_beats_its_autoencoders(fitted, parts):
    fresh = parts[2]
    taggers, objects = (fitted.object_scores(fresh, of) for of in ("taggers", "classifiers"))
    for k in (0, 1):
        assert 0.55 < auc(taggers[:, k], 1000) < auc(objects[:, k], 1000)
    assert auc(fitted.score(fresh), 1000) > auc(taggers.sum(axis=1), 1000)
    assert auc(fitted.score(fresh), 1000) > max(auc(s, 1000) for s in objects.T)


def test_a_second_iteration_still_works(parts):
    score = TagNTrain(iterations=2, **QUICK).fit(*parts[:2])
    assert [t["iteration"] for t in score.tagged_] == [1, 1, 2, 2]
    assert auc(score.score(parts[2]), 1000) > 0.8


@dataclass
class Tagger:
    """The score is one column; remembers what it was fitted on."""

    paper = ""
    column: int = 1
    seen: list[Events] = field(default_factory=list)
    seed: int = 0

    def fit(self, reference, data):
        self.seen = [reference, data]
        return self

    def score(self, events):
        return events.x[:, self.column].astype(np.float64)


def test_who_is_tagged_by_what(parts):
    """Rich: above the 80 % quantile of all, in the data; poor: below 40 %; tagged by the other object; fresh."""
    reference, data, _ = parts
    score = TagNTrain(tagger=Tagger(), classifier=Tagger(), iterations=2, seed=3).fit(reference, data)
    pool = Events.concatenate([reference, data])
    part = fold_of(pool.identity, 3, score._seed(0))
    is_data = np.arange(len(pool)) >= len(reference)
    for k, columns, other in ((0, FIRST, 6), (1, SECOND, 1)):
        assert score.taggers_[k].seen[0].features.names == tuple(NAMES[i] for i in columns)
        assert len(score.taggers_[k].seen[0]) == (part == 0).sum()
        poor, rich = score.classifiers_[k].seen
        mine = pool.take(part == 2)
        values = mine.x[:, other]
        expected_rich = mine.take(is_data[part == 2] & (values > np.quantile(values, 0.8)))
        expected_poor = mine.take(values <= np.quantile(values, 0.4))
        for found, expected in ((rich, expected_rich), (poor, expected_poor)):
            assert abs(len(found) - len(expected)) <= 1
            ids = set(found.identity["event"]), set(expected.identity["event"])
            assert len(ids[0] ^ ids[1]) <= 1
            assert found.features.names == tuple(NAMES[i] for i in columns)


def test_the_autoencoder_enriches_the_signal_rich_sample(parts):
    """The signal fraction of the rich sample grows by the AE's signal efficiency at 20 % of all, over 20 %."""
    reference, data, fresh = parts
    score = TagNTrain(tagger=QUICK["tagger"], classifier=Tagger()).fit(reference, data)
    mine = score.object_scores(fresh, "taggers")[:, 1]
    cut = np.quantile(mine[1000:], 0.8)  # nearly all of the pool is background
    expected = (mine[:1000] > cut).mean()
    rich = score.classifiers_[0].seen[1]
    part = fold_of(data.identity, 2, score._seed(0)) == 1
    signal = np.arange(len(data)) < 480
    found = (rich.identity["event"] < 20_480).sum() / (signal & part).sum()
    assert expected > 0.24
    assert found == pytest.approx(expected, abs=0.13)
    assert (rich.identity["event"] < 20_480).mean() > 1.1 * 0.06


def test_parts_are_not_the_folds_of_the_search(parts):
    """With two folds and two parts of one seed, a hash used twice would leave the classifier nothing."""
    score = CrossFit(TagNTrain(tagger=Tagger(), classifier=Tagger()), folds=2).fit(*parts[:2])
    sizes = [len(m.taggers_[0].seen[0]) for m in score.members_]
    assert all(abs(s - 4000) < 300 for s in sizes)


def test_reweighting_takes_the_column_out_of_the_inputs_and_matches_it(parts):
    reference, data, _ = parts
    x = reference.x.copy()
    x[:, 0] -= 0.5
    score = TagNTrain(tagger=Tagger(0), classifier=Tagger(0), reweight="pt").fit(
        replace(reference, x=x), data
    )
    assert score.columns_ == [FIRST[1:], SECOND[1:]]
    rng = np.random.default_rng(0)
    value, target = rng.normal(size=5000), rng.normal(0.5, 1.0, 3000)
    weight = reweighted(value, np.ones(5000), target, np.ones(3000))
    assert weight.sum() == pytest.approx(5000)
    assert np.average(value, weights=weight) == pytest.approx(target.mean(), abs=0.05)
    poor, rich = score.classifiers_[0].seen
    assert poor.weight.std() > 0.1
    assert np.array_equal(rich.weight, np.ones(len(rich)))
    with pytest.raises(InputError, match="reweight"):
        reweighted(np.full(5, 0.0), np.zeros(5), target, np.ones(3000))


def test_cut_at_equal_quantile(parts):
    score = TagNTrain(tagger=Tagger(), classifier=Tagger(), combine="quantile").fit(*parts[:2])
    values = score.score(parts[2])
    for level in (0.5, 0.9):
        cuts = [np.quantile(parts[0].x[:, c], level) for c in (1, 6)]
        both = (parts[2].x[:, 1] > cuts[0]) & (parts[2].x[:, 6] > cuts[1])
        assert (both != (values > level)).mean() < 2e-3


def test_determinism_order_storage(parts, fitted):
    reference, data, fresh = parts
    values = fitted.score(fresh)
    rng = np.random.default_rng(0)
    shuffled = [p.take(rng.permutation(len(p))) for p in (reference, data)]
    assert np.array_equal(TagNTrain(**QUICK).fit(*shuffled).score(fresh), values)
    assert not np.array_equal(TagNTrain(seed=1, **QUICK).fit(reference, data).score(fresh), values)
    assert np.array_equal(fitted.score(fresh.take(slice(1000, 1003))), values[1000:1003])
    assert fitted.score(fresh.take(slice(0, 0))).shape == (0,)
    back = TagNTrain(**QUICK).restore(*fitted.state())
    assert np.array_equal(back.score(fresh), values)
    assert back.tagged_ == fitted.tagged_
    assert np.array_equal(deepcopy(fitted).score(fresh), values)
    other = replace(fresh, x=np.where(np.arange(9) == 4, 99.0, fresh.x).astype(np.float32))
    assert np.array_equal(fitted.score(other), values)  # met belongs to no object


def test_columns_by_beginning_or_end():
    assert object_columns(FEATURES, "_j1") == FIRST
    assert object_columns(FEATURES, "_j2", "pt") == SECOND[1:]
    front = FeatureSet("f", (Column("j1_a", "", ""), Column("j2_a", "", "")))
    assert object_columns(front, "j2_") == [1]
    with pytest.raises(FeatureError, match="begins or ends with '_j3'"):
        object_columns(FEATURES, "_j3")


def test_errors(parts, fitted):
    reference, data, fresh = parts
    for bad in ({"iterations": 0}, {"rich": 0.7}, {"combine": "sum"}, {"objects": ("_j1",)}):
        with pytest.raises(ConfigError):
            TagNTrain(**bad)
    with pytest.raises(InputError, match="not been fitted"):
        TagNTrain().score(fresh)
    with pytest.raises(FeatureError, match="belongs to both"):
        TagNTrain(objects=("_j1", "_j1")).fit(reference, data)
    with pytest.raises(InputError, match="data: weights"):
        TagNTrain().fit(reference, replace(data, weight=-data.weight))
    with pytest.raises(InputError, match="0 signal-rich"):
        TagNTrain(tagger=Tagger(), classifier=Tagger(), rich=0.001).fit(
            reference.take(slice(0, 50)), data.take(slice(0, 3))
        )
    narrow = replace(FEATURES, columns=FEATURES.columns[:4])
    with pytest.raises(FeatureError, match="4 columns"):
        fitted.score(replace(fresh, x=fresh.x[:, :4], features=narrow))
