"""Disks that are full or locked, and things found on them that are damaged or old."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from elsewhere.chunks import Chunk
from elsewhere.errors import InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.store import load, save
from elsewhere.models.training import Sample, Task, TrainSettings, train
from elsewhere.processors.features import Dijet
from elsewhere.processors.report import write_root_histograms
from elsewhere.processors.stream import process
from elsewhere.workspace import atomic, write_chunk, write_json

from .conftest import EVENTS, Small, checked, columns, grow, nobody, products, write


def finished(folder):
    """Files under a final name, none of them empty or temporary."""
    return [p for p in Path(folder).rglob("*") if p.is_file() and ".tmp" not in str(p)]


def table(n):
    """Random events: nothing to compress."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = np.arange(n)
    features = FeatureSet("t", tuple(Column(f"f{i}", "", "") for i in range(8)), Column("m", "GeV", ""))
    return Events(x, rng.uniform(1, 2, n), np.ones(n), identity, features)


def write_model(path, width=300):
    """A model folder of some 400 kB."""
    score = WeakNetwork(hidden=(width, width), epochs=1, best=1)
    save(score.fit(table(40), table(40)), path, table(1).features, {})


def write_histograms(path):
    import hist

    axes = [hist.axis.StrCategory([f"d{i}" for i in range(60)], name="dataset"), hist.axis.StrCategory(["nominal"], name="variation")]  # fmt: skip
    axes += [hist.axis.StrCategory(["all"], name="cut"), hist.axis.Regular(2000, 0, 1, name="mass")]
    whole = hist.Hist(*axes, storage=hist.storage.Weight())
    whole.view(flow=True).value[...] = np.random.default_rng(1).normal(size=whole.view(flow=True).value.shape)
    write_root_histograms(path, whole)


def write_checkpoint(path):
    from elsewhere.models.networks.dense import build_dense
    from elsewhere.models.scores.autoencoder import reconstruction

    x = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    task = Task(build_dense, {"sizes": [8, 300, 300, 8], "seed": 1}, reconstruction, Sample(x))
    train(task, TrainSettings(1, 64), path)


WRITERS = {
    "chunk": lambda p: write_chunk(p, Chunk(table(20_000), {}, {}, {"n_out": 20_000})),
    "json": lambda p: write_json(p, list(np.random.default_rng(1).normal(size=40_000))),
    "histograms": write_histograms,
    "model": write_model,
    "checkpoint": write_checkpoint,
}


@pytest.mark.fault(32)
@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_is_named_and_leaves_nothing_under_a_final_name(disk, what):
    folder = disk("256k")
    with pytest.raises(OSError, match="No space left on device"):
        WRITERS[what](folder / "made")
    assert finished(folder) == []
    assert os.statvfs(folder).f_bavail > 50, "what was half written is gone"
    grow(folder, "64m")
    WRITERS[what](folder / "made")
    assert finished(folder)


@pytest.mark.fault(32)
def test_a_search_on_a_full_disk_fails_by_name_and_goes_on_when_there_is_room(disk, good, tmp_path):
    path = write(tmp_path / "large.root", columns(6000, seed=5))
    search = Small(disk("256k")).write(path)
    code, said = search.call("process", "--set", "events.chunk=1000")
    assert code == 1, said
    assert "No space left on device" in said
    assert str(search.folder) in said
    whole = [p for p in finished(search.space) if p.suffix == ".parquet"]
    assert 0 < len(whole) < 6
    assert not (search.space / "counts.json").exists()
    grow(search.folder, "64m")
    code, said = search.call("process", "--set", "events.chunk=1000")
    assert code == 0, said
    assert search.counts()["datasets"]["data"]["kept"] == 6000
    assert search.counts()["reused"] == len(whole)
    assert search.call("verify", "--set", "events.chunk=1000")[0] == 0


@pytest.mark.fault(33)
@pytest.mark.parametrize("when", ["first run", "later run"])
def test_a_locked_folder_is_refused_before_the_first_event(open_folder, reads, when):
    search = Small(open_folder).write(write(open_folder / "a.root"))
    locked = open_folder
    if when == "later run":
        assert search.call("process")[0] == 0
        shutil.rmtree(search.space / "columns" / "data")
        (search.space / "columns" / "data").mkdir()
        locked = search.space / "columns" / "data"
        for folder in (search.space, locked.parent):
            folder.chmod(0o777)
    reads.clear()
    locked.chmod(0o555)
    with nobody():
        code, said = search.call("process", "--set", "events.chunk=300")
    locked.chmod(0o755)
    assert code == 1, said
    assert "ermission" in said
    assert str(locked) in said
    assert reads == []


@pytest.fixture
def done(good, tmp_path):
    """(fileset, workspace folder, what is in it) of a finished pass."""
    found, out = checked(good.a, good.b), tmp_path / "out"
    process(found, Dijet(), out, chunk=200, scheduler="loop", key="k")
    return found, out, products(out)


def _change(path, change):
    raw = bytearray(path.read_bytes())
    change(raw)
    path.write_bytes(raw)


