"""The variational encoder of the level-1 trigger: its loss, its types, and that its score is the firmware's."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from elsewhere.deploy.emulator import FirmwareScore, InputScale
from elsewhere.deploy.firmware import export
from elsewhere.deploy.precision import FirmwareSettings
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.models.base import Exportable, TrainedTypes
from elsewhere.models.methods import build
from elsewhere.models.networks.quantised import Types
from elsewhere.models.scores.axol1tl import Axol1tl, build_vae, vae_loss
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan

SMALL = {
    "hidden": (32,),
    "latent": 4,
    "decoder": (16,),
    "beta": 0.7,
    "epochs": 15,
    "batch": 128,
    "learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def fitted(toy):
    return Axol1tl(**SMALL).fit(toy(1500, 1), toy(10, 2))


def test_the_loss_is_its_formula():
    config = {"encoder": [3, 4], "latent": 2, "decoder": [5], "beta": 0.3, "types": None, "seed": 1}
    network = build_vae(config)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    found = vae_loss(network, x, None, torch.Generator().manual_seed(5))
    h = torch.relu(network.encoder[0](x))
    mean, log_variance = network.mean(h), network.log_variance(h)
    z = mean + torch.exp(log_variance / 2) * torch.randn(7, 2, generator=torch.Generator().manual_seed(5))
    made = network.decoder[1](torch.relu(network.decoder[0](z)))
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(found, 0.7 * ((made - x) ** 2).sum(dim=1) + 0.3 * divergence)


def test_stored_weights_are_numbers_of_their_types(fitted):
    for name, value in fitted.weights_.items():
        kind = fitted.types.of("bias" if name.endswith("bias") else "weight")
        codes = value.astype(np.float64) / kind.step
        np.testing.assert_array_equal(codes, np.rint(codes))
        assert codes.min() >= kind.low
        assert codes.max() <= kind.high
    assert {n.split(".")[0] for n in fitted.weights_} == {"encoder", "mean"}


def test_the_firmware_gives_the_trained_score_bit_for_bit(fitted, toy, tmp_path):
    assert isinstance(fitted, Exportable)
    assert isinstance(fitted, TrainedTypes)
    fresh = toy(3000, 3, 0.5, first=20_000)
    scale = InputScale(tuple(map(float, fitted.offset_)), tuple(2.0**-fitted.shift_))
    settings = FirmwareSettings(**fitted.firmware_types())
    made = export(fitted, fresh.features, scale, tmp_path / "fw", fresh.x[:500], settings=settings)
    assert made.bits.exact
    scores = fitted.score(fresh)
    np.testing.assert_array_equal(FirmwareScore(tmp_path / "fw").score(fresh), scores)
    assert len(np.unique(scores)) > 50


def test_a_plain_one_scores_what_its_network_gives(toy):
    plain = Axol1tl(**SMALL, quantised=False).fit(toy(1500, 1), toy(10, 2))
    fresh = toy(200, 3)
    found = plain.network()(torch.from_numpy(plain.scale(fresh.x))).detach().numpy()
    np.testing.assert_allclose(plain.score(fresh), found, rtol=1e-5)
    assert plain.firmware_types() == {}


def test_the_latent_space_has_not_collapsed(fitted, toy):
    fresh = toy(1000, 5)
    assert fitted.score(fresh).std() > 0.3
    assert fitted.record_.train_loss[-1] < fitted.record_.train_loss[0]


def test_types_survive_the_disk_and_come_from_a_configuration(toy, tmp_path):
    types = {"input": "fixed<10,6,RND_CONV,SAT>"}
    made = build("Axol1tl", {"types": types, "hidden": [16], "epochs": 1}, "score").fit(
        toy(300, 1), toy(10, 2)
    )
    assert made.types == Types(**types)
    save(made, tmp_path / "m", toy(10, 1).features, {})
    back, _ = load(tmp_path / "m")
    assert asdict(back.types) == asdict(made.types)
    np.testing.assert_array_equal(back.score(toy(50, 4)), made.score(toy(50, 4)))
    with pytest.raises(ConfigError, match=r"score.types"):
        build("Axol1tl", {"types": {"inputs": "fixed<8,6>"}}, "score")
    with pytest.raises(ConfigError, match="cannot be trained for"):
        build("Axol1tl", {"types": {"input": "fixed<8,6>"}}, "score")


def test_what_cannot_work_is_refused(fitted, toy):
    with pytest.raises(ConfigError, match="beta between 0 and 1"):
        Axol1tl(beta=1.5)
    with pytest.raises(InputError, match="has not been fitted"):
        Axol1tl().score(toy(5, 1))
    with pytest.raises(FeatureError, match="trained on 4 columns"):
        fitted.scale(np.zeros((3, 2)))


def test_pruned_weights_are_exactly_as_many_as_asked(toy):
    made = Axol1tl(**SMALL, pruning=0.7).fit(toy(600, 1), toy(10, 2))
    plain = Axol1tl(**SMALL, pruning=0.7, quantised=False).fit(toy(600, 1), toy(10, 2))
    for name in ("encoder.0.weight", "mean.weight"):
        size = plain.weights_[name].size
        assert (plain.weights_[name] == 0).sum() == round(0.7 * size)
        assert round(0.7 * size) <= (made.weights_[name] == 0).sum() < 0.9 * size
    assert made.record_.train_loss[-1] < made.record_.train_loss[0]
    assert {n.split(".")[0] for n in made.weights_} == {"encoder", "mean"}


def test_masks_that_take_nothing_out_change_no_bit(toy):
    without, with_masks = (
        Axol1tl(**{**SMALL, "epochs": 3}, pruning=p).fit(toy(600, 1), toy(10, 2)).weights_
        for p in (0.0, 1e-6)  # a millionth of 128 weights is none
    )
    assert without.keys() == with_masks.keys()
    for name, value in without.items():
        np.testing.assert_array_equal(value, with_masks[name])


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("at", [3, 8], ids=["masks still change", "masks are fixed"])
def test_a_pruned_training_goes_on_where_it_was_killed(toy, tmp_path, at):
    settings = {**SMALL, "epochs": 10, "pruning": 0.6}

    def kill(epoch, *_):
        if epoch == at:
            raise Killed

    broken = Axol1tl(**settings, trainer=TrainPlan(folder=tmp_path, progress=kill))
    with pytest.raises(Killed):
        broken.fit(toy(600, 1), toy(10, 2))
    resumed = Axol1tl(**settings, trainer=TrainPlan(folder=tmp_path)).fit(toy(600, 1), toy(10, 2))
    assert resumed.record_.resumed_from == at
    whole = Axol1tl(**settings).fit(toy(600, 1), toy(10, 2))
    for name, value in whole.weights_.items():
        np.testing.assert_array_equal(resumed.weights_[name], value)


def test_two_workers_prune_the_same_weights(toy, tmp_path):
    settings = {**SMALL, "epochs": 6, "pruning": 0.6}
    plan = TrainPlan(backend="ray", workers=2, folder=tmp_path)
    spread = Axol1tl(**settings, trainer=plan).fit(toy(600, 1), toy(10, 2))
    assert spread.record_.workers == 2
    for name, value in Axol1tl(**settings).fit(toy(600, 1), toy(10, 2)).weights_.items():
        np.testing.assert_array_equal(spread.weights_[name], value)


@pytest.mark.parametrize("pruning", [-0.1, 1.0])
def test_a_pruned_part_is_below_one(pruning):
    with pytest.raises(ConfigError, match="pruning: found"):
        Axol1tl(pruning=pruning)
