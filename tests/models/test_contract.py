"""One contract for every score and every wrapper: what a score promises, and cheats that must be caught."""

import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from elsewhere.events import Events, fold_of
from elsewhere.models.augmentations.level1 import Strength
from elsewhere.models.base import Score, Storable
from elsewhere.models.folds import CrossFit, Guarded
from elsewhere.models.mass_matching import MassMatching
from elsewhere.models.methods import PRIORS, SCORES, WRAPPERS
from elsewhere.models.nested import NestedFit
from elsewhere.models.networks.normalised import Chains
from elsewhere.models.networks.ratio import PriorGrid
from elsewhere.models.representations.cl4ad import Cl4ad
from elsewhere.models.representations.essl import Essl
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.level1_vicreg import Level1VicReg
from elsewhere.models.representations.rs3l import Rs3l
from elsewhere.models.representations.systematics_aware import SystematicsAware
from elsewhere.models.represented import Represented
from elsewhere.models.scores.anode import Anode
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.axol1tl import Axol1tl
from elsewhere.models.scores.axol1tl_v5 import Axol1tlV5
from elsewhere.models.scores.cicada import Cicada
from elsewhere.models.scores.classifier_anomaly import ClassifierAnomaly
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.image_autoencoder import ImageAutoencoder
from elsewhere.models.scores.isolation_forest import IsolationForest
from elsewhere.models.scores.kernel_density import KernelDensity
from elsewhere.models.scores.latent import LaCathode
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.scores.mixture_density import MixtureDensity, MixtureDistance
from elsewhere.models.scores.nearest_neighbours import NearestNeighbours
from elsewhere.models.scores.network_ensemble import NetworkEnsemble
from elsewhere.models.scores.normalised_autoencoder import NormalisedAutoencoder
from elsewhere.models.scores.paws import Gbi, Paws
from elsewhere.models.scores.process_density import GaussianProcessDensity
from elsewhere.models.scores.quak import Quak
from elsewhere.models.scores.quantile_flattened import QuantileFlattened
from elsewhere.models.scores.ranode import RAnode
from elsewhere.models.scores.tag_n_train import TagNTrain
from elsewhere.models.scores.tree_student import TreeStudent
from elsewhere.models.scores.variational_autoencoder import VariationalAutoencoder
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.store import load, save
from elsewhere.models.wrappers import Ensemble, Standardized

from .conftest import make
from .toy_jets import jets


def trees(seed: int) -> WeakTrees:
    return WeakTrees(members=2, rounds=30, seed=seed)


def network(seed: int) -> WeakNetwork:
    return WeakNetwork(hidden=(16,), epochs=20, best=2, batch=64, learning_rate=5e-3, seed=seed)


def autoencoder(seed: int) -> Autoencoder:
    return Autoencoder(hidden=(16,), latent=2, epochs=15, batch=128, seed=seed, learning_rate=5e-3)


FLOW: dict[str, Any] = {
    "kind": "nsf",
    "transforms": 2,
    "hidden": (16,),
    "epochs": 6,
    "best": 2,
    "batch": 256,
    "learning_rate": 3e-3,
}


def grid() -> PriorGrid:
    """Signals one to three widths away, by how far."""
    events = make(3000, 31, first=50_000)
    far = np.repeat([0.3, 0.6, 1.0], 1000)
    events.x[:, :2] += (far[:, None] * [3.0, -3.0]).astype(np.float32)
    return PriorGrid(events, far[:, None], make(3000, 32, first=60_000))


def moved(seed: int, first: int, *by: float) -> Events:
    """Background somewhere else."""
    events = make(1500, seed, first=first)
    events.x[:] += np.array(by, np.float32)
    return events


def classifier(seed: int, **settings: Any) -> ClassifierAnomaly:
    classes = {"far": moved(33, 70_000, 6, -6, 0, 0), "aside": moved(34, 80_000, 0, 0, 4, 4)}
    return ClassifierAnomaly(
        classes=classes, hidden=(16, 8), epochs=12, batch=128, learning_rate=5e-3, seed=seed, **settings
    )


