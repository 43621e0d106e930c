"""Fixed-point numbers as Vitis HLS defines them (``ap_fixed`` and ``ap_ufixed``), in NumPy integers.

A value is the integer ``k`` that stands for ``k * 2**-fraction``. Casting first quantises (drops fraction bits), then
treats overflow. This module is written from the definition of the types, not from the C++ headers that the emulator is
compiled with, so that the two can be held against each other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError

Ints = NDArray[np.int64]

_QUANTISATION = ("TRN", "TRN_ZERO", "RND", "RND_CONV")
_OVERFLOW = ("WRAP", "SAT", "SAT_SYM")
_PATTERN = re.compile(r"^\s*(?:ap_)?(u?)fixed\s*<([^<>]+)>\s*$")


@dataclass(frozen=True)
class Fixed:
    """``ap_(u)fixed<width, integer, quantisation, overflow>``: step 2^-(width-integer), sign bit inside ``integer``.

    Quantisation: TRN (towards minus infinity), TRN_ZERO, RND (half up), RND_CONV (half to even). Overflow: WRAP
    (drop the high bits), SAT (clip), SAT_SYM (clip symmetrically). Other modes raise `ConfigError`.
    """

    width: int
    integer: int
    signed: bool = True
    quantisation: str = "TRN"
    overflow: str = "WRAP"

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 62:
            raise ConfigError(f"a fixed-point type of {self.width} bits: expected 1 to 62")
        if self.quantisation not in _QUANTISATION:
            raise ConfigError(
                f"quantisation mode {self.quantisation}: expected one of {', '.join(_QUANTISATION)}"
            )
        if self.overflow not in _OVERFLOW:
            raise ConfigError(f"overflow mode {self.overflow}: expected one of {', '.join(_OVERFLOW)}")

    @classmethod
    def parse(cls, text: str) -> Fixed:
        """Read ``fixed<W,I>``, ``ap_ufixed<W,I,AP_RND_CONV,AP_SAT,0>`` and the like; raises `ConfigError`."""
        match = _PATTERN.match(text)
        parts = [p.strip() for p in match.group(2).split(",")] if match else []
        try:
            width, integer = int(parts[0]), int(parts[1])
            saturation_bits = int(parts[4]) if len(parts) > 4 else 0
        except (IndexError, ValueError):
            raise ConfigError(
                f"'{text}' is not a fixed-point type; write for example fixed<16,8,RND_CONV,SAT>"
            ) from None
        if saturation_bits or len(parts) > 5 or match is None:
            raise ConfigError(f"'{text}': saturation bits are not supported")
        modes = [p.removeprefix("AP_") for p in parts[2:4]]
        return cls(width, integer, match.group(1) == "", *modes)

    @property
    def fraction(self) -> int:
        """Bits below the binary point; may be negative."""
        return self.width - self.integer

    @property
    def step(self) -> float:
        """The distance of two neighbouring values."""
        return 2.0**-self.fraction

    @property
    def low(self) -> int:
        """The smallest integer ``k`` of the type."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer ``k`` of the type."""
        return (1 << (self.width - self.signed)) - 1

    def __str__(self) -> str:
        prefix = "" if self.signed else "u"
        return f"{prefix}fixed<{self.width},{self.integer},{self.quantisation},{self.overflow}>"

    @property
    def hls(self) -> str:
        """The type as Vitis HLS spells it."""
        prefix = "" if self.signed else "u"
        return f"ap_{prefix}fixed<{self.width},{self.integer},AP_{self.quantisation},AP_{self.overflow}>"

    def from_float(self, values: NDArray[np.float64]) -> Ints:
        """The integers of finite doubles after quantisation and overflow; same shape."""
        scaled = np.ldexp(np.asarray(values, dtype=np.float64), self.fraction)
        down = np.floor(scaled)
        if self.quantisation == "TRN":
            whole = down
        elif self.quantisation == "TRN_ZERO":
            whole = np.trunc(scaled)
        elif self.quantisation == "RND":
            whole = down + (scaled - down >= 0.5)
        else:
            whole = np.rint(scaled)
        if self.overflow == "WRAP":  # fmod of doubles is exact, so numbers beyond int64 wrap correctly too
            whole = np.fmod(whole, 2.0**self.width)
        else:
            whole = np.clip(whole, -(2.0**62), 2.0**62)
        return self.overflowed(whole.astype(np.int64))

    def to_float(self, k: Ints) -> NDArray[np.float64]:
        """The numbers that integers stand for; exact up to 53 bits."""
        return np.ldexp(np.asarray(k, dtype=np.float64), -self.fraction)

    def cast(self, k: Ints, fraction: int) -> Ints:
        """Cast integers with ``fraction`` bits below the point into this type."""
        drop = fraction - self.fraction
        if drop <= 0:
            return self.overflowed(k << min(-drop, 63))
        drop = min(drop, 62)
        down = k >> drop
        rest = k - (down << drop)
        half = np.int64(1) << (drop - 1)
        if self.quantisation == "TRN":
            up = np.zeros_like(k, dtype=bool)
        elif self.quantisation == "TRN_ZERO":
            up = (k < 0) & (rest != 0)
        elif self.quantisation == "RND":
            up = rest >= half
        else:
            up = (rest > half) | ((rest == half) & (down & 1 == 1))
        return self.overflowed(down + up)

    def overflowed(self, k: Ints) -> Ints:
        """Bring integers of the right step into the type's range."""
        if self.overflow == "WRAP":
            kept = k & ((1 << self.width) - 1)
            return np.where(kept > self.high, kept - (1 << self.width), kept)
        low = -self.high if self.overflow == "SAT_SYM" and self.signed else self.low
        return np.clip(k, low, self.high)
