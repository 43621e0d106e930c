"""The figures of the trigger: from training to firmware, its proof, its cost, its rate and what it keeps of signals.

    python benchmarks/trigger/run.py [NAME ... | --emulators | --seeds | --teacher | --table]

Searches on the set `trigger` (made first: 15 core minutes), each with another score: AXOL1TL's encoder of version 4 and version 5, both
in the types of their firmware, and CICADA's students of version 2 and 1 on calorimeter regions, all with Verilog, proof and cost
(version 2 in the published types and, as `cicada_narrow`, with half of its dense weights and narrower numbers; version 1 with the published
dropout and constant learning rate, its scale not matched; what the settings are was chosen on crossings of the training set that neither
network learns from and no figure is read from);
version 4 trained in plain numbers; the default autoencoder; a boosted-tree student of that autoencoder; and `vicreg_gmm`, what was published
between versions 4 and 5: the backbone of version 5 with a Gaussian mixture behind it (geometric mean of Mahalanobis distances), which is no
firmware. Versions 4, 5, the plain training and the mixture are repeated with other seeds (of one seed, version 5 and the mixture have the
same backbone). The mixture's number of components is its default, in the range of the public code; nothing was chosen by these figures.
About an hour of two cores, from the columns to the end every time; needs verilator and yosys.
With NAMEs only those searches are made anew, with --emulators only their C++ (some minutes), with --seeds only the repetitions that are
missing, with --teacher only the comparison of CICADA's students with their teachers, with --table none. Results go to results/trigger.json; without a prefix they are those of
version 4.

Two losses by quantisation: of one plain training when it is cast to its firmware's types (conversion_loss, the same events twice), and of
training in narrow types from the start against plain training (quantisation_loss, with the error that the spread over seeds gives).
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, publish, table
from elsewhere.analysis.rates import efficiency_at, threshold_interval
from elsewhere.deploy.emulator import FirmwareScore
from elsewhere.models.folds import Guarded
from elsewhere.models.methods import build
from elsewhere.models.represented import Represented
from elsewhere.models.store import load
from elsewhere.samples.resonant import TRIGGER_SIGNALS, EventSet, make_set
from elsewhere.search import open_search, run_search, template
from elsewhere.stages import Search
from elsewhere.trigger import export_firmware
from elsewhere.workspace import read_json, write_json

FOLDER = CACHE / "trigger"
MAIN, PLAIN, FIVE, MIXTURE = "axol1tl", "axol1tl_float", "axol1tl_v5", "vicreg_gmm"
#: CICADA's version 2 with half of its dense weights and narrower numbers; settings as published where the defaults are others.
NARROW = "cicada_narrow"
NARROW_TYPES = {
    "kernel": "fixed<5,0,RND_CONV,SAT>", "weight": "fixed<5,1,RND_CONV,SAT>", "activation": "ufixed<8,6,TRN,SAT>",
}  # fmt: skip
AS_PUBLISHED = {"dropout": 0.125, "schedule": "constant", "outliers": 0.2}
#: Part of the crossings that is 1 kHz: there the students' scale is matched, on the training set.
MATCH = 3.5e-5
#: The score of each search, and the adders in a row of a pipeline stage of its Verilog (None: no Verilog is made).
SEARCHES: dict[str, tuple[dict[str, Any], int | None]] = {
    MAIN: ({"method": "Axol1tl"}, 5),
    PLAIN: ({"method": "Axol1tl", "quantised": False}, None),
    FIVE: ({"method": "Axol1tlV5"}, 8),
    MIXTURE: ({"method": "MixtureDistance"}, None),
    "cicada": ({"method": "Cicada", "match": MATCH}, 8),
    NARROW: ({"method": "Cicada", "match": MATCH, "pruned": 0.5, "types": NARROW_TYPES}, 8),
    "cicada_v1": ({"method": "Cicada", "version": 1, **AS_PUBLISHED}, 5),
    "autoencoder": ({"method": "Autoencoder", "epochs": 20}, None),
    "tree_student": ({"method": "TreeStudent", "inner": {"method": "Autoencoder", "epochs": 20}}, None),
}
#: The representation that a search's score is behind; the two together are not exported.
BEHIND: dict[str, dict[str, Any]] = {MIXTURE: {"method": "Level1VicReg"}}
#: Searches that are repeated, and with which seeds beside 0; more for version 4, whose trainings differ most.
SEEDS = {MAIN: (1, 2, 3, 4), PLAIN: (1, 2), FIVE: (1, 2, 3), MIXTURE: (1, 2, 3)}
TARGETS = (1.0, 10.0, 100.0)
VECTORS, SPEED_EVENTS = 60_000, 50_000
WANTED = {
    "mismatches_c": "0", "mismatches_rtl": "0", "events_compared": ">= 100000", "latency_ns": "<= 50",
    "initiation_interval": "1", "lut_fraction_vu9p": "< 0.03", "emulator_khz_per_core": ">= 100",
    "quantisation_loss_relative": "< 0.05", "conversion_loss_relative_1khz": "< 0.05", "v5_over_v4_1khz": "> 1",
    "gmm_over_v4_1khz": "> 1", "v5_over_gmm_1khz": "> 1", "cicada_spearman_zerobias": "> 0.9",
    "cicada_rate_over_teacher_1khz": "0.9 to 1.1",
    **{f"{NARROW}_{k}": v for k, v in (("lut_fraction_vu9p", "< 0.03"), ("spearman_zerobias", "> 0.9"), ("rate_over_teacher_1khz", "0.9 to 1.1"))},
    "cicada_lut_fraction_vu9p": "< 0.03",
}  # fmt: skip
WANTED |= {
    f"{FIVE}_{k}": WANTED[k] for k in ("mismatches_c", "mismatches_rtl", "events_compared", "latency_ns")
}
WANTED |= {f"{FIVE}_lut_fraction_vu9p": "< 0.03", f"{FIVE}_emulator_khz_per_core": ">= 100"}


def settings_of(name: str, events: EventSet) -> dict[str, Any]:
    """The search ``name`` as changes of the demo's: its score, its events and, with regions, no seeds of objects."""
    score, cutoff = SEARCHES[name]
    regions = score["method"] == "Cicada"
    roles = {"train": "reference", "rates": "data", **dict.fromkeys(TRIGGER_SIGNALS, "signal")}
    files = {n: {"files": [str(p) for p in events.paths(n)], "role": role} for n, role in roles.items()}
    settings: dict[str, Any] = {
        "name": name, "events.features": "regions" if regions else "l1", "events.datasets": files, "score": score,
        "rates.pileup": None, "rates.section_groups": None, "rates.faults": {}, "firmware.vectors": VECTORS,
    }  # fmt: skip
    if name in BEHIND:
        settings = {k: v for k, v in settings.items() if not k.startswith("firmware")}
        settings |= {"representation": BEHIND[name], "firmware": None}
    if regions:
        settings["rates.menu"] = {}
    if cutoff is not None:
        settings |= {"firmware.rtl": True, "firmware.cost": True, "firmware.latency_cutoff": cutoff}
    return settings


