"""A contrastive representation of events: views with the same physics together, anomalous ones apart (2301.04660)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ...errors import ConfigError
from ..augmentations.events import Mode, anomalous, physical
from ..augmentations.objects import Objects
from ..networks.contrastive import anomclr, anomclr_plus, clr, nt_xent
from ..networks.object_table import SEEN, seen
from ..networks.transformer import build_set_encoder
from ..networks.vicreg import vicreg_terms
from .object_encoder import ObjectEncoder

Loss = Literal["nt_xent", "clr", "anomclr", "anomclr_plus"]
LOSSES: Mapping[str, Any] = {"nt_xent": nt_xent, "clr": clr, "anomclr": anomclr, "anomclr_plus": anomclr_plus}


def build_contrastive(config: Mapping[str, Any]) -> Any:
    """The set encoder with the loss, the kinds of its objects and the modes of anomalous views as attributes."""
    import torch

    network = build_set_encoder(config)
    network.contrast = config["loss"], float(config["tau"]), tuple(config["modes"])
    network.spread = float(config["variance"]), float(config["covariance"])
    network.register_buffer("kinds", torch.tensor(list(config["kinds"])), persistent=False)
    return network


def contrastive_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """The loss of a batch x (n, 3 N) on views drawn by ``generator``, given to each of its events, (n,)."""
    name, tau, modes = network.contrast
    variance, covariance = network.spread
    apart = variance > 0 or covariance > 0
    kinds = network.kinds
    events = Objects.of(x.reshape(len(x), -1, 3))
    views = [events, physical(events, kinds, generator)]
    if name in ("anomclr", "anomclr_plus"):
        views.append(anomalous(events, kinds, generator, modes))
    if len(x) < 2 and (apart or name in ("clr", "anomclr")):
        # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    h = [network.represent(*seen(v, kinds)) for v in views]
    loss = LOSSES[name](*(network.head(one) for one in h), tau=tau)
    if apart:
        _, narrow, alike = vicreg_terms(h[0], h[1], unbiased=True)
        loss = loss + variance * narrow + covariance * alike
    return loss.expand(len(x))


@dataclass
class AnomClr(ObjectEncoder):
    """A transformer's sum over objects, trained by AnomCLR+ (2301.04660), or by AnomCLR, CLR or JetCLR's NT-Xent.

    For feature sets made of objects, see `ObjectEncoder`. The network sees ln(1 + pT), eta, cos phi, sin phi and the kind (the
    public code: pT, eta, phi scaled), with a mask, in no order. Physical views: rotation, smeared directions and jet energies;
    anomalous ones: ``modes``. Sizes are the public code's defaults and want a GPU; the optimiser is Adam with the last, smaller
    batch kept.

    AnomCLR+ holds nothing apart, so that collapse looks like a perfect loss: look at ``latent_``. ``variance`` and ``covariance``
    add so much of the two terms of VICReg (2105.04906) that do. They act on what is given on, the sum over objects of an event
    and of its physical view, not on the head's output, which may lie on a line without harm. 0: the published loss, where 1 / tau
    is the weight of a cosine.
    """

    paper: ClassVar[str] = "2301.04660"
    _name: ClassVar[str] = "anomclr"

    loss: Loss = "anomclr_plus"
    width: int = 160
    heads: int = 4
    layers: int = 4
    feedforward: int = 160
    out: int = 160
    tau: float = 0.1
    modes: tuple[Mode, ...] = ("add", "split")
    variance: float = 0.0
    covariance: float = 0.0
    epochs: int = 200
    batch: int = 128
    learning_rate: float = 5e-5

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
        if not min(self.variance, self.covariance) >= 0:
            raise ConfigError(
                f"found variance {self.variance}, covariance {self.covariance}; expected 0 or above"
            )

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_contrastive, contrastive_loss

    def _config(self) -> dict[str, Any]:
        names = (
            "width",
            "heads",
            "layers",
            "feedforward",
            "out",
            "seed",
            "loss",
            "tau",
            "variance",
            "covariance",
        )
        own = {name: getattr(self, name) for name in names}
        return {**own, "features": SEEN, "modes": list(self.modes), "kinds": self._kinds()}

    def _width(self) -> int:
        return self.width
