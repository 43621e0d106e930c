"""What is wrong with input files is said before any work starts: all of it, each file by name."""

import shutil

import awkward as ak
import numpy as np
import pytest
import uproot
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.features import Dijet
from elsewhere.processors.fileset import discover, read_fileset
from elsewhere.processors.preflight import preflight

from .conftest import dijet_columns


def problem(path, **kwargs):
    with pytest.raises(InputError) as caught:
        preflight({"d": [str(path)]}, Dijet(), **kwargs)
    return str(caught.value)


def test_good_files_are_recorded(folder, records):
    assert [r.entries for r in records["qcd"]] == [3000, 1000]
    assert all(r.gen_events == r.entries for r in records["qcd"])
    with uproot.open(folder / "a.root") as file:
        assert records["qcd"][0].uuid == str(file.file.uuid)


def test_every_problem_is_listed_at_once(folder, tmp_path):
    (tmp_path / "page.root").write_bytes(b"<html>login</html>")
    (tmp_path / "empty.root").write_bytes(b"")
    cut = (folder / "a.root").read_bytes()
    (tmp_path / "cut.root").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "long.root").write_bytes(cut + b"more")
    names = ("page", "empty", "cut", "long", "absent")
    with pytest.raises(InputError) as caught:
        preflight({"d": [str(tmp_path / f"{n}.root") for n in names]}, Dijet())
    text = str(caught.value)
    assert text.startswith("5 of the input files cannot be used")
    for name, why in zip(
        names,
        ("it looks like a web page", "is empty", "was cut short", "has something appended", "does not exist"),
        strict=True,
    ):
        assert any(f"{name}.root" in line and why in line for line in text.splitlines()), text


@pytest.mark.parametrize("how", ["path", "link", "hard link", "copy"])
def test_the_same_file_twice_is_refused(folder, tmp_path, how):
    first, second = folder / "a.root", tmp_path / "again.root"
    if how == "path":
        second = folder / ".." / folder.name / "a.root"
    elif how == "link":
        second.symlink_to(first)
    elif how == "hard link":
        second.hardlink_to(first)
    else:
        shutil.copy(first, second)
    with pytest.raises(InputError, match=r"is the same file as|is a copy of"):
        preflight({"one": [str(first)], "two": [str(second)]}, Dijet())


def write_tree(path, tree="Events", drop=(), change=None):
    raw = dijet_columns(50, 1)
    flat = {k: v for k, v in raw.items() if k not in drop and not isinstance(v, ak.Array)}
    jets = raw["FatJet"]
    flat["FatJet"] = ak.zip({f: jets[f] for f in jets.fields if f"FatJet_{f}" not in drop})
    flat.update(change or {})
    kinds = {k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in flat.items()}
    with uproot.recreate(path) as file:
        file.mktree(tree, kinds, counter_name=lambda c: f"n{c}")
        file[tree].extend(flat)
    return path


def test_what_a_tree_lacks_is_named(tmp_path):
    assert "no tree Events" in problem(write_tree(tmp_path / "a.root", tree="CollectionTree"))
    assert "no branch FatJet_tau2" in problem(write_tree(tmp_path / "b.root", drop=["FatJet_tau2"]))
    text = problem(write_tree(tmp_path / "c.root", drop=["luminosityBlock"]))
    assert "no branch luminosityBlock" in text
    assert "identity: entry" in text
    text = problem(write_tree(tmp_path / "d.root", change={"event": np.arange(50.0)}))
    assert "branch event has type double" in text
    flat = {"event": np.arange(50, dtype=np.uint64), "run": ak.Array([[1]] * 50)}
    assert "branch run has type" in problem(write_tree(tmp_path / "e.root", change=flat))


def test_a_file_without_identity_can_be_asked_for(tmp_path):
    path = write_tree(tmp_path / "a.root", drop=["run", "luminosityBlock", "event"])
    found = preflight({"d": [str(path)]}, Dijet(), ["d"])
    assert found["d"][0].by_entry


def test_globs_folders_and_urls(folder):
    assert [p.rsplit("/", 1)[1] for p in discover("*.root", folder)] == ["a.root", "b.root"]
    assert discover(str(folder), folder) == discover("*.root", folder)
    assert discover("root://host//store/x.root", folder) == ["root://host//store/x.root"]


def test_filesets_are_coffeas(folder, tmp_path):
    a = str(folder / "a.root")
    (tmp_path / "one.json").write_text('{"qcd": {"files": {"' + a + '": "Events"}, "metadata": {"x": 1}}}')
    (tmp_path / "two.yaml").write_text(f"qcd:\n  files:\n    {a}: {{object_path: Events}}\nttbar: [{a}]\n")
    assert read_fileset(tmp_path / "one.json") == {"qcd": [a]}
    assert read_fileset(tmp_path / "two.yaml") == {"qcd": [a], "ttbar": [a]}
    (tmp_path / "tree.json").write_text('{"qcd": {"files": {"' + a + '": "Delphes"}}}')
    with pytest.raises(ConfigError, match="tree 'Delphes'"):
        read_fileset(tmp_path / "tree.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ConfigError, match="neither JSON nor YAML"):
        read_fileset(tmp_path / "broken.json")
    with pytest.raises(ConfigError, match="does not exist"):
        read_fileset(tmp_path / "absent.json")
