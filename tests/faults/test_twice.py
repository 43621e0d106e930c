"""The same file, the same content or the same events given twice: refused by name, however they were disguised."""

import os
import shutil

import numpy as np
import pytest
import uproot
from elsewhere.errors import InputError
from elsewhere.events import identity_hash
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace

from .conftest import CODECS, EVENTS, SEARCH, columns, write


def _copy(a, folder):
    return shutil.copy(a, folder / "other_name.root")


def _link(a, folder):
    (folder / "link.root").symlink_to(a)
    return folder / "link.root"


def _hard(a, folder):
    (folder / "hard.root").hardlink_to(a)
    return folder / "hard.root"


def _folder(a, folder):
    (folder / "there").symlink_to(a.parent)
    return folder / "there" / a.name


def _around(a, folder):
    return a.parent / ".." / a.parent.name / a.name


def _relative(a, folder):
    return os.path.relpath(a, folder)


WAYS = [
    pytest.param(lambda a, folder: a, marks=pytest.mark.fault(19), id="listed twice"),
    pytest.param(_around, marks=pytest.mark.fault(19), id="another spelling"),
    pytest.param(_hard, marks=pytest.mark.fault(19), id="hard link"),
    pytest.param(_copy, marks=pytest.mark.fault(20), id="copy"),
    pytest.param(_link, marks=pytest.mark.fault(20), id="symbolic link"),
    pytest.param(_folder, marks=pytest.mark.fault(20), id="linked folder"),
    pytest.param(_relative, marks=pytest.mark.fault(20), id="relative and absolute"),
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_file_given_twice_is_refused_whatever_the_tolerance(small, way, strict):
    a = write(small.folder / "a.root")
    second = way(a, small.folder)
    code, said = small.write(a, second).call("process", *(["--strict"] if strict else []))
    assert code == 1, said
    assert "is the same file as" in said or "is a copy of" in said
    assert said.count("a.root") + said.count(os.path.basename(second)) >= 2
    assert small.chunks() == []


@pytest.mark.fault(19)
def test_a_file_in_two_datasets_is_refused_with_both_names(tmp_path):
    a = write(tmp_path / "a.root")
    with pytest.raises(InputError, match=r"a\.root \(two\) is the same file as .*a\.root \(one\)"):
        preflight({"one": [str(a)], "two": [str(a)]}, Dijet())


def same_events(folder, first=0, last=200):
    """Two files of different UUIDs that share the events with these entries of the first."""
    raw = columns(weights=False, seed=1)
    a = write(folder / "a.root", raw)
    other = columns(weights=False, seed=2)
    for name in other:
        head, tail = raw[name][first:last], other[name][: EVENTS - (last - first)]
        other[name] = np.concatenate([head, tail])
    return a, write(folder / "b.root", other)


@pytest.mark.fault(21)
@pytest.mark.parametrize("strict", [False, True])
def test_events_that_are_in_two_files_of_a_dataset_are_refused_by_number(small, strict):
    a, b = same_events(small.folder, 100, 350)
    code, said = small.write(a, b).call("process", *(["--strict"] if strict else []))
    assert code == 1, said
    assert "data repeats 250 events, for example 1:1:101" in said
    assert "a.root" in said
    assert "b.root" in said
    assert not (small.space / "counts.json").exists()


@pytest.mark.fault(21)
def test_one_shared_event_is_enough(tmp_path):
    from elsewhere.processors.overlap import find_overlap

    found = preflight({"data": [str(p) for p in same_events(tmp_path, 77, 78)]}, Dijet())
    with pytest.raises(InputError, match="repeats 1 events, for example 1:1:78"):
        find_overlap(found, ["data"], tmp_path / "overlap")


@pytest.mark.fault(20)
def test_the_same_content_written_again_has_another_uuid_and_the_same_events(tmp_path):
    from elsewhere.processors.overlap import find_overlap

    paths = [
        write(tmp_path / f"{codec}.root", columns(weights=False), codec=codec) for codec in ("zlib", "none")
    ]
    found = preflight({"data": [str(p) for p in paths]}, Dijet())
    assert len({r.uuid for r in found["data"]}) == 2
    assert len(CODECS) == 5
    with pytest.raises(InputError, match=f"repeats {EVENTS} events"):
        find_overlap(found, ["data"], tmp_path / "overlap")


@pytest.mark.fault(22)
def test_primary_datasets_that_share_events_keep_each_once_and_say_how_many(tmp_path):
    from elsewhere.processors.overlap import find_overlap

    a, b = same_events(tmp_path, 100, 350)
    found = preflight({"JetHT": [str(a)], "HTMHT": [str(b)]}, Dijet())
    report, drop = find_overlap(found, ["JetHT", "HTMHT"], tmp_path / "overlap")
    assert [(s.first, s.second, s.events) for s in report.shared] == [("JetHT", "HTMHT", 250)]
    assert report.dropped == {"JetHT": 0, "HTMHT": 250}
    filters = dict.fromkeys(found, (drop,))
    made = process(found, Dijet(), tmp_path / "out", chunk=200, scheduler="loop", filters=filters)
    tables = [Workspace(tmp_path / "out").read_table(name).events for name in ("JetHT", "HTMHT")]
    assert [len(t) for t in tables] == [EVENTS, EVENTS - 250]
    hashes = np.concatenate([identity_hash(t.identity) for t in tables])
    assert len(np.unique(hashes)) == len(hashes) == 2 * EVENTS - 250
    assert ["overlap removal", EVENTS - 250] in [list(step[:2]) for step in made.datasets["HTMHT"].cutflow]


@pytest.mark.fault(22)
def test_a_search_on_overlapping_datasets_never_counts_an_event_twice(small):
    """Without an order the search is refused, or the events are removed and the number is in counts.json."""
    a, b = same_events(small.folder, 100, 350)
    text = SEARCH.replace(
        "    data: {files: FILES, role: data}",
        f"    JetHT: {{files: [{a}], role: data}}\n    HTMHT: {{files: [{b}], role: data}}",
    )
    code, said = small.write(text=text).call("process")
    if code == 0:
        counts = small.counts()["datasets"]
        assert sum(d["kept"] for d in counts.values()) == 2 * EVENTS - 250
        assert "overlap" in str(small.counts())
    else:
        assert code in (1, 2)
        assert "JetHT and HTMHT share 250 events, for example 1:1:101" in said


@pytest.mark.fault(21)
def test_the_two_files_really_have_different_content(tmp_path):
    a, b = same_events(tmp_path)
    with uproot.open(a) as one, uproot.open(b) as two:
        assert one.file.uuid != two.file.uuid
        events = [f["Events"].arrays(["luminosityBlock", "event"], library="np") for f in (one, two)]
    both = [set(zip(e["luminosityBlock"].tolist(), e["event"].tolist(), strict=True)) for e in events]
    assert len(both[0] & both[1]) == 200
