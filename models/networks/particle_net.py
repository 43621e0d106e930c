"""ParticleNet (1902.08570): a jet as a cloud of constituents, its edges between nearest neighbours, in no order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError
from ..device import chosen
from .dense import initialise, one_thread

#: Numbers per constituent that the network sees, see `jet_inputs`; one more where jets are posed.
SEEN = 7
#: The least size of a posed jet: that of a single constituent would be 0.
_LEAST_SIZE = 0.01
#: Numbers of a whole jet, see `jet_numbers`, powers of the distance in them, and where their distances and logarithms end.
NUMBERS = 18
_POWERS = (0.5, 1.0, 2.0)
_FAR, _NOTHING = 100.0, 1e-12
#: Linear layers of an EdgeConv block.
_LAYERS = 3
#: Added to a variance before its root is taken.
_EPSILON = 1e-5
#: Jets a network is given at once where it is read, always: so a jet's output does not depend on its company.
ROWS = 256
#: The same on a GPU.
ROWS_GPU = 2048


@dataclass(frozen=True)
class ParticleNet:
    """Sizes of the network, and how it is held back; the defaults are the published ones.

    ``neighbours`` of each constituent; ``channels`` of the EdgeConv blocks, each of three layers; ``width`` of the dense layer
    behind them; ``dropout`` of that layer; ``weight_decay`` of AdamW (1711.05101). ``posed``: see `jet_inputs`; ``numbers``:
    the dense layer sees `jet_numbers`, normalised, beside the constituents' mean. Neither is published with this network; both tell
    a small one, or one of few jets, what it would have to find.
    """

    neighbours: int = 16
    channels: tuple[int, ...] = (64, 128, 256)
    width: int = 256
    dropout: float = 0.1
    weight_decay: float = 1e-4
    posed: bool = False
    numbers: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # a list, from a model folder
        sizes = (self.neighbours, self.width, *self.channels)
        if not self.channels or min(sizes) < 1 or not 0 <= self.dropout < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"particle_net: found {self}; expected at least one block, sizes of at least 1, a dropout from 0 to below 1 and a "
                "weight decay that is not negative"
            )


def jet_inputs(table: Any, posed: bool = False) -> tuple[Any, Any, Any]:
    """What ParticleNet sees of constituents (B, 3 N) of pT [GeV], eta and phi about the jet axis; pT 0: none is there.

    Numbers (B, N, 7): eta, phi, ln pT, ln E, ln pT / pT_jet, ln E / E_jet, Delta R to the axis; places (B, N, 2); which are there
    (B, N). Constituents are massless and the jet's own eta is not known: E = pT cosh eta, that of a frame in which the axis is
    transverse to the beam. pT_jet and E_jet are those of the constituents' sum. Empty slots: 0.

    ``posed``: eta, phi and Delta R are those about the constituents' pT-weighted centre, turned so that the longest axis of the jet
    comes first, flipped so that the third moments along both axes are not negative (1407.5675), in units of the jet's own size u,
    the root of the pT-weighted mean square distance (zoomed, after 1609.00607, for angles of images); ln u is one more number of
    each constituent, (B, N, 8). For small angles u is m / pT of the constituents' sum; it is at least `_LEAST_SIZE`. So jets of one
    kind look alike at every mass and angle, and what else depends on the mass can be learnt from u.
    """
    import torch

    pt, eta, phi = table.reshape(len(table), -1, 3).unbind(dim=2)
    there = pt > 0
    pt, eta, phi = (torch.where(there, v, torch.zeros_like(v)) for v in (pt, eta, phi))
    log_pt = torch.where(there, pt, torch.ones_like(pt)).log()
    steep = eta.abs()
    log_energy = log_pt + steep + torch.log1p((-2 * steep).exp()) - float(np.log(2))  # no cosh overflows
    sums = torch.hypot((pt * phi.cos()).sum(dim=1, keepdim=True), (pt * phi.sin()).sum(dim=1, keepdim=True))
    low = torch.finfo(table.dtype).min
    whole = torch.where(there, log_energy, torch.full_like(eta, low)).logsumexp(dim=1, keepdim=True)
    x, y, size = _posed(pt, eta, phi) if posed else (eta, phi, None)
    parts = [
        x, y, log_pt, log_energy, log_pt - sums.clamp(min=1e-6).log(), log_energy - whole, torch.hypot(x, y),
        *([] if size is None else [size.log().expand_as(pt)]),
    ]  # fmt: skip
    seen = torch.stack(parts, dim=2)
    return torch.where(there[:, :, None], seen, torch.zeros_like(seen)), torch.stack([eta, phi], dim=2), there


def _shares(pt: Any) -> Any:
    """Part of the sum of pT (B, N) that every constituent has; 0 where all have none."""
    return pt / pt.sum(dim=1, keepdim=True).clamp(min=1e-6)


def _posed(pt: Any, eta: Any, phi: Any) -> tuple[Any, Any, Any]:
    """Angles (B, N) along the jet's two axes in units of its size, and the size (B, 1); see `jet_inputs`."""
    import torch

    share = _shares(pt)

    def mean(v: Any) -> Any:
        return (share * v).sum(dim=1, keepdim=True)

    x, y = eta - mean(eta), phi - mean(phi)
    turn = 0.5 * torch.atan2(2 * mean(x * y), mean(x * x) - mean(y * y))
    size = (mean(x * x) + mean(y * y)).sqrt().clamp(min=_LEAST_SIZE)
    x, y = (v / size for v in (turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x))
    x, y = (torch.where(mean(v**3) < 0, -v, v) for v in (x, y))
    return x, y, size


