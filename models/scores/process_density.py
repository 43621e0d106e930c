"""A smooth density of one or two columns: a Gaussian process through the logarithm of a histogram."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Self

import numba as nb
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from ...errors import ConfigError, FitError
from ...events import Events
from .coordinates import CoordinateDensity, columns_named

#: The kernel's length is not below so many bins: shorter ones would follow the fluctuation of each.
_SHORTEST = 3.0
#: Range of the variance of ln counts that the kernel may have.
_AMPLITUDE = (1e-2, 1e3)
#: Counts that an empty bin stands for.
_EMPTY = 0.5


class Template(NamedTuple):
    """What a `GaussianProcessDensity` knows of its bins: centres in the columns' units (b, d), ln counts (b,), covariance (b, b)."""

    centres: NDArray[np.float64]
    log_counts: NDArray[np.float64]
    covariance: NDArray[np.float64]


def squared_exponential(
    a: NDArray[np.float64], b: NDArray[np.float64], theta: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Kernel (n, m) of points a (n, d) and b (m, d): exp(theta_0) exp(-sum_j (a_j - b_j)^2 / (2 exp(2 theta_j+1)))."""
    far = (((a[:, None] - b[None]) / np.exp(theta[1:])) ** 2).sum(axis=2)
    return np.exp(theta[0] - 0.5 * far)


def log_marginal(
    theta: NDArray[np.float64], bins: NDArray[np.float64], y: NDArray[np.float64], noise: NDArray[np.float64]
) -> float:
    """ln p(y) of values y (b,) at ``bins`` (b, d) with variances ``noise`` (b,) under a process of mean 0."""
    factor = cho_factor(squared_exponential(bins, bins, theta) + np.diag(noise), lower=True)
    half = np.log(np.diag(factor[0])).sum()
    return float(-0.5 * y @ cho_solve(factor, y) - half - 0.5 * len(y) * np.log(2 * np.pi))


@nb.njit(cache=True, nogil=True)
def _mean(
    v: NDArray[np.float64], bins: NDArray[np.float64], length: NDArray[np.float64], alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """sum_b alpha_b exp(-|v_i - bins_b|^2 / (2 length^2)), shape (n,)."""
    n, d = v.shape
    out = np.zeros(n)
    for i in range(n):
        for b in range(len(bins)):
            far = 0.0
            for j in range(d):
                far += ((v[i, j] - bins[b, j]) / length[j]) ** 2
            out[i] += alpha[b] * np.exp(-0.5 * far)
    return out


@dataclass
class GaussianProcessDensity(CoordinateDensity):
    """A Gaussian process on ln counts of ``bins`` bins a column between the extremes of ``reference``; score = -ln p (1709.05681).

    For one or two columns (``columns``: which; none: all). Squared-exponential kernel; its variance and one length per column,
    at least 3 bins, are those of the highest marginal likelihood. Variance of a bin: 1/n, with weights sum w^2 / (sum w)^2. An
    empty bin counts as half an event, variance 2, which is also the mean far from everything. The density is normalised over the
    bins; outside it falls to that of half an event per bin.
    """

    paper: ClassVar[str] = "1709.05681"
    _learnt: ClassVar[tuple[str, ...]] = ("grid_", "theta_", "alpha_", "norm_", "noise_")

    columns: tuple[str, ...] = ()
    bins: int = 24
    grid_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 0)), repr=False, compare=False)
    theta_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    alpha_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    norm_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2), repr=False, compare=False)
    noise_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 8 <= self.bins <= 100:
            raise ConfigError(f"bins: found {self.bins}, expected 8 to 100 a column")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `ConfigError` for more than 2 or unknown columns, `InputError` on what cannot be learnt from, `FitError` where no
        kernel is found.
        """
        from scipy.optimize import minimize

        columns = columns_named(reference.features, self.columns, 2, "GaussianProcessDensity")
        v, weight = self._learn_coordinates(reference, columns=columns)
        low = v.min(axis=0)
        self.grid_ = np.stack([low, (v.max(axis=0) - low) / self.bins])
        count, square = self._histogram(v, weight), self._histogram(v, weight**2)
        empty, unit = count <= 0, square.sum() / count.sum()
        filled = np.where(empty, 1.0, count)
        self.noise_ = np.where(empty, 1 / _EMPTY, square / filled**2)
        base = np.log(_EMPTY * unit)
        y = np.where(empty, 0.0, np.log(filled) - base)
        first = np.log([max(y.var(), 10 * _AMPLITUDE[0]), *[2 * _SHORTEST] * v.shape[1]])
        bounds = [tuple(np.log(_AMPLITUDE)), *[(np.log(_SHORTEST), np.log(self.bins))] * v.shape[1]]
        places = self._places()
        found = minimize(
            lambda theta: -log_marginal(theta, places, y, self.noise_),
            first,
            method="L-BFGS-B",
            bounds=bounds,
        )
        if not np.isfinite(found.fun):
            raise FitError("no kernel of the Gaussian process describes the histogram; change bins")
        self.theta_ = np.asarray(found.x)
        kernel = squared_exponential(places, places, self.theta_)
        self.alpha_ = cho_solve(cho_factor(kernel + np.diag(self.noise_), lower=True), y)
        total = np.log(np.exp(base + kernel @ self.alpha_).sum()) + np.log(self.grid_[1]).sum()
        self.norm_ = np.array([base, total])
        self._learn_floor(v)
        return self

    def _histogram(self, v: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of weights per bin, flat (b,)."""
        place = np.clip(((v - self.grid_[0]) / self.grid_[1]).astype(np.int64), 0, self.bins - 1)
        flat = np.ravel_multi_index(tuple(place.T), (self.bins,) * v.shape[1])
        return np.bincount(flat, weight, self.bins ** v.shape[1]).astype(np.float64)

    def _places(self) -> NDArray[np.float64]:
        """Centres of the bins in units of bins (b, d)."""
        axes = [np.arange(self.bins) + 0.5] * self.grid_.shape[1]
        return np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        at = (v - self.grid_[0]) / self.grid_[1]
        found = _mean(at, self._places(), np.exp(self.theta_[1:]), np.exp(self.theta_[0]) * self.alpha_)
        return self.norm_[1] - self.norm_[0] - found

    def template(self) -> Template:
        """The process at the centres of the bins, with its covariance."""
        domain, places = self._domain(), self._places()
        kernel = squared_exponential(places, places, self.theta_)
        factor = np.linalg.cholesky(kernel + np.diag(self.noise_))
        half = solve_triangular(factor, kernel, lower=True)
        centres = domain.inverse(self.grid_[0] + places * self.grid_[1])
        return Template(centres, self.norm_[0] + kernel @ self.alpha_, kernel - half.T @ half)
