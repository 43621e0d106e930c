"""What an encoder of events is given: slots of a table, whatever the columns are, and which slots are filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError
from ...events import FeatureSet
from ..augmentations.objects import Objects
from .constituent_table import constituent_columns
from .object_table import object_columns

Scheme = Literal["angles", "published"]
#: Standardised numbers end here.
_CLIP = 1e4
#: Which of an object's numbers are one scalar: pT with the flag, eta, phi.
_SCALARS = {"angles": (0, 1, 2, 2, 0), "published": (0, 1, 2), "constituents": (0, 1, 2, 0), "columns": (0,)}


def describe(features: FeatureSet, x: NDArray[Any], scheme: Scheme = "angles") -> dict[str, Any]:
    """What the columns of ``features`` are, JSON-ready, with the scale that the training sample x (n, d) gives.

    A set with a column MET_pt is made of objects, one with Cand0_pt of constituents; all others are plain columns, to be
    standardised. Raises `FeatureError` where a column belongs to no object or constituent, or objects are asked for ("published")
    and there are none.
    """
    if "MET_pt" in features.names:
        columns, kinds = object_columns(features)
        pt = x[:, columns[:, 0]].astype(np.float64)
        scale = [float(pt.mean()), float(pt.std()) or 1.0]
        return {"kind": scheme, "columns": columns.tolist(), "kinds": kinds.tolist(), "scale": scale}
    if scheme == "published":
        raise FeatureError(
            f"inputs 'published': feature set '{features.name}' has no column MET_pt; use feature sets made of objects, or "
            "inputs 'angles'"
        )
    if "Cand0_pt" in features.names:
        return {"kind": "constituents", "columns": constituent_columns(features).tolist()}
    values = x.astype(np.float64)
    # a constant column's deviation is rounding, by which nothing may be divided
    width = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), 1.0)
    return {"kind": "columns", "mean": values.mean(axis=0).tolist(), "width": width.tolist()}


def build_inputs(described: Mapping[str, Any]) -> Any:
    """A module without weights that turns raw columns (B, d) into a table; ``described`` is `describe`'s.

    ``slots`` and ``numbers`` are the table's size; ``scalars`` (numbers,) tells which numbers are one quantity.
    """
    import torch

    kind = described["kind"]

    class Inputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kind, self.scalars, self.numbers = kind, _SCALARS[kind], len(_SCALARS[kind])
            if kind == "columns":
                self.slots = len(described["mean"])
                for name in ("mean", "width"):
                    values = torch.tensor(described[name], dtype=torch.float32)
                    self.register_buffer(name, values, persistent=False)
                return
            self.slots = len(described["columns"])
            columns = torch.tensor(described["columns"])
            self.register_buffer("columns", columns.flatten(), persistent=False)
            kinds = torch.tensor(described.get("kinds", [0] * self.slots))
            self.register_buffer("kinds", kinds, persistent=False)
            self.scale = tuple(described.get("scale", (0.0, 1.0)))

        def objects(self, x: Any) -> Objects:
            """Raw columns (B, d) as objects or constituents."""
            return Objects.of(x[:, self.columns].reshape(len(x), self.slots, 3))

        def of_objects(self, objects: Objects) -> tuple[Any, Any]:
            """Table (B, slots, numbers), 0 in empty slots, and which slots are filled (B, slots)."""
            there = objects.there.to(objects.pt.dtype)
            pt = torch.log1p(objects.pt)
            if kind == "published":
                pt = (objects.pt - self.scale[0]) / self.scale[1]
                parts = [pt, objects.eta, objects.phi]
            elif kind == "angles":
                parts = [pt, objects.eta, torch.cos(objects.phi), torch.sin(objects.phi), there]
            else:
                parts = [pt, objects.eta, objects.phi, there]
            return torch.stack(parts, dim=2) * there[:, :, None], objects.there

        def forward(self, x: Any) -> tuple[Any, Any]:
            """Table (B, slots, numbers) and which slots are filled (B, slots) of raw columns (B, d)."""
            if kind != "columns":
                return self.of_objects(self.objects(x))
            table = ((x - self.mean) / self.width).clamp(-_CLIP, _CLIP)[:, :, None]
            return table, torch.ones_like(table[:, :, 0], dtype=torch.bool)

    return Inputs()


def masked(table: Any, scalars: tuple[int, ...], p: float, generator: Any) -> Any:
    """``table`` (B, slots, numbers) with every scalar of every slot 0 with probability ``p``; numbers of one scalar fall together."""
    import torch

    size = (*table.shape[:2], max(scalars) + 1)
    keep = torch.rand(size, generator=generator, device=table.device) >= p
    return table * keep[:, :, list(scalars)]
