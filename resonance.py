"""The resonant search: one cross-fitted classifier per signal region, its scores in the stream, and the hunt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .config import HuntSection, SearchConfig
from .errors import ConfigError, InputError
from .events import Events, Window, identity_hash
from .models.device import on
from .models.folds import CrossFit, fit_together
from .models.methods import build, method
from .models.references.comparable import comparable
from .models.represented import Represented
from .models.store import Stored, record_of, save
from .stages import Progress, Search
from .workspace import Table, Workspace, read_json

#: With the injected events, and without them.
SEARCH, CONTROL = "search", "control"


def variants(config: SearchConfig) -> tuple[str, ...]:
    """The searches to make: the one asked for, and its control without injected events if there are any."""
    injected = any(d.inject for d in config.events.datasets.values())
    asked = config.hunt is not None and config.hunt.control
    return (SEARCH, CONTROL) if injected and asked else (SEARCH,)


def injected_rows(table: Table, count: int, seed: int) -> np.ndarray:
    """Mask of the ``count`` events to hide, shape (n,): those of smallest identity hash, so order does not matter."""
    if count > len(table):
        raise ConfigError(
            f"inject: {count} events asked, the signal dataset holds {len(table)} after its selection"
        )
    order = np.argsort(identity_hash(table.events.identity, seed), kind="stable")
    mask = np.zeros(len(table), dtype=bool)
    mask[order[:count]] = True
    return mask


@dataclass(frozen=True)
class Sample:
    """The data of one variant, with the truth beside it: only metrics may read ``is_signal``."""

    table: Table
    is_signal: np.ndarray


def sample(space: Workspace, config: SearchConfig, variant: str, kind: str = "columns") -> Sample:
    """All data events and, in the search variant, the injected ones; rows ordered by dataset and file."""
    parts: list[Table] = []
    truth: list[np.ndarray] = []
    for name in data_names(space, config):
        parts.append(space.read_table(name, kind))
        truth.append(np.zeros(len(parts[-1]), dtype=bool))
    for name, dataset in config.events.datasets.items():
        if dataset.inject and variant == SEARCH:
            whole = space.read_table(name, kind)
            hidden = whole.take(injected_rows(whole, dataset.inject, config.seed))
            parts.append(hidden)
            truth.append(np.ones(len(hidden), dtype=bool))
    return Sample(join(parts), np.concatenate(truth))


def held_out_signal(space: Workspace, config: SearchConfig, kind: str = "scores") -> Table | None:
    """The signal events that were not injected: they measure the efficiency and nothing else."""
    parts = []
    for name, dataset in config.events.datasets.items():
        if dataset.role == "signal":
            whole = space.read_table(name, kind)
            parts.append(whole.take(~injected_rows(whole, dataset.inject, config.seed)))
    return join(parts) if parts else None


def data_names(space: Workspace, config: SearchConfig) -> list[str]:
    """Datasets with role data, those of a coffea fileset included."""
    named = [n for n, d in config.events.datasets.items() if d.role == "data"]
    if config.events.fileset is not None:
        named += [n for n in read_json(space.path("fileset.json")) if n not in config.events.datasets]
    return named


def join(parts: Sequence[Table]) -> Table:
    """Tables one after the other; scores and extras are those of the first."""
    first = parts[0]
    return Table(
        Events.concatenate([p.events for p in parts]),
        {k: np.concatenate([p.extras[k] for p in parts]) for k in first.extras},
        {k: np.concatenate([p.scores[k] for p in parts]) for k in first.scores},
    )


def model_name(variant: str, window: Window) -> str:
    """The folder of a window's model."""
    return f"{variant}_{window.centre:g}"


def simulation(space: Workspace, config: SearchConfig) -> Events | None:
    """The events of the datasets with role reference, for a reference that starts from simulation; None where it does not.

    Raises `ConfigError` where it needs them and there are none.
    """
    if config.reference is None or "simulation" not in _fields(config.reference.method):
        return None
    names = [n for n, d in config.events.datasets.items() if d.role == "reference"]
    if not names:
        raise ConfigError(
            f"reference.method: {config.reference.method} starts from simulation; add a dataset with role: reference"
        )
    return join([space.read_table(name) for name in names]).events


def _fields(method_name: str) -> set[str]:
    return {f.name for f in fields(method(method_name, "reference"))}


def training_samples(
    events: Events, simulated: Events | None, config: SearchConfig, window: Window
) -> tuple[Events, Events]:
    """The sample of the reference of one window, learnt from the data beside it, and the data in it that compare with that."""
    if config.reference is None:
        raise ValueError("a hunt has a reference")
    reference = build(config.reference.method, config.reference.settings, "reference")
    if simulated is not None:
        reference.simulation = simulated
    stream = np.random.SeedSequence([config.seed, round(window.centre)])
    background = reference.fit(events, window).sample(None, np.random.default_rng(stream))
    return background, comparable(events.take(window.contains(events.mass)), reference)


