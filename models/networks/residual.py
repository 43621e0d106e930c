"""A signal density learnt beside a known background: training, ensemble, samples (2312.11629)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..device import chosen
from ..training import Sample, Task, TrainSettings, train
from ..training_task import Schedule
from .flow_modules import load_parameters
from .flows import FlowSettings, batches
from .residual_start import Gaussian
from .signal_flow import ODDS_SCALE, build_residual, residual_loss

#: w is drawn from here where no start tells it.
_FRACTIONS = (0.001, 0.01)
#: What of a member is its start, not a weight.
_PLACE = ("mean", "factor")


@dataclass(frozen=True)
class MassFrame:
    """The window's mass: u = (logit((m - low) / (high - low)) - mean) / std, and the data's histogram p(m).

    ``low`` and ``high`` [GeV] lie half a mean spacing outside the data, so that every mass of the data has a u.
    """

    low: float
    high: float
    mean: float
    std: float
    density: NDArray[np.float64]

    @classmethod
    def fit(cls, mass: NDArray[np.float64], weight: NDArray[np.float64], bins: int) -> MassFrame:
        """From masses (n,) of at least two values, with weight (n,) >= 0."""
        margin = 0.5 * np.ptp(mass) / len(mass)
        low, high = float(mass.min() - margin), float(mass.max() + margin)
        counts, edges = np.histogram(mass, bins, (low, high), weights=weight)
        raw = np.log((mass - low) / (high - mass))
        mean = float(np.average(raw, weights=weight))
        std = float(np.sqrt(np.average((raw - mean) ** 2, weights=weight)))
        return cls(low, high, mean, std, counts / (counts.sum() * np.diff(edges)))

    def within(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """The masses, those beyond the window moved to its edge."""
        return np.clip(mass, self.low, self.high)

    def forward(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """u of masses inside, shape (n, 1)."""
        return ((np.log((mass - self.low) / (self.high - mass)) - self.mean) / self.std)[:, None]

    def inverse(self, u: NDArray[np.float64]) -> NDArray[np.float64]:
        """The masses (n,) of u (n, 1) [GeV]."""
        return self.low + (self.high - self.low) * 0.5 * (1 + np.tanh(0.5 * (u[:, 0] * self.std + self.mean)))

    def scaled(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mass as a condition, -1 to 1 across the window, shape (n, 1)."""
        return (2 * (mass - self.low) / (self.high - self.low) - 1)[:, None]

    def log_density(self, mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """ln p(u) of the histogram, shape (n,)."""
        span = self.high - self.low
        place = ((mass - self.low) / span * len(self.density)).astype(np.int64)
        jacobian = np.log(span / ((mass - self.low) * (self.high - mass)) / self.std)
        return np.log(self.density[np.clip(place, 0, len(self.density) - 1)]) - jacobian


@dataclass(frozen=True)
class SignalSettings:
    """How p_S is built and trained."""

    kind: str
    transforms: int
    hidden: tuple[int, ...]
    epochs: int
    batch: int
    learning_rate: float
    best: int
    schedule: Schedule = "constant"


@dataclass(eq=False)
class SignalDensity:
    """p_S(v | m) and p_S(m), the mean over all kept epochs of all trainings; ``learn`` adds one training."""

    settings: SignalSettings
    frame: MassFrame
    features: int
    seed: int
    members_: list[dict[str, NDArray[Any]]] = field(default_factory=list, repr=False)
    fractions_: list[float] = field(default_factory=list)
    likelihoods_: list[float] = field(default_factory=list)
    _networks: dict[tuple[int, bool, str], Any] = field(default_factory=dict, repr=False)

    def learn(
        self,
        v: NDArray[np.float64],
        mass: NDArray[np.float64],
        weight: NDArray[np.float64],
        known: NDArray[np.float64],
        held: NDArray[np.bool_],
        fraction: float | None,
        seed: int,
        start: Gaussian | None = None,
    ) -> None:
        """Train on the rows that are not ``held`` and keep the epochs that are best for those that are.

        v (n, d), mass (n,) [GeV], weight (n,), known (n,) = ln p_B(v, u). ``fraction``: w, None to learn it from that of ``start``, the
        Gaussian that p_S(v | m) is at first; without one it is a standard normal and w is drawn. Raises `InputError` for an empty part,
        `FitError` if the loss diverges.
        """
        if weight[held].sum() <= 0 or weight[~held].sum() <= 0:
            raise InputError(f"{len(v)} events: a part is empty after the split for validation")
        drawn = float(np.random.default_rng(seed).uniform(*_FRACTIONS)) if start is None else start.fraction
        first = drawn if fraction is None else fraction
        x, y = (
            np.column_stack([v, self.frame.forward(mass)]),
            np.column_stack([self.frame.scaled(mass), known]),
        )
        kept, validation = (Sample(x[rows], y[rows], weight[rows]) for rows in (~held, held))
        how = self.settings
        place = {} if start is None else {"mean": start.mean, "factor": start.factor}
        config = self._config(seed) | {"fraction": first, "learn": fraction is None}
        config |= {k: a.astype(np.float32).tolist() for k, a in place.items()}
        result = train(
            Task(build_residual, config, residual_loss, kept, validation),
            TrainSettings.of(how, seed),
        )
        for state in result.states:
            odds = ODDS_SCALE * float(state["odds"][0]) if fraction is None else None
            self.fractions_.append(first if odds is None else float(1 / (1 + np.exp(-odds))))
            self.members_.append({k: a for k, a in state.items() if k != "odds"} | place)
        self.likelihoods_.append(-float(np.mean(sorted(result.record.validation_loss)[: how.best])))

    @property
    def fraction(self) -> float:
        """Mean signal fraction of the kept epochs."""
        return float(np.mean(self.fractions_))

    @property
    def likelihood(self) -> float:
        """Mean ln likelihood per validation event, over best epochs and trainings."""
        return float(np.mean(self.likelihoods_))

    def log_prob(self, v: NDArray[np.float64], mass: NDArray[np.float64]) -> NDArray[np.float64]:
        """ln p_S(v | m), shape (n,), masses within the window."""
        total = np.full(len(v), -np.inf)
        c = self.frame.scaled(mass)
        for k in range(len(self.members_)):
            network = self._network(k, double=False)
            parts = batches(lambda a, b, n=network: (n.given(a, b),), v, c, np.float32)
            found = [p.astype(np.float64) for (p,) in parts]
            total = np.logaddexp(total, np.concatenate(found) if found else np.zeros(0))
        return total - np.log(len(self.members_))

    def sample(self, n: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """v (n, d) and mass (n,) [GeV], an equal share from every kept epoch."""
        member = rng.permutation(np.arange(n) % len(self.members_))
        z, t = rng.standard_normal((n, self.features)), rng.standard_normal((n, 1))
        v, mass = np.zeros((n, self.features)), np.zeros(n)
        for k in np.unique(member):
            mine, network = member == k, self._network(int(k), double=True)
            us = [u for (u,) in batches(lambda a, b, n=network: (n.draw_mass(a, b),), t[mine], t[mine])]
            mass[mine] = self.frame.inverse(np.concatenate(us))
            c = self.frame.scaled(mass[mine])
            vs = [a for (a,) in batches(lambda a, b, n=network: (n.draw(a, b),), z[mine], c)]
            v[mine] = np.concatenate(vs)
        return v, mass

    def _config(self, seed: int) -> dict[str, Any]:
        return asdict(self.settings) | {
            "hidden": list(self.settings.hidden),
            "bins": FlowSettings().bins,
            "bound": FlowSettings().bound,
            "features": self.features,
            "seed": seed,
            "fraction": 0.5,
            "learn": False,
        }

    def _network(self, k: int, double: bool) -> Any:
        key = (k, double, chosen())
        if key not in self._networks:
            place = {n: a.tolist() for n, a in self.members_[k].items() if n in _PLACE}
            weights = {n: a for n, a in self.members_[k].items() if n not in _PLACE}
            network = load_parameters(build_residual(self._config(self.seed) | place), weights).to(key[2])
            self._networks[key] = network.double() if double else network
        return self._networks[key]

    def __getstate__(self) -> dict[str, Any]:
        """A trip to a worker carries the weights, not the torch modules."""
        return {**self.__dict__, "_networks": {}}

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Settings, the mass frame and the weights of every kept epoch."""
        f = self.frame
        info = {
            "settings": asdict(self.settings) | {"hidden": list(self.settings.hidden)},
            "frame": [f.low, f.high, f.mean, f.std],
            "features": self.features,
            "seed": self.seed,
            "members": len(self.members_),
            "fractions": self.fractions_,
            "likelihoods": self.likelihoods_,
        }
        arrays = {f"{i}/{k}": v for i, member in enumerate(self.members_) for k, v in member.items()}
        return info, arrays | {"mass": f.density}, {}

    @classmethod
    def restore(
        cls,
        info: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        texts: Mapping[str, str],  # noqa: ARG003
    ) -> SignalDensity:
        """The density whose `state` this is."""
        settings = SignalSettings(**(info["settings"] | {"hidden": tuple(info["settings"]["hidden"])}))
        low, high, mean, std = info["frame"]
        frame = MassFrame(low, high, mean, std, np.asarray(arrays["mass"], dtype=np.float64))
        members = [
            {k.removeprefix(f"{i}/"): v for k, v in arrays.items() if k.startswith(f"{i}/")}
            for i in range(info["members"])
        ]
        return cls(
            settings, frame, info["features"], info["seed"], members, info["fractions"], info["likelihoods"]
        )
