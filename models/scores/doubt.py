"""How a classifier's doubt is read: scores of its logits, and distances in its last hidden layer (2201.07199)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...errors import FitError
from ..calibration import log_sum_exp
from .coordinates import whiten
from .mahalanobis import ledoit_wolf

Array = NDArray[np.float64]
Kind = Literal["msp", "entropy", "max_logit", "energy", "anti_class", "mahalanobis", "mahalanobis_global"]
#: The kinds that are made of the last hidden layer.
DISTANCES = ("mahalanobis", "mahalanobis_global")


def logit_scores(g: Array, anti: int) -> dict[str, Array]:
    """The scores of logits g (n, k), each (n,), with p = softmax(g); ``anti``: index of the class of "anti_class".

    msp: -max p; entropy: -sum p ln p; max_logit: -max g; energy: -ln sum exp g; anti_class: -p of one class.
    """
    total = log_sum_exp(g)
    highest, entropy = g.max(axis=1), np.zeros(len(g))
    for k in range(g.shape[1]):
        entropy -= np.exp(g[:, k] - total) * (g[:, k] - total)
    return {
        "msp": -np.exp(highest - total),
        "entropy": entropy,
        "max_logit": -highest,
        "energy": -total,
        "anti_class": -np.exp(g[:, anti] - total),
    }


def moments_of(h: Array, y: NDArray[np.int64], weight: Array, classes: int) -> dict[str, Array]:
    """Means of h (n, width) of every class, and the whitening matrices of its two covariances, within classes and about all.

    Both are shrunk as `ledoit_wolf` says. Raises `FitError` where h is the same for all events.
    """
    means = np.array([np.average(h[y == k], axis=0, weights=weight[y == k]) for k in range(classes)])
    found = {"means": means}
    for name, rows in (("within", h - means[y]), ("global", h)):
        mean, covariance, _ = ledoit_wolf(rows, weight)
        if not np.trace(covariance) > 0:
            raise FitError("the last hidden layer is the same for all events; lower learning_rate")
        unit = np.eye(h.shape[1])
        found[name] = solve_triangular(np.linalg.cholesky(covariance), unit, lower=True)
        found[f"{name}_mean"] = mean
    return found


def distances(h: Array, moments: dict[str, Array]) -> dict[str, Array]:
    """Squared Mahalanobis distances of h (n, width) to the nearest class and to the mean of all, by `moments_of`."""

    def squared(mean: Array, inverse: Array) -> Array:
        z = whiten(h, mean, inverse)
        return np.cumsum(z * z, axis=1)[:, -1]

    nearest = np.full(len(h), np.inf)
    for mean in moments["means"]:
        nearest = np.minimum(nearest, squared(mean, moments["within"]))
    return {"mahalanobis": nearest, "mahalanobis_global": squared(moments["global_mean"], moments["global"])}


def squares(layers: Any) -> Any:
    """A module (n, d) -> (n,): the sum of squares of what ``layers`` give, in operations firmware has."""
    import torch

    class Squared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Any) -> Any:
            out = self.layers(x)
            return torch.einsum("bi,bi->b", out, out)

    return Squared()
