"""A simulated signal grid as prior: PAWS (2405.08889) and generator-based inference (2506.00119)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash
from ..nesting import Stateful
from ..networks.ratio import RatioNetwork
from .prior_fit import PriorPlan
from .prior_problem import (
    PriorProblem,
    PriorResult,
    as_dict,
    checked_grids,
    common_points,
    fitted_llr,
    interval_of,
    networks_from,
    networks_state,
    pretrained,
    sorted_samples,
)
from .weak_trees import check_probability, check_scored


def weak_output(ratio: Any, r: Any) -> Any:
    """The optimal output of data against reference: LLR / (LLR + r), r = weight of the reference / of the data."""
    return ratio / (ratio + r)


def cross_entropy(ratio: Any, mu: Any, is_data: Any, r: Any) -> Any:
    """Cross entropy of `weak_output` less ln 2, per event."""
    return (ratio + r).log() - ratio.where(is_data, r + 0.0 * mu).clamp(min=1e-300).log() - float(np.log(2.0))


def negative_log(ratio: Any, mu: Any, is_data: Any) -> Any:  # noqa: ARG001
    """-ln LLR per event: the unbinned likelihood of 2506.00119."""
    return -ratio.clamp(min=1e-300).log()


@dataclass
class _Prior:
    """What both keep and how a fitted one is read: settings of f(x; theta) and of the fit, and what was learnt."""

    grids: Any = field(default=(), repr=False, compare=False)  # of PriorGrid
    hidden: tuple[int, ...] = (256, 128, 64)
    epochs: int = 100
    patience: int = 10
    batch: int = 1024
    learning_rate: float = 1e-3
    theta_draws: int = 1
    calibration: int = 20_000
    starts: int = 10
    fit_epochs: int = 200
    fit_patience: int = 20
    fit_batch: int = 8192
    fit_rate: float = 0.05
    clip: float = 1e-4
    validation: float = 1.0 / 3.0
    seed: int = 0
    networks_: list[RatioNetwork] = field(default_factory=list, repr=False, compare=False)
    points_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False)
    best_: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    ends_: list[dict[str, Any]] = field(default_factory=list, repr=False, compare=False)
    landscape_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False
    )
    profile_: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1 or self.calibration < 1:
            raise ConfigError(
                f"found validation {self.validation}, calibration {self.calibration}; expected a fraction between 0 "
                "and 1, and at least 1 event"
            )
        if self.theta_draws < 1:
            raise ConfigError(f"theta_draws: found {self.theta_draws}, expected at least 1")
        self._plan()

    @property
    def z(self) -> float:
        """sqrt(q0) of the data's profile likelihood in mu: local, its trials in theta are not counted."""
        return float(np.sqrt(self._fitted(self.profile_)[0, 1]))

    def interval(self, level: float = 1.0) -> tuple[float, float]:
        """The signal fractions with 2 (NLL - min NLL) <= ``level``: 1 for 68 %, 3.84 for 95 % (asymptotic)."""
        return interval_of(self._fitted(self.profile_), level)

    def _fitted(self, learnt: Any) -> Any:
        """``learnt``, or an `InputError` before the fit."""
        if not len(learnt):
            raise InputError(f"this {type(self).__name__} has not been fitted")
        return learnt

    def _llr(self, events: Events) -> NDArray[np.float64]:
        """1 + mu (Lambda - 1) at the fitted point, shape (n,)."""
        best = self._fitted(self.best_)
        self._check(events)
        return fitted_llr(self.networks_, best, events.x)

    def _check(self, events: Events) -> None:
        """Raise unless the events have as many features as the grid's."""
        check_scored(events, len(self.networks_[0].mean) - self.points_.shape[1], type(self).__name__)

    def _plan(self) -> PriorPlan:
        return PriorPlan(
            self.starts,
            self.fit_epochs,
            self.fit_patience,
            self.fit_rate,
            self.clip,
            self.fit_batch,
            self.seed,
        )

    def _keep(self, found: PriorResult) -> None:
        self.best_, self.ends_ = found.summary, [as_dict(e) for e in found.ends]
        self.landscape_, self.profile_ = found.landscape, found.profile

    def state(self) -> Stateful:
        """Networks, the fitted point, all starts, the landscape and the profile."""
        info, arrays = networks_state(self.networks_)
        tables = {"points": self.points_, "landscape": self.landscape_, "profile": self.profile_}
        return {**info, "best": self.best_, "ends": self.ends_}, {**arrays, **tables}, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.networks_ = networks_from(info, arrays)
        self.best_, self.ends_ = info["best"], info["ends"]
        self.points_, self.landscape_ = arrays["points"], arrays["landscape"]
        self.profile_ = arrays["profile"]
        return self


