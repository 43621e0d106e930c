"""Collisions to sparse trigger towers and muons, and the pools of them that crossings are built from.

A pool holds collisions as a trigger sees them, so that a crossing is a sum of towers and costs no simulation. Minimum
bias with a hard scatter above `HARD_PT_HAT` is taken out of the soft pool and comes from a second one, generated
flat in pT-hat with weights: without it the few hard collisions of a soft pool would repeat in many crossings.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..workspace import atomic
from .card import Card
from .detector import ETA_CELLS, ETA_MAX, ETA_STEP, FIELD_T, PHI_CELLS, RADIUS_M, _wrap
from .particles import Particles, generator, visible

#: GeV; where the soft pool ends and the weighted one begins.
HARD_PT_HAT = 20.0
#: Part of inelastic collisions with a parton above it: 446 of 50,000 of minimum bias; sigma_hard / sigma_inel is 0.0092.
HARD_FRACTION = 0.0089
SOFT = ("SoftQCD:inelastic = on",)
HARD = (
    "HardQCD:all = on",
    f"PhaseSpace:pTHatMin = {HARD_PT_HAT}",
    "PhaseSpace:bias2Selection = on",
    "PhaseSpace:bias2SelectionPow = 4.",
)
BATCH = 250
KINDS = ("soft", "hard")
MIN_TOWER_ET = 0.05
MIN_MUON_PT = 2.0


class Collisions(NamedTuple):
    """Collisions as sparse towers and true muons; collision k owns rows offsets[k]:offsets[k+1] of either kind.

    ``cell`` (towers, 2) row in eta and column in phi; ``et`` (towers, 2) electromagnetic and hadronic transverse
    energy, GeV; ``muon`` (muons, 4) pT in GeV, eta, phi, charge; ``weight`` (collisions,). A named tuple, because
    numba takes those as they are.
    """

    tower_offsets: NDArray[np.int64]
    cell: NDArray[np.int16]
    et: NDArray[np.float32]
    muon_offsets: NDArray[np.int64]
    muon: NDArray[np.float32]
    weight: NDArray[np.float64]


@nb.njit(cache=True, nogil=True)
def _decay_muon(pt: float, eta: float, code: int) -> float:
    """pT of the muon if a charged pion or kaon decays before the calorimeter, else 0."""
    if code == 211:
        mass, ctau, branching, softest = 0.1396, 7.80, 1.0, 0.573
    elif code == 321:
        mass, ctau, branching, softest = 0.4937, 3.71, 0.636, 0.046
    else:
        return 0.0
    length = min(RADIUS_M, 3.0 / max(abs(math.sinh(eta)), 1e-6))
    chance = branching * (1.0 - math.exp(-mass * length / (pt * ctau)))
    if np.random.random() >= chance:
        return 0.0
    return pt * (softest + (1.0 - softest) * np.random.random())


@nb.njit(cache=True, nogil=True)
def _calorimeter_response(energy: float, eta: float, electromagnetic: bool) -> float:
    """Smeared energy, GeV: stochastic and constant terms of the Delphes CMS card, without its noise per tower.

    Noise belongs to a crossing, not to each of its fifty collisions. Gamma, not log-normal: of the same mean and
    width it has no long tail at low energy, where one soft tower in 10^5 would become a jet of 150 crossings.
    """
    if energy <= 0.0:
        return 0.0
    if electromagnetic:
        a, b = (0.07, 0.007) if abs(eta) <= 3.0 else (2.08, 0.107)
    else:
        a, b = (1.5, 0.05) if abs(eta) <= 3.0 else (2.7, 0.13)
    variance = a * a * energy + b * b * energy * energy
    return np.random.gamma(energy * energy / variance, variance / energy)


@nb.njit(cache=True, nogil=True)
def _in_ecal(kind: int) -> float:
    """Part of a particle's energy that its shower leaves in the electromagnetic section.

    That section is one interaction length deep: 63 % of hadrons begin their shower there.
    """
    if kind == 1:
        return 1.0
    if np.random.random() > 0.63:
        return 0.0
    return np.random.random()


@nb.njit(cache=True, nogil=True)
def _one(
    pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64], kind: NDArray[np.int8],
    charge: NDArray[np.int8], pdg: NDArray[np.int32], seed: int, truth: NDArray[np.float64],
    muon: NDArray[np.float32],
) -> int:  # fmt: skip
    """Add one collision's energies to ``truth`` (eta, phi, section), its muons to ``muon``; returns how many muons."""
    np.random.seed(seed)
    muons = 0
    for k in range(len(pt)):
        if abs(eta[k]) >= ETA_MAX:
            continue
        found = pt[k] if kind[k] == 2 else 0.0
        if kind[k] == 0 and charge[k] != 0 and pt[k] > MIN_MUON_PT and abs(eta[k]) < 2.5:
            found = _decay_muon(pt[k], eta[k], abs(pdg[k]))
        if found > MIN_MUON_PT and abs(eta[k]) < 2.5 and muons < len(muon):
            muon[muons, 0], muon[muons, 1], muon[muons, 2], muon[muons, 3] = found, eta[k], phi[k], charge[k]
            muons += 1
        if kind[k] == 2 or found > 0.0:
            continue
        at = phi[k]
        if charge[k] != 0:
            bend = 0.3 * FIELD_T * RADIUS_M / (2.0 * pt[k])
            if bend >= 1.0:
                continue
            at = _wrap(at - charge[k] * math.asin(bend))
        i = math.floor(eta[k] / ETA_STEP) + ETA_CELLS // 2
        j = int((at + math.pi) / (2 * math.pi) * PHI_CELLS) % PHI_CELLS
        part = _in_ecal(kind[k])
        energy = pt[k] * math.cosh(eta[k])
        truth[i, j, 0] += part * energy
        truth[i, j, 1] += (1.0 - part) * energy
    return muons


