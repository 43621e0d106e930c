"""Views of jets made of constituents: JetCLR's (2108.04253) and DarkCLR's (2312.03067).

Directions are relative to any axis; a jet is small, so that eta and phi are a plane. The centroid is weighted with pT and is
each jet's own.
"""

from __future__ import annotations

import math
from typing import Any

from ...errors import ConfigError
from .objects import Objects, normal, uniform

#: Draws after which a jet that lost every constituent keeps its hardest one.
REDRAWS = 20


def centred(jets: Objects) -> Objects:
    """With the pT-weighted centroid of every jet at the origin."""
    total = jets.pt.sum(dim=1, keepdim=True).clamp(min=1e-12)
    eta, phi = ((jets.pt * v).sum(dim=1, keepdim=True) / total for v in (jets.eta, jets.phi))
    return jets.changed(eta=jets.eta - eta, phi=jets.phi - phi)


def rotated(jets: Objects, generator: Any) -> Objects:
    """Every jet turned about its centroid by an angle of its own in [0, 2 pi)."""
    import torch

    jets = centred(jets)
    angle = uniform(jets.pt[:, :1], 0.0, 2 * math.pi, generator)
    c, s = torch.cos(angle), torch.sin(angle)
    return jets.changed(eta=c * jets.eta - s * jets.phi, phi=s * jets.eta + c * jets.phi)


def position_smeared(jets: Objects, generator: Any) -> Objects:
    """Directions plus N(0, 0.1 / max(pT / GeV, 0.1)): soft constituents move."""
    width = 0.1 / jets.pt.clamp(min=0.1)
    return jets.changed(
        eta=jets.eta + width * normal(jets.pt, generator), phi=jets.phi + width * normal(jets.pt, generator)
    )


def split(jets: Objects, generator: Any, passes: int = 2) -> Objects:
    """Collinear splits pT -> r pT, (1 - r) pT, r in [0, 1), into the empty slots; each constituent at most once per pass."""
    import torch

    for _ in range(passes):
        n = jets.pt.shape[1]
        # A random order with the filled slots first; another with the empty ones first: the i-th of both make a pair.
        source = (uniform(jets.pt, 0.0, 1.0, generator) + 2.0 * ~jets.there).argsort(dim=1)
        target = (uniform(jets.pt, 0.0, 1.0, generator) + 2.0 * jets.there).argsort(dim=1)
        filled = jets.there.sum(dim=1, keepdim=True)
        splits = torch.minimum(filled, n - filled)
        use = torch.arange(n, device=jets.pt.device)[None, :] < splits
        r = uniform(jets.pt, 0.0, 1.0, generator)
        parts = {k: getattr(jets, k).gather(1, source) for k in ("pt", "eta", "phi")}
        pt = jets.pt.scatter(1, source, torch.where(use, r * parts["pt"], parts["pt"]))
        old = {k: getattr(jets, k).gather(1, target) for k in ("eta", "phi")} | {"pt": pt.gather(1, target)}
        new = {**parts, "pt": (1 - r) * parts["pt"]}
        columns = {
            k: (pt if k == "pt" else getattr(jets, k)).scatter(1, target, torch.where(use, new[k], old[k]))
            for k in ("pt", "eta", "phi")
        }
        there = jets.there.scatter(1, target, jets.there.gather(1, target) | use)
        jets = Objects(**columns, there=there).kept(there & (columns["pt"] > 0))
    return jets


def translated(jets: Objects, generator: Any, width: float = 1.0) -> Objects:
    """Every jet moved by one step in eta and one in phi, each up to ``width`` times its extent, phi within [-pi, pi]."""
    import torch

    inf = torch.full_like(jets.pt, math.inf)

    def ends(v: Any) -> tuple[Any, Any]:
        low = torch.where(jets.there, v, inf).amin(dim=1, keepdim=True)
        high = torch.where(jets.there, v, -inf).amax(dim=1, keepdim=True)
        empty = ~jets.there.any(dim=1, keepdim=True)
        return low.masked_fill(empty, 0.0), high.masked_fill(empty, 0.0)

    (eta_low, eta_high), (phi_low, phi_high) = ends(jets.eta), ends(jets.phi)
    step, turn = width * (eta_high - eta_low), width * (phi_high - phi_low)
    left, right = torch.maximum(-turn, -math.pi - phi_low), torch.minimum(turn, math.pi - phi_high)
    return jets.changed(
        eta=jets.eta + uniform(step, -step, step, generator),
        phi=jets.phi + uniform(turn, left, right, generator),
    )


def dropped(jets: Objects, generator: Any, p: float = 0.5) -> Objects:
    """DarkCLR's anomalous view: each constituent lost with probability ``p``, the rest scaled to the jet's pT and centred.

    It is not sorted again, as the published one is: the order of slots means nothing to a set encoder.
    A jet that would lose all is drawn again, after `REDRAWS` draws it keeps its hardest. Raises `ConfigError` for p outside [0, 1).
    """
    import torch

    if not 0 <= p < 1:
        raise ConfigError(f"dropped: found p {p}, expected a probability of at least 0 and below 1")
    keep = jets.there & (uniform(jets.pt, 0.0, 1.0, generator) >= p)
    for _ in range(REDRAWS):
        lost = ~keep.any(dim=1, keepdim=True)
        keep = torch.where(lost, jets.there & (uniform(jets.pt, 0.0, 1.0, generator) >= p), keep)
    lost = ~keep.any(dim=1, keepdim=True)
    hardest = torch.nn.functional.one_hot(jets.pt.argmax(dim=1), jets.pt.shape[1]).bool()
    out = jets.kept(torch.where(lost, hardest & jets.there, keep))
    scale = jets.pt.sum(dim=1, keepdim=True) / out.pt.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return centred(out.changed(pt=out.pt * scale))


def symmetric_views(jets: Objects, generator: Any) -> tuple[Objects, Objects]:
    """JetCLR's two views: both rotated and translated; the second with two passes of splits and its soft constituents moved."""
    one, other = rotated(jets, generator), rotated(jets, generator)
    other = position_smeared(split(other, generator), generator)
    return translated(one, generator), translated(other, generator)


def dark_views(jets: Objects, generator: Any, p: float = 0.5) -> tuple[Objects, Objects, Objects]:
    """DarkCLR's jet, its physical view and its anomalous one, all under one rotation, the second turned once more.

    Each is translated by itself, after the anomalous one was centred again: where a jet lies tells nothing.
    """
    one = rotated(jets, generator)
    views = one, rotated(one, generator), dropped(one, generator, p)
    first, second, third = (translated(view, generator) for view in views)
    return first, second, third
