"""A datacard and a ROOT file of shapes for CMS's combine.

combine's model is not quite HistFactory's: it interpolates the shape and the normalisation of a ``shape`` nuisance
separately, and Poisson-constrained bins carry a whole number of effective events. Both agree with the other exports
where uncertainties are small; the card says so.
"""

from __future__ import annotations

from pathlib import Path

from ...workspace import atomic
from .histograms import histograms
from .statement import Statement

#: autoMCStats: above so many effective events a bin is Gaussian; 0 makes all Gaussian, a large number all Poisson.
_THRESHOLD = {"gauss": 0, "poisson": 1_000_000_000}


def datacard(statement: Statement, shapes: str) -> str:
    """The text of the card; ``shapes`` is the ROOT file's name beside it."""
    s = statement
    rule = "-" * 60
    rows = [
        f"# {s.title}",
        f"# r = 1 is {s.cross_section:g} fb; {s.luminosity:g} /fb at {s.energy / 1000:g} TeV",
        "# shape nuisances are interpolated as combine does, which differs from HistFactory where they are large",
        "imax 1",
        "jmax 1",
        "kmax *",
        rule,
        f"shapes * {s.name} {shapes} {s.name}/$PROCESS {s.name}/$PROCESS_$SYSTEMATIC",
        rule,
        f"bin {s.name}",
        "observation -1",
        rule,
        f"bin {s.name} {s.name}",
        "process signal background",
        "process 0 1",
        "rate -1 -1",
        rule,
    ]
    if s.signal_error > 0:
        rows.append(f"signal_efficiency lnN {1 + s.signal_error:.6g} -")
    rows += [f"{name} shape - 1" for name in s.mode_names]
    if (s.uncertainty > 0).any():
        rows.append(f"{s.name} autoMCStats {_THRESHOLD[s.constraint]} 0 1")
    return "\n".join(rows) + "\n"


def write_combine(statement: Statement, folder: Path) -> tuple[Path, Path]:
    """Write ``NAME.txt`` and ``NAME.root`` into ``folder``; returns (card, shapes)."""
    import uproot

    card, shapes = folder / f"{statement.name}.txt", folder / f"{statement.name}.root"
    with atomic(shapes) as temporary, uproot.recreate(temporary) as file:
        for name, one in histograms(statement).items():
            file[f"{statement.name}/{name}"] = one
    with atomic(card) as temporary:
        temporary.write_text(datacard(statement, shapes.name))
    return card, shapes
