"""Ratios of densities against analytic ones, the fraction that R-ANODE finds, and the flow density."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.base import Density, Score
from elsewhere.models.folds import CrossFit
from elsewhere.models.networks.residual import MassFrame
from elsewhere.models.scores.anode import Anode
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.ranode import RAnode
from elsewhere.models.store import load, save
from scipy.stats import multivariate_normal, spearmanr

WINDOW = Window(3300.0, 3700.0)
FEATURES = FeatureSet("toy", (Column("a", "GeV", ""), Column("b", "", "")), Column("m", "GeV", "mass"))
COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.0]])
SIGNAL = np.array([1.5, -1.5])
FLOW: dict[str, Any] = {
    "kind": "nsf",
    "transforms": 1,
    "hidden": (24,),
    "epochs": 10,
    "best": 4,
    "learning_rate": 3e-3,
}
QUICK: dict[str, Any] = {"transforms": 1, "hidden": (8,), "epochs": 2, "best": 1, "batch": 256}
RESIDUAL: dict[str, Any] = {
    "signal_epochs": 15, "signal_transforms": 1, "signal_hidden": (24,), "signal_learning_rate": 5e-3,
    "splits": 1, "batch": 512, "signal_batch": 512, "signal_best": 4,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "signal_epochs": 2,
    "signal_transforms": 1,
    "signal_hidden": (8,),
    "splits": 2,
    "signal_best": 1,
}


def mean(m: np.ndarray) -> np.ndarray:
    return np.column_stack([m / 1000, -m / 2000])


def make(
    n: int, seed: int, low: float, high: float, *, first: int = 0, fraction: float = 0.0, shift: float = 0.0
) -> Events:
    """Background whose means move with the mass; the first ``fraction`` of the events a narrow signal."""
    rng = np.random.default_rng(seed)
    m = rng.uniform(low, high, n)
    x = mean(m) + shift + rng.multivariate_normal([0, 0], COVARIANCE, n)
    k = round(fraction * n)
    x[:k] = mean(m[:k]) + SIGNAL + 0.3 * rng.standard_normal((k, 2))
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    return Events(x.astype(np.float32), m, np.ones(n), identity, FEATURES)


def beside(n: int, seed: int) -> Events:
    events = make(n, seed, 2500, 4500)
    return events.take(~WINDOW.contains(events.mass))


def inside(n: int, seed: int, **how: Any) -> Events:
    return make(n, seed, *WINDOW, first=10**6 * seed, **how)


def log_background(events: Events, shift: float = 0.0) -> np.ndarray:
    return multivariate_normal([shift, shift], COVARIANCE).logpdf(events.x - mean(events.mass))


def log_signal(events: Events) -> np.ndarray:
    return multivariate_normal(SIGNAL, 0.09 * np.eye(2)).logpdf(events.x - mean(events.mass))


@cache
def shifted() -> Anode:
    return Anode(**FLOW | {"epochs": 14}).fit(beside(12_000, 11), inside(10_000, 2, shift=1.0))


@cache
def quick(cls: Any) -> Any:
    return cls(**QUICK, **(SMALL if cls is RAnode else {})).fit(beside(1500, 1), inside(800, 2))


def test_anode_learns_the_likelihood_ratio():
    fresh = inside(3000, 3, shift=0.5)
    found, true = shifted().log_ratio(fresh), log_background(fresh, 1.0) - log_background(fresh)
    assert spearmanr(found, true)[0] > 0.95
    core = (np.abs(fresh.x - mean(fresh.mass) - 0.5) < 2).all(axis=1)
    assert np.polyfit(true[core], found[core], 1)[0] == pytest.approx(1, abs=0.15)
    assert (found - true)[core].std() < 0.25
    assert (found - true)[core].mean() == pytest.approx(0, abs=0.1)


def test_anode_is_clipped_at_quantiles_of_the_reference():
    reference = beside(12_000, 11)
    ratio = shifted().log_ratio(reference)
    assert shifted().range_[1] == pytest.approx(np.quantile(ratio[np.isfinite(ratio)], 0.9999))
    wide = make(4000, 4, 2500, 4500, first=10**7, shift=2.5)
    score = shifted().score(wide)
    assert (score == shifted().range_[1]).sum() > 10
    assert score.min() >= shifted().range_[0]
    with pytest.raises(ConfigError, match=r"clip: found 0\.5"):
        Anode(clip=0.5)


@pytest.mark.parametrize("cls", [Anode, RAnode])
def test_masses_beyond_the_window_count_as_its_edge(cls):
    score, fresh = quick(cls), inside(50, 6)
    edges = [float(f(inside(800, 2).mass)) for f in (np.min, np.max)]
    if cls is RAnode:
        edges = [score.signal_.frame.low, score.signal_.frame.high]
    for beyond, edge in zip((2000.0, 5000.0), edges, strict=True):
        there, here = (score.score(replace(fresh, mass=np.full(50, m))) for m in (beyond, edge))
        assert np.array_equal(there, here)
    assert not np.array_equal(score.score(replace(fresh, mass=np.full(50, 3400.0))), score.score(fresh))


@pytest.mark.parametrize("cls", [Anode, RAnode, FlowDensity])
def test_events_outside_the_domain_get_the_lowest_score(cls):
    score, fresh = quick(cls), inside(400, 7)
    assert isinstance(score, Score)
    far = replace(fresh, x=fresh.x + np.float32(100))
    assert np.isfinite(score.score(far)).all()
    assert score.score(far).max() <= score.score(fresh).min()
    assert score.score(far).max() <= score.score(beside(1500, 1)).min()


@pytest.mark.parametrize("fraction", [0.1, 0.03])
def test_ranode_finds_the_signal_and_its_fraction(fraction):
    model = RAnode(**FLOW, **RESIDUAL).fit(beside(10_000, 1), inside(8000, 2, fraction=fraction))
    assert model.fraction_ == pytest.approx(fraction, rel=0.3)
    fresh = inside(3000, 3, fraction=0.5)
    score, true = model.score(fresh), log_signal(fresh) - log_background(fresh)
    assert spearmanr(score[:1500], true[:1500])[0] > 0.8
    assert (score[:1500, None] > score[None, 1500:]).mean() > 0.97 * (
        true[:1500, None] > true[None, 1500:]
    ).mean()
    x, m = model.sample_signal(2000, np.random.default_rng(0))
    drawn = x - mean(m)
    assert np.median(drawn, axis=0) == pytest.approx(SIGNAL, abs=0.15)
    low, high = np.quantile(drawn, [0.25, 0.75], axis=0)
    assert high - low == pytest.approx([0.4, 0.4], abs=0.25)  # 1.35 widths of 0.3; 1.35 for background
    assert WINDOW.contains(m).all()
    assert m.mean() == pytest.approx(3500, abs=30)


def test_ranode_begins_at_the_mixtures_start():
    """Hardly trained it is that Gaussian; from the paper's start it is as wide as the data."""
    data = inside(8000, 2, fraction=0.03)
    still: dict[str, Any] = {**RESIDUAL, "signal_epochs": 1, "signal_best": 1, "signal_learning_rate": 1e-8}
    drawn = {}
    for start in ("mixture", "normal"):
        model = RAnode(**FLOW, **still, start=start).fit(beside(10_000, 1), data)
        x, m = model.sample_signal(2000, np.random.default_rng(0))
        drawn[start] = x - mean(m)
        assert ("mean" in model.signal_.members_[0]) == (start == "mixture")  # pyright: ignore[reportOptionalMemberAccess]
        assert start == "normal" or model.fraction_ == pytest.approx(0.03, rel=0.2)
        again = RAnode(**FLOW, **still, start=start).restore(*model.state())
        if model.start_ is None or again.start_ is None:
            assert start == "normal"
        else:
            assert again.start_.mean.tolist() == model.start_.mean.tolist()
            assert again.start_.log_prob(x) == pytest.approx(model.start_.log_prob(x))
    assert np.median(drawn["mixture"], axis=0) == pytest.approx(SIGNAL, abs=0.15)
    assert (drawn["mixture"].std(axis=0) < 0.5).all()
    assert (drawn["normal"].std(axis=0) > 0.8).all()


