"""The arithmetic of dense networks that lie one behind the other: parameters in rows, one batched product per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .dense import build_dense, one_thread

Floats = NDArray[np.float32]

#: Columns that a network is evaluated on at once; always padded to that, so that an event's output depends on it alone.
COLUMNS = 1024
#: Matrices start, and their rows end, at multiples of so many numbers (64 bytes, the widest vector register): torch's products
#: may add in another order where the memory lies otherwise, and nobody's place may be seen in a result.
_ALIGN = 16
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def filled(n: int, step: int = _ALIGN) -> int:
    """The next multiple of ``step``."""
    return -(-n // step) * step


@dataclass(frozen=True)
class BatchSettings:
    """What all members share. ``sizes``: widths from input to the one output, ReLU between the layers.

    ``best``: how many epochs of lowest validation loss are kept. ``patience``: a member stops after so many epochs
    without a lower validation loss (None: never). ``halve_after``: the learning rate halves after so many, counted anew
    each time (None: it is constant).
    """

    sizes: tuple[int, ...]
    epochs: int
    batch: int
    learning_rate: float = 1e-3
    best: int = 1
    patience: int | None = None
    halve_after: int | None = None

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1 or self.sizes[-1] != 1:
            raise ConfigError(f"sizes: found {self.sizes}, expected widths of at least 1 that end in 1")
        for name in ("epochs", "batch", "best"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least 1")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate: found {self.learning_rate}, expected a number above 0")
        if self.patience is not None and self.patience < self.best:
            raise ConfigError(f"patience: found {self.patience}, expected at least best = {self.best}")
        if self.halve_after is not None and self.halve_after < 1:
            raise ConfigError(f"halve_after: found {self.halve_after}, expected at least 1")

    @cached_property
    def layers(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each layer as it is computed: hidden widths filled up with units that stay zero."""
        widths = [self.sizes[0], *(filled(s) for s in self.sizes[1:-1]), 1]
        return [(outputs, inputs) for inputs, outputs in pairwise(widths)]

    @cached_property
    def offsets(self) -> list[int]:
        """Where weight 0, bias 0, weight 1, ... start in a member's row of parameters; the last entry is its length."""
        lengths = [n for o, i in self.layers for n in (o * i, o)]
        return [0, *accumulate(filled(n) for n in lengths)]


def standardised(x: NDArray[Any], mean: NDArray[np.float64], width: NDArray[np.float64]) -> Floats:
    """(x - mean) / width, in double precision, as float32."""
    return ((x.astype(np.float64) - mean) / width).astype(np.float32)


@nb.njit(cache=True, nogil=True, error_model="numpy")  # a check for division by zero would forbid vector code
def adam(
    value: Floats,
    gradient: Floats,
    first: Floats,
    second: Floats,
    steps: NDArray[np.int64],
    live: NDArray[np.bool_],
    rate: float,
) -> None:
    """One step of Adam (1412.6980) for each live row: arrays (members, parameters), ``steps`` counts each one's own."""
    a, b = np.float32(1.0 - _BETA1), np.float32(1.0 - _BETA2)
    for i in range(len(value)):
        if not live[i]:
            continue
        steps[i] += 1
        size = np.float32(rate / (1.0 - _BETA1 ** steps[i]))
        scale = np.float32(1.0 / np.sqrt(1.0 - _BETA2 ** steps[i]))
        v, g, m, s = value[i], gradient[i], first[i], second[i]
        for j in range(len(v)):
            m[j] += a * (g[j] - m[j])
            s[j] += b * (g[j] * g[j] - s[j])
            v[j] -= size * m[j] / (np.sqrt(s[j]) * scale + np.float32(_EPSILON))


def first_weights(seed: int, settings: BatchSettings) -> Floats:
    """A member's row of parameters before training: those of `build_dense` with its seed, (parameters,)."""
    network = build_dense({"sizes": list(settings.sizes), "seed": seed})
    parameters = [p.detach().numpy() for p in network.parameters()]
    named = {f"{('weight', 'bias')[k % 2]}{k // 2}": p for k, p in enumerate(parameters)}
    return restack(named, settings)


def views(stack: Any, settings: BatchSettings) -> list[tuple[Any, Any]]:
    """Weights (members, out, in) and biases (members, out, 1) per layer, views into ``stack`` (members, parameters)."""
    out = []
    for k, (o, i) in enumerate(settings.layers):
        w, b = settings.offsets[2 * k], settings.offsets[2 * k + 1]
        out.append((stack[:, w : w + o * i].unflatten(1, (o, i)), stack[:, b : b + o].unsqueeze(2)))
    return out


def cross_entropies(logit: Any, y: Any) -> Any:
    """-ln p(label y) of each event where ``logit`` is ln p / (1 - p) of label 1."""
    from torch.nn.functional import softplus

    return softplus(logit) - y * logit


