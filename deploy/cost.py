"""What a network's RTL would take of a chip, by open tools: yosys maps the Verilog to the cells of an UltraScale+ part.

No vendor tool is asked, nothing is placed or routed and no clock is closed: see `ACCURACY`. ``vendor`` reads the reports of
those who have the tools.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, InputError
from ..workspace import read_json
from .rtl import RECORD, TOP, verilog_files

log = logging.getLogger(__name__)

#: Look-up tables, flip-flops and multipliers of a Virtex UltraScale+ VU9P (DS890).
VU9P_LUT, VU9P_FF, VU9P_DSP = 1_182_240, 2_364_480, 6_840
ACCURACY = (
    "not a vendor number: yosys maps without placing, routing or closing a clock, and its difference to Vivado is not measured "
    "here. Look-up tables are counted singly, inverters among them, though two small ones can share a place on the chip"
)


@dataclass(frozen=True)
class Published:
    """A published design of like size and what its abstract says: logic [fraction of a VU9P, at most], latency [ns]."""

    design: str
    paper: str
    logic_fraction: float | None
    latency_ns: float


#: Only what the abstracts state; the designs were synthesised with vendor tools.
PUBLISHED = (
    Published("autoencoders and encoders on 57 inputs, hls4ml", "2108.03986", 0.03, 80.0),
    Published("AXOL1TL in the Global Trigger, hls4ml: the latency is the budget", "2411.19506", None, 50.0),
)

_FLIP_FLOPS = {"FDRE", "FDSE", "FDCE", "FDPE"}
_CLOCKED = ("FD", "LD", "SRL", "RAMB")
_NAME = "(name)"
_WIRES = {"BUFG", "IBUF", "OBUF", _NAME}


@dataclass(frozen=True)
class Cost:
    """Cells of the mapped network.

    ``lut_sizes``: LUT1 (with inverters) to LUT6; ``carry``: blocks of 4 bits; ``depth``: the most look-up tables, carry
    blocks and multiplexers in a row between two registers, ``lut_depth`` the same of look-up tables alone; ``tool``: name and
    version; ``seconds``: time it took; ``lut_estimate``: da4ml's count from the adders before any mapping, if known.
    """

    lut_sizes: tuple[int, int, int, int, int, int]
    ff: int
    carry: int
    dsp: int
    srl: int
    bram: int
    muxf: int
    depth: int
    lut_depth: int
    tool: str
    seconds: float
    lut_estimate: int | None = None

    @property
    def lut(self) -> int:
        """All look-up tables, those that serve as shift registers among them."""
        return sum(self.lut_sizes) + self.srl

    @property
    def lut_fraction_vu9p(self) -> float:
        """Look-up tables as a fraction of a VU9P's."""
        return self.lut / VU9P_LUT

    def to_json(self) -> dict[str, Any]:
        """The cost as firmware.json keeps it, fractions of a VU9P, accuracy and comparison included."""
        return {
            "lut": self.lut, **asdict(self), "lut_fraction_vu9p": self.lut_fraction_vu9p,
            "ff_fraction_vu9p": self.ff / VU9P_FF, "dsp_fraction_vu9p": self.dsp / VU9P_DSP,
            "accuracy": ACCURACY, "published": [asdict(p) for p in PUBLISHED],
        }  # fmt: skip


