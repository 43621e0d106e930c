"""The command line as a user meets it: every verb, exit codes, what is said, and that nothing runs twice."""

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from elsewhere.cli import main
from elsewhere.search import open_search, outcome, run_search

ROOT = Path(__file__).resolve().parents[1]

SEARCH = """
name: small
seed: 3
events:
  features: dijet
  datasets:
    qcd: {files: shipped:qcd.root, role: data}
    wprime: {files: shipped:wprime.root, role: signal, inject: 1500}
representation: {method: MassScaled}
reference: {method: Sidebands, width: 400.0}
score: {method: WeakTrees, members: 1, rounds: 40}
folds: 2
hunt:
  mass_low: 2500.0
  mass_high: 6500.0
  windows: {first: 2900.0, last: 4100.0, step: 600.0, width: 400.0}
  cuts: [0.01]
  toys: 2000
  control: false
run: {scheduler: loop, training: plain, workers: 1}
"""


def call(*args, code=0):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished small search with 1,500 hidden events."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "search.yaml").write_text(SEARCH)
    return folder, call("run", folder / "search.yaml")


def test_a_run_says_what_it_found_and_where_the_report_is(done):
    folder, said = done
    assert "with 1500 injected signal events" in said
    assert "excess at 3" in said
    assert "largest excess in 3300-3700 GeV" in said
    assert (folder / "runs/small/report.html").exists()
    assert str(folder / "runs/small/report.html") in said


def test_a_bound_from_too_few_toys_is_no_verdict(done):
    assert "too few toys to decide" in call("hunt", done[0] / "search.yaml", "--set", "hunt.toys=300")
    assert "excess at 3" in call("hunt", done[0] / "search.yaml")


def test_the_report_holds_itself(done):
    page = (done[0] / "runs/small/report.html").read_text()
    assert "<img" in page
    assert not re.search(r'(?:src|href)="(?!data:|#|https://(?:doi|arxiv)\.org)', page)
    numbers = json.loads((done[0] / "runs/small/report.json").read_text())
    assert numbers


def test_what_is_up_to_date_does_not_run_again(done):
    folder, _ = done
    said = call("run", folder / "search.yaml", "--dry-run")
    assert said.count("up to date") == 7
    said = call("run", folder / "search.yaml", "--dry-run", "--set", "hunt.toys=300")
    assert said.count("up to date") == 3
    assert said.count("its inputs changed") == 4


def test_verify_recounts_and_fails_where_events_are_lost(done, tmp_path):
    folder, _ = done
    assert call("verify", folder / "search.yaml").count("every event exactly once") == 2
    shutil.copytree(folder, tmp_path / "copy")
    next((tmp_path / "copy/runs/small/columns/qcd").glob("*.parquet")).unlink()
    said = call("verify", tmp_path / "copy/search.yaml", code=1)
    assert "problems" in said


def test_no_event_was_scored_by_a_model_that_saw_it(done):
    """Every window's models against the data they scored: the fold that scores an event has not seen its hash."""
    import numpy as np
    from elsewhere.events import fold_of, identity_hash
    from elsewhere.models.store import load

    search = open_search(done[0] / "search.yaml")
    identity = search.space.read_table("qcd", "scores").events.identity
    models = sorted(search.space.path("models").iterdir())
    assert len(models) == 3
    for path in models:
        cross, _ = load(path)
        fold = fold_of(identity, 2, 3)
        seen_any = 0
        for k in range(2):
            hashes = identity_hash(identity[fold == k])
            assert not np.isin(hashes, cross.seen_[k]).any()
            seen_any += np.isin(identity_hash(identity[fold != k]), cross.seen_[k]).sum()
        assert seen_any > 10_000


def test_a_planted_leak_is_caught(done, tmp_path):
    """A model whose folds were shuffled meets events it was trained on, and the score stage fails by name."""
    folder = tmp_path / "copy"
    shutil.copytree(done[0], folder)
    from elsewhere.models.store import load, save

    path = folder / "runs/small/models/search_3500"
    cross, features = load(path)
    cross.members_.reverse()
    cross.seen_.reverse()
    record = json.loads((path / "model.json").read_text())["record"]
    save(cross, path, features, record)
    shutil.rmtree(folder / "runs/small/scores")
    said = call("score", folder / "search.yaml", code=1)
    assert "was trained on" in said


