"""Event sets of jets with constituents: which parts they have."""

from __future__ import annotations

from .card import load_family
from .parts import Part

#: Sets of jets with constituents.
JET_SETS = ("jets", "dark", "classes", "resim")


def _dark() -> tuple[Part, ...]:
    """QCD jets and every point of the dark showers in their window, the published point first."""
    points = sorted(load_family("dark").points(), key=lambda p: p != (75, 5))
    return (
        Part("qcd", "qcd_150", 0, 10, "QCD jets to learn from and to tell apart"),
        *(Part(f"dark_{r}_{m}", f"dark_{r}_{m}", 0, 2, f"r_inv 0.{r}, Lambda {m} GeV") for r, m in points),
    )


def _classes() -> tuple[Part, ...]:
    """Jets of known classes at several masses, so that their mass spectra can be made equal, and of classes to find."""
    known, unknown = "to match masses", "unknown to the classifier"
    return (
        Part("qcd", "qcd_600", 0, 8, "QCD jets to learn from"),
        Part("qcd_test", "qcd_600", 1000, 4, "QCD jets as they come, to test on"),
        Part("qcd_curves", "qcd_600", 2000, 6, "QCD jets to learn a score's quantiles from"),
        *(Part(f"w_{m}", f"w_mass_{m}", 0, 4, f"W of {m} GeV {known}") for m in (59, 80, 120, 174)),
        *(Part(f"top_{m}", f"top_mass_{m}", 0, 4, f"top of {m} GeV {known}") for m in (80, 174)),
        Part("unknown_h20", "h_hh_20", 0, 2, f"H -> hh, h of 20 GeV, {unknown}"),
        Part("unknown_h80", "h_hh_80", 0, 2, f"H -> hh, h of 80 GeV, {unknown}"),
        Part("unknown_top_w20", "top_w20", 0, 2, f"top with a W of 20 GeV, {unknown}"),
        Part("unknown_w59", "w_mass_59", 1000, 2, f"W of 59 GeV, {unknown}"),
        Part("unknown_w174", "w_mass_174", 1000, 2, f"W of 174 GeV, {unknown}"),
        Part("unknown_top80", "top_mass_80", 1000, 2, f"top of 80 GeV, {unknown}"),
    )


#: Versions of each hard process in the set resim; the cards resim_* have more.
VERSIONS = ("nominal", "seed", "fsr_low", "fsr_high")


def jet_sets() -> dict[str, tuple[Part, ...]]:
    """The sets of jets with constituents."""
    return {
        "jets": (
            Part("qcd", "qcd_top", 0, 10, "QCD jets in the window of top tagging"),
            Part("top", "top", 0, 10, "jets of hadronic tops"),
        ),
        "dark": _dark(),
        "classes": _classes(),
        "resim": tuple(
            Part(f"{kind}_{version}", f"resim_{kind}_{version}", 0, 6, f"hard processes of {kind}: {version}")
            for kind in ("top", "qcd")
            for version in VERSIONS
        ),
    }
