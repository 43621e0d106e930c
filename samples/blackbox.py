"""Three black boxes after those of the LHC Olympics (2101.08320): data whose content is sealed until somebody asks for it.

1: a resonance whose masses the seed decides, in QCD of another shower than the reference; 2: no signal, QCD of Vincia;
3: a graviton of 4.2 TeV in two decays, in QCD of the reference. The published boxes had a million events; smaller ones get
signal in proportion to the square root of their size, which keeps S/sqrt(B).
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import ConfigError, IncompleteError, InputError
from ..workspace import file_digest, read_json, write_json
from . import generate
from .card import load_card
from .nano import write_nano

PUBLISHED = 1_000_000


@dataclass(frozen=True)
class Box:
    """A box: its background and (card, signal events per million) of its signals. ``first``: its block of chunk numbers."""

    number: int
    background: str
    signals: tuple[tuple[str, int], ...]

    @property
    def first(self) -> int:
        """The first chunk, far from those of other sets."""
        return 100_000 * self.number

    @property
    def run(self) -> int:
        """The run number of its events."""
        return 30 + self.number

    def injected(self, events: int) -> dict[str, int]:
        """Signal events of each card in a box of ``events``."""
        return {card: round(count * np.sqrt(events / PUBLISHED)) for card, count in self.signals}


BOXES = {
    box.number: box
    for box in (
        Box(1, "qcd_alt", (("box1_signal", 834),)),
        Box(2, "qcd_vincia", ()),
        Box(3, "qcd_large", (("box3_dijet", 1200), ("box3_trijet", 2000))),
    )
}


@dataclass(frozen=True)
class BoxReport:
    """A box on disk: its events and its sealed truth."""

    number: int
    events: int
    path: Path
    sealed: Path
    sha256: str

    def __str__(self) -> str:
        return f"black box {self.number}: {self.events:,} events in {self.path}; its content is sealed in {self.sealed}"


def _keystream(salt: str, size: int) -> bytes:
    blocks = (hashlib.sha256(f"{salt} {i}".encode()).digest() for i in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def seal(truth: dict[str, Any], salt: str) -> dict[str, str]:
    """The truth so that no eye reads it by chance, and a commitment to it: sha256 of salt and text.

    No secret: whoever wants to know asks `unseal`. The commitment shows afterwards that nothing was changed.
    """
    text = json.dumps(truth, sort_keys=True).encode()
    packed = zlib.compress(text, 9)
    mixed = bytes(a ^ b for a, b in zip(packed, _keystream(salt, len(packed)), strict=True))
    commitment = hashlib.sha256(salt.encode() + text).hexdigest()
    return {"salt": salt, "commitment": commitment, "sealed": base64.b64encode(mixed).decode()}


def unseal(path: Path) -> dict[str, Any]:
    """What is in a box: its background, its signals with masses, and the event numbers of the signal.

    ``path``: the sealed file. An `InputError` if it is not one, or was changed after it was sealed.
    """
    raw = read_json(path)
    try:
        salt, mixed = raw["salt"], base64.b64decode(raw["sealed"], validate=True)
        text = zlib.decompress(bytes(a ^ b for a, b in zip(mixed, _keystream(salt, len(mixed)), strict=True)))
        whole = hashlib.sha256(salt.encode() + text).hexdigest() == raw["commitment"]
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is not a sealed file ({error}); make the box again") from error
    if not whole:
        raise InputError(f"{path} was changed after it was sealed; make the box again")
    return json.loads(text)


def _parts(box: Box, events: int, seed: int, cache: Path) -> list[tuple[str, dict[str, Any]]]:
    """(card, branches) of background and signals, cut to the numbers wanted."""
    injected = box.injected(events)
    wanted = {box.background: events - sum(injected.values()), **injected}
    out = []
    for card, count in wanted.items():
        numbers = range(box.first, box.first - (-count // generate.CHUNK))
        columns = generate.read_chunks(cache, load_card(card), seed, numbers)
        out.append((card, {k: v[:count] for k, v in columns.items()}))
    return out


def _digest(jobs: Sequence[generate.Job]) -> str:
    """Of the chunks' names, which hold the digests of their cards."""
    names = sorted(generate.chunk_path(Path(), load_card(card), seed, i).name for card, seed, i in jobs)
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def _kept(path: Path, sealed: Path, made_of: str, events: int) -> str:
    """The checksum of the box that is there, '' if it is another one, was changed, or there is none."""
    if not (path.exists() and sealed.exists()):
        return ""
    known = read_json(sealed)
    same = (known.get("made_of"), known.get("events")) == (made_of, events)
    return known["sha256"] if same and file_digest(path) == known.get("sha256") else ""


