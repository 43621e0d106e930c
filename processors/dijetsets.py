"""The dijet feature sets of the literature beside the baseline (2309.13111, 1805.02664, 2405.08889, 2011.03550), as feature definitions.

A search takes one as ``elsewhere.processors.dijetsets:EXTENDED_1``. Jets are ordered by mass, the lighter first, except in
the set of PAWS. N-subjettiness beyond tau4 and numbers of tracks are branches of the samples made for these sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from uuid import UUID

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InputError
from ..events import Column, FeatureSet, identity_uniform, make_identity
from .features import DIJET, Columns, Computed, Dijet, flat_parts

Kind = Literal[
    "baseline", "extended_1", "extended_2", "extended_3", "kitchen", "super", "cwola", "quak", "paws"
]
#: Added to every denominator of a ratio, as in the baseline.
SMALL = 1e-5
#: Suffixes of the N-subjettiness at beta 1, 0.5 and 2.
BETAS = {"": 1.0, "_b05": 0.5, "_b2": 2.0}
_BASE = ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3")


@dataclass(frozen=True)
class _Shape:
    """A number of one jet: its name, its meaning, and the branches it is made of: one, a ratio, or one of three formulas."""

    name: str
    meaning: str
    how: Literal["value", "ratio", "cwola", "quak", "tev", "bare"]
    fields: tuple[str, ...]
    unit: str = ""

    def of(self, jet: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Its values (n,) from the fields of one jet per event."""
        a = jet[self.fields[0]]
        if self.how == "value":
            return a
        if self.how == "tev":
            return a / 1000.0
        b = jet[self.fields[1]]
        if self.how == "ratio":
            return a / (b + SMALL)
        if self.how == "bare":
            return np.divide(a, b, out=np.zeros(len(a)), where=(a > 0) & (b > 0))
        if self.how == "cwola":
            return np.sqrt(np.maximum(a, 0.0)) / (b + SMALL)
        return np.sqrt(np.maximum(a / (b + SMALL), 0.0)) / (b + SMALL)


def _ratio(n: int, suffix: str = "") -> _Shape:
    over, under = f"tau{n + 1}{suffix}", f"tau{n}{suffix}"
    return _Shape(f"tau{n + 1}{n}{suffix}", f"{over} / ({under} + 1e-5)", "ratio", (over, under))


def _tau(n: int, suffix: str = "") -> _Shape:
    return _Shape(
        f"tau{n}{suffix}", f"{n}-subjettiness at beta {BETAS[suffix]:g}", "value", (f"tau{n}{suffix}",)
    )


_MASS = _Shape("m", "mass", "value", ("mass",), "GeV")
_CWOLA = _Shape("tau1_width", "sqrt(tau1_b2) / (tau1 + 1e-5)", "cwola", ("tau1_b2", "tau1"))
_QUAK = _Shape(
    "quak_tau", "sqrt(tau2 / (tau1 + 1e-5)) / (tau1 + 1e-5), not the width of CWoLa", "quak", ("tau2", "tau1")
)
_TRACKS = _Shape("n_trk", "number of tracks", "value", ("nTracks",))
_ALL = [_tau(n, s) for s in BETAS for n in range(1, 10)]
#: Sets that say it all per jet; the others begin with m_J1 and dm_J.
PER_JET = ("cwola", "quak", "paws")
#: What each set says about every jet.
SHAPES: Mapping[Kind, tuple[_Shape, ...]] = {
    "baseline": (_ratio(1),),
    "extended_1": tuple(_ratio(n) for n in (1, 2, 3, 4)),
    "extended_2": tuple(_tau(n) for n in range(1, 6)),
    "extended_3": tuple(_ALL),
    "kitchen": (*_ALL, *(_ratio(n) for n in range(1, 9))),
    "super": (*_ALL, *(_ratio(n, s) for s in BETAS for n in range(1, 9))),
    "cwola": (_MASS, _CWOLA, _ratio(1), _ratio(2), _ratio(3), _TRACKS),
    "quak": (
        _Shape("rho", "mass / pT", "bare", ("mass", "pt")),
        *(_ratio(n) for n in (1, 2, 3)),
        _QUAK,
        _Shape("n_const", "number of constituents", "value", ("nConstituents",)),
    ),
    "paws": (
        _Shape("m", "mass", "tev", ("mass",), "TeV"),
        _Shape("tau21", "tau2 / tau1, 0 unless both are positive", "bare", ("tau2", "tau1")),
        _Shape("tau32", "tau3 / tau2, 0 unless both are positive", "bare", ("tau3", "tau2")),
    ),
}


