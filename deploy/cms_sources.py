"""The texts of a CMS emulator folder: the interface in our own words, the model behind it, a driver, how to build it.

``@KEY@`` stands for what `fields_of` reads from the firmware folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..errors import ConfigError, InputError
from ..fixed import Fixed
from .emulator import RECORD, FirmwareFolder
from .hardware import HardwareUnits
from .project import read_project

#: The types that AXOL1TLCondition reads for every version after 4: the network's output, and the loss it cuts on.
CMS_RESULT, CMS_LOSS = Fixed(18, 14, True, "RND_CONV", "SAT"), Fixed(18, 14, False)
#: More bits than this in a scaled input and the doubles of `InputScale` would no longer be exact.
_EXACT_BITS = 52
_OWN = ('"defines.h"', '"parameters.h"', '"score.h"')
_ARRAY = re.compile(r"= \{([^}]*)\}")
_INCLUDE = re.compile(r'^#include\s+([<"][^>"]+[>"])', re.MULTILINE)

#: ``interface/emulator.h``: names and virtual order of hls4mlEmulatorExtras, so that CMSSW is not needed to compile.
INTERFACE = """\
// The interface of hls4mlEmulatorExtras in our own words: the same names and order of virtual functions, without its loader.
#pragma once
#include <any>

namespace hls4mlEmulator {

class Model {
public:
    virtual void prepare_input(std::any input) = 0;
    virtual void predict() = 0;
    virtual void read_result(std::any result) = 0;
    virtual ~Model() = default;
};

} // namespace hls4mlEmulator
"""
#: ``NAME_vN.cpp``: input scaling, the top function of the hls4ml project, and what is handed over.
MODEL = """\
// Made by elsewhere: the exported project as the emulator @MODEL@ of hls4mlEmulator::Model.
#include "emulator.h"
#include <any>
#include <utility>
@INCLUDES@

// A namespace of its own: several versions may be loaded by one process.
namespace hls4ml_@MODEL@ {

// As synthesis reads it: the weights are those of the headers, no file is read and no layer is traced at run time.
#define __SYNTHESIS__
#include "firmware/score.cpp"
#undef __SYNTHESIS__

const int n_in = @N_IN@;
typedef @RAW@ raw_t;
typedef std::pair<@CMS_RESULT@, @CMS_LOSS@> pair_t;
@SCALING@

class Emulator : public hls4mlEmulator::Model {
    input_t scaled_[n_in] = {};
    result_t score_[1] = {};

public:
@PREPARE@

    void predict() override { score(scaled_, score_); }

    // A pointer to result_t takes the score as it is; one to the pair of AXOL1TLCondition takes it in its types.
    void read_result(std::any result) override {
        if (result_t **exact = std::any_cast<result_t *>(&result)) {
            **exact = score_[0];
            return;
        }
        pair_t &pair = *std::any_cast<pair_t *>(result);
        pair.first = score_[0];
        pair.second = 0;
        if (pair.first > 0)
            pair.second = pair.first;
    }
};

} // namespace hls4ml_@MODEL@

#define API extern "C" __attribute__((visibility("default")))
API hls4mlEmulator::Model *create_model() { return new hls4ml_@MODEL@::Emulator; }
API void destroy_model(hls4mlEmulator::Model *model) { delete model; }
"""
#: The same for columns in the units the model was trained in: what they need before the class, and `prepare_input` in it.
SCALING = """\
const @OFFSET_T@ offset[n_in] = {@OFFSET@};
const @FACTOR_T@ factor[n_in] = {@FACTOR@};"""
PREPARE = """\
    // A pointer to raw_t. Difference and product keep every bit; rounding and saturation are those of input_t alone.
    void prepare_input(std::any input) override {
        const raw_t *raw = std::any_cast<raw_t *>(input);
        for (int i = 0; i < n_in; i++)
            scaled_[i] = (raw[i] - offset[i]) * factor[i];
    }"""
#: And for hardware integers.
HARDWARE_SCALING = """\
// What 1 stands for, how many go once around in phi (0: the column does not), and how many 1 of raw_t is (hwPt / 2).
const double step[n_in] = {@STEP@};
const int turn[n_in] = {@TURN@};
const int handed[n_in] = {@HANDED@};
const double offset[n_in] = {@OFFSET@};
const double factor[n_in] = {@FACTOR@};

