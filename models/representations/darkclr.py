"""A contrastive representation of jets that is pushed away from jets which lost a part of their constituents (2312.03067)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ConfigError
from ..augmentations.jets import dark_views
from ..augmentations.objects import Objects
from ..networks.constituent_table import SEEN, seen
from ..networks.contrastive import darkclr
from ..networks.transformer import build_set_encoder
from .object_encoder import ConstituentEncoder

#: What 1 stands for in the pT that the network is given, GeV.
UNIT = 300.0


def build_darkclr(config: Mapping[str, Any]) -> Any:
    """The set encoder with its loss' settings and the unit of pT as attributes."""
    network = build_set_encoder(config)
    network.tau, network.size, network.drop = (float(config[name]) for name in ("tau", "size", "drop"))
    network.unit = float(config["unit"])
    return network


def darkclr_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """The loss of a batch x (n, 3 N) on three views drawn by ``generator``, given to each of its jets, (n,)."""
    views = dark_views(Objects.of(x.reshape(len(x), -1, 3)), generator, network.drop)
    z = [network(*seen(view, network.unit)) for view in views]
    return darkclr(*z, tau=network.tau, size=network.size).expand(len(x))


@dataclass
class DarkClr(ConstituentEncoder):
    """DarkCLR (2312.03067): a transformer's sum over constituents of a jet, h, that tells it from a jet with invisible parts.

    For the feature set "constituents", see `ConstituentEncoder`. A jet and its physical view differ by a rotation and
    translations; the anomalous view has lost each constituent with probability ``drop`` and is scaled to the pT it had. The loss
    is AnomCLR+ on the head's output z and ``size`` times the mean length of z. The network is given pT / 300 GeV, eta, phi, with
    a mask.

    Nothing in the loss holds jets apart: look at ``latent_``. Sizes are the published ones (100,000 jets, 150 epochs).
    Simplified: no dropout (published: 0.1), Adam's eps is 1e-8 (published: 1e-4), and the last, smaller batch is kept.
    """

    paper: ClassVar[str] = "2312.03067"
    _name: ClassVar[str] = "darkclr"

    width: int = 128
    heads: int = 4
    layers: int = 4
    feedforward: int = 512
    out: int = 512
    tau: float = 0.1
    size: float = 1e-3
    drop: float = 0.5
    epochs: int = 150
    batch: int = 256
    learning_rate: float = 5e-5

    def __post_init__(self) -> None:
        if not self.tau > 0 or not self.size >= 0 or not 0 < self.drop < 1:
            raise ConfigError(
                f"found tau {self.tau}, size {self.size}, drop {self.drop}; expected a temperature above 0, a size of 0 or above and "
                "a probability between 0 and 1"
            )
        if self.width % self.heads:
            raise ConfigError(f"width: {self.width} is no multiple of heads {self.heads}")

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_darkclr, darkclr_loss

    def _config(self) -> dict[str, Any]:
        names = ("width", "heads", "layers", "feedforward", "out", "seed", "tau", "size", "drop")
        return {**{name: getattr(self, name) for name in names}, "features": SEEN, "unit": UNIT}

    def _width(self) -> int:
        return self.width
