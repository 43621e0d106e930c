"""The coordinates a density is learnt in: scaled to (0, 1), logit, standardised; and which events have none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError


def strictly_inside(
    x: NDArray[Any], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which rows of x (n, d) are finite and have every value above ``low`` (d,) and below ``high`` (d,), shape (n,)."""
    x = np.asarray(x, dtype=np.float64)
    return np.all(np.isfinite(x) & (x > low) & (x < high), axis=1)


@dataclass(frozen=True)
class Domain:
    """v = (ln(u / (1 - u)) - mean) / std with u = (x - low) / (high - low), column by column (2109.00546).

    ``low`` and ``high`` are the extremes of the training part. An event with any u outside the open interval (0, 1)
    has no v: it is outside the domain. ``logit`` False: v = (x - mean) / std, and every finite x is inside.
    All arrays have shape (d,).
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    logit: bool

    @classmethod
    def fit(cls, x: NDArray[Any], weight: NDArray[Any], logit: bool) -> Domain:
        """The domain of x (n, d) with weight (n,) >= 0; raises `InputError` on a constant column.

        The sums are taken in the order of the rows: give them in an order of their own.
        """
        x = np.asarray(x, dtype=np.float64)
        low, high = x.min(axis=0), x.max(axis=0)
        if not (high > low).all():
            raise InputError(
                f"column {int(np.argmin(high > low))} is constant: it has no density; leave it out"
            )
        plain = cls(low, high, np.zeros(x.shape[1]), np.ones(x.shape[1]), logit)
        inside = plain.inside(x)
        if weight[inside].sum() <= 0:
            raise InputError(
                "no event lies inside the domain of the density; there are too few to learn from"
            )
        v = plain.forward(x[inside])
        mean = np.average(v, axis=0, weights=weight[inside])
        std = np.sqrt(np.average((v - mean) ** 2, axis=0, weights=weight[inside]))
        if not (std > 0).all():
            raise InputError(
                f"column {int(np.argmin(std > 0))} has one value inside its range: it has no density; leave it out"
            )
        return cls(low, high, mean, std, logit)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends, of shape (d,) each, of the open intervals of the columns: what lies on them or beyond has no coordinates."""
        if self.logit:
            return self.low, self.high
        return np.full(len(self.low), -np.inf), np.full(len(self.low), np.inf)

    def inside(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows of x (n, d) have coordinates, shape (n,)."""
        return strictly_inside(x, *self.bounds())

    def forward(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """The coordinates v (n, d) of rows that are inside."""
        x = np.asarray(x, dtype=np.float64)
        raw = np.log((x - self.low) / (self.high - x)) if self.logit else x
        return (raw - self.mean) / self.std

    def inverse(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """x (n, d) of coordinates v (n, d)."""
        raw = v * self.std + self.mean
        return self.low + (self.high - self.low) * 0.5 * (1 + np.tanh(0.5 * raw)) if self.logit else raw

    def log_jacobian(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """ln |det dv/dx| (n,) of rows that are inside: what turns ln p(v) into ln p(x)."""
        x = np.asarray(x, dtype=np.float64)
        out = np.full(len(x), -np.log(self.std).sum())
        if self.logit:
            span = self.high - self.low
            out += (np.log(span) - np.log(x - self.low) - np.log(self.high - x)).sum(axis=1)
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All numbers as one array ``domain`` (4, d)."""
        return {"domain": np.stack([self.low, self.high, self.mean, self.std])}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], logit: bool) -> Domain:
        """Undo `arrays`."""
        low, high, mean, std = np.asarray(arrays["domain"], dtype=np.float64)
        return cls(low, high, mean, std, logit)
