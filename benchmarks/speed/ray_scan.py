"""Windows of a hunt as Ray tasks: the same scan by two workers and by one.

    python benchmarks/speed/ray_scan.py

The events, windows and networks of `batched_scan.py` (9 windows, 5 folds, 10 members) with 10 epochs, as a search trains them: one task
per window, one thread each. The ways take turns, `REPEATS` times; a ratio is of the medians. Ray's own start is measured apart and is
not part of it (``ray_start_s``; a scan of hours does not see it). The stored weights of both must be the same, bit for bit. Two virtual
cores that share a physical one cannot give 2: ``two_processes_over_one`` is what this machine gives to two processes that train without
Ray. Results go to results/ray_scan.json.
"""

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import yaml
from batched_scan import WINDOWS, events
from common import publish, table
from elsewhere.config import SearchConfig, load_config
from elsewhere.events import Window
from elsewhere.models.training import ray_session
from elsewhere.resonance import fit_windows, spread
from elsewhere.search import template

REPEATS = 2
EDGES = np.geomspace(2100.0, 4350.0, WINDOWS + 1)


def settings(workers: int) -> SearchConfig:
    """The demo's hunt with an ensemble of networks."""
    raw = yaml.safe_load(template("dijet"))
    raw["representation"], raw["folds"] = {"method": "Identity"}, 5
    raw["reference"] = {"method": "Sidebands", "width": 150.0}
    raw["score"] = {"method": "NetworkEnsemble", "members": 10, "epochs": 10, "threads": 1}
    raw["run"] = {"training": "ray", "workers": workers}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.yaml"
        path.write_text(yaml.safe_dump(raw))
        return load_config(path)


def scan(folder: Path, workers: int) -> tuple[float, float]:
    """(seconds of the scan, seconds of Ray's start) of all windows, their models below ``folder``."""
    config, sample = settings(workers), events(1)
    jobs = [
        (sample, None, config, [(Window(EDGES[k], EDGES[k + 1]), folder / str(k))], "scan")
        for k in range(WINDOWS)
    ]
    start = time.perf_counter()
    with ray_session("local", workers):
        ready = time.perf_counter()
        done = list(spread(jobs, config))
        end = time.perf_counter()
    assert len(done) == WINDOWS
    return end - ready, ready - start


def half(job: tuple[int, str]) -> None:
    """Every second window without Ray, from the ``job[0]``-th on."""
    config, sample = settings(1), events(1)
    for k in range(job[0], WINDOWS, 2):
        fit_windows(sample, None, config, [(Window(EDGES[k], EDGES[k + 1]), Path(job[1]) / str(k))], "scan")


def weights(folder: Path) -> list[bytes]:
    """The stored arrays of every window."""
    return [p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))]


def main() -> None:
    """Measure, print, publish."""
    walls: dict[str, list[float]] = {"one": [], "two": [], "start": [], "alone": [], "halves": []}
    with multiprocessing.get_context("spawn").Pool(2) as pool, tempfile.TemporaryDirectory() as name:
        pool.map(half, [(WINDOWS - 1, f"{name}/warm"), (WINDOWS - 2, f"{name}/warm")])  # compiled, imported
        for trial in range(REPEATS):
            found = {}
            for way, workers in (("one", 1), ("two", 2)):
                found[way] = Path(name) / f"{way}{trial}"
                wall, start = scan(found[way], workers)
                walls[way].append(wall)
                walls["start"].append(start)
            if weights(found["one"]) != weights(found["two"]):
                raise SystemExit("two workers trained other networks than one")
            jobs = [(k, f"{name}/alone{trial}") for k in (0, 1)]
            start = time.perf_counter()
            for job in jobs:
                pool.apply(half, (job,))
            middle_of = time.perf_counter()
            pool.map(half, jobs, chunksize=1)
            walls["alone"].append(middle_of - start)
            walls["halves"].append(time.perf_counter() - middle_of)
    middle = {k: float(np.median(v)) for k, v in walls.items()}
    figures = {
        "ray_two_workers_over_one": middle["one"] / middle["two"],
        "two_processes_over_one": middle["alone"] / middle["halves"],
        "ray_scan_one_worker_s": middle["one"],
        "ray_scan_two_workers_s": middle["two"],
        "ray_start_s": middle["start"],
        "ray_scan_windows": WINDOWS,
    }
    table([(k, v, "") for k, v in figures.items()])
    publish("ray_scan", figures)


if __name__ == "__main__":
    main()
