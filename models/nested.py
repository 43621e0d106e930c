"""The nested cross-fit of CWoLa hunting: neither training nor the choice of a model sees the events it scores."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..events import Events, Window, fold_of, identity_hash
from .base import Score
from .folds import refuse_seen, seen_hashes
from .jobs import FitJob, fit_jobs
from .nesting import restore_under, state_under


def side_weights(reference: Events, window: Window) -> Events:
    """``reference`` with the weights of CWoLa hunting: low and high sideband sum to the same (1902.02634).

    With the balanced classes of a weak classifier that makes low : window : high = 0.25 : 0.5 : 0.25. Raises
    `InputError` if a side is empty or an event lies inside ``window``: then the reference is no pair of sidebands.
    """
    low, high = reference.mass < window.low, reference.mass >= window.high
    inside = len(reference) - int(low.sum()) - int(high.sum())
    if inside:
        raise InputError(
            f"{inside} of {len(reference)} reference events are not beside the window {window.low:g}-{window.high:g} "
            "of the data; with a reference that is no pair of sidebands set sides = false"
        )
    weight = reference.weight.astype(np.float64)
    for side, name in ((low, "below"), (high, "above")):
        # Added in the order of identity, so that the order of the rows changes no bit.
        order = np.argsort(identity_hash(reference.identity[side]), kind="stable")
        total = weight[side][order].sum()
        if not total > 0:
            raise InputError(
                f"no sideband events {name} {window.low:g}-{window.high:g}; widen reference.width"
            )
        weight[side] *= 0.5 * len(reference) / total
    return replace(reference, weight=weight)


def efficiency_at(
    reference: NDArray[np.float64],
    data: NDArray[np.float64],
    rate: float,
    reference_weight: NDArray[np.float64] | None = None,
    data_weight: NDArray[np.float64] | None = None,
) -> float:
    """The part of the data's weight above the cut that ``rate`` of the reference's weight passes.

    Scores (n,) and (m,). Events of one score pass or fail together: between two cuts the curve is a straight line.
    """
    value = np.concatenate([reference, data])
    is_data = np.arange(len(value)) >= len(reference)
    weight = np.concatenate(
        [np.ones(len(s)) if w is None else w for s, w in ((reference, reference_weight), (data, data_weight))]
    )
    order = np.lexsort((weight, is_data, -value))
    value, is_data, weight = value[order], is_data[order], weight[order]
    passed = np.cumsum(np.where(is_data, 0.0, weight)), np.cumsum(np.where(is_data, weight, 0.0))
    last = np.flatnonzero(np.append(value[1:] != value[:-1], True))
    curve = [np.concatenate([[0.0], p[last] / p[-1]]) for p in passed]
    # Where the curve rises straight up, its upper end counts.
    at = int(np.searchsorted(curve[0], rate, side="right")) - 1
    if at + 1 == len(last) + 1 or curve[0][at] == rate:
        return float(curve[1][at])
    return float(np.interp(rate, curve[0][at : at + 2], curve[1][at : at + 2]))


@dataclass
class NestedFit:
    """``inner`` trained folds x (folds - 1) x starts times, as in CWoLa hunting (1805.02664, 1902.02634).

    For each fold k and each other fold l, ``starts`` copies of different seeds are trained on the remaining folds; the
    one that passes most of fold l's data at the cut passed by ``efficiency`` of fold l's reference wins. The mean of
    the winners is ensemble k, which scores fold k only. Each ensemble keeps the hashes of all events that it was
    trained or chosen with and refuses them (`LeakError`).

    An inner score that trains many at once (`jobs.FitsMany`) also chooses its epoch on fold l, as in the paper; any
    other one uses a split of its own inside its training folds. ``sides``: give low sideband, window and high sideband
    a quarter, a half and a quarter of the weight (`side_weights`); false for a reference that is no pair of sidebands.
    """

    paper: ClassVar[str] = "1902.02634"

    inner: Score
    folds: int = 5
    starts: int = 20
    efficiency: float = 0.005
    sides: bool = True
    seed: int = 0
    members_: list[list[Any]] = field(default_factory=list, repr=False)
    chosen_: list[list[dict[str, Any]]] = field(default_factory=list, repr=False)
    seen_: list[NDArray[np.uint64]] = field(default_factory=list, repr=False)

    def fit(self, reference: Events, data: Events) -> Self:
        """Train and choose.

        Raises `ConfigError` for fewer than three folds, no start or an efficiency outside (0, 1), `InputError` for
        several starts of a score without a seed, or a reference that is no pair of sidebands.
        """
        if self.folds < 3 or self.starts < 1 or not 0 < self.efficiency < 1:
            raise ConfigError(
                f"found folds {self.folds}, starts {self.starts}, efficiency {self.efficiency}; expected folds >= 3 "
                "(one to score, one to choose, the others to train), starts >= 1, efficiency between 0 and 1"
            )
        if self.starts > 1 and not hasattr(self.inner, "seed"):
            raise InputError(
                f"{type(self.inner).__name__} has no seed: its starts would be equal; set starts = 1"
            )
        if len(data) == 0 or len(reference) == 0:
            raise InputError(
                f"found {len(reference)} reference and {len(data)} data events, expected some of both"
            )
        window = Window(float(data.mass.min()), float(np.nextafter(data.mass.max(), np.inf)))
        fold_r, fold_d = (fold_of(e.identity, self.folds, self.seed) for e in (reference, data))

        def part(folds: list[int]) -> tuple[Events, Events]:
            background = reference.take(np.isin(fold_r, folds))
            return side_weights(background, window) if self.sides else background, data.take(
                np.isin(fold_d, folds)
            )

        self.members_, self.chosen_, self.seen_ = [], [], []
        for k in range(self.folds):
            others = [i for i in range(self.folds) if i != k]
            samples = [(part([i for i in others if i != v]), part([v])) for v in others]
            winners, chosen = self._choose(k, others, samples)
            self.members_.append(winners)
            self.chosen_.append(chosen)
            self.seen_.append(seen_hashes(reference.take(fold_r != k), data.take(fold_d != k)))
        return self

    def _choose(
        self, k: int, others: list[int], samples: list[tuple[tuple[Events, Events], tuple[Events, Events]]]
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        """The best start for each validation fold of ensemble ``k``, and how good each start was."""
        jobs = [
            FitJob(*training, _start_seed(self.seed, k, v, start), held)
            for v, (training, held) in zip(others, samples, strict=True)
            for start in range(self.starts)
        ]
        fitted = fit_jobs(self.inner, jobs)
        winners, chosen = [], []
        for i, v in enumerate(others):
            copies = fitted[i * self.starts : (i + 1) * self.starts]
            background, data = samples[i][1]
            found = [
                efficiency_at(
                    c.score(background), c.score(data), self.efficiency, background.weight, data.weight
                )
                for c in copies
            ]
            best = int(np.argmax(found))
            winners.append(copies[best])
            chosen.append({"validation_fold": v, "start": best, "efficiencies": found})
        return winners, chosen

    def score(self, events: Events) -> NDArray[np.float64]:
        """Each event's mean score by the winners of its own fold, shape (n,)."""
        if len(self.members_) != self.folds:
            raise InputError("this NestedFit has not been fitted")
        fold = fold_of(events.identity, self.folds, self.seed)
        out = np.zeros(len(events))
        for k, (winners, seen) in enumerate(zip(self.members_, self.seen_, strict=True)):
            mine = events.take(fold == k)
            if len(mine):
                refuse_seen(mine, seen, f"ensemble {k} of NestedFit")
                out[fold == k] = np.mean([w.score(mine) for w in winners], axis=0)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Every winner's state under its fold and number, how it was chosen, and what each ensemble has seen."""
        info: dict[str, Any] = {"members": [], "chosen": self.chosen_}
        arrays: dict[str, NDArray[Any]] = {}
        texts: dict[str, str] = {}
        for k, winners in enumerate(self.members_):
            states = [state_under(f"member{k}_{i}", w) for i, w in enumerate(winners)]
            info["members"].append([s[0] for s in states])
            arrays |= {n: v for s in states for n, v in s[1].items()} | {f"seen{k}": self.seen_[k]}
            texts |= {n: v for s in states for n, v in s[2].items()}
        return info, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.chosen_ = info["chosen"]
        self.seen_ = [np.asarray(arrays[f"seen{k}"], dtype=np.uint64) for k in range(len(info["members"]))]
        self.members_ = [
            [
                restore_under(f"member{k}_{i}", deepcopy(self.inner), one, arrays, texts)
                for i, one in enumerate(row)
            ]
            for k, row in enumerate(info["members"])
        ]
        return self


def _start_seed(*numbers: int) -> int:
    """A seed of its own for every start, in the range LightGBM and torch take."""
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1)[0] >> 1)
