"""The CL4AD embedding: a few numbers per event in which known processes lie apart (2502.15926), by SupCon (2004.11362)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash, in_identity_order
from ..networks.cl4ad import build_encoder
from ..networks.contrastive import supcon
from ..networks.encoder_inputs import Scheme, masked
from ..networks.vicreg import vicreg
from ..scores.classifier_anomaly import REFERENCE
from ..scores.weak_trees import check_training
from ..training_task import Sample
from .object_encoder import LatentRecord
from .raw_encoder import TRANSFORMER, RawEncoder, check_sizes

log = logging.getLogger(__name__)

Network = Literal["dense", "transformer"]
Loss = Literal["supcon", "simclr", "vicreg"]
#: Temperatures as published.
TAU = {"dense": 0.9, "transformer": 0.1}
#: Probability of a scalar to be 0 in a view.
_MASKED = 0.5


def build_cl4ad(config: Mapping[str, Any]) -> Any:
    """`build_encoder`'s network with the loss and its temperature as attributes."""
    network = build_encoder(config)
    network.contrast = config["loss"], float(config["tau"])
    return network


def cl4ad_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:
    """The loss of a batch of raw columns x (n, d) with classes y (n,), given to each of its events, (n,)."""
    import torch

    loss, tau = network.contrast
    if len(x) < 2:  # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    table, there = network.inputs(x)
    if loss == "supcon":
        z = network(network.encode(table, there, generator))
        return supcon(z[:, None], y, tau=tau, anchors="one").expand(len(x))
    views = [
        network(network.encode(masked(table, network.inputs.scalars, _MASKED, generator), there, generator))
        for _ in range(2)
    ]
    if loss == "simclr":
        return supcon(torch.stack(views, dim=1), tau=tau).expand(len(x))
    return vicreg(*views, coefficients=(25.0, 25.0, 1.0), unbiased=True).expand(len(x))


