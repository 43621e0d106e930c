"""The CMS part of a firmware export: ``cms/`` with the emulator NAME_vN for hardware integers, built and compared."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..fixed import Fixed
from .cms_emulator import CmsEmulator, compile_cms_sources, write_cms_sources
from .emulator import FirmwareFolder
from .hardware import HardwareUnits

log = logging.getLogger(__name__)

#: The type in which CMSSW hands over a number, and the fewest events that are compared.
RAW = Fixed(18, 13)
FEWEST = 4000


@dataclass(frozen=True)
class CmsRequest:
    """The emulator's name and version; CMSSW loads NAME_vN.so."""

    name: str
    version: int


@dataclass(frozen=True)
class CmsResult:
    """What was made and found.

    ``events``: compared, as integers and in CMSSW's type; ``khz``: scores per second of CPU time / 1000 on one core;
    ``vectors``: test vectors, of which ``off_step`` hold a number that is no float32 of a hardware integer (files keep fewer
    bits), and ``changed`` have another score for that.
    """

    name: str
    version: int
    events: int
    mismatches: int
    khz: float
    vectors: int
    off_step: int
    changed: int
    compile_s: float

    def to_json(self) -> dict[str, Any]:
        """What firmware.json records."""
        return {"cms": asdict(self)}


def add_cms(opened: FirmwareFolder, request: CmsRequest) -> CmsResult:
    """Write, build and compare ``cms/`` in a folder with ``hls/``, test vectors and a compiled emulator.

    Raises `ConfigError` for columns without hardware steps, `ElsewhereError` naming the first score that differs.
    """
    units = HardwareUnits.of(opened.features)
    model = f"{request.name}_v{request.version}"
    source = write_cms_sources(opened, opened.path / "cms", model, RAW, units)
    raw = np.load(opened.path / "vectors" / "raw.npy")
    made = compile_cms_sources(opened, source, max(FEWEST, 2 * len(raw)))
    counts, library = units.counts(raw), opened.library()
    exact = units.physical(counts)
    off = (exact != raw).any(axis=1)
    stored, meant = (library.score(opened.scale.apply(x)) for x in (raw, exact))
    emulator = CmsEmulator(made.path)
    start = time.process_time()
    emulator.score_integers(counts)
    khz = len(counts) / max(time.process_time() - start, 1e-9) / 1000
    log.info("%s: %d events compared, %.0f kHz", model, made.bits.events, khz)
    return CmsResult(
        request.name, request.version, made.bits.events, made.bits.mismatches, round(khz, 1), len(raw), int(off.sum()),
        int((stored != meant).sum()), round(made.compile_s, 2),
    )  # fmt: skip


def cms_readme(result: CmsResult) -> str:
    """The paragraph of the folder's README."""
    model = f"{result.name}_v{result.version}"
    return (
        f"* `cms/`: the emulator `{model}` for CMSSW, `{model}.so` behind `hls4mlEmulator::Model`, for hwPt, hwEta and hwPhi; its\n"
        f"  README says how to build it against hls4mlEmulatorExtras. {result.events} events, extreme integers among them, give the\n"
        f"  scores of `emulator-*.so`. {_off_step(result.vectors, result.off_step, result.changed)}\n"
    )


def _off_step(vectors: int, off: int, changed: int) -> str:
    if not off:
        return "Every number of the test vectors is one of the hardware's."
    return (
        f"Files keep fewer bits than a float32 has: {off:,} of {vectors:,} test vectors hold a number beside a hardware step, and "
        f"{changed:,} have another score than the hardware's integers give."
    )


def cms_sentences(record: Mapping[str, Any]) -> list[str]:
    """What a firmware record says of the CMS emulator, in a line; empty if there is none."""
    if "cms" not in record:
        return []
    c = record["cms"]
    return [
        f"CMS emulator {c['name']}_v{c['version']}: {c['mismatches']} of {c['events']:,} events in hardware integers differ from the "
        f"firmware, {c['khz']:,.0f} kHz on one core; {c['changed']:,} of {c['vectors']:,} test vectors score otherwise as their file "
        "rounds them"
    ]


def cms_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The same as rows of a table: what, value."""
    if "cms" not in record:
        return []
    c = record["cms"]
    return [
        (f"CMS emulator {c['name']}_v{c['version']}", f"{c['mismatches']} of {c['events']:,} events in hardware integers differ; {c['khz']:,.0f} kHz"),
        ("test vectors beside a hardware step", _off_step(c["vectors"], c["off_step"], c["changed"])),
    ]  # fmt: skip
