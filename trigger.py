"""The trigger study: a score learnt from zero bias, its firmware in the stream, and the rate of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis.metrics import roc
from .analysis.rates import crossing_khz, efficiency_at, rate_at, rate_curve, threshold_interval
from .analysis.report import plain
from .conditions import conditions_study
from .conditions import sentences as circumstances
from .config import SearchConfig
from .deploy.cms_export import CmsRequest, cms_sentences
from .deploy.emulator import FirmwareScore, InputScale
from .deploy.firmware import export, write_thresholds
from .deploy.hardware import HardwareUnits
from .deploy.precision import FirmwareSettings
from .deploy.rtl import RtlSettings
from .deploy.rtl_export import RtlRequest, hardware_sentences
from .deploy.tree_firmware import export_trees
from .errors import ConfigError, FitError
from .events import FeatureSet
from .menus import menu_study, sentences
from .models.base import Exportable, Score, TrainedTypes, TreeExportable
from .models.device import on
from .models.folds import Guarded
from .models.methods import build, method
from .models.represented import Represented
from .models.store import Stored, load, save
from .models.training import TrainPlan
from .models.training_files import EventFiles
from .resonance import join
from .sections import FirmwareSection
from .stages import Progress, Search
from .streaming import features_of
from .workspace import Table, read_json, write_json

MODEL = "trigger"
FLOAT, FIRMWARE = "float", "firmware"
#: Points of a rate curve.
POINTS = 120


def names_with(config: SearchConfig, role: str) -> list[str]:
    """The datasets of a role, in the order of search.yaml."""
    return [n for n, d in config.events.datasets.items() if d.role == role]


def train_inputs(search: Search) -> Any:
    """What the model depends on beside the columns."""
    run = search.config.run
    more = [run.precision, run.stream]
    asked = [search.config.score.model_dump(), names_with(search.config, "reference")]
    if represented(search.config):
        asked.append(search.config.representation.model_dump())
    return asked if more == ["float32", False] else [*asked, *more]


def represented(config: SearchConfig) -> bool:
    """Whether the score looks at anything but the columns themselves."""
    return config.representation.method != "Identity"


def model_of(config: SearchConfig) -> Score:
    """The score, not yet trained; behind its representation where it has one."""
    score = build(config.score.method, config.score.settings, "score")
    if not represented(config):
        return score
    looking = build(config.representation.method, config.representation.settings, "representation")
    return Represented(looking, score)


def _plan_trainings(search: Search, model: Any, progress: Progress) -> None:
    """Tell every network of the model where it is trained: the representation's comes before the score's."""
    config = search.config
    folder = search.space.path("models", f".{MODEL}-checkpoint")
    parts = {"": model}
    if isinstance(model, Represented):
        parts = {"representation": model.representation, "score": model.inner}
    trained = {name: part for name, part in parts.items() if hasattr(part, "trainer")}
    if not trained and config.run.precision != "float32":
        behind = f" behind {config.representation.method}" if represented(config) else ""
        raise ConfigError(
            f"run.precision: a {config.score.method}{behind} is no network of the training loop; leave it out"
        )
    total, before = sum(getattr(p, "epochs", 0) for p in trained.values()), 0
    ray = config.run.training == "ray"
    for name, part in trained.items():
        part.trainer = TrainPlan(
            backend="ray" if ray else "plain", workers=_workers(config, part) if ray else 1, ray_address=config.run.ray,
            folder=folder / name, progress=_counted_from(before, total, progress), precision=config.run.precision,
        )  # fmt: skip
        before += getattr(part, "epochs", 0)


def _counted_from(before: int, total: int, progress: Progress) -> Callable[..., None]:
    """The stage's progress of a training that others of ``before`` epochs come before."""
    return lambda epoch, *_: progress(before + epoch, max(total, before + epoch))


