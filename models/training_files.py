"""Events that stay in a workspace's files: what a method needs to learn from them without holding them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..events import IDENTITY, Events, FeatureSet, identity_hash
from ..workspace import read_chunk_meta
from .training_stream import ParquetSample, Scale, read_table

#: Events that scales are learnt from.
_LOOKED_AT = 100_000


@dataclass(frozen=True)
class EventFiles:
    """Chunks of one feature set, for example ``Workspace.chunks(dataset)``; ``window`` as in `ParquetSample`."""

    paths: tuple[Path, ...]
    window: int = 262_144

    def __post_init__(self) -> None:
        if not self.paths:
            raise InputError("there is no file to learn from; run `elsewhere process` first")

    @cached_property
    def features(self) -> FeatureSet:
        """The feature set of the files; `FeatureError` where two of them differ."""
        sets = [(p, FeatureSet.from_json(read_chunk_meta(p)["features"])) for p in self.paths]
        for path, one in sets[1:]:
            sets[0][1].require_same(one, str(sets[0][0]), str(path))
        return sets[0][1]

    @cached_property
    def _whole(self) -> ParquetSample:
        return ParquetSample(self.paths, self.features.names, window=self.window)

    def __len__(self) -> int:
        return len(self._whole)

    def sample(
        self, scale: Scale | None = None, columns: NDArray[np.int64] | None = None, weighted: bool = True
    ) -> ParquetSample:
        """All columns, or those of these numbers in this order, as a training sample, scaled; ``weighted`` False: all count as one."""
        names = self.features.names
        asked = names if columns is None else tuple(names[i] for i in columns)
        weight = "weight" if weighted else None
        return ParquetSample(self.paths, asked, weight=weight, scale=scale, window=self.window)

    def hashes(self) -> NDArray[np.uint64]:
        """Sorted identity hashes of all events, 8 bytes for each."""
        return np.unique(np.concatenate([identity_hash(i) for _, i in self._identities()]))

    def look(self, seed: int, n: int = _LOOKED_AT) -> Events:
        """The ``n`` events whose identity hash with ``seed`` comes first (all, if there are no more), in that order."""
        part = 1.2 * n / len(self) + 100 / len(
            self
        )  # so many hashes are looked at, to have n of them almost surely
        below = np.uint64(2**64 - 1 if part >= 1 else int(part * 2**64))
        parts = [
            self._block(block, identity, np.flatnonzero(identity_hash(identity, seed) <= below))
            for block, identity in self._identities()
        ]
        found = Events.concatenate(parts)
        return found.take(np.argsort(identity_hash(found.identity, seed), kind="stable")[:n])

    def events(self) -> Iterator[Events]:
        """All events in the order of the files, a row group at a time."""
        for block, identity in self._identities():
            yield self._block(block, identity, np.arange(len(identity)))

    def _block(self, block: int, identity: NDArray[np.void], rows: NDArray[np.int64]) -> Events:
        """These rows of a row group, whose events all have ``identity``."""
        mass = self.features.mass
        names = [*self.features.names, "weight", *([] if mass is None else [mass.name])]
        table = read_table(self._whole.blocks[block], names).take(rows)
        values = [table[name].to_numpy() for name in names]
        x = np.stack(values[: len(self.features)], axis=1).astype(np.float32)
        masses = np.full(len(rows), np.nan) if mass is None else values[-1].astype(np.float64)
        weight = values[len(self.features)].astype(np.float64)
        return Events(x, masses, weight, identity[rows], self.features)

    def _identities(self) -> Iterator[tuple[int, NDArray[np.void]]]:
        names = IDENTITY.names or ()
        for i, block in enumerate(self._whole.blocks):
            table = read_table(block, names)
            out = np.empty(table.num_rows, IDENTITY)
            for name in names:
                out[name] = table[name].to_numpy()
            yield i, out
