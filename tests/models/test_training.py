"""The training loop: the same network for any number of shards' owners, and after any interruption."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from elsewhere.errors import ConfigError, FitError, InputError
from elsewhere.models.networks.dense import build_dense
from elsewhere.models.scores.autoencoder import reconstruction
from elsewhere.models.scores.weak_network import cross_entropy
from elsewhere.models.training import Sample, Task, TrainSettings, train
from elsewhere.models.training_checkpoint import CHECKPOINT
from elsewhere.models.training_loop import Alone, Trainer

SETTINGS = TrainSettings(epochs=6, batch=64, learning_rate=1e-2, seed=3, keep="best", best=2)


def task(n: int = 500) -> Task:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 3))
    y = (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(float)
    held = Sample(x[: n // 4], y[: n // 4])
    return Task(
        build_dense, {"sizes": [3, 8, 1], "seed": 7}, cross_entropy, Sample(x, y, rng.random(n)), held
    )


def same(one, two) -> bool:
    """Weights, kept epochs and loss curves, bit for bit."""
    states = zip(one.states, two.states, strict=True)
    return (
        one.record.train_loss == two.record.train_loss
        and one.record.validation_loss == two.record.validation_loss
        and all(np.array_equal(a[k], b[k]) for a, b in states for k in a)
    )


@pytest.fixture(scope="module")
def undisturbed():
    return train(task(), SETTINGS)


def test_it_learns_and_the_record_is_whole(undisturbed):
    record = undisturbed.record
    assert record.train_loss[-1] < 0.7 * record.train_loss[0]
    assert len(record.train_loss) == len(record.validation_loss) == record.epochs == 6
    assert (record.workers, record.backend, record.resumed_from) == (1, "plain", None)
    assert record.wall_s > 0
    assert record.events_per_s == pytest.approx(500 * 6 / record.wall_s)
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record


def test_the_kept_epochs_are_those_of_lowest_validation_loss(undisturbed):
    order = np.argsort(undisturbed.record.validation_loss, kind="stable")
    shorter = train(task(), replace(SETTINGS, epochs=int(order[0]) + 1, keep="last", best=1))
    # the order of the events of an epoch depends on seed and epoch alone, so the shorter training is its beginning
    assert all(np.array_equal(shorter.state[k], undisturbed.state[k]) for k in shorter.state)
    assert len(undisturbed.states) == 2


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_it_is_adam_on_the_weighted_mean_loss_of_each_batch(schedule):
    """Against a loop of torch's own. Several batches: one step of Adam would not see the gradient's scale."""
    job = task(80)
    settings = TrainSettings(epochs=4, batch=16, learning_rate=1e-2, seed=5, shards=3, schedule=schedule)
    found = train(job, settings)
    network = build_dense(job.config)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, T_max=20
    )  # 20 steps: it rises in none of them
    arrays = {k: torch.from_numpy(v) for k, v in job.train.arrays().items()}
    for epoch in range(4):
        order = np.random.default_rng([5, epoch]).permutation(80)
        total = 0.0
        for rows in torch.from_numpy(order).split(16):
            weight = arrays["weight"][rows]
            losses = cross_entropy(network, arrays["x"][rows], arrays["y"][rows]) * weight
            optimiser.zero_grad()
            (losses.sum() / weight.sum()).backward()
            optimiser.step()
            if schedule == "cosine":
                falling.step()
            total += float(losses.sum().detach())
        assert found.record.train_loss[epoch] == pytest.approx(
            total / float(arrays["weight"].sum()), rel=1e-4
        )
    for name, parameter in network.named_parameters():
        assert np.allclose(found.state[name], parameter.detach().numpy(), atol=1e-4)


def test_the_worlds_random_state_is_neither_read_nor_written(undisturbed):
    before = torch.get_rng_state()
    assert same(train(task(), SETTINGS), undisturbed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_gradients_are_the_same_however_shards_are_shared_out(world):
    """What every rank of ``world`` would compute, put together by a fake exchange, equals one rank's sum."""
    shards = [torch.arange(i, 60, 5) for i in range(5)][:4]
    whole = Trainer(task(60), SETTINGS, Alone())._sum(shards)

    class Recorder(Alone):
        def __init__(self, rank):
            self.rank, self.world = rank, world

        def gather(self, mine):
            parts[self.rank] = mine
            return [parts.get(r, torch.zeros_like(mine)) for r in range(world)]

    parts: dict[int, torch.Tensor] = {}
    sums = [Trainer(task(60), SETTINGS, Recorder(rank))._sum(shards) for rank in range(world)]
    assert torch.equal(sums[-1], whole)  # the last rank finds all parts there


