"""What the columns of an event are: named objects, constituents of a jet, calorimeter regions or plain numbers; and what follows of
them. Known by the columns' names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["objects", "constituents", "regions", "numbers"]

_SLOT = re.compile(r"^([A-Za-z]+)(\d*)_(pt|eta|phi)$")
_REGION = re.compile(r"^region_(\d+)_(\d+)$")
#: How the kinds of objects are called, by the names of their columns.
NAMES: Mapping[str, str] = {
    "MET": "MET", "EG": "e/gamma", "Electron": "electron", "Photon": "photon", "Mu": "muon", "Muon": "muon", "Tau": "tau",
    "Jet": "jet", "FatJet": "large-R jet", "Cand": "constituent",
}  # fmt: skip
_CONSTITUENT, _MISSING = "Cand", "MET"


@dataclass(frozen=True)
class PlacedObject:
    """An object of an event: its name ("jet 2", counted by its column from 1) and kind, pT in GeV, eta, phi in radians.

    Missing energy has no eta: it is 0.
    """

    name: str
    kind: str
    pt: float
    eta: float
    phi: float


@dataclass(frozen=True)
class Derived:
    """A number that follows from an event's columns: name, unit, values (n,)."""

    name: str
    unit: str
    values: Array


def slots_of(names: Sequence[str]) -> dict[str, tuple[str, tuple[int, int, int]]]:
    """Columns NAME_pt, NAME_eta, NAME_phi that are all there, by NAME in their order: its kind without the number, and where they are."""
    found: dict[str, tuple[str, dict[str, int]]] = {}
    for i, name in enumerate(names):
        if match := _SLOT.match(name):
            kind, number, what = match.groups()
            found.setdefault(f"{kind}{number}", (kind, {}))[1][what] = i
    return {
        slot: (kind, (at["pt"], at["eta"], at["phi"])) for slot, (kind, at) in found.items() if len(at) == 3
    }


def kind_of(names: Sequence[str]) -> Kind:
    """What the columns describe."""
    if names and all(_REGION.match(n) for n in names):
        return "regions"
    kinds = {kind for kind, _ in slots_of(names).values()}
    if not kinds:
        return "numbers"
    return "constituents" if kinds == {_CONSTITUENT} else "objects"


def placed_objects(features: Mapping[str, float]) -> tuple[PlacedObject, ...]:
    """The objects of one event, in the order of its columns; empty slots (pT 0) are none."""
    names = list(features)
    out = []
    for slot, (kind, (pt, eta, phi)) in slots_of(names).items():
        value = [features[names[i]] for i in (pt, eta, phi)]
        if value[0] > 0:
            called = NAMES.get(kind, kind)
            number = slot.removeprefix(kind)
            out.append(PlacedObject(f"{called} {int(number) + 1}" if number else called, called, *value))
    return tuple(out)


def region_image(features: Mapping[str, float], step: float = 1.0) -> Array:
    """The regions of one event as an image (phi, eta), times ``step``."""
    places = {tuple(int(i) for i in m.groups()): v for n, v in features.items() if (m := _REGION.match(n))}
    out = np.zeros([1 + max(p[k] for p in places) for k in (0, 1)])
    for place, value in places.items():
        out[place] = value * step
    return out


def unit_step(unit: str) -> float:
    """The number in a unit such as "0.5 GeV"; 1 where there is none."""
    match = re.match(r"^([\d.]+)\s", unit)
    return float(match.group(1)) if match else 1.0


def _sums(pt: Array) -> list[Derived]:
    return [
        Derived("sum pT", "GeV", pt.sum(axis=1)), Derived("multiplicity", "", (pt > 0).sum(axis=1).astype(float)),
        Derived("largest pT", "GeV", pt.max(axis=1)),
    ]  # fmt: skip


def derived(
    names: Sequence[str], x: NDArray[np.floating], carried: Mapping[str, Array]
) -> tuple[Derived, ...]:
    """What the columns x (n, d) say together.

    Objects: scalar sum, number and largest of their pT (missing energy apart) and the number of each kind. Constituents: the
    same, the pT-weighted mean distance to the axis and the pT dispersion sqrt(sum pT^2) / sum pT. Regions: how many are not
    empty, the largest, and the part of the energy in the inner half of eta. Plain numbers: the sum of ``carried`` columns
    pt_1, pt_2, ... where there are at least two.
    """
    x = np.asarray(x, np.float64)
    kind, slots = kind_of(names), slots_of(names)
    if kind == "regions":
        return _of_regions(names, x)
    if kind == "numbers":
        pts = [v for n, v in carried.items() if re.match(r"^pt_\d+$", n)]
        return (Derived("sum pT", "GeV", np.sum(pts, axis=0)),) if len(pts) > 1 else ()
    seen = [(k, at) for k, at in slots.values() if k != _MISSING]
    if not seen:
        return ()
    pt = x[:, [at[0] for _, at in seen]]
    out = _sums(pt)
    if kind == "constituents":
        eta, phi = (x[:, [at[i] for _, at in seen]] for i in (1, 2))
        total = np.where(pt.sum(axis=1) > 0, pt.sum(axis=1), 1.0)
        out.append(Derived("width", "", (pt * np.hypot(eta, phi)).sum(axis=1) / total))
        out.append(Derived("pT dispersion", "", np.sqrt((pt**2).sum(axis=1)) / total))
        return tuple(out)
    for one in dict.fromkeys(k for k, _ in seen):
        mine = np.array([k == one for k, _ in seen])
        if mine.sum() > 1:
            out.append(Derived(f"n {NAMES.get(one, one)}", "", (pt[:, mine] > 0).sum(axis=1).astype(float)))
    return tuple(out)


def _of_regions(names: Sequence[str], x: Array) -> tuple[Derived, ...]:
    eta = np.array([int(m.group(2)) for n in names if (m := _REGION.match(n))])
    inner = np.abs(eta - 0.5 * eta.max()) < 0.25 * (eta.max() + 1)
    total = x.sum(axis=1)
    return (
        Derived("regions not empty", "", (x > 0).sum(axis=1).astype(float)), Derived("largest region", "", x.max(axis=1)),
        Derived("central share", "", x[:, inner].sum(axis=1) / np.where(total > 0, total, 1.0)),
    )  # fmt: skip


def map_columns(names: Sequence[str], x: NDArray[np.floating]) -> tuple[tuple[str, ...], Array]:
    """What a picture of the columns x (n, d) is drawn from: of objects, constituents and regions ln(1 + pT) alone, because eta and
    phi of an empty slot are 0 and mean nothing; of plain numbers all of them. Names and values (n, k)."""
    kind, x = kind_of(names), np.asarray(x, np.float64)
    if kind == "numbers":
        return tuple(names), x
    at = list(range(len(names))) if kind == "regions" else [at[0] for _, at in slots_of(names).values()]
    return tuple(f"ln {names[i]}" for i in at), np.log1p(np.clip(x[:, at], 0.0, None))
