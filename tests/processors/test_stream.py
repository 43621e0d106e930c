"""The driver: every event once, the same result from every scheduler, damage and death repaired, nothing in silence."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import uproot
from elsewhere.errors import FeatureError, IncompleteError, InputError
from elsewhere.events import identity_hash
from elsewhere.processors.core import Recipe, Unit, finish_unit
from elsewhere.processors.daskawkward import process_dask_awkward
from elsewhere.processors.driver import Job, do_unit, unit_path
from elsewhere.processors.features import Dijet, load_features
from elsewhere.processors.places import RemoteSettings
from elsewhere.processors.preflight import preflight
from elsewhere.processors.reading import read_columns
from elsewhere.processors.report import check_tiling, close_ledger
from elsewhere.processors.stream import process, split
from elsewhere.processors.verify import verify
from elsewhere.samples.nano import write_nano
from elsewhere.workspace import Workspace, file_digest

from .conftest import dijet_columns


class Mass:
    """A score that any process can import or is sent by value."""

    def score(self, events):
        return events.mass / 1000.0


SETTINGS = {"chunk": 800, "scorers": {"mass": Mass()}, "thresholds": {"mass": [3.0]}, "key": "k"}


def digests(out: Path) -> dict[str, str]:
    """What a run made, by name; the histogram file as numbers, because ROOT files hold times."""
    made = {str(p.relative_to(out)): file_digest(p) for p in sorted(out.glob("columns/*/*"))}
    with uproot.open(out / "histograms.root") as file:
        for name, kind in file.classnames(cycle=False).items():
            if kind == "TH1D":
                made[name] = str(
                    [file[name].values(flow=True).tolist(), file[name].variances(flow=True).tolist()]
                )
    return made


@pytest.fixture(scope="module")
def loop(records, tmp_path_factory):
    """The reference: a plain loop over the units."""
    out = tmp_path_factory.mktemp("loop")
    return out, process(records, Dijet(), out, scheduler="loop", **SETTINGS)


def test_every_event_is_read_once_and_counted(loop, records):
    out, report = loop
    counts = report.datasets["qcd"]
    assert (counts.files, counts.entries, counts.read, counts.units) == (2, 4000, 4000, 7)
    assert [s[0] for s in counts.cutflow] == ["all", "two jets", "pT > 1200 GeV", "|eta| < 2.5"]
    assert counts.cutflow[-1][1] == counts.kept
    table = Workspace(out).read_table("qcd")
    assert len(table) == counts.kept
    assert len(np.unique(identity_hash(table.events.identity))) == counts.kept
    total = sum(uproot.open(r.path)["Events"]["genWeight"].array(library="np").sum() for r in records["qcd"])
    assert counts.sum_weights == pytest.approx(total, rel=1e-6)


def test_the_histogram_is_that_of_the_columns(loop):
    out, report = loop
    events = Workspace(out).read_table("qcd").events
    h = report.histogram
    for cut, keep in (("all", events.mass > 0), ("mass>3", events.mass > 3000)):
        view = h[{"dataset": "qcd", "variation": "nominal", "cut": cut}].view(flow=True)
        assert view.value.sum() == pytest.approx(events.weight[keep].sum())
        assert view.variance.sum() == pytest.approx((events.weight[keep] ** 2).sum())


@pytest.mark.parametrize("how", ["processes", "local", "dask-awkward"])
def test_every_scheduler_gives_the_same_bits(loop, records, tmp_path, how):
    run = process_dask_awkward if how == "dask-awkward" else process
    scheduler = "processes" if how == "processes" else "loop" if how == "dask-awkward" else "local"
    run(records, Dijet(), tmp_path, scheduler=scheduler, workers=2, **SETTINGS)
    assert digests(tmp_path) == digests(loop[0])


def test_a_users_feature_set_reaches_other_processes(folder, tmp_path):
    (tmp_path / "hardest.py").write_text(
        "import awkward as ak\n"
        "from elsewhere.events import Column, FeatureSet\n"
        "from elsewhere.processors.features import FunctionFeatures\n"
        "def hardest(c):\n"
        "    pt = ak.fill_none(ak.max(c['FatJet_pt'], axis=1), -1.0)\n"
        "    return {'pt': pt, 'keep': pt > 0}\n"
        "FEATURES = FunctionFeatures(FeatureSet('h', (Column('pt', 'GeV', 'hardest'),)), ('FatJet_pt',), hardest)\n"
    )
    features = load_features("hardest:FEATURES", tmp_path)
    found = preflight({"d": [str(folder / "a.root")]}, features)
    for scheduler in ("loop", "processes"):
        process(found, features, tmp_path / scheduler, scheduler=scheduler, chunk=1500)
    one, two = (Workspace(tmp_path / s).read_table("d").events.x for s in ("loop", "processes"))
    assert len(one) > 1000
    np.testing.assert_array_equal(one, two)


def test_a_second_run_reuses_and_a_changed_key_does_not(records, tmp_path):
    first = process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)
    again = process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)
    other = process(records, Dijet(), tmp_path, scheduler="loop", **{**SETTINGS, "key": "other"})
    assert (first.reused, again.reused, other.reused) == (0, 7, 0)


def test_damaged_and_lost_chunks_are_made_again(loop, records, tmp_path):
    process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)
    chunks = sorted(tmp_path.glob("columns/*/*.parquet"))
    chunks[0].write_bytes(chunks[0].read_bytes()[:200])
    chunks[1].unlink()
    (chunks[2].parent / f"{chunks[2].name}.tmp.1").write_text("half")
    report = process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)
    assert report.reused == 5
    assert digests(tmp_path) == digests(loop[0])


def test_another_chunk_size_gives_the_same_events_in_order(loop, records, tmp_path):
    process(records, Dijet(), tmp_path, scheduler="loop", **{**SETTINGS, "chunk": 10_000})
    one, two = (Workspace(p).read_table("qcd").events for p in (loop[0], tmp_path))
    a, b = (np.argsort(identity_hash(e.identity)) for e in (one, two))
    np.testing.assert_array_equal(one.x[a], two.x[b])


def test_a_strangers_file_in_the_workspace_stops_the_run(records, tmp_path):
    (tmp_path / "columns" / "qcd").mkdir(parents=True)
    (tmp_path / "columns" / "qcd" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="was not written by elsewhere"):
        process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)


def test_a_scorer_that_gives_nan_is_named(records, tmp_path):
    class Broken:
        def score(self, events):
            return np.where(np.arange(len(events)) == 3, np.nan, 0.0)

    class Wide:
        def score(self, events):
            return np.zeros((len(events), 2))

    for scorer, message in ((Broken(), "scorer odd gave 1 scores that are not finite"), (Wide(), "scorer odd gave shape")):  # fmt: skip
        with pytest.raises(FeatureError, match=message):
            process(records, Dijet(), tmp_path, scheduler="loop", scorers={"odd": scorer})
    assert not list(tmp_path.glob("columns/*/*"))


def test_a_value_that_is_not_finite_is_named(tmp_path):
    raw = dijet_columns(200, 4)
    columns = {f"FatJet_{f}": raw["FatJet"][f] for f in raw["FatJet"].fields} | {
        k: raw[k] for k in ("run", "luminosityBlock", "event", "genWeight")
    }
    columns["FatJet_tau2"] = columns["FatJet_tau2"] * np.nan
    unit = Unit("d", "file.root", "00000000-0000-0000-0000-000000000001", 0, 200)
    with pytest.raises(InputError, match=r"file\.root: column tau21_1 is not finite"):
        finish_unit(columns, Recipe(Dijet()), unit)


def test_a_replaced_file_is_noticed(tmp_path):
    write_nano(tmp_path / "a.root", dijet_columns(100, 1))
    found = preflight({"d": [str(tmp_path / "a.root")]}, Dijet())
    write_nano(tmp_path / "a.root", dijet_columns(100, 2))
    with pytest.raises(InputError, match="was replaced since it was checked"):
        process(found, Dijet(), tmp_path / "out", scheduler="loop")


def test_damaged_baskets_are_an_error_that_names_the_range(folder, tmp_path):
    raw = bytearray((folder / "a.root").read_bytes())
    with uproot.open(folder / "a.root") as file:
        branch = file["Events"]["FatJet_tau1"]
        at = int(branch.member("fBasketSeek")[1]) + 120
    raw[at : at + 60] = bytes(60)
    (tmp_path / "bad.root").write_bytes(raw)
    found = preflight({"d": [str(tmp_path / "bad.root")]}, Dijet())
    with pytest.raises(InputError, match=r"bad\.root, entries 700-1400: damaged"):
        process(found, Dijet(), tmp_path / "out", scheduler="loop", chunk=700)


def test_a_passing_failure_is_tried_again_and_a_lasting_one_named(records, tmp_path, monkeypatch):
    from elsewhere.processors import reading

    real, calls = reading.Tree.arrays, []

    def flaky(tree, *args):
        calls.append(args)
        if len(calls) < 3:
            raise ConnectionResetError("connection reset")
        return real(tree, *args)

    def gone(*_):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(reading.Tree, "arrays", flaky)
    patience = RemoteSettings(pause=0.0)
    unit, job = split(records, 800, {})[0], Job(Recipe(Dijet(), remote=patience), str(tmp_path), "columns")
    outcome = do_unit(unit, job)
    assert (len(calls), outcome.tries, outcome.error) == (3, 3, None)
    assert unit_path(tmp_path, "columns", unit).exists()
    monkeypatch.setattr(reading.Tree, "arrays", gone)
    assert "entries 0-700: not readable after 4 tries" in do_unit(unit, job).error


def row(start, stop, n_in=None):
    return {"uuid": "u", "path": "f.root", "start": start, "stop": stop, "n_in": stop - start if n_in is None else n_in}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0, 5)], "entries 5-10 are missing"),
        ([row(0, 5), row(6, 10)], "entries 5-6 are missing"),
        ([row(0, 5), row(4, 10)], "entries 4-5 are counted twice"),
        ([row(0, 5), row(5, 10, 4)], "counted 4 events"),
    ],
)
def test_a_ledger_that_does_not_tile_is_refused(rows, message):
    with pytest.raises(IncompleteError, match=message):
        check_tiling(rows, {"u": 10})


def test_a_file_without_a_row_is_refused(records):
    with pytest.raises(IncompleteError, match="no entry was counted"):
        close_ledger([], split(records, 800, {}), {})


def test_verify_finds_what_is_wrong(loop, records, tmp_path):
    assert verify(loop[0], records, 800).good
    process(records, Dijet(), tmp_path, scheduler="loop", **SETTINGS)
    chunks = sorted(tmp_path.glob("columns/*/*.parquet"))
    chunks[0].unlink()
    found = verify(tmp_path, records, 800)
    assert not found.good
    assert any("are missing" in p or "no entry" in p for p in found.problems)


def test_verify_compares_with_the_input_files(tmp_path):
    write_nano(tmp_path / "a.root", dijet_columns(100, 1))
    found = preflight({"d": [str(tmp_path / "a.root")]}, Dijet())
    process(found, Dijet(), tmp_path, scheduler="loop")
    other = dijet_columns(100, 1)
    other["event"] = other["event"] + np.uint64(1000)
    write_nano(tmp_path / "a.root", other)
    changed = preflight({"d": [str(tmp_path / "a.root")]}, Dijet())
    chunk = next(tmp_path.glob("columns/d/*.parquet"))
    uuid = changed["d"][0].uuid
    chunk.rename(chunk.with_name(re.sub(r"^[0-9a-f-]{36}", uuid, chunk.name)))
    assert any("its events are not those of" in p for p in verify(tmp_path, changed, 250_000).problems)


def test_retried_reading_gives_the_same_columns(records):
    unit = split(records, 800, {})[1]
    first, second = (read_columns(unit, Recipe(Dijet()))[0] for _ in range(2))
    assert first["FatJet_pt"].to_list() == second["FatJet_pt"].to_list()


RUN = """
import sys
from pathlib import Path
from elsewhere.processors.features import Dijet
from elsewhere.processors.places import RemoteSettings
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
out, *files = sys.argv[1:]
if __name__ == "__main__":
    process(preflight({"qcd": files}, Dijet()), Dijet(), Path(out), chunk=100, scheduler="loop", key="k",
            progress=lambda d, t: print(d, flush=True))
