"""A tree student as a firmware project: conifer writes the C++, g++ compiles it, every event is compared bit by bit.

conifer (2002.02534) is an extra: pip install 'elsewhere[conifer]'. The folder is that of `firmware.export`, so the emulator
in the stream, thresholds and checksums are the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ElsewhereError, FeatureError
from ..events import FeatureSet
from ..fixed import Fixed
from ..models.base import TreeExportable
from ..trees import IntegerTrees
from .emulator import RECORD, InputScale
from .firmware import FirmwareExport
from .fixedpoint import BitReport, Difference, extreme_inputs
from .folder import FirmwareRecord, replacing
from .library import compile_library, open_library
from .precision import FirmwareSettings

_TOP = "score"
_WRAPPER = """\
// Made by elsewhere: the exported trees behind the three C functions of an emulator. firmware_score walks each tree from its
// root; firmware_trace is conifer's own arithmetic, which asks every node. Both were compared with the integers of the trees.
#include "firmware/BDT.cpp"

static const int feature[] = {{{feature}}}, lower[] = {{{left}}}, upper[] = {{{right}}}, roots[] = {{{roots}}};
static const double threshold[] = {{{threshold}}}, value[] = {{{value}}};

#define API extern "C" __attribute__((visibility("default")))

API void firmware_open(const char *) {{}}

API void firmware_score(const double *events, double *scores, long n) {{
    double in[n_features];
    for (long i = 0; i < n; i++) {{
        for (int j = 0; j < n_features; j++)
            in[j] = input_t(events[i * n_features + j]).to_double();
        double sum = 0;
        for (int root : roots) {{
            int node = root;
            while (feature[node] >= 0)
                node = in[feature[node]] <= threshold[node] ? lower[node] : upper[node];
            sum += value[node];
        }}
        scores[i] = sum;
    }}
}}

API void firmware_trace(const double *events, double *, double *scores, long n) {{
    input_arr_t in;
    score_arr_t out;
    for (long i = 0; i < n; i++) {{
        for (int j = 0; j < n_features; j++)
            in[j] = input_t(events[i * n_features + j]);
        bdt.decision_function(in, out);
        scores[i] = out[0].to_double();
    }}
}}
"""


def _wrapper(trees: IntegerTrees) -> str:
    """``emulator.cpp``: thresholds and leaves as doubles, which hold these integers exactly."""
    tables = {
        "feature": trees.feature, "left": trees.left, "right": trees.right, "roots": trees.roots,
        "threshold": trees.input.to_float(trees.threshold), "value": trees.output.to_float(trees.value),
    }  # fmt: skip
    return _WRAPPER.format(**{k: ", ".join(map(repr, v.tolist())) for k, v in tables.items()})


def ensemble(trees: IntegerTrees) -> dict[str, Any]:
    """The trees as conifer's own dictionary; thresholds and leaves as the exact numbers that the integers stand for."""
    out = []
    for first, last in zip(trees.roots, [*trees.roots[1:], len(trees.feature)], strict=True):
        nodes = slice(int(first), int(last))
        leaf = trees.feature[nodes] < 0
        weight = np.zeros((int(leaf.size), trees.columns), np.int64)
        weight[np.flatnonzero(~leaf), trees.feature[nodes][~leaf]] = 1
        out.append([{
            "feature": np.where(leaf, -2, trees.feature[nodes]).tolist(), "weight": weight.tolist(),
            "threshold": trees.input.to_float(trees.threshold[nodes]).tolist(),
            "value": trees.output.to_float(trees.value[nodes]).tolist(),
            "children_left": np.where(leaf, -1, trees.left[nodes] - first).tolist(),
            "children_right": np.where(leaf, -1, trees.right[nodes] - first).tolist(),
        }])  # fmt: skip
    return {
        "max_depth": trees.depth, "n_trees": len(out), "n_features": trees.columns, "n_classes": 2, "trees": out,
        "init_predict": [0], "norm": 1, "library": "elsewhere", "splitting_convention": "<=",
    }  # fmt: skip


