"""The network of a residual density: a signal density and its fraction beside a background that is already known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .flow_modules import inverted, normal_log_prob, start_near_identity, zuko_flow

#: a = scale * the parameter: Adam moves every parameter by the learning rate, and a must cross several units.
ODDS_SCALE = 10.0


def build_residual(config: Mapping[str, Any]) -> Any:
    """A module with p_S(v | m), p_S(u) and the signal fraction w = sigmoid(a), v and u standardised coordinates.

    ``config``: that of `build_flow` (kind "maf" or "nsf"), ``fraction`` (w at first) and ``learn`` (False keeps it); ``mean`` (d) and
    ``factor`` (d, d), where they are given, are the Gaussian that p_S(v | m) starts as, instead of a standard normal one.
    ``given(v, m)`` is ln p_S(v | m), ``alone(u)`` ln p_S(u), each (n,), with v (n, d), u and m (n, 1); ``draw`` and
    ``draw_mass`` turn normal numbers into v and u; ``log_mixture`` gives the logarithms of (w, 1 - w).
    """
    import torch
    from torch.nn.functional import logsigmoid

    class Residual(torch.nn.Module):
        features: Any
        mass: Any
        mean: Any
        factor: Any
        whiten: Any

        def __init__(self) -> None:
            super().__init__()
            self.features = zuko_flow(config, int(config["features"]), 1)
            self.mass = zuko_flow(dict(config) | {"transforms": 1}, 1, 0)
            start_near_identity(self, int(config["seed"]))
            features = int(config["features"])
            factor = torch.tensor(config.get("factor", torch.eye(features).tolist()))
            whiten = torch.linalg.inv(factor.double()).float()
            self.register_buffer("mean", torch.tensor(config.get("mean", [0.0] * features)), persistent=False)
            self.register_buffer("factor", factor, persistent=False)
            self.register_buffer("whiten", whiten, persistent=False)
            fraction = float(config["fraction"])
            odds = torch.tensor([math.log(fraction / (1 - fraction)) / ODDS_SCALE])
            if config["learn"]:
                self.odds = torch.nn.Parameter(odds)
            else:
                self.register_buffer("odds", odds)

        def given(self, v: Any, m: Any) -> Any:
            z, change = self.features.transform(m).call_and_ladj((v - self.mean) @ self.whiten.T)
            return normal_log_prob(z) + change + self.whiten.diagonal().log().sum()

        def alone(self, u: Any) -> Any:
            t, change = self.mass.transform(None).call_and_ladj(u)
            return normal_log_prob(t) + change

        def draw(self, z: Any, m: Any) -> Any:
            return self.mean + inverted(self.features, z, m) @ self.factor.T

        def draw_mass(self, t: Any, _: Any) -> Any:
            return inverted(self.mass, t, None)

        def log_mixture(self) -> tuple[Any, Any]:
            return logsigmoid(ODDS_SCALE * self.odds), logsigmoid(-ODDS_SCALE * self.odds)

    return Residual()


def residual_loss(network: Any, x: Any, y: Any) -> Any:
    """-ln (w p_S + (1 - w) p_B), (n,): x (n, d + 1) holds v and u, y (n, 2) the mass and ln p_B(v, u)."""
    import torch

    signal = network.given(x[:, :-1], y[:, :1]) + network.alone(x[:, -1:])
    log_w, log_rest = network.log_mixture()
    return -torch.logaddexp(log_w + signal, log_rest + y[:, 1])
