"""Pile-up of reconstructed events: inelastic collisions at particle level, made once per seed, to lie under other events."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..workspace import atomic
from .card import Card
from .detector import ETA_MAX, FIELD_T, RADIUS_M
from .particles import Particles, generator, visible

#: Collisions generated for a pool, and at once.
COLLISIONS, BATCH = 5000, 250
COMMANDS = ("SoftQCD:inelastic = on",)
#: GeV; charged particles below it curl up inside the tracker, and are not seen.
CURLING_PT = 0.5 * 0.3 * FIELD_T * RADIUS_M


class Pool(NamedTuple):
    """Visible particles of collisions; collision k owns rows offsets[k]:offsets[k+1]. GeV and radians.

    ``kind``: 0 hadron, 1 photon, 2 muon, 3 electron. A named tuple, because numba takes those as they are.
    """

    offsets: NDArray[np.int64]
    pt: NDArray[np.float32]
    eta: NDArray[np.float32]
    phi: NDArray[np.float32]
    kind: NDArray[np.int8]
    charge: NDArray[np.int8]


def kinds(particles: Particles) -> NDArray[np.int8]:
    """0 hadron, 1 photon, 2 muon, 3 electron."""
    return np.where(np.abs(particles.pdg) == 11, 3, particles.kind).astype(np.int8)


def pool_of(particles: Particles) -> Pool:
    """What a detector can see of collisions: within |eta| < 5, and not curled up."""
    keep = np.abs(particles.eta) < ETA_MAX
    keep &= (particles.charge == 0) | (particles.pt > CURLING_PT)
    inside = np.concatenate([[0], np.cumsum(keep)])
    pt, eta, phi = (v[keep].astype(np.float32) for v in (particles.pt, particles.eta, particles.phi))
    return Pool(inside[particles.offsets], pt, eta, phi, kinds(particles)[keep], particles.charge[keep])


def joined(parts: list[Pool]) -> Pool:
    """Pools one after the other."""
    counts = np.concatenate([np.diff(p.offsets) for p in parts])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rest = (np.concatenate([getattr(p, name) for p in parts]) for name in Pool._fields[1:])
    return Pool(offsets, *rest)


def pool_path(card: Card, seed: int, folder: Path) -> Path:
    """Where the pool of a (card, seed) is kept: one file for all cards of the same ``pool``."""
    return folder / f"particles-{card.pool or card.digest[:12]}-{seed}-{COLLISIONS}.npz"


def make_pool(card: Card, seed: int, folder: Path) -> Path:
    """Make the pool of a (card, seed) unless it is there; returns its file.

    Collisions are inelastic ones as they come: the hard ones among 5,000 lie under several events, at other angles. Two workers
    that start together both make it: the numbers are the same, and the rename is atomic.
    """
    path = pool_path(card, seed, folder)
    if not path.exists():
        key = zlib.crc32((card.pool or card.digest).encode())
        first = int(np.random.SeedSequence([seed, key, 0x9002]).generate_state(1)[0])
        pythia = generator(COMMANDS, first % 900_000_000 + 1)
        sizes = [min(BATCH, COLLISIONS - i) for i in range(0, COLLISIONS, BATCH)]
        pool = joined([pool_of(visible(pythia.nextBatch(n))) for n in sizes])
        with atomic(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **pool._asdict())
    return path


def load_pool(card: Card, seed: int, folder: Path) -> Pool:
    """The pool of a (card, seed), made where it is not in ``folder`` yet."""
    return _read(make_pool(card, seed, folder))


@lru_cache(maxsize=1)
def _read(path: Path) -> Pool:
    try:
        with np.load(path, allow_pickle=False) as data:
            return Pool(*(data[name] for name in Pool._fields))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a pool of collisions ({error}); delete it and run again") from error
