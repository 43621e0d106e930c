"""Spline flows against zuko's own: CPU of a training step and of drawing events, both ways taking turns in one run.

    python benchmarks/speed/flows.py [--quick]

The flow of the resonant benchmark, three autoregressive transforms of eight bins with networks of 64 and 64, in batches of 1024, in the
baseline's four features and with fifty columns of noise beside them. Ours and zuko's have the same weights and give the same densities
and events; the largest differences are printed. One thread.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import zuko
from common import publish, table
from elsewhere.models.networks.flow_modules import build_flow, inverted
from elsewhere.models.networks.flows import FlowSettings

BATCH, BINS, BOUND, HIDDEN, TRANSFORMS = 1024, 8, 8.0, (64, 64), 3


def pair(features: int) -> tuple[Any, Any]:
    """Ours, and zuko's with the same weights."""
    settings = FlowSettings("nsf", TRANSFORMS, HIDDEN, BINS, BOUND)
    ours = build_flow(settings.network(features, 1, 1)).flow
    spline = partial(zuko.transforms.MonotonicRQSTransform, bound=BOUND)
    other = zuko.flows.MAF(
        features, 1, transforms=TRANSFORMS, hidden_features=HIDDEN, univariate=spline,
        shapes=[(BINS,), (BINS,), (BINS - 1,)],
    )  # fmt: skip
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for one, same in zip(ours.parameters(), other.parameters(), strict=True):
            one.add_(0.05 * torch.randn(one.shape, generator=draw))
            same.copy_(one)
    return ours, other


def losses(flow: Any, v: Any, c: Any) -> Any:
    """-ln p up to a constant, (n,)."""
    z, change = flow.transform(c).call_and_ladj(v)
    return 0.5 * z.square().sum(dim=-1) - change


def step(flow: Any, v: Any, c: Any) -> Any:
    """The slope of the mean loss in every weight."""
    return torch.autograd.grad(losses(flow, v, c).mean(), list(flow.parameters()))


def turns(ours: Callable[[], Any], other: Callable[[], Any], times: int) -> tuple[float, float]:
    """Median CPU seconds of each."""
    spent: list[list[float]] = [[], []]
    for turn in range(times + 1):
        for each, function in zip(spent, (ours, other), strict=True):
            start = time.process_time()
            function()
            if turn:  # the first compiles
                each.append(time.process_time() - start)
    return float(np.median(spent[0])), float(np.median(spent[1]))


def figures(features: int, times: int) -> dict[str, float]:
    """Times, ratios and differences of flows of so many features."""
    ours, other = pair(features)
    draw = torch.Generator().manual_seed(3)
    v, c = torch.randn(BATCH, features, generator=draw), torch.randn(BATCH, 1, generator=draw)
    mine, zukos = turns(partial(step, ours, v, c), partial(step, other, v, c), times)
    with torch.inference_mode():
        apart = float((losses(ours, v, c) - losses(other, v, c)).abs().max())
        ours, other = ours.double(), other.double()
        z, c = v.double(), c.double()
        drawn, zukos_drawn = turns(
            lambda: inverted(ours, z, c), lambda: other.transform(c).inv(z), max(3, times // 8)
        )
        events = float((inverted(ours, z, c) - other.transform(c).inv(z)).abs().max())
    return {
        f"flow_step_ms_{features}": 1e3 * mine, f"flow_step_speedup_over_zuko_{features}": zukos / mine,
        f"flow_draw_ms_{features}": 1e3 * drawn, f"flow_draw_speedup_over_zuko_{features}": zukos_drawn / drawn,
        f"flow_density_difference_{features}": apart, f"flow_draw_difference_{features}": events,
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    times = 5 if "--quick" in sys.argv else 40
    found = {key: value for features in (4, 54) for key, value in figures(features, times).items()}
    table([(key, value, "") for key, value in found.items()])
    publish("flows", found)


if __name__ == "__main__":
    main()
