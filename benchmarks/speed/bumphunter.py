"""BumpHunter against pyBumpHunter: CPU per pseudo-experiment of whole hunts, at the same t.

    python benchmarks/speed/bumphunter.py [--quick]

60 bins of an exponential, 10^5 events with a bump of 150, all windows of 1 to 30 bins (1365) and of 2 to 6 (285).
Generation of the pseudo-experiments, tables and scan are counted on both sides, after one hunt to warm up; the two
take turns and the best of each counts. pyBumpHunter is not a dependency: `pip install pyBumpHunter`, or name the
folder it was installed to in PYBUMPHUNTER. Its t is compared at single-bin windows too, so every bin of the reference
is filled.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
if os.environ.get("PYBUMPHUNTER"):
    sys.path.append(os.environ["PYBUMPHUNTER"])

import numpy as np
from common import publish, table
from elsewhere.analysis.bumphunter import BumpHunter

EDGES = np.linspace(0.0, 20.0, 61)
WIDTHS = {"1365": (1, 30), "285": (2, 6)}


def histograms() -> tuple[np.ndarray, np.ndarray]:
    """(data, reference) counts (60,): a reference of as many events as the data, taken as exact, as in its example."""
    rng = np.random.default_rng(42)
    background = np.maximum(np.histogram(rng.exponential(2.0, 100_000), EDGES)[0], 1).astype(float)
    data = np.concatenate([rng.exponential(2.0, 100_000), rng.normal(5.5, 0.35, 150)])
    return np.histogram(data, EDGES)[0], background


def spent(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a run and what it returned."""
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def peer(data: np.ndarray, background: np.ndarray, widths: tuple[int, int], toys: int) -> Any:
    """A hunt by pyBumpHunter, which prints whatever it is asked."""
    from pyBumpHunter import BumpHunter1D

    hunter = BumpHunter1D(
        rang=[0, 20], bins=60, width_min=widths[0], width_max=widths[1], width_step=1, scan_step=1, npe=toys, nworker=1,
        seed=1,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        hunter.bump_scan(data.copy(), background.copy(), is_hist=True)
    return hunter


def compare(name: str, toys: int, repeats: int) -> dict[str, Any]:
    """Both engines and pyBumpHunter on the windows called ``name``."""
    (data, background), widths = histograms(), WIDTHS[name]
    ours = {
        engine: BumpHunter(min_width=widths[0], max_width=widths[1], toys=toys, engine=engine)
        for engine in ("numba", "numpy")
    }
    best = dict.fromkeys(("peer", *ours), np.inf)
    apart = 0.0
    for one in ours.values():
        one.hunt(data, background)
    for _ in range(repeats):
        took, hunter = spent(lambda: peer(data, background, widths, toys))
        best["peer"] = min(best["peer"], took / toys)
        for engine, one in ours.items():
            took, found = spent(lambda one=one: one.hunt(data, background))
            best[engine] = min(best[engine], took / toys)
            apart = max(apart, abs(found.t - float(hunter.t_ar[0])))
            assert found.start[0] == hunter.min_loc_ar[0]
            assert found.stop[0] - found.start[0] == hunter.min_width_ar[0]
    end = "" if name == "1365" else f"_{name}"
    return {
        f"bumphunter_speedup_numpy{end}": best["peer"] / best["numpy"],
        f"bumphunter_speedup_numba{end}": best["peer"] / best["numba"],
        f"pybumphunter_ms_per_1000{end}": 1e6 * best["peer"],
        f"numpy_ms_per_1000{end}": 1e6 * best["numpy"],
        f"numba_ms_per_1000{end}": 1e6 * best["numba"],
        f"largest_difference_in_t{end}": apart,
    }


def main(quick: bool) -> dict[str, Any]:
    toys, repeats = (2_000, 1) if quick else (10_000, 3)
    figures: dict[str, Any] = {"toys": toys}
    for name in WIDTHS:
        figures |= compare(name, toys, repeats)
    return figures


if __name__ == "__main__":
    figures = main("--quick" in sys.argv)
    wanted = {
        "bumphunter_speedup_numpy": ">= 20",
        "bumphunter_speedup_numba": ">= 100",
        "largest_difference_in_t": "<= 1e-10",
    }
    table([(name, value, wanted.get(name, "")) for name, value in figures.items()])
    if "--quick" not in sys.argv:
        publish("bumphunter", figures)
