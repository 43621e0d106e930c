"""What is on disk is what is packaged: the package list, the wheel, and an import of every module from it."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HALLS = ("analysis", "deploy", "models", "processors", "samples")


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_listed():
    folders = {p.parent for hall in HALLS for p in (ROOT / hall).rglob("*.py")}
    names = {"elsewhere"} | {".".join(("elsewhere", *f.relative_to(ROOT).parts)) for f in folders}
    assert names == set(settings()["tool"]["setuptools"]["packages"])
    assert all((f / "__init__.py").exists() for f in folders)


def test_every_dependency_says_why():
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    unexplained = [
        line
        for line in block.splitlines()
        if line.strip().startswith('"')
        and "#" not in line
        and not line.strip().startswith(('"numpy', '"pytest'))
    ]
    assert unexplained == []


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_they_import(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path]
    copy = tmp_path / "src"
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in tracked:
        if (ROOT / name).exists() and not name.startswith(("tests/", "benchmarks/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    inside = {n for n in names if n.endswith(".py")}
    sources = {
        f"elsewhere/{p.relative_to(ROOT)}"
        for p in [*ROOT.glob("*.py"), *(q for hall in HALLS for q in (ROOT / hall).rglob("*.py"))]
    }
    assert inside == sources
    assert not [n for n in names if n.startswith(("models/", "tests/", "elsewhere/tests"))]
    assert "elsewhere/py.typed" in names
    assert any(n.startswith("elsewhere/samples/shipped/") and n.endswith(".root") for n in names)
    modules = [n[:-3].replace("/", ".").removesuffix(".__init__") for n in sorted(inside)]
    code = (
        f"import sys, importlib; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"for m in {modules!r}:\n    importlib.import_module(m)\n"
        "import elsewhere; print(elsewhere.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site") in done.stdout
