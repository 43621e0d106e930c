"""Tag N' Train: two objects of an event label each other's training samples (2002.12376)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError, InputError
from ...events import Events, FeatureSet, fold_of, identity_hash
from ..nesting import Stateful, restore_under, state_under
from .autoencoder import Autoencoder
from .network_ensemble import NetworkEnsemble
from .weak_trees import check_training

#: Bins in which the background-rich sample is reweighted to the signal-rich one.
_BINS = 20
#: Quantiles kept of each object's score on the reference.
_QUANTILES = 2001


def object_columns(features: FeatureSet, mark: str, leave: str = "") -> list[int]:
    """Columns whose name ends or begins with ``mark``, but for ``leave`` with the mark; `FeatureError` if none."""
    found = [
        i
        for i, name in enumerate(features.names)
        if (name.endswith(mark) or name.startswith(mark))
        and not (leave and name in (leave + mark, mark + leave))
    ]
    if not found:
        raise FeatureError(
            f"no column of feature set '{features.name}' begins or ends with '{mark}'; name the objects in `objects`"
        )
    return found


def view(events: Events, columns: Sequence[int]) -> Events:
    """The events with these columns only."""
    features = replace(events.features, columns=tuple(events.features.columns[i] for i in columns), extras=())
    return replace(events, x=np.ascontiguousarray(events.x[:, list(columns)]), features=features)


def reweighted(
    value: NDArray[Any], weight: NDArray[np.float64], target: NDArray[Any], target_weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``weight`` (n,), changed to give ``value`` the histogram of ``target`` in 20 bins of equal population."""
    edges = np.quantile(target.astype(np.float64), np.arange(1, _BINS) / _BINS)
    mine, other = np.searchsorted(edges, value, side="right"), np.searchsorted(edges, target, side="right")
    have = np.bincount(mine, weights=weight, minlength=_BINS)
    want = np.bincount(other, weights=target_weight, minlength=_BINS)
    factor = np.divide(want, have, out=np.zeros(_BINS), where=have > 0)
    out = weight * factor[mine]
    if not out.sum() > 0:
        raise InputError("no background-rich event lies where the signal-rich ones do; leave reweight out")
    return out * weight.sum() / out.sum()


