"""Epochs of a dense classifier as one compiled loop: gather, forward, gradient, Adam, a batch after the other.

A step of a small network is over before PyTorch has found the next operation. Here nothing stands between the products, a network's
parameters and activations stay in a core's own cache, and no lock is held, so that several networks train in threads. Events are columns:
the innermost loops run over the events of a batch, eight outputs and four inputs at a time. Sums run in an order that depends on the
sizes alone, so a network ends with the same weights whoever trains beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .stacked import BatchSettings, Floats, adam, filled, first_weights

#: Products and sums may be fused and their sums regrouped; numbers that are not finite stay so.
_FREE: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz"},
}


@nb.njit(**_FREE)
def add_product(a: Floats, b: Floats, c: Floats) -> None:
    """c (o, n) += a (o, i) b (i, n); any strides in a, rows of b and c in one piece."""
    outputs, inputs = a.shape
    n = b.shape[1]
    whole = outputs - outputs % 8
    for r in range(0, whole, 8):
        c0, c1, c2, c3 = c[r], c[r + 1], c[r + 2], c[r + 3]
        c4, c5, c6, c7 = c[r + 4], c[r + 5], c[r + 6], c[r + 7]
        for k in range(0, inputs - inputs % 4, 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            p00, p01, p02, p03 = a[r, k], a[r, k + 1], a[r, k + 2], a[r, k + 3]
            p10, p11, p12, p13 = a[r + 1, k], a[r + 1, k + 1], a[r + 1, k + 2], a[r + 1, k + 3]
            p20, p21, p22, p23 = a[r + 2, k], a[r + 2, k + 1], a[r + 2, k + 2], a[r + 2, k + 3]
            p30, p31, p32, p33 = a[r + 3, k], a[r + 3, k + 1], a[r + 3, k + 2], a[r + 3, k + 3]
            p40, p41, p42, p43 = a[r + 4, k], a[r + 4, k + 1], a[r + 4, k + 2], a[r + 4, k + 3]
            p50, p51, p52, p53 = a[r + 5, k], a[r + 5, k + 1], a[r + 5, k + 2], a[r + 5, k + 3]
            p60, p61, p62, p63 = a[r + 6, k], a[r + 6, k + 1], a[r + 6, k + 2], a[r + 6, k + 3]
            p70, p71, p72, p73 = a[r + 7, k], a[r + 7, k + 1], a[r + 7, k + 2], a[r + 7, k + 3]
            for j in range(n):
                x0, x1, x2, x3 = b0[j], b1[j], b2[j], b3[j]
                c0[j] += p00 * x0 + p01 * x1 + p02 * x2 + p03 * x3
                c1[j] += p10 * x0 + p11 * x1 + p12 * x2 + p13 * x3
                c2[j] += p20 * x0 + p21 * x1 + p22 * x2 + p23 * x3
                c3[j] += p30 * x0 + p31 * x1 + p32 * x2 + p33 * x3
                c4[j] += p40 * x0 + p41 * x1 + p42 * x2 + p43 * x3
                c5[j] += p50 * x0 + p51 * x1 + p52 * x2 + p53 * x3
                c6[j] += p60 * x0 + p61 * x1 + p62 * x2 + p63 * x3
                c7[j] += p70 * x0 + p71 * x1 + p72 * x2 + p73 * x3
        _add_rows(a, b, c, r, r + 8, inputs - inputs % 4)
    _add_rows(a, b, c, whole, outputs, 0)


@nb.njit(**_FREE)
def _add_rows(a: Floats, b: Floats, c: Floats, start: int, stop: int, first: int) -> None:
    """Rows ``start`` to ``stop`` of the product, from input ``first`` on: what is left over by the blocks."""
    for r in range(start, stop):
        row = c[r]
        for k in range(first, a.shape[1]):
            p, column = a[r, k], b[k]
            for j in range(len(row)):
                row[j] += p * column[j]


@nb.njit(**_FREE)
def forward(value: Floats, layers: NDArray[np.int64], offsets: NDArray[np.int64], held: Floats) -> None:
    """Fill ``held`` (sum of widths, n), whose first rows are the inputs, with every layer's outputs; its last row is the logits."""
    start = 0
    for k in range(len(layers)):
        o, i = layers[k]
        weight = value[offsets[2 * k] : offsets[2 * k] + o * i].reshape(o, i)
        bias = value[offsets[2 * k + 1] : offsets[2 * k + 1] + o]
        out = held[start + i : start + i + o]
        for r in range(o):
            out[r, :] = bias[r]
        add_product(weight, held[start : start + i], out)
        if k < len(layers) - 1:
            for r in range(o):
                row = out[r]
                for j in range(len(row)):
                    row[j] = max(row[j], np.float32(0.0))
        start += i


