"""CICADA: the target's numbers, folding, convolutions as matrices, the loop, and a student that follows its teacher."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError, FitError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.augmentations.regions import exposed
from elsewhere.models.methods import build
from elsewhere.models.networks.cicada import (
    TOP,
    StudentTypes,
    block_matrix,
    build_student,
    build_teacher,
    student_inputs,
    student_layers,
    student_loss,
    target,
    teacher_errors,
    teacher_loss,
)
from elsewhere.models.scores import cicada as module
from elsewhere.models.scores.cicada import Cicada
from elsewhere.models.training import TrainPlan
from scipy.stats import spearmanr

SHAPE = (6, 4)


def images(n, seed, hot=0):
    """Soft even images; the first ``hot`` of them with a deposit of 200."""
    rng = np.random.default_rng(seed)
    d = SHAPE[0] * SHAPE[1]
    features = FeatureSet("image", tuple(Column(f"r{i}", "", "toy") for i in range(d)))
    x = np.floor(rng.gamma(2.0, 4.0, (n, d)) * rng.gamma(20.0, 0.05, (n, 1)))
    x[np.arange(hot), rng.integers(0, d, hot)] += 200
    identity = np.zeros(n, IDENTITY)
    identity["event"] = 1000 * seed + np.arange(n)
    return Events(np.minimum(x, 1023).astype(np.float32), np.full(n, np.nan), np.ones(n), identity, features)


def small(**more):
    settings = {
        "version": 1, "shape": SHAPE, "hidden": 12, "filters": (4, 6), "latent": 4, "rounds": 2, "student_epochs": 8, "teacher_batch": 32,
        "student_batch": 64, "learning_rate": 8e-3, "outliers": 0.5,
    }  # fmt: skip
    return Cicada(**(settings | more))


@pytest.fixture(scope="module")
def fitted():
    events = images(1200, 1)
    return small().fit(events, events)


def test_the_target_is_that_of_the_public_code_and_takes_no_logarithm_of_nothing():
    made = target(np.array([0.0, 1.0, 10.0, 100.0, 1e9]))
    assert made[:2].tolist() == [0.0, 0.0]
    assert made[2] == round(32 * np.log(10) * 256) / 256 == 73.68359375
    assert made[4] == TOP == 255.99609375


@pytest.mark.parametrize("upsample", ["nearest", "transposed"])
def test_the_teacher_is_the_published_one(upsample):
    config = {"shape": (18, 14), "filters": (20, 30), "latent": 80, "upsample": upsample, "seed": 1}
    network = build_teacher(config)
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    middle = [(30, 30, 3, 3)] if upsample == "transposed" else []
    assert shapes == [
        (20, 1, 3, 3), (30, 20, 3, 3), (80, 1890), (1890, 80), (30, 30, 3, 3), *middle, (20, 30, 3, 3), (1, 20, 3, 3),
    ]  # fmt: skip
    x = torch.rand(3, 252) * 20
    assert (network(x) >= 0).all()
    want = ((network(x) - x) ** 2).mean(dim=1).detach().numpy()
    np.testing.assert_allclose(teacher_errors(network, x), want, rtol=1e-5)
    np.testing.assert_allclose(teacher_loss(network, x, None).detach().numpy(), want, rtol=1e-6)


def test_convolutions_of_stride_two_are_one_sparse_matrix():
    rng = np.random.default_rng(2)
    kernel, x = rng.normal(size=(3, 1, 2, 2)), rng.normal(size=(5, 24))
    want = torch.nn.functional.conv2d(
        torch.from_numpy(x).reshape(5, 1, *SHAPE), torch.from_numpy(kernel), stride=2
    )
    matrix = block_matrix(kernel, SHAPE)
    assert (np.count_nonzero(matrix, axis=1) == 4).all()
    np.testing.assert_allclose(x @ matrix.T, want.reshape(5, -1).numpy(), atol=1e-12)


@pytest.mark.parametrize("kernels", [0, 4])
def test_folded_layers_are_the_network_with_its_normalisation(kernels):
    """Against batch normalisation written out: gain * (z - mean) / sqrt(variance + 0.001) + shift."""
    config = {
        "shape": SHAPE,
        "kernels": kernels,
        "hidden": 5,
        "dropout": (0.0, 0.0),
        "types": None,
        "level": 50.0,
        "seed": 3,
    }
    network = build_student(config)
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.gamma(2.0, 4.0, (400, 24)).astype(np.float32))
    with torch.no_grad():
        network.gain.copy_(torch.from_numpy(rng.uniform(1, 9, 5)))
        seen = x
        if kernels:
            seen = torch.relu(
                torch.nn.functional.conv2d(x.reshape(-1, 1, *SHAPE), network.conv.weight, stride=2)
            ).flatten(1)
        z = seen @ network.dense.weight.T
        normal = network.gain * (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-3).sqrt() + network.shift
        want = torch.relu(torch.relu(normal) @ network.last.weight.T)[:, 0].numpy()
        loss = student_loss(network.train(), x, torch.full((400,), 40.0), None).numpy()
    value = x.numpy().astype(np.float64)
    for weight, bias in student_layers(network, x):
        value = np.maximum(value @ weight.T + (0 if bias is None else bias), 0)
    np.testing.assert_allclose(value[:, 0], want, rtol=2e-4, atol=1e-3)
    # the batch is the sample here, so training sees the same numbers
    np.testing.assert_allclose(np.abs(want - 40)[want > 0], loss[want > 0], rtol=2e-4, atol=2e-3)


def test_each_first_kernel_sees_one_region_of_a_block_and_nothing_of_an_even_image():
    network = build_student({
        "shape": SHAPE, "kernels": 4, "hidden": 5, "dropout": (0.0, 0.0), "types": None, "level": 50.0, "seed": 3,
    })  # fmt: skip
    even = torch.full((1, 24), 7.0)
    assert student_inputs(network, even).abs().max() < 1e-5
    for row, column, kernel in ((0, 0, 0), (0, 1, 1), (1, 0, 2), (1, 1, 3)):
        hot = even.clone()
        hot[0, 4 * (2 + row) + 2 + column] += 100.0  # the block in the middle row of blocks, to the right
        seen = student_inputs(network, hot).detach().numpy().reshape(4, 3, 2)
        assert seen[kernel, 1, 1] == pytest.approx(20.0, abs=1e-4)
        assert np.flatnonzero(seen > 1e-4).tolist() == [kernel * 6 + 3]


def test_exposed_images_are_odd_ones_of_every_kind_inside_the_range():
    x = images(500, 3).x
    made = exposed(x, 4000, np.random.default_rng(1), SHAPE, 1023.0, (20.0, 1000.0))
    assert made.shape == (4000, 24)
    assert made.min() >= 0
    assert made.max() == 1023
    assert made.mean() > 1.5 * x.mean()
    pairs = np.corrcoef(x[:, :12].sum(1), x[:, 12:].sum(1))[0, 1]
    assert pairs > 0.2  # usual images have a common scale
    rows = {tuple(r) for r in x}
    assert sum(tuple(r) in rows for r in made) < 20
    same = exposed(x, 4000, np.random.default_rng(1), SHAPE, 1023.0, (20.0, 1000.0))
    np.testing.assert_array_equal(made, same)


def test_the_student_follows_its_teacher_on_usual_and_on_odd_images(fitted):
    usual = images(1500, 7)
    assert spearmanr(fitted.teacher_score(usual), fitted.score(usual)).statistic > 0.6
    hot = fitted.score(images(400, 8, hot=400))
    assert np.median(hot) > np.quantile(fitted.score(usual), 0.99)
    assert len(fitted.record_.train_loss) == 2 * 8
    assert fitted.record_.validation_loss[-1] < 0.5 * fitted.record_.validation_loss[0]


@pytest.fixture(scope="module")
def pruned():
    events = images(1200, 1, hot=300)
    return small(version=2, rounds=3, pruned=0.5).fit(events, events)


def test_half_of_the_dense_weights_are_zero_and_the_student_follows_still(pruned):
    """0.95 is reached; kernels that begin as positive numbers give 0.92."""
    conv, dense, last = (weight for weight, _ in pruned.layers_)
    assert np.count_nonzero(dense) <= dense.size // 2 < np.count_nonzero(dense) * 1.1
    assert np.count_nonzero(conv) == 4 * len(conv)
    assert last.all()
    usual = images(1500, 7, hot=300)
    assert spearmanr(pruned.teacher_score(usual), pruned.score(usual)).statistic > 0.935


def test_a_matched_student_passes_as_many_events_as_its_teacher_at_that_threshold():
    events = replace(images(1200, 1), weight=np.random.default_rng(3).uniform(0.5, 1.5, 1200))
    plain, matched = (small(match=m).fit(events, events) for m in (None, 0.05))
    wanted, weight = matched.teacher_score(events), events.weight
    limit = module.threshold_of(wanted, weight, 0.05)
    assert weight[wanted > limit].sum() <= 0.05 * weight.sum() < weight[wanted >= limit].sum()
    rates = [
        weight[one.score(events) > limit].sum() / weight[wanted > limit].sum() for one in (plain, matched)
    ]
    assert abs(rates[1] - 1) < 0.05 < 0.2 < abs(rates[0] - 1)
    np.testing.assert_array_equal(matched.layers_[0][0], plain.layers_[0][0])
    kind = matched.types.of("last")
    np.testing.assert_array_equal(
        kind.to_float(kind.from_float(matched.layers_[1][0])), matched.layers_[1][0]
    )
    with pytest.raises(FitError, match=r"match 0\.001 is worth 1 events"):
        small(match=0.001).fit(events, events)


@pytest.mark.parametrize(("rate", "teachers"), [(8e-3, 3), (0.3, 1)])
def test_targets_are_made_anew_for_a_new_teacher_only(monkeypatch, rate, teachers):
    """At the high rate the teacher gets no better: its first epoch stays the best."""
    calls, real = [], module.teacher_errors
    monkeypatch.setattr(module, "teacher_errors", lambda *a: calls.append(a) or real(*a))
    events = images(300, 5)
    small(rounds=3, student_epochs=1, learning_rate=rate).fit(events, events)
    assert len(calls) == 2 * teachers  # training and validation


def test_the_score_is_in_the_types_and_weights_are_too(fitted):
    types = fitted.types
    values = fitted.score(images(300, 9)) * 256
    np.testing.assert_array_equal(values, np.rint(values))
    for weight, name in (
        (fitted.layers_[0][0], "weight"),
        (fitted.layers_[0][1], "bias"),
        (fitted.layers_[1][0], "last"),
    ):
        kind = types.of(name)
        np.testing.assert_array_equal(kind.to_float(kind.from_float(weight)), weight)
    assert fitted.layers_[1][1] is None
    assert fitted.firmware_types()["weight"] == types.last
    assert small(quantised=False).firmware_types() == {}


def test_the_network_gives_the_score_but_for_rounding(fitted):
    events = images(300, 9)
    with torch.inference_mode():
        made = fitted.network()(torch.from_numpy(fitted.scale(events.x))).numpy()
    assert np.abs(made - fitted.score(events)).max() < 1.0  # 12 hidden units, each rounded to 1/16


def test_each_round_takes_the_teachers_best_epoch_and_tells_progress():
    events, told = images(300, 5), []
    one = small(rounds=3, student_epochs=1)
    one.trainer = TrainPlan(progress=lambda *a: told.append(a))
    one.fit(events, events)
    assert [t[0] for t in told] == [1, 2, 3] == list(range(1, one.epochs + 1))
    ray = small(rounds=3, student_epochs=1, trainer=TrainPlan(backend="ray", workers=2)).fit(events, events)
    np.testing.assert_array_equal(ray.layers_[0][0], one.layers_[0][0])  # trained here all the same
    less = small(rounds=3, student_epochs=1, events=200).fit(events, events)
    assert not np.array_equal(less.layers_[0][0], one.layers_[0][0])


def test_what_cannot_be_is_refused():
    events = images(50, 1)
    with pytest.raises(FeatureError, match="18 x 14 = 252 columns"):
        Cicada().fit(events, events)
    with pytest.raises(InputError, match="not been fitted"):
        small().score(events)
    with pytest.raises(ConfigError, match="even"):
        Cicada(shape=(5, 4))
    with pytest.raises(ConfigError, match="pruned needs at least 3"):
        Cicada(pruned=0.5, rounds=2)
    with pytest.raises(ConfigError, match="between 0 and 1, or null"):
        Cicada(match=0.0)
    with pytest.raises(ConfigError, match="rising range"):
        Cicada(deposits=(10.0, 1.0))
    with pytest.raises(ConfigError, match=r"not inside types\.last"):
        StudentTypes(weight="fixed<16,2,RND_CONV,SAT>")
    with pytest.raises(ConfigError, match=r"types\.bias.*cannot be trained"):
        build("Cicada", {"types": {"bias": "fixed<8,4>"}}, "score")
