"""Event sets for resonant searches, the trigger and jets: which parts they have, made chunk by chunk into the user's cache, with a manifest.

A part is a range of chunks of one card and one seed, so that no two parts of a set share an event, parts of a larger set
begin with those of a smaller one, and what is made does not depend on who makes it or how often it was interrupted.
"""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import ConfigError, IncompleteError
from ..workspace import file_digest, read_json, write_json
from . import generate
from .card import load_card, load_family
from .jetsets import JET_SETS, jet_sets
from .mixture import mixture_sets
from .nano import write_nano
from .parts import Part

#: Chunks per ROOT file: 100,000 events.
FILE_CHUNKS = 50
#: A chunk number that no set uses: where rates are measured.
TRIAL = 10_000_000


def _region(data: int, template: int, test: int, supervised: int, card: str = "qcd_region") -> list[Part]:
    """Background of the signal region by use; every use has a block of chunk numbers of its own."""
    return [
        Part("sr_data", card, 0, data, "background of the data in the signal region"),
        Part("sr_template", card, 1000, template, "background for an idealised template"),
        Part("sr_test", card, 2000, test, "background that every score is tested on"),
        Part("sr_supervised", card, 3000, supervised, "background to train with labels"),
    ]


def _signal(pool: int, test: int, supervised: int, card: str = "wprime_qq") -> list[Part]:
    """Signal by use, at all m_jj: about three quarters lie in the signal region."""
    return [
        Part("signal_pool", card, 0, pool, "signal to inject"),
        Part("signal_test", card, 1000, test, "signal that every score is tested on"),
        Part("signal_supervised", card, 2000, supervised, "signal to train with labels"),
    ]


def _grid() -> list[Part]:
    """The W' grid of PAWS (2405.08889) and its point outside: two-prong pairs once, X(qq) Y(qqq) in both orders."""
    out = [Part("sr_paws", "qcd_region", 4000, 50, "background to learn the classifiers from")]
    for name in ("paws_qq", "paws_qqq"):
        for x, y in load_family(name).points():
            outside, ordered = 10 in (x, y), name == "paws_qq" and x > y
            if (x, y) == (10, 10) or not (outside or ordered):
                where = "outside the grid" if outside else "grid point"
                out.append(Part(f"{name}_{x}_{y}", f"{name}_{x}_{y}", 0, 1, where))
    return out


#: Signals of the trigger's set: name -> card.
TRIGGER_SIGNALS = {
    "higgs_bb": "higgs_bb_regions",
    "higgs_tautau": "higgs_tautau_regions",
    "ttbar": "ttbar_regions",
    "hh_4b": "hh_4b",
    "w_tau_3mu": "w_tau_3mu",
    "vbf_higgs_tautau": "vbf_higgs_tautau",
    "higgs_gamgam": "higgs_gamgam",
    "suep": "suep",
}


def _trigger(train: int, rates: int, other: int, signal: int) -> tuple[Part, ...]:
    """Zero bias with calorimeter regions, and the signals: numbers of chunks."""
    zero_bias = "zerobias_regions"
    return (
        Part("train", f"{zero_bias}_train", 0, train, "zero bias to learn from"),
        Part("rates", zero_bias, 0, rates, "zero bias for thresholds and rates"),
        Part("rates_pu30", f"{zero_bias}_pu30", 0, other, "zero bias with 30 collisions on average"),
        Part("rates_pu60", f"{zero_bias}_pu60", 0, other, "zero bias with 60 collisions on average"),
        *(Part(name, card, 0, signal, load_card(card).meaning) for name, card in TRIGGER_SIGNALS.items()),
    )


def _sets() -> dict[str, tuple[Part, ...]]:
    inclusive = "QCD at all m_jj: sidebands, spectrum, and a signal region of its own"
    three = "three-prong signal at all m_jj"
    return {
        "small": (*_region(8, 8, 12, 10), *_signal(2, 4, 4), Part("inclusive", "qcd_large", 0, 10, inclusive)),
        "half": (
            *_region(30, 30, 75, 50),
            *_signal(7, 14, 21),
            Part("three_prong", "wprime_qqq", 0, 10, three),
            Part("inclusive", "qcd_large", 0, 75, inclusive),
        ),
        "full": (
            *_region(60, 136, 170, 136),
            *_signal(7, 14, 30),
            Part("three_prong", "wprime_qqq", 0, 50, three),
            Part("inclusive", "qcd_large", 0, 500, inclusive),
        ),
        "alternative": (
            Part("sr_alternative", "qcd_alt_region", 0, 30, "signal region of another shower"),
            Part("alternative", "qcd_alt", 0, 150, "QCD of another shower at all m_jj, like an imperfect simulation"),
        ),
        "shapes": (*_region(15, 15, 40, 30, "qcd_region_full"), *_signal(7, 14, 14, "wprime_qq_full")),
        "paws": tuple(_grid()),
        "trigger": _trigger(100, 150, 30, 3),
        **jet_sets(),
        **mixture_sets(),
    }  # fmt: skip


