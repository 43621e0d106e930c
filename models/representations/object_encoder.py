"""What representations of events made of objects, or of jets made of constituents, share: training, evaluation, storage, and
whether the latent space collapsed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import FeatureError, FitError, InputError
from ...events import Column, Events, FeatureSet, in_identity_order
from ..augmentations.jets import centred
from ..augmentations.objects import Objects
from ..networks.constituent_table import constituent_columns
from ..networks.constituent_table import seen as seen_constituents
from ..networks.contrastive import covariance_spectrum, effective_rank, uniformity
from ..networks.dense import BATCH, load_weights, one_thread
from ..networks.object_table import object_columns, object_table, seen
from ..scores.weak_trees import check_scored, check_training
from ..training import ParquetSample, Sample, Task, TrainingRecord, TrainPlan, train
from ..training_files import EventFiles

log = logging.getLogger(__name__)

#: Events whose latent space is looked at after a training.
_LOOKED_AT = 2000


@dataclass(frozen=True)
class LatentRecord:
    """How much of a latent space is used, by the first 2,000 events of the training sample (all, if there are fewer).

    ``spectrum``: eigenvalues of the covariance as parts of their sum, falling; ``effective_rank``: exp of their entropy, from 1
    (all on a line) to the dimension; ``uniformity``: `networks.contrastive.uniformity`, 0 where all events point one way, about
    -4 where they point everywhere.
    """

    effective_rank: float
    uniformity: float
    spectrum: tuple[float, ...]
    events: int

    @classmethod
    def of(cls, h: NDArray[Any]) -> Self:
        """The record of latent vectors h (n, d)."""
        import torch

        with one_thread(), torch.inference_mode():
            z = torch.from_numpy(np.asarray(h, np.float64))
            spectrum = covariance_spectrum(z)
            return cls(
                float(effective_rank(z)), float(uniformity(z)), tuple(spectrum.tolist()), len(h)
            )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"effective rank {self.effective_rank:.3g} of {len(self.spectrum)}, largest direction "
            f"{100 * self.spectrum[0]:.3g} % of the variance, uniformity {self.uniformity:.3g}"
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {**asdict(self), "spectrum": list(self.spectrum)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Undo `to_json`."""
        return cls(**{**raw, "spectrum": tuple(raw["spectrum"])})


