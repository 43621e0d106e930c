"""The calorimeter image of a crossing as features: 18 x 14 transverse energies in hardware steps (CICADA's input)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError
from ..events import Column, FeatureSet
from .features import Computed, flat_parts

#: Regions in phi and in eta, the largest number of one, and its step in GeV.
PHI_REGIONS, ETA_REGIONS = 18, 14
REGIONS = PHI_REGIONS * ETA_REGIONS
FULL = 1023
STEP = 0.5

REGION_FEATURES = FeatureSet(
    "regions",
    tuple(
        Column(
            f"region_{p}_{e}",
            "0.5 GeV",
            f"transverse energy of region {p} in phi, {e} in eta",
            0.0,
            FULL,
            1.0,
        )
        for p in range(PHI_REGIONS)
        for e in range(ETA_REGIONS)
    ),
    None,
    (
        Column("total_ET", "GeV", "sum of the regions' transverse energy"),
        Column("n_pileup", "", "number of pile-up collisions, -1 where unknown"),
    ),
)


@nb.njit(cache=True, nogil=True)
def ordered_kernel(et: NDArray[Any], out: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    """Contents (n * 252,) in the order of the columns into ``out`` (n, 252), and their sum in GeV into ``total`` (n,)."""
    for i in range(len(out)):
        summed = 0.0
        for k in range(REGIONS):
            value = min(et[i * REGIONS + k], FULL)
            out[i, k] = value
            summed += value
        total[i] = summed * STEP


@nb.njit(cache=True, nogil=True)
def placed_kernel(
    offsets: NDArray[np.int64], et: NDArray[Any], ieta: NDArray[Any], iphi: NDArray[Any], out: NDArray[np.float32],
    total: NDArray[np.float32],
) -> int:  # fmt: skip
    """The same from regions in any order with their places; returns the first that lies nowhere, -1 if none does."""
    out[:] = 0.0
    for i in range(len(out)):
        summed = 0.0
        for k in range(offsets[i], offsets[i + 1]):
            if not (0 <= ieta[k] < ETA_REGIONS and 0 <= iphi[k] < PHI_REGIONS):
                return k
            value = min(et[k], FULL)
            out[i, iphi[k] * ETA_REGIONS + ieta[k]] = value
            summed += value
        total[i] = summed * STEP
    return -1


@dataclass(frozen=True)
class Regions:
    """252 columns ``region_PHI_ETA``, phi-major, in steps of 0.5 GeV from 0 to 1023, unchanged as the firmware sees them.

    From ``L1CaloRegion_et``: 252 numbers of every crossing in the order of the columns, or, where ``L1CaloRegion_ieta``
    (0 to 13) and ``L1CaloRegion_iphi`` (0 to 17) are there too, any regions in any order; those left out are 0.
    """

    features: FeatureSet = REGION_FEATURES
    branches: tuple[str, ...] = ("L1CaloRegion_et",)
    optional: tuple[str, ...] = ("L1CaloRegion_ieta", "L1CaloRegion_iphi", "Pileup_nPU")

    def compute(self, columns: Mapping[str, Any]) -> Computed:
        """The image; every event is kept. Raises `FeatureError` where a crossing has not all its regions, or one lies nowhere."""
        placed = "L1CaloRegion_ieta" in columns and "L1CaloRegion_iphi" in columns
        names = ("et", "ieta", "iphi") if placed else ("et",)
        offsets, (et, *where) = flat_parts(columns, "L1CaloRegion", names)
        n = len(offsets) - 1
        x, total = np.empty((n, REGIONS), np.float32), np.empty(n, np.float32)
        if placed:
            ieta, iphi = where
            lost = placed_kernel(offsets, et, ieta, iphi, x, total)
            if lost >= 0:
                raise FeatureError(
                    f"L1CaloRegion: a region has ieta {ieta[lost]}, iphi {iphi[lost]}; expected 0 to "
                    f"{ETA_REGIONS - 1} and 0 to {PHI_REGIONS - 1}"
                )
        else:
            counts = np.diff(offsets)
            if (counts != REGIONS).any():
                raise FeatureError(
                    f"L1CaloRegion_et: a crossing has {counts[counts != REGIONS][0]} regions, expected {REGIONS}; fewer "
                    "need the branches L1CaloRegion_ieta and L1CaloRegion_iphi"
                )
            ordered_kernel(et, x, total)
        pileup = columns.get("Pileup_nPU")
        extras = {
            "total_ET": total,
            "n_pileup": np.full(n, -1, np.int32) if pileup is None else np.asarray(pileup, np.int32),
        }
        return Computed(x, np.full(n, np.nan), {}, extras)
