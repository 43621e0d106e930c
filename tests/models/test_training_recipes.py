"""What published recipes ask of a training: optimisers, warm-up, precision, early stopping."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.models.training import Sample, TrainPlan, TrainSettings, train
from elsewhere.models.training_checkpoint import CHECKPOINT
from elsewhere.models.training_optimisers import lars

from .test_training import SETTINGS, same, task

PLAIN = TrainSettings(epochs=4, batch=64, learning_rate=1e-2, seed=3, shards=2)


def test_lars_is_its_formula():
    """Against numpy, over three steps: a matrix is adapted and decayed, a vector neither, a zero matrix has rate 1."""
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(3, 2)), rng.normal(size=3), np.zeros((2, 2))]
    w = [a.copy() for a in start]
    made = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in start]
    optimiser, velocity = lars(made, 0.3, 0.01), [np.zeros_like(a) for a in start]
    for _ in range(3):
        gradients = [rng.normal(size=a.shape) for a in start]
        for i, g in enumerate(gradients):
            made[i].grad = torch.from_numpy(g.copy())
            size, slope = np.sqrt((w[i] ** 2).sum()), np.sqrt((g**2).sum())
            rate, step = 1.0, g
            if w[i].ndim == 2:
                rate = 0.001 * size / (slope + 0.01 * size) if size > 0 else 1.0
                step = g + 0.01 * w[i]
            velocity[i] = 0.9 * velocity[i] + 0.3 * rate * step
            w[i] = w[i] - velocity[i]
        optimiser.step()
        for i in range(3):
            np.testing.assert_allclose(made[i].detach().numpy(), w[i], rtol=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_weight_decay_is_torchs_own(name, kind):
    job = task(200)
    found = train(job, replace(PLAIN, optimizer=name, weight_decay=0.1, shards=1))
    network = job.build(job.config)
    optimiser = kind(network.parameters(), lr=1e-2, weight_decay=0.1)
    arrays = {k: torch.from_numpy(v) for k, v in job.train.arrays().items()}
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng([3, epoch]).permutation(200))
        for rows in order.split(64):
            weight = arrays["weight"][rows]
            optimiser.zero_grad()
            losses = job.loss(network, arrays["x"][rows], arrays["y"][rows])
            ((losses * weight).sum() / weight.sum()).backward()
            optimiser.step()
    for key, parameter in network.named_parameters():
        np.testing.assert_allclose(found.state[key], parameter.detach().numpy(), atol=1e-5)
    assert not np.array_equal(found.state["0.weight"], train(job, replace(PLAIN, shards=1)).state["0.weight"])


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_every_optimiser_learns_and_goes_on_where_it_was(tmp_path, name):
    rate = {"adamw": 1e-2, "lars": 2.0}[name]
    settings = replace(
        PLAIN, optimizer=name, weight_decay=1e-6, learning_rate=rate, schedule="cosine", warmup=1
    )
    settings = replace(settings, epochs=6)

    class Stopped(Exception):
        pass

    def stop(epoch, loss, validation):
        if epoch == 3:
            raise Stopped

    whole = train(task(), settings)
    assert whole.record.train_loss[-1] < 0.9 * whole.record.train_loss[0]
    with pytest.raises(Stopped):
        train(task(), settings, tmp_path, stop)
    again = train(task(), settings, tmp_path)
    assert again.record.resumed_from == 3
    assert same(again, whole)
    assert (tmp_path / CHECKPOINT).exists()


def test_the_rate_rises_over_whole_epochs_and_falls_to_its_last_part():
    settings = replace(PLAIN, epochs=50, learning_rate=0.4, schedule="cosine", warmup=10, final_rate=0.001)
    rates = np.array([settings.rate(k, 5000) for k in range(5000)])
    np.testing.assert_allclose(rates[:1000], 0.4 * np.arange(1, 1001) / 1000, rtol=1e-12)
    along = np.arange(4000) / 4000
    np.testing.assert_allclose(
        rates[1000:], 0.4 * (0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * along))), rtol=1e-12
    )
    assert rates[-1] == pytest.approx(0.0004, rel=1e-2)
    short = replace(settings, epochs=5)  # as a test run makes it: it only rises
    assert np.all(np.diff([short.rate(k, 500) for k in range(500)]) > 0)
    floor = replace(settings, warmup=0, final_rate=0.5)
    assert floor.rate(499, 500) == pytest.approx(0.2, rel=1e-4)


def test_the_last_batch_is_dropped_if_it_is_not_full():
    """150 events in batches of 64: the same as 128 drawn events, so 2 steps an epoch."""
    settings = replace(PLAIN, epochs=1, shards=1, drop_last=True)
    order = np.random.default_rng([3, 0]).permutation(150)[:128]
    whole = task(150)
    arrays = whole.train.arrays()
    x, y, weight = (arrays[k][order] for k in ("x", "y", "weight"))
    found = train(whole, settings)
    network = whole.build(whole.config)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    total = 0.0
    for part in (slice(0, 64), slice(64, 128)):
        w = torch.from_numpy(weight[part])
        optimiser.zero_grad()
        losses = whole.loss(network, torch.from_numpy(x[part]), torch.from_numpy(y[part])) * w
        (losses.sum() / w.sum()).backward()
        optimiser.step()
        total += float(losses.sum().detach())
    assert found.record.train_loss[0] == pytest.approx(total / weight.sum(), rel=1e-5)
    np.testing.assert_allclose(
        found.state["0.weight"], dict(network.named_parameters())["0.weight"].detach(), atol=1e-6
    )
    with pytest.raises(ConfigError, match="drop_last leaves none of 50"):
        train(task(50), settings)


def test_bfloat16_learns_nearly_the_same_and_keeps_float32_weights():
    wide = replace(task(2000), config={"sizes": [3, 32, 1], "seed": 7})
    exact, rough = (train(wide, replace(SETTINGS, precision=p)) for p in ("float32", "bfloat16"))
    assert not np.array_equal(exact.state["0.weight"], rough.state["0.weight"])
    np.testing.assert_allclose(rough.record.validation_loss, exact.record.validation_loss, rtol=0.02)
    assert all(a.dtype == np.float32 for a in rough.state.values())
    # weights are not rounded to 8 bits of mantissa
    kept = torch.from_numpy(rough.state["0.weight"])
    assert not torch.equal(kept, kept.bfloat16().float())
    assert same(rough, train(wide, replace(SETTINGS, precision="bfloat16")))


def noise(seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(rng.normal(size=(60, 3)), rng.integers(0, 2, 60).astype(float))


def test_patience_stops_after_epochs_that_were_no_better(tmp_path):
    """Labels that cannot be learnt: the training stops, and is the beginning of one that does not; so does a resumed one."""
    job = replace(task(), train=noise(0), validation=noise(1))
    settings = replace(SETTINGS, epochs=60, batch=16, learning_rate=3e-2, patience=4, best=1)
    found, whole = train(job, settings), train(job, replace(settings, patience=0))
    best = int(np.argmin(found.record.validation_loss))
    n = found.record.epochs
    assert n < 60
    assert found.record.stopped_at == n == best + 1 + 4
    assert whole.record.stopped_at is None
    assert whole.record.validation_loss[:n] == found.record.validation_loss
    shorter = train(job, replace(settings, epochs=best + 1, patience=0))
    assert all(np.array_equal(found.state[k], shorter.state[k]) for k in found.state)

    class Stopped(Exception):
        pass

    def stop(epoch, loss, validation):
        if epoch == n - 1:
            raise Stopped

    with pytest.raises(Stopped):
        train(job, settings, tmp_path, stop)
    again = train(job, settings, tmp_path)
    assert (again.record.resumed_from, again.record.stopped_at) == (n - 1, n)
    assert same(again, found)
    nowhere = replace(settings, backend="ray", workers=2, ray_address="nowhere:1")
    assert same(train(job, nowhere, tmp_path), found)  # it is over: no Ray is needed
    record = found.record
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record
    assert len(record.epoch_s) == len(record.epoch_cpu_s) == n


@dataclass
class Recipe:
    epochs: int = 50
    batch: int = 1024
    learning_rate: float = 0.8
    seed: int = 2
    best: int = 1
    schedule: str = "cosine"
    warmup: int = 10
    final_rate: float = 0.001
    optimizer: str = "lars"
    weight_decay: float = 1e-6
    drop_last: bool = True
    patience: int = 7


def test_a_methods_fields_are_its_recipe():
    for made in (TrainPlan(precision="bfloat16").settings(Recipe(), 1), TrainSettings.of(Recipe(), 2)):
        assert (made.optimizer, made.weight_decay, made.warmup, made.final_rate) == ("lars", 1e-6, 10, 0.001)
        assert (made.schedule, made.drop_last, made.patience, made.keep) == ("cosine", True, 7, "best")
    assert TrainPlan(precision="bfloat16").settings(Recipe(), 1).precision == "bfloat16"
    assert TrainSettings.of(Recipe(), 2).precision == "float32"


def test_impossible_recipes_are_refused():
    for change, message in (
        ({"optimizer": "sgd"}, "expected adam, adamw or lars"),
        ({"precision": "float16"}, "expected float32 or bfloat16"),
        ({"warmup": 2}, "belong to schedule: cosine"),
        ({"final_rate": 2.0, "schedule": "cosine"}, "at most 1"),
        ({"weight_decay": -1.0}, "nothing below 0"),
        ({"patience": 3}, "needs keep 'best'"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(PLAIN, **change)
