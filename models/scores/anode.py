"""The ratio of two densities, data in the window over background interpolated into it (2001.04990)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events
from ..densities import check_density, check_known, fit_flow, flow_settings
from ..nesting import restore_under, state_under
from ..networks.flows import ConditionalFlow, Kind
from ..training_task import Schedule
from .flow_density import first


@dataclass
class Anode:
    """score = ln p_data(x | m) - ln p_background(x | m) (2001.04990).

    p_background is learnt from ``reference``, the events outside the window (`Outside`), and interpolated in m;
    p_data from ``data``, the events inside. Both share their coordinates, and each is the mean over its best epochs
    before the logarithm. The flow and its settings are those of `FlowSettings`; ANODE's own was the same network.

    The ratio is clipped at the quantiles ``clip`` and 1 - ``clip`` of the reference, because p_data overtrains in the
    tails. An event outside the flows' domain gets the lowest score. Masses beyond the window count as its edge:
    p_data knows nothing of them, and a score that runs on would sculpt the spectrum.
    """

    paper: ClassVar[str] = "2001.04990"
    reads_mass: ClassVar[bool] = True

    kind: Kind = "maf"
    transforms: int = 0
    hidden: tuple[int, ...] = ()
    epochs: int = 100
    batch: int = 256
    learning_rate: float = 1e-4
    validation: float = 0.2
    best: int = 10
    schedule: Schedule = "constant"
    stiffness: float = 1.0
    clip: float = 0.9999
    seed: int = 0
    background_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    data_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    mass_: tuple[float, float] = field(default=(0.0, 0.0), repr=False, compare=False)
    range_: tuple[float, float] = field(default=(0.0, 0.0), repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)
        if not 0.5 < self.clip <= 1:
            raise ConfigError(f"clip: found {self.clip}, expected a quantile above 0.5, up to 1")

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn both densities; raises `InputError` on what no density can be learnt from."""
        check_density(reference, "reference")
        check_density(data, "data")
        settings = flow_settings(self)
        self.background_ = fit_flow(reference, settings, self.seed)
        self.data_ = fit_flow(data, settings, self.seed, self.background_.domain_)
        self.mass_ = float(data.mass.min()), float(data.mass.max())
        known = self.log_ratio(first(reference, self.seed))
        low, high = np.quantile(known[np.isfinite(known)], [1 - self.clip, self.clip])
        self.range_ = float(low), float(high)
        return self

    def log_ratio(self, events: Events) -> NDArray[np.float64]:
        """ln p_data / p_background, shape (n,), not clipped; -inf outside the domain."""
        background = check_known(events, self.background_, "Anode")
        if self.data_ is None:
            raise InputError("this Anode has not been fitted")
        mass = np.clip(events.mass, *self.mass_)
        inside = background.domain_.inside(events.x)
        out = np.full(len(events), -np.inf)
        x, mass = events.x[inside], mass[inside]
        out[inside] = self.data_.log_prob(x, mass) - background.log_prob(x, mass)
        return out

    def score(self, events: Events) -> NDArray[np.float64]:
        """The clipped log ratio, shape (n,)."""
        return np.clip(self.log_ratio(events), *self.range_)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Both flows, the window's masses and the range of the score."""
        info: dict[str, Any] = {"mass": list(self.mass_), "range": list(self.range_), "flows": None}
        if self.background_ is None or self.data_ is None:
            return info, {}, {}
        b, d = state_under("background", self.background_), state_under("data", self.data_)
        return info | {"flows": [b[0], d[0]]}, b[1] | d[1], b[2] | d[2]

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.mass_ = float(info["mass"][0]), float(info["mass"][1])
        self.range_ = float(info["range"][0]), float(info["range"][1])
        if info["flows"] is not None:
            background, data = info["flows"]
            self.background_ = restore_under("background", ConditionalFlow, background, arrays, texts)
            self.data_ = restore_under("data", ConditionalFlow, data, arrays, texts)
        return self
