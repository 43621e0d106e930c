"""Conditional densities against analytic ones: values, normalisation, samples, latent space, storage, errors."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FitError, InputError
from elsewhere.events import Window
from elsewhere.models.arrays import read_arrays, write_arrays
from elsewhere.models.networks.domain import Domain
from elsewhere.models.networks.flow_modules import build_flow
from elsewhere.models.networks.flows import ConditionalFlow, FlowSettings
from elsewhere.models.networks.mass_density import SidebandMass, WindowMass
from scipy.stats import kstest, multivariate_normal

COVARIANCE = np.array([[1.0, 0.6], [0.6, 1.0]])
SETTINGS = {
    "maf": FlowSettings("maf", 3, (24,), epochs=20, learning_rate=3e-3, best=5),
    "standard": FlowSettings("maf", 3, (24,), epochs=20, learning_rate=3e-3, best=5, preprocess="standard"),
    "nsf": FlowSettings("nsf", 1, (24,), epochs=15, learning_rate=3e-3, best=4),
    "cfm": FlowSettings("cfm", hidden=(48, 48), epochs=80, learning_rate=4e-3, best=8, batch=512, steps=12),
}
QUICK = FlowSettings("maf", 1, (8,), epochs=2, learning_rate=1e-2, best=2, batch=512)


def mean(m: np.ndarray) -> np.ndarray:
    """The toy: two correlated columns whose mean moves linearly with the mass [GeV]."""
    return np.column_stack([m / 1000, -m / 2000])


def toy(n: int, seed: int, low: float = 2500.0, high: float = 4500.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    m = rng.uniform(low, high, n)
    return mean(m) + rng.multivariate_normal([0, 0], COVARIANCE, n), m


def truth(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    return multivariate_normal([0, 0], COVARIANCE).logpdf(x - mean(m))


def hashes(n: int, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


@cache
def fitted(name: str) -> ConditionalFlow:
    x, m = toy(12_000, 1)
    beside = (m < 3300) | (m >= 3700)
    x, m = x[beside], m[beside]
    return ConditionalFlow.fit(x, m, np.ones(len(m)), hashes(len(m)), SETTINGS[name], seed=3)


@cache
def quick() -> ConditionalFlow:
    x, m = toy(1500, 1)
    return ConditionalFlow.fit(x, m, np.ones(len(m)), hashes(len(m)), QUICK)


def test_a_stiff_density_takes_less_noise_from_the_condition():
    """Nothing varies with the mass; what a density learns of it is noise. Where the mean does vary, a stiff one follows."""
    x, m = toy(4000, 3)
    noise, h = x - mean(m), hashes(4000)
    grid, at = np.repeat(np.linspace(2500, 4500, 21), 50), np.tile(noise[:50], (21, 1))
    spread = {}
    for stiffness in (1.0, 10.0):
        how = FlowSettings("nsf", 2, (64,), epochs=25, learning_rate=3e-3, best=1, stiffness=stiffness)
        flat = ConditionalFlow.fit(noise, m, np.ones(4000), h, how, seed=3)
        spread[stiffness] = flat.log_prob(at, grid).reshape(21, 50).std(axis=0).mean()
    assert spread[10.0] < 0.5 * spread[1.0]
    moving = ConditionalFlow.fit(x, m, np.ones(4000), h, how, seed=3)
    ends = [moving.sample(np.full(4000, e), np.random.default_rng(5)).mean(axis=0) for e in (2600.0, 4400.0)]
    assert ends[1] - ends[0] == pytest.approx([1.8, -0.9], abs=0.2)


@pytest.mark.parametrize("name", SETTINGS)
def test_density_interpolates_into_the_window(name):
    x, m = toy(3000, 2, 3300, 3700)
    difference = fitted(name).log_prob(x, m) - truth(x, m)
    difference = difference[np.isfinite(difference)]
    assert len(difference) > 2990
    assert difference.mean() == pytest.approx(0, abs=0.05)  # minus the Kullback-Leibler divergence
    assert difference.std() < (0.15 if name == "standard" else 0.35)


@pytest.mark.parametrize("name", SETTINGS)
def test_samples_in_the_window(name):
    m = np.random.default_rng(4).uniform(3300, 3700, 8000)
    x = fitted(name).sample(m, np.random.default_rng(5)) - mean(m)
    assert x.mean(axis=0) == pytest.approx([0, 0], abs=0.12)
    assert np.cov(x.T) == pytest.approx(COVARIANCE, abs=0.12)
    assert np.corrcoef(m, x[:, 0])[0, 1] == pytest.approx(0, abs=0.06)  # the mean follows the mass
    assert np.array_equal(fitted(name).sample(m, np.random.default_rng(5)) - mean(m), x)
    assert not np.array_equal(fitted(name).sample(m, np.random.default_rng(6)) - mean(m), x)


@pytest.mark.parametrize("name", ["maf", "standard", "nsf"])
def test_density_integrates_to_one_in_two_dimensions(name):
    flow = fitted(name)
    low, high = flow.domain_.low, flow.domain_.high
    x, y = np.meshgrid(*(np.linspace(lo, up, 202)[1:-1] for lo, up in zip(low, high, strict=True)))
    cell = np.prod((high - low) / 201)
    total = (
        np.exp(flow.log_prob(np.column_stack([x.ravel(), y.ravel()]), np.full(x.size, 3500.0))).sum() * cell
    )
    assert total == pytest.approx(1, abs=0.01)


def test_flow_matching_integrates_to_one_in_one_dimension():
    x, m = toy(3000, 1)
    settings = replace(SETTINGS["cfm"], epochs=20, hidden=(24, 24))
    flow = ConditionalFlow.fit(x[:, :1], m, np.ones(len(m)), hashes(len(m)), settings)
    grid = np.linspace(flow.domain_.low, flow.domain_.high, 1002)[1:-1]
    density = np.exp(flow.log_prob(grid, np.full(len(grid), 3500.0)))
    assert density.sum() * (grid[1] - grid[0]).item() == pytest.approx(1, abs=0.01)


def test_one_column_and_two_conditions():
    rng = np.random.default_rng(1)
    c = rng.uniform(-1, 1, (6000, 2))
    x = (c[:, 0] - 2 * c[:, 1] + rng.standard_normal(6000))[:, None]
    settings = FlowSettings("nsf", 1, (24,), epochs=15, learning_rate=1e-2, best=3, batch=512)
    flow = ConditionalFlow.fit(x, c, np.ones(6000), hashes(6000), settings)
    assert flow.sample(np.tile([0.5, -0.5], (4000, 1)), rng).mean() == pytest.approx(1.5, abs=0.1)
    known = -0.5 * (x[:, 0] - c[:, 0] + 2 * c[:, 1]) ** 2 - 0.5 * np.log(2 * np.pi)
    found = flow.log_prob(x, c)
    assert np.nanmean(np.where(np.isfinite(found), found - known, np.nan)) == pytest.approx(0, abs=0.03)


def test_steps_of_flow_matching_agree():
    x, m = toy(100, 2, 3300, 3700)
    fine = replace(fitted("cfm"), settings=replace(SETTINGS["cfm"], steps=40), _networks={})
    assert fine.log_prob(x, m) == pytest.approx(fitted("cfm").log_prob(x, m), abs=0.02)
    z = fitted("cfm").to_latent(x, m)
    assert fitted("cfm").from_latent(z, m) == pytest.approx(x, abs=0.01)


def test_flow_matching_divergence_is_that_of_autograd():
    network = build_flow(SETTINGS["cfm"].network(2, 1, 0)).double()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    x, c = torch.tensor([[0.3, -0.7]], dtype=torch.float64), torch.tensor([[0.4]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda a: network.velocity(a, torch.full((1,), 0.3).double(), c), x
    )
    velocity, divergence = network.with_divergence(x, 0.3, c)
    assert divergence.item() == pytest.approx(jacobian[0, :, 0].trace().item(), rel=1e-6)
    assert velocity.tolist()[0] == pytest.approx(
        network.velocity(x, torch.full((1,), 0.3).double(), c).tolist()[0]
    )


@pytest.mark.parametrize("name", ["maf", "nsf", "cfm"])
def test_latent_is_normal_and_independent_of_the_mass(name):
    x, m = toy(4000, 6)
    flow = fitted(name)
    z = flow.to_latent(x, m)
    z, m = z[np.isfinite(z).all(axis=1)], m[np.isfinite(z).all(axis=1)]
    assert z.mean(axis=0) == pytest.approx([0, 0], abs=0.1)
    assert np.cov(z.T) == pytest.approx(np.eye(2), abs=0.15)
    assert abs(np.corrcoef(z[:, 0], m)[0, 1]) < 0.1  # 0.5 for x


def test_latent_round_trip_and_change_of_variables():
    x, m = toy(200, 6)
    flow = replace(fitted("nsf"), members_=fitted("nsf").members_[:1], _networks={})
    z = flow.to_latent(x, m)
    assert flow.from_latent(z, m) == pytest.approx(x, abs=1e-6)
    h = 1e-5
    columns = [(flow.to_latent(x + h * e, m) - flow.to_latent(x - h * e, m)) / (2 * h) for e in np.eye(2)]
    change = np.log(np.abs(np.linalg.det(np.stack(columns, axis=2))))
    expected = multivariate_normal([0, 0], np.eye(2)).logpdf(z) + change
    assert flow.log_prob(x, m) == pytest.approx(expected, abs=1e-3)


def test_the_density_is_the_mean_of_the_best_epochs_densities():
    x, m = toy(200, 7)
    flow = quick()
    each = [np.exp(replace(flow, members_=[one], _networks={}).log_prob(x, m)) for one in flow.members_]
    assert not np.allclose(each[0], each[1], rtol=1e-3)
    assert np.exp(flow.log_prob(x, m)) == pytest.approx(np.mean(each, axis=0), rel=1e-5)
    losses = flow.record_.validation_loss  # pyright: ignore[reportOptionalMemberAccess]
    assert len(flow.members_) == len(losses) == 2


def test_outside_the_domain_there_is_no_density():
    flow = quick()
    x, _ = toy(1500, 1)
    held = hashes(1500) / 2.0**64 < 0.2
    assert flow.dropped_[0] == flow.outside(x[~held]) == 4  # the extremes of two columns
    assert flow.dropped_[1] == flow.outside(x[held])
    edge = np.array([flow.domain_.low, flow.domain_.high + 1, flow.domain_.low + 0.5])
    found = flow.log_prob(edge, np.full(3, 3500.0))
    assert list(found[:2]) == [-np.inf, -np.inf]
    assert np.isfinite(found[2])
    assert np.isnan(flow.to_latent(edge, np.full(3, 3500.0))[:2]).all()
    drawn = flow.sample(np.full(5000, 3500.0), np.random.default_rng(0)).astype(np.float32)
    assert flow.outside(drawn) == 0


def test_domain_jacobian_and_inverse():
    rng = np.random.default_rng(0)
    x, weight = rng.gamma(2.0, size=(400, 3)), rng.uniform(size=400)
    for logit in (True, False):
        domain = Domain.fit(x, weight, logit)
        good = x[domain.inside(x)]
        assert (len(good) < 400) == logit
        assert domain.inverse(domain.forward(good)) == pytest.approx(good, abs=1e-9)
        v, weights = domain.forward(good), weight[domain.inside(x)]
        assert np.average(v, axis=0, weights=weights) == pytest.approx([0, 0, 0], abs=1e-9)
        assert np.average(v**2, axis=0, weights=weights) == pytest.approx([1, 1, 1])
        h = 1e-6 * good
        slope = (domain.forward(good + h) - domain.forward(good - h)) / (2 * h)
        inner = np.isfinite(slope).all(axis=1)
        assert domain.log_jacobian(good)[inner] == pytest.approx(np.log(slope[inner]).sum(axis=1), abs=1e-4)
        back = Domain.of_arrays(domain.arrays(), logit)
        assert np.array_equal(back.forward(good), v)


def test_no_event_sees_another_and_the_order_of_rows_does_not_matter():
    x, m = toy(1500, 1)
    h, weight = hashes(1500), np.random.default_rng(2).uniform(0.5, 1.5, 1500)
    flow = ConditionalFlow.fit(x, m, weight, h, QUICK, 1)
    p = np.random.default_rng(3).permutation(1500)
    other = ConditionalFlow.fit(x[p], m[p], weight[p], h[p], QUICK, 1)
    values = flow.log_prob(x, m)
    assert np.array_equal(other.log_prob(x, m), values)
    assert np.array_equal(flow.log_prob(x[p], m[p]), values[p])
    assert np.array_equal(flow.log_prob(x[5:6], m[5:6]), values[5:6])
    assert np.array_equal(flow.to_latent(x[p], m[p])[:9], flow.to_latent(x, m)[p[:9]], equal_nan=True)
    assert not np.array_equal(ConditionalFlow.fit(x, m, weight, h, QUICK, 2).log_prob(x, m), values)
    assert flow.log_prob(x[:0], m[:0]).shape == (0,)
    assert flow.sample(m[:0], np.random.default_rng(0)).shape == (0, 2)


def test_an_event_alone_has_the_same_density_bit_for_bit():
    x, m = toy(1500, 1)
    wide = replace(QUICK, hidden=(128,), transforms=4, epochs=1, learning_rate=3e-2)
    flow = ConditionalFlow.fit(x, m, np.ones(1500), hashes(1500), wide)
    values = flow.log_prob(x, m)
    for n in (1, 3, 50):  # matrix products of few rows add in another order
        assert np.array_equal(flow.log_prob(x[:n], m[:n]), values[:n])


def test_every_best_epoch_gives_an_equal_share_of_the_sample():
    flow = quick()
    shift = np.array([7.0, 0.0, 7.0, 0.0], dtype=np.float32)  # of both columns, not their scales
    far = {k: v + shift if k.endswith("hyper.2.bias") else v for k, v in flow.members_[0].items()}
    two = replace(flow, members_=[flow.members_[0], far], _networks={})
    x = two.sample(np.full(1001, 3500.0), np.random.default_rng(0))
    v = flow.domain_.forward(x)
    assert (v[:, 0] < -3.5).sum() in (500, 501)


def test_scaling_and_epochs_are_chosen_without_the_other_part():
    x, m = toy(1500, 1)
    h = hashes(1500)
    held = h / 2.0**64 < QUICK.validation
    assert 0.15 < held.mean() < 0.25
    moved = np.where(held[:, None], x + 0.1, x)
    flow, other = (
        ConditionalFlow.fit(a, m, np.ones(1500), h, replace(QUICK, best=1, epochs=1)) for a in (x, moved)
    )
    assert np.array_equal(flow.domain_.low, other.domain_.low)
    assert np.array_equal(flow.log_prob(x, m), other.log_prob(x, m))
    assert flow.record_.validation_loss != other.record_.validation_loss  # pyright: ignore[reportOptionalMemberAccess]


def test_weights_are_learnt():
    x, m = toy(6000, 1)
    far = np.arange(6000) % 2 == 0
    x[far] += 1.5
    flows = [
        ConditionalFlow.fit(x, m, np.where(far, w, 1.0), hashes(6000), replace(QUICK, epochs=10, batch=256))
        for w in (0.0, 1.0)
    ]
    at = np.full(4000, 3500.0)
    means = [(f.sample(at, np.random.default_rng(0)) - mean(at)).mean() for f in flows]
    assert means == pytest.approx([0.0, 0.75], abs=0.15)


def test_storage(tmp_path):
    x, m = toy(100, 8)
    for flow in (quick(), fitted("cfm")):
        info, arrays, texts = flow.state()
        write_arrays(tmp_path / "flow.safetensors", arrays, info)
        back = ConditionalFlow.restore(*read_arrays(tmp_path / "flow.safetensors"), texts)
        assert back.settings == flow.settings
        assert back.dropped_ == flow.dropped_
        assert back.record_ == flow.record_
        assert np.array_equal(back.log_prob(x, m), flow.log_prob(x, m))
        assert np.array_equal(back.to_latent(x, m), flow.to_latent(x, m), equal_nan=True)
        assert back.__getstate__()["_networks"] == {}
    info, arrays, texts = quick().state()
    wrong = info | {"settings": info["settings"] | {"hidden": [9]}}
    with pytest.raises(InputError, match="not those of the flow"):
        ConditionalFlow.restore(wrong, arrays, texts).log_prob(x, m)


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    x, m = toy(600, 1)
    for kind in ("maf", "cfm"):
        settings = replace(QUICK, kind=kind, hidden=(8,))
        ConditionalFlow.fit(x, m, np.ones(600), hashes(600), settings).sample(m, np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_published_sizes():
    network = build_flow(FlowSettings().network(4, 1, 0))
    # 15 blocks of 5 -> 128 -> 8 with biases; the published 274,800 parameters hold batch normalisation and more
    assert sum(p.numel() for p in network.parameters()) == 15 * (6 * 128 + 129 * 8)
    signal = FlowSettings("nsf").network(4, 1, 0)
    assert (signal["hidden"], signal["transforms"], signal["bins"], signal["bound"]) == ([64, 64], 6, 8, 8.0)
    assert FlowSettings("cfm").network(4, 1, 0)["hidden"] == [64, 256, 256, 64]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "gan"}, "expected one of maf, nsf, cfm"),
        ({"preprocess": "rank"}, "expected logit or standard"),
        ({"validation": 1.0}, "fraction between 0 and 1"),
        ({"epochs": 0}, "epochs: found 0"),
        ({"best": 0}, "best: found 0"),
        ({"steps": 0}, "steps: found 0"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0"),
        ({"stiffness": 0.0}, "stiffness: found 0.0"),
        ({"hidden": (0,)}, "widths above 0"),
    ],
)
def test_impossible_settings(change: dict[str, Any], text: str):
    with pytest.raises(ConfigError, match=text):
        FlowSettings(**change)


def test_impossible_samples():
    x, m = toy(200, 1)
    one, h = np.ones(200), hashes(200)

    def fit(x=x, m=m, weight=one, h=h):
        return ConditionalFlow.fit(x, m, weight, h, QUICK)

    with pytest.raises(InputError, match="column 1 is constant"):
        fit(x=np.column_stack([x[:, 0], one]))
    with pytest.raises(InputError, match="column 1 has one value inside"):
        fit(x=np.column_stack([x[:, 0], np.where(h == h.max(), 2.0, np.where(h > np.sort(h)[-3], 1.0, 1.5))]))
    with pytest.raises(InputError, match="negative weights"):
        fit(weight=np.where(np.arange(200) == 3, -1.0, 1.0))
    with pytest.raises(InputError, match=r"must be .* finite"):
        fit(x=np.where(np.arange(200)[:, None] == 3, np.nan, x))
    with pytest.raises(InputError, match="condition"):
        fit(m=np.where(np.arange(200) == 3, np.nan, m))
    with pytest.raises(InputError, match="part is empty"):
        fit(h=np.full(200, 2**63, dtype=np.uint64) + np.arange(200, dtype=np.uint64))
    with pytest.raises(InputError, match="learnt on 2 columns"):
        quick().log_prob(x[:, :1], m)
    with pytest.raises(InputError, match="expected 200 finite rows"):
        quick().log_prob(x, m[:5])


def test_a_flow_that_gives_no_numbers_is_an_error():
    broken = replace(
        quick(), members_=[{k: v * np.nan for k, v in quick().members_[0].items()}], _networks={}
    )
    with pytest.raises(FitError, match="draws of the flow are not finite"):
        broken.sample(np.full(10, 3500.0), np.random.default_rng(0))


WINDOW = Window(3300.0, 3700.0)


def spectrum(n: int, seed: int) -> np.ndarray:
    """exp(-m / 600 GeV) from 2500 to 5000 GeV."""
    a, b = np.exp(-2500 / 600), np.exp(-5000 / 600)
    return -600 * np.log(a - np.random.default_rng(seed).random(n) * (a - b))


def in_window(m: np.ndarray) -> np.ndarray:
    """Cumulative distribution of `spectrum` in the window."""
    a, b = np.exp(-3300 / 600), np.exp(-3700 / 600)
    return (a - np.exp(-m / 600)) / (a - b)


def test_mass_from_the_window_neither_leaks_nor_piles_up():
    mass = spectrum(60_000, 1)
    found = WindowMass.fit(mass, np.ones(len(mass)), WINDOW)
    assert found.total == WINDOW.contains(mass).sum()
    drawn = found.sample(5000, np.random.default_rng(2))
    assert WINDOW.contains(drawn).all()
    assert len(np.unique(drawn)) > 4900  # smeared, not copied
    assert kstest(drawn, in_window).pvalue > 0.01
    edge = ((drawn < 3310) | (drawn > 3690)).mean()
    assert edge == pytest.approx(1 - (in_window(np.array(3690.0)) - in_window(np.array(3310.0))), abs=0.012)
    wide = WindowMass.fit(mass, np.ones(len(mass)), WINDOW, bandwidth=2.0).sample(
        5000, np.random.default_rng(2)
    )
    assert WINDOW.contains(wide).all()
    heavy = WindowMass.fit(mass, np.where(mass > 3500, 1.0, 0.0), WINDOW).sample(
        1000, np.random.default_rng(2)
    )
    assert heavy.min() > 3495
    with pytest.raises(InputError, match="no events in 100-200"):
        WindowMass.fit(mass, np.ones(len(mass)), Window(100.0, 200.0))
    with pytest.raises(ConfigError, match="bandwidth"):
        WindowMass.fit(mass, np.ones(len(mass)), WINDOW, 0.0)


def test_mass_continued_from_the_sidebands():
    mass = spectrum(60_000, 3)
    inside = WINDOW.contains(mass)
    found = SidebandMass.fit(mass, np.full(len(mass), 0.5), WINDOW)
    expected = (
        0.5
        * 60_000
        * (np.exp(-3300 / 600) - np.exp(-3700 / 600))
        / (np.exp(-2500 / 600) - np.exp(-5000 / 600))
    )
    assert found.total == pytest.approx(expected, rel=0.03)
    assert kstest(found.sample(5000, np.random.default_rng(2)), in_window).pvalue > 0.01
    # it does not look into the window
    other = SidebandMass.fit(mass[~inside], np.full(int((~inside).sum()), 0.5), WINDOW)
    assert other.total == found.total
    with pytest.raises(InputError, match="one side"):
        SidebandMass.fit(mass[mass < 3500], np.ones(int((mass < 3500).sum())), WINDOW)
