"""The proof of an exported firmware: evaluation = C emulator = traced logic = Verilog, bit by bit, and the Verilog's timing.

The evaluation in integers (`project`) is the definition. The emulator and da4ml's interpreter are compared with it in every
layer; the Verilog, whose only output is the score, in the score, with a new event at every initiation interval.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..fixed import Fixed, Ints
from ..workspace import read_json
from .emulator import open_folder
from .fixedpoint import compare_inputs, extreme_inputs
from .library import Library
from .project import Project, read_project
from .rtl import RECORD, Simulation, Timing, compile_rtl
from .rtl_trace import Layers

#: Events per step, and events from which latency and initiation interval are measured.
_STEP, _TIMED = 8192, 64
#: The name of the output port in a `Difference`.
SCORE = "score"


@dataclass(frozen=True)
class Difference:
    """The first number that differs: event, layer ('score' for the output port), element, both values."""

    event: int
    layer: str
    element: int
    found: float
    expected: float

    def __str__(self) -> str:
        return f"event {self.event}, layer {self.layer}[{self.element}]: {self.found!r}, expected {self.expected!r}"


@dataclass(frozen=True)
class Step:
    """One implementation against the evaluation: events whose score differs, numbers of all layers that do, the first.

    For the RTL ``first`` is the first layer in which the traced logic is wrong already, else the score.
    """

    name: str
    mismatches: int
    value_mismatches: int
    first: Difference | None = None


@dataclass(frozen=True)
class Proof:
    """Events compared; the steps emulator, interpreter and rtl; what the RTL's simulation measured at ``clock_ns``."""

    events: int
    steps: tuple[Step, Step, Step]
    timing: Timing
    clock_ns: float
    compile_s: float

    @property
    def exact(self) -> bool:
        """Whether every step gave every bit."""
        return all(s.mismatches == 0 and s.value_mismatches == 0 for s in self.steps)

    @property
    def latency_ns(self) -> float:
        """The measured latency [ns]."""
        return self.timing.latency_cycles * self.clock_ns

    def to_json(self) -> dict[str, Any]:
        """The proof's numbers as firmware.json keeps them."""
        emulator, interpreter, rtl = (s.mismatches for s in self.steps)
        return {
            "events_compared": self.events, "mismatches_c": emulator, "mismatches_interpreter": interpreter,
            "mismatches_rtl": rtl, "latency_cycles": self.timing.latency_cycles, "latency_ns": self.latency_ns,
            "clock_mhz": 1000.0 / self.clock_ns, "initiation_interval": self.timing.initiation_interval,
        }  # fmt: skip

    def __str__(self) -> str:
        wrong = [s for s in self.steps if s.mismatches or s.value_mismatches]
        if not wrong:
            return f"{self.events} events, every bit of every step agrees"
        texts = [f"{s.name}: {s.mismatches} scores differ ({s.first})" for s in wrong]
        return f"of {self.events} events, " + "; ".join(texts)


def prove(folder: Path, raw: NDArray[Any], *, extremes: int = 1000, seed: int = 0) -> Proof:
    """Prove a firmware folder with ``rtl/`` on raw events (n, d) in physical units and as many extreme patterns.

    Raises `InputError` if a file was changed or there is no RTL, `ConfigError` if verilator or da4ml is missing.
    """
    opened = open_folder(folder)
    project = read_project(opened.hls)
    inputs = with_extremes(project, opened.scale.apply(raw), extremes, seed)
    with tempfile.TemporaryDirectory() as place:
        return prove_inputs(opened.library(), project, Rtl.open(folder / "rtl", Path(place)), inputs)


@dataclass(frozen=True)
class Rtl:
    """What a folder ``rtl/`` holds, ready to run: the traced logic, the compiled Verilog, its clock period [ns]."""

    layers: Layers
    simulation: Simulation
    clock_ns: float

    @classmethod
    def open(cls, rtl: Path, into: Path) -> Rtl:
        """Load ``rtl/`` and compile its Verilog into the folder ``into``; raises as `prove` does."""
        if not (rtl / RECORD).is_file():
            raise InputError(f"{rtl} holds no RTL; export the firmware again with firmware.rtl: true")
        return cls(
            Layers.load(rtl / "layers.json"), compile_rtl(rtl, into), read_json(rtl / RECORD)["clock_ns"]
        )


