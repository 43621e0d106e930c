"""Feature definitions: which branches are read and how they become numbers. Those built in, and a user's own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, FeatureError
from ..events import Column, FeatureSet
from ..workspace import digest
from .kernels import dijet_kernel, leading_kernel, sums_kernel

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Computed:
    """Features of the kept events of a batch of n.

    x (n_kept, d), mass (n_kept,), extras of (n_kept,) each; ``cuts``: masks (n,) in order, kept = all of them.
    """

    x: NDArray[np.float32]
    mass: NDArray[np.float64]
    cuts: dict[str, NDArray[np.bool_]]
    extras: dict[str, NDArray[Any]] = field(default_factory=dict)

    def take(self, which: NDArray[np.bool_]) -> Computed:
        """Those of the kept events that a mask (n_kept,) selects."""
        extras = {name: values[which] for name, values in self.extras.items()}
        return Computed(self.x[which], self.mass[which], self.cuts, extras)

    def kept(self, n: int) -> NDArray[np.bool_]:
        """Mask (n,) of the events that pass every cut."""
        out = np.ones(n, dtype=bool)
        for mask in self.cuts.values():
            out &= mask
        return out


@runtime_checkable
class Features(Protocol):
    """What a feature definition is. ``optional`` branches are used where a file has them."""

    @property
    def features(self) -> FeatureSet:
        """The columns made."""
        ...

    @property
    def branches(self) -> tuple[str, ...]:
        """NanoAOD branches that must be there, for example FatJet_pt."""
        ...

    @property
    def optional(self) -> tuple[str, ...]:
        """Branches that are read where they exist."""
        ...

    def compute(self, columns: Columns) -> Computed:
        """Features from columns: jagged ones are awkward arrays, flat ones NumPy."""
        ...


@runtime_checkable
class Incremental(Protocol):
    """Features that can be computed again where only some branches changed."""

    def recompute(self, nominal: Computed, columns: Columns, touched: Collection[str]) -> Computed:
        """The features of ``columns``, which differ from those of ``nominal`` in the branches ``touched`` alone."""
        ...


def recompute(features: Features, nominal: Computed, columns: Columns, touched: Collection[str]) -> Computed:
    """The features of ``columns``, which differ in ``touched`` from those that gave ``nominal``: nothing is computed again
    that reads none of them."""
    if not set(touched) & {*features.branches, *features.optional}:
        return nominal
    if isinstance(features, Incremental):
        return features.recompute(nominal, columns, touched)
    return features.compute(columns)


@dataclass(frozen=True)
class FunctionFeatures:
    """A feature definition from one function: columns in, a dictionary of arrays out.

    The function returns one array per column of ``features`` (its mass and extras included) for all n events, and
    under ``keep`` a mask (n,) of the events it is meant for; values of the others are ignored.
    """

    features: FeatureSet
    branches: tuple[str, ...]
    function: Callable[[Columns], Mapping[str, Any]]
    optional: tuple[str, ...] = ()

    def compute(self, columns: Columns) -> Computed:
        """Call the function and check what it returned."""
        made = {
            k: np.asarray(ak.to_numpy(ak.fill_none(v, np.nan))) for k, v in self.function(columns).items()
        }
        if "keep" not in made:
            raise FeatureError(f"the function of '{self.features.name}' returned no 'keep' mask")
        keep = made["keep"].astype(bool)
        mass = self.features.mass
        wanted = [
            *self.features.names,
            *((mass.name,) if mass else ()),
            *(c.name for c in self.features.extras),
        ]
        missing = [name for name in wanted if name not in made]
        if missing:
            raise FeatureError(f"the function of '{self.features.name}' returned no column '{missing[0]}'")
        x = np.stack([made[n][keep] for n in self.features.names], axis=1).astype(np.float32)
        m = made[mass.name][keep].astype(np.float64) if mass else np.full(keep.sum(), np.nan)
        extras = {c.name: made[c.name][keep] for c in self.features.extras}
        return Computed(x, m, {"selection": keep}, extras)


def flat_parts(
    columns: Columns, prefix: str, names: tuple[str, ...]
) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Offsets (n+1,) and contents of a collection's branches, in the file's own types, for kernels."""
    offsets, first = offsets_and_content(columns[f"{prefix}_{names[0]}"])
    contents = [first, *(offsets_and_content(columns[f"{prefix}_{n}"])[1] for n in names[1:])]
    for name, content in zip(names, contents, strict=True):
        if len(content) != offsets[-1]:
            raise FeatureError(f"{prefix}_{name} and {prefix}_{names[0]} have different numbers of entries")
    return offsets, contents


