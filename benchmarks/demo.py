"""The acceptance figures of the demo, from everything that measures one of them.

    python benchmarks/demo.py

Runs `elsewhere demo` in an empty folder, then benchmarks/physics/weak.py, real.py, faults/kills.py and speed/process.py
(about 25 minutes on 2 cores; the first time an hour more, for the samples of weak.py), and puts their figures together.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, publish, table
from elsewhere.analysis.plots import Spectrum, plot_spectra
from elsewhere.events import Window
from elsewhere.workspace import read_json

HERE = Path(__file__).resolve().parent
PARTS = ("physics/weak.py", "real.py", "faults/kills.py", "speed/process.py")
WANTED = {
    "demo_minutes": "<= 10",
    "local_z_before": "< 2",
    "global_z": "> 4 (a bound where no toy reaches the data)",
    "mass_gev": "3500 +- 150",
    "null_global_p": "> 0.05",
    "supervised_auc": ">= 0.94",
    "idealised_over_supervised": ">= 0.6",
    "events_lost": "0",
    "z_peak_gev": "91.2 +- 0.5",
    "kills_survived": "all of kills_tried",
    "firmware_mismatches": "0",
    "floor_ratio": "<= 4",
}


def demo(folder: Path) -> dict[str, Any]:
    """Run the demo from nothing and read its figures."""
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    program = str(Path(sys.executable).with_name("elsewhere"))
    subprocess.run([program, "demo", "--out", str(folder)], check=True)
    minutes = (time.monotonic() - start) / 60
    hunt = read_json(folder / "runs" / "dijet" / "hunt.json")
    found, null = hunt["search"], hunt["control"]
    rates = read_json(folder / "runs" / "trigger" / "rates.json")["firmware_against_float"]
    verified = read_json(folder / "runs" / "trigger" / "firmware" / "firmware.json")["verified"]
    at_1_khz = rates["rates"][0]
    return {
        "demo_minutes": minutes,
        "local_z_before": found["before"]["z"],
        "local_z": found["best"]["z"],
        "global_z": found["overall"]["z_low"] if found["overall"]["bound"] else found["overall"]["z"],
        "global_z_is_bound": found["overall"]["bound"],
        "mass_gev": found["peak"]["position"],
        "mass_error_gev": found["peak_error"],
        "null_global_p": null["overall"]["p"],
        "firmware_mismatches": verified["mismatches"],
        "firmware_events": verified["events"],
        "firmware_float_pearson": rates["pearson"],
        "firmware_float_spearman": rates["spearman"],
        "rate_float_khz": at_1_khz["float"]["khz"],
        "rate_firmware_khz": at_1_khz["firmware"]["khz"],
    }


def picture(folder: Path, path: Path) -> None:
    """The README's figure: the spectrum in the window of the largest excess, before and after the cut."""
    found = read_json(folder / "runs" / "dijet" / "hunt.json")["search"]
    edges = np.array(found["edges"])
    spectra = [
        Spectrum(
            title,
            edges,
            np.array(r["counts"]),
            Window(**r["window"]),
            np.array(r["expected"]),
            np.array(r["error"]),
        )
        for title, r in (("before the cut", found["before"]), ("after the cut on the score", found["best"]))
    ]
    figure = plot_spectra(spectra, label="Simulation")
    figure.savefig(path, dpi=110)


def main() -> dict[str, Any]:
    """All figures."""
    figures = demo(CACHE / "demo")
    picture(CACHE / "demo", HERE.parent / "docs" / "dijet.png")
    for part in PARTS:
        print(f"\n{part}", flush=True)
        subprocess.run([sys.executable, str(HERE / part)], check=True)
        found = read_json(RESULTS / f"{Path(part).stem}.json")
        figures |= {k: v for k, v in found.items() if k not in ("versions", "machine")}
    print()
    table([(k, v, WANTED.get(k, "")) for k, v in figures.items()])
    return figures


if __name__ == "__main__":
    publish("demo", main())
