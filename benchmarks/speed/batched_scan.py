"""A scan of windows, folds and ensemble members: all networks trained together against one after another.

    python benchmarks/speed/batched_scan.py [--quick]

100,000 events with four features and a falling mass spectrum, 9 windows with sidebands of half a window's width, 5
folds, 10 members: 450 networks 4-64-64-64-1 of 100 epochs, batches of 128 (the classifier of CATHODE). Both ways get
the same training and validation events, weights, first weights and order of batches; the validation losses after the
first epoch are compared, so it is the same training that is timed (they differ by rounding, now and then by a unit
that rounding has switched on). One after another is `models.training.train`, as `WeakNetwork` calls it: its time is
measured on some of the members, spread over all windows, and scaled by the number of batches (`--all`: on every one).
The ways take turns, piece by piece, so that a change of the machine's load hits both; batched work is also given in
CPU time, which a busy machine changes less. --quick: 3 epochs and 2 members.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import publish, table
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of
from elsewhere.models.networks.batched import Member, Trained, train_batched
from elsewhere.models.networks.dense import build_dense
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.scores.network_ensemble import NetworkEnsemble, ScanJob, members_of
from elsewhere.models.scores.weak_network import cross_entropy
from elsewhere.models.training import Sample, Task, TrainSettings, train

EVENTS, WINDOWS, FOLDS, MEMBERS, EPOCHS, THREADS = 100_000, 9, 5, 10, 100, 2
FEATURES = FeatureSet("toy", tuple(Column(f"f{i}", "", "") for i in range(4)), Column("m", "GeV", ""))


def events(seed: int) -> Events:
    """Four features, a mass that falls as exp(-m / 700 GeV) from 2 TeV, half a per cent of signal at 3.5 TeV."""
    rng = np.random.default_rng(seed)
    mass = 2000.0 + rng.exponential(700.0, EVENTS)
    x = rng.normal(size=(EVENTS, 4))
    signal = EVENTS // 200
    x[:signal, :2] += 2.0
    mass[:signal] = rng.normal(3500.0, 100.0, signal)
    identity = np.zeros(EVENTS, IDENTITY)
    identity["run"], identity["event"] = 1, np.arange(EVENTS)
    return Events(x.astype(np.float32), mass, np.ones(EVENTS), identity, FEATURES)


def scan_jobs(data: Events, score: NetworkEnsemble) -> list[ScanJob]:
    """One job per window and fold: the sidebands' and the window's events of all other folds."""
    edges = np.geomspace(2100.0, 4350.0, WINDOWS + 1)
    jobs = []
    for k in range(WINDOWS):
        window = Window(edges[k], edges[k + 1])
        half = 0.5 * (window.high - window.low)
        reference = Sidebands(half).fit(data, window).sample(None, np.random.default_rng(0))
        inside = data.take(window.contains(data.mass))
        folds = fold_of(reference.identity, FOLDS, 0), fold_of(inside.identity, FOLDS, 0)
        for f in range(FOLDS):
            jobs.append(
                ScanJob(reference.take(folds[0] != f), inside.take(folds[1] != f), score, 100 * k + f)
            )
    return jobs


def alone(member: Member, score: NetworkEnsemble) -> list[float]:
    """The validation losses of one member trained by `train`."""
    train_part = Sample(member.inputs(member.rows), member.y[member.rows], member.weight)
    held_part = Sample(member.inputs(member.held_rows), member.y[member.held_rows], member.held_weight)
    config = {"sizes": [4, *score.hidden, 1], "seed": member.seed}
    settings = TrainSettings(
        score.epochs,
        score.batch,
        score.learning_rate,
        member.seed,
        shards=1,
        keep="best",
        best=min(score.best, score.epochs),
    )
    result = train(Task(build_dense, config, cross_entropy, train_part, held_part), settings)
    return list(result.record.validation_loss)


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    score = NetworkEnsemble(members=2 if quick else MEMBERS, epochs=3 if quick else EPOCHS, threads=THREADS)
    jobs = scan_jobs(events(1), score)
    start = time.perf_counter()
    members = [m for job in jobs for m in members_of(job)]
    prepared = time.perf_counter() - start
    layout = score.layout(4)
    warm = NetworkEnsemble(members=2, epochs=1)
    train_batched(members[:2], warm.layout(4), THREADS)
    alone(members[0], warm)
    steps = np.array([-(-len(m.rows) // score.batch) for m in members])
    chosen = (
        range(len(members))
        if "--all" in arguments
        else range(0, len(members), max(1, len(members) // (45 if quick else 9)))
    )
    trained: list[Trained] = []
    walls, cpus, losses = np.zeros(2), np.zeros(2), []
    # The members in pieces, each trained together, then the chosen ones of that piece one after another.
    piece = -(-len(members) // 9)
    for first in range(0, len(members), piece):
        wall, cpu = time.perf_counter(), time.process_time()
        trained += train_batched(members[first : first + piece], layout, THREADS)
        walls[0] += time.perf_counter() - wall
        cpus[0] += time.process_time() - cpu
        wall, cpu = time.perf_counter(), time.process_time()
        losses += [alone(members[i], score) for i in chosen if first <= i < first + piece]
        walls[1] += time.perf_counter() - wall
        cpus[1] += time.process_time() - cpu
    scale = steps.sum() / steps[list(chosen)].sum()
    walls[1] *= scale
    cpus[1] *= scale
    apart = [abs(trained[i].validation_loss[0] - one[0]) for i, one in zip(chosen, losses, strict=True)]
    if np.median(apart) > 1e-6 or max(apart) > 0.01:
        raise SystemExit(
            f"not the same training: first validation losses differ by {np.median(apart):.2g}, {max(apart):.2g}"
        )
    figures = {
        "scan_speedup_batched": float(walls[1] / walls[0]),
        "scan_speedup_batched_cpu": float(cpus[1] / cpus[0]),
        "networks": len(members),
        "networks_timed_alone": len(losses),
        "epochs": score.epochs,
        "threads": THREADS,
        "batched_wall_s": float(walls[0]),
        "alone_wall_s": float(walls[1]),
        "prepared_wall_s": prepared,
        "us_per_step_batched_cpu": float(cpus[0] / steps.sum() / score.epochs * 1e6),
        "us_per_step_alone_cpu": float(cpus[1] / steps.sum() / score.epochs * 1e6),
        "median_loss_difference": float(np.median(apart)),
        "largest_loss_difference": float(max(apart)),
    }
    table([(k, v, ">= 10" if k == "scan_speedup_batched" else "") for k, v in figures.items()])
    publish("batched_scan_quick" if quick else "batched_scan", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
