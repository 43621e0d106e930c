"""Networks trained together are the networks trained alone: bit for bit beside others, to rounding beside `train`."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.errors import ConfigError, FitError, InputError
from elsewhere.models.jobs import FitJob, FitsMany, fit_jobs
from elsewhere.models.networks.batched import History, Member, train_batched
from elsewhere.models.networks.dense import build_dense, evaluate, load_weights
from elsewhere.models.networks.stacked import BatchSettings, evaluate_stack, restack, unstack
from elsewhere.models.scores.network_ensemble import NetworkEnsemble, ScanJob, fit_many, members_of
from elsewhere.models.scores.weak_network import cross_entropy
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.training import Sample, Task, TrainSettings, train
from scipy.stats import spearmanr

N, D = 3000, 4
#: (sizes, batch): aligned widths, and widths and batches that fill no vector register.
SHAPES = [((4, 64, 64, 1), 128), ((4, 7, 5, 1), 50), ((4, 33, 20, 1), 77), ((4, 1), 32)]


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D)).astype(np.float32)
    y = (rng.random(N) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(float)
    return x, y, rng.random(N)


def member(sample, seed, rows=1500, held=1000):
    x, y, weight = sample
    order = np.random.default_rng(seed).permutation(N)
    mine, other = order[:rows], order[N - held :]
    return Member(x, y, mine, weight[mine], other, weight[other], np.full(D, 0.1), np.full(D, 1.1), seed)


@pytest.fixture(scope="module")
def crowd(sample):
    return [
        member(sample, 1),
        member(sample, 2, 1300),
        member(sample, 3, 420, 90),
        member(sample, 4, 60),
        member(sample, 5),
    ]


@pytest.mark.parametrize(("sizes", "batch"), SHAPES)
def test_nobody_notices_who_trains_beside(crowd, sizes, batch):
    settings = BatchSettings(sizes, 3, batch, best=2)
    together = train_batched(crowd, settings)
    alone = [train_batched([m], settings)[0] for m in crowd]
    turned = train_batched(crowd[::-1], settings, threads=2)[::-1]
    for a, b, c in zip(together, alone, turned, strict=True):
        assert np.array_equal(a.states, b.states)
        assert np.array_equal(a.states, c.states)
        assert (a.train_loss, a.validation_loss, a.epochs) == (b.train_loss, b.validation_loss, b.epochs)


@pytest.mark.parametrize(("sizes", "batch"), SHAPES)
def test_it_is_the_training_of_the_plain_loop(crowd, sizes, batch):
    """First weights, batches, weights of events, Adam, choice of epochs: all as `train` does it, but for rounding."""
    found = train_batched(crowd, BatchSettings(sizes, 3, batch, best=2))
    for m, one in zip(crowd, found, strict=True):
        parts = [
            Sample(m.inputs(rows), m.y[rows], weight)
            for rows, weight in ((m.rows, m.weight), (m.held_rows, m.held_weight))
        ]
        settings = TrainSettings(3, batch, seed=m.seed, shards=1, keep="best", best=2)
        task = Task(build_dense, {"sizes": list(sizes), "seed": m.seed}, cross_entropy, *parts)
        plain = train(task, settings)
        assert np.allclose(one.train_loss, plain.record.train_loss, atol=1e-5)
        assert np.allclose(one.validation_loss, plain.record.validation_loss, atol=1e-5)
        layers = unstack(one.states, BatchSettings(sizes, 3, batch))
        for k, state in enumerate(plain.states):
            for layer in range(len(sizes) - 1):
                assert np.allclose(layers[f"weight{layer}"][k], state[f"{2 * layer}.weight"], atol=1e-4)
                assert np.allclose(layers[f"bias{layer}"][k], state[f"{2 * layer}.bias"], atol=1e-4)


def test_the_best_epochs_are_kept_the_best_first(crowd):
    found = train_batched(crowd[:2], BatchSettings((4, 16, 1), 8, 64, learning_rate=0.05, best=3))
    for one in found:
        order = np.argsort(one.validation_loss, kind="stable")[:3] + 1
        assert one.epochs == tuple(order)
        assert len(one.states) == 3
        assert len(one.train_loss) == len(one.validation_loss) == 8


def test_patience_ends_a_member_and_only_that(crowd):
    settings = BatchSettings((4, 16, 1), 40, 64, learning_rate=0.05)
    whole = train_batched(crowd, settings)
    patient = train_batched(crowd, replace(settings, patience=4))
    lengths = {len(one.validation_loss) for one in patient}
    assert len(lengths) > 1
    for a, b in zip(whole, patient, strict=True):
        n = len(b.validation_loss)
        assert a.validation_loss[:n] == b.validation_loss
        assert n == 40 or n == int(np.argmin(b.validation_loss)) + 1 + 4


def test_the_learning_rate_halves_where_nothing_comes_of_it(sample):
    """Up to the first halving nothing changes; after it every step is half as long, so the losses lie closer."""
    settings = BatchSettings((4, 16, 1), 60, 64, learning_rate=0.05)
    plain, halved = (
        train_batched([member(sample, 1)], replace(settings, halve_after=n))[0] for n in (None, 3)
    )
    losses = np.array(halved.validation_loss)
    first = next(k for k in range(3, 60) if losses[: k + 1].argmin() == k - 3)
    assert 3 <= first < 40
    assert plain.validation_loss[: first + 1] == halved.validation_loss[: first + 1]
    assert plain.validation_loss[first + 1] != halved.validation_loss[first + 1]
    assert losses[-10:].std() < 0.2 * np.std(plain.validation_loss[-10:])
    assert losses[-10:].mean() < np.mean(plain.validation_loss[-10:])
    history = History(held=[5.0, 4.0, 6.0, 5.0, 3.0, 4.0, 4.0, 4.0, 4.0, 2.0])
    assert [history.halvings(n) for n in (1, 2, 3, 4, 5, None)] == [6, 3, 1, 1, 0, 0]


def test_a_batch_without_weight_is_no_step(sample):
    """Adam would go on by its momentum."""
    one = member(sample, 1, 64)
    weight = one.weight.copy()
    weight[:] = 0
    weight[0] = 1.0
    found = train_batched([replace(one, weight=weight)], BatchSettings((4, 8, 1), 1, 1))[0]
    same = train_batched(
        [replace(one, rows=one.rows[:1], weight=weight[:1])], BatchSettings((4, 8, 1), 1, 1)
    )[0]
    assert np.array_equal(found.states, same.states)


def test_evaluation_is_that_of_the_dense_network_and_needs_no_company(crowd, sample):
    settings = BatchSettings((4, 7, 5, 1), 2, 50, best=2)
    states = train_batched(crowd[:1], settings)[0].states
    logits = evaluate_stack(states, settings, sample[0])
    layers = unstack(states, settings)
    for k in range(2):
        named = {f"{2 * i}.{a}": layers[f"{a}{i}"][k] for i in range(3) for a in ("weight", "bias")}
        plain = evaluate(load_weights(build_dense({"sizes": [4, 7, 5, 1], "seed": 0}), named), sample[0])[
            :, 0
        ]
        assert np.allclose(logits[k], plain, atol=1e-5)
    assert np.array_equal(evaluate_stack(states, settings, sample[0][1711:1712])[:, 0], logits[:, 1711])
    assert np.array_equal(restack(layers, settings), states)


def test_impossible_settings_and_members_are_refused(sample):
    for bad in (
        {"sizes": (4, 2)},
        {"sizes": (4, 0, 1)},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"patience": 0},
        {"halve_after": 0},
    ):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            replace(BatchSettings((4, 8, 1), 1, 10), **bad)
    with pytest.raises(InputError, match="validation weights"):
        replace(member(sample, 1), held_weight=-np.ones(1000))
    with pytest.raises(InputError, match="0 training rows"):
        replace(member(sample, 1), rows=np.zeros(0, np.int64), weight=np.zeros(0))


def test_a_loss_that_explodes_names_the_member(sample):
    wild = replace(member(sample, 2), mean=np.zeros(D), width=np.full(D, 1e-30))
    with pytest.raises(FitError, match="member 1 "):
        train_batched([member(sample, 1), wild], BatchSettings((4, 64, 64, 1), 2, 128))


# ---- the ensemble

SMALL = NetworkEnsemble(members=3, hidden=(16,), epochs=12, best=2, batch=64, learning_rate=5e-3)


@pytest.fixture(scope="module")
def parts(toy):
    return toy(1500, 1), toy(1500, 2, 0.2, first=10_000), toy(600, 3, 0.5, first=20_000)


def test_members_have_their_own_split_and_standardise_on_their_training_part(parts):
    members = members_of(ScanJob(*parts[:2], SMALL, 7))
    held = [set(m.held_rows) for m in members]
    assert held[0] != held[1] != held[2]
    for m in members:
        assert set(m.rows).isdisjoint(m.held_rows)
        assert len(m.rows) + len(m.held_rows) == 3000
        assert abs(len(m.held_rows) - 1500) < 150
        inputs = m.inputs(m.rows)
        assert np.allclose(np.average(inputs, axis=0, weights=m.weight), 0, atol=1e-5)
        assert np.allclose(np.average(inputs**2, axis=0, weights=m.weight), 1, atol=1e-4)
        for rows, weight in ((m.rows, m.weight), (m.held_rows, m.held_weight)):
            assert weight[m.y[rows] == 1].sum() == pytest.approx(len(rows) / 2)


def test_a_scan_gives_each_job_what_it_would_get_alone(parts, toy):
    wide = replace(SMALL, hidden=(8, 8), members=2)
    jobs = [
        ScanJob(*parts[:2], SMALL, 1),
        ScanJob(*parts[:2], wide, 1),
        ScanJob(toy(400, 5), parts[1], SMALL, 2),
    ]
    for job, one in zip(jobs, fit_many(jobs, threads=2), strict=True):
        alone = replace(job.settings, seed=job.seed).fit(job.reference, job.data)
        assert one == alone  # the settings
        assert np.array_equal(one.score(parts[2]), alone.score(parts[2]))


def test_contract_of_a_score(parts):
    reference, data, fresh = parts
    rng = np.random.default_rng(1)
    score = replace(SMALL).fit(reference, data)
    values = score.score(fresh)
    assert values.dtype == np.float64
    assert (values[:300, None] > values[None, 300:]).mean() > 0.8
    shuffled = [e.take(rng.permutation(len(e))) for e in (reference, data)]
    assert np.array_equal(replace(SMALL).fit(*shuffled).score(fresh), values)
    few = rng.permutation(600)[:37]
    assert np.array_equal(score.score(fresh.take(few)), values[few])
    assert not np.array_equal(replace(SMALL, seed=1).fit(reference, data).score(fresh), values)
    assert score.score(fresh.take(slice(0, 0))).shape == (0,)
    info, arrays, texts = score.state()
    assert set(arrays) == {"mean", "width", "weight0", "bias0", "weight1", "bias1"}
    assert arrays["weight0"].shape == (6, 16, 4)
    back = replace(SMALL).restore(info, arrays, texts)
    assert np.array_equal(back.score(fresh), values)
    assert back.losses_ == score.losses_
    assert len(score.losses_) == 3
    assert len(score.losses_[0]["validation"]) == 12


def test_it_approaches_the_likelihood_ratio(toy):
    """Data half N(1.5, 1) in one of four columns: p = q / (1 + q), q = 0.5 + 0.5 exp(1.5 x - 1.125)."""
    rng = np.random.default_rng(3)
    samples = []
    for k, n in enumerate((14_000, 14_000, 3000)):
        e = toy(n, k, first=k * 20_000)
        x = rng.normal(size=(n, 4))
        x[:, 1] += 1.5 * (rng.random(n) < (0.0, 0.5, 0.5)[k])
        samples.append(replace(e, x=x.astype(np.float32), weight=np.ones(n)))
    score = NetworkEnsemble(members=6, epochs=10, best=4, hidden=(32, 32)).fit(*samples[:2])
    x = samples[2].x[:, 1].astype(float)
    q = 0.5 + 0.5 * np.exp(1.5 * x - 1.125)
    found = score.score(samples[2])
    assert spearmanr(found, q).statistic > 0.95
    assert np.abs(found - q / (1 + q)).mean() < 0.05


def test_held_events_choose_the_epochs_and_nothing_else(parts, toy):
    held = (toy(300, 8, first=60_000), toy(300, 9, 0.2, first=70_000))
    job = ScanJob(*parts[:2], SMALL, 1, held)
    for m in members_of(job):
        assert len(m.rows) == 3000
        assert len(m.held_rows) == 600
        assert set(map(tuple, m.x[m.held_rows])) == set(map(tuple, np.concatenate([h.x for h in held])))
    assert not np.array_equal(
        fit_many([job])[0].score(parts[2]), fit_many([job._replace(held=None)])[0].score(parts[2])
    )


def test_many_fits_of_any_score(parts):
    jobs = [FitJob(*parts[:2], 1), FitJob(*parts[:2], 2), FitJob(*parts[:2])]
    assert isinstance(SMALL, FitsMany)
    assert not isinstance(WeakTrees(), FitsMany)
    for score in (SMALL, WeakTrees(members=1, rounds=20)):
        for job, one in zip(jobs, fit_jobs(score, jobs), strict=True):
            alone = replace(score, seed=score.seed if job.seed is None else job.seed).fit(*parts[:2])
            assert np.array_equal(one.score(parts[2]), alone.score(parts[2]))


def test_errors_of_the_ensemble(parts):
    reference, data, fresh = parts
    with pytest.raises(InputError, match="not been fitted"):
        replace(SMALL).score(fresh)
    with pytest.raises(InputError, match="data: weights"):
        replace(SMALL).fit(reference, replace(data, weight=-data.weight))
    with pytest.raises(InputError, match="validation data: no events"):
        fit_many([ScanJob(reference, data, SMALL, 0, (reference, data.take(slice(0, 0))))])
    for bad in ({"members": 0}, {"validation": 1.0}, {"threads": 0}):
        with pytest.raises(ConfigError):
            replace(SMALL, **bad)
    with pytest.raises(ConfigError, match="patience"):
        replace(SMALL, patience=1).fit(reference, data)
