"""Does the event set of ADC2021 look like its processes? Masses, numbers of objects and weights, with what is wanted.

    python benchmarks/physics/mixture_check.py [--seed SEED] [--partial]

The set (`python -m elsewhere.samples set adc`) is read from the user's cache; --partial takes what chunks there are.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import awkward as ak
import numpy as np
from common import publish, table
from elsewhere.samples import generate
from elsewhere.samples.card import load_card
from elsewhere.samples.resonant import parts_of, read_set

FIELDS = {"Electron": ("pt", "eta", "phi"), "Muon": ("pt", "eta", "phi"), "Jet": ("pt", "eta", "phi")}
FLAT = ("genWeight", "MET_pt", "MET_phi", "Pileup_nPU")


def partial(seed: int) -> dict[str, ak.Array]:
    """Events by card of the chunks that are there."""
    out: dict[str, list[ak.Array]] = {}
    for part in parts_of("adc"):
        for i in part.numbers:
            path = generate.chunk_path(generate.cache_folder(), load_card(part.card), seed, i)
            if path.with_suffix(".json").exists():
                out.setdefault(part.card, []).append(ak.from_parquet(path, columns=[*FIELDS, *FLAT]))
    return {card: ak.concatenate(parts) for card, parts in out.items()}


def whole(seed: int) -> dict[str, ak.Array]:
    """Events by card of the finished parts."""
    import uproot

    found, out = read_set("adc", seed), {}
    for part in found.parts.values():
        with uproot.open(found.paths(part.name)[0]) as file:
            tree = file["Events"]
            flat = tree.arrays([*FLAT, *(f"{k}_{f}" for k, fs in FIELDS.items() for f in fs)])
        records = {k: ak.zip({f: flat[f"{k}_{f}"] for f in fs}) for k, fs in FIELDS.items()}
        out[part.card] = ak.zip({**{n: flat[n] for n in FLAT}, **records}, depth_limit=1)
    return out


def mass(objects: ak.Array) -> np.ndarray:
    """Invariant mass of each event's objects, GeV."""
    pt, eta, phi = objects.pt, objects.eta, objects.phi
    e, x, y, z = (
        ak.sum(v, axis=1) for v in (pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta))
    )
    return ak.to_numpy(np.sqrt(np.maximum(e**2 - x**2 - y**2 - z**2, 0.0)))


def peak(values: np.ndarray, low: float, high: float) -> float:
    """Where the parabola fitted to the counts in bins of 4 between two values is highest."""
    counts, edges = np.histogram(values, np.arange(low, high + 4, 4.0))
    a, b, _ = np.polyfit((edges[1:] + edges[:-1]) / 2, counts, 2)
    return float(-b / (2 * a))


def check(sets: dict[str, ak.Array]) -> tuple[list, dict]:
    """Rows of the table and figures."""
    rows, figures = [], {}
    for card, events in sets.items():
        weight = ak.to_numpy(events.genWeight)
        figures[f"events_{card}"] = len(events)
        figures[f"effective_{card}"] = float(weight.sum() ** 2 / (weight**2).sum() / len(weight))
        counts = ", ".join(f"{k} {ak.mean(ak.num(events[k].pt)):.2f}" for k in FIELDS)
        rows.append(
            (
                f"{card} events",
                len(events),
                f"{counts}, MET {ak.mean(events.MET_pt):.1f} GeV, mean weight {weight.mean():.2f}, effective {figures[f'effective_{card}']:.2f}",
            )
        )
    if "adc_w" in sets:
        events = sets["adc_w"]
        both = ak.concatenate([events.Electron, events.Muon], axis=1)
        one = ak.num(both.pt) == 1
        lepton, met = both[one][:, 0], events[one]
        transverse = ak.to_numpy(np.sqrt(2 * lepton.pt * met.MET_pt * (1 - np.cos(lepton.phi - met.MET_phi))))
        figures["w_mt_peak"] = peak(transverse, 48.0, 92.0)
        rows.append(("W transverse mass, peak", figures["w_mt_peak"], "GeV, 64-72 wanted"))
    if "adc_z" in sets:
        for name in ("Electron", "Muon"):
            two = sets["adc_z"][name]
            masses = mass(two[ak.num(two.pt) == 2])
            near = masses[(masses > 70) & (masses < 110)]
            low, middle, high = np.percentile(near, [16, 50, 84])
            figures[f"z_{name}"] = float(middle)
            rows.append(
                (f"Z mass, {name}, median", float(middle), f"GeV, 90 wanted; half-width {(high - low) / 2:.1f}")
            )  # fmt: skip
    if "adc_a4l" in sets:
        both = ak.concatenate([sets["adc_a4l"].Electron, sets["adc_a4l"].Muon], axis=1)
        masses = mass(both[ak.num(both.pt) == 4])
        figures["a4l_median"] = float(np.median(masses))
        rows.append(
            ("four leptons, median mass", figures["a4l_median"], f"GeV, 50 wanted; {len(masses)} events")
        )
    return rows, figures


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--partial", action="store_true")
    asked = options.parse_args()
    rows, figures = check((partial if asked.partial else whole)(asked.seed))
    table(rows)
    publish("mixture_check", figures)


if __name__ == "__main__":
    main()
