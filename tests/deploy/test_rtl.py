"""Export with RTL of a tiny network: proof, planted defects, measured latency, cost. Needs da4ml and verilator."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere import trigger
from elsewhere.deploy.cost import cost_of
from elsewhere.deploy.emulator import InputScale, open_folder
from elsewhere.deploy.firmware import export
from elsewhere.deploy.precision import FirmwareSettings
from elsewhere.deploy.project import read_project
from elsewhere.deploy.rtl import RtlSettings, Simulation, Timing, compile_rtl, verilog_files, write_rtl
from elsewhere.deploy.rtl_export import RtlRequest, add_rtl, hardware_rows, hardware_sentences
from elsewhere.deploy.rtl_proof import Rtl, prove, prove_inputs, with_extremes
from elsewhere.errors import ConfigError, ElsewhereError, FeatureError, InputError
from elsewhere.events import Column, FeatureSet
from elsewhere.fixed import Fixed
from elsewhere.sections import FirmwareSection

pytest.importorskip("da4ml", reason="da4ml is not installed: pip install 'elsewhere[rtl]'")
needs_yosys = pytest.mark.skipif(
    shutil.which("yosys") is None, reason="yosys is not installed: apt install yosys"
)
FEATURES = FeatureSet("toy", tuple(Column(f"x{i}", "GeV", "a toy input") for i in range(4)))
SCALE = InputScale((4.5, 20.0, 7.0, 0.0), (0.25, 0.125, 0.5, 2.0))
SETTINGS = FirmwareSettings(
    input="fixed<8,6,RND_CONV,SAT>", weight="fixed<6,3>", bias="fixed<10,7>", activation="ufixed<10,6,RND_CONV,SAT>",
    linear="fixed<10,7,RND_CONV,SAT>", score="ufixed<18,14,RND_CONV,SAT>",
)  # fmt: skip


class Squares(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x: Any) -> Any:
        mu = self.layers(x)
        return torch.einsum("bi,bi->b", mu, mu).unsqueeze(1)


class Encoder:
    """An Exportable like AXOL1TL's, 4-4-2 with the sum of mu^2."""

    def network(self):
        generator = torch.Generator().manual_seed(4)
        layers = []
        for n, m in ((4, 4), (4, 2)):
            linear = torch.nn.utils.skip_init(torch.nn.Linear, n, m)
            with torch.no_grad():
                linear.weight.copy_(torch.randn((m, n), generator=generator))
                linear.bias.copy_(torch.randn(m, generator=generator))
            layers += [linear, torch.nn.ReLU()]
        with torch.no_grad():
            layers[0].weight[:, 1] = 0.0  # an input that nothing uses keeps its place in the port
        return Squares(torch.nn.Sequential(*layers[:-1])).eval()


def raw_events(n, seed=7):
    return (np.random.default_rng(seed).normal(0, 4, (n, 4)) / SCALE.factor + SCALE.offset).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if shutil.which("verilator") is None:
        pytest.skip("verilator is not installed: apt install verilator")
    path = tmp_path_factory.mktemp("rtl") / "firmware"
    request = RtlRequest(RtlSettings(latency_cutoff=4), raw_events(8000), events=12_000)
    return export(Encoder(), FEATURES, SCALE, path, raw_events(500), settings=SETTINGS, rtl=request)


@pytest.fixture(scope="module")
def project(made):
    return read_project(made.folder / "hls")


@pytest.fixture(scope="module")
def ready(made, tmp_path_factory):
    return Rtl.open(made.folder / "rtl", tmp_path_factory.mktemp("simulation"))


@pytest.fixture(scope="module")
def wrong(project, tmp_path_factory):
    """The same network with one weight of its second layer changed by one step, as RTL."""
    index = next(i for i, op in enumerate(project.operations) if op.name == "layers_2")
    op = project.operations[index]
    weight = op.weight.copy()
    weight[0, 0] += 1
    operations = (
        *project.operations[:index],
        replace(op, weight=weight),
        *project.operations[index + 1 :],
    )
    place = tmp_path_factory.mktemp("wrong")
    write_rtl(replace(project, operations=operations), place / "rtl", RtlSettings(latency_cutoff=4))
    return Rtl.open(place / "rtl", place / "simulation")


def test_the_export_proves_and_records_its_rtl(made):
    proof = made.rtl.proof
    assert proof.exact
    assert proof.events == 12_000
    assert [s.name for s in proof.steps] == ["emulator", "interpreter", "rtl"]
    record = json.loads((made.folder / "firmware.json").read_text())
    found = record["rtl"]
    assert (found["events_compared"], found["mismatches_c"], found["mismatches_rtl"]) == (12_000, 0, 0)
    assert found["latency_ns"] == 5.0 * found["latency_cycles"]
    assert (found["clock_mhz"], found["initiation_interval"]) == (200.0, 1)
    assert {"rtl/src/score.v", "rtl/layers.json", "rtl/rtl.json"} <= set(record["files"])
    assert "clock cycles from input to score" in (made.folder / "README.md").read_text()
    assert "0 of 12,000 events differ" in hardware_sentences(record)[0]
    assert dict(hardware_rows(record))["scores that differ: C++, traced logic, Verilog"] == "0, 0, 0"
    assert hardware_sentences({}) == hardware_rows({}) == []


