"""Is a generated event set like the published one? Quantiles, region fractions and areas under the ROC against METHODS' targets.

    python benchmarks/physics/sample_check.py [SET] [--seed SEED] [--partial] [--unbiased]

SET (default half) is read from the user's cache; --partial takes what chunks there are instead of finished parts. The
published sample is known here by its 10, 50 and 90 % points in the signal region alone, so that "KS" is the largest
distance of the two cumulative distributions at those points: a lower bound of the Kolmogorov-Smirnov distance.
--unbiased compares the enriched signal region with that of an inclusive sample, event sample against event sample.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import awkward as ak
import numpy as np
from common import publish, table
from elsewhere.analysis.metrics import roc
from elsewhere.processors.dijetsets import DijetSet
from elsewhere.processors.features import Dijet
from elsewhere.samples import generate
from elsewhere.samples.card import load_card
from elsewhere.samples.resonant import parts_of, read_set
from elsewhere.samples.shipped import shipped
from scipy.stats import ks_2samp

LEVELS = (0.1, 0.5, 0.9)
#: 10, 50 and 90 % points in 3.3-3.7 TeV of the official arrays, and the largest distance accepted.
QCD = {
    "m_J1": ((49, 107, 261), 0.06), "dm_J": ((20, 125, 399), 0.06), "tau21_1": ((0.328, 0.599, 0.793), 0.10),
    "tau21_2": ((0.214, 0.491, 0.726), 0.06),
}  # fmt: skip
SIGNAL = {
    "m_jj": ((3368, 3504, 3633), 0.27), "m_J1": ((95, 111, 177), 0.27), "dm_J": ((230, 384, 442), 0.27),
    "tau21_1": ((0.199, 0.380, 0.597), 0.27),
}  # fmt: skip
AREAS = {"m_J1": 0.552, "dm_J": 0.839, "tau21_1": 0.790, "tau21_2": 0.847}


def columns_of(values: ak.Array) -> dict:
    """Branches as a feature definition reads them."""
    out = {n: np.asarray(ak.to_numpy(values[n])) for n in ("run", "luminosityBlock", "event")}
    return out | {f"FatJet_{f}": values["FatJet"][f] for f in values["FatJet"].fields}


def partial(name: str, seed: int) -> dict[str, dict]:
    """Branches by card of the chunks of a set that are there."""
    out: dict[str, list[ak.Array]] = {}
    for part in parts_of(name):
        card = load_card(part.card)
        for i in part.numbers:
            path = generate.chunk_path(generate.cache_folder(), card, seed, i)
            if path.exists() and path.with_suffix(".json").exists():
                wanted = ["run", "luminosityBlock", "event", "FatJet"]
                out.setdefault(part.card, []).append(ak.from_parquet(path, columns=wanted))
    return {card: columns_of(ak.concatenate(parts)) for card, parts in out.items()}


def whole(name: str, seed: int) -> dict[str, dict]:
    """Branches by card of the finished parts of a set."""
    import uproot

    found, out = read_set(name, seed), {}
    for part in found.parts.values():
        for path in found.paths(part.name):
            with uproot.open(path) as file:
                tree = file["Events"]
                names = [
                    k for k in tree if k.startswith("FatJet_") and not k.endswith(("Idx", "Idx1", "Idx2"))
                ]
                one = tree.arrays(["run", "luminosityBlock", "event", *names])
            out.setdefault(part.card, []).append({n: one[n] for n in one.fields})
    return {c: {n: ak.concatenate([p[n] for p in ps]) for n in ps[0]} for c, ps in out.items()}


def baseline(columns: dict) -> dict[str, np.ndarray]:
    """The four features, m_jj and the others that are compared."""
    made = Dijet().compute(columns)
    named = {n: made.x[:, i] for i, n in enumerate(Dijet().features.names)}
    return named | {"m_jj": made.mass, **made.extras}


def region(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The signal region, 3.3-3.7 TeV."""
    inside = (values["m_jj"] >= 3300) & (values["m_jj"] < 3700)
    return {k: v[inside] for k, v in values.items()}


def distance(values: np.ndarray, points: tuple) -> float:
    """Largest distance of the cumulative distribution to the published one at its three points."""
    return max(abs(float(np.mean(values <= p)) - level) for p, level in zip(points, LEVELS, strict=True))


