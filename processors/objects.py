"""Reconstructed objects of an event as features: missing energy, electrons, muons and jets (ADC2021, 2107.02157)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import FeatureError
from ..events import Column, FeatureSet
from .features import Computed, flat_parts
from .kernels import leading_kernel

#: (collection, objects taken, |eta| a file may hold of them).
OBJECTS = (("Electron", 4, 3.0), ("Muon", 4, 2.1), ("Jet", 10, 4.0))
_PARTS = ("pt", "eta", "phi")


def _columns() -> tuple[Column, ...]:
    slots = [("MET", "missing energy")]
    slots += [(f"{name}{i}", f"{name.lower()} {i} by pT") for name, most, _ in OBJECTS for i in range(most)]
    out = []
    for slot, meaning in slots:
        out += [
            Column(f"{slot}_pt", "GeV", f"pT of {meaning}", 0.0),
            Column(f"{slot}_eta", "", f"eta of {meaning}", -5.2, 5.2),
            Column(f"{slot}_phi", "rad", f"phi of {meaning}", -np.pi, np.pi),
        ]
    return tuple(out)


OBJECT_FEATURES = FeatureSet(
    "objects",
    _columns(),
    None,
    (
        Column("HT", "GeV", "scalar sum of the pT of all jets"),
        Column("n_jets", "", "number of jets"),
    ),
)


@dataclass(frozen=True)
class ReconstructedObjects:
    """57 numbers: MET, the 4 hardest electrons, 4 muons and 10 jets, each pT in GeV, eta, phi; empty slots 0, and so is MET's eta.

    Within the challenge's acceptance, |eta| below 3, 2.1 and 4, by falling pT whatever the order in the file. Every event is kept.
    """

    features: FeatureSet = OBJECT_FEATURES
    branches: tuple[str, ...] = (
        "MET_pt", "MET_phi", *(f"{name}_{part}" for name in ("Electron", "Muon", "Jet") for part in _PARTS),
    )  # fmt: skip
    optional: tuple[str, ...] = ()

    def compute(self, columns: Mapping[str, Any]) -> Computed:
        """The tensor; extras count every jet in acceptance. Raises `FeatureError` where MET is not one number per event."""
        met, met_phi = (np.asarray(columns[f"MET_{part}"]) for part in ("pt", "phi"))
        n = len(met)
        if met.ndim != 1 or met_phi.shape != met.shape:
            raise FeatureError("MET_pt, MET_phi: expected one number per event")
        x = np.zeros((n, len(self.features)), np.float32, order="F")
        x[:, 0], x[:, 2] = met, met_phi
        start, extras = 3, {}
        for name, most, max_eta in OBJECTS:
            offsets, (pt, eta, phi) = flat_parts(columns, name, _PARTS)
            if len(offsets) != n + 1:
                raise FeatureError(f"{name}_pt has {len(offsets) - 1} events, MET_pt {n}")
            use = np.abs(eta) < max_eta
            leading_kernel(offsets, pt, eta, phi, use, most, x, start, True)
            start += 3 * most
            if name == "Jet":
                event = np.repeat(np.arange(n), np.diff(offsets))[use]
                extras["HT"] = np.bincount(event, pt[use], minlength=n).astype(np.float32)
                extras["n_jets"] = np.bincount(event, minlength=n).astype(np.int32)
        return Computed(x, np.full(n, np.nan), {}, extras)
