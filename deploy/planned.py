"""A planned network as a `Project`, straight from its plan: what the hls4ml project of the same plan evaluates to, without writing it.

For studies that need the logic of many networks and no C++ of any. What is exported is always read back from its C++ (`read_project`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..fixed import Fixed, Ints
from .precision import LayerPlan, NetworkPlan
from .project import Operation, Project


def planned_project(plan: NetworkPlan, n_in: int) -> Project:
    """The operations of ``plan`` for ``n_in`` inputs, with the names and types it gives them."""
    nodes = {node.name: node for node in plan.module.graph.nodes}
    first, last = next(p for p in plan.layers if p.kind == "input"), plan.layers[-1]
    operations = tuple(_operation(plan, nodes[p.name], p) for p in plan.layers if p.kind != "input")
    return Project(first.name, first.types["result"], n_in, last.name, last.types["result"], operations)


def _operation(plan: NetworkPlan, node: Any, layer: LayerPlan) -> Operation:
    sources, types = tuple(n.name for n in node.args if hasattr(n, "name")), layer.types
    if layer.kind != "dense":
        return Operation(layer.name, layer.kind, sources, layer.name, types["result"], types.get("accum"))
    linear = plan.module.get_submodule(node.target)
    weight, bias = (_integers(p, types[k]) for k, p in (("weight", linear.weight), ("bias", linear.bias)))
    return Operation(
        layer.name, "dense", sources, layer.name, types["result"], types["accum"], weight.T, types["weight"], bias, types["bias"]
    )  # fmt: skip


def _integers(parameter: Any, kind: Fixed) -> Ints:
    return kind.from_float(parameter.detach().numpy().astype(np.float64))
