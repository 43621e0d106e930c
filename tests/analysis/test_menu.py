"""Rates of a menu: counted by hand, with prescales against a simulation of counters, and what must be refused."""

import numpy as np
import pytest
from elsewhere.analysis.menu import menu_rates
from elsewhere.analysis.rates import crossing_khz, rate_at
from elsewhere.errors import ConfigError, FitError

BUNCHES = 2544
#: Eight crossings: which of three seeds pass.
HAND = {
    "jet": np.array([1, 1, 1, 1, 0, 0, 0, 0], bool),
    "muon": np.array([0, 0, 1, 1, 1, 0, 0, 0], bool),
    "anomaly": np.array([0, 0, 0, 1, 1, 1, 1, 0], bool),
}


def counts(rates, weight, key):
    """Rates as sums of weights."""
    scale = crossing_khz(BUNCHES) / weight.sum()
    return [getattr(seed, key).khz / scale for seed in rates.seeds]


def test_total_pure_unique_and_overlap_by_hand():
    weight = np.ones(8)
    found = menu_rates(HAND, weight, BUNCHES)
    assert counts(found, weight, "total") == pytest.approx([4, 3, 4])
    assert counts(found, weight, "pure") == pytest.approx([2, 0, 2])
    assert counts(found, weight, "unique") == pytest.approx([4, 1, 2])
    assert found.overall.khz == pytest.approx(crossing_khz(BUNCHES) * 7 / 8)
    assert found.overlap == pytest.approx(np.array([[1, 0.5, 0.25], [2 / 3, 1, 2 / 3], [0.25, 0.5, 1]]))
    assert found.seeds[1].pure.n_pass == 0
    assert found.seeds[1].pure.high > 0


def test_weights_count_and_unique_rates_add_up_to_the_menus():
    rng = np.random.default_rng(1)
    weight = rng.exponential(size=5000)
    passes = {f"s{i}": rng.random(5000) < 0.1 for i in range(5)}
    prescales = {"s1": 7.0, "s3": 2.0}
    found = menu_rates(passes, weight, BUNCHES, prescales)
    assert sum(seed.unique.khz for seed in found.seeds) == pytest.approx(found.overall.khz)
    plain = menu_rates(passes, weight, BUNCHES)
    want = crossing_khz(BUNCHES) * weight[passes["s1"]].sum() / weight.sum()
    assert plain.seeds[1].total.khz == pytest.approx(want)
    assert found.seeds[1].total.khz == pytest.approx(want / 7)
    assert found.seeds[0].pure.khz > plain.seeds[0].pure.khz


def test_prescales_are_those_of_independent_counters():
    """Against a draw of counters: 400,000 crossings, four deviations."""
    rng = np.random.default_rng(2)
    n = 400_000
    passes = {name: rng.random(n) < share for name, share in (("a", 0.3), ("b", 0.2), ("c", 0.5))}
    prescales = {"a": 3.0, "c": 10.0}
    kept = {name: p & (rng.random(n) < 1 / prescales.get(name, 1.0)) for name, p in passes.items()}
    found = menu_rates(passes, np.ones(n), BUNCHES, prescales)
    drawn = menu_rates(kept, np.ones(n), BUNCHES)
    for key in ("total", "pure", "unique"):
        for one, other in zip(counts(found, np.ones(n), key), counts(drawn, np.ones(n), key), strict=True):
            assert one == pytest.approx(other, abs=4 * np.sqrt(other))


def test_one_seed_is_the_rate_at_a_threshold():
    rng = np.random.default_rng(3)
    score, weight = rng.normal(size=3000), rng.random(3000)
    alone = menu_rates({"score": score > 2.0}, weight, BUNCHES).seeds[0]
    want = rate_at(score, weight, 2.0, BUNCHES)
    for rate in (alone.total, alone.pure, alone.unique):
        assert (rate.khz, rate.low, rate.high, rate.n_pass) == (want.khz, want.low, want.high, want.n_pass)


def test_few_crossings_of_small_weight_do_not_bound_the_common_ones():
    weight = np.ones(2000)
    weight[:50] = 1e-6  # an enriched kind, and one of them alone passes
    passing = np.zeros(2000, bool)
    passing[3] = True
    found = menu_rates({"rare": passing}, weight, BUNCHES).seeds[0].total
    nothing = menu_rates({"none": np.zeros(2000, bool)}, weight, BUNCHES).seeds[0].total
    assert found.high == nothing.high > 1e3 * found.khz
    assert found.low < found.khz


def test_a_part_of_a_rate_is_bounded_by_the_whole():
    """Twenty enriched crossings have a sharp total rate; the one of them that is pure has no higher bound than that."""
    weight = np.ones(2000)
    weight[:50] = 1e-6
    first, second = np.zeros((2, 2000), bool)
    first[1:20], second[:20] = True, True
    found = menu_rates({"first": first, "second": second}, weight, BUNCHES).seeds[1]
    assert found.pure.n_pass == found.unique.n_pass == 1
    assert found.pure.high == found.unique.high == found.total.high < 2 * found.total.khz


@pytest.mark.parametrize(
    ("passes", "weight", "prescales", "error", "words"),
    [
        ({}, np.ones(8), {}, ConfigError, "at least one seed"),
        (HAND, np.ones(8), {"tau": 2.0}, ConfigError, "'tau'"),
        (HAND, np.ones(8), {"jet": 0.5}, ConfigError, "'jet'"),
        (HAND, np.ones(7), {}, FitError, "seed jet"),
        ({"jet": np.ones(8)}, np.ones(8), {}, FitError, "float64"),
        (HAND, -np.ones(8), {}, FitError, "not negative"),
        (HAND, np.full(8, np.nan), {}, FitError, "finite"),
    ],
)
def test_what_makes_no_menu_is_refused(passes, weight, prescales, error, words):
    with pytest.raises(error, match=words):
        menu_rates(passes, weight, BUNCHES, prescales)
