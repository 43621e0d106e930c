"""A parsed firmware project as logic: every operation traced with da4ml, constants as wires and adders (distributed arithmetic).

The integers are those of `Project.evaluate`, which is the definition; nothing is approximated or re-ordered where the order
of additions can matter. Da4ml: arXiv 2507.04535.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..fixed import Fixed, Ints
from ..workspace import read_json, write_json
from .project import Operation, Project
from .rtl_cast import cast, constant, is_constant, overflowed, product, total

#: Digits of da4ml's decimal arithmetic: its scale factors are exact powers of two only with more than Python's usual 28.
_DIGITS = 250
#: Fraction bits that da4ml's constants can have, and significant bits of its matrices (float32).
_FRACTION, _SIGNIFICANT = 30, 24
_INSTALL = "install it with: pip install 'elsewhere[rtl]'"


@dataclass(frozen=True)
class Layers:
    """The interpreter's program: every layer of the network from the input's integers.

    ``program``: da4ml's combinational logic with the outputs of all layers side by side; ``slices``: for each array of the
    project its first and last column and the fraction bits of its type.
    """

    program: Any = field(repr=False)
    input_type: Fixed
    slices: dict[str, tuple[int, int, int]]

    def evaluate(self, integers: Ints) -> dict[str, Ints]:
        """The integers of every layer for input integers (n, n_in), by da4ml's interpreter."""
        values = np.ascontiguousarray(self.input_type.to_float(integers))
        out = self.program.predict(values, 1)
        return {
            name: np.rint(np.ldexp(out[:, a:b], fraction)).astype(np.int64)
            for name, (a, b, fraction) in self.slices.items()
        }

    def save(self, path: Path) -> None:
        """Write the program as JSON."""
        write_json(
            path, {"input": str(self.input_type), "slices": self.slices, "program": list(self.program)}
        )

    @classmethod
    def load(cls, path: Path) -> Layers:
        """Read a written program; raises `InputError`, and `ConfigError` without da4ml."""
        require_da4ml()
        from da4ml.types import CombLogic

        record = read_json(path)
        try:
            slices = {name: (int(a), int(b), int(f)) for name, (a, b, f) in record["slices"].items()}
            return cls(CombLogic.deserialize(record["program"]), Fixed.parse(record["input"]), slices)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{path} is not a traced network ({error!r}); export the firmware again"
            ) from error


@dataclass(frozen=True)
class Traced:
    """A traced project: the logic of the score in pipeline stages, and the interpreter's program of every layer."""

    stages: Any = field(repr=False)
    layers: Layers


def require_da4ml() -> None:
    """Raise `ConfigError` with the cure if da4ml is missing."""
    try:
        import da4ml.trace  # noqa: F401
    except ImportError:
        raise ConfigError(f"the RTL of a network is made by da4ml, which is missing; {_INSTALL}") from None


def trace(project: Project, latency_cutoff: int) -> Traced:
    """Trace a project and cut it into stages of at most ``latency_cutoff`` adders or selections in a row.

    Raises `ConfigError` naming the layer for what cannot be traced, `InputError` for a score that is a constant.
    """
    require_da4ml()
    with decimal.localcontext(prec=_DIGITS):
        return _trace(project, latency_cutoff)


def _trace(project: Project, latency_cutoff: int) -> Traced:
    from da4ml.trace import comb_trace
    from da4ml.trace.fixed_variable import FixedVariable
    from da4ml.trace.pipeline import to_pipeline

    kind = project.input_type
    ends = float(Fraction(kind.low) * Fraction(kind.step)), float(Fraction(kind.high) * Fraction(kind.step))
    _require_fraction(kind, "input")
    inputs = [FixedVariable(*ends, kind.step, hwconf=(1, -1, latency_cutoff)) for _ in range(project.n_in)]
    values: dict[str, list[Any]] = {project.input_name: inputs}
    types = {project.input_name: kind}
    for op in project.operations:
        _require_fraction(op.result, op.name)
        kinds = [types[name] for name in op.inputs]
        values[op.output] = _KERNELS[op.kind](op, [values[name] for name in op.inputs], kinds)
        types[op.output] = op.result
    score = values[project.output_name][0]
    if is_constant(score):
        raise InputError("the score is the same for every input; there is no logic to make")
    outputs, slices = [], {}
    for op in project.operations:
        width = len(outputs) + len(values[op.output])
        slices[op.output] = (len(outputs), width, op.result.fraction)
        outputs += values[op.output]
    program = comb_trace(inputs, outputs, keep_dead_inputs=True)
    logic = comb_trace(inputs, [score], keep_dead_inputs=True)
    stages = to_pipeline(logic, latency_cutoff, retiming=False, verbose=False)
    return Traced(stages, Layers(program, kind, slices))


