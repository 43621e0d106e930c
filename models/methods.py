"""Every method of every factor in one literal tuple each, how a name and settings become one, and what to cite."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import ConfigError
from .augmentations.level1 import Strength
from .folds import CrossFit, Guarded
from .nested import NestedFit
from .networks.axol1tl_v5 import V5Types
from .networks.cicada import StudentTypes
from .networks.normalised import Chains
from .networks.quantised import Types
from .papers import PAPERS
from .references.cathode import Cathode
from .references.curtains import Curtains
from .references.feta import Feta
from .references.flow_for_flow import CurtainsFlow
from .references.known import KnownBackground
from .references.outside import Outside
from .references.salad import Salad
from .references.sidebands import Sidebands
from .representations.anomclr import AnomClr
from .representations.cl4ad import Cl4ad
from .representations.darkclr import DarkClr
from .representations.essl import Essl
from .representations.flow_latent import FlowLatent
from .representations.identity import Identity
from .representations.jetclr import JetClr
from .representations.level1_vicreg import Level1VicReg
from .representations.mass_scaled import MassScaled
from .representations.rs3l import Rs3l
from .representations.systematics_aware import SystematicsAware
from .representations.unrounded import UnroundedMasses
from .representations.vicreg import VicReg
from .represented import Represented
from .scores.anode import Anode
from .scores.autoencoder import Autoencoder
from .scores.axol1tl import Axol1tl
from .scores.axol1tl_v5 import Axol1tlV5
from .scores.cicada import Cicada
from .scores.classifier_anomaly import ClassifierAnomaly
from .scores.flow_density import FlowDensity
from .scores.image_autoencoder import ImageAutoencoder
from .scores.isolation_forest import IsolationForest
from .scores.kernel_density import KernelDensity
from .scores.latent import LaCathode
from .scores.mahalanobis import Mahalanobis
from .scores.mixture_density import MixtureDensity, MixtureDistance
from .scores.nearest_neighbours import NearestNeighbours
from .scores.network_ensemble import NetworkEnsemble
from .scores.normalised_autoencoder import NormalisedAutoencoder
from .scores.paws import Gbi, Paws
from .scores.process_density import GaussianProcessDensity
from .scores.quak import Quak
from .scores.quantile_flattened import QuantileFlattened
from .scores.ranode import RAnode
from .scores.tag_n_train import TagNTrain
from .scores.tree_student import TreeStudent
from .scores.variational_autoencoder import VariationalAutoencoder
from .scores.weak_network import WeakNetwork
from .scores.weak_trees import WeakTrees
from .wrappers import Ensemble, Standardized

REPRESENTATIONS = (
    Identity,
    MassScaled,
    UnroundedMasses,
    FlowLatent,
    AnomClr,
    VicReg,
    Level1VicReg,
    JetClr,
    DarkClr,
    Essl,
)
#: Representations that need samples handed in, classes or the same events simulated again: for Python.
TAUGHT = (Cl4ad, Rs3l, SystematicsAware)
REFERENCES = (Sidebands, Outside, Cathode, Curtains, CurtainsFlow, Salad, Feta, KnownBackground)
SCORES = (
    WeakTrees,
    WeakNetwork,
    NetworkEnsemble,
    Autoencoder,
    VariationalAutoencoder,
    NormalisedAutoencoder,
    ImageAutoencoder,
    Axol1tl,
    Axol1tlV5,
    Cicada,
    FlowDensity,
    MixtureDensity,
    MixtureDistance,
    KernelDensity,
    GaussianProcessDensity,
    NearestNeighbours,
    Mahalanobis,
    IsolationForest,
    Anode,
    RAnode,
)
#: Scores that need what a configuration cannot name, simulation of signals or classes or two objects per event: for Python.
PRIORS = (Paws, Gbi, Quak, TagNTrain, ClassifierAnomaly)
#: Scores made of another, which a configuration names under ``inner``.
AROUND = (TreeStudent, QuantileFlattened)
WRAPPERS = (CrossFit, NestedFit, Guarded, Represented, Ensemble, Standardized, LaCathode, *AROUND)

#: Methods a configuration may name, by factor. KnownBackground needs a sample handed in, so it is for Python only.
NAMED: Mapping[str, tuple[type[Any], ...]] = {
    "representation": REPRESENTATIONS,
    "reference": tuple(r for r in REFERENCES if r is not KnownBackground),
    "score": (*SCORES, *AROUND),
}


def method(name: str, factor: str | None = None) -> type[Any]:
    """The method of this name; an unknown one is a `ConfigError` that names the nearest."""
    groups = NAMED.values() if factor is None else (NAMED[factor],)
    known = {m.__name__: m for group in groups for m in group}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"{factor or 'method'}.method: no method '{name}'{hint} There are: {', '.join(known)}"
        )
    return known[name]


def settings_of(cls: type[Any]) -> dict[str, Any]:
    """Names and defaults of a method's settings: the fields that are not learnt."""
    hidden = ("trainer",)
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(cls)
        if f.repr and not f.name.endswith("_") and f.name not in hidden
    }


