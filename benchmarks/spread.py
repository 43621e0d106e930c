"""How the dijet demo's answer varies: the same search with other seeds (other hidden events, folds, trees and toys).

    python benchmarks/spread.py [SEEDS]

Seeds 1 to SEEDS (default 8), about three minutes each on 2 cores. The demo's own seed is one of them.
"""

import sys
from pathlib import Path

import numpy as np
from common import CACHE, publish
from elsewhere.search import open_search, run_search, template


def one(folder: Path, seed: int) -> dict[str, float]:
    """Run the demo's dijet search, without its control, with another seed."""
    path = folder / "dijet.yaml"
    path.write_text(template("dijet"))
    search = open_search(path, [f"seed={seed}", f"workspace=runs/{seed}", "hunt.control=false"])
    run_search(search, "hunt")
    found = search.space.json("hunt.json")["search"]
    best, overall = found["best"], found["overall"]
    in_window = [r for r in found["results"] if r["window"]["low"] == 3300 and r["cut"] < 1]
    return {
        "seed": seed,
        "z_window": max(r["z"] for r in in_window),
        "z_max": best["z"],
        "window": 0.5 * (best["window"]["low"] + best["window"]["high"]),
        "mass": found["peak"]["position"] if found["peak"] else float("nan"),
        "global_z": overall["z"],
        "bound": overall["bound"],
        "z_before": found["before"]["z"],
    }


def main(count: int) -> None:
    folder = CACHE / "spread"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    print("  seed  Z 3.3-3.7 TeV  largest Z  window  global Z  Z before")
    for seed in range(1, count + 1):
        r = one(folder, seed)
        rows.append(r)
        sign = ">" if r["bound"] else " "
        print(
            f"  {seed:>4}  {r['z_window']:>13.2f}  {r['z_max']:>9.2f}  {r['window']:>6.0f}  {sign}{r['global_z']:>7.2f}  "
            f"{r['z_before']:>8.2f}",
            flush=True,
        )
    z = np.array([r["z_window"] for r in rows])
    publish(
        "spread",
        {
            "seeds": count,
            "local_z_mean": float(z.mean()),
            "local_z_sd": float(z.std(ddof=1)) if count > 1 else 0.0,
            "found_right": sum(r["window"] == 3500 for r in rows),
            "global_z_above_3": sum(r["global_z"] > 3 for r in rows),
            "global_z_above_4": sum(r["global_z"] > 4 for r in rows),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
