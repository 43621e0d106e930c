"""The normalised autoencoder: its chains against what they should sample, its buffer through a kill, and the ring of METHODS 4.2."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, InputError
from elsewhere.models.networks import normalised as module
from elsewhere.models.networks.dense import evaluate, load_weights
from elsewhere.models.networks.normalised import (
    Chains,
    build_normalised,
    energy,
    first_codes,
    negatives,
    normalised,
    normalised_loss,
    on_sphere,
    sliced_distance,
    walk,
)
from elsewhere.models.scores.normalised_autoencoder import NormalisedAutoencoder
from elsewhere.models.training import TrainPlan

from .conftest import make
from .test_outlier_scores import events

RADIUS = np.sqrt(2.0)  # of columns that are standardised


def ring(n, seed):
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, n)
    return RADIUS * np.c_[np.cos(angle), np.sin(angle)] + 0.05 * rng.normal(size=(n, 2))


def disc(n, seed, radius=2.2):
    rng = np.random.default_rng(seed)
    angle, r = rng.uniform(0, 2 * np.pi, n), radius * np.sqrt(rng.random(n))
    return (r[:, None] * np.c_[np.cos(angle), np.sin(angle)]).astype(np.float32)


@pytest.fixture(scope="module")
def taught():
    """An autoencoder that rebuilds the whole disc, before and after it is normalised on a ring."""
    chains = Chains(
        count=128, latent_steps=10, x_steps=20, latent_step=0.01, x_step=0.01, latent_noise=0.14, x_noise=0.1, clip=10.0,
        temperature=0.02,
    )  # fmt: skip
    score = NormalisedAutoencoder(
        hidden=(24, 24), autoencoder_epochs=40, normalised_epochs=40, batch=256, learning_rate=5e-3, normalised_rate=1e-3,
        chains=chains, shards=1,
    )  # fmt: skip
    one = np.ones(2000)
    first = score.rebuild(disc(2000, 1), one)
    score.normalise(ring(2000, 2).astype(np.float32), one, first)
    before, after = (
        load_weights(build_normalised(score._config(2)), weights) for weights in (first, score.weights_)
    )
    return score, before, after


def test_what_lies_off_the_ring_becomes_odd(taught):
    _, before, after = taught
    on, off = ring(2000, 3).astype(np.float32), disc(8000, 4)
    off = off[np.abs(np.hypot(*off.T) - RADIUS) > 0.5]
    inner = off[np.hypot(*off.T) < RADIUS]
    assert evaluate(before, off).mean() < 3 * evaluate(before, on).mean()
    assert evaluate(after, off).mean() > 10 * evaluate(after, on).mean()
    assert evaluate(after, inner).mean() > 10 * evaluate(after, on).mean()


def test_both_samples_have_the_same_energy_where_it_has_converged(taught):
    up, down = taught[0].energies_[-10:].mean(axis=0)
    assert taught[0].energies_.shape == (40, 2)
    assert abs(up - down) < 0.2 * up


def test_chains_whose_noise_fits_their_step_sample_the_density():
    """noise^2 = 2 step is Langevin's: with the acceptance the variance of exp(-|x|^2 / 2) is 1, without it 1 / (1 - step / 2)."""
    generator, step = torch.Generator().manual_seed(1), 0.5
    end = walk(
        lambda x: 0.5 * x.square().sum(dim=1), torch.zeros(20_000, 2), 60, step, lambda k: np.sqrt(2 * step), 1e9, generator
    )  # fmt: skip
    assert end.var(dim=0).numpy() == pytest.approx([1, 1], abs=0.04)


def test_a_chain_is_accepted_by_its_own_heights():
    """What the first chain does is no business of the others."""

    def height(x):
        return 5 * x.square().sum(dim=1)

    def run(first):
        start = torch.full((50, 2), 0.3)
        start[0] = first
        return walk(height, start, 20, 0.1, lambda k: 0.5, 1.0, torch.Generator().manual_seed(3))

    near, far = run(0.0), run(30.0)
    assert torch.equal(near[1:], far[1:])
    assert not torch.equal(near[0], far[0])


