"""The residual density: what the data in a window hold beside a frozen background (2312.11629)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import Events, identity_hash
from ..densities import check_density, check_known, fit_flow, flow_settings, in_order
from ..nesting import restore_under, state_under
from ..networks.flows import ConditionalFlow, Kind
from ..networks.residual import MassFrame, SignalDensity, SignalSettings
from ..networks.residual_start import Gaussian, Known, find_start
from ..training_task import Schedule

#: ln p is cut off here on both sides, so that every score is finite.
_LARGEST = 100.0


@dataclass
class RAnode:
    """R-ANODE (2312.11629): p_data(x, m) = w p_S(x, m) + (1 - w) p_B(x | m) p(m), score = ln p_S(x | m) / p_B(x | m).

    p_B is learnt from ``reference``, the events outside the window (`Outside`), with the flow of `FlowSettings`, and
    then kept; p(m) is a histogram of ``mass_bins`` bins of the data's masses; p_S and w are learnt from ``data`` by
    maximum likelihood, ``splits`` times with another part ``signal_validation`` put aside for choosing the best
    epochs; p_S is the mean over all splits and best epochs. ``fractions`` empty: w = sigmoid(a) is learnt, from the start's, or one
    drawn from U(0.001, 0.01) per split; one number keeps w there; of several the one of the highest validation
    likelihood is taken, and ``scan_`` holds the mean ln likelihood per event of each. ``fraction_`` is the result: the
    mean of the learnt ones, or the chosen one. A point value of w is no evidence: compare ``scan_`` with w -> 0.

    p_S takes up whatever p_B gets wrong, and a signal of S/B = 0.6 % adds only a thousandth or so to the mean ln likelihood per event: a
    p_B that is not known better than that hides it. ``start``: "normal" begins as the paper does, with p_S as wide as the data, where it
    answers for the tails of p_B and finds such a signal after tens of thousands of steps or never; "mixture" begins every split at
    the Gaussian of `find_start`, learnt from all of ``data`` and the reference's events nearest in mass, and w at its fraction: the
    validation parts choose epochs, they do not judge the start. ``start_`` is that Gaussian, None where nothing gains on the control:
    then the start is the paper's.

    Against the paper: the start; p_S(x, m) = p_S(x | m) p_S(m) with a spline flow each, so that ln p_S(m) need not be estimated;
    orders of the features reversed instead of permuted at random; no batch normalisation, no dropout, no weight decay
    (the best epochs guard against overtraining); a learns ten times faster than the weights. Masses beyond the window
    count as its edge. An event outside the domain of p_B gets the lowest score, -100.
    """

    paper: ClassVar[str] = "2312.11629"
    reads_mass: ClassVar[bool] = True

    kind: Kind = "maf"
    transforms: int = 0
    hidden: tuple[int, ...] = ()
    epochs: int = 100
    batch: int = 256
    learning_rate: float = 1e-4
    validation: float = 0.2
    best: int = 10
    schedule: Schedule = "constant"
    stiffness: float = 1.0
    signal_kind: Literal["maf", "nsf"] = "nsf"
    signal_transforms: int = 6
    signal_hidden: tuple[int, ...] = (64, 64)
    signal_epochs: int = 300
    signal_learning_rate: float = 3e-4
    signal_batch: int = 256
    signal_best: int = 10
    signal_schedule: Schedule = "constant"
    signal_validation: float = 0.2
    splits: int = 20
    start: Literal["mixture", "normal"] = "mixture"
    mass_bins: int = 49
    fractions: tuple[float, ...] = ()
    seed: int = 0
    background_: ConditionalFlow | None = field(default=None, repr=False, compare=False)
    signal_: SignalDensity | None = field(default=None, repr=False, compare=False)
    fraction_: float = field(default=0.0, repr=False, compare=False)
    scan_: dict[float, float] = field(default_factory=dict, repr=False, compare=False)
    start_: Gaussian | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        flow_settings(self)
        if any(not 0 < w < 1 for w in self.fractions):
            raise ConfigError(f"fractions: found {self.fractions}, expected numbers between 0 and 1")
        if self.start not in ("mixture", "normal"):
            raise ConfigError(f"start: found {self.start!r}, expected mixture or normal")
        whole = (
            "splits",
            "mass_bins",
            "signal_transforms",
            "signal_epochs",
            "signal_batch",
            "signal_best",
        )
        if any(getattr(self, name) < 1 for name in whole):
            raise ConfigError(f"{', '.join(whole[:-1])} and {whole[-1]} must be at least 1")
        if not 0 < self.signal_validation < 1 or not self.signal_learning_rate > 0:
            raise ConfigError(
                f"found signal_validation {self.signal_validation}, signal_learning_rate {self.signal_learning_rate}; "
                "expected a fraction between 0 and 1, and a number above 0"
            )

    def fit(self, reference: Events, data: Events) -> Self:
        """Learn p_B, then p_S and w; raises `InputError` on what no density can be learnt from."""
        check_density(reference, "reference")
        check_density(data, "data")
        self.background_ = fit_flow(reference, flow_settings(self), self.seed)
        domain = self.background_.domain_
        data = in_order(data, self.seed)
        data = data.take(domain.inside(data.x))
        if len(data) < 2 or np.ptp(data.mass) == 0:
            raise InputError(
                "data: too few events with different masses inside the domain of the background density"
            )
        frame = MassFrame.fit(data.mass, data.weight, self.mass_bins)
        inside = self._known(data)
        beside = None if self.start == "normal" else self._known(_control(reference, data))
        tried = self._signal(data, frame, inside, beside)
        self.scan_ = {w: found.likelihood for w, found in tried.items() if w is not None}
        chosen = max(tried, key=lambda w: tried[w].likelihood)
        self.signal_, self.fraction_ = tried[chosen], tried[chosen].fraction
        return self

    def _known(self, events: Events) -> Known:
        """Those of ``events`` that p_B has a density for, in its coordinates, with ln p_B(v | m)."""
        background = check_known(events, self.background_, "RAnode")
        domain = background.domain_
        events = events.take(domain.inside(events.x))
        density = background.log_prob(events.x, events.mass) - domain.log_jacobian(events.x)
        return Known(domain.forward(events.x), density, events.weight.astype(np.float64))

    def _signal(
        self, data: Events, frame: MassFrame, inside: Known, beside: Known | None
    ) -> dict[float | None, SignalDensity]:
        """p_S (and w, where it is to be learnt: None) of the data by fraction, with ``splits`` different validation parts."""
        settings = SignalSettings(
            self.signal_kind,
            self.signal_transforms,
            self.signal_hidden,
            self.signal_epochs,
            self.signal_batch,
            self.signal_learning_rate,
            self.signal_best,
            self.signal_schedule,
        )
        known = inside.log_density + frame.log_density(data.mass)  # ln p_B(v, u)
        found: dict[float | None, SignalDensity] = {
            w: SignalDensity(settings, frame, inside.v.shape[1], self.seed) for w in self.fractions or (None,)
        }
        start = None if beside is None else find_start(inside, beside, np.random.default_rng(self.seed))
        self.start_ = start
        for split in range(self.splits):
            seed = int(np.random.SeedSequence([self.seed, split]).generate_state(1)[0])
            held = identity_hash(data.identity, seed) / 2.0**64 < self.signal_validation
            for w, density in found.items():
                density.learn(inside.v, data.mass, data.weight, known, held, w, seed, start)
        return found

    def log_ratio(self, events: Events) -> NDArray[np.float64]:
        """ln p_S(x | m) / p_B(x | m), shape (n,), not cut off; -inf outside the domain of p_B."""
        background = check_known(events, self.background_, "RAnode")
        if self.signal_ is None:
            raise InputError("this RAnode has not been fitted")
        domain = background.domain_
        inside = domain.inside(events.x)
        out = np.full(len(events), -np.inf)
        x, mass = events.x[inside], self.signal_.frame.within(events.mass[inside])
        signal = self.signal_.log_prob(domain.forward(x), mass)
        out[inside] = signal + domain.log_jacobian(x) - background.log_prob(x, mass)
        return out

    def score(self, events: Events) -> NDArray[np.float64]:
        """The log ratio within +- 100, shape (n,)."""
        return np.clip(self.log_ratio(events), -_LARGEST, _LARGEST)

    def sample_signal(
        self, n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """x (n, d) and mass (n,) [GeV] drawn from p_S: what the data hold beside the background. Plot it."""
        if self.background_ is None or self.signal_ is None:
            raise InputError("this RAnode has not been fitted")
        v, mass = self.signal_.sample(n, rng)
        return self.background_.domain_.inverse(v), mass

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, str]]:
        """Both densities, the fraction and its scan."""
        info: dict[str, Any] = {"fraction": self.fraction_, "scan": list(map(list, self.scan_.items()))}
        info["start"] = None if self.start_ is None else self.start_.to_json()
        if self.background_ is None or self.signal_ is None:
            return info | {"densities": None}, {}, {}
        b, s = state_under("background", self.background_), state_under("signal", self.signal_)
        return info | {"densities": [b[0], s[0]]}, b[1] | s[1], b[2] | s[2]

    def restore(self, info: dict[str, Any], arrays: dict[str, NDArray[Any]], texts: dict[str, str]) -> Self:
        """Take back what `state` gave."""
        self.fraction_, self.scan_ = float(info["fraction"]), {float(w): float(v) for w, v in info["scan"]}
        start = info.get("start")  # models of before have none
        self.start_ = None if start is None else Gaussian.of_json(start)
        if info["densities"] is not None:
            background, signal = info["densities"]
            self.background_ = restore_under("background", ConditionalFlow, background, arrays, texts)
            self.signal_ = restore_under("signal", SignalDensity, signal, arrays, texts)
        return self


def _control(reference: Events, data: Events) -> Events:
    """Twice as many events of the reference as there are data, those whose masses are nearest to the data's."""
    far = np.maximum(data.mass.min() - reference.mass, reference.mass - data.mass.max())
    keys = (identity_hash(reference.identity), far)
    return reference.take(np.sort(np.lexsort(keys)[: 2 * len(data)]))