def area(signal: np.ndarray, background: np.ndarray) -> float:
    """Area under the ROC of one feature, whichever direction is the signal's."""
    auc = roc(signal.astype(float), background.astype(float)).auc
    return max(auc, 1 - auc)


def quantile_rows(label: str, values: dict, wanted: dict) -> list[tuple[str, object, str]]:
    """Three quantiles and the distance of each feature."""
    rows = []
    for name, (points, most) in wanted.items():
        here = " / ".join(f"{v:.4g}" for v in np.quantile(values[name], LEVELS))
        there = " / ".join(f"{v:.4g}" for v in points)
        far = distance(values[name], points)
        rows.append(
            (
                f"{label} {name}",
                here,
                f"official {there}; KS {far:.3f}, accept {most}  {'ok' if far <= most else 'FAILS'}",
            )
        )
    return rows


def check(sets: dict[str, dict]) -> tuple[list, dict]:
    """Rows of the table and figures of one event set."""
    rows, figures = [], {}
    values = {card: baseline(columns) for card, columns in sets.items()}
    qcd, signal = region(values["qcd_region"]), values.get("wprime_qq")
    rows += quantile_rows("QCD", qcd, QCD)
    figures |= {f"ks_qcd_{n}": distance(qcd[n], p) for n, (p, _) in QCD.items()}
    if "qcd_large" in values:
        fraction = float(np.mean(np.isin(values["qcd_large"]["m_jj"], region(values["qcd_large"])["m_jj"])))
        figures["fraction_qcd"] = fraction
        rows.append(("QCD in the region", fraction, "0.1214 official, accept 0.10-0.14"))
    if signal is not None:
        inside = region(signal)
        rows += quantile_rows("signal", inside, SIGNAL)
        figures |= {f"ks_signal_{n}": distance(inside[n], p) for n, (p, _) in SIGNAL.items()}
        fraction = len(inside["m_jj"]) / len(signal["m_jj"])
        figures["fraction_signal"] = fraction
        rows.append(("signal in the region", fraction, "0.753 official, accept 0.65-0.85"))
        for name, official in AREAS.items():
            found = area(inside[name], qcd[name])
            figures[f"auc_{name}"] = found
            rows.append(
                (
                    f"AUC of {name}",
                    found,
                    f"{official} official, accept +-0.04  {'ok' if abs(found - official) <= 0.04 else 'FAILS'}",
                )
            )
    figures |= {f"events_{card}": len(v["m_jj"]) for card, v in values.items()}
    return rows, figures


def unbiased(sets: dict[str, dict]) -> tuple[list, dict]:
    """The enriched region against the region of inclusive QCD: shipped (no early cut) and of the set."""
    import uproot

    with uproot.open(shipped("qcd")) as file:
        names = [
            "run",
            "luminosityBlock",
            "event",
            *(f"FatJet_{n}" for n in ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3")),
        ]
        one = file["Events"].arrays(names)
    reference = region(baseline({n: one[n] for n in one.fields}))
    enriched = region(baseline(sets["qcd_region"]))
    rows, figures = [], {}
    for name in ("m_jj", *QCD, "pt_1", "pt_2", "eta_1", "tau32_1", "tau32_2"):
        test = ks_2samp(enriched[name], reference[name])
        figures[f"unbiased_ks_{name}"], figures[f"unbiased_p_{name}"] = (
            float(test.statistic),
            float(test.pvalue),
        )
        rows.append((f"enriched / unbiased {name}", float(test.statistic), f"KS, p = {test.pvalue:.3f}"))
    rows.append(
        ("events compared", f"{len(enriched['m_jj'])}, {len(reference['m_jj'])}", "enriched, unbiased")
    )
    return rows, figures


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("name", nargs="?", default="half")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--partial", action="store_true")
    options.add_argument("--unbiased", action="store_true")
    asked = options.parse_args()
    sets = (partial if asked.partial else whole)(asked.name, asked.seed)
    rows, figures = check(sets)
    if asked.unbiased:
        more, others = unbiased(sets)
        rows, figures = rows + more, figures | others
    spread = DijetSet("cwola").compute(sets["qcd_region"]).x
    figures["median_tracks"] = float(np.median(spread[:, [5, 11]]))
    table(rows)
    publish("sample_check", figures)


if __name__ == "__main__":
    main()
