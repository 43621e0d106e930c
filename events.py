"""What the halls hand to each other: feature sets, events, windows, and the hash that makes folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from .errors import FeatureError, InputError

#: One row's identity. ``file_hi`` and ``file_lo`` are the two halves of the input file's UUID.
IDENTITY = np.dtype(
    [("run", "<u4"), ("luminosityBlock", "<u4"), ("event", "<u8"), ("file_hi", "<u8"), ("file_lo", "<u8")]
)


class Window(NamedTuple):
    """A half-open interval of the hunted mass, in the mass column's unit (GeV)."""

    low: float
    high: float

    def contains(self, mass: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which masses lie inside, shape (n,)."""
        return (mass >= self.low) & (mass < self.high)

    @property
    def centre(self) -> float:
        """The middle of the window."""
        return 0.5 * (self.low + self.high)


@dataclass(frozen=True)
class Column:
    """One named number per event: its unit, its allowed range (None: unbounded), one line of meaning.

    ``step``: what 1 stands for where trigger hardware counts, in the column's unit; None where no hardware has the column.
    """

    name: str
    unit: str
    meaning: str
    low: float | None = None
    high: float | None = None
    step: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without the step of a column that has none (as it was written before there were steps)."""
        raw = asdict(self)
        return raw if self.step is not None else {k: v for k, v in raw.items() if k != "step"}


@dataclass(frozen=True)
class FeatureSet:
    """The columns of ``Events.x`` in order, the hunted mass (None: there is none), and columns only carried along.

    ``extras`` travel in the Parquet output (pile-up count, kinematics for plots) but no score ever sees them.
    """

    name: str
    columns: tuple[Column, ...]
    mass: Column | None = None
    extras: tuple[Column, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in the order of ``Events.x``."""
        return tuple(c.name for c in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` undoes it."""
        return {
            "name": self.name, "columns": [c.to_json() for c in self.columns],
            "mass": None if self.mass is None else self.mass.to_json(), "extras": [c.to_json() for c in self.extras],
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FeatureSet:
        """Rebuild a feature set written by `to_json`."""

        def columns(key: str) -> tuple[Column, ...]:
            return tuple(Column(**c) for c in raw[key])

        mass = Column(**raw["mass"]) if raw["mass"] is not None else None
        return cls(name=raw["name"], columns=columns("columns"), mass=mass, extras=columns("extras"))

    @cached_property
    def digest(self) -> str:
        """sha256 of the definition: equal digests mean equal columns, units and order.

        Steps are left out: they change no number, and columns and models written before there were steps stay good.
        """

        def plain(columns: Sequence[Column]) -> tuple[Column, ...]:
            return tuple(replace(c, step=None) for c in columns)

        mass = self.mass and replace(self.mass, step=None)
        bare = replace(self, columns=plain(self.columns), mass=mass, extras=plain(self.extras))
        return hashlib.sha256(json.dumps(bare.to_json(), sort_keys=True).encode()).hexdigest()

    def require_same(self, other: FeatureSet, mine: str, theirs: str) -> None:
        """Raise `FeatureError` naming both sides' first differing column unless ``other`` has the same columns."""
        if len(self) != len(other):
            raise FeatureError(
                f"{mine} has {len(self)} columns ('{self.name}'), {theirs} has {len(other)} ('{other.name}'); "
                "process the data and train the model with the same feature set"
            )
        for i, (a, b) in enumerate(zip(self.columns, other.columns, strict=True)):
            if a.name != b.name or a.unit != b.unit:
                raise FeatureError(
                    f"column {i}: {mine} has {a.name} [{a.unit}], {theirs} has {b.name} [{b.unit}]; "
                    "process the data and train the model with the same feature set"
                )


@dataclass(frozen=True)
class Events:
    """A table of events. The hunted mass is kept apart from ``x`` so that nobody trains on it by accident.

    x (n, d) float32, mass (n,) float64 (NaN where the feature set has none), weight (n,) float64, may be negative,
    identity (n,) of dtype `IDENTITY`.
    """

    x: NDArray[np.float32]
    mass: NDArray[np.float64]
    weight: NDArray[np.float64]
    identity: NDArray[np.void]
    features: FeatureSet = field(repr=False)

    def __post_init__(self) -> None:
        n = len(self.x)
        if self.x.ndim != 2 or self.x.shape[1] != len(self.features):
            raise FeatureError(
                f"x has shape {self.x.shape}, feature set '{self.features.name}' has {len(self.features)} columns"
            )
        for name in ("mass", "weight", "identity"):
            if getattr(self, name).shape != (n,):
                raise FeatureError(f"{name} has shape {getattr(self, name).shape}, expected ({n},)")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, which: NDArray[Any] | slice) -> Events:
        """The events a mask, an index array or a slice selects."""
        return Events(
            self.x[which], self.mass[which], self.weight[which], self.identity[which], self.features
        )

    @staticmethod
    def concatenate(parts: Sequence[Events]) -> Events:
        """Join non-empty ``parts``, which must share one feature set."""
        first = parts[0].features
        for part in parts[1:]:
            first.require_same(part.features, "the first part", "a later part")
        return Events(
            np.concatenate([p.x for p in parts]),
            np.concatenate([p.mass for p in parts]),
            np.concatenate([p.weight for p in parts]),
            np.concatenate([p.identity for p in parts]),
            first,
        )


def make_identity(
    run: NDArray[Any], luminosity_block: NDArray[Any], event: NDArray[Any], file: UUID
) -> NDArray[np.void]:
    """Identity rows of one file's events, shape (n,), dtype `IDENTITY`; a number that does not fit is an `InputError`."""
    out = np.empty(len(event), dtype=IDENTITY)
    for name, values in (("run", run), ("luminosityBlock", luminosity_block), ("event", event)):
        limit = np.iinfo(IDENTITY[name]).max
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) <= limit:
            raise InputError(
                f"{name} has values from {values.min()} to {values.max()}, expected 0 to {limit}"
            )
    out["run"], out["luminosityBlock"], out["event"] = run, luminosity_block, event
    out["file_hi"], out["file_lo"] = file.int >> 64, file.int & (2**64 - 1)
    return out


def identity_hash(identity: NDArray[np.void], seed: int = 0) -> NDArray[np.uint64]:
    """A 64-bit hash of (run, luminosityBlock, event, seed), shape (n,).

    The file is left out on purpose: merging or splitting files must not move an event to another fold.
    """
    from .hashing import (
        hash_kernel,  # Numba takes a moment to import, and whoever only looks at features needs none
    )

    return hash_kernel(
        identity["run"], identity["luminosityBlock"], identity["event"], np.uint64(seed % 2**64)
    )


def identity_uniform(identity: NDArray[np.void], seed: int = 0) -> NDArray[np.float64]:
    """A number in [0, 1) of each event, shape (n,): the upper 53 bits of `identity_hash`."""
    return (identity_hash(identity, seed) >> np.uint64(11)).astype(np.float64) / 2.0**53


def fold_of(identity: NDArray[np.void], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each event, 0 .. folds-1, shape (n,): a function of its identity and the seed alone."""
    return (identity_hash(identity, seed) % np.uint64(folds)).astype(np.int64)


def in_identity_order(events: Events, seed: int = 0, n: int | None = None) -> Events:
    """The events, or the first ``n`` of them, in an order that their identities and the seed decide, not that of the rows."""
    return events.take(np.argsort(identity_hash(events.identity, seed), kind="stable")[:n])


def drawn_by_weight(events: Events, seed: int = 0) -> NDArray[np.int64]:
    """As many rows as there are events, each event as often as its weight asks, to within one; equal weights: every row once.

    Systematic resampling along the rows as they are, from one random start: bring them `in_identity_order` first. A training whose
    batches need means of equal events learns from these rows, where single heavy weights would be most of a batch. Weights must not
    be negative, nor all zero.
    """
    n, total = len(events), np.cumsum(events.weight)
    start = np.random.default_rng([seed, 0xD4A7]).random()
    rows = np.searchsorted(total, (np.arange(n) + start) * (total[-1] / n), side="right")
    return np.minimum(rows, n - 1).astype(np.int64)