def test_ranode_gains_little_where_there_is_nothing():
    """Its fraction alone says nothing without signal: the likelihood it gains over (almost) none does."""
    fractions = (1e-4, 0.03)
    gains = []
    for injected in (0.0, 0.1):
        data = inside(8000, 5, fraction=injected)
        model = RAnode(**FLOW, **RESIDUAL, fractions=fractions).fit(beside(10_000, 1), data)
        gains.append(8000 * model.signal_validation * (model.scan_[0.03] - model.scan_[1e-4]))
    assert gains[0] < 40
    assert gains[1] > 200


def test_ranode_takes_the_likeliest_of_several_fractions():
    model = RAnode(**FLOW, **RESIDUAL | {"signal_epochs": 6}, fractions=(1e-3, 0.1)).fit(
        beside(6000, 1), inside(5000, 2, fraction=0.1)
    )
    assert model.fraction_ == pytest.approx(0.1)
    assert set(model.scan_) == {1e-3, 0.1}
    assert model.scan_[0.1] > model.scan_[1e-3]
    assert "odds" not in model.signal_.members_[0]  # pyright: ignore[reportOptionalMemberAccess]


def test_ranode_averages_over_splits():
    signal = quick(RAnode).signal_
    assert len(signal.members_) == 2
    assert len(signal.fractions_) == 2
    assert quick(RAnode).fraction_ == pytest.approx(np.mean(signal.fractions_))
    v, m = np.random.default_rng(0).standard_normal((100, 2)), np.full(100, 3500.0)
    each = [np.exp(replace(signal, members_=[one], _networks={}).log_prob(v, m)) for one in signal.members_]
    assert np.exp(signal.log_prob(v, m)) == pytest.approx(np.mean(each, axis=0), rel=1e-4)
    assert not np.allclose(each[0], each[1], rtol=1e-3)


