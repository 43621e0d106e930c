"""Ray Data as the reader of a training: the same events in the same order, bounded, gone when the training is, and clear errors."""

import os
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from elsewhere.chunks import Chunk
from elsewhere.errors import InputError
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.training import TrainPlan, ray_session, train
from elsewhere.models.training_files import EventFiles
from elsewhere.models.training_stream import read_rows
from elsewhere.models.training_stream_ray import RayData, parts, read_together
from elsewhere.workspace import write_chunk

from .conftest import make
from .test_training import same, workers_of
from .test_training_stream import SETTINGS, arrays, streamed, task, written


@pytest.fixture(scope="module")
def session():
    """One for all tests: the processes of Ray need some ten seconds to start."""
    with ray_session("local", 2) as ray:
        yield ray


@pytest.fixture
def ray(session):
    """The session; after every test, whatever came of it, nothing reads for a training."""
    yield session
    psutil.wait_procs(feeds(), timeout=20)
    assert feeds() == []


def feeds() -> list[psutil.Process]:
    """The processes below this one that run Ray Data for a worker."""
    return workers_of(os.getpid(), "ray::_Feed")


def test_what_ray_data_is_asked_for_at_once(tmp_path):
    """Parts of at most so many bytes, whole blocks in their order, of several epochs; a task's rows are the blocks' one after another."""
    made = streamed(written(tmp_path, arrays()), 400)
    blocks = [*made.blocks, *made.blocks[::-1]]
    assert {b.rows for b in blocks} == {150, 66, 67}
    found = list(parts(made, iter(blocks), most=20 * 400))  # 3 columns, y and weight of 4 bytes
    assert [b for part in found for b in part] == blocks
    sizes = [sum(b.rows for b in part) for part in found]
    assert max(sizes) <= 400
    assert all(size + part[0].rows > 400 for size, part in zip(sizes, found[1:], strict=False))
    assert [len(part) for part in parts(made, blocks[:3], most=1)] == [1, 1, 1]
    assert list(parts(made, [], most=1)) == []
    one = read_together(made, blocks[:3])
    for name, values in one.items():
        assert np.array_equal(values, np.concatenate([read_rows(made, b)[name] for b in blocks[:3]]))


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ray_data_brings_the_same_events_in_the_same_order(tmp_path):
    """Two workers whose blocks tasks of Ray Data read, and one process alone: one network, bit for bit."""
    paths = written(tmp_path, arrays())
    job = task(streamed(paths, 400), streamed(paths, 700))
    alone = train(job, SETTINGS)
    assert same(train(job, replace(SETTINGS, backend="ray", workers=2), tmp_path / "c"), alone)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_score_is_trained_from_files_on_ray(tmp_path):
    events = make(600, 1)
    write_chunk(tmp_path / "a.parquet", Chunk(events, {}, {}, {}))
    files = EventFiles((tmp_path / "a.parquet",))
    small = Autoencoder(hidden=(8,), latent=2, epochs=2, batch=64)
    alone = replace(small).fit_stream(files)
    ray = replace(small, trainer=TrainPlan("ray", 2)).fit_stream(files)
    assert all(np.array_equal(alone.weights_[k], ray.weights_[k]) for k in alone.weights_)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_damaged_file_is_one_clear_error_through_ray(tmp_path):
    """Found in the training sample of one worker, or in the validation of the first of two: the reader's own text, once."""
    paths = written(tmp_path, arrays())
    sample = streamed(paths, 400)
    raw = bytearray(paths[1].read_bytes())
    raw[200:260] = bytes(60)
    paths[1].write_bytes(raw)
    settings = replace(SETTINGS, backend="ray", keep="last", best=1)
    for job, workers in ((task(sample), 1), (task(arrays(), sample), 2)):
        with pytest.raises(InputError) as error:
            train(job, replace(settings, workers=workers), tmp_path / "c")
        assert str(error.value).startswith(f"{paths[1].resolve()} is damaged")
        assert str(error.value).endswith("process it again")
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_ray_data_holds_two_parts_and_ends_when_told(tmp_path, monkeypatch):
    """A part is asked for when the one before begins to be used; after `close` and after an early stop nothing reads."""
    made = streamed(written(tmp_path, arrays()), 400)
    asked = []

    def endless():
        while True:
            for block in made.blocks:
                asked.append(block)
                yield block

    monkeypatch.setattr("elsewhere.models.training_stream_ray.PART_BYTES", 20 * 450)
    stopping = replace(SETTINGS, epochs=40, learning_rate=0.3, patience=1)
    read = RayData()
    source, seen = read(made, endless()), 0
    while seen < 5 * 2000:
        rows = next(source)
        assert np.array_equal(rows["x"], read_together(made, asked)["x"][seen : seen + len(rows["x"])])
        seen += len(rows["x"])
        assert sum(b.rows for b in asked) <= seen + 2 * 450 + 150
    assert len(feeds()) == 1
    source.close()
    read.close()
    found = train(task(made, made), replace(stopping, backend="ray"), tmp_path / "c")
    assert found.record.epochs < 40
    assert same(found, train(task(made, made), stopping))


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_kill_9_of_a_worker_that_ray_data_reads_for_changes_nothing(tmp_path):
    """It goes on from its last epoch with another reader, and the reader of the dead one is gone too."""
    made = streamed(written(tmp_path, arrays(20_000), rows=1500), 4000)
    settings = replace(SETTINGS, epochs=12)
    killed = []

    def kill_one(number, loss, validation):
        if number >= 2 and not killed:
            for process in workers_of(os.getpid())[:1]:
                process.kill()
                killed.append(process.pid)

    found = train(task(made, made), replace(settings, backend="ray"), tmp_path / "c", kill_one)
    assert killed
    assert 2 <= found.record.resumed_from < 12
    assert same(found, train(task(made, made), settings))


@pytest.mark.slow
def test_idle_readers_wait_for_the_next_part(tmp_path, ray):
    """Three processes that read at once outlive a pause, after which Ray by itself ends all beyond the number of CPUs, two."""

    @ray.remote(num_cpus=0)
    def meet(k):
        (tmp_path / str(k)).touch()
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.02)
        return os.getpid()

    met = set(ray.get([meet.remote(k) for k in range(3)], timeout=120))
    assert len(met) == 3
    time.sleep(4)
    assert {pid for pid in met if psutil.pid_exists(pid)} == met
