"""PAWS and generator-based inference on Gaussians, where theta, mu and the likelihood ratio are known."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, InputError, LeakError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.folds import CrossFit
from elsewhere.models.networks.ratio import PriorGrid
from elsewhere.models.scores.paws import Gbi, Paws, weak_output
from elsewhere.models.scores.prior_fit import PriorPlan, PriorPoint, best_mixture, llr, mu_profile, search
from elsewhere.models.scores.prior_global import global_interval, global_p
from elsewhere.models.scores.prior_problem import PriorProblem, interval_of, sorted_samples
from scipy.optimize import minimize
from scipy.stats import kstest, spearmanr

FEATURES = FeatureSet("two", (Column("a", "", ""), Column("b", "", "")), Column("m", "GeV", ""))
WIDTH, AXIS = 0.7, np.linspace(0.5, 2.5, 5)
TRUTH = np.array([1.0, 2.0])
N = 8_000


def events(x: np.ndarray, run: int) -> Events:
    identity = np.zeros(len(x), IDENTITY)
    identity["run"], identity["event"] = run, np.arange(len(x))
    return Events(x.astype(np.float32), np.full(len(x), 3500.0), np.ones(len(x)), identity, FEATURES)


def background(n: int, run: int) -> Events:
    """Unit normal in two columns."""
    return events(np.random.default_rng(run).normal(size=(n, 2)), run)


def mixed(mu: float, run: int, n: int = N, at: np.ndarray = TRUTH) -> Events:
    """``n`` events, the part ``mu`` of them from N(``at``, 0.7), first."""
    rng = np.random.default_rng(run)
    x, k = rng.normal(size=(n, 2)), round(mu * n)
    x[:k] = at + WIDTH * rng.normal(size=(k, 2))
    return events(x, run)


def grid_of(n: int, own: bool = True) -> PriorGrid:
    rng = np.random.default_rng(7)
    points = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)
    theta = points[rng.integers(0, len(points), n)]
    return PriorGrid(
        events(theta + WIDTH * rng.normal(size=(n, 2)), 1), theta, background(n, 2) if own else None
    )


def exact(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """p(x | signal) / p(x | background)."""
    x = x.astype(float)
    return np.exp(-((x - at) ** 2).sum(1) / (2 * WIDTH**2) + (x**2).sum(1) / 2) / WIDTH**2


SMALL = {
    "hidden": (32, 32), "epochs": 25, "learning_rate": 3e-3, "batch": 2048, "starts": 1, "fit_epochs": 8, "calibration": 4000
}  # fmt: skip


def exact_fit(reference: Events, data: Events) -> np.ndarray:
    """mu and theta of lowest cross entropy by the exact likelihood ratio: what no classifier can do better."""
    r = len(reference) / len(data)

    def loss(p: np.ndarray) -> float:
        of_data, other = (1 + np.exp(p[0]) * (exact(e.x, p[1:]) - 1) for e in (data, reference))
        return float(np.log1p(r / of_data).sum() + np.log(other + r).sum())

    found = minimize(loss, [np.log(0.05), *TRUTH], method="Nelder-Mead").x
    return np.array([np.exp(found[0]), *found[1:]])


@pytest.fixture(scope="module")
def trained() -> Paws:
    return Paws(grids=(grid_of(100_000),), **SMALL).pretrain()


@pytest.fixture(scope="module")
def fitted(trained) -> Paws:
    return replace(trained).fit(background(2 * N, 4), mixed(0.1, 6))


@pytest.fixture(scope="module")
def best_possible() -> np.ndarray:
    return exact_fit(background(2 * N, 4), mixed(0.1, 6))


def test_the_golden_outputs():
    """f_WS for (mu, Lambda) and the three denominators."""
    for mu, ratio, balanced, published in ((0.01, 50.0, 0.598394, 0.600806), (0.1, 3.0, 0.545455, 0.571429)):
        value = llr([ratio], mu, 0.5)
        assert weak_output(value, 1.0) == pytest.approx(balanced, abs=1e-6)
        assert weak_output(value, 1.0 - mu) == pytest.approx(published, abs=1e-6)
    assert llr([2.0, 10.0], 0.5, 0.25) == pytest.approx(1 + 0.5 * (0.25 * 10 + 0.75 * 2 - 1))


def test_the_classifier_learns_the_ratio_at_every_theta(trained):
    network = trained.networks_[0]
    x = mixed(0.3, 11, 4000).x
    for theta in (TRUTH, np.array([2.25, 0.75])):
        assert spearmanr(network.ratios(x, theta), exact(x, theta)).statistic > 0.97
    assert trained.points_.shape == (25, 2)


def test_more_thetas_of_a_background_event_teach_the_same_ratio_with_less_noise():
    """Of few events the ratio is learnt better when each stands at several places of the grid."""
    grid, x, off = replace(grid_of(3000), background=background(1500, 2)), mixed(0.3, 11, 4000).x, {}
    for draws in (1, 8):
        network = Paws(grids=(grid,), **SMALL, theta_draws=draws).pretrain().networks_[0]
        off[draws] = np.mean(
            [np.abs(np.log(network.ratios(x, t) / exact(x, t))).mean() for t in (TRUTH, np.array([2.0, 1.0]))]
        )
    assert off[8] < 0.8 * off[1]
    with pytest.raises(ConfigError, match="theta_draws: found 0"):
        Paws(theta_draws=0)


def test_lambda_is_normalised_at_every_theta(trained):
    """E_B[Lambda] = 1: on the fit's own background exactly, on another within the spread of Lambda (10 % here)."""
    x, y, weight, held = sorted_samples(background(2 * N, 4), mixed(0.03, 5), 0, 0.3)
    problem = PriorProblem(trained.networks_, x, y, weight, held, 20_000, True)
    other = background(30_000, 40)
    for theta in trained.points_:
        table, kappa = problem.table(theta)
        assert table[0][y == 0].mean() == pytest.approx(1.0)
        raw = trained.networks_[0].ratios(x, theta)
        assert np.allclose(table[0], kappa[0] * raw)
        if theta.sum() <= 2.5:  # beyond, a few events carry the mean
            assert kappa[0] * trained.networks_[0].ratios(other.x, theta).mean() == pytest.approx(
                1.0, abs=0.1
            )
    unscaled = replace(problem, normalise=False).table(TRUTH)
    assert unscaled[1] == [1.0]


