"""The score as one more seed of a trigger menu: which crossings the menu's seeds take, and what is left to the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .analysis.counting import clopper_pearson, effective
from .analysis.menu import MenuRates, menu_rates
from .analysis.report import ReportTable, plain
from .errors import ConfigError
from .sections import ALL, SCORE, SeedSection
from .workspace import Table


def passing(table: Table, name: str, seed: SeedSection) -> NDArray[np.bool_]:
    """Which crossings (n,) pass a seed. Raises `ConfigError` where the columns do not hold what it asks for."""
    x, names = table.events.x, table.events.features.names
    if seed.branch is not None:
        if seed.branch not in table.extras:
            raise ConfigError(f"rates.menu.{name}: the columns have no {seed.branch}; name it in events.bits")
        return np.asarray(table.extras[seed.branch] > 0)
    least = 0.0 if seed.pt is None else seed.pt  # every seed but a Bit has one
    if seed.object == "HT":
        if "HT" not in table.extras:
            raise ConfigError(
                f"rates.menu.{name}: the columns of features '{table.events.features.name}' have no HT"
            )
        return np.asarray(table.extras["HT"] >= least)
    if seed.object == "MET":
        slots = ["MET"] if "MET_pt" in names else []
    else:
        slots = [f"{seed.object}{i}" for i in range(len(names)) if f"{seed.object}{i}_pt" in names]
    if seed.count > len(slots):
        raise ConfigError(
            f"rates.menu.{name}: asks for {seed.count} {seed.object}, features '{table.events.features.name}' have "
            f"{len(slots)} of them"
        )
    found = np.zeros(len(table), np.int64)
    for slot in slots:
        passes = x[:, names.index(f"{slot}_pt")] >= least
        if seed.eta is not None:
            passes &= np.abs(x[:, names.index(f"{slot}_eta")]) <= seed.eta
        found += passes
    return found >= seed.count


def menu_study(
    data: Table,
    menu: Mapping[str, SeedSection],
    points: Sequence[Mapping[str, Any]],
    scorer: str,
    bunches: int,
    signals: Mapping[str, Table] | None = None,
) -> dict[str, Any]:
    """The menu alone, and with the score as its last seed at each working point that has a threshold.

    With ``signals`` also the part of each that every seed keeps.
    """
    passes = {name: passing(data, name, seed) for name, seed in menu.items()}
    prescales, weight = {name: seed.prescale for name, seed in menu.items()}, data.events.weight
    alone = menu_rates(passes, weight, bunches, prescales)
    rows = []
    for point in points:
        if "threshold" in point:
            more = passes | {SCORE: data.scores[scorer] > point["threshold"]}
            found: MenuRates = menu_rates(more, weight, bunches, prescales)
            rows.append({
                "target_khz": point["target_khz"], "threshold": point["threshold"], "score": plain(found.seeds[-1]),
                "overall": plain(found.overall), "overlap": dict(zip(passes, found.overlap[-1].tolist(), strict=False)),
            })  # fmt: skip
    study: dict[str, Any] = {"scorer": scorer, "menu": plain(alone), "points": rows}
    if signals:
        study["efficiency"] = {n: _efficiencies(t, menu) for n, t in signals.items()}
    return study


def _efficiencies(signal: Table, menu: Mapping[str, SeedSection]) -> dict[str, tuple[float, float, float]]:
    """Efficiency and its 68 % interval of every seed, and of all of them together, for one signal; prescales count."""
    weight, out, lost = signal.events.weight, {}, np.ones(len(signal))
    for name, seed in menu.items():
        kept = passing(signal, name, seed) / seed.prescale
        out[name], lost = _part(kept, weight), lost * (1 - kept)
    return {**out, ALL: _part(1 - lost, weight)}


def _part(kept: NDArray[np.float64], weight: NDArray[np.float64]) -> tuple[float, float, float]:
    """The part of events kept with the probabilities ``kept`` (n,), and its 68 % interval on effective counts."""
    n, value = effective(weight)[1], float((kept * weight).sum() / weight.sum())
    return value, *clopper_pearson(min(max(value * n, 0.0), n), n)


def shown(rate: Mapping[str, Any]) -> str:
    """A rate of rates.json with its interval."""
    return f"{rate['khz']:.3g} [{rate['low']:.3g}, {rate['high']:.3g}]"


def tables(found: Mapping[str, Any]) -> list[ReportTable]:
    """The report's tables of a menu: its seeds, the score beside them, and what each keeps of the signals."""
    seeds: list[tuple[Any, ...]] = [
        (
            s["name"],
            s["prescale"],
            *(shown(s[key]) for key in ("total", "pure", "unique")),
            s["total"]["n_pass"],
        )
        for s in found["menu"]["seeds"]
    ]
    seeds.append((ALL, None, shown(found["menu"]["overall"]), None, None, found["menu"]["overall"]["n_pass"]))
    rows = [
        (
            p["target_khz"],
            *(shown(p["score"][key]) for key in ("total", "pure")),
            p["score"]["pure"]["n_pass"],
            shown(p["overall"]),
        )
        for p in found["points"]
    ]
    made = [
        ReportTable(
            ("seed", "prescale", "total [kHz]", "pure [kHz]", "unique [kHz]", "crossings"), seeds,
            "The menu without the score. Pure: taken by no other seed; unique: by none above it.",
        ),
        ReportTable(
            ("target [kHz]", "total [kHz]", "pure [kHz]", "crossings of its own", "menu with it [kHz]"), rows,
            f"The {found['scorer']} score as one more seed: pure is what no seed of the menu takes.",
        ),
    ]  # fmt: skip
    if "efficiency" in found:
        signals = found["efficiency"]
        kept = [
            (name, *(percent(one[name]) for one in signals.values())) for name in next(iter(signals.values()))
        ]
        made.append(ReportTable(("seed", *signals), kept, "What each seed keeps of the signals [%]."))
    return made


def percent(one: Sequence[float]) -> str:
    """An efficiency with its interval, in per cent."""
    return f"{100 * one[0]:.3g} [{100 * one[1]:.3g}, {100 * one[2]:.3g}]"


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What the menu leaves to the score, a line per working point."""
    return [
        f"beside a menu of {len(found['menu']['seeds'])} seeds ({found['menu']['overall']['khz']:.3g} kHz) the {found['scorer']} "
        f"score at {p['target_khz']:g} kHz takes {shown(p['score']['pure'])} kHz that no other seed takes"
        for p in found["points"]
    ]
