"""Nothing that is loaded runs code: a pickle that would leave a canary lies wherever a file is read."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from elsewhere.config import load_config
from elsewhere.errors import ConfigError, ElsewhereError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import load, save
from elsewhere.models.training_checkpoint import CHECKPOINT, read_checkpoint
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.workspace import digest, file_digest, read_chunk_meta, read_json

from .conftest import SEARCH, checked, products

pytestmark = pytest.mark.fault(35)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path):
    """(a pickle that makes a file when it is loaded, that file); nothing may have made it at the end."""
    path = tmp_path / "canary"
    text = pickle.dumps(Canary(path))
    pickle.loads(text)
    assert path.exists(), "the canary must be alive"
    path.unlink()
    yield text
    assert not path.exists(), "loading a file ran its code"


@pytest.fixture
def model(tmp_path):
    """A folder with a fitted model."""
    rng = np.random.default_rng(1)
    identity = np.zeros(300, IDENTITY)
    identity["event"] = np.arange(300)
    features = FeatureSet("t", tuple(Column(f"f{i}", "", "") for i in range(4)))
    x = rng.normal(size=(300, 4)).astype(np.float32)
    events = Events(x, np.full(300, np.nan), np.ones(300), identity, features)
    save(WeakTrees(members=1, rounds=20).fit(events, events), tmp_path / "m", features, {})
    return tmp_path / "m"


def seal(folder, change=lambda whole: None):
    """model.json with checksums that fit whatever lies in the folder now: an attacker can compute them too."""
    path = folder / "model.json"
    whole = json.loads(path.read_text())
    change(whole)
    whole["files"] = {n: file_digest(folder / n) for n in whole["files"]}
    whole["sha256"] = digest({k: v for k, v in whole.items() if k != "sha256"})
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize("name", ["weights.safetensors", "trees_0.txt"])
def test_a_pickle_in_a_model_folder_is_refused(model, canary, name):
    (model / name).write_bytes(canary)
    with pytest.raises(InputError, match=f"{name} .*altered"):
        load(model)
    seal(model)
    with pytest.raises(InputError, match=name):
        load(model)


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "builtins.eval", "elsewhere.models.store.load"]
)
def test_a_model_that_names_a_function_is_refused(model, canary, name):
    seal(model, lambda w: w["method"].update({"class": name, "settings": {"command": "touch canary"}}))
    with pytest.raises(InputError, match="is not a method of this version"):
        load(model)


def test_a_pickle_as_checkpoint_is_not_gone_on_from(tmp_path, canary):
    (tmp_path / CHECKPOINT).write_bytes(canary)
    assert read_checkpoint(tmp_path, "k") is None


@pytest.mark.parametrize("how", ["plain", "gzip", "lz4"])
def test_a_pickle_in_place_of_a_chunk_is_made_again(good, tmp_path, canary, how):
    import gzip

    import lz4.frame

    pack = {"plain": bytes, "gzip": gzip.compress, "lz4": lz4.frame.compress}[how]
    found, out = checked(good.a), tmp_path / "out"
    process(found, Dijet(), out, chunk=200, scheduler="loop", key="k")
    want, chunk = products(out), sorted(out.glob("columns/data/*"))[0]
    chunk.write_bytes(pack(canary))
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_chunk_meta(chunk)
    process(found, Dijet(), out, chunk=200, scheduler="loop", key="k")
    assert products(out) == want


@pytest.mark.parametrize("name", ["provenance.json", "fileset.json"])
def test_a_pickle_in_place_of_json_is_an_error_that_names_it(tmp_path, canary, name):
    (tmp_path / name).write_bytes(canary)
    with pytest.raises(InputError, match=f"{name} is not JSON"):
        read_json(tmp_path / name)


def test_a_pickle_as_input_file_is_refused(tmp_path, canary):
    (tmp_path / "a.root").write_bytes(canary)
    with pytest.raises(InputError, match=r"a\.root is not a ROOT file"):
        preflight({"d": [str(tmp_path / "a.root")]}, Dijet())


@pytest.mark.parametrize("name", ["fileset.coffea", "fileset.pkl", "fileset.json", "fileset.yaml"])
def test_a_pickle_as_fileset_is_refused(small, good, canary, name):
    (small.folder / name).write_bytes(canary)
    small.write(good.a, text=SEARCH.replace("  chunk: 200", f"  chunk: 200\n  fileset: {name}"))
    code, said = small.call("check")
    assert code == 2, said
    assert name in said


@pytest.mark.parametrize("where", ["search", "fileset"])
def test_yaml_that_asks_for_a_call_is_refused(small, good, tmp_path, canary, where):
    call = f"!!python/object/apply:os.system ['touch {tmp_path / 'canary'}']"
    if where == "search":
        (tmp_path / "s.yaml").write_text(f"name: {call}\n")
        with pytest.raises(ConfigError, match=r"s\.yaml"):
            load_config(tmp_path / "s.yaml")
        small.write(good.a)
        with pytest.raises(ElsewhereError):
            load_config(small.folder / "search.yaml", [f"name={call}"])
    else:
        (small.folder / "f.yaml").write_text(f"d: {call}\n")
        small.write(good.a, text=SEARCH.replace("  chunk: 200", "  chunk: 200\n  fileset: f.yaml"))
        assert small.call("check")[0] == 2


def test_a_pickled_array_is_no_sample_of_pileup(tmp_path, canary):
    """The towers' cache is the one npz file that is read."""
    from elsewhere.samples import towers

    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([Canary(tmp_path / "canary")], dtype=object))
    with np.load(path, allow_pickle=False) as data, pytest.raises(ValueError, match="allow_pickle"):
        data["a"]
    source = Path(towers.__file__).read_text()
    assert source.count("np.load(") == source.count("allow_pickle=False")


def test_the_product_reads_no_pickle():
    """No line of the package opens one; what a client packs for its own workers never lies in a file."""
    import re

    import elsewhere

    root = Path(elsewhere.__file__).parent
    folders = ("", "analysis", "deploy", "models", "processors", "samples")
    found = []
    for folder in folders:
        for path in (root / folder).glob("**/*.py" if folder else "*.py"):
            for line in path.read_text().splitlines():
                if re.search(r"\b(pickle|cloudpickle|dill|joblib|shelve)\.(load|open)\(|torch\.load\(|coffea\.util.*load|allow_pickle=True|weights_only=False", line):  # fmt: skip
                    found.append(f"{path.relative_to(root)}: {line.strip()}")
    assert found == []
