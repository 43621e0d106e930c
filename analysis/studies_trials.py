"""What repeated searches say together: the efficiency of hidden signal, the excess against what passes, bands of Z.

A trial hides signal rows in the data, trains anew and counts behind every cut. The signal rows that measure its efficiency are
never among those hidden. All trials share the same data, so what they spread by is the draw of the signal and the training;
the data's own fluctuation shifts all of them together and is seen at zero injected events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..events import Events, Window, identity_hash
from .hunt import WindowResult
from .hunt_backgrounds import NO_BACKGROUND
from .metrics import FLOOR, Roc, sic
from .plots_limits import InjectionScan
from .plots_studies import InjectionRow
from .scan_metrics import Band, band
from .window_bias import corrected_background, corrected_z

Array = NDArray[np.float64]
#: Grid of signal efficiencies that a band over trainings is drawn on.
POINTS = 200


def signal_halves(
    events: Events, seed: int, injected: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(rows that may be hidden, rows that measure), masks (n,): by identity hash, half each.

    The search hides the ``injected`` rows of smallest hash with its ``seed``; they are always among the first.
    """
    order = np.argsort(identity_hash(events.identity, seed), kind="stable")
    pool = np.zeros(len(events), bool)
    pool[order[: max(-(-len(events) // 2), injected)]] = True
    return pool, ~pool


def passing_others(
    score: Array, chosen: NDArray[np.bool_], fold: NDArray[np.int64], tie: NDArray[np.uint64],
    other: Array, other_fold: NDArray[np.int64], other_tie: NDArray[np.uint64],
) -> NDArray[np.bool_]:  # fmt: skip
    """Which ``other`` events (m,) would pass the cut that left ``chosen`` of the data, (n,): each against its own fold.

    A fold's threshold is the least (score, tie) of its chosen events; a fold that has none lets nothing pass.
    """
    out = np.zeros(len(other), bool)
    for k in np.unique(other_fold):
        kept = np.flatnonzero(chosen & (fold == k))
        if len(kept) == 0:
            continue
        edge = kept[np.lexsort((tie[kept], score[kept]))[0]]
        mine = other_fold == k
        above = other[mine] > score[edge]
        out[mine] = above | ((other[mine] == score[edge]) & (other_tie[mine] >= tie[edge]))
    return out


@dataclass(frozen=True)
class CutCount:
    """One trial behind one cut: ``n`` seen, ``b`` +- ``b_error`` expected with delta_sys inside, local ``z``;
    ``efficiency`` share of all signal events that are in the window and pass."""

    cut: float
    n: float
    b: float
    b_error: float
    z: float
    efficiency: float

    @property
    def excess(self) -> float:
        """Events above the expected background."""
        return self.n - self.b

    @property
    def error(self) -> float:
        """Standard deviation of ``excess``: Poisson of n and the background's error."""
        return math.sqrt(max(self.n, 1.0) + self.b_error**2)


def counted(found: WindowResult, bias: tuple[float, float], efficiency: float) -> CutCount:
    """A window fitted by itself, with a ``bias`` (delta, its statistical error) that was measured on other windows."""
    delta, error = bias
    z = corrected_z(found.n, found.b, found.b_error, delta, error)
    if found.b < NO_BACKGROUND:  # the fit says nothing there; the bins beside the window do
        z = min(z, found.z)
    b, sigma = corrected_background(found.b, found.b_error, delta, error)
    return CutCount(found.cut, found.n, b, sigma, z, efficiency)


def for_band(curve: Roc, floor: int = FLOOR) -> NDArray[np.int64]:
    """Indices of the thresholds that a band of `POINTS` points and the maximum of the SIC need: no others are looked up."""
    x = np.linspace(0, 1, POINTS + 1)[1:]
    at = np.minimum(np.searchsorted(curve.signal, x * (1 - 1e-12)), len(curve.signal) - 1)
    best = sic(curve, floor).at
    return np.union1d(at, [int(np.searchsorted(curve.background, best, side="right")) - 1])


def _roc(raw: Mapping[str, Any]) -> Roc:
    return Roc(**{k: np.array(v) if isinstance(v, list) else v for k, v in raw.items()})  # pyright: ignore[reportArgumentType]


def bands_of(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Band]]:
    """Bands over trainings of every name, "sic" and "rejection", from ROC curves as JSON holds them; names without a curve are
    left out."""
    made = {name: [_roc(one) for one in raw] for name, raw in curves.items() if raw}
    return {
        "sic": [band(name, one, "sic", points=POINTS) for name, one in made.items()],
        "rejection": [band(name, one, "rejection", points=POINTS) for name, one in made.items()],
    }


def injection_row(hidden: int, trials: Sequence[CutCount], failed: int = 0) -> InjectionRow:
    """The excess against the signal that passes, over the ``trials`` of one strength (``hidden`` events) and cut.

    Both count events behind the cut, because a classifier that has seen little signal selects almost none: its excess
    over the efficiency would be noise without end. ``failed``: trials without a fit. nan where none has one.
    """
    if not trials:
        return InjectionRow(math.nan, math.nan, math.nan, math.nan, math.nan, 0, failed)
    passed = np.array([hidden * t.efficiency for t in trials])
    excess = np.array([t.excess for t in trials])
    pull = (excess - passed) / np.array([t.error for t in trials])

    def sd(values: Array) -> float:
        return float(values.std(ddof=1)) if len(values) > 1 else 0.0

    return InjectionRow(
        float(passed.mean()), float(excess.mean()), sd(excess - passed), float(pull.mean()), sd(pull), len(trials), failed
    )  # fmt: skip


def significance_scan(
    name: str, background: float, in_window: Sequence[float], z: Sequence[Sequence[float]]
) -> InjectionScan:
    """Z (strengths, trials) against S/B and S/sqrt(B): ``in_window`` (strengths,) mean signal events in the window,
    ``background`` data events there without them."""
    s, most = np.asarray(in_window, dtype=np.float64), max(len(row) for row in z)
    padded = np.array([[*row, *[math.nan] * (most - len(row))] for row in z], dtype=np.float64)
    return InjectionScan(name, s / background, padded, s / math.sqrt(background))


def windows_of_signal(windows: Sequence[Window], mass: Array) -> list[Window]:
    """The windows that contain the median of the signal's masses, the one with most of the signal first."""
    middle = float(np.median(mass))
    holding = [w for w in windows if w.low <= middle < w.high]
    return sorted(holding, key=lambda w: (-int(w.contains(mass).sum()), w.low))
