"""A parsed project as plain Verilog in which every product is a constant multiplication of its own.

A stand-in for what hls4ml's latency strategy unrolls: no tool of the chip's vendor is here to map hls4ml's own C++, so the
same integers (`Project.evaluate`, casts included) are written as products and sums and mapped by the same open tool as da4ml's
adders. Logic between a register at the input and one at the output, no pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..fixed import Fixed
from ..workspace import write_json
from .project import Operation, Project
from .rtl import RECORD, TOP

#: The name of this mapping in tables.
NAME = "every product apart (yosys)"


@dataclass(frozen=True)
class _Wire:
    """A signed wire of ``width`` bits, ``fraction`` of them below the point."""

    name: str
    width: int
    fraction: int


@dataclass
class _Module:
    """The lines of a module under way."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def wire(self, expression: str, width: int, fraction: int) -> _Wire:
        """A new signed wire that carries an expression."""
        name = f"w{self.count}"
        self.count += 1
        self.lines.append(f"    wire signed [{width - 1}:0] {name} = {expression};")
        return _Wire(name, width, fraction)

    def cast(self, v: _Wire, kind: Fixed) -> _Wire:
        """``v`` in the type ``kind`` as `Fixed.cast` does it; an unsigned type gets a sign bit that is 0."""
        drop = v.fraction - kind.fraction
        if drop <= 0:
            moved = self.wire(f"{v.name} <<< {-drop}", v.width - drop, kind.fraction) if drop else v
            return self.overflowed(moved, kind)
        if v.width <= drop + 1:  # the bits that are looked at must be there
            v = self.wire(v.name, drop + 2, v.fraction)
        down = self.wire(f"{v.name} >>> {drop}", v.width - drop, kind.fraction)
        up = self._up(v, drop, kind)
        if up:
            down = self.wire(f"{down.name} + $signed({{1'b0, {up}}})", down.width + 1, kind.fraction)
        return self.overflowed(down, kind)

    def _up(self, v: _Wire, drop: int, kind: Fixed) -> str:
        """The bit that is added to what is left when ``drop`` bits go."""
        half, odd, sign = f"{v.name}[{drop - 1}]", f"{v.name}[{drop}]", f"{v.name}[{v.width - 1}]"
        if kind.quantisation == "RND":
            return half
        if kind.quantisation == "TRN_ZERO":
            return f"({sign} & (|{v.name}[{drop - 1}:0]))"
        if kind.quantisation == "RND_CONV":
            below = f"(|{v.name}[{drop - 2}:0])" if drop > 1 else "1'b0"
            return f"({half} & ({below} | {odd}))"
        return ""

    def overflowed(self, v: _Wire, kind: Fixed) -> _Wire:
        """A wire of the right step in the type's range."""
        width = kind.width + (not kind.signed)  # with a sign bit
        if v.width <= width and kind.signed:
            return v if kind.overflow != "SAT_SYM" else self._saturated(v, kind, width)
        if kind.overflow == "WRAP":
            low = f"{v.name}[{min(kind.width, v.width) - 1}:0]"
            if v.width < kind.width:
                low = f"{{{{{kind.width - v.width}{{{v.name}[{v.width - 1}]}}}}, {low}}}"
            text = f"$signed({low})" if kind.signed else f"$signed({{1'b0, {low}}})"
            return self.wire(text, width, kind.fraction)
        return self._saturated(v, kind, width)

    def _saturated(self, v: _Wire, kind: Fixed, width: int) -> _Wire:
        """Clip by the bits above the type's range: all 0, or all 1 in a negative number, means that it fits."""
        if v.width <= width:
            v = self.wire(v.name, width + 1, v.fraction)
        sign, above = f"{v.name}[{v.width - 1}]", f"{v.name}[{v.width - 2}:{width - 1}]"
        over, under = f"(~{sign} & (|{above}))", sign if not kind.signed else f"({sign} & ~(&{above}))"
        low = kind.low
        if kind.overflow == "SAT_SYM" and kind.signed:
            low = -kind.high
            under = f"({under} | ({v.name} == {_constant(kind.low, v.width)}))"
        text = f"{over} ? {_constant(kind.high, width)} : {under} ? {_constant(low, width)} : {v.name}[{width - 1}:0]"
        return self.wire(text, width, kind.fraction)

    def sum(self, terms: Iterable[_Wire]) -> _Wire:
        """The exact sum of wires of one step, as a tree of adders."""
        parts = list(terms)
        while len(parts) > 1:
            pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
            parts = [self.add(pair[0], pair[1]) if len(pair) == 2 else pair[0] for pair in pairs]
        return parts[0]

    def add(self, a: _Wire, b: _Wire, sign: str = "+") -> _Wire:
        """a + b, exact; or a - b."""
        fraction = max(a.fraction, b.fraction)
        widths = [w.width + fraction - w.fraction for w in (a, b)]
        left, right = (
            self.wire(f"{w.name} <<< {fraction - w.fraction}", n, fraction) if fraction > w.fraction else w
            for w, n in zip((a, b), widths, strict=True)
        )
        return self.wire(f"{left.name} {sign} {right.name}", max(widths) + 1, fraction)

    def scaled(self, x: _Wire, k: int, fraction: int) -> _Wire:
        """x times a constant in its canonical signed digits, ``fraction`` bits below the point: shifts and adders of its own."""
        text = ""
        for power, digit in _digits(k):
            text += f" {'+' if digit > 0 else '-'} ({x.name} <<< {power})"
        return self.wire(text.removeprefix(" + "), x.width + _bits(k), fraction)

    def times(self, a: _Wire, b: _Wire) -> _Wire:
        """The exact product of two wires."""
        return self.wire(f"{a.name} * {b.name}", a.width + b.width, a.fraction + b.fraction)

    def constant(self, k: int, fraction: int) -> _Wire:
        """An integer as a wire."""
        width = _bits(k)
        return self.wire(_constant(k, width), width, fraction)


