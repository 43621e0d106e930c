"""Dataset cards: what a sample is, in one YAML file each, so that making one needs no code."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any, Literal

import numpy as np
import yaml

from ..errors import ConfigError

#: How much is computed per large-radius jet: see `jets.shapes`.
Substructure = Literal["standard", "extended", "full"]


@dataclass(frozen=True)
class EarlyCut:
    """Events that are given up before most of their shower is made, by R = 1 jets of the partons at ``scale`` GeV.

    ``min_pt``: least pT of the leading jet; ``mass``: interval of the two leading jets' invariant mass; GeV. Both must be
    so loose that next to no event of the final selection is lost.
    """

    scale: float
    min_pt: float
    mass: tuple[float, float] | None = None


@dataclass(frozen=True)
class JetCut:
    """Which leading jet an event is kept for: anti-kT of ``radius``, ``pt`` from .. to in GeV, |eta| below ``max_eta``.

    ``match``: PDG codes without sign, one of which must be a particle of the hard process within ``radius`` of the jet's
    axis; with ``contained`` all that it decays to there too.
    """

    radius: float
    pt: tuple[float, float]
    max_eta: float
    match: tuple[int, ...] = ()
    contained: bool = False


@dataclass(frozen=True)
class Card:
    """One process: Pythia commands, selection, and what it means.

    ``run`` is the run number its events carry: unique per card, so that no two samples share an event identity.
    Level-1 cards only: ``pileup`` is the mean number of inelastic collisions per crossing beside the hard one; ``regions``
    adds the calorimeter regions; cards with the same ``pool`` draw their pile-up from the same collisions ("": of its own).
    Dijet cards only: ``mass_window`` keeps only events with m_jj inside, GeV; ``early`` gives hopeless events up soon;
    ``drawn`` are numbers in the commands that the seed decides, name -> (low, high), as ``{name}``.
    Cards of jets only: ``jet``, the selection; ``shower_weights``, the factor by which the scales of the shower's weights
    (PSWeight) differ from 1, 0 for none; ``hard``, the card whose hard processes this one showers again: cards with the same
    one carry the same run, and the same event numbers for the same hard process.
    Cards of reconstructed objects ("reco") have ``pileup`` and ``pool`` as those of level 1; ``redecays``: how often the taus
    and heavy hadrons of an event decay in search of a lepton, see `redecay`, 0 for once.
    """

    name: str
    kind: Literal["dijet", "l1", "jets", "reco"]
    meaning: str
    run: int
    commands: tuple[str, ...]
    pileup: float = 0.0
    mass_window: tuple[float, float] | None = None
    reference: dict[str, Any] = field(default_factory=dict)
    substructure: Substructure = "standard"
    early: EarlyCut | None = None
    drawn: dict[str, tuple[float, float]] = field(default_factory=dict)
    regions: bool = False
    pool: str = ""
    jet: JetCut | None = None
    shower_weights: float = 0.0
    hard: str = ""
    redecays: int = 0

    @property
    def digest(self) -> str:
        """sha256 of what decides the events: not of the words about them, nor of what the card does not use."""
        what = {k: v for k, v in asdict(self).items() if k not in ("meaning", "reference")}
        unused = {"substructure": "standard", "early": None, "drawn": {}, "regions": False, "pool": ""}
        unused |= {"jet": None, "shower_weights": 0.0, "hard": "", "redecays": 0}
        what = {k: v for k, v in what.items() if k not in unused or v != unused[k]}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def values(self, seed: int) -> dict[str, float]:
        """The drawn numbers of a seed, rounded to whole ones: independent of everything else the seed decides."""
        key = hashlib.sha256(f"{self.name} {self.run} {seed}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(key, np.uint32))
        return {name: float(round(rng.uniform(*self.drawn[name]))) for name in sorted(self.drawn)}

    def resolved(self, seed: int) -> Card:
        """This card with the drawn numbers of ``seed`` in its commands."""
        if not self.drawn:
            return self
        values = self.values(seed)
        return replace(self, commands=tuple(c.format(**values) for c in self.commands), drawn={})


@dataclass(frozen=True)
class Family:
    """Cards that differ in whole numbers: FAMILY_A_B is the card with {A} and {B} in its commands.

    ``parameters``: name -> the values on the grid; ``run`` is that of the first point, one more for each further. What
    follows from a parameter stands under ``derived``: name -> {from: parameter, of: {value: what}}.
    """

    name: str
    raw: dict[str, Any]
    parameters: dict[str, tuple[int, ...]]

    def points(self) -> list[tuple[int, ...]]:
        """Every point of the grid, the last parameter fastest."""
        return list(product(*self.parameters.values()))

    def card(self, *values: int) -> Card:
        """The card at a point; a `ConfigError` names the first value that is not on the grid."""
        for (name, allowed), value in zip(self.parameters.items(), values, strict=True):
            if value not in allowed:
                raise ConfigError(
                    f"{self.name}: {name} = {value} is not one of {', '.join(map(str, allowed))}"
                )
        given: dict[str, Any] = dict(zip(self.parameters, values, strict=True))
        where = ", ".join(f"{k} = {v}" for k, v in given.items())
        for name, table in self.raw.get("derived", {}).items():
            given[name] = table["of"][given[table["from"]]]
        commands = [c.format(**given) for c in self.raw["commands"]]
        raw = {
            **{k: v for k, v in self.raw.items() if k != "derived"},
            "name": "_".join([self.name, *map(str, values)]),
            "meaning": f"{self.raw['meaning']}: {where}",
            "run": self.raw["run"] + self.points().index(tuple(values)),
            "commands": commands,
        }
        return _card(raw)


def _card(raw: Mapping[str, Any]) -> Card:
    one = {**raw, "commands": tuple(raw["commands"])}
    if one.get("mass_window"):
        one["mass_window"] = tuple(one["mass_window"])
    if one.get("early"):
        early = dict(one["early"])
        early["mass"] = tuple(early["mass"]) if early.get("mass") else None
        one["early"] = EarlyCut(**early)
    if one.get("jet"):
        jet = dict(one["jet"])
        low, high = jet["pt"]
        one["jet"] = JetCut(**{**jet, "pt": (float(low), float(high)), "match": tuple(jet.get("match", ()))})
    if one.get("drawn"):
        one["drawn"] = {k: (float(low), float(high)) for k, (low, high) in one["drawn"].items()}
    return Card(**one)


@cache
def _raw() -> dict[str, dict[str, Any]]:
    found = files("elsewhere.samples").joinpath("cards").iterdir()
    paths = sorted((p for p in found if p.name.endswith(".yaml")), key=lambda p: p.name)
    return _versions({p.name.removesuffix(".yaml"): yaml.safe_load(p.read_text()) for p in paths})


def _versions(raw: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A card with ``versions`` (name -> further commands) as one card each, CARD_VERSION, with the same run."""
    out: dict[str, dict[str, Any]] = {}
    for name, one in raw.items():
        versions = one.get("versions")
        if versions is None:
            out[name] = one
            continue
        common = {k: v for k, v in one.items() if k != "versions"}
        for version, more in versions.items():
            words = {"name": f"{name}_{version}", "meaning": f"{one['meaning']}: {version}"}
            out[f"{name}_{version}"] = {**common, **words, "commands": [*one["commands"], *more]}
    return out


