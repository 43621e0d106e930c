"""A model folder comes back bit for bit, runs no code, and says when it was damaged."""

import hashlib
import json
from dataclasses import dataclass, field, replace

import cloudpickle
import numpy as np
import pytest
from elsewhere.errors import FeatureError, InputError
from elsewhere.events import Column
from elsewhere.models.representations.mass_scaled import MassScaled
from elsewhere.models.represented import Represented
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import KNOWN, Stored, load, record_of, save
from elsewhere.workspace import digest


@pytest.fixture
def folder(toy, tmp_path):
    score = WeakTrees(members=2, rounds=20, seed=3).fit(toy(600, 1), toy(600, 2, 0.2, first=10_000))
    save(score, tmp_path / "m", toy(1, 1).features, {"window": [1, 2]})
    return tmp_path / "m"


def rewrite(folder, change, seal=True):
    """Alter model.json, with a checksum that fits again if ``seal``."""
    path = folder / "model.json"
    whole = json.loads(path.read_text())
    change(whole)
    if seal:
        whole["sha256"] = digest({k: v for k, v in whole.items() if k != "sha256"})
    path.write_text(json.dumps(whole))


def test_the_folder_holds_json_safetensors_and_text_only(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "model.json",
        "trees_0.txt",
        "trees_1.txt",
        "weights.safetensors",
    ]
    whole = json.loads((folder / "model.json").read_text())
    assert whole["method"]["settings"]["members"] == 2
    assert (folder / "trees_0.txt").read_text().startswith("tree\n")
    for name, known in whole["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == known
    assert record_of(folder) == {"window": [1, 2]}
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["trees_1.txt", "weights.safetensors", "model.json"])
def test_one_altered_byte_is_seen(folder, name):
    raw = bytearray((folder / name).read_bytes())
    at = raw.index(b'"members": 2') + 11 if name == "model.json" else len(raw) // 2
    raw[at] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(InputError, match=f"{name} .*altered"):
        load(folder)


def test_a_missing_or_cut_file_is_seen(folder):
    (folder / "trees_0.txt").unlink()
    with pytest.raises(InputError, match=r"trees_0\.txt is missing"):
        load(folder)
    (folder / "model.json").write_text('{"format": ')
    with pytest.raises(InputError, match="not JSON"):
        load(folder)
    with pytest.raises(InputError, match="does not exist"):
        load(folder.parent / "nothing")


def test_another_format_is_refused(folder):
    rewrite(folder, lambda w: w.update(format=1))
    with pytest.raises(InputError, match="train again"):
        load(folder)


def test_other_features_are_refused_with_the_first_that_differs(folder, toy):
    features = toy(1, 1).features
    columns = (*features.columns[:2], Column("g", "GeV", ""), *features.columns[3:])
    with pytest.raises(FeatureError, match=r"column 2: model m has f2 \[\], the data has g \[GeV\]"):
        load(folder, replace(features, columns=columns))


def test_no_class_is_imported_that_nobody_allowed(folder):
    rewrite(folder, lambda w: w["method"].update({"class": "subprocess.Popen"}))
    with pytest.raises(InputError, match=r"'subprocess.Popen' is not a method"):
        load(folder)
    rewrite(folder, lambda w: w["method"].update({"class": "no.such.Thing"}))
    with pytest.raises(InputError, match="cannot be imported"):
        load(folder, allow=("no.such.Thing",))


def test_settings_of_another_version_are_refused(folder):
    rewrite(folder, lambda w: w["method"]["settings"].update(old=1))
    with pytest.raises(InputError, match="does not take these settings"):
        load(folder)


def test_a_new_model_replaces_the_old_one_whole(folder, toy):
    other = WeakTrees(members=1, rounds=20).fit(toy(600, 1), toy(600, 2, 0.2, first=10_000))
    save(other, folder, toy(1, 1).features, {})
    assert not (folder / "trees_1.txt").exists()
    assert load(folder)[0].members == 1
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_a_stored_scorer_travels_as_path_and_checksum(folder, toy):
    events = toy(50, 9)
    stored = Stored.at(folder)
    trip = cloudpickle.dumps(stored)
    assert len(trip) < 1000
    assert np.array_equal(cloudpickle.loads(trip).score(events), load(folder)[0].score(events))
    columns = (replace(events.features.columns[0], name="other"), *events.features.columns[1:])
    with pytest.raises(FeatureError, match="made for feature set"):
        stored.score(replace(events, features=replace(events.features, columns=columns)))


@dataclass
class Foreign:
    """A score of somebody else's package."""

    paper = ""
    slope: float = 1.0
    learnt_: float = field(default=0.0, repr=False)

    def fit(self, reference, data):
        self.learnt_ = 2.0
        return self

    def score(self, events):
        return self.slope * self.learnt_ * events.x[:, 0].astype(np.float64)

    def state(self):
        return {"learnt": self.learnt_}, {}, {}

    def restore(self, info, arrays, texts):
        self.learnt_ = info["learnt"]
        return self


def test_a_foreign_class_is_loaded_by_the_dotted_path_the_user_names(toy, tmp_path, monkeypatch):
    import sys
    import types

    module = types.ModuleType("somebody_elses")
    module.Foreign = Foreign
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    monkeypatch.setattr(Foreign, "__module__", "somebody_elses")
    events = toy(20, 1)
    save(Foreign(slope=3.0).fit(events, events), tmp_path / "m", events.features, {})
    with pytest.raises(InputError, match=r"allow=\('somebody_elses.Foreign',\)"):
        load(tmp_path / "m")
    back, _ = load(tmp_path / "m", allow=("somebody_elses.Foreign",))
    assert np.array_equal(back.score(events), 6.0 * events.x[:, 0].astype(np.float64))


def test_a_representation_inside_a_model_comes_back(toy, tmp_path):
    events = toy(600, 2, 0.2, first=10_000)
    score = Represented(MassScaled(columns=("f0",)), WeakTrees(members=1, rounds=20)).fit(toy(600, 1), events)
    save(score, tmp_path / "m", events.features, {})
    back, _ = load(tmp_path / "m")
    assert back.representation.columns == ("f0",)
    assert np.array_equal(back.score(events), score.score(events))


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, toy):
    with pytest.raises(InputError, match="cannot be stored"):
        save(object(), tmp_path / "m", toy(1, 1).features, {})
    assert list(tmp_path.iterdir()) == []
    assert "WeakTrees" in KNOWN
