"""How good a method is over many trainings: max SIC with its median and band, R against supervised, AUCs with errors.

max SIC is the maximum of eps_S / sqrt(eps_B) over thresholds that keep at least 25 background events of the test
sample. A method's value is the median over trainings, each with its own signal draw, split and seed, on one common
test sample; and R is that median divided by the supervised classifier's. Published curves often quote the maximum of
the median curve with a lower floor instead, which is larger by up to a fifth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..errors import FitError
from .counting import clopper_pearson, p_of
from .metrics import FLOOR, Roc, Sic, roc, sic

Array = NDArray[np.float64]
#: Fewest test events for a comparison of methods, and trainings for a median.
TEST_BACKGROUND, TRAININGS = 150_000, 10
#: How far below its target a method may stay: half from other samples, half from the error of a median of ten.
SLACK = 0.12
_QUANTILES = (0.1587, 0.8413)


@dataclass(frozen=True)
class MaxSic:
    """max SIC of several trainings, ``values`` (trainings,).

    ``median``; [``low``, ``high``] the 16-84 % range of single trainings; ``error`` of the median: from the number of
    trainings (bootstrap) and the test sample, which all share. ``at`` (trainings,) background efficiency of each
    maximum; ``floor`` least number of background events there; ``n_background``, ``n_signal`` size of the test
    sample.
    """

    name: str
    values: Array
    median: float
    low: float
    high: float
    error: float
    at: Array
    floor: int
    n_background: float
    n_signal: float

    @property
    def comparable(self) -> bool:
        """Whether trainings and test sample are enough for a comparison with published values."""
        return len(self.values) >= TRAININGS and self.n_background >= TEST_BACKGROUND

    @property
    def words(self) -> str:
        """As quoted in tables."""
        range_ = f"16-84 %: {self.low:.2f}-{self.high:.2f}, {len(self.values)} trainings"
        return f"{self.median:.2f} ± {self.error:.2f} ({range_})"


def _median_error(values: Array, seed: int) -> float:
    """Standard error of a median by bootstrap; infinite for one value, which says nothing about its spread."""
    if len(values) < 2:
        return math.inf
    rng = np.random.default_rng(seed)
    return float(np.median(rng.choice(values, (2000, len(values))), axis=1).std(ddof=1))


def max_sic(name: str, curves: Sequence[Roc], floor: int = FLOOR, seed: int = 0) -> MaxSic:
    """max SIC over the trainings' ROC ``curves``, all on the same test sample. Raises `FitError` below the floor."""
    if not curves:
        raise FitError(f"{name}: no training to take a median of")
    sizes = {(c.n_signal_total, c.n_background_total) for c in curves}
    if len(sizes) > 1:
        raise FitError(
            f"{name}: trainings were tested on samples of different size {sorted(sizes)}; use one test sample"
        )
    each: list[Sic] = [sic(c, floor) for c in curves]
    values = np.array([one.best for one in each])
    low, high = np.quantile(values, _QUANTILES)
    test = float(np.median([one.best_error for one in each]))
    ((n_signal, n_background),) = sizes
    return MaxSic(
        name, values, float(np.median(values)), float(low), float(high), math.hypot(_median_error(values, seed), test),
        np.array([one.at for one in each]), floor, n_background, n_signal,
    )  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """R = median max SIC of a method / that of the supervised classifier, with 68 % bootstrap interval over
    trainings."""

    name: str
    value: float
    low: float
    high: float
    method: MaxSic
    supervised: MaxSic


def ratio_to_supervised(method: MaxSic, supervised: MaxSic, seed: int = 0) -> Ratio:
    """R of a method. Both must share the test sample and the floor, or the ratio means nothing."""
    mine = (method.floor, method.n_background, method.n_signal)
    other = (supervised.floor, supervised.n_background, supervised.n_signal)
    if mine != other:
        raise FitError(
            f"{method.name} was tested with (floor, background, signal) {mine}, supervised with {other}"
        )
    rng = np.random.default_rng(seed)
    drawn = np.median(rng.choice(method.values, (2000, len(method.values))), axis=1) / np.median(
        rng.choice(supervised.values, (2000, len(supervised.values))), axis=1
    )
    low, high = np.quantile(drawn, _QUANTILES)
    return Ratio(method.name, method.median / supervised.median, float(low), float(high), method, supervised)