def card_names() -> list[str]:
    """The cards that ship, without those of families."""
    return [name for name, raw in _raw().items() if "parameters" not in raw]


def family_names() -> list[str]:
    """The families of cards that ship."""
    return [name for name, raw in _raw().items() if "parameters" in raw]


def load_family(name: str) -> Family:
    """A family by name; an unknown one is a `ConfigError`."""
    if name not in family_names():
        raise ConfigError(f"no family of cards '{name}'. There are: {', '.join(family_names())}")
    raw = dict(_raw()[name])
    return Family(name, raw, {k: tuple(v) for k, v in raw.pop("parameters").items()})


def _of_family(name: str) -> tuple[Family, Sequence[int]] | None:
    for family in map(load_family, family_names()):
        parts = name.removeprefix(family.name).split("_")
        whole = name.startswith(f"{family.name}_") and len(parts) == 1 + len(family.parameters)
        if whole and all(p.isdecimal() for p in parts[1:]):
            return family, [int(p) for p in parts[1:]]
    return None


def load_card(name: str) -> Card:
    """A card by name, a point of a family as FAMILY_A_B; an unknown one is a `ConfigError` with the nearest."""
    if name in card_names():
        return _card(_raw()[name])
    point = _of_family(name)
    if point is not None:
        return point[0].card(*point[1])
    examples = ["_".join([f, *load_family(f).parameters]) for f in family_names()]
    close = difflib.get_close_matches(name, [*card_names(), *examples], n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ConfigError(f"no card '{name}'{hint} There are: {', '.join([*card_names(), *examples])}")
