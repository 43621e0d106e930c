"""Equivariant self-supervision (2111.00899): views of an event together, and a known transformation to be told from the result.

A transformation t is a rotation by one of a few angles, or a scale, (1 + size nu), nu standard normal. Losses are pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..augmentations import jets
from ..augmentations.events import JET, MET, accepted, direction_smeared, jets_smeared
from ..augmentations.events import rotated as event_rotated
from ..augmentations.objects import Objects
from .cl4ad import build_encoder
from .dense import build_dense
from .encoder_inputs import masked

#: Smallest factor of a scale, so that no pT turns negative.
_LEAST = 0.01
#: Bounds of ln variance in training.
_LOG_VARIANCE = 10.0
#: Probability of a plain column to be 0 in a view.
_MASKED = 0.5


def info_nce(z: Any, other: Any, *, tau: float = 0.5) -> Any:
    """1/2 [InfoNCE(z, z') + InfoNCE(z', z)] of z, z' (B, D): the cross entropy of who belongs to whom, by cosine / tau.

    Negatives are the other events in the other view only.
    """
    import torch

    unit = torch.nn.functional.normalize
    logits = unit(z, dim=1) @ unit(other, dim=1).T / tau
    own = torch.arange(len(z), device=z.device)
    entropy = torch.nn.functional.cross_entropy
    return 0.5 * (entropy(logits, own) + entropy(logits.T, own))


def gaussian_nll(out: Any, nu: Any) -> Any:
    """-ln N(nu; mean, variance), (B,), of out (B, 2), mean and ln variance."""
    log_variance = out[:, 1].clamp(-_LOG_VARIANCE, _LOG_VARIANCE)
    squared = (nu - out[:, 0]).square() * (-log_variance).exp()
    return 0.5 * (squared + log_variance + math.log(2 * math.pi))


def scaled(events: Objects, kinds: Any | None, factor: Any) -> Objects:
    """pT of jets times ``factor`` (B, 1), MET recoiling against what they gain; without ``kinds``, pT of everything."""
    import torch

    if kinds is None:
        return events.changed(pt=events.pt * factor)
    jet, is_met = (kinds == JET), (kinds == MET)
    gain = events.pt * (factor - 1) * jet
    x, y = (
        (events.pt * f(events.phi) * is_met - gain * f(events.phi)).sum(dim=1, keepdim=True)
        for f in (torch.cos, torch.sin)
    )
    met = is_met.expand_as(events.pt)
    pt = torch.where(met, torch.hypot(x, y), events.pt * torch.where(jet, factor, torch.ones_like(factor)))
    phi = torch.where(met, torch.atan2(y, x), events.phi)
    there = events.there | (met & (pt > 0))
    return Objects(pt, events.eta, phi, there).kept(there)


def turned(events: Objects, angle: Any, *, jet: bool) -> Objects:
    """All objects turned by ``angle`` (B, 1): in phi, or constituents of a ``jet`` about its axis."""
    import torch

    if not jet:
        return events.changed(phi=events.phi + angle)
    c, s = torch.cos(angle), torch.sin(angle)
    return events.changed(eta=c * events.eta - s * events.phi, phi=s * events.eta + c * events.phi)


def framed(events: Objects, kinds: Any, *, jet: bool) -> Objects:
    """Events in a frame of their own: the hardest object but MET at phi = 0; of a centred ``jet``, the hardest constituent at phi = 0
    of its axis. Collisions know no direction, so only in such a frame can the angle of a turn be told."""
    import torch

    if jet:
        events = jets.centred(events)
    weight = events.pt * (1.0 if jet else torch.where(kinds == MET, 1e-6, 1.0))
    first = weight.argmax(dim=1, keepdim=True)
    eta, phi = events.eta.gather(1, first), events.phi.gather(1, first)
    return turned(events, -(torch.atan2(phi, eta) if jet else phi), jet=jet)


def build_essl(config: Mapping[str, Any]) -> Any:
    """An encoder, its head, and who tells the transformation from the latent vector; first weights from ``seed``.

    ``config``: that of `build_encoder`, ``transformation`` ("rotation" or "scale"), ``role`` ("predict" or "forget"), ``bins``, ``size``,
    ``scaled`` (numbers of plain columns), ``strength``, ``tau``, ``predictor`` (widths of who tells).
    """
    import torch
    from torch import nn

    rotation = config["transformation"] == "rotation"

    class Essl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = build_encoder(config)
            outputs = config["bins"] if rotation else 2
            sizes = [config["latent"], *config["predictor"], outputs]
            self.predictor = build_dense({"sizes": sizes, "seed": int(config["seed"]) + 1})
            self.inputs, self.predicts = self.encoder.inputs, config["role"] == "predict"
            self.strength, self.tau, self.size = (float(config[k]) for k in ("strength", "tau", "size"))
            self.jet, self.plain = (self.inputs.kind == kind for kind in ("constituents", "columns"))
            self.bins = config["bins"] if rotation else 0
            self.register_buffer(
                "scaled", torch.tensor(config["scaled"], dtype=torch.int64), persistent=False
            )

        @property
        def layers(self) -> Any:
            return self.encoder.layers

        def of(self, x: Any) -> Any:
            """Events as they are looked at: raw columns, or objects, in their own frame if a turn is to be told."""
            if self.plain:
                return x
            events = self.inputs.objects(x)
            if self.bins and self.predicts:
                return framed(events, self.inputs.kinds, jet=self.jet)
            return jets.centred(events) if self.jet else events

        def seen(self, events: Any) -> tuple[Any, Any]:
            return self.inputs(events) if self.plain else self.inputs.of_objects(events)

        def represent(self, x: Any) -> Any:
            return self.encoder.encode(*self.seen(self.of(x)))

        def settling(self, x: Any) -> Any:
            """The table that means and variances of batch normalisation are taken of."""
            return shown(self, self.of(x), torch.Generator().manual_seed(int(config["seed"])))[0]

    return Essl()


def drawn(network: Any, events: Any, generator: Any) -> tuple[Any, Any]:
    """A transformation t of every event: (t . event, t), t the number of an angle or nu, (B,)."""
    import torch

    x = events if network.plain else events.pt
    if network.bins:
        t = torch.randint(network.bins, (len(x),), generator=generator, device=x.device)
        return turned(events, (2 * math.pi / network.bins) * t[:, None].to(x.dtype), jet=network.jet), t
    t = torch.randn((len(x),), generator=generator, device=x.device, dtype=x.dtype)
    return shifted(network, events, t), t


def shifted(network: Any, events: Any, nu: Any) -> Any:
    """Events with the scale at nu (B,), in units of its standard deviation."""
    factor = (1 + network.size * nu[:, None]).clamp(min=_LEAST)
    if not network.plain:
        return scaled(events, None if network.jet else network.inputs.kinds, factor)
    out = events.clone()
    out[:, network.scaled] = events[:, network.scaled] * factor
    return out


def view(network: Any, events: Any, generator: Any) -> tuple[Any, Any]:
    """A view as (table, filled slots): without what is to be told, with what is to be forgotten."""
    if not network.predicts:
        events, _ = drawn(network, events, generator)
    if network.plain:
        table, there = network.inputs(events)
        return masked(table, network.inputs.scalars, _MASKED, generator), there
    if network.jet:
        events = events if network.bins else jets.rotated(events, generator)
        return network.seen(jets.position_smeared(events, generator))
    kinds = network.inputs.kinds
    events = events if network.bins else event_rotated(events, generator)
    events = jets_smeared(direction_smeared(events, kinds, generator), kinds, generator)
    return network.seen(accepted(events, kinds))


def shown(network: Any, events: Any, generator: Any) -> tuple[Any, Any, Any]:
    """Table and filled slots of two views of every event and, if t is to be told, of t . event, one behind the other; and t.

    Batch normalisation is of them all, or what t does would be taken away by it.
    """
    import torch

    parts, t = [view(network, events, generator) for _ in range(2)], None
    if network.predicts:
        moved, t = drawn(network, events, generator)
        parts.append(network.seen(moved))
    table, there = (torch.cat(each) for each in zip(*parts, strict=True))
    return table, there, t


def told(network: Any, events: Any, generator: Any) -> tuple[Any, Any]:
    """What is said of a drawn t, (B, bins) logits or (B, 2), and t (B,)."""
    moved, t = drawn(network, events, generator)
    return network.predictor(network.encoder.encode(*network.seen(moved))), t


def essl_loss(network: Any, x: Any, y: Any, generator: Any) -> Any:  # noqa: ARG001
    """InfoNCE of two views of raw columns x (n, d), plus ``strength`` times how badly t is told, given to each event, (n,)."""
    import torch

    if len(x) < 2:  # the last batch of an epoch: one event has nothing to be told from
        return x.sum(dim=1) * 0.0 * sum(p.sum() for p in network.parameters())
    table, there, t = shown(network, network.of(x), generator)
    h = network.encoder.encode(table, there, generator).split(len(x))
    loss = info_nce(network.encoder(h[0]), network.encoder(h[1]), tau=network.tau)
    if t is None:
        return (loss + 0.0 * sum(p.sum() for p in network.predictor.parameters())).expand(len(x))
    out = network.predictor(h[2])
    error = torch.nn.functional.cross_entropy(out, t) if network.bins else gaussian_nll(out, t).mean()
    return (loss + network.strength * error).expand(len(x))
