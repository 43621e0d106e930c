"""search.yaml: read in one place, checked before any work starts, written back with every default spelled out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .deploy.clusters.sections import AnyCluster
from .errors import ConfigError
from .sections import (
    FirmwareSection,
    FrontSection,
    HuntSection,
    InterpretationSection,
    Name,
    Positive,
    RatesSection,
    RemoteSection,
    Section,
    StudiesSection,
)


class Dataset(Section):
    """Files that belong together, and what they are to the search."""

    files: list[str] | str = Field(description="paths, globs, root:// URLs, or shipped:NAME")
    role: Literal["data", "reference", "signal"] = Field(
        "data",
        description="data: searched; reference: background-like, only learnt from; signal: simulated, for injection and metrics",
    )
    inject: Annotated[int, Field(ge=0)] = Field(
        0, description="hide this many of the dataset's events in the data (signal only)"
    )
    identity: Literal["branches", "entry"] = Field(
        "branches",
        description="entry: the files have no run, luminosityBlock, event; never split or merge them",
    )
    lumi_mask: str | None = Field(
        None, description="golden JSON: only these luminosity sections of the data count"
    )
    cross_section_pb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="with events.luminosity_fb: scales simulated weights to the luminosity"
    )

    @model_validator(mode="after")
    def _only_signal_is_injected(self) -> Dataset:
        if self.inject and self.role != "signal":
            raise ValueError(f"inject needs role: signal, this dataset has role: {self.role}")
        return self


class OverlapSection(Section):
    """Events that are in several primary datasets are kept in the first of ``order`` alone."""

    order: Annotated[list[Name], Field(min_length=1)]
    drop_repeated: bool = Field(
        False, description="true: drop events that one dataset holds twice; false: they are an error"
    )


class EventsSection(Section):
    """Which numbers describe an event, and where they come from."""

    features: str = Field("dijet", description="dijet, l1, regions, or module:object for your own")
    datasets: dict[Name, Dataset] = Field(default_factory=dict)
    fileset: str | None = Field(
        None, description="a coffea fileset (YAML or JSON); its datasets have role data"
    )
    luminosity_fb: Annotated[float, Field(gt=0)] | None = None
    luminosity_table: str | None = Field(
        None, description="brilcalc's CSV by luminosity section: integrates what was really processed"
    )
    overlap: OverlapSection | None = None
    bits: list[Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]] = Field(
        default_factory=list,
        description="stored trigger decisions to carry along, for example L1_AXO_Nominal",
    )
    chunk: Positive | None = Field(
        None, description="entries per work unit; the driver chooses where it is left out"
    )
    mode: Literal["stream", "dask-awkward"] = "stream"


class RunSection(Section):
    """Where it runs."""

    scheduler: str = Field("local", description="local, loop, or the address of a Dask scheduler")
    workers: Positive = 2
    cluster: AnyCluster | None = Field(
        None, description="a batch system's, a gateway's or Kubernetes' cluster, instead of scheduler"
    )
    training: Literal["ray", "plain"] = Field("ray", description="plain: in this process, without Ray")
    ray: str = Field("local", description="local, or the address of a Ray cluster")
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="where networks are trained; cuda needs a GPU wherever a training may run"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the matrix products in the training of a trigger's score; weights stay float32",
    )
    stream: bool = Field(
        False, description="train a trigger's score from its columns on disk, which are never held whole"
    )
    remote: RemoteSection = Field(default_factory=lambda: RemoteSection.model_validate({}))
    strict: bool = Field(
        False, description="true: the first unusable file stops the run; false: it goes into quarantine"
    )


class Nuisance(BaseModel):
    """A systematic uncertainty by its kind; the other keys are its settings, checked against the kind's own fields."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str


class SystematicsSection(Section):
    """Which simulated datasets are varied, by what, and by how many standard deviations."""

    datasets: list[Name]
    nuisances: dict[Name, Nuisance]
    shifts: list[float] = Field(
        default_factory=lambda: [-1.0, 1.0], description="standard deviations, of every nuisance"
    )

    @model_validator(mode="after")
    def _shifts(self) -> SystematicsSection:
        if 0.0 in self.shifts or len(set(self.shifts)) != len(self.shifts):
            raise ValueError(
                f"shifts {self.shifts}: expected different numbers, none of them 0 (that is nominal)"
            )
        return self