// Step by step what training and stream do: the column is a float32, its scaling is in doubles, input_t rounds and saturates.
inline input_t scaled(int i, double hw) {
    if (turn[i] > 0 && 2 * hw >= turn[i])
        hw -= turn[i];
    const double column = float(hw * step[i]);
    return input_t((column - offset[i]) * factor[i]);
}"""
HARDWARE_PREPARE = """\
    // A pointer to int: hwPt, hwEta, hwPhi; or one to raw_t, filled as in AXOL1TLCondition: hwPt / 2, hwEta, hwPhi.
    void prepare_input(std::any input) override {
        if (int **integers = std::any_cast<int *>(&input)) {
            for (int i = 0; i < n_in; i++)
                scaled_[i] = scaled(i, (*integers)[i]);
            return;
        }
        const raw_t *raw = std::any_cast<raw_t *>(input);
        for (int i = 0; i < n_in; i++)
            scaled_[i] = scaled(i, raw[i].to_double() * handed[i]);
    }"""
#: ``NAME_vN_driver.cpp``: loads and runs a model as CMSSW does, for comparisons.
DRIVER = """\
// Made by elsewhere: events through a model as CMSSW sees it, by the interface alone. Not part of the delivery.
#include "emulator.h"
#include "ap_fixed.h"
#include <dlfcn.h>
#include <exception>
#include <string>
#include <utility>

#define API extern "C" __attribute__((visibility("default")))
static thread_local std::string message;

API int cms_inputs() { return @N_IN@; }

API const char *cms_raw_type() { return "@RAW@"; }

API int cms_hardware() { return @HARDWARE@; }

// Scores and losses (what AXOL1TLCondition reads) of n events, handed over as numbers of type T; null, or what went wrong.
template <class T, class G> static const char *run(const char *path, const G *events, double *scores, double *losses, long n) {
    void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    if (!library)
        return (message = dlerror()).c_str();
    auto create = (hls4mlEmulator::Model * (*)()) dlsym(library, "create_model");
    auto destroy = (void (*)(hls4mlEmulator::Model *))dlsym(library, "destroy_model");
    message = create && destroy ? "" : "it lacks create_model or destroy_model";
    if (message.empty()) {
        hls4mlEmulator::Model *model = create();
        try {
            for (long i = 0; i < n; i++) {
                T given[@N_IN@];
                for (int j = 0; j < @N_IN@; j++)
                    given[j] = events[i * @N_IN@ + j];
                @RESULT@ score;
                std::pair<@CMS_RESULT@, @CMS_LOSS@> pair;
                model->prepare_input((T *)given);
                model->predict();
                model->read_result(&score);
                model->read_result(&pair);
                scores[i] = score.to_double();
                losses[i] = pair.second.to_double();
            }
        } catch (const std::exception &error) {
            message = error.what();
        }
        destroy(model);
    }
    dlclose(library);
    return message.empty() ? nullptr : message.c_str();
}

API const char *cms_score(const char *path, const double *events, double *scores, double *losses, long n) {
    return run<@RAW@>(path, events, scores, losses, n);
}

API const char *cms_score_integers(const char *path, const int *events, double *scores, double *losses, long n) {
    return run<int>(path, events, scores, losses, n);
}
"""
#: ``Makefile`` of the integrator.
MAKEFILE = """\
# INTERFACE: where emulator.h is; with CMSSW the folder include/hls4ml of hls4mlEmulatorExtras. AP_TYPES: ap_fixed.h and others.
INTERFACE ?= interface
HLS ?= ../hls
AP_TYPES ?= $(HLS)/firmware/ap_types
CXXFLAGS += @FLAGS@ -fno-gnu-unique

