"""Jet energy scale and resolution: jets, their masses, and the missing energy that must balance them."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...events import identity_hash
from ..features import Columns
from .base import Jagged, check_name
from .corrections import Correction
from .met import met_branches, met_optional, met_touches, moved, sums_kernel

#: No smeared jet falls below this pT, GeV.
SMALLEST_PT = 0.01
#: Generator jets by reconstructed collection: their branches' prefix and the index that points there.
GENERATOR = {"Jet": ("GenJet", "genJetIdx"), "FatJet": ("GenJetAK8", "genJetAK8Idx")}
_MASSES = {"FatJet": ("mass", "msoftdrop")}


@dataclass(frozen=True)
class _Jets:
    """A collection and the missing energy that goes with it: what scale and resolution have in common."""

    jets: str
    met: str | None
    threshold: float

    @property
    def masses(self) -> tuple[str, ...]:
        return tuple(f"{self.jets}_{m}" for m in _MASSES.get(self.jets, ("mass",)))

    @property
    def branches(self) -> tuple[str, ...]:
        phi = () if self.met is None else (f"{self.jets}_phi",)
        return (f"{self.jets}_pt", *phi, *met_branches(self.met))

    @property
    def optional(self) -> tuple[str, ...]:
        bx = (f"{self.jets}_bx",) if self.met is not None and self.jets.startswith("L1") else ()
        return (*self.masses, *bx, *met_optional(self.met))

    @property
    def touches(self) -> tuple[str, ...]:
        return (f"{self.jets}_pt", *self.masses, *met_touches(self.met))

    def scaled(self, columns: Columns, factor: float | NDArray[np.float64], who: str) -> dict[str, Any]:
        """pT and masses times ``factor``, a number or (N,), and the missing energy less the vector sum of the changes."""
        pt = Jagged.of(columns, f"{self.jets}_pt", who)
        new = _times(pt, factor, f"{self.jets}_pt", who)
        out: dict[str, Any] = {f"{self.jets}_pt": pt.like(new)}
        for branch in self.masses:
            if branch in columns:
                mass = Jagged.of(columns, branch, who)
                mass.require_same(pt, branch, f"{self.jets}_pt")
                out[branch] = mass.like(_times(mass, factor, branch, who))
        if self.met is not None:
            x, y = self._changes(columns, pt, new, who)
            out.update(moved(columns, self.met, -x, -y, who))
        return out

    def _changes(
        self, columns: Columns, pt: Jagged, new: NDArray[Any], who: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # The threshold looks at the incoming pT, so that the same jets count at every nu.
        phi = Jagged.of(columns, f"{self.jets}_phi", who)
        phi.require_same(pt, f"{self.jets}_phi", f"{self.jets}_pt")
        use = pt.content > self.threshold
        if self.jets.startswith("L1") and f"{self.jets}_bx" in columns:
            use &= Jagged.of(columns, f"{self.jets}_bx", who).content == 0
        return sums_kernel(pt.offsets, new, pt.content, np.cos(phi.content), np.sin(phi.content), use)


def _times(values: Jagged, factor: float | NDArray[np.float64], branch: str, who: str) -> NDArray[Any]:
    """The content times a number or (N,), in its own floating type."""
    if values.content.dtype.kind != "f":
        raise InputError(f"nuisance '{who}': {branch} is {values.content.dtype}, expected a floating type")
    return np.multiply(values.content, factor, dtype=values.content.dtype, casting="same_kind")


@dataclass(frozen=True)
class JetEnergyScale:
    """Jet pT and masses times 1 + nu u, with u a constant or a correctionlib evaluator of the jets.

    ``jets``: Jet, FatJet (msoftdrop is scaled too) or L1Jet. ``met``: None, or the missing energy (MET, PuppiMET, PFMET,
    or L1EtSum for its entry of type 2) from which the vector sum of the changes of the jets above ``met_threshold`` GeV
    is taken, as in CMS's type-I correction (1903.06078) without its muon and electromagnetic-fraction requirements.
    """

    name: str
    jets: str = "Jet"
    uncertainty: float | Correction = 0.01
    met: str | None = None
    met_threshold: float = 15.0
    corrects = False

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_size(self.name, "uncertainty", self.uncertainty)

    @property
    def _common(self) -> _Jets:
        return _Jets(self.jets, self.met, self.met_threshold)

    @property
    def branches(self) -> tuple[str, ...]:
        """Kinematics, missing energy, inputs of the evaluator."""
        return _unique(self._common.branches, _inputs(self.uncertainty, self.jets))

    @property
    def optional(self) -> tuple[str, ...]:
        """Masses, crossing numbers."""
        return self._common.optional

    @property
    def touches(self) -> tuple[str, ...]:
        """pT, masses, missing energy."""
        return self._common.touches

    def shift(self, columns: Columns, nu: float, identity: NDArray[np.void]) -> dict[str, Any]:  # noqa: ARG002
        """The columns at nu standard deviations; at 0 the numbers of the file, bit by bit."""
        size = _size(self.uncertainty, columns, self.jets, 0.0, self.name)
        return self._common.scaled(columns, 1.0 + nu * size, self.name)


@dataclass(frozen=True)
class JetEnergyResolution:
    """The hybrid smearing of CMS (1607.03663): simulated jets get the resolution of the data, s = s0 + nu ds.

    A jet whose generator jet is there and within three resolutions r is scaled by 1 + (s - 1)(pT - pT_gen) / pT; any
    other by 1 + r g sqrt(max(s^2 - 1, 0)), with g a normal number. g is a function of run, luminosity block, event, the
    jet's place in the event, the collection and ``seed`` alone: the same in every chunk and worker, and for every nu.

    ``scale_factor``: s0, with its ``uncertainty`` ds; or an evaluator with nominal, up and down, and no ``uncertainty``.
    ``resolution``: r = sigma(pT)/pT, a constant or an evaluator. ``match``: use generator jets where the file has them.
    Missing energy as in `JetEnergyScale`. At nu = 0 the jets are smeared by s0: that is the nominal simulation.
    """

    name: str
    jets: str = "Jet"
    scale_factor: float | Correction = 1.1
    uncertainty: float | None = None
    resolution: float | Correction = 0.1
    match: bool = True
    met: str | None = None
    met_threshold: float = 15.0
    seed: int = 0
    corrects = True

    def __post_init__(self) -> None:
        check_name(self.name)
        for key in ("scale_factor", "resolution", "uncertainty"):
            _check_size(self.name, key, getattr(self, key))
        if isinstance(self.scale_factor, Correction) and self.uncertainty is not None:
            raise ConfigError(
                f"nuisance '{self.name}': the scale factor's evaluator has its own up and down; remove 'uncertainty'"
            )
        if not isinstance(self.scale_factor, Correction) and self.uncertainty is None:
            raise ConfigError(
                f"nuisance '{self.name}': a constant scale_factor needs an 'uncertainty', for example 0.05"
            )

    @property
    def _common(self) -> _Jets:
        return _Jets(self.jets, self.met, self.met_threshold)

    @property
    def branches(self) -> tuple[str, ...]:
        """Kinematics, missing energy, inputs of the evaluators."""
        inputs = (_inputs(v, self.jets) for v in (self.scale_factor, self.resolution))
        return _unique(self._common.branches, *inputs)

    @property
    def optional(self) -> tuple[str, ...]:
        """Masses, crossing numbers, generator jets."""
        return (*self._common.optional, *self._generator)

    @property
    def touches(self) -> tuple[str, ...]:
        """pT, masses, missing energy."""
        return self._common.touches

    @property
    def _generator(self) -> tuple[str, ...]:
        if not self.match or self.jets not in GENERATOR:
            return ()
        prefix, index = GENERATOR[self.jets]
        return f"{self.jets}_{index}", f"{prefix}_pt"

    def shift(self, columns: Columns, nu: float, identity: NDArray[np.void]) -> dict[str, Any]:
        """The columns at nu standard deviations of the scale factor."""
        return self._common.scaled(columns, self.factors(columns, nu, identity), self.name)

    def factors(self, columns: Columns, nu: float, identity: NDArray[np.void]) -> NDArray[np.float64]:
        """What each jet's pT is multiplied with, (N,)."""
        pt = Jagged.of(columns, f"{self.jets}_pt", self.name)
        scale = _size(self.scale_factor, columns, self.jets, nu, self.name)
        if self.uncertainty is not None:
            scale = scale + nu * self.uncertainty
        resolution = _size(self.resolution, columns, self.jets, 0.0, self.name)
        # The stream is the collection's own, so that small and large jets of an event do not fluctuate together.
        stream = identity_hash(identity, self.seed + (zlib.crc32(self.jets.encode()) << 32))
        return smearing_kernel(
            pt.offsets, pt.content, np.atleast_1d(scale), np.atleast_1d(resolution), stream,
            *self._matched(columns, pt),
        )  # fmt: skip

    def _matched(self, columns: Columns, pt: Jagged) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Index of every jet's generator jet (empty: none known), offsets and pT of the generator jets."""
        wanted = self._generator
        if not wanted or not all(b in columns for b in wanted):
            return np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.float32)
        index, generated = (Jagged.of(columns, b, self.name) for b in wanted)
        index.require_same(pt, wanted[0], f"{self.jets}_pt")
        return index.content, generated.offsets, generated.content


