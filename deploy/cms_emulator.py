"""A firmware folder as a level-1 emulator of CMSSW: ``NAME_vN.so`` behind the interface ``hls4mlEmulator::Model``.

The interface is that of github.com/cms-hls4ml/hls4mlEmulatorExtras (``include/hls4ml/emulator.h``): pure virtual
``prepare_input(std::any)``, ``predict()``, ``read_result(std::any)`` in this order, then the destructor; a library
exports ``create_model`` and ``destroy_model`` and is opened by its name. What crosses it is fixed by the caller, here
``L1Trigger/L1TGlobal/src/AXOL1TLCondition.cc`` of CMSSW: a pointer to ``ap_fixed<18,13>`` in, a pointer to a pair of
result and loss out (2411.19506). It fills in hwPt / 2, hwEta and hwPhi; an emulator for hardware takes these, or the
integers themselves as ``int``, and turns them into the columns that the score was trained on.
"""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ElsewhereError, InputError
from ..fixed import Fixed, Ints
from .cms_sources import DRIVER, INTERFACE, MAKEFILE, MODEL, README, fields_of, filled
from .emulator import RECORD, FirmwareFolder, open_folder
from .fixedpoint import BitReport, Difference, extreme_inputs
from .folder import replacing
from .hardware import HardwareUnits
from .library import FLAGS, compile_shared
from .project import read_project

log = logging.getLogger(__name__)


def write_cms_emulator(
    folder: Path, name: str, version: int, *, raw: str = "fixed<18,13>", hardware: bool = False
) -> Path:
    """Write ``cms/`` into a firmware folder (replaced if it exists); gives the C++ source ``cms/NAME_vN.cpp`` in it.

    ``raw``: the type in which the caller hands over a column; ``hardware``: what is handed over are hardware's integers, not
    columns in the units of the training. The folder's own record and checksums are not touched. Raises `ConfigError` for trees,
    a name C++ cannot have, columns without steps, a scale too long for exact numbers, or a folder exported with a cms/ of its
    own; `InputError` for one that was changed after its export.
    """
    _require_name(name, version)
    opened = open_folder(folder)
    if "trees" in opened.record:
        raise ConfigError(
            f"{folder / RECORD} is of trees (conifer); only networks (hls4ml) become a CMS emulator: export a network"
        )
    if "cms" in opened.record:
        raise ConfigError(
            f"{folder} was exported with its own cms/; set firmware.cms to another name or version and export again"
        )
    units = HardwareUnits.of(opened.features) if hardware else None
    with replacing(folder / "cms") as draft:
        write_cms_sources(opened, draft, f"{name}_v{version}", Fixed.parse(raw), units)
    return folder / "cms" / f"{name}_v{version}.cpp"


def _require_name(name: str, version: int) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or version < 1:
        raise ConfigError(
            f"an emulator '{name}' of version {version}: expected a C++ name such as GTADModel and a version from 1 on"
        )


def write_cms_sources(
    opened: FirmwareFolder, into: Path, model: str, raw: Fixed, units: HardwareUnits | None
) -> Path:
    """Write the sources of ``model`` into the folder ``into``, new or empty; gives ``into/NAME_vN.cpp``."""
    fields = fields_of(opened, model, raw, units) | {"FLAGS": " ".join(FLAGS)}
    (into / "interface").mkdir(parents=True)
    texts = {
        "interface/emulator.h": INTERFACE, f"{model}.cpp": MODEL, f"{model}_driver.cpp": DRIVER,
        "Makefile": MAKEFILE, "README.md": README,
    }  # fmt: skip
    for file, text in texts.items():
        (into / file).write_text(filled(text, fields))
    return into / f"{model}.cpp"


@dataclass(frozen=True)
class CmsLibrary:
    """What was built: the library ``NAME_vN.so``, the compile time [s] and the comparison with the firmware's scores."""

    path: Path
    compile_s: float
    bits: BitReport