"""


def test_a_killed_process_goes_on_where_it_was(records, tmp_path):
    files = [r.path for r in records["qcd"]]
    command = [sys.executable, "-c", RUN, str(tmp_path / "killed"), *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            if int(line) >= 1000:
                break
        os.kill(running.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "histograms.root").exists()
    again = process(records, Dijet(), tmp_path / "killed", chunk=100, scheduler="loop", key="k")
    assert 0 < again.reused < again.units
    process(records, Dijet(), tmp_path / "whole", chunk=100, scheduler="loop", key="k")
    assert digests(tmp_path / "killed") == digests(tmp_path / "whole")


class KillOnce:
    """Kills its own worker the first time it is asked, like a job that ran out of memory."""

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def score(self, events):
        if not os.path.exists(self.flag):
            Path(self.flag).touch()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        return events.mass / 1000.0


def test_a_killed_dask_worker_changes_nothing(loop, records, tmp_path):
    scorer = KillOnce(str(tmp_path / "killed"))
    process(records, Dijet(), tmp_path / "out", scheduler="local", workers=2, **{**SETTINGS, "scorers": {"mass": scorer}})  # fmt: skip
    assert (tmp_path / "killed").exists()
    assert digests(tmp_path / "out") == digests(loop[0])


def test_what_a_killed_worker_was_writing_is_removed_at_the_end(records, tmp_path):
    half = unit_path(tmp_path, "columns", split(records, 800, {})[0])
    half = half.with_name(f"{half.name}.tmp.1.abcd")
    process(
        records, Dijet(), tmp_path, scheduler="loop", progress=lambda *_: half.write_text("half"), **SETTINGS
    )
    assert not list(tmp_path.glob("columns/*/*.tmp.*"))


@pytest.mark.parametrize("loss", ["workers", "scheduler", "one range"])
def test_dask_awkward_on_a_cluster_that_is_lost_says_what_to_do(records, tmp_path, loss):
    """Dask's own words are of keys and states."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.scheduler import NoWorkerError

    said = {
        "workers": NoWorkerError("key", 60.0),
        "scheduler": CancelledError("key"),
        "one range": KilledWorker("key", None, 3),
    }

    class Lost:
        scheduler = SimpleNamespace(address="tcp://nowhere:8786")

        def compute(self, lazy):
            return lazy

        def gather(self, futures):
            assert futures
            raise said[loss]

    wanted = {
        "workers": "nowhere:8786 has no worker left; run the same command again",
        "scheduler": "scheduler at tcp://nowhere:8786 was lost",
        "one range": "killed its workers .* mode: stream says which",
    }
    with pytest.raises(IncompleteError, match=wanted[loss]):
        process_dask_awkward(records, Dijet(), tmp_path, client=Lost(), **SETTINGS)
    assert not list(tmp_path.rglob("*.parquet"))
