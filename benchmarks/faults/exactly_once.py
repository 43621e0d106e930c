"""Exactly once under at least fifty kills: `elsewhere process` with systematic variations, killed again and again at random.

    python benchmarks/faults/exactly_once.py [KILLS] [SEED]

Each run is killed several times at random moments, its workers or the command itself (whose orphans are left alone), and
started again until it ends. Then Parquet files must be those of an undisturbed run byte by byte, histograms bin by bin, and
`elsewhere verify` must find every event exactly once. All randomness comes from SEED.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from common import CACHE, publish
from elsewhere.search import template
from kills import LIMIT_S, POLL_S, chunks, fingerprint, worker_of

#: Kills of one run at most: a run that is killed too early every time would never end.
PER_RUN = 6
SYSTEMATICS = """
systematics:
  datasets: [wprime]
  nuisances:
    jes: {kind: JetEnergyScale, jets: FatJet, uncertainty: 0.02}
    jer: {kind: JetEnergyResolution, jets: FatJet, resolution: 0.08, scale_factor: 1.1, uncertainty: 0.1, match: false}
"""
PROGRAM = str(Path(sys.executable).with_name("elsewhere"))


def prepare(folder: Path) -> tuple[list[str], Path]:
    """A fresh search; returns its command and its workspace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / "dijet.yaml"
    path.write_text(template("dijet") + SYSTEMATICS)
    return [PROGRAM, "process", str(path), "--set", "events.chunk=1500"], folder / "runs" / "dijet"


def kill_one(command: list[str], space: Path, units: int, rng: random.Random) -> str:
    """Start the command and kill something at a random moment; 'worker', 'command', or 'ended' where it was too late."""
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process, whole, before = psutil.Process(started.pid), rng.random() < 0.5, chunks(space)
    # After the first chunk of this start: Dask does not survive the death of a worker within its first tenth of a second.
    goal, pause = before + 1 + rng.randrange(max(1, units - before)), rng.uniform(0.0, 0.3)
    deadline = time.monotonic() + LIMIT_S
    while started.poll() is None and time.monotonic() < deadline:
        if chunks(space) >= goal:
            time.sleep(pause)
            victim = process if whole else worker_of(process)
            if victim is not None and started.poll() is None:
                victim.send_signal(signal.SIGKILL)
                code = started.wait(LIMIT_S)
                if not whole and code != 0:
                    raise SystemExit(f"a killed worker ended the command with exit code {code}")
                return "command" if whole else "worker"
        time.sleep(POLL_S)
    started.wait(LIMIT_S)
    return "ended"


def one_run(folder: Path, units: int, rng: random.Random) -> tuple[list[str], Path]:
    """One run from nothing to its end with up to `PER_RUN` kills; (what was killed, workspace)."""
    command, space = prepare(folder)
    killed: list[str] = []
    while len(killed) < PER_RUN and (what := kill_one(command, space, units, rng)) != "ended":
        killed.append(what)
        if what == "worker":
            break  # the command survived and is done
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
    return killed, space


def main(wanted: int, seed: int) -> dict:
    folder = CACHE / "exactly_once"
    command, space = prepare(folder)
    subprocess.run(command, check=True, capture_output=True)
    units, reference = chunks(space), fingerprint(space)
    tried = identical = runs = 0
    rng = random.Random(seed)
    while tried < wanted:
        killed, space = one_run(folder, units, rng)
        same = fingerprint(space) == reference
        proof = subprocess.run([PROGRAM, "verify", str(space)], capture_output=True, text=True, check=False)
        good = same and proof.returncode == 0
        tried, identical, runs = tried + len(killed), identical + good * len(killed), runs + 1
        print(
            f"  run {runs:>2}: {', '.join(killed) or 'ended first':<50} {'identical' if good else 'DIFFERENT'}",
            flush=True,
        )
    shutil.rmtree(folder)
    return {"kills_identical": identical, "kills_tried": tried, "runs": runs, "units": units, "seed": seed}


if __name__ == "__main__":
    arguments = [int(a) for a in sys.argv[1:]]
    publish("exactly_once", main(*(arguments + [50, 1][len(arguments) :])))