def test_theta_and_mu_are_found(fitted, best_possible):
    """As the exact ratio finds them in the same events; classifiers of eight seeds spread by 2.6 % in mu, 0.1 in theta."""
    assert best_possible == pytest.approx([0.1, *TRUTH], abs=0.15)
    best = fitted.best_
    assert np.abs(np.array(best["theta"]) - TRUTH).max() < 0.5  # one grid step
    assert best["mu"] == pytest.approx(best_possible[0], rel=0.12)
    assert fitted.z > 20
    low, high = fitted.interval(3.84)
    assert low < best["mu"] < high
    assert low < 0.1 < high
    assert len(fitted.ends_) == 2
    assert fitted.landscape_.shape == (25, 5)
    lowest = fitted.landscape_[np.argmin(fitted.landscape_[:, 2])]
    assert np.abs(lowest[:2] - TRUTH).max() <= 0.5


def test_the_fit_does_not_hang_on_which_events_are_put_aside(trained):
    """Fits of other seeds to the same events; fits of the exact ratio to fresh events spread by 0.0042."""
    fits = [replace(trained, seed=seed).fit(background(2 * N, 4), mixed(0.03, 5)) for seed in (0, 1)]
    assert fits[1].best_["mu"] == pytest.approx(fits[0].best_["mu"], rel=0.12)
    for fit in fits:
        low, high = fit.interval(3.84)
        assert low < 0.03 < high
        assert high - low == pytest.approx(2 * 1.96 * 0.0042, rel=0.4)


