"""What Ray Train and streaming from Parquet cost: events per second of training against the same loop in plain PyTorch.

    [ELSEWHERE_SET=small] python benchmarks/outliers/throughput.py [WAY ...]

Two networks: an autoencoder 57-32-16-8 and a transformer of 19 objects. Five ways: a loop of PyTorch alone, written here, with the same
batches in memory; our loop in memory; the same from Parquet; through Ray Train with one worker; through Ray Train with Ray Data
reading Parquet (`WAYS`; figures of those that are not asked for stay as they are). One network, one rank, one shard, one thread.

Steady state: the epochs after the first, so that neither Ray's start nor the first reading counts. Per core: seconds of CPU of the
process that trains, all its threads with what it does to receive the events, so that load on the machine cancels; a plain loop runs
before and after every training and a ratio is of the two, its median over `REPEATS` (small: one). Ray Data's executor runs in an
actor, and its tasks read, decompress and scale in processes of their own; `everything` counts the CPU of all these too (`beside`). Blocks of
several epochs are read in one execution where the object store has room for them, here all of the transformer's. The processes of a local
Ray session keep the memory of freed arrays (`training_ray`), the plain loop runs as Python starts: that alone is worth 5 to 10 % to the
transformer; the variables MALLOC_* set to the same for this script take it away. Figures of wall time are of a machine that
nobody else uses. Results go to results/outliers.json, family throughput.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import torch
from common import publish
from elsewhere.chunks import Chunk
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.networks.dense import build_dense, one_thread
from elsewhere.models.networks.transformer import build_set_encoder
from elsewhere.models.scores.autoencoder import reconstruction
from elsewhere.models.training import Sample, Task, TrainSettings, ray_session, train
from elsewhere.models.training_files import EventFiles
from elsewhere.models.training_stream import read_rows
from elsewhere.models.training_stream_ray import RayData
from elsewhere.workspace import write_chunk

SET = os.environ.get("ELSEWHERE_SET", "full")
REPEATS, EPOCHS = {"full": (3, 6), "small": (1, 5)}[SET]
COLUMNS, FILES = 57, 4
#: The sample, and who trains; the last is the one whose figure is the family's.
WAYS = {
    "memory": ("memory", "plain"), "stream": ("files", "plain"), "ray": ("memory", "ray"), "ray_stream": ("files", "ray"),
}  # fmt: skip
#: Events that Ray Data reads to see what that costs beside the process that trains.
READ = {"full": 4_000_000, "small": 1_600_000}[SET]
WANTED = 0.9
SETTINGS = TrainSettings(EPOCHS, 1024, 1e-3, seed=1, shards=1)
TRANSFORMER = {
    "features": 3, "width": 32, "heads": 4, "layers": 2, "feedforward": 64, "out": 16, "seed": 1,
}  # fmt: skip


def set_loss(network: Any, x: Any, y: Any) -> Any:  # noqa: ARG001
    """A loss of the embedding alone, (n,): what is timed is the network."""
    table = x.reshape(len(x), -1, 3)
    return (network(table, table[:, :, 0] != 0) - 1).square().sum(dim=1)


#: Name: build, its configuration, loss, events.
NETWORKS: dict[str, tuple[Callable[..., Any], Mapping[str, Any], Callable[..., Any], int]] = {
    "autoencoder": (
        build_dense, {"sizes": [COLUMNS, 32, 16, 8, 16, 32, COLUMNS], "seed": 1}, reconstruction, 800_000,
    ),
    "transformer": (build_set_encoder, TRANSFORMER, set_loss, 24_000),
}  # fmt: skip


def written(folder: Path, n: int) -> EventFiles:
    """Events as level 1 has them, numbers on a grid and many empty slots, as a workspace's chunks."""
    rng = np.random.default_rng(1)
    x = np.rint(rng.normal(size=(n, COLUMNS)) * 64).astype(np.float32) / 64
    x.reshape(n, -1, 3)[rng.random((n, COLUMNS // 3)) < 0.5] = 0
    features = FeatureSet("toy", tuple(Column(f"c{i}", "", "toy") for i in range(COLUMNS)))
    identity = np.zeros(n, IDENTITY)
    identity["event"] = np.arange(n)
    events = Events(x, np.full(n, np.nan), np.ones(n), identity, features)
    paths = []
    for k, part in enumerate(np.array_split(np.arange(n), FILES)):
        paths.append(folder / f"{k}.parquet")
        write_chunk(paths[-1], Chunk(events.take(part), {}, {}, {}))
    return EventFiles(tuple(paths), window=n // 2)


def plain(name: str, sample: Sample) -> float:
    """CPU seconds per event of the loop that anybody would write, from its second epoch on."""
    build, config, loss, n = NETWORKS[name]
    arrays = {k: torch.from_numpy(v) for k, v in sample.arrays().items()}
    network = build(config)
    adam = torch.optim.Adam(network.parameters(), lr=SETTINGS.learning_rate)
    spent = []
    for epoch in range(2):
        start, total = time.process_time(), 0.0
        order = torch.from_numpy(np.random.default_rng([1, epoch]).permutation(n))
        for rows in order.split(SETTINGS.batch):
            weight = arrays["weight"][rows]
            adam.zero_grad()
            value = (loss(network, arrays["x"][rows], None) * weight).sum()
            (value / weight.sum()).backward()
            adam.step()
            total += float(value.detach())
        spent.append(time.process_time() - start)
    return spent[-1] / n


def ours(task: Task, backend: str) -> tuple[float, float]:
    """(CPU, wall) seconds per event of the median epoch after the first."""
    how = replace(SETTINGS, backend=backend)
    with tempfile.TemporaryDirectory() as folder:
        record = train(task, how, Path(folder)).record
    n = len(task.train)
    return tuple(float(np.median(t[1:])) / n for t in (record.epoch_cpu_s, record.epoch_s))  # pyright: ignore[reportReturnType]


def reading(files: EventFiles) -> float:
    """CPU seconds per event of reading, decompressing and checking the files once."""
    sample = files.sample()
    start = time.process_time()
    for block in sample.blocks:
        read_rows(sample, block)
    return (time.process_time() - start) / len(sample)


def spent() -> dict[int, float]:
    """Seconds of CPU of every process that this one has started, and those have."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def beside(files: EventFiles) -> float:
    """CPU seconds per event of all processes of the Ray session but this one while Ray Data reads for it, once all readers run."""
    sample, read = files.sample(), RayData()
    blocks = [*sample.blocks] * -(-READ // len(sample))
    first, begun = sum(b.rows for b in blocks[: len(blocks) // 2]), 0
    source = read(sample, blocks)
    try:
        while begun < first:
            begun += len(next(source)["x"])
        start = spent()
        last = dict(start)
        for _ in source:
            last |= spent()
    finally:
        read.close()
    used = sum(value - start.get(pid, 0.0) for pid, value in last.items())
    return used / (sum(b.rows for b in blocks) - begun)


def measured(name: str, folder: Path, ways: Sequence[str]) -> dict[str, Any]:
    """Ratios to the plain loop, and events per second, of every way."""
    build, config, loss, n = NETWORKS[name]
    files = written(folder, n)
    streamed = files.sample()
    memory = Sample(np.concatenate([read_rows(streamed, b)["x"] for b in streamed.blocks]))
    task = Task(build, config, loss, memory)
    jobs = {"memory": task, "files": replace(task, train=streamed)}
    rows: dict[str, list[float]] = {key: [] for way in ways for key in (way, f"{way}_cpu", f"{way}_wall")}
    rows |= {"plain": [], "reading": [], "beside": [], "everything": []}
    for _ in range(REPEATS):
        for way in ways:
            job, backend = jobs[WAYS[way][0]], WAYS[way][1]
            before = plain(name, memory)
            cpu, wall = ours(job, backend)
            after = plain(name, memory)
            print(
                f"    {name} {way}: plain {before * 1e6:.3f} and {after * 1e6:.3f}, ours {cpu * 1e6:.3f} us of CPU",
                flush=True,
            )
            rows["plain"] += [before, after]
            rows[way].append(0.5 * (before + after) / cpu)
            rows[f"{way}_cpu"].append(1 / cpu)
            rows[f"{way}_wall"].append(1 / wall)
            if way == "ray_stream":
                rows["reading"].append(reading(files))
                rows["beside"].append(beside(files))
                rows["everything"].append(0.5 * (before + after) / (cpu + rows["beside"][-1]))
    out: dict[str, Any] = {f"throughput_{name}_plain_events_per_s": 1 / float(np.median(rows["plain"]))}
    for way in ways:
        out[f"throughput_{name}_{way}_over_plain"] = [float(f(rows[way])) for f in (np.median, min, max)]
        for kind in ("cpu", "wall"):
            out[f"throughput_{name}_{way}_events_per_{kind}_s"] = float(np.median(rows[f"{way}_{kind}"]))
    if "ray_stream" in ways:
        out[f"throughput_{name}_everything_over_plain"] = float(np.median(rows["everything"]))
        for kind in ("reading", "beside"):
            out[f"throughput_{name}_{kind}_us_per_event"] = 1e6 * float(np.median(rows[kind]))
    return out


def main() -> None:
    """Measure, print, publish."""
    ways = sys.argv[1:] or list(WAYS)
    out: dict[str, Any] = {}
    with ray_session("local", 1), one_thread():
        for name in NETWORKS:
            with tempfile.TemporaryDirectory() as folder:
                out |= measured(name, Path(folder), ways)
            print(
                f"  {name}: plain PyTorch {out[f'throughput_{name}_plain_events_per_s']:,.0f} events per second of CPU"
            )
            for way in ways:
                ratio = out[f"throughput_{name}_{way}_over_plain"]
                print(f"    {way:10s} {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}] of it", flush=True)
    if "ray_stream" in ways:
        ratios = [out[f"throughput_{name}_ray_stream_over_plain"][0] for name in NETWORKS]
        out["ray_over_plain_throughput"] = min(ratios)
        print(f"  ray_over_plain_throughput {min(ratios):.3f}, wanted at least {WANTED}")
        for name in NETWORKS:
            print(
                f"  {name} with the CPU of executor and readers {out[f'throughput_{name}_everything_over_plain']:.3f}"
            )
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
