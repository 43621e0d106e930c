"""One network exported twice: hls4ml's C++ and da4ml's Verilog next to each other, in what open tools can measure.

No tool of the chip's vendor maps hls4ml's C++ here. What stands in for it is the same network with every product apart
(`plain_verilog`), mapped by the tool that maps da4ml's Verilog; it is no vendor number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ElsewhereError
from ..fixed import Ints
from .cost import Cost, cost_of
from .library import Library
from .plain_verilog import NAME, write_plain
from .project import Project
from .rtl import Timing, compile_rtl
from .rtl_proof import Proof, Rtl

log = logging.getLogger(__name__)

#: Events whose scores are timed, and events of the stand-in's proof.
TIMED, PROVED = 10_000, 20_000
#: Non-zero weights beyond which the stand-in is not mapped, because yosys would take more than minutes.
MOST_WEIGHTS = 2_500


@dataclass(frozen=True)
class Counts:
    """What a project multiplies in a crossing.

    ``weights``, of which ``nonzero`` are products that the latency strategy unrolls, ``shifts`` of them by a power of two alone;
    ``products``: of two variables; ``ebops``: effective bit operations (2405.00645), the width of each input without its sign
    times the bits of the weight from its highest to its lowest that is set, or times the width of the other variable.
    """

    weights: int
    nonzero: int
    shifts: int
    products: int
    ebops: int

    @classmethod
    def of(cls, project: Project) -> Counts:
        """Count a parsed project."""
        types, weights, nonzero, shifts, products, ebops = (
            {project.input_name: project.input_type},
            *(0,) * 5,
        )
        for op in project.operations:
            sources = [types[name] for name in op.inputs]
            bits = [t.width - t.signed for t in sources]
            if op.weight is not None:
                magnitude = np.abs(op.weight[op.weight != 0])
                odd = magnitude // (magnitude & -magnitude)
                weights, nonzero = weights + op.weight.size, nonzero + magnitude.size
                shifts += int((odd == 1).sum())
                ebops += bits[0] * sum(int(k).bit_length() for k in odd)
            elif op.kind == "einsum":
                terms = _width(project, op.inputs[0])
                products, ebops = products + terms, ebops + terms * bits[0] * bits[1]
            types[op.output] = op.result
        return cls(weights, nonzero, shifts, products, ebops)


def _width(project: Project, array: str) -> int:
    """How many numbers an array of the project holds."""
    for op in project.operations:
        if op.output == array:
            return _width(project, op.inputs[0]) if op.weight is None else op.weight.shape[1]
    return project.n_in


@dataclass(frozen=True)
class Column:
    """One of the implementations: seconds to make and to compile, scores per second / 1000 of one core, scores that differ from
    the evaluation in integers; cells where they were counted, and da4ml's own estimate."""

    name: str
    made_s: float
    compile_s: float
    khz: float
    mismatches: int
    lut: int | None = None
    ff: int | None = None
    dsp: int | None = None
    depth: int | None = None
    cost_s: float | None = None
    lut_estimate: int | None = None

    @classmethod
    def of(
        cls, name: str, seconds: tuple[float, float], khz: float, mismatches: int, cost: Cost | None = None, estimate: int | None = None,
    ) -> Column:  # fmt: skip
        """Round what was measured."""
        whole = cls(
            name, round(seconds[0], 2), round(seconds[1], 2), round(khz, 1), mismatches, lut_estimate=estimate
        )
        if cost is None:
            return whole
        return replace(whole, lut=cost.lut, ff=cost.ff, dsp=cost.dsp, depth=cost.depth, cost_s=cost.seconds)


@dataclass(frozen=True)
class SideBySide:
    """The columns of the table, events compared by the first three, what is multiplied, and why the stand-in is left out."""

    events: int
    counts: Counts
    columns: tuple[Column, ...]
    left_out: str | None = None

    def to_json(self) -> dict[str, Any]:
        """What firmware.json records."""
        return {
            "side_by_side": {
                "events": self.events, "counts": asdict(self.counts), "columns": [asdict(c) for c in self.columns],
                "stand_in": self.left_out or f"{NAME}: a multiplication by a constant of its own for every non-zero weight, without a "
                "pipeline, stands in for hls4ml's C++, which no vendor tool maps here; no vendor number, nor an estimate of one",
            }
        }  # fmt: skip


def khz_of(score: Callable[[], Any], events: int) -> float:
    """Scores per second / 1000, by the wall clock: a simulation is another process."""
    start = time.perf_counter()
    score()
    return events / max(time.perf_counter() - start, 1e-9) / 1000


