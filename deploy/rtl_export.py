"""The RTL part of a firmware export: Verilog beside the C++ project, its proof, and what it would cost."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import ConfigError, ElsewhereError, FeatureError
from ..workspace import read_json
from .cost import Cost, cost_of
from .emulator import InputScale
from .library import open_library
from .project import read_project
from .rtl import RECORD, RtlSettings, write_rtl
from .rtl_proof import Proof, Rtl, prove_inputs, with_extremes
from .rtl_trace import require_da4ml
from .side_by_side import SideBySide, side_by_side, side_by_side_sentences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RtlRequest:
    """What is asked of the RTL of an export.

    ``raw``: events (n, d) in physical units for the proof; ``events``: so many are compared at least, extreme patterns
    (never fewer than ``extremes``) fill up; ``cost``: map it with yosys.
    """

    settings: RtlSettings
    raw: NDArray[Any] = field(repr=False)
    events: int = 100_000
    extremes: int = 1000
    cost: bool = False

    def require_tools(self) -> None:
        """Raise `ConfigError` with the cure for the first tool that is missing."""
        require_da4ml()
        for tool, needed in (("verilator", True), ("make", True), ("yosys", self.cost)):
            if needed and shutil.which(tool) is None:
                raise ConfigError(
                    f"firmware.rtl and firmware.cost need '{tool}', which is not on the PATH; install it "
                    f"(Debian: apt install {tool})"
                )


@dataclass(frozen=True)
class RtlResult:
    """The proof of the RTL, its cost where it was asked for, and both exports of the network next to each other."""

    proof: Proof
    cost: Cost | None
    compared: SideBySide

    def to_json(self) -> dict[str, Any]:
        """What firmware.json records."""
        record: dict[str, Any] = {"rtl": self.proof.to_json()} | self.compared.to_json()
        if self.cost is not None:
            record["cost"] = self.cost.to_json()
        return record


def add_rtl(
    folder: Path, library: Path, scale: InputScale, request: RtlRequest, seconds: tuple[float, float] = (0.0, 0.0)
) -> RtlResult:  # fmt: skip
    """Write ``rtl/`` into a folder with ``hls/`` and a compiled emulator, prove it, count its cells, compare both exports.

    ``seconds``: what conversion and compilation of ``hls/`` took. Raises `ElsewhereError` naming the first difference if one
    bit differs, `FeatureError` for events of another width.
    """
    project = read_project(folder / "hls")
    if request.raw.ndim != 2 or request.raw.shape[1] != project.n_in:
        raise FeatureError(
            f"the firmware takes {project.n_in} inputs, events of the proof have shape {request.raw.shape}"
        )
    start = time.perf_counter()
    write_rtl(project, folder / "rtl", request.settings)
    traced = time.perf_counter() - start
    patterns = max(request.extremes, request.events - len(request.raw))
    inputs = with_extremes(project, scale.apply(request.raw), patterns)
    emulator = open_library(library, folder / "hls", project.n_in)
    with tempfile.TemporaryDirectory() as place:
        rtl = Rtl.open(folder / "rtl", Path(place))
        proof = prove_inputs(emulator, project, rtl, inputs)
        if not proof.exact:
            raise ElsewhereError(f"the RTL is not the evaluated network: {proof}")
        log.info("RTL: %s, latency %d cycles", proof, proof.timing.latency_cycles)
        cost = cost_of(folder / "rtl") if request.cost else None
        took = {"hls4ml": seconds, "interpreter": (traced, 0.0), "rtl": (traced, proof.compile_s)}
        estimate = read_json(folder / "rtl" / RECORD)["lut_estimate"]
        compared = side_by_side(
            project, emulator, rtl, proof, inputs, took, estimate, cost, Path(place) / "stand_in"
        )
    return RtlResult(proof, cost, compared)


def readme_part(result: RtlResult) -> str:
    """The paragraph of the folder's README."""
    timing = result.proof.timing
    text = (
        "* `rtl/`: the same network as pipelined Verilog (da4ml, constants in logic): `src/` with the top module `score`, its\n"
        "  constraints and `build_vivado_prj.tcl`; `rtl.json` has the layout of the ports. Port `model_inp` takes the integers of\n"
        "  the input type, element 0 in the lowest bits; `model_out` is the score. `layers.json` is the traced logic of every layer;\n"
        "  the modules in `src/static/` are da4ml's own (LGPL-3.0).\n"
        f"  {result.proof}. Measured in verilator: {timing.latency_cycles} clock cycles from input to score\n"
        f"  ({result.proof.latency_ns:g} ns at {1000 / result.proof.clock_ns:g} MHz), initiation interval {timing.initiation_interval}.\n"
        "  Whether a chip reaches this clock only a vendor's tool can say.\n"
    )
    if result.cost is not None:
        c = result.cost
        text += (
            f"* Cost by {c.tool}: {c.lut} LUT ({100 * c.lut_fraction_vu9p:.2f} % of a VU9P), {c.ff} FF, {c.dsp} DSP, logic depth "
            f"{c.depth}.\n  Not a vendor number: `firmware.json` says how far to trust it.\n"
        )
    speeds = ", ".join(f"{c.name} {c.khz:,.0f} kHz" for c in result.compared.columns)
    return (
        text
        + f"* Scores per second, timed when this was made: {speeds}; `side_by_side` of `firmware.json` has the rest.\n"
    )


