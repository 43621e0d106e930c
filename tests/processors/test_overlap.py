import logging
import pickle
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import uproot
from elsewhere.errors import ConfigError, IncompleteError, InputError
from elsewhere.events import make_identity
from elsewhere.processors import overlapfilter, overlapindex
from elsewhere.processors.core import Unit
from elsewhere.processors.overlap import find_overlap
from elsewhere.processors.overlapfilter import drop_path
from elsewhere.processors.overlapindex import index_file, index_path
from elsewhere.processors.places import RemoteSettings
from elsewhere.processors.preflight import preflight
from elsewhere.processors.reading import open_tree

FEATURES = SimpleNamespace(branches=(), optional=(), features=None)


def write(path, events, weights=False):
    """A data file with the given (run, luminosityBlock, event)."""
    run, lumi, event = np.array(events, dtype=np.uint64).reshape(-1, 3).T
    columns = {"run": run.astype(np.uint32), "luminosityBlock": lumi.astype(np.uint32), "event": event}
    if weights:
        columns["genWeight"] = np.ones(len(events), np.float32)
    with uproot.recreate(path) as file:
        file.mktree("Events", {k: v.dtype for k, v in columns.items()})
        for start in range(0, len(events), 100):
            file["Events"].extend({k: v[start : start + 100] for k, v in columns.items()})
    return path


def checked(files):
    return preflight({d: [str(p) for p in paths] for d, paths in files.items()}, FEATURES)


