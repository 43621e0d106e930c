"""An invertible map of features that depends on masses: coupling layers of rational-quadratic splines (1906.04032)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from .dense import build_dense, load_weights, one_thread
from .spline import spline

#: Rows the map is given at once.
_ROWS = 4096


@dataclass(frozen=True)
class TransportSettings:
    """Shape of the map; the defaults are CURTAINs' (2203.09470): 4 layers, conditioners 32-32, 4 bins in +-1.2.

    ``condition``: what the map is told of an event that goes from mass m1 to m2 >= m1. "difference": m2 - m1 (CURTAINs);
    "both": m1 and m2; "alone": m2 only, for maps that do not move the mass.
    """

    features: int
    condition: Literal["difference", "both", "alone"] = "difference"
    layers: int = 4
    hidden: tuple[int, ...] = (32, 32)
    bins: int = 4
    bound: float = 1.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("features", 1), ("layers", 1), ("bins", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected at least {least}")
        if not self.bound > 0 or any(h < 1 for h in self.hidden):
            raise ConfigError(
                f"found bound {self.bound}, hidden {self.hidden}; expected a bound and widths above 0"
            )

    def halves(self) -> list[tuple[list[int], list[int]]]:
        """(columns kept, columns moved) of every layer; two layers in a row move every column once."""
        out: list[tuple[list[int], list[int]]] = []
        rng = np.random.default_rng(self.seed)
        while len(out) < self.layers:
            order = rng.permutation(self.features).tolist()
            one, two = sorted(order[: self.features // 2]), sorted(order[self.features // 2 :])
            out += [(one, two), (two, one)] if one else [(one, two)]
        return out[: self.layers]


def build_transport(settings: TransportSettings) -> Any:
    """The conditioners, a ``torch.nn.ModuleList``; at first the map moves nothing."""
    import torch

    conditions = 2 if settings.condition == "both" else 1
    networks: list[Any] = []
    for i, (kept, changed) in enumerate(settings.halves()):
        sizes = [len(kept) + conditions, *settings.hidden, len(changed) * (3 * settings.bins - 1)]
        network = build_dense({"sizes": sizes, "seed": settings.seed + 7919 * i})
        with torch.no_grad():
            network[-1].weight.mul_(0.01)
        networks.append(network)
    return torch.nn.ModuleList(networks)


def _layer(network: Any, settings: TransportSettings, kept: Any, condition: Any, neutral: Any) -> Any:
    """The splines of one layer: the shape the conditioner gives less the one it gives where nothing may move."""
    import torch

    raw = network(torch.cat([kept, condition], dim=1))
    if neutral is not None:
        raw = raw - network(torch.cat([kept, neutral], dim=1))
    return spline(raw.reshape(len(raw), -1, 3 * settings.bins - 1), settings.bound)


def moved(network: Any, settings: TransportSettings, x: Any, condition: Any, neutral: Any, back: bool) -> Any:
    """(y, ln |det dy/dx|) of x (n, d): the map, or its inverse with ``back``; shapes (n, d) and (n,).

    ``neutral``: conditions at which the map is the identity, exactly (None: there are none).
    """
    import torch

    change = torch.zeros(len(x), dtype=x.dtype)
    steps = list(zip(network, settings.halves(), strict=True))
    for part, (kept, changed) in reversed(steps) if back else steps:
        spline = _layer(part, settings, x[:, kept], condition, neutral)
        if back:
            y = spline.inv(x[:, changed])
            change = change - spline.call_and_ladj(y)[1].sum(dim=1)
        else:
            y, slope = spline.call_and_ladj(x[:, changed])
            change = change + slope.sum(dim=1)
        place = torch.tensor([*kept, *changed])
        x = torch.cat([x[:, kept], y], dim=1)[:, torch.argsort(place)]
    return x, change


def between(network: Any, settings: TransportSettings, x: Any, start: Any, end: Any) -> Any:
    """(y, ln |det dy/dx|) of features x (n, d) moved from masses ``start`` to ``end``, both (n,) and standardised.

    Upwards the map, downwards its inverse: there and back is the identity, and so is a way to the same mass.
    """
    import torch

    low, high = torch.minimum(start, end), torch.maximum(start, end)
    if settings.condition == "difference":
        condition, neutral = (high - low)[:, None], torch.zeros_like(low)[:, None]
    else:
        condition, neutral = torch.stack([low, high], dim=1), torch.stack([low, low], dim=1)
    up = torch.nonzero(end >= start)[:, 0]
    down = torch.nonzero(end < start)[:, 0]
    parts = [
        moved(network, settings, x[rows], condition[rows], neutral[rows], back)
        for rows, back in ((up, False), (down, True))
        if len(rows)
    ]
    back_in_order = torch.argsort(torch.cat([up, down]))
    y = torch.cat([p[0] for p in parts])[back_in_order]
    return y, torch.cat([p[1] for p in parts])[back_in_order]


def in_batches(function: Callable[..., Any], *arrays: NDArray[Any]) -> NDArray[np.float64]:
    """``function`` of double-precision tensors of rows of ``arrays``, on one thread without gradient, (n, ...).

    In single precision a steep spline and its inverse do not bring an event back.
    """
    import torch

    parts: list[NDArray[np.float64]] = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(arrays[0]), _ROWS):
            rows = [torch.from_numpy(a[start : start + _ROWS].astype(np.float64)) for a in arrays]
            parts.append(function(*rows).numpy())
    return np.concatenate(parts) if parts else np.zeros_like(arrays[0], dtype=np.float64)


def weights_of(network: Any) -> dict[str, NDArray[Any]]:
    """A copy of all parameters by name."""
    return {k: v.detach().numpy().copy() for k, v in network.state_dict().items()}


def with_weights(settings: TransportSettings, state: Mapping[str, NDArray[Any]]) -> Any:
    """The map of these settings with the parameters of `weights_of`, in double precision for `in_batches`."""
    return load_weights(build_transport(settings), state).double()
