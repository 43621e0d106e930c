"""Conditional quantiles of a score against a toy whose quantiles are known, and what flattening must and must not change."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.methods import build, papers_of
from elsewhere.models.quantiles import QuantileCurves, pinball, quantile_coefficients
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.scores.quantile_flattened import QuantileFlattened
from scipy.optimize import minimize
from scipy.stats import chi2, norm, spearmanr

FEATURES = FeatureSet("drift", (Column("s", "", "score"),), Column("m", "GeV", "mass"))
EFFICIENCIES = (0.5, 0.1, 0.01)


@dataclass
class Given:
    """The column itself; remembers what it was shown."""

    paper = ""
    shown: tuple = ()

    def fit(self, reference, data):
        self.shown = (reference, data)
        return self

    def score(self, events):
        return events.x[:, 0].astype(np.float64)


def centre(mass):
    return 3.0 * np.log(mass / 2000) ** 2


def width(mass):
    return 0.5 + np.log(mass / 2000)


def drifting(n, seed, first=0, weight=None):
    """A falling spectrum in which the score rises and widens with the mass."""
    rng = np.random.default_rng(seed)
    mass = 2000 + rng.exponential(900, n).clip(max=5000)
    s = centre(mass) + width(mass) * rng.normal(size=n)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = first + np.arange(n)
    weight = np.ones(n) if weight is None else weight
    return Events(s[:, None].astype(np.float32), mass, weight, identity, FEATURES)


@pytest.fixture(scope="module")
def flattened():
    return QuantileFlattened(Given(), held=0.0, sample="reference").fit(drifting(60_000, 1), drifting(9, 2))


@pytest.fixture(scope="module")
def fresh():
    return drifting(40_000, 3, first=1_000_000)


def against_flat(passed, mass):
    """p-value of the same efficiency in ten bins of the mass, by a binomial chi squared."""
    edges = np.quantile(mass, np.linspace(0, 1, 11))
    which = np.clip(np.searchsorted(edges, mass, side="right") - 1, 0, 9)
    n, k = np.bincount(which, minlength=10), np.bincount(which, passed, minlength=10)
    p = passed.mean()
    return chi2(9).sf(((k - n * p) ** 2 / (n * p * (1 - p))).sum())


@pytest.mark.parametrize("eps", EFFICIENCIES)
def test_a_cut_is_flat_in_the_mass_on_events_not_learnt_from(eps, flattened, fresh):
    plain, score = fresh.x[:, 0], flattened.score(fresh)
    assert against_flat(plain > np.quantile(plain, 1 - eps), fresh.mass) < 1e-30
    passed = score > -np.log(eps)
    assert against_flat(passed, fresh.mass) > 0.01
    assert passed.mean() == pytest.approx(eps, abs=4 * np.sqrt(eps / 40_000))  # of both samples


def test_between_the_curves_it_is_nearly_flat(flattened, fresh):
    passed = flattened.score(fresh) > -np.log(0.03)
    assert 0.02 < passed.mean() < 0.045
    low, high = (passed[mask].mean() for mask in (fresh.mass < 2500, fresh.mass > 3500))
    assert low == pytest.approx(high, rel=0.2)


def test_the_curves_are_the_known_quantiles(flattened):
    mass = np.linspace(2050, 5000, 60)
    found = flattened.curves(mass)
    for k, eps in enumerate(EFFICIENCIES):
        truth = centre(mass) + width(mass) * norm.ppf(1 - eps)
        assert np.abs(found[:, k] - truth).max() < 0.1 * width(5000) * (3 if eps < 0.05 else 1)


def test_the_order_at_one_mass_is_that_of_the_inner_score(flattened, fresh):
    for mass in (2100.0, 3000.0, 6900.0):
        here = replace(fresh, mass=np.full(len(fresh), mass))
        s = here.x[:, 0].astype(np.float64)
        order = np.argsort(s, kind="stable")
        assert (np.diff(flattened.score(here)[order])[np.diff(s[order]) > 0] > 0).all()
    assert spearmanr(fresh.x[:, 0], flattened.score(fresh)).statistic < 0.97  # but not over all masses


def test_beyond_the_masses_learnt_from_the_curves_stay(flattened):
    low, high = np.exp(flattened.curves_.knots[[0, -1]])
    ends = flattened.curves(np.array([low, high]))
    np.testing.assert_allclose(flattened.curves(np.array([low / 3, high * 3])), ends, rtol=1e-12)
    one = drifting(2, 1)
    near, far = (
        flattened.score(replace(one, mass=m * np.array([low, high]))) for m in (1.0, np.array([0.1, 5]))
    )
    np.testing.assert_allclose(near, far, rtol=1e-9)


def test_one_efficiency_is_the_published_difference(fresh):
    one = QuantileFlattened(Given(), (0.1,), held=0.0, sample="reference").fit(drifting(60_000, 1), fresh)
    wanted = fresh.x[:, 0] - one.curves(fresh.mass)[:, 0]
    np.testing.assert_allclose(one.score(fresh), wanted - np.log(0.1), rtol=1e-9, atol=1e-9)
    assert against_flat(one.score(fresh) > -np.log(0.1), fresh.mass) > 0.01
    assert against_flat(wanted > np.quantile(wanted, 0.99), fresh.mass) < 1e-6  # elsewhere it is not flat


def test_the_regression_is_at_the_smallest_pinball_loss():
    rng = np.random.default_rng(1)
    u, weight = rng.uniform(size=300), rng.uniform(0.2, 2.0, 300)
    y = np.sin(4 * u) + rng.exponential(0.3, 300)
    basis = np.stack([np.ones(300), u, u**2, u**3], axis=1)
    c = quantile_coefficients(basis, y, weight, 0.8)
    best = pinball(y, basis @ c, 0.8, weight)
    for start in range(5):  # slow and independent
        other = minimize(
            lambda k: pinball(y, basis @ k, 0.8, weight), rng.normal(size=4), method="Nelder-Mead",
            options={"maxiter": 4000, "xatol": 1e-9, "fatol": 1e-12, "maxfev": 8000},
        )  # fmt: skip
        assert best <= other.fun + 1e-12
        assert start or other.fun < 1.05 * best
    assert weight[y > basis @ c + 1e-9].sum() <= 0.2 * weight.sum()
    assert weight[y >= basis @ c - 1e-9].sum() >= 0.2 * weight.sum()
    constant = quantile_coefficients(np.ones((300, 1)), y, np.ones(300), 0.333)
    assert constant[0] == pytest.approx(np.sort(y)[int(0.333 * 300)])
    least = c + np.array([0.5, -9, -9, -9])
    bounded = quantile_coefficients(basis, y, weight, 0.8, least)
    assert (bounded >= least - 1e-9).all()
    assert bounded[0] == pytest.approx(least[0])


def test_curves_never_cross_even_where_their_best_would():
    rng = np.random.default_rng(2)
    u = rng.uniform(size=400)
    y = rng.normal(size=400)
    grid = np.linspace(-0.2, 1.2, 500)
    taus = (0.80, 0.81, 0.82, 0.83)
    assert (np.diff(QuantileCurves.fit(u, y, np.ones(400), taus, 8)(grid), axis=1) > 0).all()
    apart = [QuantileCurves.fit(u, y, np.ones(400), (tau,), 8)(grid)[:, 0] for tau in taus]
    assert (np.diff(apart, axis=0) < 0).any()


def test_an_event_of_weight_three_is_three_events():
    rng = np.random.default_rng(4)
    weight = rng.integers(1, 4, 3000).astype(float)
    heavy = drifting(3000, 5, weight=weight)
    many = heavy.take(np.repeat(np.arange(3000), weight.astype(int)))
    many = replace(many, weight=np.ones(len(many)))
    found = [
        QuantileFlattened(Given(), (0.5, 0.1), held=0.0, sample="reference")
        .fit(e, e)
        .curves(np.array([2200.0, 4000]))
        for e in (heavy, many)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=0.02)


def test_the_inner_score_sees_only_what_the_curves_do_not():
    reference, data = drifting(4000, 1), drifting(4000, 2, first=10_000)
    made = QuantileFlattened(Given(), (0.5, 0.1), held=0.3).fit(reference, data)
    for shown, whole in zip(made.inner.shown, (reference, data), strict=True):
        assert len(shown) / len(whole) == pytest.approx(0.7, abs=0.03)
    for sample, used in (("reference", [0]), ("data", [1]), ("both", [0, 1])):
        knots = replace(made, sample=sample).fit(reference, data).curves_.knots
        mass = [
            whole.mass[~np.isin(whole.identity["event"], shown.identity["event"])]
            for shown, whole in zip(made.inner.shown, (reference, data), strict=True)
        ]
        seen = np.log(np.concatenate([mass[i] for i in used]))
        assert (knots[0], knots[-1]) == (seen.min(), seen.max())
    both = QuantileFlattened(Given(), (0.5, 0.1), held=0.0).fit(reference, data)
    assert [len(e) for e in both.inner.shown] == [4000, 4000]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (replace(drifting(500, 1), mass=np.full(500, np.nan)), "m of 500 events is not a number above 0"),
        (replace(drifting(500, 1), mass=np.zeros(500)), "m of 500 events is not a number above 0"),
        (
            replace(drifting(500, 1), mass=np.full(500, np.nan), features=FeatureSet("l1", FEATURES.columns)),
            "feature set 'l1' has no mass; use the inner score alone",
        ),
        (replace(drifting(500, 1), weight=-np.ones(500)), "weights must be finite, not negative"),
        (drifting(200, 1), "200 events are too few for the quantile 0.1 with 3 pieces, which takes 300"),
        (replace(drifting(500, 1), x=np.ones((500, 1), np.float32)), "the same for all events"),
        (replace(drifting(500, 1), mass=np.full(500, 2500.0)), "1 different masses .* too few for 3 pieces"),
    ],
)
def test_what_cannot_be_flattened_is_refused(events, message):
    with pytest.raises(InputError, match=message):
        QuantileFlattened(Given(), (0.5, 0.1), held=0.0, sample="data").fit(drifting(50, 2), events)


def test_a_score_without_mass_is_refused_too(flattened):
    with pytest.raises(InputError, match="m of 1 events is not a number above 0"):
        flattened.score(replace(drifting(3, 1), mass=np.array([3000, np.inf, 2500.0])))
    with pytest.raises(InputError, match="has not been fitted"):
        QuantileFlattened(Given()).score(drifting(3, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"efficiencies": [0.1, 0.5]}, "in falling order"),
        ({"efficiencies": []}, "at least one between 0 and 1"),
        ({"efficiencies": [1.0, 0.5]}, "between 0 and 1"),
        ({"pieces": 0}, "found pieces 0"),
        ({"held": 1.0}, "from 0 to below 1"),
        ({"sample": "signal"}, "sample"),
    ],
)
def test_impossible_settings_say_so(settings, message):
    with pytest.raises(ConfigError, match=message):
        build("QuantileFlattened", {"inner": {"method": "Mahalanobis"}, **settings}, "score")


def test_a_configuration_names_the_inner_score():
    made = build("QuantileFlattened", {"inner": {"method": "Mahalanobis"}, "efficiencies": [0.2]}, "score")
    assert made == QuantileFlattened(Mahalanobis(), (0.2,))
    assert papers_of("QuantileFlattened", {"inner": {"method": "Autoencoder"}}, "score") == [
        "2412.03747",
        Autoencoder.paper,
    ]
