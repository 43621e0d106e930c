"""Makers of faults: tiny NanoAOD-shaped files of any codec, ways to spoil them, and a search small enough to run on them."""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import uproot
from click.testing import CliRunner
from elsewhere.cli import main
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.workspace import file_digest

CODECS = {
    "zstd": uproot.ZSTD(5),
    "zlib": uproot.ZLIB(4),
    "lz4": uproot.LZ4(4),
    "lzma": uproot.LZMA(4),
    "none": None,
}
#: Events of a file, of a basket and of a work unit.
EVENTS, BASKET, CHUNK = 600, 200, 200

SEARCH = """
name: small
events:
  features: dijet
  chunk: 200
  datasets:
    data: {files: FILES, role: data}
reference: {method: Sidebands, width: 400.0}
score: {method: WeakTrees, members: 1, rounds: 20}
folds: 2
hunt:
  mass_low: 2500.0
  mass_high: 6500.0
  windows: {first: 3300.0, last: 3700.0, step: 400.0, width: 400.0}
  cuts: [0.1]
  toys: 100
run: {scheduler: loop, training: plain, workers: 1}
"""


def pytest_configure(config):
    config.addinivalue_line("markers", "fault(number): a row of the table of faults")


def columns(n=EVENTS, seed=1, weights=True, lumi=None):
    """Two to four central fat jets per event, all above the selection; by name of branch, jagged ones as awkward."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 5, n)
    total = int(counts.sum())
    draw = {
        "pt": rng.uniform(1300, 2500, total), "eta": rng.uniform(-1, 1, total), "phi": rng.uniform(-3, 3, total),
        "mass": rng.uniform(50, 400, total), **{f"tau{i}": rng.uniform(0.1, 1, total) for i in (1, 2, 3)},
    }  # fmt: skip
    out = {
        "run": np.full(n, 1, np.uint32), "luminosityBlock": np.full(n, lumi or seed, np.uint32),
        "event": np.arange(1, n + 1, dtype=np.uint64),
    }  # fmt: skip
    if weights:
        out["genWeight"] = np.ones(n, np.float32)
    # Ten bits of mantissa, as NanoAOD keeps them: what does not compress is stored as it is, without a checksum.
    return out | {
        f"FatJet_{k}": ak.unflatten(v.astype(np.float16).astype(np.float32), counts) for k, v in draw.items()
    }


def write(path, raw=None, codec="zlib", tree="Events", drop=(), basket=BASKET):
    """One file with a tree of the columns ``raw``; lists per event share the counter nFatJet."""
    raw = {k: v for k, v in (raw or columns()).items() if k not in drop}
    kinds = {k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in raw.items()}
    n = len(next(iter(raw.values())))
    with uproot.recreate(path, compression=CODECS[codec]) as file:
        file.mktree(tree, kinds, counter_name=lambda c: "nFatJet" if c.startswith("FatJet") else f"n{c}")
        for start in range(0, n, basket):
            file[tree].extend({k: v[start : start + basket] for k, v in raw.items()})
    return Path(path)


def flip(path, branch="FatJet_pt", basket=1, byte=None, bit=0):
    """Flip one bit in the stored bytes of a basket: in the middle, or ``byte`` bytes after its key."""
    with uproot.open(path) as file:
        one = file["Events"][branch]
        seek, size = int(one.member("fBasketSeek")[basket]), int(one.member("fBasketBytes")[basket])
        key = int(one.basket_key(basket).fKeylen)
    at = seek + (key + (size - key) // 2 if byte is None else key + byte)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    path.write_bytes(raw)


def flip_value(path, branch, old, bit):
    """Flip one bit of the first float32 equal to ``old`` in an uncompressed basket; returns its new value."""
    raw, want = bytearray(path.read_bytes()), np.array([old], ">f4").tobytes()
    at = raw.index(want)
    raw[at + 3 - bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    return float(np.frombuffer(bytes(raw[at : at + 4]), ">f4")[0])


def checked(*paths, dataset="data"):
    """The preflighted fileset of one dataset."""
    return preflight({dataset: [str(p) for p in paths]}, Dijet())


def products(out):
    """What a pass made, by name: chunks by checksum, histograms as numbers, because ROOT files hold times."""
    made = {str(p.relative_to(out)): file_digest(p) for p in sorted(Path(out).glob("columns/*/*"))}
    with uproot.open(Path(out) / "histograms.root") as file:
        for name, kind in file.classnames(cycle=False).items():
            if kind == "TH1D":
                made[name] = str(
                    [file[name].values(flow=True).tolist(), file[name].variances(flow=True).tolist()]
                )
    return made


class Small:
    """A search on the files of a folder, driven by the command line."""

    def __init__(self, folder):
        self.folder = folder
        self.space = folder / "runs" / "small"

    def write(self, *files, text=SEARCH):
        """search.yaml on these files."""
        (self.folder / "search.yaml").write_text(text.replace("FILES", json.dumps([str(f) for f in files])))
        return self

    def call(self, verb, *args):
        """(exit code, what was said) of one verb; anything but a clear refusal is raised."""
        result = CliRunner().invoke(main, [verb, str(self.folder / "search.yaml"), *args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def counts(self):
        """counts.json."""
        return json.loads((self.space / "counts.json").read_text())

    def chunks(self):
        """Names of all chunk files."""
        return sorted(p.name for p in self.space.glob("columns/*/*"))


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """The units read so far, in this process; waiting between tries takes no time."""
    import time

    from elsewhere.processors import driver

    seen, real = [], driver.read_columns
    monkeypatch.setattr(driver, "read_columns", lambda unit, recipe: seen.append(unit) or real(unit, recipe))
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    return seen


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Two good files, ``a`` and ``b``, of different events: compressed with a codec that checks itself."""
    folder = tmp_path_factory.mktemp("good")
    return SimpleNamespace(
        a=write(folder / "a.root", columns(seed=1)), b=write(folder / "b.root", columns(seed=2))
    )


@pytest.fixture
def disk(tmp_path):
    """A maker of very small file systems: ``disk(size)`` gives its folder; needs root."""
    made = []

    def mount(size="256k"):
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        found = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        ) if os.geteuid() == 0 else None  # fmt: skip
        if found is None or found.returncode != 0:
            pytest.skip("mounting a small tmpfs needs root and the right to mount")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def grow(folder, size):
    """Give a full disk more room."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


@pytest.fixture
def open_folder():
    """A folder that every user can reach (pytest's are private)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def nobody():
    """Without root's rights, which no permission bits stop."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def child(code, *args, **kwargs):
    """A Python process that runs ``code``; it is killed with this one."""
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **kwargs}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    die = ctypes.CDLL(None).prctl
    return subprocess.Popen(command, preexec_fn=lambda: die(1, 9), **kwargs)  # noqa: PLW1509  (one system call)
