"""The hunt: every window and cut fitted, its bias measured on the other windows, and a global p-value by toys.

The scan is CWoLa hunting's (1902.02634): a window's spectrum after the cut on its own classifier is fitted outside the
window; n seen inside is compared with b +- s expected. delta_sys (2411.00085) is the classifier's bias: (n - b) / b of
other windows added up, at the same cut; b becomes b (1 + delta) with an added uncertainty of |delta| b and of delta's
own statistical error. Signal-free are the windows that overlap neither this one nor the one of largest excess. The
published average gives every window the same weight, which at a few events per window is mostly noise. The global
p-value counts every window and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from ..events import Window
from .background_models import beside
from .counting import p_of, signed_z
from .dijet import SignalFit, basis, choose_order, fit_signal
from .hunt_backgrounds import Estimate, Estimator, Kind, capped_z
from .hunt_fits import FittedToys, PeakFits, WindowFits, masses_of
from .hunt_toys import EstimatedToys
from .spectrum import Spectra
from .toys import GlobalResult, ToyInput, global_p, toy_maxima
from .window_bias import bias_of, corrected_z, separate

Array = NDArray[np.float64]
Statistic = Literal["count", "fit"]


@dataclass(frozen=True)
class WindowResult:
    """One window and cut. ``b`` +- ``b_error`` from the masked fit; ``delta`` relative bias measured elsewhere
    with its statistical ``delta_error``; ``z``, ``p_local`` with the bias inside; ``z_raw`` without it. ``expected``, ``error``, ``counts`` (bins,).
    ``mass``, ``signal`` +- ``signal_error``: the signal fit whose Z it is, where the statistic is one."""

    window: Window
    cut: float
    n: float
    b: float
    b_error: float
    delta: float
    delta_error: float
    z_raw: float
    z: float
    p_local: float
    order: int
    half_deviance: float
    ndf: int
    gof_p: float
    counts: Array
    expected: Array
    error: Array
    mass: float | None = None
    signal: float | None = None
    signal_error: float | None = None


@dataclass(frozen=True)
class HuntResult:
    """The whole scan. ``best`` is the (window, cut) of largest Z; ``before`` the same window without a cut; ``peak`` the
    signal fit there with its position free, GeV; ``gross_vitells`` the asymptotic global p beside the toys'."""

    edges: Array
    results: tuple[WindowResult, ...]
    best: WindowResult
    before: WindowResult
    peak: SignalFit | None
    peak_error: float | None
    overall: GlobalResult
    failed: tuple[str, ...]


def scan(
    windows: Sequence[Window], spectra: Sequence[Spectra], energy: float, estimate: Estimator | None = None,
    fits: PeakFits | None = None,
) -> tuple[list[WindowResult], list[str]]:  # fmt: skip
    """Every window and cut, in order of window then cut, and the fits that failed (named, not dropped in silence).

    ``estimate`` None: the dijet fit. ``fits``: Z is that of signal fits instead of the window's count.
    """
    cuts, estimate = spectra[0].cuts, estimate or Estimator("dijet", energy)
    found: dict[tuple[int, int], tuple[Estimate, WindowFits | None]] = {}
    failed, apart = [], separate(windows, estimate.guard)
    n, b, s = np.full((3, len(windows), len(cuts)), np.nan)
    for i, (window, one) in enumerate(zip(windows, spectra, strict=True)):
        inside = window.contains(0.5 * (one.edges[1:] + one.edges[:-1]))
        for c, counts in enumerate(one.counts):
            try:
                fit = estimate(one.counts, c, one.edges, inside)
                peaks = fits and fits(counts, fit.expected, fit.order, one.edges, inside, i)
            except FitError as error:
                failed.append(f"window {window.low:g}-{window.high:g} GeV, cut {cuts[c]:g}: {error}")
                continue
            found[i, c] = (fit, peaks)
            n[i, c], b[i, c], s[i, c] = float(counts[inside].sum()), fit.b, fit.s
    out = []
    for c, cut in enumerate(cuts):
        bias = bias_of(apart, n[:, c], b[:, c], s[:, c]) if cut < 1 else np.zeros((2, len(windows)))
        for i, window in enumerate(windows):
            if (i, c) in found:
                seen = (float(n[i, c]), spectra[i].counts[c], float(bias[0][i]), float(bias[1][i]))
                out.append(_judged(window, cut, spectra[i].edges, *found[i, c], *seen))
    return sorted(out, key=lambda r: (r.window.low, -r.cut)), failed


def _judged(
    window: Window, cut: float, edges: Array, fit: Estimate, peaks: WindowFits | None, n: float, counts: Array,
    delta: float, error: float,
) -> WindowResult:  # fmt: skip
    """The significance of one window and cut with its bias inside."""
    inside = window.contains(0.5 * (edges[1:] + edges[:-1]))
    peak = None if peaks is None else peaks.peak(delta, error)
    raw = float(signed_z(n, fit.b, fit.s)) if peak is None else peak.z_raw
    z = corrected_z(n, fit.b, fit.s, delta, error) if peak is None else peak.z
    z = capped_z(z, fit.b, counts, inside)
    fitted = (None, None, None) if peak is None else (peak.mass, peak.signal, peak.error)
    return WindowResult(
        window, cut, n, fit.b, fit.s, delta, error, raw, z, p_of(z), fit.order, fit.half_deviance, fit.ndf, fit.gof_p,
        counts, fit.expected, fit.error, *fitted,
    )  # fmt: skip


