"""Events scored by a model that knows them, equal seeds, another locale or clock, and the model of another mass."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from elsewhere.analysis.hunt import scan, toy_input
from elsewhere.analysis.spectrum import Spectra
from elsewhere.analysis.toys import throw
from elsewhere.errors import FeatureError, LeakError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.folds import CrossFit
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import Stored, load, save

from .conftest import Small, child, columns, write

pytestmark = pytest.mark.fault(40)
FEATURES = FeatureSet("toy", tuple(Column(f"f{i}", "", "") for i in range(3)))


def toy(n, seed, first=0, features=FEATURES):
    rng = np.random.default_rng(seed)
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(
        rng.normal(size=(n, 3)).astype(np.float32), np.full(n, np.nan), np.ones(n), identity, features
    )


@pytest.fixture(scope="module")
def cross():
    """A cross-fitted score, the events it saw and scores, and the file it came through."""
    data = toy(300, 2, first=1000)
    return CrossFit(WeakTrees(members=1, rounds=20), folds=3, seed=5).fit(toy(300, 1), data), data


def test_the_honest_folds_score_their_own_events(cross):
    assert np.isfinite(cross[0].score(cross[1])).all()


@pytest.mark.parametrize("how", ["members swapped", "another seed", "fewer folds"])
def test_folds_that_do_not_fit_the_events_are_a_leak_with_the_event_named(cross, tmp_path, how):
    score, data = cross
    save(score, tmp_path / "m", FEATURES, {})
    wrong, _ = load(tmp_path / "m")
    if how == "members swapped":
        wrong.members_.reverse()
        wrong.seen_.reverse()
    elif how == "another seed":
        wrong.seed = 6
    else:
        wrong.folds = 2
        wrong.members_, wrong.seen_ = wrong.members_[:2], wrong.seen_[:2]
    with pytest.raises(LeakError, match=r"trained on \d+ of .* run 1, luminosityBlock 0, event 1\d\d\d"):
        wrong.score(data)


def test_an_event_in_another_file_and_order_is_still_known(cross):
    """The hash leaves out the file: a copy of a training event is a training event."""
    score, data = cross
    moved = toy(300, 2, first=1000).identity.copy()
    moved["file_hi"], moved["file_lo"] = 7, 9
    copy = Events(data.x, data.mass, data.weight, moved, FEATURES).take(np.arange(300)[::-1])
    np.testing.assert_array_equal(score.score(copy)[::-1], score.score(data))


def test_no_two_streams_of_random_numbers_are_equal():
    edges = np.arange(2500.0, 6501.0, 100.0)
    counts = 2000 * np.exp(-(edges[:-1] - 2500) / 400)
    windows = [Window(3100.0, 3500.0), Window(3900.0, 4300.0)]
    spectra = [Spectra(edges, (1.0, 0.1), np.stack([counts, counts / 10]))] * 2
    given = toy_input(windows, spectra, scan(windows, spectra, 13_000.0)[0], 13_000.0)
    blocks = [throw(given, 1, 0, 20), throw(given, 1, 1, 20), throw(given, 2, 0, 20)]
    np.testing.assert_array_equal(blocks[0], throw(given, 1, 0, 20))
    assert not any(np.array_equal(a, b) for i, a in enumerate(blocks) for b in blocks[:i])
    assert not np.array_equal(blocks[0][:, 0], blocks[0][:, 1]), "windows are thrown apart"
    trees = WeakTrees(members=4, rounds=20).fit(toy(400, 1), toy(400, 2, first=1000)).trees_
    assert len(set(trees)) == 4


LOCALE = """
    import json, locale, sys
    from pathlib import Path
    import numpy as np
    locale.setlocale(locale.LC_ALL, "")
    print(locale.localeconv()["decimal_point"], file=sys.stderr)
    from elsewhere.config import load_config
    from elsewhere.events import IDENTITY, Column, Events, FeatureSet
    from elsewhere.models.scores.weak_trees import WeakTrees
    from elsewhere.models.store import load, save
    from elsewhere.processors.features import Dijet
    from elsewhere.processors.preflight import preflight
    from elsewhere.processors.stream import process
    from elsewhere.workspace import file_digest, write_json
    out, root = Path(sys.argv[1]), sys.argv[2]
    rng = np.random.default_rng(1)
    identity = np.zeros(300, IDENTITY)
    identity["event"] = np.arange(300)
    features = FeatureSet("t", tuple(Column(f"f{i}", "", "") for i in range(3)))
    events = Events(rng.normal(size=(300, 3)).astype(np.float32), np.full(300, np.nan), np.ones(300), identity, features)
    save(WeakTrees(members=1, rounds=20).fit(events, events), out / "m", features, {})
    score = load(out / "m")[0].score(events)
    write_json(out / "numbers.json", [1.5, float(score.sum())])
    process(preflight({"d": [root]}, Dijet()), Dijet(), out, scheduler="loop", chunk=200, key="k")
    made = [file_digest(p) for p in sorted(out.glob("columns/d/*"))]
    print(json.dumps([(out / "m/trees_0.txt").read_text(), (out / "numbers.json").read_text(), score.tolist(), made]))