def embedding(seed: int) -> Cl4ad:
    return Cl4ad(
        classes={"far": moved(33, 70_000, 6, -6, 0, 0), "aside": moved(34, 80_000, 0, 0, 4, 4)},
        hidden=(16,),
        optimizer="adam",
        learning_rate=5e-3,
        epochs=4,
        batch=256,
        seed=seed,
    )


def shaken(seed: int, first: int) -> Events:
    """The events of `make` measured again."""
    events = make(1500, seed, first=first)
    noise = np.random.default_rng(seed + 100).normal(size=events.x.shape)
    return replace(events, x=(events.x + 0.05 * noise).astype(np.float32))


PRIOR: dict[str, Any] = {
    "hidden": (16, 16),
    "epochs": 10,
    "learning_rate": 5e-3,
    "batch": 256,
    "starts": 1,
    "fit_epochs": 20,
}


SUBJECTS: dict[str, Any] = {
    "WeakTrees": trees,
    "WeakNetwork": network,
    "Autoencoder": autoencoder,
    "Axol1tl": lambda seed: Axol1tl(
        hidden=(32,), latent=4, decoder=(16,), beta=0.7, epochs=15, batch=128, seed=seed, learning_rate=5e-3
    ),
    "Axol1tlV5": lambda seed: Axol1tlV5(
        backbone=(16, 6),
        projector=16,
        encoder=(6,),
        latent=2,
        beta=0.05,
        strength=Strength(mask=0.2, blurred_events=0.3),  # four columns, not 57
        backbone_epochs=10,
        autoencoder_epochs=20,
        batch=128,
        seed=seed,
        learning_rate=5e-3,
    ),
    "Cicada": lambda seed: Cicada(
        version=1,
        shape=(2, 2),
        filters=(8, 8),
        latent=8,
        rounds=2,
        teacher_epochs=6,
        student_epochs=8,
        teacher_batch=128,
        hidden=32,
        student_batch=128,
        outliers=4.0,
        deposits=(2.0, 4.0),
        quantised=False,
        learning_rate=1e-2,
        seed=seed,
    ),
    "Anode": lambda seed: Anode(seed=seed, **FLOW),
    "RAnode": lambda seed: RAnode(
        seed=seed,
        splits=1,
        signal_transforms=2,
        signal_hidden=(16,),
        signal_epochs=20,
        signal_best=2,
        signal_learning_rate=5e-3,
        **FLOW,
    ),
    "FlowDensity": lambda seed: FlowDensity(seed=seed, **FLOW),
    "FlowDensity, matching": lambda seed: FlowDensity(
        "cfm",
        hidden=(24, 24),
        epochs=15,
        best=2,
        learning_rate=5e-3,
        preprocess="standard",
        steps=8,
        seed=seed,
    ),
    "NetworkEnsemble": lambda seed: NetworkEnsemble(
        members=2, epochs=20, best=2, batch=64, learning_rate=5e-3, seed=seed
    ),
    "MixtureDensity": lambda seed: MixtureDensity(components=3, starts=1, seed=seed),
    "MixtureDensity, logit": lambda seed: MixtureDensity(
        components=3, starts=1, coordinates="logit", seed=seed
    ),
    "MixtureDistance": lambda seed: MixtureDistance(components=3, starts=1, seed=seed),
    "VariationalAutoencoder": lambda seed: VariationalAutoencoder(
        hidden=(16,), latent=2, epochs=15, batch=128, seed=seed, learning_rate=5e-3
    ),
    "NormalisedAutoencoder": lambda seed: NormalisedAutoencoder(
        hidden=(16,),
        autoencoder_epochs=15,
        normalised_epochs=2,
        batch=128,
        learning_rate=5e-3,
        chains=Chains(count=32, buffer=100, latent_steps=4, x_steps=4),
        seed=seed,
    ),
    "ImageAutoencoder": lambda seed: ImageAutoencoder(
        pixels=8,
        smear=0.7,
        scale=3.0,
        autoencoder_epochs=6,
        normalised_epochs=1,
        batch=64,
        learning_rate=1e-2,
        chains=Chains(count=16, buffer=50, latent_steps=2, x_steps=2),
        shards=1,
        seed=seed,
    ),
    "NearestNeighbours": lambda seed: NearestNeighbours(events=1000, seed=seed),
    "NearestNeighbours, mean": lambda seed: NearestNeighbours(distance="mean", events=1000, seed=seed),
    "Mahalanobis": lambda seed: Mahalanobis(),
    "IsolationForest": lambda seed: IsolationForest(trees=50, seed=seed),
    "KernelDensity": lambda seed: KernelDensity(events=1000, seed=seed),
    "KernelDensity, logit": lambda seed: KernelDensity(events=1000, coordinates="logit", seed=seed),
    "KernelDensity, edges": lambda seed: KernelDensity(events=1000, edges={"f2": (-10.0, None)}, seed=seed),
    "GaussianProcessDensity": lambda seed: GaussianProcessDensity(columns=("f0", "f1"), bins=12),
    "LaCathode": lambda seed: LaCathode(trees(seed), seed=seed, **FLOW),
    "Paws": lambda seed: Paws(grids=(grid(),), seed=seed, **PRIOR),
    "Gbi": lambda seed: Gbi(grids=(grid(),), seed=seed, **PRIOR),
    "Quak": lambda seed: Quak(
        priors=(grid().signal,), density=MixtureDensity(components=2, starts=1, seed=seed), seed=seed
    ),
    "TagNTrain": lambda seed: TagNTrain(
        objects=("0", "1"), tagger=autoencoder(seed), classifier=trees(seed), rich=0.3, seed=seed
    ),
    "ClassifierAnomaly": lambda seed: classifier(seed, kind="mahalanobis"),
    "ClassifierAnomaly, matched and exposed": lambda seed: classifier(
        seed,
        kind="entropy",
        logits="distance",
        matching=MassMatching(width=500.0),
        outliers={"odd": moved(35, 90_000, -3, 3, 0, 0)},
    ),
    "TreeStudent": lambda seed: TreeStudent(autoencoder(seed), trees=20, depth=3, seed=seed),
    "QuantileFlattened": lambda seed: QuantileFlattened(
        autoencoder(seed), efficiencies=(0.5, 0.1), pieces=2, seed=seed
    ),
    "QuantileFlattened, one": lambda seed: QuantileFlattened(
        Mahalanobis(), efficiencies=(0.1,), pieces=2, seed=seed
    ),
    "CrossFit": lambda seed: CrossFit(trees(seed), folds=3, seed=seed),
    "NestedFit": lambda seed: NestedFit(trees(seed), folds=3, starts=1, sides=False, seed=seed),
    "CrossFit of everything": lambda seed: CrossFit(Standardized(Ensemble(network(seed), n=2)), folds=2),
    "CrossFit of Guarded": lambda seed: CrossFit(Guarded(trees(seed)), folds=2),
    "Guarded": lambda seed: Guarded(autoencoder(seed)),
    "Represented": lambda seed: Represented(Identity(), trees(seed)),
    "Represented by Level1VicReg": lambda seed: Represented(
        Level1VicReg(
            backbone=(16, 6),
            projector=16,
            strength=Strength(mask=0.2, blurred_events=0.3),
            epochs=10,
            batch=128,
            learning_rate=5e-3,
            seed=seed,
        ),
        Mahalanobis(),
    ),
    "Represented by Cl4ad": lambda seed: Represented(embedding(seed), Mahalanobis()),
    "Represented by SystematicsAware": lambda seed: Represented(
        SystematicsAware(
            embedding(seed), columns=("f0",), hidden=(8,), head_epochs=2, epochs=2, batch=512, seed=seed
        ),
        Mahalanobis(),
    ),
    "Represented by Essl": lambda seed: Represented(
        Essl(
            columns=("f0",),
            size=0.5,
            hidden=(16,),
            latent=6,
            projector=(16,),
            predictor=(16,),
            epochs=4,
            batch=256,
            learning_rate=5e-3,
            seed=seed,
        ),
        Mahalanobis(),
    ),
    "Represented by Rs3l": lambda seed: Represented(
        Rs3l(
            versions=(shaken(1, 0), shaken(11, 30_000)),
            network="dense",
            hidden=(32,),
            projector=(16,),
            epochs=5,
            batch=256,
            learning_rate=5e-3,
            seed=seed,
        ),
        Mahalanobis(),
    ),
    "Ensemble": lambda seed: Ensemble(trees(seed), n=2),
    "Standardized": lambda seed: Standardized(network(seed)),
    "Standardized twice": lambda seed: Standardized(Standardized(autoencoder(seed))),
}


