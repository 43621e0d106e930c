"""A dense classifier of several classes whose last hidden layer can be looked at, and its loss with outlier exposure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dense import build_dense, initialise

#: Label of an event that is of no class.
OUTSIDE = -1


def build_classifier(config: Mapping[str, Any]) -> Any:
    """A module from x (n, d) to logits (n, classes), with first weights from ``seed``.

    ``config``: ``sizes`` (widths from the input to the last hidden layer h), ``classes``, ``logits``, ``seed``. "linear" logits are
    a Linear layer of relu(h), "distance" logits are -|h - c_k|^2 with learnt centres c_k (classes, width). ``both`` gives the
    logits and, behind them, the h that they are made of: (n, classes + width).
    """
    import torch

    sizes, classes, linear = list(config["sizes"]), int(config["classes"]), config["logits"] == "linear"

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = list(build_dense({"sizes": sizes, "seed": 0}))
            self.body = torch.nn.Sequential(*layers, *([torch.nn.ReLU()] if linear else []))
            if linear:
                self.head: Any = torch.nn.utils.skip_init(torch.nn.Linear, sizes[-1], classes)
            else:
                self.centres = torch.nn.Parameter(torch.empty(classes, sizes[-1]))

        def _logits(self, h: Any) -> Any:
            if linear:
                return self.head(h)
            return -(h[:, None, :] - self.centres).square().sum(dim=2)

        def forward(self, x: Any) -> Any:
            return self._logits(self.body(x))

        def both(self, x: Any) -> Any:
            h = self.body(x)
            return torch.cat([self._logits(h), h], dim=1)

    network = Classifier()
    initialise(network, int(config["seed"]))
    return network


def exposed_cross_entropy(network: Any, x: Any, y: Any) -> Any:
    """-ln p_y of events of class y, and for `OUTSIDE` the cross entropy of uniform and p, - mean_k ln p_k; shape (n,)."""
    from torch.nn.functional import log_softmax

    logs = log_softmax(network(x), dim=1)
    label = y.long()
    known = -logs.gather(1, label.clamp(min=0)[:, None])[:, 0]
    return known.where(label >= 0, -logs.mean(dim=1))