class Scratch:
    """Memory for the outputs of layers, used again in every step instead of asking the system for it anew."""

    def __init__(self, device: Any = "cpu") -> None:
        self.device, self._kept = device, dict[Any, Any]()

    def of(self, name: tuple[str, int], shape: tuple[int, int, int]) -> Any:
        """A tensor of this shape, the same memory for the same name; its numbers are whatever is there."""
        import torch

        kept = self._kept.get(name)
        if kept is None or kept.shape[0] < shape[0] or kept.shape[1:] != shape[1:]:
            kept = self._kept[name] = torch.empty(shape, device=self.device)
        return kept[: shape[0]]


def forward(layers: Sequence[tuple[Any, Any]], x: Any, scratch: Scratch) -> list[Any]:
    """Outputs of all layers, (members, width, n) each, for inputs x (members, d, n); the last are the logits.

    They lie in ``scratch``: the next call with it writes over them.
    """
    import torch

    out = [x]
    for k, (weight, bias) in enumerate(layers):
        after = scratch.of(("out", k), (len(weight), weight.shape[1], x.shape[2]))
        torch.baddbmm(bias, weight, out[-1].expand(len(weight), -1, -1), out=after)
        out.append(after.relu_() if k < len(layers) - 1 else after)
    return out


def backward(
    layers: Sequence[tuple[Any, Any]],
    slopes: Sequence[tuple[Any, Any]],
    x: Any,
    y: Any,
    weight: Any,
    scratch: Scratch,
) -> Any:
    """Write the gradient of sum(weight * cross entropy) into ``slopes``; that sum per member, (members,).

    x (members, d, n); y, weight (members, 1, n). Written out by hand: for these few operations autograd would take
    longer than the products.
    """
    import torch

    outputs = forward(layers, x, scratch)
    logit = outputs[-1]
    delta = (torch.sigmoid(logit) - y).mul_(weight)
    loss = (cross_entropies(logit, y) * weight).sum(dim=(1, 2))
    for k in range(len(layers) - 1, -1, -1):
        # Straight into a view with gaps torch would multiply one member after the other.
        product = scratch.of(("slope", k), tuple(slopes[k][0].shape))
        slopes[k][0].copy_(torch.bmm(delta, outputs[k].transpose(1, 2), out=product))
        torch.sum(delta, dim=2, keepdim=True, out=slopes[k][1])
        if k:
            back = layers[k][0].transpose(1, 2)
            after = scratch.of(("delta", k), tuple(outputs[k].shape))
            # the last layer's is an outer product
            delta = (torch.mul if back.shape[2] == 1 else torch.bmm)(back, delta, out=after)
            torch.ops.aten.threshold_backward.grad_input(delta, outputs[k], 0, grad_input=delta)
    return loss


def evaluate_stack(states: Floats, settings: BatchSettings, x: Floats) -> Floats:
    """Logits (kept, n) of all networks of ``states`` (kept, parameters) for standardised x (n, d)."""
    import torch

    out = np.empty((len(states), len(x)), np.float32)
    with one_thread(), torch.inference_mode():
        layers = views(torch.from_numpy(np.asarray(states, np.float32)).clone(), settings)
        tensor = torch.zeros(1, settings.sizes[0], COLUMNS)
        columns, scratch = tensor.numpy(), Scratch()
        for start in range(0, len(x), COLUMNS):
            rows = x[start : start + COLUMNS]
            columns[0, :, : len(rows)], columns[0, :, len(rows) :] = rows.T, 0.0
            logit = forward(layers, tensor, scratch)[-1]
            out[:, start : start + len(rows)] = logit[:, 0, : len(rows)].numpy()
    return out


def unstack(states: Floats, settings: BatchSettings) -> dict[str, Floats]:
    """Parameters (..., parameters) as arrays by name: ``weightK`` (..., out, in) and ``biasK`` (..., out)."""
    out = {}
    for k, (inputs, outputs) in enumerate(pairwise(settings.sizes)):
        o, i = settings.layers[k]
        w, b = settings.offsets[2 * k], settings.offsets[2 * k + 1]
        weight = states[..., w : w + o * i].reshape(*states.shape[:-1], o, i)
        out[f"weight{k}"] = np.ascontiguousarray(weight[..., :outputs, :inputs])
        out[f"bias{k}"] = np.ascontiguousarray(states[..., b : b + outputs])
    return out


def restack(arrays: Mapping[str, NDArray[Any]], settings: BatchSettings) -> Floats:
    """Undo `unstack`."""
    lead = arrays["bias0"].shape[:-1]
    out = np.zeros((*lead, settings.offsets[-1]), np.float32)
    for k, (inputs, outputs) in enumerate(pairwise(settings.sizes)):
        o, i = settings.layers[k]
        w, b = settings.offsets[2 * k], settings.offsets[2 * k + 1]
        weight = np.zeros((*lead, o, i), np.float32)
        weight[..., :outputs, :inputs] = arrays[f"weight{k}"]
        out[..., w : w + o * i] = weight.reshape(*lead, o * i)
        out[..., b : b + outputs] = arrays[f"bias{k}"]
    return out
