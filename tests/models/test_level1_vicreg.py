"""The backbone of AXOL1TL's version 5 as a representation: the same as that score's, and the same everywhere."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError, FitError, InputError
from elsewhere.models.augmentations.level1 import Strength
from elsewhere.models.base import Representation, Storable
from elsewhere.models.methods import build, papers_of
from elsewhere.models.networks.axol1tl_v5 import V5Types
from elsewhere.models.representations.level1_vicreg import Level1VicReg
from elsewhere.models.represented import Represented
from elsewhere.models.scores.axol1tl_v5 import Axol1tlV5
from elsewhere.models.scores.mixture_density import MixtureDistance
from elsewhere.models.store import load, save, trainings_of

from .test_axol1tl_v5 import FEATURES, crossings

SMALL = {"backbone": (16, 6), "projector": 16, "epochs": 6, "batch": 128, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def fitted():
    return Level1VicReg(**SMALL).fit(crossings(1500, 1), crossings(10, 2))


def test_it_is_the_backbone_of_version_5(fitted):
    shared = {k: v for k, v in SMALL.items() if k != "epochs"}
    score = Axol1tlV5(**shared, backbone_epochs=6, encoder=(5, 4), latent=2, autoencoder_epochs=1)
    score.fit(crossings(1500, 1), crossings(10, 2))
    names = [f"backbone.{i}.{part}" for i in range(2) for part in ("weight", "bias")]
    assert sorted(fitted.weights_) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(fitted.weights_[name], score.weights_[name])
    np.testing.assert_array_equal(fitted.offset_, score.offset_)


def test_h_is_what_the_types_of_the_firmware_give(fitted):
    """In double precision, and the rounding of `Fixed`."""
    fresh, types = crossings(500, 4, 30_000, hard=3.0), V5Types()

    def fixed(value, name):
        kind = types.of(name)
        return kind.to_float(kind.from_float(value))

    value = fixed((fresh.x.astype(np.float64) - fitted.offset_) * 2.0**-fitted.shift_, "input")
    for i in range(2):
        weight, bias = (fitted.weights_[f"backbone.{i}.{p}"].astype(np.float64) for p in ("weight", "bias"))
        assert (fixed(weight, "narrow") == weight).all()
        value = fixed(np.maximum(value @ weight.T + bias, 0), "activation")
    h = fitted.transform(fresh)
    np.testing.assert_array_equal(h.x, value)
    assert h.features.names == tuple(f"h{i}" for i in range(6))
    assert h.features.name == "objects/level1_vicreg"


def test_it_is_a_representation_whose_events_do_not_see_each_other(fitted):
    fresh = crossings(50, 4, 30_000)
    h = fitted.transform(fresh)
    assert isinstance(fitted, Representation)
    assert isinstance(fitted, Storable)
    np.testing.assert_array_equal(fitted.transform(fresh.take(np.array([7, 3]))).x, h.x[[7, 3]])
    for name in ("identity", "weight", "mass"):
        np.testing.assert_array_equal(getattr(h, name), getattr(fresh, name))
    assert fitted.latent_.effective_rank > 2
    assert fitted.record_.train_loss[-1] < 0.8 * fitted.record_.train_loss[0]


def test_it_survives_save_and_load_with_a_score_behind_it(fitted, tmp_path):
    reference, fresh = crossings(400, 5), crossings(40, 6, 30_000)
    small = {**SMALL, "epochs": 1, "strength": Strength(mask=0.2), "quantised": False}
    score = Represented(Level1VicReg(**small), MixtureDistance(components=2, starts=1))
    score.fit(reference, reference)
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    np.testing.assert_array_equal(back.score(fresh), score.score(fresh))
    assert back.representation == score.representation
    assert back.representation.latent_ == score.representation.latent_
    assert [(t.place, t.latent is not None) for t in trainings_of(tmp_path / "m")] == [
        ("representation", True)
    ]


def test_impossible_settings_and_events_say_so(fitted):
    made = build("Level1VicReg", {"backbone": [16, 4], "strength": {"mask": 0.1}}, "representation")
    assert made == Level1VicReg(backbone=(16, 4), strength=Strength(mask=0.1))
    assert papers_of("Level1VicReg", {}, "representation") == ["2105.04906", "2411.19506"]
    with pytest.raises(ConfigError, match=r"found backbone \(\)"):
        Level1VicReg(backbone=())
    with pytest.raises(ConfigError, match="no negative coefficient"):
        Level1VicReg(coefficients=(50.0, -1.0, 1.0))
    with pytest.raises(InputError, match="this Level1VicReg has not been fitted"):
        Level1VicReg().transform(crossings(3, 1))
    fresh = crossings(3, 1)
    columns = tuple(replace(c, name=f"other_{c.name}") for c in FEATURES.columns)
    with pytest.raises(FeatureError, match="trained on feature set 'objects', the events have 'other'"):
        fitted.transform(replace(fresh, features=replace(FEATURES, name="other", columns=columns)))
    with pytest.raises(FitError, match="has collapsed to a line"):
        Level1VicReg(**{**SMALL, "backbone": (8, 1), "epochs": 1}).fit(fresh := crossings(300, 1), fresh)
