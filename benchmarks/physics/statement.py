"""What a bump hunt's statement is worth: p-values of background, sizes, pulls, trials and spurious signals, all from
toys.

    python benchmarks/physics/statement.py [--quick]

35 bins of 1.46-6.8 TeV and the CMS function with its usual parameters. A minute or a few on one core; --quick is a
smoke run that writes nothing.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))

import numpy as np
from common import publish, table
from elsewhere.analysis.background_models import GaussianProcessBackground
from elsewhere.analysis.bumphunter import BumpHunter
from elsewhere.analysis.dijet import basis
from elsewhere.analysis.gross_vitells import gross_vitells
from elsewhere.analysis.order_choice import choose_orders
from elsewhere.analysis.peaks import Gaussian, fit_backgrounds, scan_masses
from fits import EDGES, ENERGY, MASSES, truth
from scipy import stats

SHAPE = Gaussian(0.035)
CENTRE = 0.5 * (EDGES[1:] + EDGES[:-1])
CUTS = (0.1, 0.05, 0.01, 0.005, 0.001)
#: (figure, what is wanted) of the table; figures without an entry are for information.
WANTED: dict[str, str] = {}


def throw(expected: np.ndarray, toys: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(expected, (toys, len(expected))).astype(float)


def of_order(order: int, events: float) -> np.ndarray:
    """A spectrum that is exactly of the family's ``order``."""
    return fit_backgrounds(truth(events), basis(EDGES, order, ENERGY)).expected[0]