@nb.njit(cache=True, nogil=True)
def _deposit(
    offsets: NDArray[np.int64], pt: NDArray[np.float64], eta: NDArray[np.float64], phi: NDArray[np.float64],
    kind: NDArray[np.int8], charge: NDArray[np.int8], pdg: NDArray[np.int32], seeds: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int16], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:  # fmt: skip
    n = len(offsets) - 1
    # A particle fills one tower at most, and is one muon at most.
    cell, et = np.empty((len(pt), 2), np.int16), np.empty((len(pt), 2), np.float32)
    muon = np.empty((len(pt), 4), np.float32)
    towers, muons = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
    truth = np.zeros((ETA_CELLS, PHI_CELLS, 2))
    used = 0
    for event in range(n):
        a, b = offsets[event], offsets[event + 1]
        truth[:] = 0.0
        start = muons[event]
        muons[event + 1] = start + _one(
            pt[a:b], eta[a:b], phi[a:b], kind[a:b], charge[a:b], pdg[a:b], seeds[event], truth, muon[start:]
        )
        for i in range(ETA_CELLS):
            middle = (i - ETA_CELLS // 2 + 0.5) * ETA_STEP
            for j in range(PHI_CELLS):
                if truth[i, j, 0] + truth[i, j, 1] <= 0.0:
                    continue
                em = _calorimeter_response(truth[i, j, 0], middle, True) / math.cosh(middle)
                had = _calorimeter_response(truth[i, j, 1], middle, False) / math.cosh(middle)
                if em + had > MIN_TOWER_ET:
                    cell[used, 0], cell[used, 1] = i, j
                    et[used, 0], et[used, 1] = em, had
                    used += 1
        towers[event + 1] = used
    return towers, cell[:used].copy(), et[:used].copy(), muons, muon[: muons[n]].copy()


def deposit(seen: Particles, weight: NDArray[np.float64], seeds: NDArray[np.int64]) -> Collisions:
    """Towers and muons of generated collisions; every one has a random stream of its own from ``seeds`` (n,)."""
    out = _deposit(seen.offsets, seen.pt, seen.eta, seen.phi, seen.kind, seen.charge, seen.pdg, seeds)
    return Collisions(*out, weight)


def join(parts: list[Collisions]) -> Collisions:
    """Collisions one after the other."""

    def offsets(name: str) -> NDArray[np.int64]:
        counts = [np.diff(getattr(p, name)) for p in parts]
        return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)

    whole = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("cell", "et", "muon", "weight")}
    return Collisions(tower_offsets=offsets("tower_offsets"), muon_offsets=offsets("muon_offsets"), **whole)


