"""The look-elsewhere effect by upcrossings (Gross and Vitells 1005.1891): p_global <= p_local(u) + <N(u0)> exp(-(u^2
- u0^2) / 2).

<N(u0)> is the mean number of times that the significance along the mass rises through the low level u0, from few
toys; the exponential carries it to levels that toys do not reach. An upper bound: within 25 % of toys for u >= 3, a
third too large at 2. It is the extrapolation beyond the toys' range, not their replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..errors import ConfigError, FitError
from .counting import p_of, z_of

Array = NDArray[np.float64]
#: Toys below which the mean number of upcrossings is no estimate.
FEWEST = 100


def upcrossings(z: Array, level: float) -> NDArray[np.int64]:
    """Number of times (toys,) that z (toys, masses), ordered by mass, rises through ``level``.

    A toy that begins above the level has not crossed it: the local p-value accounts for that end.
    """
    above = np.atleast_2d(z) > level
    return np.sum(above[:, 1:] & ~above[:, :-1], axis=1)


@dataclass(frozen=True)
class GrossVitells:
    """``upcrossings`` of ``level`` per toy and the standard error of the mean; ``toys`` used and ``failed`` left out
    of the mean, which widen ``error``: each could have had as many as the largest seen."""

    level: float
    upcrossings: float
    error: float
    toys: int
    failed: int

    def p_global(self, z: float) -> tuple[float, float, float]:
        """(p, low, high) of a local significance ``z`` above the level; the interval is one standard deviation of
        the mean.
        """
        if not z >= self.level:
            raise FitError(
                f"z {z:g} lies below the level {self.level:g} of the upcrossings: take the toys' own p-value"
            )
        factor = float(np.exp(-0.5 * (z**2 - self.level**2)))
        p = [
            min(1.0, p_of(z) + max(n, 0.0) * factor)
            for n in (self.upcrossings, self.upcrossings - self.error, self.upcrossings + self.error)
        ]
        return p[0], p[1], p[2]

    def z_global(self, z: float) -> tuple[float, float, float]:
        """(z, low, high): the global significance of a local one."""
        p, low, high = self.p_global(z)
        return z_of(p), z_of(high), z_of(low)

    def trials(self, z: float) -> float:
        """Global over local p-value."""
        return self.p_global(z)[0] / p_of(z)


def gross_vitells(z: Array, level: float = 0.5) -> GrossVitells:
    """From background toys' significances z (toys, masses), signed, along one rising mass axis; infinite marks a
    failed fit.

    The masses must be closer than the resolution, or crossings are missed. Without a single crossing the mean's upper
    end is that of a Poisson mean (1.84 per toys). Raises `FitError` for fewer than 100 toys.
    """
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 2 or z.shape[1] < 2:
        raise FitError(f"significances of shape {z.shape}: expected (toys, masses) with at least two masses")
    if np.isnan(z).any():
        raise FitError(
            f"toy {int(np.argmax(np.isnan(z).any(axis=1)))} holds a significance that is not a number"
        )
    if not 0 <= level < 3:
        raise ConfigError(f"level {level:g}: expected a low one, 0 to 3, where toys cross often")
    good = np.isfinite(z).all(axis=1)
    toys, failed = int(good.sum()), int((~good).sum())
    if toys < FEWEST:
        raise FitError(f"{toys} toys without a failed fit: expected at least {FEWEST}")
    found = upcrossings(z[good], level)
    error = float(found.std(ddof=1) / np.sqrt(toys))
    if found.sum() == 0:
        error = float(stats.chi2.isf(1 - 0.8413, 2) / 2) / toys
    error += failed / (toys + failed) * float(found.max(initial=0))
    return GrossVitells(level, float(found.mean()), error, toys, failed)
