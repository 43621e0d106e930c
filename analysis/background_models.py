"""Backgrounds beside the dijet function, behind one protocol: a Gaussian process and a count that rests on failing
events.

All answer the same question, what is expected in every bin when the window has not been looked at, so that a
statement can be made with each and the difference quoted. `gaussian_process` and `abcd` hold the numerics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FitError
from .dijet import basis, choose_order, fit_background, gradient_of
from .gaussian_process import fit_process

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Prediction:
    """``expected`` (bins,) and its ``covariance`` (bins, bins) from the fit or the counts; ``b`` events in the window
    with the parts of their uncertainty: ``statistical``, and ``systematic`` by name, all in events."""

    expected: Array
    covariance: Array
    b: float
    statistical: float
    systematic: dict[str, float] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """Standard deviation of ``b``, all parts in quadrature."""
        return float(np.sqrt(self.statistical**2 + sum(s**2 for s in self.systematic.values())))

    @property
    def bin_error(self) -> Array:
        """Statistical standard deviation of every bin, (bins,)."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def beside(edges: Array, inside: Mask, guard: float = 0.0) -> Mask:
    """Which bins a fit looks at, (bins,): all but the window's and those within ``guard`` GeV of it, where a wide signal leaks to."""
    first, last = int(np.argmax(inside)), len(inside) - int(np.argmax(inside[::-1]))
    slack = 1e-6 * float(edges[-1] - edges[0])
    return (edges[1:] <= edges[first] - guard + slack) | (edges[:-1] >= edges[last] + guard - slack)


@runtime_checkable
class BackgroundModel(Protocol):
    """Predicts the bins of ``inside`` (bins,) from the others of a spectrum ``counts`` (bins,) on ``edges`` (GeV)."""

    def predict(self, counts: Array, edges: Array, inside: Mask) -> Prediction:
        """Raises `FitError` where the model cannot describe the spectrum."""
        ...


def _checked(counts: Array, edges: Array, inside: Mask) -> tuple[Array, Array, Mask]:
    counts, edges, inside = np.asarray(counts, float), np.asarray(edges, float), np.asarray(inside, bool)
    if edges.shape != (len(counts) + 1,) or inside.shape != counts.shape:
        raise FitError(
            f"{len(edges)} edges, {len(counts)} counts, {len(inside)} flags: expected n + 1, n and n"
        )
    if not (np.diff(edges) > 0).all() or not edges[0] > 0:
        raise FitError("edges must be positive and rise")
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise FitError(
            f"bin {int(np.argmin(np.isfinite(counts) & (counts >= 0)))} of the spectrum is negative or not finite"
        )
    if inside.all() or not inside.any():
        raise FitError("the window must hold some of the bins and leave some to predict it from")
    return counts, edges, inside


@dataclass(frozen=True)
class DijetBackground:
    """The dijet function fitted outside the window; ``order`` shape parameters, or chosen by the likelihood ratio
    (None).
    """

    energy: float
    order: int | None = None

    def predict(self, counts: Array, edges: Array, inside: Mask) -> Prediction:
        """See `BackgroundModel`."""
        counts, edges, inside = _checked(counts, edges, inside)
        order = choose_order(counts, edges, self.energy, ~inside) if self.order is None else self.order
        model = basis(edges, order, self.energy)
        fit = fit_background(counts, model, ~inside)
        slope = gradient_of(model, fit.theta)[1]
        b, error = fit.integral(inside, slope)
        return Prediction(fit.expected, slope @ fit.covariance @ slope.T, b, error)


