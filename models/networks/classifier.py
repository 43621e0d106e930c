"""A classifier of several classes whose last hidden layer can be looked at, and its loss with outlier exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dense import build_dense, initialise
from .particle_net import build_particle_net, initialise_norms

#: Label of an event that is of no class.
OUTSIDE = -1


def build_classifier(config: Mapping[str, Any]) -> Any:
    """A module from x (n, d) to logits (n, classes), with first weights from ``seed``.

    ``config``: ``sizes`` (widths from the input to the last hidden layer h), ``classes``, ``logits``, ``seed``. "linear" logits are
    a Linear layer of relu(h), "distance" logits are -|h - c_k|^2 with learnt centres c_k (classes, width). ``both`` gives the
    logits and, behind them, the h that they are made of: (n, classes + width).

    With ``particle_net``, ``frozen`` and ``rows`` in ``config`` h is that of `build_particle_net`, x being constituents. One that is
    not frozen takes events that are not trained on in equal parts of at most ``rows``, each of which is normalised by itself.
    """
    import torch

    jets = config.get("particle_net") is not None
    sizes, classes, linear = list(config["sizes"]), int(config["classes"]), config["logits"] == "linear"
    dropout = float(config["particle_net"]["dropout"]) if jets else 0.0
    rows = int(config["rows"]) if jets and not config["frozen"] else 0

    def body() -> Any:
        layers = list(build_dense({"sizes": sizes, "seed": 0}))
        return torch.nn.Sequential(*layers, *([torch.nn.ReLU()] if linear else []))

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = build_particle_net(config, activated=linear) if jets else body()
            if linear:
                self.head: Any = torch.nn.utils.skip_init(torch.nn.Linear, sizes[-1], classes)
            else:
                self.centres = torch.nn.Parameter(torch.empty(classes, sizes[-1]))

        def _logits(self, h: Any) -> Any:
            if linear:
                return self.head(h)
            return -(h[:, None, :] - self.centres).square().sum(dim=2)

        def _hidden(self, x: Any) -> Any:
            if not rows or self.training or len(x) <= rows:
                return self.body(x)
            return torch.cat([self.body(part) for part in torch.tensor_split(x, -(-len(x) // rows))])

        def forward(self, x: Any, generator: Any = None) -> Any:
            h = self._hidden(x)
            if generator is not None and self.training and dropout > 0:
                kept = torch.rand(h.shape, generator=generator, device=h.device) >= dropout
                h = h * kept / (1.0 - dropout)
            return self._logits(h)

        def both(self, x: Any) -> Any:
            h = self._hidden(x)
            return torch.cat([self._logits(h), h], dim=1)

    network = Classifier()
    (initialise_norms if jets else initialise)(network, int(config["seed"]))
    return network


def exposed_cross_entropy(network: Any, x: Any, y: Any, generator: Any = None) -> Any:
    """-ln p_y of events of class y, and for `OUTSIDE` the cross entropy of uniform and p, - mean_k ln p_k; shape (n,).

    ``generator``: of the units that a network with dropout leaves out.
    """
    from torch.nn.functional import log_softmax

    logs = log_softmax(network(x) if generator is None else network(x, generator), dim=1)
    label = y.long()
    known = -logs.gather(1, label.clamp(min=0)[:, None])[:, 0]
    return known.where(label >= 0, -logs.mean(dim=1))
