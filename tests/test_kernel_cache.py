"""Machine code of kernels is never older than any kernel it calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from elsewhere.kernel_cache import forget_stale

CALLER = "import numba as nb\nfrom .callee import number\n@nb.njit(cache=True)\ndef twice(x):\n    return 2 * number(x)\n"
CALLEE = "import numba as nb\n@nb.njit(cache=True)\ndef number(x):\n    return x + {}\n"


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "toykernels"
    (folder / "inner").mkdir(parents=True)
    for name, text in (
        ("__init__", ""),
        ("caller", CALLER),
        ("callee", CALLEE.format(1)),
        ("plain", "A = 1\n"),
    ):
        (folder / "inner" / f"{name}.py").write_text(text)
    (folder / "__init__.py").write_text("")
    return folder


def answer(package: Path) -> int:
    code = "from toykernels.inner.caller import twice; print(twice(10))"
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {
        "PYTHONPATH": str(package.parent)
    }
    return int(
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.slow
def test_a_changed_kernel_in_another_file_is_compiled_anew(package):
    forget_stale(package)
    assert answer(package) == 22
    (package / "inner" / "callee.py").write_text(CALLEE.format(500))
    assert answer(package) == 22  # this is what numba does by itself
    forget_stale(package)
    assert answer(package) == 1020


def test_only_kernels_that_changed_matter(package):
    kept = package / "inner" / "__pycache__" / "caller.twice-4.py311.nbi"
    forget_stale(package)
    kept.parent.mkdir()
    kept.write_text("index")
    forget_stale(package)
    (package / "inner" / "plain.py").write_text("A = 22\n")
    forget_stale(package)
    assert kept.exists()
    (package / "inner" / "plain.py").unlink()
    forget_stale(package)
    assert kept.exists()
    (package / "inner" / "callee.py").unlink()
    forget_stale(package)
    assert not kept.exists()


def test_a_damaged_note_and_a_folder_that_cannot_be_written(package, monkeypatch):
    kept = package / "inner" / "__pycache__" / "caller.twice-4.py311.nbi"
    kept.parent.mkdir()
    forget_stale(package)
    kept.write_text("index")
    (package / "__pycache__" / "kernels.json").write_text("{")
    forget_stale(package)
    assert not kept.exists()
    forget_stale(package / "archive.zip")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    (package / "inner" / "callee.py").write_text(CALLEE.format(7))
    monkeypatch.setattr(Path, "write_text", refused)
    forget_stale(package)
