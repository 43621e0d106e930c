"""No event is scored by a model that saw it; a planted leak is caught."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError, LeakError
from elsewhere.events import fold_of, identity_hash
from elsewhere.models.folds import CrossFit, Guarded, fit_together, refuse_seen, seen_hashes
from elsewhere.models.representations.identity import Identity
from elsewhere.models.represented import Represented
from elsewhere.models.scores import network_ensemble
from elsewhere.models.scores.network_ensemble import NetworkEnsemble
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import load, save


def small() -> WeakTrees:
    return WeakTrees(members=1, rounds=20)


@pytest.fixture(scope="module")
def parts(toy):
    return toy(900, 1), toy(900, 2, 0.2, first=10_000)


@pytest.fixture
def fitted(parts):
    return CrossFit(small(), folds=3, seed=4).fit(*parts)


def test_each_member_saw_all_folds_but_its_own(fitted, parts):
    for k in range(3):
        outside = [p.take(fold_of(p.identity, 3, 4) != k) for p in parts]
        hashes = np.sort(np.concatenate([identity_hash(p.identity) for p in outside]))
        assert np.array_equal(fitted.seen_[k], hashes)
        assert fitted.seen_[k].dtype == np.uint64


def test_folds_train_as_one_batched_model_with_the_result_each_has_alone(parts, toy, monkeypatch):
    """Behind a representation too; and so do the folds of several models."""
    ensemble = NetworkEnsemble(members=2, hidden=(8,), epochs=2, best=1)
    calls = []
    train = network_ensemble.train_batched
    monkeypatch.setattr(
        network_ensemble, "train_batched", lambda flat, *a: calls.append(len(flat)) or train(flat, *a)
    )
    models = [CrossFit(Represented(Identity(), ensemble), folds=3, seed=4) for _ in range(2)]
    samples = [parts, (toy(700, 3, first=20_000), parts[1])]
    fit_together(models, samples)
    assert calls == [12]
    for model, (reference, data) in zip(models, samples, strict=True):
        for k in range(3):
            kept = [p.take(fold_of(p.identity, 3, 4) != k) for p in (reference, data)]
            alone = replace(ensemble).fit(*kept)
            mine = data.take(fold_of(data.identity, 3, 4) == k)
            assert np.array_equal(model.score(mine), alone.score(mine))


def test_every_training_event_is_scored_by_the_member_of_its_fold(fitted, parts):
    scores, fold = fitted.score(parts[1]), fold_of(parts[1].identity, 3, 4)
    for k in range(3):
        mine = parts[1].take(fold == k)
        assert np.array_equal(scores[fold == k], fitted.members_[k].score(mine))


def test_a_member_trained_on_everything_is_a_leak(fitted, parts):
    fitted.members_[1] = small().fit(*parts)
    fitted.seen_[1] = seen_hashes(*parts)
    with pytest.raises(LeakError, match="member 1 of CrossFit was trained on"):
        fitted.score(parts[1])


def test_members_that_changed_places_are_a_leak(fitted, parts):
    fitted.members_[:2], fitted.seen_[:2] = fitted.members_[1::-1], fitted.seen_[1::-1]
    with pytest.raises(LeakError):
        fitted.score(parts[0])


def test_another_seed_than_the_one_of_the_training_is_a_leak(fitted, parts):
    with pytest.raises(LeakError):
        replace(fitted, seed=5).score(parts[0])


def test_a_leak_is_caught_after_storage(fitted, parts, tmp_path):
    save(replace(fitted, seed=5), tmp_path / "m", parts[0].features, {})
    with pytest.raises(LeakError):
        load(tmp_path / "m")[0].score(parts[0])


def test_guarded_refuses_what_it_was_trained_on_and_nothing_else(parts, toy):
    guarded = Guarded(small()).fit(*parts)
    fresh = toy(50, 9, first=50_000)
    assert np.isfinite(guarded.score(fresh)).all()
    identity = fresh.identity.copy()
    identity[17] = parts[1].identity[3]  # the same event, whatever its features are now
    with pytest.raises(LeakError, match=r"1 of the 50 events .* event 10003"):
        guarded.score(replace(fresh, identity=identity))


def test_the_same_event_from_another_file_is_a_leak(parts):
    moved = parts[0].take(slice(0, 5))
    identity = moved.identity.copy()
    identity["file_hi"] = 7
    with pytest.raises(LeakError):
        refuse_seen(replace(moved, identity=identity), seen_hashes(parts[0]), "x")


def test_nothing_seen_nothing_refused(parts):
    refuse_seen(parts[0], np.zeros(0, np.uint64), "x")


def test_one_fold_is_refused_and_an_unfitted_one_says_so(parts):
    with pytest.raises(ConfigError, match="at least 2"):
        CrossFit(small(), folds=1).fit(*parts)
    with pytest.raises(InputError, match="not been fitted"):
        CrossFit(small()).score(parts[0])
