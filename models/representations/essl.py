"""A representation that knows a transformation instead of forgetting it: equivariant self-supervision (2111.00899)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FeatureError
from ...events import Events, in_identity_order
from ..networks.dense import one_thread
from ..networks.essl import build_essl, essl_loss, gaussian_nll, told
from ..scores.weak_trees import check_training
from ..training_files import EventFiles
from ..training_stream import ParquetSample
from ..training_task import Sample, Schedule
from .raw_encoder import TRANSFORMER, RawEncoder, check_sizes

log = logging.getLogger(__name__)

#: Events on which it is looked how well t can be told.
_LOOKED_AT = 2000


def scaled_columns(names: tuple[str, ...], columns: tuple[str, ...], transformation: str) -> list[int]:
    """Numbers of the ``columns`` that a scale is for; none where slots are objects. Raises `FeatureError` where they do not fit."""
    plain = "MET_pt" not in names and "Cand0_pt" not in names
    unknown = [c for c in columns if c not in names]
    if unknown or (plain and (transformation == "rotation" or not columns)) or (columns and not plain):
        raise FeatureError(
            f"columns: found {list(columns)} for the transformation '{transformation}'; plain columns can only be scaled, by name "
            f"(there are {', '.join(names[:8])}), objects and constituents need no names"
        )
    return [names.index(c) for c in columns]


@dataclass(frozen=True)
class Told:
    """How well the transformation is told from the latent vector: ``loss`` (cross entropy, or -ln N(nu)) beside that of a guess,
    ``chance``, which knows how t is drawn; ``accuracy`` of an angle beside 1 / ``bins`` (0 and 0 of a nu)."""

    loss: float
    chance: float
    accuracy: float
    bins: int

    def __str__(self) -> str:
        right = (
            f", {100 * self.accuracy:.3g} % of angles right (guess: {100 / self.bins:.3g} %)"
            if self.bins
            else ""
        )
        return f"loss {self.loss:.4g}, that of a guess {self.chance:.4g}{right}"


@dataclass
class Essl(RawEncoder):
    """E-SSL (2111.00899): two views of an event alike, while a known ``transformation`` t can be told from the latent vector.

    Loss: 1/2 [InfoNCE(z1, z2) + InfoNCE(z2, z1)] at ``tau`` + ``strength`` times the cross entropy of t told from f(t . event), or,
    for a continuous t, -ln N(nu; mean, variance) of nu told from it.
    **Let be predicted what the search must stay sensitive to, and be forgotten what it must ignore**: with ``role`` "predict" views
    do not contain t; with "forget" each view has a t of its own and nothing is told (``strength`` is not used), so that a
    systematic uncertainty is no direction of the space.

    "rotation": a turn by one of ``bins`` equal angles. Collisions know no direction: events are first turned so that the hardest
    object but MET lies at phi = 0 (a jet: its hardest constituent, about its centroid), in what is given on, too. An event that a
    turn leaves as it is cannot be told. "scale": a continuous systematic, pT of jets times 1 + ``size`` nu, nu normal, MET recoiling;
    of a jet's constituents all pT; of plain columns those named in ``columns``. A scale can only be told as far as
    the events have one: `told` says how far, and the fit logs it for its own events.

    Other views: objects as in `AnomClr`'s physical ones, constituents smeared and turned, each without a turn if that is t; plain
    columns each 0 with probability 0.5. Encoders are those of `Cl4ad`, ``projector`` and ``predictor`` dense layers behind the latent
    vector. The optimiser is Adam (published: SGD), the encoder no ResNet.
    """

    paper: ClassVar[str] = "2111.00899"
    _name: ClassVar[str] = "essl"

    transformation: Literal["rotation", "scale"] = "scale"
    role: Literal["predict", "forget"] = "predict"
    bins: int = 4
    size: float = 0.05
    columns: tuple[str, ...] = ()
    strength: float = 0.4
    tau: float = 0.5
    network: Literal["dense", "transformer"] = "dense"
    hidden: tuple[int, ...] = (128, 64)
    latent: int = 16
    projector: tuple[int, ...] = (64, 64)
    predictor: tuple[int, ...] = (64,)
    epochs: int = 50
    batch: int = 512
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    told_: Told | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, choices in (
            ("transformation", ("rotation", "scale")),
            ("role", ("predict", "forget")),
            ("network", ("dense", "transformer")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}: found {getattr(self, name)!r}, expected {' or '.join(choices)}")
        check_sizes(
            latent=self.latent, hidden=self.hidden, projector=self.projector, predictor=self.predictor
        )
        if self.bins < 2 or not self.size > 0 or not self.strength >= 0 or not self.tau > 0:
            raise ConfigError(
                f"found bins {self.bins}, size {self.size}, strength {self.strength}, tau {self.tau}; expected at least 2 bins, a "
                "size and a temperature above 0, a strength of at least 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:  # noqa: ARG002
        """Learn from ``reference``; ``data`` is not looked at.

        Raises `FeatureError` where the columns do not allow the transformation, `FitError` if the loss diverges or the latent
        space has collapsed to a line.
        """
        check_training(reference, "reference")
        scaled_columns(reference.features.names, self.columns, self.transformation)
        reference = in_identity_order(reference, self.seed)
        return self._train(Sample(np.ascontiguousarray(reference.x, np.float32)), reference)

    def fit_stream(self, files: EventFiles) -> Self:
        """Learn from files that are never held whole; inputs and latent space are scaled by 100,000 of their events, chosen by a hash.

        The order of the training is that of the files, shuffled in windows: another one than that of `fit`.
        """
        scaled_columns(files.features.names, self.columns, self.transformation)
        known = files.look(self.seed)
        check_training(known, "reference")
        return self._train(files.sample(weighted=False), known)

    def _train(self, sample: Sample | ParquetSample, reference: Events) -> Self:
        self._learn(reference, sample, np.ascontiguousarray(reference.x, np.float32))
        self.told_ = self.told(reference.take(slice(0, _LOOKED_AT))) if self.role == "predict" else None
        if self.told_ is not None:
            log.info("Essl, %s in events of the training: %s", self.transformation, self.told_)
        return self

    def told(self, events: Events, seed: int = 0) -> Told:
        """How well t, drawn anew by ``seed`` for each of ``events``, is told by the network that was trained with the encoder."""
        import torch

        self._latent(events.x[:1])
        with one_thread(), torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(events.x, np.float32))
            generator = torch.Generator().manual_seed(seed)
            out, t = told(self._network, self._network.of(x), generator)
            if not self._network.bins:
                chance = 0.5 * math.log(2 * math.pi * math.e)
                return Told(float(gaussian_nll(out, t).mean()), chance, 0.0, 0)
            loss = float(torch.nn.functional.cross_entropy(out, t))
            right = float((out.argmax(dim=1) == t).float().mean())
            return Told(loss, math.log(self.bins), right, self.bins)

    def _recipe(self) -> tuple[Callable[[Mapping[str, Any]], Any], Callable[..., Any]]:
        return build_essl, essl_loss

    def _config(self) -> dict[str, Any]:
        own = ("network", "latent", "seed", "transformation", "role", "bins", "size", "strength", "tau")
        return {
            **{name: getattr(self, name) for name in own}, "inputs": self.inputs_, "hidden": list(self.hidden),
            "projector": list(self.projector), "predictor": list(self.predictor), "scaled": scaled_columns(self._known().names, self.columns, self.transformation),
            "positions": self.inputs_["kind"] != "constituents", "mask": True, **TRANSFORMER,
        }  # fmt: skip

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """As the encoder's, and how well t was told."""
        info, arrays, texts = super().state()
        return {**info, "told": None if self.told_ is None else asdict(self.told_)}, arrays, texts

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        super().restore(info, arrays, texts)
        self.told_ = None if info["told"] is None else Told(**info["told"])
        return self