@dataclass
class TagNTrain:
    """A classifier per object, trained on samples that the other object tagged (2002.12376).

    ``objects``: what the column names of the first and of the second object end (or begin) with; columns of neither are
    not used. First a ``tagger`` per object (an autoencoder unless given) learns from a part of all events. Then, in
    each of ``iterations`` and on a fresh part, the other object's score tags: signal-rich are the ``rich`` most odd
    of all events, if they are in the data (the window); background-rich are the ``poor`` least odd of all. A copy of
    ``classifier`` (32-32-16-8, batches of 200, 40 epochs unless given) learns signal-rich against background-rich on
    this object's columns, and tags in the next iteration. The parts are disjoint: a hash of the identity and the seed.

    ``reweight``: stem of a column (e.g. ``pt`` for ``pt_j1``) whose background-rich histogram is weighted to that of
    the signal-rich sample; it is no input then. ``combine``: "product" of both objects' scores, or "quantile": the
    smaller of their quantiles on the reference, so that one cut cuts both objects at equal quantile.

    Simplified: ReLU where the paper's dense network has LeakyReLU and ELU, no image network.
    """

    paper: ClassVar[str] = "2002.12376"

    objects: tuple[str, str] = ("_j1", "_j2")
    tagger: Any = None
    classifier: Any = None
    iterations: int = 1
    rich: float = 0.2
    poor: float = 0.4
    reweight: str = ""
    combine: Literal["product", "quantile"] = "product"
    seed: int = 0
    columns_: list[list[int]] = field(default_factory=list, repr=False, compare=False)
    width_: int = field(default=0, repr=False, compare=False)
    taggers_: list[Any] = field(default_factory=list, repr=False, compare=False)
    classifiers_: list[Any] = field(default_factory=list, repr=False, compare=False)
    quantiles_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 0)), repr=False, compare=False
    )
    tagged_: list[dict[str, int]] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 < self.rich < 1 or not 0 < self.poor <= 1 - self.rich:
            raise ConfigError(
                f"found iterations {self.iterations}, rich {self.rich}, poor {self.poor}; expected iterations >= 1, "
                "rich and poor above 0 with a sum of at most 1"
            )
        if self.combine not in ("product", "quantile") or len(self.objects) != 2:
            raise ConfigError(
                f"found combine {self.combine!r}, objects {self.objects}; expected product or quantile, and two objects"
            )

    def fit(self, reference: Events, data: Events) -> Self:
        """Train taggers and classifiers; raises `InputError` on bad samples, `FeatureError` without object columns."""
        check_training(reference, "reference")
        check_training(data, "data")
        pool = Events.concatenate([reference, data])
        is_data = np.arange(len(pool)) >= len(reference)
        # In the order of identity, so that the order of the rows changes nothing.
        order = np.lexsort((is_data, identity_hash(pool.identity, self.seed)))
        pool, is_data = pool.take(order), is_data[order]
        self._find_columns(pool.features)
        part = fold_of(pool.identity, self.iterations + 1, self._seed(0))
        first = pool.take(part == 0)
        check_training(first, "the taggers' part")
        self.taggers_ = [self._fresh(self.tagger, _tagger(), k) for k in (1, 2)]
        for tagger, columns in zip(self.taggers_, self.columns_, strict=True):
            tagger.fit(view(first, columns), view(first, columns))
        scorers, self.tagged_ = list(self.taggers_), []
        for i in range(1, self.iterations + 1):
            mine = part == i
            fresh = [self._train(k, i, scorers[1 - k], pool.take(mine), is_data[mine]) for k in (0, 1)]
            scorers = fresh
        self.classifiers_ = scorers
        levels = np.linspace(0.0, 1.0, _QUANTILES)
        background = pool.take(~is_data)
        self.quantiles_ = np.array([np.quantile(s, levels) for s in self.object_scores(background).T])
        return self

    def _find_columns(self, features: FeatureSet) -> None:
        self.columns_ = [object_columns(features, mark, self.reweight) for mark in self.objects]
        self.width_ = len(features)
        shared = set(self.columns_[0]) & set(self.columns_[1])
        if shared:
            raise FeatureError(f"column {features.names[min(shared)]} belongs to both objects {self.objects}")

    def _train(self, k: int, iteration: int, other: Any, events: Events, is_data: NDArray[np.bool_]) -> Any:
        """Object ``k``'s classifier on what the other object's scorer tags."""
        values = other.score(view(events, self.columns_[1 - k]))
        low, high = np.quantile(
            values, [self.poor, 1.0 - self.rich], weights=events.weight, method="inverted_cdf"
        )
        rich, poor = is_data & (values > high), values <= low
        if not rich.any() or not poor.any():
            raise InputError(
                f"iteration {iteration}, object {self.objects[k]}: {int(rich.sum())} signal-rich and {int(poor.sum())} "
                "background-rich events; give more events or another rich and poor"
            )
        signal, background = events.take(rich), events.take(poor)
        if self.reweight:
            column = self._reweight_column(events.features, self.objects[k])
            weight = reweighted(
                background.x[:, column], background.weight, signal.x[:, column], signal.weight
            )
            background = replace(background, weight=weight)
        self.tagged_.append(
            {"iteration": iteration, "object": k, "rich": len(signal), "poor": len(background)}
        )
        made = self._fresh(self.classifier, _classifier(), 10 * iteration + k)
        return made.fit(view(background, self.columns_[k]), view(signal, self.columns_[k]))

    def _reweight_column(self, features: FeatureSet, mark: str) -> int:
        for name in (self.reweight + mark, mark + self.reweight):
            if name in features.names:
                return features.names.index(name)
        raise FeatureError(
            f"no column {self.reweight + mark} to reweight by in feature set '{features.name}'; set reweight to another"
        )

    def _fresh(self, given: Any, default: Any, number: int) -> Any:
        made = deepcopy(default if given is None else given)
        if hasattr(made, "seed"):
            made.seed = self._seed(number)
        return made

    def _seed(self, number: int) -> int:
        """A seed of its own for each use: folds of the search must not be the parts of the training."""
        return int(np.random.SeedSequence([self.seed % 2**64, number, 2002]).generate_state(1)[0] >> 1)

    def object_scores(
        self, events: Events, of: Literal["classifiers", "taggers"] = "classifiers"
    ) -> NDArray[np.float64]:
        """Each object's own score, shape (n, 2); the taggers' for comparison."""
        scorers = self.classifiers_ if of == "classifiers" else self.taggers_
        if not scorers:
            raise InputError("this TagNTrain has not been fitted")
        if len(events.features) != self.width_:
            raise FeatureError(
                f"the events have {len(events.features)} columns, the TagNTrain takes {self.width_}"
            )
        return np.column_stack(
            [s.score(view(events, c)) for s, c in zip(scorers, self.columns_, strict=True)]
        )

    def score(self, events: Events) -> NDArray[np.float64]:
        """Both objects' scores as one number, shape (n,)."""
        scores = self.object_scores(events)
        if self.combine == "product":
            return scores[:, 0] * scores[:, 1]
        levels = np.linspace(0.0, 1.0, self.quantiles_.shape[1])
        return np.minimum(*(np.interp(s, q, levels) for s, q in zip(scores.T, self.quantiles_, strict=True)))

    def state(self) -> Stateful:
        """Taggers and classifiers under their numbers, the columns of each object, and how many events were tagged."""
        info: dict[str, Any] = {"columns": self.columns_, "width": self.width_, "tagged": self.tagged_}
        arrays: dict[str, NDArray[Any]] = {"quantiles": self.quantiles_}
        texts: dict[str, str] = {}
        for name, scorers in (("tagger", self.taggers_), ("classifier", self.classifiers_)):
            states = [state_under(f"{name}{k}", s) for k, s in enumerate(scorers)]
            info[name] = [s[0] for s in states]
            arrays |= {n: v for s in states for n, v in s[1].items()}
            texts |= {n: v for s in states for n, v in s[2].items()}
        return info, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.columns_, self.width_, self.tagged_ = info["columns"], info["width"], info["tagged"]
        self.quantiles_ = arrays["quantiles"]
        made = {
            "tagger": self._fresh(self.tagger, _tagger(), 0),
            "classifier": self._fresh(self.classifier, _classifier(), 0),
        }
        self.taggers_, self.classifiers_ = (
            [
                restore_under(f"{name}{k}", deepcopy(fresh), one, arrays, texts)
                for k, one in enumerate(info[name])
            ]
            for name, fresh in made.items()
        )
        return self


def _tagger() -> Autoencoder:
    return Autoencoder(hidden=(16,), latent=2)


def _classifier() -> NetworkEnsemble:
    return NetworkEnsemble(members=1, hidden=(32, 32, 16, 8), epochs=40, best=1, batch=200, validation=0.1)