def bumphunter_null(events: float, experiments: int, toys: int) -> float:
    """Share of signal-free experiments with p <= 0.05, the background fitted in each and in every toy."""
    model, hunter = basis(EDGES, 3, ENERGY), BumpHunter(min_width=2, max_width=6, toys=toys)

    def refit(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fits = fit_backgrounds(counts, model)
        return fits.expected, fits.converged

    data = throw(truth(events), experiments, 11).astype(int)
    return float(np.mean([hunter.hunt_fitted(d, refit).p_global <= 0.05 for d in data]))


def chosen_z_max(spectra: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Largest local significance of every spectrum with the order that it asks for; infinite without a fit."""
    chosen, out = choose_orders(spectra, EDGES, ENERGY, most=4), np.full(len(spectra), np.inf)
    for order in (2, 3, 4):
        mine = (chosen.order == order) & ~chosen.failed
        if mine.any():
            out[mine] = scan_masses(spectra[mine], basis(EDGES, order, ENERGY), masses, SHAPE).z_max
    return out


def scan_null(events: float, experiments: int, toys: int) -> float:
    """The same for the mass scan: order choice, background fit and all signal fits in every toy of every experiment."""
    masses, small = MASSES[4:30:2], 0
    data = throw(truth(events), experiments, 12)
    for i, spectrum in enumerate(data):
        order = int(choose_orders(spectrum, EDGES, ENERGY, most=4).order[0])
        expected = fit_backgrounds(spectrum, basis(EDGES, order, ENERGY)).expected[0]
        seen = chosen_z_max(spectrum[None], masses)[0]
        exceeding = np.sum(chosen_z_max(throw(expected, toys, 1000 + i), masses) >= seen)
        small += (exceeding + 1) / (toys + 1) <= 0.05
    return small / experiments


def local_sizes(toys: int) -> dict[str, float]:
    """P(Z > 1) and P(Z > 2) of fits of three and four shape parameters to spectra of that order, with the number of
    standard deviations each is off, and how many are off by more than three; beside it the same count for the plain root
    of the likelihood ratio. Thousands of toys see what the first-order formula misses at few events.
    """
    out: dict[str, float] = {}
    off: dict[str, float] = {}
    plain: list[float] = []
    for order in (3, 4):
        for events in (1e3, 1e4, 1e5, 1e6):
            spectra = throw(of_order(order, events), toys, order)
            scan = scan_masses(spectra, basis(EDGES, order, ENERGY), [2000.0, 2500.0], SHAPE)
            root = np.sign(scan.signal) * np.sqrt(2 * np.maximum(scan.null[:, None] - scan.half_deviance, 0))
            for i, mass in enumerate((2000, 2500)):
                for z in (1, 2):
                    p, seen = float(stats.norm.sf(z)), float(np.mean(scan.z[:, i] > z))
                    error = float(np.sqrt(p * (1 - p) / toys))
                    name = f"size_z{z}_order{order}_{events:.0e}_{mass}"
                    out[name], off[name] = seen, abs(seen - p) / error
                    out[f"plain_{name}"] = float(np.mean(root[:, i] > z))
                    plain.append(abs(out[f"plain_{name}"] - p) / error)
                    WANTED[name] = f"{p:.4f}, off by {off[name]:.1f} standard deviations"
    WANTED.update(size_worst_off="<= 3 standard deviations", size_beyond_3="0")
    return out | {
        "size_worst_off": max(off.values()),
        "size_beyond_3": sum(o > 3 for o in off.values()),
        "size_cells": len(off),
        "size_plain_root_worst_off": max(plain),
        "size_plain_root_beyond_3": sum(o > 3 for o in plain),
    }


def pulls(toys: int) -> dict[str, float]:
    """Mean and spread of (mu-hat - mu) / error for injections in units of the expected error."""
    out: dict[str, float] = {}
    model, signal = basis(EDGES, 4, ENERGY), SHAPE.fractions(EDGES, 2500.0)
    error = float(scan_masses(truth(1e5), model, [2500.0], SHAPE).error[0, 0])
    for sigmas in (0, 1, 2, 3, 5):
        spectra = throw(truth(1e5) + sigmas * error * signal, toys, 20 + sigmas)
        scan = scan_masses(spectra, model, [2500.0], SHAPE)
        pull = (scan.signal[:, 0] - sigmas * error) / scan.error[:, 0]
        out |= {f"pull_mean_{sigmas}": float(pull.mean()), f"pull_sd_{sigmas}": float(pull.std())}
        WANTED.update({f"pull_mean_{sigmas}": "-0.1 to 0.1", f"pull_sd_{sigmas}": "0.95 to 1.1"})
    return out


def order_sizes(toys: int) -> dict[str, float]:
    """How often a spectrum of an order asks for one more."""
    out: dict[str, float] = {}
    for order in (2, 3, 4):
        for events in (1e3, 1e4, 1e5, 1e6):
            found = choose_orders(
                throw(of_order(order, events), toys, order), EDGES, ENERGY, least=order, most=order + 1
            )
            name = f"order_size_{order}_{events:.0e}"
            out[name] = float(np.mean(found.order != order))  # a failed fit counts
            WANTED[name] = "0.04 to 0.06"
    return out


def nested_cuts(toys: int) -> dict[str, float]:
    """Effective number of trials of five nested cuts on 10^6 events at Z > 3: ln(1 - P_5) / ln(1 - P_1), P_1
    averaged over the cuts.
    """
    rng, model = np.random.default_rng(30), basis(EDGES, 3, ENERGY)
    shares = np.array(CUTS) - np.array([*CUTS[1:], 0.0])
    slices = rng.poisson(shares[:, None, None] * truth(1e6), (5, toys, 35))
    nested = np.cumsum(slices[::-1], axis=0)[::-1].astype(float)
    z = [scan_masses(n, model, MASSES, SHAPE) for n in nested]
    top = np.array([s.z_max for s in z])
    one, five = float(np.mean(top > 3)), float(np.mean(top.max(axis=0) > 3))
    trials = np.log1p(-five) / np.log1p(-one)
    error = trials * np.sqrt((1 - five) / (five * toys) + (1 - one) / (one * 5 * toys))
    found = gross_vitells(z[0].z)
    WANTED["nested_trials"] = "4.5 +- 0.5"
    return {
        "nested_p_one": one, "nested_p_five": five, "nested_trials": float(trials), "nested_trials_error": float(error),
        "failed_fits": int(sum(s.failed.sum() for s in z)), "fits": int(sum(s.failed.size for s in z)),
        "upcrossings": found.upcrossings, "toys_p_z3": float(np.mean(top[0] > 3)),
        "gross_vitells_p_z3": found.p_global(3.0)[0],
    }  # fmt: skip


def ua2(events: float) -> np.ndarray:
    """x^-a exp(-b x - c x^2) closest to the dijet truth, integrated per bin."""
    nodes, weights = np.polynomial.legendre.leggauss(9)
    half = 0.5 * np.diff(EDGES)
    expected = truth(1e6)
    coefficients = [
        np.stack([np.ones_like(x), np.log(x), x, x**2], axis=-1)
        for x in (CENTRE / ENERGY, (CENTRE[:, None] + half[:, None] * nodes) / ENERGY)
    ]
    root = np.sqrt(expected)
    found, *_ = np.linalg.lstsq(coefficients[0] * root[:, None], np.log(expected / half) * root, rcond=None)
    shape = (np.exp(coefficients[1] @ found) * weights).sum(axis=1) * half
    return shape / shape.sum() * events


def sculpted(events: float) -> np.ndarray:
    """The dijet truth after a score that turns on from a quarter at 2.4 TeV."""
    shape = truth(1.0) * (0.25 + 0.75 / (1 + np.exp(-(CENTRE - 2400) / 200)))
    return shape / shape.sum() * events


def spurious() -> dict[str, float]:
    """Largest |spurious signal| over its error, masses up to where 5 events are expected; and the masked process'
    miss over its own.
    """
    out: dict[str, float] = {}
    cases = {
        "dijet_1e5": truth(1e5),
        "ua2_1e6": ua2(1e6),
        "sculpted_1e5": sculpted(1e5),
        "sculpted_1e4": sculpted(1e4),
    }
    for name, expected in cases.items():
        masses = [m for m in MASSES if expected[np.abs(CENTRE - m) < 0.07 * m].sum() >= 5]
        for order in (2, 3, 4, 5):
            scan = scan_masses(expected, basis(EDGES, order, ENERGY), masses, SHAPE)
            out[f"spurious_{name}_{order}"] = float(np.max(np.abs(scan.signal / scan.error)))
        misses = []
        for mass in masses[2::4]:
            inside = np.abs(CENTRE - mass) < 0.07 * mass
            if inside[0] or inside[-1]:
                continue
            found, b = GaussianProcessBackground().predict(expected, EDGES, inside), expected[inside].sum()
            misses.append(abs(found.b - b) / np.hypot(found.error, np.sqrt(b)))
        out[f"spurious_{name}_process"] = float(max(misses))
    return out


def main(quick: bool) -> dict[str, Any]:
    few = 20 if quick else 1
    start = time.process_time()
    figures: dict[str, Any] = {}
    for events in (1e4, 1e5):
        figures[f"null_bumphunter_{events:.0e}"] = bumphunter_null(events, 400 // few, 300 // (few // 4 or 1))
    figures["null_scan_1e5"] = scan_null(1e5, 300 // few, 200 // (few // 4 or 1))
    WANTED.update(dict.fromkeys(figures, "0.025 to 0.08"))
    figures |= local_sizes(8000 // few)
    figures |= pulls(4000 // few)
    figures |= order_sizes(10_000 // few)
    figures |= nested_cuts(8000 // few)
    figures |= spurious()
    return figures | {"cpu_s": time.process_time() - start}


if __name__ == "__main__":
    figures = main("--quick" in sys.argv)
    table([(name, value, WANTED.get(name, "")) for name, value in figures.items()])
    if "--quick" not in sys.argv:
        publish("statement", figures)