def _write(path: Path, box: Box, jets: ak.Array) -> None:
    """The box's NanoAOD file, events numbered from 1."""
    events = len(jets)
    write_nano(
        path,
        {
            "run": np.full(events, box.run, np.uint32),
            "luminosityBlock": (np.arange(events) // generate.CHUNK + 1).astype(np.uint32),
            "event": np.arange(1, events + 1, dtype=np.uint64),
            "genWeight": np.ones(events, np.float32),
            "FatJet": jets,
        },
    )


def make_box(
    number: int,
    events: int,
    folder: Path,
    seed: int = 1,
    workers: int = 1,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> BoxReport:
    """Make a box of ``events`` into ``folder``: boxN.root, and boxN.sealed.json, which only `unseal` reads.

    A box that is there, made of the same chunks and not changed since, is left as it is, so that its search goes on.
    Signal and background are shuffled and numbered anew, and the generator's particles are taken out; arguments
    otherwise as those of `generate.simulate`.
    """
    if number not in BOXES:
        raise ConfigError(f"no black box {number}; there are {', '.join(map(str, BOXES))}")
    box, chunks = BOXES[number], cache or generate.cache_folder()
    for path in (folder, chunks):
        path.mkdir(parents=True, exist_ok=True)
    injected = box.injected(events)
    counts = {box.background: events - sum(injected.values()), **injected}
    jobs = [(c, seed, box.first + i) for c, n in counts.items() for i in range(-(-n // generate.CHUNK))]
    done = 0
    for _ in generate.spread(jobs, chunks, workers, client):
        done += 1
        if progress is not None:
            progress(min(done * generate.CHUNK, events), events)
    if done != len(jobs):
        raise IncompleteError(f"black box {number}: {len(jobs) - done} chunks are missing; run it again")
    path, sealed = folder / f"box{number}.root", folder / f"box{number}.sealed.json"
    made_of = _digest(jobs)
    sha = _kept(path, sealed, made_of, events)
    if sha:
        return BoxReport(number, events, path, sealed, sha)
    parts = _parts(box, events, seed, chunks)
    order = np.random.default_rng([seed, number, 2101, 8320]).permutation(events)
    jets = ak.to_packed(ak.concatenate([columns["FatJet"] for _, columns in parts])[order])
    _write(path, box, jets)
    source = np.repeat(np.arange(len(parts)), list(counts.values()))[order]
    signals = {
        card: {
            "meaning": load_card(card).meaning,
            "masses_gev": load_card(card).values(seed),
            "events": np.flatnonzero(source == i + 1) + 1,
        }
        for i, card in enumerate(injected)
    }
    truth = {"box": number, "seed": seed, "events": events, "background": box.background, "signals": signals}
    plain = json.loads(json.dumps(truth, default=lambda v: v.tolist()))
    salt = hashlib.sha256(f"box {number} {seed} {events}".encode()).hexdigest()[:16]
    sha = file_digest(path)
    write_json(
        sealed, {"box": number, "events": events, "sha256": sha, "made_of": made_of, **seal(plain, salt)}
    )
    return BoxReport(number, events, path, sealed, sha)
