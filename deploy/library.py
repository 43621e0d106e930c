"""The emulator library: the exported C++ compiled by g++ behind plain C functions, and beside it the same in plain integers.

hls4ml's own script compiles in the absolute path of the weights and answers one event per call. This wrapper takes the
weights' folder when it is opened, so the firmware folder can be moved and renamed, and loops over events in C++. The stream
is scored by `lanes`, whose every score is compared with the exported C++ before a folder is written.
"""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..workspace import file_digest
from .lanes import write_lanes
from .project import read_project

log = logging.getLogger(__name__)

_SAVED = re.compile(r'nnet::save_layer_output<\w+>\((\w+), "(\w+)", (\d+)\);')
_WRAPPER = """\
// Made by elsewhere: the exported project behind C functions that loop over events.
#include <cstddef>
#include <map>
#include <string>

static std::string weights_folder;
#define WEIGHTS_DIR weights_folder
#include "firmware/@NAME@.cpp"
#include "lanes.cpp"

namespace nnet {
bool trace_enabled = false;
std::map<std::string, void *> *trace_outputs = NULL;
size_t trace_type_size = sizeof(double);
} // namespace nnet

static double one(const double *event) {
    input_t in[@N_IN@];
    result_t out[1];
    for (int i = 0; i < @N_IN@; i++)
        in[i] = input_t(event[i]);
    @NAME@(in, out);
    return out[0].to_double();
}

#define API extern "C" __attribute__((visibility("default")))

// Read the weights; must be called once, before anything else.
API void firmware_open(const char *folder) {
    weights_folder = folder;
    double zero[@N_IN@] = {0};
    one(zero);
}

API void firmware_score(const double *events, double *scores, long n) { lanes::score(events, scores, n); }

// The same by the exported project, event by event.
API void firmware_single(const double *events, double *scores, long n) {
    for (long i = 0; i < n; i++)
        scores[i] = one(events + i * @N_IN@);
}

// The same with the outputs of every layer, @WIDTH@ numbers per event. Not for several threads at once.
API void firmware_trace(const double *events, double *layers, double *scores, long n) {
    std::map<std::string, void *> outputs;
    nnet::trace_outputs = &outputs;
    nnet::trace_enabled = true;
    for (long i = 0; i < n; i++) {
        double *row = layers + i * @WIDTH@L;
@LAYERS@
        scores[i] = one(events + i * @N_IN@);
    }
    nnet::trace_enabled = false;
    nnet::trace_outputs = NULL;
}
"""


@dataclass(frozen=True)
class LayerOutput:
    """Where a layer's output stands in a row of `Library.trace`."""

    name: str
    array: str
    size: int


def traced_layers(hls: Path, name: str = "score") -> tuple[LayerOutput, ...]:
    """The layers whose outputs the project can report, in order."""
    text = (hls / "firmware" / f"{name}.cpp").read_text()
    return tuple(LayerOutput(label, array, int(size)) for array, label, size in _SAVED.findall(text))


def write_wrapper(hls: Path, n_in: int, name: str = "score") -> Path:
    """Write ``emulator.cpp`` and ``lanes.cpp`` into the project folder."""
    write_lanes(read_project(hls, name), hls / "lanes.cpp")
    lines, start = [], 0
    for layer in traced_layers(hls, name):
        lines.append(f'        outputs["{layer.name}"] = row + {start};')
        start += layer.size
    fields = {"NAME": name, "N_IN": str(n_in), "WIDTH": str(start), "LAYERS": "\n".join(lines)}
    text = _WRAPPER
    for key, value in fields.items():
        text = text.replace(f"@{key}@", value)
    path = hls / "emulator.cpp"
    path.write_text(text)
    return path


#: How a C++ emulator is compiled into a shared library.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-DNDEBUG", "-w")


