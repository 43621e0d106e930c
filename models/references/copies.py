"""What references that move or reweight events share: order, sides of the window, identities of copies, storage."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import IDENTITY, Events, FeatureSet, Window, identity_hash
from ..scores.weak_trees import check_training

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_TAG = np.uint64(0xC0B1E5C0B1E5C0B1)


def ordered(events: Events) -> Events:
    """The same events in the order of their identity, so that nothing learnt depends on the order of the rows.

    Copies of one event (equal run, luminosityBlock, event) follow one another by file.
    """
    one = events.identity
    return events.take(np.lexsort((one["file_lo"], one["file_hi"], identity_hash(one))))


def check_sample(events: Events, role: str) -> None:
    """Refuse what no network can learn a background from; raises `InputError` naming the column.

    Not finite or negative weights, features that are not finite, no events, a mass that is not finite.
    """
    check_training(events, role)
    if not np.all(np.isfinite(events.mass)):
        name = events.features.mass.name if events.features.mass is not None else "the hunted mass"
        raise InputError(f"{role}: {name} has values that are not finite; use a feature set with a mass")


def check_width(width: float) -> None:
    """Raise `ConfigError` unless a sideband of this width exists."""
    if not width > 0:
        raise ConfigError(f"width: found {width}, expected GeV above 0: a sideband must have a width")


def sides(events: Events, window: Window, width: float, role: str) -> tuple[Events, Events]:
    """(low, high) sideband: events within ``width`` of the window.

    Raises `InputError` when one is empty or holds what `check_sample` refuses.
    """
    out: list[Events] = []
    bands = Window(window.low - width, window.low), Window(window.high, window.high + width)
    for name, band in zip(("below", "above"), bands, strict=True):
        part = events.take(band.contains(events.mass))
        if len(part) == 0:
            raise InputError(
                f"{role}: no events within {width:g} GeV {name} {window.low:g}-{window.high:g}; "
                "widen reference.width"
            )
        check_sample(part, f"{role} {name} the window")
        out.append(part)
    return out[0], out[1]


def copy_identity(identity: NDArray[np.void], copy: NDArray[Any]) -> NDArray[np.void]:
    """Identities of copies of events, shape (n,): distinct from their parents' and, for each number ``copy``, their own.

    Run, luminosityBlock and event stay, and only they are hashed: in whatever folds, by whatever seed, a copy falls
    where its parent falls, and a model that learnt from the copy refuses the parent. The made-up file tells them apart.
    """
    out = identity.astype(IDENTITY, copy=True)
    out["file_hi"] ^= _TAG
    out["file_lo"] += (np.asarray(copy).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return out


def pick(available: int, n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row of the parent, number of the copy) of ``n`` draws: every parent as often as every other, give or take one.

    The last, incomplete round takes parents without replacement; rows are sorted within each copy.
    """
    if n < 0:
        raise InputError(f"{n} events asked of a reference; expected 0 or more")
    rounds, rest = divmod(n, available)
    parts = [np.arange(available)] * rounds + [np.sort(rng.permutation(available)[:rest])]
    copies = [np.full(len(p), k) for k, p in enumerate(parts)]
    return np.concatenate(parts).astype(np.int64), np.concatenate(copies).astype(np.int64)


def scaled_to(events: Events, total: float) -> Events:
    """The same events with weights that sum to ``total``; `InputError` where they sum to nothing."""
    if len(events) == 0:
        return events
    found = math.fsum(events.weight)
    if not found > 0:
        raise InputError(f"{len(events)} events of the reference weigh {found:g} together; draw more")
    return replace(events, weight=events.weight * (total / found))


def effective_size(weight: NDArray[np.float64]) -> float:
    """(sum w)^2 / sum w^2: how many events of equal weight tell as much; 0 for no events."""
    squares = math.fsum(weight**2)
    return math.fsum(weight) ** 2 / squares if squares > 0 else 0.0


def events_state(events: Events, name: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A table as JSON-ready feature set and arrays with ``name.`` before their names."""
    arrays = {"x": events.x, "mass": events.mass, "weight": events.weight}
    # numpy's structured rows are not a type that safetensors has
    arrays |= {f"identity.{k}": np.ascontiguousarray(events.identity[k]) for k in IDENTITY.names or ()}
    return events.features.to_json(), {f"{name}.{k}": v for k, v in arrays.items()}


def events_restored(info: dict[str, Any], arrays: dict[str, NDArray[Any]], name: str) -> Events:
    """Undo `events_state`."""
    identity = np.empty(len(arrays[f"{name}.mass"]), dtype=IDENTITY)
    for key in IDENTITY.names or ():
        identity[key] = arrays[f"{name}.identity.{key}"]
    x, mass, weight = (arrays[f"{name}.{k}"] for k in ("x", "mass", "weight"))
    return Events(x, mass, weight, identity, FeatureSet.from_json(info))
