"""The firmware as a score in the stream: the compiled emulator, checked and loaded wherever it is needed.

Neither torch nor hls4ml is imported here, so a worker needs only the firmware folder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..events import Events, FeatureSet
from ..workspace import digest, file_digest, read_json
from .library import Library, open_library

#: The name of the record every firmware folder has.
RECORD = "firmware.json"


@dataclass(frozen=True)
class InputScale:
    """How a physical number becomes a firmware input: ``(x - offset) * factor``, one offset and factor per column.

    Level-1 hardware shifts bits, so factors are powers of two (2312.10009); `shift` gives them as right shifts.
    """

    offset: tuple[float, ...]
    factor: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.offset) != len(self.factor):
            raise InputError(f"the input scale has {len(self.offset)} offsets and {len(self.factor)} factors")
        if not all(
            np.isfinite(o) and np.isfinite(f) and f > 0 for o, f in zip(self.offset, self.factor, strict=True)
        ):
            raise InputError("the input scale needs finite offsets and positive factors")

    @property
    def shift(self) -> tuple[int, ...] | None:
        """Right shifts (negative: left) if every factor is a power of two, else None."""
        mantissa, exponent = np.frexp(np.array(self.factor))
        return tuple(int(1 - e) for e in exponent) if (mantissa == 0.5).all() else None

    def apply(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """Scaled inputs of the raw columns x (n, d), as doubles; the cast to fixed point comes after."""
        return (np.asarray(x, dtype=np.float64) - np.array(self.offset)) * np.array(self.factor)


@dataclass(frozen=True)
class FirmwareFolder:
    """An exported firmware folder whose files were found to be what was written."""

    path: Path
    record: dict[str, Any]
    features: FeatureSet
    scale: InputScale

    @property
    def hls(self) -> Path:
        """The folder of the C++ project."""
        return self.path / "hls"

    def library(self) -> Library:
        """The compiled emulator, loaded once per process."""
        return open_library(self.path / self.record["library"], self.hls, len(self.features))


def content_digest(record: dict[str, Any]) -> str:
    """sha256 over what the score depends on; thresholds may be added to a folder without changing it."""
    return digest(record["features"], record["scale"], record["files"], record["library"])


def open_folder(path: Path) -> FirmwareFolder:
    """Read a firmware folder and check every file's sha256; raises `InputError` naming the first file that differs."""
    record = read_json(path / RECORD)
    try:
        features = FeatureSet.from_json(record["features"])
        scale = InputScale(tuple(record["scale"]["offset"]), tuple(record["scale"]["factor"]))
        files, stamp, _ = record["files"], record["digest"], record["files"][record["library"]]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path / RECORD} is not a firmware record ({error!r}); export the firmware again"
        ) from error
    for name, expected in files.items():
        if not (path / name).is_file():
            raise InputError(f"{path / name} is missing; export the firmware again")
        if file_digest(path / name) != expected:
            raise InputError(
                f"{path / name} was changed after the export (sha256 differs); export the firmware again"
            )
    if content_digest(record) != stamp:
        raise InputError(f"{path / RECORD} was changed after the export; export the firmware again")
    return FirmwareFolder(path, record, features, scale)


@dataclass
class FirmwareScore:
    """The score that the firmware computes, bit by bit, for events in physical units.

    Holds the folder and its checksum only; a copy sent to another process loads the library there at first use.
    """

    folder: Path
    sha256: str = ""
    _opened: FirmwareFolder | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder).resolve()
        self.sha256 = str(self._open().record["digest"])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "sha256": self.sha256, "_opened": None}

    def _open(self) -> FirmwareFolder:
        if self._opened is None:
            opened = open_folder(self.folder)
            if self.sha256 and opened.record["digest"] != self.sha256:
                raise InputError(
                    f"{self.folder} was exported again since this score was made; make the score again"
                )
            self._opened = opened
        return self._opened

    @property
    def features(self) -> FeatureSet:
        """The columns the firmware was made for."""
        return self._open().features

    def score(self, events: Events) -> NDArray[np.float64]:
        """One number per event, shape (n,), exact multiples of the score's step.

        Raises `FeatureError` for other columns, `InputError` for inputs that are not finite.
        """
        folder = self._open()
        folder.features.require_same(events.features, f"the firmware in {self.folder}", "the events")
        return folder.library().score(folder.scale.apply(events.x))

    def speed(self, x: NDArray[Any]) -> float:
        """Events per second of CPU time on one core for raw columns x (n, d), scaling included."""
        folder = self._open()
        library = folder.library()
        start = time.process_time()
        library.score(folder.scale.apply(x))
        return len(x) / (time.process_time() - start)