def test_the_signal_density_in_ranodes_ratio_integrates_to_one():
    model = quick(RAnode)
    low, high = model.background_.domain_.low, model.background_.domain_.high
    x, y = np.meshgrid(*(np.linspace(lo, up, 202)[1:-1] for lo, up in zip(low, high, strict=True)))
    points = np.column_stack([x.ravel(), y.ravel()]).astype(np.float32)
    events = replace(inside(len(points), 4), x=points, mass=np.full(len(points), 3500.0))
    known = model.background_.log_prob(events.x, events.mass)
    total = np.exp(model.log_ratio(events) + known).sum() * np.prod((high - low) / 201)
    assert total == pytest.approx(1, abs=0.02)


def test_mass_frame():
    m = 3300 + 400 * np.random.default_rng(0).power(2, 50_000)
    frame = MassFrame.fit(m, np.ones(50_000), 49)
    assert frame.inverse(frame.forward(m)) == pytest.approx(m)
    u = frame.forward(m)[:, 0]
    assert (u.mean(), u.std()) == pytest.approx((0, 1), abs=1e-9)
    # p(u) of the histogram is a density: integrate over u
    grid = np.linspace(frame.low, frame.high, 20_002)[1:-1]
    p = np.exp(frame.log_density(grid))
    v = frame.forward(grid)[:, 0]
    assert (0.5 * (p[1:] + p[:-1]) * np.diff(v)).sum() == pytest.approx(1, abs=0.01)
    slope = (frame.forward(m + 1e-4) - frame.forward(m - 1e-4))[:, 0] / 2e-4
    inner = (m > frame.low + 1) & (m < frame.high - 1)
    p_m = np.exp(frame.log_density(m)) * slope  # per GeV: 2 (m - 3300) / 400^2
    assert np.corrcoef(p_m[inner], 2 * (m[inner] - 3300) / 400**2)[0, 1] > 0.97


@cache
def density() -> FlowDensity:
    return FlowDensity(**FLOW).fit(beside(10_000, 1), beside(10, 2))


