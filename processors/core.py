"""The pure core: columns in; events, scores, histogram and ledger out. No Dask, no coffea, no ROOT file in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

import awkward as ak
import hist
import numpy as np
from numpy.typing import NDArray

from ..chunks import NOMINAL, Chunk, Varied
from ..errors import FeatureError, IncompleteError, InputError
from ..events import Events, FeatureSet, identity_hash, make_identity
from .features import Columns, Computed, Features, offsets_and_content, recompute
from .filters import EventFilter, apply_filters
from .lumis import lumis_of
from .nuisances.base import Kinematic, Variation, WeightNuisance, vary
from .places import PATIENCE, RemoteSettings

#: Rows a scorer gets at once, few enough to stay near the cache.
BATCH = 16_384
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
    """What to do with every unit: the features, the scorers by name, the score cuts of the histogram; by dataset the
    filters and the nuisances, each of these at every one of the ``shifts``, in standard deviations."""

    features: Features
    scorers: Mapping[str, Scorer] = field(default_factory=dict)
    thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    key: str = ""
    filters: Mapping[str, tuple[EventFilter, ...]] = field(default_factory=dict)
    nuisances: Mapping[str, tuple[Kinematic | WeightNuisance, ...]] = field(default_factory=dict)
    shifts: tuple[float, ...] = (-1.0, 1.0)
    remote: RemoteSettings = PATIENCE

    @property
    def cuts(self) -> list[str]:
        """Names of the histogram's score cuts, 'all' first."""
        return ["all", *(f"{n}>{t:g}" for n in self.thresholds for t in self.thresholds[n])]

    def kinematic(self, dataset: str) -> list[Kinematic]:
        """The nuisances of a dataset that change columns, in order."""
        return [n for n in self.nuisances.get(dataset, ()) if isinstance(n, Kinematic)]

    def weighted(self, dataset: str) -> list[WeightNuisance]:
        """The nuisances of a dataset that change weights, in order."""
        return [n for n in self.nuisances.get(dataset, ()) if isinstance(n, WeightNuisance)]

    def branches(self, dataset: str) -> list[str]:
        """Branches that must be there, identity apart."""
        sources = (self.features, *self.nuisances.get(dataset, ()))
        return list(dict.fromkeys(b for s in sources for b in s.branches))

    def optional(self, dataset: str) -> list[str]:
        """Branches that are used where a file has them."""
        sources, required = (self.features, *self.nuisances.get(dataset, ())), self.branches(dataset)
        every = dict.fromkeys(["genWeight", *(b for s in sources for b in s.optional)])
        return [b for b in every if b not in required]


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


def histogram(
    features: FeatureSet, datasets: Sequence[str], cuts: Sequence[str], variations: Sequence[str] = (NOMINAL,)
) -> hist.Hist:
    """An empty dataset x variation x cut x mass histogram with weighted storage."""
    return hist.Hist(
        hist.axis.StrCategory(datasets, name="dataset"),
        hist.axis.StrCategory(variations, name="variation"),
        hist.axis.StrCategory(cuts, name="cut"),
        mass_axis(features),
        storage=hist.storage.Weight(),
    )


def event_weights(columns: Columns, n: int, scale: float) -> NDArray[np.float64]:
    """genWeight times ``scale`` for simulation, 1 for data, shape (n,); raises `InputError` where one is not finite."""
    if "genWeight" not in columns:
        return np.full(n, scale)
    weight = np.asarray(columns["genWeight"], dtype=np.float64) * scale
    if not np.isfinite(weight).all():
        raise InputError(
            f"genWeight is not finite in {int((~np.isfinite(weight)).sum())} of {n} events; the file is damaged"
        )
    return weight


def _check_finite(events: Events, unit: Unit) -> None:
    mass = events.features.mass
    if np.isfinite(events.x).all() and (mass is None or np.isfinite(events.mass).all()):
        _check_range(events, unit)
        return
    columns: dict[str, NDArray[Any]] = {name: events.x[:, i] for i, name in enumerate(events.features.names)}
    if mass is not None:
        columns[mass.name] = events.mass
    for name, values in columns.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            one = events.identity[bad[0]]
            raise InputError(
                f"{unit.path}: column {name} is not finite in {len(bad)} of {len(events)} kept events "
                f"(the first: run {one['run']}, event {one['event']}); mend the file or cut these events"
            )


