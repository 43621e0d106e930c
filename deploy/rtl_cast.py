"""Fixed-point casts and products of logic: what `fixed.Fixed` does to integers, done to the symbolic numbers of da4ml.

Every function takes da4ml ``FixedVariable`` (a value with its range, its step and how it is made) and gives one back;
adders, selections and bit slices only, so the result is plain logic. Da4ml's own ``quantize`` has no convergent rounding
and compares with two adders where one look at the high bits is enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from ..fixed import Fixed


def fraction_of(v: Any) -> int:
    """Bits below the binary point of a value."""
    return -int(math.log2(v.step))


def is_constant(v: Any) -> bool:
    """Whether a value is the same for every event."""
    return v.low == v.high


def constant(v: Any, number: float | Fraction) -> Any:
    """A constant for use beside ``v``."""
    return type(v).from_const(float(number), hwconf=v.hwconf)


def choose(bit: Any, yes: Any, no: Any, limits: tuple[Any, Any] | None = None) -> Any:
    """``yes`` where a one-bit value is set, else ``no``; ``limits``: the range of the result, where it is known better.

    The bit goes in inverted. Da4ml would otherwise take it from the top of the value it was cut from, and its
    interpreter reads the top bit of an unsigned value of several bits wrongly (0.6.0).
    """
    if is_constant(no) and yes._factor < 0:  # da4ml would count this sign twice
        turned = None if limits is None else (-limits[1], -limits[0])
        return -choose(bit, -yes, constant(no, -Fraction(no.low)), turned)
    step = float(min(yes.step, no.step))
    interval = None if limits is None else (float(limits[0]), float(limits[1]), step)
    return (~bit).msb_mux(no, yes, qint=interval)


def merged(bit: Any, yes: Any, no: Any) -> Any:
    """`choose` without a time of its own: its two or three inputs fit into the look-up table of what uses it."""
    v = choose(bit, yes, no)
    ready = max([bit.latency] + [w.latency for w in (yes, no) if not is_constant(w)])
    parents = tuple(w._with(latency=ready) if is_constant(w) else w for w in v._from)
    return v._with(latency=ready, _from=parents)


def cast(v: Any, kind: Fixed, *, rectified: bool = False) -> Any:
    """``v`` cast to a type; ``rectified``: the type of max(v, 0).

    The rounding comes before the rectification: every mode is monotone and keeps 0, so that both orders agree.
    """
    if is_constant(v):
        number = Fraction(v.low)
        fraction = max(number.denominator.bit_length() - 1, kind.fraction)
        whole = np.array(int(number * 2**fraction), dtype=np.int64)
        done = kind.cast(np.maximum(whole, 0) if rectified else whole, fraction)
        return constant(v, Fraction(int(done)) / Fraction(2) ** kind.fraction)
    rounded = _rounded(v, kind)
    return overflowed(rounded.relu() if rectified and not is_constant(rounded) else rounded, kind)


def _rounded(v: Any, kind: Fixed) -> Any:
    """Drop the bits below the type's step, in its quantisation mode."""
    drop = fraction_of(v) - kind.fraction
    if drop <= 0:
        return v
    step, fine = Fraction(2) ** -kind.fraction, Fraction(v.step)
    if kind.quantisation == "RND":
        v = v + float(step / 2)
    elif kind.quantisation == "TRN_ZERO" and v.low < 0:
        v = v + merged(v.is_negative(), constant(v, step - fine), constant(v, 0))
    elif kind.quantisation == "RND_CONV":
        odd = _bits(v, kind.fraction, 1 - kind.fraction)
        if drop == 1:
            v = v + odd * float(fine / step)
        else:
            v = v + merged(odd, constant(v, step / 2), constant(v, step / 2 - fine))
    if is_constant(v):  # pragma: no cover - an offset never makes a range collapse
        return v
    signed, integer, _ = v.kif
    return v.quantize(signed, max(integer, -kind.fraction + (not signed)), kind.fraction)


def _bits(v: Any, fraction: int, integer: int) -> Any:
    """The bits of weight 2^-fraction to 2^(integer-1) of the two's complement, as an unsigned value."""
    return v.quantize(0, integer, fraction, _force_factor_clear=True)


