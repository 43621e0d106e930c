"""The remainder that a file's precision took from two jet masses, drawn again, so that a density has no teeth to learn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError
from ...events import Events, identity_uniform

#: Salt of the identity's hash: not that of folds, trainings or noise.
_SALT = 8000


@dataclass
class UnroundedMasses:
    """Uniform dequantisation (1511.01844) of the masses m and m + d that the columns ``mass`` and ``difference`` hold as m and d.

    NanoAOD keeps ``bits`` mantissa bits of a jet's mass: a step of 1/8 GeV between 128 and 256 GeV. Where d is small it takes few
    values, and 0 exactly, which has no logarithm: a density of ln d learns spikes and gaps that nothing in nature has. Each of the two
    masses is moved within its step by a number that only the event's identity decides. Where that turns their order round, the lighter is
    the one that is lighter afterwards; other columns stay. A mass of exactly 0 has no step and stays, too.
    """

    paper: ClassVar[str] = "1511.01844"

    mass: str = "m_J1"
    difference: str = "dm_J"
    bits: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 23:
            raise ConfigError(f"bits: found {self.bits}, expected 1 to the 23 of a float32")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def transform(self, events: Events) -> Events:
        """The same events with other values in the two columns; raises `FeatureError` where one does not exist."""
        names = events.features.names
        for setting, name in (("mass", self.mass), ("difference", self.difference)):
            if name not in names:
                raise FeatureError(
                    f"representation.{setting}: {name} is not in '{events.features.name}': {', '.join(names)}"
                )
        at, above = names.index(self.mass), names.index(self.difference)
        light = events.x[:, at].astype(np.float64)
        first, second = (
            self._moved(m, identity_uniform(events.identity, _SALT + k))
            for k, m in enumerate((light, light + events.x[:, above]))
        )
        x = events.x.copy(order="K")
        x[:, at], x[:, above] = np.minimum(first, second), np.abs(second - first)
        return replace(
            events, x=x, features=replace(events.features, name=f"{events.features.name}/unrounded")
        )

    def _moved(self, mass: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Masses (n,) moved by up to half a step of their ``bits``, up or down."""
        _, exponent = np.frexp(mass)  # mass = fraction * 2^exponent with fraction from 0.5 to 1
        step = np.where(mass != 0, np.ldexp(1.0, exponent - 1 - self.bits), 0.0)
        return mass + step * (uniform - 0.5)
