"""What every section of search.yaml has in common, and the sections of a trigger study."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
AboveZero = Annotated[float, Field(gt=0)]
#: The score's own place in the trigger menu, after all others.
SCORE = "score"


class Section(BaseModel):
    """Every section is frozen, refuses unknown keys, NaN and infinity, and does not turn strings into numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class SeedSection(Section):
    """A condition of the trigger menu: so many objects of a kind above a threshold, or a sum."""

    object: Literal["EG", "Mu", "Jet", "HT", "MET"]
    pt: AboveZero = Field(description="GeV; an object or sum passes from this value on")
    count: Positive = Field(1, description="how many objects must pass; 1 for HT and MET")
    eta: AboveZero | None = Field(None, description="largest |eta| of an object that counts")
    prescale: Annotated[float, Field(ge=1)] = 1.0

    @model_validator(mode="after")
    def _sums_are_one(self) -> SeedSection:
        if self.object in ("HT", "MET") and (self.count > 1 or self.eta is not None):
            raise ValueError(f"a seed on {self.object} takes no count and no eta")
        return self


class RatesSection(Section):
    """A trigger-rate study."""

    bunches: Annotated[int, Field(ge=1, le=3564)] = Field(2544, description="colliding bunches")
    targets_khz: list[AboveZero] = Field(default_factory=lambda: [1.0, 10.0])
    menu: dict[Name, SeedSection] = Field(
        default_factory=dict, description="ordinary seeds, in order: what the score takes beside them is pure"
    )

    @model_validator(mode="after")
    def _score_is_no_seed(self) -> RatesSection:
        if SCORE in self.menu:
            raise ValueError(f"menu: '{SCORE}' is the score's own place in the menu; rename this seed")
        return self


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

    @model_validator(mode="after")
    def _cost_is_of_the_rtl(self) -> FirmwareSection:
        if self.cost and not self.rtl:
            raise ValueError("cost: true counts the cells of the Verilog; set rtl: true as well")
        return self
