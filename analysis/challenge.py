"""The two tests a search must stand before it is believed: no false positives, and the black boxes of the LHC
Olympics.

Of five published entries on the box without signal four claimed a resonance (2101.08320). So a search configuration
ships with signal-free pseudo-data through the whole chain; its claims on a box are scored against the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import FitError
from .counting import clopper_pearson, z_of

#: Global significance that counts as a claim, and the one no signal-free data set may reach.
CLAIM, NEVER = 3.0, 4.0


@dataclass(frozen=True)
class FalsePositives:
    """Global p-values of signal-free pseudo-data: how many lie below 0.05, the largest Z, and a KS test against
    uniform.

    ``low``, ``high``: 95 % Clopper-Pearson of the fraction.
    """

    pseudo_data: int
    below: int
    low: float
    high: float
    largest_z: float
    ks_p: float

    @property
    def fraction(self) -> float:
        """Share of pseudo-data sets with p_global < 0.05."""
        return self.below / self.pseudo_data

    @property
    def honest(self) -> bool:
        """Fraction within 0.05 +- 0.03 (or its interval reaches 0.05), and no Z_global above 4."""
        near = abs(self.fraction - 0.05) <= 0.03 or self.low <= 0.05 <= self.high
        return near and self.largest_z <= NEVER


def false_positives(p_global: ArrayLike) -> FalsePositives:
    """Judge the global p-values of whole searches on signal-free data (100 are usual)."""
    p = np.asarray(p_global, dtype=np.float64)
    if p.ndim != 1 or len(p) < 20 or np.any(~(p > 0) | (p > 1)):
        raise FitError(
            "at least 20 global p-values in (0, 1] are needed: toys give (k + 1) / (n + 1), never 0"
        )
    below = int((p < 0.05).sum())
    low, high = clopper_pearson(below, len(p), 0.95)
    return FalsePositives(
        len(p), below, low, high, z_of(float(p.min())), float(stats.kstest(p, "uniform").pvalue)
    )


@dataclass(frozen=True)
class Entry:
    """A search's answer to a box: global p-value, resonance mass +- error (GeV), signal events +- error; None:
    nothing found."""

    p_global: float
    mass: float | None = None
    mass_error: float | None = None
    events: float | None = None
    events_error: float | None = None

    @property
    def claims(self) -> bool:
        """Whether a resonance is claimed: a mass is given and the global Z reaches 3."""
        return self.mass is not None and z_of(self.p_global) >= CLAIM


@dataclass(frozen=True)
class Truth:
    """What a box holds: mass in GeV and number of signal events; None and 0 for a box without signal."""

    mass: float | None
    events: float = 0.0


@dataclass(frozen=True)
class Score:
    """An entry against the truth. ``z`` global; ``mass_pull`` (m - m_true) / error, ``events_ratio`` N / N_true, nan
    where there is nothing to compare; ``correct``: claimed what is there within two errors or 200 GeV, or nothing
    where nothing is."""

    z: float
    mass_pull: float
    events_ratio: float
    correct: bool
    words: str


def score_box(entry: Entry, truth: Truth, tolerance: float = 200.0) -> Score:
    """Score one box; ``tolerance`` in GeV is what the published comparison called a right mass."""
    z = z_of(entry.p_global)
    if truth.mass is None:
        words = "claimed a resonance where none is" if entry.claims else "nothing found, and nothing is there"
        return Score(z, math.nan, math.nan, not entry.claims, words)
    if entry.mass is None or not entry.claims:
        return Score(z, math.nan, math.nan, False, f"missed the resonance at {truth.mass:g} GeV")
    error = entry.mass_error or math.nan
    gap = entry.mass - truth.mass
    ratio = entry.events / truth.events if entry.events is not None and truth.events > 0 else math.nan
    right = abs(gap) <= max(tolerance, 2 * error if math.isfinite(error) else 0.0)
    words = f"claimed {entry.mass:g} GeV, truth {truth.mass:g} GeV"
    return Score(z, gap / error, ratio, right, words)
