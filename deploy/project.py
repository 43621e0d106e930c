"""An independent evaluation of an exported firmware project, integer by integer.

Nothing is taken from the training side: the chain of layers, every type and every weight are read from the C++ project
that the board team gets, and evaluated in NumPy int64. The C++ emulator must give the same bits (2411.19506 asks the
same of the level-1 autoencoder before it is deployed).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..fixed import Fixed, Ints

_TYPEDEF = re.compile(r"^typedef\s+(ap_u?fixed<[^>]+>)\s+(\w+);", re.MULTILINE)
_CALL = re.compile(r"^\s*nnet::(\w+)<([\w, ]+)>\(([\w, ]+)\);(?:\s*//\s*(\w+))?", re.MULTILINE)
_TOP = re.compile(r"void\s+\w+\(\s*(\w+)\s+(\w+)\[(\d+)\],\s*(\w+)\s+(\w+)\[(\d+)\]\s*\)")
_STRUCT = re.compile(r"^struct (\w+)[^\n{]*\{(.*?)^\};", re.MULTILINE | re.DOTALL)
_CONSTANT = re.compile(r"static const (?:unsigned|bool) (\w+) = (\w[\w:]*);")
_ALIAS = re.compile(r"typedef (\w+) (\w+);")


@dataclass(frozen=True)
class Operation:
    """One layer of the project: what it does, with which names and types. ``accum`` is None where there is none."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    result: Fixed
    accum: Fixed | None = None
    weight: Ints | None = None
    weight_type: Fixed | None = None
    bias: Ints | None = None
    bias_type: Fixed | None = None


@dataclass(frozen=True)
class Project:
    """A parsed project: the input array with its type and length, the operations in order, the output array."""

    input_name: str
    input_type: Fixed
    n_in: int
    output_name: str
    output_type: Fixed
    operations: tuple[Operation, ...]

    def evaluate(self, inputs: NDArray[np.float64]) -> dict[str, Ints]:
        """Integers of every array of the project, keyed by its name in the C++; ``inputs`` (n, n_in) scaled doubles."""
        values = {self.input_name: self.input_type.from_float(inputs)}
        types = {self.input_name: self.input_type}
        for op in self.operations:
            arguments = [values[name] for name in op.inputs]
            kinds = [types[name] for name in op.inputs]
            values[op.output] = _KERNELS[op.kind](op, arguments, kinds)
            types[op.output] = op.result
        return values

    def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of each row of scaled inputs, shape (n,)."""
        return self.output_type.to_float(self.evaluate(inputs)[self.output_name][:, 0])


def _dense(op: Operation, values: list[Ints], types: list[Fixed]) -> Ints:
    """The 'latency' kernel: each product is cast to the accumulator's type, then added to the bias one by one."""
    assert op.accum is not None
    assert op.weight is not None
    assert op.weight_type is not None
    assert op.bias is not None
    assert op.bias_type is not None
    require_room(types[0].width + op.weight_type.width, op.name)
    x, fraction = values[0], types[0].fraction + op.weight_type.fraction
    total = np.broadcast_to(op.accum.cast(op.bias, op.bias_type.fraction), (len(x), len(op.bias)))
    for i, row in enumerate(op.weight):
        total = op.accum.overflowed(total + op.accum.cast(x[:, i, None] * row, fraction))
    return op.result.cast(total, op.accum.fraction)


def _einsum(op: Operation, values: list[Ints], types: list[Fixed]) -> Ints:
    """'bi,bi->b': the uncast product is added to the accumulator and the sum is cast, term by term."""
    assert op.accum is not None
    (a, b), (ta, tb) = values, types
    product, accum = ta.fraction + tb.fraction, op.accum
    fraction = max(product, accum.fraction)
    require_room(
        max(ta.width + tb.width + fraction - product, accum.width + fraction - accum.fraction) + 1, op.name
    )
    total = np.zeros(len(a), dtype=np.int64)
    for i in range(a.shape[1]):
        term = (a[:, i] * b[:, i]) << (fraction - product)
        total = accum.cast((total << (fraction - accum.fraction)) + term, fraction)
    return op.result.cast(total, accum.fraction)[:, None]


def _subtract(op: Operation, values: list[Ints], types: list[Fixed]) -> Ints:
    fraction = max(t.fraction for t in types)
    a, b = (v << (fraction - t.fraction) for v, t in zip(values, types, strict=True))
    return op.result.cast(a - b, fraction)


def _relu(op: Operation, values: list[Ints], types: list[Fixed]) -> Ints:
    return op.result.cast(np.maximum(values[0], 0), types[0].fraction)


def _linear(op: Operation, values: list[Ints], types: list[Fixed]) -> Ints:
    return op.result.cast(values[0], types[0].fraction)


