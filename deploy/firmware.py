"""Export of a trained network as a firmware project: hls4ml writes the C++, g++ compiles it into the emulator.

The folder holds the project for the board team (``hls/``), the emulator library, test vectors, and ``firmware.json``
with everything the numbers depend on. It is written beside its final place and renamed when every check has passed.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ElsewhereError, FeatureError, InputError
from ..events import FeatureSet
from ..fixed import Fixed
from ..models.base import Exportable
from ..workspace import read_json, write_json
from .cms_export import CmsRequest, CmsResult, add_cms, cms_readme
from .emulator import RECORD, FirmwareFolder, InputScale
from .fixedpoint import BitReport, compare_inputs, extreme_inputs
from .folder import FirmwareRecord, integer_thresholds, replacing
from .hardware import HardwareUnits
from .library import compile_library, open_library, write_wrapper
from .precision import FirmwareSettings, NetworkPlan, plan_network
from .project import read_project
from .rtl_export import RtlRequest, RtlResult, add_rtl, readme_part

log = logging.getLogger(__name__)

_TOP = "score"


@dataclass(frozen=True)
class FirmwareExport:
    """What an export made: the folder, the compile time [s], the bit-by-bit comparison (extremes included), RTL, CMS emulator."""

    folder: Path
    compile_s: float
    bits: BitReport
    rtl: RtlResult | None = None
    cms: CmsResult | None = None


def export(
    score: Exportable,
    features: FeatureSet,
    scale: InputScale,
    folder: Path,
    vectors: NDArray[Any],
    *,
    settings: FirmwareSettings | None = None,
    thresholds: Mapping[str, float] | None = None,
    extremes: int = 1000,
    rtl: RtlRequest | None = None,
    cms: CmsRequest | None = None,
) -> FirmwareExport:
    """Export ``score`` into ``folder`` (replaced if it exists).

    ``vectors`` (n, d): raw events in physical units, kept as test vectors and compared bit by bit, with ``extremes``
    patterns at the borders of the input type; ``rtl``: write and prove Verilog, too; ``cms``: and the emulator for CMSSW.
    Raises `ConfigError` if the network cannot become firmware, a tool is missing or hardware does not count the columns,
    `FeatureError` if columns and scale differ in number, `ElsewhereError` if one bit differs.
    """
    settings = settings or FirmwareSettings()
    _require(features, scale, vectors, rtl, cms)
    plan = plan_network(score.network(), settings)
    with replacing(folder) as draft:
        hls, start = draft / "hls", time.perf_counter()
        _convert(plan, len(features), hls, draft / "hls4ml.log", settings)
        write_wrapper(hls, len(features), _TOP)
        converted = time.perf_counter() - start
        library, seconds = compile_library(hls, draft)
        bits = _vectors(draft, library, scale, raw=vectors, extremes=extremes, settings=settings)
        made = add_rtl(draft, library, scale, rtl, (converted, seconds)) if rtl is not None else None
        opened = FirmwareFolder(
            draft, {"library": library.name, "score_type": settings.score}, features, scale
        )
        emulator = add_cms(opened, cms) if cms is not None else None
        parts = [readme_part(made)] if made is not None else []
        parts += [cms_readme(emulator)] if emulator is not None else []
        _write_readme(draft, features, plan, "".join(parts))
        about: dict[str, Any] = {
            "settings": asdict(settings),
            "layers": [{"name": p.name, "kind": p.kind, "precision": p.precision()} for p in plan.layers],
        }
        for result in (made, emulator):
            about |= {} if result is None else result.to_json()
        what = FirmwareRecord(
            features, scale, settings.type("score"), bits, ("hls4ml", "torch", "numpy"), about
        )
        what.write(draft, library.name, thresholds or {})
    log.info("firmware in %s: %d events compared, %d mismatches", folder, bits.events, bits.mismatches)
    return FirmwareExport(folder, seconds, bits, made, emulator)


def _require(
    features: FeatureSet, scale: InputScale, vectors: NDArray[Any], rtl: RtlRequest | None, cms: CmsRequest | None
) -> None:  # fmt: skip
    """Refuse what cannot be exported before anything is made."""
    width = len(features)
    if len(scale.offset) != width or vectors.ndim != 2 or vectors.shape[1] != width:
        raise FeatureError(
            f"feature set '{features.name}' has {width} columns, the scale {len(scale.offset)}, the vectors {vectors.shape}"
        )
    if shutil.which("g++") is None:
        raise ConfigError(
            "firmware needs the C++ compiler g++, which is not on the PATH; install it (Debian: apt install g++)"
        )
    if rtl is not None:
        rtl.require_tools()
    if cms is not None:
        HardwareUnits.of(features)


def write_thresholds(folder: Path, thresholds: Mapping[str, float]) -> None:
    """Record working points (name to score) in ``firmware.json``; the score itself is not touched."""
    record = read_json(folder / RECORD)
    record["thresholds"] = integer_thresholds(thresholds, Fixed.parse(record["score_type"]))
    write_json(folder / RECORD, record)


def _convert(plan: NetworkPlan, width: int, hls: Path, logfile: Path, settings: FirmwareSettings) -> None:
    """Run hls4ml; what it prints goes to ``logfile``."""
    with (
        logfile.open("w") as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"hls4ml|torch|keras")
        import hls4ml

        config = hls4ml.utils.config_from_pytorch_model(
            plan.module, (width,), granularity="name", backend="Vitis", default_precision=settings.input
        )
        for name, layer in config["LayerName"].items():
            layer["Precision"].update(plan.of(name).precision())
            layer["Trace"] = plan.of(name).kind != "input"
        project = hls4ml.converters.convert_from_pytorch_model(
            plan.module,
            hls_config=config,
            output_dir=str(hls),
            project_name=_TOP,
            backend="Vitis",
            io_type="io_parallel",
            part=settings.part,
            clock_period=settings.clock_ns,
        )
        # write() dumps its configuration as YAML, the whole torch module as executable code in it; leave that out.
        for settings_of in (project.config.config, project.config.config.get("HLSConfig", {})):
            settings_of.pop("PytorchModel", None)
        project.config.trace_output = True  # the C++ can report each layer; synthesis leaves that code out
        project.write()
    (hls / "hls4ml_config.yml").unlink(
        missing_ok=True
    )  # names the draft folder; firmware.json has what matters


def _vectors(
    draft: Path,
    library: Path,
    scale: InputScale,
    *,
    raw: NDArray[Any],
    extremes: int,
    settings: FirmwareSettings,
) -> BitReport:
    """Compare emulator and evaluation; write the test vectors as arrays and in the form hls4ml's test bench reads."""
    project = read_project(draft / "hls", _TOP)
    for name, kind, wanted in (
        ("input", project.input_type, settings.type("input")),
        ("score", project.output_type, settings.type("score")),
    ):
        if kind != wanted:
            raise InputError(f"hls4ml wrote {kind} for the {name}, {wanted} was asked for")
    inputs = scale.apply(raw)
    opened = open_library(library, draft / "hls", project.n_in)
    patterns = extreme_inputs(project.input_type, project.n_in, extremes, np.random.default_rng(0))
    bits = compare_inputs(opened, project, np.concatenate([inputs, patterns]))
    if not bits.exact:
        raise ElsewhereError(
            f"the emulator and the independent evaluation differ in {bits.mismatches} of {bits.events} scores: {bits.first}"
        )
    scores = opened.score(inputs)
    folder = draft / "vectors"
    folder.mkdir()
    np.save(folder / "raw.npy", np.asarray(raw, dtype=np.float32))
    np.save(folder / "inputs.npy", project.input_type.from_float(inputs))
    np.save(folder / "scores.npy", project.output_type.from_float(scores))
    bench = draft / "hls" / "tb_data"
    exact = project.input_type.to_float(project.input_type.from_float(inputs[:1000]))
    np.savetxt(bench / "tb_input_features.dat", exact, fmt="%.17g")
    np.savetxt(bench / "tb_output_predictions.dat", scores[:1000, None], fmt="%.17g")
    return bits


