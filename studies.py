"""The studies stage: the search repeated with injected signal, and what its best window hangs on.

Parts that need no truth look at the search as it was made: stability of the fit, importance of the features, the oddest
events. Repetitions need a dataset with role signal; every one trains anew on the data with other hidden rows and another
seed, and is written down when it is done, so that a stopped study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from . import resonance
from .analysis.hunt import scan
from .analysis.hunt_backgrounds import Estimator
from .analysis.metrics import FLOOR, roc
from .analysis.report import plain
from .analysis.spectrum import nested_spectra, passing
from .analysis.studies_scores import importances, oddest
from .analysis.studies_stability import stability
from .analysis.studies_trials import (
    bands_of,
    counted,
    for_band,
    passing_others,
    signal_halves,
    windows_of_signal,
)
from .config import HuntSection, MethodSection, SearchConfig
from .errors import ConfigError, FitError
from .events import Events, Window, fold_of, identity_hash
from .hunting import all_cuts
from .models.device import on
from .models.folds import CrossFit
from .models.methods import build, method
from .models.represented import Represented
from .models.store import Stored, load
from .resonance import CONTROL, SEARCH, Sample, fit_edges, model_name
from .sections import StudiesSection
from .stages import Progress, Search
from .workspace import digest, kept_result, read_json, write_json

#: Scores that learn data against reference, so that labels make them supervised; for the others trees are the ceiling.
CLASSIFIERS = ("WeakTrees", "WeakNetwork", "NetworkEnsemble")
#: Shuffles of each feature.
REPEATS = 5
#: Parts that need no injections.
PARTS = 3
Kind = Literal["search", "supervised", "idealised"]


@dataclass(frozen=True)
class Job:
    """One training of a study: ``count`` signal events of ``dataset`` hidden in the data, looked for in ``window``."""

    kind: Kind
    dataset: str
    window: Window
    count: int
    trial: int

    @property
    def name(self) -> str:
        """The name of its result's file."""
        return f"{self.dataset}_{self.kind}_{self.window.centre:g}_{self.count}_{self.trial}"


@dataclass(frozen=True)
class Material:
    """What the trainings of one signal dataset share: ``data`` without anything hidden, rows that may be hidden
    (``pool``) and rows that measure (``measured``), and delta_sys with its error by (window's centre, cut)."""

    data: Events
    pool: Events
    measured: Events
    simulated: Events | None
    bias: dict[tuple[float, float], tuple[float, float]]


def studies_inputs(search: Search) -> Any:
    """Settings of the studies."""
    return search.config.studies.model_dump() if search.config.studies else None


def trial_seed(seed: int, trial: int) -> int:
    """The seed of everything random in a trial; the same for all strengths, so that their hidden rows are nested."""
    return int(np.random.SeedSequence([seed, 1 + trial]).generate_state(1)[0] >> 1)


def _hidden(pool: Events, count: int, seed: int) -> Events:
    order = np.argsort(identity_hash(pool.identity, seed), kind="stable")
    return pool.take(np.sort(order[:count]))


def _seeded(config: SearchConfig, trial: int) -> SearchConfig:
    """The settings of a trial: folds, and what its methods draw, by the trial's own seed."""
    seed = trial_seed(config.seed, trial)
    update: dict[str, Any] = {"seed": seed}
    for factor in ("representation", "reference", "score"):
        section = getattr(config, factor)
        if section is not None and "seed" in method(section.method, factor).__dataclass_fields__:
            update[factor] = MethodSection(method=section.method, **{**section.settings, "seed": seed})
    return config.model_copy(update=update)


def run_job(given: Material, config: SearchConfig, job: Job) -> dict[str, Any]:
    """Train and count; a plain dictionary. Needs nothing but its arguments, so it runs anywhere."""
    asked = _seeded(config, job.trial)
    if job.kind == "search":
        return _repeat(given, asked, job)
    hidden = _hidden(given.pool, job.count, asked.seed)
    inside = given.data.take(job.window.contains(given.data.mass))
    if job.kind == "supervised":
        first, second = inside, given.pool.take(job.window.contains(given.pool.mass))
    else:
        # The background has one sample only, so half of it is the reference and half the data. With all of the signal a
        # difference of S / (B/2) stands against errors of both halves: as clear as the whole data and an endless reference.
        hidden = hidden.take(job.window.contains(hidden.mass))
        half = fold_of(inside.identity, 2, asked.seed + 1) == 0
        first, second = inside.take(half), Events.concatenate([inside.take(~half), hidden])
    looking = build(asked.representation.method, asked.representation.settings, "representation")
    known = asked.score.method in CLASSIFIERS
    inner = build(*((asked.score.method, asked.score.settings) if known else ("WeakTrees", {})), "score")
    with on(asked.run.device):
        model = CrossFit(Represented(looking, inner), folds=asked.folds, seed=asked.seed).fit(first, second)
    return {"roc": _curve(model.score, inside, given.measured, job.window)}


