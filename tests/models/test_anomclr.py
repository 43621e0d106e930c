"""AnomCLR: what it learns, that it forgets nothing on the way to disk, and that its draws are the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.augmentations.events import anomalous, physical
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.networks.object_table import object_columns, object_table, seen
from elsewhere.models.representations.anomclr import AnomClr, build_contrastive
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mixture_density import MixtureDensity
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan

SMALL = {
    "width": 16,
    "heads": 2,
    "layers": 1,
    "feedforward": 16,
    "out": 8,
    "epochs": 4,
    "batch": 100,
    "learning_rate": 3e-3,
}
OBJECTS = ("MET", "EG0", "EG1", "Mu0", "Mu1", "Jet0", "Jet1", "Jet2")
FEATURES = FeatureSet(
    "objects", tuple(Column(f"{name}_{part}", "", part) for name in OBJECTS for part in ("pt", "eta", "phi"))
)


def events(n, seed, first=0):
    """Falling pT spectra, a part of the slots empty."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, len(OBJECTS))) < 0.5
    there[:, 0] = True
    pt, eta, phi = (
        rng.exponential(20, there.shape) + 16,
        rng.uniform(-2, 2, there.shape),
        rng.uniform(-3, 3, there.shape),
    )
    eta[:, 0] = 0
    x = np.stack([v * there for v in (pt, eta, phi)], axis=2).reshape(n, -1).astype(np.float32)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = first + np.arange(n)
    return Events(x, np.full(n, np.nan), np.ones(n), identity, FEATURES)


@pytest.fixture(scope="module")
def fitted():
    return AnomClr(**SMALL).fit(events(2000, 1), events(10, 2))


def test_a_fitted_one_tells_anomalous_views_from_physical_ones(fitted):
    columns, kinds = object_columns(FEATURES)
    fresh = Objects.of(torch.from_numpy(object_table(events(1500, 3, 5000).x, columns)).reshape(1500, -1, 3))
    kinds, generator = torch.tensor(kinds), torch.Generator().manual_seed(1)
    network = build_contrastive(fitted._config())
    gaps = []
    for weights in (None, fitted.weights_):
        if weights:
            network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        with torch.no_grad():
            z, near, far = (
                torch.nn.functional.normalize(network(*seen(v, kinds)), dim=1)
                for v in (fresh, physical(fresh, kinds, generator), anomalous(fresh, kinds, generator))
            )
        gaps.append(((z * near).sum(dim=1) - (z * far).sum(dim=1)).mean().item())
    assert gaps[1] > max(0.2, gaps[0] + 0.15)
    assert fitted.record_.train_loss[-1] < fitted.record_.train_loss[0] - 1.0


def test_it_is_a_representation_whose_events_do_not_see_each_other(fitted):
    fresh = events(50, 4)
    h = fitted.transform(fresh)
    assert isinstance(fitted, Representation)
    assert h.x.shape == (50, 16)
    assert h.features.names == fitted.features(FEATURES).names
    assert np.isfinite(h.x).all()
    assert h.x.std(axis=0).max() > 0.01
    np.testing.assert_array_equal(fitted.transform(fresh.take(np.array([7, 3]))).x, h.x[[7, 3]])
    np.testing.assert_array_equal(h.identity, fresh.identity)
    turned = fresh.x.copy().reshape(50, -1, 3)
    turned[:, :, 2] = np.where(turned[:, :, 0] > 0, (turned[:, :, 2] + 1.0 + np.pi) % (2 * np.pi) - np.pi, 0)
    moved = fitted.transform(replace(fresh, x=turned.reshape(50, -1))).x
    assert np.abs(moved - h.x).mean() < 0.5 * h.x.std()  # learnt, not built in


def test_same_seed_same_weights_whatever_the_order_of_rows(fitted):
    reference = events(2000, 1)
    again = AnomClr(**SMALL).fit(reference.take(np.random.default_rng(0).permutation(2000)), events(10, 2))
    assert all(np.array_equal(again.weights_[k], v) for k, v in fitted.weights_.items())
    other = AnomClr(**SMALL, seed=1).fit(reference, events(10, 2))
    assert not all(np.array_equal(other.weights_[k], v) for k, v in fitted.weights_.items())


def test_an_interrupted_training_ends_with_the_same_weights(fitted, tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 2:
            raise Stop

    made = AnomClr(**SMALL, trainer=TrainPlan(folder=tmp_path, progress=stop))
    with pytest.raises(Stop):
        made.fit(events(2000, 1), events(10, 2))
    made.trainer = TrainPlan(folder=tmp_path)
    made.fit(events(2000, 1), events(10, 2))
    assert made.record_.resumed_from == 2
    assert all(np.array_equal(made.weights_[k], v) for k, v in fitted.weights_.items())


def test_it_survives_save_and_load_with_a_score_behind_it(fitted, tmp_path):
    assert isinstance(fitted, Storable)
    reference, fresh = events(500, 5), events(40, 6)
    score = Represented(AnomClr(**{**SMALL, "epochs": 1}), MixtureDensity(components=1, starts=1)).fit(
        reference, reference
    )
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))


@pytest.mark.parametrize("loss", ["nt_xent", "clr", "anomclr"])
def test_other_losses_train_too_and_a_last_batch_of_one_does_no_harm(loss):
    made = AnomClr(**{**SMALL, "loss": loss, "epochs": 2}).fit(events(301, 1), events(10, 2))
    assert made.record_.train_loss[1] < made.record_.train_loss[0]
    assert np.isfinite(made.transform(events(20, 3)).x).all()


def test_what_it_cannot_use_is_refused(fitted):
    with pytest.raises(InputError, match="has not been fitted"):
        AnomClr().transform(events(5, 1))
    with pytest.raises(ConfigError, match="found loss 'triplet'"):
        AnomClr(loss="triplet")
    with pytest.raises(ConfigError, match="modes: found"):
        AnomClr(modes=("remove",))
    with pytest.raises(ConfigError, match="no multiple of heads"):
        AnomClr(width=10, heads=3)
    columns = (*FEATURES.columns, Column("HT", "GeV", "sum"))
    with pytest.raises(FeatureError, match="column HT belongs to no object"):
        object_columns(replace(FEATURES, columns=columns))
    with pytest.raises(FeatureError, match="there must be one MET"):
        object_columns(replace(FEATURES, columns=FEATURES.columns[3:]))
