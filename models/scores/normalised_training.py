"""What normalised autoencoders share: two trainings, first to rebuild and then to normalise, and how they are kept (2206.14225)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ..arrays import arrays_digest
from ..nesting import Stateful
from ..networks.dense import one_thread
from ..networks.normalised import Chains, ChainTrainer, normalised_loss, reconstruction
from ..training import Sample, Task, TrainingRecord, TrainPlan, TrainSettings, later, train
from ..training_checkpoint import finish, task_key
from ..training_loop import Alone

log = logging.getLogger(__name__)


@dataclass
class NormalisedTraining:
    """Settings of both trainings and what they learn.

    First the network learns to rebuild the reference (``autoencoder_epochs``). Then p = exp(-E / T) / Omega is made likely by
    <E(x+)> - <E(x-)> + ``gamma`` <E(x-)^2> + ``decay`` |W|^2, where x- come from Markov chains that begin on the autoencoder's
    manifold (`Chains`). ``energies_``: mean energies of both samples per epoch, which meet where it has converged.
    ``normalised_epochs`` 0: only the first training, a plain autoencoder with its code on a sphere.

    ``held`` chooses the epoch: 0, as published in 2206.14225, keeps the last one. Above, it is the part of the reference that the
    second training does not see, and the epoch is kept whose negatives are nearest to it by their Wasserstein distance, the criterion
    of 2510.02168, which needs no signal (``record_.validation_loss``: the distance after every epoch, in units of a column). Not as
    published there: the distance is the sliced one (`sliced_distance`), and no part of the loss.

    ``restarts``: how many times both trainings are done, each from other first weights; that with the least distance of all is kept
    (``distances_``, (restarts,), each along directions of its own). Not published; what such an autoencoder finds depends on its
    first weights.

    Who inherits names in ``_build`` the function that makes its network.
    """

    more_papers: ClassVar[tuple[str, ...]] = ("2510.02168",)
    _build: ClassVar[Callable[[Mapping[str, Any]], Any]]

    latent: int = 3
    autoencoder_epochs: int = 100
    normalised_epochs: int = 50
    batch: int = 2048
    learning_rate: float = 1e-3
    normalised_rate: float = 1e-5
    gamma: float = 1.0
    decay: float = 1e-8
    held: float = 0.0
    restarts: int = 1
    chains: Chains = field(default_factory=Chains)
    seed: int = 0
    shards: int = 4
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    weights_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    energies_: NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 2)), repr=False, compare=False
    )
    distances_: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)
    _loaded: Any = field(default=None, repr=False, compare=False)

    def _check_settings(self) -> None:
        if isinstance(self.chains, Mapping):  # from a configuration or a model folder
            self.chains = Chains(**self.chains)
        if self.latent < 2 or min(self.gamma, self.decay) < 0:
            raise ConfigError(
                f"found latent {self.latent}, gamma {self.gamma}, decay {self.decay}; expected two latent numbers (a sphere of one is "
                "two points) and nothing negative"
            )
        if self.autoencoder_epochs < 1 or self.normalised_epochs < 0:
            raise ConfigError(
                f"found autoencoder_epochs {self.autoencoder_epochs}, normalised_epochs {self.normalised_epochs}; expected at least 1, "
                "and at least 0 (0: a plain autoencoder)"
            )
        if not 0 <= self.held < 1:
            raise ConfigError(f"held: found {self.held}, expected a part of the events from 0 to below 1")
        if self.restarts < 1 or (self.restarts > 1 and not (self.held and self.normalised_epochs)):
            raise ConfigError(
                f"restarts: found {self.restarts}, expected 1, or more with normalised_epochs and a part of the events held: the "
                "distance to it chooses"
            )

    @property
    def epochs(self) -> int:
        """What progress counts: the epochs of both trainings."""
        return self.restarts * (self.autoencoder_epochs + self.normalised_epochs)

    def _learn(self, x: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
        """Both trainings on x (n, d) with ``weight`` (n,), as often as asked for."""
        if self.restarts == 1:
            self._learn_once(x, weight)
            self.distances_ = self._least()
            return
        made = [self._restart(k) for k in range(self.restarts)]
        for one in made:
            one._learn(x, weight)
        self.distances_ = np.concatenate([one.distances_ for one in made])
        best = made[int(self.distances_.argmin())]
        self.weights_, self.energies_, self.record_ = best.weights_, best.energies_, best.record_
        self._loaded = None

    def _restart(self, k: int) -> Self:
        """Training ``k`` alone: other first weights and draws, the same events held; the first is that of this seed."""
        seed = int(np.random.SeedSequence([self.seed, k]).generate_state(1)[0] >> 1) if k else self.seed
        plan = self.trainer
        if plan is not None:
            folder = plan.folder if k == 0 or plan.folder is None else plan.folder / f"restart_{k}"
            plan = replace(
                plan, folder=folder, progress=later(plan.progress, k * self.epochs // self.restarts)
            )
        return replace(self, seed=seed, restarts=1, trainer=plan)

    def _least(self) -> NDArray[np.float64]:
        """The least distance of this training, (1,); (0,) where none was measured."""
        found = () if self.record_ is None else self.record_.validation_loss
        return np.array([min(found)] if found else [], dtype=np.float64)

    def _learn_once(self, x: NDArray[np.float32], weight: NDArray[np.float64]) -> None:
        first = self.rebuild(x, weight)
        if self.normalised_epochs > 0:
            self.normalise(x, weight, first)
        else:
            self.weights_, self.energies_, self._loaded = first, np.zeros((0, 2)), None

    def rebuild(self, x: NDArray[np.float32], weight: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Weights after the first training, on x (n, d)."""
        plan = self.trainer or TrainPlan()
        settings = replace(plan.settings(self, self.shards), epochs=self.autoencoder_epochs)
        task = Task(type(self)._build, self._config(x.shape[1]), reconstruction, Sample(x, weight=weight))
        folder = None if plan.folder is None else plan.folder / "autoencoder"
        result = train(task, settings, folder, plan.progress)
        self.record_ = result.record
        return result.state

    def normalise(
        self, x: NDArray[np.float32], weight: NDArray[np.float64], first: Mapping[str, NDArray[Any]]
    ) -> None:
        """The second training, on x (n, d), from the weights ``first``."""
        import torch

        plan = self.trainer or TrainPlan()
        if plan.backend == "ray":
            log.info(
                "%s makes its negative events in this process, not on workers of Ray", type(self).__name__
            )
        task = self._second_task(x, weight, first)
        settings = TrainSettings(
            self.normalised_epochs, self.batch, self.normalised_rate, self.seed, shards=1,
            keep="best" if self.held else "last",
        )  # fmt: skip
        folder = None if plan.folder is None else plan.folder / "normalised"
        key = task_key(task, settings) if folder is not None else ""
        with one_thread():
            trainer = ChainTrainer(task, settings, Alone())
            with torch.no_grad():
                for name, parameter in trainer.network.named_parameters():
                    parameter.copy_(torch.from_numpy(np.array(first[name])))
            trainer.run(folder, key, later(plan.progress, self.autoencoder_epochs))
        state = trainer.done.kept[0][1]
        self.energies_ = trainer.state()["diary"]
        self.weights_ = {k: state[k] for k in first}
        self.record_, self._loaded = finish(trainer.done, task, settings).record, None

    def _second_task(
        self, x: NDArray[np.float32], weight: NDArray[np.float64], first: Mapping[str, NDArray[Any]]
    ) -> Task:
        """What the second training learns; the last events, in an order that their identities decided, are held out."""
        rows = len(x) - round(self.held * len(x))
        if self.held and not 0 < rows < len(x):
            raise InputError(
                f"reference: of {len(x)} events the part {self.held} cannot be held out; give more events or another ``held``"
            )
        more = {
            "chains": asdict(self.chains), "gamma": self.gamma, "decay": self.decay, "epochs": self.normalised_epochs,
            "epoch_steps": -(-rows // self.batch), "start": arrays_digest(first),
        } | ({"compared": x.shape[1]} if self.held else {})  # fmt: skip
        sample = Sample(x[:rows], weight[:rows, None], weight[:rows])
        held = Sample(x[rows:], weight=weight[rows:]) if self.held else None
        return Task(
            type(self)._build, self._config(x.shape[1]) | more, normalised_loss, sample, held, draws=True
        )

    def _config(self, columns: int) -> dict[str, Any]:
        """What the network is built from, for inputs of so many columns."""
        raise TypeError(f"{type(self).__name__} says not what its network of {columns} inputs is made from")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch module nor where it was trained."""
        return {**self.__dict__, "trainer": None, "_loaded": None}

    def _trained(self) -> Stateful:
        """Weights by parameter name, the mean energies, and how it was trained."""
        record = None if self.record_ is None else self.record_.to_json()
        arrays = {"energies": self.energies_, "distances": self.distances_} | {
            f"weights/{k}": v for k, v in self.weights_.items()
        }
        return {"record": record}, arrays, {}

    def _take_back(self, info: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Undo `_trained`."""
        self.weights_ = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
        self.energies_, self.distances_, self._loaded = arrays["energies"], arrays["distances"], None
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
