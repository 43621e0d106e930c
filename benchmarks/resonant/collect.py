"""The figures of the resonant search in one file: results/resonant.json, from what the other benchmarks wrote.

    python benchmarks/resonant/collect.py

Every figure keeps the name that its own benchmark gave it, and ``sources`` says which file it is from, ``measured_on`` on which
processor; a figure that nothing has measured yet is listed under ``not_measured``. Of the methods trained on a GPU too, only what
no processor has measured is taken. Nothing is trained here.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import RESULTS, publish, table
from elsewhere.workspace import read_json
from run import WANTED as ASKED

#: Files in results/ and the beginnings of the names that are taken from each; of two files with a slash between, the first that is there.
SOURCES: dict[str, tuple[str, ...]] = {
    "resonant_methods": ("set", "s_over_b", "failed", "r_", "n_", "sic_", "supervised_", "null_"),
    "resonant_priors": ("r_paws", "r_quak", "r_tnt", "n_paws", "n_quak", "n_tnt", "paws_", "gbi_", "n_gbi"),
    "resonant_bias": ("delta_sys_", "verdict_"),
    "densities": ("nsf_", "maf_"),
    "hunt_null": ("null_", "z_"),
    "statement": ("null_", "size_", "pull_", "order_size_", "nested_trials"),
    "bumphunter": ("bumphunter_speedup_", "largest_difference_in_t"),
    "fits": ("fit_speedup_over_iminuit", "spectra_worse_by_1e-6", "spectra_compared"),
    "batched_scan/batched_scan_quick": ("scan_speedup_batched",),
    "ray_scan": ("ray_two_workers_over_one", "two_processes_over_one"),
    "flows": ("flow_step_speedup_", "flow_draw_speedup_"),
    "gpu": ("scan_speedup_batched_gpu", "scan_gpu_s", "flow_100_epochs_"),
    "blackboxes": ("blackbox",),
}
#: Taken only where nothing above has the name.
SUPPLEMENT = "resonant_methods_gpu"
#: What must be there, and what is asked of it.
WANTED: dict[str, str] = {
    **{f"r_{m}": f">= {low:g}, target {aim:g}" for m, (low, aim) in ASKED.items()},
    "r_tnt": "",
    **{f"r_{m}{variant}": "" for variant in ("_shifted", "_noise") for m in (*ASKED, "tnt")},
    "r_cwola_shifted": "< 0.25",
    "null_max_sic": "< 2",
    "paws_mass_error_gev": "<= 50",
    "paws_mu_ratio": "within a factor 1.5",
    "delta_sys_cathode_0.01": "within 0.10",
    "delta_sys_cathode_0.001": "within 0.25",
    "delta_sys_cwola_dr_0.01": "> 0.5",
    "null_dijet": "0.025 to 0.08",
    "bumphunter_speedup_numpy": ">= 20",
    "bumphunter_speedup_numba": ">= 100",
    "fit_speedup_over_iminuit": ">= 200",
    "scan_speedup_batched": ">= 10",
    "blackbox1_mass_error_gev": "<= 100",
    "blackbox1_global_z": "> 5",
    "blackbox2_global_p": "nothing found",
}


def collected() -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """The figures, the file each is from, and where each file was measured (None: there is no such file).

    Two files with different numbers of one name are an error.
    """
    figures: dict[str, Any] = {}
    sources: dict[str, str] = {}
    machines: dict[str, Any] = {}
    for names, beginnings in SOURCES.items():
        there = [name for name in names.split("/") if (RESULTS / f"{name}.json").exists()]
        machines |= {} if there else {names: None}
        for name in there[:1]:
            found = read_json(RESULTS / f"{name}.json")
            machines[name] = found["machine"]["cpu"]
            for key, value in found.items():
                if not key.startswith(beginnings):
                    continue
                if key in figures:
                    raise SystemExit(
                        f"{key} is in {sources[key]}.json and in {name}.json; rename one of them"
                    )
                figures[key], sources[key] = value, name
    if (RESULTS / f"{SUPPLEMENT}.json").exists():
        found = read_json(RESULTS / f"{SUPPLEMENT}.json")
        more = [k for k in found if k.startswith(SOURCES["resonant_methods"]) and k not in figures]
        figures |= {key: found[key] for key in more}
        sources |= dict.fromkeys(more, SUPPLEMENT)
        machines[SUPPLEMENT] = found["machine"].get("gpu", found["machine"]["cpu"])
    return figures, sources, machines


def main() -> None:
    """Collect and print."""
    figures, sources, machines = collected()
    missing = [key for key in WANTED if key not in figures]
    table([(key, figures.get(key, "not measured"), wanted) for key, wanted in WANTED.items()])
    publish("resonant", {**figures, "not_measured": missing, "sources": sources, "measured_on": machines})


if __name__ == "__main__":
    main()
