"""The mass spectrum of the background inside the window, from the data beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import FitError, InputError
from ...events import Events, Window

#: Bins per sideband, points of the cumulative spectrum in the window, and steps of the fit at most.
_BINS, _POINTS, _STEPS = 20, 1001, 50


@dataclass(frozen=True)
class SidebandSpectrum:
    """Events per GeV, f(m) = exp(c0 + c1 t + c2 t^2) with t = (m - centre) / half; masses in GeV.

    A window and its neighbours are narrow: there any smooth spectrum is such a curve. (CURTAINs, 2203.09470, fits a
    falling function of the whole spectrum.) The window's own events are never read, so a signal in it moves nothing.
    """

    window: Window
    centre: float
    half: float
    coefficients: tuple[float, float, float]

    @classmethod
    def fit(cls, low: Events, high: Events, window: Window) -> SidebandSpectrum:
        """Maximum Poisson likelihood in bins of the two sidebands, weights counting as events.

        Raises `InputError` for an empty sideband or negative weights, `FitError` where the fit does not converge.
        """
        if min(len(low), len(high)) == 0 or min(low.weight.min(), high.weight.min()) < 0:
            raise InputError("a mass spectrum needs events of no negative weight on both sides of the window")
        reach = max(window.low - float(low.mass.min()), float(high.mass.max()) - window.high)
        edges = [
            np.linspace(window.low - reach, window.low, _BINS + 1),
            np.linspace(window.high, window.high + reach, _BINS + 1),
        ]
        counts = np.concatenate(
            [
                np.histogram(part.mass, e, weights=part.weight)[0]
                for part, e in zip((low, high), edges, strict=True)
            ]
        )
        middle = np.concatenate([0.5 * (e[1:] + e[:-1]) for e in edges])
        half = 0.5 * (window.high - window.low) + reach
        t = (middle - window.centre) / half
        return cls(window, window.centre, half, _poisson(counts, t, reach / _BINS))

    def density(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected events per GeV at each mass, (n,)."""
        t = (np.asarray(mass, dtype=np.float64) - self.centre) / self.half
        a, b, c = self.coefficients
        return np.exp(a + b * t + c * t**2)

    def _grid(self, band: Window) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Masses across ``band`` and the expected events below each."""
        mass = np.linspace(band.low, band.high, _POINTS)
        f = self.density(mass)
        below = np.concatenate([[0.0], np.cumsum(0.5 * (f[1:] + f[:-1]) * np.diff(mass))])
        return mass, below

    def expected(self, band: Window | None = None) -> float:
        """Expected background events in ``band`` (None: the window)."""
        return float(self._grid(band or self.window)[1][-1])

    def sample(self, n: int, rng: np.random.Generator, band: Window | None = None) -> NDArray[np.float64]:
        """``n`` masses in ``band`` (None: the window), shape (n,); none on or over its edges."""
        band = band or self.window
        mass, below = self._grid(band)
        drawn = np.interp(rng.random(n) * below[-1], below, mass)
        return np.clip(drawn, band.low, np.nextafter(band.high, band.low))


def _poisson(counts: NDArray[np.float64], t: NDArray[np.float64], width: float) -> tuple[float, float, float]:
    """Coefficients of ln f, quadratic in t, for counts in bins of ``width`` GeV, by Newton's method."""
    design = np.stack([np.ones_like(t), t, t**2], axis=1)
    c = np.array([math.log(counts.mean() / width), 0.0, 0.0])
    for _ in range(_STEPS):
        mu = width * np.exp(np.clip(design @ c, -700, 700))
        step = np.linalg.lstsq(design.T @ (mu[:, None] * design), design.T @ (counts - mu), rcond=None)[0]
        c = c + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-10:
            return float(c[0]), float(c[1]), float(c[2])
    raise FitError(
        "the mass spectrum beside the window did not converge to exp(c0 + c1 m + c2 m^2); use wider sidebands"
    )
