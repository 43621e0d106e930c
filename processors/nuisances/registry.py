"""Every nuisance in one literal tuple, and how a name and settings from a configuration become one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ...errors import ConfigError, InputError
from ...workspace import file_digest
from .base import Kinematic, WeightNuisance
from .corrections import Correction, CorrectionWeight
from .jets import JetEnergyResolution, JetEnergyScale
from .met import UnclusteredMET
from .weights import PDFWeight, PileupProfileWeight, PileupWeight, ScaleWeight, ShowerWeight

NUISANCES = (
    JetEnergyScale, JetEnergyResolution, UnclusteredMET,
    PileupWeight, PileupProfileWeight, ScaleWeight, PDFWeight, ShowerWeight, CorrectionWeight,
)  # fmt: skip

for _cls in (*NUISANCES, Correction):
    _cls.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)  # pyright: ignore[reportAttributeAccessIssue]


def _hint(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def settings_of(cls: type[Any]) -> list[str]:
    """Names of a nuisance's settings."""
    return [f.name for f in fields(cls) if f.init and f.name != "name"]


def build_nuisance(
    name: str, settings: Mapping[str, Any], folder: Path | None = None
) -> Kinematic | WeightNuisance:
    """The nuisance ``name`` from {"kind": "JetEnergyScale", ...fields}.

    Correction files are looked for in ``folder`` (search.yaml's), opened, and their sha256 written into the nuisance, so
    that a worker that finds another content stops. Raises `ConfigError` with the nearest name for an unknown kind,
    setting, correction or input, and for a value that cannot be; `InputError` for a file that is missing or damaged.
    """
    where = f"nuisances.{name}"
    known = {cls.__name__: cls for cls in NUISANCES}
    kind = settings.get("kind")
    if kind not in known:
        hint = _hint(str(kind), list(known))
        raise ConfigError(f"{where}.kind: no nuisance '{kind}'{hint} There are: {', '.join(known)}")
    cls = known[kind]
    asked = {k: v for k, v in settings.items() if k != "kind"}
    _check_keys(where, asked, cls)
    located = {k: _locate(where, v, folder) for k, v in _located(where, asked, folder).items()}
    try:
        made: Any = TypeAdapter(cls).validate_python({"name": name, **located})
    except ValidationError as error:
        raise _explain(error, where) from None
    _open(made)
    return made


def _check_keys(where: str, asked: Mapping[str, Any], cls: type[Any]) -> None:
    for key in asked:
        if key not in settings_of(cls):
            raise ConfigError(
                f"{where}.{key}: unknown setting of {cls.__name__}{_hint(key, settings_of(cls))}"
            )


def _locate(where: str, value: Any, folder: Path | None) -> Any:
    """A setting; a mapping with a file is a correction, whose keys are checked and whose file is found."""
    if not isinstance(value, Mapping) or "file" not in value:
        return value
    known = [f.name for f in fields(Correction)]
    for key in value:
        if key not in known:
            raise ConfigError(f"{where}: unknown setting '{key}' of a correction{_hint(key, known)}")
    return _located(where, value, folder)


def _located(where: str, settings: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Settings with ``file`` made absolute and ``sha256`` filled in."""
    out = dict(settings)
    if "file" in out:
        path = (Path() if folder is None else folder) / str(out["file"])
        if not path.is_file():
            raise InputError(f"{where}.file: {path} does not exist; give a path from search.yaml's folder")
        out["file"] = str(path.resolve())
        out["sha256"] = out.get("sha256") or file_digest(path)
    return out


def _open(made: Any) -> None:
    """Open every correction once, so that wrong names are said before any event is read."""
    sources = [getattr(made, f.name) for f in fields(made)] + [getattr(made, "source", None)]
    for source in sources:
        if isinstance(source, Correction):
            _ = source.evaluator


def _explain(error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return ConfigError(
            f"{where}: {first['ctx']['error']}" if "ctx" in first else f"{where}: {first['msg']}"
        )
    path = ".".join([where, *(str(p) for p in first["loc"] if isinstance(p, str) and p.islower())])
    given = first["input"]
    found = type(given).__name__ if is_dataclass(given) else repr(given)
    return ConfigError(f"{path}: found {found}, expected: {first['msg'].removeprefix('Input should be ')}")
