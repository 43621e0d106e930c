"""SALAD: the known ratio of data to simulation, its counts, clipping, refusals, folds and the round trip."""

import math
from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.base import Reference, Storable
from elsewhere.models.references.salad import Salad
from elsewhere.models.store import load, save

WINDOW = Window(3300.0, 3700.0)
FEATURES = FeatureSet("two", (Column("a", "", ""), Column("b", "", "")), Column("m", "GeV", ""))


def sample(n, seed, first=0, truth=False):
    """Simulation: N(0, 1) twice, masses flat in 3000-4000. Data (``truth``): the first column N(mu(m), 1)."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(3000, 4000, n)
    x = rng.normal(size=(n, 2))
    if truth:
        x[:, 0] += mean(mass)
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), mass, np.ones(n), identity, FEATURES)


def mean(mass):
    return 0.5 + 0.7 * (mass - 3500) / 500


def log_ratio(events, factor):
    """ln of (events of the data) / (events of the simulation) per (x, m)."""
    mu = mean(events.mass)
    return math.log(factor) + mu * events.x[:, 0] - 0.5 * mu**2


SMALL = {"hidden": (32, 32), "epochs": 15, "best": 4, "batch": 400, "learning_rate": 2e-3}


@pytest.fixture(scope="module")
def fitted():
    return Salad(**SMALL, simulation=sample(20_000, 1)).fit(sample(10_000, 2, 100_000, truth=True), WINDOW)


def test_the_ratio_in_the_window_is_the_known_one(fitted):
    fresh = sample(5_000, 3, 200_000, truth=True)
    inside = fresh.take(WINDOW.contains(fresh.mass))
    found, true = np.log(fitted.ratio(inside)), log_ratio(inside, 0.5)
    assert np.corrcoef(found, true)[0, 1] > 0.95
    assert np.sqrt(np.mean((found - true) ** 2)) < 0.2
    # the ratio follows the mass, not its average over the sidebands
    low, high = inside.mass < 3400, inside.mass > 3600
    slopes = [np.polyfit(inside.x[side, 0], found[side], 1)[0] for side in (low, high)]
    assert slopes == pytest.approx([0.29, 0.71], abs=0.14)  # 0.5 and 0.5 if the classifier ignored the mass
    assert np.mean((found - true)[low]) == pytest.approx(0.0, abs=0.08)
    assert np.mean((found - true)[high]) == pytest.approx(0.0, abs=0.08)


def test_the_weighted_simulation_looks_like_the_data_and_counts_like_it(fitted):
    found = fitted.sample(None, np.random.default_rng(0))
    assert WINDOW.contains(found.mass).all()
    expected = 10_000 * 0.4
    assert found.weight.sum() == pytest.approx(expected, rel=0.05)
    # 0 without weights; the network's interpolation scatters by 0.05 from seed to seed
    assert np.average(found.x[:, 0], weights=found.weight) == pytest.approx(0.5, abs=0.1)
    assert np.average(found.x[:, 1], weights=found.weight) == pytest.approx(0.0, abs=0.05)
    report = fitted.report_
    assert report.expected == pytest.approx(found.weight.sum(), rel=1e-12)
    assert report.simulated == len(found)
    assert 0.3 * len(found) < report.effective < 0.95 * len(found)
    assert report.effective == pytest.approx(found.weight.sum() ** 2 / (found.weight**2).sum(), rel=1e-9)
    assert report.clipped == 0


def test_in_the_sidebands_the_simulation_weighs_what_the_data_weigh(fitted):
    simulation = sample(20_000, 1)
    beside = simulation.take(~WINDOW.contains(simulation.mass))
    data = sample(10_000, 2, 100_000, truth=True)
    assert fitted.ratio(beside).sum() == pytest.approx((~WINDOW.contains(data.mass)).sum(), rel=1e-9)


def test_a_stiff_ratio_takes_less_noise_from_the_mass():
    """Simulation and data are alike: whatever the ratio does with the mass is noise."""
    data, simulation = sample(4_000, 2, 100_000), sample(4_000, 1)
    probe = sample(50, 3)
    masses = np.linspace(3000, 4000, 11)
    spread = {}
    for stiffness in (1.0, 10.0):
        fitted = Salad(**SMALL, stiffness=stiffness, schedule="cosine", simulation=simulation).fit(
            data, WINDOW
        )
        found = [np.log(fitted.ratio(replace(probe, mass=np.full(50, m)))) for m in masses]
        spread[stiffness] = np.std(found, axis=0).mean()
    assert spread[10.0] < 0.5 * spread[1.0]


def test_the_data_of_the_window_are_not_read():
    data = sample(3_000, 2, 100_000, truth=True)
    settings = {"hidden": (8,), "epochs": 2, "best": 1, "simulation": sample(3_000, 1)}
    inside = WINDOW.contains(data.mass)
    x = data.x.copy()
    x[inside] = 77.0
    plain, altered = (
        Salad(**settings).fit(d, WINDOW).sample(None, np.random.default_rng(0))
        for d in (data, replace(data, x=x))
    )
    assert np.array_equal(plain.weight, altered.weight)


def test_seeds_order_and_round_trip(tmp_path):
    data, simulation = sample(3_000, 2, 100_000, truth=True), sample(3_000, 1)
    small = {"hidden": (8,), "epochs": 2, "best": 2}
    one = Salad(**small, simulation=simulation).fit(data, WINDOW)
    order = np.random.default_rng(0).permutation(3_000)
    two = Salad(**small, simulation=simulation.take(order)).fit(data.take(order[::-1]), WINDOW)
    first = one.sample(500, np.random.default_rng(4))
    assert len(first) == 500
    assert first.weight.sum() == pytest.approx(one.report_.expected, rel=1e-9)
    assert len(np.unique(first.identity)) == 500
    second = two.sample(500, np.random.default_rng(4))
    assert np.array_equal(first.weight, second.weight)
    assert np.array_equal(first.identity, second.identity)
    assert isinstance(one, Reference)
    assert isinstance(one, Storable)
    other = (
        Salad(**small, seed=1, simulation=simulation).fit(data, WINDOW).sample(500, np.random.default_rng(4))
    )
    assert not np.array_equal(first.weight, other.weight)
    save(one, tmp_path / "salad", FEATURES, {})
    back, _ = load(tmp_path / "salad", FEATURES, allow=("elsewhere.models.references.salad.Salad",))
    third = back.sample(500, np.random.default_rng(4))
    assert np.array_equal(first.weight, third.weight)
    assert np.array_equal(first.identity, third.identity)
    assert back.report_ == one.report_
    assert np.array_equal(back.ratio(data), one.ratio(data))


def test_weights_are_clipped_and_counted():
    """Data far from the simulation: the ratio is 0 for most of it, and 1/clip is the least it may be."""
    data = sample(4_000, 2, 100_000)
    data = replace(data, x=data.x + np.float32(6.0))
    settings = {"hidden": (16,), "epochs": 12, "best": 1, "learning_rate": 1e-2}
    fitted = Salad(**settings, clip=10.0, simulation=sample(4_000, 1)).fit(data, WINDOW)
    bare = fitted.ratio(fitted.events_) / fitted.scale_
    assert bare.min() == pytest.approx(0.1)
    assert bare.max() <= 10.0
    assert fitted.report_.clipped > 0.9 * fitted.report_.simulated


def test_weights_of_data_and_simulation_count():
    """Twice the weight of the data predicts twice the background; a weighted simulation gives the same."""
    data, simulation = sample(4_000, 2, 100_000), sample(4_000, 1)
    small = {"hidden": (8,), "epochs": 2, "best": 1}
    one = Salad(**small, simulation=simulation).fit(data, WINDOW).report_.expected
    double = replace(data, weight=2 * data.weight)
    assert Salad(**small, simulation=simulation).fit(double, WINDOW).report_.expected == pytest.approx(
        2 * one
    )
    quarter = replace(simulation, weight=0.25 * simulation.weight)
    assert Salad(**small, simulation=quarter).fit(data, WINDOW).report_.expected == pytest.approx(one)


def test_bad_samples_and_settings_are_refused():
    data, simulation = sample(1_000, 2, 100_000), sample(1_000, 1)
    salad = Salad(hidden=(4,), epochs=1, best=1, simulation=simulation)
    with pytest.raises(InputError, match="needs its simulation"):
        Salad().fit(data, WINDOW)
    with pytest.raises(InputError, match="simulation below the window: weights must be finite, not negative"):
        replace(
            salad, simulation=replace(simulation, weight=-simulation.weight + 0.5 + (np.arange(1000) > 500))
        ).fit(data, WINDOW)
    with pytest.raises(InputError, match="data: no events within 300 GeV above 3700-4100; widen"):
        salad.fit(data, Window(3700.0, 4100.0))
    outside = simulation.take(~WINDOW.contains(simulation.mass))
    with pytest.raises(InputError, match="simulation has no event in 3300-3700"):
        replace(salad, simulation=outside).fit(data, WINDOW)
    other = FeatureSet("other", (Column("a", "", ""), Column("c", "", "")), FEATURES.mass)
    with pytest.raises(FeatureError, match="column 1: the data has c"):
        salad.fit(replace(data, features=other), WINDOW)
    with pytest.raises(InputError, match="not been fitted"):
        Salad().sample(3, np.random.default_rng(0))
    for bad in ({"width": 0.0}, {"validation": 1.0}, {"clip": 1.0}, {"stiffness": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Salad(**bad)
