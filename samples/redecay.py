"""Rare leptons: the heavy hadrons and taus of one event decay many times over, until a hard, lonely lepton comes out.

A lepton above 23 GeV that stands alone is found in one of 200 events of beauty and charm. Making the event costs a hundred
times as much as letting its heavy hadrons decay once more. Of the k of ``tries`` decays that have such a lepton one is drawn, and the
event gets the weight k: weighted events are those of a plain generation, and no two of them share a collision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .particles import INVISIBLE

#: |eta| of leptons worth the detector, and what part of their pT may fly beside them within `CONE`, counted from `SOFT` GeV.
LEPTON_ETA = 2.6
CONE, SOFT, ALONE = 0.3, 0.5, 0.6
#: Their pT in GeV: less where the detector measures electrons badly.
LEPTON_PT, POOR_LEPTON_PT, POOR_ETA = 19.5, 17.0, 1.5
#: What the isolation of a lepton does not see: neutrinos, and neutral hadrons that reach the hadronic calorimeter.
UNSEEN = (*INVISIBLE, 130, 310, 2112, 3122, 3322)
#: GeV; such leptons come from nothing softer.
SOURCE_PT = POOR_LEPTON_PT
#: What an event must be generated with.
COMMANDS = ("HadronLevel:Decay = off",)


def heavy(code: int) -> bool:
    """Whether a PDG code (absolute) is a tau or a hadron with charm or beauty."""
    return code == 15 or (code > 100 and ((code // 100) % 10 in (4, 5) or (code // 1000) % 10 in (4, 5)))


def sources(event: Any) -> tuple[list[int], NDArray[np.float64]]:
    """Rows of the undecayed taus and heavy hadrons that are hard enough, and pT, eta, phi (n, 3) of what may fly beside them."""
    rows, others = [], []
    for i, p in enumerate(event.particles()):
        if not p.isFinal():
            continue
        code, pt = p.idAbs(), p.pT()
        if pt > SOURCE_PT and heavy(code):
            rows.append(i)
        elif pt > SOFT and code not in UNSEEN:
            others.append((pt, p.eta(), p.phi()))
    return rows, np.array(others, np.float64).reshape(-1, 3)


def decay(pythia: Any, rows: Sequence[int]) -> list[int]:
    """Let the particles decay, and the heavy ones that come out of them; rows of the electrons and muons."""
    event, waiting, leptons = pythia.event, list(rows), []
    while waiting:
        row = waiting.pop()
        # The decay of a tau decays its partner as well, because their spins are correlated.
        if not event[row].isFinal():
            continue
        size = event.size()
        if not pythia.moreDecays(row):
            continue
        for k in range(size, event.size()):
            code = event[k].idAbs()
            if code in (11, 13):
                leptons.append(k)
            elif heavy(code):
                waiting.append(k)
    return leptons


def beside(eta: float, phi: float, others: NDArray[np.float64]) -> float:
    """pT of the others (n, 3) within `CONE`, GeV."""
    turned = (others[:, 2] - phi + math.pi) % (2 * math.pi) - math.pi
    return float(others[np.hypot(others[:, 1] - eta, turned) < CONE, 0].sum())


def alone(event: Any, row: int, first: int, others: NDArray[np.float64]) -> bool:
    """Whether the lepton in a row is hard, central, and little of the others or of rows from ``first`` on flies beside it."""
    lepton = event[row]
    code, pt, eta, phi = lepton.idAbs(), lepton.pT(), lepton.eta(), lepton.phi()
    least = POOR_LEPTON_PT if code == 11 and abs(eta) > POOR_ETA else LEPTON_PT
    if pt < least or abs(eta) > LEPTON_ETA:
        return False
    left = ALONE * pt
    for k in range(first, event.size()):
        other = event[k]
        if k == row or not other.isFinal() or other.idAbs() in UNSEEN:
            continue
        if math.hypot(other.eta() - eta, math.remainder(other.phi() - phi, 2 * math.pi)) < CONE:
            left -= other.pT()
    return left > 0 and beside(eta, phi, others) < left


def redecayed(pythia: Any, tries: int, rng: np.random.Generator) -> int:
    """Generate an event and let it decay ``tries`` times; how often with a lepton that is alone: the event's weight.

    The event of the generator is then one of those decays, complete. 0: there was none, and the event is not complete.
    """
    import pythia8mc

    if not pythia.next():
        return 0
    rows, others = sources(pythia.event)
    if not rows:
        return 0
    saved, chosen, found = pythia8mc.Event(pythia.event), None, 0
    first = saved.size()
    for _ in range(tries):
        pythia.event = saved
        leptons = decay(pythia, rows)
        if any(alone(pythia.event, row, first, others) for row in leptons):
            found += 1
            if rng.random() * found < 1.0:
                chosen = pythia8mc.Event(pythia.event)
    if chosen is None:
        return 0
    pythia.event = chosen
    return found if pythia.moreDecays() else 0
