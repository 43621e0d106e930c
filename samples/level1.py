"""Crossings for the trigger: collisions piled up on towers, level-1 objects, in chunks like those of dijets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import awkward as ak
import numba as nb
import numpy as np
from numpy.typing import NDArray

from .card import Card
from .detector import ETA_CELLS, PHI_CELLS, _wrap
from .dijets import identity, stream
from .nano import collection
from .particles import generator
from .regions import REGIONS, find_regions
from .towers import HARD_FRACTION, Collisions, generate, load_pools
from .trigger import EGS, JETS, MIN_JET, MUONS, PT_STEP, find_eg, find_jets, find_muons, find_sums

#: etSumType of NanoAOD's L1EtSum.
HTT, MET = 1, 2
#: Jets found in a crossing before the stored ones are chosen: HTT sums them all.
ALL_JETS = 60
#: True muons of a crossing that can be followed.
ALL_MUONS = 64


@nb.njit(cache=True, nogil=True)
def _add(
    towers: NDArray[np.float64], muons: NDArray[np.float64], n: int, pool: Collisions, k: int, turn: int, mirror: bool
) -> int:  # fmt: skip
    """Add collision ``k``, turned by ``turn`` cells in phi and mirrored in z; returns the new number of muons."""
    cell, et, muon = pool.cell, pool.et, pool.muon
    for t in range(pool.tower_offsets[k], pool.tower_offsets[k + 1]):
        i = ETA_CELLS - 1 - cell[t, 0] if mirror else cell[t, 0]
        j = (cell[t, 1] + turn) % PHI_CELLS
        towers[i, j, 0] += et[t, 0]
        towers[i, j, 1] += et[t, 1]
    for m in range(pool.muon_offsets[k], pool.muon_offsets[k + 1]):
        if n == len(muons):
            break
        muons[n, 0], muons[n, 3] = muon[m, 0], muon[m, 3]
        muons[n, 1] = -muon[m, 1] if mirror else muon[m, 1]
        muons[n, 2] = _wrap(muon[m, 2] + turn * 2 * math.pi / PHI_CELLS)
        n += 1
    return n


def _objects(
    towers: NDArray[np.float64], true: NDArray[np.float64], jets: NDArray[np.float64], eg: NDArray[np.float64],
    muons: NDArray[np.float64], sums: NDArray[np.float64], regions: NDArray[np.uint16] | None,
) -> tuple[int, int, int]:  # fmt: skip
    """Digitise the towers and find the objects of a crossing; returns the numbers of jets, e/gamma and muons."""
    towers = np.floor(towers / PT_STEP) * PT_STEP
    both = towers.sum(axis=2)
    if regions is not None:
        find_regions(both, regions)
    room = np.empty((ALL_JETS, 3))
    found = find_jets(both, room)
    sums[:] = find_sums(both, room[:found])
    stored = min(int((room[:found, 0] >= MIN_JET).sum()), JETS)
    jets[:stored] = room[:stored]
    more = np.empty((100, 3))
    n_eg = find_eg(towers, more)
    eg[:n_eg] = more[:n_eg]
    most = np.empty((ALL_MUONS, 4))
    n_muon = find_muons(true, most)
    muons[:n_muon] = most[:n_muon]
    return stored, n_eg, n_muon


@nb.njit(cache=True, nogil=True)
def _draw(
    towers: NDArray[np.float64], muons: NDArray[np.float64], n: int, pool: Collisions, many: int
) -> tuple[int, float]:  # fmt: skip
    """Add ``many`` collisions of a pool, each turned and mirrored anew: (muons, product of their weights)."""
    weight = 1.0
    for _ in range(many):
        k = np.random.randint(len(pool.weight))
        turn, mirror = np.random.randint(PHI_CELLS), np.random.random() < 0.5
        n = _add(towers, muons, n, pool, k, turn, mirror)
        weight *= pool.weight[k]
    return n, weight


@nb.njit(cache=True, nogil=True)
def _crossing(
    seed: int, mean_soft: float, mean_hard: float, soft: Collisions, hard: Collisions, signals: Collisions, signal: int,
    towers: NDArray[np.float64], muons: NDArray[np.float64],
) -> tuple[int, int, float]:  # fmt: skip
    """Fill one crossing, with collision ``signal`` of ``signals`` if that is not -1: (pile-up, muons, weight)."""
    np.random.seed(seed)
    towers[:] = 0.0
    n_soft, n_hard = np.random.poisson(mean_soft), np.random.poisson(mean_hard)
    n, _ = _draw(towers, muons, 0, soft, n_soft)
    n, weight = _draw(towers, muons, n, hard, n_hard)
    if signal >= 0:
        n = _add(towers, muons, n, signals, signal, 0, False)
        weight *= signals.weight[signal]
    return n_soft + n_hard, n, weight


def _signals(card: Card, size: int, rng: np.random.Generator) -> Collisions | None:
    """One collision of the card's process per crossing; None for a card that has none."""
    seed = int(rng.integers(1, 900_000_000))
    return generate(generator(card.commands, seed), size, rng) if card.commands else None


