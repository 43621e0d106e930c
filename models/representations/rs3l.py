"""A representation in which events that differ by shower and detector alone are one: re-simulated pairs (2403.07066)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, in_identity_order
from ..networks.cl4ad import build_encoder
from ..networks.contrastive import nt_xent
from ..networks.particle_net import ParticleNet
from ..networks.vicreg import vicreg
from ..scores.weak_trees import check_training
from ..training_task import Sample, Schedule
from .raw_encoder import TRANSFORMER, RawEncoder, check_sizes

log = logging.getLogger(__name__)

_KEY = ("run", "luminosityBlock", "event")
#: Events whose pairs are looked at after a training.
_LOOKED_AT = 2000


class Versions:
    """Samples of the same hard events: ``x`` (n, versions, d), 0 where an event has no such version, ``there`` (n, versions)."""

    def __init__(self, samples: Sequence[Events], first: int) -> None:
        """Events in the order of sample ``first``, then those of later ones that it lacks. Raises `InputError` for an event that is
        in a sample twice."""
        keys = [np.stack([s.identity[name].astype(np.uint64) for name in _KEY], axis=1) for s in samples]
        for i, rows in enumerate(keys):
            twice = len(rows) - len(np.unique(rows, axis=0))
            if twice:
                raise InputError(
                    f"version {i} has {twice} events twice, of the same run, luminosityBlock and event; hand in one file's events per "
                    "version, and files whose numbers are different"
                )
        order = [first, *(i for i in range(len(samples)) if i != first)]
        whole = np.concatenate([keys[i] for i in order])
        _, start, number = np.unique(whole, axis=0, return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(start))[number.ravel()]  # by first appearance
        ends = np.cumsum([0, *(len(keys[i]) for i in order)])
        size = (len(start), len(samples))
        self.x = np.zeros((*size, samples[first].x.shape[1]), np.float32)
        self.there = np.zeros(size, np.bool_)
        for a, b, i in zip(ends[:-1], ends[1:], order, strict=True):
            self.x[place[a:b], i], self.there[place[a:b], i] = samples[i].x, True

    def keep(self, rows: NDArray[np.bool_]) -> None:
        """Only these events."""
        self.x, self.there = self.x[rows], self.there[rows]


@dataclass(frozen=True)
class Pairs:
    """What was paired: ``events`` learnt from, ``alone`` left out because they have one version only, mean cosines of the standardised
    latent vectors of two versions of an event (``same``) and of an event and the next one (``other``)."""

    events: int
    alone: int
    same: float
    other: float

    def __str__(self) -> str:
        return (
            f"{self.events} events with two or more versions, {self.alone} with one left out; mean cosine {self.same:.3g} of two "
            f"versions, {self.other:.3g} of two events"
        )


def build_rs3l(config: Mapping[str, Any]) -> Any:
    """`build_encoder`'s network with the loss, its temperature and the number of versions as attributes."""
    network = build_encoder(config)
    network.contrast = config["loss"], float(config["tau"])
    return network


def rs3l_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:
    """The loss of two versions, drawn at random, of each event: x (n, versions * d), y (n, versions) where there is one; (n,)."""
    import torch

    if len(x) < 2:  # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    versions = x.reshape(len(x), y.shape[1], -1)
    lot = (
        torch.rand(y.shape, generator=generator, device=x.device) + y
    )  # those that are not there are drawn last
    rows = torch.arange(len(x), device=x.device)
    z = [
        network(network.encode(*network.table(versions[rows, i]), generator))
        for i in lot.topk(2, dim=1).indices.unbind(dim=1)
    ]
    loss, tau = network.contrast
    if loss == "vicreg":
        return vicreg(*z, coefficients=(25.0, 25.0, 1.0), unbiased=True).expand(len(x))
    return nt_xent(*z, tau=tau).expand(len(x))


