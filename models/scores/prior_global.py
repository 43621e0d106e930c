"""How often background alone looks as much like a point of the signal grid as the data do: a p-value with its trials."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from ...errors import ConfigError, InputError
from ...events import Events
from .prior_problem import PriorProblem, sorted_samples

#: Signal fractions that are tried, beside every theta of the grid.
MUS = np.geomspace(1e-4, 0.1, 16)


def global_p(fitted: Any, reference: Events, data: Events, toys: int = 1000) -> float:
    """p-value of no signal anywhere in the grid of a `Paws` or `Gbi` whose classifier is trained; (k + 1) / (toys + 1).

    If both samples are the same background, which event is in which is chance. So the labels are dealt again ``toys``
    times, and the largest likelihood ratio over the grid's theta and `MUS` (that of the weak classifier of 2405.08889)
    is compared with the data's: exact with any number of events, and the trials in theta are counted, which `z` does
    not. Lambda is normalised on all events here, so that it does not depend on the labels. Raises `InputError` before
    the classifier is trained, or where weights are not 1: such events cannot be exchanged.
    """
    if toys < 1:
        raise ConfigError(f"toys: found {toys}, expected at least 1")
    if not fitted.networks_:
        raise InputError(f"this {type(fitted).__name__} has no classifier of the signal grid; fit it first")
    x, y, weight, held = sorted_samples(reference, data, fitted.seed, fitted.validation)
    if not (weight == 1).all():
        raise InputError("global_p exchanges events, so their weights must be 1; found others")
    problem = PriorProblem(fitted.networks_, x, np.zeros(len(y)), weight, held, 1, normalise=True)
    rng = np.random.default_rng([fitted.seed % 2**64, 3])
    dealt = np.column_stack([y, *(rng.permutation(y) for _ in range(toys))]).astype(np.float32)
    largest = np.max(
        [_statistic(problem, t, dealt, len(reference) / len(data)) for t in fitted.points_], axis=0
    )
    return float((1 + (largest[1:] >= largest[0]).sum()) / (toys + 1))


def global_interval(local: tuple[float, float], p: float, level: float = 3.84) -> tuple[float, float]:
    """The signal fractions that go with the data wherever in the grid the signal may be.

    ``local``: `interval(level)` of the fitted `Paws` or `Gbi`, which is of the theta that a fluctuation may have chosen; ``p``: the data's
    `global_p`. mu = 0 is left out only where p is at most the probability that chi2 of one degree of freedom exceeds ``level``: exact, trials
    in theta included. Above 0 theta is the signal's own, and both are the same. Raises `ConfigError` for a p that is none.
    """
    if not 0 < p <= 1:
        raise ConfigError(f"p: found {p}, expected a probability above 0, at most 1")
    return (0.0 if p > chi2.sf(level, 1) else local[0]), local[1]


def _statistic(
    problem: PriorProblem, theta: NDArray[np.float64], dealt: NDArray[np.float32], r: float
) -> NDArray[np.float64]:
    """Largest ln L(mu) - ln L(0) over `MUS` and topologies for each column of labels ``dealt`` (n, toys + 1)."""
    best = np.zeros(dealt.shape[1])
    for ratio in problem.table(theta)[0]:
        llr = 1.0 + MUS[:, None] * (ratio - 1.0)
        every = -np.log((llr + r) / (1.0 + r)).sum(axis=1)
        data = np.log(np.maximum(llr, 1e-300)).astype(np.float32) @ dealt
        best = np.maximum(best, (data + every[:, None]).max(axis=0))
    return best
