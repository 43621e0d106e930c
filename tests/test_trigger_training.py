"""Where and how a trigger's score is trained, by configuration only."""

import numpy as np
import pytest
from elsewhere import report_training, trigger
from elsewhere.errors import ConfigError, LeakError
from elsewhere.models.folds import Guarded
from elsewhere.models.methods import build
from elsewhere.models.represented import Represented
from elsewhere.models.store import load
from elsewhere.reports import describe
from elsewhere.search import check_methods, citations_of, open_search, plan_search, run_search
from elsewhere.workspace import read_json

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


def test_a_representation_learns_from_columns_on_disk_too(tmp_path):
    """By configuration: it scores the data as well as one that learnt in memory; one that cannot says so."""
    looking = "representation={method: VicReg, backbone: [16, 5], projector: 10, epochs: 2, batch: 128}"
    search = opened(tmp_path, "run.stream=true", looking, "score={method: MixtureDistance, components: 2}")
    run_search(search, "train")
    model, _ = load(search.space.path("models", trigger.MODEL))
    reference = search.space.read_table("learnt").events
    assert len(model.seen_) == len(reference)
    again = Represented(model.inner.representation, build("MixtureDistance", {"components": 2}, "score"))
    seen = again.representation.transform(reference)
    data = search.space.read_table("zerobias").events
    wanted = again.inner.fit(seen, seen).score(again.representation.transform(data))
    np.testing.assert_allclose(model.score(data), wanted)
    with pytest.raises(ConfigError, match="a Level1VicReg learns from events in memory only"):
        run_search(opened(tmp_path, "run.stream=true", "workspace=other", *BEHIND), "train")


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


LOOKING = {"backbone": [12, 5], "projector": 10, "epochs": 2, "batch": 128}
BEHIND = [
    "representation={method: Level1VicReg, backbone: [12, 5], projector: 10, epochs: 2, batch: 128}",
    "score={method: MixtureDistance, components: 2}",
]


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A finished search whose score looks at what a representation learnt from zero bias."""
    signal = "events.datasets.top={files: shipped:ttbar.root, role: signal}"
    folder = tmp_path_factory.mktemp("behind")
    search = opened(folder, *BEHIND, signal, "rates.targets_khz=[3000.0]")
    run_search(search)
    return search


def test_a_score_behind_a_representation_is_what_the_two_give(behind):
    """Fitted by hand on the reference, and scored by hand: the same numbers as in the stream."""
    reference = behind.space.read_table("learnt").events
    looking = build("Level1VicReg", LOOKING, "representation").fit(reference, reference)
    score = build("MixtureDistance", {"components": 2}, "score")
    h = looking.transform(reference)
    score.fit(h, h)
    data, top = (behind.space.read_table(n, "scores") for n in ("zerobias", "top"))
    for table in (data, top):
        np.testing.assert_array_equal(
            table.scores[trigger.FLOAT], score.score(looking.transform(table.events))
        )
    found = read_json(behind.space.path("rates.json"))["scorers"][trigger.FLOAT]
    point = found["points"][0]
    parts = [
        t.events.weight[t.scores[trigger.FLOAT] > point["threshold"]].sum() / t.events.weight.sum()
        for t in (data, top)
    ]
    assert point["rate"]["khz"] == pytest.approx(parts[0] * 11.2456 * 2544)
    assert point["rate"]["khz"] == pytest.approx(3000, rel=0.05)
    assert point["efficiency"]["top"][0] == pytest.approx(parts[1])


def test_neither_part_scores_what_it_has_seen(behind):
    model, _ = load(behind.space.path("models", trigger.MODEL))
    assert isinstance(model, Guarded)
    assert isinstance(model.inner, Represented)
    with pytest.raises(LeakError):
        model.score(behind.space.read_table("learnt").events)


def test_the_report_shows_the_space_and_its_training(behind):
    (group,) = describe(behind)
    assert "the MixtureDistance score in the space of Level1VicReg" in group.asked
    parts = {part.title: part for part in group.parts if part is not None}
    assert [row[0] for row in parts["Training"].tables[0].rows] == ["representation"]
    assert parts["A map of the events"].text.startswith("The representation Level1VicReg with ")
    assert "every fold" not in parts["A map of the events"].text
    space = read_json(behind.space.path("interpretation.json"))["space"]
    assert (space["learnt"], space["folded"], len(space["columns"])) == (True, False, 5)
    assert all(f"eprint={{{paper}}}" in citations_of(behind) for paper in ("2105.04906", "2411.19506"))
    assert behind.space.path("report.html").exists()


def test_another_representation_is_another_training(behind, tmp_path):
    assert {p.why for p in plan_search(behind)} == {"up to date"}
    other = opened(tmp_path, *BEHIND, "representation.seed=1")
    assert trigger.train_inputs(other) != trigger.train_inputs(behind)
    assert len(trigger.train_inputs(opened(tmp_path))) == 2  # as before there were representations


def test_progress_counts_the_epochs_of_both_networks(tmp_path):
    search = opened(tmp_path, BEHIND[0])
    run_search(search, "process")
    seen = []
    trigger.train(search, "", lambda *done: seen.append(done))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    model, _ = load(search.space.path("models", trigger.MODEL))
    assert model.inner.inner.columns_ == 5
    assert (
        read_json(search.space.path("models", trigger.MODEL, "model.json"))["record"]["training"] is not None
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (BEHIND[:1], "firmware: a Autoencoder behind Level1VicReg is not one network of the columns"),
        (["score={method: Mahalanobis}"], "firmware: a Mahalanobis is neither one network nor trees"),
    ],
)
def test_what_is_no_firmware_is_refused_before_any_work(changes, says, tmp_path):
    search = opened(tmp_path, *changes, "firmware={}")
    with pytest.raises(ConfigError, match=says):
        run_search(search)
    assert not search.space.path("columns").exists()
    trigger.check_firmware(opened(tmp_path, *changes))
    trigger.check_firmware(opened(tmp_path, "firmware={}"))


def test_a_report_tells_where_early_stopping_ended_a_training():
    records = [{"stopped_at": 7}, {"stopped_at": None}, {}]
    assert report_training._stopped(records[1:]) == ""
    assert "of some of them after epoch 7;" in report_training._stopped(records)
    assert report_training._stopped(records[:1]).startswith(" Early stopping after epoch 7")
    old = {"events_per_s": 10.0, "wall_s": 2.0, "epochs": 2}
    assert report_training._speeds(old) == []
    assert report_training._speeds(old | {"epoch_s": [1.0, 0.5]}) == [10.0, 20.0]
