"""The protocols every method is behind: one tiny verb pair per factor, and one protocol per thing only some can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..events import Events, Window
from ..trees import IntegerTrees

if TYPE_CHECKING:
    from .training_files import EventFiles


@runtime_checkable
class Representation(Protocol):
    """In which space do we look?"""

    paper: ClassVar[str]

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn the map; methods without anything to learn return themselves."""
        ...

    def transform(self, events: Events) -> Events:
        """The same events with other features: mass, weight and identity unchanged."""
        ...


@runtime_checkable
class Reference(Protocol):
    """What does pure background look like in the signal region?"""

    paper: ClassVar[str]

    def fit(self, data: Events, window: Window) -> Self:
        """Learn the background of ``window`` from ``data``."""
        ...

    def sample(self, n: int | None, rng: np.random.Generator) -> Events:
        """About ``n`` background-like events in the window (None: all the method has), with weights."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A reference whose sample keeps within limits that data may reach or pass: there is nothing to compare those events with."""

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Ends, of shape (d,) each, of the open intervals of the columns."""
        ...


@runtime_checkable
class Score(Protocol):
    """How odd is an event? Higher is odder; finite; no event's score depends on the others of its batch."""

    paper: ClassVar[str]

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn from a background-like sample and from the data that may hide a signal.

        Outlier methods learn from ``reference`` alone and ignore ``data``.
        """
        ...

    def score(self, events: Events) -> NDArray[np.float64]:
        """One number per event, shape (n,)."""
        ...


@runtime_checkable
class Storable(Protocol):
    """Can be written to a model folder and come back without running any code from it."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """What was learnt: a JSON-ready dictionary, arrays for safetensors, texts (name to content)."""
        ...

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        ...


@runtime_checkable
class Density(Protocol):
    """Knows a normalised density of the features given the mass."""

    def log_density(self, events: Events) -> NDArray[np.float64]:
        """ln p(x | m), shape (n,)."""
        ...


@runtime_checkable
class Exportable(Protocol):
    """Is one torch network whose output is the score, so that it can become firmware."""

    def network(self) -> Any:
        """A ``torch.nn.Module`` in eval mode: (n, d) inputs as the firmware receives them to (n,) scores."""
        ...


@runtime_checkable
class Streamed(Protocol):
    """Can learn from files that are never held whole."""

    def fit_stream(self, files: EventFiles) -> Self:
        """Learn from the events of ``files`` as `Score.fit` does from a reference."""
        ...


@runtime_checkable
class TreeExportable(Protocol):
    """Is boosted trees in integers, so that it can become firmware that only compares and adds."""

    def integers(self) -> IntegerTrees:
        """The trees; their inputs are (x - offset) * 2^-shift in the type ``input``."""
        ...


@runtime_checkable
class TrainedTypes(Protocol):
    """Was trained in the fixed-point types of its firmware."""

    def firmware_types(self) -> Mapping[str, str]:
        """Types by the names of firmware settings (input, weight, ...), with which the firmware's score is this one's; or none."""
        ...
