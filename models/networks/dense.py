"""Fully connected networks: first weights that depend on nothing but the configuration, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

#: Rows a network is given at once.
BATCH = 4096


def initialise(module: Any, seed: int) -> None:
    """Fill every parameter of ``module`` from one seeded generator, in the order of ``named_parameters``.

    Matrices: uniform in +- sqrt(6 / fan_in), which keeps the variance through ReLUs (1502.01852); vectors: zero.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                bound = math.sqrt(6.0 / parameter.shape[1])
                torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
            else:
                parameter.zero_()


def build_dense(config: Mapping[str, Any]) -> Any:
    """A ``torch.nn.Sequential`` of Linear layers with ReLU between them, none after the last.

    ``config``: ``sizes`` (widths from input to output), ``seed`` (of the first weights).
    """
    import torch

    sizes = list(config["sizes"])
    layers: list[Any] = []
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        # skip_init leaves the weights unset instead of drawing them from torch's global random state
        layers.append(torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs))
        if i < len(sizes) - 2:
            layers.append(torch.nn.ReLU())
    network = torch.nn.Sequential(*layers)
    initialise(network, int(config["seed"]))
    return network


def load_weights(network: Any, state: Mapping[str, NDArray[Any]]) -> Any:
    """``network`` in eval mode with the weights ``state`` gives by parameter name."""
    import torch

    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    return network.eval()


def evaluate(network: Any, x: NDArray[np.float32], batch: int = BATCH) -> NDArray[np.float32]:
    """``network(x)`` for x (n, d) on one thread, in batches of exactly ``batch`` rows, the last one padded with zeros.

    Matrix products of other shapes may add in another order; so an event's output does not depend on its company.
    """
    import torch

    parts: list[NDArray[np.float32]] = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(x), batch):
            rows = full = np.ascontiguousarray(x[start : start + batch], dtype=np.float32)
            if len(rows) < batch:
                full = np.zeros((batch, x.shape[1]), dtype=np.float32)
                full[: len(rows)] = rows
            parts.append(network(torch.from_numpy(full)).numpy()[: len(rows)])
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def layers_of(state: Mapping[str, NDArray[Any]]) -> list[tuple[Any, Any]]:
    """Weights (out, in) and biases (out, 1) of `build_dense`'s layers, in order, as torch tensors."""
    import torch

    names = sorted((name for name in state if name.endswith(".weight")), key=lambda n: int(n.split(".")[0]))
    return [
        (
            torch.from_numpy(np.array(state[name], dtype=np.float32)),
            torch.from_numpy(
                np.array(state[f"{name.removesuffix('weight')}bias"], dtype=np.float32)[:, None]
            ),
        )
        for name in names
    ]


def evaluate_columns(layers: Sequence[tuple[Any, Any]], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """A dense network on events that lie column by column: (d, n) to (outputs, n), ReLU between the layers.

    The same numbers as `evaluate` but for rounding, a third cheaper for small layers. Always give it the same n.
    """
    import torch

    with one_thread(), torch.inference_mode():
        out = torch.from_numpy(columns)
        for i, (weight, bias) in enumerate(layers):
            out = torch.addmm(bias, weight, out)
            if i < len(layers) - 1:
                out.relu_()
        return out.numpy()


@nb.njit(cache=True, nogil=True)
def scaled_columns(
    x: NDArray[Any], offset: NDArray[np.float64], factor: NDArray[np.float64], clip: float, width: int
) -> NDArray[np.float32]:
    """(x - offset) * factor in double precision, clipped to +- ``clip``, column by column: (d, width), 0 beyond x's rows."""
    n = len(x)
    out = np.empty((x.shape[1], width), np.float32)
    for j in range(x.shape[1]):
        subtract, multiply = offset[j], factor[j]
        for i in range(n):
            out[j, i] = min(max((np.float64(x[i, j]) - subtract) * multiply, -clip), clip)
        for i in range(n, width):
            out[j, i] = 0.0
    return out


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: the order of additions must not depend on the machine's load or size."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
