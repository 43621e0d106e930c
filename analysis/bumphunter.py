"""BumpHunter (1101.0390): the window of a histogram with the least likely count, and how often chance does better.

For every window (an interval of bins, or a rectangle) with d events seen and b expected, p = P(N >= d) for d > b and
1 otherwise (a deficit: P(N <= d) for d < b); t = -ln of the smallest p; the global p-value is the share of background
pseudo-experiments with at least the t of the data, (k + 1) / (n + 1). The expectation can be

* exact: Poisson; an empty bin that holds data is refused unless ``empty`` says what may be expected there;
* a sample of finite size (`Reference`): Poisson marginalised over the Gamma of the sample's own mean, which for equal
  weights is the binomial of the data among data and sample together (Cousins et al. physics/0702156).
  Pseudo-experiments then share the sums out anew and the test is exact at any sample size, zero included; for unequal
  weights the Gamma is matched to mean and variance;
* fitted to the data (``refit``): every pseudo-experiment is fitted again, and one without a fit counts as exceeding;
* scaled to the data outside the window (``normalise``): pseudo-experiments keep the total of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ..errors import ConfigError, FitError
from .bumphunter_kernels import scan_each
from .bumphunter_laws import BLOCK, Expectation, Reference, expectation_of
from .bumphunter_tables import NumpyScanner, Scanner, side_limits
from .counting import toy_p, z_of
from .windows import Windows, contents, windows_of

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Expected counts (n, bins) of spectra (n, bins), and which of the fits converged (n,).
Refit = Callable[[Array], tuple[Array, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Bump:
    """The least likely window: bins ``start`` to ``stop`` (excluded) per axis, ``n`` seen, ``b`` expected there.

    ``n``, ``b`` are one number per channel. ``t`` = -ln p_local; ``z_local`` has no upper limit. ``p_global`` =
    (exceeding + 1) / (toys + 1), [``p_low``, ``p_high``] 68 % Clopper-Pearson, a bound if ``bound``; ``failed`` toys
    are among the exceeding. ``t_toys`` (toys,), infinite for a failed one. No window on the right side of its
    expectation: t = 0.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    n: tuple[float, ...]
    b: tuple[float, ...]
    t: float
    p_local: float
    z_local: float
    windows: int
    p_global: float
    p_low: float
    p_high: float
    z_global: float
    toys: int
    exceeding: int
    failed: int
    bound: bool
    t_toys: Array

    @property
    def signal(self) -> float:
        """Seen minus expected, all channels."""
        return sum(self.n) - sum(self.b)


def whole(data: Any, what: str = "data") -> Ints:
    """Counts as integers; raises `FitError` for what is not finite, negative or not a whole number, naming the bin."""
    counts = np.asarray(data, dtype=np.float64)
    if counts.ndim not in (1, 2) or counts.size == 0:
        raise FitError(f"{what} of shape {counts.shape}: expected a histogram in one or two dimensions")
    bad = ~(np.isfinite(counts) & (counts >= 0) & (counts == np.round(counts)))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise FitError(
            f"{what} bin {place} holds {counts[place]:g}; expected a whole number of events, unweighted"
        )
    return counts.astype(np.int64)


