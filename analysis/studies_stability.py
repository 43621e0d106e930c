"""Whether an excess hangs on how the background was fitted: the best window again with other orders, bins and edges.

Nothing is trained: the events behind the cut stay the same, their spectrum is fitted in other ways. delta_sys is measured anew
for every choice on the other windows, whose number of parameters follows from their own likelihood ratios as in the hunt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from ..events import Window
from .background_models import beside
from .dijet import HIGHEST_ORDER, MIN_ORDER
from .hunt_backgrounds import Estimate, capped_z, dijet_estimate
from .plots_studies import StabilityCell
from .window_bias import bias_of, corrected_z, separate

Array = NDArray[np.float64]
#: Fewest bins outside the window for a fit to be tried.
LEAST_BINS = 8


def binnings(bin_width: float, window_width: float) -> list[float]:
    """Bin widths in GeV to try: the one in use, half and twice of it where the window is a whole number of bins."""
    tried = (0.5 * bin_width, bin_width, 2 * bin_width)
    return [w for w in tried if abs(window_width / w - round(window_width / w)) < 1e-6]


def shifts(bin_width: float, window_width: float) -> list[float]:
    """Displacements of the window in GeV: none, and a quarter of its width, in whole bins, to both sides."""
    step = bin_width * max(1, round(0.25 * window_width / bin_width))
    return [-step, 0.0, step]


def edges_for(window: Window, width: float, low: float, high: float) -> Array:
    """Edges of ``width`` GeV that meet the window's, from ``low`` to ``high``; the outermost bins may be wider or narrower."""
    below = np.floor((window.low - low) / width + 1e-9)
    above = np.floor((high - window.low) / width + 1e-9)
    inner = window.low + width * np.arange(-below, above + 1)
    inner = inner[(inner > low + 0.25 * width) & (inner < high - 0.25 * width)]
    return np.concatenate([[low], inner, [high]])


def _fitted(
    mass: Array, edges: Array, window: Window, energy: float, order: int | None, guard: float
) -> tuple[float, Estimate, float]:
    """(n, the fit, the largest Z it allows) of one window; ``order`` None: by likelihood ratio."""
    counts = np.histogram(mass, edges)[0].astype(np.float64)
    inside = window.contains(0.5 * (edges[1:] + edges[:-1]))
    fit = dijet_estimate(counts, edges, inside, energy, order, guard)
    return float(counts[inside].sum()), fit, capped_z(np.inf, fit.b, counts, inside)


def _others(
    masses: Sequence[Array], windows: Sequence[Window], grids: Sequence[Array], energy: float, guard: float
) -> tuple[Array, Array, Array]:
    n, b, s = np.full((3, len(windows)), np.nan)
    for i, (mass, window, edges) in enumerate(zip(masses, windows, grids, strict=True)):
        try:
            n[i], fit, _ = _fitted(mass, edges, window, energy, None, guard)
        except FitError:  # as in the hunt: a window without a fit measures nobody's bias
            continue
        b[i], s[i] = fit.b, fit.s
    return n, b, s


def stability(
    windows: Sequence[Window], masses: Sequence[Array], best: int, cut: float, nominal_order: int,
    *, low: float, high: float, bin_width: float, energy: float, guard: float = 0.0,
) -> list[StabilityCell]:  # fmt: skip
    """Local Z of window ``best`` for every order x bin width x displacement of the window.

    ``masses``: of every window, GeV of the events in [low, high) that pass its own classifier's ``cut``. The cell of the
    hunt's own choices has the hunt's own Z. A displacement that leaves no sideband is left out; a fit that fails is nan.
    """
    here, cells = windows[best], []
    moved = [Window(here.low + d, here.high + d) for d in shifts(bin_width, here.high - here.low)]
    moved = [w for w in moved if low < w.low - guard and w.high + guard < high]
    for width in binnings(bin_width, here.high - here.low):
        grids = [edges_for(w, width, low, high) for w in windows]
        rest = _others(masses, windows, grids, energy, guard) if cut < 1 else None
        for window in moved:
            edges = edges_for(window, width, low, high)
            if beside(edges, window.contains(0.5 * (edges[1:] + edges[:-1])), guard).sum() < LEAST_BINS:
                continue
            everywhere = [window if i == best else w for i, w in enumerate(windows)]
            for order in range(MIN_ORDER, HIGHEST_ORDER + 1):
                quoted = window == here and order == nominal_order and width == bin_width
                try:
                    n, fit, most = _fitted(masses[best], edges, window, energy, order, guard)
                except FitError:
                    cells.append(StabilityCell(order, f"{width:g} GeV", window, np.nan, np.nan, quoted))
                    continue
                delta, error = 0.0, 0.0
                if rest is not None:
                    seen, fitted, sigma = (v.copy() for v in rest)
                    seen[best], fitted[best], sigma[best] = n, fit.b, fit.s
                    found = bias_of(separate(everywhere, guard), seen, fitted, sigma)
                    delta, error = float(found[0][best]), float(found[1][best])
                z = min(corrected_z(n, fit.b, fit.s, delta, error), most)
                cells.append(StabilityCell(order, f"{width:g} GeV", window, z, fit.gof_p, quoted))
    return sorted(cells, key=lambda c: c.window.low)


__all__ = ["binnings", "edges_for", "shifts", "stability"]
