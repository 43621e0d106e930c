"""What a trigger would see of a crossing if the detector misbehaved: a wrong energy scale, a dead area, a hot one.

Faults act on the columns of `l1` (objects and missing energy) or of `regions` (the calorimeter image), not on towers: a jet at
the edge of a dead area is lost or kept as a whole, and HT, which no score sees, stays as it is.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError
from .events import Events, identity_uniform
from .sections import FaultSection

Array = NDArray[np.float64]
#: Hardware steps of transverse energy, GeV, and of phi; the largest content of a region.
ET_STEP, PHI_STEP, FULL_REGION = 0.5, 2 * math.pi / 144, 1023
_REGION = re.compile(r"region_(\d+)_(\d+)$")
#: The largest transverse momenta that level 1 can tell, GeV.
LARGEST = {"Jet": 1023.5, "EG": 255.5, "Mu": 255.5, "MET": 2047.5}
#: Objects whose energy the missing energy balances.
_BALANCED = "Jet"


def with_fault(events: Events, fault: FaultSection, name: str, seed: int = 0) -> Events:
    """The same crossings as a faulty detector shows them; a hot area's crossings are chosen by identity and ``seed``.

    Raises `ConfigError` where the columns are not those the fault speaks of.
    """
    regions = {m.groups(): i for i, c in enumerate(events.features.names) if (m := _REGION.match(c))}
    if regions:
        return replace(events, x=_image(events, regions, fault, name, seed))
    return replace(events, x=_objects(events, fault, name, seed))


def _chosen(events: Events, fault: FaultSection, seed: int) -> NDArray[np.bool_]:
    """The crossings in which a hot area fires."""
    return identity_uniform(events.identity, seed + 1) < fault.occupancy


def _image(
    events: Events, regions: dict[tuple[str, ...], int], fault: FaultSection, name: str, seed: int
) -> NDArray[np.float32]:
    objects = sorted(fault.given & {"objects", "eta", "phi"})
    if objects or (fault.kind != "scale" and not fault.regions):
        raise ConfigError(
            f"rates.faults.{name}: the columns are calorimeter regions; give regions: [[phi, eta], ...] and no eta, phi or objects"
        )
    x = np.array(events.x, np.float32)
    where = []
    for phi, eta in fault.regions:
        if (str(phi), str(eta)) not in regions:
            raise ConfigError(
                f"rates.faults.{name}: the columns have no region_{phi}_{eta}; phi is 0 to 17, eta 0 to 13"
            )
        where.append(regions[str(phi), str(eta)])
    if fault.kind == "scale":
        columns = where or list(regions.values())
        x[:, columns] = np.minimum(
            np.floor(x[:, columns].astype(np.float64) * fault.factor + 1e-9), FULL_REGION
        )
    elif fault.kind == "dead":
        x[:, where] = 0.0
    else:
        rows = np.flatnonzero(_chosen(events, fault, seed))
        more = math.floor(fault.et / ET_STEP)
        x[np.ix_(rows, where)] = np.minimum(x[np.ix_(rows, where)] + more, FULL_REGION)
    return x


def _slots(events: Events, kind: str, fault: str) -> slice:
    """The columns of an object's list: slots by pT, each (pt, eta, phi)."""
    names = events.features.names
    count = sum(1 for i in range(len(names)) if f"{kind}{i}_pt" in names)
    if count == 0:
        raise ConfigError(
            f"rates.faults.{fault}: the columns of features '{events.features.name}' have no {kind}"
        )
    start = names.index(f"{kind}0_pt")
    return slice(start, start + 3 * count)


def _in_steps(et: Array) -> Array:
    """Transverse energy in whole steps, rounded down; products that miss a step by the last bits of a double are that step."""
    return np.floor(et / ET_STEP + 1e-9) * ET_STEP


