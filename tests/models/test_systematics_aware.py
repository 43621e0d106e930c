"""The systematics-aware embedding: its ratio is that of shifted and nominal events, and the classes stay apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.networks.essl import scaled
from elsewhere.models.networks.object_table import object_columns
from elsewhere.models.networks.systematics import build_ratio
from elsewhere.models.representations.cl4ad import Cl4ad, cl4ad_loss
from elsewhere.models.representations.systematics_aware import SystematicsAware, aware_loss, build_aware
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.store import load, save

from .conftest import make
from .test_anomclr import FEATURES
from .test_cl4ad import probe
from .test_essl import toy

SIZE = 0.05


def soft(n, seed, first):
    """Events with jets of half the energy."""
    made = toy(n, seed, first)
    x = made.x.copy()
    x[:, 15::3] *= 0.5
    return replace(made, x=x)


def embedding(**settings):
    more = {
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "batch": 200,
        "epochs": 6,
        "hidden": (32, 16),
        **settings,
    }
    return Cl4ad(classes={"soft": soft(600, 11, 100_000), "softer": soft(600, 12, 200_000)}, **more)


def at(sample, nu):
    """The events with jets' energies at nu."""
    kinds = torch.tensor(object_columns(FEATURES)[1])
    objects = Objects.of(torch.from_numpy(sample.x).reshape(len(sample), -1, 3))
    moved = scaled(objects, kinds, torch.full((len(sample), 1), 1 + SIZE * nu))
    return replace(sample, x=moved.table().reshape(len(sample), -1).numpy())


@pytest.fixture(scope="module")
def fitted():
    reference = toy(2400, 1)
    made = SystematicsAware(embedding(), size=SIZE, head_epochs=30, epochs=5, batch=100, learning_rate=3e-3)
    return made.fit(reference, reference)


def test_the_ratio_is_a_polynomial_in_nu_that_says_nothing_at_0():
    config = {"latent": 3, "hidden": [8, 8], "center": [0.0, 1, 2], "spread": [1.0, 2, 3], "seed": 0}
    ratio = build_ratio(config)
    h = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = [ratio(torch.cat([h, torch.full((20, 1), nu)], dim=1)).detach() for nu in (0.0, 1.0, -1.0, 2.0)]
    assert float(found[0].abs().max()) == 0.0
    odd, even = (found[1] - found[2]) / 2, (found[1] + found[2]) / 2
    torch.testing.assert_close(found[3], 2 * odd + 4 * even)
    standard = (h - torch.tensor([0.0, 1, 2])) / torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(odd, ratio.powers[0](standard)[:, 0])


def test_the_loss_is_that_of_the_text(fitted):
    start = {f"encoder.{k}": v.tolist() for k, v in fitted.embedding.weights_.items()}
    start |= {f"ratio.{k}": v.tolist() for k, v in fitted.weights_.items()}
    config = {
        "embedding": fitted.embedding._config(), "ratio": fitted._ratio_config(), "start": start, "frozen": False, "size": SIZE,
        "weight": 0.7, "decay": 0.01, "scaled": [],
    }  # fmt: skip
    network, sample, y = build_aware(config), toy(40, 8), torch.arange(40.0) % 3
    x = torch.from_numpy(sample.x)
    found = aware_loss(network, x, y, torch.Generator().manual_seed(2)).detach()
    generator = torch.Generator().manual_seed(2)
    nu = 6 * torch.rand(40, generator=generator) - 3
    first = cl4ad_loss(network.encoder, x, y, generator).detach()
    moved = np.concatenate([at(sample.take(np.array([i])), float(nu[i])).x for i in range(40)])
    delta = fitted.log_ratio(replace(sample, x=moved), nu.numpy())
    still = fitted.log_ratio(sample.take(np.arange(-1, 39)), nu.numpy())
    told = 0.5 * np.mean(np.log1p(np.exp(-delta)) + np.log1p(np.exp(still)))
    squares = sum((v**2).sum() for k, v in fitted.weights_.items() if k.endswith("weight"))
    np.testing.assert_allclose((found - first - 0.01 * squares) / 0.7, told, atol=2e-5)
    assert float(aware_loss(network, x[:1], y[:1], torch.Generator()).detach()) == 0.0


