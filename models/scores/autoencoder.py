"""A dense autoencoder for the trigger: what it cannot rebuild is odd (2108.03986)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError, InputError
from ...events import Events, FeatureSet, in_identity_order
from ..networks.dense import BATCH, build_dense, evaluate_columns, layers_of, load_weights, scaled_columns
from ..training import Sample, Task, TrainingRecord, TrainPlan, train
from .weak_trees import check_scored, check_training

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


def reconstruction(network: Any, x: Any, y: Any) -> Any:  # noqa: ARG001
    """Sum of squared differences between x (n, d) and what the network makes of it, shape (n,)."""
    return (network(x) - x).square().sum(dim=1)


def _distance(layers: Any) -> Any:
    """A module (n, d) -> (n,): the squared distance between input and ``layers(input)``, in operations firmware has."""
    import torch

    class Distance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Any) -> Any:
            difference = self.layers(x) - x
            return torch.einsum("bi,bi->b", difference, difference)

    return Distance()


@dataclass
class Autoencoder:
    """Dense autoencoder d - hidden - latent - hidden - d with ReLU; score = sum of squared reconstruction errors.

    Inputs are scaled as in Level-1 hardware (2411.19506): (x - offset) * 2^-shift, see `input_scale`, then clipped to
    +- ``clip`` as the firmware's input type saturates (its default, fixed<16,8>, ends at 128). An empty slot is the
    number 0 in every column and goes through the same formula as any other number, for hardware does not know better.
    Training: Adam on the score itself, on ``reference`` alone, events in the order of their identity.

    ``trainer`` says where to train, never what comes of it; the network is the same bit for bit.
    """

    paper: ClassVar[str] = "2108.03986"

    hidden: tuple[int, ...] = (32, 16)
    latent: int = 8
    epochs: int = 20
    batch: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    shards: int = 4
    low: float = 5.0
    high: float = 95.0
    clip: float = 128.0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    columns_: int = field(default=0, repr=False)
    offset_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    shift_: NDArray[Any] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False
    )
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _layers: list[Any] = field(default_factory=list, repr=False, compare=False)

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on an empty sample, values that are not finite or negative weights, `FitError` if the
        loss diverges.
        """
        check_training(reference, "reference")
        reference = in_identity_order(reference, self.seed)
        self.columns_ = len(reference.features)
        self.offset_, self.shift_ = input_scale(reference, self.low, self.high)
        plan = self.trainer or TrainPlan()
        settings = plan.settings(self, self.shards)
        sample = Sample(self.scale(reference.x), weight=reference.weight)
        result = train(
            Task(build_dense, self._config(), reconstruction, sample), settings, plan.folder, plan.progress
        )
        self.weights_, self.record_, self._network = result.state, result.record, []
        return self

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What `network` takes: (x - offset) * 2^-shift of raw columns x (n, d), clipped to +- ``clip``, float32."""
        self._check(x)
        return np.ascontiguousarray(self._columns(x, len(x)).T)

    def _columns(self, x: NDArray[Any], width: int) -> NDArray[np.float32]:
        return scaled_columns(x, self.offset_.astype(np.float64), 2.0**-self.shift_, self.clip, width)

    def score(self, events: Events) -> NDArray[np.float64]:
        """Squared distance between the scaled event and its reconstruction, shape (n,)."""
        self._check(None)
        check_scored(events, self.columns_, "Autoencoder")
        if not self._layers:
            self._layers = layers_of(self.weights_)
        out = np.empty(len(events))
        for start in range(0, len(events), BATCH):
            columns = self._columns(events.x[start : start + BATCH], BATCH)
            difference = evaluate_columns(self._layers, columns)
            difference -= columns
            difference *= difference
            out[start : start + BATCH] = difference.sum(axis=0)[: len(events) - start]
        return out

    def network(self) -> Any:
        """The score as one ``torch.nn.Module`` in eval mode: `scale`'s output (n, d) to scores (n,)."""
        self._check(None)
        return _distance(load_weights(build_dense(self._config()), self.weights_)).eval()

    def _config(self) -> Mapping[str, Any]:
        middle = [*self.hidden, self.latent, *reversed(self.hidden)]
        return {"sizes": [self.columns_, *middle, self.columns_], "seed": self.seed}

    def _check(self, x: NDArray[Any] | None) -> None:
        if self.columns_ == 0:
            raise InputError("this Autoencoder has not been fitted")
        if x is not None and (x.ndim != 2 or x.shape[1] != self.columns_):
            raise FeatureError(
                f"the events have shape {x.shape}, the Autoencoder was trained on {self.columns_} columns"
            )

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "_layers": [], "trainer": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by parameter name, offsets and shifts, and how it was trained."""
        record = None if self.record_ is None else self.record_.to_json()
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        arrays = {"offset": self.offset_, "shift": self.shift_, **weights}
        return {"columns": self.columns_, "record": record}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_, self.offset_, self.shift_ = info["columns"], arrays["offset"], arrays["shift"]
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self._layers = []
        return self