def _require_fraction(kind: Fixed, layer: str) -> None:
    if kind.fraction > _FRACTION:
        raise ConfigError(
            f"layer {layer}: {kind} has {kind.fraction} fraction bits; RTL can have {_FRACTION}; use a coarser type"
        )


def _dense(op: Operation, values: list[list[Any]], types: list[Fixed]) -> list[Any]:
    """One adder tree per output with shared parts where the order cannot matter, else product by product."""
    assert op.accum is not None
    assert op.weight is not None
    assert op.weight_type is not None
    assert op.bias is not None
    assert op.bias_type is not None
    x, accum = values[0], op.accum
    _require_fraction(accum, op.name)
    if np.abs(op.weight).max(initial=0) >> _SIGNIFICANT:
        raise ConfigError(
            f"layer {op.name}: weights of {op.weight_type} have more than {_SIGNIFICANT} bits; use a narrower type"
        )
    weight = op.weight_type.to_float(op.weight)
    bias = accum.to_float(accum.cast(op.bias, op.bias_type.fraction))
    products = types[0].fraction + op.weight_type.fraction
    bound = _bound(types[0], op.weight, op.weight_type, bias)
    if products <= accum.fraction and (accum.overflow == "WRAP" or _holds(accum, bound)):
        sums = [v + float(b) for v, b in zip(_matmul(x, weight), bias, strict=True)]
        return [cast(overflowed(v, accum), op.result) for v in sums]
    sums = [constant(x[0], float(b)) for b in bias]
    for v, row in zip(x, weight, strict=True):
        terms = [cast(t, accum) for t in _matmul([v], row[None])]
        sums = [overflowed(a + b, accum) for a, b in zip(sums, terms, strict=True)]
    return [cast(v, op.result) for v in sums]


def _bound(kind: Fixed, weight: Ints, weight_type: Fixed, bias: NDArray[np.float64]) -> Fraction:
    """The largest magnitude that any partial sum can have."""
    largest = Fraction(max(-kind.low, kind.high)) * Fraction(2) ** -(kind.fraction + weight_type.fraction)
    sums = [
        largest * int(np.abs(c).sum()) + abs(Fraction(float(b))) for c, b in zip(weight.T, bias, strict=True)
    ]
    return max(sums)


def _holds(kind: Fixed, bound: Fraction) -> bool:
    return kind.signed and bound <= Fraction(kind.high) * Fraction(2) ** -kind.fraction


def _matmul(x: list[Any], weight: NDArray[np.float64]) -> list[Any]:
    """x @ weight, exact, as the shallowest adder trees (a few per cent more of them); constants among x are summed here."""
    from da4ml.trace import FixedVariableArray

    fixed = np.array([is_constant(v) for v in x])
    offset = np.array([float(v.low) for v in x if is_constant(v)]) @ weight[fixed]
    moving = [v for v in x if not is_constant(v)]
    if not moving:
        return [constant(x[0], float(c)) for c in offset]
    sums: Any = FixedVariableArray(np.array(moving, dtype=object), {"hard_dc": 0}) @ weight[~fixed]
    return [v + float(c) for v, c in zip(sums._vars, offset, strict=True)]


def _einsum(op: Operation, values: list[list[Any]], types: list[Fixed]) -> list[Any]:
    """The sum of products as a tree where the accumulator is exact or wraps, else term by term with its casts."""
    assert op.accum is not None
    accum, pairs = op.accum, zip(*values, strict=True)
    _require_fraction(accum, op.name)
    terms = [product(a, b) for a, b in pairs]
    bound = len(terms) * prod(Fraction(max(-t.low, t.high)) * Fraction(t.step) for t in types)
    exact = sum(t.fraction for t in types) <= accum.fraction
    square = values[0] is values[1]
    fits = bound <= Fraction(accum.high) * Fraction(accum.step) and (accum.signed or square)
    if exact and (accum.overflow == "WRAP" or fits):
        moving = [t for t in terms if not is_constant(t)]
        offset = sum(Fraction(t.low) for t in terms if is_constant(t))
        whole = total(moving) + float(offset) if moving else constant(terms[0], float(offset))
        return [cast(overflowed(whole, accum), op.result)]
    whole = constant(values[0][0], 0)
    for term in terms:
        whole = cast(whole + term, accum)
    return [cast(whole, op.result)]


def _subtract(op: Operation, values: list[list[Any]], _types: list[Fixed]) -> list[Any]:
    return [cast(a - b, op.result) for a, b in zip(*values, strict=True)]


def _relu(op: Operation, values: list[list[Any]], _types: list[Fixed]) -> list[Any]:
    return [cast(v, op.result, rectified=True) for v in values[0]]


def _linear(op: Operation, values: list[list[Any]], _types: list[Fixed]) -> list[Any]:
    return [cast(v, op.result) for v in values[0]]


_KERNELS = {"dense": _dense, "einsum": _einsum, "subtract": _subtract, "relu": _relu, "linear": _linear}
