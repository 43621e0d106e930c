"""One search, composed: the only place that sees all the halls. The same functions serve the command line and a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from . import fronts, hunting, resonance, statements, trigger
from .config import SearchConfig, load_config
from .errors import ConfigError
from .events import FeatureSet
from .stages import Planned, Progress, Reporter, Search, Stage, plan, run_stages
from .workspace import Workspace, read_json


def template(name: str) -> str:
    """The text of a configuration that ships: 'search' (a commented example), 'dijet' or 'trigger' (the demo's)."""
    return package_files("elsewhere").joinpath("templates", f"{name}.yaml").read_text()


def open_search(path: Path, overrides: Sequence[str] = (), test: bool = False) -> Search:
    """Read a search.yaml and say where its workspace is; starts nothing.

    ``test`` shrinks what takes long (members, epochs, toys, windows) and uses a workspace of its own.
    """
    config = load_config(Path(path), overrides)
    source = Path(path).resolve().parent
    root = source / (config.workspace or f"runs/{config.name}")
    if test:
        config = shrunk(config)
        root = root.with_name(f"{root.name}-test")
    return Search(config, source, Workspace(root))


def shrunk(config: SearchConfig) -> SearchConfig:
    """The same search with small settings: every part still runs, its numbers are not to be quoted."""
    from .models.methods import method

    raw = config.model_dump()
    for factor in ("representation", "score"):
        fields = method(raw[factor]["method"]).__dataclass_fields__
        for name in fields:
            if name == "members" or name.endswith("epochs"):
                small = 1 if name == "members" else 2
                raw[factor][name] = min(small, raw[factor].get(name, fields[name].default))
    if config.hunt is not None:
        raw["hunt"]["toys"] = min(200, config.hunt.toys)
        raw["hunt"]["windows"]["step"] = config.hunt.windows.step * 2
    if config.studies is not None:
        raw["studies"] |= {"injections": config.studies.injections[:1], "trials": 1}
    if config.front is not None:
        raw["front"] |= {
            "bits": config.front.bits[:2],
            "pruning": config.front.pruning[:2],
            "epochs": 2,
            "trainings": 1,
        }
    return SearchConfig.model_validate(raw)


def stages(search: Search) -> list[Stage]:
    """The stages of this search in the order they run."""
    from .streaming import process_stage, score_stage

    if search.config.hunt is not None:
        after = [
            Stage("train", ("process",), resonance.train_inputs, resonance.train, "models"),
            score_stage(resonance.scorers),
            Stage("hunt", ("score",), hunting.hunt_inputs, lambda s, _k, p: hunting.run_hunt(s, p), "toys"),
            Stage(
                "limits", ("hunt",), lambda _s: None, lambda s, _k, p: statements.run_limits(s, p), "variants"
            ),
        ]
    else:
        after = [Stage("train", ("process",), trigger.train_inputs, trigger.train, "epochs")]
        if search.config.firmware is not None:
            after.append(
                Stage(
                    "firmware",
                    ("train",),
                    trigger.firmware_inputs,
                    lambda s, _k, p: trigger.export_firmware(s, p),
                    "steps",
                )
            )
        after.append(score_stage(trigger.scorers, ("train", "firmware")))
        after.append(
            Stage(
                "rates", ("score",), trigger.rates_inputs, lambda s, _k, p: trigger.run_rates(s, p), "steps"
            )
        )
        if search.config.front is not None:
            after.append(
                Stage(
                    "front",
                    ("rates",),
                    fronts.front_inputs,
                    lambda s, _k, p: fronts.run_front(s, p),
                    "points",
                )
            )
    from .reports import report

    looks = _looks(search)
    last = (after[-1].name, *(s.name for s in looks))
    page = Stage("report", last, lambda s: s.config.report.model_dump(), report, "figures")
    return [process_stage(), *after, *looks, page]


def _looks(search: Search) -> list[Stage]:
    """The stages that look at a finished search before its page is written."""
    config, out = search.config, []
    if config.studies is not None:
        from .studies import studies, studies_inputs

        out.append(Stage("studies", ("hunt",), studies_inputs, lambda s, _k, p: studies(s, p), "studies"))
    if config.interpretation is not None:
        from .interpreting import interpretation, interpretation_inputs

        before = ("hunt" if config.hunt is not None else "rates",)
        out.append(
            Stage(
                "interpretation",
                before,
                interpretation_inputs,
                lambda s, _k, p: interpretation(s, p),
                "steps",
            )
        )
    return out


def _upto(all_stages: Sequence[Stage], upto: str | None) -> list[str]:
    names = [s.name for s in all_stages]
    if upto is None:
        return names
    if upto not in names:
        raise ConfigError(f"this search has no stage '{upto}'; it has {', '.join(names)}")
    return names[: names.index(upto) + 1]


def plan_search(search: Search, upto: str | None = None) -> list[Planned]:
    """What would run and why; runs nothing."""
    steps = stages(search)
    wanted = _upto(steps, upto)
    return [p for p in plan(search, steps) if p.stage.name in wanted]


def run_search(search: Search, upto: str | None = None, reporter: Reporter | None = None) -> list[Planned]:
    """Run the stages up to and including ``upto`` (None: all) that are not up to date."""
    check_methods(search.config)
    trigger.check_firmware(search)
    steps = stages(search)
    return run_stages(search, steps, _upto(steps, upto), reporter or Reporter())


def check_methods(config: SearchConfig) -> None:
    """Build every method once, so that a wrong setting is an error before any work starts."""
    from .models.methods import build

    if config.hunt is not None and (config.run.precision != "float32" or config.run.stream):
        raise ConfigError("run.precision and run.stream are of a trigger's score; a hunt takes neither")
    for factor in ("representation", "reference", "score"):
        section = getattr(config, factor)
        if section is not None:
            build(section.method, section.settings, factor)
    if config.front is not None:
        fronts.check_front(config)


@dataclass(frozen=True)
class DatasetFound:
    """One dataset as the preflight saw it."""

    name: str
    role: str
    files: int
    entries: int


@dataclass(frozen=True)
class Found:
    """What a check found: datasets, the columns that would be made, the branches that would be read."""

    datasets: tuple[DatasetFound, ...]
    features: FeatureSet
    branches: tuple[str, ...]


def check_search(search: Search) -> Found:
    """Check settings, methods and every input file; raises one error that lists all problems."""
    from .streaming import features_of, inputs_of, role_of

    check_methods(search.config)
    trigger.check_firmware(search)
    features = features_of(search)
    found = inputs_of(search)
    rows = tuple(
        DatasetFound(name, role_of(search.config, name), len(records), sum(r.entries for r in records))
        for name, records in found.items()
    )
    return Found(rows, features.features, tuple(features.branches))


def outcome(search: Search, stage: str) -> list[str]:
    """What a stage found, in a few lines."""
    if stage in ("hunt", "report") and search.config.hunt is not None:
        lines = hunting.outcome(search)
    elif stage in ("rates", "report") and search.config.rates is not None:
        lines = trigger.outcome(search)
        if stage == "report" and search.config.front is not None:
            lines += fronts.outcome(search)
    elif stage == "front":
        lines = fronts.outcome(search)
    elif stage == "interpretation":
        from . import interpreting

        lines = interpreting.outcome(search)
    else:
        lines = [f"{stage}: done, see {search.space.root}", *outliers(search)]
    if stage == "report":
        lines.append(f"report: {search.space.path('report.html')}")
    return lines


def citations_of(search: Search) -> str:
    """BibTeX of the methods and tools this search really uses."""
    from .models.methods import citations, papers_of

    config = search.config
    sections = {
        "representation": config.representation, "reference": config.reference, "score": config.score,
    }  # fmt: skip
    used = [p for f, s in sections.items() if s is not None for p in papers_of(s.method, s.settings, f)]
    extra = ["1902.02634", "1007.1727"] if config.hunt is not None else ["2103.05579"]
    return citations([*used, *extra])


def method_rows() -> list[tuple[str, str, str, str]]:
    """(factor, method, arXiv id, settings) of every method."""
    from .models.methods import AROUND, PRIORS, REFERENCES, REPRESENTATIONS, SCORES, TAUGHT, settings_of

    rows = []
    for factor, known in (
        ("representation", (*REPRESENTATIONS, *TAUGHT)),
        ("reference", REFERENCES),
        ("score", (*SCORES, *PRIORS)),
        ("score, around another", AROUND),
    ):
        for one in known:
            rows.append((factor, one.__name__, one.paper, ", ".join(settings_of(one))))
    return rows


def verify_search(path: Path, overrides: Sequence[str] = (), test: bool = False) -> tuple[list[str], bool]:
    """Recount a workspace, or that of a search.yaml, against its input files; (lines, all events there exactly once)."""
    from .streaming import verify_workspace

    space = Workspace(path) if path.is_dir() else open_search(path, overrides, test).space
    return verify_workspace(space)


def outliers(search: Search) -> list[str]:
    """Datasets in which one event carries more than a tenth of the weight."""
    path = search.space.path("counts.json")
    if not path.exists():
        return []
    return [
        f"{name}: one event carries {100 * d['largest_weight_share']:.3g} % of the weight of {d['read']:,} "
        f"({d['effective_events']:.3g} effective events); look for its cause"
        for name, d in read_json(path)["datasets"].items()
        if d["largest_weight_share"] > 0.1 and d["read"] > 10
    ]


def losses(search: Search) -> list[str]:
    """The files that had to be left out, with their reasons; empty where every event of every file was used."""
    from .streaming import counts_name

    found: dict[str, str] = {}
    for kind in ("columns", "scores"):
        path = search.space.path(counts_name(kind))
        if path.exists():
            found |= {q["path"]: q["reason"] for q in read_json(path)["quarantine"]}
    return list(found.values())


def simulate_sample(
    card: str | None,
    events: int,
    out: Path | None,
    seed: int,
    workers: int,
    scheduler: str | None,
    *,
    shipped: bool,
    progress: Progress,
) -> list[str]:
    """Generate one sample, or all that ship; returns lines to print."""
    from .deploy.clusters import connect
    from .samples.generate import simulate
    from .samples.shipped import make_shipped

    client = connect(scheduler) if scheduler else None
    if shipped:
        return [f"wrote {p}" for p in make_shipped(workers=workers, client=client, progress=progress)]
    if card is None:
        raise ConfigError("name a card, or give --shipped; see samples/cards for what there is")
    path = out or Path(f"{card}.root")
    report = simulate(card, events, path, seed=seed, workers=workers, client=client, progress=progress)
    return [f"wrote {path}: {report}"]
