"""The torch modules behind a density: masked autoregressive and spline flows of zuko, seeded and with one face.

Every module has ``loss(v, c)`` (n,), ``latent(v, c)`` -> z (n, d) and ln |dz/dv| (n,), and ``data(z, c)`` -> v (n, d),
where v are standardised coordinates and c (n, k) standardised conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from .dense import initialise
from .flow_matching import build_velocity
from .spline import spline


def zuko_flow(config: Mapping[str, Any], features: int, context: int) -> Any:
    """zuko's flow of ``config``: kind "maf" (1705.07057) or "nsf" (1906.04032), order reversed after each transform."""
    import torch

    try:
        import zuko
    except ImportError as error:
        raise ConfigError("normalising flows need zuko; install it with: pip install zuko") from error
    settings: dict[str, Any] = {"hidden_features": tuple(config["hidden"])}
    if config["kind"] == "nsf":
        bins = int(config["bins"])
        settings["univariate"] = partial(spline, bound=float(config["bound"]))
        settings["shapes"] = [(3 * bins - 1,)]
    with torch.random.fork_rng(devices=[]):  # zuko draws first weights from the global state; ours come after
        return zuko.flows.MAF(features, context, transforms=int(config["transforms"]), **settings)


def inverted(flow: Any, z: Any, c: Any) -> Any:
    """v (n, d) of latent z (n, d) under conditions c (n, k), or None: the inverse of ``flow.transform(c)``.

    One feature after the other, in the order they depend on each other, and of the last layer only what belongs to it: zuko solves for
    all features in every pass.
    """
    import torch
    from torch.nn.functional import linear
    from zuko.utils import unpack

    for transform in reversed(flow.transform.transforms):
        if not hasattr(transform, "order"):  # of one feature
            z = transform(c).inv(z)
            continue
        *hidden, last = transform.hyper
        v, weight = torch.zeros_like(z), last.mask * last.weight
        for i in torch.argsort(transform.order).tolist():
            h = v if c is None else torch.cat([v, c], dim=-1)
            for layer in hidden:
                h = layer(h)
            mine = slice(i * transform.total, (i + 1) * transform.total)
            shape = unpack(linear(h, weight[mine], last.bias[mine]), transform.shapes)
            v = v.index_copy(
                -1, torch.tensor([i], device=v.device), transform.univariate(*shape).inv(z[..., i])[..., None]
            )
        z = v
    return z


def start_near_identity(network: Any, seed: int) -> Any:
    """``network`` with first weights from ``seed`` alone; that of every last layer made 100 times smaller.

    So a flow of any depth starts as (almost) the identity, whose loss is that of a standard normal.
    """
    import torch

    initialise(network, seed)
    with torch.no_grad():
        for module in network.modules():
            last: Any = module[-1] if isinstance(module, torch.nn.Sequential) else None
            if hasattr(last, "weight"):
                last.weight.mul_(0.01)
    return network


def normal_log_prob(z: Any) -> Any:
    """ln N(z; 0, 1) of z (n, d), shape (n,)."""
    return -0.5 * z.square().sum(dim=-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]


def _autoregressive(config: Mapping[str, Any]) -> Any:
    import torch

    class Autoregressive(torch.nn.Module):
        flow: Any

        def __init__(self) -> None:
            super().__init__()
            self.flow = zuko_flow(config, int(config["features"]), int(config["context"]))

        def latent(self, v: Any, c: Any) -> Any:
            return self.flow.transform(c).call_and_ladj(v)

        def data(self, z: Any, c: Any) -> Any:
            return inverted(self.flow, z, c)

        def loss(self, v: Any, c: Any) -> Any:
            z, change = self.latent(v, c)
            return -(normal_log_prob(z) + change)

    return Autoregressive()


def build_flow(config: Mapping[str, Any]) -> Any:
    """The module of ``config``: FlowSettings as a dictionary, ``features``, ``context`` and ``seed``."""
    network = build_velocity(config) if config["kind"] == "cfm" else _autoregressive(config)
    return start_near_identity(network, int(config["seed"]))


def flow_loss(network: Any, x: Any, y: Any) -> Any:
    """What is minimised, (n,): -ln p(v | c) of a flow, the squared error of the velocity of flow matching."""
    return network.loss(x, y)


def load_parameters(network: Any, state: Mapping[str, NDArray[Any]]) -> Any:
    """``network`` in eval mode with the parameters ``state`` gives; raises `InputError` where they are another one's.

    Masks and orders are no parameters: they follow from the configuration.
    """
    import torch

    own = dict(network.named_parameters())
    same = own.keys() == state.keys() and all(tuple(own[k].shape) == state[k].shape for k in own)
    if not same:
        raise InputError("the stored weights are not those of the flow its settings describe; train again")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(torch.from_numpy(np.array(state[name])))
    return network.eval()
