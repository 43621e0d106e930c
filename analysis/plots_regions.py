"""Figures of scores on calorimeter images: what odd crossings look like, and a student against its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .plots_common import CYCLE, INK, LABEL, new_figure, put_label, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RegionMaps:
    """Mean transverse energy by region, GeV, (phi, eta): of all crossings, and of the ``passing`` above ``threshold``."""

    usual: NDArray[np.float64]
    odd: NDArray[np.float64]
    crossings: int
    passing: int
    threshold: float


@dataclass(frozen=True)
class StudentScores:
    """Scores of a teacher and its student for the same events (n,), and their rank correlation."""

    teacher: NDArray[np.float64]
    student: NDArray[np.float64]
    spearman: float


def region_maps(
    x: NDArray[np.float32], score: NDArray[np.float64], weight: NDArray[np.float64], threshold: float, step: float = 0.5,
    shape: tuple[int, int] = (18, 14),
) -> RegionMaps:  # fmt: skip
    """Mean maps, by weight, of images x (n, phi * eta) in hardware steps of ``step`` GeV; passing is score > threshold.

    Raises `InputError` where no weight passes.
    """
    kept = np.flatnonzero(score > threshold)
    if len(kept) == 0 or weight[kept].sum() <= 0:
        raise InputError(f"no crossing of {len(x)} has a score above {threshold:g}")
    maps = [
        (w @ x[rows] * (step / w.sum())).reshape(shape)
        for rows, w in ((slice(None), weight), (kept, weight[kept]))
    ]
    return RegionMaps(maps[0], maps[1], len(x), len(kept), threshold)


@styled
def plot_region_maps(maps: RegionMaps, *, label: str = LABEL, right: str = "") -> Figure:
    """The mean image of all crossings beside that of the odd ones; colours begin at 0, each panel has its own scale."""
    figure = new_figure(8.6, 5.0)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, image, title in (
        (panels[0], maps.usual, f"all {maps.crossings:,} crossings"),
        (panels[1], maps.odd, f"{maps.passing:,} with a score above {maps.threshold:.4g}"),
    ):
        phi, eta = image.shape
        drawn = ax.pcolormesh(
            np.arange(eta + 1) - 0.5,
            np.arange(phi + 1) - 0.5,
            image,
            vmin=0.0,
            cmap="viridis",
            rasterized=True,
        )
        ax.set_xlabel("region in eta")
        ax.set_title(title, pad=22)  # above the label
        ax.minorticks_off()
        figure.colorbar(drawn, ax=ax, label="mean ET [GeV]")
    panels[0].set_ylabel("region in phi")
    put_label(panels[0], label)
    if right:
        put_label(panels[1], "", right)
    return figure


@styled
def plot_student(
    samples: Mapping[str, StudentScores], *, label: str = LABEL, right: str = "", most: int = 3000
) -> Figure:
    """Student against teacher, a colour per sample; of more than ``most`` events of one every k-th is drawn."""
    figure = new_figure(6.2, 5.6)
    ax = figure.subplots()
    ends = [np.inf, -np.inf]
    for i, (name, one) in enumerate(samples.items()):
        step = max(1, -(-len(one.teacher) // most))
        text = f"{name}, rank correlation {one.spearman:.3f}"
        ax.plot(
            one.teacher[::step], one.student[::step], ".", ms=2.5, alpha=0.4, mew=0, color=CYCLE[i % len(CYCLE)], label=text,
            rasterized=True,
        )  # fmt: skip
        both = np.concatenate([one.teacher, one.student])
        ends = [min(ends[0], float(both.min())), max(ends[1], float(both.max()))]
    ax.plot(ends, ends, color=INK, lw=0.9, ls=(0, (4, 3)))
    ax.set(xlabel="teacher, 32 ln MSE", ylabel="student")
    ax.legend(loc="upper left", markerscale=4)
    put_label(ax, label, right)
    return figure