@nb.njit(inline="always")
def _rational(x: float, a: tuple[float, ...], b: tuple[float, ...]) -> float:
    top, bottom = a[7], b[7]
    for i in range(6, -1, -1):
        top, bottom = top * x + a[i], bottom * x + b[i]
    return top / bottom


_CENTRE = (
    (3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
     45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
    (1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
     21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
)  # fmt: skip
_SHOULDER = (
    (1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504,
     1.27045825245236838258, 0.241780725177450611770, 0.0227238449892691845833, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
     0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_TAIL = (
    (6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 0.296560571828504891230,
     0.0265321895265761230930, 0.00124266094738807843860, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 0.599832206555887937690, 0.136929880922735805310, 0.0148753612908506148525,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


@nb.njit(inline="always")
def _normal(bits: np.uint64) -> float:
    """The normal quantile of a 64-bit hash read as a number in (0, 1): algorithm AS 241 of Wichura (1988)."""
    u = (np.float64(bits >> np.uint64(11)) + 0.5) * 2.0**-53
    q = u - 0.5
    if abs(q) <= 0.425:
        return q * _rational(0.180625 - q * q, _CENTRE[0], _CENTRE[1])
    r = math.sqrt(-math.log(u if q < 0 else 1.0 - u))
    if r <= 5.0:
        value = _rational(r - 1.6, _SHOULDER[0], _SHOULDER[1])
    else:
        value = _rational(r - 5.0, _TAIL[0], _TAIL[1])
    return -value if q < 0 else value


@nb.njit(inline="always")
def _bits(stream: np.uint64, place: int) -> np.uint64:
    """Number ``place`` of the event's SplitMix64 sequence (Steele, Lea, Flood 2014)."""
    z = stream + np.uint64(place + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@nb.njit(cache=True, nogil=True)
def smearing_kernel(
    offsets: NDArray[np.int64],
    pt: NDArray[Any],
    scale: NDArray[np.float64],
    resolution: NDArray[np.float64],
    stream: NDArray[np.uint64],
    index: NDArray[Any],
    gen_offsets: NDArray[np.int64],
    gen_pt: NDArray[Any],
) -> NDArray[np.float64]:
    """Factor on every jet's pT, (N,). ``scale`` and ``resolution`` are (N,), or (1,) for all; ``index`` (N,) or empty."""
    out = np.empty(len(pt))
    each_scale, each_resolution = len(scale) > 1, len(resolution) > 1
    for i in range(len(offsets) - 1):
        for k in range(offsets[i], offsets[i + 1]):
            s = scale[k] if each_scale else scale[0]
            r = resolution[k] if each_resolution else resolution[0]
            value = np.float64(pt[k])
            factor, matched = 1.0, False
            if len(index) > 0 and index[k] >= 0 and gen_offsets[i] + index[k] < gen_offsets[i + 1]:
                excess = value - np.float64(gen_pt[gen_offsets[i] + index[k]])
                matched = abs(excess) < 3.0 * r * value
                if matched:
                    factor = 1.0 + (s - 1.0) * excess / value
            if not matched and s > 1.0:
                factor = 1.0 + r * math.sqrt(s * s - 1.0) * _normal(_bits(stream[i], k - offsets[i]))
            out[k] = max(factor, min(1.0, SMALLEST_PT / value) if value > 0.0 else 1.0)
    return out


def _unique(*groups: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(b for group in groups for b in group))


def _inputs(value: float | Correction, jets: str) -> tuple[str, ...]:
    return value.branches(jets) if isinstance(value, Correction) else ()


def _check_size(name: str, key: str, value: Any) -> None:
    if isinstance(value, (int, float)) and not 0.0 <= value < math.inf:
        raise ConfigError(f"nuisance '{name}': {key} is {value}, expected a number of 0 or more")


def _size(value: float | Correction, columns: Columns, jets: str, nu: float, who: str) -> Any:
    """A constant, or an evaluator's values (N,): straight lines from the nominal to the up and the down one."""
    if not isinstance(value, Correction):
        return value
    nominal = value.evaluate(columns, jets, "nominal", who)
    if nu == 0.0:
        return nominal
    side = value.evaluate(columns, jets, "up" if nu > 0 else "down", who)
    return nominal + abs(nu) * (side - nominal)