def test_weights_of_the_ratio_make_nominal_events_shifted_ones(fitted):
    nominal, other = toy(6000, 3, 300_000), toy(6000, 4, 400_000)
    shifts = []
    for nu in (-2.0, -1.0, 1.0, 2.0):
        h, moved = (fitted.transform(e).x.astype(np.float64) for e in (nominal, at(other, nu)))
        weight = np.exp(fitted.log_ratio(nominal, nu))
        assert weight.mean() == pytest.approx(1, abs=0.1)
        x = np.clip(np.concatenate([h, moved]), -8, 8)
        x, y = np.c_[np.ones(12_000), x, x**2], np.repeat([0, 1], 6000)
        train, test = (np.arange(12_000) % 2 == k for k in (0, 1))
        auc = {}
        for name, own in (("without", np.ones(6000)), ("with", weight)):
            w = np.concatenate([own, np.ones(6000)])
            root = np.sqrt(w[train])[:, None]
            fit = np.linalg.lstsq(x[train] * root, (y[train] - 0.5) * root[:, 0], rcond=None)[0]
            said = x[test] @ fit
            auc[name] = weighted_auc(said, y[test], w[test])
        assert auc["without"] > 0.53
        # a fresh classifier sees little of the shift; the rest is what 2,400 events and a small network do not tell
        assert abs(auc["with"] - 0.5) < min(0.04, 0.4 * (auc["without"] - 0.5))
        shifts.append((moved - h).mean(axis=0))
    along = np.array(shifts) @ (shifts[3] / np.linalg.norm(shifts[3]))
    assert (np.diff([along[0], along[1], 0, along[2], along[3]]) > 0).all()


def weighted_auc(score, y, weight):
    order = np.argsort(score)
    y, weight = y[order], weight[order]
    below = np.cumsum(weight * (y == 0))
    return (weight * (y == 1) * below).sum() / (weight[y == 1].sum() * weight[y == 0].sum())


def test_classes_stay_apart(fitted):
    plain = embedding().fit(toy(2400, 1), toy(10, 2))
    fresh = [(toy(500, 20 + k, 300_000), soft(500, 30 + k, 400_000)) for k in range(2)]
    before, after = probe(plain, fresh), probe(fitted, fresh)
    assert before > 0.9
    assert after > before - 0.01
    assert not np.array_equal(
        plain.weights_["layers.0.linear.weight"], fitted.embedding.weights_["layers.0.linear.weight"]
    )
    np.testing.assert_allclose(fitted.transform(toy(2400, 1)).x.mean(axis=0), 0, atol=1e-3)


def test_the_embedding_is_frozen_while_the_ratio_learns():
    reference = toy(300, 1)
    made = SystematicsAware(embedding(epochs=1), head_epochs=2, epochs=1, learning_rate=1e-12, batch=100)
    plain = embedding(epochs=1).fit(reference, reference)
    made.embedding = plain
    made.center_, made.spread_ = plain.center_, plain.spread_
    from elsewhere.models.training import Sample

    start = {f"encoder.{k}": v for k, v in plain.weights_.items()}
    made.learning_rate = 1e-2
    found, _ = made._train(Sample(*plain._rows(reference)), start, frozen=True)
    for name, value in start.items():
        np.testing.assert_array_equal(found[name], value)
    assert any(k.startswith("ratio.") for k in found)


def test_it_is_a_representation_that_survives_a_trip_to_disk(tmp_path):
    reference, fresh = toy(301, 1), toy(30, 4)  # a last batch of one
    made = SystematicsAware(embedding(epochs=1), head_epochs=1, epochs=1, batch=300)
    rows = len(made.embedding._rows(reference)[0])
    made.batch = rows - 1
    made.fit(reference, reference)
    assert isinstance(made, Representation)
    assert isinstance(made, Storable)
    score = Represented(made, Mahalanobis())
    score.inner.fit(made.transform(reference), made.transform(reference))
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
    delta = made.log_ratio(fresh, 1.5)
    np.testing.assert_array_equal(back.representation.log_ratio(fresh, 1.5), delta)
    np.testing.assert_array_equal(made.log_ratio(fresh.take(np.array([7, 3])), 1.5), delta[[7, 3]])
    again = SystematicsAware(embedding(epochs=1), head_epochs=1, epochs=1, batch=rows - 1)
    again.fit(reference.take(np.arange(301)[::-1]), reference)
    np.testing.assert_array_equal(again.log_ratio(fresh, 1.5), delta)


def test_impossible_settings_say_so():
    with pytest.raises(ConfigError, match="found size 0"):
        SystematicsAware(size=0)
    with pytest.raises(ConfigError, match="epochs: found 0"):
        SystematicsAware(epochs=0)
    with pytest.raises(FeatureError, match="columns: found"):
        SystematicsAware().fit(make(50, 1), make(50, 1))
    with pytest.raises(InputError, match="has not been fitted"):
        SystematicsAware().log_ratio(toy(3, 1), 1.0)


def test_a_nu_beyond_those_learnt_is_refused(fitted):
    with pytest.raises(InputError, match=r"nu: found up to 3\.5"):
        fitted.log_ratio(toy(3, 1), 3.5)
