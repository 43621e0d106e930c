"""Figures of a resonance hunt: spectra with their fits, the scan of local p-values, and the systematic delta_sys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..events import Window
from .plots_common import (
    BLUE,
    CYCLE,
    DASHES,
    GREY,
    INK,
    LABEL,
    MUTED,
    RED,
    axes_of,
    draw_band,
    draw_counts,
    percent,
    put_label,
    shade_window,
    sigma_lines,
    stacked,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Spectrum:
    """A mass spectrum with its background fit.

    ``edges`` GeV (bins + 1,); ``counts`` (bins,); ``fit`` expected background per bin and ``sigma`` its one-standard-deviation
    uncertainty (bins,), both None where the fit failed; ``window`` masked in the fit; ``title`` what is selected;
    ``order`` parameters of the function; ``signal`` truth or a hypothesis to overlay, per bin, None for none.
    """

    title: str
    edges: NDArray[np.float64]
    counts: NDArray[np.float64]
    window: Window
    fit: NDArray[np.float64] | None = None
    sigma: NDArray[np.float64] | None = None
    chi2: float | None = None
    ndf: int | None = None
    gof_p: float | None = None
    order: int | None = None
    signal: NDArray[np.float64] | None = None

    @property
    def pulls(self) -> NDArray[np.float64]:
        """Signed root of the Poisson deviance per bin, (bins,): what (n - b)/sqrt(b) is at high counts, right at low ones."""
        if self.fit is None:
            return np.full(len(self.counts), np.nan)
        n, b = np.asarray(self.counts, dtype=float), np.asarray(self.fit, dtype=float)
        logs = n * np.log(np.where(n > 0, n, 1.0) / np.where(n > 0, b, 1.0))
        return np.sign(n - b) * np.sqrt(np.maximum(0.0, 2 * (logs - n + b)))


@styled
def plot_spectra(
    spectra: Sequence[Spectrum], label: str = LABEL, right: str = "", mass: str = r"$m_{\mathrm{jj}}$ [GeV]"
) -> Figure:
    """Spectra side by side (before and after the cut), each with fit, band and pulls; the window is shaded."""
    wide = 5.9 if len(spectra) == 1 else 4.9 * len(spectra)
    figure, axes = stacked((3.0, 1.0), width=wide, height=5.3, columns=len(spectra))
    for i, one in enumerate(spectra):
        _draw_spectrum(axes[0, i], one)
        _draw_pulls(axes[1, i], one)
        axes[1, i].set_xlabel(mass)
        put_label(axes[0, i], label, right if i == len(spectra) - 1 else "")
    width = np.diff(spectra[0].edges)
    same = np.allclose(width, width[0])
    axes[0, 0].set_ylabel(f"events / {width[0]:g} GeV" if same else "events / bin")
    axes[1, 0].set_ylabel("pull")
    figure.align_ylabels(axes)
    return figure


def _draw_spectrum(ax: Axes, one: Spectrum) -> None:
    shade_window(ax, *one.window, label="signal region")
    if one.fit is not None:
        if one.sigma is not None:
            draw_band(ax, one.edges, np.maximum(one.fit - one.sigma, 1e-9), one.fit + one.sigma, BLUE)
        ax.stairs(one.fit, one.edges, color=BLUE, lw=1.8, label="background fit", baseline=None)
    if one.signal is not None:
        base = one.fit if one.fit is not None else 0.0
        ax.stairs(
            base + one.signal, one.edges, color=RED, lw=1.4, ls=DASHES[3], label="with signal", baseline=None
        )
    seen = np.asarray(one.counts) > 0
    draw_counts(ax, one.edges, np.where(seen, one.counts, np.nan), "data")
    positive = np.asarray(one.counts)[seen]
    top = float(positive.max()) if positive.size else 1.0
    ax.set_yscale("log")
    ax.set(xlim=(one.edges[0], one.edges[-1]), ylim=(0.35, max(100.0, 1500 * top)))
    ax.legend(loc="upper right", title=_fit_words(one), title_fontsize=9.5, alignment="left")


def _fit_words(one: Spectrum) -> str:
    if one.fit is None:
        return f"{one.title}\nfit failed"
    words = [one.title]
    if one.chi2 is not None and one.ndf is not None:
        p = "" if one.gof_p is None else f",  p = {one.gof_p:.2g}"
        words.append(rf"$\chi^2$/ndf = {one.chi2:.1f}/{one.ndf}{p}")
    if one.order is not None:
        words.append(f"{one.order} parameters")
    return "\n".join(words)


def _draw_pulls(ax: Axes, one: Spectrum) -> None:
    shade_window(ax, *one.window)
    pulls = one.pulls
    ax.stairs(np.nan_to_num(pulls), one.edges, fill=True, color=GREY, alpha=0.55, lw=0)
    ax.stairs(np.nan_to_num(pulls), one.edges, color=INK, lw=0.7)
    ax.axhline(0, color=INK, lw=0.8)
    for z in (-2, 2):
        ax.axhline(z, color=GREY, lw=0.7, ls=(0, (4, 3)))
    reach = max(3.4, 1.15 * float(np.nanmax(np.abs(pulls)))) if np.isfinite(pulls).any() else 3.4
    ax.set_ylim(-reach, reach)


@dataclass(frozen=True)
class ScanCurve:
    """Local p-values of one score cut: ``mass`` GeV (n,) ascending, ``p_local`` (n,), NaN where a fit failed."""

    name: str
    mass: NDArray[np.float64]
    p_local: NDArray[np.float64]


@dataclass(frozen=True)
class GlobalP:
    """p = (k+1)/(n+1) of toys that repeat the whole search, with its interval; ``bound``: no toy reached the data (k = 0)."""

    p: float
    p_low: float
    p_high: float
    z: float
    z_low: float
    z_high: float
    toys: int
    bound: bool

    @property
    def words(self) -> tuple[str, str]:
        """p and Z as they must be quoted: bounds as bounds."""
        if self.bound:
            return f"p < {self.p_high:.2g}", f"Z > {self.z_low:.2f}"
        return (
            f"p = {self.p:.2g}  [{self.p_low:.2g}, {self.p_high:.2g}]",
            f"Z = {self.z:.2f}  [{self.z_low:.2f}, {self.z_high:.2f}]",
        )


@styled
def plot_scan(
    curves: Sequence[ScanCurve],
    overall: GlobalP | None = None,
    *,
    ax: Axes | None = None,
    label: str = LABEL,
    right: str = "",
    mass: str = "resonance mass [GeV]",
) -> Figure:
    """Local p0 against mass for every cut, lines at 1..5 sigma, and a box with the global p-value and its toys."""
    figure, ax = axes_of(ax, 7.4, 4.9)
    lowest = 1.0
    for i, c in enumerate(curves):
        style = {
            "color": CYCLE[i % len(CYCLE)],
            "ls": DASHES[i % len(DASHES)],
            "marker": "osD^v"[i % 5],
            "ms": 4,
        }
        ax.plot(c.mass, c.p_local, label=c.name, lw=1.6, **style)
        good = c.p_local[np.isfinite(c.p_local) & (c.p_local > 0)]
        lowest = min(lowest, float(good.min())) if good.size else lowest
    sigma_lines(ax)
    ax.set_yscale("log")
    ax.set_ylim(min(1e-8, lowest * 1e-3), 2.0)
    ax.set(xlabel=mass, ylabel=r"local p-value $p_0$")
    ax.margins(x=0.07)
    ax.legend(loc="lower left", title="score cut", title_fontsize=10, alignment="left")
    if overall is not None:
        p, z = overall.words
        text = f"global  {p}\nglobal  {z}\n{overall.toys:,} toys repeat the whole scan"
        box = {"fc": "white", "ec": GREY, "lw": 0.8, "boxstyle": "round,pad=0.55", "alpha": 0.95}
        ax.annotate(
            text,
            (0.965, 0.05),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            size=10,
            linespacing=1.5,
            bbox=box,
            zorder=6,
        )
    put_label(ax, label, right)
    return figure


@dataclass(frozen=True)
class WindowRow:
    """One (window, cut): events seen, background expected with its error, delta_sys (relative), local Z; NaN where it failed."""

    window: Window
    cut: float
    n: int
    b: float
    b_error: float
    delta_sys: float
    z: float


def window_columns() -> tuple[str, ...]:
    """Heads of the table that `window_table` fills."""
    return ("window [GeV]", "cut", "n", "b ± σ", "δ_sys", "local Z")


def window_table(rows: Sequence[WindowRow]) -> list[tuple[Any, ...]]:
    """Table rows (window, cut, n, b ± error, delta_sys, Z) in the order given."""
    out: list[tuple[Any, ...]] = []
    for r in rows:
        digits = max(0, min(2, 1 - int(np.floor(np.log10(r.b_error))))) if r.b_error > 0 else 2
        b = f"{r.b:.{digits}f} ± {r.b_error:.{digits}f}" if np.isfinite(r.b) else "fit failed"
        sys = f"{100 * r.delta_sys:.1f}%" if np.isfinite(r.delta_sys) else None
        z = f"{r.z:.2f}" if np.isfinite(r.z) else None
        out.append((f"{r.window.low:g}–{r.window.high:g}", percent(r.cut), r.n, b, sys, z))
    return out


@styled
def plot_delta_sys(rows: Sequence[WindowRow], ax: Axes | None = None, label: str = LABEL) -> Figure:
    """delta_sys in per cent against the window's centre, one curve per cut, and the fit's own error as a thin line."""
    figure, ax = axes_of(ax)
    cuts = list(dict.fromkeys(r.cut for r in rows))
    low, top = -1.0, 1.0
    for i, cut in enumerate(cuts):
        mine = sorted((r for r in rows if r.cut == cut), key=lambda r: r.window.centre)
        x = np.array([r.window.centre for r in mine])
        sys = 100 * np.array([r.delta_sys for r in mine])
        fit = 100 * np.array([r.b_error / r.b if r.b > 0 else np.nan for r in mine])
        color = CYCLE[i % len(CYCLE)]
        ax.plot(
            x,
            sys,
            color=color,
            ls=DASHES[i % len(DASHES)],
            marker="osD^v"[i % 5],
            ms=4.5,
            label=f"cut {percent(cut)}",
        )
        ax.plot(x, fit, color=color, lw=0.9, ls=(0, (1, 1.5)))
        top = max(top, float(np.nanmax(np.concatenate([sys, fit, [0.0]]))))
        low = min(low, float(np.nanmin(np.append(sys, 0.0))))
    ax.plot([], [], color=MUTED, lw=0.9, ls=(0, (1, 1.5)), label=r"fit error $\sigma_b/b$")
    ax.set(xlabel="window centre [GeV]", ylabel=r"$\delta_{\mathrm{sys}}$ [%]", ylim=(1.2 * low, 1.4 * top))
    ax.axhline(0.0, color=MUTED, lw=0.7)
    ax.legend(loc="upper left", ncols=2)
    put_label(ax, label)
    return figure
