"""Jets with their constituents (PFNano's shape): Pythia, detector, the leading jet of each event that passes a card's cut."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .card import Card, JetCut
from .detector import LABELLED, simulate_batch
from .dijets import identity, stream
from .early import early_veto
from .jets import Jets, cluster, substructure
from .nano import collection
from .particles import generator, visible
from .partons import Partons, partons

BATCH = 250
MOST_CANDIDATES = 8000
#: Constituents that are stored of a jet, the hardest.
STORED = 100
#: The shower's variations in the order of NanoAOD's PSWeight ("[0] isr.murfac=2.0; [1] fsr.murfac=2.0; [2] isr.murfac=0.5;
#: [3] fsr.murfac=0.5"), factors on renormalisation scales: name -> (which shower, whether the scale goes up).
VARIATIONS = {
    "isr_up": ("isr", True),
    "fsr_up": ("fsr", True),
    "isr_down": ("isr", False),
    "fsr_down": ("fsr", False),
}


def cut_of(card: Card) -> JetCut:
    """The selection of a card of jets; a `ConfigError` if it has none."""
    if card.jet is None:
        raise ConfigError(f"card '{card.name}' is of kind jets and has no jet: give radius, pt and max_eta")
    return card.jet


def variations(factor: float) -> tuple[str, ...]:
    """Pythia's commands for the weights of PSWeight (1605.08352), scales times or over ``factor``; none at 0."""
    if not factor:
        return ()
    bands = [f"{k} {s}:muRfac={factor if up else 1 / factor}" for k, (s, up) in VARIATIONS.items()]
    return ("UncertaintyBands:doVariations = on", f"UncertaintyBands:List = {{{','.join(bands)}}}")


@dataclass(frozen=True)
class Seen:
    """One batch: leading jets, where there is one (n_events,), all candidates, the hard process, and which events pass."""

    jets: Jets
    offsets: NDArray[np.int64]
    candidates: NDArray[np.float64]
    partons: Partons
    keep: NDArray[np.bool_]


def look(batch: Any, cut: JetCut, rng: np.random.Generator) -> Seen:
    """The detector and jet finding on a batch of Pythia's, and the cut on the leading jet of each event."""
    seen = visible(batch)
    seeds = rng.integers(0, 2**31, len(seen.offsets) - 1)
    offsets, candidates, _ = simulate_batch(
        seen.offsets, seen.pt, seen.eta, seen.phi, seen.kind, seen.charge, seeds, MOST_CANDIDATES, LABELLED
    )
    # Jets below half of the window are no leading jets of an event that passes.
    jets = cluster(offsets, candidates[:, :3], cut.radius, 0.5 * cut.pt[0], 1, numbered=True)
    hard = partons(batch)
    return Seen(jets, offsets, candidates, hard, _passes(jets, hard, cut))


def _passes(jets: Jets, hard: Partons, cut: JetCut) -> NDArray[np.bool_]:
    found = ak.to_numpy(ak.num(jets.p4.pt)) == 1
    pt, eta, phi = (ak.to_numpy(ak.flatten(jets.p4[k])) for k in ("pt", "eta", "phi"))
    good = (pt >= cut.pt[0]) & (pt < cut.pt[1]) & (np.abs(eta) < cut.max_eta)
    if cut.match:
        event = np.flatnonzero(found)
        for k in np.flatnonzero(good):
            good[k] = hard.inside(event[k], eta[k], phi[k], cut.radius, cut.match, cut.contained)
    keep = found.copy()
    keep[found] = good
    return keep