def export_trees(
    student: TreeExportable, features: FeatureSet, scale: InputScale, folder: Path, vectors: NDArray[Any], *,
    settings: FirmwareSettings | None = None, thresholds: Mapping[str, float] | None = None, extremes: int = 1000,
) -> FirmwareExport:  # fmt: skip
    """Export a tree student into ``folder`` (replaced if it exists).

    ``vectors`` (n, d): raw events in physical units, kept as test vectors and compared bit by bit, with ``extremes`` patterns
    at the borders of the input type. Raises `ConfigError` without conifer or g++, `FeatureError` where columns and trees
    differ, `ElsewhereError` if one bit differs.
    """
    trees, settings = student.integers(), settings or FirmwareSettings()
    if trees.columns != len(features) or vectors.ndim != 2 or vectors.shape[1] != trees.columns:
        raise FeatureError(
            f"feature set '{features.name}' has {len(features)} columns, the trees {trees.columns}, the vectors {vectors.shape}"
        )
    with replacing(folder) as draft:
        hls = draft / "hls"
        _write_project(trees, hls, settings, draft / "conifer.log")
        library, seconds = compile_library(hls, draft)
        inputs = scale.apply(vectors)
        patterns = extreme_inputs(trees.input, trees.columns, extremes, np.random.default_rng(0))
        bits = compare_trees(trees, library, hls, np.concatenate([inputs, patterns]))
        if not bits.exact:
            raise ElsewhereError(
                f"the emulator and the trees differ in {bits.mismatches} of {bits.events} scores: {bits.first}"
            )
        place = draft / "vectors"
        place.mkdir()
        codes = trees.input.from_float(inputs)
        np.save(place / "raw.npy", np.asarray(vectors, np.float32))
        np.save(place / "inputs.npy", codes)
        np.save(place / "scores.npy", trees.evaluate(codes))
        _write_readme(draft, features, trees)
        about = {
            "settings": {"part": settings.part, "clock_ns": settings.clock_ns},
            "layers": [
                {"name": "input", "kind": "input", "precision": {"result": str(trees.input)}},
                {"name": "trees", "kind": "sum of leaves", "precision": {"result": str(trees.output)}},
            ],
            "trees": {"number": len(trees.roots), "depth": trees.depth, "nodes": len(trees.feature)},
        }
        what = FirmwareRecord(features, scale, trees.output, bits, ("conifer", "lightgbm", "numpy"), about)
        what.write(draft, library.name, thresholds or {})
    return FirmwareExport(folder, seconds, bits)


def compare_trees(trees: IntegerTrees, library: Path, hls: Path, inputs: NDArray[np.float64]) -> BitReport:
    """conifer's C++ and the emulator in the stream against the integers, on scaled inputs (n, columns)."""
    opened = open_library(library, hls, trees.columns)
    wanted = trees.output.to_float(trees.evaluate(trees.input.from_float(inputs)))
    both = {"conifer": opened.trace_score(inputs), _TOP: opened.score(inputs)}
    wrong = {name: np.flatnonzero(found != wanted) for name, found in both.items()}
    first = None
    for name, rows in wrong.items():
        if len(rows) and (first is None or rows[0] < first.event):
            i = int(rows[0])
            first = Difference(i, name, 0, float(both[name][i]), float(wanted[i]))
    mismatches = len(np.union1d(*wrong.values()))
    return BitReport(len(inputs), mismatches, 2 * len(inputs), sum(map(len, wrong.values())), first)


def _write_project(trees: IntegerTrees, hls: Path, settings: FirmwareSettings, logfile: Path) -> None:
    """Let conifer write its project; what it prints goes to ``logfile``."""
    try:
        from conifer.model import make_model
    except ImportError as error:
        raise ConfigError(
            "trees as firmware need conifer, which is not installed: pip install 'elsewhere[conifer]'"
        ) from error
    import hls4ml

    # A comparison is made in the threshold's type: one bit more than the input, so that nothing is lost.
    wide = Fixed(trees.input.width + 1, trees.input.integer + 1)
    config = {
        "backend": "xilinxhls", "output_dir": str(hls), "project_name": _TOP, "xilinx_part": settings.part,
        "clock_period": settings.clock_ns, "unroll": True, "input_precision": trees.input.hls,
        "threshold_precision": wide.hls, "weight_precision": "bool", "score_precision": trees.output.hls,
    }  # fmt: skip
    with (
        logfile.open("w") as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ResourceWarning)  # conifer leaves its templates open
        make_model(ensemble(trees), config).write()
    for left in hls.glob("*.json"):  # names the user, the machine and the draft folder
        left.unlink()
    for name in ("bridge.cpp", "build_hls.tcl"):
        path = hls / name
        if path.exists():
            path.write_text(path.read_text().replace(f"{hls}{os.sep}", ""))
    types = Path(hls4ml.__file__).parent / "templates" / "vivado" / "ap_types"
    shutil.copytree(types, hls / "firmware" / "ap_types")
    (hls / "emulator.cpp").write_text(_wrapper(trees))


def _write_readme(draft: Path, features: FeatureSet, trees: IntegerTrees) -> None:
    (draft / "README.md").write_text(f"""# Firmware project

{len(trees.roots)} trees of depth {trees.depth} on feature set `{features.name}`, {len(features)} inputs; their order, offsets and
shifts are in `{RECORD}`. An input is `(x - offset) * 2^-shift`, cast to `{trees.input}`; the score, a sum of leaves in
`{trees.output}`, is compared with the integer thresholds of `{RECORD}`.

* `hls/`: Vitis HLS project written by conifer (top function `{_TOP}`).
* `vectors/`: raw events (float32), inputs and scores as integers in units of their last bit, one row per event.
* `emulator-*.so`: the same C++ compiled by g++, `hls/emulator.cpp` is its source. Every score was compared with the integers
  of the trees before this folder was written.
""")
