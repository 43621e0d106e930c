"""Signal-plus-background fits of the dijet family at many masses and in many spectra, one compiled call.

The background is that of `dijet.basis` (2 to 5 shape parameters, integrated per bin, QR-orthogonalised); the signal a
Gaussian or a double-sided Crystal Ball. q0 is the profile likelihood ratio of a positive yield (Cowan et al.
1007.1727). A fit counts as converged when Newton's decrement is below 1e-8 (1e-6 where rounding stops it) and two
starts, without and with a large signal, end within 1e-4 of one another in the negative log-likelihood. A fit that
does not stays in the result, marked, with q0 = inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..errors import ConfigError, FitError
from .dijet import Basis
from .peaks_kernels import EDGE, FAILED, expect_many, fit_many, scan_many

Array = NDArray[np.float64]


class SignalShape(Protocol):
    """A resonance whose width scales with its mass."""

    def fractions(self, edges: Array, mean: float) -> Array:
        """Share of a signal at ``mean`` GeV in every bin, (bins,); the rest lies outside the edges."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Standard deviation ``relative_width`` x mass."""

    relative_width: float

    def __post_init__(self) -> None:
        _positive("relative_width", self.relative_width)

    def fractions(self, edges: Array, mean: float) -> Array:
        """See `SignalShape`."""
        return np.diff(
            special.ndtr((np.asarray(edges, dtype=np.float64) - mean) / (self.relative_width * mean))
        )


@dataclass(frozen=True)
class CrystalBall:
    """Gaussian core of width ``relative_width`` x mass that turns into a power law ``alpha`` core widths below and
    above the mass: (``n`` / ``alpha``)^n exp(-alpha^2 / 2) / (n / alpha - alpha + |t|)^n. Both ``n`` exceed 1."""

    relative_width: float
    alpha_low: float = 1.5
    n_low: float = 3.0
    alpha_high: float = 2.0
    n_high: float = 5.0

    def __post_init__(self) -> None:
        _positive("relative_width", self.relative_width)
        _positive("alpha_low", self.alpha_low)
        _positive("alpha_high", self.alpha_high)
        for name, n in (("n_low", self.n_low), ("n_high", self.n_high)):
            if not 1 < n < math.inf:
                raise ConfigError(f"{name} {n:g}: a tail needs a power above 1 to have an area")

    def _tail(self, t: Array, alpha: float, n: float) -> Array:
        """Area beyond ``t`` >= alpha core widths."""
        scale = n / alpha
        return scale * math.exp(-0.5 * alpha**2) / (n - 1) * ((scale - alpha + t) / scale) ** (1 - n)

    def _cumulative(self, t: Array) -> Array:
        """Area below ``t`` core widths from the mass, up to a constant factor."""
        root = math.sqrt(2 * math.pi)
        below = float(self._tail(np.array(self.alpha_low), self.alpha_low, self.n_low))
        core = root * (
            special.ndtr(np.clip(t, -self.alpha_low, self.alpha_high)) - special.ndtr(-self.alpha_low)
        )
        full = root * float(special.ndtr(self.alpha_high) - special.ndtr(-self.alpha_low))
        above = self._tail(np.array(self.alpha_high), self.alpha_high, self.n_high)
        out = below + core
        out = np.where(
            t < -self.alpha_low, self._tail(np.maximum(-t, self.alpha_low), self.alpha_low, self.n_low), out
        )
        high = self._tail(np.maximum(t, self.alpha_high), self.alpha_high, self.n_high)
        return np.where(t > self.alpha_high, below + full + above - high, out) / (below + full + above)

    def fractions(self, edges: Array, mean: float) -> Array:
        """See `SignalShape`."""
        return np.diff(
            self._cumulative((np.asarray(edges, dtype=np.float64) - mean) / (self.relative_width * mean))
        )


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} {value:g}: expected a positive number")


def templates(edges: Array, masses: Sequence[float] | Array, shape: SignalShape) -> Array:
    """(masses, bins): the signal's share in every bin for every mass in GeV. Raises `FitError` for a mass outside."""
    masses = np.asarray(masses, dtype=np.float64)
    if masses.ndim != 1 or len(masses) == 0:
        raise FitError(f"masses of shape {masses.shape}: expected a list of at least one mass in GeV")
    outside = ~((masses > edges[0]) & (masses < edges[-1]))
    if outside.any():
        raise FitError(
            f"mass {masses[outside][0]:g} GeV lies outside the bins, {edges[0]:g} to {edges[-1]:g} GeV"
        )
    return np.ascontiguousarray([shape.fractions(edges, float(m)) for m in masses])


def laid_out(model: Basis, use: NDArray[np.bool_] | None = None) -> tuple[Array, Array]:
    """(phi (k, nodes, bins), logw (nodes, bins)) of a basis, with only the bins of ``use``: what the kernels take."""
    keep = slice(None) if use is None else use
    return np.ascontiguousarray(model.phi[keep].transpose(2, 1, 0)), np.ascontiguousarray(model.logw[keep].T)