def inside(fault: FaultSection, eta: Array, phi: Array) -> NDArray[np.bool_]:
    """Which places lie in the fault's area; phi [a, b] with a > b goes around by way of pi."""
    (e0, e1), (p0, p1) = fault.eta, fault.phi
    around = (phi >= p0) & (phi <= p1) if p0 <= p1 else (phi >= p0) | (phi <= p1)
    return (eta >= e0) & (eta <= e1) & around


def _centre(fault: FaultSection) -> tuple[float, float]:
    p0, p1 = fault.phi
    phi = 0.5 * (p0 + p1 + (2 * math.pi if p1 < p0 else 0.0))
    return 0.5 * (fault.eta[0] + fault.eta[1]), (phi + math.pi) % (2 * math.pi) - math.pi


def _objects(events: Events, fault: FaultSection, name: str, seed: int) -> NDArray[np.float32]:
    if fault.regions:
        raise ConfigError(
            f"rates.faults.{name}: the columns of features '{events.features.name}' are no calorimeter regions; give eta and phi"
        )
    x = np.array(events.x, np.float64)
    n, lost = len(x), np.zeros((len(x), 2))
    for kind in fault.objects:
        columns = _slots(events, kind, name)
        block = x[:, columns].reshape(n, -1, 3)
        if fault.kind == "scale":
            block[:, :, 0] = np.minimum(_in_steps(block[:, :, 0] * fault.factor), LARGEST[kind])
        elif fault.kind == "dead":
            gone = inside(fault, block[:, :, 1], block[:, :, 2]) & (block[:, :, 0] > 0)
            if kind == _BALANCED:
                et, phi = np.where(gone, block[:, :, 0], 0.0), block[:, :, 2]
                lost += np.stack([(et * np.cos(phi)).sum(axis=1), (et * np.sin(phi)).sum(axis=1)], axis=1)
            block = np.where(gone[:, :, None], 0.0, block)
        else:
            block, more = _with_hot(events, block, fault, LARGEST[kind], seed)
            lost -= more if kind == _BALANCED else 0.0
        order = np.argsort(-block[:, :, 0], axis=1, kind="stable")
        x[:, columns] = np.take_along_axis(block, order[:, :, None], axis=1).reshape(n, -1)
    if _BALANCED in fault.objects and "MET_pt" in events.features.names:
        factor = fault.factor if fault.kind == "scale" else 1.0
        _rebalance(x, events.features.names.index("MET_pt"), lost, factor)
    return x.astype(np.float32)


def _with_hot(
    events: Events, block: Array, fault: FaultSection, largest: float, seed: int
) -> tuple[Array, Array]:
    """The list (n, k, 3) with the hot area's object where it fires and is not softer than the last, and its energy's vector (n, 2)."""
    eta, phi = _centre(fault)
    rows, block = _chosen(events, fault, seed), block.copy()
    et = min(float(_in_steps(np.array(fault.et))), largest)
    block[rows & (et > block[:, -1, 0]), -1] = (et, eta, phi)
    vector = et * np.array([math.cos(phi), math.sin(phi)], dtype=np.float64)
    return block, np.where(rows[:, None], vector, 0.0)


def _rebalance(x: Array, column: int, lost: Array, factor: float) -> None:
    """MET of crossings whose visible energy was scaled, and lost ``lost`` (n, 2) GeV; others keep theirs to the bit."""
    touched = (lost != 0).any(axis=1)
    pt, phi = x[:, column], x[:, column + 2]
    if factor != 1.0:
        x[:, column] = np.minimum(_in_steps(pt * factor), LARGEST["MET"])
        return
    px, py = pt * np.cos(phi) + lost[:, 0], pt * np.sin(phi) + lost[:, 1]
    steps = np.round(np.arctan2(py, px) / PHI_STEP) * PHI_STEP
    steps = np.where(steps >= math.pi - PHI_STEP / 4, steps - 2 * math.pi, steps)
    x[touched, column] = np.minimum(_in_steps(np.hypot(px, py)), LARGEST["MET"])[touched]
    x[touched, column + 2] = steps[touched]
