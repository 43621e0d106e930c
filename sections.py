"""What every section of search.yaml has in common, and the sections of hunts and trigger studies."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .events import Window

Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
AboveZero = Annotated[float, Field(gt=0)]
#: The score's own place in the trigger menu, after all others.
SCORE = "score"
#: All seeds of the menu together, in its tables.
ALL = "all"


class Section(BaseModel):
    """Every section is frozen, refuses unknown keys, NaN and infinity, and does not turn strings into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RemoteSection(Section):
    """How patient to be with other machines; seconds and bytes per second."""

    redirectors: list[Annotated[str, Field(pattern=r"^x?roots?://[^/]+/?$")]] = Field(
        default_factory=list, description="other servers of the same files, tried in this order"
    )
    connect_timeout: float = Field(30.0, gt=0)
    idle_timeout: float = Field(60.0, gt=0, description="no request finished for so long: the link is dead")
    minimum_rate: float = Field(
        10_000.0, ge=0, description="less than this over rate_period: the link is dead"
    )
    rate_period: float = Field(120.0, gt=0)
    tries: Positive = 4
    pause: float = Field(1.0, ge=0, description="before the second try; doubles")


class SeedSection(Section):
    """A condition of the trigger menu: so many objects of a kind above a threshold, a sum, or a stored decision."""

    object: Literal["EG", "Mu", "Jet", "HT", "MET", "Bit"]
    pt: AboveZero | None = Field(None, description="GeV; an object or sum passes from this value on")
    count: Positive = Field(1, description="how many objects must pass; 1 for HT and MET")
    eta: AboveZero | None = Field(None, description="largest |eta| of an object that counts")
    branch: str | None = Field(None, description="of a Bit: one of events.bits")
    prescale: Annotated[float, Field(ge=1)] = 1.0

    @model_validator(mode="after")
    def _fits_its_object(self) -> SeedSection:
        if self.object == "Bit":
            if self.branch is None or self.pt is not None or self.eta is not None or self.count > 1:
                raise ValueError("a seed on a Bit takes branch, and no pt, count or eta")
        elif self.branch is not None or self.pt is None:
            raise ValueError(f"a seed on {self.object} takes pt, and no branch")
        if self.object in ("HT", "MET") and (self.count > 1 or self.eta is not None):
            raise ValueError(f"a seed on {self.object} takes no count and no eta")
        return self


