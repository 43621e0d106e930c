"""One chunk of events in memory, with its scores and variations, and as the columns of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import IDENTITY, Events

#: The variation that is none.
NOMINAL = "nominal"


@dataclass(frozen=True)
class Varied:
    """The events of a chunk under one kinematic variation: another selection, mass and score, maybe other features.

    ``rows`` (n,): which entries of the chunk's range they are, ascending; None: the first n.
    """

    label: str
    events: Events
    scores: dict[str, NDArray[np.float64]]
    rows: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Chunk:
    """One Parquet file: all that came of one (file, entry range), and the ledger row that proves it.

    ``ledger`` holds at least uuid, start, stop, n_in, n_out; ``histograms`` an array (2, variations, cuts, bins) of values
    and variances, or None; ``varied`` the kinematic variations; ``weights`` (n,) per weight variation of ``events``;
    ``rows`` as in `Varied`.
    """

    events: Events
    extras: dict[str, NDArray[Any]]
    scores: dict[str, NDArray[np.float64]]
    ledger: dict[str, Any]
    histograms: NDArray[np.float64] | None = None
    varied: tuple[Varied, ...] = ()
    weights: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rows: NDArray[np.int64] | None = None

    @property
    def variations(self) -> list[str]:
        """The labels of the histograms' second axis."""
        return [NOMINAL, *(v.label for v in self.varied), *self.weights]


def _transposed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (n, d) column by column (d, n): as it lies, or copied in blocks that stay in the cache."""
    if x.flags.f_contiguous:
        return x.T
    out = np.empty((x.shape[1], len(x)), x.dtype)
    for start in range(0, len(x), 512):
        out[:, start : start + 512] = x[start : start + 512].T
    return out


#: Where the events of a variation are among the rows of the file; None: they are all of them, in order.
_Where = NDArray[np.int64] | None


def _place(chunk: Chunk) -> tuple[NDArray[np.void], NDArray[np.float64], list[_Where]]:
    """Identity and weight of all rows, those any variation keeps, in the order of the input; where each one's events are."""
    views = [(chunk.events, chunk.rows), *((v.events, v.rows) for v in chunk.varied)]
    rows = [np.arange(len(e), dtype=np.int64) if r is None else r for e, r in views]
    if all(len(r) == len(rows[0]) and np.array_equal(r, rows[0]) for r in rows[1:]):
        return chunk.events.identity, chunk.events.weight, [None] * len(rows)
    whole = np.zeros(1 + max(int(r[-1]) for r in rows if len(r)), bool)
    for r in rows:
        whole[r] = True
    position = np.cumsum(whole) - 1
    identity = np.empty(int(position[-1]) + 1, IDENTITY)
    weight, where = np.empty(len(identity)), [position[r] for r in rows]
    known = np.zeros(len(identity), bool)
    for (events, _), at in zip(views, where, strict=True):
        new = ~known[at]
        if new.any():
            mine = at[new]
            identity[mine], weight[mine], known[mine] = events.identity[new], events.weight[new], True
    return identity, weight, list(where)


def _spread(values: NDArray[Any], at: _Where, n: int) -> NDArray[Any]:
    """``values`` in ``n`` rows; NaN, or 0 of integers, in the others."""
    if at is None:
        return values
    out = np.full(n, np.nan if values.dtype.kind == "f" else 0, values.dtype)
    out[at] = values
    return out


def columns_of(chunk: Chunk) -> dict[str, NDArray[Any]]:
    """Every column of the file by name: identity, weights, nominal numbers, and those of each kinematic variation."""
    identity, weight, (nominal, *others) = _place(chunk)
    events, n = chunk.events, len(identity)
    out = {key: np.ascontiguousarray(identity[key]) for key in IDENTITY.names or ()} | {"weight": weight}
    out |= {f"weight_{name}": _spread(w, nominal, n) for name, w in chunk.weights.items()}
    mass = events.features.mass
    by_column = _transposed(events.x)
    named = [] if mass is None else [(mass.name, events.mass)]
    named += [(c.name, by_column[i]) for i, c in enumerate(events.features.columns)]
    named += [*chunk.extras.items(), *((f"score_{name}", s) for name, s in chunk.scores.items())]
    out |= {name: _spread(values, nominal, n) for name, values in named}
    if chunk.varied:
        out[f"in_{NOMINAL}"] = _inside(nominal, n)
    for one, at in zip(chunk.varied, others, strict=True):
        out[f"in_{one.label}"] = _inside(at, n)
        if mass is not None:
            out[f"{mass.name}_{one.label}"] = _spread(one.events.mass, at, n)
        out |= {f"score_{name}_{one.label}": _spread(s, at, n) for name, s in one.scores.items()}
    return out


def _inside(at: _Where, n: int) -> NDArray[np.bool_]:
    out = np.full(n, at is None)
    if at is not None:
        out[at] = True
    return out