def compile_cms_emulator(source: Path, *, events: int = 5000) -> CmsLibrary:
    """Compile what `write_cms_emulator` wrote and compare ``events`` scores with the firmware's own emulator.

    Library and driver take their places beside ``source`` only if every score agrees. Raises `ConfigError` without g++,
    `InputError` if it fails, `ElsewhereError` naming the first score that differs.
    """
    return compile_cms_sources(open_folder(source.parent.parent), source, events)


def compile_cms_sources(opened: FirmwareFolder, source: Path, events: int) -> CmsLibrary:
    """`compile_cms_emulator` for a folder that is open, or about to be sealed."""
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".build") as place:
        start = time.perf_counter()
        driver = source.with_name(f"{source.stem}_driver.cpp")
        parts = [_compile(one, Path(place)) for one in (source, driver)]
        seconds = time.perf_counter() - start
        bits = compare_opened(opened, CmsEmulator(parts[0]), events)
        if not bits.exact:
            raise ElsewhereError(f"{source}: {bits.mismatches} of {bits.events} scores differ: {bits.first}")
        for part in parts:
            part.replace(source.parent / part.name)
    log.info("%s: %d events compared, %d mismatches", source.stem, bits.events, bits.mismatches)
    return CmsLibrary(source.with_suffix(".so"), seconds, bits)


def _compile(source: Path, into: Path) -> Path:
    path, hls = into / f"{source.stem}.so", source.parent.parent / "hls"
    compile_shared(source, path, [source.parent / "interface", hls, hls / "firmware" / "ap_types"], ["dl"])
    return path


