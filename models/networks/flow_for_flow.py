"""A flow whose base density is another flow, by maximum likelihood (flows for flows, 2211.02487, 2305.04646)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ..training import TrainingRecord
from .descent import check_descent, descend
from .flow_modules import build_flow, load_parameters, normal_log_prob
from .flows import ConditionalFlow, FlowSettings
from .transport import TransportSettings, build_transport

_HELD_ROWS = 4096


@dataclass(frozen=True)
class TopSettings:
    """How the top flow is trained: Adam with a cosine schedule, the epoch of lowest loss on the part ``validation``."""

    epochs: int
    batch: int
    learning_rate: float
    validation: float
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_descent(
            epochs=self.epochs, batch=self.batch, learning_rate=self.learning_rate, clip_gradient=self.clip
        )
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation: found {self.validation}, expected a fraction between 0 and 1")


def base_settings(method: Any) -> FlowSettings:
    """The base flow's settings among the fields of a method that has one: kind, transforms, base_hidden, base_epochs .."""
    return FlowSettings(
        method.kind, method.transforms, method.base_hidden, epochs=method.base_epochs, batch=method.batch,
        learning_rate=method.learning_rate, validation=method.validation, best=1,
        schedule=method.base_schedule, preprocess=method.preprocess,
    )  # fmt: skip


def top_settings(method: Any) -> TopSettings:
    """The top flow's training settings among the fields of a method."""
    return TopSettings(method.epochs, method.batch, method.learning_rate, method.validation, seed=method.seed)


@dataclass(frozen=True)
class Rows:
    """What the top flow learns from, in the base's coordinates.

    v (n, d), own (n,) and goal(epoch) (n,): standardised masses events have and get; weight (n,) >= 0; hashes (n,).
    """

    v: NDArray[np.float64]
    own: NDArray[np.float64]
    goal: Callable[[int], NDArray[np.float64]]
    weight: NDArray[np.float64]
    hashes: NDArray[np.uint64]


def frozen_base(flow: ConditionalFlow) -> Any:
    """The module of a density's best epoch, whose parameters no longer change; gradients pass through it."""
    config = flow.settings.network(len(flow.domain_.low), len(flow.centre_), flow.seed)
    network = load_parameters(build_flow(config), flow.members_[0])
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def log_density(base: Any, v: Any, mass: Any) -> Any:
    """ln p(v | mass) of the base, shape (n,), for standardised masses (n,)."""
    z, change = base.latent(v, mass[:, None])
    return normal_log_prob(z) + change


def train_top(
    base: Any,
    settings: TransportSettings,
    how: TopSettings,
    rows: Rows,
    apply: Callable[[Any, TransportSettings, Any, Any, Any], Any],
) -> tuple[dict[str, NDArray[Any]], TrainingRecord]:
    """Maximise ln p_base(y | goal) + ln |det dy/dv| over y = top(v; own, goal); (weights by name, how it went).

    ``apply(network, settings, v, own, goal)`` gives (y, ln |det dy/dv|). Hashes of the identities choose the validation
    part, whose goals stay the same. Raises `InputError` where a part is empty, `FitError` when the loss diverges.
    """
    import torch

    held = rows.hashes / 2.0**64 < how.validation
    for part in (held, ~held):
        if rows.weight[part].sum() <= 0:
            raise InputError(f"{len(held)} events: a part is empty after the split for validation")
    learn, check = np.flatnonzero(~held), np.flatnonzero(held)
    network = build_transport(settings)
    v, own, weight = (
        torch.from_numpy(np.asarray(a, dtype=np.float32)) for a in (rows.v, rows.own, rows.weight)
    )

    def losses(at: NDArray[Any], goal: NDArray[np.float64]) -> Any:
        which = torch.from_numpy(at)
        end = torch.from_numpy(goal[at].astype(np.float32))
        y, change = apply(network, settings, v[which], own[which], end)
        return -(weight[which] * (log_density(base, y, end) + change)).sum()

    def batches(epoch: int) -> list[Any]:
        goal = rows.goal(epoch)
        order = np.random.default_rng([how.seed, epoch]).permutation(learn)
        return [(part, goal) for part in np.array_split(order, math.ceil(len(order) / how.batch))]

    def loss(batch: Any) -> Any:
        return losses(*batch) / weight[torch.from_numpy(batch[0])].sum().clamp_min(1e-30)

    fixed = rows.goal(-1)
    total = float(rows.weight[check].sum())

    def validate() -> float:
        parts = (check[i : i + _HELD_ROWS] for i in range(0, len(check), _HELD_ROWS))
        return sum(float(losses(part, fixed)) for part in parts) / total

    return descend(network, batches, loss, how.epochs, how.learning_rate, how.clip, validate)
