"""Many events side by side in plain integers: the bits of the evaluation for every rounding, overflow and accumulator."""

from __future__ import annotations

import ctypes
import re
import shutil
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from elsewhere.deploy.fixedpoint import extreme_inputs
from elsewhere.deploy.lanes import Bounds, lanes_source, sums_of
from elsewhere.deploy.library import compile_shared
from elsewhere.deploy.project import Operation, Project
from elsewhere.errors import ConfigError
from elsewhere.fixed import Fixed

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: apt install g++")

ROUNDINGS, OVERFLOWS = ("TRN", "TRN_ZERO", "RND", "RND_CONV"), ("WRAP", "SAT", "SAT_SYM")
EXPORT = """
extern "C" __attribute__((visibility("default"))) void lanes_go(const double *e, double *s, long n) { lanes::score(e, s, n); }
"""


def compiled(project, place, change=lambda text: text):
    """A function of scaled inputs (n, d)."""
    source = place / "lanes.cpp"
    source.write_text(change(lanes_source(project)) + EXPORT)
    compile_shared(source, place / "lanes.so", [])
    handle = ctypes.CDLL(str(place / "lanes.so"))

    def score(inputs):
        inputs, out = np.ascontiguousarray(inputs), np.empty(len(inputs))
        handle.lanes_go(
            ctypes.c_void_p(inputs.ctypes.data), ctypes.c_void_p(out.ctypes.data), ctypes.c_long(len(inputs))
        )
        return out

    return score


def network(rng, modes, accum, wide=0, n_in=7, hidden=6):
    """Two dense layers with a ReLU, minus their first inputs, squared and summed, all in these modes."""

    def kind(bits, integer, signed=True):
        return Fixed(bits, integer, signed, *modes)

    def drawn(t, *shape):
        return rng.integers(t.low, t.high + 1, shape)

    x, weight, bias = kind(8 + wide, 4), kind(6, 0), kind(9, 2)
    a, r, out = kind(11 + wide, 5), kind(9 + wide, 4, signed=False), kind(8 + wide, 5)
    w1, w2 = drawn(weight, n_in, hidden), drawn(weight, hidden, n_in)
    wider = replace(accum, width=accum.width + 6, integer=accum.integer + 6)
    w1[rng.random(w1.shape) < 0.4] = 0
    operations = (
        Operation("d1", "dense", ("x",), "h", a, accum, w1, weight, drawn(bias, hidden), bias),
        Operation("r", "relu", ("h",), "hr", r),
        Operation("d2", "dense", ("hr",), "o", out, accum, w2, weight, drawn(bias, n_in), bias),
        Operation("s", "subtract", ("o", "x"), "diff", kind(12 + wide, 6)),
        Operation("e", "einsum", ("diff", "diff"), "sum", kind(22 + wide, 12, signed=False), wider),
        Operation("l", "linear", ("sum",), "score", kind(20 + wide, 11, signed=False)),
    )
    return Project("x", x, n_in, "score", operations[-1].result, operations)


def inputs_of(project, rng, n=3000):
    spread = rng.normal(0, project.input_type.high * project.input_type.step, (n, project.n_in))
    return np.concatenate([spread, extreme_inputs(project.input_type, project.n_in, 300, rng)])


# An accumulator that holds everything, one that overflows, one that rounds every product, one that does both; in other modes.
ACCUMULATORS = {
    "roomy": Fixed(34, 20), "narrow": Fixed(14, 5, True, "TRN", "WRAP"), "clipped": Fixed(14, 5, True, "RND", "SAT"),
    "coarse": Fixed(22, 20, True, "TRN_ZERO", "WRAP"), "both": Fixed(9, 6, True, "RND_CONV", "SAT_SYM"),
}  # fmt: skip


@pytest.mark.parametrize(("number", "modes"), list(enumerate(product(ROUNDINGS, OVERFLOWS))))
def test_every_mode_gives_the_bits_of_the_evaluation(tmp_path, number, modes):
    rng = np.random.default_rng(number)
    name = list(ACCUMULATORS)[number % len(ACCUMULATORS)]
    project = network(rng, modes, ACCUMULATORS[name])
    inputs = inputs_of(project, rng)
    wanted = project.score(inputs)
    assert len(np.unique(wanted)) > 30
    np.testing.assert_array_equal(compiled(project, tmp_path)(inputs), wanted)


@pytest.mark.parametrize("name", ACCUMULATORS)
def test_wide_types_are_held_in_64_bits(tmp_path, name):
    rng = np.random.default_rng(3)
    accum = replace(ACCUMULATORS[name], width=ACCUMULATORS[name].width + 10)
    project = network(rng, ("RND_CONV", "SAT"), accum, wide=10)
    assert re.search(r"(dense|einsum)<int64_t", lanes_source(project))
    inputs = inputs_of(project, rng)
    np.testing.assert_array_equal(compiled(project, tmp_path)(inputs), project.score(inputs))


def test_an_overflow_that_is_not_looked_for_is_seen_here(tmp_path):
    """The bounds are what allows a sum without checks: with all checks taken out, the narrow accumulator gives other bits."""
    rng = np.random.default_rng(5)
    project = network(rng, ("TRN", "WRAP"), ACCUMULATORS["clipped"])
    inputs = inputs_of(project, rng)
    blind = compiled(project, tmp_path, lambda text: re.sub(r"(dense<\w+), Cast<[^>]*>", r"\1, Exact", text))
    assert (blind(inputs) != project.score(inputs)).any()


WEIGHT, BIAS = Fixed(6, 2), Fixed(9, 4)


def dense(accum, weight, bias, wt=WEIGHT, bt=BIAS):
    return Operation(
        "d", "dense", ("x",), "y", Fixed(20, 10), accum, np.array(weight), wt, np.array(bias), bt
    )


def test_a_sum_is_checked_only_where_it_can_leave_its_range():
    """fixed<4,4>: -8..7. Weights 3 and -2 in steps 1/16, so sums from -8*3 - 7*2 = -38 to 7*3 + 8*2 = 37 in steps of 1/16."""
    x = Fixed(4, 4)
    for width, checked in ((7, False), (6, True)):  # -64..63 and -32..31 sixteenths
        found = sums_of(dense(Fixed(width, width - 4), [[3], [-2]], [0]), x, Bounds.of(x, 2))
        assert (found.checked, found.left) == (checked, 0)
    assert sums_of(dense(Fixed(7, 3), [[3], [-2]], [0]), x, Bounds.of(x, 2)).bits == 7


def test_bits_that_no_product_and_no_bias_has_are_not_carried():
    """An accumulator of 20 fraction bits, products of 4: only what the bias needs (6) is kept."""
    x = Fixed(4, 4)
    found = sums_of(dense(Fixed(40, 20), [[3], [-2]], [1 << 3], bt=Fixed(12, 3)), x, Bounds.of(x, 2))
    assert (found.fraction, found.weight.ravel().tolist(), found.start.tolist()) == (6, [12, -8], [1])


def test_products_that_do_not_fit_are_refused():
    x = Fixed(40, 20)
    with pytest.raises(ConfigError, match="layer d needs 66 bits"):
        sums_of(dense(Fixed(50, 30), [[3], [-2]], [0], wt=Fixed(26, 2)), x, Bounds.of(x, 2))
