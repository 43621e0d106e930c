"""What a nuisance is, how a variation is spelled, and the jagged arrays and interpolation that all of them share."""

# awkward's own annotations are unions of every layout and backend.
# pyright: reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ..features import Columns

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")


@runtime_checkable
class Kinematic(Protocol):
    """Changes columns: a jet energy scale, a resolution, missing energy.

    Two attributes it may have, False where it does not: ``corrects``, the columns change at nu = 0 too, as they do
    where simulation is smeared to the resolution of the data, and it belongs into the nominal columns and into every
    variation of another one; ``first``, it must see the columns as the file has them. `vary` heeds both.
    """

    @property
    def name(self) -> str:
        """What the variation is called, for example jes."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that must be there."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Branches that are used where a file has them."""
        ...

    @property
    def touches(self) -> tuple[str, ...]:
        """Branches it replaces, where they are there."""
        ...

    def shift(self, columns: Columns, nu: float, identity: NDArray[np.void]) -> dict[str, Any]:
        """The replaced columns alone, with the offsets and types of the originals, at nu standard deviations."""
        ...


@runtime_checkable
class WeightNuisance(Protocol):
    """Changes event weights: pile-up, scales, parton densities, scale factors."""

    @property
    def name(self) -> str:
        """What the variation is called, for example pileup."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """Branches that must be there."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Branches that are used where a file has them."""
        ...

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Factors (n,) on the event weight; at nu = 0 the nominal correction, all ones where there is none."""
        ...


@dataclass(frozen=True)
class Variation:
    """One nuisance at ``nu`` standard deviations, everything else nominal."""

    nuisance: str
    nu: float

    @property
    def label(self) -> str:
        """jes_up at +1, jes_down at -1, else jes_p0p5 or jes_m2: good as a file, a category and a ROOT name."""
        if abs(self.nu) == 1.0:
            return f"{self.nuisance}_{'up' if self.nu > 0 else 'down'}"
        number = f"{self.nu:+g}"
        sign = "p" if number[0] == "+" else "m"
        digits = number[1:].replace("e-", "em").replace("e+", "e").replace(".", "p")
        return f"{self.nuisance}_{sign}{digits}"


def check_name(name: str) -> str:
    """``name`` if a branch, a file and a ROOT object could bear it too; else `ConfigError`."""
    if not _NAME.match(name) or name == "nominal":
        raise ConfigError(
            f"nuisance '{name}': a name has letters, digits and _, begins with a letter, and is not 'nominal'"
        )
    return name


def vary(
    columns: Columns, nuisances: Sequence[Kinematic], nus: Mapping[str, float], identity: NDArray[np.void]
) -> Columns:
    """``columns`` (n events) with every kinematic nuisance at its nu; one that ``nus`` does not name is at 0.

    They are applied in their order, those with ``first`` before the others, each to what the one before left. The columns
    given are not changed. Raises `ConfigError` for a nu of a nuisance that is not there.
    """
    unknown = set(nus) - {n.name for n in nuisances}
    if unknown:
        raise ConfigError(f"no kinematic nuisance '{min(unknown)}'; known: {[n.name for n in nuisances]}")
    out: Columns = columns
    for nuisance in sorted(nuisances, key=lambda n: not getattr(n, "first", False)):
        nu = nus.get(nuisance.name, 0.0)
        if nu != 0.0 or getattr(nuisance, "corrects", False):
            out = {**out, **nuisance.shift(out, nu, identity)}
    return out


def column(columns: Columns, branch: str, who: str) -> Any:
    """A column by its branch; a missing one is an `InputError` that says which nuisance wants it."""
    if branch not in columns:
        raise InputError(
            f"nuisance '{who}' needs branch {branch}, which is not there; choose another collection, or leave the "
            "nuisance out for these files"
        )
    return columns[branch]


def flat(columns: Columns, branch: str, who: str) -> NDArray[Any]:
    """A column with one number per event, (n,); a jagged one is an `InputError`."""
    values = column(columns, branch, who)
    if getattr(values, "ndim", 0) != 1:
        raise InputError(f"nuisance '{who}': {branch} is jagged, expected one number per event")
    return np.asarray(values)


@dataclass(frozen=True)
class Jagged:
    """One jagged branch as offsets (n+1,) and content (N,), both views of the original where it is compact."""

    offsets: NDArray[Any]
    content: NDArray[Any]
    layout: Any

    @classmethod
    def of(cls, columns: Columns, branch: str, who: str) -> Jagged:
        """The column ``branch``; raises `InputError` where it is not one list of numbers per event."""
        layout = ak.to_layout(ak.materialize(ak.to_layout(column(columns, branch, who))))
        if not _compact(layout):
            layout = ak.to_layout(ak.to_packed(layout, highlevel=False))
            layout = layout.to_ListOffsetArray64(True) if layout.is_list else layout
        if not _compact(layout):
            raise InputError(f"nuisance '{who}': {branch} is {layout.form.type}, expected a list of numbers")
        offsets = np.asarray(layout.offsets.data)
        return cls(offsets, np.asarray(layout.content.data)[: offsets[-1]], layout)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Objects of each event, (n,)."""
        return np.diff(self.offsets)

    def like(self, content: NDArray[Any]) -> ak.Array:
        """The same lists with other numbers."""
        inner = ak.contents.NumpyArray(content, parameters=self.layout.content.parameters)
        index = ak.index.Index(self.offsets)
        return ak.Array(ak.contents.ListOffsetArray(index, inner, parameters=self.layout.parameters))

    def require_same(self, other: Jagged, mine: str, theirs: str) -> None:
        """Raise `InputError` unless both have the same number of objects in every event."""
        if self.offsets is not other.offsets and not np.array_equal(self.offsets, other.offsets):
            raise InputError(f"{mine} and {theirs} have different numbers of objects; the file is damaged")


def _compact(layout: Any) -> bool:
    """Whether a layout is a list of numbers that begins with its content's first."""
    return (
        isinstance(layout, ak.contents.ListOffsetArray)
        and isinstance(layout.content, ak.contents.NumpyArray)
        and layout.content.purelist_depth == 1
        and (len(layout.offsets) == 0 or layout.offsets[0] == 0)
    )


def interpolate(
    nominal: NDArray[np.float64], up: NDArray[np.float64], down: NDArray[np.float64], nu: float
) -> NDArray[np.float64]:
    """Weights (n,) at nu: nominal (side / nominal)^|nu| with the up side for nu > 0 and the down side for nu < 0.

    Exact at -1, 0 and 1. Where nominal or side is zero or negative there is no power, and the weight goes in a straight
    line from one to the other, stopped at zero unless one of them is negative.
    """
    if nu == 0.0:
        return nominal
    side, t = (up, nu) if nu > 0 else (down, -nu)
    power = (nominal > 0) & (side > 0)
    line = nominal * (1.0 - t) + side * t
    out = np.where((nominal >= 0) & (side >= 0), np.maximum(line, 0.0), line)
    np.power(nominal, 1.0 - t, out=out, where=power)
    out[power] *= np.power(side[power], t)
    return out