def test_a_step_is_cut_to_the_clip_and_noise_falls_as_asked():
    seen = []

    def noise(k):
        seen.append(k)
        return 0.0

    start = torch.tensor([[100.0, 0.0], [0.001, 0.0]])
    end = walk(lambda x: x.square().sum(dim=1), start, 3, 0.4, noise, 0.01, torch.Generator().manual_seed(1))
    assert seen == [0, 1, 2]
    assert end[0].numpy() == pytest.approx([100 - 3 * 0.4 * 0.01, 0], abs=1e-4)
    assert end[1].numpy() == pytest.approx(
        [0.001 * 0.2**3, 0], abs=1e-9
    )  # gradients below the clip are as they are


def network_of(chains, epochs=5, seed=1):
    more = {"chains": asdict(chains), "gamma": 0.7, "decay": 1e-3, "epochs": epochs, "epoch_steps": 2}
    return build_normalised({"widths": [4, 8], "latent": 3, "seed": seed} | more)


def test_codes_lie_on_the_sphere_and_layers_have_norm_one():
    network = network_of(Chains(count=16, buffer=40, latent_steps=3, x_steps=2))
    encoder, decoder = normalised(network)
    for weight, _ in [*encoder, *decoder[:-1]]:
        assert float(torch.linalg.svdvals(weight.detach())[0]) == pytest.approx(1, rel=1e-5)
    assert torch.equal(decoder[-1][0], network.decoder[-1].weight)
    generator, lengths = torch.Generator().manual_seed(1), []
    for step in range(4):
        before = network.replay.clone()
        negatives(network, network.halves(frozen=True), generator)
        network.step += 1
        lengths.append(int((network.replay.norm(dim=1) > 0.5).sum()))
        changed = (before != network.replay).any(dim=1).numpy()
        assert np.array_equal(np.flatnonzero(changed), np.sort(np.arange(16 * step, 16 * step + 16) % 40))
    assert lengths == [16, 32, 40, 40]  # it fills, then the oldest go
    filled = network.replay[network.replay.norm(dim=1) > 0]
    assert filled.norm(dim=1).detach().numpy() == pytest.approx(1, abs=1e-5)


def test_chains_go_on_from_the_buffer_in_the_part_asked_for():
    network = network_of(Chains(count=4000, buffer=4000, ratio=0.95))
    network.replay[:] = on_sphere(torch.tensor([[1.0, 2.0, 3.0]]))
    generator = torch.Generator().manual_seed(1)
    fresh = (first_codes(network, generator) - network.replay[0]).norm(dim=1) > 1e-6
    assert fresh.all()  # nothing has been put in
    network.step += 1
    fresh = (first_codes(network, generator) - network.replay[0]).norm(dim=1) > 1e-6
    assert float(fresh.float().mean()) == pytest.approx(0.05, abs=0.01)


def test_the_loss_is_the_papers():
    chains = Chains(count=32, buffer=64, latent_steps=2, x_steps=2)
    x, y = torch.from_numpy(make(20, 1).x), torch.linspace(0.5, 1.5, 20)[:, None]
    network, other = network_of(chains), network_of(chains)
    found = normalised_loss(network, x, y, torch.Generator().manual_seed(4))
    halves = other.halves()
    down = energy(negatives(other, halves, torch.Generator().manual_seed(4)), halves)
    size = sum((p**2).sum() for p in other.parameters())
    expected = energy(x, halves) - down.mean() + 0.7 * (down**2).mean() + 1e-3 * size
    assert torch.allclose(found, expected, rtol=1e-5)
    up, low = (energy(x, halves) * y[:, 0]).sum() / y.sum(), down.mean()
    assert network.diary[0].tolist() == pytest.approx([up.item() / 2, low.item() / 2], rel=1e-5)
    (gradient,) = torch.autograd.grad(found.mean(), [network.decoder[0].weight])
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


class Killed(Exception):
    pass


SMALL = {
    "hidden": (8,), "autoencoder_epochs": 2, "normalised_epochs": 4, "batch": 64, "normalised_rate": 1e-3,
    "chains": Chains(count=16, buffer=50, latent_steps=2, x_steps=2),
}  # fmt: skip