#: Other names of sets.
ALIASES = {"reduced": "half"}


def set_names() -> list[str]:
    """The sets there are."""
    return list(_sets())


def parts_of(name: str) -> tuple[Part, ...]:
    """The parts of a set in the order they are made; an unknown one is a `ConfigError` with the nearest."""
    known = _sets()
    found = known.get(ALIASES.get(name, name))
    if found is None:
        close = difflib.get_close_matches(name, [*known, *ALIASES], n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"no event set '{name}'{hint} There are: {', '.join([*known, *ALIASES])}")
    return found


def set_folder(name: str, seed: int) -> Path:
    """Where a set is kept: beside the chunks in the user's cache."""
    kinds = {"trigger": "trigger", "adc": "objects", **dict.fromkeys(JET_SETS, "jets")}
    kind = kinds.get(name, "resonant")
    return generate.cache_folder().parent / kind / f"{ALIASES.get(name, name)}-{seed}"


@dataclass(frozen=True)
class Made:
    """A part that is on disk. ``content`` is the sha256 of its numbers, the same wherever it was made."""

    name: str
    card: str
    digest: str
    seed: int
    first: int
    chunks: int
    events: int
    generated: int
    cpu_s: float
    content: str
    files: tuple[tuple[str, str], ...]
    meaning: str

    def intact(self, folder: Path) -> bool:
        """Whether every file is there with its checksum."""
        return all((folder / n).is_file() and file_digest(folder / n) == sha for n, sha in self.files)


@dataclass(frozen=True)
class EventSet:
    """A set on disk: its folder and its parts by name."""

    name: str
    seed: int
    folder: Path
    parts: dict[str, Made]
    complete: bool

    def paths(self, part: str) -> list[Path]:
        """The ROOT files of a part; a `ConfigError` for one it does not have."""
        if part not in self.parts:
            raise ConfigError(f"set '{self.name}' has no part '{part}'; it has {', '.join(self.parts)}")
        return [self.folder / name for name, _ in self.parts[part].files]

    def __str__(self) -> str:
        events = sum(p.events for p in self.parts.values())
        hours = sum(p.cpu_s for p in self.parts.values()) / 3600
        state = "complete" if self.complete else "not complete"
        return f"set {self.name} (seed {self.seed}): {len(self.parts)} parts, {events:,} events, {hours:.2f} core hours, {state}, {self.folder}"


def read_set(name: str, seed: int = 1, folder: Path | None = None) -> EventSet:
    """The set as its manifest tells; an `InputError` if there is none."""
    where = folder or set_folder(name, seed)
    raw = read_json(where / "manifest.json")
    parts = {p["name"]: Made(**{**p, "files": tuple((n, s) for n, s in p["files"])}) for p in raw["parts"]}
    return EventSet(raw["set"], raw["seed"], where, parts, raw["complete"])


