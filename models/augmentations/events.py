"""Views of events made of missing energy, electrons or photons, muons and jets: AnomCLR's (2301.04660).

``kinds`` (N,) says what a slot is for: `MET`, `LEPTON` (electron or photon), `MUON`, `JET`; one slot is MET. Physical views change
nothing that a search should see; anomalous ones imitate what new physics may do: more objects, other multiplicities, more energy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from ...errors import ConfigError
from .objects import Objects, normal, uniform

MET, LEPTON, MUON, JET = range(4)
#: Largest |eta| and smallest pT, GeV, of an object by kind.
ACCEPTANCE = {LEPTON: 3.0, MUON: 2.1, JET: 4.0}
SOFTEST = {LEPTON: 3.0, MUON: 3.0, JET: 15.0}
#: Resolution of a jet: sqrt((a pT)^2 + b^2 pT), that of the Delphes CMS card. The public code has 0.052 and 1.502 in the place
#: of 0.05^2 and 1.50^2, which is taken for lost superscripts.
JET_A, JET_B = 0.05, 1.50
#: Directions are smeared below this pT, GeV, by this width, with this softness of the step.
SMEAR_BELOW, SMEAR_WIDTH, SMEAR_STEP = 25.0, 0.028, 0.1

Mode = Literal["add", "split", "shift"]


def rotated(events: Objects, generator: Any) -> Objects:
    """All objects of an event turned by one angle."""
    return events.changed(phi=events.phi + uniform(events.pt[:, :1], -math.pi, math.pi, generator))


def direction_smeared(events: Objects, kinds: Any, generator: Any) -> Objects:
    """eta and phi of objects (not of MET) plus N(0, 0.028 / (1 + exp((pT - 25 GeV) / 0.1 GeV)))."""
    import torch

    width = SMEAR_WIDTH * torch.sigmoid((SMEAR_BELOW - events.pt) / SMEAR_STEP) * (kinds != MET)
    return events.changed(
        eta=events.eta + width * normal(events.pt, generator),
        phi=events.phi + width * normal(events.pt, generator),
    )


def jets_smeared(events: Objects, kinds: Any, generator: Any) -> Objects:
    """pT of jets within their resolution; a jet that falls to 0 is gone. MET is left as it is."""
    width = ((JET_A * events.pt) ** 2 + JET_B**2 * events.pt).sqrt() * (kinds == JET)
    pt = events.pt + width * normal(events.pt, generator)
    return events.changed(pt=pt).kept(events.there & (pt > 0))


def accepted(events: Objects, kinds: Any) -> Objects:
    """Without the objects outside `ACCEPTANCE`."""
    limit = _of_kind(kinds, {MET: math.inf, **ACCEPTANCE}, events.eta)
    return events.kept(events.there & (events.eta.abs() <= limit))


def physical(events: Objects, kinds: Any, generator: Any) -> Objects:
    """A physical view: rotation, directions and jets smeared, acceptance."""
    events = jets_smeared(direction_smeared(rotated(events, generator), kinds, generator), kinds, generator)
    return accepted(events, kinds)


def anomalous(
    events: Objects, kinds: Any, generator: Any, modes: Sequence[Mode] = ("add", "split")
) -> Objects:
    """An anomalous view: for each event one of ``modes`` at random, then the smearing of `physical` without its rotation.

    Raises `ConfigError` for an unknown mode or none.
    """
    import torch

    made = {"add": added, "split": split, "shift": shifted}
    unknown = [m for m in modes if m not in made]
    if unknown or not modes:
        raise ConfigError(f"modes: found {list(modes)}, expected at least one of {', '.join(made)}")
    n = len(events.pt)
    chosen = torch.randint(len(modes), (n,), generator=generator, device=events.pt.device)
    out = events
    for i, mode in enumerate(modes):
        out = out.chosen(made[mode](events, kinds, generator), chosen == i)
    return accepted(jets_smeared(direction_smeared(out, kinds, generator), kinds, generator), kinds)


def _of_kind(kinds: Any, values: dict[int, float], like: Any) -> Any:
    """The value of every slot's kind, (N,)."""
    import torch

    return torch.tensor([values[k] for k in range(4)], dtype=like.dtype, device=like.device)[kinds]