def test_the_score_is_the_likelihood_ratio(fitted):
    fresh = mixed(0.3, 12, 4000)
    values = fitted.score(fresh)
    assert spearmanr(values, exact(fresh.x, TRUTH)).statistic > 0.95
    assert np.array_equal(fitted.score(fresh.take(slice(1711, 1713))), values[1711:1713])
    assert ((values > 0) & (values < 1)).all()


def test_the_denominator_of_the_sample_gives_mu(trained, fitted):
    """Reference half as large as the data: r = 1/2, or scaled to r = 1, which makes no event more than there is."""
    reference, data = background(N // 2, 4), mixed(0.1, 6)
    plain, scaled = (replace(trained, denominator=d).fit(reference, data) for d in ("weights", "balanced"))
    assert (fitted.r_, plain.r_, scaled.r_) == (2.0, 0.5, 1.0)
    mu = exact_fit(reference, data)[0]
    assert [f.best_["mu"] for f in (plain, scaled)] == pytest.approx([mu, mu], rel=0.12)
    assert np.ptp(scaled.interval(3.84)) == pytest.approx(np.ptp(plain.interval(3.84)), rel=0.05)


def test_the_published_denominator_belongs_to_the_published_sample(trained):
    with pytest.raises(InputError, match="denominator '1 - mu'"):
        replace(trained, denominator="1 - mu").fit(background(2 * N, 4), mixed(0.1, 6))
    reference, data = background(round(0.9 * N), 4), mixed(0.1, 6)
    right = replace(trained, denominator="1 - mu").fit(reference, data)
    assert right.best_["mu"] == pytest.approx(exact_fit(reference, data)[0], rel=0.12)
    wrong = replace(trained, denominator="1 - mu").fit(background(N, 4), data)
    assert abs(wrong.best_["mu"] - 0.1) > abs(right.best_["mu"] - 0.1)


def test_without_signal_mu_is_consistent_with_zero(trained):
    for run in (20, 21):
        score = replace(trained).fit(background(2 * N, 4), mixed(0.0, run))
        assert score.z < 3
        assert score.interval(9.0)[0] == 0.0
        assert score.best_["mu"] < 0.02


def test_global_p_is_uniform_without_signal_and_small_with(trained):
    """Labels are exchangeable without signal, so p is uniform whatever the classifier; with signal the least possible."""
    small = replace(trained, points_=trained.points_[::3])
    p = [global_p(small, background(2000, 500 + s), background(1000, 600 + s), 49) for s in range(40)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.5) == pytest.approx(0.5, abs=0.25)
    assert global_p(trained, background(2 * N, 4), mixed(0.05, 8), 99) == 0.01
    data = background(100, 5)
    with pytest.raises(InputError, match="weights must be 1"):
        global_p(trained, replace(data, weight=2 * data.weight), background(100, 6))
    with pytest.raises(InputError, match="no classifier"):
        global_p(Paws(), data, background(100, 6))
    with pytest.raises(ConfigError, match="toys"):
        global_p(trained, data, background(100, 6), 0)


def test_an_interval_reaches_zero_unless_the_global_p_forbids_it(trained):
    """With signal both are the same; an excess at one theta of many is no lower end."""
    score, data = replace(trained).fit(background(2 * N, 4), mixed(0.05, 8)), mixed(0.05, 8)
    low, high = score.interval(3.84)
    assert low > 0
    assert global_interval((low, high), global_p(score, background(2 * N, 4), data, 99)) == (low, high)
    assert global_interval((low, high), 0.06) == (0.0, high)
    assert global_interval((low, high), 0.04) == (low, high)
    assert global_interval((low, high), 0.3, 1.0) == (low, high)  # 0.3 is little beside 0.317
    assert global_interval((low, high), 0.33, 1.0) == (0.0, high)
    for p in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="probability"):
            global_interval((low, high), p)


