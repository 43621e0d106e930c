"""A Gaussian mixture with full covariances: the small density that needs no network, and the density score it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...errors import ConfigError, FitError, InputError
from ...events import Events, identity_hash
from ..nesting import Stateful
from .weak_trees import check_scored, check_training

#: Rows evaluated at once, the last ones padded, so that no event's score depends on its company.
_ROWS = 4096


@dataclass
class MixtureDensity:
    """p(x) = sum_k w_k N(x; mu_k, C_k) fitted to the reference by expectation maximisation; score = -ln p.

    ``starts`` begin at means drawn from the sample (k-means++ seeding) and the one of highest likelihood is kept;
    ``floor`` is added to the variances, in units of each column's. One density for all masses: p(x | m) = p(x).
    """

    paper: ClassVar[str] = ""

    components: int = 8
    starts: int = 2
    iterations: int = 100
    tolerance: float = 1e-4
    floor: float = 1e-4
    seed: int = 0
    weight_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    mean_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    factor_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 0, 0)), repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if min(self.components, self.starts, self.iterations) < 1 or not self.floor > 0:
            raise ConfigError(
                f"found components {self.components}, starts {self.starts}, iterations {self.iterations}, floor "
                f"{self.floor}; expected at least 1, 1, 1 and a floor above 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on bad or too few events."""
        check_training(reference, "reference")
        if len(reference) <= self.components * (len(reference.features) + 1):
            raise InputError(
                f"{len(reference)} events are too few for {self.components} components in {len(reference.features)} "
                "columns; lower components"
            )
        order = np.argsort(identity_hash(reference.identity, self.seed), kind="stable")
        x, w = reference.x[order].astype(np.float64), reference.weight[order] / reference.weight[order].sum()
        best = -np.inf
        for start in range(self.starts):
            rng = np.random.default_rng([self.seed % 2**64, start])
            likelihood, found = self._climb(x, w, rng)
            if likelihood > best:
                best = likelihood
                self.weight_, self.mean_, self.factor_ = found
        if not np.isfinite(best):
            raise FitError("the Gaussian mixture did not converge; lower components or raise floor")
        return self

    def _climb(
        self, x: NDArray[np.float64], w: NDArray[np.float64], rng: np.random.Generator
    ) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
        """Expectation maximisation from one start: (mean log likelihood, (weights, means, Cholesky factors))."""
        k = self.components
        spread = np.average((x - np.average(x, axis=0, weights=w)) ** 2, axis=0, weights=w)
        spread = np.where(spread > 0, spread, 1.0)
        means = _seeded(x / np.sqrt(spread), w, k, rng) * np.sqrt(spread)
        weight, factor = np.full(k, 1.0 / k), np.repeat(np.diag(np.sqrt(spread))[None], k, axis=0)
        last = -np.inf
        for _ in range(self.iterations):
            logs = _log_terms(x, weight, means, factor)
            total = np.logaddexp.reduce(logs, axis=1)
            likelihood = float(w @ total)
            if likelihood - last < self.tolerance:
                break
            last = likelihood
            share = np.exp(logs - total[:, None]) * w[:, None]
            mass = share.sum(axis=0) + 1e-12
            weight, means = mass / mass.sum(), (share.T @ x) / mass[:, None]
            for j in range(k):
                away = x - means[j]
                covariance = (share[:, j, None] * away).T @ away / mass[j] + np.diag(self.floor * spread)
                factor[j] = np.linalg.cholesky(covariance)
        return last, (weight, means, factor)

    def log_density(self, events: Events) -> NDArray[np.float64]:
        """ln p(x), shape (n,)."""
        if not len(self.weight_):
            raise InputError("this MixtureDensity has not been fitted")
        check_scored(events, self.mean_.shape[1], "MixtureDensity")
        out = np.empty(len(events))
        for start in range(0, len(events), _ROWS):
            rows = events.x[start : start + _ROWS]
            full = np.zeros((_ROWS, self.mean_.shape[1]))
            full[: len(rows)] = rows
            logs = _log_terms(full, self.weight_, self.mean_, self.factor_)
            out[start : start + len(rows)] = np.logaddexp.reduce(logs, axis=1)[: len(rows)]
        return out

    def score(self, events: Events) -> NDArray[np.float64]:
        """-ln p(x), shape (n,)."""
        return -self.log_density(events)

    def state(self) -> Stateful:
        """Weights, means and Cholesky factors."""
        return {}, {"weight": self.weight_, "mean": self.mean_, "factor": self.factor_}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.weight_, self.mean_, self.factor_ = arrays["weight"], arrays["mean"], arrays["factor"]
        return self


def _seeded(
    x: NDArray[np.float64], w: NDArray[np.float64], k: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """``k`` rows of x (n, d), each drawn with probability weight x squared distance to the nearest before it."""
    chosen = [x[rng.choice(len(x), p=w)]]
    nearest = np.full(len(x), np.inf)
    for _ in range(k - 1):
        nearest = np.minimum(nearest, ((x - chosen[-1]) ** 2).sum(axis=1))
        p = w * nearest
        chosen.append(x[rng.choice(len(x), p=p / p.sum() if p.sum() > 0 else w)])
    return np.array(chosen)


def _log_terms(
    x: NDArray[np.float64],
    weight: NDArray[np.float64],
    means: NDArray[np.float64],
    factor: NDArray[np.float64],
) -> NDArray[np.float64]:
    """ln(w_k N(x; mu_k, L_k L_k^T)), shape (n, k)."""
    out = np.empty((len(x), len(weight)))
    for j in range(len(weight)):
        z = solve_triangular(factor[j], (x - means[j]).T, lower=True)
        norm = np.log(np.diag(factor[j])).sum() + 0.5 * x.shape[1] * np.log(2 * np.pi)
        out[:, j] = np.log(weight[j]) - norm - 0.5 * (z * z).sum(axis=0)
    return out
