"""From a trained network to a fixed-point plan: which layers it has, and the type of every number in them.

Every type is set layer by layer. A model-wide default is not used: hls4ml ignores it when precisions are given by name.
Accumulators are sized from the weights, so that no input whatsoever can overflow them.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..fixed import Fixed

_SHAPE_ONLY = {"unsqueeze", "view", "reshape", "flatten", "getitem", "squeeze"}
_NO_OPERATION = {"Identity", "Dropout"}


@dataclass(frozen=True)
class FirmwareSettings:
    """Types of the firmware's numbers, and the chip it is made for.

    ``input``: scaled inputs; ``weight``, ``bias``: the parameters (widened by whole bits in a layer whose values do not
    fit); ``activation``: after a ReLU; ``linear``: layers without one; ``difference``: outputs of subtractions;
    ``score``: the result; ``accumulator``: None sizes each so that it can never overflow. ``clock_ns``: clock
    period [ns]; ``part``: Xilinx part number. The rounding and clipping modes are those of 2411.19506.
    """

    input: str = "fixed<16,8,RND_CONV,SAT>"
    weight: str = "fixed<12,3>"
    bias: str = "fixed<16,6>"
    activation: str = "ufixed<16,8,RND_CONV,SAT>"
    linear: str = "fixed<18,10,RND_CONV,SAT>"
    difference: str = "fixed<18,10,RND_CONV,SAT>"
    score: str = "ufixed<32,24,RND_CONV,SAT>"
    accumulator: str | None = None
    clock_ns: float = 5.0
    part: str = "xcvu9p-flga2104-2L-e"

    def __post_init__(self) -> None:
        for name in ("input", "weight", "bias", "activation", "linear", "difference", "score"):
            self.type(name)
        if self.accumulator is not None:
            Fixed.parse(self.accumulator)
        if self.clock_ns <= 0:
            raise ConfigError(f"clock_ns {self.clock_ns}: a clock period is positive")

    def type(self, name: str) -> Fixed:
        """The parsed type of one of the fields; raises `ConfigError` naming the field."""
        try:
            return Fixed.parse(getattr(self, name))
        except ConfigError as error:
            raise ConfigError(f"firmware.{name}: {error}") from None


@dataclass(frozen=True)
class LayerPlan:
    """One layer: its name in the graph, its kind, and its types by hls4ml's names (result, weight, bias, accum)."""

    name: str
    kind: str
    types: dict[str, Fixed]

    def precision(self) -> dict[str, str]:
        """hls4ml's ``Precision`` table of this layer."""
        return {key: str(kind) for key, kind in self.types.items()}


