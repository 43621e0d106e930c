"""The windows of a bump hunt: intervals of bins in one dimension, rectangles in two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """``start`` and ``stop`` (windows, dimensions) in bins, stop excluded; ``corners`` into a flat summed-area table;
    ``sides`` (windows, 2, 2): start and stop of the bins below and above, empty ranges at the ends, one dimension
    only."""

    start: Ints
    stop: Ints
    corners: Ints
    sides: Ints


def steps_of(width: int, step: int | str) -> int:
    """Bins between neighbouring windows: a number, ``half`` of the width or the ``full`` width."""
    if step == "half":
        return max(1, width // 2)
    return width if step == "full" else int(step)


def _intervals(bins: int, least: int, most: int, step: int | str) -> list[tuple[int, int]]:
    """(start, stop) by increasing width, then position."""
    return [
        (first, first + width)
        for width in range(least, most + 1)
        for first in range(0, bins - width + 1, steps_of(width, step))
    ]


def windows_of(shape: tuple[int, ...], least: int, most: int | None, step: int | str) -> Windows:
    """All windows of ``least`` to ``most`` bins (None: half of them) along every axis of a histogram of ``shape``."""
    most_of = [bins // 2 if most is None else most for bins in shape]
    for bins, largest in zip(shape, most_of, strict=True):
        if not 1 <= least <= largest <= bins:
            raise ConfigError(
                f"widths {least} to {largest} of {bins} bins: expected 1 <= least <= most <= bins"
            )
    axes = [np.array(_intervals(b, least, m, step), np.int64) for b, m in zip(shape, most_of, strict=True)]
    if len(shape) == 1:
        (one,) = axes
        half = np.maximum(1, (one[:, 1] - one[:, 0]) // 2)
        below = np.stack([np.maximum(one[:, 0] - half, 0), one[:, 0]], axis=1)
        above = np.stack([one[:, 1], np.minimum(one[:, 1] + half, shape[0])], axis=1)
        return Windows(one[:, :1], one[:, 1:], np.ascontiguousarray(one), np.stack([below, above], axis=1))
    y, x = (a.ravel() for a in np.meshgrid(np.arange(len(axes[0])), np.arange(len(axes[1])), indexing="ij"))
    start = np.stack([axes[0][y, 0], axes[1][x, 0]], axis=1)
    stop = np.stack([axes[0][y, 1], axes[1][x, 1]], axis=1)
    # Small windows first, so that of equal ones the smaller is named.
    order = np.argsort(np.prod(stop - start, axis=1), kind="stable")
    start, stop, columns = start[order], stop[order], shape[1] + 1
    corners = np.stack(
        [
            start[:, 0] * columns + start[:, 1], start[:, 0] * columns + stop[:, 1],
            stop[:, 0] * columns + start[:, 1], stop[:, 0] * columns + stop[:, 1],
        ],
        axis=1,
    )  # fmt: skip
    return Windows(start, stop, np.ascontiguousarray(corners), np.zeros((0, 2, 2), np.int64))


def contents(windows: Windows, histogram: NDArray) -> NDArray:
    """Content of every window, (..., windows), of histograms (..., bins) or (..., rows, columns)."""
    dimensions = windows.start.shape[1]
    total = np.cumsum(histogram, axis=-1)
    total = np.concatenate([np.zeros_like(total[..., :1]), total], axis=-1)
    if dimensions == 1:
        return total[..., windows.stop[:, 0]] - total[..., windows.start[:, 0]]
    total = np.cumsum(total, axis=-2)
    total = np.concatenate([np.zeros_like(total[..., :1, :]), total], axis=-2)
    (y0, x0), (y1, x1) = windows.start.T, windows.stop.T
    return total[..., y1, x1] - total[..., y0, x1] - total[..., y1, x0] + total[..., y0, x0]
