"""Reading one entry range with uproot: exactly the branches asked for, the opened tree kept per process."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import lzma
import struct
import zlib
from functools import lru_cache
from typing import Any

import awkward as ak
import cramjam
import numpy as np

from ..errors import InputError
from .core import IDENTITY_BRANCHES, Unit
from .features import Features

#: Opening a 1,500-branch file costs most of a second of CPU, so every process keeps its last trees open.
OPEN_TREES = 16
#: What a damaged file raises while it is read; retrying does not help. OSError is left out: it may pass.
DATA_ERRORS = (
    zlib.error, lzma.LZMAError, cramjam.DecompressionError, struct.error, ValueError, KeyError, RuntimeError, IndexError,
    TypeError,
)  # fmt: skip


@lru_cache(maxsize=OPEN_TREES)
def open_tree(path: str, uuid: str) -> Any:
    """The Events tree of a file; ``uuid`` makes a replaced file a different one."""
    import uproot

    file = uproot.open(path, object_cache=None, array_cache=None)
    if str(file.file.uuid) != uuid:
        raise InputError(f"{path} was replaced since it was checked (UUID {file.file.uuid}, then {uuid})")
    return file["Events"]


def wanted_branches(features: Features, available: set[str], by_entry: bool = False) -> list[str]:
    """Branches to read from a file that has ``available``: identity, weight, required, and the optional ones there."""
    extra = [b for b in ("genWeight", *features.optional) if b in available]
    return [*(() if by_entry else IDENTITY_BRANCHES), *features.branches, *extra]


def read_columns(unit: Unit, features: Features) -> dict[str, Any]:
    """The unit's columns: jagged branches as awkward arrays, flat ones as NumPy.

    Raises OSError where trying again may help, `InputError` naming file and range where the data are damaged.
    """
    try:
        tree = open_tree(unit.path, unit.uuid)
        branches = wanted_branches(features, set(tree.keys(recursive=False)), unit.by_entry)
        raw = tree.arrays(branches, entry_start=unit.start, entry_stop=unit.stop, library="ak", how=dict)
    except InputError:
        raise
    except OSError:
        open_tree.cache_clear()
        raise
    except DATA_ERRORS as error:
        raise InputError(
            f"{unit.path}, entries {unit.start}-{unit.stop}: damaged ({type(error).__name__}: {error})"
        ) from error
    return {name: np.asarray(ak.to_numpy(v)) if v.ndim == 1 else v for name, v in raw.items()}