def _bits(k: int) -> int:
    """Bits of a signed number that holds ``k``."""
    return (k if k >= 0 else ~k).bit_length() + 1


def _digits(k: int) -> list[tuple[int, int]]:
    """(power, digit) of ``k`` with digits -1 and 1, no two in a row: as few as can be; highest first."""
    out, power = [], 0
    while k:
        if k & 1:
            digit = 2 - (k & 3)
            out.append((power, digit))
            k -= digit
        k >>= 1
        power += 1
    return out[::-1]


def _constant(k: int, width: int) -> str:
    """A signed constant, written by its bits: -2^(n-1) has no decimal form of n bits."""
    return f"{width}'sb{k & ((1 << width) - 1):0{width}b}"


def _dense(module: _Module, op: Operation, values: list[list[_Wire]], types: list[Fixed]) -> list[_Wire]:
    """Each non-zero weight times its input, cast to the accumulator; summed as a tree where no cast of a sum can matter."""
    assert op.accum is not None
    assert op.weight is not None
    assert op.weight_type is not None
    assert op.bias is not None
    assert op.bias_type is not None
    accum, fraction, out = op.accum, types[0].fraction + op.weight_type.fraction, []
    start = accum.cast(op.bias, op.bias_type.fraction)
    for j in range(op.weight.shape[1]):
        terms = []
        for x, w in zip(values[0], op.weight[:, j].tolist(), strict=True):
            if w:
                terms.append(module.cast(module.scaled(x, w, fraction), accum))
        bias = module.constant(int(start[j]), accum.fraction)
        if accum.overflow == "WRAP":
            whole = module.overflowed(module.sum([bias, *terms]), accum)
        else:
            whole = bias
            for term in terms:
                whole = module.overflowed(module.add(whole, term), accum)
        out.append(module.cast(whole, op.result))
    return out


def _einsum(module: _Module, op: Operation, values: list[list[_Wire]], types: list[Fixed]) -> list[_Wire]:
    assert op.accum is not None
    products = [module.times(a, b) for a, b in zip(*values, strict=True)]
    if op.accum.overflow == "WRAP" and sum(t.fraction for t in types) <= op.accum.fraction:
        whole = module.cast(module.sum(products), op.accum)
    else:
        whole = module.constant(0, op.accum.fraction)
        for product in products:
            whole = module.cast(module.add(whole, product), op.accum)
    return [module.cast(whole, op.result)]


def _subtract(module: _Module, op: Operation, values: list[list[_Wire]], _types: list[Fixed]) -> list[_Wire]:
    return [module.cast(module.add(a, b, "-"), op.result) for a, b in zip(*values, strict=True)]


def _relu(module: _Module, op: Operation, values: list[list[_Wire]], _types: list[Fixed]) -> list[_Wire]:
    out = []
    for v in values[0]:
        zero = _constant(0, v.width)
        positive = module.wire(f"{v.name}[{v.width - 1}] ? {zero} : {v.name}", v.width, v.fraction)
        out.append(module.cast(positive, op.result))
    return out


def _linear(module: _Module, op: Operation, values: list[list[_Wire]], _types: list[Fixed]) -> list[_Wire]:
    return [module.cast(v, op.result) for v in values[0]]


_KERNELS = {"dense": _dense, "einsum": _einsum, "subtract": _subtract, "relu": _relu, "linear": _linear}


def plain_verilog(project: Project) -> str:
    """The module ``score`` with the ports of da4ml's: clk, model_inp (element 0 lowest), model_out."""
    kind, module = project.input_type, _Module()
    total = kind.width * project.n_in
    inputs = []
    for i in range(project.n_in):
        bits = f"inp[{(i + 1) * kind.width - 1}:{i * kind.width}]"
        text = f"$signed({bits})" if kind.signed else f"$signed({{1'b0, {bits}}})"
        inputs.append(module.wire(text, kind.width + (not kind.signed), kind.fraction))
    values, types = {project.input_name: inputs}, {project.input_name: kind}
    for op in project.operations:
        arguments, kinds = [values[n] for n in op.inputs], [types[n] for n in op.inputs]
        values[op.output] = _KERNELS[op.kind](module, op, arguments, kinds)
        types[op.output] = op.result
    score = values[project.output_name][0]
    width = project.output_type.width
    lines = "\n".join(module.lines)
    return f"""\
// Made by elsewhere: every product of the network apart, between two registers.
module {TOP} (input clk, input [{total - 1}:0] model_inp, output reg [{width - 1}:0] model_out);
    reg [{total - 1}:0] inp;
{lines}
    wire signed [{width}:0] wide = {score.name};
    always @(posedge clk) begin
        inp <= model_inp;
        model_out <= wide[{width - 1}:0];
    end
endmodule
"""


def write_plain(project: Project, folder: Path) -> None:
    """Write ``src/score.v`` and the layout of its ports into ``folder``, as `rtl.compile_rtl` and `cost.cost_of` read them."""
    kind = project.output_type
    (folder / "src").mkdir(parents=True)
    (folder / "src" / f"{TOP}.v").write_text(plain_verilog(project))
    output = {"width": kind.width, "fraction": kind.fraction, "signed": kind.signed}
    record = {
        "top": TOP, "inputs": project.n_in, "input_type": str(project.input_type), "score_type": str(kind), "output": output,
    }  # fmt: skip
    write_json(folder / RECORD, record)