"""


def _german(folder: Path) -> dict[str, str]:
    """The environment of a German desk, compiled here when the machine has none."""
    have = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    if re.search(r"de_DE\.utf-?8", have, re.IGNORECASE):
        return {"LC_ALL": "de_DE.UTF-8"}
    if not shutil.which("localedef") or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("no German locale, and no localedef with its sources to make one")
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", str(folder / "de_DE.UTF-8")], check=False, capture_output=True)  # fmt: skip
    return {"LC_ALL": "de_DE.UTF-8", "LOCPATH": str(folder)}


def test_a_decimal_comma_changes_nothing(good, tmp_path):
    german, said = _german(tmp_path), []
    for name, variables in (("c", {"LC_ALL": "C.UTF-8"}), ("de", german)):
        with child(LOCALE, tmp_path / name, good.a, env={**os.environ, **variables}) as running:
            out, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert err.strip().splitlines()[0] == ("." if name == "c" else ","), "the locale must take"
        said.append(json.loads(out))
    assert said[0] == said[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A search with its two window models trained."""
    small = Small(tmp_path_factory.mktemp("trained"))
    code, said = small.write(write(small.folder / "a.root", columns(4000, seed=1))).call("train")
    assert code == 0, said
    return small


def copied(trained, tmp_path):
    """The same search elsewhere: a test may spoil it."""
    shutil.copytree(trained.folder, tmp_path / "copy")
    return Small(tmp_path / "copy")


@pytest.mark.parametrize("year", [1981, 2099])
def test_a_clock_that_is_wrong_by_decades_makes_nothing_run_again(trained, tmp_path, year):
    small = copied(trained, tmp_path)
    then = (year - 1970) * 31_557_600
    for path in small.folder.rglob("*"):
        os.utime(path, (then, then))
    _, said = small.call("train", "--dry-run")
    assert said.count("up to date") == 2
    assert small.call("verify")[0] == 0


def test_a_model_card_says_for_what_it_was_made(trained):
    for mass in (3300, 3700):
        card = json.loads((trained.space / f"models/search_{mass}/model.json").read_text())
        assert card["record"]["window"] == [mass - 200, mass + 200]
        assert card["method"]["settings"]["folds"] == 2
        assert [c["name"] for c in card["features"]["columns"]] == ["m_J1", "dm_J", "tau21_1", "tau21_2"]
        assert len(card["files"]["weights.safetensors"]) == 64


def test_the_model_of_another_mass_is_refused(trained, tmp_path):
    small = copied(trained, tmp_path)
    models = small.space / "models"
    (models / "search_3300").rename(models / "x")
    (models / "search_3700").rename(models / "search_3300")
    (models / "x").rename(models / "search_3700")
    code, said = small.call("score")
    assert code == 1, said
    assert re.search(r"search_3300.*3500-3900.*3100-3500", said.replace("\n", " ")), said
    assert not list(small.space.glob("scores/*/*"))


def test_a_model_of_other_columns_is_refused(cross, tmp_path):
    save(cross[0], tmp_path / "m", FEATURES, {})
    other = FeatureSet("toy", (*FEATURES.columns[:2], Column("g", "GeV", "")))
    with pytest.raises(FeatureError, match="made for feature set 'toy'"):
        Stored.at(tmp_path / "m").score(toy(5, 3, first=9000, features=other))
