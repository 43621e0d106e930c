"""How well a score separates: ROC, AUC, significance improvement, with the errors and floors that make them quotable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from .counting import clopper_pearson, effective

Array = NDArray[np.float64]
#: Fewest background events above a threshold for a significance improvement to be quoted (10 % error).
FLOOR = 25


@dataclass(frozen=True)
class Roc:
    """Efficiencies at every threshold, tightest first: ``signal``, ``background`` (n,), ``n_background`` events passing.

    ``auc`` with its Hanley-McNeil error; higher scores are signal-like, never flipped. Counts are effective ones,
    (sum w)^2 / sum w^2, where the events carry weights.
    """

    signal: Array
    background: Array
    n_background: Array
    n_signal_total: float
    n_background_total: float
    auc: float
    auc_error: float


def hanley_mcneil(auc: float, n_signal: float, n_background: float) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (n_signal - 1) * (q1 - auc**2) + (n_background - 1) * (q2 - auc**2)
    return float(np.sqrt(max(variance, 0.0) / (n_signal * n_background)))


def roc(
    signal: Array,
    background: Array,
    signal_weight: Array | None = None,
    background_weight: Array | None = None,
) -> Roc:
    """ROC of two samples of scores; equal scores pass together. Weights (None: one each) may not be negative."""
    if len(signal) == 0 or len(background) == 0:
        raise FitError(
            f"a ROC needs both samples, found {len(signal)} signal and {len(background)} background events"
        )
    scores = np.concatenate([signal, background])
    if not np.all(np.isfinite(scores)):
        raise FitError("scores must be finite")
    w_s = np.ones(len(signal)) if signal_weight is None else signal_weight
    w_b = np.ones(len(background)) if background_weight is None else background_weight
    if min(w_s.min(), w_b.min()) < 0 or w_s.sum() <= 0 or w_b.sum() <= 0:
        raise FitError("a ROC needs weights that are not negative; negative ones have no efficiency")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)

    def passing(first: Array, second: Array) -> Array:
        return np.cumsum(np.concatenate([first, second])[order])[last]

    none_s, none_b = np.zeros(len(signal)), np.zeros(len(background))
    s, b, b2 = passing(w_s, none_b), passing(none_s, w_b), passing(none_s, w_b**2)
    s, b, total = s / s[-1], b / b[-1], b[-1]
    auc = float(np.trapezoid(np.append(0.0, s), np.append(0.0, b)))
    n_b = np.divide((b * total) ** 2, b2, out=np.zeros_like(b2), where=b2 > 0)
    n_signal, n_background = effective(w_s)[1], effective(w_b)[1]
    return Roc(s, b, n_b, n_signal, n_background, auc, hanley_mcneil(auc, n_signal, n_background))


@dataclass(frozen=True)
class Sic:
    """Significance improvement eps_S / sqrt(eps_B) with its relative error, only where n_B >= the floor.

    ``best`` is the maximum (biased upwards by a few per cent at the floor), ``at`` its background efficiency.
    """

    signal: Array
    background: Array
    value: Array
    relative_error: Array
    best: float
    best_error: float
    at: float
    floor: int


def sic(curve: Roc, floor: int = FLOOR) -> Sic:
    """SIC of a ROC. Raises `FitError` where no threshold keeps ``floor`` background events."""
    seen = (curve.n_background >= floor) & (curve.signal > 0)
    if not seen.any():
        raise FitError(
            f"no threshold keeps {floor} background events: {curve.n_background_total:g} are too few"
        )
    s, b = curve.signal[seen], curve.background[seen]
    value = s / np.sqrt(b)
    n_s, n_b = s * curve.n_signal_total, curve.n_background[seen]
    error = np.sqrt((1 - s) / n_s + (1 - b) / (4 * n_b))
    top = int(np.argmax(value))
    return Sic(s, b, value, error, float(value[top]), float(value[top] * error[top]), float(b[top]), floor)


def signal_efficiency_at(curve: Roc, background: float) -> tuple[float, float, float]:
    """(eps_S, low, high) at the loosest threshold whose background efficiency is at most ``background``."""
    at = int(np.searchsorted(curve.background, background, side="right")) - 1
    value = float(curve.signal[at]) if at >= 0 else 0.0
    low, high = clopper_pearson(round(value * curve.n_signal_total), curve.n_signal_total)
    return value, low, high


def thinned(values: Array, most: int = 400) -> NDArray[np.int64]:
    """Indices of at most ``most`` rows, dense at the start, for plots and JSON."""
    n = len(values)
    if n <= most:
        return np.arange(n)
    return np.unique(
        np.concatenate([np.geomspace(1, n, most // 2), np.linspace(1, n, most // 2)]).astype(int) - 1
    )