@dataclass
class Rs3l(RawEncoder):
    """RS3L (2403.07066): the same hard event, showered and measured anew, is the same point of the latent space.

    ``versions``: samples of the events of the reference with another seed, other settings or another program from the
    shower on; who has the same run, luminosityBlock and event is the same event. Each step takes two versions of every event at
    random, the reference's own among them, and NT-Xent at ``tau`` (or VICReg, 25, 25, 1) between them. Only events of the reference
    are learnt from, so a fold of it has no event of another fold in any version. ``nominal`` False: the reference (data)
    is no version but only what the space is standardised by, at least two versions are handed in, and that none of their events is
    scored is left to who hands them in. Events with one version are left out: `pairs_` and the log say how many.

    Traps: pairs whose hard events differ (generated anew, not showered anew) are not found here; what forgets the shower is blind
    to signals that look like another shower.

    Encoders: those of `Cl4ad` and ParticleNet ("particle_net", for constituents, sizes ``particle_net``), with ``projector``
    behind the latent vector; constituents have no positions. The published graph network and correlation losses are not there; Adam.
    """

    paper: ClassVar[str] = "2403.07066"
    _name: ClassVar[str] = "rs3l"

    versions: Any = field(default=(), repr=False, compare=False)  # Sequence[Events]
    network: Literal["dense", "transformer", "particle_net"] = "transformer"
    loss: Literal["nt_xent", "vicreg"] = "nt_xent"
    latent: int = 8
    hidden: tuple[int, ...] = (128, 64)
    projector: tuple[int, ...] = (64, 64)
    particle_net: ParticleNet = field(default_factory=ParticleNet)
    tau: float = 0.1
    nominal: bool = True
    epochs: int = 50
    batch: int = 512
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    pairs_: Pairs | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.particle_net, Mapping):  # from a model folder
            self.particle_net = ParticleNet(**self.particle_net)
        if self.network not in ("dense", "transformer", "particle_net") or self.loss not in (
            "nt_xent",
            "vicreg",
        ):
            raise ConfigError(
                f"found network {self.network!r}, loss {self.loss!r}; expected dense, transformer or particle_net, and nt_xent or vicreg"
            )
        check_sizes(latent=self.latent, hidden=self.hidden, projector=self.projector)
        if not self.tau > 0:
            raise ConfigError(f"tau: found {self.tau}, expected a temperature above 0")

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference`` and ``versions``; ``data`` is not looked at.

        Raises `InputError` where no event has two versions or one is in a version twice, `FeatureError` on other columns, `FitError` if
        the loss diverges or the latent space has collapsed to a line.
        """
        check_training(reference, "reference")
        for i, events in enumerate(self.versions):
            check_training(events, f"version {i}")
            reference.features.require_same(events.features, "the reference", f"version {i}")
        reference = in_identity_order(reference, self.seed)
        found, alone = self._joined(reference)
        n, versions, d = found.x.shape
        shown = found.x[np.arange(n), found.there.argmax(axis=1)]
        sample = Sample(found.x.reshape(n, versions * d), found.there.astype(np.float32))
        self._learn(reference, sample, shown)
        self.pairs_ = self._paired(found, alone)
        log.info("Rs3l: %s", self.pairs_)
        return self

    def _joined(self, reference: Events) -> tuple[Versions, int]:
        """Events with two or more versions, and how many have one."""
        own = [reference] if self.nominal else []
        samples = [*own, *(in_identity_order(v, self.seed) for v in self.versions)]
        if len(samples) < 2:
            raise InputError(
                f"Rs3l has {len(samples)} versions of its events; hand in at least one beside the reference, as versions=[Events] "
                "(two, if nominal is False)"
            )
        found = Versions(samples, 0)
        if self.nominal:
            found.keep(found.there[:, 0])
        many = found.there.sum(axis=1)
        alone = int((many < 2).sum())
        if alone == len(many):
            raise InputError(
                f"none of {len(many)} events has two versions: no run, luminosityBlock and event of one sample is in another; hand in "
                "the re-simulated samples of the reference's events"
            )
        if alone:
            log.info("Rs3l: %d of %d events have one version only and are left out", alone, len(many))
        found.keep(many > 1)
        return found, alone

    def _paired(self, found: Versions, alone: int) -> Pairs:
        there = found.there[:_LOOKED_AT]
        first = there.argmax(axis=1)
        rest = there.copy()
        rest[np.arange(len(there)), first] = False
        h = []
        for which in (first, rest.argmax(axis=1)):
            z = (self._latent(found.x[np.arange(len(there)), which]) - self.center_) / self.spread_
            h.append(z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12))
        same = float((h[0] * h[1]).sum(axis=1).mean())
        other = (
            float((h[0] * np.roll(h[1], 1, axis=0)).sum(axis=1).mean()) if len(there) > 1 else float("nan")
        )
        return Pairs(len(found.x), alone, same, other)

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_rs3l, rs3l_loss

    def _config(self) -> dict[str, Any]:
        own = ("network", "loss", "latent", "seed", "tau")
        return {
            **{name: getattr(self, name) for name in own}, "inputs": self.inputs_, "hidden": list(self.hidden),
            "projector": list(self.projector), "positions": self.inputs_["kind"] != "constituents", "mask": True,
            "particle_net": asdict(self.particle_net), "frozen": bool(self.weights_), **TRANSFORMER,
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker leaves the versions at home once the network is trained, and where it was."""
        home = {"versions": ()} if self.weights_ else {}
        return {**super().__getstate__(), **home}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """As the encoder's, and what was paired."""
        info, arrays, texts = super().state()
        return {**info, "pairs": None if self.pairs_ is None else asdict(self.pairs_)}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        super().restore(info, arrays, texts)
        self.pairs_ = None if info["pairs"] is None else Pairs(**info["pairs"])
        return self
