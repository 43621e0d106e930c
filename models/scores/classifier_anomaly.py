"""A classifier of known classes whose doubt is the score, with outlier exposure and mass matching (2201.07199)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError, InputError
from ...events import Events, FeatureSet, identity_hash
from ..calibration import Calibration
from ..mass_matching import MassMatching, match_masses
from ..nesting import Stateful
from ..networks.classifier import OUTSIDE, build_classifier, exposed_cross_entropy
from ..networks.constituent_table import constituent_columns, constituent_table
from ..networks.dense import BATCH, evaluate, load_weights
from ..networks.flow_modules import load_parameters
from ..networks.particle_net import ParticleNet, evaluate_jets, statistics
from ..training import Sample, Task, TrainingRecord, TrainPlan, train
from ..training_task import Schedule
from .doubt import DISTANCES, Kind, distances, logit_scores, moments_of, squares
from .known_classes import REFERENCE, balanced, check_classes, stacked
from .weak_trees import check_scored

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
#: Standardised inputs end here, where float32 can still hold what the layers make of them.
_CLIP = 1e6
#: Batches of the training part whose means and variances a ParticleNet is frozen with, of at least so many jets together.
_FREEZING, _FREEZING_JETS = 8, 4096


@dataclass
class ClassifierAnomaly:
    """Odd = not like any class a classifier knows (2201.07199): a network of the classes, read in one of many ways.

    The classes are the ``reference``, named "reference", and the samples of ``classes`` (name: Events). Every class counts the
    same; a hash of identity and seed puts the part ``validation`` aside, the epoch of lowest loss on it
    is kept. One half of these events fixes a temperature T, by which logits are divided (1706.04599; ``calibrate``), the other
    half measures what it does: ``calibration_``.

    ``kind`` of score, of logits g / T and p = softmax(g / T): "msp" -max p, "entropy" -sum p ln p, "max_logit" -max g, "energy"
    -ln sum exp g, "anti_class" -p of the class ``anti``; or of the last hidden layer h (behind its ReLU with linear logits, which
    read it there): "mahalanobis" min_k (h - mu_k)^T C^-1 (h - mu_k), C the covariance within the classes, and
    "mahalanobis_global" with one mean and the covariance about it, both of the training part and shrunk as `ledoit_wolf` says.
    All are of one training: `scores` gives them together, and ``kind`` may be changed afterwards. ``logits``: "linear", or
    "distance", g_k = -|h - c_k|^2 with learnt centres, another training.

    ``outliers`` (name: Events) are shown to the network as events of no class (outlier exposure, 1812.04606): loss = cross entropy
    + ``exposure`` times the cross entropy of the uniform distribution and p; the training record has it divided by
    1 + ``exposure``. They should be of many kinds: one narrow family makes its like odd, and others less odd than without it. ``matching`` gives classes and outliers one mass spectrum, see `match_masses`. What was used is a prior of
    the search: `prior` says which, ``priors_`` how many events.

    ``particle_net`` None: a dense network of layers ``hidden`` on standardised columns, trained by Adam. The paper's is a
    `ParticleNet` (1902.08570), for feature sets of constituents (CandI_pt, CandI_eta, CandI_phi), trained by AdamW in 20 ``epochs``
    with a ``batch`` of 1024 and a constant rate; ``hidden`` is not looked at then. Its normalisation is frozen with the statistics of
    8 batches of the training part, or as many as hold 4096 jets, so that no jet's score depends on another jet; the epoch that is
    kept is chosen before that, validation jets normalised by their batch.
    """

    paper: ClassVar[str] = "2201.07199"
    more_papers: ClassVar[tuple[str, ...]] = ("1706.04599", "1812.04606", "1902.08570")

    classes: Any = field(default_factory=dict, repr=False, compare=False)  # name: Events
    outliers: Any = field(default_factory=dict, repr=False, compare=False)  # name: Events
    kind: Kind = "msp"
    anti: str = REFERENCE
    logits: Literal["linear", "distance"] = "linear"
    hidden: tuple[int, ...] = (64, 64, 32)
    particle_net: ParticleNet | None = None
    epochs: int = 50
    batch: int = 256
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    validation: float = 0.2
    calibrate: bool = True
    exposure: float = 0.5
    matching: MassMatching | None = None
    seed: int = 0
    shards: int = 1
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    names_: tuple[str, ...] = field(default=(), repr=False, compare=False)
    priors_: dict[str, dict[str, int]] = field(default_factory=dict, repr=False, compare=False)
    mean_: Array = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    width_: Array = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    columns_: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((0, 3), np.int64), repr=False, compare=False
    )
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    moments_: dict[str, Array] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    calibration_: Calibration | None = field(default=None, repr=False, compare=False)
    _loaded: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.matching, Mapping):  # from a model folder
            self.matching = MassMatching(**self.matching)
        if isinstance(self.particle_net, Mapping):
            self.particle_net = ParticleNet(**self.particle_net)
        if self.kind not in get_args(Kind) or self.logits not in ("linear", "distance"):
            raise ConfigError(
                f"found kind {self.kind!r}, logits {self.logits!r}; expected one of {', '.join(get_args(Kind))}, and linear or "
                "distance"
            )
        if not self.hidden or not 0 < self.validation < 1 or not self.exposure > 0:
            raise ConfigError(
                f"found hidden {self.hidden}, validation {self.validation}, exposure {self.exposure}; expected at least one hidden "
                "layer, a part between 0 and 1, and an exposure above 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``, ``classes`` and ``outliers``; ``data`` is not looked at.

        Raises `InputError` without classes or on samples that cannot be learnt from, `FeatureError` on columns that differ or,
        for a ParticleNet, are no constituents,
        `ConfigError` for an unknown ``anti``, `FitError` if the loss diverges.
        """
        classes, outliers = self._samples(reference)
        rows = stacked(classes, outliers, self.seed)
        held = identity_hash(rows.identity, self.seed) / 2.0**64 < self.validation
        weights = [balanced(rows.weight[m], rows.y[m], self.names_, self.exposure) for m in (~held, held)]
        known = rows.y[~held] != OUTSIDE
        self._learn_scale(reference.features, rows.x[~held][known], weights[0][known])
        tables = [self.scale(rows.x[m]) for m in (~held, held)]
        self.record_, self._loaded, self.calibration_ = None, None, None
        self._train(
            *(Sample(x, rows.y[m], w) for x, m, w in zip(tables, (~held, held), weights, strict=True))
        )
        h = self._outputs(rows.x[~held][known])[1]
        self.moments_ = moments_of(h, rows.y[~held][known], weights[0][known], len(self.names_))
        seen = rows.y[held] != OUTSIDE
        g, label, weight = self._outputs(rows.x[held][seen])[0], rows.y[held][seen], weights[1][seen]
        first = identity_hash(rows.identity[held][seen], self._stream(2)) < np.uint64(2**63)
        self.calibration_ = Calibration.of(g, label, weight, first, self.calibrate)
        return self

    def _train(self, learnt: Sample, held: Sample) -> None:
        """Learn the weights; those of a ParticleNet with the statistics it is frozen with."""
        plan, jets = self.trainer or TrainPlan(), self.particle_net is not None
        settings = replace(plan.settings(self, self.shards), keep="best")
        if self.particle_net is not None:
            settings = replace(settings, optimizer="adamw", weight_decay=self.particle_net.weight_decay)
        config = self._config(frozen=False)
        task = Task(build_classifier, config, exposed_cross_entropy, learnt, held, draws=jets)
        result = train(task, settings, plan.folder, plan.progress)
        self.weights_, self.record_ = result.state, result.record
        if jets:
            network = load_parameters(build_classifier(config), self.weights_)
            wanted = max(_FREEZING, -(-_FREEZING_JETS // self.batch))
            count = min(wanted, max(1, len(learnt.x) // self.batch))  # whole batches, if there is one
            self.weights_ |= statistics(
                network, (learnt.x[i * self.batch : (i + 1) * self.batch] for i in range(count))
            )

    def _stream(self, use: int) -> int:
        """A seed for another use of identities' hashes, so that no two uses pick the same events."""
        return int(np.random.SeedSequence([self.seed, use]).generate_state(1, np.uint64)[0])

    def _samples(self, reference: Events) -> tuple[dict[str, Events], dict[str, Events]]:
        """Classes and outliers, checked and matched."""
        check_classes(self.classes, self.outliers, reference)
        classes, outliers = {REFERENCE: reference, **self.classes}, dict(self.outliers)
        self.names_ = tuple(classes)
        self._anti()
        if self.matching is not None:
            found = match_masses({**classes, **outliers}, self.matching, self._stream(1)).samples
            classes, outliers = {n: found[n] for n in classes}, {n: found[n] for n in outliers}
        self.priors_ = {
            "classes": {n: len(e) for n, e in classes.items()}, "outliers": {n: len(e) for n, e in outliers.items()},
        }  # fmt: skip
        log.info("prior: %s", self.prior)
        return classes, outliers

    @property
    def prior(self) -> str:
        """What beside the reference the score was told, for print: a search with it depends on a model that far; "" before the fit."""
        if not self.priors_:
            return ""
        told = [f"classes {', '.join(self.priors_['classes'])}"]
        if self.priors_["outliers"]:
            told.append(f"exposed to outliers {', '.join(self.priors_['outliers'])}")
        return "; ".join(told)

    def _learn_scale(self, features: FeatureSet, x: NDArray[Any], weight: Array) -> None:
        self.mean_, self.width_ = np.zeros(x.shape[1]), np.ones(x.shape[1])
        self.columns_ = np.zeros((0, 3), np.int64)
        if self.particle_net is not None:
            self.columns_ = constituent_columns(features)
            return
        values = x.astype(np.float64)
        self.mean_ = np.average(values, axis=0, weights=weight)
        spread = np.sqrt(np.average((values - self.mean_) ** 2, axis=0, weights=weight))
        # A constant column's deviation is rounding, by which nothing may be divided.
        self.width_ = np.where(np.ptp(values, axis=0) > 0, spread, 1.0)

    def _config(self, frozen: bool = True) -> dict[str, Any]:
        layers = self.hidden if self.particle_net is None else (self.particle_net.width,)
        config = {"classes": len(self.names_), "logits": self.logits, "seed": self.seed}
        config |= {"sizes": [len(self.mean_), *layers]}
        if self.particle_net is None:
            return config
        return {**config, "particle_net": asdict(self.particle_net), "frozen": frozen, "rows": self.batch}

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What the network takes: (x - mean) / width of raw columns x (n, d), float32; for a ParticleNet its constituents as they are."""
        if x.ndim != 2 or x.shape[1] != len(self.mean_):
            raise FeatureError(
                f"the events have shape {x.shape}, the ClassifierAnomaly was trained on {len(self.mean_)} columns"
            )
        if self.particle_net is not None:
            return np.clip(constituent_table(x, self.columns_), -_CLIP, _CLIP)
        return np.clip((x.astype(np.float64) - self.mean_) / self.width_, -_CLIP, _CLIP).astype(np.float32)

    def _outputs(self, x: NDArray[Any]) -> tuple[Array, Array]:
        """Logits (n, classes), divided by the temperature if there is one, and h (n, width) of raw columns x (n, d)."""
        if self._loaded is None:
            self._loaded = load_weights(build_classifier(self._config()), self.weights_)
        k = len(self.names_)
        parts = [np.zeros((0, k + self._config()["sizes"][-1]), np.float32)]
        for start in range(0, len(x), BATCH):
            table, network = self.scale(x[start : start + BATCH]), self._loaded
            jets = self.particle_net is not None
            parts.append(evaluate_jets(network, table) if jets else evaluate(network.both, table))
        out = np.concatenate(parts).astype(np.float64)
        t = 1.0 if self.calibration_ is None else self.calibration_.temperature
        return out[:, :k] / t, np.ascontiguousarray(out[:, k:])

    def scores(self, events: Events) -> dict[str, Array]:
        """Every kind of score by its name, each (n,), of the one network."""
        g, h = self._read(events)
        return {**logit_scores(g, self._anti()), **distances(h, self.moments_)}

    def score(self, events: Events) -> Array:
        """The number that ``kind`` names, shape (n,)."""
        g, h = self._read(events)
        found = distances(h, self.moments_) if self.kind in DISTANCES else logit_scores(g, self._anti())
        return found[self.kind]

    def _read(self, events: Events) -> tuple[Array, Array]:
        self._check_fitted()
        check_scored(events, len(self.mean_), "ClassifierAnomaly")
        return self._outputs(events.x)

    def _check_fitted(self) -> None:
        if not self.weights_:
            raise InputError("this ClassifierAnomaly has not been fitted")

    def _anti(self) -> int:
        """Index of the class ``anti``; an unknown one is a `ConfigError`."""
        if self.anti not in self.names_:
            close = difflib.get_close_matches(self.anti, self.names_, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"anti: no class '{self.anti}'{hint} There are: {', '.join(self.names_)}")
        return self.names_.index(self.anti)

    def network(self) -> Any:
        """One ``torch.nn.Module`` in eval mode that firmware can do: `scale`'s output (n, d) to (n,) or (n, 1).

        "mahalanobis_global": the score, h whitened by one more Linear layer and squared. "anti_class" of two classes: the other
        class's logit less that of ``anti``, which is ln(1 / p - 1): not the score but in its order, and not divided by T. Every other
        kind has an exponential, a largest or a smallest of several numbers: `ConfigError`.
        """
        import torch

        self._check_fitted()
        if self.particle_net is not None:
            raise ConfigError(
                "particle_net: its neighbours are sorted by distance, which firmware cannot do; use the dense network"
            )
        whole = self.kind == "mahalanobis_global"
        if not whole and not (self.kind == "anti_class" and len(self.names_) == 2):
            raise ConfigError(
                f"kind: '{self.kind}' of {len(self.names_)} classes has an exponential or the largest of several numbers, which "
                "firmware has not; use mahalanobis_global, or anti_class of two classes"
            )
        body = load_weights(build_classifier(self._config()), self.weights_).body
        weight, bias = self._whitening() if whole else self._difference()
        last: Any = torch.nn.utils.skip_init(torch.nn.Linear, weight.shape[1], weight.shape[0])
        with torch.no_grad():
            last.weight.copy_(torch.from_numpy(weight))
            last.bias.copy_(torch.from_numpy(bias))
        layers = torch.nn.Sequential(*body, last)
        return squares(layers).eval() if whole else layers.eval()

    def _whitening(self) -> tuple[Array, Array]:
        inverse = self.moments_["global"]
        return inverse, -inverse @ self.moments_["global_mean"]

    def _difference(self) -> tuple[Array, Array]:
        """Weights (1, width) and bias (1,) of the other class's logit less that of ``anti``, as a function of h."""
        mine, other = self._anti(), 1 - self._anti()
        if self.logits == "linear":
            weight, bias = (self.weights_[f"head.{n}"].astype(np.float64) for n in ("weight", "bias"))
            return (weight[other] - weight[mine])[None], (bias[other] - bias[mine])[None]
        c = self.weights_["centres"].astype(np.float64)  # |h - c_mine|^2 - |h - c_other|^2 has no square of h
        return 2 * (c[other] - c[mine])[None], ((c[mine] ** 2).sum() - (c[other] ** 2).sum())[None]

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker leaves the simulation at home once the network is trained, and where it was."""
        home = {"classes": {}, "outliers": {}} if self.weights_ else {}
        return {**self.__dict__, "_loaded": None, "trainer": None, **home}

    def state(self) -> Stateful:
        """Weights by parameter name, scaling, moments of h, what was a prior, how it was trained and calibrated."""
        weights = {f"weights/{k}": v for k, v in self.weights_.items()}
        moments = {f"moments/{k}": v for k, v in self.moments_.items()}
        info = {
            "names": list(self.names_), "priors": self.priors_,
            "record": None if self.record_ is None else self.record_.to_json(),
            "calibration": None if self.calibration_ is None else self.calibration_.to_json(),
        }  # fmt: skip
        return (
            info,
            {"mean": self.mean_, "width": self.width_, "columns": self.columns_, **weights, **moments},
            {},
        )

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""

        def under(prefix: str) -> dict[str, NDArray[Any]]:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        self.mean_, self.width_, self._loaded = arrays["mean"], arrays["width"], None
        self.columns_ = arrays.get(
            "columns", self.columns_
        )  # a model that was stored before there were any has none
        self.weights_, self.moments_ = under("weights/"), under("moments/")
        self.names_, self.priors_ = tuple(info["names"]), info["priors"]
        record, calibration = info["record"], info["calibration"]
        self.record_ = None if record is None else TrainingRecord.from_json(record)
        self.calibration_ = None if calibration is None else Calibration.from_json(calibration)
        return self
