"""Calorimeter regions: the 18 x 14 transverse energies that CMS's calorimeter trigger gives to CICADA.

A region is the sum of trigger towers, 4 in phi and 4 in eta in CMS, of electromagnetic and hadronic energy in steps of
0.5 GeV, an unsigned integer of 10 bits that stays at 1023 when it is full. CMS's 28 towers a side end at |eta| = 3 and grow
beyond 1.74; those of this detector are all 0.087 wide, so that the outer two regions are made of 5 and 9 of them: the borders
0.35, 0.70, 1.04, 1.39, 1.74, 2.17, 2.96 are CMS's to 0.01, and to 0.04 at the end.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .detector import ETA_CELLS, PHI_CELLS
from .trigger import PT_STEP

#: Regions in phi and in eta.
PHI_REGIONS, ETA_REGIONS = 18, 14
REGIONS = PHI_REGIONS * ETA_REGIONS
#: Largest number of a region.
FULL = 1023
#: Tower rows from the middle outwards at which regions of one side end.
BORDERS = (0, 4, 8, 12, 16, 20, 25, 34)
#: Tower columns of a region, and the one in which the first begins: that region lies around phi = 0, as in CMS.
COLUMNS = PHI_CELLS // PHI_REGIONS
FIRST = PHI_CELLS // 2 - COLUMNS // 2


def _of_rows() -> NDArray[np.int64]:
    """The region in eta of every tower row, from -eta to +eta; -1 beyond the last."""
    out = np.full(ETA_CELLS, -1)
    middle, half = ETA_CELLS // 2, ETA_REGIONS // 2
    for k in range(half):
        out[middle + BORDERS[k] : middle + BORDERS[k + 1]] = half + k
        out[middle - BORDERS[k + 1] : middle - BORDERS[k]] = half - 1 - k
    return out


_OF_ROWS = _of_rows()


@nb.njit(cache=True, nogil=True)
def find_regions(et: NDArray[np.float64], out: NDArray[np.uint16]) -> None:
    """Regions from towers (eta, phi), GeV in whole steps, into ``out`` (252,): region (phi, eta) is number 14 phi + eta."""
    total = np.zeros(REGIONS, np.int64)
    for i in range(ETA_CELLS):
        if _OF_ROWS[i] < 0:
            continue
        for j in range(PHI_CELLS):
            p = ((j - FIRST) % PHI_CELLS) // COLUMNS
            total[p * ETA_REGIONS + _OF_ROWS[i]] += int(et[i, j] / PT_STEP + 0.5)
    for k in range(REGIONS):
        out[k] = min(total[k], FULL)
