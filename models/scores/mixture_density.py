"""A Gaussian mixture with full covariances: the small density that needs no network, and the two scores it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...errors import ConfigError, FitError, InputError
from ...events import Events, in_identity_order
from ..nesting import Stateful
from .coordinates import CoordinateDensity, Coordinates
from .weak_trees import check_training

#: Rows evaluated at once, the last ones padded, so that no event's score depends on its company.
_ROWS = 4096


@dataclass
class GaussianMixture(Coordinates):
    """Settings, learnt values and fit of p(v) = sum_k w_k N(v; mu_k, C_k), fitted to the reference by expectation maximisation.

    ``starts`` begin at means drawn from the sample (k-means++ seeding) and the one of highest likelihood is kept;
    ``floor`` is added to the variances, in units of each column's. ``coordinates``: "standardised" works on x itself with all
    lengths in units of each column's deviation, so that units do not matter; "logit": v as in `Coordinates`. Who inherits says
    in ``_of_squares`` what score follows of the squared distances.
    """

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
        super().__post_init__()
        if min(self.components, self.starts, self.iterations) < 1 or not self.floor > 0:
            raise ConfigError(
                f"found components {self.components}, starts {self.starts}, iterations {self.iterations}, floor "
                f"{self.floor}; expected at least 1, 1, 1 and a floor above 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `InputError` on bad or too few events."""
        check_training(reference, "reference")
        if self.coordinates == "logit":
            v, weight = self._learn_coordinates(reference, self.seed)
        else:
            self._use_columns(len(reference.features))
            known = in_identity_order(reference, self.seed)
            v, weight = known.x.astype(np.float64), known.weight
        if len(v) <= self.components * (v.shape[1] + 1):
            raise InputError(
                f"{len(v)} events are too few for {self.components} components in {v.shape[1]} columns; lower components"
            )
        w, best = weight / weight.sum(), -np.inf
        for start in range(self.starts):
            rng = np.random.default_rng([self.seed % 2**64, start])
            likelihood, found = self._climb(v, w, rng)
            if likelihood > best:
                best = likelihood
                self.weight_, self.mean_, self.factor_ = found
        if not np.isfinite(best):
            raise FitError("the Gaussian mixture did not converge; lower components or raise floor")
        self._learn_floor(v)
        return self

    def _use_columns(self, columns: int) -> None:
        """Coordinates that are the columns themselves."""
        self.width_, self.columns_ = columns, np.arange(columns)
        self.domain_ = np.repeat([[-np.inf], [np.inf], [0.0], [1.0]], columns, axis=1)

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
            logs = _log_terms(_squares(x, means, factor), weight, factor)
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

    def _of_squares(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ARG002
        raise InputError(f"{type(self).__name__} says of no event how odd it is")

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.empty(len(v))
        for start in range(0, len(v), _ROWS):
            rows = v[start : start + _ROWS]
            full = np.zeros((_ROWS, v.shape[1]))
            full[: len(rows)] = rows
            squares = _squares(full, self.mean_, self.factor_)
            out[start : start + len(rows)] = self._of_squares(squares)[: len(rows)]
        return out

    def state(self) -> Stateful:
        """Weights, means and Cholesky factors, and the coordinates where they are not the columns."""
        own = {"weight": self.weight_, "mean": self.mean_, "factor": self.factor_}
        if self.coordinates == "standardised":
            return {}, own, {}
        info, arrays, texts = super().state()
        return info, arrays | own, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        if self.coordinates == "logit":
            super().restore(info, arrays, texts)
        elif len(arrays["weight"]):
            self._use_columns(arrays["mean"].shape[1])
        self.weight_, self.mean_, self.factor_ = arrays["weight"], arrays["mean"], arrays["factor"]
        return self


@dataclass
class MixtureDensity(GaussianMixture, CoordinateDensity):
    """score = -ln p(v) of a `GaussianMixture` of the reference. One density for all masses: p(x | m) = p(x).

    ``coordinates``: "standardised" scores -ln p(x); "logit" -ln p(v), without the Jacobian, so the two rank differently
    (`FlowDensity` has it in its score); `log_density` is ln p(x) = ln p(v) + ln |dv/dx| in both.
    """

    paper: ClassVar[str] = ""

    def _of_squares(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.logaddexp.reduce(_log_terms(squares, self.weight_, self.factor_), axis=1)


@dataclass
class MixtureDistance(GaussianMixture):
    """score = prod_k D_k^(w_k), the geometric mean of the Mahalanobis distances to the components of a `GaussianMixture`.

    D_k = sqrt((v - mu_k)^T C_k^-1 (v - mu_k)). ``weighted``: w_k are the mixture's weights, as in the public code of AXOL1TL
    (2411.19506), whose score is the square of this one and ranks the same; otherwise 1 / K. Unlike -ln p it knows no
    normalisation: far from all components it grows as the distance, and at the mean of any of them it falls to 0. The public fit is
    scikit-learn's, of 2 to 7 components.
    """

    paper: ClassVar[str] = "2411.19506"

    components: int = 4
    weighted: bool = True

    def _of_squares(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        k = len(self.weight_)
        share = self.weight_ / self.weight_.sum() if self.weighted else np.full(k, 1.0 / k)
        logs = np.log(np.maximum(squares, np.finfo(np.float64).tiny))
        return np.exp(0.5 * (logs * share).sum(axis=1))


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


def _squares(
    x: NDArray[np.float64], means: NDArray[np.float64], factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared Mahalanobis distances (x - mu_k)^T (L_k L_k^T)^-1 (x - mu_k), shape (n, k)."""
    out = np.empty((len(x), len(means)))
    for j in range(len(means)):
        z = solve_triangular(factor[j], (x - means[j]).T, lower=True)
        out[:, j] = (z * z).sum(axis=0)
    return out


def _log_terms(
    squares: NDArray[np.float64], weight: NDArray[np.float64], factor: NDArray[np.float64]
) -> NDArray[np.float64]:
    """ln(w_k N(x; mu_k, L_k L_k^T)) by `_squares` (n, k), shape (n, k)."""
    out, d = np.empty(squares.shape), factor.shape[1]
    for j in range(len(weight)):
        norm = np.log(np.diag(factor[j])).sum() + 0.5 * d * np.log(2 * np.pi)
        out[:, j] = np.log(weight[j]) - norm - 0.5 * squares[:, j]
    return out