def jet_numbers(table: Any) -> Any:
    """Numbers (B, `NUMBERS`) of whole jets of constituents (B, 3 N), which tell prongs from one another.

    With z = pT_i / sum of pT, R_ij the distance of two, e2 = sum z_i z_j R_ij^b over pairs and e3 = sum z_i z_j z_k (R_ij R_jk R_ki)^b over triples (1305.0007): ln of e2, e3 / e2^2
    and e3 / e2^3 (1409.6298) for the b of `_POWERS`; ln of sum z_i R_i^b for b = 1/2 and 1, R_i to the axis; ln of the sum of pT;
    sqrt of sum z^2; the three largest z; how many constituents, and how many of z > 1 %. Ratios are given, though they follow from
    the rest: a network learns small differences of large numbers slowly.
    """
    import torch

    pt, eta, phi = table.reshape(len(table), -1, 3).unbind(dim=2)
    there = pt > 0
    pt, eta, phi = (torch.where(there, v, torch.zeros_like(v)) for v in (pt, eta, phi))
    z = _shares(pt)
    apart = torch.hypot(eta[:, :, None] - eta[:, None], phi[:, :, None] - phi[:, None]).clamp(max=_FAR)
    pairs, root = z[:, :, None] * z[:, None], z.sqrt()
    logs: list[Any] = []
    for power in _POWERS:
        step = apart**power
        two = _log(0.5 * (pairs * step).sum(dim=(1, 2)))
        edge = root[:, :, None] * step * root[:, None]
        three = _log(((edge @ edge) * edge).sum(dim=(1, 2)) / 6)
        logs += [two, three - 2 * two, three - 3 * two]
    far = torch.hypot(eta, phi).clamp(max=_FAR)
    logs += [*(_log((z * far**power).sum(dim=1)) for power in (0.5, 1.0)), _log(pt.sum(dim=1))]
    largest = torch.nn.functional.pad(z, (0, 3)).topk(3, dim=1).values.unbind(dim=1)
    counts = [there.sum(dim=1), (z > 0.01).sum(dim=1)]
    others = [z.square().sum(dim=1).sqrt(), *largest, *(n.to(table.dtype) for n in counts)]
    return torch.stack([*logs, *others], dim=1)


def _log(value: Any) -> Any:
    """ln, of `_NOTHING` where there is less."""
    return value.clamp(min=_NOTHING).log()


