"""A model folder: model.json, weights.safetensors and text files. Nothing that is loaded can run code."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, InputError
from ..events import Events, FeatureSet
from ..workspace import file_digest, read_json, write_json
from .methods import REFERENCES, REPRESENTATIONS, SCORES, WRAPPERS, settings_of

FORMAT = 1
#: The only classes a model folder can name.
KNOWN: Mapping[str, type[Any]] = {
    c.__name__: c for group in (REPRESENTATIONS, REFERENCES, SCORES, WRAPPERS) for c in group
}


def _describe(method: Any) -> dict[str, Any]:
    """Class name and settings, wrapped methods inside."""
    name = type(method).__name__
    if name not in KNOWN:
        raise InputError(f"{name} is not a method that can be stored; known: {', '.join(KNOWN)}")
    settings = {}
    for key in settings_of(type(method)):
        value = getattr(method, key)
        settings[key] = {"method": _describe(value)} if is_dataclass(value) else value
    return {"class": name, "settings": settings}


def _rebuild(description: Mapping[str, Any], where: Path) -> Any:
    name = description["class"]
    if name not in KNOWN:
        raise InputError(f"{where}: class '{name}' is not a method of this version; known: {', '.join(KNOWN)}")
    settings = {}
    for key, value in description["settings"].items():
        if isinstance(value, dict) and set(value) == {"method"}:
            settings[key] = _rebuild(value["method"], where)
        else:
            settings[key] = tuple(value) if isinstance(value, list) else value
    try:
        return KNOWN[name](**settings)
    except TypeError as error:
        raise InputError(f"{where}: {name} does not take these settings ({error})") from error


def save(score: Any, folder: Path, features: FeatureSet, record: Mapping[str, Any]) -> None:
    """Write a fitted score; the folder appears whole or not at all, and replaces an older one.

    ``record``: how it was trained, JSON-ready. ``features``: the columns it takes.
    """
    from safetensors.numpy import save_file

    info, arrays, texts = score.state()
    temporary = folder.with_name(f"{folder.name}.tmp.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary / "weights.safetensors")
    for name, text in texts.items():
        (temporary / f"{name}.txt").write_text(text)
    sums = {p.name: file_digest(p) for p in sorted(temporary.iterdir())}
    whole = {
        "format": FORMAT,
        "method": _describe(score),
        "learnt": info,
        "features": features.to_json(),
        "record": {k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in record.items()},
        "files": sums,
        "sha256": hashlib.sha256("".join(f"{n}{s}" for n, s in sums.items()).encode()).hexdigest(),
    }
    write_json(temporary / "model.json", whole)
    if folder.exists():
        old = folder.with_name(f"{folder.name}.tmp.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def load(folder: Path, features: FeatureSet | None = None) -> tuple[Any, FeatureSet]:
    """Read a model folder back: (score, its feature set).

    Raises `InputError` for a damaged or altered file, `FeatureError` when ``features`` differ from the model's.
    """
    from safetensors.numpy import load_file

    whole = read_json(folder / "model.json")
    try:
        sums, described = whole["files"], whole["method"]
        own = FeatureSet.from_json(whole["features"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'model.json'} is not a model of this version ({error}); train again") from error
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file() or file_digest(path) != expected:
            raise InputError(f"{path} is missing or was altered since it was written; train again")
    if features is not None:
        own.require_same(features, f"model {folder.name}", "the data")
    arrays: dict[str, NDArray[Any]] = load_file(folder / "weights.safetensors")
    texts = {n.removesuffix(".txt"): (folder / n).read_text() for n in sums if n.endswith(".txt")}
    return _rebuild(described, folder).restore(whole["learnt"], arrays, texts), own


def record_of(folder: Path) -> dict[str, Any]:
    """How the model was trained, as `save` was told."""
    return read_json(folder / "model.json")["record"]


@lru_cache(maxsize=64)
def _cached(folder: str, sha256: str, digest: str) -> Any:
    score, features = load(Path(folder))
    if read_json(Path(folder) / "model.json")["sha256"] != sha256:
        raise InputError(f"{folder} was replaced while it was in use; run the stage again")
    if features.digest != digest:
        raise FeatureError(f"{folder} was made for feature set '{features.name}', not for the one of the events")
    return score


@dataclass(frozen=True)
class Stored:
    """A model folder as a scorer: a path and a checksum travel to the workers, which load it once per process."""

    folder: str
    sha256: str

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The model in ``folder`` as it is now."""
        return cls(str(folder.resolve()), read_json(folder / "model.json")["sha256"])

    def score(self, events: Events) -> NDArray[np.float64]:
        """The stored model's score, shape (n,)."""
        return _cached(self.folder, self.sha256, events.features.digest).score(events)
