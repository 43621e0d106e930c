"""Compiled kernels that numba keeps on disk, thrown away where a kernel's source has changed in any file.

numba looks at a kernel's own file alone, but its machine code holds the kernels it calls too, from other files: after an upgrade in place
it would go on computing with the old ones, and nobody would notice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

_CACHE, _NOTE, _KERNEL = "__pycache__", "kernels.json", b"njit"
#: Source file below the package -> size, time of change [ns], and whether it has kernels.
Sources = dict[str, list[int]]


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    """Every source file of the package ``folder`` and of the packages in it."""
    with os.scandir(folder) as entries:
        found = list(entries)
    yield from (e for e in found if e.name.endswith(".py"))
    for entry in found:
        if entry.is_dir() and os.path.exists(os.path.join(entry.path, "__init__.py")):
            yield from _files(entry.path)


def _looked_at(root: Path, known: Sources) -> Sources:
    """All sources; only those that are not as ``known`` are read."""
    found: Sources = {}
    for entry in _files(str(root)):
        name = os.path.relpath(entry.path, root)
        with contextlib.suppress(
            FileNotFoundError
        ):  # it was replaced just now: the next import sees what came
            now = [(stat := entry.stat()).st_size, stat.st_mtime_ns]
            same = known.get(name, [])[:2] == now
            found[name] = known[name] if same else [*now, _KERNEL in Path(entry.path).read_bytes()]
    return found


def forget_stale(root: Path) -> None:
    """Remove numba's files below ``root`` if the kernels there are not those of the last time.

    Where nothing can be written, or there is no folder, numba keeps nothing there either, and this does nothing.
    """
    if not root.is_dir():
        return
    note = root / _CACHE / _NOTE
    try:
        known: Sources = json.loads(note.read_bytes())
    except (FileNotFoundError, ValueError):
        known = {}
    found = _looked_at(root, known)
    if found == known:
        return
    kernels = [{name: s for name, s in sources.items() if s[2]} for sources in (known, found)]
    with contextlib.suppress(OSError):
        if kernels[0] != kernels[1]:
            for folder in {str(Path(name).parent) for name in found}:
                for index in (root / folder / _CACHE).glob("*.nbi"):
                    index.unlink(missing_ok=True)
        note.parent.mkdir(exist_ok=True)
        written = note.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(found))
        written.replace(note)
