"""FETA: a known morph learnt beside the window and applied inside it, counts, folds, refusals, round trip."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of
from elsewhere.models.base import Reference, Storable
from elsewhere.models.references.feta import Feta
from elsewhere.models.store import load, save

WINDOW = Window(3400.0, 3600.0)
FEATURES = FeatureSet("two", (Column("a", "", ""), Column("b", "", "")), Column("m", "GeV", ""))


def sample(n, seed, first=0, truth=False):
    """Correlated Gaussians that drift with the mass; the data are shifted, wider, and drift the other way."""
    rng = np.random.default_rng(seed)
    mass = rng.uniform(3000, 4000, n)
    x = rng.normal(size=(n, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    if truth:
        x = morphed(x, mass)
    else:
        x[:, 1] -= 0.6 * (mass - 3500) / 500
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), mass, np.ones(n), identity, FEATURES)


def morphed(x, mass):
    """The true morph: another scale and place of the first column, a drift of the second."""
    return np.stack([1.3 * x[:, 0] + 0.5, x[:, 1] + 0.8 * (mass - 3500) / 500], axis=1)


def small(**more):
    base = {"kind": "maf", "transforms": 2, "base_hidden": (24,), "base_epochs": 12, "preprocess": "standard"}
    top = {"layers": 4, "hidden": (24,), "epochs": 15, "batch": 256, "learning_rate": 5e-3, "width": 400.0}
    return Feta(**base | top | more)


def tiny(**more):
    return small(
        base_epochs=1, epochs=1, layers=2, hidden=(4,), base_hidden=(4,), transforms=1, oversampling=2, **more
    )


@pytest.fixture(scope="module")
def fitted():
    return small(simulation=sample(8_000, 1)).fit(sample(8_000, 2, 100_000, truth=True), WINDOW)


def moments_agree(found, mean, cov, tolerance):
    assert np.abs(found.mean(axis=0) - mean).max() < tolerance
    assert np.abs(np.cov(found.T) - cov).max() < tolerance


COV = np.array([[1.69, 0.65], [0.65, 0.89 + 0.16**2 / 3]])


def test_the_morphed_simulation_of_the_window_is_the_data_there(fitted):
    """Simulation unmorphed is 0.5 and 0.69 off; events themselves, and those the base flow made, both arrive."""
    found = fitted.sample(None, np.random.default_rng(0))
    assert WINDOW.contains(found.mass).all()
    assert len(found) == pytest.approx(6 * len(fitted.parents_), rel=0.01)
    moments_agree(found.x, [0.5, 0.0], COV, 0.15)
    moments_agree(fitted.sample(len(fitted.parents_), np.random.default_rng(0)).x, [0.5, 0.0], COV, 0.15)


def test_the_drift_with_the_mass_is_followed_into_the_window(fitted):
    found = fitted.sample(None, np.random.default_rng(0))
    slope = np.polyfit((found.mass - 3500) / 500, found.x[:, 1], 1)[0]
    assert slope == pytest.approx(0.8, abs=0.3)


def test_the_report_counts_and_closes(fitted):
    report = fitted.report_
    assert report.expected == pytest.approx(1_600, rel=0.07)
    assert fitted.sample(300, np.random.default_rng(0)).weight.sum() == pytest.approx(report.expected)
    assert report.beside.auc == pytest.approx(0.5, abs=0.03)
    assert report.lost_simulation == report.lost_data == 0.0


def test_a_still_morph_does_not_close():
    report = (
        tiny(simulation=sample(4_000, 1), learning_rate=1e-9)
        .fit(sample(4_000, 2, 100_000, truth=True), WINDOW)
        .report_
    )
    assert report.beside.auc > 0.6


def test_between_equal_samples_the_morph_is_the_identity():
    fitted = small(simulation=sample(8_000, 1), epochs=6, learning_rate=2e-3).fit(
        sample(8_000, 2, 100_000), WINDOW
    )
    fresh = sample(2_000, 3, 200_000)
    change = fitted.morph(fresh.x, fresh.mass) - fresh.x
    assert np.sqrt(np.mean(change**2)) < 0.2


def test_folds_seeds_order_window_and_round_trip(tmp_path):
    data, simulation = sample(2_000, 2, 100_000, truth=True), sample(2_000, 1)
    one = tiny(simulation=simulation).fit(data, WINDOW)
    assert isinstance(one, Reference)
    assert isinstance(one, Storable)
    first = one.sample(None, np.random.default_rng(4))
    assert len(first) == 2 * len(one.parents_)
    assert len(np.unique(first.identity)) == len(first)
    place = np.argsort(one.parents_.identity["event"])
    sorted_parents = one.parents_.identity[place]
    of = sorted_parents[np.searchsorted(sorted_parents["event"], first.identity["event"])]
    assert np.array_equal(fold_of(first.identity, 5, 3), fold_of(of, 5, 3))
    x = data.x.copy()
    x[WINDOW.contains(data.mass)] = 50.0
    mixed = np.random.default_rng(0).permutation(2_000)
    two = tiny(simulation=simulation.take(mixed)).fit(replace(data, x=x).take(mixed), WINDOW)
    second = two.sample(None, np.random.default_rng(4))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.identity, second.identity)
    other = tiny(simulation=simulation, seed=1).fit(data, WINDOW).sample(None, np.random.default_rng(4))
    assert not np.array_equal(first.x, other.x)
    save(one, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES, allow=("elsewhere.models.references.feta.Feta",))
    third = back.sample(None, np.random.default_rng(4))
    assert np.array_equal(first.x, third.x)
    assert np.array_equal(first.weight, third.weight)
    assert back.report_ == one.report_


def test_the_mass_spectrum_is_that_of_the_data():
    """Simulation flat in mass, data falling: the weights in the window must fall as the data do."""
    data = sample(20_000, 2, 100_000)
    keep = np.random.default_rng(0).random(20_000) < np.exp(-(data.mass - 3000) / 300)
    fitted = tiny(simulation=sample(4_000, 1)).fit(data.take(keep), WINDOW)
    found = fitted.sample(None, np.random.default_rng(0))
    inside = data.mass[keep & WINDOW.contains(data.mass)]
    assert np.average(found.mass, weights=found.weight) == pytest.approx(inside.mean(), abs=5.0)
    assert fitted.report_.expected == pytest.approx(len(inside), rel=0.1)


def test_bad_samples_and_settings_are_refused():
    data, simulation = sample(1_000, 2, 100_000), sample(1_000, 1)
    with pytest.raises(InputError, match="needs its simulation"):
        Feta().fit(data, WINDOW)
    with pytest.raises(InputError, match="simulation: no events within 400 GeV below 3400-3600"):
        tiny(simulation=simulation.take(simulation.mass > 3500)).fit(data, WINDOW)
    with pytest.raises(InputError, match="simulation has no event in 3400-3600"):
        tiny(simulation=simulation.take(~WINDOW.contains(simulation.mass))).fit(data, WINDOW)
    with pytest.raises(InputError, match="data below the window: weights must be finite, not negative"):
        tiny(simulation=simulation).fit(replace(data, weight=-data.weight), WINDOW)
    with pytest.raises(InputError, match="not been fitted"):
        Feta().sample(3, np.random.default_rng(0))
    for bad in ({"width": 0.0}, {"oversampling": 0}, {"epochs": 0}, {"validation": 1.0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Feta(**bad)


def test_a_shared_base_is_learnt_once_for_all_windows_and_from_all_simulation(monkeypatch):
    from elsewhere.models.references import feta

    learnt = []
    fit = feta.ConditionalFlow.fit

    def counted(x, *rest):
        learnt.append(len(x))
        return fit(x, *rest)

    monkeypatch.setattr(feta.ConditionalFlow, "fit", counted)
    monkeypatch.setattr(feta, "_BASES", {})
    simulation, data = sample(2_000, 1), sample(2_000, 2, 100_000, truth=True)
    other = Window(3500.0, 3700.0)
    shared = [tiny(simulation=simulation, shared_base=True).fit(data, w) for w in (WINDOW, other)]
    assert learnt == [2_000]
    monkeypatch.setattr(feta, "_BASES", {})
    alone = tiny(simulation=simulation, shared_base=True).fit(data, other)
    x, y = (one.sample(None, np.random.default_rng(3)).x for one in (shared[1], alone))
    np.testing.assert_array_equal(x, y)
    # others do not take it: another seed, another simulation, and a base of their own
    for change in ({"seed": 1}, {"simulation": sample(2_000, 5)}, {"shared_base": False, "width": 100.0}):
        tiny(**{"simulation": simulation, "shared_base": True, **change}).fit(data, WINDOW)
    assert learnt[2:4] == [2_000, 2_000]
    assert learnt[4] < 1_000
