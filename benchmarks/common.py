"""What every benchmark does: a table, one line of JSON at the end, the same in results/NAME.json, and a place for its data."""

import ast
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elsewhere.workspace import write_json

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


def publish(name: str, figures: Mapping[str, Any]) -> None:
    """Write results/NAME.json with versions and machine, and print the figures as the last line."""
    there = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    versions = {p: importlib.metadata.version(p) for p in PACKAGES if p in there}
    write_json(RESULTS / f"{name}.json", {**figures, "versions": versions, "machine": machine()})
    print(json.dumps(figures))