def nearest(places: Any, there: Any, neighbours: int) -> tuple[Any, Any]:
    """Numbers (B, N, k) of the constituents nearest to each of places (B, N, d), itself left out, and which are real edges.

    k = ``neighbours``, or N - 1 if that is less. A jet with fewer others has edges to those; the rest are no edges.
    """
    import torch

    n = places.shape[1]
    with torch.no_grad():
        if places.shape[2] <= 2:  # few columns, where the short form would lose digits
            apart = (places[:, :, None] - places[:, None]).square().sum(dim=3)
        else:
            square = places.square().sum(dim=2)
            apart = square[:, :, None] + square[:, None] - 2 * places @ places.transpose(1, 2)
        own = torch.eye(n, dtype=torch.bool, device=places.device)
        closed = own | ~there[:, None, :]
        found = apart.masked_fill(closed, torch.inf).topk(min(neighbours, n - 1), dim=2, largest=False)
        return found.indices, ~closed.gather(2, found.indices) & there[:, :, None]


def build_particle_net(config: Mapping[str, Any], activated: bool) -> Any:
    """A module from constituents (B, 3 N), see `jet_inputs`, to its dense layer (B, ``width``), with first weights from ``seed``.

    ``config``: ``particle_net`` (a `ParticleNet` as a dictionary), ``seed``, ``frozen``. ``activated``: with a ReLU at the end.

    Every layer of edges is normalised (1502.03167) by real edges alone. Until it is ``frozen`` with the means and variances of
    `statistics`, a network normalises by its batch, in validation too, and a jet's output depends on its company.
    Against the public code: a constituent's edges are averaged over those that are real, empty slots take no part in the
    normalisation either, and dropout is left to who reads the module.
    """
    network = _body(ParticleNet(**config["particle_net"]), bool(config["frozen"]), activated)
    initialise_norms(network, int(config["seed"]))
    return network


def initialise_norms(network: Any, seed: int) -> None:
    """First weights as `initialise` sets them, normalised layers with a weight of 1."""
    import torch

    initialise(network, seed)
    with torch.no_grad():
        for module in network.modules():
            if hasattr(module, "moments"):
                module.weight.fill_(1.0)


def _linear(inputs: int, outputs: int, bias: bool = False) -> Any:
    import torch

    return torch.nn.utils.skip_init(torch.nn.Linear, inputs, outputs, bias=bias)


def _norm(channels: int, frozen: bool) -> Any:
    import torch

    class MaskedNorm(torch.nn.Module):
        """x (..., C) with mean 0 and variance 1 over the rows that are ``there`` (...), times a weight, plus a bias."""

        mean: Any
        variance: Any

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (torch.nn.Parameter(torch.empty(channels)) for _ in range(2))
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("variance", torch.ones(channels))
            self.found: Any = None

        def moments(self, x: Any, there: Any) -> tuple[Any, Any]:
            if frozen:
                return self.mean, self.variance
            rows, share = x.reshape(-1, x.shape[-1]), there.reshape(-1).to(x.dtype)
            share = share / share.sum().clamp(min=1.0)
            mean = share @ rows
            variance = share @ (rows - mean).square()
            self.found = mean.detach(), variance.detach()
            return mean, variance

        def forward(self, x: Any, there: Any) -> Any:
            mean, variance = self.moments(x, there)
            scale = self.weight * (variance + _EPSILON).rsqrt()
            return torch.addcmul(self.bias - mean * scale, x, scale)

    return MaskedNorm()