@MODEL@.so: @MODEL@.cpp
\t$(CXX) $(CXXFLAGS) -I$(INTERFACE) -I$(HLS) -I$(AP_TYPES) $< -o $@.part
\tmv $@.part $@

.PHONY: clean
clean:
\trm -f @MODEL@.so
"""
#: ``README.md`` of the integrator.
README = """\
# @MODEL@: emulator for CMSSW

`make INTERFACE=$EMULATOR_EXTRAS/include/hls4ml` gives `@MODEL@.so`; without INTERFACE it is built on our own copy of the
interface. The library needs no other file when it runs; its sources are here and in `../hls`.

@README_INPUT@
* `read_result`: pointer to `@RESULT@`, the firmware's own score; or to
  `std::pair<@CMS_RESULT@, @CMS_LOSS@>`,
  which AXOL1TLCondition.cc reads: it compares 16 times the second with the threshold of the menu.
  @LOSSLESS@
* Inputs in order@README_UNITS@: @COLUMNS@
"""
README_INPUT = """\
* `prepare_input`: pointer to @N_IN@ `@RAW@`; (x - offset) * factor and the cast to the network's input are inside."""
README_UNITS = """\
, in the units the model was trained in. AXOL1TLCondition.cc fills hwPt / 2, hwEta and hwPhi, which is right
  only for a model trained in these"""
HARDWARE_README_INPUT = """\
* `prepare_input`: pointer to @N_IN@ `int`, the hardware integers hwPt, hwEta and hwPhi; or to as many
  `@RAW@`, filled as AXOL1TLCondition.cc does: hwPt / 2, hwEta and hwPhi. Its hwPt / 2 is a
  division of integers: an odd hwPt loses half a step of the trigger's energy there, not here. Hardware's phi is counted from 0 on;
  an empty slot is 0 in every column. The scaling to the network's input is inside."""
HARDWARE_README_UNITS = """\
, each with what 1 of the hardware stands for"""


def filled(text: str, fields: Mapping[str, str]) -> str:
    """``text`` with every ``@KEY@`` of ``fields`` replaced."""
    for key, value in fields.items():
        text = text.replace(f"@{key}@", value)
    return text


def fields_of(opened: FirmwareFolder, model: str, raw: Fixed, units: HardwareUnits | None) -> dict[str, str]:
    """What the texts leave open, for a model NAME_vN that takes columns in the type ``raw``, or hardware integers in ``units``.

    Raises `ConfigError` if the scaling of columns cannot be the same in fixed point and in doubles, `InputError` if the weights
    that synthesis reads are not those that the emulator reads.
    """
    _require_same_weights(opened.hls / "firmware" / "weights")
    project, score = read_project(opened.hls), Fixed.parse(opened.record["score_type"])
    highest, top = (float(k.to_float(np.array(k.high))) for k in (score, CMS_RESULT))
    fits = score.fraction <= CMS_RESULT.fraction and highest <= top
    lossy = f"The pair rounds the score to {CMS_RESULT.step} and ends at {top}; a score in `{CMS_RESULT}` loses nothing."
    return _inputs(opened, raw, units) | {
        "MODEL": model, "INCLUDES": _includes(opened.hls), "N_IN": str(project.n_in),
        "RAW": raw.hls, "RESULT": score.hls, "CMS_RESULT": CMS_RESULT.hls, "CMS_LOSS": CMS_LOSS.hls,
        "OFFSET": _numbers(opened.scale.offset), "FACTOR": _numbers(opened.scale.factor),
        "LOSSLESS": ("The pair holds every score exactly." if fits else lossy) + " A score below 0 is a loss of 0 there.",
    }  # fmt: skip


