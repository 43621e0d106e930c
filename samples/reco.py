"""Events of reconstructed objects as in the ADC2021 challenge (2107.02157), in chunks that depend on (card, seed, chunk) alone.

Pythia with multiple interactions, pile-up laid over it, `objects.reconstruct`, anti-kT jets: electrons, muons, jets and
missing energy of events with an electron or muon above 23 GeV. What cannot have one is not given to the detector at all.
"""

# awkward's own annotations are unions of everything an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from . import redecay
from .card import Card
from .dijets import hard_collection, identity, stream
from .jets import cluster
from .nano import collection
from .objects import TRACKER_ETA, Seen, reconstruct
from .overlay import Pool, kinds, load_pool
from .particles import INVISIBLE, Particles, generator, hard_process, visible

#: Events generated at once.
BATCH = 250
#: Jets: radius, pT in GeV, |eta|, and how far from every lepton.
RADIUS, JET_PT, JET_ETA, APART = 0.4, 15.0, 4.0, 0.4
#: Jets of an event that are looked at before those of leptons are taken out.
MOST_JETS = 30
MASSES = {11: 0.000511, 13: 0.10566}


class _Generated:
    """Events that may have a lepton: their particles, hard process with mothers, weights, and their numbers (n,) among ``tried``."""

    def __init__(
        self, seen: Particles, hard: tuple[Particles, NDArray[np.int16]], weight: NDArray[Any], where: NDArray[Any]
    ) -> None:  # fmt: skip
        self.seen, self.hard, self.weight, self.where = seen, hard, weight, where


def _plain(pythia: Any) -> _Generated:
    """A batch, less the events without an electron or muon of `redecay.POOR_LEPTON_PT`."""
    batch = pythia.nextBatch(BATCH)
    particles = batch.prt
    code, pt = abs(particles.id), np.hypot(particles.p.px, particles.p.py)
    central = abs(particles.p.pz) < np.sinh(redecay.LEPTON_ETA) * pt
    hopeful = (particles.status > 0) & ((code == 11) | (code == 13)) & (pt > redecay.POOR_LEPTON_PT) & central
    where = np.flatnonzero(ak.to_numpy(ak.any(hopeful, axis=1)))
    batch = batch[where]
    weight = ak.to_numpy(batch.info.weights)[:, 0] if len(where) else np.zeros(0)
    return _Generated(visible(batch), hard_process(batch), weight, where)


def _flat(events: list[list[Any]]) -> Particles:
    """Pythia's particles, one list per event."""
    rows = [
        (p.pT(), p.eta() if p.pT() > 1e-9 else np.copysign(20.0, p.pz()), p.phi(), p.m(), p.id())
        for event in events
        for p in event
    ]
    pt, eta, phi, mass, pdg = np.array(rows, np.float64).reshape(-1, 5).T
    offsets = np.concatenate([[0], np.cumsum([len(e) for e in events])]).astype(np.int64)
    return Particles(offsets, pt, eta, phi, mass, pdg.astype(np.int32))


def _repeated(pythia: Any, tries: int, rng: np.random.Generator) -> _Generated:
    """A batch of events with repeated decays, less those without a lepton."""
    seen, hard, mothers, weight, where = [], [], [], [], []
    for i in range(BATCH):
        found = redecay.redecayed(pythia, tries, rng)
        if not found:
            continue
        particles = list(pythia.event.particles())
        seen.append([p for p in particles if p.isFinal() and p.idAbs() not in INVISIBLE])
        rows = [k for k, p in enumerate(particles) if 21 <= p.statusAbs() <= 29]
        number = {row: n for n, row in enumerate(rows)}
        hard.append([particles[k] for k in rows])
        mothers += [number.get(particles[k].mother1(), -1) for k in rows]
        weight.append(found * pythia.infoPython().weight())
        where.append(i)
    return _Generated(
        _flat(seen), (_flat(hard), np.array(mothers, np.int16)), np.array(weight), np.array(where, np.int64)
    )


def _far(jets: ak.Array, leptons: ak.Array) -> ak.Array:
    """Mask of the jets (events, jets) that are `APART` from every lepton of their event."""
    pairs = ak.cartesian({"jet": jets, "lepton": leptons}, nested=True)
    phi = (pairs.jet.phi - pairs.lepton.phi + np.pi) % (2 * np.pi) - np.pi
    near: Any = np.hypot(pairs.jet.eta - pairs.lepton.eta, phi) < APART
    return ~ak.any(near, axis=2)


