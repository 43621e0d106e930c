"""Columns of a feature set as objects with kinds, and what a network is given of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError
from ...events import FeatureSet
from ..augmentations.events import JET, LEPTON, MET, MUON
from ..augmentations.objects import Objects

#: Kind of an object by the beginning of its columns' names.
KINDS = {"MET": MET, "EG": LEPTON, "Electron": LEPTON, "Photon": LEPTON, "Mu": MUON, "Muon": MUON, "Jet": JET}
#: Numbers per object that a network sees: ln(1 + pT / GeV), eta, cos phi, sin phi, and which of four kinds it is.
SEEN = 8


def object_columns(features: FeatureSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column numbers (N, 3) of pT, eta, phi of every object, and its kind (N,).

    Every column must be NAME_pt, NAME_eta or NAME_phi of an object whose name begins as one of `KINDS`; there must be one MET.
    Raises `FeatureError` naming the first column that is none.
    """
    index = {name: i for i, name in enumerate(features.names)}
    stems = [name.removesuffix("_pt") for name in features.names if name.endswith("_pt")]
    rows, kinds = [], []
    for stem in stems:
        kind = KINDS.get(stem.rstrip("0123456789"))
        if kind is not None and all(f"{stem}_{part}" in index for part in ("eta", "phi")):
            rows.append([index[f"{stem}_{part}"] for part in ("pt", "eta", "phi")])
            kinds.append(kind)
    taken = {i for row in rows for i in row}
    left = [name for name, i in index.items() if i not in taken]
    if left or kinds.count(MET) != 1:
        raise FeatureError(
            f"feature set '{features.name}': {f'column {left[0]} belongs to no object' if left else 'there must be one MET'}; "
            f"expected NAME_pt, NAME_eta, NAME_phi with names that begin with {', '.join(KINDS)}"
        )
    return np.array(rows), np.array(kinds)


def object_table(x: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """pT, eta, phi of objects, (n, 3 N) in the order of ``columns`` (N, 3)."""
    return np.ascontiguousarray(x[:, columns.ravel()], np.float32)


def seen(objects: Objects, kinds: Any) -> tuple[Any, Any]:
    """What a set encoder takes: numbers (B, N, `SEEN`), 0 in empty slots, and which slots are filled."""
    import torch

    kind = torch.nn.functional.one_hot(kinds, 4).to(objects.pt.dtype).expand(len(objects.pt), -1, -1)
    parts = [torch.log1p(objects.pt), objects.eta, torch.cos(objects.phi), torch.sin(objects.phi)]
    table = torch.cat([torch.stack(parts, dim=2), kind], dim=2)
    return table * objects.there[:, :, None], objects.there
