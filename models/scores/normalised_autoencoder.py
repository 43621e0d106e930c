"""The normalised autoencoder: a reconstruction error that is taught to be large wherever no background is (2206.14225)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ...events import Events
from ..arrays import arrays_digest
from ..nesting import Stateful
from ..networks.dense import evaluate, load_weights, one_thread
from ..networks.normalised import Chains, ChainTrainer, build_normalised, normalised_loss, reconstruction
from ..training import Sample, Task, TrainingRecord, TrainPlan, TrainSettings, later, train
from ..training_loop import Alone, finish, task_key
from .coordinates import Coordinates

log = logging.getLogger(__name__)


@dataclass
class NormalisedAutoencoder(Coordinates):
    """Dense autoencoder whose code lies on a unit sphere; score = energy E = mean squared error (2206.14225).

    First it learns to rebuild ``reference`` (``autoencoder_epochs``). Then p = exp(-E / T) / Omega is made likely by
    <E(x+)> - <E(x-)> + ``gamma`` <E(x-)^2> + ``decay`` |W|^2, where x- come from Markov chains that begin on the autoencoder's
    manifold (`Chains`). ``energies_``: mean energies of both samples per epoch, which meet where it has converged.

    Published for jet images with convolutions and a sigmoid at the end; here for feature vectors: dense layers, no spectral norm on
    the last of them (see `normalised`), the exact largest singular value instead of its estimate, a fixed slope of the
    activation, ``chains.count`` negatives a step instead of as many as events. The sampling is the published heuristic (step and
    noise chosen apart). The second training runs in this process, whatever ``trainer`` asks for: the result is the same.
    """

    paper: ClassVar[str] = "2206.14225"

    hidden: tuple[int, ...] = (64, 32)
    latent: int = 3
    autoencoder_epochs: int = 100
    normalised_epochs: int = 50
    batch: int = 2048
    learning_rate: float = 1e-3
    normalised_rate: float = 1e-5
    gamma: float = 1.0
    decay: float = 1e-8
    chains: Chains = field(default_factory=Chains)
    seed: int = 0
    shards: int = 4
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    energies_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 2)), repr=False, compare=False
    )
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _loaded: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.chains, Mapping):  # from a configuration or a model folder
            self.chains = Chains(**self.chains)
        if not self.hidden or self.latent < 2 or min(self.gamma, self.decay) < 0:
            raise ConfigError(
                f"found hidden {self.hidden}, latent {self.latent}, gamma {self.gamma}, decay {self.decay}; expected at least one "
                "hidden layer, two latent numbers (a sphere of one is two points) and nothing negative"
            )

    @property
    def epochs(self) -> int:
        """What progress counts: the epochs of both trainings."""
        return self.autoencoder_epochs + self.normalised_epochs

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `InputError` on what cannot be learnt from, `FitError` if a loss diverges.
        """
        v, weight = self._learn_coordinates(reference, self.seed)
        x = v.astype(np.float32)
        first = self.rebuild(x, weight)
        self.normalise(x, weight, first)
        self._learn_floor(v)
        return self

    def rebuild(self, x: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Weights after the first training, on coordinates x (n, d)."""
        plan = self.trainer or TrainPlan()
        settings = replace(plan.settings(self, self.shards), epochs=self.autoencoder_epochs)
        task = Task(build_normalised, self._config(x.shape[1]), reconstruction, Sample(x, weight=weight))
        folder = None if plan.folder is None else plan.folder / "autoencoder"
        return train(task, settings, folder, plan.progress).state

    def normalise(
        self, x: NDArray[np.float32], weight: NDArray[np.float64], first: Mapping[str, NDArray[Any]]
    ) -> None:
        """The second training, on coordinates x (n, d), from the weights ``first``."""
        import torch

        plan = self.trainer or TrainPlan()
        if plan.backend == "ray":
            log.info("NormalisedAutoencoder makes its negative events in this process, not on workers of Ray")
        more = {
            "chains": asdict(self.chains), "gamma": self.gamma, "decay": self.decay, "epochs": self.normalised_epochs,
            "epoch_steps": -(-len(x) // self.batch), "start": arrays_digest(first),
        }  # fmt: skip
        sample = Sample(x, weight[:, None], weight)
        task = Task(build_normalised, self._config(x.shape[1]) | more, normalised_loss, sample, draws=True)
        settings = TrainSettings(
            self.normalised_epochs, self.batch, self.normalised_rate, self.seed, shards=1
        )
        folder = None if plan.folder is None else plan.folder / "normalised"
        key = task_key(task, settings) if folder is not None else ""
        with one_thread():
            trainer = ChainTrainer(task, settings, Alone())
            with torch.no_grad():
                for name, parameter in trainer.network.named_parameters():
                    parameter.copy_(torch.from_numpy(np.array(first[name])))
            trainer.run(folder, key, later(plan.progress, self.autoencoder_epochs))
        state = trainer.done.kept[0][1]
        self.energies_ = state["diary"]
        self.weights_ = {k: state[k] for k in first}
        self.record_, self._loaded = finish(trainer.done, task, settings).record, None

    def _config(self, columns: int) -> dict[str, Any]:
        return {"widths": [columns, *self.hidden], "latent": self.latent, "seed": self.seed}

    def _odd(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._loaded is None:
            self._loaded = load_weights(build_normalised(self._config(v.shape[1])), self.weights_)
        return evaluate(self._loaded, v.astype(np.float32)).astype(np.float64)

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "trainer": None, "_loaded": None}

    def state(self) -> Stateful:
        """The coordinates, weights by parameter name, the mean energies, and how it was trained."""
        info, arrays, texts = super().state()
        record = None if self.record_ is None else self.record_.to_json()
        arrays |= {"energies": self.energies_} | {f"weights/{k}": v for k, v in self.weights_.items()}
        return info | {"record": record}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        super().restore(info, arrays, texts)
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.energies_, self._loaded = arrays["energies"], None
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        return self
