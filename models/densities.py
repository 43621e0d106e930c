"""How densities meet events: checks, a flow fitted on a table, the settings a method has of it, made-up identities."""

from __future__ import annotations

from dataclasses import fields
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ..errors import FeatureError, InputError
from ..events import Events, FeatureSet, identity_hash, make_identity
from .networks.domain import Domain
from .networks.flows import ConditionalFlow, FlowSettings
from .scores.weak_trees import check_scored, check_training

#: Run of events that no detector saw: the largest number, which no experiment uses.
SAMPLED_RUN = 2**32 - 1
#: File of sampled events: no file has this UUID.
_NO_FILE = UUID(int=2**128 - 1)


def flow_settings(method: Any) -> FlowSettings:
    """The `FlowSettings` of a method: its fields of the same names; the rest keep their defaults."""
    names = [f.name for f in fields(FlowSettings) if hasattr(method, f.name)]
    return FlowSettings(**{name: getattr(method, name) for name in names})


def check_mass(events: Events, role: str) -> None:
    """Raise `InputError` where a mass is not finite: the density is one at a given mass."""
    if not np.isfinite(events.mass).all():
        name = events.features.mass.name if events.features.mass is not None else "mass"
        raise InputError(f"{role}: {name} is not finite for every event; a density given the mass needs one")


def check_density(events: Events, role: str, conditional: bool = True) -> None:
    """Refuse what no density can be learnt from; names the column that is constant or not finite."""
    check_training(events, role)
    constant = np.ptp(events.x, axis=0) == 0
    if constant.any():
        name = events.features.names[int(np.argmax(constant))]
        raise InputError(f"{role}: column {name} is constant: it has no density; leave it out")
    if conditional:
        check_mass(events, role)


def check_known(
    events: Events, flow: ConditionalFlow | None, who: str, conditional: bool = True
) -> ConditionalFlow:
    """The fitted flow of ``who``, after a check that it can tell the density of ``events``."""
    if flow is None:
        raise InputError(f"this {who} has not been fitted")
    check_scored(events, len(flow.domain_.low), who)
    if conditional:
        check_mass(events, "events to be scored")
    return flow


def fit_flow(
    events: Events, settings: FlowSettings, seed: int, domain: Domain | None = None, conditional: bool = True
) -> ConditionalFlow:
    """p(x | m) of events; with ``conditional`` False p(x), whatever the mass."""
    condition = events.mass if conditional else np.zeros(len(events))
    order = identity_hash(events.identity, seed)
    return ConditionalFlow.fit(events.x, condition, events.weight, order, settings, seed, domain)


def in_order(events: Events, seed: int) -> Events:
    """The events in the order of their identity, ties in that of their values."""
    keys = (*events.x.T, events.mass, identity_hash(events.identity, seed))
    return events.take(np.lexsort(keys))


def sampled_identity(n: int, rng: np.random.Generator) -> NDArray[np.void]:
    """Identities of ``n`` events that were drawn, not measured: distinct, of no real event, fixed by ``rng``."""
    first = int(rng.integers(2**62))
    event = np.uint64(first) + np.arange(n, dtype=np.uint64)
    return make_identity(np.full(n, SAMPLED_RUN), np.zeros(n, dtype=np.int64), event, _NO_FILE)


def sampled_events(
    like: FeatureSet, x: NDArray[Any], mass: NDArray[np.float64], total: float, rng: np.random.Generator
) -> Events:
    """Drawn events of the feature set ``like`` with equal weights that sum to ``total``."""
    if x.shape[1] != len(like):
        raise FeatureError(
            f"drawn events have {x.shape[1]} columns, feature set '{like.name}' has {len(like)}"
        )
    weight = np.full(len(x), total / len(x) if len(x) else 0.0)
    return Events(x.astype(np.float32), mass, weight, sampled_identity(len(x), rng), like)
