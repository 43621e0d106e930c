"""Which events count at all: filters that look at an event's identity alone, before any feature is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FeatureError
from ..workspace import digest

if TYPE_CHECKING:
    from .core import Unit


class EventFilter(Protocol):
    """A frozen, picklable dataclass. Its ``name`` is its line in the cutflow."""

    @property
    def name(self) -> str:
        """The line in the cutflow, for example 'golden JSON'."""
        ...

    def keep(self, identity: NDArray[np.void], unit: Unit) -> NDArray[np.bool_]:
        """Which events of ``unit`` count, shape (n,); ``identity`` holds all of them in the order of the file."""
        ...


def filters_key(filters: Sequence[EventFilter]) -> str:
    """A digest of what the filters let through (their compared fields): part of the key of every chunk they made."""
    rows: list[Any] = []
    for f in filters:
        values: Any = f
        rows.append([type(f).__qualname__, *(getattr(f, k.name) for k in fields(values) if k.compare)])
    return digest(rows)


def apply_filters(
    filters: Sequence[EventFilter], identity: NDArray[np.void], unit: Unit
) -> dict[str, NDArray[np.bool_]]:
    """Every filter's mask (n,) by name, in order.

    Raises `ConfigError` for two filters of one name, `FeatureError` for a mask that is not one truth value per event.
    """
    out: dict[str, NDArray[np.bool_]] = {}
    for f in filters:
        mask = np.asarray(f.keep(identity, unit))
        if mask.shape != identity.shape or mask.dtype != np.bool_:
            raise FeatureError(
                f"filter '{f.name}' gave {mask.dtype} of shape {mask.shape} for {len(identity)} events of {unit.path}; "
                "expected one bool per event"
            )
        if f.name in out:
            raise ConfigError(f"two filters are named '{f.name}'; give each its own line in the cutflow")
        out[f.name] = mask
    return out
