"""VICReg as a representation: what it forgets, what it keeps, and that it is the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, InputError
from elsewhere.models.augmentations.events import physical
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.methods import build
from elsewhere.models.networks.object_table import object_columns, object_table, seen
from elsewhere.models.networks.vicreg import vicreg
from elsewhere.models.representations.vicreg import VicReg, build_vicreg, vicreg_loss
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mixture_density import MixtureDensity
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan

from .test_anomclr import FEATURES, events

SMALL = {"backbone": (32, 8), "projector": 32, "epochs": 6, "batch": 200, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def fitted():
    return VicReg(**SMALL).fit(events(2000, 1), events(10, 2))


def turned(sample, angle):
    x = sample.x.copy().reshape(len(sample), -1, 3)
    x[:, :, 2] = np.where(x[:, :, 0] > 0, (x[:, :, 2] + angle + np.pi) % (2 * np.pi) - np.pi, 0)
    return replace(sample, x=x.reshape(len(sample), -1))


def test_the_loss_is_vicregs_of_two_physical_views():
    made = VicReg(**SMALL)
    made.features_ = FEATURES
    columns, kinds = object_columns(FEATURES)
    x = torch.from_numpy(object_table(events(60, 1).x, columns))
    network = build_vicreg(made._config())
    found = vicreg_loss(network, x, None, torch.Generator().manual_seed(3))
    generator, kinds = torch.Generator().manual_seed(3), torch.tensor(kinds)
    whole = Objects.of(x.reshape(60, -1, 3))
    inner = []
    for _ in range(2):
        table, there = seen(physical(whole, kinds, generator), kinds)
        flat = (
            torch.cat([table[:, :, i] for i in range(4)], dim=1).reshape(60, 4, -1).transpose(1, 2).flatten(1)
        )
        inner.append(network.backbone(flat))
        torch.testing.assert_close(network.represent(table, there), inner[-1])
    z = [network.projector(h) for h in inner]
    assert not torch.allclose(*z)
    torch.testing.assert_close(found, vicreg(*z, coefficients=(25.0, 25.0, 1.0), unbiased=True).expand(60))
    assert float(vicreg_loss(network, x[:1], None, torch.Generator().manual_seed(3)).detach()) == 0.0


def test_it_forgets_the_angle_and_keeps_events_apart(fitted):
    fresh = events(500, 4, first=9000)
    h, moved = (fitted.transform(e).x for e in (fresh, turned(fresh, 1.0)))
    unfit = VicReg(**SMALL)
    unfit.features_ = FEATURES
    unfit.weights_ = {k: p.detach().numpy() for k, p in build_vicreg(unfit._config()).named_parameters()}
    h0, moved0 = (unfit.transform(e).x for e in (fresh, turned(fresh, 1.0)))
    assert np.abs(moved - h).mean() / h.std() < 0.5 * np.abs(moved0 - h0).mean() / h0.std()
    assert fitted.latent_.effective_rank > 4
    assert fitted.record_.train_loss[-1] < 0.8 * fitted.record_.train_loss[0]


def test_it_is_a_representation_whose_events_do_not_see_each_other(fitted):
    fresh = events(50, 4)
    h = fitted.transform(fresh)
    assert isinstance(fitted, Representation)
    assert isinstance(fitted, Storable)
    assert h.x.shape == (50, 8)
    assert h.features.names == fitted.features(FEATURES).names == tuple(f"h{i}" for i in range(8))
    assert h.features.name == "objects/vicreg"
    np.testing.assert_array_equal(fitted.transform(fresh.take(np.array([7, 3]))).x, h.x[[7, 3]])
    np.testing.assert_array_equal(h.identity, fresh.identity)


def test_same_seed_same_weights_whatever_the_order_of_rows_or_an_interruption(fitted, tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 3:
            raise Stop

    reference = events(2000, 1).take(np.random.default_rng(0).permutation(2000))
    again = VicReg(**SMALL, trainer=TrainPlan(folder=tmp_path, progress=stop))
    with pytest.raises(Stop):
        again.fit(reference, events(10, 2))
    again.trainer = TrainPlan(folder=tmp_path)
    again.fit(reference, events(10, 2))
    assert again.record_.resumed_from == 3
    assert all(np.array_equal(again.weights_[k], v) for k, v in fitted.weights_.items())
    assert again.latent_ == fitted.latent_
    other = VicReg(**SMALL, seed=1).fit(reference, events(10, 2))
    assert not np.array_equal(other.transform(reference).x, fitted.transform(reference).x)


def test_it_survives_save_and_load_with_a_score_behind_it(tmp_path):
    reference, fresh = events(501, 5), events(40, 6)  # a last batch of one
    made = VicReg(**{**SMALL, "epochs": 1, "batch": 100})
    score = Represented(made, MixtureDensity(components=1, starts=1)).fit(reference, reference)
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
    assert back.representation.latent_ == made.latent_


def test_impossible_settings_say_so():
    assert build("VicReg", {"backbone": [16, 4]}, "representation") == VicReg(backbone=(16, 4))
    with pytest.raises(ConfigError, match=r"found backbone \[\]"):
        VicReg(backbone=())
    with pytest.raises(ConfigError, match=r"coefficients: found \[0, 0, 0\]"):
        VicReg(coefficients=(0, 0, 0))
    with pytest.raises(InputError, match="this VicReg has not been fitted"):
        VicReg().transform(events(3, 1))
