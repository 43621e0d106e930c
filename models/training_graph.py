"""A training step as one CUDA graph: a flow of small layers is a thousand kernels, which a processor cannot start fast enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WARM_UP = 3


def set_rate(adam: Any, rate: float) -> None:
    """Give ``adam`` another learning rate; on a GPU it is a tensor, which a recorded step reads again."""
    for group in adam.param_groups:
        if hasattr(group["lr"], "fill_"):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


class GraphedSteps:
    """The steps of one training with a fixed batch; rows that fill up a last batch have weight zero.

    ``data``: "x", "weight" and perhaps "y" on the GPU, all weights above zero; ``adam``: capturable. The same arithmetic as the
    loop's own step but for the order of sums.
    """

    def __init__(
        self,
        network: Any,
        adam: Any,
        loss: Callable[[Any, Any, Any], Any],
        data: dict[str, Any],
        batch: int,
    ) -> None:
        import torch

        self.network, self.adam, self.loss, self.data, self.batch = network, adam, loss, data, batch
        device = data["x"].device
        self.rows = torch.zeros(batch, dtype=torch.int64, device=device)
        self.there = torch.ones(batch, device=device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.graph: Any = None

    def _step(self) -> None:
        y = self.data["y"][self.rows] if "y" in self.data else None
        weight = self.data["weight"][self.rows] * self.there
        loss = (self.loss(self.network, self.data["x"][self.rows], y) * weight).sum()
        self.total += loss.detach()
        (loss / weight.sum()).backward()
        self.adam.step()

    def _capture(self) -> None:
        """Record a step; what the steps before the recording did to weights and moments is undone."""
        import torch

        parameters = list(self.network.parameters())
        before = [p.detach().clone() for p in parameters]
        moments = [{k: v.clone() for k, v in self.adam.state[p].items()} for p in parameters]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.adam.zero_grad(set_to_none=True)
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.adam.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()
        with torch.no_grad():
            for parameter, value, kept in zip(parameters, before, moments, strict=True):
                parameter.copy_(value)
                for name, moment in self.adam.state[parameter].items():
                    moment.copy_(kept[name]) if name in kept else moment.zero_()

    def epoch(self, order: NDArray[np.int64], rates: Sequence[float]) -> float:
        """One pass over the rows in this order, with the learning rate of each step; the weighted sum of their losses."""
        import torch

        steps = -(-len(order) // self.batch)
        padded = np.zeros(steps * self.batch, np.int64)
        padded[: len(order)] = order
        rows = torch.from_numpy(padded).to(self.rows.device).view(steps, self.batch)
        there = (torch.arange(steps * self.batch, device=rows.device) < len(order)).float().view(steps, -1)
        if self.graph is None:
            self.rows.copy_(rows[0])
            self._capture()
        graph: Any = self.graph
        self.total.zero_()
        for k in range(steps):
            self.rows.copy_(rows[k])
            self.there.copy_(there[k])
            set_rate(self.adam, rates[k])
            graph.replay()
        return float(self.total)