@dataclass
class Paws(_Prior):
    """Weak supervision with few parameters: theta, mu, and alpha with two topologies (2405.08889).

    ``grids`` (one, or two topologies with the same parameters) hold simulated signals and background. First f(x; theta)
    is trained on each grid, every background event with ``theta_draws`` thetas (published: 1), see
    `networks.ratio.train_ratio`; `pretrain` does it ahead, for the folds of a `CrossFit`
    to share. Then data against reference fix theta, mu = S / (S + B) and alpha by the cross entropy of LLR / (LLR + r),
    LLR = 1 + mu (Lambda(x, theta) - 1): Adam from random starts, stopped by the loss on the ``validation`` part, and the
    mirror image in two parameters of the best. Beyond the paper: a start at the lowest point of the landscape over the
    grid; the end of lowest loss of all events wins, not of the validation part alone, whose fluctuation mu would follow,
    and goes downhill by that loss; Lambda is scaled to E_B[Lambda] = 1 on the reference (``normalise``).

    ``denominator``: what the reference's weight W_R is. "weights": r = W_R / W_D as it is; "balanced": the reference
    is scaled to W_R = W_D, r = 1; "1 - mu": the reference is as large as the background part of the data, the published
    formula. A wrong choice biases mu. Score: LLR / (LLR + r), in (0, 1).

    Learnt: ``best_`` {theta, mu, alpha, loss, kappa}, ``ends_`` of all starts, ``landscape_`` (points, p + 3): theta,
    the loss minimised over mu and alpha, mu, alpha; ``profile_`` (k, 2): mu and 2 (NLL - min NLL), lowest over the grid's
    theta and the fitted one, NLL the summed cross entropy: the likelihood of which events are data, given x, so that
    the reference's fluctuation counts. The fitted mu is never below 0, and where there is no signal it is that of the
    theta where the background fluctuates most: `interval` and `z` are of one theta, `prior_global.global_p` and
    `global_interval` count the trials.
    """

    paper: ClassVar[str] = "2405.08889"

    denominator: Literal["weights", "balanced", "1 - mu"] = "weights"
    normalise: bool = True
    r_: float = field(default=1.0, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.denominator not in ("weights", "balanced", "1 - mu"):
            raise ConfigError(
                f"denominator: found {self.denominator!r}, expected weights, balanced or 1 - mu"
            )

    def pretrain(self) -> Self:
        """Train f(x; theta) of every grid; raises `InputError` where a grid or its background is missing."""
        grids = checked_grids(self.grids, "Paws")
        backgrounds = [grid.background for grid in grids if grid.background is not None]
        if len(backgrounds) < len(grids):
            raise InputError("Paws: a signal grid has no background; it needs one that is not in the search")
        self.points_ = common_points(grids)
        self.networks_ = [
            pretrained(self, grid, b, k) for k, (grid, b) in enumerate(zip(grids, backgrounds, strict=True))
        ]
        return self

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit theta, mu and alpha; trains the grid's classifier first unless `pretrain` has.

        Raises `InputError` on bad samples or a missing grid, `LeakError` for events that the grid's classifier has
        seen, `FitError` if the loss is not finite.
        """
        for grid in self.grids:
            grid.refuse(reference, data)
        x, y, weight, held = sorted_samples(reference, data, self.seed, self.validation)
        if not self.networks_:
            self.pretrain()
        self._check(data)
        found = self._ratio(y, weight)
        balanced = self.denominator == "balanced"
        self.r_, scale = (1.0, 1.0 / found) if balanced else (found, 1.0)
        problem = PriorProblem(self.networks_, x, y, weight, held, self.calibration, self.normalise, scale)
        likelihood = partial(cross_entropy, r=found) if balanced else self._each
        self._keep(problem.solve(self._each, likelihood, self.points_, self._plan(), data_only=False))
        return self

    def _ratio(self, y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
        """W_R / W_D of the sample."""
        found = float(weight[y == 0].sum() / weight[y == 1].sum())
        if self.denominator == "1 - mu" and found > 1.02:
            raise InputError(
                f"the reference weighs {found:.4g} times the data, with denominator '1 - mu' it must be as large as "
                "the background part of the data; use denominator 'weights'"
            )
        return found

    def _r(self, mu: Any) -> Any:
        return 1.0 - mu if self.denominator == "1 - mu" else self.r_ + 0.0 * mu

    def _each(self, ratio: Any, mu: Any, is_data: Any) -> Any:
        return cross_entropy(ratio, mu, is_data, self._r(mu))

    def score(self, events: Events) -> NDArray[np.float64]:
        """LLR / (LLR + r) at the fitted theta, mu and alpha, shape (n,)."""
        ratio = self._llr(events)
        return check_probability(weak_output(ratio, self._r(self.best_["mu"])), "Paws")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker leaves the simulation at home once its classifier is trained."""
        return {**self.__dict__, "grids": () if self.networks_ else self.grids}

    def state(self) -> Stateful:
        """Networks, the fitted point, all starts, the landscape, the profile and r."""
        info, arrays, texts = super().state()
        return {**info, "r": self.r_}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.r_ = info["r"]
        return super().restore(info, arrays, texts)


@dataclass
class Gbi(_Prior):
    """Inference with a learned background (2506.00119): minimise -sum over data of ln(1 + mu (kappa Lambda - 1)).

    The reference is the generated background (samples of CATHODE or another one). Lambda = f / (1 - f) of f(x; theta)
    trained on the signal ``grids`` against their background, or against half of the reference where they have none; the
    reference's events that f has not seen fix kappa(theta) = 1 / E_B[Lambda], so that E_B[kappa Lambda] = 1 holds by
    construction, where the paper fits kappa with a network. Theta, mu and alpha are searched as in `Paws`.
    Score: ln(1 + mu (kappa Lambda - 1)) at the fitted point. Learnt as `Paws`; ``profile_`` is the result: the profile
    likelihood in mu, of which `interval` and `z` are read. ``validation`` is the part of the simulation put aside
    while f is trained; the likelihood is that of all data. Simplified: the background counts as known, so the
    reference's fluctuation is not in the interval: a reference as large as the data makes z too large by sqrt(2), and an
    event whose Lambda f puts far too high counts in full, where the loss of `Paws` is bounded. Give a reference of
    several times the data, and quote `prior_global.global_p` and `global_interval`.
    """

    paper: ClassVar[str] = "2506.00119"

    own_: bool = field(default=False, repr=False, compare=False)  # f was trained on a part of the reference

    def fit(self, reference: Events, data: Events) -> Self:
        """Fit theta, mu and alpha to the data; raises as `Paws.fit`."""
        for grid in self.grids:
            grid.refuse(reference, data)
        calibration = reference
        if self.own_ or not self.networks_:
            grids = checked_grids(self.grids, "Gbi")
            self.own_ = any(grid.background is None for grid in grids)
            first = identity_hash(reference.identity, self.seed + 1) < np.uint64(2**63)
            if self.own_:
                calibration = reference.take(~first)
            self.points_ = common_points(grids)
            self.networks_ = [
                pretrained(self, g, reference.take(first) if g.background is None else g.background, k)
                for k, g in enumerate(grids)
            ]
        x, y, weight, held = sorted_samples(calibration, data, self.seed, self.validation)
        self._check(data)
        problem = PriorProblem(self.networks_, x, y, weight, held, self.calibration, normalise=True)
        plan = self._plan()
        self._keep(problem.solve(negative_log, negative_log, self.points_, plan, data_only=True))
        return self

    def score(self, events: Events) -> NDArray[np.float64]:
        """ln(1 + mu (kappa Lambda - 1)), shape (n,)."""
        return np.log(np.maximum(self._llr(events), 1e-300))

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker leaves the simulation at home once its classifier needs no other training."""
        return {**self.__dict__, "grids": () if self.networks_ and not self.own_ else self.grids}

    def state(self) -> Stateful:
        """Networks, the fitted point, all starts, the landscape, the profile and whose background f has seen."""
        info, arrays, texts = super().state()
        return {**info, "own": self.own_}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.own_ = info["own"]
        return super().restore(info, arrays, texts)
