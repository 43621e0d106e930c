"""Encoders of the CL4AD embedding (2502.15926): dense layers with batch normalisation, and a transformer with a class token.

Both take raw columns, see `build_inputs`. ``represent`` gives the latent vector of an event whatever the other events are:
after a training the statistics of batch normalisation are fixed by `settle`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from ...errors import ConfigError, FeatureError
from .dense import BATCH, build_dense
from .encoder_inputs import build_inputs
from .particle_net import build_particle_net, statistics

#: Slope of LeakyReLU below 0, and what is added to a variance before its root is taken.
_SLOPE, _EPSILON = 0.01, 1e-5
#: Widths of the transformer's head behind the latent vector.
_HEAD = (256, 256, 64)
#: Events whose means and variances become those of batch normalisation.
SETTLED = 131_072
#: The same of ParticleNet, and how many jets at once.
_SETTLED_JETS, _JETS = 8192, 256


def build_encoder(config: Mapping[str, Any]) -> Any:
    """An encoder with its head, first weights from ``seed``.

    ``config``: ``inputs`` (of `describe`), ``network`` ("dense", "transformer" or "particle_net"), ``hidden`` (widths of the dense one), ``latent``,
    ``projector`` (widths behind the latent vector; of the transformer: none for the published head), ``seed``; the transformer's
    ``width``, ``heads``, ``layers``, ``feedforward``, ``dropout``, ``positions``, ``mask``; ParticleNet's ``particle_net`` and ``frozen``, see `build_particle_net`.
    ``represent(x (B, d))`` of the module gives (B, latent); ``encode(table, there, generator)`` the same of `build_inputs`'s
    table, in training with dropout drawn by ``generator``; calling it with the latent vectors gives what a loss sees.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # the layers draw first weights of their own, which are not kept
        network = _NETWORKS[config["network"]](config)
    generator = torch.Generator().manual_seed(int(config["seed"]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                ends = parameter.shape if config["network"] == "transformer" else parameter.shape[1:]
                bound = math.sqrt(6.0 / sum(ends))
                torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
            else:  # a norm's scale is 1
                parameter.fill_(float(name.endswith("gain") or ("norm" in name and name.endswith("weight"))))
    return network


def _normed(inputs: int, outputs: int) -> Any:
    """Linear, batch normalisation, LeakyReLU. In training statistics are the batch's, else those of `settle`."""
    import torch
    from torch import nn

    class Normed(nn.Module):
        mean: Any
        variance: Any

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(inputs, outputs, bias=False)  # normalisation would take a bias away
            self.gain, self.shift = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))
            self.register_buffer("mean", torch.zeros(outputs))
            self.register_buffer("variance", torch.ones(outputs))

        def forward(self, x: Any) -> Any:
            sums, mean, variance = self.linear(x), self.mean, self.variance
            if self.training:
                mean, variance = sums.mean(dim=0), sums.var(dim=0, unbiased=False)
            scaled = (sums - mean) / (variance + _EPSILON).sqrt()
            return nn.functional.leaky_relu(self.gain * scaled + self.shift, _SLOPE)

    return Normed()


def _dense(config: Mapping[str, Any]) -> Any:
    from torch import nn

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = build_inputs(config["inputs"])
            widths = [self.inputs.slots * self.inputs.numbers, *config["hidden"], config["latent"]]
            self.layers = nn.ModuleList(_normed(a, b) for a, b in pairwise(widths))
            sizes = [config["latent"], *config["projector"]]
            last = nn.Linear(sizes[-2], sizes[-1])
            self.head = nn.Sequential(*(_normed(a, b) for a, b in pairwise(sizes[:-1])), last)

        def encode(self, table: Any, there: Any, generator: Any = None) -> Any:  # noqa: ARG002
            h = table.flatten(1)
            for layer in self.layers:
                h = layer(h)
            return h

        def table(self, x: Any) -> tuple[Any, Any]:
            return self.inputs(x)

        def represent(self, x: Any) -> Any:
            return self.encode(*self.table(x))

        def forward(self, h: Any) -> Any:
            return self.head(h)

    return Dense()


def dropped(x: Any, p: float, generator: Any) -> Any:
    """Dropout whose draws are ``generator``'s; ``x`` as it is without one."""
    import torch

    if generator is None or p == 0:
        return x
    return x * (torch.rand(x.shape, generator=generator, device=x.device) >= p) / (1 - p)