def write_template() -> Path:
    """The demo's configuration in the benchmark's folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "trigger.yaml"
    path.write_text(template("trigger"))
    return path


def opened(name: str, events: EventSet) -> Search:
    """The search ``name``."""
    return open_search(
        write_template(), [f"{k}={json.dumps(v)}" for k, v in settings_of(name, events).items()]
    )


def run(name: str, events: EventSet) -> dict[str, Any]:
    """One search; its rates, its firmware's record, the emulator's speed, and repetitions with other seeds."""
    search = opened(name, events)
    shutil.rmtree(
        search.space.root, ignore_errors=True
    )  # stages know their settings, not the code that made them
    run_search(search, "rates")
    found: dict[str, Any] = {"rates": read_json(search.space.path("rates.json"))}
    if search.config.firmware is not None:
        data = search.space.read_table("rates", "scores")
        firmware = FirmwareScore(search.space.path("firmware"))
        firmware.speed(data.events.x[:1000])
        found["record"] = read_json(search.space.path("firmware", "firmware.json"))
        found["khz"] = max(firmware.speed(data.events.x[:SPEED_EVENTS]) for _ in range(3)) / 1e3
    if name in SEEDS:
        found["repeated"] = [repeated(name, search, seed) for seed in SEEDS[name]]
    if name.startswith("cicada"):
        found["teacher"] = against_teacher(search)
    write_json(FOLDER / f"{name}.json", found)
    return found


def emulator_again(name: str, events: EventSet) -> None:
    """Export the score of a search that was made before once more, without Verilog, and measure the emulator's speed of that.

    Raises `SystemExit` unless its scores are those of the firmware whose Verilog was proved.
    """
    changes = settings_of(name, events) | {"firmware.rtl": False, "firmware.cost": False}
    search = open_search(write_template(), [f"{k}={json.dumps(v)}" for k, v in changes.items()])
    vectors = search.space.path("firmware", "vectors", "scores.npy")
    proved, found = np.load(vectors), read_json(FOLDER / f"{name}.json")
    export_firmware(search, lambda *_: None)
    if not np.array_equal(np.load(vectors), proved):
        raise SystemExit(f"{name}: the C++ made again gives other scores; run this search anew")
    firmware, x = (
        FirmwareScore(search.space.path("firmware")),
        search.space.read_table("rates").events.x[:SPEED_EVENTS],
    )
    firmware.speed(x[:1000])
    found["khz"] = max(firmware.speed(x) for _ in range(3)) / 1e3
    write_json(FOLDER / f"{name}.json", found)
    print(f"{name}: {found['khz']:.0f} kHz on one core", flush=True)


def repeat(name: str, events: EventSet) -> None:
    """Train the repetitions of a search that was made before for those of its `SEEDS` that it lacks."""
    search, path = opened(name, events), FOLDER / f"{name}.json"
    found = read_json(path)
    for seed in SEEDS[name][len(found["repeated"]) :]:
        found["repeated"].append(repeated(name, search, seed))
        write_json(path, found)
        print(f"{name}: trained with seed {seed}", flush=True)


def repeated(name: str, search: Search, seed: int) -> dict[str, Any]:
    """Efficiency of each signal by target rate [kHz], trained with another seed; of the score, which is the firmware's."""

    def made(section: dict[str, Any], factor: str) -> Any:
        settings = {k: v for k, v in section.items() if k != "method"}
        return build(section["method"], {**settings, "seed": seed}, factor)

    score = made(SEARCHES[name][0], "score")
    if name in BEHIND:
        score = Represented(made(BEHIND[name], "representation"), score)
    reference = search.space.read_table("train").events
    score = Guarded(score).fit(reference, reference)
    data = search.space.read_table("rates").events
    signals = {n: search.space.read_table(n).events for n in TRIGGER_SIGNALS}
    scored, kept = score.score(data), {n: score.score(e) for n, e in signals.items()}
    out = {}
    for khz in TARGETS:
        threshold, _, _ = threshold_interval(scored, data.weight, khz, search.config.rates.bunches)  # type: ignore[union-attr]
        out[f"{khz:g}"] = {n: efficiency_at(kept[n], e.weight, threshold)[0] for n, e in signals.items()}
    return out


