"""The analysis that every streaming benchmark runs: features, a small trained network, score cuts, Parquet columns."""

import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from bigfiles import make
from common import CACHE, table
from elsewhere.models.folds import Guarded
from elsewhere.models.representations.mass_scaled import MassScaled
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.store import Stored, save
from elsewhere.processors.features import Features, load_features
from elsewhere.processors.preflight import FileRecord, preflight
from elsewhere.processors.stream import process
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace

#: Feature set: what bigfiles calls its contents.
KINDS = {"l1": "level1", "dijet": "dijet"}
SOURCES = {"l1": "zerobias_train", "dijet": "qcd"}
THRESHOLDS = {"net": [0.5, 1000.0]}


@dataclass(frozen=True)
class Case:
    """One kind of analysis, its input files after the preflight, and a folder that is its own."""

    kind: str
    features: Features
    records: Mapping[str, Sequence[FileRecord]]
    scorer: Stored
    folder: Path

    @property
    def events(self) -> int:
        """Events in all files."""
        return sum(r.entries for rs in self.records.values() for r in rs)

    def run(self, name: str = "run", scheduler: str = "loop", **settings: Any) -> Any:
        """`process` with everything on into a fresh folder; its report. The output stays until the next run of ``name``."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        asked = {"scorers": {"net": self.scorer}, "thresholds": THRESHOLDS, **settings}
        report = process(self.records, self.features, out, scheduler=scheduler, **asked)
        read = sum(d.read for d in report.datasets.values())
        if read != self.events:
            raise RuntimeError(f"{read} events were read, the files have {self.events}")
        return report

    def output_bytes(self, name: str = "run") -> int:
        """Size of the columns that `run` wrote."""
        return sum(p.stat().st_size for p in (self.folder / name).glob("columns/*/*.parquet"))


def file_of(kind: str, events: int, codec: str = "zstd", form: str = "ttree", width: int = 0) -> Path:
    """A file of bigfiles from the cache."""
    name = f"{KINDS[kind]}_{events}_{codec}_{form}{f'_{width}' if width else ''}.root"
    return make(CACHE / name, KINDS[kind], events, codec=codec, form=form, width=width)


def model_folder(kind: str) -> Path:
    """Where `model` puts the network of a kind."""
    return CACHE / "streaming" / f"model_{kind}" / "model"


@lru_cache
def model(kind: str) -> Stored:
    """A small network trained for a moment: its cost is that of a well-trained one. Once per process."""
    features, folder = load_features(kind), model_folder(kind).parent
    records = preflight({"train": [str(shipped(SOURCES[kind]))]}, features)
    shutil.rmtree(folder / "train", ignore_errors=True)
    process(records, features, folder / "train", scheduler="loop", chunk=20_000)
    events = Workspace(folder / "train").read_table("train").events.take(slice(0, 10_000))
    if kind == "l1":
        score = Guarded(Autoencoder(epochs=1)).fit(events, events)
    else:
        half = len(events) // 2
        inner = Represented(MassScaled(), WeakNetwork(epochs=1, hidden=(16, 16)))
        score = Guarded(inner).fit(events.take(slice(0, half)), events.take(slice(half, None)))
    save(score, model_folder(kind), features.features, {})
    return Stored.at(model_folder(kind))


def case_of(kind: str, paths: Sequence[Path], name: str, scorer: Stored | None = None) -> Case:
    """The analysis of ``kind`` on ``paths``, by ``scorer`` or one trained now; raises `InputError` for unusable files."""
    torch.set_num_threads(1)
    features = load_features(kind)
    records = preflight({"big": [str(p) for p in paths]}, features)
    folder = CACHE / "streaming" / f"{name}_{kind}"
    return Case(kind, features, records, scorer or model(kind), folder)


def cpu(work: Any) -> float:
    """CPU seconds of this process, all its threads, in ``work()``."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_gib() -> float:
    """Highest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def finish(figures: Mapping[str, Any]) -> None:
    """Print the figures as a table and, as the last line, as JSON."""
    table([(k, v, "") for k, v in figures.items()])
    print(json.dumps(figures))
