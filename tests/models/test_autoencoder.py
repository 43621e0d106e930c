"""The trigger's autoencoder: input scaling as in hardware, the exported network, and what it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.base import Exportable
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.hardware_inputs import input_scale, objects_of

NAMES = [f"{o}_{k}" for o in ("MET", "EG0", "Jet0") for k in ("pt", "eta", "phi")]
FEATURES = FeatureSet("l1", tuple(Column(name, "", "") for name in (*NAMES, "n")))


def level1(n: int, seed: int) -> Events:
    """MET always there (eta 0), an e/gamma in one event of four, a jet in nearly all, and a lonely column."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 10))
    x[:, 0], x[:, 2] = rng.exponential(20, n), rng.uniform(-np.pi, np.pi, n)
    there = rng.random(n) < 0.25
    x[there, 3:6] = np.stack([rng.uniform(10, 50, n), rng.normal(size=n), rng.uniform(-3, 3, n)], 1)[there]
    jet = rng.random(n) < 0.95
    x[jet, 6:9] = np.stack([30 + rng.exponential(10, n), rng.normal(size=n), rng.uniform(-3, 3, n)], 1)[jet]
    x[:, 9] = rng.poisson(3, n)
    identity = np.zeros(n, dtype=IDENTITY)
    identity["event"] = np.arange(n) + seed * 1_000_000
    return Events(x.astype(np.float32), np.full(n, np.nan), np.ones(n), identity, FEATURES)


@pytest.fixture(scope="module")
def fitted():
    events = level1(3000, 1)
    return Autoencoder(hidden=(8,), latent=3, epochs=10, batch=128, learning_rate=5e-3).fit(events, events)


def test_columns_are_grouped_into_objects():
    assert objects_of(FEATURES) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_scaling_puts_the_central_nine_tenths_of_what_is_there_into_two():
    events = level1(20_000, 2)
    offset, shift = input_scale(events, 5.0, 95.0)
    for i in (0, 2, 3, 4, 5, 6, 7, 8):
        there = events.x[:, (i // 3) * 3 : (i // 3) * 3 + 3].any(axis=1)
        scaled = (events.x[there, i] - offset[i]) * 2.0 ** -shift[i]
        low, high = np.percentile(scaled, [5, 95])
        # a power of two leaves up to a factor of two, the offset's rounding 1/64 of a unit
        assert -2.02 <= low < -0.98
        assert 0.98 < high <= 2.02
    # the e/gamma is absent in three of four events, and those zeros must not enter
    assert offset[3] == pytest.approx(30.0, abs=1.0)
    assert (offset[1], shift[1]) == (0.0, 0)


def test_the_published_example_of_the_scaling():
    """METHODS 6.1 by hand: MET with 5-95 % percentiles 2 and 34 has offset 18, shift 3; raw 37 becomes 2.375."""
    identity = np.zeros(101, dtype=IDENTITY)
    identity["event"] = np.arange(101)
    x = np.linspace(2 - 32 / 18, 34 + 32 / 18, 101)[:, None].astype(
        np.float32
    )  # 5 % of 101 points at each end
    events = Events(
        x, np.full(101, np.nan), np.ones(101), identity, FeatureSet("met", (Column("MET_pt", "GeV", ""),))
    )
    offset, shift = input_scale(events, 5.0, 95.0)
    assert shift[0] == 3
    assert offset[0] == pytest.approx(18.0, abs=0.25)
    assert (37 - 18) * 2.0 ** -shift[0] == 2.375


def test_an_empty_slot_goes_through_the_same_formula_as_a_number(fitted):
    scaled = fitted.scale(np.zeros((1, 10), np.float32))
    assert np.array_equal(scaled[0], (-fitted.offset_ * 2.0**-fitted.shift_).astype(np.float32))
    assert scaled[0, 3] < -1  # an absent e/gamma lies below every e/gamma that is there


def test_inputs_end_where_the_hardware_type_ends(fitted):
    scaled = fitted.scale(np.array([[1e6] * 10, [-1e6] * 10], np.float32))
    assert np.array_equal(scaled, np.array([[128.0] * 10, [-128.0] * 10], np.float32))


def test_the_score_is_the_networks_output_on_scaled_inputs(fitted):
    events = level1(500, 3)
    assert isinstance(fitted, Exportable)
    network = fitted.network()
    assert not network.training
    with torch.no_grad():
        out = network(torch.from_numpy(fitted.scale(events.x))).numpy()
    assert out.shape == (500,)
    assert np.allclose(fitted.score(events), out, rtol=1e-5, atol=1e-6)
    again = np.clip((events.x.astype(np.float64) - fitted.offset_) / 2.0**fitted.shift_, -128, 128)
    matrices = [
        (v, fitted.weights_[k.replace("weight", "bias")]) for k, v in fitted.weights_.items() if "weight" in k
    ]
    hidden = again @ matrices[0][0].T + matrices[0][1]
    for weight, bias in matrices[1:]:
        hidden = np.maximum(hidden, 0) @ weight.T + bias
    assert np.allclose(fitted.score(events), ((hidden - again) ** 2).sum(axis=1), rtol=1e-4, atol=1e-5)


def test_the_graph_holds_only_what_firmware_has(fitted):
    layers = {type(m).__name__ for m in fitted.network().modules() if not list(m.children())}
    assert layers == {"Linear", "ReLU"}
    calls = {
        n.target for n in torch.fx.symbolic_trace(fitted.network()).graph.nodes if n.op == "call_function"
    }
    assert {c.__name__ for c in calls} == {"sub", "einsum"}


def test_default_layers_are_the_published_ones():
    events = level1(50, 1)
    model = Autoencoder(epochs=1).fit(events, events)
    shapes = [v.shape for k, v in model.weights_.items() if k.endswith("weight")]
    assert shapes == [(32, 10), (16, 32), (8, 16), (16, 8), (32, 16), (10, 32)]


def test_it_learns_and_says_how(fitted):
    record = fitted.record_
    assert record.epochs == len(record.train_loss) == 10
    assert record.train_loss[-1] < 0.6 * record.train_loss[0]
    ordinary = level1(1000, 4)
    x = ordinary.x.copy()
    x[:, 0] += 300.0  # 300 GeV more of missing momentum
    assert np.median(fitted.score(replace(ordinary, x=x))) > np.quantile(fitted.score(ordinary), 0.99)


def test_the_data_are_not_looked_at():
    events = level1(200, 1)
    one, two = (Autoencoder(epochs=1, latent=2).fit(events, d) for d in (events, level1(50, 7)))
    assert np.array_equal(one.score(events), two.score(events))


def test_errors(fitted):
    events = level1(10, 1)
    with pytest.raises(InputError, match="not been fitted"):
        Autoencoder().score(events)
    with pytest.raises(FeatureError, match="10 columns"):
        fitted.scale(np.zeros((2, 9), np.float32))
    x = events.x.copy()
    x[0, 4] = np.nan
    with pytest.raises(InputError, match="EG0_eta"):
        fitted.score(replace(events, x=x))