class CmsEmulator:
    """A compiled ``NAME_vN.so``, run through its virtual functions by the driver beside it, as CMSSW does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        driver = path.with_name(f"{path.stem}_driver.so")
        try:
            # a copy: the loader must not hand out an older driver of this name
            with tempfile.TemporaryDirectory() as place:
                self._driver = ctypes.CDLL(shutil.copy(driver, place))
            self._driver.cms_score.restype = ctypes.c_char_p
            self._driver.cms_score_integers.restype = ctypes.c_char_p
            self._driver.cms_raw_type.restype = ctypes.c_char_p
            self.n_in = int(self._driver.cms_inputs())
            self.hardware = bool(self._driver.cms_hardware())
            self.raw = Fixed.parse(self._driver.cms_raw_type().decode())
        except (OSError, AttributeError) as error:
            raise InputError(f"{driver} cannot be loaded ({error}); compile the emulator again") from error

    def score(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """The firmware's own scores (n,) of raw columns (n, n_in), which are first cast to the type CMSSW hands over."""
        return self._run(self._driver.cms_score, raw, np.float64)[0]

    def score_integers(self, counts: Ints) -> NDArray[np.float64]:
        """The same of hardware integers (n, n_in): hwPt, hwEta, hwPhi. Raises `InputError` for a model of other columns."""
        return self._run(self._driver.cms_score_integers, counts, np.int32)[0]

    def losses(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """What AXOL1TLCondition reads of the same events (n,): the score in its types, not yet times 16."""
        return self._run(self._driver.cms_score, raw, np.float64)[1]

    def _run(self, function: Any, raw: NDArray[Any], kind: type) -> NDArray[np.float64]:
        raw = np.ascontiguousarray(raw, dtype=kind)
        if raw.ndim != 2 or raw.shape[1] != self.n_in or not np.isfinite(raw).all():
            raise InputError(
                f"{self.path.name} takes {self.n_in} finite numbers per event, found an array of shape {raw.shape}"
            )
        out = np.empty((2, len(raw)))
        places = (ctypes.c_void_p(a.ctypes.data) for a in (raw, out[0], out[1]))
        failed = function(str(self.path.resolve()).encode(), *places, ctypes.c_long(len(raw)))
        if failed is not None:
            raise InputError(f"{self.path} cannot be run ({failed.decode()}); compile the emulator again")
        return out


def compare_cms_emulator(folder: Path, emulator: CmsEmulator, events: int, *, seed: int = 0) -> BitReport:
    """Scores of ``emulator`` and of the firmware in ``folder`` on its test vectors and on patterns made to hurt.

    Both get the vectors as numbers of the type that CMSSW hands over; ``events`` in all, at least half of them patterns.
    """
    return compare_opened(open_folder(folder), emulator, events, seed=seed)


def compare_opened(opened: FirmwareFolder, emulator: CmsEmulator, events: int, *, seed: int = 0) -> BitReport:
    """`compare_cms_emulator` for a folder that is open, or about to be sealed."""
    rng = np.random.default_rng(seed)
    vectors = np.load(opened.path / "vectors" / "raw.npy")[: events // 2].astype(np.float64)
    compared = _of_integers if emulator.hardware else _of_columns
    found, wanted = compared(opened, emulator, vectors, events - len(vectors), rng)
    wrong = np.flatnonzero((found != wanted).any(axis=1))
    first = None
    if len(wrong):
        i = int(wrong[0])
        way = int(np.flatnonzero(found[i] != wanted[i])[0])
        first = Difference(i, "score", way, float(found[i, way]), float(wanted[i, way]))
    return BitReport(events, len(wrong), found.size, int((found != wanted).sum()), first)


def _of_columns(
    opened: FirmwareFolder, emulator: CmsEmulator, vectors: NDArray[np.float64], more: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """Scores found and wanted (n, 1) of columns in the units of the training."""
    width, inner = emulator.n_in, read_project(opened.hls).input_type
    half = more // 2
    at_the_network = extreme_inputs(inner, width, half, rng) / opened.scale.factor + opened.scale.offset
    at_the_border = extreme_inputs(emulator.raw, width, more - half, rng)
    given = emulator.raw.from_float(np.concatenate([vectors, at_the_network, at_the_border]))
    x = emulator.raw.to_float(given)
    return emulator.score(x)[:, None], opened.library().score(opened.scale.apply(x))[:, None]


def _of_integers(
    opened: FirmwareFolder, emulator: CmsEmulator, vectors: NDArray[np.float64], more: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # fmt: skip
    """The same of hardware integers: found (n, 2) as integers and in the raw type, which wraps what it cannot hold."""
    units = HardwareUnits.of(opened.features)
    counts = np.concatenate([units.counts(vectors), extreme_counts(units, more, rng)])
    raw = emulator.raw.to_float(emulator.raw.from_float(units.handed(counts)))
    inside = raw * np.where(units.halved, 2.0, 1.0)
    library = opened.library()
    wanted = [library.score(opened.scale.apply(units.physical(k))) for k in (counts, inside)]
    return np.stack([emulator.score_integers(counts), emulator.score(raw)], axis=1), np.stack(wanted, axis=1)


def extreme_counts(units: HardwareUnits, n: int, rng: np.random.Generator) -> Ints:
    """Integers (n, d) that no trigger can surprise an emulator with: ends of fields, half turns of phi, one column alone."""
    width = len(units.step)
    turn = np.array(units.turn, dtype=np.int64)
    ends = np.array([0, 1, -1, 511, 2047, 4095, 4096, -4096, -128, 127, 2**20, -(2**20)])
    phi = np.stack([turn // 2 - 1, turn // 2, turn - 1, turn])
    same = np.repeat(ends[:, None], width, axis=1)
    hot = np.concatenate([np.eye(width, dtype=np.int64) * v for v in (ends[5], ends[7])])
    fixed = np.concatenate([same, phi, hot])[:n]
    left = n - len(fixed)
    usual = rng.integers(-4096, 4096, (left // 2, width))
    usual = np.where(turn > 0, usual % np.maximum(turn, 1), usual)
    return np.concatenate([fixed, usual, rng.choice(ends, (left - len(usual), width))])
