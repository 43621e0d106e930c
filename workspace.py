"""One folder per search: what is on disk, under which name, and how it gets there without half-written files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .errors import InputError
from .events import IDENTITY, Events, FeatureSet

_META = b"elsewhere"
#: The variation that is none.
NOMINAL = "nominal"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; flush and rename it on success, remove it on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        try:
            yield temporary
        except OSError as error:
            if error.filename is None and error.errno is not None:  # a full disk does not say where
                raise type(error)(error.errno, error.strerror, str(path)) from error
            raise
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays, paths and tuples as JSON knows them; anything else is an error."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (Path, UUID)):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go into JSON")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically; NaN and infinity are refused, because JSON has neither."""
    text = json.dumps(value, indent=1, default=_plain, allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged or missing one is an `InputError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the stage that makes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}); delete it and run its stage again") from error


def digest(*values: Any) -> str:
    """sha256 over the canonical JSON of ``values``: the key that says whether a stage must run again."""
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class Varied:
    """The events of a chunk under one kinematic variation: another selection, mass and score, maybe other features."""

    label: str
    events: Events
    scores: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Chunk:
    """One Parquet file: all that came of one (file, entry range), and the ledger row that proves it.

    ``ledger`` holds at least uuid, start, stop, n_in, n_out; ``histograms`` an array (2, variations, cuts, bins) of values
    and variances, or None; ``varied`` the kinematic variations; ``weights`` (n,) per weight variation of ``events``.
    """

    events: Events
    extras: dict[str, NDArray[Any]]
    scores: dict[str, NDArray[np.float64]]
    ledger: dict[str, Any]
    histograms: NDArray[np.float64] | None = None
    varied: tuple[Varied, ...] = ()
    weights: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def variations(self) -> list[str]:
        """The labels of the histograms' second axis."""
        return [NOMINAL, *(v.label for v in self.varied), *self.weights]


def chunk_name(uuid: str, start: int, stop: int) -> str:
    """The file name of an entry range, the same on every machine."""
    return f"{uuid}_{start}_{stop}.parquet"


def _transposed(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """x (n, d) column by column (d, n): as it lies, or copied in blocks that stay in the cache."""
    if x.flags.f_contiguous:
        return x.T
    out = np.empty((x.shape[1], len(x)), x.dtype)
    for start in range(0, len(x), 512):
        out[:, start : start + 512] = x[start : start + 512].T
    return out


def _table(
    label: str,
    events: Events,
    chunk: Chunk,
    extras: Mapping[str, Any],
    scores: Mapping[str, Any],
    whole: bool,
) -> pa.Table:
    """The rows of one variation; features and extras are null unless ``whole``."""
    n = len(events)
    columns: dict[str, Any] = {
        "variation": pa.repeat(label, n),
        **{key: np.ascontiguousarray(events.identity[key]) for key in IDENTITY.names or ()},
        "weight": events.weight,
    }
    nominal = label == NOMINAL
    for name in chunk.weights:
        columns[f"weight_{name}"] = chunk.weights[name] if nominal else pa.nulls(n, pa.float64())
    if events.features.mass is not None:
        columns[events.features.mass.name] = events.mass
    by_column = _transposed(events.x) if whole else None
    nothing = pa.nulls(n, pa.float32())
    for i, column in enumerate(events.features.columns):
        columns[column.name] = nothing if by_column is None else by_column[i]
    for name, values in chunk.extras.items():
        columns[name] = extras.get(name, pa.nulls(n, pa.from_numpy_dtype(values.dtype)))
    return pa.table({**columns, **{f"score_{name}": values for name, values in scores.items()}})


def write_chunk(path: Path, chunk: Chunk) -> None:
    """Write columns and ledger as one file in one rename, so that neither exists without the other.

    Row group 0 holds the nominal rows, every further one a kinematic variation.
    """
    groups = [_table(NOMINAL, chunk.events, chunk, chunk.extras, chunk.scores, True)]
    for one in chunk.varied:
        groups.append(_table(one.label, one.events, chunk, {}, one.scores, False))
    meta = {
        "features": chunk.events.features.to_json(),
        "scores": list(chunk.scores),
        "weights": list(chunk.weights),
        "groups": [NOMINAL, *(v.label for v in chunk.varied)],
        "ledger": chunk.ledger,
        "histograms": None if chunk.histograms is None else _packed(chunk.histograms),
    }
    text = json.dumps(meta, default=_plain, sort_keys=True).encode()
    # Columns that are never null have no levels to write.
    full = [all(g.column(i).null_count == 0 for g in groups) for i in range(groups[0].num_columns)]
    fields = [f.with_nullable(not whole) for f, whole in zip(groups[0].schema, full, strict=True)]
    schema = pa.schema(fields, metadata={_META: text})
    floats = {f.name: "BYTE_STREAM_SPLIT" for f in schema if f.type == pa.float32()}
    repeated: Any = ["variation", "run", "luminosityBlock", "file_hi", "file_lo", "weight"]
    with (
        atomic(path) as temporary,
        # Nobody reads a part of a chunk by value, so statistics and small pages would only cost. Bytes of floats apart are
        # what LZ4 compresses well, at a third of the time of Zstandard on the floats as they are.
        pq.ParquetWriter(
            temporary, schema, compression="lz4", use_dictionary=repeated, column_encoding=floats,
            write_statistics=False, data_page_size=1 << 22, write_batch_size=1 << 18, write_page_checksum=True,
        ) as file,
    ):  # fmt: skip
        for table in groups:
            file.write_table(table.cast(schema), row_group_size=max(len(table), 1))


def _packed(values: NDArray[np.float64]) -> dict[str, Any]:
    """An array as text, exactly: histograms of many variations are too many numbers for JSON."""
    whole = np.ascontiguousarray(values, dtype="<f8")
    text = base64.b64encode(zlib.compress(whole.tobytes(), 1)).decode()
    return {"shape": list(whole.shape), "f8": text}


def _unpacked(raw: Mapping[str, Any]) -> NDArray[np.float64]:
    return np.frombuffer(zlib.decompress(base64.b64decode(raw["f8"])), "<f8").reshape(raw["shape"])


def read_chunk_meta(path: Path) -> dict[str, Any]:
    """The metadata of a chunk (features, scores, ledger, histograms) without reading its columns."""
    try:
        raw = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path} is not a readable Parquet file ({error}); delete it and process again"
        ) from error
    if _META not in raw:
        raise InputError(f"{path} was not written by elsewhere; move it out of the workspace")
    meta = json.loads(raw[_META])
    if meta.get("histograms") is not None:
        meta["histograms"] = _unpacked(meta["histograms"])
    return meta


def check_pages(path: Path) -> None:
    """Raise `InputError` unless every page of a chunk has the checksum it was written with."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and process again") from error


def read_chunk(path: Path, variation: str = NOMINAL) -> Chunk:
    """Read back what `write_chunk` wrote: the nominal rows, or those of a kinematic variation, whose features are NaN.

    Raises `InputError` for a damaged file or a variation it does not hold.
    """
    meta = read_chunk_meta(path)
    if variation not in meta["groups"]:
        raise InputError(f"{path} has no variation '{variation}'; it has {', '.join(meta['groups'])}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read_row_group(meta["groups"].index(variation))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and process again") from error
    features = FeatureSet.from_json(meta["features"])

    def array(name: str) -> NDArray[Any]:
        return table.column(name).to_numpy()

    identity = np.empty(table.num_rows, dtype=IDENTITY)
    for key in IDENTITY.names or ():
        identity[key] = array(key)
    x = np.empty((table.num_rows, len(features)), dtype=np.float32)
    for i, column in enumerate(features.columns):
        x[:, i] = array(column.name)
    mass = np.full(table.num_rows, np.nan) if features.mass is None else array(features.mass.name)
    events = Events(x, mass, array("weight"), identity, features)
    extras = {c.name: array(c.name) for c in features.extras if variation == NOMINAL}
    scores = {name: array(f"score_{name}") for name in meta["scores"]}
    weights = {name: array(f"weight_{name}") for name in meta["weights"] if variation == NOMINAL}
    return Chunk(events, extras, scores, meta["ledger"], meta["histograms"], (), weights)


@dataclass(frozen=True)
class Table:
    """A dataset read back whole: events, carried columns and scores, all with the same rows."""

    events: Events
    extras: dict[str, NDArray[Any]]
    scores: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.events)

    def take(self, which: NDArray[Any]) -> Table:
        """The rows a mask or index array selects."""
        return Table(
            self.events.take(which),
            {k: v[which] for k, v in self.extras.items()},
            {k: v[which] for k, v in self.scores.items()},
        )


@dataclass(frozen=True)
class Workspace:
    """The folder of one search; every path in it is made here."""

    root: Path

    def path(self, *parts: str) -> Path:
        """A path inside the workspace."""
        return self.root.joinpath(*parts)

    def chunks(self, dataset: str, kind: str = "columns") -> list[Path]:
        """The chunk files of a dataset in the order of their names. ``kind``: 'columns' or 'scores'."""
        return sorted(self.path(kind, dataset).glob("*.parquet"))

    def read_table(self, dataset: str, kind: str = "columns") -> Table:
        """A whole dataset, rows ordered by (file, entry range)."""
        paths = self.chunks(dataset, kind)
        if not paths:
            raise InputError(
                f"{self.path(kind, dataset)} holds no Parquet file; run `elsewhere process` first"
            )
        parts = [read_chunk(path) for path in paths]
        first = parts[0]
        return Table(
            Events.concatenate([p.events for p in parts]),
            {k: np.concatenate([p.extras[k] for p in parts]) for k in first.extras},
            {k: np.concatenate([p.scores[k] for p in parts]) for k in first.scores},
        )

    def json(self, name: str) -> Any:
        """One of the workspace's JSON files."""
        return read_json(self.path(name))

    def is_current(self, stage: str, key: str) -> bool:
        """Whether ``stage`` has finished with inputs of this digest and its outputs are still there."""
        path = self.path("provenance.json")
        if not path.exists():
            return False
        record = read_json(path)["stages"].get(stage)
        return (
            record is not None
            and record["key"] == key
            and all(self.path(name).exists() for name in record["outputs"])
        )

    def finish(self, stage: str, key: str, outputs: Sequence[str], record: Mapping[str, Any]) -> None:
        """Write down that ``stage`` is done: its inputs' digest, its outputs, times and versions."""
        path = self.path("provenance.json")
        whole = read_json(path) if path.exists() else {"stages": {}}
        whole["stages"][stage] = {"key": key, "outputs": list(outputs), **record}
        write_json(path, whole)