def test_the_latency_is_one_cycle_per_register_of_the_verilog(made, ready, project):
    registers = len(re.findall(r"<=", (made.folder / "rtl" / "src" / "score.v").read_text()))
    events = project.input_type.from_float(SCALE.apply(raw_events(50)))
    assert ready.simulation.measure(events) == Timing(registers, 1)
    assert made.rtl.proof.timing.latency_cycles == registers


def test_zeros_and_saturations_reach_the_port(ready, project):
    x = with_extremes(project, SCALE.apply(raw_events(10)), 100)
    integers = project.input_type.from_float(x)
    assert {project.input_type.low, project.input_type.high, 0} <= set(integers.ravel().tolist())
    timing = ready.simulation.measure(integers)
    found = ready.simulation.scores(integers, timing)
    np.testing.assert_array_equal(found, project.evaluate(x)[project.output_name][:, 0])


def test_a_changed_weight_in_the_trace_is_named(made, ready, wrong, project):
    inputs = SCALE.apply(raw_events(3000))
    library = open_folder(made.folder).library()
    proof = prove_inputs(library, project, Rtl(wrong.layers, ready.simulation, 5.0), inputs)
    emulator, interpreter, rtl = proof.steps
    assert (emulator.mismatches, rtl.mismatches) == (0, 0)
    assert interpreter.mismatches > 0
    assert interpreter.first.layer == "layers_2"
    assert not proof.exact
    assert "interpreter" in str(proof)
    assert "layers_2" in str(proof)


def test_a_changed_weight_in_the_verilog_is_seen(made, ready, wrong, project):
    inputs = SCALE.apply(raw_events(3000))
    library = open_folder(made.folder).library()
    only_verilog = prove_inputs(library, project, Rtl(ready.layers, wrong.simulation, 5.0), inputs)
    assert (only_verilog.steps[1].mismatches, only_verilog.steps[1].value_mismatches) == (0, 0)
    rtl = only_verilog.steps[2]
    assert rtl.mismatches > 100
    assert rtl.first.layer == "score"
    expected = project.score(inputs)
    assert rtl.first.expected == expected[rtl.first.event] != rtl.first.found
    both = prove_inputs(library, project, wrong, inputs)
    assert both.steps[2].first.layer == "layers_2"
    assert both.steps[2].mismatches == both.steps[1].mismatches == rtl.mismatches


def test_a_folder_is_proved_where_it_stands(made, ready, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "moved")
    monkeypatch.setattr("elsewhere.deploy.rtl_proof.compile_rtl", lambda *_: ready.simulation)
    proof = prove(tmp_path / "moved", raw_events(300), extremes=100)
    assert (proof.exact, proof.events, proof.timing) == (True, 400, made.rtl.proof.timing)
    assert str(proof) == "400 events, every bit of every step agrees"


def test_an_export_whose_rtl_differs_names_the_difference(made, wrong, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "folder", ignore=shutil.ignore_patterns("rtl"))
    monkeypatch.setattr(Rtl, "open", lambda *_: wrong)
    library = next((tmp_path / "folder").glob("emulator-*.so"))
    request = RtlRequest(RtlSettings(), raw_events(500), events=600)
    with pytest.raises(ElsewhereError, match=r"of 1500 events.*rtl: \d+ scores differ.*layers_2"):
        add_rtl(tmp_path / "folder", library, SCALE, request)
    with pytest.raises(FeatureError, match="4 inputs"):
        add_rtl(tmp_path / "folder", library, SCALE, RtlRequest(RtlSettings(), raw_events(5)[:, :3]))


def test_an_altered_verilog_file_is_an_input_error(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "copy")
    source = tmp_path / "copy" / "rtl" / "src" / "score_stage0.v"
    source.write_text(source.read_text() + "\n")
    with pytest.raises(InputError, match=r"score_stage0\.v was changed"):
        prove(tmp_path / "copy", raw_events(10))


def test_verilog_that_does_not_compile_is_an_input_error(made, tmp_path):
    shutil.copytree(made.folder / "rtl", tmp_path / "rtl")
    (tmp_path / "rtl" / "src" / "score.v").write_text("module score (")
    with pytest.raises(InputError, match="verilator could not compile"):
        compile_rtl(tmp_path / "rtl", tmp_path / "simulation")
    shutil.rmtree(tmp_path / "rtl" / "src")
    with pytest.raises(InputError, match="holds no Verilog"):
        verilog_files(tmp_path / "rtl")


