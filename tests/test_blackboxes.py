"""The benchmark of the black boxes without a generator: what is decided when, and the arithmetic of the verdict."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
from elsewhere.analysis.challenge import Truth
from elsewhere.config import load_config
from elsewhere.events import IDENTITY
from elsewhere.models.methods import build
from elsewhere.samples import generate
from elsewhere.samples.blackbox import make_box, seal
from elsewhere.workspace import file_digest, write_json

FOLDERS = [Path(__file__).resolve().parents[1] / "benchmarks" / name for name in ("resonant", "")]


@pytest.fixture
def boxes(monkeypatch):
    for folder in FOLDERS:
        monkeypatch.syspath_prepend(str(folder))
    import blackboxes

    yield blackboxes
    for name in ("blackboxes", "common", "settings"):
        sys.modules.pop(name, None)


@pytest.fixture
def few(monkeypatch):
    """A box of 8 events whose chunks of 4 are there already."""

    def chunks(cache, card, seed, numbers):
        jets = ak.Array([[{"pt": 1000.0 + 10 * n + i, "mass": 90.0}] for n in numbers for i in range(4)])
        return {"FatJet": jets}

    monkeypatch.setattr(generate, "CHUNK", 4)
    monkeypatch.setattr(generate, "spread", lambda jobs, *_: iter(jobs))
    monkeypatch.setattr(generate, "read_chunks", chunks)


def test_a_box_that_is_there_is_left_alone(few, tmp_path):
    """Its file is written anew only if it is another's or was changed: a search of it need not be done again."""
    first = make_box(2, 8, tmp_path, cache=tmp_path / "c")
    stamp = first.path.stat().st_mtime_ns
    assert make_box(2, 8, tmp_path, cache=tmp_path / "c") == first
    assert first.path.stat().st_mtime_ns == stamp
    for events, seed in ((8, 2), (12, 2)):
        made = make_box(2, events, tmp_path, seed=seed, cache=tmp_path / "c")
        assert made.path.stat().st_mtime_ns > stamp
        stamp = made.path.stat().st_mtime_ns
    made.path.write_bytes(b"changed")
    back = make_box(2, 12, tmp_path, seed=2, cache=tmp_path / "c")
    assert back.path.stat().st_size > 100
    assert file_digest(back.path) == back.sha256


def found(p: float, valid: bool = True, position: float | None = 3810.0) -> dict:
    """A hunt's result with a global p that 60,000 toys bound from above."""
    window = {"low": 3600.0, "high": 4000.0}
    best = {
        "window": window,
        "cut": 0.003,
        "n": 40.0,
        "b": 9.0,
        "delta": 0.1,
        "z": 6.0,
        "b_error": 1.0,
        "mass": 3800.0,
        "signal": 30.0,
        "signal_error": 6.0,
    }
    return {
        "best": best, "before": best, "peak": None if position is None else {"position": position}, "peak_error": 20.0,
        "overall": {"p": p, "p_high": p, "z": 4.0, "z_low": 3.9, "bound": True, "toys": 60000, "exceeding": 0, "gross_vitells": 1e-9},
        "validity": {"valid": valid, "words": "not valid"}, "failed": [],
    }  # fmt: skip


def test_a_claim_needs_a_small_p_and_a_valid_hunt(boxes):
    entry = boxes.answer(found(4e-5))
    assert (entry.claims, entry.mass, entry.mass_error) == (True, 3810.0, 20.0)
    assert entry.events == pytest.approx(40 - 9 * 1.1)
    assert boxes.answer(found(4e-5, position=None)).mass == 3800.0
    for other in (
        found(2e-3),
        found(4e-5, valid=False),
        {**found(1.0), "overall": None, "best": None, "peak": None},
    ):
        assert not boxes.answer(other).claims
        assert boxes.answer(other).mass is None