def with_extremes(
    project: Project, inputs: NDArray[np.float64], extremes: int, seed: int = 0
) -> NDArray[np.float64]:
    """Scaled inputs followed by ``extremes`` patterns at and beyond the borders of the input type."""
    patterns = extreme_inputs(project.input_type, project.n_in, extremes, np.random.default_rng(seed))
    return np.concatenate([inputs, patterns])


def prove_inputs(library: Library, project: Project, rtl: Rtl, inputs: NDArray[np.float64]) -> Proof:
    """Compare a loaded emulator, the traced logic and the Verilog with a project on scaled inputs (n, d)."""
    integers = project.input_type.from_float(inputs)
    traced, ported = _Tally("interpreter"), _Tally("rtl")
    timing = rtl.simulation.measure(_apart(project, integers))
    for start in range(0, len(inputs), _STEP):
        part = integers[start : start + _STEP]
        wanted, found = project.evaluate(inputs[start : start + _STEP]), rtl.layers.evaluate(part)
        ported.score(start, rtl.simulation.scores(part, timing), found, wanted, project)
        for op in project.operations:
            traced.layer(start, op.name, found[op.output], wanted[op.output], op.result)
        output = project.output_name
        traced.mismatches += int((found[output] != wanted[output]).any(axis=1).sum())
    steps = (_emulator(library, project, inputs), traced.step(), ported.step())
    return Proof(len(inputs), steps, timing, rtl.clock_ns, rtl.simulation.compile_s)


def _emulator(library: Library, project: Project, inputs: NDArray[np.float64]) -> Step:
    bits = compare_inputs(library, project, inputs)
    first = bits.first and Difference(
        bits.first.event, bits.first.layer, bits.first.element, bits.first.emulator, bits.first.expected
    )
    return Step("emulator", bits.mismatches, bits.value_mismatches, first)


def _apart(project: Project, integers: Ints) -> Ints:
    """A few events whose scores are unlike, so that a wrong cycle is seen."""
    some = integers[np.linspace(0, len(integers) - 1, min(len(integers), 16 * _TIMED)).astype(int)]
    _, unlike = np.unique(project.score(project.input_type.to_float(some)), return_index=True)
    return some[unlike[np.linspace(0, len(unlike) - 1, min(len(unlike), _TIMED)).astype(int)]]


@dataclass
class _Tally:
    """Differences of one step, counted part by part."""

    name: str
    mismatches: int = 0
    values: int = 0
    first: Difference | None = None

    def step(self) -> Step:
        return Step(self.name, self.mismatches, self.values, self.first)

    def layer(self, start: int, name: str, found: Ints, wanted: Ints, kind: Fixed) -> None:
        """Count the numbers (n, size) of a layer; the earliest event, and its earliest layer, is kept."""
        differs = found != wanted
        self.values += int(differs.sum())
        if differs.any():
            event, element = (int(v) for v in np.argwhere(differs)[0])
            if self.first is None or start + event < self.first.event:
                pair = kind.to_float(np.array([found[event, element], wanted[event, element]]))
                self.first = Difference(start + event, name, element, float(pair[0]), float(pair[1]))

    def score(
        self, start: int, scores: Ints, traced: dict[str, Ints], wanted: dict[str, Ints], project: Project
    ) -> None:
        """Count the output port (n,); where the traced logic was wrong before the score, its first wrong layer is named."""
        expected = wanted[project.output_name]
        self.mismatches += int((scores[:, None] != expected).sum())
        before = self.first
        self.layer(start, SCORE, scores[:, None], expected, project.output_type)
        if self.first is before or self.first is None:
            return
        event = self.first.event - start
        for op in project.operations:
            one = _Tally(self.name)
            row = slice(event, event + 1)
            one.layer(start + event, op.name, traced[op.output][row], wanted[op.output][row], op.result)
            if one.first is not None:
                self.first = one.first
                return
