"""Trees as firmware: conifer's C++ gives the integers of the trees, and a changed leaf is seen."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from elsewhere.deploy import tree_firmware
from elsewhere.deploy.emulator import FirmwareScore, InputScale, open_folder
from elsewhere.deploy.fixedpoint import extreme_inputs
from elsewhere.deploy.tree_firmware import compare_trees, export_trees
from elsewhere.errors import ConfigError, ElsewhereError, FeatureError
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.tree_student import TreeStudent

from ..models.conftest import make

pytest.importorskip("conifer", reason="needs the extra conifer")


@pytest.fixture(scope="module")
def student():
    teacher = Autoencoder(hidden=(8,), latent=2, epochs=4, batch=128, learning_rate=5e-3)
    return TreeStudent(teacher, trees=12, depth=3).fit(make(2000, 1), make(10, 2))


def scale_of(student):
    return InputScale(tuple(map(float, student.offset_)), tuple(2.0**-student.shift_))


@pytest.fixture(scope="module")
def folder(student, tmp_path_factory):
    place = tmp_path_factory.mktemp("trees") / "firmware"
    events = make(1000, 3)
    made = export_trees(
        student, events.features, scale_of(student), place, events.x, thresholds={"1 kHz": 0.3}
    )
    assert made.bits.exact
    assert made.bits.events == 2000
    return place


def test_the_emulator_in_the_stream_is_the_student(folder, student):
    fresh = make(3000, 4)
    np.testing.assert_array_equal(FirmwareScore(folder).score(fresh), student.score(fresh))


def test_the_folder_says_what_it_is_and_names_no_place(folder, student):
    opened = open_folder(folder)
    assert opened.record["verified"]["mismatches"] == 0
    assert opened.record["trees"]["number"] == 12
    assert opened.record["thresholds"]["1 kHz"]["integer"] == np.ceil(0.3 / student.integers().output.step)
    for path in folder.rglob("*"):
        if path.suffix in (".cpp", ".h", ".tcl", ".json", ".md", ".log"):
            assert str(folder.parent) not in path.read_text(), path


def test_one_changed_leaf_is_seen_in_both_emulators(folder, student):
    trees = student.integers()
    value = trees.value.copy()
    value[np.flatnonzero(trees.feature < 0)[0]] += 1
    inputs = extreme_inputs(trees.input, trees.columns, 2000, np.random.default_rng(1))
    opened = open_folder(folder)
    report = compare_trees(replace(trees, value=value), folder / opened.record["library"], opened.hls, inputs)
    assert report.mismatches > 0
    assert report.value_mismatches == 2 * report.mismatches
    assert report.first.layer == "conifer"


def test_what_cannot_be_exported_is_refused(student, tmp_path, monkeypatch):
    events = make(10, 3)
    with pytest.raises(FeatureError, match=r"the vectors \(10, 2\)"):
        export_trees(student, events.features, scale_of(student), tmp_path / "f", events.x[:, :2])
    monkeypatch.setitem(sys.modules, "conifer.model", None)
    with pytest.raises(ConfigError, match=r"pip install 'elsewhere\[conifer\]'"):
        export_trees(student, events.features, scale_of(student), tmp_path / "f", events.x)
    assert not list(tmp_path.iterdir())


def test_a_differing_emulator_leaves_nothing(student, tmp_path, monkeypatch):
    trees, events = student.integers(), make(10, 3)
    monkeypatch.setattr(tree_firmware, "_wrapper", lambda t: WRONG(replace(t, value=t.value + 1)))
    with pytest.raises(ElsewhereError, match=r"differ in \d+ of 1010 scores: event 0, layer score"):
        export_trees(student, events.features, scale_of(student), tmp_path / "f", events.x)
    assert trees.columns == events.x.shape[1]
    assert not list(tmp_path.iterdir())


WRONG = tree_firmware._wrapper