@dataclass(frozen=True)
class Acceptance:
    """Verdict on an R: "pass", "fail", or "suspect", where the value is too good to be true (a label has leaked)."""

    verdict: Literal["pass", "fail", "suspect"]
    words: str


def accept(found: Ratio, target: float, *, most: float = 1.0, slack: float = SLACK) -> Acceptance:
    """Judge R against a published ``target``: at least target - slack, at most ``most`` (1, or the idealised method's
    R + 0.1)."""
    said = f"{found.name}: R = {found.value:.2f} [{found.low:.2f}, {found.high:.2f}], target {target:.2f}"
    if found.value > most:
        return Acceptance("suspect", f"{said}; above {most:.2f}, look for labels in the training")
    if found.value < target - slack:
        return Acceptance("fail", f"{said}; below {target - slack:.2f}")
    return Acceptance("pass", f"{said}; at least {target - slack:.2f}")


@dataclass(frozen=True)
class Value:
    """A number with the ends of its 68 % interval."""

    value: float
    low: float
    high: float


def sic_at(curve: Roc, background: float) -> Value:
    """SIC at the loosest threshold with at most this background efficiency, error from both counts; nan where none
    is."""
    at = int(np.searchsorted(curve.background, background * (1 + 1e-12), side="right")) - 1
    if at < 0 or curve.n_background[at] == 0:
        return Value(math.nan, math.nan, math.nan)
    s, b = float(curve.signal[at]), float(curve.background[at])
    value = s / math.sqrt(b)
    n_s, n_b = max(s * curve.n_signal_total, 1.0), float(curve.n_background[at])
    error = value * math.sqrt((1 - s) / n_s + (1 - b) / (4 * n_b))
    return Value(value, max(value - error, 0.0), value + error)


def rejection_at(curve: Roc, signal: float) -> Value:
    """1 / eps_B at the tightest threshold with at least this signal efficiency; infinite where no background
    passes."""
    at = min(int(np.searchsorted(curve.signal, signal * (1 - 1e-12))), len(curve.signal) - 1)
    passed, total = float(curve.n_background[at]), curve.n_background_total
    low, high = clopper_pearson(min(passed, total), total)
    b = float(curve.background[at])
    return Value(1 / b if b > 0 else math.inf, 1 / high, 1 / low if low > 0 else math.inf)


@dataclass(frozen=True)
class Auc:
    """Area under the ROC with its DeLong standard error (Biometrics 44, 837, 1988)."""

    value: float
    error: float


def _placements(signal: Array, background: Array) -> tuple[Array, Array]:
    """Fraction of the other class each event beats, ties half: (n_signal,) and (n_background,)."""
    n, m = len(signal), len(background)
    if n < 2 or m < 2:
        raise FitError(
            f"an AUC with an error needs two events of each kind, found {n} signal and {m} background"
        )
    both = np.concatenate([signal, background])
    if not np.all(np.isfinite(both)):
        raise FitError("scores must be finite")
    ranks = stats.rankdata(both)
    return (ranks[:n] - stats.rankdata(signal)) / m, 1 - (ranks[n:] - stats.rankdata(background)) / n


def delong(signal: Array, background: Array) -> Auc:
    """AUC of two samples of scores with a distribution-free error."""
    above, below = _placements(signal, background)
    variance = above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below)
    return Auc(float(above.mean()), float(np.sqrt(variance)))


@dataclass(frozen=True)
class AucDifference:
    """AUC of the first minus that of the second score on the same events, its error, and the two-sided p-value of no
    difference."""

    first: Auc
    second: Auc
    difference: float
    error: float
    p: float


def compare_aucs(first: tuple[Array, Array], second: tuple[Array, Array]) -> AucDifference:
    """DeLong's paired test of two scores, each (signal, background), row by row the same events."""
    if [len(x) for x in first] != [len(x) for x in second]:
        raise FitError("a paired comparison needs both scores of the same events")
    (a1, b1), (a2, b2) = _placements(*first), _placements(*second)
    difference = float(a1.mean() - a2.mean())
    variance = (a1 - a2).var(ddof=1) / len(a1) + (b1 - b2).var(ddof=1) / len(b1)
    error = float(np.sqrt(variance))
    p = 1.0 if difference == 0 else (2 * p_of(abs(difference) / error) if error > 0 else 0.0)
    return AucDifference(delong(*first), delong(*second), difference, error, p)


