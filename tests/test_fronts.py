"""The front of resources against physics: its types, its set of best points, the stage, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from elsewhere import fronts, report_front
from elsewhere.analysis.plots_front import FrontLine, FrontPoints, plot_front
from elsewhere.config import load_config
from elsewhere.errors import ConfigError, ElsewhereError, FitError
from elsewhere.fixed import Fixed
from elsewhere.fronts import Point, mean_of, non_dominated, run_front, types_of
from elsewhere.models.networks.quantised import Types
from elsewhere.search import check_methods, open_search, outcome, run_search, shrunk
from elsewhere.sections import FrontSection
from elsewhere.stages import silent
from elsewhere.workspace import read_json

pytest.importorskip("da4ml", reason="da4ml is not installed: pip install 'elsewhere[rtl]'")

TRIGGER = Path(__file__).resolve().parents[1] / "templates" / "trigger.yaml"
SEARCH = """
name: small
seed: 3
events:
  features: l1
  datasets:
    learnt: {files: shipped:higgs_bb.root, role: reference}
    zerobias: {files: shipped:higgs_tautau.root, role: data}
    ttbar: {files: shipped:ttbar.root, role: signal}
score: {method: Axol1tl, hidden: [12], latent: 3, decoder: [16], batch: 128, learning_rate: 0.005}
rates: {targets_khz: [1000.0]}
front: {bits: [3, 6], pruning: [0.0, 0.8], target_khz: 1000.0, epochs: 2}
run: {scheduler: loop, training: plain, workers: 1}
"""


@pytest.mark.parametrize(
    ("bits", "integer", "weight", "bias"),
    [
        (2, 1, (2, -1), (10, 7)), (3, 1, (3, 0), (10, 7)), (4, 1, (4, 1), (10, 7)), (6, 1, (6, 1), (12, 7)),
        (8, 1, (8, 1), (14, 7)), (6, 3, (6, 3), (10, 7)), (8, 3, (8, 3), (12, 7)), (4, 3, (4, 1), (10, 7)),
    ],
)  # fmt: skip
def test_the_types_of_a_point(bits, integer, weight, bias):
    made = types_of(Types(), bits, integer)
    assert made.of("weight") == Fixed(*weight, True, "RND_CONV", "SAT")
    assert made.of("bias") == Fixed(*bias, True, "RND_CONV", "SAT")
    assert replace(made, weight=Types().weight, bias=Types().bias) == Types()
    if (bits, integer) == (6, 3):
        assert made == Types()


def test_the_set_that_no_point_beats_is_that_of_all_pairs():
    rng = np.random.default_rng(5)
    for n in (1, 2, 7, 40):
        for _ in range(50):
            cost, gain = (
                rng.integers(0, 8, n).tolist(),
                (rng.integers(0, 8, n) / 8).tolist(),
            )  # with many ties
            wanted = [
                not any(c <= cost[i] and g >= gain[i] and (c < cost[i] or g > gain[i]) for c, g in zip(cost, gain, strict=True))
                for i in range(n)
            ]  # fmt: skip
            assert non_dominated(cost, gain) == wanted


def training(number, mean, lut):
    parts = {"a": [mean, mean - 0.03, mean + 0.04], "b": [mean, mean - 0.03, mean + 0.04]}
    return {
        "bits": 6, "pruning": 0.5, "training": number, "weight": "w", "zero": 0.5, "lut_estimate": lut, "stages": 7 + number,
        "latency_ns": 35.0 + 5 * number, "checked": 10, "threshold": 3.0, "rate": {"khz": 9.0}, "efficiency": parts, "mean": parts["a"],
    }  # fmt: skip


def test_trainings_of_a_setting_are_one_point_with_their_spread():
    made = fronts.combined([training(0, 0.2, 100), training(1, 0.3, 104), training(2, 0.1, 96)])
    error = 0.1 / np.sqrt(3)
    wanted = [0.2, 0.2 - np.hypot(0.03, error), 0.2 + np.hypot(0.04, error)]
    assert made["mean"] == pytest.approx(wanted)
    assert made["efficiency"]["b"] == pytest.approx(wanted)
    assert (made["lut_estimate"], made["stages"], made["latency_ns"]) == (100, 9, 45.0)
    assert made["trainings"] == [0.2, 0.3, 0.1]
    assert made["spread"] == pytest.approx(0.1)
    alone = training(0, 0.2, 100)
    assert fronts.combined([alone]) == {k: v for k, v in alone.items() if k != "training"}
    lost = {"bits": 6, "pruning": 0.5, "training": 1, "failed": "no threshold"}
    assert fronts.combined([training(0, 0.2, 100), lost])["failed"] == "1 of 2 trainings: no threshold"


def test_trainings_of_a_front_differ_by_their_seed(done):
    search, _ = done
    front = search.config.front.model_copy(update={"trainings": 2})
    config = search.config.model_copy(update={"front": front})
    points = fronts.points_of(front)
    assert [(p.bits, p.pruning, p.training) for p in points[:3]] == [(3, 0.0, 0), (3, 0.0, 1), (3, 0.8, 0)]
    assert len({p.name for p in points}) == len(points) == 8
    assert [fronts.score_of(config, p).seed for p in points[:2]] == [0, 1]


def test_the_mean_of_independent_samples():
    parts = [(0.5, 0.47, 0.54), (0.1, 0.06, 0.13)]
    assert mean_of(parts) == pytest.approx([0.3, 0.3 - 0.05 / 2, 0.3 + 0.05 / 2])
    assert mean_of(parts[:1]) == pytest.approx(parts[0])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished small front, its report among it."""
    folder = tmp_path_factory.mktemp("front")
    (folder / "search.yaml").write_text(SEARCH)
    search = open_search(folder / "search.yaml")
    run_search(search)
    return search, read_json(search.space.path("front.json"))


