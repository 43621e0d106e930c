"""The global p-value: background-only toys that repeat the scan over all windows and cuts, every fit included."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .counting import p_of, signed_z, toy_p, z_of
from .dijet import MAX_ORDER, basis, fit_one

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Toys are drawn in blocks with a random stream each: more toys start with the same ones, on any number of threads.
BLOCK = 250
#: Level at which upcrossings are counted for Gross-Vitells (1005.1891).
GV_LEVEL = 0.5


@dataclass(frozen=True)
class ToyInput:
    """``slices`` (windows, cuts, bins): expected events passing a cut and not the next; ``fitted``, ``order`` of the dijet
    function (0: not one) and ``bias`` (windows, cuts); ``inside`` (windows, bins), and ``use``: what the fits look at; ``apart`` (windows,
    windows): which may measure whose bias;
    ``biased`` (cuts,): whether the cut can sculpt (a cut of 1 cannot)."""

    edges: Array
    energy: float
    slices: Array
    fitted: NDArray[np.bool_]
    order: NDArray[np.int64]
    bias: Array
    inside: NDArray[np.bool_]
    use: NDArray[np.bool_]
    apart: NDArray[np.bool_]
    biased: NDArray[np.bool_]


@dataclass(frozen=True)
class GlobalResult:
    """p = (k + 1) / (n + 1); [``p_low``, ``p_high``] 68 % Clopper-Pearson; ``bound``: k = 0, so p is a bound.

    ``failed`` toys had a fit that did not converge and count as exceeding. ``gross_vitells`` is an asymptotic upper
    bound from the mean number of upcrossings along the windows, good beyond Z of about 3.
    """

    z_max: float
    p: float
    p_low: float
    p_high: float
    z: float
    z_low: float
    z_high: float
    toys: int
    exceeding: int
    failed: int
    bound: bool
    gross_vitells: float


@nb.njit(cache=True, nogil=True)
def _fit_toy(
    counts: Array, phis: Array, logws: Array, order: NDArray[np.int64], inside: NDArray[np.bool_], use: NDArray[np.bool_],
    n: Array, b: Array, s: Array,
) -> bool:  # fmt: skip
    """Seen, fitted and error of the fit of every (window, cut) of one toy; False when a fit did not converge."""
    windows, cuts, bins = counts.shape
    none = np.zeros(bins)
    for w in range(windows):
        for c in range(cuts):
            n[w, c] = b[w, c] = s[w, c] = 0.0
            if order[w, c] == 0:
                b[w, c] = np.nan
                continue
            k = order[w, c] + 1
            phi = np.ascontiguousarray(phis[order[w, c], :, :, :k])
            theta, fisher = np.zeros(k + 1), np.zeros((k + 1, k + 1))
            half, good = fit_one(counts[w, c], use[w], phi, logws, none, False, theta, fisher)
            if not good or not np.isfinite(half):
                return False
            slope = np.zeros(k)
            for j in range(bins):
                if inside[w, j]:
                    n[w, c] += counts[w, c, j]
                    for q in range(phi.shape[1]):
                        u = logws[j, q]
                        for i in range(k):
                            u += phi[j, q, i] * theta[i]
                        e = np.exp(u)
                        b[w, c] += e
                        for i in range(k):
                            slope[i] += e * phi[j, q, i]
            for i in range(k):
                fisher[i, i] = fisher[i, i] * (1.0 + 1e-10) + 1e-12
            s[w, c] = np.sqrt(max(0.0, slope @ np.linalg.solve(fisher[:k, :k], slope)))
    return True


@nb.njit(cache=True, nogil=True)
def _measure_bias(
    n: Array, b: Array, s: Array, apart: NDArray[np.bool_], biased: NDArray[np.bool_], delta: Array, error: Array
) -> None:  # fmt: skip
    """`window_bias.bias_of` of one toy at every cut, (windows, cuts) each."""
    windows, cuts = n.shape
    for c in range(cuts):
        top, candidate = -np.inf, 0
        for w in range(windows):
            if biased[c] and b[w, c] > 0.0:
                z = signed_z(n[w, c], b[w, c], s[w, c])
                if z > top:
                    top, candidate = z, w
        for w in range(windows):
            delta[w, c], error[w, c] = 0.0, 0.0
            if biased[c]:
                seen, fitted, variance = 0.0, 0.0, 0.0
                for o in range(windows):
                    if apart[w, o] and apart[candidate, o] and b[o, c] > 0.0:
                        seen += n[o, c]
                        fitted += b[o, c]
                        variance += b[o, c] + s[o, c] ** 2
                if fitted > 0.0:
                    delta[w, c], error[w, c] = seen / fitted - 1.0, np.sqrt(variance) / fitted


@nb.njit(cache=True, nogil=True)
def _scan_toy(
    counts: Array, phis: Array, logws: Array, order: NDArray[np.int64], inside: NDArray[np.bool_], use: NDArray[np.bool_],
    apart: NDArray[np.bool_], biased: NDArray[np.bool_], bias: Array, zs: Array,
) -> bool:  # fmt: skip
    """Z of every (window, cut) of one toy into ``zs``; False when a fit did not converge.

    The bias is measured again in every toy; its uncertainty is the one assigned from the data, as it is for the data.
    """
    windows, cuts, _ = counts.shape
    n, b, s = np.zeros((windows, cuts)), np.zeros((windows, cuts)), np.zeros((windows, cuts))
    if not _fit_toy(counts, phis, logws, order, inside, use, n, b, s):
        return False
    delta, error = np.zeros((windows, cuts)), np.zeros((windows, cuts))
    _measure_bias(n, b, s, apart, biased, delta, error)
    for c in range(cuts):
        for w in range(windows):
            scale = max(1.0 + delta[w, c], 1e-3)
            zs[w, c] = -np.inf
            if b[w, c] > 0.0:
                width = np.hypot(s[w, c] * scale, np.hypot(bias[w, c], error[w, c]) * b[w, c])
                zs[w, c] = signed_z(n[w, c], b[w, c] * scale, width)
    return True


@nb.njit(cache=True, nogil=True)
def measured_biases(
    counts: Array, phis: Array, logws: Array, order: NDArray[np.int64], inside: NDArray[np.bool_], use: NDArray[np.bool_],
    apart: NDArray[np.bool_], biased: NDArray[np.bool_], delta: Array, error: Array,
) -> None:  # fmt: skip
    """Bias and its error as measured in every toy, (toys, windows, cuts); nan where a fit did not converge."""
    toys, windows, cuts, _ = counts.shape
    n, b, s = np.zeros((windows, cuts)), np.zeros((windows, cuts)), np.zeros((windows, cuts))
    for t in range(toys):
        if _fit_toy(counts[t], phis, logws, order, inside, use, n, b, s):
            _measure_bias(n, b, s, apart, biased, delta[t], error[t])
        else:
            delta[t], error[t] = np.nan, np.nan


@nb.njit(cache=True, nogil=True)
def _scan_block(
    counts: Array, phis: Array, logws: Array, order: NDArray[np.int64], inside: NDArray[np.bool_], use: NDArray[np.bool_],
    apart: NDArray[np.bool_], biased: NDArray[np.bool_], bias: Array, level: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Largest Z (toys,), infinite for a failed toy, and upcrossings of ``level`` along the windows (toys,)."""
    toys, windows, cuts, _ = counts.shape
    best, crossings = np.empty(toys), np.zeros(toys)
    zs = np.empty((windows, cuts))
    for t in range(toys):
        if not _scan_toy(counts[t], phis, logws, order, inside, use, apart, biased, bias, zs):
            best[t] = np.inf
            continue
        best[t] = zs.max()
        for c in range(cuts):
            for w in range(windows):
                before = zs[w - 1, c] if w > 0 else -np.inf
                if zs[w, c] > level and before <= level:
                    crossings[t] += 1
    return best, crossings