def test_a_rate_that_falls_rises_first():
    settings = TrainSettings(epochs=10, batch=64, learning_rate=0.5, schedule="cosine")
    rates = [settings.rate(k, 1000) for k in range(1000)]
    assert np.argmax(rates) == 9
    assert rates[0] == pytest.approx(0.05)
    assert rates[500] == pytest.approx(0.25)
    assert 0 < rates[-1] < 1e-5


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_finished_or_half_finished_training_goes_on_where_it_was(tmp_path, undisturbed, schedule):
    settings = replace(SETTINGS, schedule=schedule)
    undisturbed = undisturbed if schedule == "constant" else train(task(), settings)

    class Stopped(Exception):
        pass

    def stop(epoch, loss, validation):
        if epoch == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train(task(), settings, tmp_path, stop)
    assert [p.name for p in tmp_path.iterdir()] == [CHECKPOINT]
    seen = []
    again = train(task(), settings, tmp_path, lambda *a: seen.append(a[0]))
    assert seen == [4, 5, 6]
    assert again.record.resumed_from == 3
    assert same(again, undisturbed)
    assert same(train(task(), settings, tmp_path, lambda *a: seen.append(a[0])), undisturbed)
    assert seen == [4, 5, 6]


def test_a_finished_training_needs_no_ray_to_give_its_result(tmp_path, undisturbed):
    train(task(), SETTINGS, tmp_path)
    nowhere = replace(SETTINGS, backend="ray", workers=2, ray_address="nowhere:1")
    assert same(train(task(), nowhere, tmp_path), undisturbed)


def test_a_checkpoint_of_other_data_or_settings_is_not_gone_on_with(tmp_path):
    train(task(), SETTINGS, tmp_path)
    assert train(task(), replace(SETTINGS, seed=4), tmp_path).record.resumed_from is None
    assert same(train(task(400), SETTINGS, tmp_path), train(task(400), SETTINGS))


def test_a_damaged_checkpoint_is_a_fresh_start(tmp_path):
    train(task(), SETTINGS, tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-50])
    assert train(task(), SETTINGS, tmp_path).record.resumed_from is None


def test_kill_9_of_the_process_changes_nothing(tmp_path):
    """A child trains; it is killed after its third checkpoint; the rerun equals a training never disturbed."""
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_training import SETTINGS, task, train\n"
        "train(task(), SETTINGS, Path(sys.argv[1]), lambda e, *_: (print(e, flush=True), time.sleep(0.2)))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == "3":
                os.kill(child.pid, signal.SIGKILL)
                break
        assert child.wait() == -signal.SIGKILL
    again = train(task(), SETTINGS, tmp_path)
    assert again.record.resumed_from == 3
    assert same(again, train(task(), SETTINGS))


def workers_of(pid: int, kind: str = "RayTrainWorker") -> list[psutil.Process]:
    """Ray Train's worker processes below ``pid``, or those of another ``kind``."""
    out = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if kind in " ".join(process.cmdline()):
                out.append(process)
        except psutil.NoSuchProcess:
            continue
    return out


@pytest.mark.slow
def test_two_ray_workers_give_what_one_process_gives_and_survive_kill_9(tmp_path):
    """One worker is killed once: both groups of workers together must give the undisturbed plain network."""
    job = task(40_000)
    settings = replace(SETTINGS, epochs=20, batch=512)
    killed = []

    def kill_one(epoch, loss, validation):
        if epoch >= 2 and not killed:
            for process in workers_of(os.getpid())[:1]:
                process.kill()
                killed.append(process.pid)

    ray = train(job, replace(settings, backend="ray", workers=2), tmp_path, kill_one)
    assert killed
    assert (ray.record.workers, ray.record.backend) == (2, "ray")
    assert ray.record.resumed_from is not None
    assert 2 <= ray.record.resumed_from < 20
    assert same(ray, train(job, settings))


def test_impossible_settings_and_samples_are_refused():
    for change, message in (
        ({"epochs": 0}, "epochs: found 0"),
        ({"workers": 2}, "use backend 'ray'"),
        ({"workers": 5, "backend": "ray"}, "at most 4"),
        ({"keep": "first"}, "expected plain or ray, last or best"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(SETTINGS, **change)
    with pytest.raises(ConfigError, match="needs a validation sample"):
        train(replace(task(), validation=None), SETTINGS)
    with pytest.raises(InputError, match="must not be negative"):
        Sample(np.ones((2, 1)), weight=np.array([1.0, -1.0]))
    with pytest.raises(InputError, match="finite"):
        Sample(np.array([[np.nan]]))


def test_a_loss_that_diverges_is_an_error():
    job = Task(build_dense, {"sizes": [3, 4, 3], "seed": 1}, reconstruction, Sample(1e19 * np.ones((64, 3))))
    with pytest.raises(FitError, match="lower learning_rate"):
        train(job, TrainSettings(epochs=3, batch=8))