def compile_shared(
    source: Path, library: Path, include: Sequence[Path], libraries: Sequence[str] = ()
) -> float:
    """Compile one C++ file, in its own folder, into a shared library; gives the seconds it took.

    Raises `ConfigError` without g++, `InputError` with the compiler's last words if it fails.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise ConfigError(
            "firmware needs the C++ compiler g++, which is not on the PATH; install it (Debian: apt install g++)"
        )
    command = [compiler, *FLAGS, *(f"-I{path.resolve()}" for path in include), source.name]
    if (
        sys.platform == "linux"
    ):  # without it the loader would share static data between two firmware libraries
        command.append("-fno-gnu-unique")
    command += ["-o", str(library.resolve()), *(f"-l{name}" for name in libraries)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"g++ could not compile {source}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - start


def compile_library(hls: Path, into: Path) -> tuple[Path, float]:
    """Compile ``emulator.cpp``; gives the library and the seconds it took.

    The file's name carries a part of the checksum: a process that already holds an older library of the same folder
    must not be handed that one again by the loader. Raises what `compile_shared` raises.
    """
    draft = into / "emulator.so"
    with tempfile.TemporaryDirectory() as place:
        types = _quick_types(hls / "firmware" / "ap_types", Path(place) / "ap_types")
        seconds = compile_shared(hls / "emulator.cpp", draft, [types])
    path = into / f"emulator-{file_digest(draft)[:12]}.so"
    draft.replace(path)
    log.info("compiled the emulator in %.1f s", seconds)
    return path, seconds


def _quick_types(source: Path, target: Path) -> Path:
    """A copy of the ap_types headers for the compiler only, without one `volatile` that keeps numbers in memory.

    It changes no value (every bit is compared afterwards) and makes the emulator about 2.5 times as fast.
    """
    shutil.copytree(source, target)
    header = target / "etc" / "ap_private.h"
    header.write_text(
        header.read_text().replace("void clearUnusedBits(void) volatile", "void clearUnusedBits(void)")
    )
    return target


@dataclass
class Library:
    """A loaded emulator. ``score`` may be called from several threads, ``trace`` may not."""

    handle: Any = field(repr=False)
    n_in: int
    layers: tuple[LayerOutput, ...]

    def score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores of scaled inputs (n, n_in), shape (n,)."""
        inputs = self._checked(inputs)
        out = np.empty(len(inputs))
        self.handle.firmware_score(_pointer(inputs), _pointer(out), ctypes.c_long(len(inputs)))
        return out

    def score_single(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same as the exported C++ computes them, event by event; not for trees, whose only way this is."""
        inputs = self._checked(inputs)
        out = np.empty(len(inputs))
        self.handle.firmware_single(_pointer(inputs), _pointer(out), ctypes.c_long(len(inputs)))
        return out

    def trace(self, inputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The outputs of every layer, each (n, size), keyed by the array's name in the C++."""
        rows, _ = self._traced(inputs)
        outputs, start = {}, 0
        for layer in self.layers:
            outputs[layer.array] = rows[:, start : start + layer.size]
            start += layer.size
        return outputs

    def trace_score(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (n,) of scaled inputs as `trace` computes them: by the exported C++, for trees by conifer's own arithmetic."""
        return self._traced(inputs)[1]

    def _traced(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All layers' outputs side by side (n, sizes) and the scores (n,)."""
        inputs = self._checked(inputs)
        rows, out = np.empty((len(inputs), sum(layer.size for layer in self.layers))), np.empty(len(inputs))
        self.handle.firmware_trace(
            _pointer(inputs), _pointer(rows), _pointer(out), ctypes.c_long(len(inputs))
        )
        return rows, out

    def _checked(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        inputs = np.ascontiguousarray(inputs, dtype=np.float64)
        if inputs.ndim != 2 or inputs.shape[1] != self.n_in:
            raise InputError(
                f"the firmware takes {self.n_in} inputs per event, found an array of shape {inputs.shape}"
            )
        if not np.isfinite(inputs).all():
            row, column = np.argwhere(~np.isfinite(inputs))[0]
            raise InputError(f"event {row}: input {column} is not finite; fixed-point numbers cannot hold it")
        return inputs


def _pointer(array: NDArray[np.float64]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


_lock = threading.Lock()
_loaded: dict[str, Library] = {}


def open_library(path: Path, hls: Path, n_in: int) -> Library:
    """Load an emulator once per process; raises `InputError` if this machine cannot run it."""
    key = str(path.resolve())
    with _lock:
        if key not in _loaded:
            try:
                handle = ctypes.CDLL(key)
                handle.firmware_open.restype = None
                handle.firmware_score.restype = None
                handle.firmware_trace.restype = None
            except (OSError, AttributeError) as error:
                raise InputError(
                    f"{path} cannot be loaded ({error}); export the firmware on this machine"
                ) from error
            handle.firmware_open(str((hls / "firmware" / "weights").resolve()).encode())
            _loaded[key] = Library(handle, n_in, traced_layers(hls))
        return _loaded[key]
