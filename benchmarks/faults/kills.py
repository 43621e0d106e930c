"""`kill -9` in the middle of `process` and `train`: of a worker, and of the command itself, whose orphans are left alone.

    python benchmarks/faults/kills.py

A killed worker must be survived by the command, a killed command by the next one. Afterwards columns, histograms and
models have to be those of an undisturbed run: Parquet files, tree texts and weights byte by byte, histograms bin by bin.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import uproot
from common import CACHE, publish
from elsewhere.search import template
from elsewhere.workspace import read_json

LIMIT_S = 600
POLL_S = 0.02


@dataclass(frozen=True)
class Case:
    """A stage of a template, how far it is (a count of files or epochs), and where it is killed."""

    name: str
    template: str
    stage: str
    settings: tuple[str, ...]
    progress: Callable[[Path], int]
    points: tuple[int, ...]


def chunks(space: Path) -> int:
    """Parquet files that are there."""
    return len(list(space.glob("columns/*/*.parquet")))


def models(space: Path) -> int:
    """Models that are there."""
    return len(list(space.glob("models/*/model.json")))


def checkpoints(space: Path) -> int:
    """How often the checkpoint was written, as far as can be told from outside."""
    found = list(space.glob("models/.*checkpoint/checkpoint*"))
    return int(found[0].stat().st_mtime_ns) if found else 0


SMALL = ("hunt.control=false", "score.members=2", "folds=4")
CASES = (
    Case("process", "dijet", "process", ("events.chunk=4000",), chunks, (1, 8, 16, 22, 27)),
    Case("process level 1", "trigger", "process", ("events.chunk=3000",), chunks, (2, 10, 18)),
    Case("train trees", "dijet", "train", SMALL, models, (1, 4, 8)),
    Case("train network", "trigger", "train", (), checkpoints, (1, 5, 12)),
)


def command(case: Case, folder: Path) -> list[str]:
    """The command of a case."""
    sets = [part for s in case.settings for part in ("--set", s)]
    return [
        str(Path(sys.executable).with_name("elsewhere")),
        case.stage,
        str(folder / f"{case.template}.yaml"),
        *sets,
    ]


def prepare(case: Case, folder: Path) -> Path:
    """A fresh search in ``folder``, with the stages before the case's done; returns its workspace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / f"{case.template}.yaml").write_text(template(case.template))
    if case.stage == "train":
        before = command(case, folder)
        before[1] = "process"
        subprocess.run(before, check=True, capture_output=True)
    return folder / "runs" / case.template


def fingerprint(space: Path) -> dict[str, object]:
    """What has to be the same, by file."""
    out: dict[str, object] = {}
    for path in sorted([*space.glob("columns/*/*"), *space.glob("models/*/*")]):
        name = str(path.relative_to(space))
        if "checkpoint" in name:
            continue
        if path.name == "model.json":
            whole = read_json(path)
            out[name] = [whole[k] for k in ("format", "method", "features", "files")]
        else:
            out[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    with uproot.open(space / "histograms.root") as file:
        for key in file.keys(recursive=True, filter_classname="TH*"):
            histogram = file[key]
            out[key] = (histogram.values(flow=True).tolist(), histogram.variances(flow=True).tolist())
    return out


def worker_of(process: psutil.Process) -> psutil.Process | None:
    """A descendant that is computing: a Dask worker or a busy Ray worker."""
    for child in process.children(recursive=True):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        busy_ray = (
            line.startswith("ray::")
            and "IDLE" not in line
            and ("fit_window" in line or "TrainWorker" in line)
        )
        if busy_ray or "spawn_main" in line:
            return child
    return None


def reached(case: Case, space: Path, point: int, seen: list[int]) -> bool:
    """Whether the run has come to ``point``; ``seen`` keeps what was there before (for epochs: the changes)."""
    now = case.progress(space)
    if case.progress is not checkpoints:
        return now >= point
    if now and (not seen or seen[-1] != now):
        seen.append(now)
    return len(seen) >= point


def trial(case: Case, folder: Path, point: int, whole: bool) -> tuple[bool, str]:
    """One kill and what came of it: (survived, in words)."""
    space = prepare(case, folder)
    started = subprocess.Popen(command(case, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process, seen, deadline, killed = psutil.Process(started.pid), [], time.monotonic() + LIMIT_S, False
    while started.poll() is None and time.monotonic() < deadline and not killed:
        if reached(case, space, point, seen):
            victim = process if whole else worker_of(process)
            if victim is not None:
                victim.send_signal(signal.SIGKILL)
                killed = True
        time.sleep(POLL_S)
    if not killed:
        started.wait()
        return False, "the run ended before it could be killed"
    out, _ = started.communicate(timeout=LIMIT_S)
    if whole:
        again = subprocess.run(
            command(case, folder), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        code, text = again.returncode, again.stderr
    else:
        code, text = started.returncode, out.decode()
    if code != 0:
        return False, f"exit code {code}: {text.strip()[-300:]}"
    return fingerprint(space) == REFERENCE[case.name], "compared"


REFERENCE: dict[str, dict[str, object]] = {}


def main() -> dict:
    os.environ["COLUMNS"] = "120"
    tried = survived = 0
    figures: dict = {}
    for case in CASES:
        folder = CACHE / "kills" / case.name.replace(" ", "_")
        space = prepare(case, folder)
        subprocess.run(command(case, folder), check=True, capture_output=True)
        REFERENCE[case.name] = fingerprint(space)
        good = 0
        for point in case.points:
            for whole in (False, True):
                fine, words = trial(case, folder, point, whole)
                tried, good = tried + 1, good + fine
                print(
                    f"  {case.name:<16} {'command' if whole else 'worker':<8} at {point:>3}  "
                    f"{'identical' if fine else 'NOT SURVIVED: ' + words}",
                    flush=True,
                )
        survived += good
        figures[case.name.replace(" ", "_")] = f"{good} of {2 * len(case.points)}"
        shutil.rmtree(folder)
    return {**figures, "kills_survived": survived, "kills_tried": tried}


if __name__ == "__main__":
    publish("kills", main())