@dataclass
class Encoder:
    """A trained network whose inner layer is the representation: its evaluation, its storage, a look at its latent space.

    Who inherits has the settings ``epochs``, ``batch`` and ``learning_rate``, says in ``_recipe`` how network and loss are made,
    in ``_config`` from what, and in ``_width`` how many columns the representation has. ``latent_`` tells how much of the latent
    space is used (also logged, and stored beside the training's record); one of an effective rank below ``_collapsed`` is one number
    per event.
    """

    paper: ClassVar[str] = ""
    _name: ClassVar[str] = ""
    _collapsed: ClassVar[float] = 1.5

    seed: int = 0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    features_: FeatureSet | None = field(default=None, repr=False, compare=False)
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    latent_: LatentRecord | None = field(default=None, repr=False, compare=False)
    _network: Any = field(default=None, repr=False, compare=False)

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        """``build(config)`` of a network with ``represent`` and ``kinds``, and its loss (network, x, y, generator)."""
        raise TypeError(f"{type(self).__name__} says not how its network is made")

    def _config(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} says not what its network is made from")

    def _width(self) -> int:
        raise TypeError(f"{type(self).__name__} says not how wide it is")

    def transform(self, events: Events) -> Events:  # noqa: ARG002
        """The same events with the latent vector as features, (n, width)."""
        raise TypeError(f"{type(self).__name__} says not what its network is given")

    def _look(self, events: Events) -> None:
        self.latent_ = LatentRecord.of(self.transform(events).x)
        log.info("%s: %s", type(self).__name__, self.latent_)
        if self.latent_.effective_rank < self._collapsed:
            raise FitError(
                f"{type(self).__name__}: the latent space has collapsed to a line ({self.latent_}); train with a term that holds "
                "events apart, with another seed or for fewer epochs"
            )

    def _known(self) -> FeatureSet:
        if self.features_ is None:
            raise InputError(f"this {type(self).__name__} has not been fitted")
        return self.features_

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set of the embedding: h0, h1, ... without unit; the mass stays."""
        columns = tuple(
            Column(f"h{i}", "", f"latent coordinate of {type(self).__name__}") for i in range(self._width())
        )
        return replace(before, name=f"{before.name}/{self._name}", columns=columns, extras=())

    def _require_known(self, events: Events) -> FeatureSet:
        """What the network was trained on, which must be what the events have."""
        known = self._known()
        check_scored(events, len(known), type(self).__name__)
        if known.names != events.features.names:
            raise FeatureError(
                f"{type(self).__name__} was trained on feature set '{known.name}', the events have '{events.features.name}'"
            )
        return known

    def _evaluated(
        self, table: NDArray[Any], step: int, embed: Callable[[Any, Any], Any]
    ) -> NDArray[np.float32]:
        """``embed(network, rows)`` of all rows of ``table``, ``step`` at once, (n, width)."""
        import torch

        if self._network is None:
            self._network = load_weights(self._recipe()[0](self._config()), self.weights_)
        h = np.empty((len(table), self._width()), np.float32)
        with one_thread(), torch.inference_mode():
            for start in range(0, len(table), step):
                part = table[start : start + step]
                rows = np.zeros(
                    (step, table.shape[1]), np.float32
                )  # always as many: no event sees its company
                rows[: len(part)] = part
                h[start : start + step] = embed(self._network, torch.from_numpy(rows)).numpy()[: len(part)]
        return h

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "_network": None, "trainer": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by parameter name, the columns, how it was trained and what came of it."""
        info = {
            name: None if value is None else value.to_json()
            for name, value in (
                ("features", self.features_),
                ("record", self.record_),
                ("latent", self.latent_),
            )
        }
        return info, dict(self.weights_), {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave; a model that was stored without ``latent`` has none."""
        self.features_ = None if info["features"] is None else FeatureSet.from_json(info["features"])
        self.weights_, self._network = dict(arrays), None
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        self.latent_ = None if info.get("latent") is None else LatentRecord.from_json(info["latent"])
        return self


@dataclass
class ObjectEncoder(Encoder):
    """An encoder trained on views of events made of objects.

    For feature sets such as the 57 columns of level 1: pT, eta, phi in GeV and radians, 0 where there is none.
    Trained on ``reference`` alone. Weights of events are not used: a batch has one loss.

    What the columns are is one hook, ``_columns``; what the network is given of them, and which of its layers is the
    representation, another, ``_embed``. ``_rows`` events are given to it at once, always as many.
    """

    _rows: ClassVar[int] = BATCH

    def _columns(self, features: FeatureSet) -> NDArray[np.int64]:
        """Column numbers (N, 3) of pT, eta, phi; raises `FeatureError` where they are not all there is."""
        return object_columns(features)[0]

    def _kinds(self) -> list[int]:
        return object_columns(self._known())[1].tolist()

    def _embed(self, network: Any, objects: Objects) -> Any:
        """What is given on of events (B, ...), (B, ``_width``)."""
        return network.represent(*seen(objects, network.kinds))

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``, in the order of the events' identity; ``data`` is not looked at.

        Raises `FeatureError` where the columns are no objects, `FitError` where the latent space has collapsed to a line.
        """
        check_training(reference, "reference")
        columns = self._columns(reference.features)
        reference = in_identity_order(reference, self.seed)
        return self._train(Sample(object_table(reference.x, columns)), reference)

    def fit_stream(self, files: EventFiles) -> Self:
        """Learn from files that are never held whole; the order is theirs, shuffled in windows: another one than that of `fit`."""
        columns = self._columns(files.features)
        known = files.look(self.seed, _LOOKED_AT)
        check_training(known, "reference")
        return self._train(files.sample(columns=columns.ravel(), weighted=False), known)

    def _train(self, sample: Sample | ParquetSample, known: Events) -> Self:
        """Learn from ``sample``, then look at the latent vectors of the first ``known`` events."""
        self.features_, self._network = known.features, None
        plan = self.trainer or TrainPlan()
        build, loss = self._recipe()
        task = Task(build, self._config(), loss, sample, draws=True)
        result = train(task, plan.settings(self, 1), plan.folder, plan.progress)
        self.weights_, self.record_ = result.state, result.record
        if len(known) > 1:
            self._look(known.take(slice(0, _LOOKED_AT)))
        return self

    def transform(self, events: Events) -> Events:
        """The same events with the network's inner layer as features, (n, width)."""
        table = object_table(events.x, self._columns(self._require_known(events)))

        def embed(network: Any, rows: Any) -> Any:
            return self._embed(network, Objects.of(rows.reshape(len(rows), -1, 3)))

        h = self._evaluated(table, self._rows, embed)
        return replace(events, x=h, features=self.features(events.features))


@dataclass
class ConstituentEncoder(ObjectEncoder):
    """The same of jets made of constituents, for feature sets such as "constituents": CandI_pt [GeV], CandI_eta, CandI_phi.

    Jets are centred on their pT-weighted centroid. The network has a ``unit``, GeV: it is given pT / unit, eta, phi. What is left
    of jets without their direction is few numbers, so that only a rank that rounds to 1 counts as collapsed.
    """

    _rows: ClassVar[int] = 256
    _collapsed: ClassVar[float] = 1.05

    def _columns(self, features: FeatureSet) -> NDArray[np.int64]:
        return constituent_columns(features)

    def _embed(self, network: Any, objects: Objects) -> Any:
        return network.represent(*seen_constituents(centred(objects), network.unit))
