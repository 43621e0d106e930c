"""Firmware of the level-1 autoencoder: is it exact, how fast is its emulator, how near is it to the float score?

    python benchmarks/speed/firmware.py [EVENTS]

Trains the 57-input autoencoder on made-up level-1 objects, exports it, compares EVENTS (default 10,000) bit by bit with
1,000 patterns at the borders of the input type, and prints a table and, as its last line, one JSON object.
"""

import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from elsewhere.deploy.emulator import FirmwareScore, InputScale
from elsewhere.deploy.firmware import export
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.workspace import Workspace, write_json
from scipy.stats import spearmanr

SLOTS = [("MET", 1, 20.0), ("EG", 4, 8.0), ("Mu", 4, 6.0), ("Jet", 10, 25.0)]


def level_1_features() -> FeatureSet:
    """57 columns: MET, 4 e/gamma, 4 muons, 10 jets, each pt, eta, phi."""
    names = [name if n == 1 else f"{name}{i}" for name, n, _ in SLOTS for i in range(n)]
    units = (("pt", "GeV"), ("eta", ""), ("phi", "rad"))
    return FeatureSet(
        "l1", tuple(Column(f"{name}_{part}", unit, part) for name in names for part, unit in units)
    )


def made_up_events(n: int, seed: int) -> Events:
    """Falling pt spectra ordered within each kind of object, empty slots all 0."""
    rng = np.random.default_rng(seed)
    columns = []
    for name, slots, scale in SLOTS:
        pt = -np.sort(-rng.exponential(scale, (n, slots)), axis=1)
        there = np.arange(slots) < (np.ones((n, 1)) if name == "MET" else rng.poisson(0.5 * slots, (n, 1)))
        eta = rng.uniform(-2.5, 2.5, (n, slots)) * (name != "MET")
        phi = rng.uniform(-np.pi, np.pi, (n, slots))
        columns.append(np.stack([pt * there, eta * there, phi * there], axis=2).reshape(n, -1))
    identity = np.zeros(n, IDENTITY)
    identity["event"], identity["run"] = np.arange(n), seed
    x = np.concatenate(columns, axis=1).astype(np.float32)
    return Events(x, np.full(n, np.nan), np.ones(n), identity, level_1_features())


def events_for(args: list[str], n: int) -> tuple[Events, Events, str]:
    """Reference and data: the shipped-sample workspace named as second argument, else made-up events."""
    if len(args) > 1:
        space = Workspace(Path(args[1]))
        train, data = (space.read_table(d).events for d in ("zerobias_train", "zerobias"))
        return train, data.take(slice(0, n)), args[1]
    return made_up_events(20_000, 1), made_up_events(n, 2), "made-up events"


def main(args: list[str]) -> dict[str, float]:
    n = int(args[0]) if args else 10_000
    reference, data, source = events_for(args, n)
    score = Autoencoder(epochs=10).fit(reference, reference)
    scale = InputScale(tuple(score.offset_.tolist()), tuple((2.0**-score.shift_).tolist()))
    with tempfile.TemporaryDirectory() as place:
        start = time.perf_counter()
        made = export(score, data.features, scale, Path(place) / "firmware", data.x)
        total = time.perf_counter() - start
        firmware = FirmwareScore(Path(place) / "firmware")
        values, software = firmware.score(data), score.score(data)
        speed = max(firmware.speed(data.x) for _ in range(3))
    figures = {
        "firmware_mismatches": made.bits.mismatches,
        "firmware_value_mismatches": made.bits.value_mismatches,
        "events_compared": made.bits.events,
        "emulator_events_per_s": round(speed),
        "compile_s": round(made.compile_s, 1),
        "export_s": round(total, 1),
        "rank_correlation": float(spearmanr(values, software).statistic),
        "correlation": float(np.corrcoef(values, software)[0, 1]),
    }
    print(f"Autoencoder {len(data.features)}-{'-'.join(map(str, score.hidden))}-{score.latent}-..., {source}")
    for key, value in figures.items():
        print(f"  {key:28s} {value}")
    return figures


if __name__ == "__main__":
    results = main(sys.argv[1:])
    versions = {name: importlib.metadata.version(name) for name in ("hls4ml", "torch", "numpy")}
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    where = Path(__file__).resolve().parents[1] / "results" / "firmware.json"
    write_json(where, {**results, "versions": versions, "machine": machine})
    print(json.dumps(results))
