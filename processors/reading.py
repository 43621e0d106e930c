"""Reading one entry range with uproot: exactly the branches asked for, the opened tree kept per process."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import InputError
from .contents import read_aligned
from .core import IDENTITY_BRANCHES, Recipe, Unit
from .fileset import is_url, stored_end
from .places import PATIENCE, RemoteSettings
from .remote import Delivery, Unreadable, attempt, open_root, received, server_name

#: Opening a 1,500-branch file costs most of a second of CPU, so every process keeps its last trees open.
OPEN_TREES = 16


@dataclass(frozen=True)
class Tree:
    """An opened Events tree, TTree or RNTuple, under NanoAOD's branch names: ``names`` gives the stored ones
    (FatJet_pt is FatJet.pt in an RNTuple)."""

    stored: Any
    names: Mapping[str, str]
    local: bool = False

    @classmethod
    def of(cls, stored: Any, local: bool = False) -> Tree:
        """Wrap what uproot opened, from this machine (``local``) or another."""
        if hasattr(stored, "branches"):
            return cls(stored, {name: name for name in stored.keys(recursive=False)}, local)
        return cls(stored, {name.replace(".", "_"): name for name in stored.keys()})  # noqa: SIM118  (no mapping)

    @property
    def entries(self) -> int:
        """Number of events."""
        return int(self.stored.num_entries)

    def type_of(self, name: str) -> str:
        """The type of a branch as a TTree would say it: float, uint32_t, float[] for a list per event."""
        stored = self.names[name]
        kind = str(self.stored[stored].typename).replace("std::", "")
        if kind.startswith("vector<") and kind.endswith(">"):
            kind = f"{kind[7:-1]}[]"
        return f"{kind}[]" if "." in stored else kind

    def clusters(self, names: Iterable[str]) -> tuple[int, ...]:
        """Entries at which a basket of every one of ``names`` ends, in order; RNTuple: where a cluster does."""
        if hasattr(self.stored, "branches"):
            ends = [set(self.stored[self.names[n]].entry_offsets[1:]) for n in names]
            return tuple(sorted(int(e) for e in set.intersection(*ends))) if ends else ()
        sizes = [int(c.num_entries) for c in self.stored.cluster_summaries]
        return tuple(int(e) for e in np.cumsum(sizes))

    def arrays(self, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
        """Branches of an entry range by their NanoAOD names, as awkward arrays."""
        if self.local and hasattr(self.stored, "branches"):
            return read_aligned(self.stored, names, start, stop)
        stored = [self.names[n] for n in names]
        raw = self.stored.arrays(stored, entry_start=start, entry_stop=stop, library="ak", how=dict)
        out = {}
        for name, path in zip(names, stored, strict=True):
            collection, _, part = path.partition(".")
            out[name] = raw[collection][part] if part else raw[path]
        return out


@lru_cache(maxsize=OPEN_TREES)
def open_tree(place: str, uuid: str, settings: RemoteSettings = PATIENCE) -> Tree:
    """The Events tree of a file at one place; ``uuid`` makes a replaced file a different one."""
    file = open_root(place, settings)
    if str(file.file.uuid) != uuid:
        raise InputError(f"{place} was replaced since it was checked (UUID {file.file.uuid}, then {uuid})")
    return Tree.of(file["Events"], not is_url(place))


def wanted_branches(
    recipe: Recipe, dataset: str, available: Collection[str], by_entry: bool = False
) -> list[str]:
    """Branches to read from a file that has ``available``: identity, weight, required, and the optional ones there."""
    extra = [b for b in recipe.optional(dataset) if b in available]
    return [*(() if by_entry else IDENTITY_BRANCHES), *recipe.branches(dataset), *extra]


def _what_became_of(unit: Unit) -> None:
    """Raise `InputError` where a file of this machine is no ROOT file any more: that says more than what reading it raised."""
    path = Path(unit.path)
    if is_url(unit.path) or not path.is_file():
        return
    try:
        stored_end(path)
    except InputError as error:
        raise InputError(f"{unit.path}, entries {unit.start}-{unit.stop}: {error}") from error


def read_columns(unit: Unit, recipe: Recipe) -> tuple[dict[str, Any], Delivery]:
    """The unit's columns, jagged branches as awkward arrays, flat ones as NumPy; and how they were got.

    What may pass is tried again, at every place of the file. Raises `InputError` naming file and range for a file that
    stays unreadable or is damaged; anything else is a bug and raised as it is.
    """

    def work(place: str) -> tuple[dict[str, Any], str, int]:
        tree = open_tree(place, unit.uuid, recipe.remote)
        before = received(tree.stored)
        names = wanted_branches(recipe, unit.dataset, tree.names, unit.by_entry)
        raw = tree.arrays(names, unit.start, unit.stop)
        return raw, server_name(tree.stored, place), received(tree.stored) - before

    def drop(_place: str) -> None:
        open_tree.cache_clear()

    try:
        (raw, server, size), _, tries = attempt(unit.path, recipe.remote, work, drop)
    except Unreadable as error:
        _what_became_of(unit)
        why = str(error).removeprefix(f"{unit.path}: ")
        text = f"{unit.path}, entries {unit.start}-{unit.stop}: {why}"
        raise Unreadable(text, error.kind) from error
    except InputError as error:
        _what_became_of(unit)
        why = str(error).removeprefix(f"{unit.path}: ")
        raise InputError(f"{unit.path}, entries {unit.start}-{unit.stop}: {why}") from error
    columns = {name: np.asarray(ak.to_numpy(v)) if v.ndim == 1 else v for name, v in raw.items()}
    return columns, Delivery(server, size, tries)