def overlapping(seed, sizes=(700, 1300, 900), universe=3000):
    """Events of some files drawn from one pool: none twice in a file, many in several files."""
    rng = np.random.default_rng(seed)
    pool = np.stack(
        [rng.integers(1, 4, universe), rng.integers(1, 30, universe), np.arange(universe) // 2 + 2**40],
        axis=1,
    )
    pool = np.unique(pool, axis=0)
    return [pool[rng.choice(len(pool), n, replace=False)] for n in sizes]


def survivors(records, keep):
    """(run, luminosityBlock, event) of the events a filter keeps, by dataset, in units of 250 entries."""
    out = {}
    for dataset, files in records.items():
        out[dataset] = []
        for r in files:
            for start in range(0, r.entries, 250):
                unit = Unit(dataset, r.path, r.uuid, start, min(start + 250, r.entries))
                lumi, event = overlapindex._identities(open_tree(r.path, r.uuid), r)
                part = slice(unit.start, unit.stop)
                run, section = lumi[part] >> np.uint64(32), lumi[part] & np.uint64(0xFFFFFFFF)
                rows = make_identity(run, section, event[part], UUID(r.uuid))
                out[dataset] += [tuple(x)[:3] for x in rows[keep.keep(rows, unit)].tolist()]
    return out


@pytest.fixture(scope="module")
def pds(tmp_path_factory):
    """Three primary datasets, the second of two files; each event at most once per dataset."""
    folder = tmp_path_factory.mktemp("pds")
    a, b, c = overlapping(1)
    paths = {"JetHT": [a], "HTMHT": [b[:600], b[600:]], "MET": [c]}
    files = {
        d: [write(folder / f"{d}{i}.root", rows) for i, rows in enumerate(parts)]
        for d, parts in paths.items()
    }
    return checked(files), {d: [tuple(e) for p in parts for e in p.tolist()] for d, parts in paths.items()}


@pytest.mark.parametrize("rows", [10**9, 400, 60])
@pytest.mark.parametrize("order", [("JetHT", "HTMHT", "MET"), ("MET", "JetHT", "HTMHT")])
def test_every_event_survives_once_in_its_first_dataset(pds, tmp_path, rows, order):
    records, events = pds
    report, keep = find_overlap(records, order, tmp_path, rows=rows)
    left = survivors(records, keep)
    seen = set()
    for d in order:
        assert left[d] == [e for e in sum_in_file_order(records, events, d) if e not in seen]
        seen |= set(events[d])
        assert report.dropped[d] == len(events[d]) - len(left[d])
    sets = {d: set(events[d]) for d in order}
    assert {(s.first, s.second): s.events for s in report.shared} == {
        (a, b): len(sets[a] & sets[b]) for i, a in enumerate(order) for b in order[i + 1 :]
    }
    for s in report.shared:
        assert [e[:3] for e in s.examples] == sorted(sets[s.first] & sets[s.second])[:5]
        assert s.examples[0][3] in [r.path for r in records[s.first]]
        assert s.examples[0][4] in [r.path for r in records[s.second]]
    assert not report.repeated
    assert report.collisions == 0
    assert not list((tmp_path / "parts").iterdir())


def sum_in_file_order(records, events, dataset):
    """Events of a dataset in the order of its records (the files are given in the order they were written)."""
    assert [r.path for r in records[dataset]] == sorted(r.path for r in records[dataset])
    return events[dataset]


def test_neither_file_order_nor_workers_nor_parts_change_a_byte(pds, tmp_path):
    records, _ = pds
    order = ("JetHT", "HTMHT", "MET")

    def lists(name, files, **more):
        report, keep = find_overlap(files, order, tmp_path / name, **more)
        drops = {p.name: p.read_bytes() for p in (tmp_path / name / "drop").iterdir()}
        return report, drops, keep.sha256

    first = lists("one", records)
    assert first[1]
    backwards = {d: records[d][::-1] for d in reversed(order)}
    assert lists("two", backwards, rows=333) == first
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert lists("three", records, rows=500, run=pool.map) == first
    shuffled = list(records)
    random.Random(1).shuffle(shuffled)
    assert lists("four", {d: records[d] for d in shuffled}, rows=77) == first


@pytest.fixture
def weak(monkeypatch):
    """A hash with 64 values: nearly every event collides with others."""

    def hashes(lumi, event):
        return (event % np.uint64(64)) << np.uint64(58)

    for module in ("overlapindex", "overlapmerge"):
        monkeypatch.setattr(f"elsewhere.processors.{module}.hashes", hashes)


@pytest.mark.parametrize("rows", [10**9, 400])
def test_a_collision_of_hashes_drops_no_event(pds, tmp_path, weak, rows):
    records, events = pds
    order = ("JetHT", "HTMHT", "MET")
    report, keep = find_overlap(records, order, tmp_path, rows=rows)
    left = survivors(records, keep)
    assert set(left["HTMHT"]) == set(events["HTMHT"]) - set(events["JetHT"])
    assert sum(len(v) for v in left.values()) == len({e for v in events.values() for e in v})
    assert report.collisions > 100


def test_only_whole_identities_count(tmp_path):
    """The same event number in another section or run is another event."""
    a = write(tmp_path / "a.root", [(1, 1, 5), (1, 2, 7), (2**32 - 1, 9, 2**64 - 1)])
    b = write(tmp_path / "b.root", [(1, 2, 5), (2, 1, 5), (2**32 - 1, 9, 2**64 - 1)])
    records = checked({"A": [a], "B": [b]})
    report, keep = find_overlap(records, ["A", "B"], tmp_path / "o")
    assert survivors(records, keep)["B"] == [(1, 2, 5), (2, 1, 5)]
    assert [s.examples[0][:3] for s in report.shared] == [(2**32 - 1, 9, 2**64 - 1)]


def test_repeated_events_inside_a_dataset_are_refused_or_dropped(tmp_path):
    rows = [(1, 1, i) for i in range(50)]
    one = write(tmp_path / "one.root", rows)
    two = write(tmp_path / "two.root", [*rows[40:], (1, 1, 99), (1, 1, 99)])
    other = write(tmp_path / "other.root", [rows[45], (1, 1, 1000)])
    records = checked({"A": [one, two], "B": [other]})
    with pytest.raises(
        InputError, match=r"A repeats 11 events, for example 1:1:40 in .*\.root and .*\.root"
    ) as error:
        find_overlap(records, ["A", "B"], tmp_path / "o")
    assert str(one) in str(error.value)
    assert str(two) in str(error.value)
    assert not (tmp_path / "o" / "overlap.json").exists()
    report, keep = find_overlap(records, ["A", "B"], tmp_path / "o", drop_repeated=True)
    left = survivors(records, keep)
    assert sorted(left["A"]) == sorted({*rows, (1, 1, 99)})
    assert left["B"] == [(1, 1, 1000)]
    assert [(s.first, s.second, s.events) for s in report.repeated] == [("A", "A", 11)]
    assert [(s.first, s.second, s.events) for s in report.shared] == [("A", "B", 1)]
    assert report.dropped == {"A": 11, "B": 1}


def test_simulation_is_left_out_unless_asked(tmp_path):
    rows = [(1, 1, i) for i in range(20)]
    data = write(tmp_path / "data.root", rows)
    mc = [write(tmp_path / f"mc{i}.root", rows, weights=True) for i in range(2)]
    records = checked({"data": [data], "mc": mc})
    report, keep = find_overlap(records, ["mc", "data"], tmp_path / "o")
    assert report.order == ("data",)
    assert "genWeight" in report.left_out["mc"]
    assert survivors(records, keep) == {"data": rows, "mc": rows + rows}
    with pytest.raises(InputError, match="mc repeats 20 events"):
        find_overlap(records, ["mc", "data"], tmp_path / "p", simulation=True)
    mixed = checked({"both": [data, mc[0]]})
    with pytest.raises(InputError, match=r"'both' mixes data and simulation: .*mc0\.root has genWeight"):
        find_overlap(mixed, ["both"], tmp_path / "q")


def test_files_without_events_and_without_partners(tmp_path):
    empty, full = write(tmp_path / "empty.root", []), write(tmp_path / "full.root", [(1, 1, 1)])
    records = checked({"A": [empty], "B": [full]})
    report, keep = find_overlap(records, ["A", "B"], tmp_path / "o", rows=1)
    assert (report.files, report.events, report.shared) == (2, 1, ())
    assert survivors(records, keep) == {"A": [], "B": [(1, 1, 1)]}


def test_indexes_are_used_again_and_damaged_ones_are_seen(pds, tmp_path, monkeypatch):
    records, _ = pds
    order = ("JetHT", "HTMHT", "MET")
    first = find_overlap(records, order, tmp_path)
    reads = []
    real = overlapindex._identities
    monkeypatch.setattr(overlapindex, "_identities", lambda t, r: (reads.append(r.uuid), real(t, r))[1])
    assert find_overlap(records, order, tmp_path, rows=500) == first
    assert reads == []
    uuid = records["MET"][0].uuid
    path = index_path(tmp_path, uuid)
    whole = path.read_bytes()
    for cut in (0, 60, len(whole) // 2, len(whole) - 8):
        path.write_bytes(whole[:cut])
        assert find_overlap(records, order, tmp_path) == first
        assert reads.pop() == uuid
        assert path.read_bytes() == whole
    np.save(path, np.zeros((4, 3), dtype=np.uint64))
    assert find_overlap(records, order, tmp_path) == first
    assert path.read_bytes() == whole
    swapped = np.load(path)
    swapped[0] = swapped[0][::-1]
    with path.open("wb") as handle:
        np.save(handle, swapped)
    with pytest.raises(InputError, match=rf"{uuid}\.npy is damaged: its hashes are not sorted; delete it"):
        find_overlap(records, order, tmp_path)
    swapped = np.load(path)
    swapped[0] = swapped[0][::-1]
    swapped[2] += np.uint64(1)
    with path.open("wb") as handle:
        np.save(handle, swapped)
    with pytest.raises(InputError, match=rf"{uuid}\.npy is damaged: its events do not have its hashes"):
        find_overlap(records, order, tmp_path)


def test_parts_hold_about_the_same_number_of_events(pds, tmp_path):
    record = pds[0]["MET"][0]
    found = index_file((record, str(tmp_path), 4, False, RemoteSettings()))
    sizes = np.diff(found.bounds)
    assert sizes.sum() == record.entries == 900
    assert np.all(np.abs(sizes - 225) < 75)


def test_a_worker_that_dies_leaves_nothing_half(pds, tmp_path, monkeypatch):
    records, _ = pds

    def stop(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("numpy.lib.format.write_array_header_1_0", stop)
        with pytest.raises(OSError, match="No space left"):
            find_overlap(records, ("JetHT", "HTMHT", "MET"), tmp_path)
    assert list((tmp_path / "index").iterdir()) == []


def test_the_filter_trusts_only_its_own_files(pds, tmp_path):
    records, _ = pds
    _, keep = find_overlap(records, ("JetHT", "HTMHT", "MET"), tmp_path)
    again = pickle.loads(pickle.dumps(keep))
    assert again == keep
    record = records["MET"][0]
    unit = Unit("MET", record.path, record.uuid, 0, record.entries)
    identity = make_identity(*np.zeros((3, record.entries), np.uint64), UUID(record.uuid))
    assert 0 < again.keep(identity, unit).sum() < record.entries
    with pytest.raises(IncompleteError, match="came as 10 events"):
        keep.keep(identity[:10], unit)
    stranger = Unit("MET", "new.root", "00000000-0000-0000-0000-000000000000", 0, 3)
    with pytest.raises(InputError, match=r"new\.root \(MET\) is not in .*overlap\.json"):
        keep.keep(identity[:3], stranger)
    overlapfilter._list.cache_clear()
    overlapfilter._manifest.cache_clear()
    path = drop_path(tmp_path, record.uuid)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"sha256 differs"):
        keep.keep(identity, unit)
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read .* run the overlap pass again"):
        keep.keep(identity, unit)
    (tmp_path / "overlap.json").write_text("{}")
    overlapfilter._manifest.cache_clear()
    with pytest.raises(InputError, match=r"overlap\.json is not as it was written"):
        keep.keep(identity, unit)


@pytest.mark.parametrize("order", [["A"], ["A", "B", "C"], ["A", "A", "B"], ["A", "a"]])
def test_the_order_names_every_dataset_once(tmp_path, order):
    path = [write(tmp_path / f"{n}.root", [(1, 1, 1)]) for n in "ab"]
    records = checked({"A": [path[0]], "B": [path[1]]})
    with pytest.raises(ConfigError, match="must name each dataset"):
        find_overlap(records, order, tmp_path)


def test_what_cannot_be_compared_is_refused(tmp_path):
    path = write(tmp_path / "a.root", [(1, 1, 1)])
    record = checked({"A": [path]})["A"][0]
    with pytest.raises(InputError, match="is a copy of"):
        find_overlap({"A": [record], "B": [record]}, ["A", "B"], tmp_path)
    by_entry = preflight({"A": [str(path)]}, FEATURES, ["A"])
    with pytest.raises(ConfigError, match="'A' has 'identity: entry'"):
        find_overlap(by_entry, ["A"], tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "a.root", [(1, 1, i) for i in range(500)])
    records = checked({"A": [path]})
    with uproot.open(path) as file:
        basket = file["Events"]["event"].member("fBasketSeek")[0]
    raw = bytearray(path.read_bytes())
    raw[basket + 100 : basket + 140] = bytes(40)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.root: "):
        find_overlap(records, ["A"], tmp_path / "o")
    assert not (tmp_path / "o" / "overlap.json").exists()


def test_a_file_with_other_entries_than_checked_is_refused(tmp_path):
    record = checked({"A": [write(tmp_path / "a.root", [(1, 1, 1)])]})["A"][0]
    with pytest.raises(InputError, match=r"a\.root has 1 entries, it had 2 when checked"):
        find_overlap({"A": [replace(record, entries=2)]}, ["A"], tmp_path)


def test_a_passing_error_is_tried_again(pds, tmp_path, monkeypatch):
    records, _ = pds
    real, left = overlapindex._identities, [OSError("reset")] * 2

    def flaky(tree, record):
        if left:
            raise left.pop()
        return real(tree, record)

    monkeypatch.setattr(overlapindex, "_identities", flaky)
    order, patience = ("JetHT", "HTMHT", "MET"), RemoteSettings(tries=3, pause=0.0)
    report, _ = find_overlap(records, order, tmp_path, remote=patience)
    assert report.shared
    left[:] = [OSError("reset")] * 9
    with pytest.raises(InputError, match=r"JetHT0\.root: .*reset"):
        find_overlap(records, order, tmp_path / "other", remote=patience)


def test_what_is_shared_is_said_in_the_log(pds, tmp_path, caplog):
    records, _ = pds
    with caplog.at_level(logging.INFO, "elsewhere.processors.overlap"):
        report, _ = find_overlap(records, ("JetHT", "HTMHT", "MET"), tmp_path)
    assert f"JetHT and HTMHT share {report.shared[0].events} events, for example " in caplog.text
    assert report.to_json()["shared"][0]["events"] == report.shared[0].events