def against_teacher(search: Search) -> dict[str, float]:
    """How well CICADA's student follows its teacher: weighted rank correlations, and rates at the teacher's threshold of 1 kHz."""
    guarded, _ = load(search.space.path("models", "trigger"))
    teacher, out = guarded.inner.teacher_score, {}
    for name in ("rates", *TRIGGER_SIGNALS):
        sample = search.space.read_table(name, "scores")
        wanted, found, weight = teacher(sample.events), sample.scores["firmware"], sample.events.weight
        out["spearman_zerobias" if name == "rates" else f"spearman_{name}"] = weighted_spearman(
            wanted, found, weight
        )
        if name == "rates":
            threshold, _, _ = threshold_interval(wanted, weight, 1.0, search.config.rates.bunches)  # type: ignore[union-attr]
            names = ("rate_over_teacher_1khz", "rate_over_teacher_1khz_low", "rate_over_teacher_1khz_high")
            out |= dict(zip(names, rate_ratio(found > threshold, wanted > threshold, weight), strict=True))
    return out


def rate_ratio(above: Any, below: Any, weight: Any) -> tuple[float, float, float]:
    """Rate of ``above`` over that of ``below``, masks of the same crossings, with its 68 % interval by a Poisson bootstrap."""
    either = above | below
    a, b, w = above[either], below[either], weight[either]
    drawn = np.random.default_rng(0).poisson(1.0, (2000, len(w))) * w
    low, high = np.quantile((drawn @ a) / (drawn @ b), [0.16, 0.84])
    return float(w[a].sum() / w[b].sum()), float(low), float(high)