def make_crossings(card: Card, seed: int, chunk: int, size: int, folder: Path) -> tuple[dict[str, Any], int]:
    """``size`` crossings of a chunk: (branches, number generated, which is the same: nothing is selected).

    ``folder`` caches the pools of collisions. A function of (card, seed, chunk, size) alone. The regions of a card that has
    them are the branch L1CaloRegion_et, always 252 in the order of `regions.find_regions`, in steps of 0.5 GeV.
    """
    rng = stream(card, seed, chunk)
    pools = load_pools(card, seed, folder)
    hard = card.pileup * HARD_FRACTION
    signals = _signals(card, size, rng)
    towers, true = np.empty((ETA_CELLS, PHI_CELLS, 2)), np.empty((ALL_MUONS, 4))
    jets, eg = np.zeros((size, JETS, 3)), np.zeros((size, EGS, 3))
    muons, sums = np.zeros((size, MUONS, 4)), np.zeros((size, 3))
    regions = np.zeros((size, REGIONS), np.uint16) if card.regions else None
    count, pileup, weight = np.zeros((size, 3), np.int64), np.zeros(size, np.int32), np.ones(size)
    for i, stream_seed in enumerate(rng.integers(0, 2**31, size)):
        # Without a signal the soft pool stands in, so that the kernel has one signature; -1 leaves it out.
        extra = (pools.soft, -1) if signals is None else (signals, i)
        pileup[i], n, weight[i] = _crossing(
            stream_seed, card.pileup - hard, hard, pools.soft, pools.hard, *extra, towers, true
        )
        row = None if regions is None else regions[i]
        count[i] = _objects(towers, true[:n], jets[i], eg[i], muons[i], sums[i], row)
    columns = {
        **identity(card, chunk, size),
        "genWeight": weight.astype(np.float32),
        "Pileup_nPU": pileup,
        "Pileup_nTrueInt": np.full(size, card.pileup, np.float32),
        "L1Jet": _collection(jets, count[:, 0]),
        "L1EG": _collection(eg, count[:, 1]),
        "L1Mu": _collection(muons, count[:, 2]),
        "L1EtSum": _sums(sums),
    }
    if regions is not None:
        columns["L1CaloRegion"] = collection(np.full(size, REGIONS), et=regions.ravel())
    return columns, size


def _collection(values: NDArray[np.float64], counts: NDArray[np.int64]) -> ak.Array:
    """(crossings, slots, columns pt, eta, phi and, for muons, charge) to a NanoAOD collection."""
    flat = values[np.arange(values.shape[1]) < counts[:, None]]
    columns: dict[str, NDArray[Any]] = {k: flat[:, i] for i, k in enumerate(("pt", "eta", "phi"))}
    if values.shape[2] == 4:
        columns["hwCharge"] = flat[:, 3].astype(np.int16)
    return collection(counts, **columns)


def _sums(sums: NDArray[np.float64]) -> ak.Array:
    """HTT, MET and phi of MET (crossings, 3) to L1EtSum: HTT has no direction, its phi is 0."""
    n = len(sums)
    pt = sums[:, :2].ravel()
    phi = np.stack([np.zeros(n), sums[:, 2]], axis=1).ravel()
    return collection(np.full(n, 2), pt=pt, phi=phi, etSumType=np.tile(np.array([HTT, MET], np.int32), n))
