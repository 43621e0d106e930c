import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from elsewhere.errors import InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.workspace import (
    Chunk,
    Varied,
    Workspace,
    atomic,
    digest,
    read_chunk,
    read_chunk_meta,
    read_json,
    write_chunk,
    write_json,
)

FEATURES = FeatureSet(
    "toy", (Column("a", "GeV", "first"),), Column("m", "GeV", "mass"), (Column("k", "", "kept"),)
)


def chunk(n=5, first=0):
    identity = np.zeros(n, IDENTITY)
    identity["event"] = first + np.arange(n)
    identity["file_hi"] = 2**63 + 1
    rng = np.random.default_rng(first)
    events = Events(rng.random((n, 1), np.float32), rng.random(n), rng.normal(size=n), identity, FEATURES)
    few = events.take(slice(0, max(n - 2, 0)))
    return Chunk(
        events, {"k": np.arange(n)}, {"s": rng.random(n)}, {"start": first, "n_in": n}, rng.random((2, 3, 1, 4)),
        (Varied("jes_up", few, {"s": rng.random(len(few))}),), {"pileup_up": rng.random(n)},
    )  # fmt: skip


def test_a_chunk_comes_back_bit_for_bit(tmp_path):
    write_chunk(tmp_path / "c.parquet", chunk())
    back, want = read_chunk(tmp_path / "c.parquet"), chunk()
    for key in ("x", "mass", "weight", "identity"):
        assert np.array_equal(getattr(back.events, key), getattr(want.events, key))
    assert back.events.features == FEATURES
    assert np.array_equal(back.scores["s"], want.scores["s"])
    assert back.ledger == want.ledger
    assert np.array_equal(back.histograms, want.histograms)
    assert np.array_equal(back.weights["pileup_up"], want.weights["pileup_up"])


@pytest.mark.parametrize("n", [0, 2, 5])
def test_a_variation_has_its_own_events_and_no_features(tmp_path, n):
    write_chunk(tmp_path / "c.parquet", chunk(n))
    back, want = read_chunk(tmp_path / "c.parquet", "jes_up"), chunk(n).varied[0]
    assert np.array_equal(back.events.identity, want.events.identity)
    assert np.array_equal(back.events.mass, want.events.mass)
    assert np.array_equal(back.scores["s"], want.scores["s"])
    assert np.isnan(back.events.x).all()
    assert pq.read_table(tmp_path / "c.parquet")["variation"].to_pylist().count("jes_up") == max(n - 2, 0)
    with pytest.raises(InputError, match="no variation 'jer_up'; it has nominal, jes_up"):
        read_chunk(tmp_path / "c.parquet", "jer_up")


def test_a_flipped_bit_in_a_page_is_noticed(tmp_path):
    path = tmp_path / "c.parquet"
    write_chunk(path, chunk(5000))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 4
    path.write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        read_chunk(path)


def test_tables_join_chunks_in_order_of_their_names(tmp_path):
    space = Workspace(tmp_path)
    for first in (5, 0):
        write_chunk(space.path("columns", "qcd", f"u_{first}.parquet"), chunk(first=first))
    table = space.read_table("qcd")
    assert table.events.identity["event"].tolist() == list(range(10))
    assert len(table.take(table.extras["k"] > 3)) == 2
    with pytest.raises(InputError, match="elsewhere process"):
        space.read_table("nothing")


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"p": float("nan")})

    def die_half_way():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        die_half_way()
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InputError, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(InputError, match=r"x\.parquet"):
        read_chunk_meta(tmp_path / "x.parquet")


def test_a_stage_is_current_only_with_its_key_and_its_outputs(tmp_path):
    space = Workspace(tmp_path)
    assert not space.is_current("hunt", "k")
    write_json(space.path("hunt.json"), {})
    space.finish("hunt", "k", ["hunt.json"], {"wall_s": 1.0})
    assert space.is_current("hunt", "k")
    assert not space.is_current("hunt", "other")
    space.path("hunt.json").unlink()
    assert not space.is_current("hunt", "k")


def test_digest_does_not_depend_on_key_order():
    assert digest({"a": 1, "b": np.float64(2)}) == digest(json.loads('{"b": 2.0, "a": 1}'))
    assert digest({"a": 1}) != digest({"a": 2})