def _check_range(events: Events, unit: Unit) -> None:
    """Raise `InputError` for a mass outside its column's allowed range: the last thing that can tell a damaged number."""
    column = events.features.mass
    if column is None or len(events) == 0:
        return
    low, high = (
        (-np.inf if column.low is None else column.low),
        (np.inf if column.high is None else column.high),
    )
    bad = np.flatnonzero((events.mass < low) | (events.mass > high))
    if len(bad):
        one = events.identity[bad[0]]
        raise InputError(
            f"{unit.path}: {column.name} is outside {low:g} to {high:g} {column.unit} in {len(bad)} of {len(events)} kept "
            f"events (the first: {events.mass[bad[0]]:g}, run {one['run']}, event {one['event']}); the file may be damaged"
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


def _fill(
    recipe: Recipe,
    events: Events,
    scores: Mapping[str, NDArray[np.float64]],
    weights: Sequence[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Values and variances (2, weights, cuts, mass bins with flow) of the same events under each of the ``weights``."""
    axis = mass_axis(events.features)
    mass = events.mass if events.features.mass is not None else np.full(len(events), 0.5)
    masks = [None, *(scores[name] > limit for name, limits in recipe.thresholds.items() for limit in limits)]
    out = np.zeros((2, len(weights), len(masks), axis.extent))
    for c, mask in enumerate(masks):
        m = mass if mask is None else mass[mask]
        for w, weight in enumerate(weights):
            made = hist.Hist(axis, storage=hist.storage.Weight())
            made.fill(m, weight=weight if mask is None else weight[mask])
            view: Any = made.view(flow=True)
            out[0, w, c], out[1, w, c] = view.value, view.variance
    return out


def identity_rows(columns: Columns, unit: Unit, n: int) -> NDArray[np.void]:
    """Identity of every row of a unit, shape (n,): the branches, or the UUID in two parts and the entry number."""
    file = UUID(unit.uuid)
    if unit.by_entry:
        first, second = (np.full(n, file.int >> shift & 0xFFFFFFFF) for shift in (96, 0))
        return make_identity(first, second, np.arange(unit.start, unit.start + n), file)
    branches = [np.asarray(columns[b]) for b in IDENTITY_BRANCHES]
    return make_identity(branches[0], branches[1], branches[2], file)


def _varied_weights(
    columns: Columns, recipe: Recipe, unit: Unit
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """The nominal weight with every correction, and that of every weight variation by its label, (n,) each."""
    weight, every = event_weights(columns, unit.stop - unit.start, unit.scale), recipe.weighted(unit.dataset)
    factors = [n.factor(columns, 0.0) for n in every]
    out = {}
    for i, nuisance in enumerate(every):
        rest = weight * np.prod(factors[:i] + factors[i + 1 :], axis=0)
        for nu in recipe.shifts:
            out[Variation(nuisance.name, nu).label] = rest * nuisance.factor(columns, nu)
    return weight * np.prod(factors, axis=0) if factors else weight, out


@dataclass(frozen=True)
class _Batch:
    """What stays the same under every variation: identity (n,), nominal weight (n,), and the filters' masks (n,)."""

    unit: Unit
    identity: NDArray[np.void]
    weight: NDArray[np.float64]
    filters: Mapping[str, NDArray[np.bool_]]

    def select(self, computed: Computed, features: FeatureSet) -> tuple[Events, Computed, NDArray[np.bool_]]:
        """The events that pass the filters and the features' own cuts, their features, and their mask (n,)."""
        keep = computed.kept(len(self.identity))
        if self.filters:
            counted = np.logical_and.reduce(list(self.filters.values()))
            computed, keep = computed.take(counted[keep]), keep & counted
        every = bool(keep.all())
        weight = self.weight if every else self.weight[keep]
        identity = self.identity if every else self.identity[keep]
        events = Events(computed.x, computed.mass, weight, identity, features)
        _check_finite(events, self.unit)
        return events, computed, keep

    def ledger(self, cuts: Mapping[str, NDArray[np.bool_]], simulated: bool) -> dict[str, Any]:
        """Counts, cutflow, hash sum of all n events, and of data the luminosity sections."""
        n, unit = len(self.identity), self.unit
        passed, cutflow = np.ones(n, bool), [["all", n, float(self.weight.sum())]]
        for name, mask in {**self.filters, **cuts}.items():
            passed &= mask
            cutflow.append([name, int(passed.sum()), float(self.weight[passed].sum())])
        with np.errstate(over="ignore"):
            sum_of_hashes = int(identity_hash(self.identity).sum(dtype=np.uint64))
        seen = {} if simulated or unit.by_entry else lumis_of(self.identity)
        return {
            "dataset": unit.dataset, "path": unit.path, "uuid": unit.uuid, "start": unit.start, "stop": unit.stop,
            "n_in": n, "sumw": float(self.weight.sum()), "sumw2": float((self.weight**2).sum()),
            "largest": float(np.abs(self.weight).max(initial=0.0)), "hash_sum": str(sum_of_hashes), "cutflow": cutflow,
            "lumis_seen": seen,
        }  # fmt: skip


def column_digest(column: Any) -> str:
    """A digest of a column's numbers and of how they fall to events, for a few percent of the cost of reading them: length,
    exclusive or, and sum of their 64-bit words. No flipped bit escapes it; it is no defence against malice."""
    if getattr(column, "ndim", 1) == 1:
        parts = [np.asarray(column)]
    elif column.ndim == 2:
        parts = list(offsets_and_content(column))
    else:
        parts = [np.asarray(ak.to_numpy(ak.ravel(column)))]
    out = []
    for part in parts:
        raw = np.ascontiguousarray(part).view(np.uint8)
        words = raw[: len(raw) // 8 * 8].view(np.uint64)
        rest = int.from_bytes(raw[len(words) * 8 :].tobytes(), "little")
        out.append(
            f"{len(part)}:{int(np.bitwise_xor.reduce(words)) ^ rest:x}:{int(words.sum(dtype=np.uint64)):x}"
        )
    return "/".join(out)


def finish_unit(columns: Columns, recipe: Recipe, unit: Unit) -> Chunk:
    """Everything that happens to the columns of one unit; counts and hash sum make its ledger row.

    Columns are read once; a kinematic variation computes again what it touched, selects, scores and fills; a weight
    variation only fills.
    """
    n = len(next(iter(columns.values())))
    if n != unit.stop - unit.start:
        raise IncompleteError(f"{unit.path}: entries {unit.start}-{unit.stop} gave {n} events")
    features, identity = recipe.features, identity_rows(columns, unit, n)
    kinematic = recipe.kinematic(unit.dataset)
    nominal = vary(columns, kinematic, {}, identity)
    weight, weights = _varied_weights(nominal, recipe, unit)
    filters = apply_filters(recipe.filters.get(unit.dataset, ()), identity, unit)
    batch = _Batch(unit, identity, weight, filters)
    computed = features.compute(nominal)
    events, selected, keep = batch.select(computed, features.features)
    scores = score_events(events, recipe.scorers)
    sums = {label: float(w.sum()) for label, w in weights.items()}
    weights = {label: w[keep] for label, w in weights.items()}
    filled, varied = [_fill(recipe, events, scores, [events.weight])], []
    for nuisance, nu in ((k, nu) for k in kinematic for nu in recipe.shifts):
        shifted = vary(columns, kinematic, {nuisance.name: nu}, identity)
        touched = [name for name in shifted if shifted[name] is not nominal.get(name)]
        again, _, kept = batch.select(recompute(features, computed, shifted, touched), features.features)
        label, score = Variation(nuisance.name, nu).label, score_events(again, recipe.scorers)
        varied.append(Varied(label, again, score, np.flatnonzero(kept)))
        filled.append(_fill(recipe, again, varied[-1].scores, [again.weight]))
    if weights:
        filled.append(_fill(recipe, events, scores, list(weights.values())))
    simulated = "genWeight" in columns
    ledger = batch.ledger(computed.cuts, simulated)
    digests = {name: column_digest(values) for name, values in columns.items()}
    ledger |= {"n_out": len(events), "sumw_varied": sums, "columns": digests, "key": recipe.key}
    histograms = np.concatenate(filled, axis=1)
    return Chunk(
        events, selected.extras, scores, ledger, histograms, tuple(varied), weights, np.flatnonzero(keep)
    )
