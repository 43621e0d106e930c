"""DarkCLR: its loss and views, what it tells apart, and that it keeps a score's contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, FitError, InputError
from elsewhere.models.augmentations.jets import centred, dark_views, dropped, rotated, translated
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.methods import build
from elsewhere.models.representations.darkclr import DarkClr, build_darkclr, darkclr_loss
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.store import load, save

from .test_contract import broken_promises
from .toy_jets import FEATURES, SLOTS, jets

SMALL = {
    "width": 16, "heads": 2, "layers": 2, "feedforward": 32, "out": 16, "epochs": 8, "batch": 128, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    return DarkClr(**SMALL).fit(jets(2000, 1), jets(10, 2))


def batch(sample):
    return Objects.of(torch.from_numpy(sample.x).reshape(len(sample), -1, 3))


def network_of(made, *, fresh=False):
    network = build_darkclr(made._config()).eval()
    if not fresh:
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in made.weights_.items()})
    return network


def scaled(view):
    return view.table() / torch.tensor([300.0, 1.0, 1.0]), view.there


def test_the_loss_is_the_published_one():
    network = network_of(DarkClr(**SMALL, tau=0.2, size=0.05, drop=0.3), fresh=True)
    sample = jets(40, 1)
    found = darkclr_loss(network, torch.from_numpy(sample.x), None, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    one = rotated(batch(sample), generator)
    views = [one, rotated(one, generator), dropped(one, generator, p=0.3)]
    z, near, far = (network(*scaled(translated(view, generator))) for view in views)
    s = torch.nn.functional.cosine_similarity
    wanted = ((s(z, far) - s(z, near)) / 0.2 + 0.05 * z.norm(dim=1)).mean()
    torch.testing.assert_close(found, wanted.expand(40))
    assert z.shape == (40, 16)


def test_published_sizes_are_the_defaults():
    names = (
        "width",
        "heads",
        "layers",
        "feedforward",
        "out",
        "tau",
        "size",
        "drop",
        "epochs",
        "batch",
        "learning_rate",
    )
    assert [getattr(DarkClr(), k) for k in names] == [128, 4, 4, 512, 512, 0.1, 1e-3, 0.5, 150, 256, 5e-5]


def test_anomalous_views_come_to_lie_further_away_than_physical_ones(fitted):
    views = dark_views(batch(jets(1000, 7, first=20_000)), torch.Generator().manual_seed(1), 0.5)
    near, far = [], []
    for network in (network_of(fitted, fresh=True), network_of(fitted)):
        with torch.no_grad():
            z = [network(*scaled(view)) for view in views]
        s = torch.nn.functional.cosine_similarity
        near.append(float(s(z[0], z[1]).mean()))
        far.append(float(s(z[0], z[2]).mean()))
    assert far[0] > near[0]  # translations tell more apart than what was lost
    assert far[1] < 0.5
    assert near[1] > 0.9
    assert fitted.record_.epochs <= 10


def test_it_is_a_representation_whose_jets_do_not_see_each_other(fitted):
    fresh = jets(400, 4)
    h = fitted.transform(fresh)
    assert isinstance(fitted, Representation)
    assert isinstance(fitted, Storable)
    assert h.features.names == fitted.features(FEATURES).names == tuple(f"h{i}" for i in range(16))
    assert h.features.name == "constituents/darkclr"
    np.testing.assert_array_equal(fitted.transform(fresh.take(np.array([377, 3]))).x, h.x[[377, 3]])
    with torch.no_grad():
        wanted = network_of(fitted).represent(*scaled(centred(batch(fresh)))).numpy()
    np.testing.assert_allclose(h.x, wanted, rtol=1e-4, atol=1e-4)
    order = np.random.default_rng(0).permutation(SLOTS)
    mixed = fresh.x.reshape(-1, SLOTS, 3)[:, order].reshape(400, -1)
    np.testing.assert_allclose(fitted.transform(replace(fresh, x=mixed)).x, h.x, rtol=1e-3, atol=1e-3)
    assert np.isfinite(fitted.transform(replace(fresh, x=np.zeros_like(fresh.x))).x).all()


def test_same_seed_same_weights_whatever_the_order_of_rows(fitted):
    reference = jets(2000, 1).take(np.random.default_rng(0).permutation(2000))
    again = DarkClr(**SMALL).fit(reference, jets(10, 2))
    assert all(np.array_equal(again.weights_[k], v) for k, v in fitted.weights_.items())
    assert again.latent_ == fitted.latent_
    other = DarkClr(**SMALL, seed=1).fit(reference, jets(10, 2))
    assert not np.array_equal(other.transform(reference).x, fitted.transform(reference).x)


@pytest.mark.parametrize(
    "inner",
    [
        lambda seed: Mahalanobis(),
        lambda seed: Autoencoder(hidden=(16,), latent=2, epochs=15, batch=128, seed=seed, learning_rate=5e-3),
    ],
)
def test_with_a_score_behind_it_the_contract_is_kept(inner):
    small = {**SMALL, "layers": 1, "epochs": 2}
    assert broken_promises(lambda seed: Represented(DarkClr(**small, seed=seed), inner(seed)), jets) == []


def test_it_survives_save_and_load_with_a_score_behind_it(tmp_path):
    reference, fresh = jets(301, 5), jets(40, 6)
    made = DarkClr(**{**SMALL, "epochs": 1})
    score = Represented(made, Mahalanobis()).fit(reference, reference)
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
    assert back.representation.latent_ == made.latent_


def test_what_it_cannot_use_is_refused(fitted, monkeypatch):
    assert build("DarkClr", {"width": 8, "drop": 0.3}, "representation") == DarkClr(width=8, drop=0.3)
    with pytest.raises(InputError, match="this DarkClr has not been fitted"):
        DarkClr().transform(jets(3, 1))
    for wrong in ({"tau": 0.0}, {"size": -1.0}, {"drop": 0.0}, {"drop": 1.0}):
        with pytest.raises(ConfigError, match=f"found .*{next(iter(wrong))} {next(iter(wrong.values()))}"):
            DarkClr(**wrong)
    with pytest.raises(ConfigError, match="width: 10 is no multiple of heads 4"):
        DarkClr(width=10)
    other = replace(FEATURES, columns=tuple(replace(c, name=f"Jet{c.name}") for c in FEATURES.columns))
    with pytest.raises(FeatureError, match="column JetCand0_pt belongs to no constituent"):
        DarkClr(**SMALL).fit(replace(jets(5, 1), features=other), jets(5, 1))
    ramp = np.linspace(0, 1, 200, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    monkeypatch.setattr(
        DarkClr, "transform", lambda self, e: replace(e, x=ramp, features=self.features(e.features))
    )
    with pytest.raises(FitError, match="the latent space has collapsed to a line"):
        DarkClr(**{**SMALL, "epochs": 1}).fit(jets(200, 1), jets(10, 2))
