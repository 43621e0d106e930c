"""A conditional density p(x | m) that can be evaluated, sampled and inverted: preprocessing, training, ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, FitError, InputError
from ..device import chosen
from ..training import Sample, Task, TrainingRecord, TrainSettings, train
from ..training_task import Schedule
from .dense import one_thread
from .domain import Domain
from .flow_modules import build_flow, flow_loss, load_parameters

Kind = Literal["maf", "nsf", "cfm"]
#: Hidden layers and number of transforms of the published networks.
PUBLISHED: Mapping[str, tuple[tuple[int, ...], int]] = {
    "maf": ((128,), 15),  # 2109.00546
    "nsf": ((64, 64), 6),  # 2312.11629
    "cfm": ((64, 256, 256, 64), 1),
}
#: Rows a flow is given at once, always: so an event's density does not depend on its company.
ROWS = 1024
#: The same on a GPU.
ROWS_GPU = 65_536
_REDRAWS = 20


@dataclass(frozen=True)
class FlowSettings:
    """How a density is built and trained; the defaults are CATHODE's flow (2109.00546).

    ``kind``: "maf" affine or "nsf" rational-quadratic spline autoregressive flow, "cfm" conditional flow matching.
    ``transforms`` 0 and ``hidden`` () mean the published ones of the kind. ``bins`` and ``bound`` are the spline's;
    ``steps`` and ``sigma`` flow matching's. ``validation``: fraction of events put aside; the ``best`` epochs of lowest
    validation loss are kept. ``schedule``: "constant" as published, or "cosine", the learning rate falling to 0, with
    which a larger rate does and ``best`` 1 is enough. ``preprocess``: "logit" or "standard", see `Domain`.
    ``stiffness``: the network sees the standardised condition divided by it (1 as published). Networks learn slopes last, so of a
    larger one the density varies more slowly with the condition and takes less of the noise beside a window into it; too large a one
    hides what does vary. The validation loss tells which is best.

    Against the paper: no batch normalisation (the flow starts near the identity on standardised inputs instead), no
    weight decay, and weights uniform instead of orthogonal at the start.
    """

    kind: Kind = "maf"
    transforms: int = 0
    hidden: tuple[int, ...] = ()
    bins: int = 8
    bound: float = 8.0
    epochs: int = 100
    batch: int = 256
    learning_rate: float = 1e-4
    validation: float = 0.2
    best: int = 10
    schedule: Schedule = "constant"
    stiffness: float = 1.0
    preprocess: Literal["logit", "standard"] = "logit"
    steps: int = 100
    sigma: float = 1e-4

    def __post_init__(self) -> None:
        if self.kind not in PUBLISHED:
            raise ConfigError(f"kind: found '{self.kind}', expected one of {', '.join(PUBLISHED)}")
        if self.preprocess not in ("logit", "standard"):
            raise ConfigError(f"preprocess: found '{self.preprocess}', expected logit or standard")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation: found {self.validation}, expected a fraction between 0 and 1")
        positive = {"epochs": 1, "batch": 1, "best": 1, "steps": 1, "bins": 2, "transforms": 0}
        for name, least in positive.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        for name in ("learning_rate", "bound", "stiffness"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected a number above 0")
        if any(h < 1 for h in self.hidden) or self.sigma < 0:
            raise ConfigError(
                f"found hidden {self.hidden}, sigma {self.sigma}; expected widths above 0, sigma not negative"
            )

    def network(self, features: int, context: int, seed: int) -> dict[str, Any]:
        """What `build_flow` needs, JSON-ready."""
        hidden, transforms = PUBLISHED[self.kind]
        chosen = {"hidden": list(self.hidden or hidden), "transforms": self.transforms or transforms}
        return asdict(self) | chosen | {"features": features, "context": context, "seed": seed}


def _table(condition: NDArray[Any], n: int) -> NDArray[np.float64]:
    """Conditions as (n, k); raises `InputError` for another length or values that are not finite."""
    out = np.asarray(condition, dtype=np.float64)
    out = out[:, None] if out.ndim == 1 else out
    if out.ndim != 2 or len(out) != n or not np.isfinite(out).all():
        raise InputError(f"the condition has shape {np.shape(condition)}; expected {n} finite rows")
    return out


def batches(
    function: Any, a: NDArray[np.float64], b: NDArray[np.float64], dtype: Any = np.float64
) -> Iterator[tuple[NDArray[Any], ...]]:
    """``function`` of batches of exactly `ROWS` rows, the last one padded with zeros; arrays without the padding."""
    import torch

    device = chosen()
    size = ROWS if device == "cpu" else ROWS_GPU
    for start in range(0, len(a), size):
        n = min(size, len(a) - start)
        full = [np.zeros((size, p.shape[1]), dtype) for p in (a, b)]
        for whole, part in zip(full, (a, b), strict=True):
            whole[:n] = part[start : start + n]
        with one_thread(), torch.inference_mode():
            found = function(*(torch.from_numpy(f).to(device) for f in full))
        yield tuple(f.cpu().numpy()[:n] for f in found)


def _centred(
    table: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weighted mean and deviation of conditions (n, k), each (k,); the deviation of a constant is 1."""
    centre = np.average(table, axis=0, weights=weight)
    width = np.sqrt(np.average((table - centre) ** 2, axis=0, weights=weight))
    return centre, np.where(np.ptp(table, axis=0) > 0, width, 1.0)