def test_a_folder_without_rtl_says_so(tmp_path):
    with pytest.raises(InputError, match=r"firmware\.rtl: true"):
        Rtl.open(tmp_path, tmp_path)


def test_the_section_of_a_search_asks_for_what_it_says():
    asked = trigger._rtl(
        FirmwareSection(rtl=True, clock_ns=4.0, latency_cutoff=3, proof_events=20), raw_events(30)
    )
    assert asked.settings == RtlSettings(4.0, FirmwareSection().part, 3)
    assert (len(asked.raw), asked.events, asked.cost) == (20, 20, False)
    assert trigger._rtl(FirmwareSection(), raw_events(30)) is None


@needs_yosys
def test_yosys_counts_the_tiny_network(made):
    cost = cost_of(made.folder / "rtl")
    registers = sum(
        int(high) + 1
        for high in re.findall(r"reg \[(\d+):0\]", (made.folder / "rtl" / "src" / "score.v").read_text())
    )
    assert 0.5 * registers < cost.ff <= registers
    assert 50 < cost.lut < 2000
    assert (cost.dsp, cost.bram) == (0, 0)
    assert 2 <= cost.lut_depth < cost.depth < 40
    assert 0.4 * cost.lut < cost.lut_estimate < 2 * cost.lut
    assert cost.tool.startswith("Yosys")
    record = {"cost": cost.to_json()}
    assert f"{cost.lut:,} LUT" in hardware_sentences(record)[0]
    assert "below 3 % of a VU9P" in dict(hardware_rows(record)).get(
        "published: autoencoders and encoders on 57 inputs, hls4ml (2108.03986)", ""
    )


def test_missing_tools_are_named_before_anything_is_exported(tmp_path, monkeypatch):
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    request = RtlRequest(RtlSettings(), raw_events(10))
    with pytest.raises(ConfigError, match=r"verilator.*apt install verilator"):
        export(Encoder(), FEATURES, SCALE, tmp_path / "firmware", raw_events(10), rtl=request)
    with pytest.raises(ConfigError, match="verilator"):
        compile_rtl(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"yosys.*apt install yosys"):
        cost_of(tmp_path)
    assert not (tmp_path / "firmware").exists()


def test_settings_name_their_bad_field():
    with pytest.raises(ConfigError, match="latency_cutoff"):
        RtlSettings(latency_cutoff=0)
    with pytest.raises(ConfigError, match="clock_ns"):
        RtlSettings(clock_ns=0.0)


@dataclass(frozen=True)
class Pipeline(Simulation):
    """A pipeline in Python: x0^2 after ``delay`` edges, lost if it comes sooner than ``busy`` cycles after another."""

    delay: int = 3
    busy: int = 1

    def cycles(self, integers):
        x = integers[:, 0]
        value = x**2
        for back in range(1, self.busy):
            value = np.where((np.roll(x, back) != 0) & (x != 0), 0, value)
        out = np.zeros(len(x), dtype=np.int64)
        out[self.delay - 1 :] = value[: len(x) - self.delay + 1]
        return out


@pytest.mark.parametrize(("delay", "busy"), [(1, 1), (2, 1), (40, 1), (6, 3), (4, 4)])
def test_latency_and_initiation_interval_are_measured(delay, busy):
    pipe = Pipeline(None, Fixed(8, 8), 1, Fixed(16, 16, False), {}, delay=delay, busy=busy)
    assert pipe.measure(np.arange(60)[:, None]) == Timing(delay, busy)


def test_ports_carry_signed_integers_and_the_score_gets_its_types_step(tmp_path):
    script = tmp_path / "program"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "while word := sys.stdin.buffer.read(8):\n"
        "    second = int.from_bytes(word, 'little') >> 20 & 0xFFFFF\n"
        "    sys.stdout.buffer.write(second.to_bytes(8, 'little'))\n"
    )
    script.chmod(0o755)
    port = {"width": 20, "fraction": 0, "signed": True}
    pipe = Simulation(script, Fixed(20, 20), 2, Fixed(30, 28), port)
    k = np.array([[5, 0], [-1, -1], [7, 2**19 - 1], [-3, -(2**19)]])
    np.testing.assert_array_equal(pipe.cycles(k), 4 * k[:, 1])
    script.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(InputError, match="broken"):
        pipe.cycles(k)


def test_a_score_that_stays_has_no_latency():
    class Stuck(Pipeline):
        def cycles(self, integers):
            return np.cumsum(integers[:, 0])

    with pytest.raises(InputError, match=r"1024 cycles|1025 cycles"):
        Stuck(None, Fixed(8, 8), 1, Fixed(16, 16, False), {}).measure(np.arange(9)[:, None])
