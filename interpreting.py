"""The interpretation stage: what the score follows, what its space knows, and the oddest events, from columns and scores alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from . import resonance, trigger
from .analysis.counting import effective
from .analysis.event_objects import derived, kind_of, map_columns
from .analysis.interpretation import (
    FEWEST,
    Followed,
    PrincipalAxes,
    linear_probes,
    principal_axes,
    rank_correlations,
    rank_interval,
    top_places,
    weighted_ranks,
)
from .analysis.report import plain
from .analysis.studies_scores import oddest
from .config import SearchConfig
from .events import Window, drawn_by_weight, fold_of, identity_hash
from .models.base import Storable
from .models.folds import CrossFit, refuse_seen
from .models.represented import Represented
from .models.store import load
from .sections import InterpretationSection
from .stages import Progress, Search
from .workspace import Table, Workspace, read_json, write_json

Array = NDArray[np.float64]
#: Events drawn on a map, and coordinates of a space that are compared with every observable.
ON_MAP, COORDINATES = 3000, 16
FILE = "interpretation.json"


@dataclass(frozen=True)
class Material:
    """The events that are looked at: ``table`` (n) in the order of their identities, their ``score``; of ``odd`` the highest
    scores, ``odd_score``; ``total`` events, what they are in words, and where the oddest are looked for; ``weighted``: whether their
    weights differ; ``model``: the folder of the score."""

    table: Table
    score: Array
    odd: Table
    odd_score: Array
    total: int
    told: str
    where: str
    weighted: bool
    model: Path


@dataclass(frozen=True)
class Observables:
    """Numbers of the events beside the score: name, unit, kind (feature, carried, mass, derived) and values (n, k)."""

    names: list[str]
    units: list[str]
    kinds: list[str]
    values: Array

    @staticmethod
    def of(table: Table) -> Observables:
        """Every column, extra and the mass of a table, and what follows of the columns."""
        events, features = table.events, table.events.features
        carried = {k: np.asarray(v, np.float64) for k, v in table.extras.items()}
        found = [(c.name, c.unit, "feature", events.x[:, i]) for i, c in enumerate(features.columns)]
        found += [(c.name, c.unit, "carried", carried[c.name]) for c in features.extras if c.name in carried]
        if features.mass is not None:
            found.append((features.mass.name, features.mass.unit, "mass", events.mass))
        taken = {one[0] for one in found}
        made = derived(features.names, events.x, carried)
        found += [(d.name, d.unit, "derived", d.values) for d in made if d.name not in taken]
        names, units, kinds, values = zip(*found, strict=True)
        return Observables(list(names), list(units), list(kinds), np.column_stack(values).astype(np.float64))

    def take(self, which: NDArray[Any]) -> Observables:
        """Some of the observables, by a mask (k,)."""
        at = np.flatnonzero(which)
        names, units, kinds = ([one[i] for i in at] for one in (self.names, self.units, self.kinds))
        return Observables(names, units, kinds, self.values[:, at])


@dataclass(frozen=True)
class Space:
    """Where the score looks: coordinates ``x`` (m, d) of ``rows`` (m,) of the material and ``odd_x`` (k, d) of the oddest events,
    NaN for those that helped to learn the space. ``learnt``: by a representation that was fitted; ``folded``: in its fold 0."""

    name: str
    learnt: bool
    columns: tuple[str, ...]
    x: Array
    rows: NDArray[np.int64]
    odd_x: Array
    folded: bool = False

    def to_draw(self) -> Space:
        """The columns that a picture is drawn from."""
        columns, x = map_columns(self.columns, self.x)
        return replace(self, columns=columns, x=x, odd_x=map_columns(self.columns, self.odd_x)[1])


def interpretation_inputs(search: Search) -> Any:
    """Settings of the interpretation."""
    asked = search.config.interpretation
    return asked.model_dump() if asked is not None else None


def _first(table: Table, seed: int, n: int) -> NDArray[np.int64]:
    """The rows of the first ``n`` events in the order of their identities."""
    return np.argsort(identity_hash(table.events.identity, seed), kind="stable")[:n]


def _hunted(search: Search) -> tuple[Table, Array, NDArray[np.bool_], str, Path] | None:
    """Data in the fit range, the best window's score, which events are in that window; None where nothing was fitted."""
    config, hunt = search.config, search.config.hunt
    best = read_json(search.space.path("hunt.json"))[resonance.SEARCH]["best"]
    if hunt is None or best is None:
        return None
    window = Window(**best["window"])
    name = resonance.model_name(resonance.SEARCH, window)
    table = resonance.sample(search.space, config, resonance.SEARCH, "scores").table
    mass = table.events.mass
    table = table.take((mass >= hunt.mass_low) & (mass < hunt.mass_high))
    told = f"the score of {window.low:g}-{window.high:g} GeV, in data of {hunt.mass_low:g}-{hunt.mass_high:g} GeV"
    inside = window.contains(table.events.mass)
    return table, table.scores[name], inside, told, search.space.path("models", name)