@pytest.mark.parametrize("own", [True, False])
def test_inference_with_a_learned_background(own, trained):
    """Signal classifier against simulation, or against half of the generated background."""
    make = Gbi(grids=(grid_of(30_000, own),), **SMALL)
    if own:
        make = replace(make, networks_=trained.networks_, points_=trained.points_)
    reference = background(4 * N, 4)
    score = deepcopy(make).fit(reference, mixed(0.05, 8))
    assert score.best_["mu"] == pytest.approx(0.05, rel=0.2)
    assert np.abs(np.array(score.best_["theta"]) - TRUTH).max() < 0.5
    assert score.z > 10
    low, high = score.interval(9.0)
    assert low < 0.05 < high
    none = deepcopy(make).fit(reference, mixed(0.0, 23))
    assert none.z < 3
    fresh = mixed(0.3, 12, 2000)
    assert spearmanr(score.score(fresh), exact(fresh.x, TRUTH)).statistic > 0.95
    back = Gbi(**SMALL).restore(*score.state())
    assert np.array_equal(back.score(fresh), score.score(fresh))
    assert back.own_ is not own


def test_two_topologies_share_theta(trained):
    """The second grid's signal sits at (-theta); the data hold that one alone: alpha -> 1."""
    first = grid_of(30_000)
    other = replace(first, signal=replace(first.signal, x=-first.signal.x), background=background(30_000, 13))
    score = Paws(grids=(first, other), **{**SMALL, "epochs": 12, "fit_epochs": 25}).fit(
        background(N, 4), mixed(0.1, 9, at=-TRUTH)
    )
    assert score.best_["alpha"] > 0.9
    assert score.best_["mu"] == pytest.approx(0.1, rel=0.25)
    fresh = events(np.array([[-1.0, -2.0], [1.0, 2.0]]), 30)
    values = score.score(fresh)
    assert values[0] > values[1]


def test_profile_and_mixture_against_brute_force():
    rng = np.random.default_rng(0)
    ratios = np.exp(rng.normal(-0.5, 1.0, (2, 500)))
    weight = rng.random(500)
    mus = np.linspace(0, 0.9, 10)
    nll = [[-(weight * np.log(1 + m * (r - 1))).sum() for r in ratios] for m in mus]
    losses = [lambda mu, r=r: -float(weight @ np.log1p(mu * (r - 1))) for r in ratios]
    found = mu_profile(losses, mus)
    assert np.allclose(found, 2 * (np.min(nll, axis=1) - np.min(nll)))
    assert best_mixture(lambda m, a: (np.log(m) + 3) ** 2, 1)[1] == pytest.approx(np.exp(-3), rel=1e-3)
    value, mu, alpha = best_mixture(lambda m, a: (np.log(m) + 3) ** 2 + (a - 0.8) ** 2, 2)
    assert (value, mu, alpha) == pytest.approx((0.0, np.exp(-3), 0.8), abs=1e-3)
    profile = np.column_stack([np.linspace(0, 1, 1001), (np.linspace(0, 1, 1001) - 0.4) ** 2 / 0.01])
    assert interval_of(profile, 1.0) == pytest.approx((0.3, 0.5), abs=1e-6)
    assert interval_of(profile, 1e6) == (0.0, 1.0)


def test_gradients_of_the_weak_loss(trained):
    x, y, weight, held = sorted_samples(background(600, 4), mixed(0.1, 5, 500), 0, 0.3)
    loss = PriorProblem(trained.networks_, x, y, weight, held, 20_000, True).objective(trained._each)
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([1.1, 1.9], -3.0)]
    rows, alpha = torch.arange(len(x)), torch.tensor(0.3)
    loss(*values, alpha, rows).backward()
    step = 1e-2
    with torch.no_grad():
        up, down = (loss(values[0], values[1] + s, alpha, rows) for s in (step, -step))
        assert float(values[1].grad) == pytest.approx(float(up - down) / (2 * step), rel=0.01)
        move = torch.tensor([step, 0.0])
        up, down = (loss(values[0] + s * move, values[1], alpha, rows) for s in (1, -1))
        assert float(values[0].grad[0]) == pytest.approx(float(up - down) / (2 * step), rel=0.1)