def hardware_sentences(record: Mapping[str, Any]) -> list[str]:
    """What a firmware record says of the RTL, in a line each; empty if there is none."""
    lines = []
    if "rtl" in record:
        r = record["rtl"]
        lines.append(
            f"RTL: {r['mismatches_rtl']} of {r['events_compared']:,} events differ from the evaluation; score after "
            f"{r['latency_cycles']} cycles, {r['latency_ns']:g} ns at {r['clock_mhz']:g} MHz, initiation interval "
            f"{r['initiation_interval']}"
        )
    if "cost" in record:
        c = record["cost"]
        lines.append(
            f"cost by {c['tool']}: {c['lut']:,} LUT ({100 * c['lut_fraction_vu9p']:.2f} % of a VU9P), {c['ff']:,} FF, "
            f"{c['dsp']} DSP, logic depth {c['depth']}; not a vendor number"
        )
    return lines + side_by_side_sentences(record)


def hardware_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as rows of a table: what, value."""
    rows: list[tuple[str, str]] = []
    if "rtl" in record:
        r = record["rtl"]
        rows += [
            ("events compared", f"{r['events_compared']:,}"),
            ("scores that differ: C++, traced logic, Verilog", "{mismatches_c}, {mismatches_interpreter}, {mismatches_rtl}".format(**r)),
            ("latency", f"{r['latency_cycles']} cycles, {r['latency_ns']:g} ns at {r['clock_mhz']:g} MHz"),
            ("initiation interval", f"{r['initiation_interval']} cycle{'s' if r['initiation_interval'] > 1 else ''}"),
        ]  # fmt: skip
    if "cost" in record:
        c = record["cost"]
        rows += [
            ("look-up tables", f"{c['lut']:,} ({100 * c['lut_fraction_vu9p']:.2f} % of a VU9P); da4ml's estimate {c['lut_estimate']:,}"),
            ("flip-flops", f"{c['ff']:,} ({100 * c['ff_fraction_vu9p']:.2f} %)"),
            ("multipliers (DSP)", f"{c['dsp']}"), ("logic depth between registers", f"{c['depth']} cells; at most {c['lut_depth']} look-up tables"),
            ("tool and accuracy", f"{c['tool']}: {c['accuracy']}"),
            *((f"published: {p['design']} ({p['paper']})", _published(p)) for p in c["published"]),
        ]  # fmt: skip
    return rows


def _published(design: Mapping[str, Any]) -> str:
    logic = design["logic_fraction"]
    return f"{design['latency_ns']:g} ns" + (f", below {100 * logic:g} % of a VU9P" if logic else "")
