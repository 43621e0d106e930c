"""Scores of a classifier's doubt against printed numbers and slow formulas; mass matching, exposure and calibration on toys."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.analysis.sculpting import sculpting
from elsewhere.deploy.precision import FirmwareSettings, plan_network
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, identity_hash
from elsewhere.models.base import Exportable
from elsewhere.models.calibration import Calibration
from elsewhere.models.mass_matching import MassMatching
from elsewhere.models.networks.classifier import OUTSIDE, exposed_cross_entropy
from elsewhere.models.scores.classifier_anomaly import ClassifierAnomaly
from elsewhere.models.scores.doubt import logit_scores
from elsewhere.models.scores.known_classes import balanced
from elsewhere.models.scores.mahalanobis import ledoit_wolf
from elsewhere.models.store import load, save
from scipy.special import log_softmax, softmax
from scipy.stats import rankdata, spearmanr

FEATURES = FeatureSet(
    "jets", tuple(Column(c, "", "") for c in ("size", "two", "three", "flat")), Column("m", "GeV", "mass")
)
#: How much a jet looks like two prongs and like three, on average.
PRONGS = {
    "qcd": (0, 0),
    "w": (2, 0),
    "top": (1, 2),
    "new": (1.5, 1),
    "odd": (-2, 1),
    "odder": (-3, -1),
    "up": (-1, 4),
    "down": (0, -4),
    "both": (4, -2),
    "four": (5, 4),
}
SMALL = {"hidden": (16, 8), "epochs": 15, "batch": 256, "learning_rate": 5e-3}
KINDS = ("msp", "entropy", "max_logit", "energy", "anti_class", "mahalanobis", "mahalanobis_global")


def events(x, mass, first=0, weight=None):
    identity = np.zeros(len(x), dtype=IDENTITY)
    identity["event"] = first + np.arange(len(x))
    weight = np.ones(len(x)) if weight is None else weight
    return Events(np.asarray(x, np.float32), np.asarray(mass, float), weight, identity, FEATURES)


def jets(kind, n, seed, first=0):
    """Jets whose column "size" is the mass: falling for QCD, a peak on a plateau for W and top, narrow for the new particle."""
    rng = np.random.default_rng([seed, list(PRONGS).index(kind)])
    plateau, peaked = rng.uniform(40, 240, n), rng.random(n) < 0.5
    mass = {
        "w": np.where(peaked, rng.normal(80, 8, n), plateau),
        "top": np.where(peaked, rng.normal(172, 12, n), plateau),
        "new": rng.normal(58, 6, n),
    }.get(kind, 40 + rng.exponential(50, n))
    two, three = PRONGS[kind]
    columns = (
        mass / 40 + rng.normal(0, 0.1, n),
        rng.normal(two, 1, n),
        rng.normal(three, 1, n),
        rng.normal(0, 1, n),
    )
    return events(np.column_stack(columns), mass, first)


def auc(signal, background):
    ranks = rankdata(np.concatenate([signal, background]))[: len(signal)]
    return (ranks.sum() - len(signal) * (len(signal) + 1) / 2) / len(signal) / len(background)


def fit(n=4000, seed=1, **settings):
    sample = {k: jets(k, n, seed, first=10**7) for k in ("qcd", "w", "top")}
    settings = {"classes": {k: sample[k] for k in ("w", "top")}, **SMALL, **settings}
    return ClassifierAnomaly(**settings).fit(sample["qcd"], sample["qcd"])


@pytest.fixture(scope="module")
def fitted():
    return fit()


@pytest.fixture(scope="module")
def two():
    """A classifier of two classes."""
    return fit(classes={"w": jets("w", 4000, 1, first=10**7)})


def test_the_rate_can_fall(fitted):
    falling = fit(schedule="cosine")
    assert not np.array_equal(falling.weights_["head.weight"], fitted.weights_["head.weight"])
    loss = [s.record_.validation_loss for s in (fitted, falling)]
    assert np.std(np.diff(loss[1][-4:])) < np.std(
        np.diff(loss[0][-4:])
    )  # at the end it hardly moves any more


def test_the_printed_numbers():
    found = logit_scores(np.array([[2.0, 0.5, -1.0]]), anti=0)
    printed = {
        "msp": -0.785597,
        "entropy": 0.621585,
        "max_logit": -2.0,
        "energy": -2.241311,
        "anti_class": -0.785597,
    }
    assert {k: float(v[0]) for k, v in found.items()} == pytest.approx(printed, abs=1e-6)
    other = logit_scores(np.array([[2.0, 0.5, -1.0]]), anti=2)["anti_class"]
    assert other[0] == pytest.approx(-softmax([2.0, 0.5, -1.0])[2])
    huge = logit_scores(np.array([[1e4, -1e4, 0.0]]), anti=1)
    assert all(np.isfinite(v).all() for v in huge.values())
    assert huge["entropy"][0] == 0


def by_hand(score, x):
    """Logits and h of a fitted classifier in NumPy."""
    w = {k: v.astype(float) for k, v in score.weights_.items()}
    h = score.scale(x).astype(float)
    for k in range(len(score.hidden)):
        h = h @ w[f"body.{2 * k}.weight"].T + w[f"body.{2 * k}.bias"]
        if k < len(score.hidden) - 1 or score.logits == "linear":
            h = np.maximum(h, 0)
    if score.logits == "linear":
        return h @ w["head.weight"].T + w["head.bias"], h
    return -((h[:, None] - w["centres"]) ** 2).sum(axis=2), h


@pytest.mark.parametrize("logits", ["linear", "distance"])
def test_one_training_gives_every_kind(fitted, logits):
    score = fitted if logits == "linear" else fit(logits="distance")
    fresh = Events.concatenate([jets("qcd", 300, 5), jets("new", 300, 6)])
    found = score.scores(fresh)
    assert tuple(found) == KINDS
    for kind in KINDS:
        assert np.array_equal(replace(score, kind=kind).score(fresh), found[kind])
    g, _ = by_hand(score, fresh.x)
    g = g / score.calibration_.temperature
    assert score.calibration_.temperature != 1
    p = softmax(g, axis=1)
    slow = {
        "msp": -p.max(axis=1),
        "entropy": -(p * log_softmax(g, axis=1)).sum(axis=1),
        "max_logit": -g.max(axis=1),
        "energy": -np.log(np.exp(g).sum(axis=1)),
        "anti_class": -p[:, 0],
    }
    for kind, expected in slow.items():
        assert np.allclose(found[kind], expected, rtol=1e-4, atol=1e-4), kind


def test_mahalanobis_is_the_formula_on_the_penultimate_layer():
    classes = {k: jets(k, 3000, 1, first=10**7) for k in ("qcd", "w")}
    score = ClassifierAnomaly(classes={"w": classes["w"]}, validation=0.2, **SMALL)
    score.fit(classes["qcd"], classes["qcd"])
    # The training part by the rule of the docstring: a hash of identity and seed.
    h, y, weight = [], [], []
    for k, sample in enumerate(classes.values()):
        part = by_hand(score, sample.x[identity_hash(sample.identity, 0) / 2.0**64 >= 0.2])[1]
        h.append(part)
        y.append(np.full(len(part), k))
        weight.append(np.full(len(part), 1 / len(part)))
    h, y, weight = np.concatenate(h), np.concatenate(y), np.concatenate(weight)
    means = np.array([h[y == k].mean(axis=0) for k in (0, 1)])
    within = np.linalg.inv(ledoit_wolf(h - means[y], weight)[1])
    mean, whole, _ = ledoit_wolf(h, weight)
    fresh = Events.concatenate([jets("qcd", 200, 5), jets("new", 200, 6)])
    away = by_hand(score, fresh.x)[1]
    nearest = np.min([np.einsum("ij,jk,ik->i", away - m, within, away - m) for m in means], axis=0)
    everywhere = np.einsum("ij,jk,ik->i", away - mean, np.linalg.inv(whole), away - mean)
    found = score.scores(fresh)
    assert np.allclose(found["mahalanobis"], nearest, rtol=2e-3)
    assert np.allclose(found["mahalanobis_global"], everywhere, rtol=2e-3)
    assert not np.allclose(nearest, everywhere, rtol=0.1)


def test_what_the_doubt_finds(fitted):
    """A jet that is not like QCD, and one that is like no class."""
    qcd, new = jets("qcd", 1500, 5), jets("new", 1500, 6)
    far = replace(qcd, x=qcd.x + np.array([0, -7, -7, 0], np.float32))
    near, odd, lost = (fitted.scores(e) for e in (qcd, new, far))
    assert auc(odd["anti_class"], near["anti_class"]) > 0.7
    assert auc(lost["mahalanobis"], near["mahalanobis"]) > 0.9
    assert auc(lost["msp"], near["msp"]) < 0.5  # surer than ever: why there is more than one kind


@pytest.mark.parametrize("how", ["draw", "weights"])
def test_matching_ends_the_sculpting_and_costs_no_signal(how):
    test, new = jets("qcd", 5000, 101, first=10**6), jets("new", 4000, 102, first=2 * 10**6)
    edges = np.linspace(40, 240, 21)
    found = {}
    for matching in (None, MassMatching(10.0, how=how)):
        score = fit(20_000, 11, kind="anti_class", matching=matching)
        background = score.score(test)
        shapes = []
        for kept in (0.5, 0.1, 0.05):
            odd = background > np.quantile(background, 1 - kept)
            shapes.append(
                sculpting(np.histogram(test.mass[odd], edges)[0], np.histogram(test.mass[~odd], edges)[0], 0)
            )
        found[matching is not None] = shapes, auc(score.score(new), background)
    assert all(s.jsd > 3 * s.floor_high for s in found[False][0])
    assert all(s.jsd < s.floor_high for s in found[True][0])
    assert found[True][1] > found[False][1]


def test_the_loss_of_classes_and_outliers():
    g = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [2.0, 0.5, -1.0]])
    found = exposed_cross_entropy(lambda x: x, g, torch.tensor([1.0, 2.0, float(OUTSIDE)])).numpy()
    logs = log_softmax(g.numpy(), axis=1)
    assert np.allclose(found, [-logs[0, 1], -logs[1, 2], -logs[2].mean()], rtol=1e-6)
    y = np.array([0, 0, 0, 1, OUTSIDE, OUTSIDE])
    weight = balanced(np.array([1.0, 2, 3, 7, 1, 1]), y, ("a", "b"), 0.5)
    assert np.allclose(weight, [2 / 6, 4 / 6, 1, 2, 1, 1])
    with pytest.raises(InputError, match="none of class 'b'"):
        balanced(np.ones(2), np.zeros(2, np.int64), ("a", "b"), 0.5)
    with pytest.raises(InputError, match="none of the outliers"):
        balanced(np.array([1.0, 1, 0]), np.array([0, 1, OUTSIDE]), ("a", "b"), 0.5)


def test_exposure_is_a_prior_and_makes_its_like_odd(fitted, caplog):
    with caplog.at_level(logging.INFO):
        exposed = fit(outliers={"odd": jets("odd", 2000, 8, first=3 * 10**7)})
    assert exposed.prior == "classes reference, w, top; exposed to outliers odd"
    assert f"prior: {exposed.prior}" in caplog.text
    assert fitted.prior == "classes reference, w, top"
    assert exposed.priors_ == {
        "classes": {"reference": 4000, "w": 4000, "top": 4000},
        "outliers": {"odd": 2000},
    }
    known = Events.concatenate([jets(k, 1000, 9) for k in ("qcd", "w", "top")])
    for family in ("odd", "odder"):  # what was seen, and what is like it
        outside = jets(family, 1500, 10)
        plain, with_it = (auc(s.score(outside), s.score(known)) for s in (fitted, exposed))
        assert plain < 0.5
        assert with_it > 0.8
    p = -exposed.scores(jets("odd", 1500, 10))["msp"]
    assert np.median(p) < 0.6  # towards a third


def test_exposure_to_many_outliers_helps_on_families_that_none_of_them_is_of(fitted):
    many = jets("qcd", 4000, 8, first=3 * 10**7)
    many.x[:, 1:] = np.random.default_rng(8).uniform(-6, 8, (4000, 3))
    exposed = fit(outliers={"everywhere": many})
    known = Events.concatenate([jets(k, 1000, 9) for k in ("qcd", "w", "top")])
    for family in ("odd", "odder", "up", "down", "both", "four"):
        outside = jets(family, 1500, 10)
        plain, with_it = (auc(s.score(outside), s.score(known)) for s in (fitted, exposed))
        assert with_it > max(0.95 * plain, 0.55), (family, plain, with_it)


def test_the_temperature_of_a_network_and_what_it_leaves_alone(fitted, two, caplog):
    assert fitted.calibration_.ece_after < fitted.calibration_.ece_floor + 0.02
    fresh = Events.concatenate([jets("qcd", 800, 5), jets("w", 800, 6)])
    label = np.repeat([0, 1], 800)
    louder = {k: 4 * v if k.startswith("head") else v for k, v in two.weights_.items()}
    sure = replace(two, weights_=louder, _loaded=None)
    sure.calibration_ = None
    g, first = sure._outputs(fresh.x)[0], np.arange(1600) % 2 == 0
    found = Calibration.of(g, label, np.ones(1600), first)
    assert found.temperature == pytest.approx(4 * two.calibration_.temperature, rel=0.2)
    assert found.ece_before > 2 * found.ece_after
    before = sure.scores(fresh)
    sure.calibration_ = found
    after = sure.scores(fresh)
    for kind in ("msp", "entropy", "anti_class", "max_logit"):  # two classes: monotone in the difference
        assert not np.allclose(before[kind], after[kind])
        assert spearmanr(before[kind], after[kind]).statistic > 1 - 1e-6, kind
    for kind in ("mahalanobis", "mahalanobis_global"):
        assert np.array_equal(before[kind], after[kind])
    assert spearmanr(before["energy"], after["energy"]).statistic < 1 - 1e-6
    with caplog.at_level(logging.WARNING):
        Calibration.of(g, label, np.ones(1600), first, scale=False)
    assert "expected calibration error" in caplog.text


def test_without_calibration_the_temperature_is_one():
    plain = fit(1000, calibrate=False, epochs=3)
    assert plain.calibration_.temperature == 1
    assert plain.calibration_.ece_before == plain.calibration_.ece_after


@pytest.mark.parametrize("logits", ["linear", "distance"])
def test_what_firmware_can_do(two, logits):
    score = (
        two
        if logits == "linear"
        else fit(1000, classes={"w": jets("w", 1000, 1, first=10**7)}, logits=logits)
    )
    assert isinstance(score, Exportable)
    fresh = Events.concatenate([jets("qcd", 200, 5), jets("w", 200, 6)])
    x = torch.from_numpy(score.scale(fresh.x))
    squares = replace(score, kind="mahalanobis_global")
    assert np.allclose(squares.network()(x).detach().numpy(), squares.score(fresh), rtol=1e-3)
    plan_network(squares.network(), FirmwareSettings())
    for anti in ("reference", "w"):
        doubt = replace(score, kind="anti_class", anti=anti)
        out = doubt.network()(x).detach().numpy()[:, 0].astype(float)
        p = -doubt.score(fresh)
        assert np.allclose(out / score.calibration_.temperature, np.log(1 / p - 1), rtol=1e-3, atol=1e-3)
        plan_network(doubt.network(), FirmwareSettings())
    with pytest.raises(ConfigError, match="kind: 'msp' of 2 classes"):
        replace(score, kind="msp").network()


def test_three_classes_have_no_difference_of_two(fitted):
    with pytest.raises(ConfigError, match="kind: 'anti_class' of 3 classes"):
        replace(fitted, kind="anti_class").network()


def test_priors_calibration_and_settings_survive_the_store(tmp_path):
    score = fit(1500, epochs=3, matching=MassMatching(20.0, how="weights"), anti="top", kind="anti_class")
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    fresh = jets("new", 100, 6)
    assert back == score
    assert back.matching == MassMatching(20.0, how="weights")
    assert back.calibration_ == score.calibration_
    assert back.record_ == score.record_
    assert back.prior == "classes reference, w, top"
    for kind, values in score.scores(fresh).items():
        assert np.array_equal(back.scores(fresh)[kind], values), kind
    with pytest.raises(InputError, match="hand in at least one sample"):
        back.fit(fresh, fresh)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "softmax"}, "found kind 'softmax'.*msp, entropy"),
        ({"logits": "cosine"}, "logits 'cosine'"),
        ({"hidden": ()}, r"hidden \(\)"),
        ({"exposure": 0.0}, "exposure 0.0"),
        ({"anti": "tops"}, "anti: no class 'tops'; did you mean 'top'"),
        ({"matching": {"width": 0}}, "matching: found width 0"),
        ({"matching": {"how": "flat"}}, "matching.how: found 'flat'"),
    ],
)
def test_impossible_settings_say_so(settings, message):
    with pytest.raises(ConfigError, match=message):
        fit(100, **settings)


def test_what_cannot_be_learnt_from_is_refused(fitted):
    qcd, w = jets("qcd", 200, 1), jets("w", 200, 2)
    with pytest.raises(InputError, match="not been fitted"):
        ClassifierAnomaly(classes={"w": w}).score(qcd)
    for classes, outliers in (({}, {}), ({"reference": w}, {}), ({"w": w}, {"w": w})):
        with pytest.raises(InputError, match="each with a name of its own"):
            ClassifierAnomaly(classes=classes, outliers=outliers).fit(qcd, qcd)
    with pytest.raises(InputError, match="w: weights must be finite"):
        ClassifierAnomaly(classes={"w": replace(w, weight=-w.weight)}).fit(qcd, qcd)
    other = replace(w, features=replace(FEATURES, columns=FEATURES.columns[::-1]))
    with pytest.raises(FeatureError, match="column 0: the reference has size"):
        ClassifierAnomaly(classes={"w": other}).fit(qcd, qcd)
    no_mass = replace(w, mass=np.full(200, np.nan))
    with pytest.raises(InputError, match="w: 200 of 200 events have no mass"):
        ClassifierAnomaly(classes={"w": no_mass}, matching=MassMatching()).fit(qcd, qcd)
    apart = replace(w, mass=w.mass + 1000)
    with pytest.raises(InputError, match=r"masses: reference 4\d.*w 10"):
        ClassifierAnomaly(classes={"w": apart}, matching=MassMatching()).fit(qcd, qcd)
    with pytest.raises(ConfigError, match="anti: no class 'tpo'; did you mean 'top'"):
        replace(fitted, kind="anti_class", anti="tpo").score(qcd)


def test_far_inputs_have_finite_scores(fitted):
    far = replace(jets("qcd", 3, 1), x=np.array([[1e30, 0, 0, 0], [-1e30, 1e30, 0, 0], [0] * 4], np.float32))
    assert all(np.isfinite(v).all() for v in fitted.scores(far).values())
