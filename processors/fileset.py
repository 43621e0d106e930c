"""From what a user writes to a list of files: paths, globs, folders, root:// URLs, coffea filesets."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, InputError


def is_url(path: str) -> bool:
    """Whether a path is remote (root://, https://, ...)."""
    return "://" in path


def stored_end(path: Path) -> tuple[int, int]:
    """(fEND of a ROOT file's header, the file's size) in bytes; they differ when the file was cut or appended to."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(64)
    if size == 0:
        raise InputError("is empty")
    if head[:4] != b"root":
        hint = ": it looks like a web page, so a login or proxy may have expired" if b"<" in head[:16] else ""
        raise InputError(f"is not a ROOT file{hint}")
    if len(head) < 24:
        raise InputError(f"is cut short: {size} bytes are left of its header")
    version = int.from_bytes(head[4:8], "big")
    end = int.from_bytes(head[12:20] if version >= 1_000_000 else head[12:16], "big")
    return end, size


def discover(pattern: str, folder: Path) -> list[str]:
    """Files a path, glob or folder means, relative to ``folder``; a URL stays as it is. A plain path need not exist:
    the preflight lists everything that is missing at once."""
    if is_url(pattern):
        return [pattern]
    path = Path(pattern).expanduser()
    path = path if path.is_absolute() else folder / path
    if glob.has_magic(str(path)):
        return sorted(glob.glob(str(path), recursive=True))
    if path.is_dir():
        return sorted(str(p) for p in path.glob("*.root"))
    return [str(path)]


def _paths(dataset: str, files: Any, folder: Path, where: Path) -> list[str]:
    names = list(files) if isinstance(files, (dict, list)) else [files]
    if isinstance(files, dict):
        trees = [v if isinstance(v, str) else (v or {}).get("object_path") for v in files.values()]
        other = [t for t in trees if t not in ("Events", None)]
        if other:
            raise ConfigError(
                f"{where}: dataset '{dataset}' asks for tree '{other[0]}'; only NanoAOD's Events is read"
            )
    if not names or not all(isinstance(n, str) for n in names):
        raise ConfigError(f"{where}: dataset '{dataset}' has no list of files")
    found = [p for n in names for p in discover(n, folder)]
    if not found:
        raise ConfigError(f"{where}: dataset '{dataset}': nothing matches {names}")
    return found


def read_fileset(path: Path) -> dict[str, list[str]]:
    """A fileset in coffea's format, YAML or JSON: {dataset: {files: {path: tree} or [paths]}} or {dataset: [paths]}."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"events.fileset: {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"events.fileset: {path} is not a text file: {error}") from error
    try:
        raw = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"events.fileset: {path} is neither JSON nor YAML: {error}") from error
    if not isinstance(raw, dict) or not raw:
        raise ConfigError(f"events.fileset: {path} names no dataset; expected {{dataset: {{files: ...}}}}")
    out = {}
    for dataset, entry in raw.items():
        files = entry.get("files") if isinstance(entry, dict) and "files" in entry else entry
        out[str(dataset)] = _paths(str(dataset), files, path.parent, path)
    return out
