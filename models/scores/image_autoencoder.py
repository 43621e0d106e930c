"""The normalised autoencoder of jet images: pixels that no background jet lights cost energy (2206.14225)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, in_identity_order
from ..nesting import Stateful
from ..networks.constituent_table import constituent_columns
from ..networks.dense import evaluate, load_weights
from ..networks.image_autoencoder import build_image_autoencoder
from ..networks.jet_images import image_table
from .normalised_training import NormalisedTraining
from .weak_trees import check_scored, check_training

log = logging.getLogger(__name__)

#: Images a network is given at once, and jets whose images exist at one time.
_IMAGES, _JETS = 256, 4096


@dataclass
class ImageAutoencoder(NormalisedTraining):
    """Convolutional autoencoder of jet images, its code on a unit sphere; score = energy = mean squared error per pixel (2206.14225).

    The columns are constituents (CandI_pt, _eta, _phi). Each jet becomes an image of ``pixels`` x ``pixels`` that reaches from
    -``reach`` to ``reach`` on both axes, smeared by ``smear`` pixels, pixels raised to ``power`` before (see `jet_images`), times
    ``scale``; the network is `build_image_autoencoder`, the trainings are those of `NormalisedTraining`.

    Not as published: ``chains.count`` negatives a step instead of as many as events; the exact largest singular value instead of its
    estimate; chains accepted by their own energies, and gradients cut image by image, not row by row; the last bias begins at the
    mean pixel, which saves the epochs that find it. ``scale`` multiplies energies by its square. As published (1) they are near 1e-6,
    so that at T = 1 every step of a chain is accepted and codes walk at random; what ``gamma`` adds is nothing below energies of
    1 / (2 ``gamma``). Watch ``energies_``: nothing keeps a training from going past the point where both are equal, unless ``held``
    chooses the epoch. The sampling is the published heuristic. The second training runs in this process, whatever ``trainer`` asks for:
    the result is the same.
    """

    paper: ClassVar[str] = "2206.14225"
    _build = staticmethod(build_image_autoencoder)

    pixels: int = 40
    reach: float = 0.7
    smear: float = 2.0
    power: float = 1.0
    scale: float = 1.0
    width_: int = field(default=0, repr=False, compare=False)
    columns_: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((0, 3), dtype=np.int64), repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._check_settings()
        if (
            self.pixels < 4
            or self.pixels % 2
            or min(self.reach, self.power, self.scale) <= 0
            or self.smear < 0
        ):
            raise ConfigError(
                f"found pixels {self.pixels}, reach {self.reach}, smear {self.smear}, power {self.power}, scale {self.scale}; expected an "
                "even number of pixels from 4 on, smear not negative, and positive numbers else"
            )
        if self.scale >= self.pixels**2 / 2:
            raise ConfigError(
                f"scale: found {self.scale}, expected less than half the {self.pixels**2} pixels: a pixel ends at 1"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from the jets of ``reference`` that have constituents in reach; ``data`` is not looked at.

        Raises `FeatureError` where a column is no constituent's, `InputError` on what cannot be learnt from, `FitError` if a loss
        diverges.
        """
        columns = constituent_columns(reference.features)
        check_training(reference, "reference")
        reference = in_identity_order(reference, self.seed)
        x = self._images(reference.x, columns)
        known = x.any(axis=1) & (reference.weight > 0)
        if not known.any():
            raise InputError(
                f"reference: no jet has a constituent within {self.reach} of its axis; look at the processor's output"
            )
        if not known.all():
            log.info(
                "ImageAutoencoder: %d of %d jets have no weight or no constituent in reach and are left out",
                (~known).sum(),
                len(known),
            )
        self.width_, self.columns_ = len(reference.features), columns
        self._learn(x[known], reference.weight[known])
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """The energy of each event's image, shape (n,), in units of (``scale`` / sum of pixels)^2."""
        if self.width_ == 0:
            raise InputError("this ImageAutoencoder has not been fitted")
        check_scored(events, self.width_, "ImageAutoencoder")
        if self._loaded is None:
            self._loaded = load_weights(build_image_autoencoder(self._config(0)), self.weights_)
        parts = [
            evaluate(self._loaded, self._images(events.x[start : start + _JETS], self.columns_), _IMAGES)
            for start in range(0, len(events), _JETS)
        ]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def _images(self, x: NDArray[Any], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        how = {"pixels": self.pixels, "reach": self.reach, "sigma": self.smear, "power": self.power}
        return image_table(x, columns, **how) * np.float32(self.scale)

    def _config(self, columns: int) -> dict[str, Any]:  # noqa: ARG002
        return {k: getattr(self, k) for k in ("pixels", "latent", "scale", "seed")}

    def state(self) -> Stateful:
        """Which columns are constituents, weights by parameter name, the mean energies, and how it was trained."""
        info, arrays, texts = self._trained()
        return info | {"width": self.width_}, arrays | {"columns": self.columns_}, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.width_, self.columns_ = info["width"], arrays["columns"]
        self._take_back(info, arrays)
        return self