def test_the_search_of_a_box_is_the_benchmarks_ranode(boxes, tmp_path):
    """It loads, holds one data set and no truth, is the benchmark's R-ANODE, and only says where to look: everywhere."""
    config = load_config(boxes.search_of(tmp_path / "box2.root", 2))
    demo = load_config(Path(__file__).resolve().parents[1] / "templates" / "dijet.yaml")
    assert {n: d.role for n, d in config.events.datasets.items()} == {"box": "data"}
    asked = {**boxes.SETTINGS["ranode"], **boxes.SHORT}
    assert config.score.method == "RAnode"
    assert config.score.settings == asked
    build(config.score.method, config.score.settings, "score")
    windows = config.hunt.windows.windows()
    assert (windows[0].low, windows[-1].high) == (2800.0, 6000.0)
    assert config.hunt.cuts == demo.hunt.cuts
    assert config.hunt.statistic == "fit"


def test_expected_counts_signal_near_the_truth(boxes):
    mass, number = np.array([3000.0, 3700.0, 3810.0, 3990.0, 4100.0]), np.array([1, 2, 3, 4, 5])
    out = boxes.expected(mass, number, Truth(3800.0, 3), np.array([3, 5]))
    assert out == {"s": 1, "b": 2, "s_over_sqrt_b": pytest.approx(1 / 2**0.5)}
    assert boxes.expected(mass, number, Truth(None), np.zeros(0, np.int64)) == {}


def test_seals_are_opened_when_all_answers_are_written(boxes, monkeypatch, tmp_path):
    """Every box is searched and published before the first sealed file is read, and the truth cannot change an answer."""
    order, results = [], []
    masses = {
        1: {"box1_signal": {"m_W": 3800.0, "m_X": 400.0}},
        2: {},
        3: {"box3_dijet": {}, "box3_trijet": {}},
    }

    def make_box(number, events, folder, seed, workers):
        signals = {c: {"masses_gev": m, "events": [1, 2]} for c, m in masses[number].items()}
        write_json(tmp_path / f"box{number}.sealed.json", seal({"signals": signals}, "salt"))
        order.append(f"make {number}")
        return SimpleNamespace(path=tmp_path / f"box{number}.root", sealed=tmp_path / f"box{number}.sealed.json", events=events)  # fmt: skip

    def open_search(path, overrides):
        number = int(path.stem[-1])
        identity = np.zeros(4, IDENTITY)
        identity["event"] = [1, 2, 3, 4]
        events = SimpleNamespace(mass=np.array([3790.0, 3700.0, 3900.0, 6000.0]), identity=identity)
        space = SimpleNamespace(
            path=lambda name: tmp_path / f"{number}-{name}",
            read_table=lambda _name: SimpleNamespace(events=events),
        )
        return SimpleNamespace(space=space, number=number)

    def run_search(search, upto):
        write_json(search.space.path("hunt.json"), {"search": found(0.3 if search.number == 2 else 4e-5)})
        order.append(f"search {search.number}")

    real = boxes.unseal
    monkeypatch.setattr(boxes, "make_box", make_box)
    monkeypatch.setattr(boxes, "open_search", open_search)
    monkeypatch.setattr(boxes, "run_search", run_search)
    monkeypatch.setattr(boxes, "unseal", lambda path: order.append(f"open {path.name[3]}") or real(path))
    monkeypatch.setattr(boxes, "publish", lambda _n, f: order.append("publish") or results.append(json.loads(json.dumps(f))))  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["blackboxes.py"])
    boxes.main()
    assert [o for o in order if not o.startswith("make")] == [
        "search 1", "search 2", "search 3", "publish", "open 1", "open 2", "open 3", "publish",
    ]  # fmt: skip
    before, after = results
    assert before == {k: v for k, v in after.items() if k in before}
    assert not [k for k in before if "true" in k or "error" in k]
    assert after["blackbox1_mass_error_gev"] == 10.0
    assert after["blackbox1_s_over_sqrt_b"] == pytest.approx(2.0)
    assert after["blackbox2"] == "nothing found, and nothing is there"
    assert after["blackbox3_true_mass_gev"] == 4200.0
    assert after["blackbox3_signal_events"] == 4
    assert (after["blackbox1_correct"], after["blackbox3_correct"]) == (True, False)
