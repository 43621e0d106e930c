"""Sidebands balance their two sides; the idealised reference is what it was given."""

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import Column, Events, FeatureSet, Window
from elsewhere.models.base import Reference, Representation
from elsewhere.models.references.known import KnownBackground
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.mass_scaled import MassScaled
from elsewhere.models.representations.unrounded import UnroundedMasses
from elsewhere.samples.nano import truncate

WINDOW = Window(3300.0, 3700.0)


def test_sidebands_hold_the_right_events_with_equal_weight_on_each_side(toy):
    data = toy(4000, 1)
    found = Sidebands(300.0).fit(data, WINDOW).sample(None, np.random.default_rng(0))
    low, high = found.mass < 3300, found.mass >= 3700
    assert (low | high).all()
    assert found.mass.min() >= 3000
    assert found.mass.max() < 4000
    inside = (data.mass >= 3000) & (data.mass < 4000) & ~WINDOW.contains(data.mass)
    assert np.array_equal(found.identity, data.identity[inside])
    assert found.weight[low].sum() == pytest.approx(found.weight[high].sum(), rel=1e-12)
    assert found.weight.sum() == pytest.approx(len(found), rel=1e-12)


def test_a_linear_trend_averages_to_its_value_in_the_window(toy):
    data = toy(60_000, 1)
    trend = data.mass / 1000.0
    found = Sidebands(400.0).fit(data, WINDOW).sample(None, np.random.default_rng(0))
    rows = np.isin(data.identity["event"], found.identity["event"])
    assert np.average(trend[rows], weights=found.weight) == pytest.approx(3.5, abs=0.01)


def test_an_empty_sideband_is_an_error(toy):
    with pytest.raises(InputError, match="within 200 GeV above 5900-6100; widen"):
        Sidebands(200.0).fit(toy(1000, 1), Window(5900.0, 6100.0))


def test_a_part_of_the_reference_is_drawn_without_replacement(toy):
    fitted = Sidebands(400.0).fit(toy(4000, 1), WINDOW)
    part = fitted.sample(50, np.random.default_rng(3))
    assert len(np.unique(part.identity)) == 50
    assert np.array_equal(part.identity, fitted.sample(50, np.random.default_rng(3)).identity)
    assert isinstance(fitted, Reference)


def test_known_background_is_the_sample_in_the_window(toy):
    background = toy(2000, 5, first=90_000)
    fitted = KnownBackground(background).fit(toy(100, 1), WINDOW)
    assert len(fitted.sample(None, np.random.default_rng(0))) == WINDOW.contains(background.mass).sum()
    with pytest.raises(InputError, match="no event"):
        KnownBackground(background).fit(toy(100, 1), Window(100.0, 200.0))
    with pytest.raises(InputError, match="needs its background"):
        KnownBackground().fit(toy(100, 1), WINDOW)


def test_representations(toy):
    events = toy(10, 1)
    assert isinstance(Identity(), Representation)
    assert Identity().fit(events, events).transform(events) is events
    with pytest.raises(FeatureError, match="not in 'toy'"):
        MassScaled(columns=("nothing",)).transform(events)


def test_mass_scaled_divides_columns_of_the_masses_unit():
    features = FeatureSet("d", (Column("m_J", "GeV", ""), Column("tau", "", "")), Column("m", "GeV", ""))
    identity = np.zeros(2, dtype=make_dtype())
    events = Events(
        np.array([[100, 0.5], [300, 0.2]], np.float32),
        np.array([2000.0, 3000.0]),
        np.ones(2),
        identity,
        features,
    )
    out = MassScaled().fit(events, events).transform(events)
    assert np.allclose(out.x, [[0.05, 0.5], [0.1, 0.2]])
    assert out.features.names == ("m_J/m", "tau")


def test_unrounded_masses_lose_their_steps_and_nothing_else():
    rng = np.random.default_rng(1)
    n = 20_000
    pair = np.sort(rng.gamma(4.0, 30.0, (n, 2)), axis=1)
    stored = truncate(pair.astype(np.float32)).astype(np.float64)
    stored[:5] = [[0.0, 100.0], [0.0, 0.0], [128.0, 128.0], [127.875, 128.0], [1000.0, 1000.5]]
    stored[5:1000, 1] = stored[5:1000, 0]
    features = FeatureSet(
        "d", (Column("tau", "", ""), Column("m_J1", "GeV", ""), Column("dm_J", "GeV", "")), None
    )
    identity = np.zeros(n, dtype=make_dtype())
    identity["event"] = np.arange(n)
    x = np.column_stack([rng.random(n), stored[:, 0], stored[:, 1] - stored[:, 0]]).astype(np.float32)
    events = Events(x, np.full(n, np.nan), np.ones(n), identity, features)
    once = UnroundedMasses().fit(events, events).transform(events)
    assert np.array_equal(once.x[:, 0], x[:, 0])
    found = np.column_stack([once.x[:, 1], once.x[:, 1].astype(np.float64) + once.x[:, 2]])
    step = np.where(stored > 0, 2.0 ** (np.floor(np.log2(np.maximum(stored, 1e-9))) - 10), 0.0)
    assert (np.abs(found - stored) <= step.max(axis=1, keepdims=True) * 0.5 + 1e-4).all()
    assert (once.x[:, 2] >= 0).all()
    assert (once.x[5:1000, 2] == 0).mean() < 0.01  # all of them were
    alone = np.abs(np.diff(stored, axis=1)[:, 0]) > 2 * step.max(axis=1)  # no change of order
    moved = ((found - stored) / np.where(step > 0, step, 1.0))[alone]
    assert moved.mean(axis=0) == pytest.approx([0, 0], abs=0.01)
    assert moved.std(axis=0) == pytest.approx([12**-0.5] * 2, abs=0.01)
    assert once.x[1].tolist() == x[1].tolist()  # masses of 0 have no step
    back = np.random.default_rng(2).permutation(n)
    assert np.array_equal(UnroundedMasses().transform(events.take(back)).x, once.x[back])
    with pytest.raises(FeatureError, match=r"representation\.difference: dm is not in 'd': tau, m_J1, dm_J"):
        UnroundedMasses(difference="dm").transform(events)
    with pytest.raises(ConfigError, match="bits: found 24"):
        UnroundedMasses(bits=24)


def make_dtype() -> np.dtype:
    from elsewhere.events import IDENTITY

    return IDENTITY