@nb.njit(cache=True, nogil=True)
def _pair_kernel(
    offsets: NDArray[np.int64], pt: NDArray[np.float64], mass: NDArray[np.float64], pair: NDArray[np.int64]
) -> None:
    """Rows of the lighter and the heavier of the two jets of highest pT into ``pair`` (2, n), 0 where there are not two."""
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        if stop - start < 2:
            pair[:, i] = 0
            continue
        a, b = start, -1
        for k in range(start + 1, stop):
            if pt[k] > pt[a]:
                a, b = k, a
            elif b < 0 or pt[k] > pt[b]:
                b = k
        pair[0, i], pair[1, i] = (a, b) if mass[a] <= mass[b] else (b, a)


@dataclass(frozen=True)
class DijetSet:
    """One of the published dijet feature sets, selected as `Dijet` does.

    ``delta_r`` adds the distance of the jets, which m_jj is correlated with. ``shift``: m_J1 and dm_J each get that
    fraction of m_jj, which spoils what assumes no correlation (2109.00546). ``noise`` standard normal columns that
    depend on the event's identity and ``noise_seed`` alone.
    """

    kind: Kind = "baseline"
    delta_r: bool = False
    shift: float = 0.0
    noise: int = 0
    noise_seed: int = 0
    min_pt: float = 1200.0
    max_eta: float = 2.5

    def __post_init__(self) -> None:
        if self.kind not in SHAPES:
            raise ConfigError(f"events.features: no dijet set '{self.kind}'. There are: {', '.join(SHAPES)}")
        if self.noise < 0:
            raise ConfigError(f"events.features: noise {self.noise}: expected 0 or more columns")
        if self.shift and self.kind in PER_JET:
            raise ConfigError(f"events.features: the set '{self.kind}' has no m_J1 and dm_J to shift")

    @property
    def name(self) -> str:
        """The set's name with the order of its jets."""
        extra = [f"shift{self.shift:g}"] if self.shift else []
        extra += ["dR"] if self.delta_r else []
        extra += [f"noise{self.noise}"] if self.noise else []
        return "_".join(
            [f"dijet_{self.kind}", *extra, "heavy_first" if self.kind == "paws" else "light_first"]
        )

    @cached_property
    def features(self) -> FeatureSet:
        """The columns; those of `Dijet` keep their names, and what is no column here is carried along."""
        return FeatureSet(self.name, tuple(self._columns()), DIJET.mass, self._extras())

    def _columns(self) -> list[Column]:
        masses = list(DIJET.columns[:2])
        if self.shift:
            masses = [
                Column(f"{c.name}_shifted", "GeV", f"{c.meaning} + {self.shift:g} m_jj", 0.0) for c in masses
            ]
        out = [] if self.kind in PER_JET else masses
        words = ("heavier", "lighter") if self.kind == "paws" else ("lighter", "heavier")
        # Names number the jets by the order of the set; PAWS' first is another jet than everybody else's.
        tag = "h" if self.kind == "paws" else ""
        shapes = [(k, w, s) for k, w in enumerate(words) for s in SHAPES[self.kind]]
        if self.kind == "baseline":
            out += DIJET.columns[2:]
        else:
            out += [
                Column(f"{s.name}_{tag}{k + 1}", s.unit, f"{s.meaning} of the {w} jet", 0.0)
                for k, w, s in shapes
            ]
        if self.delta_r:
            out.append(Column("dR_jj", "", "distance of the two jets in eta and phi", 0.0))
        noise = [
            Column(f"noise_{i}", "", "standard normal, from the event's identity") for i in range(self.noise)
        ]
        return [*out, *noise]

    def _extras(self) -> tuple[Column, ...]:
        used = {c.name for c in self._columns()}
        return tuple(c for c in DIJET.extras if c.name not in used)

    @property
    def branches(self) -> tuple[str, ...]:
        """FatJet kinematics and what the set's numbers are made of."""
        fields = dict.fromkeys([*_BASE, *(f for s in SHAPES[self.kind] for f in s.fields)])
        return tuple(f"FatJet_{f}" for f in fields)

    @property
    def optional(self) -> tuple[str, ...]:
        """None."""
        return ()

    def compute(self, columns: Columns) -> Computed:
        """The columns of the events that `Dijet` keeps; an `InputError` where noise has no identity to come from."""
        base = Dijet(self.min_pt, self.max_eta).compute(columns)
        names = tuple(b.removeprefix("FatJet_") for b in self.branches)
        offsets, contents = flat_parts(columns, "FatJet", names)
        keep = base.kept(len(offsets) - 1)
        pair = np.zeros((2, len(offsets) - 1), np.int64)
        fields = dict(zip(names, contents, strict=True))
        _pair_kernel(offsets, fields["pt"], fields["mass"], pair)
        jets = [{n: v[rows[keep]].astype(np.float64) for n, v in fields.items()} for rows in pair]
        x = np.empty((len(base.x), len(self.features)), np.float32, order="F")
        at = 0
        if self.kind not in PER_JET:
            x[:, :2] = base.x[:, :2] + (self.shift * base.mass[:, None] if self.shift else 0.0)
            at = 2
        for jet in reversed(jets) if self.kind == "paws" else jets:
            for shape in SHAPES[self.kind]:
                x[:, at] = shape.of(jet)
                at += 1
        if self.delta_r:
            x[:, at] = _distance(*jets)
            at += 1
        for i in range(self.noise):
            x[:, at + i] = identity_normal(columns, keep, self.noise_seed + i)
        extras = {c.name: base.extras[c.name] for c in self.features.extras}
        return Computed(x, base.mass, base.cuts, extras)