def samples(toy: Any) -> tuple[Events, Events, Events]:
    """Reference, data with a fifth of signal, and events that nobody was trained on (the first half signal)."""
    return toy(1500, 1), toy(1500, 2, 0.2, first=10_000), toy(600, 3, 0.5, first=20_000)


def within(toy: Any) -> Any:
    """The toy with its signal nearer, inside the range of the background: a flow's density ends where the reference does."""

    def make(n: int, seed: int, signal: float = 0.0, first: int = 0) -> Events:
        events = toy(n, seed, signal, first)
        events.x[: round(signal * n), :2] += np.array([-1.5, 1.5], np.float32)
        return events

    return make


#: Methods that know nothing outside the range of their reference.
BOUNDED = {"Anode", "RAnode", "FlowDensity", "LaCathode", "KernelDensity, logit", "MixtureDensity, logit"}
#: Methods that take nothing but constituents of jets.
JETS = {"ImageAutoencoder"}
#: Methods that draw nothing, so that they have no seed.
SEEDLESS = (Mahalanobis, GaussianProcessDensity)


def toy_of(name: str, toy: Any) -> Any:
    """The events a subject is tested on."""
    if name in JETS:
        return jets
    return within(toy) if name in BOUNDED else toy


def auc(signal: np.ndarray, background: np.ndarray) -> float:
    return float((signal[:, None] > background[None, :]).mean())


