import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from elsewhere.chunks import Chunk, Varied
from elsewhere.errors import InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.workspace import (
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
    few, rest = events.take(slice(0, max(n - 2, 0))), events.take(slice(1, None))
    return Chunk(
        events, {"k": np.arange(n)}, {"s": rng.random(n)}, {"start": first, "n_in": n}, rng.random((2, 3, 1, 4)),
        (
            Varied("jes_up", few, {"s": rng.random(len(few))}),
            Varied("jes_down", rest, {"s": rng.random(len(rest))}, np.arange(1, n)),
        ),
        {"pileup_up": rng.random(n)},
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
@pytest.mark.parametrize("number", [0, 1])
def test_a_variation_has_its_own_events_and_no_features(tmp_path, n, number):
    write_chunk(tmp_path / "c.parquet", chunk(n))
    want = chunk(n).varied[number]
    back = read_chunk(tmp_path / "c.parquet", want.label)
    assert np.array_equal(back.events.identity, want.events.identity)
    assert np.array_equal(back.events.mass, want.events.mass)
    assert np.array_equal(back.events.weight, want.events.weight)
    assert np.array_equal(back.scores["s"], want.scores["s"])
    assert np.isnan(back.events.x).all()
    table = pq.read_table(tmp_path / "c.parquet")
    assert sum(table[f"in_{want.label}"].to_pylist()) == len(want.events)
    assert np.isfinite(table[f"m_{want.label}"].to_numpy()).sum() == len(want.events)
    with pytest.raises(InputError, match="no variation 'jer_up'; it has nominal, jes_up, jes_down"):
        read_chunk(tmp_path / "c.parquet", "jer_up")


def test_an_event_that_only_a_variation_keeps_is_a_row_and_not_nominal(tmp_path):
    whole = chunk(6)
    nominal, extra = whole.events.take(slice(1, 4)), whole.events.take(np.array([0, 2, 5]))
    made = Chunk(
        nominal, {"k": np.arange(3)}, {"s": np.ones(3)}, {}, None,
        (Varied("jes_up", extra, {"s": np.full(3, 2.0)}, np.array([0, 2, 5])),), {"w": np.arange(3.0)}, np.array([1, 2, 3]),
    )  # fmt: skip
    write_chunk(tmp_path / "c.parquet", made)
    table = pq.read_table(tmp_path / "c.parquet")
    assert table["event"].to_pylist() == [0, 1, 2, 3, 5]  # in the order of the input
    assert table["in_nominal"].to_pylist() == [False, True, True, True, False]
    assert table["in_jes_up"].to_pylist() == [True, False, True, False, True]
    back = read_chunk(tmp_path / "c.parquet")
    assert np.array_equal(back.events.x, nominal.x)
    assert back.extras["k"].tolist() == [0, 1, 2]
    assert back.weights["w"].tolist() == [0.0, 1.0, 2.0]
    varied = read_chunk(tmp_path / "c.parquet", "jes_up")
    assert np.array_equal(varied.events.identity, extra.identity)
    assert np.array_equal(varied.events.weight, extra.weight)
    assert varied.scores["s"].tolist() == [2.0, 2.0, 2.0]


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
