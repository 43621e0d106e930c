"""Plain Verilog with every product apart: casts for every input, whole networks against the evaluation, in verilator."""

from __future__ import annotations

import itertools
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from elsewhere.deploy.cost import cost_of
from elsewhere.deploy.plain_verilog import _digits, _Module, plain_verilog, write_plain
from elsewhere.deploy.project import Operation, Project
from elsewhere.deploy.rtl import RECORD, Simulation, Timing, compile_rtl
from elsewhere.deploy.rtl_proof import with_extremes
from elsewhere.fixed import Fixed
from elsewhere.workspace import write_json

needs_verilator = pytest.mark.skipif(
    shutil.which("verilator") is None, reason="verilator is not installed: apt install verilator"
)
needs_yosys = pytest.mark.skipif(
    shutil.which("yosys") is None, reason="yosys is not installed: apt install yosys"
)
TWICE = Timing(2, 1)
KINDS = [
    Fixed(width, integer, signed, quantisation, overflow)
    for (width, integer), signed, quantisation, overflow in itertools.product(
        [(6, 4), (3, 6), (14, 5), (5, 1), (1, 1), (20, 12), (4, 10)], [True, False],
        ["TRN", "TRN_ZERO", "RND", "RND_CONV"], ["WRAP", "SAT", "SAT_SYM"],
    )
]  # fmt: skip
CONSTANTS = [1, -1, 2, 3, -3, 5, 7, -8, 11, 23, -42, 85, -127, 1365, -2048, 4095]


def selected(tmp_path, module, wires):
    """A simulation whose second input chooses which of the wires is seen; the first is the wire's input."""
    chosen = "36'sd0"
    for i, w in enumerate(wires):
        chosen = f"(inp[23:12] == {i}) ? wide{i} : {chosen}"
        module.lines.append(f"    wire signed [35:0] wide{i} = {w.name};")
    lines = "\n".join(module.lines)
    (tmp_path / "rtl" / "src").mkdir(parents=True)
    (tmp_path / "rtl" / "src" / "score.v").write_text(
        "module score (input clk, input [23:0] model_inp, output reg [35:0] model_out);\n    reg [23:0] inp;\n"
        f"{lines}\n    always @(posedge clk) begin inp <= model_inp; model_out <= {chosen}; end\nendmodule\n"
    )
    output = {"width": 36, "fraction": 0, "signed": True}
    record = {"top": "score", "inputs": 2, "input_type": "fixed<12,12>", "score_type": "fixed<36,36>"}
    write_json(tmp_path / "rtl" / RECORD, {**record, "output": output})
    return compile_rtl(tmp_path / "rtl", tmp_path / "simulation")


def seen(simulation, which):
    k = np.arange(-2048, 2048)
    return simulation.scores(np.stack([k, np.full(len(k), which)], axis=1), TWICE)


@needs_verilator
def test_casts_of_every_kind_and_every_number(tmp_path):
    module = _Module()
    v = module.wire("$signed(inp[11:0])", 12, 5)
    wires = [module.cast(v, kind) for kind in KINDS]
    simulation = selected(tmp_path, module, wires)
    k = np.arange(-2048, 2048)
    for i, kind in enumerate(KINDS):
        np.testing.assert_array_equal(seen(simulation, i), kind.cast(k, 5), err_msg=str(kind))


@needs_verilator
def test_products_by_constants_and_differences_for_every_number(tmp_path):
    module = _Module()
    v = module.wire("$signed(inp[11:0])", 12, 5)
    other = module.constant(-5, 3)
    wires = [module.scaled(v, c, 9) for c in CONSTANTS]
    wires += [module.times(v, v), module.add(v, other), module.add(v, other, "-"), module.sum([v, other, v, v, other])]  # fmt: skip
    simulation = selected(tmp_path, module, wires)
    k = np.arange(-2048, 2048)
    wanted = [k * c for c in CONSTANTS] + [k * k, k - 20, k + 20, 3 * k - 40]
    for i, numbers in enumerate(wanted):
        np.testing.assert_array_equal(seen(simulation, i), numbers, err_msg=str(i))


def test_signed_digits_are_canonical():
    for k in (*range(-700, 701), 2**20 - 1, -(2**20)):
        digits = _digits(k)
        assert sum(d * 2**p for p, d in digits) == k
        assert all(p - q >= 2 for (p, _), (q, _) in itertools.pairwise(digits))


