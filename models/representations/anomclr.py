"""A contrastive representation of events: views with the same physics together, anomalous ones apart (2301.04660)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError, InputError
from ...events import Column, Events, FeatureSet, in_identity_order
from ..augmentations.events import Mode, anomalous, physical
from ..augmentations.objects import Objects
from ..networks.contrastive import anomclr, anomclr_plus, clr, nt_xent
from ..networks.dense import BATCH, load_weights, one_thread
from ..networks.object_table import SEEN, object_columns, object_table, seen
from ..networks.transformer import build_set_encoder
from ..scores.weak_trees import check_scored, check_training
from ..training import Sample, Task, TrainingRecord, TrainPlan, train

Loss = Literal["nt_xent", "clr", "anomclr", "anomclr_plus"]
LOSSES: Mapping[str, Any] = {"nt_xent": nt_xent, "clr": clr, "anomclr": anomclr, "anomclr_plus": anomclr_plus}


def build_contrastive(config: Mapping[str, Any]) -> Any:
    """The set encoder with the loss, the kinds of its objects and the modes of anomalous views as attributes."""
    import torch

    network = build_set_encoder(config)
    network.contrast = config["loss"], float(config["tau"]), tuple(config["modes"])
    network.register_buffer("kinds", torch.tensor(list(config["kinds"])), persistent=False)
    return network


def contrastive_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """The loss of a batch x (n, 3 N) on views drawn by ``generator``, given to each of its events, (n,)."""
    name, tau, modes = network.contrast
    kinds = network.kinds
    events = Objects.of(x.reshape(len(x), -1, 3))
    views = [events, physical(events, kinds, generator)]
    if name in ("anomclr", "anomclr_plus"):
        views.append(anomalous(events, kinds, generator, modes))
    if len(x) < 2 and name in (
        "clr",
        "anomclr",
    ):  # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    return LOSSES[name](*(network(*seen(v, kinds)) for v in views), tau=tau).expand(len(x))


@dataclass
class AnomClr:
    """A transformer's sum over objects, trained by AnomCLR+ (2301.04660), or by AnomCLR, CLR or JetCLR's NT-Xent.

    For feature sets made of objects, such as the 57 columns of level 1: pT, eta, phi in GeV and radians, 0 where there is none. The
    network sees ln(1 + pT), eta, cos phi, sin phi and the kind (the public code: pT, eta, phi scaled), with a mask, in
    no order. Physical views: rotation, smeared directions and jet energies; anomalous ones: ``modes``. Sizes are the public
    code's defaults and want a GPU; the optimiser is Adam with the last, smaller batch kept. AnomCLR+ holds nothing apart: look at
    `networks.contrastive.uniformity` of what it gives.

    Trained on ``reference`` alone, in the order of the events' identity. Weights of events are not used: a batch has one loss.
    """

    paper: ClassVar[str] = "2301.04660"

    loss: Loss = "anomclr_plus"
    width: int = 160
    heads: int = 4
    layers: int = 4
    feedforward: int = 160
    out: int = 160
    tau: float = 0.1
    modes: tuple[Mode, ...] = ("add", "split")
    epochs: int = 200
    batch: int = 128
    learning_rate: float = 5e-5
    seed: int = 0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    features_: FeatureSet | None = field(default=None, repr=False, compare=False)
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _network: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.loss not in LOSSES or not self.tau > 0:
            raise ConfigError(
                f"found loss {self.loss!r}, tau {self.tau}; expected one of {', '.join(LOSSES)} and a temperature above 0"
            )
        if not self.modes or not set(self.modes) <= set(get_args(Mode)):
            raise ConfigError(
                f"modes: found {list(self.modes)}, expected some of {', '.join(get_args(Mode))}"
            )
        if self.width % self.heads:
            raise ConfigError(f"width: {self.width} is no multiple of heads {self.heads}")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at. Raises `FeatureError` where the columns are no objects."""
        check_training(reference, "reference")
        columns, _ = object_columns(reference.features)
        reference = in_identity_order(reference, self.seed)
        self.features_, self._network = reference.features, None
        plan = self.trainer or TrainPlan()
        settings = plan.settings(self, 1)
        sample = Sample(object_table(reference.x, columns))
        task = Task(build_contrastive, self._config(), contrastive_loss, sample, draws=True)
        result = train(task, settings, plan.folder, plan.progress)
        self.weights_, self.record_ = result.state, result.record
        return self

    def _config(self) -> dict[str, Any]:
        _, kinds = object_columns(self._known())
        names = ("width", "heads", "layers", "feedforward", "out", "seed", "loss", "tau")
        own = {name: getattr(self, name) for name in names}
        return {**own, "features": SEEN, "modes": list(self.modes), "kinds": kinds.tolist()}

    def _known(self) -> FeatureSet:
        if self.features_ is None:
            raise InputError("this AnomClr has not been fitted")
        return self.features_

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set of the embedding: h0, h1, ... without unit; the mass stays."""
        columns = tuple(
            Column(f"h{i}", "", "sum over objects of a contrastive encoder") for i in range(self.width)
        )
        return replace(before, name=f"{before.name}/anomclr", columns=columns, extras=())

    def transform(self, events: Events) -> Events:
        """The same events with the encoder's sum over objects as features, (n, ``width``)."""
        import torch

        known = self._known()
        check_scored(events, len(known), "AnomClr")
        if known.names != events.features.names:
            raise FeatureError(
                f"AnomClr was trained on feature set '{known.name}', the events have '{events.features.name}'"
            )
        if self._network is None:
            self._network = load_weights(build_contrastive(self._config()), self.weights_)
        network, (columns, _) = self._network, object_columns(known)
        table, h = object_table(events.x, columns), np.empty((len(events), self.width), np.float32)
        with one_thread(), torch.inference_mode():
            for start in range(0, len(table), BATCH):
                rows = np.zeros(
                    (BATCH, table.shape[1]), np.float32
                )  # always as many: no event sees its company
                part = table[start : start + BATCH]
                rows[: len(part)] = part
                objects = Objects.of(torch.from_numpy(rows).reshape(BATCH, -1, 3))
                h[start : start + BATCH] = network.represent(*seen(objects, network.kinds)).numpy()[
                    : len(part)
                ]
        return replace(events, x=h, features=self.features(events.features))

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "_network": None, "trainer": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Weights by parameter name, the columns, and how it was trained."""
        features = None if self.features_ is None else self.features_.to_json()
        record = None if self.record_ is None else self.record_.to_json()
        return {"features": features, "record": record}, dict(self.weights_), {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.features_ = None if info["features"] is None else FeatureSet.from_json(info["features"])
        self.weights_, self._network = dict(arrays), None
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        return self
