"""Training on a GPU: its arithmetic, on the processor, against the processor's own loops; and the refusal where there is none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.models.device import chosen, on
from elsewhere.models.networks.batched import Member, train_batched
from elsewhere.models.networks.batched_gpu import train_on_gpu
from elsewhere.models.networks.flow_modules import build_flow, flow_loss
from elsewhere.models.networks.flows import FlowSettings
from elsewhere.models.networks.stacked import BatchSettings
from elsewhere.models.training import Sample, Task, TrainSettings
from elsewhere.models.training_graph import GraphedSteps
from elsewhere.models.training_loop import Alone, Trainer


def member(seed: int, n: int) -> Member:
    """A member with ``n`` training events of its own weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 200, 3)).astype(np.float32)
    y = (rng.uniform(size=len(x)) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.float32)
    rows, held = np.arange(n), np.arange(n, n + 200)
    return Member(
        x, y, rows, rng.uniform(0.5, 1.5, n), held, np.ones(200), x.mean(0).astype(float), x.std(0).astype(float), seed
    )  # fmt: skip


def test_all_members_at_once_end_where_each_ends_alone():
    """Members of different sizes, one of which stops early: losses and states of the processor's groups, to rounding."""
    members = [member(s, n) for s, n in ((1, 700), (2, 300), (3, 64), (4, 513))]
    settings = BatchSettings((3, 16, 1), epochs=6, batch=128, best=2, patience=3)
    for one, other in zip(
        train_batched(members, settings), train_on_gpu(members, settings, "cpu"), strict=True
    ):
        assert one.epochs == other.epochs
        assert len(one.train_loss) == len(other.train_loss)
        np.testing.assert_allclose(one.train_loss, other.train_loss, rtol=1e-5)
        np.testing.assert_allclose(one.validation_loss, other.validation_loss, rtol=1e-5)
        np.testing.assert_allclose(one.states, other.states, atol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_recorded_steps_are_the_loops_steps(schedule):
    """A flow trained by the steps a GPU would replay: a last batch that is not full, weights, the loop's losses."""
    rng = np.random.default_rng(0)
    x, m = rng.normal(size=(1000, 3)).astype(np.float32), rng.normal(size=(1000, 1)).astype(np.float32)
    sample = Sample(x, m, rng.uniform(0.5, 1.0, 1000))
    task = Task(
        build_flow, FlowSettings(transforms=2, hidden=(16,)).network(3, 1, 5), flow_loss, sample, sample
    )
    settings = TrainSettings(3, 256, 1e-3, 1, shards=1, schedule=schedule)
    usual, graphed = (Trainer(task, settings, Alone()) for _ in range(2))
    steps = GraphedSteps(graphed.network, graphed.optimiser, graphed.loss, graphed.train, 256)

    def replay() -> None:
        graphed.optimiser.zero_grad()
        steps._step()

    steps.graph, graphed.graphed = SimpleNamespace(replay=replay), steps
    for trainer in (usual, graphed):
        trainer.run(None, "", None)
    np.testing.assert_allclose(usual.done.train_loss, graphed.done.train_loss, rtol=1e-5)
    np.testing.assert_allclose(usual.done.validation_loss, graphed.done.validation_loss, rtol=1e-5)
    assert usual.steps == graphed.steps == 12


def test_a_gpu_that_is_not_there_is_an_error():
    """Not a silent training on the processor."""
    assert chosen() == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"), on("cuda"):
            pass
    with pytest.raises(ConfigError, match="expected cpu or cuda"), on("tpu"):  # pyright: ignore[reportArgumentType]
        pass
    assert chosen() == "cpu"
