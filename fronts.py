"""Resources against physics: a trigger score trained for every width of its weights and every part of them pruned.

Every point is trained in its own types, its logic is traced (da4ml) and held against the score event by event, its look-up
tables are estimated or counted, and its signal efficiencies are measured at one rate. Points are written down as they are
done, so that a stopped front goes on where it was.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis.rates import efficiency_at, rate_at, threshold_for
from .analysis.report import plain
from .config import SearchConfig
from .deploy.cost import cost_of
from .deploy.planned import planned_project
from .deploy.precision import FirmwareSettings, plan_network
from .deploy.project import Project
from .deploy.rtl import RtlSettings, write_rtl
from .deploy.rtl_trace import require_da4ml, trace
from .errors import ConfigError, ElsewhereError, FitError, InputError
from .events import Events
from .models.device import on
from .models.folds import Guarded
from .models.methods import build
from .models.networks.quantised import Types
from .resonance import join
from .sections import FirmwareSection, FrontSection
from .stages import Progress, Search
from .workspace import digest, kept_result, read_json, write_json

RESULT = "front.json"
#: Events whose score is compared with the traced logic.
CHECKED = 5000
#: Weights are never coarser than this many fraction bits: the step of inputs and biases is of this size.
FRACTION = 3


@dataclass(frozen=True)
class Point:
    """One training of a setting: bits of the weights' type, part of the weights that is zero, number added to the score's seed."""

    bits: int
    pruning: float
    training: int = 0

    @property
    def name(self) -> str:
        """The name of its result's file."""
        return f"{self.bits}bit_{self.pruning:g}" + (f"_{self.training}" if self.training else "")


@dataclass(frozen=True)
class Material:
    """What all points share: zero bias to learn from and to measure a rate with, and the signals by name."""

    reference: Events
    data: Events
    signals: dict[str, Events]


def _section(config: SearchConfig) -> FrontSection:
    if config.front is None:
        raise ConfigError("front: this search has no section front")
    return config.front


def points_of(section: FrontSection) -> list[Point]:
    """Every training that is asked for, those of a setting one after another."""
    return [Point(b, p, t) for b in section.bits for p in section.pruning for t in range(section.trainings)]


def types_of(own: Types, bits: int, integer: int) -> Types:
    """The types of a point, from those of the search's score: its weights of ``bits`` bits, ``integer`` of them integer bits.

    So few bits that the step would be above 1/8 leave the step at 1/8 and give up range: 2 bits are from -1/4 to 1/8. A bias
    keeps its range, and is at least as fine as a weight. Trained weights of the default types are below 1 in size; they are
    the same in fixed<6,3> and in fixed<4,1>, which is why the default of ``integer`` is 1.
    """
    weight, bias = own.of("weight"), own.of("bias")
    weight = replace(weight, width=bits, integer=min(integer, bits - FRACTION))
    fraction = max(bias.fraction, weight.fraction)
    bias = replace(bias, width=bias.integer + fraction)
    return replace(own, weight=str(weight), bias=str(bias))


def score_of(config: SearchConfig, point: Point) -> Any:
    """The search's score with the settings of a point, not yet trained; raises `ConfigError` for types it cannot have."""
    section = _section(config)
    own: Any = build(config.score.method, config.score.settings, "score")
    changed: dict[str, Any] = {
        "types": asdict(types_of(own.types, point.bits, section.integer)), "pruning": point.pruning,
        "seed": own.seed + point.training,
    }  # fmt: skip
    if section.epochs is not None:
        changed["epochs"] = section.epochs
    return build(config.score.method, {**config.score.settings, **changed}, "score")


def check_front(config: SearchConfig) -> None:
    """Raise `ConfigError` for a score that has no such front, types that cannot be, and a tool that is missing."""
    section, name = _section(config), config.score.method
    score: Any = build(name, config.score.settings, "score")
    if not isinstance(getattr(score, "types", None), Types) or not hasattr(score, "pruning"):
        raise ConfigError(
            f"front: the weights of a {name} have neither one type nor a part to prune; use score: {{method: Axol1tl}}"
        )
    if not score.quantised:
        raise ConfigError("front: score.quantised is false, so there are no bits to vary; leave it out")
    for point in points_of(section):
        score_of(config, point)
    require_da4ml()
    if section.cost == "yosys" and shutil.which("yosys") is None:
        raise ConfigError(
            "front.cost: yosys is not on the PATH; install it (Debian: apt install yosys), or use cost: estimate"
        )


