"""Networks whose score is one Linear output, with or without a ReLU: their plan, and CICADA's firmware bit by bit."""

import shutil

import numpy as np
import pytest
import torch
from elsewhere.deploy.emulator import FirmwareScore, InputScale
from elsewhere.deploy.firmware import export
from elsewhere.deploy.precision import FirmwareSettings, plan_network
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.scores.cicada import Cicada
from torch.nn import Linear, ReLU, Sequential


class Column0(torch.nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = Sequential(*layers)

    def forward(self, x):
        return self.layers(x)[:, 0]


def test_the_last_layer_has_the_type_of_the_score():
    settings = FirmwareSettings()
    plan = plan_network(Column0(Linear(5, 4), ReLU(), Linear(4, 1, bias=False)), settings)
    assert [p.kind for p in plan.layers] == ["input", "dense", "relu", "dense"]
    assert plan.layers[-1].types["result"] == settings.type("score")
    assert plan.layers[1].types["result"] == plan.layers[1].types["accum"]
    plan = plan_network(Column0(Linear(5, 4), ReLU(), Linear(4, 1), ReLU()), settings)
    assert plan.layers[-1].types["result"] == settings.type("score")
    assert plan.layers[-2].types["result"] == plan.layers[-2].types["accum"]
    assert plan.layers[-3].types["result"] == settings.type("activation")


def test_more_than_one_output_is_no_score():
    with pytest.raises(ConfigError, match="Linear of one output"):
        plan_network(Column0(Linear(5, 4), ReLU(), Linear(4, 2)), FirmwareSettings())


def images(n, seed, shape=(4, 4)):
    rng = np.random.default_rng(seed)
    d = shape[0] * shape[1]
    features = FeatureSet("image", tuple(Column(f"r{i}", "", "toy") for i in range(d)))
    x = np.minimum(np.floor(rng.gamma(0.7, 12.0, (n, d)) * rng.uniform(0.5, 2.0, (n, 1))), 1023).astype(
        np.float32
    )
    identity = np.zeros(n, IDENTITY)
    identity["event"] = np.arange(n)
    return Events(x, np.full(n, np.nan), np.ones(n), identity, features)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_cicada_with_convolutions_is_its_firmware_bit_by_bit(tmp_path):
    events = images(600, 1)
    score = Cicada(
        version=2, shape=(4, 4), hidden=6, filters=(2, 3), latent=4, rounds=1, student_epochs=3, teacher_batch=128, student_batch=64
    ).fit(events, events)  # fmt: skip
    scale = InputScale(tuple(score.offset_), tuple(2.0**-score.shift_))
    made = export(
        score, events.features, scale, tmp_path / "fw", events.x,
        settings=FirmwareSettings(**score.firmware_types()), extremes=200,
    )  # fmt: skip
    assert made.bits.exact
    assert made.bits.events == 800
    fresh = images(500, 2)
    found = FirmwareScore(tmp_path / "fw").score(fresh)
    assert len(np.unique(found)) > 100
    np.testing.assert_array_equal(found, score.score(fresh))
