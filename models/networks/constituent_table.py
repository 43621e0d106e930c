"""Columns of a feature set as the constituents of a jet, and what a network is given of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError
from ...events import FeatureSet
from ..augmentations.objects import Objects
from .object_table import object_table

#: Numbers per constituent that a network sees: pT in a unit, eta, phi.
SEEN = 3
_NAME = re.compile(r"Cand(\d+)_(pt|eta|phi)")


def constituent_columns(features: FeatureSet) -> NDArray[np.int64]:
    """Column numbers (N, 3) of pT, eta, phi of the constituents, in the order of their numbers.

    Every column must be CandI_pt, CandI_eta or CandI_phi, and every I must have all three. Raises `FeatureError` naming the first
    column that is none, or that misses its fellows.
    """
    index = {name: i for i, name in enumerate(features.names)}
    found = [_NAME.fullmatch(name) for name in features.names]
    numbers = sorted({int(one[1]) for one in found if one})
    wanted = [[f"Cand{i}_{part}" for part in ("pt", "eta", "phi")] for i in numbers]
    whole = {name for names in wanted if all(name in index for name in names) for name in names}
    left = [name for name in features.names if name not in whole]
    if left or not numbers:
        raise FeatureError(
            f"feature set '{features.name}': {f'column {left[0]} belongs to no constituent' if left else 'there is no column'}; "
            "expected CandI_pt, CandI_eta, CandI_phi with I = 0, 1, ..., as in the feature set 'constituents'"
        )
    return np.array([[index[name] for name in names] for names in wanted])


def constituent_table(x: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """pT [GeV], eta, phi of constituents, (n, 3 N) in the order of ``columns`` (N, 3); `Objects.of` takes (n, N, 3) of it."""
    return object_table(x, columns)


def seen(jets: Objects, unit: float) -> tuple[Any, Any]:
    """What a set encoder takes: pT / ``unit``, eta, phi (B, N, `SEEN`), 0 in empty slots, and which slots are filled."""
    import torch

    return torch.stack([jets.pt / unit, jets.eta, jets.phi], dim=2), jets.there
