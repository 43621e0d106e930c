"""The pure core: columns in; events, scores, histogram and ledger out. No Dask, no coffea, no ROOT file in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import hist
import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, IncompleteError, InputError
from ..events import Events, FeatureSet, identity_hash, make_identity
from ..workspace import Chunk
from .features import Columns, Features

#: Rows a scorer gets at once: networks are fastest when a batch stays in the cache.
BATCH = 4096
#: Bins of the mass axis where the feature set does not say otherwise.
MASS_BINS = 130
IDENTITY_BRANCHES = ("run", "luminosityBlock", "event")


class Scorer(Protocol):
    """What may be handed in: a torch model, a tree ensemble and a firmware emulator are the same to the processor."""

    def score(self, events: Events) -> NDArray[np.float64]:
        """One number per event, higher is odder, shape (n,)."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What to do with every unit: the features, the scorers by name, and the score cuts of the histogram."""

    features: Features
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    key: str = ""

    @property
    def cuts(self) -> list[str]:
        """Names of the histogram's score cuts, 'all' first."""
        return ["all", *(f"{n}>{t:g}" for n in self.thresholds for t in self.thresholds[n])]


@dataclass(frozen=True)
class Unit:
    """One piece of work: an entry range of one file, and the factor for its simulated weights.

    ``by_entry``: the file has no run, luminosityBlock, event, and an event is known by its file and entry number.
    """

    dataset: str
    path: str
    uuid: str
    start: int
    stop: int
    scale: float = 1.0
    by_entry: bool = False


def mass_axis(features: FeatureSet) -> hist.axis.Regular:
    """The histogram's mass axis: the column's allowed range; one bin where there is no mass."""
    column = features.mass
    if column is None:
        return hist.axis.Regular(1, 0.0, 1.0, name="mass", label="events")
    low, high = column.low or 0.0, column.high or 13_000.0
    return hist.axis.Regular(MASS_BINS, low, high, name="mass", label=f"{column.name} [{column.unit}]")


def histogram(features: FeatureSet, datasets: Sequence[str], cuts: Sequence[str]) -> hist.Hist:
    """An empty dataset x variation x cut x mass histogram with weighted storage."""
    return hist.Hist(
        hist.axis.StrCategory(datasets, name="dataset"),
        hist.axis.StrCategory(["nominal"], name="variation"),
        hist.axis.StrCategory(cuts, name="cut"),
        mass_axis(features),
        storage=hist.storage.Weight(),
    )


def event_weights(columns: Columns, n: int, scale: float) -> NDArray[np.float64]:
    """genWeight times ``scale`` for simulation, 1 for data, shape (n,)."""
    if "genWeight" not in columns:
        return np.full(n, scale)
    return np.asarray(columns["genWeight"], dtype=np.float64) * scale


def _check_finite(events: Events, unit: Unit) -> None:
    columns: dict[str, NDArray[Any]] = {name: events.x[:, i] for i, name in enumerate(events.features.names)}
    if events.features.mass is not None:
        columns[events.features.mass.name] = events.mass
    elif np.isfinite(events.x).all():
        return
    for name, values in columns.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            one = events.identity[bad[0]]
            raise InputError(
                f"{unit.path}: column {name} is not finite in {len(bad)} of {len(events)} kept events "
                f"(the first: run {one['run']}, event {one['event']}); mend the file or cut these events"
            )


def score_events(events: Events, scorers: Mapping[str, Scorer]) -> dict[str, NDArray[np.float64]]:
    """Every scorer's score in batches; a score that is not finite or not (n,) is an error that names the scorer."""
    out = {}
    for name, scorer in scorers.items():
        score = np.empty(len(events))
        for start in range(0, len(events), BATCH):
            part = slice(start, start + BATCH)
            batch = np.asarray(scorer.score(events.take(part)))
            if batch.shape != score[part].shape:
                raise FeatureError(f"scorer {name} gave shape {batch.shape} for {len(score[part])} events")
            score[part] = batch
        if not np.all(np.isfinite(score)):
            raise FeatureError(
                f"scorer {name} gave {int(np.sum(~np.isfinite(score)))} scores that are not finite"
            )
        out[name] = score
    return out


def _fill(recipe: Recipe, events: Events, scores: Mapping[str, NDArray[np.float64]]) -> list[Any]:
    """Values and variances (cut x mass with flow bins) of one unit."""
    made = histogram(events.features, ["unit"], recipe.cuts)
    mass = events.mass if events.features.mass is not None else np.full(len(events), 0.5)
    made.fill(dataset="unit", variation="nominal", cut="all", mass=mass, weight=events.weight)
    for name, limits in recipe.thresholds.items():
        for limit in limits:
            passing = scores[name] > limit
            made.fill(
                dataset="unit", variation="nominal", cut=f"{name}>{limit:g}",
                mass=mass[passing], weight=events.weight[passing],
            )  # fmt: skip
    view = made.view(flow=True)[0, 0]
    cuts = len(recipe.cuts)
    return [np.asarray(view.value)[:cuts].tolist(), np.asarray(view.variance)[:cuts].tolist()]


def identity_rows(columns: Columns, unit: Unit, n: int) -> NDArray[np.void]:
    """Identity of every row of a unit, shape (n,): the branches, or the UUID in two parts and the entry number."""
    file = UUID(unit.uuid)
    if unit.by_entry:
        first, second = (np.full(n, file.int >> shift & 0xFFFFFFFF) for shift in (96, 0))
        return make_identity(first, second, np.arange(unit.start, unit.start + n), file)
    branches = [np.asarray(columns[b]) for b in IDENTITY_BRANCHES]
    return make_identity(branches[0], branches[1], branches[2], file)


def finish_unit(columns: Columns, recipe: Recipe, unit: Unit) -> Chunk:
    """Everything that happens to the columns of one unit; counts and hash sum make its ledger row."""
    n = len(next(iter(columns.values())))
    if n != unit.stop - unit.start:
        raise IncompleteError(f"{unit.path}: entries {unit.start}-{unit.stop} gave {n} events")
    computed = recipe.features.compute(columns)
    keep = computed.kept(n)
    identity = identity_rows(columns, unit, n)
    weight = event_weights(columns, n, unit.scale)
    events = Events(computed.x, computed.mass, weight[keep], identity[keep], recipe.features.features)
    _check_finite(events, unit)
    scores = score_events(events, recipe.scorers)
    passed, cutflow = np.ones(n, bool), [["all", n, float(weight.sum())]]
    for name, mask in computed.cuts.items():
        passed &= mask
        cutflow.append([name, int(passed.sum()), float(weight[passed].sum())])
    with np.errstate(over="ignore"):
        sum_of_hashes = int(identity_hash(identity).sum(dtype=np.uint64))
    ledger = {
        "dataset": unit.dataset, "path": unit.path, "uuid": unit.uuid, "start": unit.start, "stop": unit.stop,
        "n_in": n, "n_out": len(events), "sumw": float(weight.sum()), "hash_sum": str(sum_of_hashes),
        "cutflow": cutflow, "key": recipe.key,
    }  # fmt: skip
    return Chunk(events, computed.extras, scores, ledger, _fill(recipe, events, scores))