def spectra_of(counts: Array, model: Basis) -> Array:
    """Counts as (spectra, bins); raises `FitError` unless they are finite, not negative and of the model's bins."""
    counts = np.ascontiguousarray(np.atleast_2d(np.asarray(counts, dtype=np.float64)))
    bins = len(model.edges) - 1
    if counts.ndim != 2 or counts.shape[1] != bins:
        raise FitError(f"counts of shape {counts.shape}: the edges make {bins} bins")
    bad = ~(np.isfinite(counts) & (counts >= 0))
    if bad.any():
        row, b = np.argwhere(bad)[0]
        raise FitError(
            f"spectrum {row}, bin {model.edges[b]:g}-{model.edges[b + 1]:g} GeV holds {counts[row, b]:g} events; a "
            "spectrum to fit must be finite and not negative"
        )
    return counts


@dataclass(frozen=True)
class BackgroundFits:
    """Background fits of many spectra: ``theta`` (spectra, order + 1) in the orthogonal basis, ``half_deviance`` and
    ``converged`` (spectra,). ``failed`` counts those that did not converge; their numbers are not to be used."""

    order: int
    theta: Array
    half_deviance: Array
    converged: NDArray[np.bool_]
    expected: Array

    @property
    def failed(self) -> int:
        """Number of spectra without a fit."""
        return int((~self.converged).sum())


def fit_backgrounds(counts: Array, model: Basis, use: NDArray[np.bool_] | None = None) -> BackgroundFits:
    """Poisson fit of every spectrum (spectra, bins) in the bins of ``use``; expected counts are given for all bins.

    An empty spectrum has no fit and is marked as failed.
    """
    counts = spectra_of(counts, model)
    mask = np.ones(counts.shape[1], bool) if use is None else np.asarray(use, dtype=bool)
    k = model.order + 1
    if mask.sum() <= k:
        raise FitError(f"{int(mask.sum())} bins cannot determine {k} parameters; use more bins")
    theta, half = np.zeros((len(counts), k)), np.zeros(len(counts))
    good, expected = np.zeros(len(counts), bool), np.zeros_like(counts)
    seen = np.ascontiguousarray(counts[:, mask])
    fit_many(seen, *laid_out(model, mask), theta, half, good)
    expect_many(*laid_out(model), theta, expected)
    good &= (seen.sum(axis=1) > 0) & np.isfinite(half) & np.isfinite(expected).all(axis=1)
    return BackgroundFits(model.order, theta, half, good, expected)


@dataclass(frozen=True)
class MassScan:
    """Signal fits of ``spectra`` at ``masses`` GeV; arrays are (spectra, masses) but for ``null`` (spectra,).

    ``signal`` +- ``error`` events inside and outside the bins, of either sign; ``q0`` = 2 (NLL(0) - NLL) for a positive
    signal, else 0, and infinite where the fit failed; ``half_deviance`` of the fits and ``null`` of background alone. ``root``: the
    signed root of q0 corrected to third order (2304.10574, see `peaks_third_order`), which is normal without a signal.
    ``at_edge``: a deficit of all that is expected in empty bins; it has no error of its own and carries that of
    background alone. ``failed``: no minimum, or starts that end in different ones.
    """

    masses: Array
    signal: Array
    error: Array
    q0: Array
    half_deviance: Array
    null: Array
    root: Array
    at_edge: NDArray[np.bool_]
    failed: NDArray[np.bool_]

    @property
    def z(self) -> Array:
        """Local significance, (spectra, masses): signed, so that a deficit is negative; infinite for a failed fit."""
        return np.where(self.failed, np.inf, self.root)

    @property
    def p0(self) -> Array:
        """Local p-value of ``z``, (spectra, masses): 1/2 for a deficit; 0 for a failed fit."""
        return special.ndtr(-np.maximum(self.z, 0.0))

    @property
    def z_max(self) -> Array:
        """Largest significance of every spectrum, (spectra,); infinite where any fit failed: it counts as exceeding."""
        return self.z.max(axis=1)


def scan_masses(counts: Array, model: Basis, masses: Sequence[float] | Array, shape: SignalShape) -> MassScan:
    """Fit background and background plus ``shape`` at every mass in every spectrum (bins,) or (spectra, bins)."""
    counts = spectra_of(counts, model)
    if counts.shape[1] <= model.order + 2:
        raise FitError(f"{counts.shape[1]} bins cannot determine {model.order + 2} parameters; use more bins")
    if (counts.sum(axis=1) <= 0).any():
        raise FitError(
            f"spectrum {int(np.argmax(counts.sum(axis=1) <= 0))} is empty; widen the range or loosen the cut"
        )
    signals = templates(model.edges, masses, shape)
    size = (len(counts), len(signals))
    null, outcome = np.zeros(len(counts)), np.zeros(size, np.int8)
    mu, error, half, root = (np.zeros(size) for _ in range(4))
    scan_many(counts, *laid_out(model), signals, null, mu, error, half, root, outcome)
    failed = outcome == FAILED
    q0 = np.where(mu > 0, 2 * np.maximum(null[:, None] - half, 0.0), 0.0)
    return MassScan(
        np.asarray(masses, dtype=np.float64),
        mu,
        error,
        np.where(failed, np.inf, q0),
        half,
        null,
        root,
        outcome == EDGE,
        failed,
    )