def _with_met_against(events: Objects, before: Objects, kinds: Any) -> Objects:
    """MET changed by the recoil of what the visible momentum has gained over ``before``."""
    import torch

    visible = kinds != MET
    (x, y), (x0, y0) = (e.kept(e.there & visible).momentum() for e in (events, before))
    met_x, met_y = before.kept(before.there & ~visible).momentum()
    met_x, met_y = met_x - (x - x0), met_y - (y - y0)
    is_met = (kinds == MET).expand_as(events.pt)
    pt = torch.where(is_met, torch.hypot(met_x, met_y)[:, None], events.pt)
    phi = torch.where(is_met, torch.atan2(met_y, met_x)[:, None], events.phi)
    return Objects(pt, events.eta, phi, events.there | is_met).kept(events.there | (is_met & (pt > 0)))


def added(events: Objects, kinds: Any, generator: Any) -> Objects:
    """New leptons, muons and jets in empty slots, as many as a draw from none to all says, MET recoiling against them.

    pT is uniform between `SOFTEST` and the largest pT of the event, directions are uniform within `ACCEPTANCE`. An event with
    an empty slot gets at least one.
    """
    import torch

    empty = ~events.there & (kinds != MET)
    rank = (uniform(events.pt, 0.0, 1.0, generator) + 2.0 * ~empty).argsort(dim=1).argsort(dim=1)
    use = torch.zeros_like(empty)
    for kind in (LEPTON, MUON, JET):
        free = (empty & (kinds == kind)).sum(dim=1, keepdim=True)
        share = uniform(events.pt[:, :1], 0.0, 1.0, generator)
        many = torch.floor(share * (free + 1)).clamp(max=free)
        order = (rank + 2 * events.pt.shape[1] * ~(empty & (kinds == kind))).argsort(dim=1).argsort(dim=1)
        use |= empty & (kinds == kind) & (order < many)
    use |= ~use.any(dim=1, keepdim=True) & empty & (rank == 0)
    softest = _of_kind(kinds, {MET: 0.0, **SOFTEST}, events.pt).expand_as(events.pt)
    hardest = torch.maximum(events.pt.amax(dim=1, keepdim=True), softest)
    limit = _of_kind(kinds, {MET: 0.0, **ACCEPTANCE}, events.pt).expand_as(events.pt)
    new = Objects(
        uniform(events.pt, softest, hardest, generator), uniform(events.pt, -limit, limit, generator),
        uniform(events.pt, -math.pi, math.pi, generator), use,
    ).kept(use)  # fmt: skip
    out = Objects(events.pt + new.pt, events.eta + new.eta, events.phi + new.phi, events.there | use)
    return _with_met_against(out, events, kinds)


def split(events: Objects, kinds: Any, generator: Any) -> Objects:
    """Collinear splits into the empty slots of the same kind, pT and MET kept; both parts are at least `SOFTEST`.

    The public code also keeps the leading lepton above its trigger's 23 GeV; here no trigger is assumed.
    """
    import torch

    pt, eta, phi, there = events.pt.clone(), events.eta.clone(), events.phi.clone(), events.there.clone()
    rows = torch.arange(len(pt), device=pt.device)
    softest = _of_kind(kinds, {MET: math.inf, **SOFTEST}, pt)
    for slot in [i for i, kind in enumerate(kinds.tolist()) if kind != MET]:
        fits = there & (kinds == kinds[slot]) & (pt >= 2 * softest)
        source = (uniform(pt, 0.0, 1.0, generator) + 2.0 * ~fits).argmin(dim=1)
        use = fits.any(dim=1) & ~there[:, slot]
        least = softest[slot] / pt[rows, source].clamp(min=1e-12)
        r = uniform(pt[:, 0], least, 1 - least, generator)
        part = torch.where(use, r * pt[rows, source], torch.zeros_like(r))
        pt[rows, source] -= part
        for column in (eta, phi):
            column[:, slot] = torch.where(use, column[rows, source], column[:, slot])
        pt[:, slot] += part
        there[:, slot] |= use
    return Objects(pt, eta, phi, there).kept(there)


def shifted(events: Objects, kinds: Any, generator: Any) -> Objects:
    """More energy: MET times U(0.5, 5), or all objects times U(1, 5), or both times the same U(1, 5), one of the three at random."""
    import torch

    one = events.pt[:, :1]
    which = torch.randint(3, one.shape, generator=generator, device=one.device)
    met_alone, all_of = uniform(one, 0.5, 5.0, generator), uniform(one, 1.0, 5.0, generator)
    unit = torch.ones_like(one)
    met = torch.where(which == 0, met_alone, torch.where(which == 1, unit, all_of))
    objects = torch.where(which == 0, unit, all_of)
    return events.changed(pt=events.pt * torch.where(kinds == MET, met, objects))
