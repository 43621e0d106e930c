"""Training from Parquet files: the order of an epoch, how much is held, and the same network whoever reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from elsewhere.chunks import Chunk, Varied
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.models.base import Streamed
from elsewhere.models.folds import Guarded
from elsewhere.models.networks.dense import build_dense
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.isolation_forest import IsolationForest
from elsewhere.models.scores.weak_network import cross_entropy
from elsewhere.models.training import (
    ParquetSample,
    Sample,
    Scale,
    Task,
    TrainSettings,
    train,
)
from elsewhere.models.training_files import EventFiles
from elsewhere.models.training_loop import Alone, Trainer
from elsewhere.models.training_stream import Stream, in_this_process, read_rows, windows
from elsewhere.workspace import write_chunk

from .conftest import make
from .test_training import same

SETTINGS = TrainSettings(epochs=3, batch=64, learning_rate=1e-2, seed=3, keep="best", best=2)
COLUMNS = ("f0", "f1", "f2")


def arrays(n: int = 2000) -> Sample:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    return Sample(x, (x[:, 0] > 0).astype(np.float32), rng.random(n).astype(np.float32))


def written(folder: Path, sample: Sample, rows: int = 150, files: int = 3) -> tuple[Path, ...]:
    """``sample`` in files whose row groups have ``rows`` rows."""
    folder.mkdir(exist_ok=True)
    paths = []
    for k, part in enumerate(np.array_split(np.arange(len(sample)), files)):
        columns = {name: sample.x[part, i] for i, name in enumerate(COLUMNS)}
        columns |= {"y": sample.y[part], "weight": sample.weight[part].astype(np.float64)}
        paths.append(folder / f"{k}.parquet")
        pq.write_table(pa.table(columns), paths[-1], row_group_size=rows, write_page_checksum=True)
    return tuple(paths)


def task(train_sample, held=None) -> Task:
    return Task(build_dense, {"sizes": [3, 8, 1], "seed": 7}, cross_entropy, train_sample, held)


def streamed(paths, window: int) -> ParquetSample:
    return ParquetSample(paths, COLUMNS, ("y",), window=window)


def test_a_window_of_the_whole_sample_is_the_training_in_memory(tmp_path):
    """Bit for bit, with a validation sample in files too; a smaller window is another order of the same events."""
    sample = arrays()
    paths = written(tmp_path, sample)
    memory = train(task(sample, sample), SETTINGS)
    whole = train(task(streamed(paths, 2000), streamed(paths, 500)), SETTINGS)
    assert all(
        np.array_equal(a[k], b[k]) for a, b in zip(memory.states, whole.states, strict=True) for k in a
    )
    np.testing.assert_allclose(whole.record.train_loss, memory.record.train_loss, rtol=1e-12)
    np.testing.assert_allclose(whole.record.validation_loss, memory.record.validation_loss, rtol=1e-6)
    small = train(task(streamed(paths, 300), sample), SETTINGS)
    assert not np.array_equal(small.state["0.weight"], memory.state["0.weight"])
    np.testing.assert_allclose(small.record.validation_loss, memory.record.validation_loss, rtol=0.1)


def epoch(sample: ParquetSample, seed: int, number: int, batch: int = 64):
    stream = Stream(sample, batch, in_this_process)
    pieces = [{k: v.copy() for k, v in rows.items()} for rows in stream.pieces(seed, number)]
    return stream, pieces


def test_an_epoch_has_every_event_once_in_an_order_of_seed_and_epoch(tmp_path):
    sample = arrays()
    made = streamed(written(tmp_path, sample), 400)
    _, pieces = epoch(made, 3, 0)
    assert all(len(p["x"]) % 64 == 0 for p in pieces[:-1])
    x = np.concatenate([p["x"] for p in pieces])
    assert np.array_equal(np.unique(x, axis=0), np.unique(sample.x, axis=0))
    rows = {value.tobytes(): i for i, value in enumerate(sample.x)}
    at = [rows[value.tobytes()] for value in x]
    assert all(np.concatenate([p["weight"] for p in pieces]) == sample.weight[at])
    assert all(np.concatenate([p["y"] for p in pieces]) == sample.y[at])
    again = np.concatenate([p["x"] for p in epoch(made, 3, 0)[1]])
    others = [np.concatenate([p["x"] for p in epoch(made, *key)[1]]) for key in ((3, 1), (4, 0))]
    assert np.array_equal(again, x)
    assert not any(np.array_equal(other, x) for other in others)
    # neighbours in the files are far apart: a window mixes blocks of all files, and its rows
    assert np.median(np.abs(np.diff(at))) > 100


def test_windows_are_whole_blocks_and_of_the_stated_size(tmp_path):
    made = streamed(written(tmp_path, arrays()), 400)
    for rng in (None, np.random.default_rng(1)):
        groups = windows(made.blocks, 400, rng)
        sizes = [sum(b.rows for b in group) for group in groups]
        assert sorted(b for group in groups for b in group) == sorted(made.blocks)
        assert all(400 <= size < 550 for size in sizes[:-1])
    assert windows(made.blocks, 400, None)[0] == list(made.blocks[:3])


def test_what_is_held_does_not_grow_with_the_files(tmp_path):
    """Rows in memory at once, and rows read before they are asked for, in samples of one and of ten times the size."""
    held = []
    for n in (4000, 40_000):
        made = streamed(written(tmp_path / str(n), arrays(n)), 600)
        ahead = [0]

        def counted(sample, blocks, ahead=ahead):
            for rows in in_this_process(sample, blocks):
                ahead.append(len(rows["x"]))
                yield rows

        stream = Stream(made, 64, counted)
        assert sum(len(p["x"]) for p in stream.pieces(1, 0)) == n == sum(ahead)
        held.append((stream.most_held, len(stream._held["x"])))
    assert max(held[1]) <= 600 + 150 + 64
    assert held[1][1] == held[0][1]


def test_reading_ahead_stops_a_window_before(tmp_path):
    """How many blocks are asked for when one has been taken."""
    made = streamed(written(tmp_path, arrays(6000)), 450)
    asked = []

    class Counted(tuple):
        def __iter__(self):
            for block in super().__iter__():
                asked.append(block)
                yield block

    source = in_this_process(made, Counted(made.blocks))
    next(source)
    source.close()
    assert len(made.blocks) == 42
    assert len(asked) == 3  # of 150 rows each


class Counted:
    """`in_this_process`, with how often it was begun, what was asked for, and whether it is at its end."""

    def __init__(self) -> None:
        self.begun, self.open, self.asked = 0, 0, []

    def __call__(self, sample, blocks):
        self.begun, self.open = self.begun + 1, self.open + 1

        def seen():
            for block in blocks:
                self.asked.append(block)
                yield block

        try:
            yield from in_this_process(sample, seen())
        finally:
            self.open -= 1


def test_reading_goes_on_from_one_epoch_into_the_next(tmp_path):
    """One reader for all epochs, which has begun with the next before it is asked for; the rows are those of epochs read one by one."""
    made, read = streamed(written(tmp_path, arrays()), 400), Counted()
    stream = Stream(made, 64, read, epochs=3)
    for number in (0, 1):
        found = np.concatenate([p["x"].copy() for p in stream.pieces(3, number)])
        assert np.array_equal(found, np.concatenate([p["x"] for p in epoch(made, 3, number)[1]]))
        assert (read.begun, read.open) == (1, 1)
        ahead = len(read.asked) - (number + 1) * len(made.blocks)
        assert 1 <= ahead <= 4  # a window of blocks of 134 or 150 rows
    assert sum(len(p["x"]) for p in stream.pieces(3, 0)) == 2000  # not the one that was to follow
    assert read.begun == 2
    next(stream.pieces(3, 1))
    stream.close()
    assert read.open == 0
    assert len(read.asked) < 4 * len(made.blocks)
    list(stream.pieces(3, 2))
    assert read.open == 0  # the last one, without being told


@pytest.mark.parametrize("end", ["last", "stopped", "refused"])
def test_nothing_reads_on_when_a_training_is_over(tmp_path, end):
    """After the last epoch, after an early stop, after an error in the middle."""
    made, read = streamed(written(tmp_path, arrays()), 400), Counted()
    settings = replace(SETTINGS, epochs=40, learning_rate=0.3, patience=1 if end == "stopped" else 0)
    settings = replace(settings, epochs=3) if end == "last" else settings
    trainer = Trainer(task(made, made), settings, Alone(), read)

    def stop(number, loss, validation):
        if end == "refused" and number == 2:
            raise InputError("enough")

    if end == "refused":
        with pytest.raises(InputError, match="enough"):
            trainer.run(None, "", stop)
    else:
        trainer.run(None, "", None)
    assert (read.begun, read.open) == (2, 0)
    assert trainer.done.epoch < 40


def test_the_scale_is_the_scores_own(tmp_path):
    """Autoencoder.scale of the raw columns, to the last bit, clipped values among them."""
    events = make(1000, 1)
    write_chunk(tmp_path / "a.parquet", Chunk(events, {}, {}, {}))
    score = Autoencoder(clip=1.5)
    score._learn_scale(events)
    how = Scale(tuple(score.offset_), tuple(2.0 ** -score.shift_.astype(float)), score.clip)
    sample = EventFiles((tmp_path / "a.parquet",)).sample(how)
    rows = read_rows(sample, sample.blocks[0])
    assert np.array_equal(rows["x"], score.scale(events.x))
    assert np.abs(rows["x"]).max() == 1.5
    assert np.array_equal(rows["weight"], events.weight.astype(np.float32))


def test_events_of_variations_alone_are_left_out(tmp_path):
    events = make(100, 1)
    nominal, other = np.arange(0, 60), np.arange(20, 100)
    varied = Varied("up", replace(events.take(other), x=np.full((80, 4), np.nan, np.float32)), {}, other)
    write_chunk(
        tmp_path / "a.parquet", Chunk(events.take(nominal), {}, {}, {}, varied=(varied,), rows=nominal)
    )
    files = EventFiles((tmp_path / "a.parquet",))
    assert len(files) == 60
    sample = files.sample()
    assert np.array_equal(read_rows(sample, sample.blocks[0])["x"], events.x[:60])
    assert len(files.hashes()) == 60


def test_killed_and_resumed_is_undisturbed(tmp_path):
    job = task(streamed(written(tmp_path, arrays()), 400))
    settings = replace(SETTINGS, keep="last", best=1)

    class Stopped(Exception):
        pass

    def stop(number, loss, validation):
        if number == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(job, settings, tmp_path / "c", stop)
    again = train(job, settings, tmp_path / "c")
    assert again.record.resumed_from == 2
    assert same(again, train(job, settings))
    written(tmp_path, arrays(2100))
    changed = task(streamed(job.train.paths, 400))
    assert train(changed, settings, tmp_path / "c").record.resumed_from is None


def test_the_autoencoder_learns_from_files(tmp_path):
    """As good on other events as from memory; a guard remembers every event; what cannot stream says so."""
    events, test = make(3000, 1), make(1000, 2, first=90_000)
    paths = []
    for k, part in enumerate(np.array_split(np.arange(3000), 4)):
        paths.append(tmp_path / f"{k}.parquet")
        write_chunk(paths[-1], Chunk(events.take(part), {}, {}, {}))
    files = EventFiles(tuple(paths), window=900)
    small = Autoencoder(hidden=(8,), latent=2, epochs=8, batch=64, learning_rate=1e-2)
    streamed_score, score = Guarded(replace(small)), Guarded(replace(small)).fit(events, events)
    streamed_score.fit_stream(files)
    assert np.array_equal(streamed_score.seen_, score.seen_)
    assert np.array_equal(streamed_score.inner.shift_, score.inner.shift_)
    assert np.array_equal(streamed_score.inner.offset_, score.inner.offset_)
    one, other = (float(np.mean(s.score(test))) for s in (streamed_score, score))
    assert one == pytest.approx(other, rel=0.25)
    assert one < 0.5 * float(np.mean(np.square(score.inner.scale(test.x)).sum(axis=1)))
    assert isinstance(small, Streamed)
    with pytest.raises(ConfigError, match="IsolationForest learns from events in memory only"):
        Guarded(IsolationForest()).fit_stream(files)
    looked = files.look(5, 300)
    assert len(looked) == 300
    assert np.array_equal(looked.identity, EventFiles(tuple(reversed(paths))).look(5, 300).identity)


def test_bad_files_and_columns_are_named(tmp_path):
    paths = written(tmp_path, arrays(300))
    with pytest.raises(FeatureError, match=r"0\.parquet has no column 'wieght'; did you mean 'weight'"):
        ParquetSample(paths, ("f0", "wieght"))
    with pytest.raises(ConfigError, match="as many offsets"):
        ParquetSample(paths, COLUMNS, scale=Scale((0.0,), (1.0,)))
    bad = arrays(300)
    bad.weight[5] = -1
    worse = Sample(bad.x.copy(), bad.y, np.abs(bad.weight))
    worse.x[7, 1] = np.nan
    for sample, message in ((bad, "must not be negative"), (worse, "x of a training sample must be finite")):
        job = task(streamed(written(tmp_path, sample), 100))
        with pytest.raises(InputError, match=f"0.parquet.*{message}"):
            train(job, replace(SETTINGS, keep="last", best=1))
    raw = bytearray(paths[1].read_bytes())
    raw[200:260] = bytes(60)
    paths[1].write_bytes(raw)
    damaged = streamed((paths[1],), 100)
    with pytest.raises(InputError, match=r"1\.parquet is damaged"):
        read_rows(damaged, damaged.blocks[0])
