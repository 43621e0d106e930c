"""JetCLR: its loss and views, that it is safe against soft and collinear radiation, and that it keeps a score's contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.models.augmentations.jets import centred, position_smeared, rotated, split, translated
from elsewhere.models.augmentations.objects import Objects
from elsewhere.models.base import Representation, Storable
from elsewhere.models.methods import build
from elsewhere.models.networks.constituent_table import constituent_columns, constituent_table
from elsewhere.models.networks.contrastive import nt_xent
from elsewhere.models.representations.jetclr import JetClr, build_jetclr, jetclr_loss
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.scores.nearest_neighbours import NearestNeighbours
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan
from elsewhere.processors.constituents import CONSTITUENTS

from .test_contract import broken_promises
from .toy_jets import FEATURES, SLOTS, jets

SMALL = {
    "width": 16, "heads": 2, "layers": 2, "feedforward": 16, "out": 8, "epochs": 10, "batch": 100, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    return JetClr(**SMALL).fit(jets(2000, 1), jets(10, 2))


def batch(sample):
    return Objects.of(torch.from_numpy(sample.x).reshape(len(sample), -1, 3))


def test_columns_of_the_feature_set_become_a_table():
    columns = constituent_columns(CONSTITUENTS)
    np.testing.assert_array_equal(columns, np.arange(150).reshape(50, 3))
    order = np.random.default_rng(0).permutation(60)
    mixed = replace(FEATURES, columns=tuple(FEATURES.columns[i] for i in order))
    sample = jets(30, 1)
    table = constituent_table(sample.x[:, order], constituent_columns(mixed))
    np.testing.assert_array_equal(table, sample.x)
    assert (table.dtype, table.shape) == (np.float32, (30, 60))
    for wrong, named in (("HT", "HT"), ("Cand3_mass", "Cand3_mass"), ("Cand77_pt", "Cand77_pt")):
        extra = replace(FEATURES.columns[0], name=wrong)
        with pytest.raises(FeatureError, match=f"column {named} belongs to no constituent"):
            constituent_columns(replace(FEATURES, columns=(*FEATURES.columns, extra)))
    with pytest.raises(FeatureError, match="there is no column"):
        constituent_columns(replace(FEATURES, columns=()))
    with pytest.raises(FeatureError, match="column Cand0_eta belongs to no constituent"):
        constituent_columns(replace(FEATURES, columns=FEATURES.columns[1:]))


@pytest.mark.parametrize("head", [True, False])
def test_the_loss_is_nt_xent_of_the_published_views(head):
    network = build_jetclr(JetClr(**SMALL, head=head)._config())
    sample = jets(40, 1)
    found = jetclr_loss(network, torch.from_numpy(sample.x), None, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    one, other = rotated(batch(sample), generator), rotated(batch(sample), generator)
    other = position_smeared(split(other, generator, passes=2), generator)
    assert (other.there.sum(dim=1) > one.there.sum(dim=1)).any()
    z = []
    for view in (translated(one, generator), translated(other, generator)):
        table = view.table() / torch.tensor([600.0, 1.0, 1.0])
        h = network.represent(table, view.there)
        z.append(network.head(h) if head else h)
    assert found.shape == (40,)
    torch.testing.assert_close(found, nt_xent(*z, tau=0.1).expand(40))
    assert network.safe
    assert z[0].shape == (40, 8 if head else 16)


def test_published_sizes_are_the_defaults():
    found = {
        k: getattr(JetClr(), k)
        for k in ("width", "heads", "layers", "feedforward", "out", "tau", "epochs", "batch")
    }
    assert found == {
        "width": 1000, "heads": 4, "layers": 4, "feedforward": 1000, "out": 1000, "tau": 0.1, "epochs": 500, "batch": 128
    }  # fmt: skip
    assert JetClr().learning_rate == 5e-5


def test_a_constituent_without_pt_changes_nothing(fitted):
    """The network by itself, where the feature set would leave such a constituent out."""
    network = build_jetclr(fitted._config())
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in fitted.weights_.items()})
    sample = batch(jets(300, 3))
    table = sample.table() / torch.tensor([600.0, 1.0, 1.0])
    more, there = table.clone(), sample.there.clone()
    more[:, -1], there[:, -1] = torch.tensor([0.0, 0.4, -0.3]), True
    with torch.no_grad():
        before, after = network.eval().represent(table, sample.there), network.represent(more, there)
    assert bool(((after - before).norm(dim=1) / before.norm(dim=1) < 1e-4).all())
    more[:, -1, 0] = 1e-6  # nearly none: 0.6 keV, so that the limit is smooth
    with torch.no_grad():
        after = network.represent(more, there)
    change = (after - before).norm(dim=1) / before.norm(dim=1)
    assert change.median() < 1e-2
    network.safe = False
    with torch.no_grad():
        plain = network.represent(table, sample.there)
        assert ((network.represent(more, there) - plain).norm(dim=1) / plain.norm(dim=1)).median() > 1e-2


def split_once(sample, seed=0):
    """One constituent of every jet, whichever, in two of the same direction that share its pT in any ratio."""
    rng = np.random.default_rng(seed)
    x, jet = sample.x.reshape(len(sample), SLOTS, 3).copy(), np.arange(len(sample))
    assert not x[:, -1].any()
    which = rng.integers(0, (x[:, :, 0] > 0).sum(axis=1))
    share = rng.random(len(sample))
    x[jet, -1] = x[jet, which]
    x[jet, which, 0] *= share
    x[jet, -1, 0] *= 1 - share
    return replace(sample, x=x.reshape(len(sample), -1))


def change(made, sample, other):
    h, moved = made.transform(sample).x, made.transform(other).x
    return float(np.median(np.linalg.norm(moved - h, axis=1) / np.linalg.norm(h, axis=1)))


def test_training_makes_collinear_splits_and_rotations_small(fitted):
    """The safe network as it is drawn changes by 2 %."""
    unfit = JetClr(**SMALL)
    unfit.features_ = FEATURES
    unfit.weights_ = {k: p.detach().numpy() for k, p in build_jetclr(unfit._config()).named_parameters()}
    fresh = jets(500, 4, first=5000)
    assert change(fitted, fresh, split_once(fresh)) < 0.01 < change(unfit, fresh, split_once(fresh))
    x = fresh.x.reshape(-1, SLOTS, 3).copy()
    x[:, :, 1], x[:, :, 2] = x[:, :, 2].copy(), -x[:, :, 1]
    turned = replace(fresh, x=x.reshape(len(x), -1))
    assert change(fitted, fresh, turned) < 0.5 * change(unfit, fresh, turned)
    moved = fresh.x.copy()
    moved[:, 1::3] += 0.1 * (moved[:, ::3] > 0)
    assert change(fitted, fresh, replace(fresh, x=moved)) < 1e-4  # jets are centred
    assert fitted.record_.train_loss[-1] < fitted.record_.train_loss[0] - 0.3


@pytest.mark.parametrize(("settings", "width"), [({}, 16), ({"layer": "hidden"}, 8), ({"layer": "head"}, 8)])
def test_it_is_a_representation_whose_jets_do_not_see_each_other(settings, width):
    made = JetClr(**{**SMALL, "epochs": 1}, **settings).fit(jets(300, 1), jets(10, 2))
    fresh = jets(400, 4)
    h = made.transform(fresh)
    assert isinstance(made, Representation)
    assert isinstance(made, Storable)
    assert h.x.shape == (400, width)
    assert h.features.names == made.features(FEATURES).names == tuple(f"h{i}" for i in range(width))
    np.testing.assert_array_equal(made.transform(fresh.take(np.array([377, 3]))).x, h.x[[377, 3]])
    network = build_jetclr(made._config())
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in made.weights_.items()})
    one = centred(batch(fresh))
    inner = network.eval().represent(one.table() / torch.tensor([600.0, 1.0, 1.0]), one.there)
    wanted = {16: inner, 8: network.head(inner)}[width]
    if settings.get("layer") == "hidden":
        wanted = network.head[1](torch.relu(inner))
    wanted = torch.nn.functional.normalize(wanted, dim=1).detach().numpy()
    np.testing.assert_allclose(h.x, wanted, rtol=1e-4, atol=1e-5)


def test_jets_without_constituents_are_finite(fitted):
    fresh = jets(3, 1)
    assert np.isfinite(fitted.transform(replace(fresh, x=np.zeros_like(fresh.x))).x).all()


def test_same_seed_same_weights_whatever_the_order_of_rows_or_an_interruption(fitted, tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, *_):
        if epoch == 2:
            raise Stop

    reference = jets(2000, 1).take(np.random.default_rng(0).permutation(2000))
    again = JetClr(**SMALL, trainer=TrainPlan(folder=tmp_path, progress=stop))
    with pytest.raises(Stop):
        again.fit(reference, jets(10, 2))
    again.trainer = TrainPlan(folder=tmp_path)
    again.fit(reference, jets(10, 2))
    assert again.record_.resumed_from == 2
    assert all(np.array_equal(again.weights_[k], v) for k, v in fitted.weights_.items())


@pytest.mark.parametrize(
    "inner", [lambda seed: Mahalanobis(), lambda seed: NearestNeighbours(events=500, seed=seed)]
)
def test_with_a_score_behind_it_the_contract_is_kept(inner):
    small = {**SMALL, "layers": 1, "epochs": 2}
    assert broken_promises(lambda seed: Represented(JetClr(**small, seed=seed), inner(seed)), jets) == []


def test_it_survives_save_and_load_with_a_score_behind_it(tmp_path):
    reference, fresh = jets(301, 5), jets(40, 6)  # a last batch of one
    score = Represented(JetClr(**{**SMALL, "epochs": 1}, head=False), Mahalanobis()).fit(reference, reference)
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))


def test_what_it_cannot_use_is_refused(fitted):
    assert build("JetClr", {"width": 8, "head": False}, "representation") == JetClr(width=8, head=False)
    with pytest.raises(InputError, match="this JetClr has not been fitted"):
        JetClr().transform(jets(3, 1))
    with pytest.raises(ConfigError, match="found layer 'last'"):
        JetClr(layer="last")
    with pytest.raises(ConfigError, match="found layer 'head', head False"):
        JetClr(layer="head", head=False)
    with pytest.raises(ConfigError, match="tau 0"):
        JetClr(tau=0.0)
    with pytest.raises(ConfigError, match="width: 10 is no multiple of heads 4"):
        JetClr(width=10)
    with pytest.raises(FeatureError, match="belongs to no constituent"):
        fitted.fit(
            replace(
                jets(5, 1),
                features=replace(
                    FEATURES, columns=(replace(FEATURES.columns[0], name="MET_pt"), *FEATURES.columns[1:])
                ),
            ),
            jets(5, 1),
        )