def cost_of(rtl: Path) -> Cost:
    """Map the Verilog of a ``rtl/`` folder with yosys and count.

    Raises `ConfigError` without yosys, `InputError` if it cannot read the Verilog.
    """
    if shutil.which("yosys") is None:
        raise ConfigError(
            "the cost of the RTL is counted by yosys, which is not on the PATH; install it (Debian: apt install yosys)"
        )
    version = subprocess.run(["yosys", "-V"], capture_output=True, text=True, check=False).stdout
    with tempfile.TemporaryDirectory() as place:
        netlist = Path(place) / "netlist.blif"
        reads = [f'read_verilog -sv -defer "{f.resolve()}"' for f in verilog_files(rtl)]
        steps = [
            *reads, f"hierarchy -check -top {TOP}",
            f"synth_xilinx -family xcup -top {TOP} -flatten -noiopad -noclkbuf", f'write_blif "{netlist}"',
        ]  # fmt: skip
        script = Path(place) / "cost.ys"
        script.write_text("\n".join(steps) + "\n")
        start = time.perf_counter()
        done = subprocess.run(["yosys", "-q", str(script)], capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise InputError(f"yosys could not map {rtl}/src:\n{(done.stdout + done.stderr)[-2000:]}")
        with netlist.open() as lines:
            cost = count_cells(lines, " ".join(version.split()[:2]), seconds)
    log.info("yosys: %d LUT, %d FF, %d DSP in %.0f s", cost.lut, cost.ff, cost.dsp, seconds)
    return replace(cost, lut_estimate=read_json(rtl / RECORD).get("lut_estimate"))


@dataclass(frozen=True)
class _Cell:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def count_cells(netlist: Iterable[str], tool: str, seconds: float = 0.0) -> Cost:
    """Count a mapped netlist in BLIF (the lines of the file); raises `InputError` naming a cell that is not known."""
    cells = []
    for line in netlist:
        words = line.split()
        if words[:1] == [".subckt"] and words[1] != "$scopeinfo":
            cells.append(_cell(words))
        elif words[:1] == [".names"] and len(words) == 3:  # a second name of a net
            cells.append(_Cell(_NAME, (words[1],), (words[2],)))
    kinds = Counter(c.kind for c in cells)

    def starting(*prefixes: str) -> int:
        return sum(n for kind, n in kinds.items() if kind.startswith(prefixes))

    one, two, three, four, five, six = (kinds[f"LUT{i}"] for i in range(1, 7))
    return Cost(
        (one + kinds["INV"], two, three, four, five, six), sum(kinds[k] for k in _FLIP_FLOPS), starting("CARRY"),
        starting("DSP"), starting("SRL"), starting("RAMB"), starting("MUXF"), _depth(cells, lambda kind: kind not in _WIRES),
        _depth(cells, lambda kind: kind.startswith("LUT") or kind == "INV"), tool, round(seconds, 1),
    )  # fmt: skip


_OUTPUTS = re.compile(r"^(O\d?|CO|Q\d*|P|DO\w*)(\[\d+\])?$")
_KNOWN = re.compile(
    r"^(LUT[1-6]|INV|CARRY[48]|MUXF[789]|FD[RSCP]E|SRL\w+|RAMB\w+|DSP48E\d|BUFG|IBUF|OBUF|VCC|GND)$"
)


def _cell(words: list[str]) -> _Cell:
    _, kind, *pairs = words
    if not _KNOWN.match(kind):
        raise InputError(
            f"the netlist has a cell {kind} that is neither logic nor register of an UltraScale+ part"
        )
    ports = [pair.split("=", 1) for pair in pairs]
    return _Cell(
        kind,
        tuple(net for port, net in ports if not _OUTPUTS.match(port)),
        tuple(net for port, net in ports if _OUTPUTS.match(port)),
    )


def _depth(cells: list[_Cell], counts: Callable[[str], bool]) -> int:
    """The longest run of combinational cells, of the kinds that count; clocked cells start and end it."""
    logic = [c for c in cells if not c.kind.startswith(_CLOCKED)]
    driver = {net: i for i, c in enumerate(logic) for net in c.outputs}
    users: list[list[int]] = [[] for _ in logic]
    waiting = [0] * len(logic)
    for i, cell in enumerate(logic):
        for net in set(cell.inputs):
            if net in driver:
                users[driver[net]].append(i)
                waiting[i] += 1
    level = [0] * len(logic)
    ready = [i for i, n in enumerate(waiting) if n == 0]
    done = 0
    while ready:
        i = ready.pop()
        done += 1
        level[i] += counts(logic[i].kind)
        for j in users[i]:
            level[j] = max(level[j], level[i])
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    if done < len(logic):
        raise InputError("the netlist has a loop without a register; its depth is not defined")
    return max(level, default=0)
