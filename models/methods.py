"""Every method of every factor in one literal tuple each, how a name and settings become one, and what to cite."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import ConfigError
from .folds import CrossFit, Guarded
from .references.known import KnownBackground
from .references.sidebands import Sidebands
from .representations.identity import Identity
from .representations.mass_scaled import MassScaled
from .represented import Represented
from .scores.autoencoder import Autoencoder
from .scores.weak_network import WeakNetwork
from .scores.weak_trees import WeakTrees
from .wrappers import Ensemble, Standardized

REPRESENTATIONS = (Identity, MassScaled)
REFERENCES = (Sidebands, KnownBackground)
SCORES = (WeakTrees, WeakNetwork, Autoencoder)
WRAPPERS = (CrossFit, Guarded, Represented, Ensemble, Standardized)

#: Methods a configuration may name, by factor. KnownBackground needs a sample handed in, so it is for Python only.
NAMED: Mapping[str, tuple[type[Any], ...]] = {
    "representation": REPRESENTATIONS,
    "reference": (Sidebands,),
    "score": SCORES,
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
        f.name: f.default for f in fields(cls) if f.repr and not f.name.endswith("_") and f.name not in hidden
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
    checker = TypeAdapter(cls, config=None)
    try:
        made = checker.validate_python(dict(settings))
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


_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)
for _cls in (*REPRESENTATIONS, *REFERENCES, *SCORES):
    _cls.__pydantic_config__ = _STRICT  # pyright: ignore[reportAttributeAccessIssue]

#: BibTeX of every paper a method or tool of the package names.
PAPERS: Mapping[str, str] = {
    "1307.6346": """@article{deFavereau:2013fsa, author={de Favereau, J. and others}, title={{DELPHES 3, A modular framework for fast simulation of a generic collider experiment}}, journal={JHEP}, volume={02}, pages={057}, year={2014}, eprint={1307.6346}, archivePrefix={arXiv}}""",
    "1603.00027": """@article{Dolen:2016kst, author={Dolen, James and Harris, Philip and Marzani, Simone and Rappoccio, Salvatore and Tran, Nhan}, title={{Thinking outside the ROCs: Designing Decorrelated Taggers (DDT) for jet substructure}}, journal={JHEP}, volume={05}, pages={156}, year={2016}, eprint={1603.00027}, archivePrefix={arXiv}}""",
    "1708.02949": """@article{Metodiev:2017vrx, author={Metodiev, Eric M. and Nachman, Benjamin and Thaler, Jesse}, title={{Classification without labels: Learning from mixed samples in high energy physics}}, journal={JHEP}, volume={10}, pages={174}, year={2017}, eprint={1708.02949}, archivePrefix={arXiv}}""",
    "1902.02634": """@article{Collins:2019jip, author={Collins, Jack H. and Howe, Kiel and Nachman, Benjamin}, title={{Extending the search for new resonances with machine learning}}, journal={Phys. Rev. D}, volume={99}, pages={014038}, year={2019}, eprint={1902.02634}, archivePrefix={arXiv}}""",
    "2101.08320": """@article{Kasieczka:2021xcg, author={Kasieczka, Gregor and others}, title={{The LHC Olympics 2020: a community challenge for anomaly detection in high energy physics}}, journal={Rept. Prog. Phys.}, volume={84}, pages={124201}, year={2021}, eprint={2101.08320}, archivePrefix={arXiv}}""",
    "2103.05579": """@article{Fahim:2021cic, author={Fahim, Farah and others}, title={{hls4ml: An Open-Source Codesign Workflow to Empower Scientific Low-Power Machine Learning Devices}}, year={2021}, eprint={2103.05579}, archivePrefix={arXiv}}""",
    "2108.03986": """@article{Govorkova:2021utb, author={Govorkova, Ekaterina and others}, title={{Autoencoders on field-programmable gate arrays for real-time, unsupervised new physics detection at 40 MHz at the Large Hadron Collider}}, journal={Nature Mach. Intell.}, volume={4}, pages={154--161}, year={2022}, eprint={2108.03986}, archivePrefix={arXiv}}""",
    "2109.00546": """@article{Hallin:2021wme, author={Hallin, Anna and Isaacson, Joshua and Kasieczka, Gregor and Krause, Claudius and Nachman, Benjamin and Quadfasel, Tobias and Schlaffer, Matthias and Shih, David and Sommerhalder, Manuel}, title={{Classifying anomalies through outer density estimation}}, journal={Phys. Rev. D}, volume={106}, pages={055006}, year={2022}, eprint={2109.00546}, archivePrefix={arXiv}}""",
    "2309.13111": """@article{Finke:2023ltw, author={Finke, Thorben and Hein, Marie and Kasieczka, Gregor and Kr{\\"a}mer, Michael and M{\\"u}ck, Alexander and Prangchaikul, Parada and Quadfasel, Tobias and Shih, David and Sommerhalder, Manuel}, title={{Tree-based algorithms for weakly supervised anomaly detection}}, journal={Phys. Rev. D}, volume={109}, pages={034033}, year={2024}, eprint={2309.13111}, archivePrefix={arXiv}}""",
}


def citations(papers: Iterable[str]) -> str:
    """BibTeX of these arXiv ids, in order, each once; an id without an entry is a `ConfigError`."""
    unique = list(dict.fromkeys(papers))
    missing = [p for p in unique if p not in PAPERS]
    if missing:
        raise ConfigError(f"no BibTeX for arXiv {', '.join(missing)}; add it to models/methods.py")
    return "\n".join(PAPERS[p] for p in unique)