@pytest.mark.parametrize(("when", "held"), [(1, 0.0), (4, 0.0), (4, 0.2)])
def test_a_kill_changes_nothing(tmp_path, when, held):
    """Killed in the first training, or in the second with a buffer that is partly filled."""
    reference, how = make(150, 1), SMALL | {"held": held}
    whole = NormalisedAutoencoder(**how).fit(reference, reference)

    def kill(epoch, loss, held):
        if epoch == when:
            raise Killed

    with pytest.raises(Killed):
        NormalisedAutoencoder(**how, trainer=TrainPlan(folder=tmp_path, progress=kill)).fit(
            reference, reference
        )
    seen = []
    plan = TrainPlan(folder=tmp_path, progress=lambda epoch, loss, held: seen.append(epoch))
    again = NormalisedAutoencoder(**how, trainer=plan).fit(reference, reference)
    assert seen == list(range(when + 1, 7))
    assert np.array_equal(again.energies_, whole.energies_)
    assert (again.energies_ > 0).all()
    assert again.record_.validation_loss == whole.record_.validation_loss
    assert len(whole.record_.validation_loss) == (4 if held else 0)
    for name, value in whole.weights_.items():
        assert np.array_equal(again.weights_[name], value), name
    other = NormalisedAutoencoder(**how, gamma=0.5, trainer=TrainPlan(folder=tmp_path)).fit(
        reference, reference
    )
    assert not np.array_equal(
        other.energies_, whole.energies_
    )  # the checkpoint of another loss is not its own


def test_the_score_is_the_mean_squared_error_of_standardised_columns():
    reference, fresh = make(150, 1), make(30, 2)
    score = NormalisedAutoencoder(**SMALL).fit(reference, reference)
    mean = np.average(reference.x.astype(float), axis=0, weights=reference.weight)
    std = np.sqrt(np.average((reference.x - mean) ** 2, axis=0, weights=reference.weight))
    x = torch.from_numpy(((fresh.x - mean) / std).astype(np.float32))
    network = load_weights(build_normalised(score._config(4)), score.weights_)
    z = x
    for i, layer in enumerate(network.encoder):
        z = z @ (layer.weight / torch.linalg.svdvals(layer.weight)[0]).T + layer.bias
        z = torch.where(z > 0, z, 0.25 * z) if i == 0 else z
    z = z / z.norm(dim=1, keepdim=True)
    first, last = network.decoder
    z = z @ (first.weight / torch.linalg.svdvals(first.weight)[0]).T + first.bias
    back = torch.where(z > 0, z, 0.25 * z) @ last.weight.T + last.bias
    assert np.allclose(score.score(fresh), ((back - x) ** 2).mean(dim=1).detach().numpy(), rtol=1e-4)


def test_the_sliced_distance_is_that_of_sorted_events():
    """Along one direction the root of the mean squared difference of sorted events, each as often as its weight says."""
    rng = np.random.default_rng(1)
    weight = rng.integers(1, 4, 40)
    x, found = rng.normal(size=(40, 1)), rng.gamma(2.0, size=(int(weight.sum()), 1))
    expected = np.sqrt(np.mean((np.sort(np.repeat(x, weight)) - np.sort(found[:, 0])) ** 2))
    tensors = [torch.from_numpy(a) for a in (x, weight.astype(np.float32), found)]
    assert sliced_distance(*tensors) == pytest.approx(expected, rel=1e-9)
    assert sliced_distance(tensors[0], torch.ones(40), tensors[0].flip(0)) == 0


def test_the_sliced_distance_of_a_shift_is_its_length_seen_from_all_sides():
    x, shift = (
        torch.randn((300, 3), generator=torch.Generator().manual_seed(2)),
        torch.tensor([1.0, -2.0, 2.0]),
    )
    assert sliced_distance(x, torch.ones(300), x + shift) == pytest.approx(3 / np.sqrt(3), rel=0.1)
    assert sliced_distance(x, torch.ones(300), x + 2 * shift) == pytest.approx(
        2 * sliced_distance(x, torch.ones(300), x + shift), rel=1e-5
    )