def broken_promises(make: Any, toy: Any) -> list[str]:
    """Which promises the score that ``make(seed)`` gives does not keep; bit for bit where nothing else is said."""
    reference, data, fresh = samples(toy)
    rng = np.random.default_rng(5)
    score = make(0).fit(reference, data)
    values, out = score.score(fresh), []
    if not (values.shape == (len(fresh),) and values.dtype == np.float64 and np.isfinite(values).all()):
        out.append("finite float64, one per event")
    if not auc(values[:300], values[300:]) > 0.7:
        out.append("higher is odder")
    subset = rng.permutation(len(fresh))[:101]
    alone = np.concatenate([score.score(fresh.take(subset[i : i + 1])) for i in range(5)])
    if not (
        np.array_equal(score.score(fresh.take(subset)), values[subset])
        and np.array_equal(alone, values[subset[:5]])
    ):
        out.append("no event sees another")
    if score.score(fresh.take(slice(0, 0))).shape != (0,):
        out.append("no events, no scores")
    reads = getattr(score, "reads_mass", False)
    if not reads and not np.array_equal(score.score(replace(fresh, mass=fresh.mass[::-1])), values):
        out.append("the mass is not read")
    if not np.array_equal(make(0).fit(reference, data).score(fresh), values):
        out.append("same seed, same score")
    shuffled = [e.take(rng.permutation(len(e))) for e in (reference, data)]
    if not np.array_equal(make(0).fit(*shuffled).score(fresh), values):
        out.append("row order does not matter")
    if isinstance(score, SEEDLESS):
        assert not hasattr(score, "seed")
    elif np.array_equal(make(1).fit(reference, data).score(fresh), values):
        out.append("another seed, another model")
    return out


def test_the_list_covers_every_score_and_wrapper():
    methods = {*SCORES, *PRIORS, *WRAPPERS}
    assert len(methods) >= 8
    assert {type(make(0)) for make in SUBJECTS.values()} == methods


def test_an_empty_list_would_fail():
    with pytest.raises(AssertionError):
        assert {type(make(0)) for make in {}.values()} == {*SCORES, *PRIORS, *WRAPPERS}


@pytest.mark.parametrize("name", SUBJECTS)
def test_contract(name, toy):
    assert isinstance(SUBJECTS[name](0), Score)
    assert broken_promises(SUBJECTS[name], toy_of(name, toy)) == []


@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_fitted_again_forgets_what_it_knew(name, toy):
    make_toy = toy_of(name, toy)
    reference, data, fresh = samples(make_toy)
    score = SUBJECTS[name](0).fit(reference, data)
    score.score(fresh)
    others = make_toy(1500, 11, first=30_000), make_toy(1500, 12, 0.2, first=40_000)
    again, new = score.fit(*others), SUBJECTS[name](0).fit(*others)
    assert np.array_equal(again.score(fresh), new.score(fresh))