def branches(seen: Seen, radius: float) -> dict[str, Any]:
    """FatJet, PFCands and FatJetPFCands of the events that pass: constituents by falling pT, the `STORED` hardest.

    ``FatJet_nConstituents`` counts the stored ones, as coffea's PFNanoAODSchema wants it, ``FatJet_nAllConstituents`` all,
    from which the substructure is.
    """
    p4: Any = seen.jets.p4[seen.keep]
    inputs = seen.jets.inputs
    assert inputs is not None
    local = ak.flatten(inputs[seen.keep], axis=1)
    whole = ak.to_numpy(ak.num(local)).astype(np.int32)
    flat = ak.to_numpy(ak.flatten(local)) + np.repeat(seen.offsets[:-1][seen.keep], whole)
    chosen: Any = ak.unflatten(ak.zip({"pt": seen.candidates[flat, 0], "row": flat}), whole)
    chosen = chosen[ak.argsort(chosen.pt, ascending=False, stable=True)][:, :STORED]
    stored = ak.to_numpy(ak.num(chosen.row)).astype(np.int32)
    rows = ak.to_numpy(ak.flatten(chosen.row))
    pt, eta, phi, code = seen.candidates[rows].T
    code = code.astype(np.int32)
    sign = np.where(np.isin(np.abs(code), (11, 13)), -np.sign(code), np.sign(code))
    inner = substructure(ak.flatten(seen.jets.constituents[seen.keep], axis=1), radius)
    one = np.ones(len(whole), np.int64)
    where = np.arange(len(rows)) - np.repeat(np.cumsum(stored) - stored, stored)
    return {
        "FatJet": collection(
            one,
            **{k: ak.to_numpy(ak.flatten(p4[k])) for k in ("pt", "eta", "phi", "mass")},
            **{f"tau{i + 1}": inner.tau[:, i] for i in range(4)},
            msoftdrop=inner.softdrop_mass,
            nConstituents=stored,
            nAllConstituents=whole,
        ),
        "PFCands": collection(
            stored,
            pt=pt,
            eta=eta,
            phi=phi,
            mass=np.zeros(len(rows)),
            pdgId=code,
            charge=np.where(np.isin(code, (22, 130)), 0, sign).astype(np.int32),
        ),
        "FatJetPFCands": collection(
            stored, jetIdx=np.zeros(len(rows), np.int16), pFCandsIdx=where.astype(np.int16)
        ),
    }


def weights(pythia: Any, batch: Any, keep: NDArray[np.bool_], varied: bool) -> dict[str, Any]:
    """genWeight, and PSWeight relative to it where the card asks for it."""
    values = ak.to_numpy(batch.info.weights)[keep]
    out: dict[str, Any] = {"genWeight": values[:, 0].astype(np.float32)}
    if varied:
        # Pythia sorts the variations in its own way, and repeats them by our names.
        names = list(pythia.infoPython().weightNameVector())
        chosen = values[:, [names.index(name) for name in VARIATIONS]] / values[:, :1]
        out["PSWeight"] = ak.unflatten(
            chosen.astype(np.float32).ravel(), np.full(len(chosen), len(VARIATIONS))
        )
    return out


def join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Branches of batches, one after the other."""
    joined = {k: ak.concatenate([p[k] for p in parts]) for k in parts[0]}
    return {k: ak.to_numpy(v) if v.ndim == 1 and not v.fields else v for k, v in joined.items()}


def make_jets(card: Card, seed: int, chunk: int, size: int) -> tuple[dict[str, Any], int]:
    """``size`` selected events of a chunk, one jet each: (branches, number of events generated for them).

    Events that an early cut gave up count as generated. A card with ``hard`` is showered from the hard process of another: see `resimulation.make_version`.
    """
    if card.hard:
        from .resimulation import make_version

        return make_version(card, seed, chunk, size)
    cut, rng = cut_of(card), stream(card, seed, chunk)
    more = variations(card.shower_weights)
    hook = None if card.early is None else early_veto(card.early)
    pythia = generator((*card.resolved(seed).commands, *more), int(rng.integers(1, 900_000_000)), hook)
    parts: list[dict[str, Any]] = []
    kept = generated = 0
    while kept < size:
        before = 0 if hook is None else hook.started
        batch = pythia.nextBatch(BATCH)
        seen = look(batch, cut, rng)
        columns = {
            **weights(pythia, batch, seen.keep, bool(more)),
            **branches(seen, cut.radius),
            "GenPart": seen.partons.collection(seen.keep),
        }
        room = min(size - kept, int(seen.keep.sum()))
        # Batches leave out what Pythia could not make: the events that are there count.
        last = np.flatnonzero(seen.keep)[room - 1] + 1 if room and kept + room == size else len(seen.keep)
        generated += int(last) if hook is None else round((hook.started - before) * last / len(seen.keep))
        kept += room
        parts.append({k: v[:room] for k, v in columns.items()})
    return {**identity(card, chunk, size), **join(parts)}, generated
