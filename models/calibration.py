"""Whether a classifier's probabilities are those with which it is right, and the one number that mends them (1706.04599)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
#: Bins of the confidence in [0, 1], as in 1706.04599.
BINS = 15
#: Temperatures that are looked at; beyond them a sample says nothing any more (all its events are classified rightly).
RANGE = (0.05, 20.0)


def log_sum_exp(g: Array) -> Array:
    """ln sum_k exp(g_k) of logits g (n, k), shape (n,): class by class, so that no row's sum depends on the others."""
    highest = g.max(axis=1)
    total = np.zeros(len(g))
    for k in range(g.shape[1]):
        total += np.exp(g[:, k] - highest)
    return highest + np.log(total)


def negative_log_likelihood(
    g: Array, label: NDArray[np.int64], weight: Array, temperature: float = 1.0
) -> float:
    """Weighted mean of -ln p of the label, p = softmax(g / T); g (n, k), label and weight (n,)."""
    scaled = g / temperature
    return float(np.average(log_sum_exp(scaled) - scaled[np.arange(len(g)), label], weights=weight))


def best_temperature(g: Array, label: NDArray[np.int64], weight: Array) -> float:
    """The T in `RANGE` of lowest `negative_log_likelihood`, which is convex in 1 / T."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(g, label, weight, float(np.exp(log_temperature)))

    found: Any = minimize_scalar(loss, bounds=np.log(RANGE), method="bounded", options={"xatol": 1e-5})
    return float(np.exp(found.x))


def calibration_error(g: Array, label: NDArray[np.int64], weight: Array) -> tuple[float, float]:
    """Expected calibration error of softmax(g), and its expectation if the probabilities were right.

    ECE = sum_b W_b / W |accuracy_b - confidence_b| over `BINS` of the highest probability. A perfect classifier has more than 0:
    per bin sqrt(2 / pi) times the standard deviation of its accuracy, which is the second number.
    """
    confidence = np.exp(g.max(axis=1) - log_sum_exp(g))
    right = (g.argmax(axis=1) == label).astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)

    def total(values: Array) -> Array:
        return np.bincount(bins, weights=values, minlength=BINS).astype(np.float64)

    apart = np.abs(total(weight * (right - confidence)))
    deviation = np.sqrt(total(weight**2 * confidence * (1.0 - confidence)))
    return float(apart.sum() / weight.sum()), float(np.sqrt(2 / np.pi) * deviation.sum() / weight.sum())


@dataclass(frozen=True)
class Calibration:
    """Temperature, and what it did: mean -ln p and ECE before and after, on ``events`` that did not choose it.

    ``ece_floor``: the ECE after that right probabilities would have on as many events; see `calibration_error`.
    """

    temperature: float
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float
    ece_floor: float
    events: int

    @classmethod
    def of(
        cls, g: Array, label: NDArray[np.int64], weight: Array, first: NDArray[np.bool_], scale: bool = True
    ) -> Calibration:
        """Fit T on the events ``first`` (n,) of logits g (n, k) that no training saw, measure on the others; T = 1 unless ``scale``.

        Warns where the ECE stays more than 0.02 above its floor, or T ends at the edge of `RANGE`.
        """
        if weight[first].sum() <= 0 or weight[~first].sum() <= 0:
            raise InputError(
                f"{len(g)} held-out events are too few to calibrate on one half and measure on the other; raise validation"
            )
        t = best_temperature(g[first], label[first], weight[first]) if scale else 1.0
        rest = (label[~first], weight[~first])
        after, floor = calibration_error(g[~first] / t, *rest)
        found = cls(
            t,
            negative_log_likelihood(g[~first], *rest),
            negative_log_likelihood(g[~first], *rest, t),
            calibration_error(g[~first], *rest)[0],
            after,
            floor,
            int((~first).sum()),
        )
        if after > floor + 0.02:
            log.warning(
                "expected calibration error %.3f after temperature scaling, at most %.3f wanted; scores read "
                "probabilities that are not those of being right",
                after,
                floor + 0.02,
            )
        if scale and not RANGE[0] * 1.01 < t < RANGE[1] / 1.01:
            log.warning(
                "the temperature %.3g lies at the edge of %s: the held-out events do not fix it", t, RANGE
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Calibration:
        """Undo `to_json`."""
        return cls(**raw)