def offsets_and_content(column: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Offsets from 0 and the flat content of a jagged column; straight from its buffers where they are plain."""
    layout: Any = ak.to_layout(column)
    if not isinstance(layout, ak.contents.ListOffsetArray) or not layout.content.is_numpy:
        layout = ak.to_packed(ak.from_regular(column)).layout
    plain: Any = layout
    offsets = np.asarray(plain.offsets.data, dtype=np.int64)
    content = np.asarray(plain.content.data)[offsets[0] : offsets[-1]]
    return offsets - offsets[0] if offsets[0] else offsets, content


DIJET = FeatureSet(
    "dijet",
    (
        Column("m_J1", "GeV", "mass of the lighter of the two leading jets", 0.0),
        Column("dm_J", "GeV", "mass of the heavier minus mass of the lighter", 0.0),
        Column("tau21_1", "", "tau2 / (tau1 + 1e-5) of the lighter jet", 0.0),
        Column("tau21_2", "", "tau2 / (tau1 + 1e-5) of the heavier jet", 0.0),
    ),
    Column("m_jj", "GeV", "invariant mass of the two leading jets", 0.0, 13_000.0),
    (
        Column("pt_1", "GeV", "pT of the leading jet"),
        Column("pt_2", "GeV", "pT of the second jet"),
        Column("eta_1", "", "eta of the leading jet"),
        Column("eta_2", "", "eta of the second jet"),
        Column("tau32_1", "", "tau3 / (tau2 + 1e-5) of the lighter jet"),
        Column("tau32_2", "", "tau3 / (tau2 + 1e-5) of the heavier jet"),
    ),
)


@dataclass(frozen=True)
class Dijet:
    """Dijet substructure as in the LHC Olympics (2101.08320): large-radius jets ordered by mass, the lighter first."""

    min_pt: float = 1200.0
    max_eta: float = 2.5
    features: FeatureSet = DIJET
    optional: tuple[str, ...] = ()

    @property
    def branches(self) -> tuple[str, ...]:
        """FatJet kinematics and N-subjettiness."""
        return tuple(f"FatJet_{n}" for n in ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3"))

    def compute(self, columns: Columns) -> Computed:
        """The four numbers, m_jj and the carried ones; cuts: two jets, leading pT, central."""
        names = ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3")
        offsets, contents = flat_parts(columns, "FatJet", names)
        n = len(offsets) - 1
        x, mass, rest = np.empty((n, 4), np.float32, order="F"), np.empty(n), np.empty((6, n), np.float32)
        pt, eta, phi, masses, tau1, tau2, tau3 = contents
        dijet_kernel(offsets, pt, eta, phi, masses, tau1, tau2, tau3, x, mass, rest)
        two = np.diff(offsets) >= 2
        hard = rest[0] > self.min_pt
        central = (np.abs(rest[2]) < self.max_eta) & (np.abs(rest[3]) < self.max_eta)
        keep = two & hard & central
        if not keep.all():
            x, mass, rest = x[keep], mass[keep], rest[:, keep]
        extras = {c.name: rest[i] for i, c in enumerate(self.features.extras)}
        cuts = {"two jets": two, f"pT > {self.min_pt:g} GeV": hard, f"|eta| < {self.max_eta:g}": central}
        return Computed(x, mass, cuts, extras)


LEVEL1_OBJECTS = (("EG", "L1EG", 4), ("Mu", "L1Mu", 4), ("Jet", "L1Jet", 10))
#: What 1 stands for in the hardware's pT [GeV], eta and phi [rad], of calorimeter objects and sums, and of muons.
LEVEL1_STEPS = (0.5, 0.0435, 2 * math.pi / 144)
MUON_STEPS = (0.5, 0.010875, 2 * math.pi / 576)


def _level1_columns() -> tuple[Column, ...]:
    out = []
    slots = [("MET", "missing energy")]
    slots += [(f"{n}{i}", f"{branch}, number {i} by pT") for n, branch, k in LEVEL1_OBJECTS for i in range(k)]
    for slot, meaning in slots:
        pt, eta, phi = MUON_STEPS if slot.startswith("Mu") else LEVEL1_STEPS
        out += [
            Column(f"{slot}_pt", "GeV", f"pT of {meaning}", 0.0, step=pt),
            Column(f"{slot}_eta", "", f"eta of {meaning}", -5.2, 5.2, eta),
            Column(f"{slot}_phi", "rad", f"phi of {meaning}", -np.pi, np.pi, phi),
        ]
    return tuple(out)


LEVEL1 = FeatureSet(
    "l1",
    _level1_columns(),
    None,
    (
        Column("HT", "GeV", "scalar sum of jet pT (level-1 HTT where stored)"),
        Column("n_pileup", "", "number of pile-up collisions, -1 where unknown"),
    ),
)


@dataclass(frozen=True)
class Level1:
    """The 57 numbers of a level-1 anomaly trigger (2108.03986): MET, 4 e/gamma, 4 muons, 10 jets, each pT eta phi.

    Objects of the triggered crossing only (bx 0 where the branch exists), ordered by pT; empty slots are 0, and so is
    the eta of MET.
    """

    features: FeatureSet = LEVEL1

    @property
    def branches(self) -> tuple[str, ...]:
        """Level-1 objects."""
        jagged = tuple(f"{b}_{v}" for _, b, _ in LEVEL1_OBJECTS for v in ("pt", "eta", "phi"))
        return (*jagged, "L1EtSum_pt", "L1EtSum_phi", "L1EtSum_etSumType")

    @property
    def optional(self) -> tuple[str, ...]:
        """Crossing numbers and pile-up."""
        return ("L1EG_bx", "L1Mu_bx", "L1Jet_bx", "L1EtSum_bx", "Pileup_nPU")

    def compute(self, columns: Columns) -> Computed:
        """The tensor; every event is kept."""
        n = len(columns["L1EtSum_pt"])
        computed = Computed(np.zeros((n, len(self.features)), np.float32, order="F"), np.full(n, np.nan), {})
        return self._fill(columns, computed, set(self.branches), zeros=True)

    def recompute(self, nominal: Computed, columns: Columns, touched: Collection[str]) -> Computed:
        """The tensor of changed columns: only the objects whose branches were touched are looked at again."""
        x, hit = np.empty_like(nominal.x, order="F"), {name.split("_")[0] for name in touched}
        start = 3
        if not hit & {"L1EtSum", "L1Jet"}:  # what `_fill` leaves alone
            x[:, :start] = nominal.x[:, :start]
        for _, branch, most in LEVEL1_OBJECTS:
            if branch not in hit:
                x[:, start : start + 3 * most] = nominal.x[:, start : start + 3 * most]
            start += 3 * most
        return self._fill(columns, Computed(x, nominal.mass, {}, nominal.extras), touched)

    def _fill(
        self, columns: Columns, computed: Computed, touched: Collection[str], zeros: bool = False
    ) -> Computed:
        x, extras = computed.x, dict(computed.extras)
        hit = {name.split("_")[0] for name in touched}
        start = 3
        for _, branch, most in LEVEL1_OBJECTS:
            if branch in hit:
                offsets, (pt, eta, phi) = flat_parts(columns, branch, ("pt", "eta", "phi"))
                use = self._in_time(columns, branch, len(pt))
                leading_kernel(offsets, pt, eta, phi, use, most, x, start, zeros)
            start += 3 * most
        if "L1EtSum" in hit or "L1Jet" in hit:
            offsets, (sum_pt, sum_phi, kinds) = flat_parts(columns, "L1EtSum", ("pt", "phi", "etSumType"))
            extras["HT"] = np.empty(len(x), np.float32)
            use = self._in_time(columns, "L1EtSum", len(sum_pt))
            sums_kernel(offsets, sum_pt, sum_phi, kinds, use, x, 27, extras["HT"])
        if "n_pileup" not in extras:
            pileup = columns.get("Pileup_nPU")
            extras["n_pileup"] = (
                np.full(len(x), -1, np.int32) if pileup is None else np.asarray(pileup, np.int32)
            )
        return Computed(x, computed.mass, {}, extras)

    @staticmethod
    def _in_time(columns: Columns, branch: str, total: int) -> NDArray[np.bool_]:
        bx = columns.get(f"{branch}_bx")
        return np.ones(total, bool) if bx is None else offsets_and_content(bx)[1] == 0


def _regions() -> Features:
    from .regions import Regions  # which needs this module

    return Regions()


def _constituents() -> Features:
    from .constituents import Constituents  # which needs this module

    return Constituents()


def _objects() -> Features:
    from .objects import ReconstructedObjects  # which needs this module

    return ReconstructedObjects()


BUILT_IN: Mapping[str, Callable[[], Features]] = {
    "dijet": Dijet,
    "l1": Level1,
    "regions": _regions,
    "constituents": _constituents,
    "objects": _objects,
}


def load_features(name: str, folder: Path | None = None) -> Features:
    """A built-in feature set, or ``module:object`` with the module importable or beside search.yaml in ``folder``."""
    if name in BUILT_IN:
        return BUILT_IN[name]()
    module_name, sign, attribute = name.partition(":")
    if not sign:
        close = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"events.features: no feature set '{name}'{hint} There are {', '.join(BUILT_IN)}, or module:object"
        )
    found = getattr(_module(module_name, folder), attribute, None)
    if not isinstance(found, Features):
        raise ConfigError(f"events.features: {name} is not a feature definition (see FunctionFeatures)")
    return found


def definition_digest(features: Features) -> str:
    """sha256 that changes with the columns, the branches and, for a user's own definition, the text of its module."""
    one: Any = features
    if isinstance(
        getattr(one, "inner", None), Features
    ):  # wrapped: what the one inside is made of counts as well
        return digest(definition_digest(one.inner), features.features.digest, features.branches)
    author = features.function if isinstance(features, FunctionFeatures) else type(features)
    module = sys.modules.get(author.__module__)
    path = getattr(module, "__file__", None)
    ours = author.__module__.startswith(__name__.partition(".")[0] + ".")
    text = "" if ours or path is None else Path(path).read_text()
    settings = {f.name: repr(getattr(one, f.name)) for f in fields(one)} if is_dataclass(one) else {}
    settings.pop("function", None)
    return digest(features.features.digest, features.branches, features.optional, settings, text)


def _module(name: str, folder: Path | None) -> Any:
    path = folder / f"{name.replace('.', '/')}.py" if folder is not None else None
    if path is None or not path.is_file():
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"events.features: cannot import '{name}' ({error}); looked beside search.yaml too"
            ) from None
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"events.features: {path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    # By value, because the workers do not have this file.
    import cloudpickle

    sys.modules[name] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module
