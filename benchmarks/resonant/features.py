"""The columns of event sets, chunk by chunk: a benchmark keeps these and needs no events.

    python benchmarks/resonant/features.py SET[,SET] [--workers N] [--minutes M] [--parts a,b]

A chunk is generated, its ROOT file goes through the stream as any NanoAOD file does, and a table of 100 kB is kept in the
cache. The tables are the same whoever makes them and whatever was made before: a run that ends after M minutes, or on
another machine, is gone on with. Chunks of `python -m elsewhere.samples set` that are in the cache are used.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE
from elsewhere.events import Events, FeatureSet
from elsewhere.processors.dijetsets import BASELINE_DR
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples import generate
from elsewhere.samples.card import load_card
from elsewhere.samples.nano import write_nano
from elsewhere.samples.resonant import Part, parts_of
from elsewhere.workspace import Table, Workspace, atomic

FOLDER = CACHE / "resonant" / "tables"
#: What is kept beside the baseline's four columns.
MORE = ("dR_jj", "tau32_1", "tau32_2")
Job = tuple[str, int, int]


def table_path(card: str, seed: int, chunk: int) -> Path:
    """Where the table of a chunk is."""
    return FOLDER / f"{card}-{load_card(card).digest[:12]}-{seed}-{chunk}.npz"


def _read(path: Path, features: str | object, folder: Path) -> Table:
    made = load_features(features) if isinstance(features, str) else features
    process(preflight({"events": [str(path)]}, made), made, folder, scheduler="loop")
    return Workspace(folder).read_table("events")


def make_table(job: Job) -> Job:
    """Make one chunk and its table; runs in a process of its own."""
    card, seed, chunk = job
    path = table_path(*job)
    if path.exists():
        return job
    with tempfile.TemporaryDirectory() as name:
        here, cache = Path(name), generate.cache_folder()
        known = load_card(card)
        folder = cache if generate.chunk_path(cache, known, seed, chunk).exists() else here
        generate.make_chunk(card, seed, chunk, str(folder))
        write_nano(here / "chunk.root", generate.read_chunks(folder, known, seed, [chunk]))
        table = _read(here / "chunk.root", "dijet", here / "dijet")
        more = _read(here / "chunk.root", BASELINE_DR, here / "dr")
    columns = [more.events.x[:, -1], table.extras["tau32_1"], table.extras["tau32_2"]]
    assert np.array_equal(more.events.identity, table.events.identity)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, x=table.events.x, more=np.stack(columns, axis=1).astype(np.float32), mass=table.events.mass,
            identity=table.events.identity,
        )  # fmt: skip
    return job


def read_part(part: Part, seed: int = 1) -> tuple[Events, np.ndarray]:
    """Events of a part in the baseline's columns, and `MORE` (n, 3); a `FileNotFoundError` where a table is missing."""
    found = [np.load(table_path(part.card, seed, i)) for i in part.numbers]
    x, more, mass, identity = (
        np.concatenate([f[name] for f in found]) for name in ("x", "more", "mass", "identity")
    )
    features: FeatureSet = load_features("dijet").features
    return Events(x, mass, np.ones(len(x)), identity, features), more


def missing(parts: Sequence[Part], seed: int = 1) -> list[Job]:
    """The chunks without a table."""
    jobs = [(p.card, seed, i) for p in parts for i in p.numbers]
    return [job for job in dict.fromkeys(jobs) if not table_path(*job).exists()]


def make(parts: Sequence[Part], workers: int, minutes: float) -> int:
    """Make what is missing until the time is over; how many chunks still are."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    jobs = missing(parts)
    if not jobs:
        return 0
    started, done = time.monotonic(), 0
    print(f"{len(jobs)} chunks of {generate.CHUNK} events to make", flush=True)
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=50) as pool:
        for _ in pool.imap_unordered(make_table, jobs):
            done += 1
            spent = time.monotonic() - started
            if done % 10 == 0:
                print(
                    f"  {done} of {len(jobs)} chunks, {done * generate.CHUNK / spent:.0f} events/s",
                    flush=True,
                )
            if spent > 60 * minutes:
                pool.terminate()
                break
    return len(missing(parts))


def main() -> None:
    """Make them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets")
    parser.add_argument("--parts", default="", help="names, or their beginnings with a star")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=600.0)
    asked = parser.parse_args()
    every = [p for name in asked.sets.split(",") for p in parts_of(name)]
    wanted = [p for p in every if any(fnmatch(p.name, w) for w in (asked.parts or "*").split(","))]
    print(f"{make(wanted, asked.workers, asked.minutes)} chunks are left")


if __name__ == "__main__":
    main()
