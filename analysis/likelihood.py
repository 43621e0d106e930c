"""Binned counting likelihoods with an uncertain background: n_i ~ Poisson(mu s_i + b_i), profiled in compiled code.

Three kinds of nuisance parameter (HistFactory, CERN-OPEN-2012-016):
* every bin's background by itself, ``uncertainty``: an auxiliary Poisson count of (b / sigma)^2 ("poisson", pyhf's
  ``shapesys``) or a Gaussian of width sigma ("gauss", 1007.1727). Both profile in closed form, bin by bin;
* ``modes``: shifts common to all bins, linear in a standard normal parameter each (``histosys``);
* ``signal_error``: a log-normal scale of the whole signal (``normsys``), as the spread between retrainings is.

At fixed mu the likelihood is convex in the modes, so Newton's method with a line search finds the minimum; mu-hat is
the root of the profile's slope. No general minimiser, and no convergence claimed where the Newton decrement says
otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FitError
from .likelihood_kernels import best_mu, profile_at

Array = NDArray[np.float64]
Constraint = Literal["poisson", "gauss"]


def _vector(values: ArrayLike, what: str) -> Array:
    out = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if out.ndim != 1 or not np.all(np.isfinite(out)):
        raise FitError(f"{what} must be finite numbers, one per bin, found {values!r}")
    return out


@dataclass(frozen=True)
class BinnedModel:
    """A signal of strength mu over a background, (bins,) each.

    ``signal`` events at mu = 1; ``background`` expected events; ``uncertainty`` standard deviation of each bin's
    background, independent from bin to bin (0: known exactly) with its ``constraint``; ``modes`` (k, bins) shifts of
    the background at one standard deviation, correlated over all bins; ``signal_error`` relative error of the signal,
    log-normal.
    """

    signal: Array
    background: Array
    uncertainty: Array
    constraint: Constraint = "gauss"
    modes: Array = field(default_factory=lambda: np.zeros((0, 0)))
    signal_error: float = 0.0

    def __post_init__(self) -> None:
        for name in ("signal", "background", "uncertainty"):
            object.__setattr__(self, name, _vector(getattr(self, name), name))
        bins = len(self.background)
        modes = np.asarray(self.modes, dtype=np.float64)
        object.__setattr__(self, "modes", modes.reshape(-1, bins) if modes.size else np.zeros((0, bins)))
        if len(self.signal) != bins or len(self.uncertainty) != bins:
            raise FitError(
                f"signal has {len(self.signal)} bins, background {bins}, uncertainty {len(self.uncertainty)}"
            )
        if np.any(self.signal < 0) or not self.signal.sum() > 0:
            raise FitError("the signal must expect events, and in no bin fewer than 0")
        if np.any(self.background < 0) or np.any(self.uncertainty < 0):
            raise FitError("background and uncertainty must not be negative")
        if np.any((self.background == 0) & (self.uncertainty > 0)):
            raise FitError(
                "a background of 0 cannot have an uncertainty; give its expectation, however small"
            )
        if self.constraint not in ("poisson", "gauss"):
            raise FitError(f"constraint '{self.constraint}': expected 'poisson' or 'gauss'")
        if not np.all(np.isfinite(self.modes)) or not 0 <= self.signal_error < 5:
            raise FitError("modes must be finite, and the relative signal error from 0 to 5")

    @classmethod
    def counting(
        cls,
        b: float,
        sigma: float,
        *,
        signal: float = 1.0,
        signal_error: float = 0.0,
        constraint: Constraint = "gauss",
    ) -> BinnedModel:
        """One bin: b +- sigma expected; with ``signal`` 1 the strength mu is a number of signal events."""
        return cls(
            np.array([signal]), np.array([b]), np.array([sigma]), constraint, signal_error=signal_error
        )

    @classmethod
    def correlated(
        cls, signal: ArrayLike, background: ArrayLike, covariance: ArrayLike, signal_error: float = 0.0
    ) -> BinnedModel:
        """A background with a covariance (bins, bins), as a fit gives: one mode per eigenvector that matters."""
        c = np.asarray(covariance, dtype=np.float64)
        value, vector = np.linalg.eigh(0.5 * (c + c.T))
        keep = value > 1e-12 * max(float(value.max()), 0.0)
        if np.any(value < -1e-6 * float(np.abs(value).max())):
            raise FitError(
                "the background's covariance has a negative eigenvalue; look at the fit it came from"
            )
        b = _vector(background, "background")
        modes = np.sqrt(value[keep])[:, None] * vector[:, keep].T
        return cls(_vector(signal, "signal"), b, np.zeros(len(b)), "gauss", modes, signal_error)

    @property
    def bins(self) -> int:
        """Number of bins."""
        return len(self.background)

    @property
    def tau(self) -> Array:
        """Auxiliary counts (b / sigma)^2 of the Poisson constraint, (bins,); 0 where the background is known."""
        known = self.uncertainty == 0
        ratio = np.divide(self.background, self.uncertainty, out=np.zeros(self.bins), where=~known)
        return ratio**2

    def with_signal_error(self, relative: float) -> BinnedModel:
        """The same model with another log-normal error of the signal."""
        return replace(self, signal_error=relative)

    def nominal(self, counts: ArrayLike) -> Observation:
        """Counts (bins,) with every auxiliary measurement at its nominal value."""
        n = _vector(counts, "counts")
        if len(n) != self.bins:
            raise FitError(f"{len(n)} counts for a model of {self.bins} bins")
        if np.any(n < 0):
            raise FitError("counts must not be negative")
        return Observation(n, self._centre(), np.zeros(len(self.modes) + 1))

    def _centre(self) -> Array:
        return self.tau if self.constraint == "poisson" else self.background.copy()


@dataclass(frozen=True)
class Observation:
    """``counts`` (bins,); ``auxiliary`` (bins,): the constraint's count ("poisson") or the measured background
    ("gauss"); ``centres`` (k + 1,): where the modes and, last, the signal's scale were measured, in standard
    deviations."""

    counts: Array
    auxiliary: Array
    centres: Array


@dataclass(frozen=True)
class Profile:
    """A fit at fixed mu: ``nll`` (0 for a perfect fit), nuisances ``theta`` (k + 1,) and ``background`` (bins,)
    there."""

    mu: float
    nll: float
    theta: Array
    background: Array


def packed(model: BinnedModel) -> tuple[Array, Array, Array, bool, Array, float]:
    """A model as the compiled functions take it: signal, background, sigma, Poisson?, modes, ln(kappa)."""
    return (
        model.signal, model.background, model.uncertainty, model.constraint == "poisson",
        np.ascontiguousarray(model.modes), math.log1p(model.signal_error),
    )  # fmt: skip


def fit_at(model: BinnedModel, data: Observation, mu: float) -> Profile:
    """Minimise over the nuisances at ``mu``. Raises `FitError` when it does not converge."""
    theta, own = np.zeros(len(model.modes) + 1), np.zeros(model.bins)
    nll, _, good = profile_at(mu, data.counts, data.auxiliary, data.centres, *packed(model), theta, own)
    if not good:
        raise FitError(_why(model, f"mu = {mu:g}"))
    return Profile(mu, nll, theta, own)


def fit_best(model: BinnedModel, data: Observation) -> Profile:
    """Minimise over mu >= 0 and the nuisances. Raises `FitError` when it does not converge."""
    theta, own = np.zeros(len(model.modes) + 1), np.zeros(model.bins)
    mu, nll, good = best_mu(data.counts, data.auxiliary, data.centres, *packed(model), theta, own)
    if not good:
        raise FitError(_why(model, "mu free"))
    return Profile(mu, nll, theta, own)


def _why(model: BinnedModel, where: str) -> str:
    hint = "a mode shifts a bin below zero events: merge bins until its error is below half its expectation"
    if not len(model.modes):
        hint = "events were seen where none are expected: give the background its expectation, however small"
    return f"the likelihood of {model.bins} bins has no minimum for {where}; {hint}"


def expectation(model: BinnedModel, at: Profile) -> Array:
    """Expected counts (bins,) with mu and the nuisances of a fit."""
    scale = math.exp(math.log1p(model.signal_error) * at.theta[-1])
    return at.mu * model.signal * scale + at.background + at.theta[:-1] @ model.modes


def asimov(model: BinnedModel, at: Profile) -> Observation:
    """The data set whose fit returns ``at``: counts and auxiliary measurements at their expectations (1007.1727)."""
    if model.constraint == "poisson":
        ratio = np.divide(
            at.background, model.background, out=np.ones(model.bins), where=model.background > 0
        )
        auxiliary = model.tau * ratio
    else:
        auxiliary = at.background.copy()
    return Observation(np.maximum(expectation(model, at), 0.0), auxiliary, at.theta.copy())