def content_digest(columns: Mapping[str, Any]) -> str:
    """sha256 of the numbers of branches in the order of their names, counts of jagged ones included."""
    total = hashlib.sha256()
    for name in sorted(columns):
        values = columns[name]
        if not isinstance(values, ak.Array):
            total.update(f"{name} {values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
            continue
        if not values.fields:
            flat = np.ascontiguousarray(ak.to_numpy(ak.flatten(values)))
            total.update(np.asarray(ak.to_numpy(ak.num(values)), np.int64).tobytes())
            total.update(f"{name} {flat.dtype}".encode() + flat.tobytes())
            continue
        total.update(np.asarray(ak.to_numpy(ak.num(values[values.fields[0]])), np.int64).tobytes())
        for field in sorted(values.fields):
            flat = np.ascontiguousarray(ak.to_numpy(ak.flatten(values[field])))
            total.update(f"{name}_{field} {flat.dtype}".encode() + flat.tobytes())
    return total.hexdigest()


def _assemble(part: Part, seed: int, folder: Path, cache: Path) -> Made:
    """The ROOT files of a part whose chunks are all there."""
    card = load_card(part.card)
    files, digests, events = [], [], 0
    for number, start in enumerate(range(0, part.chunks, FILE_CHUNKS)):
        columns = generate.read_chunks(cache, card, seed, part.numbers[start : start + FILE_CHUNKS])
        if part.take:
            columns = {k: v[: part.take - events] for k, v in columns.items()}
        path = folder / f"{part.name}_{number:03d}.root"
        # Regions or constituents are most of such a file, and the highest level takes longer than making them.
        write_nano(path, columns, level=5 if "L1CaloRegion" in columns or "PFCands" in columns else 22)
        files.append((path.name, file_digest(path)))
        digests.append(content_digest(columns))
        events += len(columns["run"])
    records = [
        read_json(generate.chunk_path(cache, card, seed, i).with_suffix(".json")) for i in part.numbers
    ]
    generated = sum(r["generated"] for r in records)
    if part.take:
        generated = generated * part.take // (part.chunks * generate.CHUNK)
    return Made(
        part.name, part.card, card.digest, seed, part.first, part.chunks, events,
        generated, round(sum(r.get("cpu_s", 0.0) for r in records), 3),
        hashlib.sha256("".join(digests).encode()).hexdigest(), tuple(files), part.meaning,
    )  # fmt: skip


def _known(parts: Sequence[Part], seed: int, folder: Path) -> dict[str, Made]:
    """The parts of an earlier manifest that are still those asked for, and intact."""
    if not (folder / "manifest.json").is_file():
        return {}
    old = read_set("", seed, folder).parts

    def same(part: Part) -> bool:
        made, card = old.get(part.name), load_card(part.card)
        return (
            made is not None
            and (made.card, made.digest, made.seed) == (part.card, card.digest, seed)
            and (made.first, made.chunks) == (part.first, part.chunks)
            and (made.generated if card.hard else made.events) == part.events
            and made.intact(folder)
        )

    return {p.name: old[p.name] for p in parts if same(p)}


def _write(folder: Path, name: str, seed: int, parts: Sequence[Part], made: Mapping[str, Made]) -> None:
    done = [asdict(made[p.name]) for p in parts if p.name in made]
    total = {key: sum(p[key] for p in done) for key in ("events", "generated", "cpu_s")}
    write_json(
        folder / "manifest.json",
        {"set": name, "seed": seed, "complete": len(done) == len(parts), **total, "chunk": generate.CHUNK,
         "versions": generate.versions(), "parts": done},
    )  # fmt: skip


def make_set(
    name: str,
    seed: int = 1,
    workers: int = 1,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
    folder: Path | None = None,
    cache: Path | None = None,
) -> EventSet:
    """Make an event set, or what is missing of it: ROOT files by part and ``manifest.json`` in ``folder``.

    ``progress`` is told (events there, events of the set). Chunks go to ``cache``, parts are written as soon as their
    chunks are there, and a killed run goes on where it was. ``client``: a ``distributed.Client`` instead of local processes.
    """
    parts = parts_of(name)
    name = ALIASES.get(name, name)
    where, chunks = folder or set_folder(name, seed), cache or generate.cache_folder()
    for path in (where, chunks):
        path.mkdir(parents=True, exist_ok=True)
    made = _known(parts, seed, where)
    missing = [p for p in parts if p.name not in made]
    waiting = {(p.card, seed, i): p for p in missing for i in p.numbers}
    left = {p.name: p.chunks for p in missing}
    done = sum(p.events for p in parts if p.name in made)
    generate.spread_pools([p.card for p in missing], seed, chunks, workers if client is None else 1)
    for job, _ in generate.spread(list(waiting), chunks, workers, client):
        part = waiting.pop(job)
        left[part.name] -= 1
        done += generate.CHUNK
        if progress is not None:
            progress(done, sum(p.events for p in parts))
        if left[part.name] == 0:
            made[part.name] = _assemble(part, seed, where, chunks)
            _write(where, name, seed, parts, made)
    if waiting:
        raise IncompleteError(f"set '{name}': {len(waiting)} chunks are missing; run it again")
    _write(where, name, seed, parts, made)
    return read_set(name, seed, where)


@dataclass(frozen=True)
class Cost:
    """What a card costs: events of it in a set, and CPU seconds per selected event on this machine."""

    card: str
    events: int
    seconds_per_event: float


def _trial(name: str, size: int, first: int) -> float:
    """CPU seconds of a trial of ``size`` events of a card, without its pools."""
    card, cache = load_card(name), generate.cache_folder()
    if card.kind == "l1":
        from .level1 import make_crossings
        from .towers import load_pools

        cache.mkdir(parents=True, exist_ok=True)
        load_pools(card, 1, cache)
        started = time.process_time()
        make_crossings(card, 1, first, size, cache)
    elif card.kind == "jets":
        from .constituents import make_jets

        started = time.process_time()
        make_jets(card, 1, first, size)
    elif card.kind == "reco":
        from .overlay import load_pool
        from .reco import make_reco

        cache.mkdir(parents=True, exist_ok=True)
        load_pool(card, 1, cache)
        started = time.process_time()
        make_reco(card, 1, first, size, cache)
    else:
        from .dijets import make_dijets

        started = time.process_time()
        make_dijets(card, 1, first, size)
    return time.process_time() - started


def estimate(name: str, trial: int = 600) -> list[Cost]:
    """CPU time of a set, measured card by card with ``trial`` events each; families by their first point.

    Pools of pile-up are made where they are missing, which takes minutes, and are not counted.
    """
    events: dict[str, int] = {}
    first: dict[str, str] = {}
    for part in parts_of(name):
        stem = part.card.rstrip("0123456789_") if part.card.startswith("paws") else part.card
        events[stem] = events.get(stem, 0) + part.events
        first.setdefault(stem, part.card)
    out = []
    for stem, count in events.items():
        _trial(first[stem], 1, TRIAL)  # compiles
        out.append(Cost(stem, count, _trial(first[stem], trial, TRIAL + 1) / trial))
    return out