def _write_readme(draft: Path, features: FeatureSet, plan: NetworkPlan, more: str) -> None:
    rows = "\n".join(
        f"| {p.name} | {p.kind} | {', '.join(f'{k} {v}' for k, v in p.precision().items())} |"
        for p in plan.layers
    )
    text = f"""# Firmware project

Feature set `{features.name}`, {len(features)} inputs; their order, offsets and shifts are in `{RECORD}`.
An input is `(x - offset) * 2^-shift`, cast to the type of the input layer below; the score is compared with the
integer thresholds of `{RECORD}`.

* `hls/`: Vitis HLS project written by hls4ml (top function `{_TOP}`); `vitis_hls -f build_prj.tcl` synthesises it.
* `vectors/`: raw events (float32), inputs and scores as integers in units of their last bit, one row per event.
  `hls/tb_data` holds the first 1000 in decimal for the test bench.
* `emulator-*.so`: the same C++ compiled by g++, `hls/emulator.cpp` is its source, and the same operations on plain integers, many
  events at a time (`hls/lanes.cpp`), which score streams. The bits of both were compared with an independent evaluation, those of the
  C++ in every layer of every event, before this folder was written.
{more}
| layer | kind | types |
|---|---|---|
{rows}
"""
    (draft / "README.md").write_text(text)