def throw(given: ToyInput, seed: int, block: int, toys: int) -> Array:
    """Nested counts (toys, windows, cuts, bins) of one block: slices thrown apart and added up, and inside every window
    a bias of its own, Gaussian with the size assigned from the data.

    Windows are thrown independently although they share events: every window has a classifier of its own, which makes
    its events after the cut nearly independent, and before the cut it is conservative.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))
    windows = len(given.slices)
    shift = rng.standard_normal((toys, windows, 1, 1)) * given.bias[None, :, :, None]
    factor = np.where(given.inside[None, :, None, :], np.maximum(1.0 + shift, 0.0), 1.0)
    slices = rng.poisson(given.slices[None] * factor).astype(np.float64)
    return np.ascontiguousarray(np.cumsum(slices[:, :, ::-1], axis=2)[:, :, ::-1])


def fit_arrays(given: ToyInput) -> tuple[Array, Array, NDArray[np.int64], Mask, Mask, Mask, Mask]:
    """What the compiled fits of toys need: bases by order, node weights, orders, masks, and who measures whose bias."""
    full = basis(given.edges, MAX_ORDER, given.energy)
    phis = np.zeros((MAX_ORDER + 1, *full.phi.shape))
    for order in np.unique(given.order[given.order > 0]):
        phis[order, :, :, : order + 1] = basis(given.edges, int(order), given.energy).phi
    return phis, full.logw, given.order, given.inside, given.use, given.apart, given.biased


def toy_maxima(
    given: ToyInput, toys: int, seed: int, threads: int = 1, progress: Callable[[int, int], None] | Any = None
) -> tuple[Array, Array]:
    """Largest Z of every toy (toys,), infinite where a fit failed, and its upcrossings (toys,)."""
    rest = (*fit_arrays(given), given.bias, GV_LEVEL)

    def one(block: int) -> tuple[Array, Array]:
        return _scan_block(throw(given, seed, block, BLOCK), *rest)

    return in_blocks(one, toys, threads, progress)


def in_blocks(
    one: Callable[[int], tuple[Array, Array]], toys: int, threads: int, progress: Any
) -> tuple[Array, Array]:
    """What ``one`` gives for every block of toys, together, in their order, on so many threads."""
    best, crossings = [], []
    with ThreadPoolExecutor(threads) as pool:
        for i, (z, up) in enumerate(pool.map(one, range(-(-toys // BLOCK)))):
            best.append(z)
            crossings.append(up)
            if progress is not None:
                progress(min((i + 1) * BLOCK, toys), toys)
    return np.concatenate(best)[:toys], np.concatenate(crossings)[:toys]


def global_p(
    given: ToyInput, z_max: float, *, toys: int, seed: int, threads: int = 1, progress: Any = None,
    maxima: Callable[..., tuple[Array, Array]] = toy_maxima,
) -> GlobalResult:  # fmt: skip
    """Fraction of toys whose largest Z over all windows and cuts reaches ``z_max``; ``maxima`` makes the toys."""
    best, crossings = maxima(given, toys, seed, threads, progress)
    failed = int(np.isinf(best).sum())
    exceeding = int(np.sum(best >= z_max))
    p, low, high = toy_p(exceeding, toys)
    bound = exceeding == 0
    top = p_of(max(z_max, 0.0))
    expected = float(crossings[np.isfinite(best)].mean()) if failed < toys else 0.0
    vitells = min(1.0, top + expected * float(np.exp(-0.5 * (max(z_max, GV_LEVEL) ** 2 - GV_LEVEL**2))))
    return GlobalResult(
        z_max, p, low, high, z_of(p), z_of(high), z_of(low) if low > 0 else float("inf"), toys, exceeding, failed,
        bound, vitells,
    )  # fmt: skip
