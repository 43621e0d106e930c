"""The emulator in plain integers, many events side by side: the same bits as the exported C++, tens of times as fast.

The exported C++ computes one event at a time in ap_types. Here the operations of its `Project` become tables and loops over a block of
events, which compilers turn into vector instructions. Zero weights cost nothing. Which sums can lose bits, and how many bits they need,
is found from the types and weights, so that a cast is left out only where it provably changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..fixed import Fixed, Ints
from .lanes_source import SOURCE
from .project import Operation, Project, require_room

#: Bits of the integers in which a value is held; one is left for sums of two.
_NARROW = 31


@dataclass(frozen=True)
class Bounds:
    """Smallest and largest integer of every element of an array, each (size,)."""

    low: Ints
    high: Ints

    @classmethod
    def of(cls, kind: Fixed, size: int) -> Bounds:
        """All that a type can hold."""
        return cls(np.full(size, kind.low), np.full(size, kind.high))

    @property
    def bits(self) -> int:
        """Bits of a signed integer that holds them all."""
        return 1 + max(int(self.high.max()).bit_length(), int(self.low.min()).bit_length())


@dataclass(frozen=True)
class Sums:
    """How a layer's sums over ``weight`` (n_in, n_out) are taken.

    ``fraction`` of the running sum, which begins with ``start``; ``left``: by how much a product is shifted up, negative: down, by the
    accumulator's rounding; ``checked``: whether the sum can leave the accumulator's range, and overflows after every term; ``bits``
    that hold all that comes up.
    """

    weight: Ints
    start: Ints
    fraction: int
    left: int
    checked: bool
    bits: int


def _trailing(values: Ints) -> int:
    """How many of the last bits are 0 in all of ``values``; 62 if all are 0."""
    together = int(np.bitwise_or.reduce(np.abs(values), initial=0))
    return (together & -together).bit_length() - 1 if together else 62


def sums_of(op: Operation, source: Fixed, inside: Bounds) -> Sums:
    """The sums of a dense layer whose inputs have the type ``source`` and lie ``inside``."""
    assert op.accum is not None
    assert op.weight is not None
    assert op.weight_type is not None
    assert op.bias is not None
    assert op.bias_type is not None
    accum, product = op.accum, source.fraction + op.weight_type.fraction
    start = op.accum.cast(op.bias, op.bias_type.fraction)
    left = accum.fraction - product
    require_room(source.width + op.weight_type.width + max(left, 0), op.name)
    whole = np.stack([inside.low[:, None] * op.weight, inside.high[:, None] * op.weight])
    # Rounding down or up moves an end by one at most.
    ends = whole << left if left >= 0 else np.concatenate([whole >> -left, (whole >> -left) + 1])
    low, high = np.minimum(ends.min(axis=0), 0), np.maximum(ends.max(axis=0), 0)
    lowest, highest = int((start + low.sum(axis=0)).min()), int((start + high.sum(axis=0)).max())
    checked = lowest < accum.low or highest > accum.high
    if checked or left < 0:
        product = int(np.abs(ends).max()) if left >= 0 else int(np.abs(whole).max())
        largest = max(product, -accum.low, accum.high)
        return Sums(op.weight, start, accum.fraction, left, checked, 2 + largest.bit_length())
    spare = min(left, _trailing(start))  # bits below which nothing ever stands
    bits = 1 + max(-lowest >> spare, highest >> spare).bit_length()
    return Sums(op.weight << (left - spare), start >> spare, accum.fraction - spare, 0, False, bits)


def _room(bits: int, fraction: int, kind: Fixed) -> int:
    """Bits that a cast of a number of ``bits`` bits needs on its way."""
    up = max(kind.fraction - fraction, 0)
    return max(bits + up, kind.width + 1) + 1


def _c_type(bits: int) -> str:
    return "int32_t" if bits <= _NARROW else "int64_t"


def _array(name: str, kind: str, values: Sequence[int] | NDArray[np.integer]) -> str:
    text = ", ".join(str(int(v)) for v in values) or "0"
    return f"static const {kind} {name}[] = {{{text}}};\n"


def _cast(kind: Fixed, fraction: int) -> str:
    """The template's name of a cast into ``kind`` of numbers with ``fraction`` bits below the point."""
    return f"Cast<{fraction - kind.fraction}, {kind.width}, {int(kind.signed)}, {kind.quantisation}, {kind.overflow}>"


