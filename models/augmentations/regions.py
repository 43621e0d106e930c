"""Unusual calorimeter images made of usual ones, to which a student is exposed so that it learns the scale of the odd."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Deposits of an image that gets some.
MOST_DEPOSITS = 6


def exposed(
    x: NDArray[np.float32], n: int, rng: np.random.Generator, shape: tuple[int, int], full: float,
    deposits: tuple[float, float],
) -> NDArray[np.float32]:  # fmt: skip
    """``n`` images of x (m, phi * eta), one of four things done to each: no signal simulation is in them.

    Scaled by 1 to 4; two of them added; every region taken from another image, then scaled by 1 to 4; or 1 to 6 deposits
    added, each in the range ``deposits``, as often per octave in every octave, a part of it in a neighbouring region. All
    stay at ``full``; who needs whole steps rounds.
    """
    out = x[rng.integers(0, len(x), n)].astype(np.float64)
    kind = rng.integers(0, 4, n)
    mixed = np.flatnonzero(kind == 2)
    out[mixed] = x[rng.integers(0, len(x), (len(mixed), x.shape[1])), np.arange(x.shape[1])]
    grows = (kind == 0) | (kind == 2)
    out[grows] *= rng.uniform(1.0, 4.0, (int(grows.sum()), 1))
    out[kind == 1] += x[rng.integers(0, len(x), int((kind == 1).sum()))]
    many = rng.integers(1, MOST_DEPOSITS + 1, n)
    image = out.reshape(n, *shape)
    for k in range(MOST_DEPOSITS):
        rows = np.flatnonzero((kind == 3) & (k < many))
        phi, eta = rng.integers(0, shape[0], len(rows)), rng.integers(0, shape[1], len(rows))
        et = np.exp(rng.uniform(np.log(deposits[0]), np.log(deposits[1]), len(rows)))
        shared = rng.uniform(0.0, 0.5, len(rows)) * et
        aside = rng.integers(0, 2, len(rows))
        image[rows, phi, eta] += et - shared
        image[rows, (phi + aside) % shape[0], np.clip(eta + 1 - aside, 0, shape[1] - 1)] += shared
    return np.minimum(out, full).astype(np.float32)
