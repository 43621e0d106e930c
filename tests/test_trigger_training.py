"""Where and how a trigger's score is trained, by configuration only."""

import pytest
from elsewhere import report_training, trigger
from elsewhere.errors import ConfigError
from elsewhere.models.store import load
from elsewhere.search import check_methods, open_search, run_search

SEARCH = """
name: small
seed: 3
events:
  features: l1
  datasets:
    learnt: {files: shipped:higgs_bb.root, role: reference}
    zerobias: {files: shipped:higgs_tautau.root, role: data}
score: {method: Autoencoder, hidden: [12], latent: 3, batch: 128, epochs: 2}
rates: {targets_khz: [1000.0]}
run: {scheduler: loop, training: plain, workers: 1}
"""


def opened(folder, *overrides):
    path = folder / "search.yaml"
    path.write_text(SEARCH)
    return open_search(path, overrides)


def test_a_score_learns_from_its_columns_on_disk(tmp_path):
    """The stage of `run.stream` in `run.precision`: same scale, another order, a key of its own, every event remembered."""
    memory = opened(tmp_path, "workspace=memory")
    files = opened(tmp_path, "workspace=files", "run.stream=true", "run.precision=bfloat16")
    for search in (memory, files):
        run_search(search, "train")
    found = [load(s.space.path("models", trigger.MODEL))[0] for s in (memory, files)]
    assert (found[0].inner.shift_ == found[1].inner.shift_).all()
    assert (found[0].seen_ == found[1].seen_).all()
    assert (found[0].inner.weights_["0.weight"] != found[1].inner.weights_["0.weight"]).any()
    losses = [model.inner.record_.train_loss[-1] for model in found]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert trigger.train_inputs(memory) == trigger.train_inputs(opened(tmp_path))
    assert trigger.train_inputs(memory) != trigger.train_inputs(files)


def test_what_cannot_be_trained_so_is_refused(tmp_path):
    trees = opened(tmp_path, "run.precision=bfloat16", "score={method: Mahalanobis}", "workspace=trees")
    with pytest.raises(ConfigError, match="Mahalanobis is no network"):
        run_search(trees, "train")
    hunt = open_search(_hunt(tmp_path), ["run.stream=true"])
    with pytest.raises(ConfigError, match="a hunt takes neither"):
        check_methods(hunt.config)


def _hunt(folder):
    from elsewhere.search import template

    path = folder / "hunt.yaml"
    path.write_text(template("dijet"))
    return path


def test_a_report_tells_where_early_stopping_ended_a_training():
    records = [{"stopped_at": 7}, {"stopped_at": None}, {}]
    assert report_training._stopped(records[1:]) == ""
    assert "of some of them after epoch 7;" in report_training._stopped(records)
    assert report_training._stopped(records[:1]).startswith(" Early stopping after epoch 7")
    old = {"events_per_s": 10.0, "wall_s": 2.0, "epochs": 2}
    assert report_training._speeds(old) == []
    assert report_training._speeds(old | {"epoch_s": [1.0, 0.5]}) == [10.0, 20.0]