class MethodSection(BaseModel):
    """A method by name; the other keys are its settings, checked against the method's own fields."""

    model_config = ConfigDict(extra="allow", frozen=True)
    method: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings beside ``method``."""
        return dict(self.model_extra or {})


class ReportSection(Section):
    """How the report page is labelled."""

    title: str = ""
    label: str = "Simulation"


class SearchConfig(Section):
    """One search: Events x Representation x Reference x Score x Statistic."""

    name: Name
    format: Literal[1] = Field(
        1, description="of this file; another number needs another version of elsewhere"
    )
    seed: Annotated[int, Field(ge=0)] = 1
    workspace: str | None = Field(None, description="default: runs/NAME beside search.yaml")
    events: EventsSection
    systematics: SystematicsSection | None = None
    representation: MethodSection = MethodSection(method="Identity")
    reference: MethodSection | None = None
    score: MethodSection
    folds: Annotated[int, Field(ge=2)] = 5
    hunt: HuntSection | None = None
    rates: RatesSection | None = None
    firmware: FirmwareSection | None = None
    front: FrontSection | None = None
    studies: StudiesSection | None = Field(None, description="{}: those that need no settings")
    interpretation: InterpretationSection | None = Field(
        default_factory=lambda: InterpretationSection.model_validate({}), description="null: none"
    )
    run: RunSection = Field(default_factory=lambda: RunSection.model_validate({}))
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _one_statistic(self) -> SearchConfig:
        if (self.hunt is None) == (self.rates is None):
            raise ValueError("give exactly one statistic: hunt or rates")
        if self.firmware is not None and self.rates is None:
            raise ValueError("firmware needs rates: it is the trigger study's")
        if not self.events.datasets and self.events.fileset is None:
            raise ValueError("events names no data: give datasets or a fileset")
        roles = {d.role for d in self.events.datasets.values()}
        if "data" not in roles and self.events.fileset is None:
            raise ValueError("no dataset has role: data")
        if self.rates is not None and "reference" not in roles:
            raise ValueError("rates needs a dataset with role: reference to learn from")
        asked = self.rates.menu.items() if self.rates is not None else ()
        for name, seed in asked:
            if seed.branch is not None and seed.branch not in self.events.bits:
                raise ValueError(f"rates.menu.{name}: {seed.branch} is not carried; name it in events.bits")
        if self.studies is not None and self.hunt is None:
            raise ValueError("studies needs a hunt: they look at its best window")
        if self.studies is not None and self.studies.injections and "signal" not in roles:
            raise ValueError("studies.injections needs a dataset with role: signal to inject")
        unknown = [
            n
            for n in (self.systematics.datasets if self.systematics else ())
            if n not in self.events.datasets
        ]
        if unknown:
            raise ValueError(
                f"systematics.datasets: no dataset '{unknown[0]}'{_nearest(unknown[0], list(self.events.datasets))}"
            )
        if self.hunt is not None and self.reference is None:
            raise ValueError("hunt needs a reference, for example {method: Sidebands, width: 400.0}")
        return self

    @model_validator(mode="after")
    def _a_trigger_learns_from_zero_bias(self) -> SearchConfig:
        if self.rates is None:
            return self
        if self.reference is not None:
            raise ValueError("rates has no mass window to learn a background of: leave out reference")
        if self.representation.method != "Identity" and self.front is not None:
            raise ValueError(
                "front trains scores of the columns themselves: leave it out, or the representation"
            )
        return self

    @model_validator(mode="after")
    def _front_compares_efficiencies(self) -> SearchConfig:
        if self.front is not None and self.rates is None:
            raise ValueError("front needs rates: it is the trigger study's")
        if self.front is not None and "signal" not in {d.role for d in self.events.datasets.values()}:
            raise ValueError("front needs a dataset with role: signal: it compares efficiencies")
        return self


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    """The keys a section allows, found by walking the model along an error's path."""
    model: Any = SearchConfig
    for step in path:
        if isinstance(model, type) and issubclass(model, BaseModel) and step in model.model_fields:
            model = model.model_fields[str(step)].annotation
        elif "Dataset" in str(model):
            model = Dataset
        args = getattr(model, "__args__", ())
        sections = [a for a in args if isinstance(a, type) and issubclass(a, BaseModel)]
        if sections and step != "datasets":
            model = sections[0]
    return list(getattr(model, "model_fields", {}))


def _explain(error: ValidationError, source: str) -> ConfigError:
    lines = []
    for item in error.errors():
        path = item["loc"]
        where = ".".join(str(p) for p in path) or "search.yaml"
        if item["type"] == "extra_forbidden":
            text = f"unknown key{_nearest(str(path[-1]), _fields_at(path[:-1]))}"
        elif item["type"] == "missing":
            text = "is missing and has no default"
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"]) if "ctx" in item else item["msg"]
        else:
            text = f"found {item['input']!r}, expected: {item['msg'].removeprefix('Input should be ')}"
        lines.append(f"  {where}: {text}")
    return ConfigError(f"{source}:\n" + "\n".join(lines))


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key '{key}' is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _override(raw: dict[str, Any], assignment: str) -> None:
    """Apply one ``a.b=c``; the value is read as YAML."""
    path, sign, text = assignment.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set {assignment}: expected a.b=c")
    *parents, last = path.split(".")
    section: Any = raw
    for key in parents:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {assignment}: '{key}' is not a section")
    try:
        section[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not plain YAML: {error}") from error


def load_config(path: Path, overrides: Sequence[str] = ()) -> SearchConfig:
    """Read and check a search.yaml; raises `ConfigError` that lists every problem with its key."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; `elsewhere init` writes a commented example") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a YAML file: {error}") from None
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506  (a subclass of SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections, found {type(raw).__name__}")
    for assignment in overrides:
        _override(raw, assignment)
    try:
        return SearchConfig.model_validate(raw)
    except ValidationError as error:
        raise _explain(error, str(path)) from None