class PileupSection(Section):
    """Mean pile-up values at which rates are stated, by reweighting simulated zero bias."""

    means: Annotated[list[AboveZero], Field(min_length=1)] = Field(description="collisions per crossing")
    spread: Annotated[float, Field(ge=0)] = Field(
        0.0, description="standard deviation of the mean between bunches and in time"
    )
    inelastic_mb: AboveZero = Field(80.0, description="cross-section that turns a mean into a luminosity")


Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class FaultSection(Section):
    """A detector that misbehaves: an energy scale, a dead or a hot area of the level-1 objects or calorimeter regions."""

    kind: Literal["scale", "dead", "hot"]
    factor: AboveZero = Field(1.0, description="of a scale: what transverse energies are multiplied by")
    objects: Annotated[list[Literal["EG", "Mu", "Jet"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["EG", "Jet"], description="concerned; missing energy follows the jets"
    )
    eta: Range = Field(default_factory=lambda: [-5.2, 5.2], description="of the area")
    phi: Range = Field(
        default_factory=lambda: [-3.2, 3.2], description="of the area, rad; [a, b] with a > b goes around"
    )
    regions: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = Field(
        default_factory=list, description="of features regions: [phi, eta] numbers"
    )
    et: AboveZero = Field(50.0, description="GeV that a hot area adds")
    occupancy: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="part of the crossings in which a hot area fires"
    )

    @property
    def given(self) -> set[str]:
        """What differs from the defaults: a section that was written out with all of them is the same section."""
        fields = type(self).model_fields
        return {n for n, f in fields.items() if getattr(self, n) != f.get_default(call_default_factory=True)}

    @model_validator(mode="after")
    def _does_something(self) -> FaultSection:
        given = self.given
        own = {"scale": {"factor"}, "dead": set[str](), "hot": {"et", "occupancy"}}
        if self.kind == "scale" and ("factor" not in given or given & {"eta", "phi"}):
            raise ValueError("a scale takes a factor other than 1, and no eta or phi: it is everywhere")
        if self.kind != "scale" and not given & {"eta", "phi", "regions"}:
            raise ValueError(
                f"a {self.kind} area needs eta and phi, or regions; without, it is the whole detector"
            )
        foreign = given & ({"factor", "et", "occupancy"} - own[self.kind])
        if foreign:
            raise ValueError(f"a fault of kind {self.kind} takes no {sorted(foreign)[0]}")
        if self.eta[0] >= self.eta[1]:
            raise ValueError(f"eta {self.eta} must rise")
        return self


class RatesSection(Section):
    """A trigger-rate study."""

    bunches: Annotated[int, Field(ge=1, le=3564)] = Field(2544, description="colliding bunches")
    targets_khz: list[AboveZero] = Field(default_factory=lambda: [1.0, 10.0])
    menu: dict[Name, SeedSection] = Field(
        default_factory=dict, description="ordinary seeds, in order: what the score takes beside them is pure"
    )
    pileup: PileupSection | None = None
    section_groups: Annotated[int, Field(ge=2)] | None = Field(
        None, description="compare the rates of so many groups of luminosity sections"
    )
    faults: dict[Name, FaultSection] = Field(
        default_factory=dict, description="rates and efficiencies with a misbehaving detector"
    )

    @model_validator(mode="after")
    def _score_is_no_seed(self) -> RatesSection:
        for taken, what in ((SCORE, "the score's own place in the menu"), (ALL, "all seeds together")):
            if taken in self.menu:
                raise ValueError(f"menu: '{taken}' is {what}; rename this seed")
        return self


class CmsSection(Section):
    """The exported network as an emulator of CMSSW, which loads it as NAME_vVERSION.so."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] = Field(
        description="a name C++ can have, for example axol1tl"
    )
    version: Positive = 1


class FirmwareSection(Section):
    """The firmware project of the trained network."""

    clock_ns: AboveZero = 5.0
    part: str = "xcvu9p-flga2104-2L-e"
    vectors: Positive = Field(10_000, description="events compared bit by bit and kept as test vectors")
    rtl: bool = Field(
        False, description="write Verilog as well and prove it in simulation (da4ml, verilator)"
    )
    latency_cutoff: Positive = Field(5, description="adders in a row of one pipeline stage of the Verilog")
    proof_events: Positive = Field(
        100_000, description="events of the Verilog's proof; extreme patterns fill up"
    )
    cost: bool = Field(False, description="count the Verilog's logic cells (yosys)")
    cms: CmsSection | None = Field(
        None,
        description="make the emulator for CMSSW, which takes hardware integers (features l1 or regions)",
    )

    @model_validator(mode="after")
    def _cost_is_of_the_rtl(self) -> FirmwareSection:
        if self.cost and not self.rtl:
            raise ValueError("cost: true counts the cells of the Verilog; set rtl: true as well")
        return self


class FrontSection(Section):
    """Resources against physics: the score trained anew for every width of its weights and every part of them pruned."""

    bits: Annotated[list[Annotated[int, Field(ge=2, le=16)]], Field(min_length=1)] = Field(
        description="widths of the weights' type, increasing"
    )
    pruning: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0.0], description="parts of the weights that are zero, increasing"
    )
    integer: Annotated[int, Field(ge=-4, le=8)] = Field(
        1,
        description="integer bits of the weights' type, the sign among them: with 1 they lie between -1 and 1",
    )
    target_khz: AboveZero = Field(10.0, description="rate at which the signals' efficiencies are compared")
    epochs: Positive | None = Field(None, description="of every training; default: the score's own")
    trainings: Positive = Field(1, description="of every setting, with the score's seed and those after it")
    cost: Literal["estimate", "yosys"] = Field(
        "estimate",
        description="look-up tables: da4ml's estimate, or counted by yosys as well (minutes a point)",
    )

    @model_validator(mode="after")
    def _increasing(self) -> FrontSection:
        asked: dict[str, list[int] | list[float]] = {"bits": self.bits, "pruning": self.pruning}
        for name, values in asked.items():
            if any(b <= a for a, b in pairwise(values)):
                raise ValueError(f"{name} {values} must increase strictly")
        return self


class Scan(Section):
    """Sliding signal regions: ``width`` GeV wide, centres from ``first`` to ``last`` in steps of ``step`` GeV."""

    first: float
    last: float
    step: Annotated[float, Field(gt=0)]
    width: Annotated[float, Field(gt=0)]

    def windows(self) -> list[Window]:
        """The signal regions in order of mass."""
        count = int((self.last - self.first) / self.step + 1e-9) + 1
        centres = [self.first + i * self.step for i in range(count)]
        return [Window(c - self.width / 2, c + self.width / 2) for c in centres]


def _usual_toys(background: str | None, statistic: str | None) -> int:
    """As many as an hour of a core makes, and no more than 40,000."""
    if background == "gaussian_process":
        return 2000
    return 10_000 if statistic == "fit" else 40_000


class HuntSection(Section):
    """A resonance hunt: signal regions, score cuts, fit range and toys."""

    mass_low: float = Field(description="fit range, GeV")
    mass_high: float
    bin_width: Annotated[float, Field(gt=0)] = Field(100.0, description="GeV; window edges must be bin edges")
    windows: Scan
    cuts: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=lambda: [0.01, 0.003], description="efficiencies of the score cuts, decreasing"
    )
    signal_width: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.035, description="sigma/m of a signal")
    background: Literal["dijet", "gaussian_process", "abcd"] = Field(
        "dijet",
        description="expected in a window: its masked fit, a slow process, or the sidebands' passing share",
    )
    guard: Annotated[float, Field(ge=0)] = Field(
        0.0, description="GeV beside a window that its fit leaves out too: a wide signal leaks there"
    )
    statistic: Literal["count", "fit"] = Field(
        "count",
        description="count: events in a window against its masked fit; fit: a Gaussian of signal_width on the dijet function",
    )
    bumphunter: bool = Field(False, description="BumpHunter on the best window's spectra as well")
    toys: Positive = Field(
        default_factory=lambda told: _usual_toys(told.get("background"), told.get("statistic")),
        description="of the global p-value; by default 40,000, 10,000 with signal fits, 2000 with the process: enough for 3 sigma",
    )
    control: bool = Field(True, description="repeat the whole search without the injected events")
    collision_energy: Annotated[float, Field(gt=0)] = Field(13_000.0, description="GeV")

    @model_validator(mode="after")
    def _consistent(self) -> HuntSection:
        scan = self.windows
        if self.mass_low >= self.mass_high:
            raise ValueError(f"mass_low {self.mass_low} is not below mass_high {self.mass_high}")
        if scan.first > scan.last:
            raise ValueError(f"windows.first {scan.first} is above windows.last {scan.last}")
        if self.statistic == "fit" and self.background != "dijet":
            raise ValueError(
                f"statistic: fit puts its signal on the dijet function; background is {self.background}"
            )
        masked = f" with a guard of {self.guard:g} GeV" if self.guard else ""
        for window in (scan.windows()[0], scan.windows()[-1]):
            if window.low - self.guard <= self.mass_low or window.high + self.guard >= self.mass_high:
                where = f"inside {self.mass_low:g}-{self.mass_high:g} GeV"
                raise ValueError(f"window {window.low:g}-{window.high:g}{masked} leaves no sideband {where}")
        if self.mass_high >= self.collision_energy:
            raise ValueError(
                f"collision_energy {self.collision_energy:g} is not above mass_high {self.mass_high:g}, both in GeV"
            )
        edges = [("mass_high", self.mass_high), ("mass_low + guard", self.mass_low + self.guard)]
        edges += [("window edge", e) for w in scan.windows() for e in w]
        for name, edge in edges:
            if abs((edge - self.mass_low) / self.bin_width % 1 - 0.5) < 0.5 - 1e-6:
                raise ValueError(
                    f"{name} {edge:g} is not a bin edge ({self.mass_low:g} + k x {self.bin_width:g})"
                )
        if any(b >= a for a, b in zip(self.cuts, self.cuts[1:], strict=False)):
            raise ValueError(f"cuts {self.cuts} must decrease strictly")
        bins = round((self.mass_high - self.mass_low) / self.bin_width)
        if bins - round((scan.width + 2 * self.guard) / self.bin_width) < 8:
            raise ValueError(f"{bins} bins of {self.bin_width:g} GeV are too few beside a window{masked}")
        return self


class StudiesSection(Section):
    """Studies after a hunt: stability, importance and the oddest events always, injections where they are asked for."""

    injections: list[Annotated[int, Field(ge=0)]] = Field([], description="signal events to hide, increasing")
    trials: Positive = Field(10, description="repetitions of every injection, each with other rows and seeds")

    @model_validator(mode="after")
    def _increasing(self) -> StudiesSection:
        if any(b <= a for a, b in zip(self.injections, self.injections[1:], strict=False)):
            raise ValueError(f"injections {self.injections} must increase strictly")
        return self


class InterpretationSection(Section):
    """What the score follows, what its space knows, and the oddest events as displays."""

    events: Annotated[int, Field(ge=0, le=24)] = Field(6, description="oddest events that are displayed")
    sample: Annotated[int, Field(ge=100)] = Field(
        20_000, description="events that are looked at, chosen by their identities"
    )
