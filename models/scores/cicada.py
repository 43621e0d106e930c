"""CICADA, an anomaly score of calorimeter images: a student that imitates a convolutional autoencoder (2310.06047)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError, FitError, InputError
from ...events import Events, in_identity_order
from ..augmentations.regions import exposed
from ..device import chosen
from ..networks.cicada import (
    ROWS,
    StudentTypes,
    build_student,
    build_teacher,
    student_layers,
    student_loss,
    target,
    teacher_errors,
    teacher_loss,
)
from ..networks.dense import load_weights, one_thread
from ..training import Sample, Task, TrainingRecord, TrainPlan, TrainSettings
from ..training_checkpoint import finish
from ..training_loop import Alone, Trainer
from ..training_task import Schedule
from .weak_trees import check_scored, check_training

log = logging.getLogger(__name__)

#: Part of the events that the best epochs are chosen by: 10 of 60 in the published split.
_VALIDATION = 1 / 6
#: Events, by their effective number, that a threshold is worth knowing by.
_MATCHED = 25
#: Rounds with which no zero of `Pruner` comes in the last one.
_PRUNED_ROUNDS = 3
#: Largest input and output, where nothing is rounded.
_FULL = 1023.0


def threshold_of(value: NDArray[np.float64], weight: NDArray[np.float64], part: float) -> float:
    """The number above which lies at most ``part`` of the weight of value (n,)."""
    order = np.argsort(-value, kind="stable")
    above = np.cumsum(weight[order]) / weight.sum()
    return float(value[order][min(np.searchsorted(above, part, side="right"), len(value) - 1)])


def _advance(trainer: Trainer, epochs: int) -> None:
    trainer.settings = replace(trainer.settings, epochs=trainer.done.epoch + epochs)
    trainer.run(None, "", None)


@dataclass
class Cicada:
    """Teacher: convolutional autoencoder; its target 32 ln MSE is learnt by a student d - hidden - 1, which is the score.

    Topologies, target, losses and the loop are those of the public code: ``rounds`` times ``teacher_epochs`` of the teacher on
    ``reference``, its best epoch so far taken, the targets made anew where it is another, ``student_epochs`` of the student by
    mean absolute error, Adam throughout. Published lengths: 100 rounds of 1 and 10 epochs, ``events`` None (all); the defaults
    take some four minutes of one core. ``version`` 1: a dense layer with folded batch normalisation, a last layer without bias;
    2: four convolutions 2 x 2 of stride 2 before it. ``dropout``: published is 1/8 of the hidden units (and 8/9 of that part of
    the convolutions), with which the student's spectrum ends below its teacher's. With ``quantised`` the student is trained in
    the ``types`` of its firmware, and the score is that firmware's bit for bit; ``pruned`` is the part of the dense layer's
    weights that are zero, the smallest, taken out in the course of the training (`Pruner`).

    Of its own: events that the student is exposed to (``outliers``, as a part of ``reference``) are made from ``reference``, see
    `exposed` (``deposits``: range in hardware steps), where the published training has simulated ones, so that no signal is a
    prior; the teacher counts events by weight and the student each alike; the student's learning rate falls by ``schedule``
    (published is "constant"), and its best epoch is one of the last round; kernels begin as one region minus a third of each of
    the others, not as random numbers; batch normalisation begins at 8 and not at 1, and its means are those of all training
    events after the last epoch; with ``match`` the last layer is then scaled by one number, such that the student's threshold
    above which lies this part of all ``reference`` (by weight) is the teacher's: 3.5e-5 is 1 kHz of 2544 bunches.
    Columns are whole hardware steps in the order of ``shape``, phi-major, and are not scaled.
    """

    paper: ClassVar[str] = "2310.06047"

    version: Literal[1, 2] = 2
    hidden: int = 16
    filters: tuple[int, int] = (20, 30)
    latent: int = 80
    upsample: Literal["nearest", "transposed"] = "nearest"
    shape: tuple[int, int] = (18, 14)
    events: int | None = 60_000
    rounds: int = 10
    teacher_epochs: int = 1
    student_epochs: int = 10
    teacher_batch: int = 512
    student_batch: int = 1024
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    dropout: float = 0.0
    outliers: float = 0.1
    deposits: tuple[float, float] = (20.0, 1000.0)
    quantised: bool = True
    types: StudentTypes = field(default_factory=StudentTypes)
    pruned: float = 0.0
    match: float | None = None
    seed: int = 0
    trainer: TrainPlan | None = field(default=None, repr=False, compare=False)
    columns_: int = field(default=0, repr=False)
    offset_: NDArray[Any] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    shift_: NDArray[Any] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False, compare=False
    )
    layers_: list[tuple[NDArray[Any], NDArray[Any] | None]] = field(
        default_factory=list, repr=False, compare=False
    )
    teacher_: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False, compare=False)
    record_: TrainingRecord | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.types, Mapping):  # from a configuration or a model folder
            self.types = StudentTypes(**self.types)
        self.shape, self.filters = (self.shape[0], self.shape[1]), (self.filters[0], self.filters[1])
        if any(s < 2 or s % 2 for s in self.shape) or min(self.rounds, self.hidden, self.latent) < 1:
            raise ConfigError(
                f"found shape {self.shape}, rounds {self.rounds}, hidden {self.hidden}, latent {self.latent}; expected even "
                "numbers of regions and at least 1 of the others"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(
                f"dropout: found {self.dropout}, expected a part of the units from 0 to below 1"
            )
        if not (0 <= self.pruned < 1 and (self.match is None or 0 < self.match < 1)):
            raise ConfigError(
                f"found pruned {self.pruned}, match {self.match}; expected a part of the weights from 0 to below 1, and a part of "
                "the events between 0 and 1, or null"
            )
        if self.pruned and self.rounds < _PRUNED_ROUNDS:
            raise ConfigError(
                f"found {self.rounds} rounds; pruned needs at least {_PRUNED_ROUNDS}, so that the last has all zeros that are asked for"
            )
        if not (0 <= self.outliers <= 10 and 0 < self.deposits[0] < self.deposits[1]):
            raise ConfigError(
                f"found outliers {self.outliers}, deposits {self.deposits}; expected a part of the events from 0 to 10, and a "
                "rising range of positive numbers"
            )

    @property
    def epochs(self) -> int:
        """What progress counts: rounds."""
        return self.rounds

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Both networks are trained in this process, whatever ``trainer`` asks for: the result is the same. Raises `FeatureError`
        where the columns are no image of ``shape``.
        """
        check_training(reference, "reference")
        d = self.shape[0] * self.shape[1]
        if len(reference.features) != d or len(reference) < 2:
            raise FeatureError(
                f"Cicada needs {self.shape[0]} x {self.shape[1]} = {d} columns and at least 2 events; found "
                f"{len(reference)} events of {len(reference.features)} columns ('{reference.features.name}'); use features: regions"
            )
        plan = self.trainer or TrainPlan()
        if plan.backend == "ray":
            log.info("Cicada trains two networks in turns in this process, not on workers of Ray")
        log.info("prior: %s", self.prior)
        reference = in_identity_order(reference, self.seed)
        learnt = reference.take(np.arange(len(reference))[: self.events])
        self.columns_, self.offset_, self.shift_ = d, np.zeros(d), np.zeros(d, dtype=np.int64)
        with one_thread():
            self._distil(self.scale(learnt.x), learnt.weight, plan)
            if self.match is not None:
                self._scale_last(reference, self.match)
        return self

    def _settings(self, epochs: int, batch: int, schedule: Schedule = "constant") -> TrainSettings:
        return TrainSettings(
            self.rounds * epochs,
            batch,
            self.learning_rate,
            self.seed,
            shards=1,
            keep="best",
            schedule=schedule,
        )

    @property
    def prior(self) -> str:
        """What the student was told of the odd, for print."""
        if self.outliers == 0:
            return "none: the student sees the reference alone"
        return (
            f"{100 * self.outliers:g} % more events for the student, made of the reference: scaled by 1 to 4, added in pairs, regions of "
            f"different events, deposits of {self.deposits[0]:g} to {self.deposits[1]:g} steps; no signal"
        )

    def _exposed(self, images: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """What the student sees of training and validation: the images, and after them those that it is exposed to."""
        rng = np.random.default_rng([self.seed, 0xC1CADA])
        full = self.types.of("input").high * self.types.of("input").step if self.quantised else _FULL
        how = (self.shape, full, self.deposits)
        return {
            k: np.concatenate([v, self.scale(exposed(v, round(self.outliers * len(v)), rng, *how))])
            for k, v in images.items()
        }

    def _distil(self, x: NDArray[np.float32], weight: NDArray[np.float64], plan: TrainPlan) -> None:
        """The alternating loop; x (n, d) as `network` takes it, in an order that no row of it decides."""
        import torch

        held = max(1, round(_VALIDATION * len(x)))
        images = {"held": x[:held], "train": x[held:]}
        weights = {"held": weight[:held], "train": weight[held:]}
        more = self._exposed(images)
        learnt, validated = (Sample(images[k], weight=weights[k]) for k in ("train", "held"))
        teacher = Trainer(
            Task(build_teacher, self._teacher_config(), teacher_loss, learnt, validated),
            self._settings(self.teacher_epochs, self.teacher_batch),
            Alone(),
        )
        judge, judged = build_teacher(self._teacher_config()).to(chosen()), 0
        shown = {k: torch.from_numpy(v).to(chosen()) for k, v in more.items()}
        wanted: dict[str, NDArray[np.float32]] = {}
        student: Trainer | None = None
        for done in range(self.rounds):
            _advance(teacher, self.teacher_epochs)
            epoch, self.teacher_ = teacher.done.kept[0]
            if epoch != judged:
                judged, judge = epoch, load_weights(judge, self.teacher_)
                wanted = {k: target(teacher_errors(judge, v)).astype(np.float32) for k, v in shown.items()}
            if student is None:
                train, validation = (Sample(more[k], wanted[k]) for k in ("train", "held"))
                config = self._student_config(float(np.mean(wanted["train"])))
                task = Task(build_student, config, student_loss, train, validation, draws=True)
                student = Trainer(
                    task, self._settings(self.student_epochs, self.student_batch, self.schedule), Alone()
                )
            student.train["y"] = torch.from_numpy(wanted["train"]).to(chosen())
            student.held["y"] = torch.from_numpy(wanted["held"]).to(chosen())
            student.done.kept = []  # epochs that learnt from other targets are no candidates
            _advance(student, self.student_epochs)
            if plan.progress is not None:
                plan.progress(done + 1, student.done.train_loss[-1], student.done.validation_loss[-1])
        assert student is not None
        network = load_weights(build_student(self._student_config(1.0)), student.done.kept[0][1])
        self.layers_ = student_layers(network, torch.from_numpy(more["train"]))
        task = Task(build_student, {}, student_loss, Sample(more["train"], wanted["train"]))
        self.record_ = finish(student.done, task, student.settings).record

    def _scale_last(self, events: Events, part: float) -> None:
        """Scale the last layer to bring the threshold that ``part`` of the events is above to the teacher's."""
        found, wanted, weight = self.score(events), self.teacher_score(events), events.weight
        there, aim = (threshold_of(v, weight, part) for v in (found, wanted))
        above = weight[wanted > aim]
        n = above.sum() ** 2 / (above**2).sum() if len(above) else 0.0
        if n < _MATCHED or there <= 0:
            raise FitError(
                f"match {part:g} is worth {n:.0f} events above the teacher's threshold {aim:g} (the student's: {there:g}); "
                f"expected at least {_MATCHED} and a student above 0: take more events, a larger part, or match: null"
            )
        last = self.layers_[-1][0] * (aim / there)
        if self.quantised:
            kind = self.types.of("last")
            last = kind.to_float(kind.from_float(last))
        self.layers_[-1] = (last, None)

    def _teacher_config(self) -> dict[str, Any]:
        names = ("shape", "filters", "latent", "upsample", "seed")
        return {k: getattr(self, k) for k in names}

    def _student_config(self, level: float) -> dict[str, Any]:
        first = self.dropout * 8 / 9 if self.version == 2 else 0.0
        return {
            "shape": self.shape, "kernels": 4 if self.version == 2 else 0, "hidden": self.hidden, "seed": self.seed,
            "dropout": (first, self.dropout), "types": asdict(self.types) if self.quantised else None, "level": level,
            "pruned": self.pruned,
        }  # fmt: skip

    def scale(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """What `network` takes: the columns x (n, d) as they are, in the input's type where the student has types."""
        self._check()
        if x.ndim != 2 or x.shape[1] != self.columns_:
            raise FeatureError(
                f"the events have shape {x.shape}, the Cicada was trained on {self.columns_} columns"
            )
        if not self.quantised:
            return np.ascontiguousarray(x, dtype=np.float32)
        kind = self.types.of("input")
        return kind.to_float(kind.from_float(np.asarray(x, np.float64))).astype(np.float32)

    def score(self, events: Events) -> NDArray[np.float64]:
        """The student's output, shape (n,): an estimate of 32 ln MSE; with ``quantised`` a multiple of its type's last bit."""
        import torch

        self._check()
        check_scored(events, self.columns_, "Cicada")
        kinds = ["activation"] * (len(self.layers_) - 1) + ["score"]
        parts = [np.zeros(0)]
        with one_thread(), torch.inference_mode():
            for start in range(0, len(events), ROWS):
                part = self.scale(events.x[start : start + ROWS])
                value: Any = torch.zeros((ROWS, self.columns_), dtype=torch.float64)
                value[: len(part)] = torch.from_numpy(part)
                for (weight, bias), name in zip(self.layers_, kinds, strict=True):
                    add = None if bias is None else torch.from_numpy(bias)
                    value = torch.relu(torch.nn.functional.linear(value, torch.from_numpy(weight), add))
                    if self.quantised:
                        kind = self.types.of(name)
                        value = torch.from_numpy(kind.to_float(kind.from_float(value.numpy())))
                parts.append(value.numpy()[: len(part), 0])
        return np.concatenate(parts)

    def teacher_score(self, events: Events) -> NDArray[np.float64]:
        """The target itself, shape (n,): 32 ln MSE of the autoencoder, rounded and clipped as `target` says."""
        import torch

        self._check()
        check_scored(events, self.columns_, "Cicada")
        network = load_weights(build_teacher(self._teacher_config()), self.teacher_)
        with one_thread():
            return target(teacher_errors(network, torch.from_numpy(self.scale(events.x))))

    def network(self) -> Any:
        """The student as one ``torch.nn.Module`` in eval mode: Linear and ReLU in turns, (n, d) to (n,), without rounding.

        Convolutions whose stride is their size are dense layers that are mostly zero.
        """
        import torch

        self._check()
        parts: list[Any] = []
        for weight, bias in self.layers_:
            layer: Any = torch.nn.utils.skip_init(
                torch.nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None
            )
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight))
                if bias is not None:
                    layer.bias.copy_(torch.from_numpy(bias))
            parts += [layer, torch.nn.ReLU()]

        class Student(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.Sequential(*parts)

            def forward(self, x: Any) -> Any:
                return self.layers(x)[:, 0]

        return Student().eval()

    def firmware_types(self) -> Mapping[str, str]:
        """The types that the firmware must have to give this score; none if it was trained in plain numbers.

        One type for all weights and biases: the last layer's (and the kernels') holds those of the others exactly.
        """
        if not self.quantised:
            return {}
        t = self.types
        return {
            "input": t.input,
            "weight": t.last,
            "bias": t.last,
            "activation": t.activation,
            "score": t.score,
        }

    def _check(self) -> None:
        if self.columns_ == 0:
            raise InputError("this Cicada has not been fitted")

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker says nothing of where it was trained."""
        return {**self.__dict__, "trainer": None}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """The student's layers as the firmware has them, the teacher's weights by name, and how it was trained."""
        record = None if self.record_ is None else self.record_.to_json()
        arrays = {"offset": self.offset_, "shift": self.shift_}
        for i, (weight, bias) in enumerate(self.layers_):
            arrays |= {f"layer/{i}/weight": weight} | ({} if bias is None else {f"layer/{i}/bias": bias})
        arrays |= {f"teacher/{k}": v for k, v in self.teacher_.items()}
        return {"columns": self.columns_, "layers": len(self.layers_), "record": record}, arrays, {}

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:  # noqa: ARG002
        """Take back what `state` gave."""
        self.columns_, self.offset_, self.shift_ = info["columns"], arrays["offset"], arrays["shift"]
        self.layers_ = [
            (arrays[f"layer/{i}/weight"], arrays.get(f"layer/{i}/bias")) for i in range(info["layers"])
        ]
        self.teacher_ = {k.removeprefix("teacher/"): v for k, v in arrays.items() if k.startswith("teacher/")}
        self.record_ = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        return self
