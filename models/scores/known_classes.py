"""Events of named classes, and of none of them, as one table to learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, identity_hash
from ..networks.classifier import OUTSIDE
from .weak_trees import check_training

Array = NDArray[np.float64]
#: Name of the class that the reference is.
REFERENCE = "reference"


class Rows(NamedTuple):
    """All events to learn from, in the order of their identity: y is the class, `OUTSIDE` that of an outlier."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    weight: Array
    identity: NDArray[np.void]


def check_classes(classes: Mapping[str, Events], outliers: Mapping[str, Events], reference: Events) -> None:
    """Refuse no class beside the reference, names that are not of their own, and events that nothing can be learnt from."""
    if not classes or REFERENCE in classes or set(classes) & set(outliers):
        raise InputError(
            f"ClassifierAnomaly has the classes {list(classes)}, the outliers {list(outliers)}; hand in at least "
            f"one sample beside the reference, as classes={{'top': Events}}, each with a name of its own, not '{REFERENCE}'"
        )
    for name, events in {REFERENCE: reference, **classes, **outliers}.items():
        check_training(events, name)
        reference.features.require_same(events.features, "the reference", name)


def stacked(classes: Mapping[str, Events], outliers: Mapping[str, Events], seed: int) -> Rows:
    """Classes and outliers as `Rows`."""
    parts = [*classes.values(), *outliers.values()]
    labels = [*range(len(classes)), *([OUTSIDE] * len(outliers))]
    whole = Events.concatenate(parts)
    y = np.repeat(labels, [len(p) for p in parts]).astype(np.int64)
    family = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    order = np.lexsort((family, identity_hash(whole.identity, seed)))
    return Rows(whole.x[order], y[order], whole.weight[order], whole.identity[order])


def balanced(weight: Array, y: NDArray[np.int64], names: tuple[str, ...], exposure: float) -> Array:
    """Weights with which every class counts the same, all classes as many as their rows, and the outliers ``exposure`` times that.

    Raises `InputError` if a class, or the outliers that there are, has no weight.
    """
    out = weight.astype(np.float64)
    known = int((y != OUTSIDE).sum())
    for label in (*range(len(names)), *({OUTSIDE} & set(y.tolist()))):
        total = math.fsum(weight[y == label])  # rounds once, so the order of the rows changes no bit
        if total <= 0:
            name = "the outliers" if label == OUTSIDE else f"class '{names[label]}'"
            raise InputError(f"{len(y)} events: none of {name} after the split for validation; give more")
        share = exposure * known if label == OUTSIDE else known / len(names)
        out[y == label] *= share / total
    return out
