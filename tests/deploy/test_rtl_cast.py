"""Casts and products of logic against fixed.Fixed, for every integer of small types, in da4ml's interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from elsewhere.deploy.rtl_cast import cast, product
from elsewhere.fixed import Fixed

pytest.importorskip("da4ml", reason="da4ml is not installed: pip install 'elsewhere[rtl]'")
from da4ml.trace import comb_trace
from da4ml.trace.fixed_variable import FixedVariable

SOURCES = (Fixed(6, 3), Fixed(5, 2, False), Fixed(5, -1), Fixed(4, 6))
KINDS = [
    Fixed(width, integer, signed, quantisation, overflow)
    for width, integer, signed, quantisation, overflow in itertools.product(
        (1, 3, 8),
        (-2, 0, 2, 7),
        (True, False),
        ("TRN", "TRN_ZERO", "RND", "RND_CONV"),
        ("WRAP", "SAT", "SAT_SYM"),
    )
]


def variable(kind: Fixed) -> FixedVariable:
    return FixedVariable(kind.low * kind.step, kind.high * kind.step, kind.step, hwconf=(1, -1, -1))


def everything(kind: Fixed):
    return np.arange(kind.low, kind.high + 1)


def run(inputs, outputs, x):
    return comb_trace(inputs, outputs, keep_dead_inputs=True).predict(np.ascontiguousarray(x), 1)


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("factor", [1, -2], ids=["plain", "negated"])
@pytest.mark.parametrize("rectified", [False, True], ids=["linear", "relu"])
def test_every_cast_of_every_integer_is_that_of_fixed(source, factor, rectified):
    v, k = variable(source), everything(source)
    found = run(
        [v],
        [cast(v * float(factor), kind, rectified=rectified) for kind in KINDS],
        source.to_float(k)[:, None],
    )
    values = np.maximum(k * factor, 0) if rectified else k * factor
    for column, kind in enumerate(KINDS):
        wanted = kind.to_float(kind.cast(values, source.fraction))
        np.testing.assert_array_equal(found[:, column], wanted, err_msg=f"{source} to {kind}")


def test_casts_of_constants():
    v = variable(Fixed(4, 2))
    for number, kind in itertools.product((-1.5, -0.25, 0.0, 0.375, 2.75), KINDS):
        fixed = FixedVariable.from_const(number, hwconf=v.hwconf)
        assert float(cast(fixed, kind).low) == kind.to_float(kind.cast(np.array(int(number * 8)), 3)), (
            number,
            kind,
        )


@pytest.mark.parametrize("factor", [1.0, -0.5])
def test_products_are_exact(factor):
    kinds = (
        Fixed(4, 2),
        Fixed(3, 4, False),
        Fixed(5, 1, False),
        Fixed(1, 1, False),
        Fixed(2, 0),
        Fixed(6, -1),
    )
    for a, b in itertools.product(kinds, kinds):
        va, vb = variable(a), variable(b)
        x = np.array(list(itertools.product(a.to_float(everything(a)), b.to_float(everything(b)))))
        found = run([va, vb], [product(va * factor, vb)], x)[:, 0]
        np.testing.assert_array_equal(found, factor * x[:, 0] * x[:, 1], err_msg=f"{a} {b}")


@pytest.mark.parametrize("factor", [1.0, -0.5])
@pytest.mark.parametrize("kind", [Fixed(7, 3), Fixed(6, 2, False), Fixed(1, 1), Fixed(2, 1)], ids=str)
def test_squares_are_exact(kind, factor):
    v, x = variable(kind), kind.to_float(everything(kind))[:, None]
    scaled = v * factor
    np.testing.assert_array_equal(run([v], [product(scaled, scaled)], x), (factor * x) ** 2)
