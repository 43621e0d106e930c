"""Does the firmware emulator give the bits it should? The compiled C++ against `project`'s integers, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..fixed import Fixed
from .emulator import open_folder
from .library import Library
from .project import Project, read_project

#: Events per step of a comparison: keeps the traces of every layer in a few ten MB.
_STEP = 4096
#: Names of the last step of a comparison: by the exported C++, and many events side by side.
_SCORES = ("score", "score in the stream")


@dataclass(frozen=True)
class Difference:
    """The first number that differs: event, layer and element, the emulator's value and the expected one."""

    event: int
    layer: str
    element: int
    emulator: float
    expected: float

    def __str__(self) -> str:
        return (
            f"event {self.event}, layer {self.layer}[{self.element}]: the emulator gives {self.emulator!r}, "
            f"the evaluation {self.expected!r}"
        )


@dataclass(frozen=True)
class BitReport:
    """The outcome of a comparison.

    ``mismatches``: events whose score differs, of the exported C++ or in the stream; ``values``, ``value_mismatches``: the same for every number of every
    layer; ``first``: the first difference in the order of events and layers, None if there is none.
    """

    events: int
    mismatches: int
    values: int
    value_mismatches: int
    first: Difference | None = None

    @property
    def exact(self) -> bool:
        """Whether every bit of every layer agrees."""
        return self.mismatches == 0 and self.value_mismatches == 0


def compare(folder: Path, x: NDArray[Any], *, extremes: int = 0, seed: int = 0) -> BitReport:
    """Compare emulator and independent evaluation on raw events x (n, d) and ``extremes`` patterns made to hurt.

    Raises `InputError` if the folder was changed after the export.
    """
    opened = open_folder(folder)
    project = read_project(opened.hls)
    inputs = opened.scale.apply(x)
    if extremes:
        patterns = extreme_inputs(project.input_type, project.n_in, extremes, np.random.default_rng(seed))
        inputs = np.concatenate([inputs, patterns])
    return compare_inputs(opened.library(), project, inputs)


def compare_inputs(library: Library, project: Project, inputs: NDArray[np.float64]) -> BitReport:
    """Compare a loaded emulator with a parsed project on scaled inputs (n, d)."""
    mismatches = values = wrong = 0
    first: Difference | None = None
    for start in range(0, len(inputs), _STEP):
        found, scores = [], np.zeros(len(inputs[start : start + _STEP]), dtype=bool)
        for name, emulated, wanted in _pairs(library, project, inputs[start : start + _STEP]):
            differs = emulated != wanted
            values += emulated.size
            wrong += int(differs.sum())
            if name in _SCORES:
                scores |= differs[:, 0]
            if differs.any():
                event, element = (int(v) for v in np.argwhere(differs)[0])
                pair = float(emulated[event, element]), float(wanted[event, element])
                found.append(Difference(start + event, name, element, *pair))
        mismatches += int(scores.sum())
        if first is None and found:
            first = min(found, key=lambda d: d.event)  # min keeps the earlier layer of one event
    return BitReport(len(inputs), mismatches, values, wrong, first)


def _pairs(
    library: Library, project: Project, inputs: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """(layer, emulator's output, expected output) for every layer in order, and at last the scores of both ways."""
    arrays, traces = project.evaluate(inputs), library.trace(inputs)
    for op in project.operations:
        if op.output not in traces:
            raise InputError(f"the emulator does not report layer {op.name}; export the firmware again")
        yield op.name, traces[op.output], op.result.to_float(arrays[op.output])
    expected = project.output_type.to_float(arrays[project.output_name])
    for name, score in zip(_SCORES, (library.score_single, library.score), strict=True):
        yield name, score(inputs)[:, None], expected


def extreme_inputs(kind: Fixed, width: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Scaled inputs (n, width) at and beyond the borders of the input type.

    Zeros, both saturations, alternating signs, one hot element, ties of the rounding, uniform over twice the range,
    and magnitudes over 40 powers of two.
    """
    top, step = (kind.high + 1) * kind.step, kind.step
    sign = np.where(np.arange(width) % 2, 1.0, -1.0)
    fixed = np.stack(
        [
            np.zeros(width),
            np.full(width, top),
            np.full(width, -top),
            np.full(width, top - step),
            np.full(width, -top - step),
            np.full(width, 1e18),
            np.full(width, -1e18),
            sign * top,
            -sign * top,
            np.full(width, 0.5 * step),
            np.full(width, -0.5 * step),
            np.full(width, 1.5 * step),
            np.full(width, 1e-300),
        ]
    )
    hot = np.concatenate([np.eye(width) * top, np.eye(width) * -top])
    left = max(n - len(fixed) - len(hot), 0)
    uniform = rng.uniform(-2 * top, 2 * top, (left // 3, width))
    ties = (rng.integers(-64, 64, (left // 3, width)) + 0.5) * step
    rest = left - len(uniform) - len(ties)
    powers = np.ldexp(rng.uniform(-1.0, 1.0, (rest, width)), rng.integers(-20, 20, (rest, width)))
    return np.concatenate([fixed, hot, uniform, ties, powers])[:n].astype(np.float64)