@nb.njit(**_FREE)
def losses(logit: Floats, y: Floats, weight: Floats, delta: Floats) -> float:
    """Sum of weight * cross entropy; ``delta`` becomes its derivative by the logits. All (n,)."""
    total = 0.0
    for j in range(len(logit)):
        z = logit[j]
        e = np.exp(-abs(z))
        p = np.float32(1.0) / (np.float32(1.0) + e)
        delta[j] = ((p if z >= 0 else np.float32(1.0) - p) - y[j]) * weight[j]
        total += (max(z, np.float32(0.0)) + math.log1p(e) - y[j] * z) * weight[j]
    return total


@nb.njit(**_FREE)
def slopes(delta: Floats, source: Floats, slope: Floats) -> None:
    """slope (o, i) = delta (o, n) source (i, n)^T: sums over events, sixteen at a time."""
    outputs, inputs = slope.shape
    down, along = outputs - outputs % 4, inputs - inputs % 4
    for r in range(0, down, 4):
        d0, d1, d2, d3 = delta[r], delta[r + 1], delta[r + 2], delta[r + 3]
        for f in range(0, along, 4):
            s0, s1, s2, s3 = source[f], source[f + 1], source[f + 2], source[f + 3]
            a00 = a01 = a02 = a03 = a10 = a11 = a12 = a13 = np.float32(0.0)
            a20 = a21 = a22 = a23 = a30 = a31 = a32 = a33 = np.float32(0.0)
            for j in range(len(d0)):
                x0, x1, x2, x3 = d0[j], d1[j], d2[j], d3[j]
                y0, y1, y2, y3 = s0[j], s1[j], s2[j], s3[j]
                a00, a01, a02, a03 = a00 + x0 * y0, a01 + x0 * y1, a02 + x0 * y2, a03 + x0 * y3
                a10, a11, a12, a13 = a10 + x1 * y0, a11 + x1 * y1, a12 + x1 * y2, a13 + x1 * y3
                a20, a21, a22, a23 = a20 + x2 * y0, a21 + x2 * y1, a22 + x2 * y2, a23 + x2 * y3
                a30, a31, a32, a33 = a30 + x3 * y0, a31 + x3 * y1, a32 + x3 * y2, a33 + x3 * y3
            slope[r, f], slope[r, f + 1], slope[r, f + 2], slope[r, f + 3] = a00, a01, a02, a03
            slope[r + 1, f], slope[r + 1, f + 1], slope[r + 1, f + 2], slope[r + 1, f + 3] = (
                a10,
                a11,
                a12,
                a13,
            )
            slope[r + 2, f], slope[r + 2, f + 1], slope[r + 2, f + 2], slope[r + 2, f + 3] = (
                a20,
                a21,
                a22,
                a23,
            )
            slope[r + 3, f], slope[r + 3, f + 1], slope[r + 3, f + 2], slope[r + 3, f + 3] = (
                a30,
                a31,
                a32,
                a33,
            )
    for r in range(outputs):
        d = delta[r]
        for f in range(along if r < down else 0, inputs):
            s, total = source[f], np.float32(0.0)
            for j in range(len(d)):
                total += d[j] * s[j]
            slope[r, f] = total


@nb.njit(**_FREE)
def backward(
    value: Floats,
    gradient: Floats,
    layers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    held: Floats,
    spare: Floats,
) -> None:
    """The gradient, from what `forward` left in ``held`` and the derivatives by the logits in ``spare[0, 0]``.

    ``spare`` (2, widest, n) is room for what is in between.
    """
    start = held.shape[0] - 1
    here = 0
    for k in range(len(layers) - 1, -1, -1):
        o, i = layers[k]
        start -= i
        source, delta = held[start : start + i], spare[here, :o]
        w, b = offsets[2 * k], offsets[2 * k + 1]
        slopes(delta, source, gradient[w : w + o * i].reshape(o, i))
        for r in range(o):
            row, total = delta[r], np.float32(0.0)
            for j in range(len(row)):
                total += row[j]
            gradient[b + r] = total
        if k:
            before = spare[1 - here, :i]
            for r in range(i):
                before[r, :] = np.float32(0.0)
            add_product(value[w : w + o * i].reshape(o, i).T, delta, before)
            for r in range(i):
                d, s = before[r], source[r]
                for j in range(len(d)):
                    d[j] = d[j] if s[j] > 0 else np.float32(0.0)
            here = 1 - here


