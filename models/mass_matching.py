"""One mass spectrum for several samples, so that a classifier of them learns nothing from the mass (2201.07199)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FeatureError, InputError
from ..events import Events, in_identity_order
from .networks.constituent_table import constituent_columns, constituent_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MassMatching:
    """How spectra are matched: in bins of the mass, ``width`` [the mass column's unit, GeV], their edges at its multiples.

    Inside a bin the spectra still differ: ``width`` should be no more than the narrowest peak's.

    The spectrum they all get is the smallest of them in every bin; a bin with fewer than ``least`` events of any sample is dropped
    for all. ``how``: "draw" takes events without replacement; "weights" keeps all of them and lowers their weights, never raises
    them, so that nothing is to be clipped. ``column``: a column of x that is matched together with the mass, in bins of
    ``column_width`` (transverse momentum, where it and the mass depend on one another); of jets made of constituents, which have
    no such column, "pt_J" is the transverse momentum of their sum.
    """

    width: float = 10.0
    least: int = 10
    how: Literal["draw", "weights"] = "draw"
    column: str = ""
    column_width: float = 50.0

    def __post_init__(self) -> None:
        if not self.width > 0 or not self.column_width > 0 or self.least < 1:
            raise ConfigError(
                f"matching: found width {self.width}, column_width {self.column_width}, least {self.least}; expected widths "
                "above 0 and at least 1 event"
            )
        if self.how not in ("draw", "weights"):
            raise ConfigError(f"matching.how: found {self.how!r}, expected draw or weights")


class Matched(NamedTuple):
    """``samples`` with one spectrum: ``target`` (b,), in weight of events of mean weight 1, at ``low`` (b, 1 or 2).

    ``low``: lower edge of the mass bin, and of the other column's.
    """

    samples: dict[str, Events]
    low: NDArray[np.float64]
    target: NDArray[np.float64]


def match_masses(samples: Mapping[str, Events], how: MassMatching, seed: int = 0) -> Matched:
    """Give all samples one mass spectrum; which events are drawn, their identities and ``seed`` say.

    Weights must not be negative; a sample's are scaled to a mean of 1 first, and those of what is left sum to the same in every
    bin and sample. Raises `InputError` for events without a mass and where no bin is left, `FeatureError` for an unknown column.
    """
    given = {name: _cleaned(name, events, seed) for name, events in samples.items()}
    places = [_places(name, events, how) for name, events in given.items()]
    cells, flat = np.unique(np.concatenate(places), axis=0, return_inverse=True)
    index = np.split(flat.reshape(-1), np.cumsum([len(p) for p in places])[:-1])
    count = np.array([np.bincount(i, minlength=len(cells)) for i in index])
    there = [
        np.bincount(i, e.weight, minlength=len(cells)) for i, e in zip(index, given.values(), strict=True)
    ]
    usable = (count >= how.least).all(axis=0)
    if not usable.any():
        ranges = ", ".join(f"{n} {e.mass.min():g} to {e.mass.max():g}" for n, e in given.items())
        raise InputError(
            f"no bin of {how} has {how.least} events of every sample (masses: {ranges}); give samples whose masses overlap, "
            "or wider bins"
        )
    target = np.where(usable, np.min(there, axis=0), 0.0)
    out = {}
    for k, (name, events) in enumerate(given.items()):
        part = np.divide(target, there[k], out=np.zeros(len(cells)), where=usable)
        out[name] = (
            _thinned(events, index[k], part) if how.how == "draw" else _lowered(events, index[k], part)
        )
        log.info("mass matching keeps %d of %d events of %s", len(out[name]), len(samples[name]), name)
    edges = cells[usable].astype(np.float64) * [how.width, how.column_width][: cells.shape[1]]
    return Matched(out, edges, target[usable])


def _cleaned(name: str, events: Events, seed: int) -> Events:
    """Events in the order of their identity, without weights of zero, the others' mean 1."""
    bad = ~np.isfinite(events.mass)
    if bad.any():
        raise InputError(
            f"{name}: {int(bad.sum())} of {len(events)} events have no mass, so their spectrum cannot be matched; give events "
            "of a feature set with a mass"
        )
    if not np.isfinite(events.weight).all() or (events.weight < 0).any() or not events.weight.sum() > 0:
        raise InputError(
            f"{name}: weights must be finite, not negative, and not all zero to match its spectrum"
        )
    ordered = in_identity_order(events.take(events.weight > 0), seed)
    return replace(ordered, weight=ordered.weight / ordered.weight.mean())


def _places(name: str, events: Events, how: MassMatching) -> NDArray[np.int64]:
    """Number of the mass bin, and of the other column's, of every event: (n, 1 or 2)."""
    values: list[Any] = [events.mass / how.width]
    if how.column:
        column = _column(name, events, how.column)
        if not np.isfinite(column).all():
            raise InputError(f"{name}: column {how.column} has values that are not finite")
        values.append(column / how.column_width)
    return np.floor(np.column_stack(values)).astype(np.int64)


def _column(name: str, events: Events, wanted: str) -> NDArray[np.float64]:
    """The column ``wanted``, or the transverse momentum that it stands for, of every event (n,)."""
    names = events.features.names
    if wanted in names:
        return events.x[:, names.index(wanted)].astype(np.float64)
    if wanted == "pt_J" and names[0].startswith("Cand"):
        table = constituent_table(events.x, constituent_columns(events.features)).astype(np.float64)
        pt, phi = table[:, ::3], table[:, 2::3]
        return np.hypot((pt * np.cos(phi)).sum(axis=1), (pt * np.sin(phi)).sum(axis=1))
    raise FeatureError(f"matching.column: {name} has no column '{wanted}'; there are: {', '.join(names)}")


def _lowered(events: Events, index: NDArray[Any], part: NDArray[np.float64]) -> Events:
    """All events of the bins that are left, with ``part`` of their weight."""
    lowered = replace(events, weight=events.weight * part[index])
    return lowered.take(part[index] > 0)


def _thinned(events: Events, index: NDArray[Any], part: NDArray[np.float64]) -> Events:
    """The first ``part`` of each bin's events; the sum of their weights is exactly that of `_lowered`."""
    count = np.bincount(index, minlength=len(part))
    keep = np.where(part > 0, np.maximum(np.rint(count * part), 1), 0).astype(np.int64)
    order = np.argsort(index, kind="stable")  # bin by bin, inside a bin as the identities say
    rank = np.empty(len(index), np.int64)
    rank[order] = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
    kept = rank < keep[index]
    left = np.bincount(index[kept], events.weight[kept], minlength=len(part))
    wanted = np.bincount(index, events.weight, minlength=len(part)) * part
    factor = np.divide(wanted, left, out=np.zeros(len(part)), where=left > 0)
    return replace(events, weight=events.weight * factor[index]).take(kept)
