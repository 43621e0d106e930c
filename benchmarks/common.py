"""What every benchmark does: a table, one line of JSON at the end, the same in results/NAME.json, and a place for its data."""

import ast
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from elsewhere.analysis.metrics import Roc, signal_efficiency_at
from elsewhere.workspace import read_json, write_json

RESULTS = Path(__file__).parent / "results"
#: Generated inputs, outside the repository: kept between runs, made again by the benchmark that needs them.
CACHE = Path(os.environ.get("ELSEWHERE_CACHE", Path.home() / ".cache" / "elsewhere")) / "benchmarks"
PACKAGES = ("awkward", "coffea", "dask", "elsewhere", "hls4ml", "lightgbm", "numpy", "ray", "torch", "uproot")


def code_of(path: Path) -> str:
    """What a module does, whatever its comments and docstrings say."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        described = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if described and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpus": os.cpu_count(),
        "cpu": model,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def table(rows: Sequence[tuple[str, Any, str]]) -> None:
    """Print (figure, value, what is wanted)."""
    width = max(len(name) for name, _, _ in rows)
    for name, value, wanted in rows:
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        print(f"  {name:<{width}}  {shown:>12}  {wanted}")


#: Background and signal kept where a score is quoted.
CUTS, KEPT = (0.1, 0.01, 0.001), (0.3, 0.5)


def separation(curve: Roc) -> dict[str, float]:
    """AUC, SIC at fixed background, rejection at fixed signal (at most as many as there are background events)."""
    found = {"auc": curve.auc}
    for cut in CUTS:
        found[f"sic_{cut:g}"] = float(signal_efficiency_at(curve, cut)[0] / np.sqrt(cut))
    for kept in KEPT:
        at = int(np.searchsorted(curve.signal, kept, side="left"))
        found[f"rejection_{kept:g}"] = float(1 / max(curve.background[at], 1 / curve.n_background_total))
    return found


def publish(name: str, figures: Mapping[str, Any], *, beside: bool = False) -> None:
    """Write results/NAME.json with versions and machine, and print the figures as the last line.

    ``beside``: figures of other families that are in the file stay there; those of the same names are replaced.
    """
    there = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    versions = {p: importlib.metadata.version(p) for p in PACKAGES if p in there}
    path = RESULTS / f"{name}.json"
    before = read_json(path) if beside and path.exists() else {}
    write_json(path, {**before, **figures, "versions": versions, "machine": machine()})
    print(json.dumps(figures))


def columns_of(name: str, features: str, kinds: Sequence[str] | None = None) -> dict[str, Any]:
    """Events of the parts ``kinds`` (default: all) of a made set, in an order that has nothing to do with how they were made.

    The set is made first and streamed with the feature set ``features``; both are kept for the next time.
    """
    from elsewhere.events import in_identity_order
    from elsewhere.processors.features import load_features
    from elsewhere.processors.preflight import preflight
    from elsewhere.processors.stream import process
    from elsewhere.samples.resonant import make_set
    from elsewhere.workspace import Workspace

    made, looking = make_set(name, workers=2), load_features(features)
    kinds = kinds or tuple(made.parts)
    folder = CACHE / "outliers" / f"{name}-{features}"
    fileset = preflight({k: [str(p) for p in made.paths(k)] for k in kinds}, looking)
    process(fileset, looking, folder, scheduler="loop")
    return {k: in_identity_order(Workspace(folder).read_table(k).events, 7) for k in kinds}
