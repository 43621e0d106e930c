"""A firmware folder as a level-1 emulator of CMSSW: ``NAME_vN.so`` behind the interface ``hls4mlEmulator::Model``.

The interface is that of github.com/cms-hls4ml/hls4mlEmulatorExtras (``include/hls4ml/emulator.h``): pure virtual
``prepare_input(std::any)``, ``predict()``, ``read_result(std::any)`` in this order, then the destructor; a library
exports ``create_model`` and ``destroy_model`` and is opened by its name. What crosses it is fixed by the caller, here
``L1Trigger/L1TGlobal/src/AXOL1TLCondition.cc`` of CMSSW: a pointer to ``ap_fixed<18,13>`` in, a pointer to a pair of
result and loss out (2411.19506).
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

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ElsewhereError, InputError
from ..fixed import Fixed
from .cms_sources import DRIVER, INTERFACE, MAKEFILE, MODEL, README, fields_of, filled
from .emulator import RECORD, open_folder
from .fixedpoint import BitReport, Difference, extreme_inputs
from .folder import replacing
from .library import FLAGS, compile_shared
from .project import read_project

log = logging.getLogger(__name__)


def write_cms_emulator(folder: Path, name: str, version: int, *, raw: str = "fixed<18,13>") -> Path:
    """Write ``cms/`` into a firmware folder (replaced if it exists); gives the C++ source ``cms/NAME_vN.cpp`` in it.

    ``raw``: the type in which the caller hands over a column. The folder's own record and checksums are not touched.
    Raises `ConfigError` for trees, a name C++ cannot have, or a scale too long for exact numbers; `InputError` for a
    folder that was changed after its export.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or version < 1:
        raise ConfigError(
            f"an emulator '{name}' of version {version}: expected a C++ name such as GTADModel and a version from 1 on"
        )
    opened = open_folder(folder)
    if "trees" in opened.record:
        raise ConfigError(
            f"{folder / RECORD} is of trees (conifer); only networks (hls4ml) become a CMS emulator: export a network"
        )
    model = f"{name}_v{version}"
    fields = fields_of(opened, model, Fixed.parse(raw)) | {"FLAGS": " ".join(FLAGS)}
    with replacing(folder / "cms") as draft:
        (draft / "interface").mkdir()
        texts = {
            "interface/emulator.h": INTERFACE, f"{model}.cpp": MODEL, f"{model}_driver.cpp": DRIVER,
            "Makefile": MAKEFILE, "README.md": README,
        }  # fmt: skip
        for file, text in texts.items():
            (draft / file).write_text(filled(text, fields))
    return folder / "cms" / f"{model}.cpp"


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
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".build") as place:
        start = time.perf_counter()
        driver = source.with_name(f"{source.stem}_driver.cpp")
        parts = [_compile(one, Path(place)) for one in (source, driver)]
        seconds = time.perf_counter() - start
        bits = compare_cms_emulator(source.parent.parent, CmsEmulator(parts[0]), events)
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
            self._driver.cms_raw_type.restype = ctypes.c_char_p
            self.n_in = int(self._driver.cms_inputs())
            self.raw = Fixed.parse(self._driver.cms_raw_type().decode())
        except (OSError, AttributeError) as error:
            raise InputError(f"{driver} cannot be loaded ({error}); compile the emulator again") from error

    def score(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """The firmware's own scores (n,) of raw columns (n, n_in), which are first cast to the type CMSSW hands over."""
        return self._run(raw)[0]

    def losses(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """What AXOL1TLCondition reads of the same events (n,): the score in its types, not yet times 16."""
        return self._run(raw)[1]

    def _run(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        raw = np.ascontiguousarray(raw, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != self.n_in or not np.isfinite(raw).all():
            raise InputError(
                f"{self.path.name} takes {self.n_in} finite numbers per event, found an array of shape {raw.shape}"
            )
        out = np.empty((2, len(raw)))
        places = (ctypes.c_void_p(a.ctypes.data) for a in (raw, out[0], out[1]))
        failed = self._driver.cms_score(str(self.path.resolve()).encode(), *places, ctypes.c_long(len(raw)))
        if failed is not None:
            raise InputError(f"{self.path} cannot be run ({failed.decode()}); compile the emulator again")
        return out


def compare_cms_emulator(folder: Path, emulator: CmsEmulator, events: int, *, seed: int = 0) -> BitReport:
    """Scores of ``emulator`` and of the firmware in ``folder`` on its test vectors and on patterns made to hurt.

    Both get the vectors as numbers of the type that CMSSW hands over; ``events`` in all, at least half of them patterns.
    """
    opened, rng, width = open_folder(folder), np.random.default_rng(seed), emulator.n_in
    vectors = np.load(folder / "vectors" / "raw.npy")[: events // 2].astype(np.float64)
    half = (events - len(vectors)) // 2
    inner = read_project(opened.hls).input_type
    at_the_network = extreme_inputs(inner, width, half, rng) / opened.scale.factor + opened.scale.offset
    at_the_border = extreme_inputs(emulator.raw, width, events - len(vectors) - half, rng)
    given = emulator.raw.from_float(np.concatenate([vectors, at_the_network, at_the_border]))
    x = emulator.raw.to_float(given)
    found, wanted = emulator.score(x), opened.library().score(opened.scale.apply(x))
    wrong = np.flatnonzero(found != wanted)
    first = None
    if len(wrong):
        i = int(wrong[0])
        first = Difference(i, "score", 0, float(found[i]), float(wanted[i]))
    return BitReport(len(x), len(wrong), len(x), len(wrong), first)