def front_inputs(search: Search) -> Any:
    """Settings of the front, its score's among them."""
    config = search.config
    return [_section(config).model_dump(), config.score.model_dump(), asdict(_hardware(config))]


def _hardware(config: SearchConfig) -> RtlSettings:
    firmware = config.firmware or FirmwareSection.model_validate({})
    return RtlSettings(firmware.clock_ns, firmware.part, firmware.latency_cutoff)


def run_point(given: Material, config: SearchConfig, point: Point) -> dict[str, Any]:
    """Train, trace, count and measure one point; a plain dictionary, with ``failed`` and the reason where there is no score.

    Needs nothing but its arguments, so it runs anywhere. Raises `ElsewhereError` if the logic does not give the score.
    """
    section, score = _section(config), score_of(config, point)
    try:
        with on(config.run.device):
            model = Guarded(score).fit(given.reference, given.reference)
        hardware = _cost(score, given.data, section, _hardware(config))
        return asdict(point) | hardware | _physics(model, given, section, config)
    except (
        FitError,
        InputError,
    ) as error:  # a loss, a score or a rate that is none: so is this corner of the plane
        return asdict(point) | {"failed": str(error)}


def _cost(score: Any, data: Events, section: FrontSection, hardware: RtlSettings) -> dict[str, Any]:
    """What the logic of a trained score takes; the traced logic must give the score of some of ``data``."""
    plan = plan_network(score.network(), FirmwareSettings(**score.firmware_types()))
    project = planned_project(plan, score.columns_)
    stages = trace(project, hardware.latency_cutoff).stages
    some = data.take(np.arange(min(CHECKED, len(data))))
    wrong = int((logic_score(project, stages, score.scale(some.x)) != score.score(some)).sum())
    if wrong:
        raise ElsewhereError(f"the traced logic differs from the score in {wrong} of {len(some)} events")
    weights = [op.weight for op in project.operations if op.weight is not None]
    found = {
        "weight": str(score.types.of("weight")), "zero": float(np.mean(np.concatenate([w.ravel() for w in weights]) == 0)),
        "lut_estimate": round(stages.cost), "stages": len(stages.solutions), "checked": len(some),
        "latency_ns": len(stages.solutions) * hardware.clock_ns,
    }  # fmt: skip
    if section.cost == "estimate":
        return found
    with tempfile.TemporaryDirectory() as place:
        write_rtl(project, Path(place) / "rtl", hardware)
        counted = cost_of(Path(place) / "rtl")
    return found | {"lut": counted.lut, "ff": counted.ff, "tool": counted.tool}


def logic_score(project: Project, stages: Any, scaled: NDArray[Any]) -> NDArray[np.float64]:
    """The score (n,) that the pipeline's stages give of scaled inputs (n, d), by da4ml's interpreter."""
    values = project.input_type.to_float(project.input_type.from_float(scaled.astype(np.float64)))
    for stage in stages.solutions:
        values = stage.predict(np.ascontiguousarray(values), 1)
    return values[:, 0]


def _physics(model: Guarded, given: Material, section: FrontSection, config: SearchConfig) -> dict[str, Any]:
    """Threshold, rate and efficiencies at the target; their mean's interval is that of independent samples."""
    if config.rates is None:
        raise ConfigError("front: this search has no section rates")
    score, weight, bunches = model.score(given.data), given.data.weight, config.rates.bunches
    threshold = threshold_for(score, weight, section.target_khz, bunches)
    kept = {
        name: efficiency_at(model.score(events), events.weight, threshold) for name, events in given.signals.items()
    }  # fmt: skip
    return {
        "threshold": threshold, "rate": plain(rate_at(score, weight, threshold, bunches)), "efficiency": plain(kept),
        "mean": mean_of(list(kept.values())),
    }  # fmt: skip


