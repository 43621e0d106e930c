"""One hard process, several showers: the same events of a card showered again with another seed or another setting (2403.07066).

The hard processes of a chunk (with the decays of what is heavy) are those of a chunk of the card that ``hard`` names, generated
without a shower, which costs next to nothing, and handed to Pythia as a file in the format of the Les Houches accord.
"""

# awkward's own annotations are unions of everything an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, IncompleteError
from .card import Card, load_card
from .constituents import BATCH, branches, cut_of, join, look, variations, weights
from .dijets import stream
from .particles import Particles, generator
from .partons import DECAYED, INCOMING, OUTGOING, Partons

#: Rows of Pythia's process before the first incoming parton: the whole and the two protons.
BEFORE = 3
#: Status in the format: incoming, intermediate with a given mass, outgoing.
CODES = {INCOMING: -1, DECAYED: 2, OUTGOING: 1}
HEAD = """<LesHouchesEvents version="1.0">
<init>
2212 2212 {beam} {beam} 0 0 0 0 3 1
1.0 0.0 1.0 9999
</init>
"""


def hard_events(card: Card, seed: int, chunk: int, size: int, path: Path) -> Partons:
    """``size`` hard processes of a card into a Les Houches file (hep-ph/0609017); and the same as they are in it."""
    pythia = generator(
        (*card.resolved(seed).commands, "PartonLevel:all = off"),
        int(stream(card, seed, chunk).integers(1, 900_000_000)),
    )
    rows: list[list[Any]] = []
    offsets = [0]
    with path.open("w") as out:
        out.write(HEAD.format(beam=pythia.settings.parm("Beams:eCM") / 2))
        while len(offsets) <= size:
            if not pythia.next():
                continue
            event = _rows(pythia.process)
            scales = pythia.infoPython()
            out.write(
                f"<event>\n{len(event)} 9999 1.0 {scales.QFac():.10e} {scales.alphaEM():.8e} {scales.alphaS():.8e}\n"
            )
            for code, status, m1, m2, c1, c2, *p in event:
                numbers = " ".join(f"{v:.10e}" for v in p)
                out.write(f"{code} {CODES[status]} {m1} {m2} {c1} {c2} {numbers} 0. 9.\n")
            out.write("</event>\n")
            rows += event
            offsets.append(len(rows))
        out.write("</LesHouchesEvents>\n")
    return _partons(np.array(offsets, np.int64), rows)


def _rows(process: Any) -> list[list[Any]]:
    """PDG code, status, the two mothers counted from 1, the two colours, px, py, pz, E, m of each particle."""
    out = []
    for i in range(BEFORE, process.size()):
        p = process[i]
        status = abs(p.status())
        mothers = (
            [0, 0] if status == INCOMING else [max(m - BEFORE + 1, 0) for m in (p.mother1(), p.mother2())]
        )
        out.append([p.id(), status, *mothers, p.col(), p.acol(), p.px(), p.py(), p.pz(), p.e(), p.m()])
    return out


def _partons(offsets: NDArray[np.int64], rows: list[list[Any]]) -> Partons:
    table = np.array(rows, np.float64)
    px, py, pz, mass = table[:, [6, 7, 8, 10]].T
    pt = np.hypot(px, py)
    eta = np.arcsinh(pz / np.maximum(pt, 1e-9))
    particles = Particles(offsets, pt, eta, np.arctan2(py, px), mass, table[:, 0].astype(np.int32))
    return Partons(particles, (table[:, 2] - 1).astype(np.int16), table[:, 1].astype(np.int32))


def _incoming(hard: Partons) -> NDArray[np.float64]:
    """pz of the two incoming partons of each event, (n, 2) GeV: no two events have the same."""
    first = hard.particles.offsets[:-1]
    both = np.stack([first, first + 1], axis=1)
    return (
        np.sinh(hard.particles.eta[both]) * 1e-9
    )  # pt of a parton along the beam is set to 1e-9 for its eta


def numbers(wanted: NDArray[np.float64], found: NDArray[np.float64], start: int) -> NDArray[np.int64]:
    """Which hard process each event of a batch is, by its incoming partons; both in order, from ``start``.

    Pythia leaves out the hard process that it cannot shower, so that counting would give every later one a wrong number.
    """
    out = np.empty(len(found), np.int64)
    at = start
    for i, pair in enumerate(found):
        while at < len(wanted) and not np.allclose(wanted[at], pair, rtol=1e-6):
            at += 1
        if at == len(wanted):
            raise IncompleteError("an event of the shower has none of the hard processes it was given")
        out[i] = at
        at += 1
    return out


def make_version(card: Card, seed: int, chunk: int, size: int) -> tuple[dict[str, Any], int]:
    """The events of ``size`` hard processes that pass the selection in this version: (branches, ``size``).

    run, luminosityBlock and event are those of the hard process; an event that fails in one version is missing there. GenPart
    is the hard process, the same in every version.
    """
    source = load_card(card.hard)
    if source.kind != "jets" or source.hard:
        raise ConfigError(
            f"card '{card.name}': hard: {card.hard} must be a card of jets with a process of its own"
        )
    cut, rng = cut_of(card), stream(card, seed, chunk)
    parts: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "hard.lhe"
        hard = hard_events(source, seed, chunk, size, path)
        more = variations(card.shower_weights)
        commands = (*card.resolved(seed).commands, *more, "Beams:frameType = 4", f"Beams:LHEF = {path}")
        pythia = generator(commands, int(rng.integers(1, 900_000_000)))
        wanted, done = _incoming(hard), 0
        while done < size:
            batch = pythia.nextBatch(min(BATCH, size - done))
            if len(batch) == 0:
                break
            seen = look(batch, cut, rng)
            which = numbers(wanted, _incoming(seen.partons), done)
            done = int(which[-1]) + 1
            chosen = which[seen.keep]
            mask = np.zeros(size, bool)
            mask[chosen] = True
            parts.append(
                {
                    **identity_of(card, chunk, size, chosen),
                    **weights(pythia, batch, seen.keep, bool(more)),
                    **branches(seen, cut.radius),
                    "GenPart": hard.collection(mask),
                }
            )
    if not parts:
        raise IncompleteError(
            f"card '{card.name}': Pythia showered none of {size} hard processes of {card.hard}"
        )
    return join(parts), size


def identity_of(card: Card, chunk: int, size: int, which: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """run, luminosityBlock and event of the hard processes ``which`` of a chunk."""
    return {
        "run": np.full(len(which), card.run, np.uint32),
        "luminosityBlock": np.full(len(which), chunk + 1, np.uint32),
        "event": (chunk * size + 1 + which).astype(np.uint64),
    }
