"""The RTL of an exported network: pipelined Verilog written by da4ml, and its simulation by verilator, clock by clock.

The input port takes the integers of the input type, element 0 in the lowest bits; the score leaves as an integer. A new
event may enter with every clock edge. How many cycles the score needs is measured here, never taken from a setting.
"""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, InputError
from ..fixed import Fixed, Ints
from ..workspace import read_json, write_json
from .project import Project
from .rtl_trace import trace

log = logging.getLogger(__name__)

TOP = "score"
RECORD = "rtl.json"
#: Clock cycles of rest before and after an event whose latency is measured (no longer pipeline can be), and events tried.
_REST = 1024
_TRIALS = 16
_STEP = 16_384
_DRIVER = """\
// Made by elsewhere: one row of input words per clock cycle in, the output port after the rising edge of each out.
#include "Vscore.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <vector>

template <class P> void put(P &port, const uint32_t *words) {
    uint64_t value = words[0];
    if (sizeof(P) > 4)
        value |= uint64_t(words[1]) << 32;
    port = P(value);
}
template <std::size_t N> void put(VlWide<N> &port, const uint32_t *words) {
    for (std::size_t i = 0; i < N; i++)
        port[i] = words[i];
}

int main() {
    VerilatedContext context;
    Vscore rtl(&context);
    std::vector<uint32_t> in(@WORDS@);
    while (std::fread(in.data(), 4, in.size(), stdin) == in.size()) {
        put(rtl.model_inp, in.data());
        rtl.clk = 0;
        rtl.eval();
        rtl.clk = 1;
        rtl.eval();
        const uint64_t out = rtl.model_out;
        std::fwrite(&out, 8, 1, stdout);
    }
    rtl.final();
    return 0;
}
"""


@dataclass(frozen=True)
class RtlSettings:
    """What the Verilog is made for: clock period [ns], Xilinx part, adders in a row of one pipeline stage at most."""

    clock_ns: float = 5.0
    part: str = "xcvu9p-flga2104-2L-e"
    latency_cutoff: int = 5

    def __post_init__(self) -> None:
        if self.latency_cutoff < 1:
            raise ConfigError(f"latency_cutoff {self.latency_cutoff}: a stage holds at least one adder")
        if self.clock_ns <= 0:
            raise ConfigError(f"clock_ns {self.clock_ns}: a clock period is positive")


def write_rtl(project: Project, folder: Path, settings: RtlSettings) -> None:
    """Trace a project and write its Verilog, constraints, Vivado script and interpreter program into ``folder`` (new).

    Raises `ConfigError` if da4ml is missing or a layer cannot be traced.
    """
    traced = trace(project, settings.latency_cutoff)
    from da4ml.codegen.rtl import RTLModel
    from da4ml.types import minimal_kif

    model = RTLModel(
        traced.stages, TOP, folder, "verilog", print_latency=False, part_name=settings.part, clock_period=settings.clock_ns
    )  # fmt: skip
    model.write()
    # Da4ml's own simulation takes the latency from its settings, and its files name other tools.
    for name in ("sim", "model", "src/memfiles"):
        shutil.rmtree(folder / name)
    for name in ("metadata.json", "build_quartus_prj.tcl", f"src/{TOP}.sdc", f"src/{TOP}_wrapper.v"):
        (folder / name).unlink()
    traced.layers.save(folder / "layers.json")
    signed, integer, fraction = (int(v) for v in minimal_kif(traced.stages.out_qint[0]))
    width = signed + integer + fraction
    if width > 64:
        raise ConfigError(f"the score needs a port of {width} bits, 64 are possible; use a narrower score")
    kind = project.input_type
    record = {
        "top": TOP, "clock_ns": settings.clock_ns, "part": settings.part, "latency_cutoff": settings.latency_cutoff,
        "stages": len(traced.stages.solutions), "lut_estimate": round(traced.stages.cost), "inputs": project.n_in, "input_type": str(kind),
        "score_type": str(project.output_type),
        "output": {"width": width, "fraction": fraction, "signed": bool(signed)},
        "da4ml": importlib.metadata.version("da4ml"),
    }  # fmt: skip
    write_json(folder / RECORD, record)


@dataclass(frozen=True)
class Timing:
    """What the simulation showed.

    ``latency_cycles``: clock cycles from the event at the input port to its score at the output port, both registers
    counted; ``initiation_interval``: the smallest number of cycles between two events that leaves every score right.
    """

    latency_cycles: int
    initiation_interval: int


