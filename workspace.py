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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from .chunks import NOMINAL, Chunk, columns_of
from .errors import InputError
from .events import IDENTITY, Events, FeatureSet

_META = b"elsewhere"


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


def kept_result(path: Path, key: str) -> Any:
    """The ``result`` that an earlier run wrote under ``key``; None where it left none or things have changed since."""
    if not path.exists():
        return None
    try:
        raw = read_json(path)
    except InputError:  # damaged: it is only a result that can be made again
        return None
    return raw["result"] if raw.get("key") == key else None


def digest(*values: Any) -> str:
    """sha256 over the canonical JSON of ``values``: the key that says whether a stage must run again."""
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def chunk_name(uuid: str, start: int, stop: int) -> str:
    """The file name of an entry range, the same on every machine."""
    return f"{uuid}_{start}_{stop}.parquet"


def write_chunk(path: Path, chunk: Chunk) -> None:
    """Write columns and ledger as one file in one rename, so that neither exists without the other.

    A row is an event that the nominal selection or that of a kinematic variation keeps. A variation LABEL has the columns
    in_LABEL (whether its selection keeps the event), MASS_LABEL and score_NAME_LABEL; in_nominal is there where any is.
    """
    columns = columns_of(chunk)
    meta = {
        "features": chunk.events.features.to_json(),
        "scores": list(chunk.scores),
        "weights": list(chunk.weights),
        "kinematic": [v.label for v in chunk.varied],
        "ledger": chunk.ledger,
        "histograms": None if chunk.histograms is None else _packed(chunk.histograms),
    }
    text = json.dumps(meta, default=_plain, sort_keys=True).encode()
    arrays = {name: pa.array(values) for name, values in columns.items()}
    # No column is ever null, so none has levels to write.
    fields = [pa.field(name, values.type, nullable=False) for name, values in arrays.items()]
    table = pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields, metadata={_META: text}))
    encoding = {f.name: "BYTE_STREAM_SPLIT" for f in fields if f.type == pa.float32()}
    encoding["event"] = "DELTA_BINARY_PACKED"
    repeated: Any = ["run", "luminosityBlock", "file_hi", "file_lo", "weight"]
    with (
        atomic(path) as temporary,
        # Nobody reads a part of a chunk by value, so statistics and small pages would only cost. Bytes of floats apart are
        # what LZ4 compresses well, at a third of the time of Zstandard on the floats as they are.
        pq.ParquetWriter(
            temporary, table.schema, compression="lz4", use_dictionary=repeated, column_encoding=encoding,
            write_statistics=False, data_page_size=1 << 22, write_batch_size=1 << 18, write_page_checksum=True,
        ) as file,
    ):  # fmt: skip
        file.write_table(table, row_group_size=max(len(table), 1))


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
    if "kinematic" not in meta:
        raise InputError(f"{path} was written by another version of elsewhere; delete it and process again")
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
    """Read back what `write_chunk` wrote: the nominal events, or those of a kinematic variation, whose features are NaN.

    Raises `InputError` for a damaged file or a variation it does not hold.
    """
    meta = read_chunk_meta(path)
    nominal, features = variation == NOMINAL, FeatureSet.from_json(meta["features"])
    if not nominal and variation not in meta["kinematic"]:
        known = ", ".join([NOMINAL, *meta["kinematic"]])
        raise InputError(f"{path} has no variation '{variation}'; it has {known}")
    suffix = "" if nominal else f"_{variation}"
    mass_name = None if features.mass is None else f"{features.mass.name}{suffix}"
    scores = {name: f"score_{name}{suffix}" for name in meta["scores"]}
    weights = {name: f"weight_{name}" for name in meta["weights"] if nominal}
    own = [c.name for c in (*features.columns, *features.extras) if nominal]
    chosen = f"in_{variation}" if meta["kinematic"] else None
    asked = [*(IDENTITY.names or ()), "weight", mass_name, chosen, *own, *scores.values(), *weights.values()]
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read([name for name in asked if name is not None])
        if chosen is not None:
            table = table.filter(table.column(chosen))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and process again") from error

    def array(name: str) -> NDArray[Any]:
        return table.column(name).to_numpy()

    identity = np.empty(table.num_rows, dtype=IDENTITY)
    for key in IDENTITY.names or ():
        identity[key] = array(key)
    x = np.full((table.num_rows, len(features)), np.nan, dtype=np.float32)
    for i, column in enumerate(features.columns if nominal else ()):
        x[:, i] = array(column.name)
    mass = np.full(table.num_rows, np.nan) if mass_name is None else array(mass_name)
    events = Events(x, mass, array("weight"), identity, features)
    extras = {c.name: array(c.name) for c in features.extras if nominal}
    found = {name: array(column) for name, column in scores.items()}
    varied_weights = {name: array(column) for name, column in weights.items()}
    return Chunk(events, extras, found, meta["ledger"], meta["histograms"], (), varied_weights)


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