def require_room(bits: int, layer: str) -> None:
    """Refuse a layer whose exact products do not fit into 62 bits with a `ConfigError`."""
    if bits > 62:
        raise ConfigError(
            f"layer {layer} needs {bits} bits for an exact product, at most 62 can be checked; use narrower types"
        )


_KERNELS = {"dense": _dense, "einsum": _einsum, "subtract": _subtract, "relu": _relu, "linear": _linear}
_PLAIN = {"relu", "linear", "subtract"}


@dataclass(frozen=True)
class _Sources:
    """The texts of a project with its tables of types and configurations."""

    hls: Path
    types: dict[str, Fixed]
    structs: dict[str, str]

    def type(self, name: str) -> Fixed:
        if name not in self.types:
            raise InputError(
                f"{self.hls}/firmware/defines.h has no fixed-point type {name}; export the project again"
            )
        return self.types[name]

    def constants(self, config: str) -> dict[str, str]:
        return dict(_CONSTANT.findall(self._body(config)))

    def alias(self, config: str, name: str) -> Fixed:
        aliases = {alias: target for target, alias in _ALIAS.findall(self._body(config))}
        if name not in aliases:
            raise InputError(
                f"{self.hls}/firmware/parameters.h: {config} names no {name}; export the project again"
            )
        return self.type(aliases[name])

    def _body(self, config: str) -> str:
        if config not in self.structs:
            raise InputError(
                f"{self.hls}/firmware/parameters.h has no struct {config}; export the project again"
            )
        return self.structs[config]

    def require(self, config: str, *texts: str) -> None:
        for text in texts:
            if text not in self._body(config):
                raise InputError(
                    f"{self.hls}/firmware/parameters.h: {config} lacks '{text}'; only projects with the latency "
                    "strategy and ordinary products can be checked"
                )

    def numbers(self, name: str, kind: Fixed) -> Ints:
        path = self.hls / "firmware" / "weights" / f"{name}.txt"
        try:
            raw = np.array([float(t) for t in path.read_text().split(",")])
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is not a list of numbers ({error}); export the project again"
            ) from error
        return kind.from_float(raw)


def _operation(src: _Sources, kind: str, types: list[str], arguments: list[str], label: str) -> Operation:
    config = types[-1]
    if kind == "dense":
        data, output, w, b = arguments
        src.require(config, "nnet::DenseLatency<", "nnet::product::mult<")
        shape = src.constants(config)
        n_in, n_out = int(shape["n_in"]), int(shape["n_out"])
        wt, bt = src.alias(config, "weight_t"), src.alias(config, "bias_t")
        weight, bias = src.numbers(w, wt), src.numbers(b, bt)
        if weight.size != n_in * n_out or bias.size != n_out:
            raise InputError(
                f"{src.hls}: weights {w}, {b} do not have the shape ({n_in}, {n_out}) of {config}"
            )
        accum = src.alias(config, "accum_t")
        weight = weight.reshape(n_in, n_out)
        return Operation(label, kind, (data,), output, src.type(types[1]), accum, weight, wt, bias, bt)
    if kind == "einsum":
        src.require(config, "n_free0 = 1;", "n_free1 = 1;", "n_inplace = 1;", "nnet::product::mult<")
        accum = src.alias(config, "accum_t")
        return Operation(label, kind, tuple(arguments[:2]), arguments[2], src.type(types[2]), accum)
    if kind in _PLAIN:
        return Operation(label, kind, tuple(arguments[:-1]), arguments[-1], src.type(types[-2]))
    raise InputError(f"{src.hls}: layer {label} is nnet::{kind}; known: {', '.join(sorted(_KERNELS))}")


def read_project(hls: Path, name: str = "score") -> Project:
    """Parse the C++ of an exported project (``hls`` is its root folder); raises `InputError` naming file and name."""
    firmware = hls / "firmware"
    try:
        top, defines, parameters = (
            (firmware / f).read_text() for f in (f"{name}.cpp", "defines.h", "parameters.h")
        )
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read; export the firmware again") from error
    types = {alias: Fixed.parse(text) for text, alias in _TYPEDEF.findall(defines)}
    src = _Sources(hls, types, dict(_STRUCT.findall(parameters)))
    signature = _TOP.search(top)
    if signature is None:
        raise InputError(f"{firmware}/{name}.cpp: no top function with one input and one output array")
    in_type, in_name, n_in, out_type, out_name, _ = signature.groups()
    operations = tuple(
        _operation(src, kind, re.split(r",\s*", types_text), re.split(r",\s*", arguments), label or kind)
        for kind, types_text, arguments, label in _CALL.findall(top)
    )
    if not operations or operations[-1].output != out_name:
        raise InputError(
            f"{firmware}/{name}.cpp: the last layer does not fill {out_name}; export the firmware again"
        )
    return Project(in_name, src.type(in_type), int(n_in), out_name, src.type(out_type), operations)
