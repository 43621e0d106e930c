"""How a search runs: stages that know what their outputs depend on, run once, and say why they would run again."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from . import __version__
from .config import SearchConfig
from .workspace import Workspace, digest, read_json, write_json

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Called with (done, total) in the stage's unit; the command line draws a bar from it."""

    def __call__(self, done: int, total: int, /) -> None:
        """Report ``done`` of ``total``."""
        ...


def silent(_done: int, _total: int) -> None:
    """A `Progress` that shows nothing."""


@dataclass(frozen=True)
class Search:
    """One search: what was asked, the folder its relative paths start from, and its workspace."""

    config: SearchConfig
    source: Path
    space: Workspace


def role_of(config: SearchConfig, dataset: str) -> str:
    """The role of a dataset; those of a coffea fileset are data."""
    known = config.events.datasets.get(dataset)
    return known.role if known is not None else "data"


@dataclass(frozen=True)
class Stage:
    """One step of a search.

    ``inputs`` gives what the outputs depend on beside the stages in ``after``; ``run`` does the work and returns
    the names of what it wrote and a record for the provenance; ``unit`` is what its progress counts.
    """

    name: str
    after: tuple[str, ...]
    inputs: Callable[[Search], Any]
    run: Callable[[Search, str, Progress], tuple[Sequence[str], dict[str, Any]]]
    unit: str


@dataclass(frozen=True)
class Planned:
    """Whether a stage would run, and why."""

    stage: Stage
    key: str
    needed: bool
    why: str


@dataclass(frozen=True)
class Reporter:
    """How progress is shown: ``bar(stage, unit)`` is a context that gives a `Progress`."""

    bar: Callable[[str, str], Any] = field(default=lambda _stage, _unit: _no_bar())


@contextmanager
def _no_bar() -> Iterator[Progress]:
    yield silent


def plan(search: Search, stages: Sequence[Stage]) -> list[Planned]:
    """Which stages would run, in order. A stage's key covers its own inputs and the keys of those before it."""
    keys: dict[str, str] = {}
    needed: set[str] = set()
    out = []
    path = search.space.path("provenance.json")
    done = read_json(path)["stages"] if path.exists() else {}
    for stage in stages:
        before = {name: [keys[name], lost_in(done.get(name))] for name in stage.after if name in keys}
        key = digest(stage.name, __version__, search.config.seed, stage.inputs(search), before)
        keys[stage.name] = key
        redone = [name for name in stage.after if name in needed]
        if stage.name not in done:
            why = "has not run yet"
        elif done[stage.name]["key"] != key:
            why = f"its inputs changed{' with ' + ', '.join(redone) if redone else ''}"
        elif not search.space.is_current(stage.name, key):
            why = "an output is missing"
        elif (lost := _chunks_lost(search, done[stage.name])) > 0:
            why = f"{lost} chunks are missing"
        elif lost_in(done[stage.name]):
            why = f"{len(lost_in(done[stage.name]))} files in quarantine are tried again"
        else:
            why = "up to date"
        if why != "up to date":
            needed.add(stage.name)
        out.append(Planned(stage, key, why != "up to date", why))
    return out


def _chunks_lost(search: Search, record: Mapping[str, Any]) -> int:
    """How many of the chunks that a finished stream left are not there any more."""
    made = record.get("chunks")
    if made is None:
        return 0
    return made["files"] - len(list(search.space.path(made["kind"]).glob("*/*.parquet")))


def lost_in(record: Mapping[str, Any] | None) -> list[str]:
    """The files a finished stage had to leave out: what comes after depends on them, and they are tried again."""
    return [] if record is None else list(record.get("quarantine", []))


def write_asked(search: Search) -> None:
    """Copy what was asked into the workspace, every default spelled out."""
    import yaml

    from .workspace import atomic

    text = yaml.safe_dump(search.config.model_dump(mode="json"), sort_keys=False)
    path = search.space.path("search.yaml")
    if not path.exists() or path.read_text() != text:
        with atomic(path) as temporary:
            temporary.write_text(text)


def run_stages(
    search: Search, stages: Sequence[Stage], wanted: Sequence[str], reporter: Reporter
) -> list[Planned]:
    """Run the ``wanted`` stages that are not up to date, in order; returns the plan that was carried out."""
    write_asked(search)
    carried = []
    for name in [s.name for s in stages if s.name in wanted]:
        todo = next(p for p in plan(search, stages) if p.stage.name == name)
        carried.append(todo)
        if not todo.needed:
            log.info("%s: up to date", name)
            continue
        wall, cpu = time.perf_counter(), sum(os.times()[:4])
        with reporter.bar(name, todo.stage.unit) as progress:
            outputs, record = todo.stage.run(search, todo.key, progress)
        times = {
            "wall_s": round(time.perf_counter() - wall, 3),
            "cpu_s": round(sum(os.times()[:4]) - cpu, 3),
        }
        search.space.finish(name, todo.key, outputs, {**times, **record})
    _write_versions(search)
    return carried


def _write_versions(search: Search) -> None:
    """Package versions beside the stages' records: what the numbers were made with."""
    import platform
    from importlib.metadata import version

    names = (
        "awkward",
        "coffea",
        "dask",
        "hist",
        "hls4ml",
        "lightgbm",
        "numpy",
        "pyarrow",
        "ray",
        "torch",
        "uproot",
    )
    versions = {"elsewhere": __version__, "python": platform.python_version()}
    versions.update({name: version(name) for name in names})
    path = search.space.path("provenance.json")
    whole = read_json(path) if path.exists() else {"stages": {}}
    if whole.get("versions") != versions or whole.get("seed") != search.config.seed:
        write_json(path, {**whole, "versions": versions, "seed": search.config.seed})
