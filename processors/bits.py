"""Trigger decisions that NanoAOD stores (L1_AXO_Nominal, L1_CICADA_Medium, ...), carried beside any features."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ..errors import ConfigError, FeatureError
from ..events import Column, FeatureSet
from .features import Columns, Computed, Features, recompute


@dataclass(frozen=True)
class WithBits:
    """``inner``'s columns, and the stored decisions ``bits`` as extras that are 0 or 1; no score sees them."""

    inner: Features
    bits: tuple[str, ...]

    def __post_init__(self) -> None:
        taken = {*self.inner.features.names, *(c.name for c in self.inner.features.extras)}
        twice = [b for i, b in enumerate(self.bits) if b in taken or b in self.bits[:i]]
        if twice:
            raise ConfigError(
                f"events.bits: '{twice[0]}' is a column already; name every decision once and none that the features have"
            )

    @property
    def features(self) -> FeatureSet:
        """The columns of ``inner``, more extras."""
        own = self.inner.features
        more = tuple(Column(b, "", f"stored trigger decision {b}", 0.0, 1.0) for b in self.bits)
        return replace(own, extras=(*own.extras, *more))

    @property
    def branches(self) -> tuple[str, ...]:
        """Those of ``inner`` and the decisions, which must be there."""
        return (*self.inner.branches, *self.bits)

    @property
    def optional(self) -> tuple[str, ...]:
        """Those of ``inner``."""
        return self.inner.optional

    def compute(self, columns: Columns) -> Computed:
        """``inner``'s result with the decisions of the kept events."""
        return self._added(self.inner.compute(columns), columns)

    def recompute(self, nominal: Computed, columns: Columns, touched: Collection[str]) -> Computed:
        """The same where only some branches changed."""
        return self._added(recompute(self.inner, nominal, columns, touched), columns)

    def _added(self, made: Computed, columns: Columns) -> Computed:
        extras = dict(made.extras)
        for bit in self.bits:
            values = np.asarray(columns[bit])
            if values.dtype.kind not in "biu":
                raise FeatureError(f"{bit} has values of type {values.dtype}, expected true or false")
            extras[bit] = values[made.kept(len(values))].astype(np.int32)
        return replace(made, extras=extras)
