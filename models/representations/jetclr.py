"""A contrastive representation of jets that forgets rotations, translations, soft and collinear radiation (2108.04253)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from ...errors import ConfigError
from ..augmentations.jets import centred, symmetric_views
from ..augmentations.objects import Objects
from ..networks.constituent_table import SEEN, seen
from ..networks.contrastive import nt_xent
from ..networks.transformer import build_set_encoder
from .object_encoder import ConstituentEncoder

Layer = Literal["sum", "hidden", "head"]
#: What 1 stands for in the pT that the network is given, GeV.
UNIT = 600.0


def build_jetclr(config: Mapping[str, Any]) -> Any:
    """The infrared-safe set encoder with the temperature, the unit of pT and the layer that the loss sees as attributes."""
    network = build_set_encoder({**config, "safe": True})
    network.tau, network.unit = float(config["tau"]), float(config["unit"])
    network.last = "head" if config["head"] else "sum"
    if not config["head"]:
        network.head = None
    return network


def layer_of(network: Any, jets: Objects, layer: Layer) -> Any:
    """What a layer of the network makes of jets: the sum over constituents, the inner or the last layer of the head."""
    found = network.represent(*seen(jets, network.unit))
    if layer == "sum":
        return found
    return network.head[:2](found) if layer == "hidden" else network.head(found)


def jetclr_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """NT-Xent of a batch x (n, 3 N) on two views drawn by ``generator``, given to each of its jets, (n,)."""
    views = symmetric_views(Objects.of(x.reshape(len(x), -1, 3)), generator)
    z = [layer_of(network, view, network.last) for view in views]
    return nt_xent(*z, tau=network.tau).expand(len(x))


@dataclass
class JetClr(ConstituentEncoder):
    """JetCLR (2108.04253): a transformer's sum over constituents of a jet, alike for views that only symmetries tell apart.

    For the feature set "constituents", see `ConstituentEncoder`. Views: both rotated and translated, one with collinear splits in
    its empty slots and its soft constituents moved. The loss is NT-Xent. The network is given pT / 600 GeV, eta, phi; attention
    and sum are weighted with pT, see `build_set_encoder`, so a constituent without pT changes nothing.

    ``layer`` is what is given on: the "sum", the "hidden" layer of the head, or the "head", which the loss sees; at unit length, as
    in the published linear test, because the loss sees directions only. ``head`` False: there is none, the loss sees the sum.
    Sizes are the published ones (100,000 jets) and want a
    GPU. Simplified: no dropout (published: 0.1); Adam with the last, smaller batch kept.
    """

    paper: ClassVar[str] = "2108.04253"
    _name: ClassVar[str] = "jetclr"

    width: int = 1000
    heads: int = 4
    layers: int = 4
    feedforward: int = 1000
    out: int = 1000
    head: bool = True
    layer: Layer = "sum"
    tau: float = 0.1
    epochs: int = 500
    batch: int = 128
    learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        if self.layer not in get_args(Layer) or not (self.head or self.layer == "sum") or not self.tau > 0:
            raise ConfigError(
                f"found layer {self.layer!r}, head {self.head}, tau {self.tau}; expected one of {', '.join(get_args(Layer))} (sum, "
                "without a head) and a temperature above 0"
            )
        if self.width % self.heads:
            raise ConfigError(f"width: {self.width} is no multiple of heads {self.heads}")

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_jetclr, jetclr_loss

    def _config(self) -> dict[str, Any]:
        names = ("width", "heads", "layers", "feedforward", "out", "seed", "head", "tau")
        return {**{name: getattr(self, name) for name in names}, "features": SEEN, "unit": UNIT}

    def _width(self) -> int:
        return self.width if self.layer == "sum" else self.out

    def _embed(self, network: Any, objects: Objects) -> Any:
        import torch

        return torch.nn.functional.normalize(layer_of(network, centred(objects), self.layer), dim=1)