def _leptons(seen: Seen, keep: NDArray[np.bool_], code: int) -> ak.Array:
    """The kept events' leptons of one kind as a NanoAOD collection."""
    leptons = seen.leptons[keep]
    there = np.arange(leptons.shape[1]) < seen.count[keep][:, None]
    mine = there & (leptons[:, :, 4] == code)
    pt, eta, phi, charge, _ = leptons[mine].T
    mass = np.full(len(pt), MASSES[code])
    return collection(mine.sum(axis=1), pt=pt, eta=eta, phi=phi, mass=mass, charge=charge.astype(np.int32))


def _jets(seen: Seen, keep: NDArray[np.bool_], leptons: ak.Array) -> ak.Array:
    """The kept events' jets, less the pile-up under them, apart from leptons, by falling pT."""
    offsets = np.concatenate([[0], np.cumsum(np.diff(seen.offsets)[keep])])
    p4 = cluster(offsets, seen.candidates, RADIUS, JET_PT, MOST_JETS).p4
    inside, outside = seen.density[keep].T
    area = np.pi * RADIUS**2
    under: Any = ak.where(abs(p4.eta) < TRACKER_ETA, inside * area, outside * area)
    left = 1.0 - under / p4.pt
    jets = ak.zip({"pt": p4.pt * left, "eta": p4.eta, "phi": p4.phi, "mass": p4.mass * left})
    jets = jets[(jets.pt >= JET_PT) & (abs(jets.eta) < JET_ETA)]
    jets = jets[_far(jets, leptons)]
    jets = jets[ak.argsort(jets.pt, ascending=False)]
    flat = {k: ak.to_numpy(ak.flatten(jets[k])) for k in jets.fields}
    return collection(ak.to_numpy(ak.num(jets.pt)), **flat)


def _batch(pythia: Any, card: Card, pool: Pool, rng: np.random.Generator) -> tuple[dict[str, Any], NDArray[Any]]:  # fmt: skip
    """One batch: the branches of the kept events, and their numbers among those tried."""
    made = _repeated(pythia, card.redecays, rng) if card.redecays else _plain(pythia)
    seeds = rng.integers(0, 2**31, len(made.where))
    p = made.seen
    seen = reconstruct(p.offsets, p.pt, p.eta, p.phi, kinds(p), p.charge, pool, card.pileup, seeds)
    keep = np.diff(seen.offsets) > 0
    electrons, muons = (_leptons(seen, keep, code) for code in (11, 13))
    columns = {
        "genWeight": made.weight[keep].astype(np.float32),
        "Pileup_nPU": seen.pileup[keep].astype(np.int32),
        "Pileup_nTrueInt": np.full(keep.sum(), card.pileup, np.float32),
        "MET_pt": seen.met[keep, 0].astype(np.float32),
        "MET_phi": seen.met[keep, 1].astype(np.float32),
        "Electron": electrons,
        "Muon": muons,
        "Jet": _jets(seen, keep, ak.concatenate([electrons, muons], axis=1)),
        "GenPart": hard_collection(*made.hard, keep),
    }
    return columns, made.where[keep]


def make_reco(card: Card, seed: int, chunk: int, size: int, folder: Path) -> tuple[dict[str, Any], int]:
    """``size`` selected events of a chunk: (branches, number of events generated for them).

    ``folder`` caches the pool of pile-up. A card with ``redecays`` has genWeight = how many of an event's decays had a
    lepton, see `redecay`; no event of it comes twice.
    """
    rng = stream(card, seed, chunk)
    pool = load_pool(card, seed, folder)
    commands = (*card.commands, *redecay.COMMANDS) if card.redecays else card.commands
    pythia = generator(commands, int(rng.integers(1, 900_000_000)))
    parts: list[dict[str, Any]] = []
    kept = generated = 0
    while kept < size:
        columns, where = _batch(pythia, card, pool, rng)
        room = min(size - kept, len(where))
        generated += int(where[room - 1]) + 1 if kept + room == size else BATCH
        kept += room
        if room:
            parts.append({k: v[:room] for k, v in columns.items()})
    joined = {k: ak.concatenate([p[k] for p in parts]) for k in parts[0]}
    whole = {k: ak.to_numpy(v) if v.ndim == 1 and not v.fields else v for k, v in joined.items()}
    return {**identity(card, chunk, size), **whole}, generated