def test_determinism_order_storage_and_folds(trained):
    quick = replace(trained, starts=1, fit_epochs=5)
    parts = background(1500, 4), mixed(0.1, 5, 1500)
    score = replace(quick).fit(*parts)
    values = score.score(parts[1])
    rng = np.random.default_rng(0)
    shuffled = [p.take(rng.permutation(len(p))) for p in parts]
    assert np.array_equal(replace(quick).fit(*shuffled).score(parts[1]), values)
    back = Paws(**SMALL).restore(*score.state())
    assert np.array_equal(back.score(parts[1]), values)
    assert back.best_ == score.best_
    assert back.z == score.z
    assert deepcopy(score).grids == ()
    folds = CrossFit(quick, folds=2).fit(*parts)
    assert folds.members_[0].networks_[0].validation_loss == trained.networks_[0].validation_loss
    assert np.isfinite(folds.score(parts[1])).all()


def test_errors(trained):
    parts = background(300, 4), mixed(0.1, 5, 300)
    with pytest.raises(InputError, match="0 signal grids"):
        Paws().fit(*parts)
    with pytest.raises(InputError, match="has no background"):
        Paws(grids=(grid_of(100, own=False),)).fit(*parts)
    with pytest.raises(LeakError, match="background of its own"):
        replace(trained).fit(background(300, 2), parts[1])
    with pytest.raises(InputError, match="not been fitted"):
        Paws().score(parts[0])
    with pytest.raises(InputError, match="not been fitted"):
        Gbi().z  # noqa: B018
    with pytest.raises(InputError, match="reference: weights"):
        replace(trained).fit(replace(parts[0], weight=-parts[0].weight), parts[1])
    with pytest.raises(InputError, match="theta has shape"):
        PriorGrid(parts[0], np.zeros((5, 2)))
    with pytest.raises(InputError, match="at least two values"):
        PriorGrid(parts[0], np.ones((300, 2)))
    for bad in ({"validation": 0.0}, {"denominator": "r"}, {"starts": 0}, {"calibration": 0}):
        with pytest.raises(ConfigError):
            Paws(**bad)


def test_the_background_that_fixes_kappa_is_not_the_one_f_learnt_from(monkeypatch, trained):
    from elsewhere.models.scores import paws

    seen = {}

    def learn(settings, grid, sample, k):
        seen["learnt"] = set(sample.identity["event"])
        return trained.networks_[0]

    def sort(sample, *rest):
        seen["calibrated"] = set(sample.identity["event"])
        return sorted_samples(sample, *rest)

    monkeypatch.setattr(paws, "pretrained", learn)
    monkeypatch.setattr(paws, "sorted_samples", sort)
    Gbi(grids=(grid_of(200, own=False),), **{**SMALL, "fit_epochs": 1}).fit(
        background(600, 4), mixed(0.1, 5, 300)
    )
    assert seen["learnt"].isdisjoint(seen["calibrated"])
    assert len(seen["learnt"] | seen["calibrated"]) == 600


def test_the_mirror_image_is_tried():
    """No step leads anywhere, the minimum is at (2, 1): the mirror image of where the starts are is lower."""

    def objective(theta, log_mu, alpha, rows):
        return ((theta - torch.tensor([2.0, 1.0])) ** 2).sum() + 0.0 * (log_mu + alpha)

    plan = PriorPlan(starts=1, epochs=1, patience=1, rate=1e-9, clip=1.0, batch=10, seed=0)
    points = np.array([[0.5, 0.5], [2.5, 2.5]])
    rows = np.arange(5)
    best, ends = search(
        objective, points, PriorPoint(np.array([1.0, 2.0]), 0.01, 0.4, np.inf), rows, rows, plan
    )
    lowest = min(ends, key=lambda e: e.loss)
    assert lowest.theta[0] < lowest.theta[1]  # on the wrong side of the mirror
    assert best.theta == pytest.approx(lowest.theta[::-1], abs=1e-6)
    assert best.loss < lowest.loss
    assert ends[0].theta == pytest.approx([1.0, 2.0], abs=1e-6)
    assert ends[0].mu == pytest.approx(0.01)
