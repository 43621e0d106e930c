"""Pythia 8 to flat arrays: visible final particles for the detector, and the particles of the hard process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ElsewhereError

COMMON = (
    "Beams:eCM = 13000.",
    "Random:setSeed = on",
    "Print:quiet = on",
    "ParticleDecays:limitTau0 = on",  # K0S and Lambda reach the detector
    "ParticleDecays:tau0Max = 10.",
)
INVISIBLE = (12, 14, 16)
NEUTRAL = (22, 111, 130, 310, 311, 2112, 3122, 3212, 3322)


def generator(commands: Sequence[str], seed: int, hook: Any = None) -> Any:
    """An initialised Pythia with this seed (1 .. 900,000,000) and, if given, a user hook."""
    try:
        import pythia8mc
    except ImportError:
        raise ElsewhereError("generation needs Pythia 8 and FastJet: pip install 'elsewhere[sim]'") from None
    pythia = pythia8mc.Pythia("", False)
    for command in (*COMMON, f"Random:seed = {seed}", *commands):
        if not pythia.readString(command):
            raise ElsewhereError(f"Pythia does not know the command '{command}'")
    if hook is not None and not pythia.setUserHooksPtr(hook):
        raise ElsewhereError("Pythia did not take the early cut; use the versions of constraints.txt")
    if not pythia.init():
        raise ElsewhereError(f"Pythia did not initialise with {list(commands)}")
    return pythia


@dataclass(frozen=True)
class Particles:
    """Flat particles of a batch: event i owns rows offsets[i]:offsets[i+1]. GeV and radians."""

    offsets: NDArray[np.int64]
    pt: NDArray[np.float64]
    eta: NDArray[np.float64]
    phi: NDArray[np.float64]
    mass: NDArray[np.float64]
    pdg: NDArray[np.int32]

    @property
    def kind(self) -> NDArray[np.int8]:
        """0 hadron, 1 photon or electron, 2 muon."""
        a = np.abs(self.pdg)
        return np.where((a == 22) | (a == 11), 1, np.where(a == 13, 2, 0)).astype(np.int8)

    @property
    def charge(self) -> NDArray[np.int8]:
        """Electric charge of stable particles: -1, 0 or 1."""
        a, sign = np.abs(self.pdg), np.sign(self.pdg)
        signed = np.where(np.isin(a, (11, 13, 15, 3112, 3312, 3334)), -sign, sign)
        return np.where(np.isin(a, NEUTRAL), 0, signed).astype(np.int8)


def _flatten(selected: Any) -> Particles:
    import awkward as ak

    def flat(values: Any) -> NDArray[Any]:
        return np.asarray(ak.to_numpy(ak.flatten(values)))

    px, py, pz = flat(selected.p.px), flat(selected.p.py), flat(selected.p.pz)
    pt = np.hypot(px, py)
    counts = ak.to_numpy(ak.num(selected.id))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    eta = np.arcsinh(pz / np.maximum(pt, 1e-9))
    return Particles(offsets, pt, eta, np.arctan2(py, px), flat(selected.m), flat(selected.id))


def visible(batch: Any) -> Particles:
    """Final particles that a detector can see."""
    import awkward as ak

    all_of = batch.prt
    code = abs(all_of.id)
    keep = all_of.status > 0
    for hidden in INVISIBLE:
        keep = keep & (code != hidden)
    return _flatten(ak.Array(all_of[keep]))


def hard_process(batch: Any) -> tuple[Particles, NDArray[np.int16]]:
    """Particles of the hard process and its resonance decays (Pythia status 21 to 29), and their mothers.

    A mother is the row of the same event's list, -1 where it is not in it, as NanoAOD's genPartIdxMother.
    """
    import awkward as ak

    status = abs(batch.prt.status)
    keep = (status >= 21) & (status <= 29)
    chosen = ak.Array(batch.prt[keep])
    found = _flatten(chosen)
    event = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets))
    row = ak.to_numpy(ak.flatten(ak.local_index(batch.prt, axis=1)[keep]))
    key = event * 1_000_000 + row
    wanted = event * 1_000_000 + ak.to_numpy(ak.flatten(chosen.mother1))
    at = np.searchsorted(key, wanted).clip(0, max(len(key) - 1, 0))
    known = key[at] == wanted if len(key) else np.zeros(0, bool)
    return found, np.where(known, at - found.offsets[event], -1).astype(np.int16)
