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

import numpy as np
from numpy.typing import NDArray

from ..errors import FitError
from ..events import Window
from .background_models import beside
from .counting import p_of, signed_z
from .dijet import SignalFit, basis, choose_order, fit_signal
from .hunt_backgrounds import Estimate, Estimator, Kind, capped_z
from .hunt_toys import EstimatedToys
from .spectrum import Spectra
from .toys import GlobalResult, ToyInput, global_p, toy_maxima
from .window_bias import bias_of, corrected_z, separate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WindowResult:
    """One window and cut. ``b`` +- ``b_error`` from the masked fit; ``delta`` relative bias measured elsewhere
    with its statistical ``delta_error``; ``z``, ``p_local`` with the bias inside; ``z_raw`` without it. ``expected``, ``error``, ``counts`` (bins,)."""

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
    windows: Sequence[Window], spectra: Sequence[Spectra], energy: float, estimate: Estimator | None = None
) -> tuple[list[WindowResult], list[str]]:
    """Every window and cut, in order of window then cut, and the fits that failed (named, not dropped in silence).

    ``estimate`` None: the dijet fit.
    """
    cuts, estimate = spectra[0].cuts, estimate or Estimator("dijet", energy)
    found: dict[tuple[int, int], tuple[Estimate, float, float, float]] = {}
    failed, apart = [], separate(windows, estimate.guard)
    for i, (window, one) in enumerate(zip(windows, spectra, strict=True)):
        inside = window.contains(0.5 * (one.edges[1:] + one.edges[:-1]))
        for c, counts in enumerate(one.counts):
            try:
                fit = estimate(one.counts, c, one.edges, inside)
            except FitError as error:
                failed.append(f"window {window.low:g}-{window.high:g} GeV, cut {cuts[c]:g}: {error}")
                continue
            found[i, c] = (fit, float(counts[inside].sum()), fit.b, fit.s)
    out, fit_edges = [], spectra[0].edges
    for c, cut in enumerate(cuts):
        n, b, s = np.full((3, len(windows)), np.nan)
        for i in range(len(windows)):
            if (i, c) in found:
                _, n[i], b[i], s[i] = found[i, c]
        delta, error = bias_of(apart, n, b, s) if cut < 1 else np.zeros((2, len(windows)))
        for i, window in enumerate(windows):
            if (i, c) not in found:
                continue
            fit, counts = found[i, c][0], spectra[i].counts[c]
            inside = window.contains(0.5 * (fit_edges[1:] + fit_edges[:-1]))
            z = capped_z(corrected_z(n[i], b[i], s[i], delta[i], error[i]), b[i], counts, inside)
            out.append(WindowResult(
                window, cut, float(n[i]), float(b[i]), float(s[i]), float(delta[i]), float(error[i]),
                float(signed_z(n[i], b[i], s[i])), z, p_of(z), fit.order, fit.half_deviance, fit.ndf, fit.gof_p,
                counts, fit.expected, fit.error,
            ))  # fmt: skip
    return sorted(out, key=lambda r: (r.window.low, -r.cut)), failed


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
) -> HuntResult:
    """Scan, pick the most significant (window, cut), and calibrate the choice with ``toys`` background-only repetitions.

    ``spectra``: one per window, from its own classifier, cut efficiencies (1, ...) decreasing; a cut of 1 comes first.
    ``background``: see `hunt_backgrounds`; the toys repeat every estimate, at some 6 ms per window, cut and toy for the
    Gaussian process. ``guard`` [GeV]: bins so near to a window are left out of its estimate, where a signal wider than the window leaks to.
    Raises `FitError` when the spectra before the cut cannot be fitted.
    """
    if spectra[0].cuts[0] < 1:
        raise FitError("the first cut must be 1: the spectrum before any cut")
    estimate = Estimator(background, energy, signal_width, guard)
    results, failed = scan(windows, spectra, energy, estimate)
    if not results:
        raise FitError("no window could be fitted: " + "; ".join(failed))
    best = max(results, key=lambda r: r.z)
    before = next((r for r in results if r.window == best.window and r.cut >= 1), None)
    if before is None:
        raise FitError("the spectrum before the cut could not be fitted: " + "; ".join(failed))
    peak, error = _peak(best, spectra[0].edges, estimate)
    given = toy_input(windows, spectra, results, energy, guard)
    maxima = toy_maxima if background == "dijet" else EstimatedToys(estimate)
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
