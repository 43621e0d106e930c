"""The figures of the trigger: from training to firmware, its proof, its cost, its rate and what it keeps of signals.

    python benchmarks/trigger/run.py

Four searches of templates/trigger.yaml on the samples that ship, each with another score: AXOL1TL's encoder trained in the types of
its firmware, with Verilog, proof and cost; the same trained in plain numbers; the default autoencoder; a boosted-tree student of that
autoencoder. About 15 minutes of two cores, from the columns to the end every time; needs verilator and yosys. Results go to
results/trigger.json; without a prefix they are those of the quantised encoder.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE, publish, table
from elsewhere.deploy.emulator import FirmwareScore
from elsewhere.search import open_search, run_search, template
from elsewhere.workspace import read_json

FOLDER = CACHE / "trigger"
MAIN = "axol1tl"
#: Settings of each search beside the template's, and whether Verilog is made of it.
SEARCHES: dict[str, tuple[list[str], bool]] = {
    MAIN: (["score={method: Axol1tl}"], True),
    "axol1tl_float": (["score={method: Axol1tl, quantised: false}"], False),
    "autoencoder": ([], False),
    "tree_student": (["score={method: TreeStudent, inner: {method: Autoencoder}}"], False),
}
VECTORS, SPEED_EVENTS = 60_000, 50_000
WANTED = {
    "mismatches_c": "0", "mismatches_rtl": "0", "events_compared": ">= 100000", "latency_ns": "<= 50",
    "initiation_interval": "1", "lut_fraction_vu9p": "< 0.03", "emulator_khz_per_core": ">= 100",
    "quantisation_loss_relative": "< 0.05",
}  # fmt: skip


def run(name: str) -> dict[str, Any]:
    """One search; its rates, its firmware's record and the emulator's speed."""
    settings, rtl = SEARCHES[name]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "trigger.yaml"
    path.write_text(template("trigger"))
    more = [f"name={name}", f"firmware.vectors={VECTORS}"]
    more += ["firmware.rtl=true", "firmware.cost=true"] if rtl else []
    search = open_search(path, [*settings, *more])
    run_search(search, "rates")
    x = search.space.read_table("zerobias").events.x[:SPEED_EVENTS]
    firmware = FirmwareScore(search.space.path("firmware"))
    firmware.speed(x[:1000])
    return {
        "rates": read_json(search.space.path("rates.json")),
        "record": read_json(search.space.path("firmware", "firmware.json")),
        "khz": firmware.speed(x) / 1e3,
    }


def points(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Threshold, rate and efficiencies of software and firmware at every target rate, each with its interval."""
    out: dict[str, Any] = {}
    for stage, one in found["rates"]["scorers"].items():
        for p in one["points"]:
            if "failed" in p:
                continue
            at = f"{prefix}{stage}_{p['target_khz']:g}khz"
            out[f"threshold_{at}"] = [p["threshold"], p["threshold_low"], p["threshold_high"]]
            out[f"rate_khz_{at}"] = [p["rate"][k] for k in ("khz", "low", "high")]
            out[f"crossings_{at}"] = p["rate"]["n_pass"]
            out |= {f"efficiency_{name}_{at}": value for name, value in p["efficiency"].items()}
    for p in found["rates"].get("menu", {}).get("points", []):
        pure = p["score"]["pure"]
        out[f"pure_khz_{prefix}{p['target_khz']:g}khz"] = [pure[k] for k in ("khz", "low", "high")]
    return out


def loss(plain: dict[str, Any], firmware: dict[str, Any], khz: float) -> float:
    """Mean over signals of what the firmware loses of the plain training's efficiency at a rate, relative."""

    def at(found: dict[str, Any], stage: str) -> dict[str, Any]:
        return next(
            p["efficiency"] for p in found["rates"]["scorers"][stage]["points"] if p["target_khz"] == khz
        )

    before, after = at(plain, "float"), at(firmware, "firmware")
    return float(np.mean([1 - after[s][0] / before[s][0] for s in before]))


def main() -> None:
    """Run, print, publish."""
    shutil.rmtree(FOLDER, ignore_errors=True)  # stages know their settings, not the code that made them
    found = {name: run(name) for name in SEARCHES}
    record = found[MAIN]["record"]
    figures: dict[str, Any] = {
        "mismatches_c": record["verified"]["mismatches"], "mismatches_rtl": record["rtl"]["mismatches_rtl"],
        **{k: record["rtl"][k] for k in ("events_compared", "latency_cycles", "latency_ns", "clock_mhz", "initiation_interval")},
        **{k: record["cost"][k] for k in ("lut", "ff", "dsp", "depth", "lut_fraction_vu9p", "tool", "accuracy")},
        "emulator_khz_per_core": found[MAIN]["khz"],
        "quantisation_loss_relative": loss(found["axol1tl_float"], found[MAIN], 10.0),
    }  # fmt: skip
    for khz in (1.0, 100.0):
        figures[f"quantisation_loss_relative_{khz:g}khz"] = loss(found["axol1tl_float"], found[MAIN], khz)
    for name, one in found.items():
        prefix = "" if name == MAIN else f"{name}_"
        if prefix:
            figures[f"{prefix}mismatches_c"] = one["record"]["verified"]["mismatches"]
            figures[f"{prefix}emulator_khz_per_core"] = one["khz"]
        figures |= points(one, prefix)
    shown = {k: v for k, v in figures.items() if not isinstance(v, list) or k.startswith("efficiency")}
    table(
        [
            (k, f"{v[0]:.4f}" if isinstance(v, list) else v, WANTED.get(k, ""))
            for k, v in shown.items()
            if k != "accuracy"
        ]
    )
    publish("trigger", figures)


if __name__ == "__main__":
    main()
