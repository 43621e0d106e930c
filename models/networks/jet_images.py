"""Jet images: constituents centred, turned, mirrored, put into pixels and smeared, one event at a time."""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

#: Where a Gaussian is cut, in standard deviations.
_CUT = 4.0


def smearing(pixels: int, sigma: float) -> NDArray[np.float64]:
    """A Gaussian of ``sigma`` pixels along one side as a matrix (pixels, pixels) whose columns sum to 1.

    What would fall over an edge is mirrored back in. ``sigma`` 0: the unit matrix.
    """
    if sigma == 0:
        return np.eye(pixels)
    far = math.ceil(_CUT * sigma)
    shape = np.exp(-0.5 * (np.arange(-far, far + 1) / sigma) ** 2)
    out = np.zeros((pixels, pixels))
    for j in range(pixels):
        for step, part in zip(range(-far, far + 1), shape / shape.sum(), strict=True):
            place = (j + step) % (2 * pixels)
            out[min(place, 2 * pixels - 1 - place), j] += part
    return out


def jet_images(
    table: NDArray[np.float32], pixels: int, reach: float, sigma: float, power: float
) -> NDArray[np.float32]:
    """Images (n, pixels^2) of jets whose constituents are pT, eta, phi in ``table`` (n, 3 N); every image sums to 1.

    In this order: centred on the pT centroid; turned until the principal axis of pT (the larger second moment) is vertical; mirrored
    until the quadrant with most pT is the upper right; pT summed in ``pixels`` x ``pixels`` over -``reach`` to ``reach`` on both
    axes, the rest cut off; pixels raised to ``power`` (the paper's reweighting, 1: as they are); smeared by ``sigma`` pixels. Row
    i, column j of the image lie at i * pixels + j, rows rise upwards. A jet without a constituent in reach is 0 everywhere.
    """
    blur = smearing(pixels, sigma)
    return _images(np.ascontiguousarray(table, np.float32), pixels, reach, blur, power)


@nb.njit(cache=True, nogil=True)
def _upright(
    row: NDArray[np.float32], across: NDArray[np.float64], up: NDArray[np.float64], pt: NDArray[np.float64]
) -> int:
    """Constituents of one jet in the frame of its image, into the first places of the three arrays; how many there are."""
    count = 0
    for c in range(len(row) // 3):
        if row[3 * c] > 0:
            pt[count], across[count], up[count] = row[3 * c], row[3 * c + 1], row[3 * c + 2]
            count += 1
    total, first = pt[:count].sum(), up[0]
    for c in range(count):
        up[c] = (up[c] - first + math.pi) % (2 * math.pi) - math.pi
    if count == 0:
        return 0
    x0, y0 = (pt[:count] * across[:count]).sum() / total, (pt[:count] * up[:count]).sum() / total
    xx = xy = yy = 0.0
    for c in range(count):
        x, y = across[c] - x0, up[c] - y0
        across[c], up[c] = x, y
        xx, xy, yy = xx + pt[c] * x * x, xy + pt[c] * x * y, yy + pt[c] * y * y
    angle = 0.5 * math.atan2(2 * xy, xx - yy)  # of the principal axis
    sine, cosine = math.sin(angle), math.cos(angle)
    quadrant = np.zeros(4)
    for c in range(count):
        x, y = across[c], up[c]
        across[c], up[c] = x * sine - y * cosine, x * cosine + y * sine
        quadrant[2 * (up[c] < 0) + (across[c] < 0)] += pt[c]
    most = np.argmax(quadrant)
    if most % 2 == 1:
        across[:count] *= -1
    if most >= 2:
        up[:count] *= -1
    return count


@nb.njit(cache=True, nogil=True)
def _images(
    table: NDArray[np.float32], pixels: int, reach: float, blur: NDArray[np.float64], power: float
) -> NDArray[np.float32]:
    n, most = len(table), table.shape[1] // 3
    out = np.zeros((n, pixels * pixels), np.float32)
    across, up, pt = np.zeros(most), np.zeros(most), np.zeros(most)
    for k in range(n):
        count = _upright(table[k], across, up, pt)
        image = np.zeros((pixels, pixels))
        for c in range(count):
            i = math.floor((up[c] / reach + 1) * 0.5 * pixels)
            j = math.floor((across[c] / reach + 1) * 0.5 * pixels)
            if 0 <= i < pixels and 0 <= j < pixels:
                image[i, j] += pt[c]
        total = image.sum()
        if total <= 0:
            continue
        wide = np.zeros((pixels, pixels))
        for i in range(pixels):
            for j in range(pixels):
                if image[i, j] > 0:
                    wide[i] += (image[i, j] / total) ** power * blur[:, j]
        smeared = np.zeros((pixels, pixels))
        for i in range(pixels):
            if wide[i].any():
                for to in range(pixels):
                    if blur[to, i] > 0:
                        smeared[to] += blur[to, i] * wide[i]
        out[k] = (smeared / smeared.sum()).ravel()
    return out


def image_table(x: NDArray[Any], columns: NDArray[np.int64], **how: Any) -> NDArray[np.float32]:
    """`jet_images` of the constituents in ``columns`` (N, 3) of events x (n, d)."""
    return jet_images(x[:, columns.ravel()], **how)