@dataclass(eq=False)
class ConditionalFlow:
    """p(x | condition) of x (n, d) given one or more numbers per event (n,) or (n, k), e.g. the mass [GeV].

    The density is the mean of the densities of the best epochs, averaged before any logarithm (2109.00546). Rows
    outside the `Domain` have density 0, ln p = -inf. `fit` makes one; ``dropped_`` counts what lay outside the domain
    of (training part, validation part).
    """

    settings: FlowSettings
    seed: int
    domain_: Domain
    centre_: NDArray[np.float64]
    width_: NDArray[np.float64]
    members_: list[dict[str, NDArray[Any]]]
    dropped_: tuple[int, int]
    record_: TrainingRecord | None = None
    _networks: dict[tuple[int, bool, str], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def fit(
        cls,
        x: NDArray[Any],
        condition: NDArray[Any],
        weight: NDArray[Any],
        order: NDArray[np.uint64],
        settings: FlowSettings,
        seed: int = 0,
        domain: Domain | None = None,
    ) -> ConditionalFlow:
        """Learn the density of x (n, d) given ``condition``, with weight (n,) >= 0.

        ``order`` (n,): hashes of the events' identities. They give the order of the rows and, below the fraction
        ``settings.validation``, the validation part. ``domain``: coordinates to share with another density (default:
        learnt from the training part). Raises `InputError` on values that are not finite, negative weights, a constant
        column or an empty part, `FitError` if the loss diverges.
        """
        x, weight = np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)
        table = _table(condition, len(x))
        if x.ndim != 2 or not np.isfinite(x).all():
            raise InputError(f"x of shape {x.shape} must be (n, d) and finite to learn its density")
        if weight.shape != (len(x),) or not np.isfinite(weight).all() or (weight < 0).any():
            raise InputError(
                "a density cannot be learnt with negative weights: leave them out or use weight 1"
            )
        rows = np.lexsort((*x.T, *table.T, order))  # ties of the hash broken by the values
        held = order[rows] / 2.0**64 < settings.validation
        parts = [rows[~held], rows[held]]
        if any(weight[p].sum() <= 0 for p in parts):
            raise InputError(f"{len(x)} events: a part is empty after the split for validation")
        domain = domain or Domain.fit(x[parts[0]], weight[parts[0]], settings.preprocess == "logit")
        inside = domain.inside(x)
        dropped = (int((~inside[parts[0]]).sum()), int((~inside[parts[1]]).sum()))
        parts = [p[inside[p]] for p in parts]
        if any(weight[p].sum() <= 0 for p in parts):
            raise InputError(f"{len(x)} events: too few lie inside the domain of the density")
        made = cls(settings, seed, domain, *_centred(table[parts[0]], weight[parts[0]]), [], dropped)
        made._train(x, table, weight, parts)
        return made

    def _train(
        self, x: NDArray[Any], table: NDArray[Any], weight: NDArray[Any], parts: list[NDArray[Any]]
    ) -> None:
        """Learn from the rows ``parts[0]``, choose epochs by the rows ``parts[1]``."""
        kept, validation = (
            Sample(self.domain_.forward(x[p]), self._scaled(table[p]), weight[p]) for p in parts
        )
        how = self.settings
        result = train(
            Task(build_flow, how.network(x.shape[1], table.shape[1], self.seed), flow_loss, kept, validation),
            TrainSettings.of(how, self.seed),
        )
        self.members_, self.record_ = list(result.states), result.record

    def log_prob(self, x: NDArray[Any], condition: NDArray[Any]) -> NDArray[np.float64]:
        """ln p(x | condition), shape (n,); -inf outside the domain."""
        table = _table(condition, len(x))
        inside = self._inside(x)
        out = np.full(len(x), -np.inf)
        if inside.any():
            v, c = self.domain_.forward(x[inside]), self._scaled(table[inside])
            each = np.stack([self._log_prob(k, v, c) for k in range(len(self.members_))])
            top = each.max(axis=0)
            mean = top + np.log(np.exp(each - top).mean(axis=0))
            out[inside] = mean + self.domain_.log_jacobian(x[inside])
        return out

    def sample(self, condition: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float64]:
        """One x per condition, shape (n, d), an equal share from every best epoch.

        Raises `FitError` where the draws stay outside the domain or are not finite.
        """
        table = _table(condition, len(condition))
        n, d = len(table), len(self.domain_.low)
        member = rng.permutation(np.arange(n) % len(self.members_))
        out = np.full((n, d), np.nan)
        for _ in range(_REDRAWS):
            missing = np.flatnonzero(~self._inside(out))
            if len(missing) == 0:
                return out
            z = rng.standard_normal((len(missing), d))
            for k in range(len(self.members_)):
                mine = member[missing] == k
                if mine.any():
                    v = self._invert(k, z[mine], self._scaled(table[missing[mine]]))
                    # as float32, which Events hold: rounding must not put an event on the domain's edge
                    out[missing[mine]] = self.domain_.inverse(v).astype(np.float32)
        raise FitError(
            f"{len(missing)} of {n} draws of the flow are not finite; lower learning_rate and train again"
        )

    def to_latent(self, x: NDArray[Any], condition: NDArray[Any]) -> NDArray[np.float64]:
        """z (n, d) of the best epoch, N(0, 1) for events of the learnt density; NaN outside the domain."""
        table = _table(condition, len(x))
        inside = self._inside(x)
        out = np.full((len(x), len(self.domain_.low)), np.nan)
        if inside.any():
            network = self._network(0, double=True)
            v, c = self.domain_.forward(x[inside]), self._scaled(table[inside])
            out[inside] = np.concatenate([z for z, _ in batches(network.latent, v, c)])
        return out

    def from_latent(self, z: NDArray[Any], condition: NDArray[Any]) -> NDArray[np.float64]:
        """x (n, d) of latent z (n, d): the inverse of `to_latent`."""
        table = _table(condition, len(z))
        return self.domain_.inverse(self._invert(0, np.asarray(z, dtype=np.float64), self._scaled(table)))

    def outside(self, x: NDArray[Any]) -> int:
        """How many rows of x (n, d) have no density: an inefficiency that must be quoted."""
        return int((~self._inside(x)).sum())

    def _inside(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        if np.ndim(x) != 2 or np.shape(x)[1] != len(self.domain_.low):
            raise InputError(
                f"x has shape {np.shape(x)}, the density was learnt on {len(self.domain_.low)} columns"
            )
        return self.domain_.inside(x)

    def _scaled(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        return (table - self.centre_) / (self.width_ * self.settings.stiffness)

    def _network(self, k: int, double: bool) -> Any:
        key = (k, double, chosen())
        if key not in self._networks:
            config = self.settings.network(len(self.domain_.low), len(self.centre_), self.seed)
            network = load_parameters(build_flow(config), self.members_[k]).to(key[2])
            self._networks[key] = network.double() if double else network
        return self._networks[key]

    def _log_prob(self, k: int, v: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        constant = 0.5 * math.log(2 * math.pi) * v.shape[1]
        parts = batches(self._network(k, double=False).latent, v, c, np.float32)
        return np.concatenate(
            [
                change.astype(np.float64) - 0.5 * (z.astype(np.float64) ** 2).sum(axis=1) - constant
                for z, change in parts
            ]
        )

    def _invert(self, k: int, z: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
        network = self._network(k, double=True)
        parts = [v for (v,) in batches(lambda a, b: (network.data(a, b),), z, c)]
        return np.concatenate(parts) if parts else np.zeros_like(z)

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch modules."""
        return {**self.__dict__, "_networks": {}}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Settings, weights of every kept epoch, coordinates, and how it was trained."""
        arrays = {f"{i}/{k}": v for i, member in enumerate(self.members_) for k, v in member.items()}
        info = {
            "settings": asdict(self.settings) | {"hidden": list(self.settings.hidden)},
            "seed": self.seed,
            "members": len(self.members_),
            "logit": self.domain_.logit,
            "dropped": list(self.dropped_),
            "record": None if self.record_ is None else self.record_.to_json(),
        }
        scale = {"condition": np.stack([self.centre_, self.width_])}
        return info, arrays | scale | self.domain_.arrays(), {}

    @classmethod
    def restore(
        cls,
        info: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        texts: Mapping[str, str],  # noqa: ARG003
    ) -> ConditionalFlow:
        """The flow whose `state` this is."""
        settings = FlowSettings(**(info["settings"] | {"hidden": tuple(info["settings"]["hidden"])}))
        members = [
            {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
            for i in range(info["members"])
        ]
        record = None if info["record"] is None else TrainingRecord.from_json(info["record"])
        domain = Domain.of_arrays(arrays, bool(info["logit"]))
        centre, width = np.asarray(arrays["condition"], dtype=np.float64)
        dropped = (int(info["dropped"][0]), int(info["dropped"][1]))
        return cls(settings, int(info["seed"]), domain, centre, width, members, dropped, record)