def _peak(best: WindowResult, edges: Array, estimate: Estimator) -> tuple[SignalFit | None, float | None]:
    """Signal fits on a 10 GeV grid around the window: the most likely position and the half-width at dNLL = 1/2.

    On the dijet function, whatever the background was estimated with. (None, None) where no position gives a positive signal.
    """
    energy, inside = estimate.energy, best.window.contains(0.5 * (edges[1:] + edges[:-1]))
    use = beside(edges, inside, estimate.guard)
    try:
        model = basis(edges, best.order or choose_order(best.counts, edges, energy, use), energy)
    except FitError:
        return None, None
    half = 0.75 * (best.window.high - best.window.low)
    grid = np.arange(best.window.centre - half, best.window.centre + half + 1, 10.0)
    fits: dict[float, SignalFit] = {}
    for mass in grid:
        try:
            fit = fit_signal(best.counts, model, float(mass), estimate.width)
        except FitError:  # a deficit can push the expectation to zero: no candidate for a peak
            continue
        if fit.signal > 0:
            fits[float(mass)] = fit
    if not fits:
        return None, None
    top = min(fits.values(), key=lambda f: f.half_deviance)
    near = [m for m, f in fits.items() if f.half_deviance < top.half_deviance + 0.5]
    return top, max(5.0, 0.5 * (max(near) - min(near)))


def hunt(
    windows: Sequence[Window],
    spectra: Sequence[Spectra],
    *,
    energy: float,
    signal_width: float,
    toys: int,
    seed: int,
    threads: int = 1,
    progress: object = None,
    background: Kind = "dijet",
    guard: float = 0.0,
    statistic: Statistic = "count",
) -> HuntResult:
    """Scan, pick the most significant (window, cut), and calibrate the choice with ``toys`` background-only repetitions.

    ``spectra``: one per window, from its own classifier, cut efficiencies (1, ...) decreasing; a cut of 1 comes first.
    ``background``: see `hunt_backgrounds`; the toys repeat every estimate, at some 6 ms per window, cut and toy for the
    Gaussian process. ``guard`` [GeV]: bins so near to a window are left out of its estimate, where a signal wider than the window leaks to.
    ``statistic``: see `hunt_fits`; signal fits need the dijet function. Raises `FitError` when the spectra before the cut cannot be fitted.
    """
    if spectra[0].cuts[0] < 1:
        raise FitError("the first cut must be 1: the spectrum before any cut")
    estimate = Estimator(background, energy, signal_width, guard)
    if statistic == "fit" and background != "dijet":
        raise FitError(f"signal fits need the dijet function as their background, not {background}")
    fits = PeakFits(masses_of(windows), signal_width, energy) if statistic == "fit" else None
    results, failed = scan(windows, spectra, energy, estimate, fits)
    if not results:
        raise FitError("no window could be fitted: " + "; ".join(failed))
    best = max(results, key=lambda r: r.z)
    before = next((r for r in results if r.window == best.window and r.cut >= 1), None)
    if before is None:
        raise FitError("the spectrum before the cut could not be fitted: " + "; ".join(failed))
    peak, error = _peak(best, spectra[0].edges, estimate)
    given = toy_input(windows, spectra, results, energy, guard)
    counted = toy_maxima if background == "dijet" else EstimatedToys(estimate)
    maxima = counted if fits is None else FittedToys(fits)
    overall = global_p(given, best.z, toys=toys, seed=seed, threads=threads, progress=progress, maxima=maxima)
    return HuntResult(spectra[0].edges, tuple(results), best, before, peak, error, overall, tuple(failed))


def toy_input(
    windows: Sequence[Window], spectra: Sequence[Spectra], results: Sequence[WindowResult], energy: float,
    guard: float = 0.0,
) -> ToyInput:  # fmt: skip
    """What the toys need: fitted expectations as disjoint slices between nested cuts, orders, masks, biases."""
    edges, cuts = spectra[0].edges, spectra[0].cuts
    shape = (len(windows), len(cuts))
    expected = np.zeros((*shape, len(edges) - 1))
    order, delta, fitted = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, bool)
    for r in results:
        i, c = list(windows).index(r.window), cuts.index(r.cut)
        expected[i, c], order[i, c], delta[i, c], fitted[i, c] = r.expected, r.order, r.delta, True
    slices = expected.copy()
    slices[:, :-1] = np.maximum(expected[:, :-1] - expected[:, 1:], 0.0)
    centre = 0.5 * (edges[1:] + edges[:-1])
    inside = np.stack([w.contains(centre) for w in windows])
    use = np.stack([beside(edges, one, guard) for one in inside])
    apart = separate(windows, guard)
    return ToyInput(
        edges, energy, slices, fitted, order, np.abs(delta), inside, use, apart, np.array(cuts) < 1
    )
