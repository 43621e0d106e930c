"""A kernel density estimate of a few columns, which knows where they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, ClassVar, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...errors import ConfigError, InputError
from ...events import Events, FeatureSet
from .coordinates import CoordinateDensity, columns_named, whiten

#: Most columns a kernel density can describe with samples of any size we have.
_MOST = 4
#: Terms smaller than the largest by this factor's exponential change no digit.
_FAINT = -45.0


@nb.njit(cache=True, nogil=True)
def _log_kernels(
    z: NDArray[np.float64], points: NDArray[np.float64], log_weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ln sum_j exp(log_weight_j - |z_i - points_j|^2 / 2) for whitened z (n, d) and points (m, d), shape (n,)."""
    n, d = z.shape
    m = len(points)
    out, terms = np.empty(n), np.empty(m)
    for i in range(n):
        largest = -np.inf
        for j in range(m):
            far = 0.0
            for a in range(d):
                far += (z[i, a] - points[j, a]) ** 2
            terms[j] = log_weight[j] - 0.5 * far
            largest = max(largest, terms[j])
        total = 0.0
        for j in range(m):
            if terms[j] - largest > _FAINT:
                total += np.exp(terms[j] - largest)
        out[i] = largest + np.log(total)
    return out


@dataclass
class KernelDensity(CoordinateDensity):
    """p(v) = sum_i w_i N(v; v_i, n^(-2/(d+4)) C), C the covariance of ``reference``, n = (sum w)^2 / sum w^2; score = -ln p.

    Scott's rule with the full covariance, for 1 to 4 columns (``columns``: which; none: all). ``edges``: {column: (low, high)},
    None for an open end: kernels that reach over a hard edge are mirrored back, so that the density there is neither halved nor
    smeared. Of two edges of one column each mirrors once: kernels are narrow beside the range. An event outside the edges is
    treated as one without coordinates. ``events``: kernels at so many events, chosen by a hash of their identity (None: all).
    """

    paper: ClassVar[str] = ""
    _learnt: ClassVar[tuple[str, ...]] = ("points_", "log_weight_", "inverse_", "edges_")

    columns: tuple[str, ...] = ()
    edges: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)
    events: int | None = 20_000
    seed: int = 0
    points_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    log_weight_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    inverse_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    edges_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0)), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.edges, Mapping) or any(len(pair) != 2 for pair in self.edges.values()):
            raise ConfigError(
                f"edges: found {self.edges!r}, expected {{column: [low, high]}} with null for an open end"
            )
        self.edges = {k: (v[0], v[1]) for k, v in self.edges.items()}  # a model folder has lists
        if self.edges and self.coordinates == "logit":
            raise ConfigError(
                "edges: logit coordinates have no edges; use coordinates: standardised, or no edges"
            )
        if self.events is not None and self.events < 2:
            raise ConfigError(f"events: found {self.events}, expected at least 2")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `ConfigError` for more than 4 or unknown columns, `InputError` on what cannot be learnt from, on an event
        outside the edges and on columns that depend linearly on one another.
        """
        columns = columns_named(reference.features, self.columns, _MOST, "KernelDensity")
        self.edges_ = self._edges_of(reference.features, columns)
        v, weight = self._learn_coordinates(reference, self.seed, self.events, columns)
        self._check_edges(reference, columns)
        w = weight / weight.sum()
        n = 1 / (w**2).sum()
        if n <= v.shape[1] + 1:
            raise InputError(f"reference: {len(v)} events are too few for a density of {v.shape[1]} columns")
        away = v - (w[:, None] * v).sum(axis=0)
        covariance = (w[:, None] * away).T @ away / (1 - 1 / n)
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError as error:
            raise InputError("reference: its columns depend on one another; leave one out") from error
        scott = n ** (-1 / (v.shape[1] + 4))
        self.inverse_ = solve_triangular(scott * factor, np.eye(v.shape[1]), lower=True)
        norm = np.log(np.diag(self.inverse_)).sum() - 0.5 * v.shape[1] * np.log(2 * np.pi)
        self.points_ = whiten(v, np.zeros(v.shape[1]), self.inverse_)
        self.log_weight_ = np.log(w) + norm
        self._learn_floor(v)
        return self

    def _edges_of(self, features: FeatureSet, columns: NDArray[np.int64]) -> NDArray[np.float64]:
        """Edges (2, d) of the columns in use, infinite where there is none."""
        names = [features.names[i] for i in columns]
        out = np.repeat([[-np.inf], [np.inf]], len(names), axis=1)
        for name, pair in self.edges.items():
            if name not in names:
                raise ConfigError(f"edges.{name}: no such column among {', '.join(names)}")
            for side, value in enumerate(pair):
                if value is not None:
                    out[side, names.index(name)] = value
        if not (out[0] < out[1]).all():
            raise ConfigError(f"edges: found {self.edges}, expected low < high")
        return out

    def _check_edges(self, reference: Events, columns: NDArray[np.int64]) -> None:
        x = reference.x[:, columns]
        bad = ((x < self.edges_[0]) | (x > self.edges_[1])).any(axis=0)
        if bad.any():
            name = reference.features.names[columns[int(np.argmax(bad))]]
            raise InputError(
                f"reference: column {name} has values outside its edges {self.edges[name]}; correct edges"
            )

    def _bounded(self) -> bool:
        return super()._bounded() or bool(self.edges)

    def _inside(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        return super()._inside(x) & ((x >= self.edges_[0]) & (x <= self.edges_[1])).all(axis=1)

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        domain, origin = self._domain(), np.zeros(v.shape[1])
        out = _log_kernels(whiten(v, origin, self.inverse_), self.points_, self.log_weight_)
        if not self.edges:
            return -out
        factor = np.linalg.inv(self.inverse_)
        width, top = np.sqrt((factor**2).sum(axis=1)), np.log(np.exp(self.log_weight_).sum())
        ends = (self.edges_ - domain.mean) / domain.std
        for chosen in product(*([None, *column[np.isfinite(column)]] for column in ends.T)):
            image, most = v.copy(), np.full(len(v), top)
            for j, end in enumerate(chosen):
                if end is not None:
                    image[:, j] = 2 * end - v[:, j]
                    # every kernel's centre is inside, so that far it is at least
                    most = np.minimum(most, top - 0.5 * ((v[:, j] - end) / width[j]) ** 2)
            felt = (most > out + _FAINT) & any(end is not None for end in chosen)
            z = whiten(image[felt], origin, self.inverse_)
            out[felt] = np.logaddexp(out[felt], _log_kernels(z, self.points_, self.log_weight_))
        return -out