def _inputs(opened: FirmwareFolder, raw: Fixed, units: HardwareUnits | None) -> dict[str, str]:
    """The part that depends on what is handed over; its own texts come first, because they hold keys of the others."""
    columns = opened.features.columns
    if units is not None:
        return {
            "SCALING": HARDWARE_SCALING, "PREPARE": HARDWARE_PREPARE, "HARDWARE": "1",
            "README_INPUT": HARDWARE_README_INPUT, "README_UNITS": HARDWARE_README_UNITS,
            "STEP": _numbers(units.step), "TURN": ", ".join(map(str, units.turn)),
            "HANDED": ", ".join("2" if halved else "1" for halved in units.halved),
            "COLUMNS": ", ".join(
                f"{c.name} [{step:.7g} {c.unit}]".replace(" ]", "]") for c, step in zip(columns, units.step, strict=True)
            ),
        }  # fmt: skip
    kinds = _holding(opened.scale.offset, raw, opened.path), _holding(opened.scale.factor, raw, opened.path)
    fraction = max(raw.fraction, kinds[0].fraction) + kinds[1].fraction
    whole = max(raw.integer, kinds[0].integer) + 1 + kinds[1].integer
    if fraction + whole > _EXACT_BITS:
        raise _too_long(opened.path, raw)
    return {
        "SCALING": SCALING, "PREPARE": PREPARE, "HARDWARE": "0", "README_INPUT": README_INPUT, "README_UNITS": README_UNITS,
        "OFFSET_T": kinds[0].hls, "FACTOR_T": kinds[1].hls,
        "COLUMNS": ", ".join(f"{c.name} [{c.unit}]" if c.unit else c.name for c in columns),
    }  # fmt: skip


def _numbers(values: Iterable[float]) -> str:
    """Doubles as C++ reads them back, bit for bit."""
    return ", ".join(repr(float(v)) for v in values)


def _includes(hls: Path) -> str:
    """Every header the project asks for, once; inside the namespace its own files must find them included already."""
    found: dict[str, None] = {}
    for file in ("defines.h", "score.h", "parameters.h", "score.cpp"):
        for name in _INCLUDE.findall((hls / "firmware" / file).read_text()):
            if name.startswith('"nnet_utils/'):
                found[f'"firmware/{name[1:]}'] = None
            elif name not in _OWN and not name.startswith('"weights/'):
                found[name] = None
    return "\n".join(f"#include {name}" for name in found)


def _require_same_weights(folder: Path) -> None:
    """The headers synthesis reads must say what the text files say that the emulator and its proof read."""
    for text in sorted(folder.glob("*.txt")):
        header = text.with_suffix(".h")
        match = _ARRAY.search(header.read_text()) if header.is_file() else None
        if match is None or _tokens(match.group(1)) != _tokens(text.read_text()):
            raise InputError(f"{header} does not hold the numbers of {text.name}; export the firmware again")


def _tokens(numbers: str) -> list[str]:
    return [token.strip() for token in numbers.split(",")]


def _holding(values: Iterable[float], raw: Fixed, folder: Path) -> Fixed:
    """The narrowest signed type that holds all ``values``."""
    ratios = [float(v).as_integer_ratio() for v in values]
    fraction = max(denominator.bit_length() - 1 for _, denominator in ratios)
    width = max(abs(n << fraction) // d for n, d in ratios).bit_length() + 1
    if width > _EXACT_BITS:
        raise _too_long(folder, raw)
    return Fixed(width, width - fraction)


def _too_long(folder: Path, raw: Fixed) -> ConfigError:
    return ConfigError(
        f"{folder / RECORD}: offsets and factors of its scale need more than {_EXACT_BITS} bits with inputs in {raw}; "
        "hardware subtracts short numbers and shifts: export with offsets of few bits and factors that are powers of two"
    )
