"""Level-1 objects as trigger hardware counts them: integers, and the numbers of `Events` that they stand for.

The steps come with the columns (`Column.step`), because the feature definition alone knows what hardware its numbers come from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..events import FeatureSet
from ..fixed import Ints


@dataclass(frozen=True)
class HardwareUnits:
    """How the hardware counts each column of a feature set.

    ``step``: what 1 stands for, in the column's unit; ``turn``: how many of them go once around in phi, which hardware counts
    from 0 on where the column runs from -pi to pi; 0 for a column that does not go around. ``halved``: columns in GeV, of
    which AXOL1TLCondition.cc hands over hwPt / 2.
    """

    step: tuple[float, ...]
    turn: tuple[int, ...]
    halved: tuple[bool, ...]

    @classmethod
    def of(cls, features: FeatureSet, key: str = "firmware.cms") -> HardwareUnits:
        """The units of a feature set; raises `ConfigError` naming ``key`` and the first column without a usable step."""
        turns = []
        for c in features.columns:
            if c.step is None or not (math.isfinite(c.step) and c.step > 0):
                raise ConfigError(
                    f"{key}: column {c.name} of features '{features.name}' has no hardware step, so no hardware integer stands "
                    "for it; use features: l1 or regions, or give every Column its step"
                )
            turn = round(2 * math.pi / c.step) if c.unit == "rad" else 0
            if turn and not math.isclose(turn * c.step, 2 * math.pi, rel_tol=1e-9):
                raise ConfigError(
                    f"{key}: column {c.name} has a step of {c.step!r} rad, of which no whole number goes once around"
                )
            turns.append(turn)
        steps = tuple(float(c.step or 0) for c in features.columns)
        return cls(steps, tuple(turns), tuple(c.unit == "GeV" for c in features.columns))

    def physical(self, counts: NDArray[Any]) -> NDArray[np.float32]:
        """The columns (n, d) that hardware numbers (n, d) stand for: step times number in doubles, rounded to float32.

        Phi from half a turn on is negative; 0 is 0 in every column, as an empty slot.
        """
        k, turn = np.asarray(counts, dtype=np.float64), np.array(self.turn, dtype=np.float64)
        k = np.where((turn > 0) & (2 * k >= turn), k - turn, k)
        return (k * np.array(self.step)).astype(np.float32)

    def counts(self, x: NDArray[Any]) -> Ints:
        """The hardware integers nearest to columns x (n, d), phi from 0 on. Files keep fewer bits than a float32 has."""
        k = np.rint(np.asarray(x, dtype=np.float64) / np.array(self.step)).astype(np.int64)
        turn = np.array(self.turn)
        return np.where(turn > 0, k % np.maximum(turn, 1), k)

    def handed(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """Hardware integers (n, d) as AXOL1TLCondition.cc means to hand them over: hwPt / 2, hwEta, hwPhi."""
        return np.asarray(counts, dtype=np.float64) / np.where(self.halved, 2.0, 1.0)
