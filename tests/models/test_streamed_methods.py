"""Methods that learn from files: the very weights of a training in memory where one window holds everything, and nobody else pretends."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.chunks import Chunk
from elsewhere.errors import ConfigError, FeatureError
from elsewhere.events import in_identity_order
from elsewhere.models.base import Streamed
from elsewhere.models.folds import Guarded
from elsewhere.models.representations.anomclr import AnomClr
from elsewhere.models.representations.cl4ad import Cl4ad
from elsewhere.models.representations.darkclr import DarkClr
from elsewhere.models.representations.essl import Essl
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.jetclr import JetClr
from elsewhere.models.representations.vicreg import VicReg
from elsewhere.models.represented import Represented
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.axol1tl import Axol1tl
from elsewhere.models.scores.cicada import Cicada
from elsewhere.models.scores.mixture_density import MixtureDensity
from elsewhere.models.scores.variational_autoencoder import VariationalAutoencoder
from elsewhere.models.training_files import EventFiles
from elsewhere.workspace import write_chunk

from .test_anomclr import events as objects
from .toy_jets import jets

HOW = {"epochs": 2, "batch": 100, "learning_rate": 1e-3, "seed": 5}
SET = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}
METHODS = [
    Autoencoder(hidden=(8,), latent=2, **HOW),
    VariationalAutoencoder(hidden=(8,), latent=2, **HOW),
    Axol1tl(hidden=(8,), latent=2, decoder=(8,), **HOW),
    VicReg(backbone=(16, 8), projector=16, **HOW),
    AnomClr(**SET, out=16, **HOW),
    JetClr(**SET, out=16, **HOW),
    DarkClr(**SET, **HOW),
    Essl(hidden=(16,), latent=8, projector=(16,), predictor=(16,), **HOW),
]


def files_of(folder, events, window):
    paths = []
    for k, part in enumerate(np.array_split(np.arange(len(events)), 3)):
        paths.append(folder / f"{k}.parquet")
        write_chunk(paths[-1], Chunk(events.take(part), {}, {}, {}))
    return EventFiles(tuple(paths), window)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_files_in_the_order_of_identity_give_the_training_in_memory(tmp_path, method):
    """Bit for bit, and all that was learnt beside the weights; a smaller window is another order and another network."""
    events = (jets if isinstance(method, JetClr | DarkClr) else objects)(700, 1)
    rng = np.random.default_rng(2)
    if "Encoder" not in str(type(method).__mro__):  # scores use weights
        events = replace(events, weight=rng.uniform(0.5, 1.5, len(events)))
    assert isinstance(method, Streamed)
    memory = replace(method).fit(events, events.take(slice(0, 10)))
    ordered = in_identity_order(events, method.seed)
    whole = replace(method).fit_stream(files_of(tmp_path, ordered, len(events)))
    for one, other in zip(memory.state(), whole.state(), strict=True):
        if "record" in one:
            assert one.pop("record")["train_loss"] == other.pop("record")["train_loss"]
        assert one.keys() == other.keys()
        for name in one:
            assert np.array_equal(one[name], other[name]), name
    short = replace(method).fit_stream(files_of(tmp_path, ordered, 200))
    assert short.record_.train_loss != whole.record_.train_loss
    assert short.record_.train_loss == pytest.approx(whole.record_.train_loss, rel=0.5)


def test_a_score_behind_a_representation(tmp_path):
    """The representation learns from the files, the score from the space of all their events: the same as in memory."""
    looking = VicReg(backbone=(16, 8), projector=16, **HOW)
    events = in_identity_order(objects(700, 1), looking.seed)
    files = files_of(tmp_path, events, len(events))
    made = Guarded(Represented(replace(looking), MixtureDensity(components=2))).fit_stream(files)
    memory = Guarded(Represented(replace(looking), MixtureDensity(components=2))).fit(events, events)
    fresh = objects(50, 2, first=10_000)
    assert np.array_equal(made.score(fresh), memory.score(fresh))
    assert np.array_equal(made.seen_, memory.seen_)
    with pytest.raises(ConfigError, match="a Identity learns from events in memory only"):
        Represented(Identity(), MixtureDensity()).fit_stream(files)


def test_who_needs_more_than_files_of_one_sample_is_not_streamed():
    assert not isinstance(Cl4ad(), Streamed)
    assert not isinstance(Cicada(), Streamed)


def test_files_of_other_columns_are_refused(tmp_path):
    with pytest.raises(FeatureError, match="belongs to no object"):
        VicReg(**HOW).fit_stream(files_of(tmp_path, jets(100, 1), 100))
