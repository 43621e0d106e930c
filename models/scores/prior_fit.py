"""What PAWS and generator-based inference share: the fit of a signal grid's theta, mu and mixture to data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar

from ...errors import ConfigError, FitError
from ..networks.dense import one_thread

#: Bounds of ln mu, and where it starts (2405.08889).
LOG_MU = (-10.0, 0.0)
_LOG_MU_START, _ALPHA_START = -4.0, float(np.exp(-1.0))
#: Length of each side of the theta box in the units the optimiser steps in: the masses 0.5 to 6 (100 GeV) of the paper.
_BOX = 5.5
#: First step of the search by all events, in the same units.
_STEP = 0.25
#: The loss is scaled so that its gradients are far above Adam's epsilon.
SCALE = 1000.0

#: (theta (p,), ln mu, alpha) as double tensors, and row numbers, to the mean loss of these rows.
Objective = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class PriorPlan:
    """How to search: random starts, epochs, patience, Adam's rate, clip of the gradient's norm, rows of a batch."""

    starts: int
    epochs: int
    patience: int
    rate: float
    clip: float
    batch: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("starts", "epochs", "patience", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class PriorPoint:
    """A signal hypothesis: ``theta`` (p,), signal fraction ``mu``, share ``alpha`` of the second topology, its loss."""

    theta: NDArray[np.float64]
    mu: float
    alpha: float
    loss: float


def llr(ratios: Sequence[Any], mu: Any, alpha: Any) -> Any:
    """1 + mu (Lambda - 1), Lambda = alpha Lambda_2 + (1 - alpha) Lambda_1 with two topologies (2405.08889)."""
    mixed = ratios[0] if len(ratios) == 1 else alpha * ratios[1] + (1.0 - alpha) * ratios[0]
    return 1.0 + mu * (mixed - 1.0)


def descend(
    objective: Objective,
    start: PriorPoint,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    train_rows: NDArray[np.int64],
    held_rows: NDArray[np.int64],
    plan: PriorPlan,
) -> PriorPoint:
    """Adam on (theta, ln mu, alpha) from ``start``; the point of lowest validation loss on the way."""
    import torch

    lowest, span = torch.from_numpy(low), torch.from_numpy((high - low) / _BOX)
    place = (torch.from_numpy(np.asarray(start.theta, np.float64)) - lowest) / span
    parameters = [place, torch.tensor(np.log(start.mu)), torch.tensor(start.alpha, dtype=torch.float64)]
    limits = [(0.0, _BOX), LOG_MU, (0.0, 1.0)]
    for p in parameters:
        p.requires_grad_()
    adam = torch.optim.Adam(parameters, lr=plan.rate)
    rng = np.random.default_rng(plan.seed % 2**64)
    held, best, since = torch.from_numpy(held_rows), None, 0
    with one_thread():
        for _ in range(plan.epochs):
            order = rng.permutation(len(train_rows))
            for first in range(0, len(order), plan.batch):
                adam.zero_grad()
                rows = torch.from_numpy(train_rows[order[first : first + plan.batch]])
                objective(lowest + span * parameters[0], parameters[1], parameters[2], rows).backward()
                torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], plan.clip)
                adam.step()
                with torch.no_grad():
                    for p, (a, b) in zip(parameters, limits, strict=True):
                        p.clamp_(a, b)
            with torch.no_grad():
                theta = lowest + span * parameters[0]
                loss = float(objective(theta, parameters[1], parameters[2], held))
            if not np.isfinite(loss):
                raise FitError(
                    "the loss of the signal fit is not finite; look at the inputs and the signal grid"
                )
            since += 1
            if best is None or loss < best.loss:
                best, since = (
                    PriorPoint(
                        theta.detach().numpy().copy(),
                        float(parameters[1].detach().exp()),
                        float(parameters[2].detach()),
                        loss,
                    ),
                    0,
                )
            if since >= plan.patience:
                break
    assert best is not None
    return best


def search(
    objective: Objective,
    points: NDArray[np.float64],
    first: PriorPoint,
    train_rows: NDArray[np.int64],
    held_rows: NDArray[np.int64],
    plan: PriorPlan,
) -> tuple[PriorPoint, list[PriorPoint]]:
    """The best of ``first`` (the landscape's lowest point) and ``plan.starts`` random starts, and where all ended.

    With two parameters of one kind the best point's mirror image is tried too (masses m_1 <-> m_2).
    """
    low, high = points.min(axis=0), points.max(axis=0)
    rng = np.random.default_rng([plan.seed % 2**64, 2])
    starts = [first] + [
        PriorPoint(rng.uniform(low, high), float(np.exp(_LOG_MU_START)), _ALPHA_START, np.inf)
        for _ in range(plan.starts)
    ]
    ends = [descend(objective, s, low, high, train_rows, held_rows, plan) for s in starts]
    best = min(ends, key=lambda e: e.loss)
    mirror = best.theta[::-1]
    if len(low) == 2 and (mirror >= low).all() and (mirror <= high).all():
        import torch

        alpha = torch.tensor(best.alpha, dtype=torch.float64)
        with torch.no_grad(), one_thread():
            loss = float(
                objective(
                    torch.from_numpy(mirror.copy()),
                    torch.tensor(np.log(best.mu)),
                    alpha,
                    torch.from_numpy(held_rows),
                )
            )
        if loss < best.loss:
            flipped = PriorPoint(mirror.copy(), best.mu, best.alpha, loss)
            best = min(
                flipped,
                descend(objective, flipped, low, high, train_rows, held_rows, plan),
                key=lambda e: e.loss,
            )
    return best, ends


def best_mixture(loss: Callable[[float, float], float], topologies: int) -> tuple[float, float, float]:
    """(loss, mu, alpha) at the lowest ``loss(mu, alpha)`` for one theta, mu and alpha within their bounds."""
    edge = float(np.exp(LOG_MU[0]))
    best = (loss(edge, _ALPHA_START), edge, _ALPHA_START)
    if topologies == 1:
        one: Any = minimize_scalar(
            lambda v: loss(float(np.exp(v)), _ALPHA_START), bounds=LOG_MU, method="bounded"
        )
        return min(best, (float(one.fun), float(np.exp(one.x)), _ALPHA_START))
    for start in (_LOG_MU_START, -7.0, -2.0):
        both = minimize(
            lambda v: loss(float(np.exp(v[0])), float(v[1])),
            [start, _ALPHA_START],
            method="L-BFGS-B",
            bounds=[LOG_MU, (0.0, 1.0)],
        )
        best = min(best, (float(both.fun), float(np.exp(both.x[0])), float(both.x[1])))
    return best


def polish(
    at: Callable[[NDArray[np.float64]], PriorPoint],
    candidates: Sequence[PriorPoint],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> PriorPoint:
    """The last steps: from the best candidate by ``at``, downhill in theta (Nelder and Mead, within the grid).

    ``at(theta)`` gives the point of lowest loss of all events for one theta, mu and alpha included.
    """
    unit = (high - low) / _BOX
    seen = [min((at(c.theta) for c in candidates), key=lambda p: p.loss)]

    def loss(place: NDArray[np.float64]) -> float:
        point = at(low + unit * place)
        seen[0] = min(seen[0], point, key=lambda p: p.loss)
        return point.loss

    start = (seen[0].theta - low) / unit
    step = np.where(start + _STEP <= _BOX, _STEP, -_STEP)
    simplex = np.vstack([start, start + np.diag(step)])
    options = {"initial_simplex": simplex, "xatol": 0.02, "fatol": 1e-4, "maxfev": 40 * len(low)}
    minimize(loss, start, method="Nelder-Mead", bounds=[(0.0, _BOX)] * len(low), options=options)
    return seen[0]


def mu_profile(losses: Iterable[Callable[[float], float]], mus: NDArray[np.float64]) -> NDArray[np.float64]:
    """2 (NLL(mu) - min NLL), the lowest over ``losses``, one NLL(mu) per theta, for each of ``mus``."""
    nll = np.array([[loss(float(mu)) for mu in mus] for loss in losses]).min(axis=0)
    return 2.0 * (nll - nll.min())