def _edge_conv(inputs: int, channels: int, neighbours: int, frozen: bool) -> Any:
    import torch
    from torch.nn import ModuleList

    class EdgeConv(torch.nn.Module):
        """x_i -> relu(mean over neighbours j of three layers of (x_i, x_j - x_i), plus a linear function of x_i)."""

        def __init__(self) -> None:
            super().__init__()
            widths = [2 * inputs, *[channels] * (_LAYERS - 1)]
            self.layers: Any = ModuleList(_linear(w, channels) for w in widths)
            self.norms: Any = ModuleList(_norm(channels, frozen) for _ in widths)
            other = inputs != channels
            self.shortcut: Any = _linear(inputs, channels) if other else None
            self.shortcut_norm: Any = _norm(channels, frozen) if other else None

        def first(self, x: Any, index: Any) -> Any:
            """The first layer: linear, so it is applied to constituents, and edges only add two of its results."""
            own, apart = self.layers[0].weight.chunk(2, dim=1)
            step = x @ apart.T
            flat = index + x.shape[1] * torch.arange(len(x), device=x.device)[:, None, None]
            # Indexed so, not by index_select, whose gradient a GPU adds up in an order that changes from run to run.
            return (x @ own.T - step)[:, :, None] + step.flatten(0, 1)[flat.flatten()].reshape(
                *index.shape, -1
            )

        def forward(self, x: Any, places: Any, there: Any) -> Any:
            index, edges = nearest(places, there, neighbours)
            e = self.first(x, index)
            for i, norm in enumerate(self.norms):
                e = norm(e if i == 0 else self.layers[i](e), edges).relu()
            real = edges[:, :, :, None].to(e.dtype)
            mean = (e * real).sum(dim=2) / real.sum(dim=2).clamp(min=1.0)
            if self.shortcut is not None:
                x = self.shortcut_norm(self.shortcut(x), there)
            return (mean + x).relu() * there[:, :, None]

    return EdgeConv()


def _body(sizes: ParticleNet, frozen: bool, activated: bool) -> Any:
    import torch

    class Body(torch.nn.Module):
        """Normalised inputs, EdgeConv blocks, the mean over constituents that are there, and a dense layer."""

        def __init__(self) -> None:
            super().__init__()
            widths = [SEEN + sizes.posed, *sizes.channels]
            self.norm = _norm(widths[0], frozen)
            self.blocks = torch.nn.ModuleList(
                _edge_conv(a, b, sizes.neighbours, frozen) for a, b in pairwise(widths)
            )
            self.numbers_norm: Any = _norm(NUMBERS, frozen) if sizes.numbers else None
            pooled = sizes.channels[-1] + (NUMBERS if sizes.numbers else 0)
            self.dense = _linear(pooled, sizes.width, bias=True)

        def forward(self, table: Any) -> Any:
            x, places, there = jet_inputs(table, sizes.posed)
            x = self.norm(x, there) * there[:, :, None]
            for block in self.blocks:
                x = block(x, places, there)
                places = x
            pooled = x.sum(dim=1) / there.sum(dim=1, keepdim=True).clamp(min=1)
            if self.numbers_norm is not None:
                some = there.any(dim=1)
                numbers = self.numbers_norm(jet_numbers(table), some) * some[:, None]
                pooled = torch.cat([pooled, numbers], dim=1)
            out = self.dense(pooled)
            return out.relu() if activated else out

    return Body()


def statistics(network: Any, batches: Iterable[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    """Means and variances of every normalisation of a trained ``network``, by name, for one that is frozen (2105.07576).

    Those of each batch of constituents (B, 3 N), which its layers are normalised by, put together.
    """
    import torch

    norms = {name: m for name, m in network.named_modules() if hasattr(m, "moments")}
    found: dict[str, list[Any]] = {name: [] for name in norms}
    with one_thread(), torch.inference_mode():
        for batch in batches:
            network(torch.from_numpy(batch))
            for name, norm in norms.items():
                found[name].append(torch.stack(norm.found).double())
    out = {}
    for name, each in found.items():
        means, variances = torch.stack(each).unbind(dim=1)
        mean = means.mean(dim=0)
        out[f"{name}.mean"] = mean.float().numpy()
        out[f"{name}.variance"] = (variances + (means - mean).square()).mean(dim=0).float().numpy()
    return out


def evaluate_jets(network: Any, tables: NDArray[np.float32]) -> NDArray[np.float32]:
    """``network.both`` of constituents (n, 3 N), on the chosen device in batches of exactly so many rows, the last filled with 0."""
    import torch

    device = chosen()
    network.to(device)
    rows = ROWS if device == "cpu" else ROWS_GPU
    parts: list[NDArray[np.float32]] = []
    with one_thread(), torch.inference_mode():
        for start in range(0, len(tables), rows):
            part = tables[start : start + rows]
            full = np.zeros((rows, tables.shape[1]), np.float32)
            full[: len(part)] = part
            parts.append(network.both(torch.from_numpy(full).to(device)).cpu().numpy()[: len(part)])
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)