@dataclass(frozen=True)
class BumpHunter:
    """Settings of a hunt. Widths in bins, ``max_width`` None: half the bins; ``step`` in bins, ``half`` or ``full``
    width.

    ``sidebands``: the p-value below which the bins beside a window (half its width, at least one) disqualify it (1e-3
    in the paper); None: not asked; one dimension only. ``empty``: events expected in a bin whose exact expectation is
    0, such as 1.84 times the weight of one simulated event. ``engine``: compiled, or the NumPy one it is tested
    against.
    """

    paper: ClassVar[str] = "1101.0390"
    min_width: int = 1
    max_width: int | None = None
    step: int | Literal["half", "full"] = 1
    mode: Literal["excess", "deficit"] = "excess"
    sidebands: float | None = None
    normalise: bool = False
    empty: float | None = None
    toys: int = 10_000
    seed: int = 1
    threads: int = 1
    engine: Literal["numba", "numpy"] = "numba"

    def __post_init__(self) -> None:
        if self.mode not in ("excess", "deficit"):
            raise ConfigError(f"mode {self.mode!r}: expected excess or deficit")
        if self.engine not in ("numba", "numpy"):
            raise ConfigError(f"engine {self.engine!r}: expected numba or numpy")
        if not (self.step in ("half", "full") or (isinstance(self.step, int) and self.step >= 1)):
            raise ConfigError(f"step {self.step!r}: expected a number of bins from 1, half or full")
        if self.sidebands is not None and not 0 < self.sidebands < 1:
            raise ConfigError(f"sidebands {self.sidebands:g}: expected a p-value between 0 and 1, or none")
        if self.empty is not None and not self.empty > 0:
            raise ConfigError(f"empty {self.empty:g}: expected a positive number of events")
        if self.toys < 1 or self.threads < 1:
            raise ConfigError(f"toys {self.toys}, threads {self.threads}: expected at least one of each")

    @property
    def _sign(self) -> int:
        return 1 if self.mode == "excess" else -1

    def _windows(self, shape: tuple[int, ...]) -> Windows:
        if self.sidebands is not None and len(shape) > 1:
            raise ConfigError("sidebands: the criterion is defined in one dimension; leave it out for a map")
        return windows_of(shape, self.min_width, self.max_width, self.step)

    def hunt(self, data: Any, background: Array | Reference) -> Bump:
        """Scan ``data``, counts (bins,) or (rows, columns), against an exact or a finite ``background`` of that
        shape.
        """
        counts = whole(data)
        windows = self._windows(counts.shape)
        expected = expectation_of(counts, background, windows, self.normalise, self.empty)
        scan = self._scanner(windows, expected)
        return self._conclude([counts], windows, scan, expected.throw, [expected.mean_in(counts, windows)])

    def hunt_fitted(self, data: Any, refit: Refit) -> Bump:
        """Scan ``data`` (bins,) against its own fit; every pseudo-experiment is fitted again."""
        counts = whole(data)
        if counts.ndim > 1 or self.normalise or self.empty is not None or self.engine != "numba":
            raise ConfigError(
                "a refitted background needs one dimension and the numba engine, and no normalise or empty"
            )
        fit, good = refit(counts[None].astype(np.float64))
        if not good[0]:
            raise FitError(
                "the background fit of the data did not converge; loosen the cut or lower the order"
            )
        windows = self._windows(counts.shape)
        sides = windows.sides if self.sidebands is not None else windows.sides[:0]
        small = -float(np.log(self.sidebands)) if self.sidebands is not None else 0.0

        def scan(spectra: Ints) -> tuple[Array, Ints]:
            means, fine = refit(spectra.astype(np.float64))
            best, where = np.zeros(len(spectra)), np.zeros(len(spectra), np.int64)
            rows = np.ascontiguousarray(spectra[:, None]), np.ascontiguousarray(means[:, None])
            scan_each(*rows, windows.corners, self._sign, sides, small, best, where)
            return np.where(fine, best, np.inf), where

        def throw(rng: np.random.Generator, toys: int) -> Ints:
            return rng.poisson(fit[0], (toys, len(counts)))

        return self._conclude([counts], windows, scan, throw, [contents(windows, fit[0])])

    def hunt_channels(self, data: Sequence[Any], backgrounds: Sequence[Array]) -> Bump:
        """One window for several histograms of the same bins: t is minus the sum of ln p of the channels.

        A channel without an excess in a window has p = 1 there. Exact expectations.
        """
        counts = [whole(one, f"channel {i}") for i, one in enumerate(data)]
        if len(counts) != len(backgrounds) or len({c.shape for c in counts}) != 1:
            raise FitError(
                f"{len(counts)} channels, {len(backgrounds)} backgrounds: expected pairs of one shape"
            )
        if self.sidebands is not None:
            raise ConfigError(
                "sidebands: the criterion is defined for one histogram; leave it out for channels"
            )
        windows = self._windows(counts[0].shape)
        expected = [
            expectation_of(c, b, windows, self.normalise, self.empty)
            for c, b in zip(counts, backgrounds, strict=True)
        ]

        def scan(spectra: Ints) -> tuple[Array, Ints]:
            both = sum(e.t_all(spectra[:, i], windows, self._sign) for i, e in enumerate(expected))
            where = np.argmax(both, axis=1)
            return np.asarray(both)[np.arange(len(spectra)), where], where

        def throw(rng: np.random.Generator, toys: int) -> Ints:
            return np.stack(
                [e.throw(r, toys) for e, r in zip(expected, rng.spawn(len(expected)), strict=True)], axis=1
            )

        means = [e.mean_in(c, windows) for c, e in zip(counts, expected, strict=True)]
        return self._conclude(counts, windows, scan, throw, means)

    def tomography(self, data: Any, background: Array | Reference) -> tuple[Windows, Array]:
        """Every window and its t, (windows,): the numbers of the usual figure. Sidebands are not asked."""
        counts = whole(data)
        windows = windows_of(counts.shape, self.min_width, self.max_width, self.step)
        expected = expectation_of(counts, background, windows, self.normalise, self.empty)
        return windows, expected.t_all(counts[None], windows, self._sign)[0]

    def _scanner(self, windows: Windows, expected: Expectation) -> Callable[[Ints], tuple[Array, Ints]]:
        limits = None if self.sidebands is None else side_limits(windows, expected, self.sidebands)
        return (Scanner if self.engine == "numba" else NumpyScanner)(windows, expected, self._sign, limits)

    def _conclude(
        self,
        counts: list[Ints],
        windows: Windows,
        scan: Callable[[Ints], tuple[Array, Ints]],
        throw: Callable[[np.random.Generator, int], Ints],
        means: list[Array],
    ) -> Bump:
        """Scan the data and the toys and count."""
        spectrum = counts[0][None] if len(counts) == 1 else np.stack(counts)[None]
        found, place = scan(spectrum)
        t, w = float(found[0]), int(place[0])

        def one(block: int) -> Array:
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(block,)))
            return scan(throw(rng, min(BLOCK, self.toys - block * BLOCK)))[0]

        with ThreadPoolExecutor(self.threads) as pool:
            toys = np.concatenate(list(pool.map(one, range(-(-self.toys // BLOCK)))))
        exceeding = int(np.sum(toys >= t))
        p, low, high = toy_p(exceeding, self.toys)
        return Bump(
            tuple(windows.start[w].tolist()), tuple(windows.stop[w].tolist()),
            tuple(float(contents(windows, c)[w]) for c in counts), tuple(float(m[w]) for m in means), t,
            float(np.exp(-t)), float(-special.ndtri_exp(-t)) if t > 0 else -np.inf, len(windows.start), p, low, high,
            z_of(p),
            self.toys, exceeding, int(np.isinf(toys).sum()), exceeding == 0, toys,
        )  # fmt: skip
