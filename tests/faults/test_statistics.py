"""Scores and spectra at the edge of what a statement can be made of."""

import numpy as np
import pytest
from elsewhere.analysis.hunt import hunt, scan
from elsewhere.analysis.hunt_backgrounds import unfitted_z
from elsewhere.analysis.spectrum import Spectra, nested_spectra, passing
from elsewhere.errors import ElsewhereError, FeatureError, FitError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of, identity_hash
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process
from scipy import stats

from .conftest import checked

EDGES = np.arange(2500.0, 6501.0, 100.0)
CENTRES = 0.5 * (EDGES[1:] + EDGES[:-1])
WINDOWS = [Window(c - 200.0, c + 200.0) for c in (3300.0, 3700.0, 4100.0)]


class Patched:
    """A score that gives what it was told."""

    def __init__(self, value):
        self.value = value

    def score(self, events):
        out = np.full(len(events), 0.5)
        out[1] = self.value
        return out


@pytest.mark.fault(38)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_stops_the_pass_with_its_name(good, tmp_path, value):
    with pytest.raises(FeatureError, match="scorer odd gave 1 scores that are not finite"):
        process(checked(good.a), Dijet(), tmp_path, scheduler="loop", scorers={"odd": Patched(value)})
    assert not list(tmp_path.rglob("*.parquet"))


def toy(n, seed, first=0):
    rng = np.random.default_rng(seed)
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    features = FeatureSet("toy", tuple(Column(f"f{i}", "", "") for i in range(3)))
    return Events(
        rng.normal(size=(n, 3)).astype(np.float32), np.full(n, np.nan), np.ones(n), identity, features
    )


@pytest.mark.fault(38)
def test_a_probability_outside_zero_and_one_is_refused():
    """A tree text of another objective gives raw sums."""
    fitted = WeakTrees(members=1, rounds=20).fit(toy(400, 1), toy(400, 2, first=1000))
    events = toy(50, 3, first=5000)
    before = fitted.score(events)
    assert ((before > 0) & (before < 1)).all()
    text = fitted.trees_[0]
    text = text.replace("objective=binary sigmoid:1", "objective=regression")
    assert text != fitted.trees_[0]
    fitted.restore({"members": 1}, {}, {"trees_0": text})
    with pytest.raises(ElsewhereError, match=r"WeakTrees gave .* outside 0 to 1"):
        fitted.score(events)


@pytest.mark.fault(38)
def test_a_network_whose_weights_are_no_numbers_is_refused():
    fitted = WeakNetwork(hidden=(4,), epochs=1, best=1).fit(toy(200, 1), toy(200, 2, first=1000))
    for member in fitted.members_:
        next(iter(member.values()))[...] = np.nan
    with pytest.raises(ElsewhereError, match=r"WeakNetwork gave .* outside 0 to 1"):
        fitted.score(toy(10, 3, first=5000))


@pytest.mark.fault(38)
@pytest.mark.parametrize("score", ["all equal", "two values"])
def test_ties_are_cut_by_the_events_hash_to_the_very_efficiency_asked(score):
    n = 5000
    rng = np.random.default_rng(2)
    mass = rng.uniform(2500, 6500, n)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = np.arange(n)
    fold, tie = fold_of(identity, 5, 1), identity_hash(identity, 1)
    values = np.full(n, 0.5) if score == "all equal" else np.where(np.arange(n) % 2, 0.5, 0.25)
    inside = np.ones(n, bool)
    chosen = passing(values, 0.01, fold, inside, tie)
    assert [chosen[fold == k].sum() for k in range(5)] == [round(0.01 * (fold == k).sum()) for k in range(5)]
    # Whatever the order of the rows, the same events; and no part of the spectrum is preferred.
    order = rng.permutation(n)
    again = passing(values[order], 0.01, fold[order], inside, tie[order])
    assert set(order[again]) == set(np.flatnonzero(chosen))
    chosen = passing(values, 0.4, fold, inside, tie)
    assert stats.ks_2samp(mass[chosen], mass[~chosen]).pvalue > 1e-3
    made = nested_spectra(mass, values, (1.0, 0.1, 0.01), EDGES, fold, tie)
    assert made.counts[2].sum() / made.counts[0].sum() == pytest.approx(0.01, abs=5 / n)


