"""Traced logic against the evaluation in integers: every layer, with accumulators that hold, wrap, truncate and saturate."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from elsewhere.deploy.fixedpoint import extreme_inputs
from elsewhere.deploy.project import Operation, Project
from elsewhere.deploy.rtl_trace import Layers, trace
from elsewhere.errors import ConfigError, InputError
from elsewhere.fixed import Fixed

da4ml = pytest.importorskip("da4ml", reason="da4ml is not installed: pip install 'elsewhere[rtl]'")

INPUT = Fixed.parse("fixed<8,5,RND_CONV,SAT>")
WEIGHT, BIAS = Fixed(6, 3), Fixed(9, 6)
SCORE = Fixed.parse("ufixed<14,10,RND_CONV,SAT>")


def dense(name, source, shape, result, accum, rng, weight=WEIGHT, bias=BIAS):
    w = rng.integers(weight.low, weight.high + 1, shape) * (rng.random(shape) < 0.7)
    b = rng.integers(bias.low, bias.high + 1, shape[1])
    return Operation(
        name, "dense", (source,), name, Fixed.parse(result), Fixed.parse(accum), w, weight, b, bias
    )


def chain(accum="fixed<20,12>", inner="fixed<10,7,RND_CONV,SAT>", squares="ufixed<24,18>", seed=0):
    """Dense, ReLU, dense, difference with the input, two scores added by a third dense: 4 inputs."""
    rng = np.random.default_rng(seed)
    P = Fixed.parse
    return Project("x", INPUT, 4, "out", SCORE, (
        dense("first", "x", (4, 5), accum, accum, rng),
        Operation("relu", "relu", ("first",), "relu", P("ufixed<7,5,RND_CONV,SAT>")),
        dense("second", "relu", (5, 4), inner, accum, rng),
        Operation("difference", "subtract", ("second", "x"), "d", P(inner)),
        Operation("squares", "einsum", ("d", "d"), "square", P("ufixed<16,11,RND,SAT>"), P(squares)),
        Operation("cross", "einsum", ("d", "second"), "cross", P("fixed<12,9,TRN,SAT>"), P(squares.replace("u", ""))),
        dense("mix", "square", (1, 1), "fixed<16,12,TRN_ZERO,SAT_SYM>", accum, rng),
        Operation("out", "relu", ("mix",), "out", SCORE),
    ))  # fmt: skip


def inputs(n=3000, width=4, seed=3):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(0, 4, (n, width)), extreme_inputs(INPUT, width, 1000, rng)])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accum": "fixed<12,7>"},  # wraps, and truncates each product
        {"accum": "fixed<14,7>"},  # wraps only: any order of additions gives the same
        {"accum": "fixed<13,7,RND_CONV,SAT>"},
        {"accum": "fixed<12,7,TRN_ZERO,SAT_SYM>", "inner": "fixed<8,5,RND,WRAP>"},
        {"squares": "ufixed<12,8>"},
        {"squares": "ufixed<13,9,RND_CONV,SAT>", "inner": "fixed<7,6,TRN,SAT>"},
    ],
    ids=str,
)
def test_every_layer_is_that_of_the_evaluation(settings):
    project, x = chain(**settings), inputs()
    wanted = project.evaluate(x)
    found = trace(project, 4).layers.evaluate(project.input_type.from_float(x))
    for op in project.operations:
        np.testing.assert_array_equal(found[op.output], wanted[op.output], err_msg=op.name)
    if "accum" in settings:  # the case must happen to mean anything
        free = chain().evaluate(x)["first"] / 2.0**8
        kind = Fixed.parse(settings["accum"])
        assert (np.abs(free) > kind.high * kind.step).any()


def test_the_score_of_a_plain_dense_layer_and_dead_neurons():
    rng = np.random.default_rng(1)
    first = dense("first", "x", (4, 6), "fixed<20,12>", "fixed<20,12>", rng)
    first.weight[:, 2:4] = 0
    first.bias[2:4] = (-7, 9)
    relu = Operation("relu", "relu", ("first",), "relu", Fixed.parse("ufixed<6,4,RND_CONV,SAT>"))
    last = dense("out", "relu", (6, 1), "ufixed<12,8,RND_CONV,SAT>", "fixed<20,12>", rng)
    project = Project("x", INPUT, 4, "out", last.result, (first, relu, last))
    x = inputs()
    found = trace(project, 4).layers.evaluate(INPUT.from_float(x))
    np.testing.assert_array_equal(found["out"], project.evaluate(x)["out"])


def test_scale_factors_stay_exact_through_many_layers():
    rng = np.random.default_rng(2)
    wide = "fixed<34,13>"
    operations, name = [], "x"
    for i in range(9):
        operations.append(dense(f"d{i}", name, (4, 4), wide, wide, rng, Fixed(12, 2), Fixed(16, 3)))
        operations[-1].weight[:] //= 3
        kind = Fixed.parse("ufixed<16,8,RND_CONV,SAT>")
        operations.append(Operation(f"r{i}", "relu", (f"d{i}",), f"r{i}", kind))
        name = f"r{i}"
    project = Project("x", INPUT, 4, name, operations[-1].result, tuple(operations))
    x = inputs()
    wanted, found = project.evaluate(x), trace(project, 5).layers.evaluate(INPUT.from_float(x))
    for op in operations:
        np.testing.assert_array_equal(found[op.output], wanted[op.output], err_msg=op.name)


def test_a_written_program_gives_the_same(tmp_path):
    project, x = chain(), inputs(200)
    layers = trace(project, 4).layers
    layers.save(tmp_path / "layers.json")
    again = Layers.load(tmp_path / "layers.json").evaluate(INPUT.from_float(x))
    for name, values in layers.evaluate(INPUT.from_float(x)).items():
        np.testing.assert_array_equal(again[name], values)
    (tmp_path / "layers.json").write_text("{}")
    with pytest.raises(InputError, match="export the firmware again"):
        Layers.load(tmp_path / "layers.json")


def test_the_trace_is_the_same_every_time():
    one, two = (trace(chain(), 4) for _ in range(2))
    assert list(one.layers.program) == list(two.layers.program)
    assert one.stages == two.stages


def test_what_cannot_be_traced_is_refused_by_name():
    rng = np.random.default_rng(0)
    heavy = dense("first", "x", (4, 1), "fixed<40,30>", "fixed<45,36>", rng, weight=Fixed(28, 27))
    with pytest.raises(ConfigError, match=r"first.*24 bits"):
        trace(Project("x", INPUT, 4, "first", SCORE, (heavy,)), 4)
    fine = dense("first", "x", (4, 1), "fixed<40,5>", "fixed<45,10>", rng)
    with pytest.raises(ConfigError, match=r"first.*fraction bits"):
        trace(Project("x", INPUT, 4, "first", SCORE, (fine,)), 4)
    empty = dense("first", "x", (4, 1), "fixed<20,12>", "fixed<20,12>", rng)
    empty.weight[:] = 0
    with pytest.raises(InputError, match="same for every input"):
        trace(Project("x", INPUT, 4, "first", SCORE, (empty,)), 4)


def test_without_da4ml_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "da4ml.trace", None)
    with pytest.raises(ConfigError, match=r"da4ml.*pip install"):
        trace(chain(), 4)
