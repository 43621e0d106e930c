"""The hunt's other statistic: a signal fitted on the dijet function after every cut, at several masses in every window.

Where `hunt` counts what a window holds, these fits look at the whole spectrum after the window's cut, as the searches of CMS do
(2412.03747): a Gaussian at a mass of the window on the dijet function with the parameters that the masked fit chose. What of
a resonance lies beside its window is then signal and does not raise the background, and its shape counts.

The classifier's bias acts inside its window alone. The yield that a relative bias delta makes is delta times the `response`: the
linear fit of the window's background as if it were signal. Z becomes that of the yield without it, and the bias's size and error
times the response are added to the yield's error (the spurious signal of the LHC's searches). Toys repeat all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from ..events import Window
from .dijet import Basis, basis
from .peaks import Gaussian, scan_masses, templates
from .toys import BLOCK, GV_LEVEL, ToyInput, fit_arrays, in_blocks, measured_biases, throw

Array = NDArray[np.float64]
#: Masses per window, from half a step below its centre.
POINTS = 4


def masses_of(windows: Sequence[Window]) -> Array:
    """Masses [GeV] to fit in every window, (windows, POINTS): together an even grid if the windows are evenly spaced
    and leave no gap; none lies outside its window."""
    centres = np.array([w.centre for w in windows])
    step = min([*np.diff(centres), *(w.high - w.low for w in windows)])
    return centres[:, None] + step * (np.arange(POINTS) / POINTS - 0.5)


def response(model: Basis, expected: Array, inside: NDArray[np.bool_], signals: Array) -> Array:
    """Yield (masses,) of a linear fit of each of ``signals`` (masses, bins) to the part ``inside`` of the background ``expected``
    (bins,) alone, that is: of a bias of 100 % there. The function's derivatives are those of narrow bins."""
    root = np.sqrt(np.maximum(expected, 1e-9))
    slopes = root[:, None] * model.phi.mean(axis=1)
    moved = np.where(inside, expected, 0.0) / root
    return np.array(
        [np.linalg.lstsq(np.column_stack([slopes, s / root]), moved, rcond=None)[0][-1] for s in signals]
    )


def without_bias(z: Array, signal: Array, error: Array, moved: Array, delta: Any, size: Any) -> Array:
    """Z of a yield ``signal`` of significance ``z`` when a relative bias ``delta`` makes ``moved`` events per unit; ``size``: its own and
    that of its error in quadrature.

    The yield's error is the one that its Z tells, for that of a parabola is wrong at few events; ``error`` where yield and Z are next to
    nothing. An infinite z, a fit that failed, stays.
    """
    finite = np.where(np.isfinite(z), z, 0.0)
    told = (np.abs(finite) > 0.1) & (signal * finite > 0)
    spread = np.where(told, signal / np.where(told, finite, 1.0), np.minimum(error, 1e12))
    out = (finite * spread - delta * moved) / np.maximum(np.hypot(spread, size * moved), 1e-12)
    return np.where(np.isfinite(z), out, z)


@dataclass(frozen=True)
class Peak:
    """Signal fit of largest Z in a window: at ``mass`` GeV ``signal`` +- ``error`` events, ``z`` with the bias inside, ``z_raw`` without."""

    mass: float
    signal: float
    error: float
    z: float
    z_raw: float


@dataclass(frozen=True)
class WindowFits:
    """Signal fits at the masses of one window after one cut; (masses,) each. ``moved``: `response`."""

    masses: Array
    signal: Array
    error: Array
    root: Array
    moved: Array

    def peak(self, delta: float, error: float) -> Peak:
        """The most significant, with the classifier's bias ``delta`` +- ``error``."""
        each = without_bias(self.root, self.signal, self.error, self.moved, delta, np.hypot(delta, error))
        i = int(np.argmax(each))
        found = (self.masses, self.signal, self.error, each, self.root)
        return Peak(*(float(values[i]) for values in found))


