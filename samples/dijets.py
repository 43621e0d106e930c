"""Dijet events: Pythia, detector, jets and their substructure, in chunks that depend on (card, seed, chunk) alone."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import zlib
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from .card import Card
from .detector import simulate_batch
from .early import early_veto
from .jets import Jets, cluster, shapes, substructure, tracks_inside
from .nano import collection
from .particles import Particles, generator, hard_process, visible

BATCH = 250
RADIUS = 1.0
MOST_CANDIDATES = 8000
#: Selection of the LHC Olympics: the leading jet's pT in GeV and both jets' |eta|.
LEADING_PT = 1200.0
MAX_ETA = 2.5


def stream(card: Card, seed: int, chunk: int) -> np.random.Generator:
    """The random stream of a chunk: a function of the card's content, the seed and the chunk number."""
    return np.random.default_rng(np.random.SeedSequence([seed, chunk, zlib.crc32(card.digest.encode())]))


def dijet_mass(p4: ak.Array) -> NDArray[np.float64]:
    """Invariant mass of the two leading jets, GeV, shape (n,); every event must have two."""
    pt, eta, phi, mass = (ak.to_numpy(p4[k]) for k in ("pt", "eta", "phi", "mass"))
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    sums = [v[:, 0] + v[:, 1] for v in (energy, px, py, pz)]
    return np.sqrt(np.maximum(sums[0] ** 2 - sums[1] ** 2 - sums[2] ** 2 - sums[3] ** 2, 0.0))


def _selected(fat: Jets, card: Card) -> NDArray[np.bool_]:
    """Two jets, the leading above 1200 GeV, both central; the card's mass window if it has one."""
    two = ak.to_numpy(ak.num(fat.p4.pt)) == 2
    keep = two.copy()
    p4 = fat.p4[two]
    good = (ak.to_numpy(p4.pt)[:, 0] > LEADING_PT) & np.all(np.abs(ak.to_numpy(p4.eta)) < MAX_ETA, axis=1)
    if card.mass_window is not None:
        mass = dijet_mass(p4)
        good &= (mass >= card.mass_window[0]) & (mass < card.mass_window[1])
    keep[two] = good
    return keep


def hard_collection(particles: Particles, mothers: NDArray[np.int16], keep: NDArray[np.bool_]) -> ak.Array:
    """The hard process of the kept events as NanoAOD's GenPart."""
    counts = np.diff(particles.offsets)
    rows = np.repeat(keep, counts)
    return collection(
        counts[keep],
        pt=particles.pt[rows],
        eta=np.clip(particles.eta[rows], -20.0, 20.0),
        phi=particles.phi[rows],
        mass=particles.mass[rows],
        pdgId=particles.pdg[rows].astype(np.int32),
        status=np.full(rows.sum(), 23, np.int32),
        statusFlags=np.full(rows.sum(), 1 << 7, np.uint16),  # isHardProcess
        genPartIdxMother=mothers[rows],
    )


def _jets(jets: ak.Array, counts: NDArray[Any], **more: NDArray[Any]) -> ak.Array:
    flat = {k: ak.to_numpy(ak.flatten(jets[k])) for k in ("pt", "eta", "phi", "mass")}
    return collection(counts, **flat, **more)


def _shaped(fat: Jets, tracks: NDArray[np.int64], keep: NDArray[np.bool_], card: Card) -> ak.Array:
    """The two jets of the kept events with the card's substructure."""
    chosen = Jets(fat.p4[keep], fat.constituents[keep], None if fat.inputs is None else fat.inputs[keep])
    flat = ak.flatten(chosen.constituents, axis=1)
    counts = np.full(keep.sum(), 2)
    if card.substructure == "standard":
        inner = substructure(flat, RADIUS)
        taus = {f"tau{i + 1}": inner.tau[:, i] for i in range(4)}
        return _jets(chosen.p4, counts, **taus, msoftdrop=inner.softdrop_mass)
    n_tracks = tracks_inside(chosen, tracks[keep])
    constituents = ak.to_numpy(ak.num(flat.px)).astype(np.int32)
    return _jets(
        chosen.p4,
        counts,
        **shapes(flat, RADIUS, card.substructure),
        nTracks=n_tracks,
        nConstituents=constituents,
    )


def _batch(pythia: Any, card: Card, rng: np.random.Generator) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """One batch of generated events: the branches of those kept, and which of them were kept."""
    batch = pythia.nextBatch(BATCH)
    seen = visible(batch)
    seeds = rng.integers(0, 2**31, len(seen.offsets) - 1)
    offsets, candidates, tracks = simulate_batch(
        seen.offsets, seen.pt, seen.eta, seen.phi, seen.kind, seen.charge, seeds, MOST_CANDIDATES
    )
    standard = card.substructure == "standard"
    fat = cluster(offsets, candidates, RADIUS, 200.0, 2, numbered=not standard)
    keep = _selected(fat, card)
    columns = {
        "genWeight": ak.to_numpy(batch.info.weights)[keep, 0].astype(np.float32),
        "FatJet": _shaped(fat, tracks, keep, card),
    }
    if standard:
        small = cluster(offsets, candidates, 0.4, 100.0, 3).p4[keep]
        columns["Jet"] = _jets(small, ak.to_numpy(ak.num(small.pt)))
    columns["GenPart"] = hard_collection(*hard_process(batch), keep)
    return columns, keep


def make_dijets(card: Card, seed: int, chunk: int, size: int) -> tuple[dict[str, Any], int]:
    """``size`` selected events of a chunk: (branches, number of events generated for them).

    A card whose ``substructure`` is not "standard" has no ``Jet`` and no soft-drop mass, but numbers of constituents and
    tracks and the N-subjettiness of `jets.shapes`. Events that an early cut gave up count as generated.
    """
    rng = stream(card, seed, chunk)
    hook = None if card.early is None else early_veto(card.early)
    pythia = generator(card.resolved(seed).commands, int(rng.integers(1, 900_000_000)), hook)
    parts: list[dict[str, Any]] = []
    kept = generated = 0
    while kept < size:
        before = 0 if hook is None else hook.started
        columns, keep = _batch(pythia, card, rng)
        room = min(size - kept, int(keep.sum()))
        last = np.flatnonzero(keep)[room - 1] + 1 if kept + room == size else len(keep)
        generated += int(last) if hook is None else round((hook.started - before) * last / len(keep))
        kept += room
        parts.append({k: v[:room] for k, v in columns.items()})
    joined = {k: ak.concatenate([p[k] for p in parts]) for k in parts[0]}
    whole = {k: ak.to_numpy(v) if v.ndim == 1 and not v.fields else v for k, v in joined.items()}
    return {**identity(card, chunk, size), **whole}, generated


def identity(card: Card, chunk: int, size: int) -> dict[str, NDArray[Any]]:
    """run, luminosityBlock (the chunk, from 1) and event (from 1 within the card): unique over all cards."""
    return {
        "run": np.full(size, card.run, np.uint32),
        "luminosityBlock": np.full(size, chunk + 1, np.uint32),
        "event": chunk * np.uint64(size) + np.arange(1, size + 1, dtype=np.uint64),
    }