def test_every_setting_is_trained_traced_and_measured(done):
    _, found = done
    assert [(p["bits"], p["pruning"]) for p in found["points"]] == [(3, 0.0), (3, 0.8), (6, 0.0), (6, 0.8)]
    point = {(p["bits"], p["pruning"]): p for p in found["points"]}
    for (bits, pruning), p in point.items():
        assert p["zero"] >= pruning
        assert p["checked"] == 3000
        assert 0 < p["rate"]["khz"] <= 1000
        assert p["latency_ns"] == 5.0 * p["stages"] > 0
        assert p["weight"].startswith(f"fixed<{bits},")
        assert p["mean"] == p["efficiency"]["ttbar"]
    for bits in (3, 6):
        assert point[bits, 0.8]["lut_estimate"] < 0.6 * point[bits, 0.0]["lut_estimate"]
    assert point[3, 0.0]["lut_estimate"] < point[6, 0.0]["lut_estimate"]
    cost, gain = (
        [f(p) for p in found["points"]] for f in (lambda p: p["lut_estimate"], lambda p: p["mean"][0])
    )
    assert ["mean" in p["best"] for p in found["points"]] == non_dominated(cost, gain)


def test_a_point_is_that_training_of_the_score(done):
    search, found = done
    config = search.config
    point = found["points"][3]
    events = {n: search.space.read_table(n).events for n in config.events.datasets}
    settings = {**config.score.settings, "epochs": 2, "pruning": 0.8}
    types = {"weight": "fixed<6,1,RND_CONV,SAT>", "bias": "fixed<12,7,RND_CONV,SAT>"}
    model = fronts.build("Axol1tl", {**settings, "types": types}, "score").fit(
        events["learnt"], events["learnt"]
    )
    score, weight = model.score(events["zerobias"]), events["zerobias"].weight
    passed = weight[score > point["threshold"]].sum() / weight.sum()
    assert point["rate"]["khz"] == pytest.approx(passed * 2544 * 11.2456)
    later = weight[score >= point["threshold"]].sum() / weight.sum()
    assert later * 2544 * 11.2456 > 1000  # the next threshold below is above the target
    signal = model.score(events["ttbar"]) > point["threshold"]
    kept = events["ttbar"].weight[signal].sum() / events["ttbar"].weight.sum()
    assert point["efficiency"]["ttbar"][0] == pytest.approx(kept)


def test_a_stopped_front_goes_on_where_it_was(done, monkeypatch):
    search, found = done
    made = []

    def counted(given, config, point):
        made.append(point)
        return run_point(given, config, point)

    run_point = fronts.run_point
    monkeypatch.setattr(fronts, "run_point", counted)
    run_front(search, silent)
    assert made == []
    search.space.path("front", "3bit_0.8.json").unlink()
    search.space.path("front", "6bit_0.json").write_text("{")
    run_front(search, silent)
    assert made == [Point(3, 0.8), Point(6, 0.0)]
    assert read_json(search.space.path("front.json")) == found
    front = search.config.front.model_copy(update={"target_khz": 2000.0, "bits": [3], "pruning": [0.8]})
    run_front(replace(search, config=search.config.model_copy(update={"front": front})), silent)
    assert made[2:] == [Point(3, 0.8)]
    monkeypatch.undo()
    search.space.path("front", "3bit_0.8.json").unlink()
    run_front(search, silent)  # the others are still there


