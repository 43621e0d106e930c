"""The distribution of the hunted mass in a window: from the data there, or continued from beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FitError, InputError
from ...events import Window

_BINS = 60
_DEGREE = 3
_STEPS = 50


@dataclass(frozen=True)
class WindowMass:
    """Kernel density of logit((m - low) / (high - low)) of the window's events, Gaussian of ``bandwidth`` (2109.00546).

    In the logit no kernel reaches over the window's edges, and none piles up inside. mass (n,) [GeV], weight (n,).
    """

    window: Window
    mass: NDArray[np.float64]
    weight: NDArray[np.float64]
    bandwidth: float = 0.01

    @classmethod
    def fit(
        cls, mass: NDArray[np.float64], weight: NDArray[np.float64], window: Window, bandwidth: float = 0.01
    ) -> WindowMass:
        """From masses (n,) with weight (n,) >= 0; raises `InputError` when none lies inside ``window``."""
        if not bandwidth > 0:
            raise ConfigError(f"bandwidth: found {bandwidth}, expected a number above 0")
        inside = (mass > window.low) & (mass < window.high)
        order = np.lexsort((weight[inside], mass[inside]))
        mass, weight = mass[inside][order], weight[inside][order]
        if math.fsum(weight) <= 0:
            raise InputError(f"no events in {window.low:g}-{window.high:g} GeV to take the mass from")
        return cls(window, mass, weight, bandwidth)

    @property
    def total(self) -> float:
        """Sum of weights in the window."""
        return math.fsum(self.weight)

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``n`` masses inside the window [GeV]."""
        drawn = self.mass[rng.choice(len(self.mass), n, p=self.weight / self.weight.sum())]
        low, span = self.window.low, self.window.high - self.window.low
        u = (drawn - low) / span
        moved = np.log(u / (1 - u)) + self.bandwidth * rng.standard_normal(n)
        # the logit of a mass next to an edge rounds to the edge
        return np.clip(
            low + span * 0.5 * (1 + np.tanh(0.5 * moved)), low, np.nextafter(self.window.high, low)
        )


@dataclass(frozen=True)
class SidebandMass:
    """exp(cubic polynomial in ln m) fitted by maximum likelihood to the spectrum outside the window.

    ``coefficients`` of z^0 .. z^3, z = (ln m - centre) / scale, give events per GeV. ``total``: events expected in the
    window. Smooth by construction; whether it fits is for the bump fit to say.
    """

    window: Window
    coefficients: NDArray[np.float64]
    centre: float
    scale: float

    @classmethod
    def fit(cls, mass: NDArray[np.float64], weight: NDArray[np.float64], window: Window) -> SidebandMass:
        """From masses (n,) outside ``window``; raises `InputError` for an empty side, `FitError` without a maximum."""
        use = ~window.contains(mass) & (mass > 0)
        for side in (mass[use] < window.low, mass[use] >= window.high):
            if not side.any():
                raise InputError(
                    f"no events on one side of {window.low:g}-{window.high:g} GeV to continue the mass from"
                )
        edges = np.concatenate(
            [
                np.linspace(mass[use].min(), window.low, _BINS // 2 + 1),
                np.linspace(window.high, mass[use].max(), _BINS // 2 + 1),
            ]
        )
        counts = np.histogram(mass[use], edges, weights=weight[use])[0]
        middle, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
        keep = np.arange(len(width)) != _BINS // 2  # the window itself
        counts, middle, width = counts[keep], middle[keep], width[keep]
        centre = float(np.log(window.centre))
        scale = float(np.abs(np.log(middle) - centre).max())
        powers = ((np.log(middle) - centre) / scale)[:, None] ** np.arange(_DEGREE + 1)
        return cls(window, _poisson_fit(powers, counts, width), centre, scale)

    def density(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """Events per GeV at masses (n,)."""
        z = (np.log(mass) - self.centre) / self.scale
        return np.exp(z[:, None] ** np.arange(_DEGREE + 1) @ self.coefficients)

    def _cumulative(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        grid = np.linspace(self.window.low, self.window.high, 1001)
        d = self.density(grid)
        return grid, np.concatenate([[0.0], np.cumsum(0.5 * (d[1:] + d[:-1]) * np.diff(grid))])

    @property
    def total(self) -> float:
        """Events expected in the window."""
        return float(self._cumulative()[1][-1])

    def sample(self, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """``n`` masses inside the window [GeV]."""
        grid, sums = self._cumulative()
        drawn = np.interp(rng.random(n) * sums[-1], sums, grid)
        return np.minimum(drawn, np.nextafter(self.window.high, self.window.low))


def _poisson_fit(
    powers: NDArray[np.float64], counts: NDArray[np.float64], width: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Coefficients that maximise the Poisson likelihood of counts with mean width * exp(powers @ coefficients)."""
    beta = np.zeros(powers.shape[1])
    beta[0] = np.log(counts.sum() / width.sum())

    def loss(b: NDArray[np.float64]) -> float:
        with np.errstate(over="ignore"):
            return float((width * np.exp(powers @ b)).sum() - counts @ (powers @ b))

    now = loss(beta)
    for _ in range(_STEPS):
        mean = width * np.exp(powers @ beta)
        hessian = powers.T @ (mean[:, None] * powers)
        step = np.linalg.lstsq(hessian, powers.T @ (counts - mean), rcond=None)[0]
        size = 1.0
        while loss(beta + size * step) > now and size > 1e-6:
            size /= 2
        beta = beta + size * step
        before, now = now, loss(beta)
        if before - now < 1e-9 * (1 + abs(now)):
            return beta
    raise FitError("the mass spectrum beside the window has no smooth fit; use mass: data or widen the range")