@dataclass
class NetworkPlan:
    """A network rewritten for export: parameters already rounded, and one plan per layer in order."""

    module: Any = field(repr=False)
    layers: list[LayerPlan] = field(default_factory=list)

    def of(self, name: str) -> LayerPlan:
        """The plan of one layer; raises `InputError` for a layer the network does not have."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise InputError(f"hls4ml made a layer '{name}' that the network does not have")


def plan_network(network: Any, settings: FirmwareSettings) -> NetworkPlan:
    """Trace a torch network, check that firmware can compute it, round its parameters, give every number a type.

    Raises `ConfigError` naming the first operation that cannot be exported.
    """
    import torch

    module = torch.fx.symbolic_trace(copy.deepcopy(network).eval().float().cpu())
    _tidy(module)
    plan = NetworkPlan(module)
    results: dict[str, Fixed] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        layer = _plan_node(module, node, results, settings)
        results[node.name] = layer.types["result"]
        plan.layers.append(layer)
    kinds = [layer.kind for layer in plan.layers]
    last = next(n for n in module.graph.nodes if n.op == "output").args[0]
    one = kinds[-1] == "einsum" or (kinds[-1] in ("dense", "relu") and _width(module, last) == 1)
    if kinds.count("input") != 1 or not one:
        raise ConfigError(
            f"the network ends in '{kinds[-1]}' and has {kinds.count('input')} inputs; firmware needs one input and a "
            "score that is einsum('bi,bi->b', d, d), or a Linear of one output with or without a ReLU"
        )
    return plan


def _tidy(module: Any) -> None:
    """Take out what computes nothing: identities, dropout, and reshapes of the finished score."""
    graph = module.graph
    output = next(n for n in graph.nodes if n.op == "output")
    for node in reversed(list(graph.nodes)):
        node.type = None  # annotations of forward(): hls4ml cannot write some of them
        empty = node.op == "call_module" and type(module.get_submodule(node.target)).__name__ in _NO_OPERATION
        last = list(node.users) == [output] and _base_name(node) in _SHAPE_ONLY
        if empty or last:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.lint()
    module.recompile()


def _base_name(node: Any) -> str:
    return getattr(node.target, "__name__", str(node.target)) if node.op != "call_module" else ""


def _kind(module: Any, node: Any) -> str:
    """What a node of the graph computes; raises `ConfigError` for what firmware cannot."""
    import torch

    if node.op == "placeholder":
        return "input"
    if node.op == "call_module":
        child = module.get_submodule(node.target)
        found = type(child).__name__
        if isinstance(child, torch.nn.Linear):
            return "dense"
        if isinstance(child, torch.nn.ReLU):
            return "relu"
    else:
        found = _base_name(node)
        if found == "relu":
            return "relu"
        subtracts = node.target in (operator.sub, torch.sub) or (node.op == "call_method" and found == "sub")
        if subtracts and all(isinstance(a, torch.fx.Node) for a in node.args):
            return "subtract"
        if node.target is torch.einsum and node.args[0].replace(" ", "") == "bi,bi->b":
            return "einsum"
    raise ConfigError(
        f"layer '{node.name}' ({found}) has no firmware; use Linear, ReLU, subtraction and einsum('bi,bi->b', d, d)"
    )


def _plan_node(module: Any, node: Any, results: dict[str, Fixed], settings: FirmwareSettings) -> LayerPlan:
    kind, last = _kind(module, node), any(user.op == "output" for user in node.users)
    if kind == "input":
        return LayerPlan(node.name, kind, {"result": settings.type("input")})
    if kind == "relu":
        return LayerPlan(node.name, kind, {"result": settings.type("score" if last else "activation")})
    if kind == "subtract":
        return LayerPlan(node.name, kind, {"result": settings.type("difference")})
    if kind == "einsum":
        first, second = (results[str(a)] for a in node.args[1:])
        accum = _einsum_accumulator(first, second, _width(module, node.args[1]), node.args[1] is node.args[2])
        return LayerPlan(
            node.name, kind, {"accum": _chosen(accum, settings), "result": settings.type("score")}
        )
    linear = module.get_submodule(node.target)
    types = _round_parameters(linear, node.name, settings)
    accum = _dense_accumulator(linear, results[str(node.args[0])], types)
    types["accum"] = _chosen(accum, settings)
    rectified = not last and all(_kind(module, user) == "relu" for user in node.users)
    types["result"] = types["accum"] if rectified else settings.type("score" if last else "linear")
    return LayerPlan(node.name, kind, types)


def _chosen(safe: Fixed, settings: FirmwareSettings) -> Fixed:
    return safe if settings.accumulator is None else settings.type("accumulator")


def _width(module: Any, node: Any) -> int:
    """The number of values a node gives per event: that of the nearest linear layer above it."""
    while node.op != "call_module" or not hasattr(module.get_submodule(node.target), "out_features"):
        if node.op == "placeholder":
            raise ConfigError("the score does not depend on any Linear layer, there is nothing to export")
        node = (
            node.all_input_nodes[0]
            if node.all_input_nodes[0].op != "placeholder"
            else node.all_input_nodes[-1]
        )
    return module.get_submodule(node.target).out_features


def _round_parameters(linear: Any, name: str, settings: FirmwareSettings) -> dict[str, Fixed]:
    """Round a layer's parameters to their types in place; the types, widened to hold the largest value."""
    import torch

    types = {}
    for key in ("weight", "bias"):
        if getattr(linear, key) is None:  # hls4ml would write a bias of another kind of type
            linear.bias = torch.nn.Parameter(torch.zeros(linear.out_features))
        parameter = getattr(linear, key)
        values = parameter.detach().numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"layer '{name}': {key} is not finite; train the network again")
        kind = _widened(settings.type(key), values)
        rounded = replace(kind, quantisation="RND_CONV", overflow="SAT").from_float(values)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(kind.to_float(rounded)))
        types[key] = kind
    return types


def _widened(kind: Fixed, values: NDArray[np.float64]) -> Fixed:
    """``kind`` with as many more integer bits as the values need."""
    while np.rint(np.ldexp(values.max(), kind.fraction)) > kind.high or (
        np.rint(np.ldexp(values.min(), kind.fraction)) < kind.low
    ):
        kind = replace(kind, width=kind.width + 1, integer=kind.integer + 1)
    return kind


def _dense_accumulator(linear: Any, source: Fixed, types: dict[str, Fixed]) -> Fixed:
    """The smallest exact type: every partial sum of every possible input fits."""
    weight = types["weight"].from_float(linear.weight.detach().numpy().astype(np.float64))
    products = source.fraction + types["weight"].fraction
    fraction = max(products, types["bias"].fraction)
    bound = np.abs(weight).sum(axis=1) * max(-source.low, source.high) * 2 ** (fraction - products)
    if linear.bias is not None:
        bias = types["bias"].from_float(linear.bias.detach().numpy().astype(np.float64))
        bound = bound + np.abs(bias) * 2 ** (fraction - types["bias"].fraction)
    # One product alone may be larger than no sum, but never than the bound; one bit for the sign.
    width = int(bound.max()).bit_length() + 1
    return Fixed(width, width - fraction)


def _einsum_accumulator(first: Fixed, second: Fixed, n: int, square: bool) -> Fixed:
    fraction = first.fraction + second.fraction
    bound = n * max(-first.low, first.high) * max(-second.low, second.high)
    width = bound.bit_length() + (not square)
    return Fixed(width, width - fraction, signed=not square)