@dataclass(frozen=True)
class Simulation:
    """The Verilog compiled by verilator, with the layout of its ports."""

    program: Path
    input_type: Fixed
    n_in: int
    score_type: Fixed
    output: dict[str, Any] = field(repr=False)
    compile_s: float = 0.0

    def cycles(self, integers: Ints) -> Ints:
        """Input integers (n, n_in), one row per clock cycle, to the score's integers after each rising edge (n,)."""
        packed = b"".join(
            self._pack(integers[start : start + _STEP]) for start in range(0, len(integers), _STEP)
        )
        done = subprocess.run([str(self.program)], input=packed, capture_output=True, check=False)
        port = np.frombuffer(done.stdout, dtype=np.int64)
        if done.returncode or len(port) != len(integers):
            raise InputError(
                f"{self.program} failed after {len(port)} of {len(integers)} cycles: {done.stderr.decode()[-500:]}"
            )
        if self.output["signed"]:
            spare = 64 - self.output["width"]
            port = (port << spare) >> spare
        return port << (self.score_type.fraction - self.output["fraction"])

    def _pack(self, integers: Ints) -> bytes:
        width = self.input_type.width
        bits = (integers[:, :, None] >> np.arange(width)) & 1
        packed = np.packbits(bits.reshape(len(integers), -1).astype(np.uint8), axis=1, bitorder="little")
        return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()

    def measure(self, events: Ints) -> Timing:
        """Latency and initiation interval from runs of these events (n, n_in), of which one must differ from rest in score.

        Raises `InputError` if one event does not change the score in exactly one cycle, or no interval gives right scores.
        """
        rest = np.zeros((_REST, self.n_in), dtype=np.int64)
        idle = self.cycles(rest)[-1]
        seen = np.zeros(0, dtype=np.int64)
        for event in events[:_TRIALS]:
            seen = np.flatnonzero(self.cycles(np.concatenate([rest, event[None], rest]))[_REST:] != idle)
            if len(seen):
                break
        if len(seen) != 1:
            raise InputError(f"one event changes the RTL's score in {len(seen)} cycles, expected one")
        latency = int(seen[0]) + 1
        wanted = self.scores(events, Timing(latency, latency))
        for interval in range(1, latency):
            if (self.scores(events, Timing(latency, interval)) == wanted).all():
                return Timing(latency, interval)
        return Timing(latency, latency)

    def scores(self, integers: Ints, timing: Timing) -> Ints:
        """The score's integer of every event, each one cycle long and an initiation interval after the one before."""
        latency, interval = timing.latency_cycles, timing.initiation_interval
        stream = np.zeros((len(integers) * interval + latency, self.n_in), dtype=np.int64)
        stream[: len(integers) * interval : interval] = integers
        return self.cycles(stream)[latency - 1 :: interval][: len(integers)]


def verilog_files(rtl: Path) -> list[Path]:
    """The Verilog of a written ``rtl/`` folder, in a fixed order; raises `InputError` if there is none."""
    files = sorted((rtl / "src").glob("*.v")) + sorted((rtl / "src" / "static").glob("*.v"))
    if not files:
        raise InputError(f"{rtl} holds no Verilog; export the firmware again with firmware.rtl: true")
    return files


def compile_rtl(rtl: Path, into: Path) -> Simulation:
    """Compile the Verilog of ``rtl/`` with verilator into the folder ``into``.

    Raises `ConfigError` if a tool is missing, `InputError` if the Verilog cannot be compiled.
    """
    for tool in ("verilator", "make", "g++"):
        if shutil.which(tool) is None:
            raise ConfigError(
                f"the RTL is simulated by verilator; '{tool}' is not on the PATH; install it "
                "(Debian: apt install verilator make g++)"
            )
    record = read_json(rtl / RECORD)
    kind = Fixed.parse(record["input_type"])
    words = -(-kind.width * record["inputs"] // 32)
    into.mkdir(parents=True, exist_ok=True)
    (into / "driver.cpp").write_text(_DRIVER.replace("@WORDS@", str(words)))
    # Without -fno-const-bit-op-tree verilator 5.006 gets a rounding bit after a ReLU wrong: {1'b0, w[0] & w[1]} becomes -1.
    command = [
        "verilator", "--cc", "--exe", "--build", "--top-module", record["top"], "--prefix", "Vscore", "--Mdir",
        str(into / "obj"), "-O3", "-fno-const-bit-op-tree", "-Wno-fatal", "-Wfuture-WIDTHTRUNC", "-CFLAGS", "-O1",
        "-MAKEFLAGS", "OPT_GLOBAL=-O0 OPT_SLOW=-O0", "-o", str(into.resolve() / "simulate"),
        *(str(f.resolve()) for f in verilog_files(rtl)), str((into / "driver.cpp").resolve()),
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise InputError(f"verilator could not compile {rtl}/src:\n{(done.stderr + done.stdout)[-2000:]}")
    log.info("verilator compiled the RTL in %.1f s", seconds)
    score = Fixed.parse(record["score_type"])
    return Simulation(into / "simulate", kind, record["inputs"], score, record["output"], seconds)
