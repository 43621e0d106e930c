"""How the density of a latent space changes under a systematic uncertainty: ln p(h | nu) / p(h | 0) as a polynomial in nu."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from .dense import initialise


def build_ratio(config: Mapping[str, Any]) -> Any:
    """A module from rows (B, latent + 1) of latent vectors and nu to delta = nu a_1(h) + nu^2 a_2(h), (B,), which is 0 at nu = 0.

    ``config``: ``latent``, ``hidden`` (widths of the two networks a_k, with tanh), ``center`` and ``spread`` (latent,) by which h is
    standardised, ``seed`` of the first weights.
    """
    import torch
    from torch import nn

    class Ratio(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.powers = nn.ModuleList(self._network() for _ in range(2))
            for name in ("center", "spread"):
                self.register_buffer(name, torch.tensor(config[name], dtype=torch.float32), persistent=False)

        def _network(self) -> Any:
            sizes, parts = [config["latent"], *config["hidden"], 1], []
            for a, b in pairwise(sizes):
                parts += [nn.utils.skip_init(nn.Linear, a, b), nn.Tanh()]
            return nn.Sequential(*parts[:-1])

        def forward(self, rows: Any) -> Any:
            h, nu = (rows[:, :-1] - self.center) / self.spread, rows[:, -1]
            return sum(nu ** (k + 1) * power(h)[:, 0] for k, power in enumerate(self.powers))

    ratio = Ratio()
    initialise(ratio, int(config["seed"]))
    with torch.no_grad():
        for power in ratio.powers:
            last: Any = list(power.children())[-1]
            last.weight.mul_(0.1)  # ratios begin near 1
    return ratio