def test_the_epoch_whose_negatives_are_nearest_is_kept(monkeypatch):
    """Distances 3, 1, 2: what is kept is what two epochs give; the events compared are held out, the negatives the epoch's."""
    reference, seen, made = make(150, 1), [], []
    real = module.negatives

    def record(*arguments):
        made.append(real(*arguments))
        return made[-1]

    def distance(x, weight, found, seed):
        seen.append((x.clone(), weight.clone(), found.clone()))
        return [3.0, 1.0, 2.0][len(seen) - 1]

    monkeypatch.setattr(module, "negatives", record)
    monkeypatch.setattr(module, "sliced_distance", distance)
    how = SMALL | {"held": 0.2}
    whole = NormalisedAutoencoder(**how | {"normalised_epochs": 3}).fit(reference, reference)
    assert whole.record_.validation_loss == (3.0, 1.0, 2.0)
    assert len(made) == 6  # 120 of 150 events in batches of 64
    for epoch, (x, weight, found) in enumerate(seen):
        assert x.shape == (30, 4)
        assert (weight > 0).all()
        assert torch.equal(found, torch.cat(made[2 * epoch : 2 * epoch + 2]))
    train = whole._second_task(np.arange(600, dtype=np.float32).reshape(150, 4), np.ones(150), {}).train.x
    assert train.max() == 479
    seen.clear()
    short = NormalisedAutoencoder(**how | {"normalised_epochs": 2}).fit(reference, reference)
    assert whole.energies_.shape == (3, 2)
    assert (whole.energies_ > 0).all()
    for name, value in short.weights_.items():
        assert np.array_equal(whole.weights_[name], value), name
    seen.clear()
    last = NormalisedAutoencoder(**SMALL | {"normalised_epochs": 3}).fit(reference, reference)
    assert not seen
    assert last.record_.validation_loss == ()


def test_of_more_negatives_than_are_remembered_the_last_ones_are_compared(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 40)
    chains = Chains(count=16, buffer=40, latent_steps=1, x_steps=1)
    config = {"widths": [4, 8], "latent": 3, "seed": 1, "chains": asdict(chains), "gamma": 1.0, "decay": 0.0}
    network = build_normalised(config | {"epochs": 1, "epoch_steps": 4, "compared": 4})
    made = []
    monkeypatch.setattr(module, "negatives", lambda *a: made.append(negatives(*a)) or made[-1])
    for _ in range(4):
        normalised_loss(
            network, torch.zeros(5, 4), torch.ones(5, 1), torch.Generator().manual_seed(len(made))
        )
    rows = {tuple(r) for r in torch.cat(made)[-40:].tolist()}
    assert {tuple(r) for r in network.found.tolist()} == rows


def test_of_several_first_weights_those_with_the_least_distance_are_kept(tmp_path):
    reference, how = make(150, 1), SMALL | {"held": 0.2}
    seen = []
    plan = TrainPlan(folder=tmp_path, progress=lambda epoch, loss, held: seen.append(epoch))
    several = NormalisedAutoencoder(**how, restarts=3, trainer=plan).fit(reference, reference)
    assert seen == list(range(1, several.epochs + 1))
    assert several.distances_.shape == (3,)
    assert len(set(several.distances_)) == 3
    assert min(several.record_.validation_loss) == several.distances_.min()
    alone = NormalisedAutoencoder(**how).fit(reference, reference)
    assert alone.distances_[0] == several.distances_[0]
    winner = several._restart(int(several.distances_.argmin()))
    winner.trainer = None
    v, weight = winner._learn_coordinates(reference, several.seed)
    winner._learn(v.astype(np.float32), weight)
    for name, value in winner.weights_.items():
        assert np.array_equal(several.weights_[name], value), name
    assert np.array_equal(winner.energies_, several.energies_)
    assert np.array_equal(NormalisedAutoencoder().restore(*several.state()).distances_, several.distances_)


def test_errors():
    with pytest.raises(ConfigError, match="a buffer that holds all chains"):
        Chains(count=100, buffer=50)
    with pytest.raises(ConfigError, match="expected positive numbers"):
        Chains(clip=0.0)
    with pytest.raises(ConfigError, match="two latent numbers"):
        NormalisedAutoencoder(latent=1)
    with pytest.raises(InputError, match="not been fitted"):
        NormalisedAutoencoder().score(events(np.zeros((2, 2))))
    for alone in ({}, {"held": 0.1, "normalised_epochs": 0}):
        with pytest.raises(ConfigError, match="restarts: found 2"):
            NormalisedAutoencoder(restarts=2, **alone)
    with pytest.raises(ConfigError, match="held: found 1"):
        NormalisedAutoencoder(held=1.0)
    with pytest.raises(InputError, match="of 10 events the part"):
        NormalisedAutoencoder(**SMALL, held=0.01).fit(make(10, 1), make(10, 1))
