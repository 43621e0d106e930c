"""Features in units of the hunted mass, so that the background's shape changes little across a window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from ...errors import FeatureError
from ...events import Column, Events, FeatureSet


@dataclass
class MassScaled:
    """Divide the features that carry the mass's unit by the hunted mass: x -> x / m.

    A QCD jet's mass grows with its transverse momentum, so m_J depends on m_jj, which a sideband classifier
    would learn instead of a signal; m_J / m_jj hardly does. The dimensionless-mass idea of 1603.00027 (its rho is
    the logarithm of the square of this ratio with the jet's pT).

    ``columns`` are the names to scale; empty: every column whose unit is the mass's.
    """

    paper: ClassVar[str] = "1603.00027"

    columns: tuple[str, ...] = ()

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Nothing to learn."""
        return self

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set after scaling; raises `FeatureError` for a name that does not exist."""
        if before.mass is None:
            raise FeatureError(f"feature set '{before.name}' has no mass to scale by; use method: Identity")
        names = self._scaled(before)
        columns = tuple(
            Column(f"{c.name}/{before.mass.name}", "", f"{c.meaning}, over the mass")
            if c.name in names
            else c
            for c in before.columns
        )
        return replace(before, columns=columns, name=f"{before.name}/mass")

    def _scaled(self, before: FeatureSet) -> tuple[str, ...]:
        missing = [name for name in self.columns if name not in before.names]
        if missing:
            raise FeatureError(
                f"representation.columns: {missing[0]} is not in '{before.name}': {', '.join(before.names)}"
            )
        unit = before.mass.unit if before.mass is not None else None
        return self.columns or tuple(c.name for c in before.columns if c.unit == unit)

    def transform(self, events: Events) -> Events:
        """The same events with scaled features; a mass that is not positive is an error."""
        features = self.features(events.features)
        if len(events) and not np.all(events.mass > 0):
            raise FeatureError(f"{int(np.sum(~(events.mass > 0)))} events have a mass that is not positive")
        x, names = events.x.copy(order="K"), events.features.names
        for name in self._scaled(events.features):
            x[:, names.index(name)] /= events.mass
        return Events(x, events.mass, events.weight, events.identity, features)