def _triggered(search: Search) -> tuple[Table, Array, NDArray[np.bool_], str, Path]:
    """Data, and the score as the trigger has it: of the firmware where there is one."""
    tables = [search.space.read_table(n, "scores") for n in trigger.names_with(search.config, "data")]
    table = resonance.join(tables)
    name = trigger.FIRMWARE if trigger.FIRMWARE in table.scores else trigger.FLOAT
    inside = np.ones(len(table), bool)
    return (
        table,
        table.scores[name],
        inside,
        f"the {name} score, in data",
        search.space.path("models", trigger.MODEL),
    )


def _by_weight(table: Table, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Those of the ``rows`` that a sample of as many events without weights would hold, in the order of their identities.

    All of them where their weights are equal; otherwise drawn as their weights ask, none twice and none of weight 0 or less: the
    oddest event of a weighted sample is often one that stands for hardly any.
    """
    rows = rows[table.events.weight[rows] > 0]
    rows = rows[np.argsort(identity_hash(table.events.identity[rows], seed), kind="stable")]
    weight = table.events.weight[rows]
    if len(rows) == 0 or weight.min() == weight.max():
        return rows
    return rows[np.unique(drawn_by_weight(table.events.take(rows), seed))]


def material(search: Search, asked: InterpretationSection) -> Material | None:
    """What is looked at; None where there are too few events to say anything."""
    found = _hunted(search) if search.config.hunt is not None else _triggered(search)
    if found is None or len(found[0]) < FEWEST or found[0].events.weight.sum() <= 0:
        return None
    table, score, inside, told, model = found
    seed = search.config.seed
    rows = _first(table, seed, asked.sample)
    candidates = _by_weight(table, np.flatnonzero(inside), seed)
    tie = identity_hash(table.events.identity[candidates], seed)
    odd = candidates[oddest(score[candidates], tie, asked.events)]
    weight = table.events.weight
    where = "" if inside.all() else "; of these, inside the window"
    return Material(
        table.take(rows), score[rows], table.take(odd), score[odd], len(table), told, where,
        bool(weight.min() < weight.max()), model,
    )  # fmt: skip


def space_of(given: Material, config: SearchConfig) -> Space:
    """The space of the score's representation, with the features themselves where it has none.

    A learnt representation of a hunt has one space per fold: that of fold 0 is looked at, with events that it has not seen.
    That of a trigger has seen none of these events.
    """
    model, _ = load(given.model)
    member = model.members_[0] if isinstance(model, CrossFit) else getattr(model, "inner", model)
    events, odd = given.table.events, given.odd.events
    if not isinstance(member, Represented):
        every = np.arange(len(events))
        return Space(
            events.features.name, False, events.features.names, _floats(events.x), every, _floats(odd.x)
        )
    looking = member.representation
    learnt = isinstance(looking, Storable)
    folded = learnt and isinstance(model, CrossFit)
    fold = [
        fold_of(e.identity, model.folds, model.seed) if folded else np.zeros(len(e), np.int64)
        for e in (events, odd)
    ]
    rows, unseen = np.flatnonzero(fold[0] == 0), np.flatnonzero(fold[1] == 0)
    if learnt:
        before = model.seen_[0] if isinstance(model, CrossFit) else model.seen_
        refuse_seen(events.take(rows), before, "the representation")
    seen = looking.transform(events.take(rows))
    odd_x = np.full((len(odd), len(seen.features)), np.nan)
    if len(unseen):
        odd_x[unseen] = looking.transform(odd.take(unseen)).x
    x = _floats(seen.x)
    good = np.isfinite(x).all(axis=1)
    name, columns = config.representation.method, seen.features.names
    return Space(name, learnt, columns, x[good], rows[good], odd_x, folded)


def _floats(x: NDArray[Any]) -> Array:
    return np.asarray(x, np.float64)


def followed(given: Material, seen: Observables) -> list[Followed]:
    """The score's rank correlation with every observable."""
    weight = given.table.events.weight
    rho = rank_correlations(given.score[:, None], seen.values, weight)[0]
    numbers = [rho, *rank_interval(rho, effective(weight)[1]), *top_places(given.score, seen.values, weight)]
    columns = zip(seen.names, seen.units, seen.kinds, *(n.tolist() for n in numbers), strict=True)
    return [Followed(*one) for one in columns]


def _space_json(
    space: Space, given: Material, seen: Observables, most: str | None, seed: int
) -> dict[str, Any]:
    """The matrix, spectrum, map and probes of a space; only its name where it has too few events."""
    out: dict[str, Any] = {
        "name": space.name,
        "learnt": space.learnt,
        "folded": space.folded,
        "events": len(space.rows),
        "columns": list(space.columns),
    }
    if len(space.rows) < FEWEST:
        return out
    weight = given.table.events.weight[space.rows]
    positive = np.clip(weight, 0.0, None)
    if weight.sum() <= 0:
        return out
    drawn = space if space.learnt else space.to_draw()
    # Coordinates of a latent space, and logarithms of energies, have one unit.
    apart = not space.learnt and kind_of(space.columns) == "numbers"
    axes = principal_axes(drawn.x, standardised=apart, weight=positive)
    mine = Observables(seen.names, seen.units, seen.kinds, seen.values[space.rows])
    order = np.argsort(-space.x.var(axis=0), kind="stable")
    shown = np.sort(order[:COORDINATES])
    matrix = rank_correlations(space.x, mine.values, weight) if space.learnt else np.zeros((0, 0))
    others = mine if space.learnt else mine.take(np.array([k != "feature" for k in mine.kinds]))
    ranked = weighted_ranks(given.score[space.rows, None], weight)
    learnt = identity_hash(given.table.events.identity[space.rows], seed + 1) % np.uint64(2) == 0
    probes = linear_probes(
        space.x,
        np.column_stack([others.values, ranked]),
        [*others.names, "rank of the score"],
        learnt,
        seed,
        positive,
    )
    return out | {
        "matrix": matrix, "shown": shown, "observables": mine.names, "shares": axes.shares, "effective_rank": axes.effective_rank,
        "axes": axes.axes[:2], "standardised": apart, "axes_of": list(drawn.columns), "probes": [plain(p) for p in probes], "map": _map_json(drawn, given, mine, axes, most, ranked, seed),
    }  # fmt: skip


def _map_json(
    space: Space,
    given: Material,
    mine: Observables,
    axes: PrincipalAxes,
    most: str | None,
    ranked: Array,
    seed: int,
) -> dict[str, Any]:
    """Places on the first two axes, with the quantiles of the score and of the observable it follows most.

    Of weighted events those that a sample without weights would hold.
    """
    weight = given.table.events.weight[space.rows]
    shown = _by_weight(given.table.take(space.rows), np.arange(len(space.rows)), seed)[:ON_MAP]
    values = np.zeros((len(space.rows), 1)) if most is None else mine.values[:, [mine.names.index(most)]]
    at, odd = (
        np.pad(axes.coordinates(x), ((0, 0), (0, max(0, 2 - len(axes.axes)))))
        for x in (space.x[shown], space.odd_x)
    )
    return {
        "x": at[:, 0], "y": at[:, 1], "score": ranked[shown, 0], "observable": most or "",
        "values": weighted_ranks(np.nan_to_num(values), weight)[shown, 0], "odd": odd,
    }  # fmt: skip


def files_of(space: Workspace) -> dict[tuple[int, int], tuple[str, str]]:
    """(dataset, file name) by the two halves of the file's UUID."""
    found = {}
    for dataset, records in read_json(space.path("fileset.json")).items():
        for one in records:
            number = UUID(one["uuid"]).int
            found[number >> 64, number & (2**64 - 1)] = (dataset, Path(one["path"]).name)
    return found


def _quantile(values: Array, sample: Array, weight: Array) -> Array:
    """The part of the sample's weight below every value, and half of what is equal, shape (k,)."""
    return np.array(
        [(weight[sample < v].sum() + 0.5 * weight[sample == v].sum()) / weight.sum() for v in values]
    )


def _oddest_json(given: Material, seen: Observables, space: Workspace) -> list[dict[str, Any]]:
    """The oddest events: who they are, all their numbers, and the part of the data with a lower value of each."""
    odd, files = Observables.of(given.odd), files_of(space)
    weight = given.table.events.weight
    places = np.column_stack(
        [_quantile(odd.values[:, j], seen.values[:, j], weight) for j in range(len(odd.names))]
    )
    out = []
    for i, identity in enumerate(given.odd.events.identity):
        dataset, file = files.get((int(identity["file_hi"]), int(identity["file_lo"])), ("", ""))
        out.append({
            "number": i + 1, **{k: int(identity[k]) for k in ("run", "luminosityBlock", "event")}, "dataset": dataset,
            "file": file, "weight": float(given.odd.events.weight[i]), "score": float(given.odd_score[i]),
            "values": dict(zip(odd.names, odd.values[i], strict=True)),
            "quantiles": dict(zip(odd.names, places[i], strict=True)),
        })  # fmt: skip
    return out


def _short(value: Any) -> Any:
    """Numbers with six digits: what is behind a plot, not a hand-over."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def interpretation(search: Search, progress: Progress) -> tuple[list[str], dict[str, Any]]:
    """Look at score, space and oddest events, and write interpretation.json."""
    asked = search.config.interpretation
    if asked is None:
        raise ValueError("this search has no section interpretation")
    path = search.space.path(FILE)
    given = material(search, asked)
    if given is None:
        write_json(path, {"why": f"there are fewer than {FEWEST} events, or none of positive weight"})
        return [FILE], {"events": 0}
    progress(1, 3)
    seen = Observables.of(given.table)
    rows = followed(given, seen)
    known = [r for r in rows if np.isfinite(r.rho)]
    most = max(known, key=lambda r: abs(r.rho)).name if known else None
    progress(2, 3)
    features = given.table.events.features
    space = space_of(given, search.config)
    out = {
        "told": given.told, "where": given.where, "weighted": given.weighted, "total": given.total, "events": len(given.table),
        "effective_events": effective(given.table.events.weight)[1], "features": features.name,
        "kind": kind_of(features.names), "units": dict(zip(seen.names, seen.units, strict=True)),
        "kinds": dict(zip(seen.names, seen.kinds, strict=True)), "most": most, "follows": [plain(r) for r in rows],
        "space": _space_json(space, given, seen, most, search.config.seed),
        "oddest": _oddest_json(given, seen, search.space),
    }  # fmt: skip
    write_json(path, _short(plain(out)))
    progress(3, 3)
    return [FILE], {"events": len(given.table)}


def outcome(search: Search) -> list[str]:
    """What the score follows and the oddest event, in a few lines."""
    made = read_json(search.space.path(FILE))
    if "why" in made:
        return [f"interpretation: not looked at, {made['why']}"]
    ranked = sorted((r for r in made["follows"] if r["rho"] is not None), key=lambda r: -abs(r["rho"]))[:3]
    lines = [f"{made['told']}: {made['events']:,} of {made['total']:,} events looked at"]
    lines += [
        f"rank correlation with {r['name']}: {r['rho']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        for r in ranked
    ]
    for e in made["oddest"][:1]:
        lines.append(
            f"oddest: run {e['run']}, lumi {e['luminosityBlock']}, event {e['event']} of {e['file'] or 'an unknown file'}"
        )
    return lines