@dataclass(frozen=True)
class GaussianProcessBackground:
    """A Gaussian process for the logarithm of the rate over ln m, on a parabola, conditioned on the bins outside the
    window.

    ``length`` (in ln m) and ``amplitude`` are found by their marginal likelihood where None, the length within
    ``lengths``. Masking keeps a signal in the window from being absorbed; a length of ten times the relative width of
    a signal keeps it from being so elsewhere.
    """

    length: float | None = None
    amplitude: float | None = None
    lengths: tuple[float, float] = (0.15, 2.0)

    def __post_init__(self) -> None:
        for name in ("length", "amplitude"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ConfigError(f"{name} {value:g}: expected a positive number, or none")
        if not 0 < self.lengths[0] < self.lengths[1]:
            raise ConfigError(f"lengths {self.lengths}: expected two positive rising numbers")

    def predict(self, counts: Array, edges: Array, inside: Mask) -> Prediction:
        """See `BackgroundModel`."""
        counts, edges, inside = _checked(counts, edges, inside)
        process = fit_process(counts, edges, ~inside, self.length, self.amplitude, self.lengths)
        b = float(process.expected[inside].sum())
        variance = float(process.covariance[np.ix_(inside, inside)].sum())
        return Prediction(process.expected, process.covariance, b, float(np.sqrt(max(variance, 0.0))))


@dataclass(frozen=True)
class SidebandCount:
    """Events that fail the cut, times the passing share of the sidebands: n = C B / D in the window (C fail inside; B
    pass, D fail outside).

    Exact if passing does not depend on mass. Two uncertainties watch over that: ``correlation``, the change of b if
    the share goes up or down with ln m at the slope of the sidebands, or at that slope's error where it is larger;
    ``non-closure``, half the difference of the two sidebands' own predictions beyond what their statistics explain.
    ``failing`` (bins,): counts of events that fail. Bins within ``guard`` GeV of the window count for neither.
    """

    failing: Array = field(repr=False)
    guard: float = 0.0

    def predict(self, counts: Array, edges: Array, inside: Mask) -> Prediction:
        """See `BackgroundModel`."""
        counts, edges, inside = _checked(counts, edges, inside)
        failing, edges, inside = _checked(self.failing, edges, inside)
        use = beside(edges, inside, self.guard)
        passed, failed = float(counts[use].sum()), float(failing[use].sum())
        if not (passed > 0 and failed > 0):
            raise FitError(
                f"{passed:g} events pass and {failed:g} fail outside the window: widen the sidebands"
            )
        share = passed / failed
        common = share**2 * (1 / passed + 1 / failed)
        covariance = np.diag(share**2 * failing) + common * np.outer(failing, failing)
        control = float(failing[inside].sum())
        b = share * control
        statistical = float(np.sqrt(covariance[np.ix_(inside, inside)].sum()))
        systematic = {
            "correlation": b * _slope_effect(counts, failing, edges, inside, use),
            "non-closure": b * _side_difference(counts, failing, inside, use),
        }
        return Prediction(share * failing, covariance, b, statistical, systematic)


def _slope_effect(counts: Array, failing: Array, edges: Array, inside: Mask, use: Mask) -> float:
    """Relative change of the share between sidebands and window if ln(pass / fail) is linear in ln m."""
    x = np.log(0.5 * (edges[1:] + edges[:-1]))
    total = counts + failing
    p = counts[use].sum() / total[use].sum()
    centre = np.average(x[use], weights=total[use])
    spread = float((total[use] * (x[use] - centre) ** 2).sum())
    # One step of a binomial fit: slope of the passing probability's logit, and its error.
    information = p * (1 - p) * spread
    if information <= 0:
        return 1.0
    slope = float(((counts[use] - p * total[use]) * (x[use] - centre)).sum()) / information
    size = max(abs(slope), 1 / np.sqrt(information))
    weight = failing[inside] if failing[inside].sum() > 0 else np.ones(int(inside.sum()))
    return float(np.expm1(size * abs(np.average(x[inside], weights=weight) - centre)))


def _side_difference(counts: Array, failing: Array, inside: Mask, use: Mask) -> float:
    """Half the relative difference of the shares below and above the window, its statistical part taken off in
    quadrature.
    """
    below = np.arange(len(inside)) < int(np.argmax(inside))
    sides = [(float(counts[s].sum()), float(failing[s].sum())) for s in (use & below, use & ~below)]
    if min(min(one) for one in sides) <= 0:
        return 0.0
    (b0, d0), (b1, d1) = sides
    ratio, variance = np.log(b1 * d0 / (d1 * b0)), 1 / b0 + 1 / d0 + 1 / b1 + 1 / d1
    return float(0.5 * np.sqrt(max(ratio**2 - variance, 0.0)))
