"""A project straight from its plan is the one that hls4ml writes of the same plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from elsewhere.deploy.firmware import _convert
from elsewhere.deploy.fixedpoint import extreme_inputs
from elsewhere.deploy.planned import planned_project
from elsewhere.deploy.precision import FirmwareSettings, plan_network
from elsewhere.deploy.project import read_project
from torch import nn


class Squared(nn.Module):
    """5-7-3 with ReLU, score = sum of squares."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False))

    def forward(self, x):
        z = self.layers(x)
        return torch.einsum("bi,bi->b", z, z)


class Distance(nn.Module):
    """5-4-5 with ReLU, score = sum of squared differences to the input."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 5))

    def forward(self, x):
        d = self.layers(x) - x
        return torch.einsum("bi,bi->b", d, d)


class Rectified(nn.Module):
    """5-4-1, a ReLU at the end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def seeded(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("make", [Squared, Distance, Rectified])
def test_it_is_the_project_that_hls4ml_writes(make, tmp_path):
    settings = FirmwareSettings()
    plan = plan_network(seeded(make()), settings)
    made = planned_project(plan, 5)
    _convert(plan, 5, tmp_path / "hls", tmp_path / "log", settings)
    written = read_project(tmp_path / "hls")
    assert (made.input_type, made.output_type, made.n_in) == (written.input_type, written.output_type, 5)
    assert [op.kind for op in made.operations] == [op.kind for op in written.operations]
    inputs = extreme_inputs(made.input_type, 5, 3000, np.random.default_rng(1))
    inputs = np.concatenate([inputs, np.random.default_rng(2).normal(0, 3, (3000, 5))])
    own, read = made.evaluate(inputs), written.evaluate(inputs)
    for mine, theirs in zip(made.operations, written.operations, strict=True):
        assert (mine.result, mine.accum) == (theirs.result, theirs.accum)
        np.testing.assert_array_equal(own[mine.output], read[theirs.output])
    assert len(np.unique(made.score(inputs))) > 300
