"""A signal grid's classifier before data: what PAWS and generator-based inference minimise, and what they keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...events import Events, identity_hash
from ..networks.dense import one_thread
from ..networks.ratio import PriorGrid, RatioNetwork, train_ratio
from .prior_fit import SCALE, Objective, PriorPlan, PriorPoint, best_mixture, llr, mu_profile, polish, search
from .weak_trees import check_training

#: Signal fractions at which the profile likelihood is kept, beside those near the fitted one.
PROFILE = np.concatenate([[0.0], np.geomspace(1e-5, 0.5, 60)])
#: (LLR, mu, is data) of events, double tensors, to one loss per event.
Each = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class PriorResult:
    """The fitted point, where all starts ended, the landscape (points, p + 3) and the profile (k, 2)."""

    best: PriorPoint
    kappa: tuple[float, ...]
    ends: tuple[PriorPoint, ...]
    landscape: NDArray[np.float64]
    profile: NDArray[np.float64]

    @property
    def summary(self) -> dict[str, Any]:
        """The fitted point, JSON-ready."""
        return {**as_dict(self.best), "kappa": list(self.kappa)}


@dataclass(frozen=True)
class PriorProblem:
    """Events x (n, d) with y (1 for data, 0 for background), weight and validation part, and the grids' classifiers.

    Lambda is kappa(theta) f / (1 - f), kappa = 1 / E_B[f / (1 - f)] over the background's events (in gradients: over
    the first ``calibration`` of them), so that E_B[Lambda] = 1 at every theta; ``normalise`` false: kappa = 1.
    ``scale`` multiplies the background's weights in the loss that is minimised, not in the likelihood.
    """

    networks: Sequence[RatioNetwork]
    x: NDArray[np.float32]
    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    held: NDArray[np.bool_]
    calibration: int
    normalise: bool
    scale: float = 1.0

    @cached_property
    def _background(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.y == 0)

    @cached_property
    def _scaled(self) -> NDArray[np.float64]:
        return np.where(self.y == 0, self.scale * self.weight, self.weight)

    def table(self, theta: NDArray[np.float64]) -> tuple[list[NDArray[np.float64]], list[float]]:
        """Lambda of all events and kappa, per topology."""
        ratios = [n.ratios(self.x, theta) for n in self.networks]
        weight = self.weight[self._background]
        kappas = [
            float(weight.sum() / (weight @ r[self._background])) if self.normalise else 1.0 for r in ratios
        ]
        return [k * r for k, r in zip(kappas, ratios, strict=True)], kappas

    def objective(self, each: Each) -> Objective:
        """1000 times the weighted mean loss of rows, as a torch function of theta, ln mu and alpha."""
        import torch

        few = self._background[: self.calibration]
        inputs = [(n.prepared(self.x), n.prepared(self.x[few])) for n in self.networks]
        label, weights = torch.from_numpy(self.y), torch.from_numpy(self._scaled)
        share = torch.from_numpy(self.weight[few] / self.weight[few].sum())

        def loss(theta: Any, log_mu: Any, alpha: Any, rows: Any) -> Any:
            ratios = []
            for network, (every, background) in zip(self.networks, inputs, strict=True):
                ratio = network.ratio(every[rows], theta)
                ratios.append(
                    ratio / (share * network.ratio(background, theta)).sum() if self.normalise else ratio
                )
            mu, w = log_mu.exp(), weights[rows]
            return SCALE * (w * each(llr(ratios, mu, alpha), mu, label[rows] == 1)).sum() / w.sum()

        return loss

    def solve(
        self, each: Each, likelihood: Each, points: NDArray[np.float64], plan: PriorPlan, data_only: bool
    ) -> PriorResult:
        """Landscape over the grid's ``points``, search from its lowest point and random starts, profile in mu.

        The searches stop on the validation part. That is a part of the events, and the mu it likes best is as uncertain
        as the part is small: which end is best, and the last steps from there, are decided by all events. The profile is
        of ``likelihood``, -ln L per event. ``data_only``: both losses are those of all data alone.
        """
        rows = np.flatnonzero(self.y == 1) if data_only else np.arange(len(self.y))
        train, held = (rows, rows) if data_only else (np.flatnonzero(~self.held), np.flatnonzero(self.held))

        def at(theta: NDArray[np.float64]) -> PriorPoint:
            ratios = [r[rows] for r in self.table(theta)[0]]
            loss, mu, alpha = best_mixture(self._loss(each, ratios, rows, self._scaled), len(ratios))
            return PriorPoint(theta, mu, alpha, loss)

        landscape = [at(point) for point in points]
        first = min(landscape, key=lambda p: p.loss)
        found, ends = search(self.objective(each), points, first, train, held, plan)
        best = polish(at, [first, found, *ends], points.min(axis=0), points.max(axis=0))
        mus = np.union1d(PROFILE, np.minimum(best.mu * np.linspace(0.5, 1.5, 41), 1.0))
        total = float(self.weight[rows].sum()) / SCALE

        def nll(point: PriorPoint) -> Callable[[float], float]:
            mixed = mixture([r[rows] for r in self.table(point.theta)[0]], point.alpha)
            loss = self._loss(likelihood, [mixed], rows, self.weight)
            return lambda mu: total * loss(mu, 0.0)

        q = mu_profile((nll(p) for p in (*landscape, best)), mus)
        rows_of = np.array([[*p.theta, p.loss, p.mu, p.alpha] for p in landscape])
        kappas = tuple(self.table(best.theta)[1])
        return PriorResult(best, kappas, tuple(ends), rows_of, np.column_stack([mus, q]))

    def _loss(
        self,
        each: Each,
        ratios: Sequence[NDArray[np.float64]],
        rows: NDArray[np.int64],
        weight: NDArray[np.float64],
    ) -> Callable[[float, float], float]:
        """1000 times the weighted mean loss of rows with these Lambdas, as a function of mu and alpha."""
        import torch

        tensors = [torch.from_numpy(r) for r in ratios]
        is_data, w = torch.from_numpy(self.y[rows] == 1), torch.from_numpy(weight[rows])
        total = float(w.sum())

        def loss(mu: float, alpha: float) -> float:
            with one_thread(), torch.no_grad():
                value = each(llr(tensors, mu, alpha), torch.tensor(mu, dtype=w.dtype), is_data)
                return SCALE * float(w @ value) / total

        return loss


def as_dict(point: PriorPoint) -> dict[str, Any]:
    """JSON-ready."""
    return {"theta": point.theta.tolist(), "mu": point.mu, "alpha": point.alpha, "loss": point.loss}


def mixture(ratios: Sequence[NDArray[np.float64]], alpha: float) -> NDArray[np.float64]:
    """Lambda of one topology, or alpha Lambda_2 + (1 - alpha) Lambda_1."""
    return ratios[0] if len(ratios) == 1 else alpha * ratios[1] + (1.0 - alpha) * ratios[0]


def fitted_llr(
    networks: Sequence[RatioNetwork], best: dict[str, Any], x: NDArray[Any]
) -> NDArray[np.float64]:
    """1 + mu (Lambda - 1) of events x (n, d) at a fitted point, shape (n,)."""
    theta = np.array(best["theta"])
    ratios = [k * n.ratios(x, theta) for k, n in zip(best["kappa"], networks, strict=True)]
    return 1.0 + best["mu"] * (mixture(ratios, best["alpha"]) - 1.0)


def interval_of(profile: NDArray[np.float64], level: float) -> tuple[float, float]:
    """The signal fractions between which 2 (NLL - min NLL) <= ``level``, by straight lines between the points kept."""
    mu, q = profile[:, 0], profile[:, 1]
    at = int(np.argmin(q))
    above = np.flatnonzero(q[at:] > level)
    below = np.flatnonzero(q[:at] > level)
    low, high = float(mu[0]), float(mu[-1])
    if len(below):
        i = below[-1]
        low = float(np.interp(-level, -q[i : i + 2], mu[i : i + 2]))
    if len(above):
        i = at + above[0] - 1
        high = float(np.interp(level, q[i : i + 2], mu[i : i + 2]))
    return low, high


def checked_grids(grids: Sequence[PriorGrid], who: str) -> Sequence[PriorGrid]:
    """One or two grids with the same number of parameters."""
    if not 1 <= len(grids) <= 2:
        raise InputError(
            f"{who} has {len(grids)} signal grids; hand in one, or two topologies, as grids=(PriorGrid(...),)"
        )
    if len({g.theta.shape[1] for g in grids}) > 1:
        raise InputError("two topologies must share their parameters: the grids differ in their number")
    return grids


def common_points(grids: Sequence[PriorGrid]) -> NDArray[np.float64]:
    """The points that all grids have, (points, p)."""
    points = grids[0].points
    for grid in grids[1:]:
        points = points[[bool((grid.points == p).all(axis=1).any()) for p in points]]
    if len(points) < 2:
        raise InputError("the signal grids have fewer than two points in common")
    return points


def pretrained(settings: Any, grid: PriorGrid, background: Events, k: int) -> RatioNetwork:
    """f(x; theta) of the ``k``-th grid with the settings of a `Paws` or `Gbi`."""
    check_training(grid.signal, "the signal grid")
    check_training(background, "the signal grid's background")
    grid.signal.features.require_same(background.features, "the signal grid", "its background")
    s = settings
    return train_ratio(
        grid,
        background,
        s.hidden,
        s.epochs,
        s.batch,
        s.learning_rate,
        s.patience,
        s.validation,
        s.seed + k,
        s.theta_draws,
    )


def sorted_samples(
    reference: Events, data: Events, seed: int, validation: float
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """x, label (data 1), weight and whether in the validation part, in the order of identity."""
    check_training(reference, "reference")
    check_training(data, "data")
    reference.features.require_same(data.features, "the reference", "the data")
    y = np.concatenate([np.zeros(len(reference)), np.ones(len(data))])
    hashes = identity_hash(np.concatenate([reference.identity, data.identity]), seed)
    order = np.lexsort((y, hashes))
    x = np.concatenate([reference.x, data.x])[order]
    weight = np.concatenate([reference.weight, data.weight]).astype(np.float64)[order]
    held = hashes[order] / 2.0**64 < validation
    for label, name in ((0, "reference"), (1, "data")):
        for part, where in ((held, "validation"), (~held, "training")):
            if not weight[part & (y[order] == label)].sum() > 0:
                raise InputError(
                    f"the {where} part of the {name} is empty; give more events or another validation"
                )
    return x, y[order], weight, held


def networks_state(networks: Sequence[RatioNetwork]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The networks for `state`."""
    states = [n.to_state() for n in networks]
    arrays = {f"network{k}.{n}": v for k, s in enumerate(states) for n, v in s[1].items()}
    return {"networks": [s[0] for s in states]}, arrays


def networks_from(info: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> list[RatioNetwork]:
    """Undo `networks_state`."""
    out = []
    for k, one in enumerate(info["networks"]):
        prefix = f"network{k}."
        mine = {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
        out.append(RatioNetwork.from_state(one, mine))
    return out