@dataclass(frozen=True)
class Argos:
    """The label-free quality of a score (2511.14832): eps_SR / sqrt(eps_BT) - sqrt(eps_BT) at every threshold.

    ``value``, ``background`` (n,): eps_BT on a held-out template, with at least ``floor`` events above; ``best`` the
    maximum. With a perfect template it is w (SIC - sqrt(eps_B)), w the signal fraction: it ranks selections without a
    label.
    """

    value: Array
    background: Array
    best: float
    at: float
    floor: int


def argos_value(data: ArrayLike, template: ArrayLike) -> Array:
    """ARGOS of efficiencies eps_SR on data and eps_BT > 0 on the template."""
    b = np.asarray(template, dtype=np.float64)
    return np.asarray(data, dtype=np.float64) / np.sqrt(b) - np.sqrt(b)


def argos(data: Array, template: Array, floor: int = FLOOR) -> Argos:
    """ARGOS curve of held-out data and template scores."""
    curve = roc(data, template)
    seen = curve.n_background >= floor
    if not seen.any():
        raise FitError(f"no threshold keeps {floor} of {len(template)} template events")
    value = argos_value(curve.signal[seen], curve.background[seen])
    top = int(np.argmax(value))
    return Argos(value, curve.background[seen], float(value[top]), float(curve.background[seen][top]), floor)


def calibration_error(probability: Array, label: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: mean |label fraction - probability| over ``bins`` of equal population."""
    if len(probability) != len(label) or len(label) < bins:
        raise FitError(f"{len(probability)} probabilities and {len(label)} labels in {bins} bins")
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    gaps = [abs(float(label[p].mean() - probability[p].mean())) * len(p) for p in parts]
    return float(sum(gaps) / len(label))


def mean_ratio(log_ratio: Array) -> Value:
    """E_R[e^(ln r)] over reference events, which is 1 for a right density ratio, with its standard error."""
    r = np.exp(np.asarray(log_ratio, dtype=np.float64))
    error = float(r.std(ddof=1) / math.sqrt(len(r)))
    mean = float(r.mean())
    return Value(mean, mean - error, mean + error)


@dataclass(frozen=True)
class Band:
    """A curve over trainings on one grid: ``x``, ``median`` and its 16-84 % range ``low``, ``high``, (points,); nan
    where fewer than half of the trainings keep ``floor`` background events."""

    name: str
    kind: Literal["sic", "rejection"]
    x: Array
    median: Array
    low: Array
    high: Array
    trainings: int
    floor: int


def band(
    name: str, curves: Sequence[Roc], kind: Literal["sic", "rejection"], floor: int = FLOOR, points: int = 200
) -> Band:
    """SIC or 1/eps_B against eps_S over trainings: at each eps_S the tightest threshold that reaches it."""
    if not curves:
        raise FitError(f"{name}: no training to draw")
    x = np.linspace(0, 1, points + 1)[1:]
    rows = np.full((len(curves), points), np.nan)
    for row, c in zip(rows, curves, strict=True):
        at = np.minimum(np.searchsorted(c.signal, x * (1 - 1e-12)), len(c.signal) - 1)
        b, good = c.background[at], c.n_background[at] >= floor
        y = x / np.sqrt(np.where(good, b, 1.0)) if kind == "sic" else 1 / np.where(good, b, 1.0)
        row[good] = y[good]
    enough = np.isfinite(rows).mean(axis=0) >= 0.5
    out = np.full((3, points), np.nan)
    out[:, enough] = np.nanquantile(rows[:, enough], (0.5, *_QUANTILES), axis=0)
    return Band(name, kind, x, out[0], out[1], out[2], len(curves), floor)


def ranking(found: Mapping[str, MaxSic]) -> list[tuple[str, MaxSic]]:
    """Methods by their median, best first; names break ties."""
    return sorted(found.items(), key=lambda item: (-item[1].median, item[0]))