def test_points_on_two_ray_workers_are_those_of_one_process(done):
    search, found = done
    run = search.config.run.model_copy(update={"training": "ray", "workers": 2})
    asked = fronts.points_of(search.config.front)[:2]
    spread = dict(
        fronts._spread(fronts._material(search), asked, search.config.model_copy(update={"run": run}))
    )
    for point, kept in zip(asked, found["points"], strict=False):
        assert fronts.combined([spread[point]]) == {k: v for k, v in kept.items() if k != "best"}


@pytest.mark.skipif(shutil.which("yosys") is None, reason="yosys is not installed")
def test_look_up_tables_are_counted_where_yosys_is_asked_for(done):
    search, found = done
    front = search.config.front.model_copy(update={"cost": "yosys"})
    config = search.config.model_copy(update={"front": front})
    counted = fronts.run_point(fronts._material(search), config, Point(3, 0.8))
    assert {k: counted[k] for k in found["points"][1] if k != "best"} == {
        k: v for k, v in found["points"][1].items() if k != "best"
    }
    assert 0.5 < counted["lut"] / counted["lut_estimate"] < 2
    assert counted["ff"] > 0
    assert fronts.lut_of(counted) == counted["lut"]


def test_the_page_and_the_command_line_say_what_was_found(done):
    search, found = done
    said = outcome(search, "front")
    best = [p for p in found["points"] if "mean" in p["best"]]
    assert said[0].startswith(f"front: {len(best)} of 4 settings")
    assert len(said) == 1 + len(best)
    assert all(line in outcome(search, "report") for line in said)
    page = search.space.path("report.html").read_text()
    assert "Resources against physics" in page
    numbers = search.space.path("report.json").read_text()
    assert '"lut_estimate"' in numbers


@pytest.mark.parametrize("counted", [False, True])
def test_every_row_is_as_long_as_its_head(done, monkeypatch, counted):
    search, found = done
    points = [*found["points"], {"bits": 2, "pruning": 0.9, "failed": "no threshold"}]
    points = [{"lut": 5, "ff": 7, **p} if counted and "failed" not in p else p for p in points]
    known = {**found, "points": points, "cost": "yosys" if counted else "estimate"}
    monkeypatch.setattr(report_front, "read_json", lambda _: known)
    table = report_front.front_part(search, "label").tables[0]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert ("FF, yosys" in table.columns) == counted
    assert table.rows[-1][table.columns.index("rate [kHz]")] == "no threshold"


def test_logic_that_gives_another_score_stops_the_front(done, monkeypatch):
    search, _ = done
    given = fronts._material(search)
    original = fronts.logic_score
    monkeypatch.setattr(
        fronts, "logic_score", lambda *args: original(*args) + (np.arange(3000) == 7) * 0.0625
    )
    with pytest.raises(ElsewhereError, match="differs from the score in 1 of 3000 events"):
        fronts.run_point(given, search.config, Point(3, 0.8))


def test_a_point_without_a_score_says_why_and_a_front_without_points_is_an_error(done, monkeypatch):
    search, _ = done
    front = search.config.front.model_copy(update={"target_khz": 1e-12})
    config = search.config.model_copy(update={"front": front})
    failed = fronts.run_point(fronts._material(search), config, Point(3, 0.8))
    assert "1e-12 kHz is less than one of 3000 crossings" in failed["failed"]
    monkeypatch.setattr(fronts, "run_point", lambda _given, _config, _point: failed)
    with pytest.raises(FitError, match=r"no point has a score at 1e-12 kHz"):
        run_front(replace(search, config=config), silent)
    good = {"bits": 4, "pruning": 0.5, "lut_estimate": 10, "efficiency": {"s": [0.5, 0.4, 0.6]}, "mean": [0.5, 0.4, 0.6]}  # fmt: skip
    marked = fronts._marked([failed, good], ["s"])
    assert marked[0] == failed
    assert marked[1]["best"] == ["s", "mean"]


