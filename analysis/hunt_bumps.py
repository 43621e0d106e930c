"""BumpHunter (1101.0390) beside the hunt: the spectra of its best window, before and after each cut, with nothing masked.

The background is the dijet fit of the whole spectrum, whatever the hunt estimates its own with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .bumphunter import BumpHunter, Refit
from .dijet import MAX_ORDER, basis
from .hunt import HuntResult
from .order_choice import choose_orders
from .peaks import fit_backgrounds

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SpectrumBump:
    """The least likely interval ``low`` to ``high`` [GeV] of the spectrum after ``cut``: ``n`` seen, ``b`` expected.

    ``t`` = -ln of its p-value; ``p_global`` with its interval, a bound if ``bound``, counts every interval of this one
    spectrum, with a new fit in each of ``toys`` pseudo-experiments; ``failed`` of them had none and count as exceeding.
    """

    cut: float
    low: float
    high: float
    n: float
    b: float
    t: float
    p_global: float
    p_low: float
    p_high: float
    z_global: float
    toys: int
    failed: int
    bound: bool


def refit_dijet(edges: Array, energy: float) -> Refit:
    """Dijet fits of spectra (n, bins), each with the order that its own likelihood ratios ask for."""

    def refit(counts: Array) -> tuple[Array, NDArray[np.bool_]]:
        chosen = choose_orders(counts, edges, energy, most=MAX_ORDER)
        expected, good = np.ones_like(counts), np.zeros(len(counts), dtype=bool)
        for order in np.unique(chosen.order[~chosen.failed]):
            mine = np.flatnonzero((chosen.order == order) & ~chosen.failed)
            fits = fit_backgrounds(counts[mine], basis(edges, int(order), energy))
            expected[mine], good[mine] = fits.expected, fits.converged
        return expected, good

    return refit


def bumps(
    found: HuntResult, energy: float, width: float, toys: int, seed: int, threads: int = 1
) -> tuple[list[SpectrumBump], list[str]]:
    """The best window's spectra in order of decreasing cut efficiency, and those that could not be fitted (named, not dropped
    in silence); intervals of two bins up to six signal widths (``width``: sigma / m).
    """
    edges = found.edges
    bins = max(2, round(6 * width * found.best.window.centre / float(edges[1] - edges[0])))
    hunter = BumpHunter(min_width=2, max_width=bins, toys=toys, seed=seed, threads=threads)
    out, failed = [], []
    mine = [r for r in found.results if r.window == found.best.window]
    for i, one in enumerate(sorted(mine, key=lambda r: -r.cut)):
        try:
            bump = replace(hunter, seed=seed + 1000 * i).hunt_fitted(one.counts, refit_dijet(edges, energy))
        except FitError as error:
            failed.append(
                f"BumpHunter, window {one.window.low:g}-{one.window.high:g} GeV, cut {one.cut:g}: {error}"
            )
            continue
        out.append(SpectrumBump(
            one.cut, float(edges[bump.start[0]]), float(edges[bump.stop[0]]), bump.n[0], bump.b[0], bump.t,
            bump.p_global, bump.p_low, bump.p_high, bump.z_global, bump.toys, bump.failed, bump.bound,
        ))  # fmt: skip
    return out, failed


def in_words(bump: dict[str, Any]) -> str:
    """One line for a summary."""
    p = f"< {bump['p_high']:.2g}" if bump["bound"] else f"= {bump['p_global']:.2g}"
    where = "before the cut" if bump["cut"] >= 1 else f"after the cut of {100 * bump['cut']:g} %"
    return (
        f"BumpHunter {where}: {bump['low']:g}-{bump['high']:g} GeV, {bump['n']:.0f} events on {bump['b']:.1f}, "
        f"p {p} for this spectrum"
    )