@cache
def fitted(name: str, toy: Any) -> Any:
    reference, data, _ = samples(jets if name in JETS else toy)
    return SUBJECTS[name](0).fit(reference, data)


@pytest.mark.parametrize("name", SUBJECTS)
def test_survives_save_and_load(name, toy, tmp_path):
    score, fresh = fitted(name, toy), samples(jets if name in JETS else toy)[2]
    assert isinstance(score, Storable)
    save(score, tmp_path / "m", fresh.features, {"by": "test"})
    back, features = load(tmp_path / "m", fresh.features)
    assert features == fresh.features
    assert type(back) is type(score)
    assert np.array_equal(back.score(fresh), score.score(fresh))


def test_survives_a_trip_to_another_process(toy, tmp_path):
    subjects = {name: fitted(name, toy) for name in SUBJECTS}
    fresh = {name: samples(jets if name in JETS else toy)[2] for name in SUBJECTS}
    for name, score in subjects.items():
        score.score(fresh[name])  # whatever is cached by scoring travels, or is left behind
    (tmp_path / "trip").write_bytes(cloudpickle.dumps((subjects, fresh)))
    code = (
        "import sys, cloudpickle, numpy as np\n"
        "scores, events = cloudpickle.load(open(sys.argv[1], 'rb'))\n"
        "np.savez(sys.argv[2], **{n: s.score(events[n]) for n, s in scores.items()})\n"
    )
    there = tmp_path / "scores.npz"
    subprocess.run([sys.executable, "-c", code, tmp_path / "trip", there], check=True, cwd=Path(tmp_path))
    with np.load(there) as found:
        for name, score in subjects.items():
            assert np.array_equal(found[name], score.score(fresh[name])), name


def test_row_order_does_not_move_events_between_folds(toy):
    events = toy(500, 1)
    order = np.random.default_rng(0).permutation(500)
    assert np.array_equal(fold_of(events.take(order).identity, 5, 3), fold_of(events.identity, 5, 3)[order])


@dataclass
class Honest:
    """Distance along the direction in which the toy's signal lies; the seed makes a tiny difference."""

    paper = ""
    seed: int = 0

    def fit(self, reference, data):
        return self

    def score(self, events):
        return (events.x[:, 0] - events.x[:, 1]).astype(np.float64) * (1 + 0.01 * self.seed)


class SeesTheBatch(Honest):
    def score(self, events):
        return super().score(events) - (events.x[:, 0].mean() if len(events) else 0.0)


class ReadsTheMass(Honest):
    def score(self, events):
        return super().score(events) + 1e-3 * events.mass


class GivesNan(Honest):
    def score(self, events):
        return np.where(events.x[:, 2] > 2, np.nan, super().score(events))


class Backwards(Honest):
    def score(self, events):
        return -super().score(events)


class Unseeded(Honest):
    def fit(self, reference, data):
        out = deepcopy(self)
        out.seed = np.random.default_rng().integers(1 << 30)
        return out


class IgnoresItsSeed(Honest):
    def score(self, events):
        return (events.x[:, 0] - events.x[:, 1]).astype(np.float64)


class LearnsTheFirstRow(Honest):
    def fit(self, reference, data):
        out = deepcopy(self)
        out.seed = self.seed + float(reference.x[0, 0])
        return out


def test_an_honest_score_keeps_the_contract(toy):
    assert broken_promises(lambda seed: Honest(seed=seed), toy) == []


@pytest.mark.parametrize(
    ("cheat", "promise"),
    [
        (SeesTheBatch, "no event sees another"),
        (ReadsTheMass, "the mass is not read"),
        (GivesNan, "finite float64, one per event"),
        (Backwards, "higher is odder"),
        (Unseeded, "same seed, same score"),
        (IgnoresItsSeed, "another seed, another model"),
        (LearnsTheFirstRow, "row order does not matter"),
    ],
)
def test_a_cheat_is_caught(cheat, promise, toy):
    assert promise in broken_promises(lambda seed: cheat(seed=seed), toy)
