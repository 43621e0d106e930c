"""Generation over all cores or a cluster: chunks that resume, one ROOT file at the end, the same whatever the workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from ..errors import IncompleteError
from ..workspace import atomic, file_digest, read_json, write_json
from .card import Card, load_card
from .nano import write_nano

#: Kept events per chunk: part of what a sample is, because a chunk is the unit of the random streams.
CHUNK = 2000


@dataclass(frozen=True)
class SimulationReport:
    """What was made: numbers of events, efficiency, time, and the checksum of the file."""

    card: str
    seed: int
    events: int
    generated: int
    path: str
    sha256: str

    @property
    def efficiency(self) -> float:
        """Kept over generated."""
        return self.events / self.generated

    def __str__(self) -> str:
        return f"{self.events:,} events of {self.card} (seed {self.seed}), efficiency {self.efficiency:.3f}, sha256 {self.sha256[:12]}"


def cache_folder() -> Path:
    """Where chunks are kept: $XDG_CACHE_HOME/elsewhere or ~/.cache/elsewhere."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "elsewhere" / "chunks"


def chunk_path(folder: Path, card: Card, seed: int, chunk: int) -> Path:
    """Where a chunk is kept; its record, which makes it complete, has the suffix .json."""
    return folder / f"{card.name}-{card.digest[:12]}-{seed}-{chunk}.parquet"


def make_chunk(name: str, seed: int, chunk: int, folder: str, size: int = CHUNK) -> tuple[int, int]:
    """Make one chunk of ``size`` events unless it is there; returns (chunk, events generated). Runs on a worker."""
    card = load_card(name)
    path = chunk_path(Path(folder), card, seed, chunk)
    record = path.with_suffix(".json")
    if path.exists() and record.exists():
        return chunk, read_json(record)["generated"]
    started = time.process_time()
    if card.kind == "dijet":
        from .dijets import make_dijets

        columns, generated = make_dijets(card, seed, chunk, size)
    elif card.kind == "jets":
        from .constituents import make_jets

        columns, generated = make_jets(card, seed, chunk, size)
    elif card.kind == "reco":
        from .reco import make_reco

        columns, generated = make_reco(card, seed, chunk, size, Path(folder))
    else:
        from .level1 import make_crossings

        columns, generated = make_crossings(card, seed, chunk, size, Path(folder))
    with atomic(path) as temporary:
        ak.to_parquet(ak.Array(columns), temporary, compression="zstd")
    write_json(record, {"generated": generated, "cpu_s": time.process_time() - started})
    return chunk, generated


#: A chunk to make: (card, seed, number).
Job = tuple[str, int, int]


def spread(jobs: Sequence[Job], folder: Path, workers: int, client: Any) -> Iterator[tuple[Job, int]]:
    """Make chunks: over a Dask client, over local processes, or in this process; (job, events generated) as each ends."""
    if client is not None:
        from distributed import as_completed as dask_completed

        futures = {client.submit(make_chunk, *job, str(folder), CHUNK, pure=False): job for job in jobs}
        yield from ((futures[future], future.result()[1]) for future in dask_completed(list(futures)))
    elif workers == 1 or len(jobs) <= 1:
        yield from ((job, make_chunk(*job, str(folder), CHUNK)[1]) for job in jobs)
    else:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
            local = {pool.submit(make_chunk, *job, str(folder), CHUNK): job for job in jobs}
            try:
                for future in as_completed(local):
                    yield local[future], future.result()[1]
            finally:
                pool.shutdown(cancel_futures=True)


def make_card_pools(name: str, seed: int, folder: str) -> None:
    """Make the pile-up pools of a card unless they are there. Runs on a worker."""
    from .overlay import make_pool
    from .towers import make_pools

    card = load_card(name)
    (make_pool if card.kind == "reco" else make_pools)(card, seed, Path(folder))


def spread_pools(names: Sequence[str], seed: int, folder: Path, workers: int) -> None:
    """Make the pile-up pools of all these cards, one process each: workers that need one at once would all make it."""
    cards = [card for card in map(load_card, dict.fromkeys(names)) if card.kind in ("l1", "reco")]
    if not cards:
        return
    from . import overlay, towers

    where = {"l1": towers.pool_path, "reco": overlay.pool_path}
    paths = {where[card.kind](card, seed, folder): card.name for card in cards}
    missing = [name for path, name in paths.items() if not path.exists()]
    if workers == 1 or len(missing) <= 1:
        for name in missing:
            make_card_pools(name, seed, str(folder))
        return
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
        for future in [pool.submit(make_card_pools, name, seed, str(folder)) for name in missing]:
            future.result()


def read_chunks(folder: Path, card: Card, seed: int, chunks: Sequence[int]) -> dict[str, Any]:
    """The branches of chunks that are there, joined in order."""
    parts = [ak.from_parquet(chunk_path(folder, card, seed, i)) for i in chunks]
    whole = ak.concatenate(parts)
    return {k: _column(whole[k]) for k in whole.fields}


def simulate(
    card: str,
    events: int,
    out: Path,
    seed: int,
    workers: int = 1,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> SimulationReport:
    """Generate ``events`` selected events of a card into ``out`` (ROOT), with ``out``.json beside it.

    Of a card that showers hard processes again it is those of ``events`` of them that pass.
    Chunks are cached, so a killed run goes on where it was and a longer run starts with the shorter one's events.
    The events are the same whatever the number of workers. ``client``: a ``distributed.Client`` instead of local
    processes. Raises `ElsewhereError` where Pythia or FastJet is missing.
    """
    known: Card = load_card(card)
    folder = cache or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    chunks = -(-events // CHUNK)
    generated: dict[int, int] = {}
    for job, count in spread([(card, seed, i) for i in range(chunks)], folder, workers, client):
        generated[job[2]] = count
        if progress is not None:
            progress(min(len(generated) * CHUNK, events), events)
    if sorted(generated) != list(range(chunks)):
        raise IncompleteError(
            f"{card}: {chunks - len(generated)} of {chunks} chunks are missing; run it again"
        )
    columns = read_chunks(folder, known, seed, range(chunks))
    # A card that showers again has fewer events than hard processes: the first ``events`` of those.
    kept = int(np.sum(columns["event"] <= events)) if known.hard else events
    columns = {k: v[:kept] for k, v in columns.items()}
    write_nano(out, columns)
    total = sum(generated.values()) * events // (chunks * CHUNK)
    report = SimulationReport(card, seed, kept, total, str(out), file_digest(out))
    write_json(out.with_suffix(".json"), {**asdict(report), **_provenance(known)})
    return report


def _column(values: ak.Array) -> Any:
    """Flat branches as NumPy, collections as plain awkward records."""
    packed = ak.to_packed(values)
    if packed.ndim == 1 and not packed.fields:
        return np.asarray(ak.to_numpy(packed))
    if not packed.fields:
        return ak.drop_none(packed)
    return ak.zip({k: ak.drop_none(packed[k]) for k in packed.fields})


def versions() -> dict[str, str]:
    """Of the packages that decide what is made."""
    from importlib.metadata import version

    return {p: version(p) for p in ("pythia8mc", "fastjet", "numba", "uproot", "awkward")}


def _provenance(card: Card) -> dict[str, Any]:
    return {"card": asdict(card), "digest": card.digest, "versions": versions()}