def overflowed(v: Any, kind: Fixed) -> Any:
    """Bring a value of the right step into a type's range."""
    if is_constant(v):
        return cast(v, kind)
    step = Fraction(2) ** -kind.fraction
    low, high = kind.low * step, kind.high * step
    if kind.overflow == "SAT_SYM" and kind.signed:
        low = -high
    if v.low >= low and v.high <= high:
        return v
    magnitude = kind.integer - kind.signed
    if kind.overflow == "WRAP":
        return _wrapped(v, kind, magnitude)
    if kind.overflow == "SAT_SYM" and kind.signed:
        return v.max_of(float(low)).min_of(float(high))
    return _saturated(v, kind, magnitude)


def _wrapped(v: Any, kind: Fixed, magnitude: int) -> Any:
    if v.low < 0 and not kind.signed and magnitude > v.kif[1]:
        # more integer bits than the value has: its sign must be repeated up there
        v = v + merged(v.is_negative(), constant(v, Fraction(2) ** magnitude), constant(v, 0))
    return v.quantize(kind.signed, magnitude, fraction_of(v), _force_factor_clear=True)


def _saturated(v: Any, kind: Fixed, magnitude: int) -> Any:
    """Clip by the bits above the type's range: all zero (or, for a negative number, all one) means that it fits."""
    step = Fraction(2) ** -kind.fraction
    low, high = constant(v, kind.low * step), constant(v, kind.high * step)
    if v.low < 0 and not kind.signed:
        v = v.relu()
        if is_constant(v) or v.high <= high.high:
            return v
    above = _bits(v, -magnitude, v.kif[1]) if v.kif[1] > magnitude else None
    inside = v.quantize(kind.signed, magnitude, fraction_of(v))
    positive = inside
    if v.high > high.high and above is not None:
        select = choose if v.low >= 0 else merged
        positive = high if is_constant(above) else select(above.unary_bit_op("any"), high, inside)
    if v.low >= 0:
        return positive
    negative = inside
    if v.step > Fraction(2) ** magnitude:  # too coarse for the range: no negative value fits
        negative = low
    elif v.low < low.low and above is not None:
        negative = merged(above.unary_bit_op("all"), inside, low)
    limits = (max(v.low, low.low), min(v.high, high.high))
    return choose(v.is_negative(), negative, positive, limits)


def product(a: Any, b: Any) -> Any:
    """The exact product of two values, in adders; a square takes half of them."""
    if is_constant(a) or is_constant(b):
        return a * b
    if a.id == b.id and a._factor == b._factor:
        return _square(choose(a.is_negative(), -a, a, (0, max(-a.low, a.high))))
    if sum(a.kif) < sum(b.kif):
        a, b = b, a
    signed, integer, fraction = b.kif
    zero = constant(a, 0)
    rows = [
        merged(_bits(b, -weight, weight + 1), a * float(Fraction(2) ** weight), zero)
        for weight in range(-fraction, integer)
    ]
    if signed:  # the sign bit counts -2^integer
        rows.append(-merged(b.is_negative(), a * float(Fraction(2) ** integer), zero))
    return total(rows)


def _square(a: Any) -> Any:
    """The square of a value >= 0, each pair of bits once: sum_j b_j (4^j + 2^(j+1) (the bits below j))."""
    _, integer, fraction = a.kif
    weights = range(-fraction, integer)
    bits = [_bits(a, -weight, weight + 1) for weight in weights]
    diagonal = [bit * float(Fraction(2) ** weight) for bit, weight in zip(bits, weights, strict=True)]
    rows = [_side_by_side(diagonal)]
    for weight, bit in zip(weights[1:], bits[1:], strict=True):
        below = _bits(a, fraction, weight)
        rows.append(merged(bit, below * float(Fraction(2) ** (weight + 1)), constant(a, 0)))
    whole = total(rows)
    high = a.high * a.high
    return whole._with(low=whole.low, high=min(whole.high, high)) if whole.high > high else whole


def _side_by_side(parts: Sequence[Any]) -> Any:
    """The sum of values whose bits do not meet: wires, so it takes no time."""
    ready = max(p.latency for p in parts)
    whole = parts[0]
    for part in parts[1:]:
        whole = (whole + part)._with(latency=ready, cost=0.0)
    return whole


def total(values: Sequence[Any]) -> Any:
    """A sum as a tree of adders, the earliest values first."""
    from da4ml.trace.ops.reduce_utils import _reduce

    add: Callable[[Any, Any], Any] = lambda x, y: x + y  # noqa: E731
    return _reduce(add, list(values))
