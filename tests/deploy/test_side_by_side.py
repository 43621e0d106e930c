"""Both exports of a network next to each other: what is counted, what is timed, and the stand-in that must be the same network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from elsewhere.deploy import side_by_side as module
from elsewhere.deploy.firmware import export
from elsewhere.deploy.plain_verilog import NAME, write_plain
from elsewhere.deploy.project import Operation, Project, read_project
from elsewhere.deploy.rtl import RtlSettings
from elsewhere.deploy.rtl_export import RtlRequest, hardware_sentences
from elsewhere.deploy.side_by_side import (
    Counts,
    khz_of,
    side_by_side,
    side_by_side_sentences,
    side_by_side_table,
    side_by_side_words,
)
from elsewhere.errors import ElsewhereError
from elsewhere.fixed import Fixed

from .test_rtl import FEATURES, SCALE, SETTINGS, Encoder, raw_events

pytest.importorskip("da4ml", reason="da4ml is not installed: pip install 'elsewhere[rtl]'")
pytestmark = pytest.mark.skipif(
    shutil.which("verilator") is None or shutil.which("yosys") is None,
    reason="verilator or yosys is not installed: apt install verilator yosys",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    request = RtlRequest(RtlSettings(), raw_events(1500), events=2500, cost=True)
    place = tmp_path_factory.mktemp("both") / "firmware"
    return export(Encoder(), FEATURES, SCALE, place, raw_events(200), settings=SETTINGS, rtl=request)


@pytest.fixture
def project(made):
    return read_project(made.folder / "hls")


def test_what_is_multiplied_is_counted():
    """By hand: 8-bit signed inputs (7 bits), weights 6 = 11b and 2 shifts -> 2 bits, -4 -> 1 bit, 5 -> 3 bits; 9 x 9 squares."""
    a, b = Fixed(8, 6), Fixed(9, 6, False)
    weight = np.array([[6, 0], [-4, 5]])
    bias = np.zeros(2, np.int64)
    operations = (
        Operation("one", "dense", ("x",), "h", a, Fixed(20, 16), weight, Fixed(6, 3), bias, Fixed(6, 3)),
        Operation("relu", "relu", ("h",), "r", b),
        Operation("square", "einsum", ("r", "r"), "score", Fixed(20, 16), Fixed(30, 22)),
    )
    counts = Counts.of(Project("x", a, 2, "score", operations[-1].result, operations))
    assert counts == Counts(4, 3, 1, 2, 7 * (2 + 1 + 3) + 2 * 9 * 9)


def test_the_export_puts_both_beside_each_other(made):
    record = json.loads((made.folder / "firmware.json").read_text())
    found = record["side_by_side"]
    names = [c["name"] for c in found["columns"]]
    assert names == ["hls4ml: C++", "da4ml: interpreter", "da4ml: Verilog", NAME]
    assert all(c["mismatches"] == 0 and c["khz"] > 0 and c["made_s"] >= 0 for c in found["columns"])
    assert found["columns"][0]["compile_s"] == round(made.compile_s, 2)
    assert found["columns"][2]["lut"] == record["cost"]["lut"]
    assert found["columns"][2]["lut_estimate"] == record["cost"]["lut_estimate"]
    assert found["columns"][3]["lut"] > 50
    assert found["columns"][0]["lut"] is None
    assert found["events"] == 2500
    assert found["counts"]["weights"] == 24
    assert found["counts"]["nonzero"] <= 20  # one input is used by nothing
    assert "no vendor number" in found["stand_in"]
    heads, rows = side_by_side_table(record)
    assert heads == ("quantity", *names)
    table = {row[0]: row[1:] for row in rows}
    assert table["scores that differ from the evaluation"] == ("0", "0", "0", "0")
    assert table["look-up tables (yosys)"][:2] == ("-", "-")
    assert all(len(row) == 5 for row in rows)
    assert "effective bit operations" in side_by_side_words(record)
    line = side_by_side_sentences(record)[0]
    assert line in hardware_sentences(record)
    assert f"{NAME} {found['columns'][3]['lut']:,} LUT (no vendor numbers)" in line
    assert "hls4ml: C++" in (made.folder / "README.md").read_text()
    assert side_by_side_table({}) is None
    assert side_by_side_sentences({}) == []


def test_without_cost_or_beyond_a_size_the_stand_in_is_left_out_and_said_so(
    made, project, tmp_path, monkeypatch
):
    rtl = SimpleNamespace(
        layers=SimpleNamespace(evaluate=len),
        simulation=SimpleNamespace(scores=lambda integers, _: len(integers)),
    )
    library = SimpleNamespace(score_single=len)
    seconds = {"hls4ml": (1.0, 2.0), "interpreter": (3.0, 0.0), "rtl": (3.0, 4.0)}

    def compared(cost):
        proof, inputs = made.rtl.proof, np.zeros((5, 4))
        return side_by_side(project, library, rtl, proof, inputs, seconds, 77, cost, tmp_path)

    plain = compared(None)
    assert [(c.made_s, c.compile_s) for c in plain.columns] == [(1.0, 2.0), (3.0, 0.0), (3.0, 4.0)]
    record = plain.to_json()
    assert side_by_side_table(record)[1][-1] == ("look-up tables, da4ml's estimate", "-", "-", "77")
    assert "yosys" not in str(side_by_side_table(record)[1])
    assert side_by_side_words(record).endswith("is made with firmware.cost: true.")
    monkeypatch.setattr(module, "MOST_WEIGHTS", 3)
    large = compared(made.rtl.cost)
    assert len(large.columns) == 3
    assert "non-zero weights, beyond 3 yosys takes many minutes" in large.left_out


def test_a_stand_in_that_is_another_network_is_an_error(project, tmp_path, monkeypatch):
    def changed(project, folder):
        op = project.operations[0]
        weight = op.weight.copy()
        weight[0, 0] += 1
        write_plain(
            replace(project, operations=(replace(op, weight=weight), *project.operations[1:])), folder
        )

    monkeypatch.setattr(module, "write_plain", changed)
    inputs = SCALE.apply(raw_events(2000))
    with pytest.raises(ElsewhereError, match=r"every product apart \(yosys\): \d+ of 2000 scores differ"):
        module._stand_in(project, inputs, tmp_path)


def test_a_speed_is_events_over_wall_time():
    import time

    assert 5 < khz_of(lambda: time.sleep(0.05), 1000) <= 20
