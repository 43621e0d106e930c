"""The ABCD count: two scores, independent for the background, and four regions; A passes both cuts, B only the first,
C only the second.

b_A = n_B n_C / n_D with the relative statistical error sqrt(1 / n_B + 1 / n_C + 1 / n_D). Two systematic
uncertainties on independence: the rank correlation of the scores in D carried to A by a Gaussian copula, and the
non-closure of the same formula on sub-boundaries that leave A out. The correlation inside the truncated region D is
smaller than the full one: the copula takes it as it is, the grid is there for the rest. A dependence that only begins
at the cuts can be seen by neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import FitError

Array = NDArray[np.float64]
#: Quantiles of the region that fails, at which sub-boundaries are laid, and the fewest events of a sub-region.
GRID, FEWEST = (0.5, 0.7, 0.85), 5


@dataclass(frozen=True)
class Abcd:
    """``expected`` background in A with its ``statistical`` error and, from scores, the ``correlation`` and
    ``non_closure`` ones.
    """

    n: tuple[float, float, float, float]
    expected: float
    statistical: float
    correlation: float = 0.0
    non_closure: float = 0.0

    @property
    def error(self) -> float:
        """All in quadrature, events."""
        return math.sqrt(self.statistical**2 + self.correlation**2 + self.non_closure**2)


def abcd(a: float, b: float, c: float, d: float) -> Abcd:
    """The prediction from four counts. Raises `FitError` where B, C or D is empty."""
    if not (min(b, c, d) > 0 and a >= 0 and math.isfinite(a + b + c + d)):
        raise FitError(
            f"counts A {a:g}, B {b:g}, C {c:g}, D {d:g}: expected finite ones, B, C and D filled; loosen the cuts"
        )
    expected = b * c / d
    return Abcd((a, b, c, d), expected, expected * math.sqrt(1 / b + 1 / c + 1 / d))


@dataclass(frozen=True)
class AbcdFit:
    """Signal yield ``mu`` that solves all four regions, ``q0`` of no signal and ``z``, signed."""

    mu: float
    q0: float
    z: float


def fit_with_signal(n: Array, signal: Array) -> AbcdFit:
    """All four counts n (4,) in the order A, B, C, D with a signal of ``signal`` (4,) events per unit of mu.

    As many parameters as counts: mu is the root of (n_A - mu s_A)(n_D - mu s_D) = (n_B - mu s_B)(n_C - mu s_C) that
    continues the one without contamination; no signal is the independence of a two by two table, whose likelihood has
    a closed form.
    """
    n, s = np.asarray(n, dtype=np.float64), np.asarray(signal, dtype=np.float64)
    if n.shape != (4,) or s.shape != (4,) or (n < 0).any() or not (s[0] > 0 and (s >= 0).all()):
        raise FitError(f"counts {n} and signal {s}: expected four each, not negative, with a signal in A")
    if n[1:].min() <= 0:
        raise FitError(f"counts {n}: B, C and D must be filled; loosen the cuts")
    square, linear = s[0] * s[3] - s[1] * s[2], n[1] * s[2] + n[2] * s[1] - n[0] * s[3] - n[3] * s[0]
    constant = n[0] * n[3] - n[1] * n[2]
    inside = linear**2 - 4 * square * constant
    if inside < 0 or not linear < 0:
        raise FitError(
            "the signal spoils B, C or D so much that no yield solves the four counts; move the cuts"
        )
    # The stable form of the small root, which is constant / -linear for square = 0.
    mu = 2 * constant / (-linear + math.sqrt(inside))
    total = n.sum()
    row, column = n[0] + n[1], n[0] + n[2]
    null = (
        np.array(
            [row * column, row * (total - column), (total - row) * column, (total - row) * (total - column)]
        )
        / total
    )
    seen = n > 0
    q0 = max(0.0, 2 * float((n[seen] * np.log(n[seen] / null[seen])).sum()))
    return AbcdFit(mu, q0 if mu > 0 else 0.0, math.copysign(math.sqrt(q0), mu))


def _four(first: Array, second: Array, cut1: float, cut2: float) -> tuple[float, float, float, float]:
    one, two = first >= cut1, second >= cut2
    return (
        float((one & two).sum()),
        float((one & ~two).sum()),
        float((~one & two).sum()),
        float((~one & ~two).sum()),
    )


def closure_grid(first: Array, second: Array, cut1: float, cut2: float) -> Array:
    """(sub-planes, 2): ln(n_A n_D / n_B n_C) and its error on planes that stop at the cuts, so that A is never looked
    at.

    Planes below the first cut, below the second and below both, divided at the quantiles `GRID` of what fails there.
    """
    out = []
    for top1, top2 in ((cut1, np.inf), (np.inf, cut2), (cut1, cut2)):
        keep = (first < top1) & (second < top2)
        x, y = first[keep], second[keep]
        if len(x) == 0:
            continue
        xs = np.quantile(x, GRID) if top1 < np.inf else [cut1]
        ys = np.quantile(y, GRID) if top2 < np.inf else [cut2]
        for i in xs:
            for j in ys:
                n = np.array(_four(x, y, float(i), float(j)))
                if n.min() >= FEWEST:
                    out.append((math.log(n[0] * n[3] / (n[1] * n[2])), math.sqrt((1 / n).sum())))
    return np.array(out).reshape(-1, 2)


def _copula_ratio(rho: float, pass1: float, pass2: float) -> float:
    """P(both pass) P(neither) / (P(first only) P(second only)) of a Gaussian copula with correlation ``rho``."""
    x, y = stats.norm.isf([pass1, pass2])
    covariance: Any = [[1.0, rho], [rho, 1.0]]
    law: Any = stats.multivariate_normal([0.0, 0.0], covariance)
    both = float(law.cdf([-x, -y]))
    one, two = pass1 - both, pass2 - both
    rest = 1 - pass1 - two
    return both * rest / (one * two) if min(one, two) > 0 else math.inf


def abcd_of_scores(first: Array, second: Array, cut1: float, cut2: float) -> Abcd:
    """Counts, prediction and both systematic uncertainties from two scores (n,); higher is odder, A lies above both
    cuts.

    Each systematic is the effect seen, or one standard deviation of what could have been seen where that is larger.
    Events in A are used for nothing but their number. Raises `FitError` where no sub-plane holds enough events.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise FitError(f"scores of shapes {first.shape} and {second.shape}: expected two of the same length")
    if not np.isfinite(first + second).all():
        raise FitError("a score is not finite")
    plain = abcd(*_four(first, second, cut1, cut2))
    below = (first < cut1) & (second < cut2)
    if below.sum() < 10:
        raise FitError(
            f"{int(below.sum())} events fail both cuts: too few to test the independence of the scores"
        )
    found: Any = stats.spearmanr(first[below], second[below])
    rank = float(found.statistic)
    # Spearman's correlation of a Gaussian copula is 6 / pi asin(rho / 2).
    rho = 2 * math.sin(math.pi / 6 * max(abs(rank), 1 / math.sqrt(below.sum() - 1)))
    _, b, c, d = plain.n
    effect = _copula_ratio(rho, b / (b + d), c / (c + d)) - 1
    grid = closure_grid(first, second, cut1, cut2)
    if len(grid) == 0:
        raise FitError(f"no sub-plane outside A has {FEWEST} events in each of its regions; loosen the cuts")
    # Sub-planes share events: the best of them sets the error of their mean. Planes may miss in turns: what they miss
    # on average of the square beyond their statistics counts too.
    mean = float(np.average(grid[:, 0], weights=grid[:, 1] ** -2))
    beyond = float(np.mean(grid[:, 0] ** 2 - grid[:, 1] ** 2))
    size = max(abs(mean), float(grid[:, 1].min()), math.sqrt(max(beyond, 0.0)))
    return Abcd(
        plain.n,
        plain.expected,
        plain.statistical,
        plain.expected * abs(effect),
        plain.expected * math.expm1(size),
    )
