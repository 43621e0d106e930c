"""A training sample that stays in Parquet files: read row group by row group, shuffled in windows, never held whole.

The order of an epoch is a function of seed and epoch alone. The row groups (blocks) are put in a drawn order and cut into windows of at
least ``window`` rows; the rows of a window are permuted. A window that holds the whole sample gives the very order of a sample in
memory. Whoever reads the blocks only brings them in the order that is asked for: a thread of this process, or Ray Data. As the orders
are known beforehand, reading goes on from one epoch into the next.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..chunks import NOMINAL
from ..errors import ConfigError, FeatureError, InputError

#: Which events the nominal selection keeps, in a chunk that holds those of variations too.
_NOMINAL = f"in_{NOMINAL}"

#: Arrays by name: x (n, d), weight (n,), and y (n,) or (n, k) where there is one.
Rows = dict[str, NDArray[np.float32]]


class Block(NamedTuple):
    """A row group of a file, and how many of its rows count."""

    path: str
    group: int
    rows: int


@dataclass(frozen=True)
class Scale:
    """(x - offset) * factor in double precision, clipped to +- ``clip``: what columns go through on their way into a network."""

    offset: tuple[float, ...]
    factor: tuple[float, ...]
    clip: float = np.inf


@dataclass(frozen=True)
class ParquetSample:
    """What is learnt from, in files: x from ``columns`` (scaled), y from ``target``, weights from ``weight`` (None: all one).

    ``paths``: a workspace's chunks or any Parquet files with these columns, in an order that is part of the result. ``window``: rows
    that are shuffled together. Held at once are at most two windows, two blocks and a batch (with Ray Data one window here, and what
    its object store is given); a block (row group) is read whole.
    Raises `InputError` for files that cannot be read or hold no event, `FeatureError` for columns they lack.
    """

    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    target: tuple[str, ...] = ()
    weight: str | None = "weight"
    scale: Scale | None = None
    window: int = 262_144

    def __post_init__(self) -> None:
        if self.window < 1 or not self.paths or not self.columns:
            raise ConfigError(
                f"found window {self.window}, {len(self.paths)} files, {len(self.columns)} columns; expected at least one of each"
            )
        if self.scale is not None and {len(self.scale.offset), len(self.scale.factor)} != {len(self.columns)}:
            raise ConfigError(f"a scale of {len(self.columns)} columns needs as many offsets and factors")
        object.__setattr__(self, "paths", tuple(Path(p).resolve() for p in self.paths))
        if len(self) == 0:
            raise InputError(f"{self.paths[0]}: a training or validation sample has no events")

    def __len__(self) -> int:
        return sum(block.rows for block in self.blocks)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All row groups that hold an event, in the order of the files."""
        found = []
        for path in self.paths:
            with opened(path) as file:
                self._check(path, file.schema_arrow.names)
                for group in range(file.num_row_groups):
                    n = file.metadata.row_group(group).num_rows
                    if _NOMINAL in file.schema_arrow.names:
                        n = int(file.read_row_group(group, [_NOMINAL])[_NOMINAL].to_numpy().sum())
                    if n:
                        found.append(Block(str(path), group, n))
        return tuple(found)

    @property
    def asked(self) -> list[str]:
        """The columns that are read."""
        return [*self.columns, *self.target, *([] if self.weight is None else [self.weight])]

    def _check(self, path: Path, there: Sequence[str]) -> None:
        for name in self.asked:
            if name not in there:
                close = difflib.get_close_matches(name, there, n=1)
                hint = f"; did you mean '{close[0]}'?" if close else ""
                raise FeatureError(f"{path} has no column '{name}'{hint}")

    def identity(self) -> dict[str, Any]:
        """What the result depends on: settings, and name, size and time of change of every file."""
        files = [[p.name, (at := p.stat()).st_size, at.st_mtime_ns] for p in self.paths]
        scale = None if self.scale is None else [self.scale.offset, self.scale.factor, str(self.scale.clip)]
        return {
            "files": files,
            "columns": self.asked,
            "target": self.target,
            "scale": scale,
            "window": self.window,
        }


#: Gives the rows of the blocks in their order, cut anywhere.
Reader = Callable[[ParquetSample, Iterable[Block]], Iterator[Rows]]


