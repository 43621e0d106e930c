"""Dataset cards: what a sample is, in one YAML file each, so that making one needs no code."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any, Literal

import yaml

from ..errors import ConfigError


@dataclass(frozen=True)
class Card:
    """One process: Pythia commands, selection, and what it means.

    ``run`` is the run number its events carry: unique per card, so that no two samples share an event identity.
    ``pileup`` is the mean number of inelastic collisions per crossing beside the hard one (level-1 cards only).
    ``mass_window`` keeps only events with m_jj inside, GeV (dijet cards only).
    """

    name: str
    kind: Literal["dijet", "l1"]
    meaning: str
    run: int
    commands: tuple[str, ...]
    pileup: float = 0.0
    mass_window: tuple[float, float] | None = None
    reference: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of what decides the events: not of the words about them."""
        what = {k: v for k, v in asdict(self).items() if k not in ("meaning", "reference")}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def card_names() -> list[str]:
    """The cards that ship."""
    return sorted(
        p.name.removesuffix(".yaml") for p in files("elsewhere.samples").joinpath("cards").iterdir()
    )


def load_card(name: str) -> Card:
    """A card by name; an unknown one is a `ConfigError` with the nearest."""
    if name not in card_names():
        close = difflib.get_close_matches(name, card_names(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"no card '{name}'{hint} There are: {', '.join(card_names())}")
    raw = yaml.safe_load(files("elsewhere.samples").joinpath("cards", f"{name}.yaml").read_text())
    raw["commands"] = tuple(raw["commands"])
    if raw.get("mass_window"):
        raw["mass_window"] = tuple(raw["mass_window"])
    return Card(**raw)