def project(seed=0, accum="fixed<24,16>", einsum="ufixed<30,22>", linear="fixed<10,7,RND_CONV,SAT>"):
    """6-5-3 with a ReLU, a second branch 6-3, their difference squared and summed: every kind of layer."""
    rng, kind = np.random.default_rng(seed), Fixed.parse
    source, hidden, weight, bias = (
        kind("fixed<8,6,RND_CONV,SAT>"), kind("ufixed<9,6,RND_CONV,SAT>"), kind("fixed<6,3>"), kind("fixed<10,7>"),
    )  # fmt: skip
    acc, out = kind(accum), kind(linear)

    def dense(name, inputs, n, m, result):
        w = rng.integers(-20, 21, (n, m)) * (rng.random((n, m)) < 0.7)
        b = rng.integers(-60, 60, m)
        return Operation(name, "dense", (inputs,), f"{name}_out", result, acc, w, weight, b, bias)

    operations = (
        dense("one", "x", 6, 5, acc),
        Operation("relu", "relu", ("one_out",), "relu_out", hidden),
        dense("two", "relu_out", 5, 3, acc),
        Operation("linear", "linear", ("two_out",), "linear_out", out),
        dense("three", "x", 6, 3, out),
        Operation("minus", "subtract", ("linear_out", "three_out"), "minus_out", kind("fixed<11,8,TRN,SAT>")),
        Operation("square", "einsum", ("minus_out", "minus_out"), "score", kind("ufixed<18,14,RND_CONV,SAT>"), kind(einsum)),
    )  # fmt: skip
    return Project("x", source, 6, "score", operations[-1].result, operations)


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    if shutil.which("verilator") is None:
        pytest.skip("verilator is not installed: apt install verilator")

    def run(some, inputs):
        place = tmp_path_factory.mktemp("plain")
        write_plain(some, place / "plain")
        simulation = compile_rtl(place / "plain", place / "simulation")
        assert isinstance(simulation, Simulation)
        integers = some.input_type.from_float(inputs)
        return simulation.scores(integers, TWICE), simulation, integers

    return run


def inputs_for(some, n=6000):
    rng = np.random.default_rng(9)
    return with_extremes(some, rng.normal(0, 4, (n, some.n_in)), n)


@pytest.mark.parametrize(
    "types",
    [{}, {"accum": "fixed<20,16>"}, {"accum": "fixed<12,8,TRN,SAT>"}, {"accum": "fixed<11,9,RND,WRAP>", "einsum": "ufixed<12,10,RND_CONV,SAT>"}],
    ids=["exact", "one bit is rounded", "saturates in the sum", "rounds in the sum"],
)  # fmt: skip
def test_every_event_gives_the_evaluations_integer(simulate, types):
    some = project(**types)
    x = inputs_for(some)
    found, simulation, integers = simulate(some, x)
    wanted = some.evaluate(x)["score"][:, 0]
    np.testing.assert_array_equal(found, wanted)
    assert len(np.unique(wanted)) > 100
    assert simulation.measure(integers[100:164]) == TWICE


def test_a_changed_weight_is_seen(simulate):
    some = project()
    weight = some.operations[2].weight.copy()
    weight[1, 1] += 1
    operations = list(some.operations)
    operations[2] = replace(operations[2], weight=weight)
    x = inputs_for(some, 2000)
    found, _, _ = simulate(replace(some, operations=tuple(operations)), x)
    assert np.count_nonzero(found != some.evaluate(x)["score"][:, 0]) > 100


def test_there_is_one_product_per_weight_that_is_not_zero():
    some = project()
    one = replace(
        some, operations=some.operations[:1], output_name="one_out", output_type=some.operations[0].result
    )
    text = plain_verilog(one)
    weight = some.operations[0].weight
    terms = sum(len(_digits(int(k))) for k in weight.ravel())
    assert np.count_nonzero(weight) < terms == len(re.findall(r"\(w\d+ <<< \d+\)", text))


@needs_yosys
def test_yosys_maps_it(tmp_path):
    some = project()
    write_plain(some, tmp_path / "plain")
    cost = cost_of(tmp_path / "plain")
    assert cost.ff <= 6 * 8 + 18
    assert cost.lut > 200
    assert cost.lut_estimate is None