def test_a_score_whose_top_is_shared_by_too_many_says_so(done, monkeypatch):
    """As of a network with hardly a weight left: its few scores are each that of many crossings."""
    search, _ = done
    monkeypatch.setattr(
        fronts.Guarded, "score", lambda _self, events: np.minimum(np.arange(len(events)), 5.0)
    )
    failed = fronts.run_point(fronts._material(search), search.config, Point(3, 0.8))
    assert failed["failed"].startswith("the largest score, 5, is that of 2995 crossings (2.8")
    assert failed["failed"].endswith("no threshold gives 1000 kHz")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["front={bits: [4]}"], "front: the weights of a Autoencoder have neither"),
        (["score={method: Axol1tlV5}", "front={bits: [4]}"], "use score: {method: Axol1tl}"),
        (["score={method: Axol1tl, quantised: false}", "front={bits: [4]}"], "score.quantised is false"),
        (["front={bits: [4, 4]}"], r"bits \[4, 4\] must increase strictly"),
        (["front={bits: [4], pruning: [0.5, 0.0]}"], r"pruning \[0.5, 0.0\] must increase strictly"),
        (["front={bits: [1]}"], r"front\.bits\.0: found 1"),
        (["front={bits: [4], pruning: [1.0]}"], r"front\.pruning\.0: found 1\.0"),
        (["front={bits: []}"], r"front\.bits"),
        (["front={bits: [4], cost: vivado}"], r"front\.cost: found 'vivado'"),
        (["front={bit: [4]}"], r"front\.bit: unknown key; did you mean 'bits'"),
        (["events.datasets.ttbar.role=data", "events.datasets.higgs_bb.role=data", "events.datasets.higgs_tautau.role=data",
          "front={bits: [4]}"], "front needs a dataset with role: signal"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_it_starts(changes, says):
    with pytest.raises(ConfigError, match=says):
        check_methods(load_config(TRIGGER, changes))


def test_a_hunt_has_no_front():
    with pytest.raises(ConfigError, match="front needs rates"):
        load_config(TRIGGER.with_name("dijet.yaml"), ["front={bits: [4]}"])


def test_types_too_wide_for_the_training_are_refused_before_the_first(done):
    search, _ = done
    front = search.config.front.model_copy(update={"bits": [4, 16]})
    with pytest.raises(ConfigError, match=r"front\.bits: 16: a layer of 57 inputs .* float32"):
        run_front(replace(search, config=search.config.model_copy(update={"front": front})), silent)


def test_yosys_is_asked_for_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(fronts.shutil, "which", lambda _name: None)
    config = load_config(TRIGGER, ["score={method: Axol1tl}", "front={bits: [4], cost: yosys}"])
    with pytest.raises(ConfigError, match=r"front\.cost: yosys is not on the PATH"):
        check_methods(config)


def test_a_test_run_is_small(done):
    search, _ = done
    front = {
        **search.config.front.model_dump(),
        "bits": [3, 4, 6],
        "pruning": [0.0, 0.5, 0.9],
        "epochs": None,
        "trainings": 3,
    }
    small = shrunk(search.config.model_copy(update={"front": FrontSection.model_validate(front)})).front
    assert (small.bits, small.pruning, small.epochs, small.trainings) == ([3, 4], [0.0, 0.5], 2, 1)


def test_the_figure_joins_the_points_that_none_beats():
    lut, value = np.array([4000.0, 1000.0, 2000.0, 8000.0]), np.array([0.3, 0.1, 0.05, 0.3])
    best = np.array(non_dominated(lut.tolist(), value.tolist()))
    assert best.tolist() == [True, True, False, False]
    line = FrontLine("one", value, value - 0.02, value + 0.03, best)
    points = FrontPoints(
        lut, np.array([4, 2, 2, 4]), np.array([0.5, 0.0, 0.5, 0.0]), (line, replace(line, name="two")), 10.0
    )
    figure = plot_front(points)
    top, small = figure.axes
    assert top.get_xscale() == "log"
    steps = top.get_lines()[0]
    assert steps.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(steps.get_xdata(), [1000.0, 4000.0, 10_000.0])
    np.testing.assert_allclose(steps.get_ydata(), [0.1, 0.3, 0.3])
    assert {t.get_text() for t in top.texts} >= {"4b 50%", "2b", "2b 50%", "4b"}
    assert small.get_title() == "two"
