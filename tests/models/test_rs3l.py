"""RS3L: which events are paired, that versions of one event end at one point, and that no fold leaks."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import Events
from elsewhere.models.base import Representation, Storable
from elsewhere.models.networks.contrastive import nt_xent
from elsewhere.models.networks.encoder_inputs import describe
from elsewhere.models.networks.vicreg import vicreg
from elsewhere.models.representations.rs3l import Rs3l, Versions, build_rs3l, rs3l_loss
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.store import load, save

from .conftest import FEATURES, make
from .test_essl import CLOUD, cloud

SMALL = {"network": "dense", "hidden": (64, 32), "epochs": 12, "batch": 100, "learning_rate": 3e-3}
TINY = {"hidden": (16,), "projector": (16,), "epochs": 2, "batch": 100}


def again(sample, seed, noise=0.1):
    """The same events showered again, here: with noise, in another order, in another file."""
    rng = np.random.default_rng(seed)
    identity = sample.identity.copy()
    identity["file_lo"] = seed
    x = (sample.x + noise * rng.normal(size=sample.x.shape)).astype(np.float32)
    return replace(sample, x=x, identity=identity).take(rng.permutation(len(sample)))


def shaken(sample, seed):
    """The same jets with constituents of other energies."""
    rng = np.random.default_rng(seed)
    x = sample.x.reshape(len(sample), -1, 3).copy()
    x[:, :, 0] *= rng.normal(1, 0.05, x.shape[:2])
    return replace(sample, x=x.reshape(len(sample), -1).astype(np.float32))


def events_of(sample):
    return sample.identity["event"].tolist()


def test_versions_are_joined_by_run_section_and_event():
    a = make(5, 1).take(np.array([3, 0, 4, 1, 2]))
    other_run = a.take(np.array([0]))
    other_run.identity["run"] = 9
    b = again(a, 2).take(slice(0, 3))
    c = Events.concatenate([again(a, 3).take(slice(0, 4)), other_run])
    found = Versions([a, b, c], 0)
    assert found.x.shape == (6, 3, 4)
    np.testing.assert_array_equal(found.x[:5, 0], a.x)
    for i, sample in enumerate((a, b, c)):
        for k, event in enumerate(events_of(sample)):
            row = 5 if sample.identity["run"][k] == 9 else events_of(a).index(event)
            assert found.there[row, i]
            np.testing.assert_array_equal(found.x[row, i], sample.x[k])
    assert found.there.sum() == 5 + 3 + 5
    assert not found.x[~found.there].any()


def test_the_loss_is_of_two_versions_that_are_there():
    sample = make(40, 1)
    made = Rs3l(**{**TINY, "network": "dense"}, tau=0.3)
    made.inputs_ = describe(FEATURES, sample.x)
    network = build_rs3l(made._config())
    a, b, junk = (torch.from_numpy(again(sample, s).x) for s in (2, 3, 4))
    there = torch.ones(40, 3)
    there[:, 1] = 0
    x = torch.stack([a, 1e3 * junk, b], dim=1).flatten(1)
    found = rs3l_loss(network, x, there, torch.Generator().manual_seed(0))
    first, second = (network.encode(*network.table(v)) for v in (a, b))
    # which of the two is first is drawn, event by event, and batch normalisation is of the first ones
    lot = torch.rand((40, 3), generator=torch.Generator().manual_seed(0)) + there
    swap = (lot[:, 2] > lot[:, 0])[:, None]
    assert 5 < int(swap.sum()) < 35
    pair = torch.where(swap, b, a), torch.where(swap, a, b)
    z = [network(network.encode(*network.table(v))) for v in pair]
    torch.testing.assert_close(found, nt_xent(*z, tau=0.3).expand(40))
    assert first.shape == second.shape == (40, 8)
    network.contrast = ("vicreg", 0.3)
    found = rs3l_loss(network, x, there, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, vicreg(*z, coefficients=(25.0, 25.0, 1.0), unbiased=True).expand(40))
    assert float(rs3l_loss(network, x[:1], there[:1], torch.Generator()).detach()) == 0.0


@pytest.mark.parametrize("loss", ["nt_xent", "vicreg"])
def test_versions_end_together_and_events_apart(loss):
    reference, fresh = make(1000, 1), make(600, 2, first=50_000)
    made = Rs3l(versions=[again(reference, 5), again(reference, 6)], loss=loss, **SMALL).fit(
        reference, reference
    )
    h, moved = (made.transform(v).x for v in (fresh, again(fresh, 7)))
    order = np.argsort(again(fresh, 7).identity["event"])
    h, moved = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (h, moved[order]))
    same, other = (h * moved).sum(axis=1).mean(), (h * np.roll(moved, 1, axis=0)).sum(axis=1).mean()
    assert same > 0.9
    assert abs(other) < 0.3
    assert made.pairs_.same > 0.9
    assert made.pairs_.other < 0.3
    assert (made.pairs_.events, made.pairs_.alone) == (1000, 0)


def test_events_with_one_version_are_counted_and_left_out(caplog):
    reference = make(300, 1)
    some = again(reference, 2).take(slice(0, 220))
    with caplog.at_level(logging.INFO):
        found = Rs3l(versions=[some], network="dense", **TINY).fit(reference, reference)
    assert (found.pairs_.events, found.pairs_.alone) == (220, 80)
    assert "80 of 300 events have one version only and are left out" in caplog.text
    kept = reference.take(np.isin(reference.identity["event"], some.identity["event"]))
    other = Rs3l(versions=[some], network="dense", **TINY).fit(kept, kept)
    # the latent space is standardised by all of the reference, trained on those that are paired
    for name, value in other.weights_.items():
        np.testing.assert_array_equal(found.weights_[name], value)
    assert not np.array_equal(found.center_, other.center_)


def test_only_events_of_the_reference_are_learnt_from():
    whole = make(400, 1)
    half = whole.take(slice(0, 200))
    version = again(whole, 2)
    inside = version.take(np.isin(version.identity["event"], half.identity["event"]))
    found, wanted = (Rs3l(versions=[v], network="dense", **TINY).fit(half, half) for v in (version, inside))
    assert found.pairs_ == wanted.pairs_
    for name, value in wanted.weights_.items():
        np.testing.assert_array_equal(found.weights_[name], value)
    shuffled = Rs3l(versions=[version.take(np.arange(400)[::-1])], network="dense", **TINY).fit(
        half.take(np.arange(200)[::-1]), half
    )
    np.testing.assert_array_equal(shuffled.transform(half).x, found.transform(half).x)


def test_a_reference_that_is_no_version_only_gives_the_scale():
    data, simulation = make(300, 1, first=10_000), make(300, 2)
    versions = [simulation, again(simulation, 3)]
    found = Rs3l(versions=versions, nominal=False, network="dense", **TINY).fit(data, data)
    assert found.pairs_.events == 300
    np.testing.assert_allclose(found.transform(data).x.mean(axis=0), 0, atol=1e-3)
    with pytest.raises(InputError, match="none of 300 events has two versions"):
        Rs3l(versions=versions, network="dense", **TINY).fit(data, data)


@pytest.mark.parametrize("network", ["dense", "transformer", "particle_net"])
def test_jets_of_constituents(network, tmp_path):
    sizes = {"neighbours": 3, "channels": (16, 16), "width": 16, "dropout": 0.0}
    reference, fresh = cloud(221, 1), cloud(40, 2)  # a last batch of one
    settings = {**TINY, "network": network, "particle_net": sizes, "batch": 110}
    made = Rs3l(versions=[shaken(reference, 3)], **settings).fit(reference, reference)
    assert isinstance(made, Representation)
    assert isinstance(made, Storable)
    h = made.transform(fresh).x
    assert h.shape == (40, 8)
    np.testing.assert_array_equal(made.transform(fresh.take(np.array([7, 3]))).x, h[[7, 3]])
    if network != "dense":  # in no order
        x = fresh.x.reshape(40, -1, 3)[:, ::-1].reshape(40, -1)
        np.testing.assert_allclose(made.transform(replace(fresh, x=np.ascontiguousarray(x))).x, h, atol=2e-3)
    score = Represented(made, Mahalanobis())
    score.inner.fit(made.transform(reference), made.transform(reference))
    save(score, tmp_path / "m", CLOUD, {})
    back, _ = load(tmp_path / "m", CLOUD)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
    assert back.representation.pairs_ == made.pairs_
    assert made.__getstate__()["versions"] == ()


def test_impossible_settings_and_samples_say_so():
    sample = make(50, 1)
    with pytest.raises(ConfigError, match="found network 'tree'"):
        Rs3l(network="tree")
    with pytest.raises(ConfigError, match="tau: found 0"):
        Rs3l(tau=0)
    with pytest.raises(InputError, match="Rs3l has 1 versions of its events"):
        Rs3l().fit(sample, sample)
    with pytest.raises(InputError, match="none of 50 events has two versions"):
        Rs3l(versions=[make(50, 2, first=100)]).fit(sample, sample)
    with pytest.raises(InputError, match="version 1 has 50 events twice"):
        Rs3l(versions=[Events.concatenate([sample, sample])]).fit(sample, sample)
    with pytest.raises(FeatureError, match="made of constituents"):
        Rs3l(versions=[again(sample, 1)], network="particle_net").fit(sample, sample)
    with pytest.raises(InputError, match="this Rs3l has not been fitted"):
        Rs3l().transform(sample)
