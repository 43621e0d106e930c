"""Imports may only point down: the halls never import one another, the ground imports nobody."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GROUND = {"chunks", "events", "errors", "fixed", "trees", "workspace", "hashing"}
TOP = {
    "cli",
    "search",
    "stages",
    "streaming",
    "quality",
    "resonance",
    "studies",
    "report_studies",
    "hunting",
    "trigger",
    "menus",
    "conditions",
    "report_conditions",
    "detector_faults",
    "fronts",
    "report_front",
    "report_training",
    "interpreting",
    "report_interpretation",
    "reports",
    "report_hunt",
    "report_trigger",
    "demo",
    "statements",
}
#: hall -> what else of the package it may import
ALLOWED = {
    "processors": GROUND | {"processors"},
    "models": GROUND | {"models"},
    "analysis": GROUND | {"analysis"},
    "samples": GROUND | {"samples"},
    "deploy": GROUND | {"deploy", "models.base"},
    "hashing": set(),
    "events": {"errors", "hashing"},
    "chunks": {"events"},
    "workspace": {"chunks", "errors", "events"},
    "errors": set(),
    "kernel_cache": set(),
    "fixed": {"errors"},
    "trees": {"errors", "fixed"},
    "sections": {"events"},
    "config": {"errors", "sections", "deploy.clusters.sections"},
}


def imported(path: Path, root: Path) -> set[str]:
    """Dotted names below the package that a file imports, wherever in the file the import stands."""
    here = path.relative_to(root).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            if node.module:
                found.add(".".join((*base, node.module)))
            else:
                found.update(".".join((*base, alias.name)) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "elsewhere":
            found.add((node.module or "").partition(".")[2] or "__init__")
        elif isinstance(node, ast.Import):
            found.update(a.name.partition(".")[2] for a in node.names if a.name.split(".")[0] == "elsewhere")
    return found - {""}


def violations(root: Path) -> list[str]:
    """Every import that points up or sideways."""
    bad = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in ALLOWED:
            continue
        for name in imported(path, root):
            if not any(name == ok or name.startswith(ok + ".") for ok in ALLOWED[parts[0]]):
                bad.append(f"{path.relative_to(root)} imports {name}")
    return bad


def test_no_arrow_points_up_or_sideways():
    assert violations(ROOT) == []


def test_every_top_level_module_is_known():
    modules = {p.stem for p in ROOT.glob("*.py")} - {"__init__"}
    assert modules <= set(ALLOWED) | TOP, "a new top-level module needs its place in the layers"


@pytest.mark.parametrize(
    "line", ["from ..models.base import Score", "import elsewhere.models", "from elsewhere.search import run"]
)
def test_a_sideways_import_is_seen(tmp_path, line):
    (tmp_path / "processors").mkdir()
    (tmp_path / "processors" / "bad.py").write_text(f"def f():\n    {line}\n")
    assert len(violations(tmp_path)) == 1


def test_the_root_init_holds_only_docstring_version_and_the_guard_of_kernels():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    assert [type(node).__name__ for node in tree.body] == [
        "Expr",
        "ImportFrom",
        "ImportFrom",
        "Assign",
        "Expr",
    ]


def test_nothing_on_disk_is_pickled_and_nothing_prints():
    banned = (
        "pickle.load",
        "pickle.dump",
        "joblib.",
        "weights_only=False",
        "np.random.seed",
        "torch.manual_seed(",
    )
    for hall in ("processors", "models", "analysis", "samples", "deploy"):
        for path in (ROOT / hall).rglob("*.py"):
            # What travels to a worker is pickled by value; nothing is kept that way.
            text = path.read_text().replace("cloudpickle.", "")
            # In the generator np.random is numba's, a generator of the thread's own that every event seeds.
            allowed = {"np.random.seed"} if hall == "samples" else set()
            assert not [word for word in banned if word in text and word not in allowed], path
            calls = [
                n.lineno
                for n in ast.walk(ast.parse(text))
                if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"
            ]
            assert not calls, f"{path}: print at {calls}"


def test_modules_and_functions_stay_readable():
    long = []
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] not in ALLOWED and (len(parts) > 1 or path.stem not in TOP):
            continue
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(str(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{path}:{node.name} ({length})")
    assert long == []
