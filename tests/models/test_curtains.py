"""CURTAINs by Sinkhorn and by maximum likelihood: a Gaussian that moves with the mass must arrive in the window."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of
from elsewhere.models.base import Reference, Storable
from elsewhere.models.networks.sinkhorn import sinkhorn_divergence
from elsewhere.models.references import curtains
from elsewhere.models.references.curtains import Curtains
from elsewhere.models.references.flow_for_flow import CurtainsFlow
from elsewhere.models.store import load, save

WINDOW = Window(3400.0, 3600.0)
FEATURES = FeatureSet("three", tuple(Column(f"f{i}", "", "") for i in range(3)), Column("m", "GeV", ""))
MIX = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.2, -0.3, 0.9]])
SLOPE = np.array([2.0, -1.0, 0.0])


def drift(mass):
    return ((mass - 3500) / 500)[:, None] * SLOPE


def sample(n, seed, first=0):
    """Masses falling from 3000 to 4000 GeV; features N(drift(m), MIX MIX^T)."""
    rng = np.random.default_rng(seed)
    mass = 3000 - 600 * np.log1p(-rng.random(n) * (1 - np.exp(-1000 / 600)))
    x = rng.normal(size=(n, 3)) @ MIX.T + drift(mass)
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), mass, np.ones(n), identity, FEATURES)


def by_sinkhorn(**more):
    return Curtains(
        **{"epochs": 10, "batch": 64, "learning_rate": 4e-3, "outer": 0.0, "hidden": (16, 16)} | more
    )


def by_likelihood(**more):
    small = {
        "kind": "maf",
        "transforms": 2,
        "base_hidden": (24,),
        "base_epochs": 15,
        "preprocess": "standard",
    }
    top = {"layers": 4, "hidden": (24,), "epochs": 12, "batch": 256, "learning_rate": 4e-3, "outer": 0.0}
    return CurtainsFlow(**small | top | more)


def tiny(cls, **more):
    if cls is Curtains:
        return by_sinkhorn(**{"epochs": 2, "layers": 2, "hidden": (4,), "blur": 0.1, "scaling": 0.4} | more)
    few = {"base_epochs": 1, "epochs": 1, "layers": 2, "hidden": (4,), "base_hidden": (4,), "transforms": 1}
    return by_likelihood(**few | more)


BOTH = (Curtains, CurtainsFlow)


@pytest.fixture(scope="module", params=[by_sinkhorn, by_likelihood], ids=["sinkhorn", "likelihood"])
def fitted(request):
    return request.param(outer=200.0).fit(sample(8_000, 1), WINDOW)


def test_events_arrive_in_the_window_as_the_background_there(fitted):
    found = fitted.sample(None, np.random.default_rng(0))
    assert WINDOW.contains(found.mass).all()
    rest = found.x - drift(found.mass)
    assert np.abs(rest.mean(axis=0)).max() < 0.09
    assert np.abs(np.cov(rest.T) - MIX @ MIX.T).max() < 0.12
    # the sidebands as they are, only given masses of the window, must fail the same test of the covariance
    parents = fitted.template_.parents
    still = parents.x - drift(np.full(len(parents), 3500.0))
    assert np.abs(np.cov(still.T) - MIX @ MIX.T).max() > 0.2


def test_every_band_arrives_by_itself(fitted):
    """Both directions: a map that only works upwards, or moves nothing, leaves 0.8 here."""
    parents = fitted.template_.parents
    mass = np.full(len(parents), 3500.0)
    x = fitted.move(parents, mass)
    for side in (parents.mass < 3400, parents.mass >= 3600):
        assert np.abs(x[side].mean(axis=0)).max() < 0.13
    there = replace(parents, x=x.astype(np.float32), mass=mass)
    assert np.abs(fitted.move(there, parents.mass) - parents.x).max() < 1e-3
    assert np.abs(fitted.move(parents, parents.mass) - parents.x).max() < 1e-4


def test_the_outer_bands_close_and_the_weights_count(fitted):
    report = fitted.report_
    for side in (report.below, report.above):
        assert side is not None
        assert side.auc == pytest.approx(0.5, abs=0.05)
        assert side.data > 500
    found = fitted.sample(700, np.random.default_rng(0))
    true = 8_000 * (np.exp(-400 / 600) - np.exp(-600 / 600)) / (1 - np.exp(-1000 / 600))
    assert report.expected == pytest.approx(true, rel=0.1)
    assert found.weight.sum() == pytest.approx(report.expected)
    assert report.lost < 0.01


def test_epochs_go_between_the_bands_and_within_them_in_turn(monkeypatch):
    seen = []
    for name in ("_between_bands", "_within_bands"):
        true = getattr(curtains, name)

        def watched(chances, steps, size, rng, true=true, name=name):
            made = true(chances, steps, size, rng)
            seen.append((name, [batch[2] for batch in made[:2]]))
            if name == "_within_bands":
                goals = {i: set().union(*(b[1].tolist() for b in made if b[2] == (i, i))) for i in (0, 1)}
                assert all(goals[b[2][0]].isdisjoint(b[0].tolist()) for b in made)
            return made

        monkeypatch.setattr(curtains, name, watched)
    tiny(Curtains, epochs=3).fit(sample(2_000, 1), WINDOW)
    up_and_down = ("_between_bands", [(0, 1), (1, 0)])
    assert seen == [up_and_down, ("_within_bands", [(0, 0), (1, 1)]), up_and_down]


def test_the_loss_compares_the_masses_beside_the_features(monkeypatch):
    seen = []

    def watched(x, y, blur, scaling):
        seen.append((x.detach().numpy(), y.detach().numpy()))
        return sinkhorn_divergence(x, y, blur, scaling)

    monkeypatch.setattr(curtains, "sinkhorn_divergence", watched)
    tiny(Curtains, epochs=1).fit(sample(2_000, 1), WINDOW)
    for moved, goal in seen:
        assert moved.shape == goal.shape == (64, 4)
        assert np.array_equal(moved[:, 3], goal[:, 3])
        assert np.abs(goal[:, 3]).max() <= 1.0


def test_a_still_map_does_not_close():
    """What the validation is for: without training the sideband does not look like the band beyond it."""
    still = tiny(Curtains, outer=200.0, learning_rate=1e-9, batch=1000, epochs=1)
    report = still.fit(sample(8_000, 1), WINDOW).report_
    assert report.below.auc > 0.58
    assert report.above.auc > 0.58


@pytest.mark.parametrize("cls", BOTH)
def test_copies_keep_the_fold_of_their_parent_and_are_distinct(cls):
    fitted = tiny(cls).fit(sample(3_000, 1), WINDOW)
    found = fitted.sample(None, np.random.default_rng(0))
    parents = fitted.template_.parents
    assert len(found) == 4 * len(parents)
    assert len(np.unique(found.identity)) == len(found)
    assert not np.isin(found.identity, parents.identity).any()
    numbers, counts = np.unique(found.identity["event"], return_counts=True)
    assert np.array_equal(numbers, np.sort(parents.identity["event"]))
    assert (counts == 4).all()
    place = np.argsort(parents.identity["event"])
    of = parents.identity[place][np.searchsorted(numbers, found.identity["event"])]
    for folds, seed in ((5, 0), (3, 17)):
        assert np.array_equal(fold_of(found.identity, folds, seed), fold_of(of, folds, seed))


@pytest.mark.parametrize("cls", BOTH)
def test_seeds_order_window_and_round_trip(cls, tmp_path):
    data = sample(2_000, 1)
    one = tiny(cls).fit(data, WINDOW)
    assert isinstance(one, Reference)
    assert isinstance(one, Storable)
    first = one.sample(500, np.random.default_rng(4))
    assert len(first) == 500
    # neither the order of the rows nor the data of the window matter
    inside = WINDOW.contains(data.mass)
    x = data.x.copy()
    x[inside] = 50.0
    other = replace(data, x=x).take(np.random.default_rng(0).permutation(2_000))
    second = tiny(cls).fit(other, WINDOW).sample(500, np.random.default_rng(4))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.identity, second.identity)
    assert not np.array_equal(
        first.x, tiny(cls, seed=1).fit(data, WINDOW).sample(500, np.random.default_rng(4)).x
    )
    save(one, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES, allow=(f"{cls.__module__}.{cls.__qualname__}",))
    third = back.sample(500, np.random.default_rng(4))
    assert np.array_equal(first.x, third.x)
    assert np.array_equal(first.weight, third.weight)
    assert np.array_equal(first.mass, third.mass)
    assert back.report_ == one.report_


@pytest.mark.parametrize("cls", BOTH)
def test_weights_are_chances_to_be_learnt_from_and_carried_along(cls):
    data = sample(3_000, 1)
    heavy = replace(data, weight=np.where(data.x[:, 0] > 0, 2.0, 0.0))
    fitted = tiny(cls).fit(heavy, WINDOW)
    found = fitted.sample(None, np.random.default_rng(0))
    none = np.isin(found.identity["event"], data.identity["event"][data.x[:, 0] <= 0])
    assert none.any()
    assert (found.weight[none] == 0).all()
    assert (found.weight[~none] > 0).all()


def piled_up(n, seed):
    """A column that begins at 0, where it is densest, and whose width grows with the mass."""
    data = sample(n, seed)
    x = data.x.copy()
    x[:, 2] = np.random.default_rng([seed, 1]).exponential(data.mass / 3500)
    return replace(data, x=x)


def test_a_column_keeps_its_end_and_the_events_piled_up_there():
    """Where the map may pass the ends, events near 0 leave the column or crowd elsewhere."""

    def near(bound):
        found = (
            by_sinkhorn(bound=bound).fit(piled_up(8_000, 1), WINDOW).sample(None, np.random.default_rng(0))
        )
        return found.x[:, 2].min(), np.mean(found.x[:, 2] < 0.05)

    lowest, share = near(1.0)
    true = 1 - np.exp(-0.05)
    assert lowest >= 0
    assert share == pytest.approx(true, abs=0.006)
    lowest, share = near(1.2)
    assert lowest < 0
    assert abs(share - true) > 0.006


def test_events_outside_a_columns_range_are_left_out():
    data = sample(3_000, 1)
    narrow = replace(FEATURES, columns=(Column("f0", "", "", -1.0, 1.0), *FEATURES.columns[1:]))
    fitted = tiny(Curtains).fit(replace(data, features=narrow), WINDOW)
    found = fitted.sample(None, np.random.default_rng(0))
    assert np.abs(found.x[:, 0]).max() <= 1.0
    assert 0.1 < fitted.report_.lost < 0.6
    assert found.weight.sum() == pytest.approx(fitted.report_.expected)


@pytest.mark.parametrize("cls", BOTH)
def test_bad_samples_and_settings_are_refused(cls):
    data = sample(1_000, 1)
    with pytest.raises(InputError, match="no events within 200 GeV above 3950-4100; widen"):
        tiny(cls).fit(data, Window(3950.0, 4100.0))
    negative = replace(data, weight=np.where(np.arange(1000) % 7 == 0, -1.0, 1.0))
    with pytest.raises(InputError, match="weights must be finite, not negative"):
        tiny(cls).fit(negative, WINDOW)
    x = data.x.copy()
    x[:, 1] = 3.0
    with pytest.raises(InputError, match="constant"):
        tiny(cls).fit(replace(data, x=x), WINDOW)
    with pytest.raises(InputError, match="not been fitted"):
        cls().sample(3, np.random.default_rng(0))
    for bad in ({"width": 0.0}, {"outer": -1.0}, {"oversampling": 0}, {"epochs": 0}, {"layers": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            cls(**bad)
