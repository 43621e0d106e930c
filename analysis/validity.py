"""When a search is not valid: its classifier shapes the background more than any correction can carry.

delta_sys is corrected for and enters the significance with its own size as an uncertainty (2411.00085). Beyond 50 % that is no
correction any more: a reference that differs from the background by half, as sidebands do where a feature knows the mass, makes the
score an instrument for the mass, and what the hunt then says holds for no window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .hunt import WindowResult

#: Size of delta_sys from which on a search is not valid.
LARGEST = 0.5


@dataclass(frozen=True)
class Validity:
    """``biased``: (window, cut, delta, error) where |delta_sys| > 50 % by more than two of its statistical errors."""

    valid: bool
    biased: tuple[tuple[tuple[float, float], float, float, float], ...]
    words: str


def validity(results: Sequence[WindowResult]) -> Validity:
    """Whether the classifier's bias leaves the windows and cuts of a hunt any meaning; the sentence says where it does not."""
    biased = tuple(
        ((r.window.low, r.window.high), r.cut, r.delta, r.delta_error)
        for r in results
        if abs(r.delta) - LARGEST > 2 * r.delta_error
    )
    cuts = sum(r.cut < 1 for r in results)
    if not biased:
        return Validity(
            True, (), f"delta_sys is compatible with less than {100 * LARGEST:.0f} % in all {cuts} cuts"
        )
    (low, high), cut, delta, error = max(biased, key=lambda b: abs(b[2]))
    return Validity(
        False,
        biased,
        f"this search is not valid: in {len(biased)} of {cuts} windows and cuts the classifier's own bias is beyond "
        f"{100 * LARGEST:.0f} %, most for {low:g}-{high:g} GeV at {100 * cut:g} %: delta_sys {100 * delta:+.0f} % +- "
        f"{100 * error:.0f} %; take out the features that know the mass, or another reference",
    )