def train(search: Search, key: str, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Train the score, and before it its representation, on the reference datasets.

    An interrupted training goes on at its last epoch.
    """
    config = search.config
    model = model_of(config)
    _plan_trainings(search, model, progress)
    names = names_with(config, "reference")
    with on(config.run.device):
        if config.run.stream:
            files = EventFiles(tuple(p for n in names for p in search.space.chunks(n)))
            guarded, features, events = Guarded(model).fit_stream(files), files.features, len(files)
        else:
            reference = join([search.space.read_table(n) for n in names]).events
            guarded = Guarded(model).fit(reference, reference)
            features, events = reference.features, len(reference)
    record: dict[str, Any] = {"key": key, "reference_events": events}
    score: Any = guarded.inner.inner if isinstance(guarded.inner, Represented) else guarded.inner
    if getattr(score, "record_", None) is not None:
        record["training"] = score.record_.to_json()
    save(guarded, search.space.path("models", MODEL), features, record)
    return [f"models/{MODEL}/model.json"], {"training": record.get("training")}


def _workers(config: SearchConfig, score: Any) -> int:
    """As many workers as are there, but no more than the pieces that the score cuts its batches into."""
    return min(config.run.workers, getattr(score, "shards", 1))


def firmware_inputs(search: Search) -> Any:
    """Settings of the firmware."""
    return search.config.firmware.model_dump() if search.config.firmware else None


def export_firmware(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Export, compile, and compare bit by bit with an independent evaluation of what was exported."""
    config, section = search.config, search.config.firmware
    if section is None:
        raise ConfigError("firmware: this search has no section firmware")
    check_firmware(search)
    guarded, features = load(search.space.path("models", MODEL))
    score = guarded.inner
    progress(0, 2)
    held_out = join([search.space.read_table(n) for n in names_with(config, "data")]).events
    vectors = held_out.x[: section.vectors]
    settings = FirmwareSettings(clock_ns=section.clock_ns, part=section.part, **_types(score))
    scale = InputScale(tuple(float(o) for o in score.offset_), tuple(float(2.0**-s) for s in score.shift_))
    if section.cms is not None:
        features = _counted(search, features)
    rest: Any = (features, scale, search.space.path("firmware"), vectors)
    if isinstance(score, TreeExportable):
        if section.rtl:
            raise ConfigError(
                f"firmware.rtl: no Verilog is made of the trees of a {config.score.method}; set rtl: false"
            )
        made = export_trees(score, *rest, settings=settings)
    else:
        cms = None if section.cms is None else CmsRequest(section.cms.name, section.cms.version)
        made = export(score, *rest, settings=settings, rtl=_rtl(section, held_out.x), cms=cms)
    progress(2, 2)
    record = {
        "compile_s": round(made.compile_s, 2),
        "events": made.bits.events,
        "mismatches": made.bits.mismatches,
    }
    for part in (made.rtl, made.cms):
        record |= part.to_json() if part is not None else {}
    return ["firmware/firmware.json"], record


def check_firmware(search: Search) -> None:
    """Raise `ConfigError` before any work starts where there can be no firmware, or not what firmware.cms asks for."""
    config, section = search.config, search.config.firmware
    if section is None:
        return
    if represented(config):
        raise ConfigError(
            f"firmware: a {config.score.method} behind {config.representation.method} is not one network of the columns, which is "
            "what becomes firmware; leave firmware out (firmware: null), or the representation"
        )
    if not issubclass(method(config.score.method), (Exportable, TreeExportable)):
        raise ConfigError(
            f"firmware: a {config.score.method} is neither one network nor trees in integers, which is what becomes firmware; leave "
            "firmware out (firmware: null) or choose another score"
        )
    if section.cms is None:
        return
    if issubclass(method(config.score.method), TreeExportable):
        raise ConfigError(
            f"firmware.cms: a {config.score.method} is of trees, and only networks (hls4ml) become an emulator of CMSSW; "
            "leave cms out or choose another score"
        )
    HardwareUnits.of(features_of(search).features)


def _counted(search: Search, features: FeatureSet) -> FeatureSet:
    """The feature set as its definition has it now: a model trained before columns had steps does not know them."""
    defined = features_of(search).features
    features.require_same(defined, "the trained model", "the feature definition")
    return defined


def _types(score: Any) -> dict[str, Any]:
    """The fixed-point types a score was trained in; none: the firmware's defaults."""
    return dict(score.firmware_types()) if isinstance(score, TrainedTypes) else {}


def _rtl(section: FirmwareSection, x: NDArray[Any]) -> RtlRequest | None:
    """What the section asks of the Verilog; it is proved on events that no training saw."""
    if not section.rtl:
        return None
    settings = RtlSettings(section.clock_ns, section.part, section.latency_cutoff)
    return RtlRequest(settings, x[: section.proof_events], section.proof_events, cost=section.cost)


def scorers(search: Search) -> dict[str, Any]:
    """The float model, and the firmware's own arithmetic where it was exported."""
    out: dict[str, Any] = {FLOAT: Stored.at(search.space.path("models", MODEL))}
    if search.config.firmware is not None:
        out[FIRMWARE] = FirmwareScore(search.space.path("firmware"))
    return out


def rates_inputs(search: Search) -> Any:
    """Settings of the rates."""
    return search.config.rates.model_dump() if search.config.rates else None


def _signals(search: Search) -> dict[str, Table]:
    return {n: search.space.read_table(n, "scores") for n in names_with(search.config, "signal")}


def _working_points(
    score: NDArray[np.float64],
    weight: NDArray[np.float64],
    signals: dict[str, Table],
    name: str,
    search: Search,
) -> list[dict[str, Any]]:
    """Threshold, rate and signal efficiencies for every target rate, with intervals."""
    section = search.config.rates
    if section is None:
        raise ConfigError("rates: this search has no section rates")
    out = []
    for khz in section.targets_khz:
        try:
            threshold, low, high = threshold_interval(score, weight, khz, section.bunches)
        except FitError as error:
            out.append({"target_khz": khz, "failed": str(error)})
            continue
        passing = {n: efficiency_at(t.scores[name], t.events.weight, threshold) for n, t in signals.items()}
        out.append({
            "target_khz": khz, "threshold": threshold, "threshold_low": low, "threshold_high": high,
            "rate": plain(rate_at(score, weight, threshold, section.bunches)), "efficiency": passing,
        })  # fmt: skip
    return out


def run_rates(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Rate curves, working points and efficiencies of every scorer, and how far firmware is from float."""
    config, section = search.config, search.config.rates
    if section is None:
        raise ConfigError("rates: this search has no section rates")
    data = join([search.space.read_table(n, "scores") for n in names_with(config, "data")])
    signals, weight = _signals(search), data.events.weight
    out: dict[str, Any] = {
        "bunches": section.bunches,
        "crossings": len(data),
        "crossing_khz": crossing_khz(section.bunches),
    }
    out["scorers"] = {}
    for i, (name, score) in enumerate(data.scores.items()):
        grid = np.unique(np.quantile(score, 1 - np.geomspace(1.0, 3.0 / len(score), POINTS)))
        out["scorers"][name] = {
            "curve": plain(rate_curve(name, score, weight, grid.tolist(), section.bunches)),
            "efficiency": {
                n: [efficiency_at(t.scores[name], t.events.weight, g) for g in grid]
                for n, t in signals.items()
            },
            "auc": {n: roc(t.scores[name], score, t.events.weight, weight).auc for n, t in signals.items()},
            "points": _working_points(score, weight, signals, name, search),
        }
        progress(i + 1, len(data.scores))
    if FIRMWARE in data.scores:
        out["firmware_against_float"] = _agreement(data, out["scorers"][FLOAT]["points"], section.bunches)
        thresholds = {
            f"{p['target_khz']:g} kHz": p["threshold"]
            for p in out["scorers"][FIRMWARE]["points"]
            if "threshold" in p
        }
        write_thresholds(search.space.path("firmware"), thresholds)
    main = FIRMWARE if FIRMWARE in data.scores else FLOAT
    points = out["scorers"][main]["points"]
    if section.menu:
        out["menu"] = menu_study(data, section.menu, points, main, section.bunches, signals)
    out["conditions"] = conditions_study(
        data, signals, points, main, scorers(search)[main], section, config.seed
    )
    write_json(search.space.path("rates.json"), out)
    return ["rates.json"], {}


def _agreement(data: Table, points: list[dict[str, Any]], bunches: int) -> dict[str, Any]:
    """Correlations, and the firmware's rate at the thresholds chosen with the float score."""
    from scipy import stats

    software, firmware = data.scores[FLOAT], data.scores[FIRMWARE]
    weight = data.events.weight
    ranks: Any = stats.spearmanr(software, firmware)
    return {
        "pearson": float(np.corrcoef(software, firmware)[0, 1]),
        "spearman": float(ranks.statistic),
        "largest_difference": float(np.abs(firmware - software).max()),
        "rates": [
            {
                "target_khz": p["target_khz"], "threshold": p["threshold"],
                "float": plain(rate_at(software, weight, p["threshold"], bunches)),
                "firmware": plain(rate_at(firmware, weight, p["threshold"], bunches)),
            }
            for p in points if "threshold" in p
        ],
    }  # fmt: skip


def outcome(search: Search) -> list[str]:
    """Rates and efficiencies in a few lines."""
    found = read_json(search.space.path("rates.json"))
    lines = [f"{found['crossings']:,} zero-bias crossings, {found['bunches']} bunches"]
    for name, one in found["scorers"].items():
        for p in one["points"]:
            if "failed" in p:
                lines.append(f"{name}, {p['target_khz']:g} kHz: {p['failed']}")
                continue
            r = p["rate"]
            seen = ", ".join(f"{n} {100 * e[0]:.1f} %" for n, e in p["efficiency"].items())
            lines.append(
                f"{name}, {p['target_khz']:g} kHz: score > {p['threshold']:.4g} gives {r['khz']:.2f} "
                f"[{r['low']:.2f}, {r['high']:.2f}] kHz ({r['n_pass']} crossings){'; ' + seen if seen else ''}"
            )
    lines += sentences(found["menu"]) if "menu" in found else []
    lines += circumstances(found["conditions"])
    if "firmware_against_float" in found:
        agreement = found["firmware_against_float"]
        record = read_json(search.space.path("firmware", "firmware.json"))
        lines += hardware_sentences(record) + cms_sentences(record)
        record = record["verified"]
        lines.append(
            f"firmware: {record['mismatches']} of {record['events']:,} events differ from an independent fixed-point "
            f"evaluation; rank correlation with float {agreement['spearman']:.5f}"
        )
    return lines
