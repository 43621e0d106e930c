"""Views of a crossing as AXOL1TL's version 5 draws them: objects masked, columns blurred, the crossing turned in phi.

x (n, d) are scaled columns, (raw - offset) * 2^-shift. A masked object is 0 there, which is the offset: a typical object and not
an absent one, whose columns are `Layout.empty`. Masks and blurs do not look at what a slot holds, as in the public code. A
rotation leaves the slots alone that were empty to begin with; the public code turns those, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...events import FeatureSet
from .objects import uniform


@dataclass(frozen=True)
class Layout:
    """What the columns are, in scaled units: the object that each belongs to (d,), and what an empty slot has there (d,).

    ``phi`` (k,): columns that are angles, with their lower ends ``low`` and the full turns ``period`` (k,).
    """

    owner: tuple[int, ...]
    empty: tuple[float, ...]
    phi: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    period: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, features: FeatureSet, objects: list[list[int]], offset: NDArray[Any], shift: NDArray[Any], empty: NDArray[Any]
    ) -> Layout:  # fmt: skip
        """``objects``: columns of each; a third column NAME_phi is an angle in its column's range, [-pi, pi) where none is given."""
        owner, phi = np.zeros(len(features), int), []
        for i, columns in enumerate(objects):
            owner[columns] = i
            phi += [c for c in columns[2:] if features.names[c].endswith("_phi")]
        low, period = [], []
        for c in phi:
            column, factor = features.columns[c], 2.0 ** -int(shift[c])
            first = -math.pi if column.low is None else column.low
            last = math.pi if column.high is None else column.high
            low.append((first - float(offset[c])) * factor)
            period.append((last - first) * factor)
        empty = empty.astype(np.float64)
        return cls(tuple(owner.tolist()), tuple(empty.tolist()), tuple(phi), tuple(low), tuple(period))

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {k: list(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Layout:
        """Undo `to_json`."""
        return cls(**{k: tuple(v) for k, v in raw.items()})

    def tensor(self, name: str, like: Any) -> Any:
        """A field as a tensor on the device of ``like``, in its type unless it is of whole numbers."""
        import torch

        whole = name in ("owner", "phi")
        return torch.tensor(
            getattr(self, name), dtype=torch.int64 if whole else like.dtype, device=like.device
        )


@dataclass(frozen=True)
class Strength:
    """How much a view differs: probabilities to mask an object, to blur an event, then a column of it, and to turn an event.

    ``blur``: how much of a blurred column is noise. Defaults: version 5 of AXOL1TL.
    """

    mask: float = 0.571
    blurred_events: float = 0.900
    blurred_columns: float = 0.750
    blur: float = 0.927
    turn: float = 0.5


def _chosen(like: Any, p: float, generator: Any) -> Any:
    """True with probability ``p``, of the shape of ``like``."""
    return uniform(like, 0.0, 1.0, generator) < p


def filled(x: Any, layout: Layout) -> Any:
    """Which objects are there, (n, objects): those of which a column is not that of an empty slot."""
    import torch

    owner = layout.tensor("owner", x)
    differs = (x != layout.tensor("empty", x)).to(x.dtype)
    member = torch.nn.functional.one_hot(owner).to(x.dtype)
    return differs @ member > 0


def masked(x: Any, layout: Layout, p: float, generator: Any) -> Any:
    """Every object 0 with probability ``p``, all its columns or none."""
    import torch

    owner = layout.tensor("owner", x)
    gone = _chosen(x.new_empty(len(x), max(layout.owner) + 1), p, generator)
    return torch.where(gone[:, owner], torch.zeros_like(x), x)


def blurred(x: Any, events: float, columns: float, blur: float, generator: Any) -> Any:
    """x (1 - blur) + blur U(0, 1) in a part ``columns`` of the columns of a part ``events`` of the events."""
    import torch

    use = _chosen(x[:, :1], events, generator) & _chosen(x, columns, generator)
    return torch.where(use, (1 - blur) * x + blur * uniform(x, 0.0, 1.0, generator), x)


def turned(x: Any, layout: Layout, there: Any, p: float, generator: Any) -> Any:
    """All objects of an event turned by one angle with probability ``p``; ``there`` (n, objects) says which may be."""
    import torch

    use, angle = _chosen(x[:, :1], p, generator), uniform(x[:, :1], 0.0, 1.0, generator)
    if not layout.phi:
        return x
    phi, low, period = (layout.tensor(name, x) for name in ("phi", "low", "period"))
    before = x[:, phi]
    after = torch.remainder(before + angle * period - low, period)
    after = torch.where(after >= period, torch.zeros_like(after), after) + low  # rounding of the remainder
    moves = use & there[:, layout.tensor("owner", x)[phi]]
    out = x.clone()
    out[:, phi] = torch.where(moves, after, before)
    return out


def view(x: Any, layout: Layout, strength: Strength, generator: Any) -> Any:
    """One view of scaled crossings x (n, d): blurred, then masked, then turned."""
    there, s = filled(x, layout), strength
    out = blurred(x, s.blurred_events, s.blurred_columns, s.blur, generator)
    return turned(masked(out, layout, s.mask, generator), layout, there, s.turn, generator)
