"""The normalised autoencoder in training: an energy, Langevin chains on its manifold, and a buffer that the chains go on from.

Its own loop on one rank: the buffer is the work of all steps before, so no other rank could know it. It lives among the module's
buffers and in the checkpoint, and every draw is a function of seed and step: a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ..training_checkpoint import read_checkpoint
from ..training_loop import Trainer
from ..training_task import State
from .dense import initialise

#: Slope of the activation below 0, the first value of the paper's learnt one.
SLOPE = 0.25
#: A code shorter than this is not made longer.
SHORT = 1e-6
#: Negatives of an epoch that are remembered at most, and directions in which they are compared with events.
_REMEMBERED, _DIRECTIONS = 4096, 128

#: Weight and bias of each layer.
Layers = list[tuple[Any, Any]]
#: Events (n, d) to codes (n, latent), not yet on the sphere, and codes to events.
Halves = tuple[Callable[[Any], Any], Callable[[Any], Any]]


@dataclass(frozen=True)
class Chains:
    """How negative events are made (2206.14225): ``count`` chains a step, first in the latent space, then among the events.

    A step: at - step * gradient (of length ``clip`` at most) + noise * normal numbers, accepted by Metropolis' rule at
    ``temperature``. The noise in x falls with the step's number k as ``x_noise`` / (1 + k). Latent chains begin at points of a buffer
    of ``buffer``, which their ends go into, a part 1 - ``ratio`` anywhere on the sphere.
    """

    count: int = 256
    buffer: int = 10_000
    ratio: float = 0.95
    latent_steps: int = 30
    latent_step: float = 50.0
    latent_noise: float = 0.02
    x_steps: int = 30
    x_step: float = 50.0
    x_noise: float = 1e-4
    clip: float = 0.01
    temperature: float = 1.0

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in asdict(self).items() if k not in ("ratio", "latent_steps", "x_steps")}
        bad = [k for k, v in numbers.items() if not v > 0]
        if (
            bad
            or not 0 <= self.ratio <= 1
            or min(self.latent_steps, self.x_steps) < 0
            or self.buffer < self.count
        ):
            raise ConfigError(
                f"found {self}; expected positive numbers, a ratio from 0 to 1, and a buffer that holds all chains of a step"
            )


def build_normalised(config: Mapping[str, Any]) -> Any:
    """Encoder and decoder, with first weights from ``seed``; as a module x (n, d) to its energy (n,).

    ``config``: ``widths`` (from input to the last hidden layer; the decoder mirrors them), ``latent``, ``seed``; for the second
    training also ``chains`` (of `Chains`), ``gamma``, ``decay``, ``epochs`` and ``epoch_steps``.
    """
    import torch
    from torch.nn import Linear, ModuleList
    from torch.nn.utils import skip_init

    widths, latent = list(config["widths"]), int(config["latent"])

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = ModuleList(skip_init(Linear, a, b) for a, b in pairwise([*widths, latent]))
            self.decoder = ModuleList(
                skip_init(Linear, a, b) for a, b in pairwise([latent, *reversed(widths)])
            )

        def halves(self, frozen: bool = False) -> Halves:
            layers = normalised(self)
            if frozen:
                layers = tuple([(w.detach(), b.detach()) for w, b in part] for part in layers)
            return partial(_through, layers=layers[0]), partial(_through, layers=layers[1])

        @staticmethod
        def inside(x: Any) -> Any:
            return x

        def forward(self, x: Any) -> Any:
            return energy(x, self.halves())

    network: Any = Normalised()
    initialise(network, int(config["seed"]))
    return ready_for_chains(network, latent, config)


def ready_for_chains(network: Any, latent: int, config: Mapping[str, Any]) -> Any:
    """``network`` with what the second training needs, where ``config`` is of that: settings, replay buffer, step, mean energies.

    With ``compared``, the number of columns, also room for an epoch's last negatives. A network has ``halves(frozen)``, encoder and
    decoder as functions (``frozen``: without a way back to the weights), and ``inside``, which puts events where the decoder can reach.
    """
    import torch

    if "chains" in config:
        network.chains = Chains(**config["chains"])
        network.gamma, network.decay = float(config["gamma"]), float(config["decay"])
        network.epoch_steps = int(config["epoch_steps"])
        network.register_buffer("step", torch.zeros(1, dtype=torch.int64))
        network.register_buffer("replay", torch.zeros(network.chains.buffer, latent))
        network.register_buffer("diary", torch.zeros(int(config["epochs"]), 2, dtype=torch.float64))
        if "compared" in config:
            rows = min(network.epoch_steps * network.chains.count, _REMEMBERED)
            network.register_buffer("found", torch.zeros(rows, int(config["compared"])))
    return network


def normalised(network: Any) -> tuple[Layers, Layers]:
    """Layers of encoder and decoder, each matrix over its largest singular value; the decoder's last as it is.

    That one has to reach as far as the events do, where the published decoder ends in a sigmoid.
    """
    import torch

    encoder, decoder = (
        [(la.weight / torch.linalg.matrix_norm(la.weight, 2).clamp_min(SHORT), la.bias) for la in part]
        for part in (network.encoder, network.decoder)
    )
    last = network.decoder[-1]
    return encoder, [*decoder[:-1], (last.weight, last.bias)]


def _through(x: Any, layers: Layers) -> Any:
    from torch.nn.functional import leaky_relu, linear

    for i, (weight, bias) in enumerate(layers):
        x = linear(x, weight, bias)
        x = leaky_relu(x, SLOPE) if i < len(layers) - 1 else x
    return x


def on_sphere(z: Any) -> Any:
    """z (n, latent), each of length 1."""
    return z / z.norm(dim=1, keepdim=True).clamp_min(SHORT)


def energy(x: Any, halves: Halves) -> Any:
    """Mean squared error between x (n, d) and what is made of its code on the sphere, (n,)."""
    encode, decode = halves
    return (decode(on_sphere(encode(x))) - x).square().mean(dim=1)


def reconstruction(network: Any, x: Any, y: Any) -> Any:  # noqa: ARG001
    """The loss of the first training: the energy, (n,)."""
    return energy(x, network.halves())


def _slope(height: Callable[[Any], Any], at: Any, clip: float) -> tuple[Any, Any]:
    """Value (n,) and gradient (n, k), each row of length ``clip`` at most."""
    import torch

    with torch.enable_grad():
        at = at.detach().requires_grad_()
        value = height(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    length = gradient.norm(dim=1, keepdim=True)
    return value.detach(), gradient * (clip / length.clamp_min(clip))


def walk(
    height: Callable[[Any], Any], at: Any, steps: int, step: float, noise: Callable[[int], float], clip: float,
    generator: Any, move: Callable[[Any], Any] = lambda to: to,
) -> Any:  # fmt: skip
    """Where chains (n, k) that begin at ``at`` are after so many steps downhill and at random; ``move`` puts a step on the manifold.

    The published acceptance, each chain by its own heights: exp(h - h' + (|there|^2 - |back|^2) / (4 step)) with there = x' - x +
    step g and back = x - x' + step g'. It would be detailed balance for noise^2 = 2 step only: a heuristic, to be judged by the
    energies of both samples.
    """
    import torch

    value, gradient = _slope(height, at, clip)
    for k in range(steps):
        drawn = torch.randn(at.shape, generator=generator, device=at.device, dtype=at.dtype)
        to = move(at - step * gradient + noise(k) * drawn)
        new, other = _slope(height, to, clip)
        there = (to - at + step * gradient).square().sum(dim=1)
        back = (at - to + step * other).square().sum(dim=1)
        chance = torch.rand(value.shape, generator=generator, device=at.device, dtype=at.dtype)
        taken = chance.log() < value - new + (there - back) / (4 * step)
        at, gradient = torch.where(taken[:, None], to, at), torch.where(taken[:, None], other, gradient)
        value = torch.where(taken, new, value)
    return at


def first_codes(network: Any, generator: Any) -> Any:
    """Where the latent chains of a step begin, (count, latent): from the buffer as far as it is filled, the rest anywhere."""
    import torch

    how, replay = network.chains, network.replay
    like = {"generator": generator, "device": replay.device}
    fresh = on_sphere(torch.randn((how.count, replay.shape[1]), **like))
    filled = min(int(network.step) * how.count, how.buffer)
    again = torch.rand(how.count, **like) < how.ratio
    which = (torch.rand(how.count, **like, dtype=torch.float64) * filled).long().clamp_max(max(filled - 1, 0))
    return torch.where((again & (filled > 0))[:, None], replay[which], fresh)


def _put(buffer: Any, rows: Any, step: int) -> None:
    """The rows (n, k) of a step into the buffer (m, k), in the place of its oldest."""
    import torch

    kept = rows[-len(buffer) :]
    first = step * len(rows) + len(rows) - len(kept)
    buffer[(first + torch.arange(len(kept), device=buffer.device)) % len(buffer)] = kept


def negatives(network: Any, halves: Halves, generator: Any) -> Any:
    """Events (count, d) that the chains find likely under exp(-energy / T); the ends of the latent chains go into the buffer.

    ``halves``: those of ``network``, frozen.
    """
    import torch

    how, heat, decode = network.chains, network.chains.temperature, halves[1]
    with torch.no_grad():
        z = walk(
            lambda z: energy(decode(z), halves) / heat, first_codes(network, generator),
            how.latent_steps, how.latent_step, lambda _: how.latent_noise, how.clip, generator, on_sphere,
        )  # fmt: skip
        _put(network.replay, z, int(network.step))
        return walk(
            lambda x: energy(x, halves) / heat, network.inside(decode(z)),
            how.x_steps, how.x_step, lambda k: how.x_noise / (1 + k), how.clip, generator, network.inside,
        )  # fmt: skip


def normalised_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:
    """E(x+) - <E(x-)> + gamma <E(x-)^2> + decay |W|^2 of a batch x (n, d) with weights y (n, 1), per event (n,)."""
    halves = network.halves()
    found = negatives(network, network.halves(frozen=True), generator)
    up, down = energy(x, halves), energy(found, halves)
    if hasattr(network, "found"):
        _put(network.found, found, int(network.step))
    epoch = int(network.step) // network.epoch_steps
    means = ((up.detach() * y[:, 0]).sum() / y.sum(), down.detach().mean())
    for side, mean in enumerate(means):
        network.diary[epoch, side] += mean / network.epoch_steps
    network.step += 1
    size = sum(p.square().sum() for p in network.parameters())
    return up + (network.gamma * down.square().mean() - down.mean() + network.decay * size)


def sliced_distance(x: Any, weight: Any, found: Any, seed: int = 0) -> float:
    """Sliced Wasserstein distance W2 of events x (n, d), weighted by ``weight`` (n,), and ``found`` (m, d), all of weight 1.

    The root of the mean of W2^2 along directions drawn from ``seed``; along one it is the mean of (found - x)^2 at the m quantiles
    (i + 1/2) / m. 0 for the same events; along a direction u, |shift u| for shifted ones.
    """
    import torch

    across = torch.randn(
        (x.shape[1], _DIRECTIONS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    across = (across / across.norm(dim=0)).to(x.device)
    ours, theirs = x.double() @ across, (found.double() @ across).sort(dim=0).values
    ours, order = ours.sort(dim=0)
    filled = weight.double()[order].cumsum(dim=0)
    middle = (torch.arange(len(found), device=x.device, dtype=torch.float64) + 0.5) / len(found)
    at = torch.searchsorted((filled / filled[-1]).T.contiguous(), middle.expand(_DIRECTIONS, -1).contiguous())
    return float((theirs - ours.gather(0, at.T.clamp_max(len(x) - 1))).square().mean().sqrt())


class ChainTrainer(Trainer):
    """The training loop with the module's buffers among what is kept: replay buffer, step, mean energies, an epoch's last negatives.

    Its validation is the sliced Wasserstein distance of the validation events and those negatives.
    """

    def _validate(self) -> float:
        return sliced_distance(self.held["x"], self.held["weight"], self.network.found, self.settings.seed)

    def state(self) -> State:
        """A copy of weights and buffers as they are now."""
        buffers = {n: b.detach().cpu().numpy().copy() for n, b in self.network.named_buffers()}
        return super().state() | buffers

    def _resume(self, folder: Path, key: str) -> None:
        import torch

        super()._resume(folder, key)
        found = read_checkpoint(folder, key)
        if found is not None:
            for name, buffer in self.network.named_buffers():
                buffer.copy_(torch.from_numpy(found[1][f"now/{name}"]).to(self.device))
