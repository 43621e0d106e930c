"""AnomCLR: what it learns, that it forgets nothing on the way to disk, and that its draws are the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, FitError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, in_identity_order
from elsewhere.models.augmentations.events import anomalous, physical
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.networks.contrastive import anomclr_plus, effective_rank, uniformity
from elsewhere.models.networks.object_table import object_columns, object_table, seen
from elsewhere.models.networks.vicreg import vicreg_terms
from elsewhere.models.representations.anomclr import AnomClr, build_contrastive, contrastive_loss
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mixture_density import MixtureDensity
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan
from elsewhere.workspace import read_json

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


def test_by_default_the_loss_is_the_published_one():
    made = AnomClr(**SMALL)
    made.features_ = FEATURES
    columns, kinds = object_columns(FEATURES)
    x = torch.from_numpy(object_table(events(40, 1).x, columns))
    network = build_contrastive(made._config())
    found = contrastive_loss(network, x, None, torch.Generator().manual_seed(3))
    generator, kinds = torch.Generator().manual_seed(3), torch.tensor(kinds)
    whole = Objects.of(x.reshape(40, -1, 3))
    views = [whole, physical(whole, kinds, generator), anomalous(whole, kinds, generator)]
    z = [network(*seen(v, kinds)) for v in views]
    assert found.shape == (40,)
    assert torch.equal(found[0], anomclr_plus(*z))
    network.spread = 3.0, 0.5
    apart = contrastive_loss(network, x, None, torch.Generator().manual_seed(3))
    h = [network.represent(*seen(v, kinds)) for v in views[:2]]
    terms = vicreg_terms(*h, unbiased=True)
    torch.testing.assert_close(apart[0] - found[0], 3.0 * terms[1] + 0.5 * terms[2])
    assert float(contrastive_loss(network, x[:1], None, torch.Generator().manual_seed(3)).detach()) == 0.0


def test_the_variance_term_widens_the_latent_space(fitted):
    apart = AnomClr(**SMALL, variance=25.0, covariance=1.0).fit(events(2000, 1), events(10, 2))
    assert apart.latent_.effective_rank > 1.5 * fitted.latent_.effective_rank
    assert apart.latent_.uniformity < fitted.latent_.uniformity - 0.3


def test_how_much_of_the_latent_space_is_used_is_kept_and_said(fitted, tmp_path, caplog):
    latent = fitted.latent_
    h = torch.from_numpy(fitted.transform(in_identity_order(events(2000, 1))).x).double()
    assert latent.effective_rank == pytest.approx(float(effective_rank(h)), rel=1e-6)
    assert latent.uniformity == pytest.approx(float(uniformity(h)), rel=1e-6)
    assert (len(latent.spectrum), latent.events) == (16, 2000)
    assert sum(latent.spectrum) == pytest.approx(1)
    score = Represented(fitted, MixtureDensity(components=1, starts=1))
    score.inner.fit(fitted.transform(events(200, 5)), events(200, 5))
    save(score, tmp_path / "m", FEATURES, {})
    stored = read_json(tmp_path / "m" / "model.json")["learnt"]["representation"]
    assert stored["latent"]["effective_rank"] == latent.effective_rank
    assert stored["record"]["epochs"] == SMALL["epochs"]
    assert load(tmp_path / "m")[0].representation.latent_ == latent
    with caplog.at_level("INFO", "elsewhere"):
        fitted._look(events(500, 9))
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", f"AnomClr: {fitted.latent_}")]
    assert str(latent).startswith(f"effective rank {latent.effective_rank:.3g} of 16, largest direction ")


def test_a_latent_space_that_is_a_line_is_an_error(monkeypatch):
    def flat(self, found):
        ramp = np.arange(len(found), dtype=np.float32)[:, None]
        return replace(found, x=ramp * np.ones((1, 16), np.float32), features=self.features(found.features))

    monkeypatch.setattr(AnomClr, "transform", flat)
    with pytest.raises(
        FitError, match=r"AnomClr: the latent space has collapsed to a line \(effective rank 1 of 16"
    ):
        AnomClr(**{**SMALL, "epochs": 1}).fit(events(200, 1), events(10, 2))


def test_what_it_cannot_use_is_refused(fitted):
    with pytest.raises(InputError, match="has not been fitted"):
        AnomClr().transform(events(5, 1))
    with pytest.raises(ConfigError, match="found loss 'triplet'"):
        AnomClr(loss="triplet")
    with pytest.raises(ConfigError, match="modes: found"):
        AnomClr(modes=("remove",))
    with pytest.raises(ConfigError, match="variance -1"):
        AnomClr(variance=-1.0)
    with pytest.raises(ConfigError, match="no multiple of heads"):
        AnomClr(width=10, heads=3)
    columns = (*FEATURES.columns, Column("HT", "GeV", "sum"))
    with pytest.raises(FeatureError, match="column HT belongs to no object"):
        object_columns(replace(FEATURES, columns=columns))
    with pytest.raises(FeatureError, match="there must be one MET"):
        object_columns(replace(FEATURES, columns=FEATURES.columns[3:]))
