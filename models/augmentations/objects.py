"""Objects of an event or constituents of a jet as tensors, with the mask that says which slots hold one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self


def wrapped(phi: Any) -> Any:
    """Angles in [-pi, pi)."""
    import torch

    out = torch.remainder(phi + math.pi, 2 * math.pi) - math.pi
    return torch.where(out >= math.pi, torch.full_like(out, -math.pi), out)  # rounding of the remainder


def uniform(like: Any, low: Any, high: Any, generator: Any) -> Any:
    """Numbers between ``low`` and ``high`` of the shape, type and device of ``like``."""
    import torch

    drawn = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return low + (high - low) * drawn


def normal(like: Any, generator: Any) -> Any:
    """Standard normal numbers of the shape, type and device of ``like``."""
    import torch

    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Objects:
    """``pt`` (B, N) GeV, ``eta``, ``phi`` (B, N), and ``there`` (B, N): which slots hold an object; empty slots are 0.

    Order of slots means nothing: an augmentation does not sort.
    """

    pt: Any
    eta: Any
    phi: Any
    there: Any

    @classmethod
    def of(cls, table: Any) -> Self:
        """From (B, N, 3) of pT, eta, phi; a slot with pT 0 is empty. The table is in GeV, not scaled."""
        pt, eta, phi = table.unbind(dim=2)
        return cls(pt, eta, phi, pt > 0).kept(pt > 0)

    def kept(self, there: Any) -> Self:
        """The same with only these slots filled: all others are emptied."""
        import torch

        zero = torch.zeros_like(self.pt)
        pt, eta, phi = (torch.where(there, v, zero) for v in (self.pt, self.eta, self.phi))
        return replace(self, pt=pt, eta=eta, phi=phi, there=there)

    def changed(self, **columns: Any) -> Self:
        """With other columns in the filled slots; phi is wrapped, empty slots stay empty."""
        if "phi" in columns:
            columns["phi"] = wrapped(columns["phi"])
        return replace(self, **columns).kept(self.there)

    def chosen(self, other: Self, use: Any) -> Self:
        """``other`` for the events in ``use`` (B,), this for the rest."""
        import torch

        pairs = ((getattr(self, k), getattr(other, k)) for k in ("pt", "eta", "phi", "there"))
        return type(self)(*(torch.where(use[:, None], b, a) for a, b in pairs))

    def momentum(self) -> tuple[Any, Any]:
        """Vector sum of transverse momenta, x and y (B,)."""
        import torch

        return (self.pt * torch.cos(self.phi)).sum(dim=1), (self.pt * torch.sin(self.phi)).sum(dim=1)

    def table(self) -> Any:
        """(B, N, 3) of pT, eta, phi."""
        import torch

        return torch.stack([self.pt, self.eta, self.phi], dim=2)
