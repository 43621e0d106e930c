"""A transformer encoder of sets: objects of an event or constituents of a jet, with a mask, in no order (2108.04253).

Attention is that of 1706.03762 with the norm after each part, without positions. Empty slots neither attend nor are attended
to, and the sum over objects leaves them out, so what lies in them changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import ConfigError


def build_set_encoder(config: Mapping[str, Any]) -> Any:
    """A module (table (B, N, features), there (B, N) bool) -> embedding (B, ``out``), first weights from ``seed``.

    ``config``: ``features``, ``width``, ``heads``, ``layers``, ``feedforward``, ``out`` (of the two-layer head), ``seed``;
    ``safe`` (default False): infrared-safe attention, see `SetEncoder`. ``represent(table, there)`` of the module gives the
    sum over objects before the head, (B, width). Raises `ConfigError` where heads do not divide the width.
    """
    import torch

    if config["width"] % config["heads"]:
        raise ConfigError(f"width: {config['width']} is no multiple of heads {config['heads']}")
    with torch.random.fork_rng(devices=[]):  # the layers draw first weights of their own, which are not kept
        network = _set_encoder(config)
    generator = torch.Generator().manual_seed(int(config["seed"]))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                bound = math.sqrt(6.0 / sum(parameter.shape))
                torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
            else:  # a norm's scale is 1
                parameter.fill_(float("norm" in name and name.endswith("weight")))
    return network


def _weighted_layer(layer: Any, x: Any, bias: Any) -> Any:
    """A `TransformerEncoderLayer` whose logits get ``bias`` (B, N) by the object that is attended to.

    Written out, because the layer itself takes every number but 0 for a mask once it is evaluated (torch's fast path).
    """
    import torch

    attention = layer.self_attn
    projected = torch.nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    heads = projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    found = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=bias[:, None, None, :])
    x = layer.norm1(x + attention.out_proj(found.transpose(1, 2).flatten(2)))
    return layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x))))


def _set_encoder(config: Mapping[str, Any]) -> Any:
    import torch
    from torch import nn

    class SetEncoder(nn.Module):
        """Linear, encoder layers, masked sum, head.

        Safe (2108.04253): the first column of the table must be pT in any unit, without an offset. 0.5 ln pT is added to the
        logits of the object that is attended to, and what comes out of an object is multiplied by pT before the sum; so an
        object without pT adds nothing, and the sum is that of pT times something. Nothing in it is safe against collinear
        splits: a split of pT in two halves draws 1.4 times the attention. That is left to the training.
        """

        def __init__(self) -> None:
            super().__init__()
            width = config["width"]
            self.heads, self.safe = config["heads"], bool(config.get("safe", False))
            self.embed = nn.Linear(config["features"], width)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, self.heads, config["feedforward"], dropout=0.0, batch_first=True
                )
                for _ in range(config["layers"])
            )
            self.head = nn.Sequential(
                nn.ReLU(), nn.Linear(width, config["out"]), nn.ReLU(), nn.Linear(config["out"], config["out"])
            )

        def represent(self, table: Any, there: Any) -> Any:
            """The sum over objects, (B, width)."""
            if self.safe:
                there = there & (table[:, :, 0] > 0)
            # A set without objects attends to its first slot, or the softmax would divide by 0; the sum leaves it out again.
            lone = ~there.any(dim=1, keepdim=True) & (torch.arange(there.shape[1], device=there.device) == 0)
            bias = torch.where(there | lone, 0.0, -torch.inf).to(table.dtype)
            counted = there.to(table.dtype)
            if self.safe:
                pt = torch.where(there, table[:, :, 0], torch.ones_like(counted))
                bias, counted = bias + 0.5 * pt.log(), counted * pt
            x = self.embed(torch.where(there[:, :, None], table, torch.zeros_like(table)))
            if self.safe:
                for layer in self.layers:
                    x = _weighted_layer(layer, x, bias)
            else:
                mask = bias[:, None, None, :].expand(-1, self.heads, there.shape[1], -1).flatten(0, 1)
                for layer in self.layers:
                    x = layer(x, src_mask=mask)
            return (x * counted[:, :, None]).sum(dim=1)

        def forward(self, table: Any, there: Any) -> Any:
            return self.head(self.represent(table, there))

    return SetEncoder()