class _Writer:
    """Tables and calls of a project, operation by operation."""

    def __init__(self, project: Project) -> None:
        self.tables: list[str] = []
        self.arrays: list[str] = []
        self.calls: list[str] = []
        self.kinds: dict[str, Fixed] = {}
        self.bounds: dict[str, Bounds] = {}
        self.add(project.input_name, project.input_type, project.n_in)

    def add(self, name: str, kind: Fixed, size: int) -> None:
        self.kinds[name], self.bounds[name] = kind, Bounds.of(kind, size)
        held = _c_type(kind.width + 1)
        self.arrays.append(f"    alignas(64) {held} v_{name}[{size}][LANES];")

    def write(self, op: Operation) -> None:
        sources = [self.kinds[name] for name in op.inputs]
        size = len(self.bounds[op.inputs[0]].low)
        if op.kind == "dense":
            assert op.weight is not None
            size = op.weight.shape[1]
        self.add(op.output, op.result, 1 if op.kind == "einsum" else size)
        names = ", ".join(f"v_{name}" for name in (*op.inputs, op.output))
        if op.kind == "dense":
            call = self._dense(op, sources[0])
        elif op.kind == "einsum":
            call = self._einsum(op, sources, size)
        else:
            fraction = max(s.fraction for s in sources)
            raised = [s.width + fraction - s.fraction for s in sources]
            bits = _room(max(raised) + 1, fraction, op.result)
            ups = [str(fraction - s.fraction) for s in sources]
            call = f"{op.kind}<{', '.join([_c_type(bits), _cast(op.result, fraction), *ups])}>({size}"
        self.calls.append(f"    {call}, {names});")

    def _dense(self, op: Operation, source: Fixed) -> str:
        assert op.accum is not None
        sums = sums_of(op, source, self.bounds[op.inputs[0]])
        held = _c_type(max(sums.bits, _room(sums.bits, sums.fraction, op.result)))
        columns = [np.flatnonzero(column) for column in sums.weight.T]
        rows = np.concatenate([*columns, np.zeros(0, np.int64)]).astype(np.int64)
        values = np.concatenate([c[i] for c, i in zip(sums.weight.T, columns, strict=True)])
        ends = np.cumsum([0, *(len(i) for i in columns)])
        tables = {"end": ends, "row": rows, "weight": values, "start": sums.start}
        for name, table in tables.items():
            wide = held if name in ("weight", "start") else "int32_t"
            self.tables.append(_array(f"{op.output}_{name}", wide, table))
        exact = not sums.checked and sums.left >= 0
        each = "Exact" if exact else _cast(op.accum, op.accum.fraction - sums.left)
        given = ", ".join(f"{op.output}_{name}" for name in tables)
        return f"dense<{held}, {each}, {_cast(op.result, sums.fraction)}>({sums.weight.shape[1]}, {given}"

    def _einsum(self, op: Operation, sources: Sequence[Fixed], size: int) -> str:
        assert op.accum is not None
        a, b = sources
        product = a.fraction + b.fraction
        fraction = max(product, op.accum.fraction)
        bits = max(a.width + b.width + fraction - product, op.accum.width + fraction - op.accum.fraction) + 1
        held = _c_type(
            max(_room(bits, fraction, op.accum), _room(op.accum.width, op.accum.fraction, op.result))
        )
        ups = f"{fraction - op.accum.fraction}, {fraction - product}"
        return f"einsum<{held}, {_cast(op.accum, fraction)}, {ups}, {_cast(op.result, op.accum.fraction)}>({size}"


def lanes_source(project: Project) -> str:
    """C++ of ``lanes::score(const double *events, double *scores, long n)`` for scaled inputs, without any library."""
    writer = _Writer(project)
    for op in project.operations:
        writer.write(op)
    kind, last = project.input_type, project.output_type
    fields: Mapping[str, str] = {
        "TABLES": "".join(writer.tables),
        "ARRAYS": "\n".join(writer.arrays),
        "CALLS": "\n".join(writer.calls),
        "INPUT": f"Input<{kind.fraction}, {kind.width}, {int(kind.signed)}, {kind.quantisation}, {kind.overflow}>",
        "N_IN": str(project.n_in),
        "FIRST": f"v_{project.input_name}",
        "LAST": f"v_{project.output_name}",
        "STEP": float.hex(last.step),
    }
    text = SOURCE
    for key, value in fields.items():
        text = text.replace(f"@{key}@", value)
    return text


def write_lanes(project: Project, path: Path) -> None:
    """Write `lanes_source` beside the project it was read from."""
    path.write_text(lanes_source(project))
