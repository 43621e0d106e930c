"""Small NanoAOD-shaped files with random contents, made once."""

from pathlib import Path

import numpy as np
import pytest
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.samples.nano import collection, write_nano


def dijet_columns(n: int, seed: int, jets: int = 5) -> dict:
    """Events with 0 to ``jets`` - 1 fat jets in no order of pT."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, jets, n)
    total = int(counts.sum())
    fields = {
        "pt": rng.uniform(100, 2000, total), "eta": rng.uniform(-1.2, 1.2, total) + 2.6 * (rng.random(total) < 0.1), "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.uniform(0, 600, total), "msoftdrop": rng.uniform(0, 500, total),
        **{f"tau{i}": rng.uniform(0, 1, total) for i in (1, 2, 3, 4)},
    }  # fmt: skip
    return {
        "run": np.full(n, 1, np.uint32), "luminosityBlock": np.full(n, seed, np.uint32),
        "event": np.arange(1, n + 1, dtype=np.uint64), "genWeight": rng.uniform(0.5, 2.0, n).astype(np.float32),
        "FatJet": collection(counts, **fields),
    }  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Two files of 3,000 and 1,000 events in baskets of 700."""
    path = tmp_path_factory.mktemp("nano")
    for name, n, seed in (("a", 3000, 1), ("b", 1000, 2)):
        write_nano(path / f"{name}.root", dijet_columns(n, seed), basket=700)
    return path


@pytest.fixture(scope="session")
def records(folder):
    """The preflighted fileset: one dataset of two files."""
    return preflight({"qcd": [str(folder / "a.root"), str(folder / "b.root")]}, Dijet())
