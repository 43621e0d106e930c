"""Whether a cut changes the mass shape: Jensen-Shannon divergence above its finite-sample floor, and a chi2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import FitError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sculpting:
    """``jsd`` in bits between the shapes that pass and fail; ``floor`` its mean without sculpting, from toys, with the
    upper end ``floor_high`` of 95 % of them; chi2 of homogeneity with its p-value."""

    jsd: float
    floor: float
    floor_high: float
    chi2: float
    ndf: int
    p_value: float
    n_pass: float
    n_fail: float


def _entropy(p: Array) -> Array:
    logs = np.log2(np.where(p > 0, p, 1.0))
    return -(p * logs).sum(axis=-1)


def jensen_shannon(passing: Array, failing: Array) -> Array:
    """JSD in bits of histograms along the last axis."""
    p = passing / passing.sum(axis=-1, keepdims=True)
    q = failing / failing.sum(axis=-1, keepdims=True)
    return _entropy(0.5 * (p + q)) - 0.5 * (_entropy(p) + _entropy(q))


def asymptotic_floor(bins: int, n_pass: float, n_fail: float) -> float:
    """Expected JSD of two samples of one shape: (k - 1) / (8 ln 2) (1/n1 + 1/n2)."""
    return (bins - 1) / (8 * np.log(2)) * (1 / n_pass + 1 / n_fail)


def sculpting(passing: Array, failing: Array, seed: int, toys: int = 500) -> Sculpting:
    """Compare counts (bins,) of events that pass and fail a cut; toys draw both from their common shape."""
    passing, failing = np.asarray(passing, dtype=np.float64), np.asarray(failing, dtype=np.float64)
    if passing.sum() < 2 or failing.sum() < 2:
        raise FitError(f"sculpting needs events on both sides, found {passing.sum():g} and {failing.sum():g}")
    both = passing + failing
    seen = both > 0
    shape = both / both.sum()
    rng = np.random.default_rng(seed)
    fakes = [rng.multinomial(int(n), shape, toys).astype(float) for n in (passing.sum(), failing.sum())]
    floors = jensen_shannon(*fakes)
    table = np.stack([passing[seen], failing[seen]])
    found: Any = stats.chi2_contingency(table, correction=False)
    return Sculpting(
        float(jensen_shannon(passing, failing)), float(floors.mean()), float(np.quantile(floors, 0.95)), float(found.statistic),
        int(found.dof), float(found.pvalue), float(passing.sum()), float(failing.sum()),
    )  # fmt: skip
