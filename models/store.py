"""A model folder: model.json, weights.safetensors and text files. Nothing that is loaded can run code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, InputError
from ..events import Events, FeatureSet
from ..workspace import digest, file_digest, read_json, write_json
from .arrays import write_arrays
from .base import Representation, Storable
from .methods import PRIORS, REFERENCES, REPRESENTATIONS, SCORES, TAUGHT, WRAPPERS, settings_of

FORMAT = 2
#: The only classes a model folder can name, unless the one who loads it allows others by their dotted path.
KNOWN: Mapping[str, type[Any]] = {
    c.__name__: c for group in (REPRESENTATIONS, TAUGHT, REFERENCES, SCORES, PRIORS, WRAPPERS) for c in group
}


def _describe(method: Any) -> dict[str, Any]:
    """Class and settings, wrapped methods inside; a class that is not ours by its dotted path."""
    cls = type(method)
    if not is_dataclass(cls) or not isinstance(method, Storable | Representation):
        raise InputError(f"{cls.__name__} cannot be stored: it is no dataclass with state() and restore()")
    settings = {}
    for key in settings_of(cls):
        value = getattr(method, key)
        if is_dataclass(value) and not isinstance(value, type):  # a method, or a group of settings
            value = {"method": _describe(value)} if hasattr(value, "fit") else asdict(value)
        settings[key] = value
    ours = KNOWN.get(cls.__name__) is cls
    return {"class": cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}", "settings": settings}


def _class_of(name: str, where: Path, allow: Sequence[str]) -> type[Any]:
    """The class a folder names: one of ours, or one whose dotted path the caller allowed. Imports nothing else."""
    if name in KNOWN:
        return KNOWN[name]
    if name not in allow:
        raise InputError(
            f"{where}: class '{name}' is not a method of this version; known: {', '.join(KNOWN)}. If you trust it, "
            f"load the folder with allow=('{name}',)"
        )
    module, _, cls = name.rpartition(".")
    try:
        return getattr(import_module(module), cls)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"{where}: class '{name}' cannot be imported ({error}); install its package"
        ) from error


def _rebuild(description: Mapping[str, Any], where: Path, allow: Sequence[str]) -> Any:
    settings = {}
    for key, value in description["settings"].items():
        if isinstance(value, dict) and set(value) == {"method"}:
            settings[key] = _rebuild(value["method"], where, allow)
        else:
            settings[key] = tuple(value) if isinstance(value, list) else value
    cls = _class_of(description["class"], where, allow)
    try:
        return cls(**settings)
    except TypeError as error:
        raise InputError(
            f"{where}: {cls.__name__} does not take these settings ({error}); train again"
        ) from error


def save(score: Any, folder: Path, features: FeatureSet, record: Mapping[str, Any]) -> None:
    """Write a fitted score; the folder appears whole or not at all, and replaces an older one.

    ``record``: how it was trained, JSON-ready. ``features``: the columns it takes. Raises `InputError` for a score
    that has no `Storable` state.
    """
    described = _describe(score)
    info, arrays, texts = score.state()
    temporary = folder.with_name(f"{folder.name}.tmp.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    head = {
        "format": FORMAT,
        "method": described,
        "learnt": info,
        "features": features.to_json(),
        "record": {
            k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in record.items()
        },
    }
    try:
        _write_parts(temporary, head, arrays, texts)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        old = folder.with_name(f"{folder.name}.tmp.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old)
    else:
        temporary.rename(folder)


def _write_parts(
    folder: Path, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]
) -> None:
    """Weights and texts, then model.json with the checksums of all of them and its own."""
    write_arrays(folder / "weights.safetensors", arrays)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    whole = {**head, "files": {p.name: file_digest(p) for p in sorted(folder.iterdir())}}
    write_json(folder / "model.json", {**whole, "sha256": digest(whole)})


def load(
    folder: Path, features: FeatureSet | None = None, allow: Sequence[str] = ()
) -> tuple[Any, FeatureSet]:
    """Read a model folder back: (score, its feature set).

    ``allow``: dotted paths of classes outside the package that the folder may name; they are imported, so name only
    what you trust. Raises `InputError` for a damaged or altered file or a class that is neither ours nor allowed,
    `FeatureError` when ``features`` differ from the model's.
    """
    whole = _checked(folder)
    own = FeatureSet.from_json(whole["features"])
    if features is not None:
        own.require_same(features, f"model {folder.name}", "the data")
    arrays, texts = _read_parts(folder, whole["files"])
    return _rebuild(whole["method"], folder, allow).restore(whole["learnt"], arrays, texts), own


def _read_parts(folder: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Arrays and texts by name; what is neither safetensors nor text is an `InputError` that names it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / "weights.safetensors"
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}); train again") from error
    texts = {}
    for name in names:
        if name.endswith(".txt"):
            try:
                texts[name.removesuffix(".txt")] = (folder / name).read_text()
            except UnicodeDecodeError as error:
                raise InputError(f"{folder / name} is not text ({error}); train again") from error
    return arrays, texts


def _checked(folder: Path) -> dict[str, Any]:
    """model.json, after its own checksum and those of all files it lists have been compared."""
    path = folder / "model.json"
    whole = read_json(path)
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise InputError(f"{path} is not a model of this version (format {FORMAT}); train again")
    rest = {k: v for k, v in whole.items() if k != "sha256"}
    if whole.get("sha256") != digest(rest):
        raise InputError(f"{path} was altered since it was written; train again")
    for name, expected in whole["files"].items():
        part = folder / name
        if not part.is_file() or file_digest(part) != expected:
            raise InputError(f"{part} is missing or was altered since it was written; train again")
    return whole


def record_of(folder: Path) -> dict[str, Any]:
    """How the model was trained, as `save` was told."""
    return read_json(folder / "model.json")["record"]


class Trained(NamedTuple):
    """A network's training inside a stored model: ``place`` without numbers ("inner"), fold or member, what `TrainingRecord` and the
    latent space's record say (None where there is none)."""

    place: str
    number: str
    record: dict[str, Any]
    latent: dict[str, Any] | None


