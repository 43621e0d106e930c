"""Files that cannot be used: a search puts them aside by name and goes on with the rest, ``--strict`` stops at them."""

import os
import re
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process

from .conftest import EVENTS, checked, columns, write

BAD = [
    pytest.param(lambda p: p.write_bytes(b""), "is empty", marks=pytest.mark.fault(1), id="no byte"),
    pytest.param(lambda p: os.truncate(p, 200), "cut short", marks=pytest.mark.fault(2), id="200 bytes"),
    pytest.param(lambda p: os.truncate(p, p.stat().st_size // 2), "cut short", marks=pytest.mark.fault(3), id="half"),
    pytest.param(lambda p: os.truncate(p, p.stat().st_size - 500), "cut short", marks=pytest.mark.fault(4), id="tail"),
    pytest.param(lambda p: p.write_bytes(p.read_bytes() + b"junk"), "appended", marks=pytest.mark.fault(5), id="junk"),
    pytest.param(
        lambda p: p.write_text("<!DOCTYPE html><html>Single sign-on" + 500 * " " + "</html>"),
        "not a ROOT file.*web page.*login", marks=pytest.mark.fault(8), id="web page",
    ),
]  # fmt: skip


def spoiled(folder, spoil):
    """A file that was good before ``spoil``."""
    path = write(folder / "bad.root", columns(seed=3))
    spoil(path)
    return path


@pytest.mark.parametrize(("spoil", "why"), BAD)
def test_a_bad_file_is_put_aside_and_the_rest_is_right(small, good, spoil, why):
    bad = spoiled(small.folder, spoil)
    code, said = small.write(good.a, bad, good.b).call("process")
    assert code == 3, said
    counts = small.counts()
    (aside,) = counts["quarantine"]
    assert (aside["dataset"], aside["path"]) == ("data", str(bad))
    assert re.search(why, aside["reason"])
    assert aside["events"] != 0
    assert counts["complete"] is False
    assert (counts["datasets"]["data"]["read"], counts["datasets"]["data"]["kept"]) == (
        2 * EVENTS,
        2 * EVENTS,
    )
    assert len(small.chunks()) == 6
    assert "bad.root" in said


@pytest.mark.parametrize(("spoil", "why"), BAD)
def test_strict_stops_at_a_bad_file_before_any_event_is_read(small, good, spoil, why):
    bad = spoiled(small.folder, spoil)
    code, said = small.write(good.a, bad).call("process", "--strict")
    assert code == 1, said
    assert re.search(f"{re.escape(str(bad))} .*{why}", said.replace("\n", " "))
    assert small.chunks() == []


@pytest.mark.fault(3)
def test_a_file_cut_while_it_is_waiting_gives_no_partial_chunks(tmp_path, reads):
    """Cut after the preflight: the first ranges are still readable, and not one of them is used."""
    path, other = write(tmp_path / "a.root", columns(seed=1)), write(tmp_path / "b.root", columns(seed=2))
    found = checked(path, other)
    os.truncate(path, path.stat().st_size * 6 // 10)
    with pytest.raises(InputError, match=r"a\.root"):
        process(found, Dijet(), tmp_path / "strict", chunk=200, scheduler="loop")
    report = process(found, Dijet(), tmp_path / "out", chunk=200, scheduler="loop", strict=False).to_json()
    assert [(q["path"], q["events"]) for q in report["quarantine"]] == [(str(path), EVENTS)]
    assert report["datasets"]["data"]["kept"] == EVENTS
    assert {p.name[:36] for p in tmp_path.glob("out/columns/*/*")} == {found["data"][1].uuid}


@pytest.mark.fault(8)
@pytest.mark.parametrize("size", [60, 5000])
def test_a_web_page_in_place_of_a_checked_file_is_not_tried_again(tmp_path, reads, size):
    """A login that expired in the middle: one read tells, whatever the length of the page."""
    path = write(tmp_path / "a.root")
    found = checked(path)
    path.write_text("<html>please log in</html>".ljust(size))
    with pytest.raises(InputError, match=r"a\.root.*web page"):
        process(found, Dijet(), tmp_path / "out", scheduler="loop")
    assert len(reads) == 1


@pytest.mark.fault(9)
def test_all_missing_files_are_listed_at_once_and_nothing_runs(small, good):
    absent = [small.folder / f"absent{i}.root" for i in range(3)]
    code, said = small.write(absent[0], good.a, *absent[1:]).call("process", "--strict")
    assert code == 1
    assert all(f"{p} does not exist" in said for p in absent)
    assert small.chunks() == []


@pytest.mark.fault(9)
def test_missing_files_are_never_passed_over_in_silence(small, good):
    absent = [small.folder / f"absent{i}.root" for i in range(3)]
    code, said = small.write(good.a, *absent).call("process")
    assert code in (1, 3)
    assert all(p.name in said for p in absent)


def jets(raw, change):
    """The columns with one of FatJet's replaced."""
    return {**raw, **change}


def _as(kind):
    return lambda raw: jets(raw, {"FatJet_pt": ak.values_astype(raw["FatJet_pt"], kind)})


def _wide_run(raw):
    return {**raw, "run": raw["run"].astype(np.int64) + 2**32}


SCHEMA = [
    pytest.param({"tree": "CollectionTree"}, None, r"no tree Events.*CollectionTree", marks=pytest.mark.fault(10), id="tree"),
    pytest.param({"drop": ["FatJet_tau2"]}, None, "no branch FatJet_tau2", marks=pytest.mark.fault(11), id="branch"),
    pytest.param({"drop": ["event"]}, None, "no branch event", marks=pytest.mark.fault(11), id="identity"),
    pytest.param({}, _as(np.int32), r"branch FatJet_pt.*int32", marks=pytest.mark.fault(12), id="float to int"),
    pytest.param(
        {}, lambda raw: jets(raw, {"FatJet_pt": ak.to_numpy(raw["FatJet_pt"][:, 0])}), r"branch FatJet_pt .*list",
        marks=pytest.mark.fault(12), id="flat for jagged",
    ),
    pytest.param(
        {}, lambda raw: jets(raw, {"event": raw["event"].astype(np.float64)}), r"branch event.*double",
        marks=pytest.mark.fault(12), id="event as double",
    ),
    pytest.param(
        {}, lambda raw: jets(raw, {"luminosityBlock": ak.from_regular(raw["event"][:, None])}),
        r"branch luminosityBlock.*one number", marks=pytest.mark.fault(12), id="jagged for flat",
    ),
    pytest.param({}, _wide_run, r"\brun\b.*4294967297", marks=pytest.mark.fault(12), id="run beyond 32 bits"),
]  # fmt: skip


def _eight(folder: Path, how, change) -> list[Path]:
    """Eight small files of which the seventh is not like the others."""
    paths = []
    for i in range(8):
        raw = columns(40, seed=i + 1)
        odd = i == 6
        paths.append(
            write(folder / f"f{i}.root", change(raw) if odd and change else raw, **(how if odd else {}))
        )
    return paths


@pytest.mark.parametrize(("how", "change", "why"), SCHEMA)
def test_one_file_of_another_schema_is_named_before_it_is_used(small, how, change, why):
    paths = _eight(small.folder, how, change)
    code, said = small.write(*paths).call("process", "--strict")
    assert code == 1, said
    assert re.search(f"f6\\.root.*{why}", said.replace("\n", " ")), said
    # A value is known only once it is read: then nothing of its own file, and no result, may be there.
    assert not (small.space / "counts.json").exists()
    assert change is _wide_run or not list(small.space.glob("columns/*/*"))


@pytest.mark.parametrize(("how", "change", "why"), SCHEMA)
def test_files_of_the_right_schema_are_used_without_the_odd_one(small, how, change, why):
    paths = _eight(small.folder, how, change)
    code, said = small.write(*paths).call("process")
    assert code == 3, said
    counts = small.counts()
    assert [q["path"] for q in counts["quarantine"]] == [str(paths[6])]
    assert re.search(why, counts["quarantine"][0]["reason"])
    assert counts["datasets"]["data"]["kept"] == 7 * 40
