"""A linear probe: what a linear classifier finds in frozen features, the usual test of a representation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError, InputError

#: Part of a column's spread below which it is taken for constant.
_CONSTANT = 1e-9


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe: score = x @ ``weights`` + ``bias``, in the features' own units.

    ``auc``: area under the ROC curve on the held-out events, half of every tie counted. ``loss``: mean cross-entropy there.
    """

    weights: NDArray[np.float64]
    bias: float
    auc: float
    loss: float

    def score(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """ln of the odds that an event is of class 1, (n,)."""
        return x.astype(np.float64) @ self.weights + self.bias


def area(signal: NDArray[np.float64], background: NDArray[np.float64]) -> float:
    """Probability that a signal's score lies above a background's, a tie counting one half."""
    ordered = np.sort(background)
    below = np.searchsorted(ordered, signal, "left") + np.searchsorted(ordered, signal, "right")
    return float(below.mean() / (2 * len(background)))


def linear_probe(
    x: NDArray[np.float32], y: NDArray[np.bool_], held_x: NDArray[np.float32], held_y: NDArray[np.bool_],
    *, penalty: float = 1e-4,
) -> Probe:  # fmt: skip
    """Logistic regression of y (n,) on x (n, d), tested on held-out events; both classes count the same, however many.

    Minimises over all events at once mean cross-entropy + ``penalty`` / 2 * |w|^2, w the weights of standardised columns (mean and
    spread of x), by L-BFGS from 0 in double precision: nothing is drawn, so the result is one number. A constant column gets
    the weight 0. Raises `InputError` for a sample without both classes or with other columns or values that are not finite,
    `FitError` where it does not converge.
    """
    from scipy.optimize import minimize

    for name, features, labels in (("x", x, y), ("held_x", held_x, held_y)):
        if features.ndim != 2 or labels.shape != features.shape[:1] or features.shape[1] != x.shape[1]:
            raise InputError(
                f"{name}: found {features.shape} with labels {labels.shape}; expected (n, {x.shape[-1]}), (n,)"
            )
        if len(np.unique(labels.astype(bool))) < 2 or not np.isfinite(features).all():
            raise InputError(f"{name}: expected finite features of events of both classes")
    y, chosen = y.astype(bool), held_y.astype(bool)
    mean, spread = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    constant = spread <= _CONSTANT * np.maximum(np.abs(mean), 1.0)
    spread = np.where(constant, 1.0, spread)
    z = np.where(constant, 0.0, (x - mean) / spread)
    sign = np.where(y, 1.0, -1.0)
    share = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (z @ at[:-1] + at[-1])
        pull = -share * sign * np.exp(-np.logaddexp(0.0, margin))
        value = share @ np.logaddexp(0.0, -margin) + 0.5 * penalty * at[:-1] @ at[:-1]
        return float(value), np.append(z.T @ pull + penalty * at[:-1], pull.sum())

    found = minimize(
        loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-7}
    )
    if not found.success:
        raise FitError(f"the linear probe did not converge: {found.message}; raise penalty (found {penalty})")
    weights = found.x[:-1] / spread
    bias = float(found.x[-1] - weights @ mean)
    held = held_x.astype(np.float64) @ weights + bias
    margin = np.where(chosen, held, -held)
    counted = np.where(chosen, 0.5 / chosen.sum(), 0.5 / (~chosen).sum())
    return Probe(
        weights, bias, area(held[chosen], held[~chosen]), float(counted @ np.logaddexp(0.0, -margin))
    )
