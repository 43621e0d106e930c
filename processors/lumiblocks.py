"""The luminosity sections that a file was made from, whether or not they have an event in it."""

from __future__ import annotations

from typing import Any

import awkward as ak

from ..errors import InputError
from .lumis import Lumis, from_pairs
from .places import PATIENCE, RemoteSettings
from .remote import attempt, open_root

BRANCHES = ("run", "luminosityBlock")


def file_lumis(path: str, uuid: str, settings: RemoteSettings = PATIENCE) -> Lumis | None:
    """The sections of a NanoAOD file by its LuminosityBlocks tree; None where it has none.

    A section without a selected event is in no unit's `lumis.lumis_of`, but its luminosity was searched: unite both.
    Raises `InputError` for a file that cannot be read or is not the one with this UUID.
    """

    def work(place: str) -> Lumis | None:
        with open_root(place, settings) as file:
            return _lumis(file, path, uuid)

    return attempt(path, settings, work)[0]


def _lumis(file: Any, path: str, uuid: str) -> Lumis | None:
    if str(file.file.uuid) != uuid:
        raise InputError(
            f"{path} was replaced since it was checked (UUID {file.file.uuid}, then {uuid}); check again"
        )
    if "LuminosityBlocks" not in file:
        return None
    tree = file["LuminosityBlocks"]
    missing = sorted(set(BRANCHES) - set(tree.keys()))
    if missing:
        raise InputError(f"{path}: its tree LuminosityBlocks has no branch {', '.join(missing)}")
    found = tree.arrays(list(BRANCHES))
    return from_pairs(ak.to_numpy(found["run"]), ak.to_numpy(found["luminosityBlock"]))
