"""What a finished search hands over: one frozen record from which every export is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError

Array = NDArray[np.float64]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Counts(Protocol):
    """A binned model as the analysis holds it: a signal at strength 1 over an uncertain background, (bins,) each."""

    @property
    def signal(self) -> Array: ...  # noqa: D102
    @property
    def background(self) -> Array: ...  # noqa: D102
    @property
    def uncertainty(self) -> Array: ...  # noqa: D102
    @property
    def constraint(self) -> Literal["poisson", "gauss"]: ...  # noqa: D102
    @property
    def modes(self) -> Array: ...  # noqa: D102
    @property
    def signal_error(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class LimitRow:
    """Upper limit on the cross section at one resonance ``mass`` (GeV): ``observed`` and five ``expected`` (-2 .. +2
    sigma), fb.

    Infinite where the search has no limit.
    """

    mass: float
    observed: float
    expected: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Scan:
    """Local p-values against ``mass`` (GeV), (n,) each, and the global one of the whole search with its 68 %
    interval."""

    mass: Array
    p_local: Array
    p_global: float
    p_global_low: float
    p_global_high: float
    toys: int


@dataclass(frozen=True)
class Efficiency:
    """Signal efficiency (acceptance included) with its 68 % band, against the injected cross section in fb, (k,)
    each."""

    sigma: Array
    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Statement:
    """A search in one channel.

    ``name`` a word, used for channels, files and histograms; ``edges`` (bins + 1,) of the fitted mass in ``unit``;
    ``observed`` (bins,) events; ``signal`` (bins,) expected for ``cross_section`` fb; ``background`` (bins,);
    ``uncertainty`` (bins,) its standard deviation bin by bin, constrained by ``constraint``; ``modes`` (k, bins) its
    correlated shifts, named by ``mode_names``; ``signal_error`` relative, log-normal. ``luminosity`` 1/fb, ``energy``
    GeV.
    """

    name: str
    title: str
    edges: Array
    observed: Array
    signal: Array
    background: Array
    uncertainty: Array
    constraint: Literal["poisson", "gauss"] = "gauss"
    modes: Array = field(default_factory=lambda: np.zeros((0, 0)))
    mode_names: tuple[str, ...] = ()
    signal_error: float = 0.0
    cross_section: float = 1.0
    luminosity: float = 1.0
    energy: float = 13000.0
    unit: str = "GeV"
    limits: tuple[LimitRow, ...] = ()
    scan: Scan | None = None
    efficiency: Efficiency | None = None

    def __post_init__(self) -> None:
        for key in ("edges", "observed", "signal", "background", "uncertainty"):
            object.__setattr__(self, key, np.atleast_1d(np.asarray(getattr(self, key), dtype=np.float64)))
        bins = len(self.edges) - 1
        modes = np.asarray(self.modes, dtype=np.float64)
        object.__setattr__(self, "modes", modes.reshape(-1, bins) if modes.size else np.zeros((0, bins)))
        for name in (self.name, *self.mode_names):
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"'{name}' is no name for an export: letters, digits and _ only, a letter first"
                )
        for key in ("observed", "signal", "background", "uncertainty"):
            values = getattr(self, key)
            if values.shape != (bins,) or not np.all(np.isfinite(values)) or np.any(values < 0):
                raise InputError(
                    f"{key}: expected {bins} finite numbers that are not negative, found {values}"
                )
        if bins < 1 or np.any(np.diff(self.edges) <= 0):
            raise InputError("edges must increase")
        if len(self.modes) != len(self.mode_names) or len(set(self.mode_names)) != len(self.mode_names):
            raise InputError(f"{len(self.modes)} modes of the background need as many different names")
        if not (self.cross_section > 0 and self.luminosity > 0 and self.energy > 0):
            raise InputError("cross_section, luminosity and energy must be positive")

    @classmethod
    def of(
        cls, name: str, title: str, edges: ArrayLike, observed: ArrayLike, model: Counts, **more: Any
    ) -> Statement:
        """From a model of the analysis; its modes are named mode_0, mode_1 .. unless ``mode_names`` says otherwise."""
        names = more.pop("mode_names", tuple(f"mode_{i}" for i in range(len(model.modes))))
        return cls(
            name, title, np.asarray(edges, dtype=np.float64), np.asarray(observed, dtype=np.float64), model.signal,
            model.background, model.uncertainty, model.constraint, model.modes, names, model.signal_error, **more,
        )  # fmt: skip

    @property
    def bins(self) -> int:
        """Number of mass bins."""
        return len(self.observed)

    @property
    def shifted(self) -> Mapping[str, tuple[Array, Array]]:
        """Mode name -> (background one standard deviation up, down), (bins,) each, never below 0."""
        return {
            name: (np.maximum(self.background + mode, 0.0), np.maximum(self.background - mode, 0.0))
            for name, mode in zip(self.mode_names, self.modes, strict=True)
        }

    @property
    def total_error(self) -> Array:
        """Standard deviation of each bin's background, modes included, (bins,)."""
        return np.sqrt(self.uncertainty**2 + (self.modes**2).sum(axis=0))


def significant(value: float, digits: int = 6) -> float:
    """``value`` with so many significant digits, for tables people read."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value
