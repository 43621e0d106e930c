"""A scan of 450 networks and the flow of CATHODE on a GPU, absolute times; the same on this machine's processor beside.

    python benchmarks/speed/gpu.py [--quick]

The scan is that of `batched_scan.py`: 9 windows, 5 folds, 10 members, 100,000 events, 100 epochs of batches of 128. The flow is the
published one (2109.00546: 15 affine autoregressive transforms, batches of 256) on 100,000 events; its 100 epochs are scaled from 20.
First losses must agree with the processor's: it is the same training. Without a GPU there is nothing to measure.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from batched_scan import MEMBERS, alone, events, scan_jobs
from common import publish, table
from elsewhere.events import identity_hash
from elsewhere.models.device import on
from elsewhere.models.networks.batched import train_batched
from elsewhere.models.networks.flows import ConditionalFlow, FlowSettings
from elsewhere.models.scores.network_ensemble import NetworkEnsemble, members_of


def scan(quick: bool) -> dict[str, Any]:
    """The 450 networks at once, and some of them one after another on the same GPU."""
    score = NetworkEnsemble(members=2 if quick else MEMBERS, epochs=3 if quick else 100)
    members = [m for job in scan_jobs(events(1), score) for m in members_of(job)]
    few = NetworkEnsemble(members=1, epochs=3)
    with on("cuda"):
        train_batched(members[:4], NetworkEnsemble(epochs=1).layout(4))  # starts the GPU
        start = time.perf_counter()
        together = train_batched(members, score.layout(4))
        wall = time.perf_counter() - start
        alone(members[0], NetworkEnsemble(epochs=1))
        chosen = range(0, len(members), max(1, len(members) // 6))
        start = time.perf_counter()
        for i in chosen:
            alone(members[i], few)
        single = time.perf_counter() - start
    steps = np.array([-(-len(m.rows) // score.batch) for m in members])
    share = steps[list(chosen)].sum() * few.epochs / (steps.sum() * score.epochs)
    cpu = train_batched([members[0]], NetworkEnsemble(epochs=1).layout(4))[0]
    apart = abs(cpu.validation_loss[0] - together[0].validation_loss[0])
    return {"networks": len(members), "epochs": score.epochs, "scan_gpu_s": wall,
            "scan_gpu_alone_s": single / share, "scan_speedup_batched_gpu": single / share / wall,
            "scan_first_loss_difference": float(apart)}  # fmt: skip


def flow(quick: bool) -> dict[str, Any]:
    """Training, density and samples of the flow on the GPU and on one core."""
    data, epochs = events(2), 2 if quick else 20
    order = identity_hash(data.identity, 0)
    out: dict[str, Any] = {}
    losses = {}
    for device, n in (("cuda", epochs), ("cpu", 1)):
        with on(device):
            start = time.perf_counter()
            made = ConditionalFlow.fit(data.x, data.mass, data.weight, order, FlowSettings(epochs=n, best=1))
            out[f"flow_{device}_s_per_epoch"] = made.record_.wall_s / n
            out[f"flow_{device}_fit_s"] = time.perf_counter() - start
            losses[device] = made.record_.train_loss[0]
            small = slice(0, len(data) if device == "cuda" else 20_000)
            made.log_prob(data.x[:10], data.mass[:10])
            start = time.perf_counter()
            made.log_prob(data.x[small], data.mass[small])
            mid = time.perf_counter()
            made.sample(data.mass[small], np.random.default_rng(1))
            size = len(data.mass[small]) / len(data)
            out[f"flow_{device}_density_s"] = (mid - start) / size
            out[f"flow_{device}_sample_s"] = (time.perf_counter() - mid) / size
    out["flow_100_epochs_gpu_s"] = 100 * out["flow_cuda_s_per_epoch"]
    out["flow_100_epochs_one_core_s"] = 100 * out["flow_cpu_s_per_epoch"]
    out["flow_first_loss_difference"] = abs(losses["cuda"] - losses["cpu"])
    return out


def main(arguments: list[str]) -> None:
    """Measure and print."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    quick = "--quick" in arguments
    figures = {"gpu": torch.cuda.get_device_name(0)}
    for part in (scan, flow):
        figures |= part(quick)
        table([(k, v, "") for k, v in figures.items()])
    publish("gpu", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