def _distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> NDArray[np.float64]:
    across = np.abs(first["phi"] - second["phi"]) % (2 * np.pi)
    return np.hypot(first["eta"] - second["eta"], np.minimum(across, 2 * np.pi - across))


def identity_normal(columns: Columns, keep: NDArray[np.bool_], column: int) -> NDArray[np.float64]:
    """Standard normal numbers (n_kept,) by inversion of the hash of run, luminosityBlock, event and ``column``.

    The same event has the same number in whatever file, order or batch it stands. `InputError` without these branches.
    """
    from scipy.special import ndtri

    try:
        run, lumi, event = (np.asarray(columns[b])[keep] for b in ("run", "luminosityBlock", "event"))
    except KeyError as error:
        raise InputError(
            f"noise columns need the branch {error} to identify events; it was not read"
        ) from None
    identity = make_identity(run, lumi, event, UUID(int=0))
    # Another stream than that of folds: no seed of those is this large.
    return ndtri(identity_uniform(identity, (0x6E6F697365 << 20) + column) + 2.0**-54)


BASELINE = DijetSet()
BASELINE_DR = DijetSet(delta_r=True)
SHIFTED = DijetSet(shift=0.1)
EXTENDED_1, EXTENDED_2, EXTENDED_3 = DijetSet("extended_1"), DijetSet("extended_2"), DijetSet("extended_3")
KITCHEN, SUPER = DijetSet("kitchen"), DijetSet("super")
CWOLA, QUAK, PAWS = DijetSet("cwola"), DijetSet("quak"), DijetSet("paws")
NOISE_1, NOISE_2, NOISE_5 = DijetSet(noise=1), DijetSet(noise=2), DijetSet(noise=5)
NOISE_10, NOISE_30, NOISE_50 = DijetSet(noise=10), DijetSet(noise=30), DijetSet(noise=50)