@dataclass(frozen=True)
class PeakFits:
    """Fits of a Gaussian of relative ``width`` at ``masses`` (windows, masses) GeV, in collisions of ``energy`` GeV."""

    masses: Array
    width: float
    energy: float

    def __call__(
        self, counts: Array, expected: Array, order: int, edges: Array, inside: NDArray[np.bool_], window: int
    ) -> WindowFits:
        """Of the spectrum ``counts`` (bins,) of a window whose masked fit of ``order`` parameters is ``expected``. Raises `FitError`."""
        model, shape, masses = basis(edges, order, self.energy), Gaussian(self.width), self.masses[window]
        made = scan_masses(counts, model, masses, shape)
        if made.failed.any():
            raise FitError(f"no signal fit at {masses[made.failed[0]][0]:g} GeV")
        moved = response(model, expected, inside, templates(edges, masses, shape))
        return WindowFits(masses, made.signal[0], made.error[0], made.root[0], moved)


@dataclass(frozen=True)
class FittedToys:
    """`toys.toy_maxima` with signal fits: background-only toys in which every fit and every bias is made again."""

    fits: PeakFits

    def responses(self, given: ToyInput) -> Array:
        """(windows, cuts, masses): those of the expectations that the toys are thrown from."""
        expected = np.cumsum(given.slices[:, ::-1], axis=1)[:, ::-1]
        out = np.zeros((*given.fitted.shape, self.fits.masses.shape[1]))
        for i, c in np.argwhere(given.fitted):
            model = basis(given.edges, int(given.order[i, c]), given.energy)
            shapes = templates(given.edges, self.fits.masses[i], Gaussian(self.fits.width))
            out[i, c] = response(model, expected[i, c], given.inside[i], shapes)
        return out

    def significances(self, counts: Array, given: ToyInput, moved: Array) -> Array:
        """Z (toys, windows, cuts, masses) of ``counts`` (toys, windows, cuts, bins); -inf where the data have none, inf of a failed fit.

        ``moved``: `responses`. The bias is measured again; its size is the one assigned from the data, as for the data.
        """
        toys, windows, cuts, _ = counts.shape
        delta, error = np.zeros((2, toys, windows, cuts))
        measured_biases(counts, *fit_arrays(given), delta, error)
        out = np.full((toys, windows, cuts, self.fits.masses.shape[1]), -np.inf)
        for i, c in np.argwhere(given.fitted):
            some = counts[:, i, c].sum(axis=1) > 0
            model = basis(given.edges, int(given.order[i, c]), self.fits.energy)
            made = scan_masses(counts[some, i, c], model, self.fits.masses[i], Gaussian(self.fits.width))
            size = np.hypot(given.bias[i, c], error[some, i, c])
            each = without_bias(
                np.where(made.failed, np.inf, made.root), made.signal, made.error, moved[i, c],
                delta[some, i, c, None], size[:, None],
            )  # fmt: skip
            out[some, i, c] = np.where(np.isnan(each), np.inf, each)
        return out

    def __call__(
        self, given: ToyInput, toys: int, seed: int, threads: int = 1, progress: Any = None
    ) -> tuple[Array, Array]:
        """Largest Z of every toy (toys,), infinite where a fit failed, and its upcrossings along the masses (toys,)."""
        moved = self.responses(given)

        def one(block: int) -> tuple[Array, Array]:
            zs = self.significances(throw(given, seed, block, BLOCK), given, moved)
            along = zs.transpose(0, 2, 1, 3).reshape(len(zs), zs.shape[2], -1)
            before = np.concatenate([np.full((*along.shape[:2], 1), -np.inf), along[:, :, :-1]], axis=2)
            up = ((along > GV_LEVEL) & (before <= GV_LEVEL)).sum(axis=(1, 2))
            return zs.max(axis=(1, 2, 3)), up.astype(np.float64)

        return in_blocks(one, toys, threads, progress)
