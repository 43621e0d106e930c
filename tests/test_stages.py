from pathlib import Path

import pytest
from elsewhere.config import load_config
from elsewhere.stages import Reporter, Search, Stage, plan, run_stages
from elsewhere.workspace import Workspace, write_json

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def made(tmp_path):
    """Three stages in a row that count how often they ran; ``made['b_input']`` is what the second depends on."""
    state = {"ran": [], "b_input": 1}

    def run(name):
        def work(search, key, progress):
            progress(1, 1)
            state["ran"].append(name)
            write_json(search.space.path(f"{name}.json"), {"key": key})
            return [f"{name}.json"], {"note": name}

        return work

    stages = [
        Stage("a", (), lambda s: 0, run("a"), "files"),
        Stage("b", ("a",), lambda s: state["b_input"], run("b"), "files"),
        Stage("c", ("b",), lambda s: 0, run("c"), "files"),
    ]
    search = Search(load_config(ROOT / "templates" / "dijet.yaml"), tmp_path, Workspace(tmp_path / "space"))
    return search, stages, state


def names(planned):
    return [p.stage.name for p in planned if p.needed]


def test_a_finished_search_does_not_run_again(made):
    search, stages, state = made
    run_stages(search, stages, ["a", "b", "c"], Reporter())
    assert state["ran"] == ["a", "b", "c"]
    run_stages(search, stages, ["a", "b", "c"], Reporter())
    assert state["ran"] == ["a", "b", "c"]
    assert {p.why for p in plan(search, stages)} == {"up to date"}


def test_a_change_runs_its_stage_and_those_after_it(made):
    search, stages, state = made
    run_stages(search, stages, ["a", "b", "c"], Reporter())
    state["b_input"] = 2
    planned = plan(search, stages)
    assert names(planned) == ["b", "c"]
    assert planned[2].why == "its inputs changed with b"
    run_stages(search, stages, ["a", "b", "c"], Reporter())
    assert state["ran"] == ["a", "b", "c", "b", "c"]


def test_a_lost_output_is_made_again(made):
    search, stages, _ = made
    run_stages(search, stages, ["a", "b"], Reporter())
    search.space.path("b.json").unlink()
    assert names(plan(search, stages)) == ["b", "c"]
    assert plan(search, stages)[1].why == "an output is missing"


def test_a_stage_that_failed_is_not_marked_done(made):
    search, stages, _ = made

    def fail(search, key, progress):
        raise RuntimeError("no")

    broken = [stages[0], Stage("b", ("a",), lambda s: 0, fail, "files")]
    with pytest.raises(RuntimeError):
        run_stages(search, broken, ["a", "b"], Reporter())
    assert names(plan(search, broken)) == ["b"]


def test_another_seed_is_another_search(made):
    search, stages, _ = made
    run_stages(search, stages, ["a", "b", "c"], Reporter())
    other = Search(load_config(ROOT / "templates" / "dijet.yaml", ["seed=9"]), search.source, search.space)
    assert names(plan(other, stages)) == ["a", "b", "c"]


def test_what_was_asked_is_written_with_every_default(made):
    search, stages, _ = made
    run_stages(search, stages, ["a"], Reporter())
    again = load_config(search.space.path("search.yaml"))
    assert again == search.config
    assert "collision_energy" in search.space.path("search.yaml").read_text()
    assert search.space.json("provenance.json")["versions"]["elsewhere"]