def mean_of(parts: Sequence[tuple[float, float, float]]) -> list[float]:
    """The mean of (value, low, high) of independent samples, with its interval: half widths added in quadrature."""
    value = math.fsum(v for v, _, _ in parts) / len(parts)
    down, up = (math.hypot(*(p[0] - p[i] for p in parts)) / len(parts) for i in (1, 2))
    return [value, value - down, value + up]


def combined(trainings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trainings of one setting as one point: the first's threshold and rate, means of its tables and efficiencies.

    Intervals are the mean of the trainings' own, which share their events, and the error of their mean by their spread, in quadrature;
    ``spread``: their standard deviation in the mean efficiency. A setting of which a training has no score has none.
    """
    first = dict(trainings[0])
    del first["training"]
    lost = [t["failed"] for t in trainings if "failed" in t]
    if lost:
        said = f"{len(lost)} of {len(trainings)} trainings: {lost[0]}" if len(trainings) > 1 else lost[0]
        return {k: first[k] for k in ("bits", "pruning")} | {"failed": said}
    if len(trainings) == 1:
        return first
    for name in ("lut_estimate", "lut", "ff"):
        if name in first:
            first[name] = round(float(np.mean([t[name] for t in trainings])))
    for name in ("stages", "latency_ns"):
        first[name] = max(t[name] for t in trainings)
    means = [t["mean"][0] for t in trainings]
    return first | {
        "zero": float(np.mean([t["zero"] for t in trainings])), "mean": _over([t["mean"] for t in trainings]),
        "efficiency": {n: _over([t["efficiency"][n] for t in trainings]) for n in first["efficiency"]},
        "trainings": means, "spread": float(np.std(means, ddof=1)),
    }  # fmt: skip


def _over(parts: Sequence[Sequence[float]]) -> list[float]:
    """The mean of (value, low, high) of trainings measured on the same events."""
    value, low, high = np.array(parts, dtype=np.float64).T
    error = float(value.std(ddof=1)) / math.sqrt(len(parts))
    centre, down, up = float(value.mean()), float((value - low).mean()), float((high - value).mean())
    return [centre, centre - math.hypot(down, error), centre + math.hypot(up, error)]


def non_dominated(cost: Sequence[float], gain: Sequence[float]) -> list[bool]:
    """Which points no other one beats: at most their cost and at least their gain, one of the two truly better."""
    order = sorted(range(len(cost)), key=lambda i: (cost[i], -gain[i]))
    out, best, at = [False] * len(cost), -math.inf, math.nan
    for i in order:
        if gain[i] > best or (gain[i] == best and cost[i] == at):
            out[i], best, at = True, gain[i], cost[i]
    return out


def lut_of(point: Mapping[str, Any]) -> int:
    """A point's look-up tables: counted where they were, else estimated."""
    return point.get("lut", point["lut_estimate"])


def _spread(
    given: Material, points: Sequence[Point], config: SearchConfig
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Run the points one after another, or as Ray tasks; as they finish."""
    if config.run.training == "plain" or len(points) < 2:
        yield from ((point, run_point(given, config, point)) for point in points)
        return
    from .models.training_ray import ray_session

    with ray_session(config.run.ray, config.run.workers) as ray:
        stored, gpus = ray.put(given), 1 if config.run.device == "cuda" else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(run_point)
        waiting = {task.remote(stored, config, point): point for point in points}
        while waiting:
            (finished,), _ = ray.wait(list(waiting))
            yield waiting.pop(finished), ray.get(finished)


def _material(search: Search) -> Material:
    """The datasets; raises `ConfigError` where float32 cannot hold the sums of a point's layers."""
    named = {
        role: [n for n, d in search.config.events.datasets.items() if d.role == role]
        for role in ("reference", "data", "signal")
    }
    reference, data = (
        join([search.space.read_table(n) for n in named[r]]).events for r in ("reference", "data")
    )
    for point in points_of(_section(search.config)):
        score = score_of(search.config, point)
        try:
            score.types.check([len(reference.features), *score.hidden, score.latent])
        except ConfigError as error:
            raise ConfigError(f"front.bits: {point.bits}: {error}") from None
    return Material(reference, data, {n: search.space.read_table(n).events for n in named["signal"]})


def run_front(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Make every point that is not there yet, and write front.json with the set that no other point beats."""
    config, section = search.config, _section(search.config)
    points, given = points_of(section), _material(search)
    upstream = read_json(search.space.path("provenance.json"))["stages"].get("process", {}).get("key")
    roles = {n: d.role for n, d in config.events.datasets.items()}
    bunches = config.rates.bunches if config.rates is not None else None
    rest = (
        section.model_dump(exclude={"bits", "pruning", "trainings"}),
        config.score.model_dump(),
        asdict(_hardware(config)),
    )
    # More bits, parts or trainings keep what is done; everything else that a point depends on is in its key.
    keys = {p: digest(upstream, roles, bunches, rest, asdict(p)) for p in points}
    places = {p: search.space.path("front", f"{p.name}.json") for p in points}
    done = {p: r for p in points if (r := kept_result(places[p], keys[p])) is not None}
    progress(len(done), len(points))
    for point, result in _spread(given, [p for p in points if p not in done], config):
        write_json(places[point], {"key": keys[point], "result": result})
        done[point] = result
        progress(len(done), len(points))
    n = section.trainings
    made = [combined([done[p] for p in points[i : i + n]]) for i in range(0, len(points), n)]
    good = [m for m in made if "failed" not in m]
    if not good:
        raise FitError(f"front: no point has a score at {section.target_khz:g} kHz: {made[0]['failed']}")
    write_json(search.space.path(RESULT), {
        "method": config.score.method, "target_khz": section.target_khz, "crossings": len(given.data),
        "reference_events": len(given.reference), "cost": section.cost, "signals": list(given.signals),
        "trainings": n, "points": _marked(made, list(given.signals)),
    })  # fmt: skip
    return [RESULT], {"points": len(made), "failed": len(made) - len(good)}


def _marked(made: Sequence[dict[str, Any]], signals: Sequence[str]) -> list[dict[str, Any]]:
    """The points, each with the efficiencies ('mean' or a signal) in which no other one beats it."""
    good = [m for m in made if "failed" not in m]
    cost = [lut_of(m) for m in good]
    sets = {n: non_dominated(cost, [m["efficiency"][n][0] for m in good]) for n in signals}
    sets["mean"] = non_dominated(cost, [m["mean"][0] for m in good])
    best = [[n for n, kept in sets.items() if kept[i]] for i in range(len(good))]
    rows = iter(best)
    return [m if "failed" in m else {**m, "best": next(rows)} for m in made]


def outcome(search: Search) -> list[str]:
    """What was found, a line for each point that no other one beats."""
    return sentences(read_json(search.space.path(RESULT)))


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The front in the mean efficiency, a line per point, cheapest first."""
    made = found["points"]
    best = sorted((p for p in made if "mean" in p.get("best", ())), key=lut_of)
    counted = "by yosys" if found["cost"] == "yosys" else "by da4ml's estimate"
    lost = [p for p in made if "failed" in p]
    return [
        f"front: {len(best)} of {len(made)} settings are beaten by no other in look-up tables {counted} and mean efficiency at "
        f"{found['target_khz']:g} kHz",
        *(
            f"{p['bits']} bits, {100 * p['pruning']:g} % pruned: {lut_of(p):,} LUT, {p['stages']} stages, mean efficiency "
            f"{100 * p['mean'][0]:.1f} [{100 * p['mean'][1]:.1f}, {100 * p['mean'][2]:.1f}] % at {p['rate']['khz']:.2f} kHz"
            + (f", {len(p['trainings'])} trainings with a spread of {100 * p['spread']:.1f} %" if "spread" in p else "")
            for p in best
        ),
        *(f"{p['bits']} bits, {100 * p['pruning']:g} % pruned: {p['failed']}" for p in lost),
    ]  # fmt: skip