def fit_windows(
    events: Events,
    simulated: Events | None,
    config: SearchConfig,
    windows: list[tuple[Window, Any]],
    key: str,
) -> list[dict[str, Any]]:
    """Fit the cross-fitted scores of windows, given with their folders, together, and store them; their training records."""
    looking = build(config.representation.method, config.representation.settings, "representation")
    score = Represented(looking, build(config.score.method, config.score.settings, "score"))
    models = [CrossFit(deepcopy(score), folds=config.folds, seed=config.seed) for _ in windows]
    with on(config.run.device):
        samples = [training_samples(events, simulated, config, w) for w, _ in windows]
        fit_together(models, samples)
    records: list[dict[str, Any]] = []
    for model, (window, folder), (background, inside) in zip(models, windows, samples, strict=True):
        record = {
            "key": key,
            "window": list(window),
            "reference_events": len(background),
            "data_events": len(inside),
            "left_out_events": int(window.contains(events.mass).sum()) - len(inside),
        }
        save(model, folder, events.features, record)
        records.append(record)
    return records


def _todo(search: Search, hunt: HuntSection, key: str) -> Iterator[tuple[str, Window]]:
    for variant in variants(search.config):
        for window in hunt.windows.windows():
            path = search.space.path("models", model_name(variant, window), "model.json")
            if not (path.exists() and read_json(path)["record"].get("key") == key):
                yield variant, window


def train(search: Search, key: str, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Train every window of every variant; windows that are there already are kept."""
    config, hunt = search.config, search.config.hunt
    if hunt is None:
        raise ValueError("train of a resonant search needs a hunt")
    samples = {v: sample(search.space, config, v).table.events for v in variants(config)}
    # A sample without events teaches nothing, and the hunt in it ends in no p-value.
    todo = [(v, w) for v, w in _todo(search, hunt, key) if len(samples[v])]
    total = sum(len(s) > 0 for s in samples.values()) * len(hunt.windows.windows())
    progress(total - len(todo), total)
    simulated = simulation(search.space, config)
    jobs = []
    for variant, sample_of in samples.items():
        mine = [(w, search.space.path("models", model_name(v, w))) for v, w in todo if v == variant]
        # A GPU takes the networks of all windows at once; on processors a window is what can be kept on its own.
        size = len(mine) if config.run.device == "cuda" and config.run.training == "plain" else 1
        parts = [mine[i : i + size] for i in range(0, len(mine), max(size, 1))]
        jobs += [(sample_of, simulated, config, part, key) for part in parts]
    done = total - len(todo)
    for fitted in spread(jobs, config):
        done += len(fitted)
        progress(done, total)
    names = [model_name(v, w) for v in variants(config) if len(samples[v]) for w in hunt.windows.windows()]
    # said by every run, whoever trained them: what a generated background has nothing to compare with
    left_out = sum(record_of(search.space.path("models", n)).get("left_out_events", 0) for n in names)
    return [f"models/{n}/model.json" for n in names], {
        "models": len(names), "trained": len(todo), "left_out_events": left_out,
    }  # fmt: skip


def spread(jobs: list[tuple[Any, ...]], config: SearchConfig) -> Iterator[Any]:
    """Run `fit_windows` on every job: one after another, or as Ray tasks; results in the order they finish."""
    if config.run.training == "plain" or len(jobs) < 2:
        yield from (fit_windows(*job) for job in jobs)
        return
    from .models.training_ray import ray_session

    with ray_session(config.run.ray, config.run.workers) as ray:
        stored: dict[int, Any] = {}
        for job in jobs:
            for sample_of in job[:2]:
                stored.setdefault(id(sample_of), ray.put(sample_of))
        gpus = 1 if config.run.device == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(fit_windows)
        waiting = [task.remote(stored[id(job[0])], stored[id(job[1])], *job[2:]) for job in jobs]
        while waiting:
            finished, waiting = ray.wait(waiting)
            yield ray.get(finished[0])


def scorers(search: Search) -> dict[str, Any]:
    """Every stored window model by name; workers load them by path and checksum."""
    config = search.config
    if config.hunt is None:
        raise ValueError("scorers of a resonant search need a hunt")
    out = {}
    for variant in variants(config):
        for window in config.hunt.windows.windows():
            name = model_name(variant, window)
            path = search.space.path("models", name)
            if not path.exists():
                continue  # no event to learn from: `train` has said so
            learnt = record_of(path)["window"]
            if list(window) != learnt:
                raise InputError(
                    f"{path} was learnt for {learnt[0]:g}-{learnt[1]:g} GeV, not for {window.low:g}-{window.high:g} GeV; "
                    "delete it and train again"
                )
            out[name] = Stored.at(path)
    return out


def fit_edges(hunt: HuntSection) -> np.ndarray:
    """Bin edges of the fit range in GeV."""
    bins = round((hunt.mass_high - hunt.mass_low) / hunt.bin_width)
    return hunt.mass_low + hunt.bin_width * np.arange(bins + 1)


def train_inputs(search: Search) -> Any:
    """What the models depend on beside the columns."""
    config = search.config
    sections = [config.representation, config.reference, config.score]
    roles = {n: (d.role, d.inject) for n, d in config.events.datasets.items()}
    scan = config.hunt.windows.model_dump() if config.hunt else None
    found = [[s.model_dump() if s else None for s in sections], config.folds, scan, variants(config), roles]
    return found if config.run.device == "cpu" else [*found, config.run.device]