def side_by_side(
    project: Project, library: Library, rtl: Rtl, proof: Proof, inputs: NDArray[np.float64],
    seconds: Mapping[str, tuple[float, float]], estimate: int | None, cost: Cost | None, place: Path,
) -> SideBySide:  # fmt: skip
    """Time the three implementations of a proved export on scaled inputs (n, d); map the stand-in where ``cost`` is given.

    ``seconds``: (made, compiled) of 'hls4ml', 'interpreter' and 'rtl'; ``place``: a folder for the stand-in. Raises
    `ElsewhereError` if the stand-in is not the same network.
    """
    some, counts = inputs[:TIMED], Counts.of(project)
    integers = project.input_type.from_float(some)
    speed = {
        "hls4ml": khz_of(lambda: library.score_single(some), len(some)),
        "interpreter": khz_of(lambda: rtl.layers.evaluate(integers), len(some)),
        "rtl": khz_of(lambda: rtl.simulation.scores(integers, proof.timing), len(some)),
    }
    wrong = [s.mismatches for s in proof.steps]
    columns = [
        Column.of("hls4ml: C++", seconds["hls4ml"], speed["hls4ml"], wrong[0]),
        Column.of("da4ml: interpreter", seconds["interpreter"], speed["interpreter"], wrong[1]),
        Column.of("da4ml: Verilog", seconds["rtl"], speed["rtl"], wrong[2], cost, estimate),
    ]
    left_out = None
    if cost is None:
        left_out = f"{NAME} is made with firmware.cost: true"
    elif counts.nonzero > MOST_WEIGHTS:
        left_out = f"{NAME} is left out: {counts.nonzero:,} non-zero weights, beyond {MOST_WEIGHTS:,} yosys takes many minutes"
    else:
        columns.append(_stand_in(project, inputs, place))
    return SideBySide(proof.events, counts, tuple(columns), left_out)


def _stand_in(project: Project, inputs: NDArray[np.float64], place: Path) -> Column:
    """Write, simulate, compare and map the network with every product apart."""
    start = time.perf_counter()
    write_plain(project, place / "plain")
    made = time.perf_counter() - start
    simulation = compile_rtl(place / "plain", place / "simulation")
    some = inputs[np.linspace(0, len(inputs) - 1, min(len(inputs), PROVED)).astype(int)]
    integers = project.input_type.from_float(some)
    timing = Timing(2, 1)  # a register at the input and one at the output
    found: list[Ints] = []
    khz = khz_of(lambda: found.append(simulation.scores(integers, timing)), len(some))
    wrong = int((found[0] != project.evaluate(some)[project.output_name][:, 0]).sum())
    if wrong:
        raise ElsewhereError(f"{NAME}: {wrong} of {len(some)} scores differ from the evaluation")
    return Column.of(NAME, (made, simulation.compile_s), khz, wrong, cost_of(place / "plain"))


def side_by_side_table(record: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Heads and rows of the table from a firmware record; None where there is none."""
    if "side_by_side" not in record:
        return None
    found = record["side_by_side"]
    columns = found["columns"]

    def row(name: str, key: str, form: str) -> tuple[str, ...]:
        return (name, *("-" if c[key] is None else format(c[key], form) for c in columns))

    rows = [
        row("convert or trace [s]", "made_s", ",.1f"), row("compile: g++, verilator [s]", "compile_s", ",.1f"),
        row("scores per second / 1000", "khz", ",.0f"), row("scores that differ from the evaluation", "mismatches", ",d"),
    ]  # fmt: skip
    if columns[2]["lut"] is not None:
        rows += [
            row("look-up tables (yosys)", "lut", ",d"), row("flip-flops (yosys)", "ff", ",d"),
            row("multipliers, DSP (yosys)", "dsp", ",d"), row("logic depth between registers", "depth", ",d"),
            row("yosys [s]", "cost_s", ",.0f"),
        ]  # fmt: skip
    rows.append(row("look-up tables, da4ml's estimate", "lut_estimate", ",d"))
    return ("quantity", *(c["name"] for c in columns)), rows


def side_by_side_words(record: Mapping[str, Any]) -> str:
    """What stands under the table."""
    found = record["side_by_side"]
    n = found["counts"]
    return (
        f"The same network exported twice, {found['events']:,} events compared. Of {n['weights']:,} weights {n['nonzero']:,} are not "
        f"0: so many products by a constant (of which {n['shifts']:,} are shifts alone) hls4ml's latency strategy unrolls, and "
        f"{n['products']:,} of two variables; {n['ebops']:,} effective bit operations. {found['stand_in']}."
    )


def side_by_side_sentences(record: Mapping[str, Any]) -> list[str]:
    """The outcome in a line; empty where there is none."""
    if "side_by_side" not in record:
        return []
    found = record["side_by_side"]
    speeds = ", ".join(f"{c['name']} {c['khz']:,.0f} kHz" for c in found["columns"])
    cells = [f"{c['name']} {c['lut']:,} LUT" for c in found["columns"] if c["lut"] is not None]
    return [f"side by side: {speeds}" + (f"; {', '.join(cells)} (no vendor numbers)" if cells else "")]