def _flip_data(raw):
    for at in range(len(raw) // 3, len(raw) // 3 + 8):
        raw[at] ^= 1


DAMAGE = {
    "truncated": lambda p: _change(p, lambda raw: raw.__delitem__(slice(300, None))),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "flipped": lambda p: _change(p, _flip_data),
    "of another range": lambda p: shutil.copy(sorted(p.parent.glob("*.parquet"))[-1], p),
}


@pytest.mark.fault(34)
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_chunk_is_made_again(done, how):
    found, out, want = done
    DAMAGE[how](sorted(out.glob("columns/data/*.parquet"))[1])
    report = process(found, Dijet(), out, chunk=200, scheduler="loop", key="k")
    assert report.reused == 5
    assert products(out) == want


@pytest.mark.fault(34)
def test_chunks_lost_after_a_finished_pass_are_made_again(small, good):
    small.write(good.a)
    assert small.call("process")[0] == 0
    before = small.chunks()
    for chunk in small.space.glob("columns/data/*_200_400.parquet"):
        chunk.unlink()
    assert small.call("process")[0] == 0
    assert small.chunks() == before


@pytest.mark.fault(34)
def test_chunks_of_other_code_or_another_input_are_not_taken(small, good):
    text = "from elsewhere.events import Column, FeatureSet\nfrom elsewhere.processors.features import FunctionFeatures\nimport awkward as ak\ndef f(c):\n    x = ak.max(c['FatJet_pt'], axis=1)\n    return {'a': x * %d, 'keep': x > 0}\nFEATURES = FunctionFeatures(FeatureSet('h', (Column('a', '', ''),)), ('FatJet_pt',), f)\n"  # fmt: skip
    from elsewhere.workspace import Workspace

    from .conftest import SEARCH

    values = []
    for factor in (1, 1000):
        (small.folder / "mine.py").write_text(text % factor)
        small.write(good.a, text=SEARCH.replace("features: dijet", "features: mine:FEATURES"))
        assert small.call("process")[0] == 0
        values.append(Workspace(small.space).read_table("data").events.x.mean())
    assert values[1] == pytest.approx(1000 * values[0])
    for path in small.space.glob("columns/data/*"):
        path.touch()
    small.write(good.b, text=SEARCH.replace("features: dijet", "features: mine:FEATURES"))
    assert small.call("process")[0] == 0
    assert {p[:36] for p in small.chunks()} == {checked(good.b)["data"][0].uuid}
    assert small.counts()["datasets"]["data"]["kept"] == EVENTS


@pytest.mark.fault(34)
@pytest.mark.parametrize("name", ["provenance.json", "counts.json"])
def test_a_damaged_record_of_the_workspace_is_named_or_made_again(small, good, name):
    small.write(good.a)
    assert small.call("process")[0] == 0
    (small.space / name).write_text('{"stages": ')
    code, said = small.call("process")
    if code == 0:
        assert json.loads((small.space / name).read_text())
    else:
        assert code == 1
        assert name in said


def _network(folder, epochs):
    from elsewhere.models.networks.dense import build_dense
    from elsewhere.models.scores.autoencoder import reconstruction

    x = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    task = Task(build_dense, {"sizes": [4, 8, 4], "seed": 1}, reconstruction, Sample(x))
    return train(task, TrainSettings(epochs, 16), folder)


@pytest.mark.fault(34)
@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "other settings"])
def test_a_training_does_not_go_on_from_a_damaged_or_foreign_checkpoint(tmp_path, monkeypatch, how):
    """Killed after epoch 2 of 4; the checkpoint is spoiled; the training ends as one that was never disturbed."""
    from elsewhere.models import training_loop

    want = _network(tmp_path / "whole", 4).state
    folder = tmp_path / "killed"
    stop = training_loop.Trainer._save

    def save_and_die(self, where, key):
        stop(self, where, key)
        if self.done.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_loop.Trainer, "_save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        _network(folder, 4 if how != "other settings" else 5)
    monkeypatch.undo()
    checkpoint = folder / training_loop.CHECKPOINT
    if how == "flipped":
        _change(checkpoint, lambda raw: raw.__setitem__(-30, raw[-30] ^ 8))
    elif how != "other settings":
        DAMAGE[how](checkpoint)
    again = _network(folder, 4)
    assert again.record.resumed_from is None
    assert all(np.array_equal(again.state[k], want[k]) for k in want)


@pytest.mark.fault(34)
def test_a_model_whose_weights_lost_a_bit_is_refused(tmp_path):
    write_model(tmp_path / "m", 8)
    _change(tmp_path / "m" / "weights.safetensors", lambda raw: raw.__setitem__(-5, raw[-5] ^ 1))
    with pytest.raises(InputError, match=r"weights\.safetensors .*altered"):
        load(tmp_path / "m")


@pytest.mark.fault(32)
def test_what_fails_half_way_is_removed(tmp_path):
    def half():
        with atomic(tmp_path / "x.json") as temporary:
            temporary.write_text("{")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        half()
    assert list(tmp_path.iterdir()) == []