def build(name: str, settings: Mapping[str, Any], factor: str) -> Any:
    """A method from its name and settings; unknown keys and wrong types are `ConfigError`s with their path."""
    cls = method(name, factor)
    known = settings_of(cls)
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
            raise ConfigError(f"{factor}.{key}: unknown setting of {name}{hint}")
    checker, given = TypeAdapter(cls, config=None), dict(settings)
    if cls in AROUND:
        given["inner"] = build(*_inner(cls, settings, factor), factor)
    try:
        made = checker.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([factor, *(str(p) for p in first["loc"])])
        said = first.get("ctx", {}).get("error")  # by the method itself
        if said is not None:
            raise ConfigError(f"{path}: {said}") from None
        raise ConfigError(f"{path}: found {first['input']!r}, expected: {first['msg']}") from None
    for key, value in settings.items():  # pydantic's strict mode would refuse lists for tuples too
        if isinstance(value, str) and not isinstance(getattr(made, key), str):
            raise ConfigError(
                f"{factor}.{key}: found {value!r}, expected: {getattr(made, key)!r} without quotes"
            )
    return made


def _inner(cls: type[Any], settings: Mapping[str, Any], factor: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of the score that one of `AROUND` is around."""
    inner = settings.get("inner")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("method"), str):
        raise ConfigError(
            f"{factor}.inner: found {inner!r}, expected the score that {cls.__name__} is around: {{method: Autoencoder}}"
        )
    return inner["method"], {k: v for k, v in inner.items() if k != "method"}


def papers_of(name: str, settings: Mapping[str, Any], factor: str) -> list[str]:
    """arXiv ids of a method and of the one it is around."""
    cls = method(name, factor)
    inside = papers_of(*_inner(cls, settings, factor), factor) if cls in AROUND else []
    kind = getattr(cls, "kind_papers", {}).get(settings.get("kind"), ())
    return [paper for paper in (cls.paper, *getattr(cls, "more_papers", ()), *kind, *inside) if paper]


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
for _cls in (*REPRESENTATIONS, *REFERENCES, *SCORES, *AROUND, Types, StudentTypes, V5Types, Strength, Chains):
    _cls.__pydantic_config__ = _STRICT  # pyright: ignore[reportAttributeAccessIssue]


def citations(papers: Iterable[str]) -> str:
    """BibTeX of these arXiv ids, in order, each once; an id without an entry is a `ConfigError`."""
    unique = list(dict.fromkeys(papers))
    missing = [p for p in unique if p not in PAPERS]
    if missing:
        raise ConfigError(f"no BibTeX for arXiv {', '.join(missing)}; add it to models/papers.py")
    return "\n".join(PAPERS[p] for p in unique)