def equal_shares(y: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Rows with as many of each class as of every other, about len(y) in all: rare ones again and again, common ones not all.

    The rows of a class are taken in their order, each as often as another to within one.
    """
    each = -(-len(y) // classes)
    found = []
    for label in range(classes):
        rows = np.flatnonzero(y == label)
        found.append(rows[np.arange(each) * len(rows) // each])
    return np.sort(np.concatenate(found), kind="stable")


@dataclass
class Cl4ad(RawEncoder):
    """SupCon (2004.11362) of known classes in ``latent`` numbers, as the CL4AD embedding has it (2502.15926).

    The classes are the ``reference``, named "reference", and the samples of ``classes`` (name: Events); with
    ``reference_class`` False the reference is no class (it may be their mixture) but only what the latent space is standardised
    by. Classes count by the number of their events, whatever their weights: hand in natural proportions; ``balanced`` makes
    them equally many in every batch on average, which is another prior. `prior` says which it was, and is logged.

    ``network`` "dense": layers ``hidden`` and the latent one, each with batch normalisation and LeakyReLU, the latent one too, and
    a projector of 48, normalised, and 96. "transformer": one token per slot, a class token, sinusoidal positions, four layers
    with the norm after each part, a linear latent layer and the published head. Positions are by slot: objects of a kind, in the
    order of pT, are not exchangeable. ``tau`` 0 is the published temperature, 0.9 and 0.1; the paper's tau_0 = tau.

    ``inputs`` "angles": ln(1 + pT / GeV), eta, cos phi, sin phi and whether there is an object, which the transformer's
    attention knows too; "published": pT less its mean over all slots, by their deviation, eta, phi, 0 where there is none, no mask.
    Feature sets without objects: see `describe`. ``loss`` "simclr" and "vicreg" use no classes but two views, each with every scalar
    0 with probability 0.5 (a pT of 0 looks like no object); classes handed in are then events like others.

    ``optimizer`` "published": LARS for the dense network, AdamW for the transformer, weight decay 1e-6, a linear rise over the first
    ``warmup`` epochs and a cosine to a thousandth, the last batch left out unless it is full; ``learning_rate`` 0 is
    the published one, 0.2 and 2.5e-4 times ``batch`` / 256. LARS moves weights by a part of their size and needs thousands of steps:
    small samples want "adam" (0: 1e-3), without decay, warm-up or a batch left out.

    Of its own: statistics of normalisation are computed at the end over the events of the training (published: running
    averages), and the latent space is standardised.
    """

    paper: ClassVar[str] = "2502.15926"
    more_papers: ClassVar[tuple[str, ...]] = ("2004.11362",)
    _name: ClassVar[str] = "cl4ad"

    classes: Any = field(default_factory=dict, repr=False, compare=False)  # name: Events
    network: Network = "dense"
    loss: Loss = "supcon"
    latent: int = 4
    hidden: tuple[int, ...] = (96, 64, 48)
    inputs: Scheme = "angles"
    tau: float = 0.0
    balanced: bool = False
    reference_class: bool = True
    epochs: int = 50
    batch: int = 1024
    learning_rate: float = 0.0
    optimizer: Literal["published", "adam"] = "published"
    warmup: int = 10
    counts_: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.network not in TAU or self.loss not in get_args(Loss) or self.inputs not in get_args(Scheme):
            raise ConfigError(
                f"found network {self.network!r}, loss {self.loss!r}, inputs {self.inputs!r}; expected one of {', '.join(TAU)}, "
                f"of {', '.join(get_args(Loss))}, and of {', '.join(get_args(Scheme))}"
            )
        check_sizes(latent=self.latent, hidden=self.hidden)
        if self.optimizer not in ("published", "adam"):
            raise ConfigError(f"optimizer: found {self.optimizer!r}, expected published or adam")
        if not min(self.tau, self.learning_rate, self.warmup) >= 0:
            raise ConfigError(
                f"found tau {self.tau}, learning_rate {self.learning_rate}, warmup {self.warmup}; expected 0 (tau and learning_rate: "
                "the published one) or above"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference`` and ``classes``; ``data`` is not looked at.

        Raises `InputError` where there are fewer than two classes to tell apart or a sample cannot be learnt from, `FeatureError` on
        other columns, `FitError` if the loss diverges or the latent space has collapsed to a line.
        """
        x, y = self._rows(reference)
        log.info("prior: %s", self.prior)
        self._learn(in_identity_order(reference, self.seed), Sample(x, y), x, self.inputs)
        return self

    def _rows(self, reference: Events) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Raw columns (n, d) of all that is learnt from, in the order of identities, and their classes (n,); counts the classes."""
        samples = self._samples(reference)
        whole = Events.concatenate(list(samples.values()))
        y = np.repeat(np.arange(len(samples)), [len(s) for s in samples.values()])
        order = np.lexsort((y, identity_hash(whole.identity, self.seed)))
        if self.balanced and self.loss == "supcon":
            order = order[equal_shares(y[order], len(samples))]
        self.counts_ = {name: int((y[order] == k).sum()) for k, name in enumerate(samples)}
        return np.ascontiguousarray(whole.x[order], np.float32), y[order].astype(np.float32)

    def _how(self) -> Any:
        dense, rate = self.network == "dense", self.learning_rate
        common = {"epochs": self.epochs, "batch": self.batch, "seed": self.seed, "schedule": "cosine"}
        if self.optimizer == "adam":
            return SimpleNamespace(**common, learning_rate=rate or 1e-3)
        rate = rate or (0.2 if dense else 2.5e-4) * self.batch / 256
        return SimpleNamespace(
            **common, learning_rate=rate, optimizer="lars" if dense else "adamw", weight_decay=1e-6, warmup=self.warmup,
            final_rate=1e-3, drop_last=True,
        )  # fmt: skip

    def _samples(self, reference: Events) -> dict[str, Events]:
        """What is learnt from, by name, checked."""
        if REFERENCE in self.classes:
            raise InputError(f"classes: '{REFERENCE}' is the name of the reference's class; use another")
        samples = {REFERENCE: reference, **self.classes}
        for name, events in samples.items():
            check_training(events, name)
            reference.features.require_same(events.features, "the reference", name)
        if self.loss == "supcon" and not self.reference_class:
            samples.pop(REFERENCE)
        if self.loss == "supcon" and len(samples) < 2:
            raise InputError(
                f"Cl4ad has the classes {list(samples)}; hand in at least two to be told apart, as "
                "classes={'top': Events, 'QCD': Events} (the reference is one, unless reference_class is False), or use loss simclr"
            )
        return samples

    @property
    def prior(self) -> str:
        """What the space was told, and in which proportions, for print; "" before the fit."""
        if not self.counts_:
            return ""
        total = sum(self.counts_.values())
        parts = ", ".join(f"{name} {100 * n / total:.3g} %" for name, n in self.counts_.items())
        if self.loss != "supcon":
            return f"events of {parts}, without labels"
        return f"classes {parts}{' (made equal)' if self.balanced else ''}"

    def _look(self, events: Events) -> None:
        if self.loss != "supcon" or len(self.counts_) > 2:
            super()._look(events)
            return
        self.latent_ = LatentRecord.of(
            self.transform(events).x
        )  # two classes at two points: a line is what was asked for
        log.info("Cl4ad: %s", self.latent_)

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_cl4ad, cl4ad_loss

    def _config(self) -> dict[str, Any]:
        dense = self.network == "dense"
        return {
            "inputs": self.inputs_, "network": self.network, "hidden": list(self.hidden), "latent": self.latent,
            "projector": [48, 96] if dense else [], "seed": self.seed, "loss": self.loss, "tau": self.tau or TAU[self.network],
            "positions": True, "mask": self.inputs != "published", **TRANSFORMER,
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker leaves the classes at home once the network is trained, and where it was."""
        home = {"classes": {}} if self.weights_ else {}
        return {**super().__getstate__(), **home}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """As the encoder's, and how many events there were of each class."""
        info, arrays, texts = super().state()
        return {**info, "counts": self.counts_}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.counts_ = dict(info["counts"])
        super().restore(info, arrays, texts)
        return self
