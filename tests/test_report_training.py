"""What the report tells of trainings: every network of a stored model, and none where there is none."""

import numpy as np
from elsewhere.models.folds import CrossFit, Guarded
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.vicreg import VicReg
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.axol1tl_v5 import Axol1tlV5
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import save, trainings_of
from elsewhere.report_training import training_part

from .models.conftest import make
from .models.test_axol1tl_v5 import SMALL, crossings


def stored(model, folder, events):
    save(model.fit(events, events), folder, events.features, {})
    return folder


def test_every_fold_of_every_network_has_its_curve(tmp_path):
    looking = VicReg(backbone=(16, 6), projector=8, epochs=2, batch=64)
    inner = Autoencoder(hidden=(8,), latent=2, epochs=3, batch=64)
    folder = stored(CrossFit(Represented(looking, inner), folds=2), tmp_path / "m", crossings(400, 1))
    found = trainings_of(folder)
    assert sorted((t.place, t.number, len(t.record["train_loss"])) for t in found) == [
        ("inner", "0", 3), ("inner", "1", 3), ("representation", "0", 2), ("representation", "1", 2),
    ]  # fmt: skip
    part = training_part(folder, "label")
    assert [f.name for f in part.figures] == ["training_score", "training_representation"]
    rows = {row[0]: row for row in part.tables[0].rows}
    assert [rows["score"][i] for i in (1, 2, 6)] == [2, "3", "-"]
    ranks = [t.latent["effective_rank"] for t in found if t.latent]
    assert len(ranks) == 2
    assert rows["representation"][6].startswith(f"effective rank {min(ranks):.3g} of ")


def test_two_trainings_of_one_score_are_two_networks(tmp_path):
    small = {**SMALL, "backbone_epochs": 1, "autoencoder_epochs": 2}
    folder = stored(Guarded(Axol1tlV5(**small)), tmp_path / "m", crossings(300, 1))
    lengths = {t.place: len(t.record["train_loss"]) for t in trainings_of(folder)}
    assert lengths == {"inner": 2, "inner backbone": 1}
    assert [row[0] for row in training_part(folder, "label").tables[0].rows] == ["score", "score backbone"]


def test_trees_have_no_epochs(tmp_path):
    model = CrossFit(Represented(Identity(), WeakTrees(members=1, rounds=20)), folds=2)
    reference, data = make(400, 1), make(400, 2, first=10_000)
    save(model.fit(reference, data), tmp_path / "m", reference.features, {})
    assert trainings_of(tmp_path / "m") == []
    assert training_part(tmp_path / "m", "label") is None
    assert np.isfinite(model.score(make(10, 3, first=50_000))).all()
