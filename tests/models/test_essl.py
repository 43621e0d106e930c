"""Equivariant self-supervision: what is told stays in the latent space, what is forgotten is gone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import Column, FeatureSet
from elsewhere.models.augmentations.events import JET, LEPTON, MET
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.methods import build
from elsewhere.models.networks.essl import (
    build_essl,
    drawn,
    essl_loss,
    framed,
    gaussian_nll,
    info_nce,
    scaled,
    shown,
    turned,
    view,
)
from elsewhere.models.representations.essl import Essl
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan

from .conftest import make
from .test_anomclr import FEATURES, events

SMALL = {
    "hidden": (64, 32),
    "latent": 8,
    "epochs": 15,
    "batch": 50,
    "learning_rate": 3e-3,
    "strength": 1.0,
    "size": 0.2,
}
TINY = {"hidden": (16,), "latent": 4, "epochs": 2, "batch": 100, "projector": (16,), "predictor": (8,)}
CLOUD = FeatureSet(
    "constituents",
    tuple(Column(f"Cand{i}_{part}", "", part) for i in range(5) for part in ("pt", "eta", "phi")),
)


def toy(n, seed, first=0):
    """Three jets of nearly known energies, the first the hardest, and other objects."""
    made, rng = events(n, seed, first), np.random.default_rng(seed + 1)
    x = made.x.copy()
    x[:, 15::3], x[:, 16::3], x[:, 17::3] = (
        rng.normal(100, 5, (n, 3)) * [2, 1, 1], rng.uniform(-2, 2, (n, 3)), rng.uniform(-3, 3, (n, 3)),
    )  # fmt: skip
    return replace(made, x=x)


def cloud(n, seed, first=0):
    """Jets of two to five constituents."""
    rng = np.random.default_rng(seed)
    pt, (eta, phi) = -np.sort(-rng.exponential(20, (n, 5)), axis=1), rng.normal(0, 0.2, (2, n, 5))
    there = np.arange(5) < rng.integers(2, 6, n)[:, None]
    x = np.stack([v * there for v in (pt, eta, phi)], axis=2).reshape(n, -1).astype(np.float32)
    return replace(events(n, seed, first), x=x, features=CLOUD)


def turn(sample, angle):
    x = sample.x.copy().reshape(len(sample), -1, 3)
    angle = np.broadcast_to(np.asarray(angle, np.float32), (len(sample),))[:, None]
    x[:, :, 2] = np.where(x[:, :, 0] > 0, (x[:, :, 2] + angle + np.pi) % (2 * np.pi) - np.pi, 0)
    return replace(sample, x=x.reshape(len(sample), -1))


def probed(h, t):
    """Fit on one half of latent vectors h, what a linear function says of t on the other, and t there."""
    h, half = np.c_[h.astype(np.float64), np.ones(len(h))], len(h) // 2
    weight = np.linalg.lstsq(h[:half], t[:half], rcond=None)[0]
    return h[half:] @ weight, t[half:]


def scale_known(found, fresh):
    """Part of the variance of nu that a linear probe of the latent vector explains."""
    nu = np.random.default_rng(0).normal(size=len(fresh))
    x = fresh.x.copy()
    x[:, 15::3] *= 1 + 0.2 * nu[:, None]
    said, wanted = probed(found.transform(replace(fresh, x=x.astype(np.float32))).x, nu)
    return 1 - np.mean((said - wanted) ** 2) / wanted.var()


def angle_known(found, fresh):
    """Part of four angles, to which events in their own frame are turned, that a linear probe gets right."""
    t = np.random.default_rng(0).integers(0, 4, len(fresh))
    found.transform(fresh)
    network, inputs = found._network, found._network.inputs
    own = framed(inputs.objects(torch.from_numpy(fresh.x)), inputs.kinds, jet=False)
    moved = turned(own, torch.from_numpy(np.pi / 2 * t[:, None]).float(), jet=False)
    with torch.inference_mode():
        h = network.encoder.encode(*network.seen(moved)).numpy()
    said, wanted = probed(h, np.eye(4)[t])
    return np.mean(said.argmax(axis=1) == wanted.argmax(axis=1))


def test_info_nce_by_hand():
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=torch.float64)
    other = torch.tensor([[0.8, 0.6], [-0.6, 0.8], [1.0, 0.0]], dtype=torch.float64)
    # cosines: (0.8, -0.6, 1), (0.6, 0.8, 0), (0.96, 0.28, 0.6); tau 0.5
    s = [[1.6, -1.2, 2.0], [1.2, 1.6, 0.0], [1.92, 0.56, 1.2]]
    rows = [math.log(sum(map(math.exp, s[i]))) - s[i][i] for i in range(3)]
    columns = [math.log(sum(math.exp(s[k][i]) for k in range(3))) - s[i][i] for i in range(3)]
    assert float(info_nce(z, other, tau=0.5)) == pytest.approx(
        0.5 * (sum(rows) + sum(columns)) / 3, abs=1e-12
    )
    two = info_nce(z[:2], other[:2], tau=0.5)
    assert float(two) == pytest.approx(0.286031, abs=1e-5)  # (ln(1 + e^-2.8) + ln(1 + e^-0.4)) / 2
    z.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a: info_nce(a, other, tau=0.5), (z,))


def test_gaussian_nll_by_hand():
    out = torch.tensor([[1.0, math.log(4.0)], [0.0, 0.0]], dtype=torch.float64)
    found = gaussian_nll(out, torch.tensor([3.0, 0.0], dtype=torch.float64))
    wanted = [0.5 * (1 + math.log(4) + math.log(2 * math.pi)), 0.5 * math.log(2 * math.pi)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_scale_is_of_jets_and_met_recoils():
    kinds = torch.tensor([MET, LEPTON, JET, JET])
    table = torch.tensor([[[30.0, 0, 1.0], [40, 1, -2], [100, 0.5, 0.3], [0, 0, 0]]])
    before, factor = Objects.of(table), torch.tensor([[1.2]])
    after = scaled(before, kinds, factor)
    assert after.pt[0, 1:].tolist() == pytest.approx([40, 120, 0])
    for a, b in zip(after.momentum(), before.momentum(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    along = float(after.pt[0, 0] * torch.cos(after.phi[0, 0]))
    assert along == pytest.approx(30 * math.cos(1.0) - 20 * math.cos(0.3), rel=1e-5)
    assert scaled(before, None, factor).pt[0].tolist() == pytest.approx([36, 48, 120, 0])


def test_a_frame_of_its_own_does_not_turn_with_the_event():
    sample = toy(50, 1)
    network = build_essl(config(transformation="rotation"))
    a, b = (network.of(torch.from_numpy(turn(sample, angle).x)) for angle in (0.0, 1.3))
    torch.testing.assert_close(torch.cos(a.phi), torch.cos(b.phi), atol=1e-5, rtol=0)
    hardest = (a.pt * (network.inputs.kinds != MET)).argmax(dim=1, keepdim=True)
    assert float(a.phi.gather(1, hardest).abs().max()) < 1e-5
    jets = build_essl(config(CLOUD, cloud(50, 1), transformation="rotation"))
    own = jets.of(torch.from_numpy(cloud(50, 1).x))
    first = own.pt.argmax(dim=1, keepdim=True)
    assert float(own.phi.gather(1, first).abs().max()) < 1e-5
    assert bool((own.eta.gather(1, first) >= 0).all())


def config(features=FEATURES, sample=None, **settings):
    from elsewhere.models.networks.encoder_inputs import describe

    made = Essl(**{**TINY, **settings})
    made.features_ = features
    made.inputs_ = describe(features, (sample or toy(50, 1)).x)
    return made._config()


def test_the_loss_is_the_papers():
    x = torch.from_numpy(toy(40, 1).x)
    for settings, t_loss in (
        ({"transformation": "rotation"}, torch.nn.functional.cross_entropy),
        ({"transformation": "scale"}, lambda out, nu: gaussian_nll(out, nu).mean()),
        ({"role": "forget"}, None),
    ):
        network = build_essl(config(strength=0.7, tau=0.3, **settings))
        found = essl_loss(network, x, None, torch.Generator().manual_seed(5))
        table, there, t = shown(network, network.of(x), torch.Generator().manual_seed(5))
        assert len(table) == (80 if t_loss is None else 120)
        h = network.encoder.encode(table, there)
        z = [network.encoder(part) for part in (h[:40], h[40:80])]
        wanted = info_nce(*z, tau=0.3)
        if t_loss is not None:
            wanted = wanted + 0.7 * t_loss(network.predictor(h[80:]), t)
        torch.testing.assert_close(found, wanted.expand(40))
        assert float(essl_loss(network, x[:1], None, torch.Generator()).detach()) == 0.0


def test_a_view_has_what_is_to_be_forgotten_and_not_what_is_to_be_told():
    sample = toy(200, 1)
    x, turns = torch.from_numpy(sample.x), {}
    for role in ("predict", "forget"):
        for transformation in ("rotation", "scale"):
            seen = []
            for size in (0.01, 0.2):
                network = build_essl(config(role=role, transformation=transformation, size=size))
                events = network.of(x)
                seen.append(view(network, events, torch.Generator().manual_seed(3))[0])
            assert torch.equal(*seen) is not (role == "forget" and transformation == "scale")
            # a jet of 100 GeV keeps its direction but for the turn of the whole event
            before, after = events.phi[:, 6], torch.atan2(seen[0][:, 6, 3], seen[0][:, 6, 2])
            turns[role, transformation] = (2 / np.pi * (after - before)).numpy()[seen[0][:, 6, 4] > 0]
    assert len(turns["predict", "rotation"]) > 150
    np.testing.assert_allclose(turns["predict", "rotation"], 0, atol=1e-3)
    quarters = turns["forget", "rotation"]  # a turn by any angle would be one more augmentation
    assert np.unique(np.round(quarters) % 4).size == 4
    np.testing.assert_allclose(quarters, np.round(quarters), atol=1e-3)
    for transformation in ("predict", "forget"):
        apart = turns[transformation, "scale"]
        assert np.abs(apart - np.round(apart)).mean() > 0.2


@pytest.mark.parametrize(("transformation", "known"), [("scale", scale_known), ("rotation", angle_known)])
def test_what_is_told_is_known_and_what_is_not_is_not(transformation, known):
    reference, fresh = toy(1000, 1), toy(1000, 9, 50_000)
    settings = {**SMALL, "transformation": transformation}
    told = Essl(**settings).fit(reference, reference)
    frozen = Essl(**{**settings, "strength": 0.0, "epochs": 5}).fit(reference, reference)
    forgot = Essl(**{**settings, "role": "forget", "epochs": 5}).fit(reference, reference)
    chance = 0.25 if transformation == "rotation" else 0.0
    assert known(told, fresh) > chance + 0.4
    assert known(forgot, fresh) < chance + 0.1
    assert known(frozen, fresh) < chance + 0.15
    assert told.told(fresh).loss < told.told(fresh).chance - 0.3
    assert frozen.told(fresh).loss > frozen.told(fresh).chance - 0.02
    if transformation == "rotation":
        assert told.told(fresh).accuracy > 0.6
        assert frozen.told(fresh).accuracy == pytest.approx(0.25, abs=0.06)
        moved = turn(fresh, np.random.default_rng(1).uniform(-3, 3, len(fresh)))
        np.testing.assert_allclose(told.transform(moved).x, told.transform(fresh).x, atol=0.02)
    assert forgot.told_ is None


def test_constituents_and_plain_columns_can_be_learnt_from_too():
    for transformation in ("rotation", "scale"):
        sample = cloud(400, 1)
        found = Essl(transformation=transformation, **TINY).fit(sample, sample)
        assert found.transform(sample).x.shape == (400, 4)
    sample = make(400, 1)
    found = Essl(columns=("f1",), **TINY).fit(sample, sample)
    network = found._network
    moved, nu = drawn(network, torch.from_numpy(sample.x), torch.Generator().manual_seed(0))
    wanted = sample.x.copy()
    wanted[:, 1] *= 1 + 0.05 * nu.numpy()
    np.testing.assert_allclose(moved, wanted, rtol=1e-5)


def test_it_is_a_representation_that_survives_a_trip_to_disk(tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 1:
            raise Stop

    reference, fresh = toy(301, 1), toy(30, 4)  # a last batch of one
    found = Essl(transformation="rotation", **TINY).fit(reference, reference)
    assert isinstance(found, Representation)
    assert isinstance(found, Storable)
    h = found.transform(fresh).x
    np.testing.assert_array_equal(found.transform(fresh.take(np.array([7, 3]))).x, h[[7, 3]])
    again = Essl(transformation="rotation", trainer=TrainPlan(folder=tmp_path, progress=stop), **TINY)
    with pytest.raises(Stop):
        again.fit(reference.take(np.arange(301)[::-1]), reference)
    again.trainer = TrainPlan(folder=tmp_path)
    again.fit(reference.take(np.arange(301)[::-1]), reference)
    np.testing.assert_array_equal(again.transform(fresh).x, h)
    for name, one in (("rotation", found), ("scale", Essl(**TINY).fit(reference, reference))):
        score = Represented(one, Mahalanobis())
        score.inner.fit(one.transform(reference), one.transform(reference))
        save(score, tmp_path / name, FEATURES, {})
        back, _ = load(tmp_path / name, FEATURES)
        np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
        assert str(back.representation.told_) == str(one.told_)


def test_impossible_settings_say_so():
    assert build("Essl", {"hidden": [16, 4]}, "representation") == Essl(hidden=(16, 4))
    with pytest.raises(ConfigError, match="transformation: found 'mirror'"):
        Essl(transformation="mirror")
    with pytest.raises(ConfigError, match="role: found 'x'"):
        Essl(role="x")
    with pytest.raises(ConfigError, match="found bins 1"):
        Essl(bins=1)
    sample = make(50, 1)
    for settings in ({}, {"transformation": "rotation"}, {"columns": ("f9",)}):
        with pytest.raises(FeatureError, match=r"columns: found .*f0, f1"):
            Essl(**settings).fit(sample, sample)
    with pytest.raises(FeatureError, match="columns: found"):
        Essl(columns=("MET_pt",)).fit(toy(50, 1), toy(50, 1))
    with pytest.raises(InputError, match="this Essl has not been fitted"):
        Essl().transform(toy(3, 1))