def _curve(score: Callable[[Events], Any], background: Events, measured: Events, window: Window) -> Any:
    """The ROC of the window's measuring signal against its background at the thresholds a band needs; None without a floor."""
    signal = measured.take(window.contains(measured.mass))
    curve = roc(score(signal), score(background))
    try:
        keep = for_band(curve)
    except FitError:  # fewer background events than any significance improvement may be quoted with
        return None
    return plain(
        {**asdict(curve), **{k: getattr(curve, k)[keep] for k in ("signal", "background", "n_background")}}
    )


def _repeat(given: Material, asked: SearchConfig, job: Job) -> dict[str, Any]:
    """The search of one window end to end: hide, train, score, cut, fit; delta_sys is the hunt's."""
    section = _section(asked)
    hidden = _hidden(given.pool, job.count, asked.seed)
    both = Events.concatenate([given.data, hidden]) if job.count else given.data
    with TemporaryDirectory() as folder:
        resonance.fit_windows(both, given.simulated, asked, [(job.window, Path(folder) / "model")], "")
        model, _ = load(Path(folder) / "model")
    edges, cuts = fit_edges(section), all_cuts(section)
    both = both.take((both.mass >= edges[0]) & (both.mass < edges[-1]))
    score, fold, tie = model.score(both), *_folds(both, asked)
    spectra = nested_spectra(both.mass, score, cuts, edges, fold, tie)
    estimate = Estimator(section.background, section.collision_energy, section.signal_width, section.guard)
    results, failed = scan([job.window], [spectra], section.collision_energy, estimate)
    held = model.score(given.measured), *_folds(given.measured, asked)
    there = job.window.contains(given.measured.mass)
    everything, counts = np.ones(len(both), bool), []
    for r in results:
        chosen = passing(score, r.cut, fold, everything, tie)
        passed = there if r.cut >= 1 else there & passing_others(score, chosen, fold, tie, *held)
        bias = given.bias.get((job.window.centre, r.cut), (0.0, 0.0))
        counts.append(plain(counted(r, bias, float(passed.mean()))))
    background = given.data.take(job.window.contains(given.data.mass))
    return {
        "counts": counts, "failed": failed, "in_window": int(job.window.contains(hidden.mass).sum()),
        "roc": _curve(model.score, background, given.measured, job.window),
    }  # fmt: skip


def _folds(events: Events, config: SearchConfig) -> tuple[Any, Any]:
    return fold_of(events.identity, config.folds, config.seed), identity_hash(events.identity, config.seed)


def _section(config: SearchConfig) -> HuntSection:
    if config.hunt is None:
        raise ValueError("studies need a hunt")
    return config.hunt


