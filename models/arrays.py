"""Arrays on disk as safetensors: a full disk is an OSError as for every other file, and what is read is what was written."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over names, types, shapes and values."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        one = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {one.dtype.str} {one.shape};".encode())
        sha.update(one.data)
    return sha.hexdigest()


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any] | None = None
) -> None:
    """Write ``arrays``, and ``info`` (JSON-ready) beside them; raises OSError where the disk does not take it."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    made = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    meta = None if info is None else {"elsewhere": json.dumps(info), "sha256": arrays_digest(made)}
    try:
        save_file(made, path, metadata=meta)
    except SafetensorError as error:
        full = f"os error {errno.ENOSPC}" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error


def read_arrays(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """(info, arrays) of a file that `write_arrays` wrote with ``info``; `InputError` where one bit is another."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            meta = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        info = json.loads(meta.get("elsewhere", "null"))
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and train again") from error
    if not isinstance(info, dict) or meta.get("sha256") != arrays_digest(arrays):
        raise InputError(
            f"{path} is damaged (its arrays are not those of its sha256); delete it and train again"
        )
    return info, arrays