@nb.njit(**_FREE)
def _gather(
    sample: tuple[Floats, Floats, Floats], rows: NDArray[np.int64], scale: Any, held: Floats, labels: Floats
) -> None:
    """Put the events ``rows`` of ``sample`` in place: inputs as first rows of ``held``, label and weight / ``scale`` into ``labels``.

    Columns beyond them become events without weight.
    """
    x, y, weight = sample
    n = len(rows)
    for f in range(x.shape[1]):
        column = held[f]
        for j in range(n):
            column[j] = x[rows[j], f]
        column[n:] = np.float32(0.0)
    for j in range(n):
        labels[0, j], labels[1, j] = y[rows[j]], np.float32(weight[rows[j]] / scale)
    labels[:, n:] = np.float32(0.0)


@nb.njit(**_FREE)
def run_epoch(
    state: Floats,
    steps: NDArray[np.int64],
    layers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    sample: tuple[Floats, Floats, Floats],
    order: NDArray[np.int64],
    batch: int,
    rate: float,
    room: tuple[Floats, Floats, Floats],
) -> float:
    """One pass over the events ``order`` of ``sample`` (x, y, weight); the weighted mean loss.

    ``state`` (4, 1, parameters): value, gradient, first and second moments of Adam. A batch without weight is no step.
    """
    weight = sample[2]
    held, spare, labels = room
    total, norms, live = 0.0, 0.0, np.ones(1, np.bool_)
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        norm = 0.0
        for row in rows:
            norm += weight[row]
        if not norm > 0:
            continue
        _gather(sample, rows, norm, held, labels)
        forward(state[0, 0], layers, offsets, held)
        total += norm * losses(held[-1], labels[0], labels[1], spare[0, 0])
        norms += norm
        backward(state[0, 0], state[1, 0], layers, offsets, held, spare)
        adam(state[0], state[1], state[2], state[3], steps, live, rate)
    return float(total / norms)


@nb.njit(**_FREE)
def mean_loss(
    value: Floats,
    layers: NDArray[np.int64],
    offsets: NDArray[np.int64],
    sample: tuple[Floats, Floats, Floats],
    room: tuple[Floats, Floats, Floats],
) -> float:
    """Weighted mean cross entropy of all events of ``sample``."""
    held, spare, labels = room
    total, norm, n = 0.0, 0.0, held.shape[1]
    for first in range(0, len(sample[0]), n):
        _gather(sample, np.arange(first, min(first + n, len(sample[0]))), 1.0, held, labels)
        forward(value, layers, offsets, held)
        total += losses(held[-1], labels[0], labels[1], spare[0, 0])
        for j in range(n):
            norm += labels[1, j]
    return float(total / norm)


@dataclass
class Network:
    """A network in training on the processor: its parameters, Adam's moments, and the memory its steps work in."""

    settings: BatchSettings
    seed: int

    def __post_init__(self) -> None:
        settings = self.settings
        widths = [settings.layers[0][1], *(o for o, _ in settings.layers)]
        n, widest = filled(settings.batch), max(widths)
        self.layers, self.offsets = np.array(settings.layers), np.array(settings.offsets)
        self.state = np.zeros((4, 1, settings.offsets[-1]), np.float32)
        self.state[0, 0] = first_weights(self.seed, settings)
        self.steps = np.zeros(1, np.int64)
        self.room = (
            np.zeros((sum(widths), n), np.float32),
            np.zeros((2, widest, n), np.float32),
            np.zeros((2, n), np.float32),
        )

    @property
    def value(self) -> Floats:
        """The parameters, (parameters,)."""
        return self.state[0, 0]

    def epoch(self, sample: tuple[Floats, Floats, Floats], order: NDArray[np.int64], rate: float) -> float:
        """Learn from the events ``order`` of ``sample`` (x, y, weight), batch after batch; the weighted mean loss."""
        return run_epoch(
            self.state,
            self.steps,
            self.layers,
            self.offsets,
            sample,
            order,
            self.settings.batch,
            rate,
            self.room,
        )

    def loss(self, sample: tuple[Floats, Floats, Floats]) -> float:
        """Weighted mean cross entropy of ``sample``."""
        return mean_loss(self.value, self.layers, self.offsets, sample, self.room)