def spread(
    given: Sequence[Material], jobs: Sequence[tuple[int, Job]], config: SearchConfig
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run the ``jobs`` (index of their material, job): one after another, or as Ray tasks; as they finish."""
    if config.run.training == "plain" or len(jobs) < 2:
        yield from ((job, run_job(given[i], config, job)) for i, job in jobs)
        return
    from .models.training_ray import ray_session

    with ray_session(config.run.ray, config.run.workers) as ray:
        stored = [ray.put(one) for one in given]
        gpus = 1 if config.run.device == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(run_job)
        waiting = {task.remote(stored[i], config, job): job for i, job in jobs}
        while waiting:
            (finished,), _ = ray.wait(list(waiting))
            yield waiting.pop(finished), ray.get(finished)


def _material(search: Search, name: str, found: dict[str, Any], asked: StudiesSection) -> Material:
    """The samples of one signal dataset; raises `ConfigError` where more is to be hidden than may be."""
    # A hidden row is an event, whatever its simulation weighs.
    config, whole = search.config, _unweighted(search.space.read_table(name).events)
    pool, rest = signal_halves(whole, config.seed, config.events.datasets[name].inject)
    if asked.injections[-1] > pool.sum() or not rest.any():
        raise ConfigError(
            f"studies.injections: {asked.injections[-1]} events asked, but of the {len(whole)} of dataset {name} only "
            f"{pool.sum()} may be hidden and the rest measures; ask for fewer or give it more files"
        )
    # Where there is a search without injected signal, its bias is that of data that hold none.
    clean = found.get(CONTROL) or found[SEARCH]
    if not clean["results"]:
        clean = found[SEARCH]
    bias = {
        (Window(**r["window"]).centre, r["cut"]): (r["delta"], r["delta_error"]) for r in clean["results"]
    }
    data = resonance.join(
        [search.space.read_table(n) for n in resonance.data_names(search.space, config)]
    ).events
    return Material(
        data, whole.take(pool), whole.take(rest), resonance.simulation(search.space, config), bias
    )


def _own(config: SearchConfig, name: str, asked: StudiesSection) -> int:
    """The strength that is compared with the ceilings: the search's own, or the largest asked where it injects nothing."""
    return config.events.datasets[name].inject or asked.injections[-1]


def _jobs(search: Search, name: str, given: Material, asked: StudiesSection) -> list[Job]:
    """Every training of one signal dataset; none where no window holds it."""
    section, own = _section(search.config), _own(search.config, name, asked)
    holding = windows_of_signal(section.windows.windows(), given.measured.mass)
    strengths, trials = sorted({*asked.injections, own}), range(asked.trials)
    out = [Job("search", name, w, s, t) for s in strengths for w in holding for t in trials]
    ceilings: tuple[Kind, ...] = ("supervised", "idealised")
    for kind in ceilings if holding and given.measured.mass.size else ():
        out += [Job(kind, name, holding[0], own, t) for t in trials]
    return out


def _injections(search: Search, found: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """All trainings that are asked for, and what they say by signal dataset."""
    config, asked = search.config, search.config.studies
    names = [n for n, d in config.events.datasets.items() if d.role == "signal"]
    if asked is None or not asked.injections or not names:
        progress(PARTS, PARTS)
        return {}
    given = [_material(search, n, found, asked) for n in names]
    jobs = [(i, j) for i, n in enumerate(names) for j in _jobs(search, n, given[i], asked)]
    # A trial needs the events, the methods and the hunt's fits: other toys, more trials or strengths keep what is done.
    upstream = read_json(search.space.path("provenance.json"))["stages"].get("score", {}).get("key")
    fits = _section(config).model_dump(exclude={"toys"})
    keys = {j: digest(upstream, fits, j.name) for _, j in jobs}
    done = {
        j: r
        for _, j in jobs
        if (r := kept_result(search.space.path("studies", f"{j.name}.json"), keys[j])) is not None
    }
    todo = [(i, j) for i, j in jobs if j not in done]
    progress(PARTS + len(done), PARTS + len(jobs))
    for job, result in spread(given, todo, config):
        write_json(search.space.path("studies", f"{job.name}.json"), {"key": keys[job], "result": result})
        done[job] = result
        progress(PARTS + len(done), PARTS + len(jobs))
    return {n: _collected(n, given[i], done, config, asked) for i, n in enumerate(names)}


def _collected(
    name: str, given: Material, done: dict[Job, dict[str, Any]], config: SearchConfig, asked: StudiesSection
) -> dict[str, Any]:
    """The trials of one signal dataset, in the order of window, strength and trial, and the bands of its best window."""
    mine = {j: r for j, r in done.items() if j.dataset == name}
    windows = windows_of_signal(_section(config).windows.windows(), given.measured.mass)
    out: dict[str, Any] = {
        "rows": {"hidden_from": len(given.pool), "measured_with": len(given.measured)},
        "own": _own(config, name, asked), "trials": asked.trials, "windows": [],
    }  # fmt: skip
    if not windows:
        middle = float(np.median(given.measured.mass))
        return out | {"why": f"no window holds the median mass of {name}, {middle:.0f} GeV", "bands": {}}
    for window in windows:
        here: dict[str, Any] = {"window": window._asdict(), "strengths": []}
        here["background"] = int(window.contains(given.data.mass).sum())
        for strength in sorted({j.count for j in mine if j.kind == "search"}):
            made = [mine[Job("search", name, window, strength, t)] for t in range(asked.trials)]
            keep = ("counts", "failed", "in_window")
            here["strengths"].append(
                {"injected": strength, "trials": [{k: m[k] for k in keep} for m in made]}
            )
        out["windows"].append(here)
    return out | {"bands": _bands(name, windows[0], out["own"], mine, asked.trials)}


def _bands(
    name: str, window: Window, own: int, mine: dict[Job, dict[str, Any]], trials: int
) -> dict[str, Any]:
    """SIC and background rejection over trainings: the search's own, and its ceilings. Lists in one order."""
    kinds: tuple[tuple[Kind, str], ...] = (
        ("search", f"this search, {own} injected"), ("supervised", "supervised"), ("idealised", "idealised"),
    )  # fmt: skip
    made = {
        label: [mine[Job(kind, name, window, own, t)]["roc"] for t in range(trials)] for kind, label in kinds
    }
    return plain(bands_of({label: [r for r in raw if r] for label, raw in made.items()}))


def _stability(search: Search, data: Sample, found: dict[str, Any]) -> Any:
    """The best window's Z under other choices of the fit."""
    config, section, best = search.config, _section(search.config), found["best"]
    events, windows, edges = data.table.events, section.windows.windows(), fit_edges(section)
    fold, tie = _folds(events, config)
    inside = (events.mass >= edges[0]) & (events.mass < edges[-1])
    masses = [
        events.mass[passing(data.table.scores[model_name(SEARCH, w)], best["cut"], fold, inside, tie)]
        for w in windows
    ]
    at = windows.index(Window(**best["window"]))
    return plain(stability(
        windows, masses, at, best["cut"], best["order"], low=section.mass_low, high=section.mass_high,
        bin_width=section.bin_width, energy=section.collision_energy, guard=section.guard,
    ))  # fmt: skip


def _importance(search: Search, data: Sample, found: dict[str, Any]) -> Any:
    """What the best window's score loses without each feature: significance improvement, or without truth separation."""
    config, window = search.config, Window(**found["best"]["window"])
    model = Stored.at(search.space.path("models", model_name(SEARCH, window)))
    events = data.table.events
    inside = window.contains(events.mass)
    signal = resonance.held_out_signal(search.space, config, "columns")
    kept = signal.events.take(window.contains(signal.events.mass)) if signal is not None else None
    background = events.take(inside & ~data.is_signal)
    if kept is not None and min(len(kept), len(background)) >= FLOOR:
        made = importances(
            model.score, _unweighted(kept), background, "sic", repeats=REPEATS, seed=config.seed
        )
        return plain(made) | {"second_is": "background", "window": window._asdict()}
    # Without truth, or with too little of it in this window.
    width = window.high - window.low
    beside = Window(window.low - width, window.high + width).contains(events.mass) & ~inside
    made = importances(
        model.score, events.take(inside), events.take(beside), "auc", repeats=REPEATS, seed=config.seed
    )
    return plain(made) | {"second_is": "data beside the window", "window": window._asdict()}


def _unweighted(events: Events) -> Events:
    return Events(events.x, events.mass, np.ones(len(events)), events.identity, events.features)


def _oddest(search: Search, data: Sample, found: dict[str, Any]) -> dict[str, Any]:
    """The events of largest score in the best window, as they are in the data: nothing says which of them were injected."""
    window = Window(**found["best"]["window"])
    events, score = data.table.events, data.table.scores[model_name(SEARCH, window)]
    rows = np.flatnonzero(window.contains(events.mass))
    rows = rows[oddest(score[rows], identity_hash(events.identity[rows], search.config.seed))]
    features = events.features
    listed = [
        {
            **{k: int(events.identity[k][i]) for k in ("run", "luminosityBlock", "event")},
            "mass": float(events.mass[i]), "score": float(score[i]),
            "features": {n: float(v) for n, v in zip(features.names, events.x[i], strict=True)},
        }
        for i in rows
    ]  # fmt: skip
    return {"window": window._asdict(), "units": {c.name: c.unit for c in features.columns}, "events": listed}


def studies(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Make every study that is asked for and write studies.json."""
    found = read_json(search.space.path("hunt.json"))
    mine, out = found[SEARCH], {}
    progress(0, PARTS)
    if mine["best"] is not None:
        data = resonance.sample(search.space, search.config, SEARCH, "scores")
        parts = (("stability", _stability), ("importance", _importance), ("oddest", _oddest))
        for i, (name, make) in enumerate(parts, start=1):
            out[name] = make(search, data, mine)
            progress(i, PARTS)
    made = _injections(search, found, progress) if out else {}  # no events, nothing to hide signal in
    write_json(search.space.path("studies.json"), {**out, "injections": made})
    return ["studies.json"], {"signals": len(made)}


__all__ = ["Job", "Material", "run_job", "studies", "studies_inputs", "trial_seed"]
