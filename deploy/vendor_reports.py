"""Reports of the vendor's tools, for those who have them: Vitis HLS ``csynth.xml`` and Vivado ``report_utilization``.

They carry what no open tool can give: the vendor's own mapping and, after placement, what really fits (UG1399, UG835).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from ..errors import InputError
from .cost import VU9P_LUT

_ROW = re.compile(r"^\|\s*([^|]+?)\s*\|\s*([\d.]+)\s*\|", re.MULTILINE)
_HEAD = re.compile(r"^\| (Tool Version|Device|Design|Design State)\s*:\s*(.+?)\s*$", re.MULTILINE)
#: The names of a row in the tables of the UltraScale+ and of the 7 series.
_ROWS = {
    "lut": ("CLB LUTs", "Slice LUTs"),
    "ff": ("CLB Registers", "Slice Registers"),
    "dsp": ("DSPs",),
    "bram": ("Block RAM Tile",),
}


@dataclass(frozen=True)
class VendorReport:
    """Resources by a vendor tool. ``bram`` in blocks of 36 kbit; what a report does not say is None.

    ``stage``: 'HLS estimate', or Vivado's design state ('Synthesized', 'Fully Placed', ...); ``latency_cycles``: the worst case;
    ``clock_ns``: the target, ``estimated_ns`` what the tool expects to reach.
    """

    tool: str
    part: str
    stage: str
    lut: int
    ff: int
    dsp: int
    bram: float
    latency_cycles: int | None = None
    initiation_interval: int | None = None
    clock_ns: float | None = None
    estimated_ns: float | None = None

    @property
    def lut_fraction_vu9p(self) -> float:
        """Look-up tables as a fraction of a VU9P's."""
        return self.lut / VU9P_LUT


def read_vitis(path: Path) -> VendorReport:
    """Read ``csynth.xml`` of Vitis HLS; raises `InputError` naming the element that is missing."""
    try:
        root = ElementTree.parse(path).getroot()  # noqa: S314 - the user's own tool wrote it
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is not a csynth.xml of Vitis HLS ({error})") from error

    def text(*names: str) -> str:
        for name in names:
            found = root.findtext(f".//{name}")
            if found is not None:
                return found.strip()
        raise InputError(f"{path} has no element {names[0]}; expected a csynth.xml of Vitis HLS")

    def count(*names: str) -> int | None:
        value = text(*names)
        return int(value) if value.isdigit() else None  # 'undef' or '?' for loops of unknown length

    def used(*names: str) -> int:
        return int(text(*(f"AreaEstimates/Resources/{name}" for name in names)))

    return VendorReport(
        f"Vitis HLS {text('ReportVersion/Version')}", text("UserAssignments/Part"), "HLS estimate", used("LUT"), used("FF"),
        used("DSP", "DSP48E"), used("BRAM_18K") / 2, count("SummaryOfOverallLatency/Worst-caseLatency"),
        count("SummaryOfOverallLatency/Interval-max"), float(text("UserAssignments/TargetClockPeriod")),
        float(text("SummaryOfTimingAnalysis/EstimatedClockPeriod")),
    )  # fmt: skip


def read_vivado(path: Path) -> VendorReport:
    """Read a utilisation report of Vivado (text); raises `InputError` naming the row that is missing."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a utilisation report ({error})") from error
    head = dict(_HEAD.findall(text))
    rows: dict[str, float] = {}
    for name, value in _ROW.findall(text):
        rows.setdefault(name.rstrip("*"), float(value))

    def used(key: str) -> float:
        for name in _ROWS[key]:
            if name in rows:
                return rows[name]
        raise InputError(
            f"{path} has no row '{_ROWS[key][0]}'; expected the text of Vivado's report_utilization"
        )

    tool = head.get("Tool Version", "Vivado, version not stated")
    return VendorReport(
        tool.split(" (")[0], head.get("Device", "not stated"), head.get("Design State", "not stated"), int(used("lut")),
        int(used("ff")), int(used("dsp")), used("bram"),
    )  # fmt: skip
