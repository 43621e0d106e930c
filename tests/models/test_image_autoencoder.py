"""The autoencoder of jet images: its layers against torch's own modules, its energies, and which jets it finds odd."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.models.networks.dense import load_weights
from elsewhere.models.networks.image_autoencoder import build_image_autoencoder, normalised_layer
from elsewhere.models.networks.jet_images import jet_images
from elsewhere.models.networks.normalised import Chains, negatives, normalised_loss
from elsewhere.models.scores.image_autoencoder import ImageAutoencoder
from torch import nn

from .conftest import make
from .toy_jets import jets

CONFIG = {"pixels": 12, "latent": 3, "scale": 5.0, "seed": 3}
CHAINS = Chains(count=16, buffer=50, latent_steps=2, x_steps=2)
SMALL = {
    "pixels": 12, "smear": 1.0, "scale": 4.0, "autoencoder_epochs": 8, "normalised_epochs": 2, "batch": 32, "shards": 1,
    "learning_rate": 1e-2, "chains": CHAINS,
}  # fmt: skip


def some_images(n, seed, pixels=12, scale=5.0):
    return torch.from_numpy(jet_images(jets(n, seed, 0.3).x, pixels, 0.7, 1.0, 1.0) * np.float32(scale))


def with_slopes(network):
    with torch.no_grad():
        for i, slope in enumerate(network.slopes):
            slope.fill_(0.1 + 0.05 * i)
        for name, bias in network.named_parameters():
            if name.endswith("bias"):
                bias.add_(0.1 * torch.randn(bias.shape, generator=torch.Generator().manual_seed(len(bias))))
    return network


def test_the_network_is_the_published_one():
    """Encoder and decoder built from torch's modules, with transposed convolutions and torch's own singular values."""
    network = with_slopes(build_image_autoencoder(CONFIG))
    slopes = iter(float(s.detach()) for s in network.slopes)

    def prelu():
        return nn.PReLU(init=next(slopes))

    def layer(made, source, transposed=False):
        weight = source.weight.detach()
        weight = weight / torch.linalg.svdvals(weight.reshape(len(weight), -1))[0]
        with torch.no_grad():
            made.weight.copy_(weight.flip(2, 3).transpose(0, 1) if transposed else weight)
            made.bias.copy_(source.bias)
        return made

    wide, narrow, back, last = network.parts
    assert [tuple(c.weight.shape[:2]) for part in network.parts for c in part] == [
        (8, 1), (8, 8), (8, 8), (8, 8), (1, 8), (8, 1), (8, 8), (1, 8)
    ]  # fmt: skip
    dense = list(network.dense)
    assert [tuple(d.weight.shape) for d in dense] == [(100, 36), (3, 100), (100, 3), (36, 100)]
    encoder = nn.Sequential(nn.Unflatten(1, (1, 12, 12)))
    for part, pool in ((wide, True), (narrow, False)):
        for c in part:
            encoder.append(layer(nn.Conv2d(c.in_channels, c.out_channels, 3, padding=1), c)).append(prelu())
        if pool:
            encoder.append(nn.MaxPool2d(2))
    encoder.append(nn.Flatten()).append(layer(nn.Linear(36, 100), dense[0])).append(prelu())
    encoder.append(layer(nn.Linear(100, 3), dense[1]))
    decoder = nn.Sequential(layer(nn.Linear(3, 100), dense[2]), prelu(), layer(nn.Linear(100, 36), dense[3]))
    decoder.append(prelu()).append(nn.Unflatten(1, (1, 6, 6)))
    for c in back:
        made = nn.ConvTranspose2d(c.in_channels, c.out_channels, 3, padding=1)
        decoder.append(layer(made, c, transposed=True)).append(prelu())
    decoder.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    decoder.append(layer(nn.ConvTranspose2d(8, 1, 3, padding=1), last[0], transposed=True)).append(
        nn.Sigmoid()
    )
    x = some_images(20, 1)
    z = encoder(x)
    rebuilt = decoder(z / z.norm(dim=1, keepdim=True)).flatten(1)
    expected = ((rebuilt - x) ** 2).mean(dim=1)
    assert torch.allclose(network(x), expected, rtol=1e-4)
    encode, decode = network.halves()
    assert torch.allclose(encode(x), z, rtol=1e-4, atol=1e-6)
    assert torch.allclose(decode(z), decoder(z).flatten(1), rtol=1e-4)
    assert next(slopes, None) is None


def test_every_layer_has_norm_one_and_a_flat_image_comes_first():
    network = build_image_autoencoder(CONFIG)
    layers = [*(c for part in network.parts for c in part), *network.dense]
    assert len(layers) == 12
    for layer in layers:
        weight, bias = normalised_layer(layer)
        assert float(torch.linalg.svdvals(weight.detach().flatten(1))[0]) == pytest.approx(1, rel=1e-5)
        assert bias is layer.bias
    assert {float(s.detach()) for s in network.slopes} == {0.25}
    sums = network.halves()[1](torch.eye(3)).sum(dim=1)
    assert sums.detach().numpy() == pytest.approx(5.0, rel=0.5)


def test_what_is_frozen_has_no_way_back_to_the_weights():
    network, x = with_slopes(build_image_autoencoder(CONFIG)), some_images(5, 2)
    encode, decode = network.halves(frozen=True)
    assert not decode(encode(x)).requires_grad
    assert torch.equal(decode(encode(x)), network.halves()[1](network.halves()[0](x)).detach())


def test_negatives_are_images_and_move_downhill():
    chains = Chains(count=64, buffer=200, latent_steps=3, x_steps=20, x_step=50.0, x_noise=1e-4)
    more = {"chains": asdict(chains), "gamma": 1.0, "decay": 1e-8, "epochs": 2, "epoch_steps": 2}
    network = with_slopes(build_image_autoencoder(CONFIG | more))
    found = negatives(network, network.halves(frozen=True), torch.Generator().manual_seed(1))
    assert found.shape == (64, 144)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    start = network.halves()[1](network.replay[:64]).detach()
    with torch.no_grad():
        assert network(found).mean() < 0.5 * network(start).mean()


def test_pixels_of_negatives_stay_between_0_and_1_however_loud_the_noise():
    chains = Chains(count=32, buffer=64, latent_steps=1, x_steps=2, x_step=1.0, x_noise=0.5)
    more = {"chains": asdict(chains), "gamma": 1.0, "decay": 1e-8, "epochs": 2, "epoch_steps": 2}
    network = build_image_autoencoder(CONFIG | more)
    found = negatives(network, network.halves(frozen=True), torch.Generator().manual_seed(1))
    assert float(found.max()) > 0.5
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_the_gradient_of_the_loss_is_that_of_a_slow_reference():
    """Against finite differences of up - down + gamma down^2 + decay |W|^2 with the negatives held."""
    more = {"chains": asdict(CHAINS), "gamma": 0.7, "decay": 1e-3, "epochs": 9, "epoch_steps": 2}
    network = with_slopes(build_image_autoencoder(CONFIG | more)).double()
    x = some_images(30, 3).double()
    held = network.inside(x.flip(0) * 1.5)
    loss = _held_loss(network, x, held)
    parameter = network.dense[2].weight
    (gradient,) = torch.autograd.grad(loss, [parameter])
    with torch.no_grad():
        for place in ((0, 0), (3, 2)):
            step = 1e-6
            parameter[place] += step
            above = _held_loss(network, x, held)
            parameter[place] -= 2 * step
            below = _held_loss(network, x, held)
            parameter[place] += step
            assert float(gradient[place]) == pytest.approx(float((above - below) / (2 * step)), rel=1e-4)


def _held_loss(network, x, held):
    import elsewhere.models.networks.normalised as module

    before = module.negatives
    module.negatives = lambda *_: held
    try:
        return normalised_loss(
            network, x, torch.ones(len(x), 1, dtype=torch.float64), torch.Generator()
        ).mean()
    finally:
        module.negatives = before


@pytest.fixture(scope="module")
def taught():
    reference = jets(600, 1)
    return reference, ImageAutoencoder(**SMALL).fit(reference, reference)


def test_jets_of_two_cores_are_odd_for_whom_learnt_one(taught):
    fresh = jets(600, 2, 0.5, first=9000)
    found = taught[1].score(fresh)
    assert (found[:300, None] > found[None, 300:]).mean() > 0.9


def test_without_a_second_training_it_is_a_plain_autoencoder(taught):
    plain = ImageAutoencoder(**{**SMALL, "normalised_epochs": 0}).fit(taught[0], taught[0])
    assert plain.energies_.shape == (0, 2)
    assert plain.epochs == 8
    assert taught[1].energies_.shape == (2, 2)
    assert (taught[1].energies_ > 0).all()
    names = set(plain.weights_)
    assert names == set(taught[1].weights_)
    assert any(not np.array_equal(plain.weights_[n], taught[1].weights_[n]) for n in names)


def test_the_score_is_the_energy_of_the_scaled_image(taught):
    fresh = jets(40, 4, 0.5)
    score = taught[1]
    network = load_weights(build_image_autoencoder(score._config(0)), score.weights_)
    images = torch.from_numpy(jet_images(fresh.x, 12, 0.7, 1.0, 1.0) * np.float32(4.0))
    assert np.allclose(score.score(fresh), network(images).detach().numpy(), rtol=1e-4)


def test_an_empty_jet_is_scored_and_not_learnt_from(taught):
    empty = jets(3, 5)
    empty.x[1] = 0
    assert np.isfinite(taught[1].score(empty)).all()
    nothing = jets(3, 5)
    nothing.x[:] = 0
    with pytest.raises(InputError, match="no jet has a constituent within"):
        ImageAutoencoder(**SMALL).fit(nothing, nothing)


def test_errors():
    with pytest.raises(ConfigError, match="even number of pixels"):
        ImageAutoencoder(pixels=13)
    with pytest.raises(ConfigError, match="less than half the 144 pixels"):
        ImageAutoencoder(pixels=12, scale=72)
    with pytest.raises(ConfigError, match="0: a plain autoencoder"):
        ImageAutoencoder(autoencoder_epochs=0)
    with pytest.raises(ConfigError, match="two latent numbers"):
        ImageAutoencoder(latent=1)
    with pytest.raises(FeatureError, match="belongs to no constituent"):
        ImageAutoencoder().fit(make(5, 1), make(5, 1))
    with pytest.raises(InputError, match="not been fitted"):
        ImageAutoencoder().score(jets(2, 1))