def trainings_of(folder: Path) -> list[Trained]:
    """Every training that a stored model remembers, in the order of its parts; none for trees and closed forms."""
    return list(_trainings(read_json(folder / "model.json")["learnt"], ()))


def _trainings(node: Any, path: tuple[str, ...]) -> Iterator[Trained]:
    if isinstance(node, list):
        for i, part in enumerate(node):
            yield from _trainings(part, (*path, str(i)))
    if not isinstance(node, dict):
        return
    for name, record in node.items():
        if name.endswith("record") and isinstance(record, dict) and "train_loss" in record:
            names = [p for p in path if not p.isdigit() and p != "members"]
            part = name.removesuffix("record").rstrip("_")
            place = " ".join([*names, *([part] if part else [])]) or "model"
            yield Trained(place, ".".join(p for p in path if p.isdigit()), record, node.get("latent"))
        else:
            yield from _trainings(record, (*path, name))


@lru_cache(maxsize=64)
def _cached(folder: str, sha256: str, columns: str) -> Any:
    if not Path(
        folder
    ).is_dir():  # a worker without the client's disk was sent its models under their checksums
        roots = os.environ.get("ELSEWHERE_MODELS", "").split(os.pathsep)
        folder = next((f"{r}/{sha256}" for r in roots if r and Path(r, sha256).is_dir()), folder)
    score, features = load(Path(folder))
    if read_json(Path(folder) / "model.json")["sha256"] != sha256:
        raise InputError(f"{folder} was replaced while it was in use; run the stage again")
    if features.digest != columns:
        raise FeatureError(
            f"{folder} was made for feature set '{features.name}', not for the one of the events"
        )
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