def _hardest(batch: Any) -> NDArray[np.float64]:
    """Largest pT of a parton out of the hard process or a multiple interaction, GeV, shape (events,).

    Not the generator's pT-hat: that does not see the hard scatters inside diffractive systems.
    """
    status = abs(batch.prt.status)
    out = batch.prt[(status == 23) | (status == 33)]
    return ak.to_numpy(ak.fill_none(ak.max(np.hypot(out.p.px, out.p.py), axis=1), 0.0)).astype(np.float64)


def _generate(pythia: Any, n: int, rng: np.random.Generator, below: float) -> Collisions:
    batch = pythia.nextBatch(n)
    if below < math.inf:
        batch = batch[_hardest(batch) < below]
    weight = ak.to_numpy(batch.info.weights)[:, 0].astype(np.float64)
    return deposit(visible(batch), weight, rng.integers(0, 2**31, len(weight)))


def generate(pythia: Any, n: int, rng: np.random.Generator, below: float = math.inf) -> Collisions:
    """``n`` generated collisions less those with a parton above ``below`` GeV, with the generator's weights."""
    return join([_generate(pythia, min(BATCH, n - i), rng, below) for i in range(0, n, BATCH)])


def make_pool(commands: tuple[str, ...], events: int, seed: int, below: float = math.inf) -> Collisions:
    """A pool from about ``events`` generated collisions, weights of mean 1: a function of its arguments alone."""
    rng = np.random.default_rng(seed)
    pythia = generator(commands, int(rng.integers(1, 900_000_000)))
    whole = generate(pythia, events, rng, below)
    return whole._replace(weight=whole.weight / whole.weight.mean())


@dataclass(frozen=True)
class Pools:
    """What pile-up is drawn from: soft collisions of weight 1, hard ones with weights."""

    soft: Collisions
    hard: Collisions


def pool_size(card: Card) -> tuple[int, int]:
    """Collisions generated for the soft and the hard pool: fewer where pile-up only lies under a signal."""
    return (5000, 3000) if card.commands else (20_000, 12_000)


def pool_path(card: Card, seed: int, folder: Path) -> Path:
    """Where the pools of a (card, seed) are kept: one file for all cards of the same ``pool``."""
    soft, hard = pool_size(card)
    return folder / f"pool-{card.pool or card.digest[:12]}-{seed}-{soft}-{hard}.npz"


def load_pools(card: Card, seed: int, folder: Path) -> Pools:
    """The pools of a (card, seed), made where they are not in ``folder`` yet.

    Only cards that name the same ``pool`` share one, or the same hard collision would be in the training and in the test
    sample. Two workers that start together both make it: the bytes are the same, and the rename is atomic.
    """
    return _read(make_pools(card, seed, folder))


def make_pools(card: Card, seed: int, folder: Path) -> Path:
    """Make the pools of a (card, seed) unless they are there; returns their file."""
    path = pool_path(card, seed, folder)
    if not path.exists():
        soft, hard = pool_size(card)
        key = zlib.crc32((card.pool or card.digest).encode())
        first, second = (int(s) for s in np.random.SeedSequence([seed, key, 0x9001]).generate_state(2))
        _save(path, Pools(make_pool(SOFT, soft, first, HARD_PT_HAT), make_pool(HARD, hard, second)))
    return path


@lru_cache(maxsize=1)
def _read(path: Path) -> Pools:
    try:
        with np.load(path, allow_pickle=False) as data:
            soft, hard = (Collisions(*(data[f"{k}_{name}"] for name in Collisions._fields)) for k in KINDS)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a pool of collisions ({error}); delete it and run again") from error
    return Pools(soft, hard)


def _save(path: Path, pools: Pools) -> None:
    arrays = {f"{k}_{name}": v for k in KINDS for name, v in getattr(pools, k)._asdict().items()}
    with atomic(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **arrays)
