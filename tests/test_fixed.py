"""Fixed-point types against published values, exact fractions, and the ap_fixed C++ that hls4ml ships."""

import importlib.util
import itertools
import math
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from elsewhere.deploy.emulator import InputScale
from elsewhere.errors import ConfigError, InputError
from elsewhere.fixed import Fixed

MODES = list(itertools.product(("TRN", "TRN_ZERO", "RND", "RND_CONV"), ("WRAP", "SAT", "SAT_SYM")))


def value(text, x):
    kind = Fixed.parse(text)
    return float(kind.to_float(kind.from_float(np.array([float(x)])))[0])


@pytest.mark.parametrize(
    ("x", "expected"), [(0.125, 0), (0.375, 0.5), (31.9, 31.75), (-40, -32), (1.3, 1.25)]
)
def test_golden_values_of_the_level_1_input_type(x, expected):
    assert value("ap_fixed<8,6,AP_RND_CONV,AP_SAT>", x) == expected


@pytest.mark.parametrize(
    ("raw", "offset", "shift", "narrow", "wide"),
    [(37, 18, 3, 2.5, 2.375), (0, 7, 2, -1.75, -1.75), (100, 72, 6, 0.5, 0.4375), (9, 3, -1, 12, 12)],
)
def test_golden_scaled_inputs_of_axol1tl(raw, offset, shift, narrow, wide):
    scale = InputScale((offset,), (2.0**-shift,))
    u = scale.apply(np.array([[raw]]))[0, 0]
    assert value("fixed<8,6,RND_CONV,SAT>", u) == narrow
    assert value("fixed<14,6,RND_CONV,SAT>", u) == wide
    assert scale.shift == (shift,)


def test_default_modes_truncate_downwards_and_wrap():
    assert value("ap_fixed<8,6>", -0.01) == -0.25
    assert value("ap_fixed<8,6>", 32.0) == -32.0
    assert value("ap_ufixed<8,6>", -0.25) == 63.75
    assert value("ap_fixed<8,6>", 2.0**80 + 2.0**30) == 0.0


def exact(kind, x):
    """The type's definition in exact fractions, written without integers of fixed width."""
    scaled = Fraction(x) * Fraction(2) ** kind.fraction
    down = math.floor(scaled)
    rest = scaled - down
    up = {
        "TRN": 0,
        "TRN_ZERO": int(scaled < 0 and rest > 0),
        "RND": int(rest >= Fraction(1, 2)),
        "RND_CONV": int(rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1)),
    }[kind.quantisation]
    k = down + up
    if kind.overflow == "WRAP":
        k %= 2**kind.width
        return k - 2**kind.width if k > kind.high else k
    low = -kind.high if kind.overflow == "SAT_SYM" and kind.signed else kind.low
    return min(max(k, low), kind.high)


@pytest.mark.parametrize(("quantisation", "overflow"), MODES)
@pytest.mark.parametrize("signed", [True, False])
def test_casts_follow_the_definition(quantisation, overflow, signed):
    rng = np.random.default_rng(3)
    kind = Fixed(7, 3, signed, quantisation, overflow)
    source = Fixed(14, 6)
    k = np.concatenate([rng.integers(source.low, source.high, 400), [source.low, source.high, 0, -1, 1]])
    expected = [exact(kind, x) for x in source.to_float(k).tolist()]
    assert kind.cast(k, source.fraction).tolist() == expected
    assert kind.from_float(source.to_float(k)).tolist() == expected
    assert kind.cast(k >> 6, 1).tolist() == [exact(kind, x / 2) for x in (k >> 6).tolist()]


def test_casts_agree_with_the_c_types(tmp_path):
    """Every mode, signed and unsigned, from double and from another fixed-point type, against ap_fixed.h itself."""
    spec = importlib.util.find_spec("hls4ml")
    assert spec is not None
    assert spec.origin is not None
    include = Path(spec.origin).parent / "templates" / "vivado" / "ap_types"
    kinds = [Fixed(w, i, s, q, o) for q, o in MODES for (w, i) in ((8, 5), (5, 6)) for s in (True, False)]
    body = "\n".join(
        f"{{ ap_{'' if k.signed else 'u'}fixed<{k.width},{k.integer},AP_{k.quantisation},AP_{k.overflow}> a = d, b = s; "
        'printf("%.17g %.17g\\n", a.to_double(), b.to_double()); }'
        for k in kinds
    )
    source = tmp_path / "types.cpp"
    source.write_text(
        '#include <cstdio>\n#include "ap_fixed.h"\nint main() { double d; while (scanf("%lf", &d) == 1) {\n'
        f"ap_fixed<20,10> s = d;\n{body}\n}} }}\n"
    )
    subprocess.run(
        ["g++", "-std=c++17", "-w", f"-I{include}", str(source), "-o", str(tmp_path / "types")], check=True
    )
    rng = np.random.default_rng(5)
    step = Fixed(20, 10).step
    x = (
        np.concatenate([rng.integers(-(2**19), 2**19, 300), np.arange(-300, 300) * 64, [2**19 - 1, -(2**19)]])
        * step
    )
    text = "\n".join(repr(v) for v in x.tolist())
    out = subprocess.run(
        [str(tmp_path / "types")], input=text, capture_output=True, text=True, check=True
    ).stdout
    found = np.array(out.split(), dtype=float).reshape(len(x), len(kinds), 2)
    for i, kind in enumerate(kinds):
        expected = kind.to_float(kind.from_float(x))
        np.testing.assert_array_equal(found[:, i, 0], expected, err_msg=f"{kind} from double")
        np.testing.assert_array_equal(found[:, i, 1], expected, err_msg=f"{kind} from ap_fixed<20,10>")


@pytest.mark.parametrize(
    "text", ["fixed", "float", "fixed<a,b>", "fixed<8,6,UP>", "fixed<80,6>", "fixed<8,6,TRN,SAT,2>"]
)
def test_types_that_do_not_exist_are_refused(text):
    with pytest.raises(ConfigError):
        Fixed.parse(text)


def test_a_type_survives_its_own_text():
    kind = Fixed(12, 3, False, "RND_CONV", "SAT")
    assert Fixed.parse(str(kind)) == kind
    assert str(Fixed.parse("ap_fixed<8, 6>")) == "fixed<8,6,TRN,WRAP>"


def test_a_bad_scale_is_refused():
    with pytest.raises(InputError, match="positive"):
        InputScale((0.0,), (0.0,))
    assert InputScale((0.0,), (0.3,)).shift is None
