"""A representation by VICReg (2105.04906): two views of an event alike, every dimension wide, no two the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ConfigError
from ..augmentations.events import physical
from ..augmentations.objects import Objects
from ..networks.dense import build_dense, initialise
from ..networks.object_table import seen
from ..networks.vicreg import projector, vicreg
from .object_encoder import ObjectEncoder

#: Numbers per object that the backbone is given: ln(1 + pT / GeV), eta, cos phi, sin phi. Its kind is the place it has.
_PER_OBJECT = 4


def build_vicreg(config: Mapping[str, Any]) -> Any:
    """A dense backbone of objects in their slots, and the projector; first weights from ``seed``.

    ``config``: ``backbone`` (widths to the representation), ``projector`` (width), ``kinds`` of the objects, ``coefficients``,
    ``seed``. ``represent(table (B, N, features), there)`` gives the backbone's output (B, width), calling the module that of the
    projector.
    """
    import torch

    class Projected(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = [_PER_OBJECT * len(config["kinds"]), *config["backbone"]]
            self.backbone = build_dense({"sizes": sizes, "seed": int(config["seed"])})
            self.projector = projector(sizes[-1], int(config["projector"]))
            self.coefficients = tuple(config["coefficients"])
            self.register_buffer("kinds", torch.tensor(list(config["kinds"])), persistent=False)

        def represent(self, table: Any, there: Any) -> Any:  # noqa: ARG002
            return self.backbone(table[:, :, :_PER_OBJECT].flatten(1))

        def forward(self, table: Any, there: Any) -> Any:
            return self.projector(self.represent(table, there))

    network = Projected()
    initialise(network.projector, int(config["seed"]) + 1)
    with torch.no_grad():
        for part in network.projector:
            if isinstance(part, torch.nn.BatchNorm1d):
                part.weight.fill_(1.0)
    return network


def vicreg_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """The loss of a batch x (n, 3 N) on two physical views drawn by ``generator``, given to each of its events, (n,)."""
    kinds = network.kinds
    events = Objects.of(x.reshape(len(x), -1, 3))
    views = [physical(events, kinds, generator) for _ in range(2)]
    if len(x) < 2:  # the last batch of an epoch: one event has no variance
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    z = [network(*seen(v, kinds)) for v in views]
    return vicreg(*z, coefficients=network.coefficients, unbiased=True).expand(len(x))


@dataclass
class VicReg(ObjectEncoder):
    """VICReg (2105.04906) of events made of objects: the output of a dense ``backbone``; the projector is thrown away.

    For feature sets made of objects, see `ObjectEncoder`. The network sees ln(1 + pT), eta, cos phi, sin phi of the slots in
    their order. Both views are those that `AnomClr` calls physical: what they change is forgotten, the angle of the event among
    it. ``coefficients`` of invariance, variance and covariance are the paper's; variances are with 1 / (n - 1). The optimiser is
    Adam at a constant rate with the last, smaller batch kept (paper: LARS with warm-up and cosine decay).
    """

    paper: ClassVar[str] = "2105.04906"
    _name: ClassVar[str] = "vicreg"

    backbone: tuple[int, ...] = (128, 64)
    projector: int = 256
    coefficients: tuple[float, float, float] = (25.0, 25.0, 1.0)
    epochs: int = 100
    batch: int = 1024
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        if not self.backbone or min(*self.backbone, self.projector) < 1:
            raise ConfigError(
                f"found backbone {list(self.backbone)}, projector {self.projector}; expected widths of at least 1"
            )
        if not min(self.coefficients) >= 0 or not sum(self.coefficients) > 0:
            raise ConfigError(
                f"coefficients: found {list(self.coefficients)}, expected none below 0 and one above"
            )

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_vicreg, vicreg_loss

    def _config(self) -> dict[str, Any]:
        return {
            "backbone": list(self.backbone), "projector": self.projector, "coefficients": list(self.coefficients),
            "seed": self.seed, "kinds": self._kinds(),
        }  # fmt: skip

    def _width(self) -> int:
        return self.backbone[-1]
