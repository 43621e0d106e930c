"""Every export of a search into one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .combine import write_combine
from .hepdata import write_hepdata
from .histograms import write_uhi
from .statement import Statement
from .workspace_pyhf import write_pyhf


@dataclass(frozen=True)
class Exports:
    """What was written, and where."""

    pyhf: Path
    card: Path
    shapes: Path
    histograms: Path
    hepdata: Path


def write_exports(statement: Statement, folder: Path, *, reaction: str = "P P --> JET JET X") -> Exports:
    """Write pyhf workspace, combine card and shapes, UHI histograms, and the HEPData submission with the likelihood
    in it."""
    pyhf = write_pyhf(statement, folder / f"{statement.name}.pyhf.json")
    card, shapes = write_combine(statement, folder / "combine")
    uhi = write_uhi(statement, folder / f"{statement.name}.uhi.json")
    hepdata = folder / "hepdata"
    likelihood = write_pyhf(statement, hepdata / "likelihood.json")
    resources = [
        (likelihood.name, "HistFactory likelihood (pyhf JSON); mu = 1 is the signal of the spectrum table")
    ]
    submission = write_hepdata(statement, hepdata, reaction=reaction, resources=resources)
    return Exports(pyhf, card, shapes, uhi, submission)