def weighted_spearman(a: Any, b: Any, weight: Any) -> float:
    """Correlation of weighted ranks: of the weight below each value and half of the weight at it."""

    def ranks(value: Any) -> Any:
        _, which = np.unique(value, return_inverse=True)
        at = np.bincount(which, weight)
        return (np.cumsum(at) - 0.5 * at)[which]

    x, y = (r - np.average(r, weights=weight) for r in (ranks(a), ranks(b)))
    top = np.sum(weight * x * y)
    return float(top / np.sqrt(np.sum(weight * x * x) * np.sum(weight * y * y)))


def points(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Threshold, rate and efficiencies of software and firmware at every target rate, each with its interval."""
    out: dict[str, Any] = {}
    for stage, one in found["rates"]["scorers"].items():
        for p in one["points"]:
            if "failed" in p:
                continue
            at = f"{prefix}{stage}_{p['target_khz']:g}khz"
            out[f"threshold_{at}"] = [p["threshold"], p["threshold_low"], p["threshold_high"]]
            out[f"rate_khz_{at}"] = [p["rate"][k] for k in ("khz", "low", "high")]
            out[f"crossings_{at}"] = p["rate"]["n_pass"]
            out |= {f"efficiency_{name}_{at}": value for name, value in p["efficiency"].items()}
    for p in found["rates"].get("menu", {}).get("points", []):
        pure = p["score"]["pure"]
        out[f"pure_khz_{prefix}{p['target_khz']:g}khz"] = [pure[k] for k in ("khz", "low", "high")]
    return out


def trainings(found: dict[str, Any], khz: float) -> dict[str, Any]:
    """Efficiencies (trainings,) of each signal at a rate: of the search's own training, then those with other seeds."""
    first = next(p for p in found["rates"]["scorers"]["float"]["points"] if p["target_khz"] == khz)
    return {
        n: np.array([e[0], *(r[f"{khz:g}"][n] for r in found["repeated"])])
        for n, e in first["efficiency"].items()
    }


def ratio(above: dict[str, Any], below: dict[str, Any], khz: float) -> tuple[float, float]:
    """Mean over signals of a ratio of efficiencies, each the mean of its trainings; and its standard error from their spread."""
    a, b = trainings(above, khz), trainings(below, khz)
    ratios = {n: a[n].mean() / b[n].mean() for n in a}
    # One training moves all signals together: the error is that of the mean over trainings of the mean over signals.
    spread = [
        np.std(relative := np.mean([r[n] / r[n].mean() * ratios[n] for n in a], axis=0), ddof=1)
        / np.sqrt(len(relative))
        for r in (a, b)
    ]
    return float(np.mean(list(ratios.values()))), float(np.hypot(*spread))


def conversion_loss(found: dict[str, Any], khz: float) -> float:
    """Mean over signals of what the firmware of a training loses of its efficiency at a rate, relative; each at its own threshold."""
    before, after = (
        next(p for p in found["rates"]["scorers"][s]["points"] if p["target_khz"] == khz)["efficiency"]
        for s in ("float", "firmware")
    )
    return float(np.mean([1 - after[n][0] / before[n][0] for n in before]))


def firmware_figures(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What the firmware's record says, and the emulator's speed."""
    if "record" not in found:
        return {}
    record = found["record"]
    out: dict[str, Any] = {f"{prefix}mismatches_c": record["verified"]["mismatches"]}
    if "rtl" in record:
        names = (
            "mismatches_rtl",
            "events_compared",
            "latency_cycles",
            "latency_ns",
            "clock_mhz",
            "initiation_interval",
        )
        out |= {f"{prefix}{k}": record["rtl"][k] for k in names}
        cost = ("lut", "ff", "dsp", "depth", "lut_fraction_vu9p", "tool", "accuracy")
        out |= {
            f"{prefix}{k}": record["cost"][k] for k in cost if not prefix or k not in ("tool", "accuracy")
        }
    for column in record.get("side_by_side", {}).get("columns", []):
        place = column["name"].split(" (")[0].replace(": ", "_").replace("++", "pp").replace(" ", "_").lower()
        numbers = {k: column[k] for k in ("khz", "mismatches", "lut") if column[k] is not None}
        out |= {f"{prefix}side_{place}_{k}": v for k, v in numbers.items()}
    return out | {f"{prefix}emulator_khz_per_core": found["khz"]}


def main() -> None:
    """Run, print, publish."""
    events = make_set("trigger", 1, 2)
    again = sys.argv[1:] == ["--emulators"]
    for name in SEARCHES if again else ():
        if name not in BEHIND:
            emulator_again(name, events)
    for name in SEEDS if sys.argv[1:] == ["--seeds"] else ():
        repeat(name, events)
    for name in SEARCHES if sys.argv[1:] == ["--teacher"] else ():
        if name.startswith("cicada"):
            path = FOLDER / f"{name}.json"
            write_json(path, read_json(path) | {"teacher": against_teacher(opened(name, events))})
    parts = (["--table"], ["--seeds"], ["--teacher"])
    asked = [] if again or sys.argv[1:] in parts else sys.argv[1:] or list(SEARCHES)
    for name in asked:
        run(name, events)
    paths = {name: FOLDER / f"{name}.json" for name in SEARCHES}
    for name in (n for n, p in paths.items() if not p.exists()):
        print(f"{name}: not made yet, left out of the table")
    found = {name: read_json(p) for name, p in paths.items() if p.exists()}
    figures: dict[str, Any] = {
        "crossings_trained_on": events.parts["train"].events, "crossings_evaluated": events.parts["rates"].events,
        **{f"trainings_{name}": 1 + len(found[name]["repeated"]) for name in SEEDS},
    }  # fmt: skip
    for khz in TARGETS:
        at = f"_{khz:g}khz"
        loss, error = ratio(found[MAIN], found[PLAIN], khz)
        figures[f"quantisation_loss_relative{'' if khz == 10 else at}"] = 1 - loss
        figures[f"quantisation_loss_error{'' if khz == 10 else at}"] = error
        figures[f"conversion_loss_relative{at}"] = conversion_loss(found[PLAIN], khz)
        figures[f"autoencoder_conversion_loss_relative{at}"] = conversion_loss(found["autoencoder"], khz)
        pairs = {"v5_over_v4": (FIVE, MAIN), "gmm_over_v4": (MIXTURE, MAIN), "v5_over_gmm": (FIVE, MIXTURE)}
        for pair, (above, below) in pairs.items():
            figures[f"{pair}{at}"], figures[f"{pair}_error{at}"] = ratio(found[above], found[below], khz)
        for name in SEEDS:
            for signal, values in trainings(found[name], khz).items():
                figures[f"efficiency_trainings_{signal}_{name}{at}"] = values.tolist()
    for name, one in found.items():
        prefix = "" if name == MAIN else f"{name}_"
        figures |= firmware_figures(one, prefix) | points(one, prefix)
        figures |= {f"{prefix}{k}": v for k, v in one.get("teacher", {}).items()}
    shown = {k: v for k, v in figures.items() if not isinstance(v, list) or k.startswith("efficiency")}
    table([
        (k, f"{v[0]:.4f}" if isinstance(v, list) else v, WANTED.get(k, ""))
        for k, v in shown.items() if not k.endswith("accuracy")
    ])  # fmt: skip
    publish("trigger", figures)


if __name__ == "__main__":
    main()
