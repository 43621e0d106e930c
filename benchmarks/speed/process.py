"""Throughput of `process`: features, network score, histogram and Parquet columns of a 500,000-event zstd file.

    python benchmarks/speed/process.py [EVENTS]

The floor is the CPU time in which uproot reads and decompresses the same branches in the same ranges; both are measured
in this process, in turn, and the best of three is taken. The files are made by bigfiles.py. Then the same through Dask
on two workers.
"""

import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bigfiles import make
from common import CACHE, publish, table
from elsewhere.models.folds import Guarded
from elsewhere.models.representations.mass_scaled import MassScaled
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.store import Stored, save
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.reading import open_tree, wanted_branches
from elsewhere.processors.stream import CHUNK, process, split
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace

KINDS = {"l1": "level1", "dijet": "dijet"}
SOURCES = {"l1": "zerobias_train", "dijet": "qcd"}


def model(kind: str, folder: Path) -> Stored:
    """A small network trained for a moment: its cost is that of a well-trained one."""
    features = load_features(kind)
    records = preflight({"train": [str(shipped(SOURCES[kind]))]}, features)
    process(records, features, folder / "train", scheduler="loop", chunk=20_000)
    events = Workspace(folder / "train").read_table("train").events.take(slice(0, 10_000))
    if kind == "l1":
        score = Guarded(Autoencoder(epochs=1)).fit(events, events)
    else:
        half = len(events) // 2
        inner = Represented(MassScaled(), WeakNetwork(epochs=1))
        score = Guarded(inner).fit(events.take(slice(0, half)), events.take(slice(half, None)))
    save(score, folder / "model", features.features, {})
    return Stored.at(folder / "model")


def measure(kind: str, events: int, folder: Path) -> dict[str, float]:
    """CPU seconds of the floor and of the whole chain on one file, and the wall time on two Dask workers."""
    features = load_features(kind)
    path = make(CACHE / f"{KINDS[kind]}_{events}.root", KINDS[kind], events)
    records = preflight({"big": [str(path)]}, features)
    settings = {"scorers": {"net": model(kind, folder)}, "thresholds": {"net": [0.5, 1000.0]}}
    units = split(records, CHUNK, {})
    tree = open_tree(str(path), records["big"][0].uuid)
    branches = wanted_branches(features, set(tree.keys(recursive=False)))
    floor, ours = [], []
    for i in range(3):
        start = time.process_time()
        for u in units:
            tree.arrays(branches, entry_start=u.start, entry_stop=u.stop, library="ak", how=dict)
        floor.append(time.process_time() - start)
        start = time.process_time()
        report = process(records, features, folder / f"run{i}", scheduler="loop", **settings)
        ours.append(time.process_time() - start)
        assert report.datasets["big"].read == events
        shutil.rmtree(folder / f"run{i}")
    wall = time.perf_counter()
    report = process(records, features, folder / "dask", scheduler="local", workers=2, **settings)
    wall = time.perf_counter() - wall
    shutil.rmtree(folder / "dask")
    return {
        "floor_cpu_s": min(floor),
        "process_cpu_s": min(ours),
        "floor_ratio": min(ours) / min(floor),
        "events_per_s_per_core": events / min(ours),
        "dask_cpu_s_in_tasks": report.cpu_s,
        "dask_wall_s": wall,
        "file_mb": path.stat().st_size / 1e6,
    }


def main(events: int) -> dict:
    torch.set_num_threads(1)
    figures: dict = {"events": events}
    for kind in SOURCES:
        folder = CACHE / "process" / kind
        shutil.rmtree(folder, ignore_errors=True)
        found = measure(kind, events, folder)
        shutil.rmtree(folder)
        print(f"{kind}: {events:,} events, zstd")
        table([(k, v, "<= 4" if k == "floor_ratio" else "") for k, v in found.items()])
        figures.update({f"{kind}_{k}": v for k, v in found.items()})
    # Level 1 is the headline: its branches hold what a real file holds. In the dijet skim every event passes and is scored.
    figures["floor_ratio"] = figures["l1_floor_ratio"]
    figures["events_per_s_per_core"] = figures["l1_events_per_s_per_core"]
    return figures


if __name__ == "__main__":
    publish("process", main(int(sys.argv[1]) if len(sys.argv) > 1 else 500_000))
