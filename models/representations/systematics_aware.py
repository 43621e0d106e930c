"""An embedding of known classes that also knows how a systematic uncertainty moves it (the systematics-aware embedding, Tong et al.)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, FeatureSet, in_identity_order
from ..nesting import restore_under, state_under
from ..networks.dense import evaluate, load_weights
from ..networks.essl import shifted
from ..networks.systematics import build_ratio
from ..training import Sample, State, Task, TrainingRecord, TrainPlan, train
from .cl4ad import Cl4ad, build_cl4ad, cl4ad_loss
from .essl import scaled_columns
from .raw_encoder import check_sizes

log = logging.getLogger(__name__)

#: Range of nu in training, in standard deviations.
LARGEST = 3.0


def build_aware(config: Mapping[str, Any]) -> Any:
    """An embedding with its ratio as trained before, to be trained on. ``config``: ``embedding`` (of `build_cl4ad`), ``ratio`` (of
    `build_ratio`), ``start`` (weights by name), ``frozen`` (the embedding stays), ``size`` and ``scaled`` of the systematic,
    ``weight`` and ``decay``."""
    import torch
    from torch import nn

    class Aware(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.ratio = build_cl4ad(config["embedding"]), build_ratio(config["ratio"])
            self.inputs, self.size = self.encoder.inputs, float(config["size"])
            self.jet, self.plain = (self.inputs.kind == kind for kind in ("constituents", "columns"))
            self.frozen, self.weight, self.decay = config["frozen"], config["weight"], config["decay"]
            self.register_buffer(
                "scaled", torch.tensor(config["scaled"], dtype=torch.int64), persistent=False
            )

        def represent(self, x: Any, nu: Any) -> Any:
            """Latent vectors of raw columns x (B, d) with the systematic at nu (B,)."""
            if self.plain:
                return self.encoder.encode(*self.inputs(shifted(self, x, nu)))
            return self.encoder.encode(*self.inputs.of_objects(shifted(self, self.inputs.objects(x), nu)))

    network = Aware()
    start = {name: torch.tensor(value, dtype=torch.float32) for name, value in config["start"].items()}
    network.load_state_dict(start, strict=not start)
    return network


def aware_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:
    """The embedding's loss of a batch x (n, d) with classes y, plus ``weight`` times the cross entropy of "shifted by nu or not",
    delta its logit, plus ``decay`` times the squares of the ratio's weights; given to each event, (n,). Frozen: without the first.

    A shifted event and another as it is carry the same nu. Batch normalisation keeps its means and variances.
    """
    import torch

    nothing = 0.0 * sum(p.sum() for p in network.encoder.parameters())
    if len(x) < 2:  # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * (nothing + sum(p.sum() for p in network.ratio.parameters()))
    for layer in network.encoder.layers:
        layer.eval()
    nu = LARGEST * (2 * torch.rand((len(x),), generator=generator, device=x.device) - 1)
    with torch.set_grad_enabled(not network.frozen):
        moved, still = network.represent(x, nu), network.represent(x, torch.zeros_like(nu)).roll(1, dims=0)
    delta = [network.ratio(torch.cat([h, nu[:, None]], dim=1)) for h in (moved, still)]
    told = 0.5 * (torch.nn.functional.softplus(-delta[0]) + torch.nn.functional.softplus(delta[1])).mean()
    squares = sum(p.square().sum() for p in network.ratio.parameters() if p.ndim > 1)
    first = nothing if network.frozen else cl4ad_loss(network.encoder, x, y, generator)[0]
    return (first + nothing + network.weight * told + network.decay * squares).expand(len(x))


@dataclass
class SystematicsAware:
    """`Cl4ad`'s embedding, fine-tuned by a classifier of "shifted by nu or not" (Tong et al., APS 2026, of which only an abstract is
    public: all beyond it, a supervised contrastive embedding fine-tuned by a parameterised classification, is chosen here).

    The systematic is a scale, as in `Essl`: pT of jets (of constituents; of plain ``columns``) times 1 + ``size`` nu, nu in standard
    deviations, MET recoiling; one, where the method has several. delta(h, nu) = nu a_1(h) + nu^2 a_2(h), each a network ``hidden`` with
    tanh, so that nothing is said at nu = 0. An event at nu, uniform in [-3, 3], and another as it is carry the same nu; loss = the
    embedding's + ``weight`` x their cross entropy + ``decay`` x the squares of the ratio's weights. After the embedding's own
    training come ``head_epochs`` of the ratio alone and ``epochs`` of everything at a tenth of ``learning_rate``.

    `log_ratio` is then ln p(h | nu) / p(h | 0) of the mixture that was learnt from, its exponential a weight that makes nominal events
    shifted ones; look at the weights' mean, which is 1 where the ratio is right. The latent space, which `transform` gives, moves
    smoothly with nu. Classes go to ``embedding``.
    """

    paper: ClassVar[str] = ""

    embedding: Cl4ad = field(default_factory=Cl4ad)
    columns: tuple[str, ...] = ()
    size: float = 0.05
    hidden: tuple[int, ...] = (32, 32)
    weight: float = 1.0
    decay: float = 1e-5
    head_epochs: int = 10
    epochs: int = 10
    batch: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    center_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    spread_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    weights_: State = field(default_factory=dict, repr=False, compare=False)
    head_record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _ratio: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_sizes(hidden=self.hidden, head_epochs=self.head_epochs, epochs=self.epochs)
        if not min(self.size, self.weight, self.learning_rate) > 0 or not self.decay >= 0:
            raise ConfigError(
                f"found size {self.size}, weight {self.weight}, learning_rate {self.learning_rate}, decay {self.decay}; expected the "
                "first three above 0 and a decay of at least 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn from ``reference`` and the embedding's classes; ``data`` is not looked at.

        Raises what `Cl4ad.fit` does, and `FeatureError` where the columns do not allow the systematic.
        """
        scaled_columns(reference.features.names, self.columns, "scale")
        self.embedding.trainer = self._plan("embedding")
        made = self.embedding.fit(reference, data)
        self.center_, self.spread_, self._ratio = made.center_, made.spread_, None
        start = {f"encoder.{k}": v for k, v in made.weights_.items()}
        sample = Sample(*made._rows(reference))
        start, self.head_record_ = self._train(sample, start, frozen=True)
        start, self.record_ = self._train(sample, start, frozen=False)
        weights = {k.removeprefix("encoder."): v for k, v in start.items() if k.startswith("encoder.")}
        made.weights_, made._network = {**made.weights_, **weights}, None  # what no gradient moved stays
        made._standardise(in_identity_order(reference, made.seed))
        self.weights_ = {k.removeprefix("ratio."): v for k, v in start.items() if k.startswith("ratio.")}
        return self

    def _plan(self, part: str) -> TrainPlan:
        plan = self.trainer or TrainPlan()
        return replace(plan, folder=None if plan.folder is None else plan.folder / part)

    def _train(self, sample: Sample, start: State, *, frozen: bool) -> tuple[State, TrainingRecord]:
        """The weights after one more training, from those of ``start``."""
        made = self.embedding
        config = {
            "embedding": made._config(), "ratio": self._ratio_config(), "frozen": frozen, "size": self.size, "weight": self.weight,
            "decay": self.decay, "scaled": scaled_columns(made._known().names, self.columns, "scale"),
            "start": {name: value.tolist() for name, value in start.items()},
        }  # fmt: skip
        how = SimpleNamespace(
            epochs=self.head_epochs if frozen else self.epochs, batch=self.batch, seed=self.seed,
            learning_rate=self.learning_rate * (1.0 if frozen else 0.1),
        )  # fmt: skip
        plan = self._plan("ratio" if frozen else "everything")
        task = Task(build_aware, config, aware_loss, sample, draws=True)
        result = train(task, plan.settings(how, 1), plan.folder, plan.progress)
        return {**start, **result.state}, result.record

    def _ratio_config(self) -> dict[str, Any]:
        return {
            "latent": self.embedding.latent, "hidden": list(self.hidden), "center": self.center_.tolist(),
            "spread": self.spread_.tolist(), "seed": self.seed + 1,
        }  # fmt: skip

    def features(self, before: FeatureSet) -> FeatureSet:
        """The feature set of the embedding."""
        return self.embedding.features(before)

    def transform(self, events: Events) -> Events:
        """The same events with the standardised latent vector as features, (n, width)."""
        return self.embedding.transform(events)

    def log_ratio(self, events: Events, nu: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """ln p(h | nu) / p(h | 0) of events as they are, (n,); ``nu`` one number or (n,), in standard deviations, at most 3 in size."""
        if not self.weights_:
            raise InputError("this SystematicsAware has not been fitted")
        if np.abs(nu).max(initial=0.0) > LARGEST:
            raise InputError(f"nu: found up to {np.abs(nu).max():g}, learnt were -{LARGEST:g} to {LARGEST:g}")
        self.transform(events.take(slice(0, 1)))  # checks the columns
        if self._ratio is None:
            self._ratio = load_weights(build_ratio(self._ratio_config()), self.weights_)
        h = self.embedding._latent(events.x)
        rows = np.concatenate([h, np.broadcast_to(nu, len(h)).astype(np.float32)[:, None]], axis=1)
        return evaluate(self._ratio, rows).astype(np.float64)

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "_ratio": None, "trainer": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The embedding's state, the ratio's weights, and how both were trained."""
        info, arrays, texts = state_under("embedding", self.embedding)
        records = {
            name: None if record is None else record.to_json()
            for name, record in (("head_record", self.head_record_), ("record", self.record_))
        }
        own = {f"ratio/{name}": value for name, value in self.weights_.items()}
        return (
            {**records, "embedding": info},
            {**arrays, **own, "center": self.center_, "spread": self.spread_},
            texts,
        )

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.embedding = restore_under("embedding", self.embedding, info["embedding"], arrays, texts)
        self.center_, self.spread_, self._ratio = arrays["center"], arrays["spread"], None
        self.weights_ = {k.removeprefix("ratio/"): v for k, v in arrays.items() if k.startswith("ratio/")}
        records = (
            None if info[k] is None else TrainingRecord.from_json(info[k]) for k in ("head_record", "record")
        )
        self.head_record_, self.record_ = records
        return self
