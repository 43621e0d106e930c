"""Distance from the mean in units of the covariance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...events import Events
from .coordinates import Coordinates, whiten


def ledoit_wolf(
    x: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """(mean (d,), covariance (d, d), shrinkage) of rows x (n, d) with weight (n,).

    C = (1 - s) S + s tr(S)/d 1 with the s that makes the expected squared error smallest (Ledoit and Wolf, J. Multivar. Anal.
    88 (2004) 365): s = min(b^2, d^2) / d^2, d^2 = ||S - tr(S)/d 1||^2, b^2 = sum_i w_i^2 ||x_i x_i^T - S||^2, weights that sum to 1.
    """
    w = weight / weight.sum()
    mean = (w[:, None] * x).sum(axis=0)
    away = x - mean
    sample = (w[:, None] * away).T @ away
    target = np.trace(sample) / x.shape[1] * np.eye(x.shape[1])
    distance = ((sample - target) ** 2).sum()
    # ||x x^T - S||^2 without making x x^T of every event
    norms = (away**2).sum(axis=1)
    error = norms**2 - 2 * (away @ sample * away).sum(axis=1) + (sample**2).sum()
    shrink = 1.0 if distance == 0 else min(1.0, float((w**2 * error).sum() / distance))
    return mean, (1 - shrink) * sample + shrink * target, shrink


@dataclass
class Mahalanobis(Coordinates):
    """score = sqrt((v - mu)^T C^-1 (v - mu)), mean and covariance of ``reference``, shrunk as `ledoit_wolf` says.

    In standardised coordinates the shrinkage is towards uncorrelated columns.
    """

    paper: ClassVar[str] = ""
    _learnt: ClassVar[tuple[str, ...]] = ("mean_", "inverse_")

    mean_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    inverse_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on what cannot be learnt from."""
        v, weight = self._learn_coordinates(reference)
        self.mean_, covariance, _ = ledoit_wolf(v, weight)
        self.inverse_ = solve_triangular(np.linalg.cholesky(covariance), np.eye(v.shape[1]), lower=True)
        self._learn_floor(v)
        return self

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        z = whiten(v, self.mean_, self.inverse_)
        return np.sqrt(np.cumsum(z * z, axis=1)[:, -1])