def opened(path: Path | str) -> Any:
    """A Parquet file whose pages are checked as they are read; `InputError` where it cannot be opened."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is not a readable Parquet file ({error}); process it again") from error


def read_table(block: Block, columns: Sequence[str]) -> Any:
    """Columns of the rows of a block that count, as an Arrow table; `InputError` for a damaged file."""
    with opened(block.path) as file:
        chosen = [_NOMINAL] if _NOMINAL in file.schema_arrow.names else []
        try:
            table = file.read_row_group(block.group, [*columns, *chosen], use_threads=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{block.path} is damaged ({error}); process it again") from error
    return table.filter(table[_NOMINAL]) if chosen else table


def read_rows(sample: ParquetSample, block: Block) -> Rows:
    """The rows of a block as the network takes them; `InputError` for numbers that are not finite and weights below 0."""
    table, d = read_table(block, sample.asked), len(sample.columns)
    n = table.num_rows

    def columns(names: Sequence[str]) -> NDArray[np.float32]:
        out = np.empty((len(names), n), np.float32)
        for i, name in enumerate(names):
            out[i] = table[name].to_numpy()
        return out

    how = sample.scale or Scale((0.0,) * d, (1.0,) * d)
    x = scaled_rows(columns(sample.columns), np.array(how.offset), np.array(how.factor), how.clip)
    weight = np.ones(n, np.float32) if sample.weight is None else columns([sample.weight])[0]
    rows = {"x": x, "weight": weight}
    if sample.target:
        y = np.ascontiguousarray(columns(sample.target).T)
        rows["y"] = y[:, 0] if y.shape[1] == 1 else y
    for name, values in rows.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"{block.path}: {name} of a training sample must be finite; look at the processor's output"
            )
    if n and weight.min() < 0:
        raise InputError(f"{block.path}: weights of a training sample must not be negative")
    return rows


@nb.njit(cache=True, nogil=True)
def scaled_rows(
    columns: NDArray[np.float32], offset: NDArray[np.float64], factor: NDArray[np.float64], clip: float
) -> NDArray[np.float32]:
    """Columns (d, n) as scaled rows (n, d), in pieces that stay in the cache; the arithmetic of `networks.dense.scaled_columns`."""
    d, n = columns.shape
    out = np.empty((n, d), np.float32)
    for start in range(0, n, 256):
        stop = min(start + 256, n)
        for j in range(d):
            subtract, multiply = offset[j], factor[j]
            for i in range(start, stop):
                value = (np.float64(columns[j, i]) - subtract) * multiply
                out[i, j] = (
                    value if np.isnan(value) else min(max(value, -clip), clip)
                )  # NaN stays to be found
    return out


def in_this_process(sample: ParquetSample, blocks: Iterable[Block]) -> Iterator[Rows]:
    """A `Reader`: one thread reads ahead, by a window at most."""
    ahead: deque[tuple[int, Future[Rows]]] = deque()
    following, waiting = iter(blocks), 0
    pool = ThreadPoolExecutor(1, thread_name_prefix="elsewhere-read")
    try:
        while True:
            while not ahead or waiting < sample.window:
                block = next(following, None)
                if block is None:
                    break
                ahead.append((block.rows, pool.submit(read_rows, sample, block)))
                waiting += block.rows
            if not ahead:
                return
            n, done = ahead.popleft()
            waiting -= n
            yield done.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def windows(blocks: Sequence[Block], window: int, rng: np.random.Generator | None) -> list[list[Block]]:
    """The blocks in a drawn order (None: as they are), in groups of at least ``window`` rows; a group is in the order of the files."""
    order = np.arange(len(blocks)) if rng is None else rng.permutation(len(blocks))
    groups: list[list[int]] = [[]]
    held = 0
    for i in order:
        if held >= window:
            groups.append([])
            held = 0
        groups[-1].append(int(i))
        held += blocks[int(i)].rows
    return [[blocks[i] for i in sorted(group)] for group in groups]


class Stream:
    """The pieces of an epoch, one after another in the same memory, cut so that every batch but the last is full.

    ``epochs``: where the training ends if nothing ends it before, so that what follows an epoch may be read while it lasts. `close` ends
    the reading.
    """

    def __init__(self, sample: ParquetSample, batch: int, read: Reader, epochs: int = 0) -> None:
        self.sample, self.batch, self.read, self.epochs = sample, batch, read, epochs
        self.most_held = 0
        self._held: Rows = {}
        self._source: _Source | None = None
        self._follows: tuple[int | None, int] | None = None

    def pieces(self, seed: int | None, epoch: int = 0) -> Iterator[Rows]:
        """The rows of an epoch in the order in which they are to be taken, piece by piece; seed None: as in the files.

        A piece is overwritten by the next one.
        """
        source = self._opened(seed, epoch)
        blocks, groups = self.sample.blocks, self._groups(seed, epoch)
        room = min(len(self.sample), self.sample.window + max(b.rows for b in blocks)) + self.batch
        rng = None if seed is None else np.random.default_rng([seed, epoch])
        left = 0
        try:
            for k, group in enumerate(groups):
                n = sum(block.rows for block in group)
                place = np.arange(n)
                if rng is not None:
                    place[rng.permutation(n)] = np.arange(n)
                self._fill(source, left + place, room)
                held = left + n
                whole = held if k == len(groups) - 1 else held - held % self.batch
                yield {name: a[:whole] for name, a in self._held.items()}
                left = held - whole
                for values in self._held.values():
                    values[:left] = values[whole:held]
            if epoch + 1 < self.epochs:
                self._follows = (seed, epoch + 1)
        finally:
            if self._follows is None:
                self.close()

    def _groups(self, seed: int | None, epoch: int) -> list[list[Block]]:
        drawn = None if seed is None else np.random.default_rng([seed, epoch, _BLOCKS])
        return windows(self.sample.blocks, self.sample.window, drawn)

    def _opened(self, seed: int | None, epoch: int) -> _Source:
        """What is being read, if this epoch is what comes next in it."""
        if self._source is None or self._follows != (seed, epoch):
            self.close()
            following = range(epoch, max(self.epochs, epoch + 1))
            blocks = (b for e in following for group in self._groups(seed, e) for b in group)
            self._source = _Source(self.read(self.sample, blocks))
        self._follows = None
        return self._source

    def close(self) -> None:
        """Stop reading."""
        source, self._source, self._follows = self._source, None, None
        if source is not None:
            source.close()

    def _fill(self, source: _Source, place: NDArray[np.int64], room: int) -> None:
        """Put as many of the rows that follow as there are places into them."""
        at = 0
        while at < len(place):
            rows = source.take(len(place) - at)
            where = place[at : at + len(rows["x"])]
            for name, values in rows.items():
                if name not in self._held:
                    self._held[name] = aligned((room, *values.shape[1:]))
                put(self._held[name].reshape(room, -1), where, values.reshape(len(values), -1))
            at += len(where)
        self.most_held = max(self.most_held, 1 + int(place.max()))


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Memory that begins with a cache line, as PyTorch's own: products of matrices may round by where their numbers lie."""
    n = int(np.prod(shape))
    raw = np.empty(n + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + n].reshape(shape)


@nb.njit(cache=True, nogil=True)
def put(held: NDArray[np.float32], place: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
    """held[place] = rows, both of two axes."""
    for i in range(len(place)):
        held[place[i], :] = rows[i, :]


#: Sets the draws of the blocks' order apart from those of the rows.
_BLOCKS = 0xB10C


class _Source:
    """Rows that come in pieces, handed out in others."""

    def __init__(self, pieces: Iterator[Rows]) -> None:
        self.pieces, self.rows, self.at = pieces, None, 0

    def take(self, most: int) -> Rows:
        """At least one and at most ``most`` of the rows that follow."""
        rows: Rows | None = self.rows
        for _ in count():
            if rows is not None and self.at < len(rows["x"]):
                break
            rows, self.at = next(self.pieces, None), 0
            if rows is None:
                raise InputError(
                    "the files of a training sample have fewer events than when the training began"
                )
        assert rows is not None
        out = {name: a[self.at : self.at + most] for name, a in rows.items()}
        self.rows, self.at = rows, self.at + len(out["x"])
        return out

    def close(self) -> None:
        """Stop reading."""
        if hasattr(self.pieces, "close"):
            self.pieces.close()  # pyright: ignore[reportAttributeAccessIssue]
