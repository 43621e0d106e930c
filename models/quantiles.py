"""Quantiles of one number as smooth functions of another: the pinball loss, minimised exactly by linear programming."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError, InputError

Numbers = NDArray[np.float64]

#: Degree of the splines: no kink, so that no step of a spectrum is made by one.
_DEGREE = 3
#: Events expected beyond a curve (on its thinner side) per coefficient of it, at least.
_LEAST = 5
#: Distance of two curves, at least, in units of the spread of the numbers: between them a level must be told from another.
_GAP = 1e-6


def pinball(y: Numbers, curve: Numbers, tau: float, weight: Numbers | None = None) -> float:
    """Mean of tau (y - q) where y > q and of (1 - tau) (q - y) elsewhere, (n,) each: smallest where q is the tau quantile."""
    away = y - curve
    return float(np.average(np.maximum(tau * away, (tau - 1) * away), weights=weight))


def quantile_coefficients(
    basis: Numbers, y: Numbers, weight: Numbers, tau: float, least: Numbers | None = None
) -> Numbers:
    """The c (k,) that makes the pinball loss of y (n,) about basis (n, k) @ c smallest; ``least``: c is not below it.

    Solved as the dual, max of y.a over a between w (tau - 1) and w tau with basis^T a = 0, which has k rows instead of n; c is
    what it costs to move them. Raises `FitError` where the solver does not end at an optimum.
    """
    from scipy.optimize import linprog

    bounds = np.column_stack([weight * (tau - 1), weight * tau])
    zero = np.zeros(basis.shape[1])
    if least is None:
        found = linprog(-y, A_eq=basis.T, b_eq=zero, bounds=bounds, method="highs-ds")
    else:  # c = least + d with d not below 0, whose rows are inequalities
        found = linprog(basis @ least - y, A_ub=basis.T, b_ub=zero, bounds=bounds, method="highs-ds")
    if found.status != 0:
        raise FitError(f"the quantile regression did not converge ({found.message}); lower pieces")
    if least is None:
        return -np.asarray(found.eqlin.marginals)
    return least - np.minimum(np.asarray(found.ineqlin.marginals), 0.0)


def spline_knots(u: Numbers, weight: Numbers, pieces: int) -> Numbers:
    """Knots of a cubic spline over u (n,), of ``pieces`` with as much weight each; `InputError` where two would be one."""
    order = np.argsort(u, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    at = np.searchsorted(share, np.arange(1, pieces) / pieces).clip(max=len(u) - 1)
    inner = u[order][at]
    ends = np.r_[u.min(), inner, u.max()]
    if not (np.diff(ends) > 0).all():
        raise InputError(
            f"{len(np.unique(u))} different masses among {len(u)} events are too few for {pieces} pieces; lower pieces"
        )
    return np.r_[[u.min()] * _DEGREE, ends, [u.max()] * _DEGREE]


@dataclass(frozen=True)
class QuantileCurves:
    """Quantiles as cubic splines of u that nowhere cross: ``knots``, and ``coefficients`` (curves, k) that rise along curves.

    A spline lies among its coefficients, which are weights of positive functions that sum to 1: so curves whose coefficients
    are in order are in order everywhere.
    """

    knots: Numbers
    coefficients: Numbers

    @classmethod
    def fit(cls, u: Numbers, y: Numbers, weight: Numbers, taus: Sequence[float], pieces: int) -> Self:
        """Curves for rising ``taus``, each the best that lies above the one before it (which rarely is in its way).

        u, y, weight (n,). Raises `InputError` for y that is all the same and for too few events.
        """
        from scipy.interpolate import BSpline

        effective = weight.sum() ** 2 / (weight**2).sum()
        rarest = min(min(tau, 1 - tau) for tau in taus)
        needed = _LEAST * (pieces + _DEGREE) / rarest
        if effective < needed:
            raise InputError(
                f"{effective:.0f} events are too few for the quantile {rarest:g} with {pieces} pieces, which takes "
                f"{needed:.0f}; lower pieces or leave out the smallest efficiency"
            )
        knots = spline_knots(u, weight, pieces)
        low, middle, high = np.quantile(y, [0.1, 0.5, 0.9])
        scale = high - low if high > low else np.ptp(y)
        if not scale > 0:
            raise InputError("the inner score is the same for all events: it has no quantiles")
        basis = BSpline.design_matrix(u, knots, _DEGREE).toarray()
        z, w = (y - middle) / scale, weight / weight.mean()
        rows: list[Numbers] = []
        for tau in taus:
            rows.append(quantile_coefficients(basis, z, w, tau, rows[-1] + _GAP if rows else None))
        return cls(knots, middle + scale * np.array(rows))

    def __call__(self, u: Numbers) -> Numbers:
        """All curves at u (n,), shape (n, curves); beyond the ends of the knots they stay what they are there."""
        from scipy.interpolate import BSpline

        inside = np.clip(u, self.knots[0], self.knots[-1])
        return BSpline(self.knots, self.coefficients.T, _DEGREE)(inside)