def test_flow_density_is_a_density_and_an_outlier_score():
    fresh = inside(2000, 8, fraction=0.0)
    assert isinstance(density(), Density)
    difference = density().log_density(fresh) - log_background(fresh)
    difference = difference[np.isfinite(difference)]
    assert len(difference) > 1995
    assert difference.mean() == pytest.approx(0, abs=0.05)
    score = density().score(fresh)
    known = np.isfinite(density().log_density(fresh)) & (score > density().floor_)
    assert np.array_equal(score[known], -density().log_density(fresh)[known])
    assert known.sum() > 1900
    odd = replace(fresh, x=(mean(fresh.mass) + np.array([2.0, -2.0])).astype(np.float32))
    assert np.median(density().score(odd)) > np.quantile(score, 0.95)


def test_given_the_mass_the_score_does_not_follow_it():
    events = make(4000, 9, 2500, 4500, first=10**7)
    free = FlowDensity(**FLOW | {"epochs": 5}, conditional=False).fit(beside(10_000, 1), beside(10, 2))
    near = np.abs(events.mass - 3500)
    assert abs(spearmanr(density().score(events), near)[0]) < 0.1
    assert spearmanr(free.score(events), near)[0] > 0.2
    assert np.array_equal(free.score(replace(events, mass=np.full(4000, np.nan))), free.score(events))


@pytest.mark.parametrize("cls", [Anode, RAnode, FlowDensity])
def test_promises(cls, tmp_path):
    """Batches, order of rows and seeds; a cross-fit; storage (bit for bit)."""
    reference, data, fresh = beside(1500, 1), inside(800, 2), inside(300, 3)
    settings = QUICK | (SMALL if cls is RAnode else {})
    score = quick(cls)
    values = score.score(fresh)
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    rows = np.random.default_rng(0).permutation(300)[:70]
    assert np.array_equal(score.score(fresh.take(rows)), values[rows])
    assert score.score(fresh.take(slice(0, 0))).shape == (0,)
    mixed = [e.take(np.random.default_rng(1).permutation(len(e))) for e in (reference, data)]
    assert np.array_equal(cls(**settings).fit(*mixed).score(fresh), values)
    assert not np.array_equal(cls(**settings, seed=1).fit(reference, data).score(fresh), values)
    fitted = CrossFit(cls(**settings), folds=2).fit(reference, data)
    save(fitted, tmp_path / "model", FEATURES, {})
    path = f"{cls.__module__}.{cls.__qualname__}"
    back, _ = load(tmp_path / "model", FEATURES, allow=(path,))
    assert np.array_equal(back.score(data), fitted.score(data))
    if cls is RAnode:
        assert back.members_[0].fraction_ == fitted.members_[0].fraction_


@pytest.mark.parametrize("cls", [Anode, RAnode, FlowDensity])
def test_errors(cls):
    reference, data = beside(400, 1), inside(200, 2)
    fresh = cls()
    with pytest.raises(InputError, match="not been fitted"):
        fresh.score(data)
    with pytest.raises(InputError, match="reference: column b is constant"):
        fresh.fit(replace(reference, x=reference.x * np.float32([1, 0])), data)
    with pytest.raises(InputError, match="not negative"):
        fresh.fit(replace(reference, weight=-reference.weight), data)
    with pytest.raises(InputError, match="reference: m is not finite"):
        fresh.fit(replace(reference, mass=reference.mass * np.nan), data)
    with pytest.raises(InputError, match="column a of an event to be scored"):
        quick(cls).score(replace(data, x=data.x * np.float32([np.nan, 1])))
    with pytest.raises(InputError, match="m is not finite"):
        quick(cls).score(replace(data, mass=data.mass * np.nan))
    with pytest.raises(ConfigError, match="expected one of"):
        cls(kind="gan")


def test_errors_of_ranode():
    for wrong, text in (
        ({"fractions": (0.0,)}, "fractions"),
        ({"splits": 0}, "splits"),
        ({"start": "mixed"}, "start: found 'mixed', expected mixture or normal"),
        ({"signal_best": 0}, "signal_best must be at least 1"),
        ({"signal_validation": 1.0}, "signal_validation 1.0"),
    ):
        with pytest.raises(ConfigError, match=text):
            RAnode(**wrong)
    data = inside(50, 2)
    with pytest.raises(InputError, match="different masses"):
        RAnode(**QUICK).fit(beside(400, 1), replace(data, mass=np.full(50, 3500.0)))
