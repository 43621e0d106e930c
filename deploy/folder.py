"""A firmware folder: written beside its final place, sealed with the checksums of its files, renamed when it is whole."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..events import FeatureSet
from ..fixed import Fixed
from ..workspace import file_digest, write_json
from .emulator import RECORD, InputScale, content_digest
from .fixedpoint import BitReport


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A draft folder beside ``folder`` that takes its place on success and disappears on any failure."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    stamp = f"{os.getpid()}.{secrets.token_hex(4)}"
    draft, old = (folder.with_name(f"{folder.name}.{kind}.{stamp}") for kind in ("tmp", "old"))
    draft.mkdir()
    try:
        yield draft
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def integer_thresholds(values: Mapping[str, float], kind: Fixed) -> dict[str, dict[str, float | int]]:
    """Each threshold as a score and as the integer the hardware compares with (the next one up)."""
    return {k: {"score": v, "integer": int(np.ceil(np.ldexp(v, kind.fraction)))} for k, v in values.items()}


@dataclass(frozen=True)
class FirmwareRecord:
    """What ``firmware.json`` says of any firmware; ``packages`` made it, ``about`` is what only some have."""

    features: FeatureSet
    scale: InputScale
    score_type: Fixed
    bits: BitReport
    packages: tuple[str, ...]
    about: Mapping[str, Any]

    def write(self, draft: Path, library: str, thresholds: Mapping[str, float]) -> None:
        """Write it into ``draft`` as the last file, with the checksum of every other; ``library``: the emulator's name."""
        files = {str(p.relative_to(draft)): file_digest(p) for p in sorted(draft.rglob("*")) if p.is_file()}
        files.pop(RECORD, None)
        record: dict[str, Any] = {
            "features": self.features.to_json(),
            "scale": {"offset": self.scale.offset, "factor": self.scale.factor, "shift": self.scale.shift},
            "score_type": str(self.score_type),
            "thresholds": integer_thresholds(thresholds, self.score_type),
            **self.about,
            "verified": {
                "events": self.bits.events, "mismatches": self.bits.mismatches, "values": self.bits.values,
            },
            "versions": {name: importlib.metadata.version(name) for name in self.packages}
            | {"python": platform.python_version(), "machine": platform.machine()},
            "library": library,
            "files": files,
        }  # fmt: skip
        record["digest"] = content_digest(record)
        write_json(draft / RECORD, record)