def falling(total, seed=1):
    """Counts of a falling spectrum."""
    shape = np.exp(-(CENTRES - 2500) / 400)
    return np.random.default_rng(seed).poisson(total * shape / shape.sum()).astype(float)


def scanned(counts):
    return scan(WINDOWS, [Spectra(EDGES, (1.0,), counts[None]) for _ in WINDOWS], 13_000.0)


@pytest.mark.fault(39)
def test_an_empty_signal_region_is_a_deficit_and_no_more():
    counts = falling(20_000)
    counts[WINDOWS[1].contains(CENTRES)] = 0
    results, failed = scanned(counts)
    assert failed == []
    one = next(r for r in results if r.window == WINDOWS[1])
    assert one.n == 0
    assert one.z < -5
    assert 0.99 < one.p_local <= 1
    assert all(np.isfinite([r.b, r.b_error, r.z, r.p_local]).all() for r in results)


@pytest.mark.fault(39)
def test_two_events_where_the_fit_expects_none_are_no_discovery():
    """73 events far below the window; the function falls to 1e-11 of an event, which is not known that well."""
    counts = np.zeros(40)
    counts[:4], counts[15] = (40, 20, 10, 3), 2
    results, _ = scanned(counts)
    one = next(r for r in results if r.window == WINDOWS[2])
    assert one.b < 0.01
    # No event beside the window: at 68 % at most 1.148 are expected there.
    assert one.p_local == pytest.approx(stats.poisson.sf(1, 1.148), rel=1e-3)
    counts[15] = 30
    one = next(r for r in scanned(counts)[0] if r.window == WINDOWS[2])
    assert one.z > 5


@pytest.mark.fault(39)
def test_the_bound_on_a_background_of_nothing_counts_what_lies_beside():
    counts = np.zeros(40)
    inside = WINDOWS[1].contains(CENTRES)
    assert unfitted_z(counts, inside) == 0.0
    counts[inside] = 1
    alone = unfitted_z(counts, inside)
    counts[np.flatnonzero(inside)[0] - 1] = 2
    assert 0 < unfitted_z(counts, inside) < alone
    p = stats.poisson.sf(3, 0.5 * stats.chi2.ppf(0.6827, 6))
    assert unfitted_z(counts, inside) == pytest.approx(stats.norm.isf(p))


EMPTY = {
    "empty histogram": (np.zeros(40), "is empty outside the window"),
    "all in one window": (np.where(WINDOWS[1].contains(CENTRES), 100.0, 0.0), "is empty outside the window"),
    "one filled bin": (np.where(np.arange(40) == 2, 50.0, 0.0), "did not converge on 50 events"),
    "one event": (np.where(np.arange(40) == 30, 1.0, 0.0), "did not converge on 1 events"),
}


@pytest.mark.fault(39)
@pytest.mark.parametrize("name", EMPTY)
def test_a_spectrum_that_cannot_be_fitted_is_said_and_gives_no_p_value(name):
    counts, why = EMPTY[name]
    results, failed = scanned(counts)
    assert any(why in text for text in failed)
    assert all(np.isfinite(r.z) for r in results)
    if not results:
        with pytest.raises(FitError, match=f"no window could be fitted: window 3100-3500 GeV.*{why}|{why}"):
            hunt(WINDOWS, [Spectra(EDGES, (1.0,), counts[None])] * 3, energy=13_000.0, signal_width=0.05, toys=50, seed=1)  # fmt: skip


@pytest.mark.fault(39)
def test_fewer_bins_than_parameters_are_refused():
    edges = np.arange(3100.0, 3801.0, 100.0)
    with pytest.raises(FitError, match="3 bins cannot determine 3 parameters"):
        hunt([WINDOWS[0]], [Spectra(edges, (1.0,), np.full((1, 7), 50.0))], energy=13_000.0, signal_width=0.05, toys=10, seed=1)  # fmt: skip


@pytest.mark.fault(39)
def test_all_events_in_the_sidebands_go_through_the_whole_hunt():
    counts = falling(5000)
    for window in WINDOWS:
        counts[window.contains(CENTRES)] = 0
    found = hunt(WINDOWS, [Spectra(EDGES, (1.0,), counts[None])] * 3, energy=13_000.0, signal_width=0.05, toys=50, seed=1)  # fmt: skip
    assert found.best.z < 0
    assert 0 < found.overall.p <= 1
    assert found.overall.p_high > 0.5