def sinusoids(places: int, width: int) -> Any:
    """Positions of 1706.03762, (places, width): sines in even columns, cosines in odd ones."""
    import torch

    place = torch.arange(places, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    out = torch.zeros(places, width)
    out[:, 0::2], out[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate[: width // 2])
    return out


def _layer(width: int, heads: int, feedforward: int, dropout: float) -> Any:
    """One encoder layer of 1706.03762 with the norm after each part, whose dropout draws from a generator."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
            self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)

        def forward(self, x: Any, bias: Any, generator: Any) -> Any:
            batch, places, _ = x.shape
            parts = self.query_key_value(x).reshape(batch, places, 3, heads, width // heads)
            query, key, value = parts.permute(2, 0, 3, 1, 4)
            share = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(width // heads) + bias, dim=-1)
            found = (dropped(share, dropout, generator) @ value).transpose(1, 2).reshape(batch, places, width)
            x = self.norm_1(x + dropped(self.out(found), dropout, generator))
            inner = dropped(torch.relu(self.up(x)), dropout, generator)
            return self.norm_2(x + dropped(self.down(inner), dropout, generator))

    return Layer()


def _transformer(config: Mapping[str, Any]) -> Any:
    import torch
    from torch import nn

    width, heads = config["width"], config["heads"]
    if width % heads or width % 2:
        raise ConfigError(f"width: {width} is no multiple of heads {heads}, or not even")

    class Transformer(nn.Module):
        places: Any

        def __init__(self) -> None:
            super().__init__()
            self.inputs = build_inputs(config["inputs"])
            self.embed, self.start = (
                nn.Linear(self.inputs.numbers, width),
                nn.Parameter(torch.zeros(1, width)),
            )
            places = sinusoids(self.inputs.slots + 1, width) * float(config["positions"])
            self.register_buffer("places", places, persistent=False)
            self.layers = nn.ModuleList(
                _layer(width, heads, config["feedforward"], config["dropout"])
                for _ in range(config["layers"])
            )
            self.latent = nn.Linear(width, config["latent"])
            sizes = [config["latent"], *(config["projector"] or _HEAD)]
            self.head = build_dense({"sizes": sizes, "seed": 0})
            if not config["projector"]:
                self.head = nn.Sequential(
                    *(nn.GELU() if isinstance(part, nn.ReLU) else part for part in self.head)
                )
                self.directions = nn.Parameter(torch.zeros(sizes[-1], sizes[-1]))

        def encode(self, table: Any, there: Any, generator: Any = None) -> Any:
            generator = generator if self.training else None
            tokens = torch.cat([self.start.expand(len(table), 1, -1), self.embed(table)], dim=1)
            tokens = tokens * math.sqrt(width) + self.places
            bias = table.new_zeros(len(table), 1, 1, tokens.shape[1])
            if config["mask"]:
                bias[:, 0, 0, 1:] = torch.where(there, 0.0, -torch.inf)
            for layer in self.layers:
                tokens = layer(tokens, bias, generator)
            return self.latent(tokens[:, 0])

        def table(self, x: Any) -> tuple[Any, Any]:
            return self.inputs(x)

        def represent(self, x: Any) -> Any:
            return self.encode(*self.table(x))

        def forward(self, h: Any) -> Any:
            z = self.head(h)
            if config["projector"]:
                return z
            unit = nn.functional.normalize
            return unit(z, dim=1) @ unit(self.directions, dim=1).T

    return Transformer()


def _particle_net(config: Mapping[str, Any]) -> Any:
    from torch import nn

    if config["inputs"]["kind"] != "constituents":
        raise FeatureError(
            "network 'particle_net' is for feature sets made of constituents: Cand0_pt, Cand0_eta, Cand0_phi, ..."
        )

    class Cloud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = build_inputs(config["inputs"])
            self.body = build_particle_net(config, activated=True)
            self.latent = nn.Linear(config["particle_net"]["width"], config["latent"])
            self.head = build_dense({"sizes": [config["latent"], *config["projector"]], "seed": 0})

        def table(self, x: Any) -> tuple[Any, Any]:
            return x[:, self.inputs.columns], None

        def encode(self, table: Any, there: Any, generator: Any = None) -> Any:  # noqa: ARG002
            return self.latent(self.body(table))

        def represent(self, x: Any) -> Any:
            return self.encode(*self.table(x))

        def forward(self, h: Any) -> Any:
            return self.head(h)

    return Cloud()


_NETWORKS = {"dense": _dense, "transformer": _transformer, "particle_net": _particle_net}


def settle(network: Any, x: Any) -> Any:
    """``network`` with the means and variances of its first `SETTLED` training events x (n, d) in batch normalisation, in eval mode.

    Layer by layer with the final weights: exact for these events, where running averages would be those of the last batches. A network
    that is trained on other than plain events says by ``settling(x)`` on what.
    """
    import torch

    network.eval()
    if hasattr(network, "body"):
        rows = [part.numpy() for part in network.table(x[:_SETTLED_JETS])[0].split(_JETS)]
        found = {name: torch.from_numpy(value) for name, value in statistics(network.body, rows).items()}
        network.body.load_state_dict(found, strict=False)
        return network
    layers = [part for part in getattr(network, "layers", []) if hasattr(part, "gain")]
    with torch.no_grad():
        shown = getattr(network, "settling", lambda rows: network.table(rows)[0])
        parts = [shown(rows).flatten(1) for rows in x[:SETTLED].split(BATCH)] if layers else []
        for layer in layers:
            sums = [layer.linear(rows).double() for rows in parts]
            count = sum(len(s) for s in sums)
            mean = torch.stack([s.sum(dim=0) for s in sums]).sum(dim=0) / count
            variance = torch.stack([(s - mean).square().sum(dim=0) for s in sums]).sum(dim=0) / count
            layer.mean.copy_(mean)
            layer.variance.copy_(variance)
            parts = [layer(rows) for rows in parts]
    return network
