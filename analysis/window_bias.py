"""The classifier's bias in a window, measured on the others (delta_sys, 2411.00085), and what it does to the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..events import Window
from .counting import signed_z

Array = NDArray[np.float64]


def separate(windows: Sequence[Window], guard: float = 0.0) -> NDArray[np.bool_]:
    """Which pairs of windows share no mass and are ``guard`` GeV apart, (windows, windows)."""
    return np.array([[o.high <= w.low - guard or o.low >= w.high + guard for o in windows] for w in windows])


def bias_of(apart: NDArray[np.bool_], n: Array, b: Array, s: Array) -> tuple[Array, Array]:
    """(delta, its statistical error) of every window, (windows,) each: sum n / sum b - 1 of the windows ``apart`` from it
    and from that of the largest uncorrected excess; (0, 0) if there are none. Windows without a fit are nan."""
    good = np.isfinite(b) & (b > 0)
    raw = np.array([signed_z(*one) if fine else -np.inf for *one, fine in zip(n, b, s, good, strict=True)])
    delta, error = np.zeros((2, len(n)))
    for i, others in enumerate(apart & good & apart[np.argmax(raw)]):
        total = b[others].sum()
        if others.any():
            delta[i] = n[others].sum() / total - 1
            error[i] = np.sqrt(total + (s[others] ** 2).sum()) / total
    return delta, error


def corrected_background(
    b: float, s: float, delta: float, error: float, size: float | None = None
) -> tuple[float, float]:
    """b (1 + delta) and its error: the fit's, the size of the bias and the bias's own statistical ``error``.

    ``size``: that of the bias assigned from the data, where ``delta`` is a toy's; None: ``delta`` itself.
    """
    scale = max(1.0 + delta, 1e-3)
    return b * scale, float(np.hypot(s * scale, np.hypot(delta if size is None else size, error) * b))


def corrected_z(n: float, b: float, s: float, delta: float, error: float, size: float | None = None) -> float:
    """Signed Z of n on the `corrected_background`."""
    return float(signed_z(n, *corrected_background(b, s, delta, error, size)))
