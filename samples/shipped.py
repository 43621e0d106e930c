"""The samples that ship with the package: where they are, what they are, that they are intact, and how to make them again."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..workspace import atomic, file_digest, read_json
from .card import load_card
from .generate import simulate

FOLDER = Path(__file__).parent / "shipped"
#: (card, events, seed) of every shipped file.
SHIPPED: tuple[tuple[str, int, int], ...] = (
    ("qcd", 102_000, 1),
    ("wprime", 12_000, 1),
    ("zerobias_train", 60_000, 1),
    ("zerobias", 60_000, 1),
    ("higgs_bb", 3000, 1),
    ("higgs_tautau", 3000, 1),
    ("ttbar", 3000, 1),
)
HEADER = {
    "title": "Samples shipped with elsewhere",
    "licence": "CC0-1.0",
    "format": "ROOT (zstd), trees Events, Runs and LuminosityBlocks with the names and types of NanoAOD",
    "caveats": [
        "Leading-order Pythia 8 with its default tune and shower, and a fast parametrised detector: not CMS simulation, not data.",
        "Good for tests, examples and comparisons of methods; not for a statement about nature.",
        "Floats are rounded to 10 mantissa bits (Jet and GenPart: 8).",
        "Dijets have neither multiple interactions nor pile-up.",
        "Trigger samples: jets above 30 GeV (10), e/gamma above 10 GeV (6), muons above 3 GeV (4); no beam halo, no noise, no out-of-time pile-up; MET tails are wider than those of the CMS trigger.",
        "Trigger samples carry weights for collisions harder than 20 GeV: a rate is 28,608.8 kHz times the sum of genWeight that passes over the sum of genWeight.",
        "The same hard collision lies in several crossings of one file, at other angles and under other pile-up; never in two files.",
    ],
}  # fmt: skip


def shipped_names() -> list[str]:
    """Names of the shipped samples."""
    return [name for name, _, _ in SHIPPED]


def shipped(name: str) -> Path:
    """Path of a shipped file by its card's name ("qcd" or "qcd.root").

    Raises `InputError` with the nearest name for an unknown one, or if the file is not in this installation.
    """
    stem = name.removesuffix(".root")
    if stem not in shipped_names():
        close = difflib.get_close_matches(stem, shipped_names(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(f"no shipped sample '{name}'{hint} There are: {', '.join(shipped_names())}")
    path = FOLDER / f"{stem}.root"
    if not path.is_file():
        raise InputError(
            f"{path} is missing from this installation; install again, or make it with 'elsewhere simulate {stem}'"
        )
    return path


def data_card(folder: Path = FOLDER) -> dict[str, Any]:
    """Content of card.yaml; `InputError` if it is missing or not one."""
    path = folder / "card.yaml"
    try:
        card = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({error}); install again") from error
    if not isinstance(card, dict) or "files" not in card:
        raise InputError(f"{path}: expected a mapping with 'files'; install again")
    return card


def check_shipped(folder: Path = FOLDER) -> list[str]:
    """What is wrong with the shipped files against the sha256 of card.yaml, one sentence each; empty if nothing."""
    files: dict[str, Any] = data_card(folder)["files"]
    problems = [f"{name} is not in card.yaml" for name in shipped_names() if name not in files]
    for name, entry in files.items():
        path = folder / f"{name}.root"
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif file_digest(path) != entry["sha256"]:
            problems.append(f"{path} differs from its checksum in card.yaml")
    return problems


def make_shipped(
    workers: int = 2,
    client: Any = None,
    progress: Callable[[int, int], None] | None = None,
    folder: Path = FOLDER,
    cache: Path | None = None,
) -> list[Path]:
    """Make every shipped file and card.yaml again in ``folder``; arguments as those of `generate.simulate`.

    The events are the same for the same versions of the packages; the bytes of a ROOT file are not (it holds a UUID
    and a date), so that card.yaml is written with them.
    """
    paths = [folder / f"{name}.root" for name, _, _ in SHIPPED]
    for path, (name, events, seed) in zip(paths, SHIPPED, strict=True):
        simulate(
            name, events, path, seed=seed, workers=workers, client=client, progress=progress, cache=cache
        )
    write_card(folder)
    return paths


def write_card(folder: Path = FOLDER) -> Path:
    """Gather the sidecars of the files in ``folder`` into card.yaml and remove them."""
    sidecars = {name: folder / f"{name}.json" for name, _, _ in SHIPPED}
    files = {name: _entry(read_json(path)) for name, path in sidecars.items()}
    path = folder / "card.yaml"
    with atomic(path) as temporary:
        temporary.write_text(
            yaml.safe_dump({**HEADER, "files": files}, sort_keys=False, width=110, allow_unicode=True)
        )
    for sidecar in sidecars.values():
        sidecar.unlink()
    return path


def _entry(report: dict[str, Any]) -> dict[str, Any]:
    """One file's part of card.yaml from the sidecar that `generate.simulate` wrote."""
    name, events, seed = report["card"]["name"], report["events"], report["seed"]
    return {
        "meaning": load_card(name).meaning,
        "command": f"elsewhere simulate {name} --events {events} --seed {seed}",
        "run": report["card"]["run"],
        "events": events,
        "generated": report["generated"],
        "efficiency": round(events / report["generated"], 4),
        "sha256": report["sha256"],
        "versions": report["versions"],
    }