def test_check_lists_inputs_and_columns_and_runs_nothing(tmp_path):
    (tmp_path / "s.yaml").write_text(SEARCH)
    said = call("check", tmp_path / "s.yaml", "--dry-run")
    for word in ("102,000", "m_jj", "FatJet_tau1", "has not run yet"):
        assert word in said
    assert not (tmp_path / "runs").exists()


def test_init_writes_a_valid_example_once(tmp_path):
    path = tmp_path / "mine.yaml"
    assert "elsewhere check" in call("init", path)
    assert yaml.safe_load(path.read_text())["hunt"]["cuts"]
    assert "exists" in call("init", path, code=2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("hunt.toy=3", "hunt.toy: unknown key; did you mean 'toys'"),
        ("score.method=WeakTree", "did you mean 'WeakTrees'"),
        ("score.member=3", "did you mean 'members'"),
        ("events.features=dijets", "did you mean 'dijet'"),
        ("nonsense", "expected a.b=c"),
    ],
)
def test_wrong_usage_is_exit_code_2_with_the_nearest_name(tmp_path, change, says):
    (tmp_path / "s.yaml").write_text(SEARCH)
    said = call("run", tmp_path / "s.yaml", "--set", change, code=2)
    assert says in " ".join(said.split())
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.parquet"))


def test_bad_input_is_exit_code_1_and_names_the_file(tmp_path):
    (tmp_path / "s.yaml").write_text(SEARCH.replace("shipped:qcd.root", "absent.root"))
    said = call("check", tmp_path / "s.yaml", code=1)
    assert "absent.root does not exist" in said
    assert "does not exist" in call("run", tmp_path / "none.yaml", code=2)


def test_a_stage_that_a_search_does_not_have_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_text(SEARCH)
    assert "no stage 'rates'" in call("rates", tmp_path / "s.yaml", code=2)


def test_methods_and_citations(tmp_path):
    (tmp_path / "s.yaml").write_text(SEARCH)
    said = call("methods")
    for name in ("WeakTrees", "Autoencoder", "Sidebands", "2309.13111"):
        assert name in said
    cited = call("cite", tmp_path / "s.yaml")
    assert cited.count("@") >= 2
    assert "1902.02634" in cited


def test_simulate_names_unknown_cards():
    assert "qcd" in call("simulate", "qcdd", code=2) or "qcd" in call("simulate", "qcdd", code=1)
    call("simulate", "qcd", "--events", "0", code=2)


@pytest.mark.parametrize("verb", ["", *sorted(main.commands)])
def test_every_verb_has_help_with_an_example(verb):
    said = call(*([verb] if verb else []), "--help")
    if verb not in ("methods",):
        assert "elsewhere " in said.split("Options")[0].replace("Usage: ", "", 1)


def test_the_same_functions_in_a_notebook(done):
    """The lines of the README, on a search of our own."""
    text = (ROOT / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "open_search" in b)
    code = code.replace('"my.yaml"', repr(str(done[0] / "search.yaml"))).replace('["hunt.toys=2000"]', "[]")
    scope: dict = {}
    exec(compile(code, "README", "exec"), scope)
    assert len(scope["table"]) > 50_000
    assert outcome(scope["search"], "hunt")
    assert not [p for p in run_search(scope["search"], "hunt") if p.needed]


def test_every_verb_is_in_the_readme():
    text = (ROOT / "README.md").read_text()
    for verb in main.commands:
        assert re.search(rf"\b{verb}\b", text), f"{verb} is not in the README"


def test_that_a_slow_worker_is_killed_at_its_end_is_no_news_and_all_else_of_dask_is():
    heard, handler, root = [], logging.Handler(), logging.getLogger()
    handler.emit = lambda record: heard.append(record.getMessage())
    root.addHandler(handler)
    try:
        call("methods")
        for said in ("Worker process still alive after 4.0 seconds, killing", "Restarting worker"):
            handler.handle(
                logging.LogRecord("distributed.nanny", logging.WARNING, "nanny.py", 1, said, None, None)
            )
    finally:
        root.removeHandler(handler)
    assert heard == ["Restarting worker"]
