"""The normalised autoencoder: a reconstruction error that is taught to be large wherever no background is (2206.14225)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from ..nesting import Stateful
from ..networks.dense import evaluate, load_weights
from ..networks.normalised import build_normalised
from .coordinates import Coordinates
from .normalised_training import NormalisedTraining


@dataclass
class NormalisedAutoencoder(NormalisedTraining, Coordinates):
    """Dense autoencoder whose code lies on a unit sphere; score = energy E = mean squared error (2206.14225).

    Trained as `NormalisedTraining` says. Published for jet images (`ImageAutoencoder`); here for feature vectors: dense layers, no
    spectral norm on the last of them (see `normalised`), the exact largest singular value instead of its estimate, a fixed slope of
    the activation, ``chains.count`` negatives a step instead of as many as events. The sampling is the published heuristic (step and
    noise chosen apart). The second training runs in this process, whatever ``trainer`` asks for: the result is the same.
    """

    paper: ClassVar[str] = "2206.14225"
    _build = staticmethod(build_normalised)

    hidden: tuple[int, ...] = (64, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_settings()
        if not self.hidden:
            raise ConfigError(f"hidden: found {self.hidden}, expected at least one hidden layer")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on what cannot be learnt from, `FitError` if a loss diverges.
        """
        v, weight = self._learn_coordinates(reference, self.seed)
        self._learn(v.astype(np.float32), weight)
        self._learn_floor(v)
        return self

    def _config(self, columns: int) -> dict[str, Any]:
        return {"widths": [columns, *self.hidden], "latent": self.latent, "seed": self.seed}

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._loaded is None:
            self._loaded = load_weights(build_normalised(self._config(v.shape[1])), self.weights_)
        return evaluate(self._loaded, v.astype(np.float32)).astype(np.float64)

    def state(self) -> Stateful:
        """The coordinates, weights by parameter name, the mean energies, and how it was trained."""
        info, arrays, texts = super().state()
        more, weights, _ = self._trained()
        return info | more, arrays | weights, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        super().restore(info, arrays, texts)
        self._take_back(info, arrays)
        return self
