"""Inputs as level-1 hardware sees them: an offset and a bit shift per column, learnt from zero bias (2411.19506)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError, InputError
from ...events import Events, FeatureSet, in_identity_order
from ..networks.dense import scaled_columns
from ..training import ParquetSample, Sample, Scale, TrainingRecord, TrainPlan
from ..training_files import EventFiles
from .weak_trees import check_training

#: Fractional bits that an offset keeps after scaling (2411.19506 subtracts it in ap_fixed<18,13>).
_OFFSET_BITS = 5


def objects_of(features: FeatureSet) -> list[list[int]]:
    """The columns that belong to one object: NAME_pt, NAME_eta, NAME_phi; every other column stands alone."""
    index = {name: i for i, name in enumerate(features.names)}
    triples = []
    for name in features.names:
        stem = name.removesuffix("_pt")
        triple = [index.get(f"{stem}_{part}") for part in ("pt", "eta", "phi")]
        if name.endswith("_pt") and None not in triple:
            triples.append([i for i in triple if i is not None])
    taken = {i for triple in triples for i in triple}
    return triples + [[i] for i in range(len(features)) if i not in taken]


def input_scale(events: Events, low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Offsets and right shifts, one per column, that put the ``low`` to ``high`` percentiles into [-2, 2].

    Percentiles are weighted and taken over the events in which the object is there (a slot whose columns are all 0
    is empty; a column that stands alone is always there). shift = ceil(log2((q_high - q_low) / 4)); the offset is the
    middle, rounded to 1/32 of 2^shift. Columns that are constant, or never there, get shift 0.
    """
    offset, shift = np.zeros(len(events.features)), np.zeros(len(events.features), dtype=np.int64)
    for columns in objects_of(events.features):
        there = events.x[:, columns].any(axis=1) if len(columns) > 1 else np.ones(len(events), dtype=bool)
        weight = events.weight[there]
        if weight.sum() <= 0:
            continue
        for i in columns:
            values = events.x[there, i].astype(np.float64)
            q = np.quantile(values, [low / 100, high / 100], weights=weight, method="inverted_cdf")
            if q[1] > q[0]:
                shift[i] = int(np.ceil(np.log2((q[1] - q[0]) / 4)))
            step = 2.0 ** (int(shift[i]) - _OFFSET_BITS)
            offset[i] = np.rint(0.5 * (q[0] + q[1]) / step) * step
    return offset, shift


@dataclass
class HardwareInputs:
    """What the scores of a level-1 trigger share: settings and learnt values of the input scale, and where they are trained.

    ``low``, ``high``: percentiles that `input_scale` puts into [-2, 2]; ``clip``: scaled inputs end there, as the firmware's type
    saturates; ``trainer`` says where to train, never what comes of it.
    """

    low: float = 5.0
    high: float = 95.0
    clip: float = 128.0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    columns_: int = field(default=0, repr=False)
    offset_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    shift_: NDArray[Any] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False
    )

    def _learn_scale(self, reference: Events) -> None:
        self.columns_ = len(reference.features)
        self.offset_, self.shift_ = input_scale(reference, self.low, self.high)

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What `network` takes: (x - offset) * 2^-shift of raw columns x (n, d), clipped to +- ``clip``, float32."""
        self._check()
        if x.ndim != 2 or x.shape[1] != self.columns_:
            raise FeatureError(
                f"the events have shape {x.shape}, the {type(self).__name__} was trained on {self.columns_} columns"
            )
        return np.ascontiguousarray(self._columns(x, len(x)).T)

    def _columns(self, x: NDArray[Any], width: int) -> NDArray[np.float32]:
        """Scaled columns (d, width) of raw x (n, d), 0 beyond the n-th."""
        return scaled_columns(x, self.offset_.astype(np.float64), 2.0**-self.shift_, self.clip, width)

    def _check(self) -> None:
        if self.columns_ == 0:
            raise InputError(f"this {type(self).__name__} has not been fitted")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker says nothing of where it was trained."""
        return {**self.__dict__, "trainer": None}


@dataclass
class HardwareNetwork(HardwareInputs):
    """A score of one trained network on such inputs: its weights by parameter name, and how it was trained.

    Who inherits says in ``_train`` how a sample of scaled inputs is learnt from, and may refuse columns in ``_accept``.
    """

    seed: int = 0
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _ready: Any = field(default=None, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``, in the order of the events' identity; ``data`` is not looked at.

        Raises `InputError` on an empty sample, values that are not finite or negative weights, `FitError` if the
        loss diverges.
        """
        check_training(reference, "reference")
        self._accept(reference.features)
        reference = in_identity_order(reference, self.seed)
        self._learn_scale(reference)
        return self._train(Sample(self.scale(reference.x), weight=reference.weight))

    def fit_stream(self, files: EventFiles) -> Self:
        """Learn from files that are never held whole: the scale from 100,000 of their events, which a hash chooses.

        The order of the training is that of the files, shuffled in windows: another one than that of `fit`.
        """
        known = files.look(self.seed)
        check_training(known, "reference")
        self._accept(known.features)
        self._learn_scale(known)
        factor = tuple(2.0 ** -self.shift_.astype(float))
        return self._train(files.sample(Scale(tuple(self.offset_.tolist()), factor, self.clip)))

    def _accept(self, features: FeatureSet) -> None:
        """Raises where nothing can be learnt from these columns."""

    def _train(self, sample: Sample | ParquetSample) -> Self:  # noqa: ARG002
        raise TypeError(f"{type(self).__name__} says not how it is trained")

    def _keep(self, weights: dict[str, NDArray[Any]], record: TrainingRecord | None) -> Self:
        """Take trained weights; what was made ready of others (`_ready`) is forgotten."""
        self.weights_, self.record_, self._ready = weights, record, None
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not what is made ready of them."""
        return {**super().__getstate__(), "_ready": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by parameter name, offsets and shifts, and how it was trained."""
        record = None if self.record_ is None else self.record_.to_json()
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        arrays = {"offset": self.offset_, "shift": self.shift_, **weights}
        return {"columns": self.columns_, "record": record}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_, self.offset_, self.shift_ = info["columns"], arrays["offset"], arrays["shift"]
        weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        record = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        return self._keep(weights, record)
