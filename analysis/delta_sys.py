"""delta_sys: how far the background estimate of a cut-and-count search is off, measured where there is no signal.

A score learned against a template cuts the template to eps_eff = M_after / M. If template and background differ, N
data events do not leave eps_eff N of them behind the cut but (1 + delta_sys) as many (2411.00085). Measured on
signal-free data in several windows and several trainings, it corrects the background estimate and widens it; if it is
large, the search is not valid.

Two points go beyond the published code: events with equal scores are cut by a hash of the event (a saturated score
makes quantiles ambiguous), and a deficit has a negative significance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import FitError
from ..events import Window
from .counting import cut_and_count_z, effective

Array = NDArray[np.float64]
#: Largest bias of a valid search, by background efficiency of the cut; in between the tighter cut's tolerance holds.
TOLERANCE = {1e-2: 0.10, 1e-3: 0.25}


@dataclass(frozen=True)
class Passing:
    """Counts of one window and training at one cut, summed over folds.

    ``n_after`` of ``n`` data events pass, ``m_after`` of ``m`` template events (sums of weights); ``m_effective`` is
    (sum w)^2 / sum w^2 of the template events that pass; ``tied`` the fraction of data events whose score equals its
    fold's threshold.
    """

    n_after: float
    n: float
    m_after: float
    m: float
    m_effective: float
    tied: float = 0.0

    @property
    def efficiency(self) -> float:
        """eps_eff, the fraction of the template that passes."""
        return self.m_after / self.m

    @property
    def expected(self) -> float:
        """Background events expected behind the cut if template and data agree."""
        return self.efficiency * self.n

    @property
    def delta(self) -> float:
        """(N_after - eps_eff N) / (eps_eff N)."""
        return self.n_after / self.expected - 1

    @property
    def sigma_stat(self) -> float:
        """Statistical error of delta if there is no bias: sqrt(1 / (eps_eff N) + 1 / M_after)."""
        return math.sqrt(1 / self.expected + 1 / self.m_effective)


def _order(score: Array, tie: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.lexsort((tie, score))


def passing_counts(
    data: Array, data_fold: NDArray[np.int64], data_tie: NDArray[np.uint64],
    template: Array, template_fold: NDArray[np.int64], template_tie: NDArray[np.uint64],
    cut: float, template_weight: Array | None = None,
) -> Passing:  # fmt: skip
    """Cut both samples at the (1 - ``cut``) quantile of each fold's template scores and add up the folds.

    Scores, folds and ``tie`` (a hash of each event) have a row per event. Events at exactly the threshold's score are
    ordered by hash, in data as in the template. Raises `FitError` where a fold has too small a template.
    """
    if not 0 < cut < 1:
        raise FitError(f"cut {cut:g}: expected a background efficiency between 0 and 1")
    if not (np.all(np.isfinite(data)) and np.all(np.isfinite(template))):
        raise FitError("scores must be finite")
    weight = (
        np.ones(len(template)) if template_weight is None else np.asarray(template_weight, dtype=np.float64)
    )
    if np.any(weight < 0):
        raise FitError("template weights must not be negative: a quantile of them is not defined")
    passed = np.zeros(len(template), bool)
    n_after, tied = 0, 0
    for k in np.union1d(data_fold, template_fold):
        mine, other = np.flatnonzero(template_fold == k), np.flatnonzero(data_fold == k)
        order = mine[_order(template[mine], template_tie[mine])]
        above = np.cumsum(weight[order][::-1])
        keep = int(np.searchsorted(above, cut * above[-1] * (1 + 1e-12), side="right")) if len(mine) else 0
        if keep == 0:
            raise FitError(
                f"fold {k} has {len(mine)} template events, none of them among the best {100 * cut:g} %"
            )
        passed[order[len(order) - keep :]] = True
        edge = order[len(order) - keep]
        same = data[other] == template[edge]
        n_after += int(
            np.sum((data[other] > template[edge]) | (same & (data_tie[other] >= template_tie[edge])))
        )
        tied += int(same.sum())
    after, m_effective = effective(weight[passed])
    return Passing(n_after, len(data), after, float(weight.sum()), m_effective, tied / max(len(data), 1))


@dataclass(frozen=True)
class DeltaSys:
    """delta_sys at one cut, averaged over windows and trainings of signal-free data.

    ``values`` (windows, trainings); ``value`` their mean with standard error ``error``; ``spread`` the standard
    deviation of single values; ``sigma_stat`` the mean statistical scale of one value, which is what ``spread`` is
    without any training noise; ``tied`` the largest fraction of events at a threshold.
    """

    cut: float
    windows: tuple[Window, ...]
    values: Array
    value: float
    error: float
    spread: float
    sigma_stat: float
    tied: float

    @property
    def words(self) -> str:
        """The value as it is quoted, in per cent."""
        return f"{100 * self.value:+.3g} % ± {100 * self.error:.2g} %"


def _disjoint(windows: Sequence[Window]) -> int:
    """The largest number of windows that share no mass."""
    count, end = 0, -math.inf
    for low, high in sorted(windows, key=lambda w: w.high):
        if low >= end:
            count, end = count + 1, high
    return count


def measure(cut: float, windows: Sequence[Window], counts: Sequence[Sequence[Passing]]) -> DeltaSys:
    """delta_sys from the ``counts`` of every window (rows) and training (columns) at ``cut``.

    Its error holds the spread between trainings and, because all trainings see the same data, the statistical scale of
    one training over the windows that share no events. Raises `FitError` without at least two trainings.
    """
    if len(counts) != len(windows) or len({len(row) for row in counts}) != 1:
        raise FitError(
            f"{len(counts)} rows of counts for {len(windows)} windows; every row needs all trainings"
        )
    values = np.array([[one.delta for one in row] for row in counts])
    trainings = values.shape[1]
    if trainings < 2:
        raise FitError(
            "delta_sys needs at least two trainings (ten are published): one says nothing about its error"
        )
    stat = float(np.mean([one.sigma_stat for row in counts for one in row]))
    between = values.mean(axis=0).std(ddof=1) / math.sqrt(trainings)
    error = math.hypot(float(between), stat / math.sqrt(_disjoint(windows)))
    tied = max(one.tied for row in counts for one in row)
    return DeltaSys(
        cut, tuple(windows), values, float(values.mean()), error, float(values.std(ddof=1)), stat, tied
    )  # fmt: skip


@dataclass(frozen=True)
class Correction:
    """The bias a search corrects for: ``delta`` and its relative uncertainty ``error``."""

    delta: float
    error: float


def correction(estimates: Sequence[DeltaSys | float]) -> Correction:
    """The published correction from one estimate (another generator, or data of a sideband) or from several.

    Its uncertainty is its own size. Several estimates add in quadrature, with the sign of their sum.
    """
    if not estimates:
        return Correction(0.0, 0.0)
    values = [e.value if isinstance(e, DeltaSys) else float(e) for e in estimates]
    size = math.sqrt(sum(v * v for v in values))
    return Correction(math.copysign(size, sum(values)), size)


@dataclass(frozen=True)
class Significance:
    """``n`` events behind the cut on ``b`` +- ``sigma``, all corrections inside; signed Z and one-sided p0."""

    n: float
    b: float
    sigma: float
    z: float
    p0: float


def significance(counts: Passing, corrected: Correction) -> Significance:
    """Z of a cut-and-count search with delta_sys inside: N_b = eps_eff N (1 + delta), sigma = N_b sqrt(1 / M_after +
    error^2)."""
    if corrected.delta <= -1:
        raise FitError(
            f"delta_sys of {100 * corrected.delta:.3g} % leaves no background; the search is not valid"
        )
    b = counts.expected * (1 + corrected.delta)
    sigma = b * math.sqrt(1 / counts.m_effective + corrected.error**2)
    z = cut_and_count_z(counts.n_after, b, sigma)
    return Significance(counts.n_after, b, sigma, z, float(stats.norm.sf(z)))


def asimov_z(s: float, b: float, sigma: float = 0.0) -> float:
    """Median Z expected for s signal events on b +- sigma (1007.1727)."""
    if s < 0:
        raise FitError(f"{s:g} signal events: expected 0 or more")
    return cut_and_count_z(s + b, b, sigma)


@dataclass(frozen=True)
class Validity:
    """Whether a search's background estimate may be believed at one cut, and the sentence that says so.

    "undecided" is not valid either: the bias has not been measured well enough to tell.
    """

    cut: float
    verdict: Literal["valid", "not valid", "undecided"]
    words: str


def tolerance(cut: float) -> float:
    """Largest |delta_sys| of a valid search at this cut: 10 % down to 1e-2, 25 % below."""
    for efficiency, allowed in sorted(TOLERANCE.items(), reverse=True):
        if cut >= efficiency * (1 - 1e-9):
            return allowed
    return max(TOLERANCE.values())


def verdict(found: DeltaSys, allowed: float | None = None) -> Validity:
    """Judge a bias against ``allowed`` (None: `tolerance`): invalid if it is beyond it, and by two of its errors not
    0.

    Valid needs the whole interval value +- error inside the tolerance.
    """
    most = tolerance(found.cut) if allowed is None else allowed
    size, cut = abs(found.value), f"at a background efficiency of {found.cut:g}"
    if size > most and size > 2 * found.error:
        words = (
            f"this search is not valid: background biased by {100 * found.value:+.0f} % "
            f"± {100 * found.error:.0f} % {cut} (at most {100 * most:.0f} % is allowed)"
        )
        return Validity(found.cut, "not valid", words)
    if size + found.error <= most:
        return Validity(
            found.cut, "valid", f"background biased by {found.words} {cut}, within {100 * most:.0f} %"
        )
    words = (
        f"this search cannot be judged: its background bias is {found.words} {cut}, too uncertain for the "
        f"{100 * most:.0f} % allowed; use more signal-free data or more trainings"
    )
    return Validity(found.cut, "undecided", words)


@dataclass(frozen=True)
class Closure:
    """Z of signal-free windows after the correction: ``mean`` and ``sd`` with their standard errors; ``closes`` if
    both are right (0 +- 0.2 and 1.0 +- 0.2, or within two errors)."""

    z: Array
    mean: float
    mean_error: float
    sd: float
    sd_error: float

    @property
    def closes(self) -> bool:
        """Whether the corrected search sees nothing where nothing is."""
        return abs(self.mean) <= max(0.2, 2 * self.mean_error) and abs(self.sd - 1) <= max(
            0.2, 2 * self.sd_error
        )


def closure(counts: Sequence[Passing], corrected: Correction) -> Closure:
    """The corrected Z of independent signal-free windows; overlapping windows would make the errors too small."""
    if len(counts) < 4:
        raise FitError(f"{len(counts)} windows: closure needs at least 4")
    z = np.array([significance(one, corrected).z for one in counts])
    n, sd = len(z), float(z.std(ddof=1))
    return Closure(z, float(z.mean()), sd / math.sqrt(n), sd, sd / math.sqrt(2 * (n - 1)))
