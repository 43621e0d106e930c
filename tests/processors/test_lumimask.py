import json
import logging
import pickle
import time
from itertools import pairwise
from uuid import UUID

import numpy as np
import pytest
import uproot
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import make_identity
from elsewhere.processors import lumimask
from elsewhere.processors.core import Unit
from elsewhere.processors.filters import apply_filters, filters_key
from elsewhere.processors.lumiblocks import file_lumis
from elsewhere.processors.lumimask import LumiMask, require_same_year
from elsewhere.processors.lumis import (
    count,
    difference,
    from_pairs,
    intersection,
    lumi_report,
    lumis_of,
    merge,
)

FILE = UUID("12345678-1234-5678-1234-567812345678")
UNIT = Unit("JetHT", "a.root", str(FILE), 0, 10)


def identity(pairs):
    run, lumi = np.array(pairs, dtype=np.uint32).reshape(-1, 2).T
    return make_identity(run, lumi, np.arange(len(run)), FILE)


def written_out(lumis):
    """The sections of a set, one by one."""
    return {(int(run), lumi) for run, ranges in lumis.items() for a, b in ranges for lumi in range(a, b + 1)}


def random_ranges(rng, runs=8, tidy=False):
    """Ranges in any order, overlapping, nested, touching; or sorted and apart."""
    out = {}
    for run in rng.choice(np.arange(273158, 273190), runs, replace=False).tolist():
        if tidy:
            edges = np.sort(rng.choice(np.arange(1, 60) * 2, 2 * rng.integers(1, 6), replace=False))
            out[str(run)] = edges.reshape(-1, 2).tolist()
        else:
            firsts = rng.integers(1, 100, rng.integers(1, 9))
            out[str(run)] = [[int(a), int(a + rng.integers(0, 30))] for a in firsts]
    return out


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("table", [1 << 24, 0])
def test_the_mask_agrees_with_brute_force(seed, table, monkeypatch):
    monkeypatch.setattr(lumimask, "TABLE", table)
    rng = np.random.default_rng(seed)
    raw = random_ranges(rng)
    run = rng.integers(273150, 273200, 5000).astype(np.uint32)
    lumi = rng.integers(0, 140, 5000).astype(np.uint32)
    run[:3], lumi[:3] = [0, 2**32 - 1, 273158], [0, 2**32 - 1, 2**32 - 1]
    if seed % 2:
        order = np.lexsort((lumi, run))
        run, lumi = run[order], lumi[order]
    good = written_out(raw)
    expected = [(r, s) in good for r, s in zip(run.tolist(), lumi.tolist(), strict=True)]
    mask = LumiMask.from_json(raw)
    assert mask.contains(run, lumi).tolist() == expected
    rows = identity(np.stack([run, lumi], axis=1))
    assert pickle.loads(pickle.dumps(mask)).keep(rows, UNIT).tolist() == expected
    assert written_out(mask.to_json()) == good


def test_a_range_to_the_end_of_time_is_no_table():
    mask = LumiMask.from_json({"1": [[5, 2**32 - 2]], "4294967295": [[1, 2]]})
    run = np.array([1, 1, 1, 4294967295, 4294967295, 2], np.uint32)
    lumi = np.array([4, 5, 2**32 - 2, 2, 3, 5], np.uint32)
    assert mask.contains(run, lumi).tolist() == [False, True, True, True, False, False]


def test_fifty_million_events_a_second():
    rng = np.random.default_rng(1)
    mask = LumiMask.from_json(random_ranges(rng, runs=30))
    n = 2_000_000
    rows = np.zeros(n, identity([(1, 1)]).dtype)
    rows["run"], rows["luminosityBlock"] = rng.integers(273158, 273190, n), rng.integers(1, 100, n)
    mask.keep(rows, UNIT)
    spent = []
    for _ in range(5):
        start = time.process_time()
        mask.keep(rows, UNIT)
        spent.append(time.process_time() - start)
    assert n / min(spent) > 50e6


@pytest.mark.parametrize(
    ("ranges", "united"),
    [
        ([[10, 20], [1, 5]], [[1, 5], [10, 20]]),
        ([[1, 50], [10, 20]], [[1, 50]]),
        ([[1, 10], [5, 20]], [[1, 20]]),
        ([[1, 10], [10, 20]], [[1, 20]]),
        ([[3, 4], [3, 4]], [[3, 4]]),
    ],
)
def test_untidy_ranges_are_united_and_said(ranges, united, tmp_path, caplog):
    path = tmp_path / "mask.json"
    path.write_text(json.dumps({"1": [[1, 2]], "273158": ranges}))
    with caplog.at_level(logging.WARNING):
        mask = LumiMask.read(path)
    assert mask.to_json() == {"1": [[1, 2]], "273158": united}
    assert "mask.json: ranges of 1 runs overlap or are out of order" in caplog.text
    assert "273158" in caplog.text


def test_a_tidy_mask_is_read_in_silence(tmp_path, caplog):
    path = tmp_path / "mask.json"
    path.write_text('{"273158": [[1, 10], [12, 1279]], "273302": [[1, 459]], "273301": [[1, 5], [6, 9]]}')
    mask = LumiMask.read(path, "certified")
    assert not caplog.records
    assert mask.name == "certified"
    assert mask.to_json() == {"273158": [[1, 10], [12, 1279]], "273301": [[1, 9]], "273302": [[1, 459]]}


BAD = {
    "{}": "names no run",
    "[]": "holds a list",
    '{"1": [[1, 2]], "1": [[1, 3]]}': "run 1 is there twice",
    '{"1": [["1", 2]]}': r"run 1: '1' in",
    '{"1": [[1.0, 2]]}': r"run 1: 1\.0 in \[1\.0, 2\] is not a whole number",
    '{"1": [[true, 2]]}': "run 1: True in",
    '{"1": [[NaN, 2]]}': "run 1: nan in",
    '{"1": [[null, 2]]}': "run 1: None in",
    '{"1": [[-1, 2]]}': r"run 1: -1 in \[-1, 2\] is not between 1",
    '{"1": [[0, 2]]}': r"run 1: 0 in \[0, 2\] is not between 1",
    '{"1": [[1, 4294967296]]}': "run 1: 4294967296 in",
    '{"1": [[7, 3]]}': r"run 1: range \[7, 3\] ends before it begins",
    '{"1": [[1, 2, 3]]}': r"run 1: \[1, 2, 3\] is not a range",
    '{"1": [[1]]}': r"run 1: \[1\] is not a range",
    '{"1": [1, 2]}': "run 1: 1 is not a range",
    '{"1": []}': r"run 1: \[\] is not a list of ranges",
    '{"1": {"1": 2}}': "run 1: .* is not a list of ranges",
    '{"0": [[1, 2]]}': "'0' is not a run number",
    '{"-5": [[1, 2]]}': "'-5' is not a run number",
    '{"1.5": [[1, 2]]}': r"'1\.5' is not a run number",
    '{"01": [[1, 2]]}': "'01' is not a run number",
    '{" 1": [[1, 2]]}': "' 1' is not a run number",
    '{"9999999999": [[1, 2]]}': "'9999999999' is not a run number",
    '{"\u0661": [[1, 2]]}': "is not a run number",
    '{"1": [[1, 2]]': "is not JSON",
    "[" * 100_000: "is not JSON",
    '{"1": [[1, ' + "9" * 5000 + "]]}": "is not JSON",
}


@pytest.mark.parametrize("text", BAD, ids=[t[:30] for t in BAD])
def test_what_is_not_a_mask_is_refused_by_file_run_and_value(text, tmp_path):
    path = tmp_path / "mask.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=BAD[text]) as error:
        LumiMask.read(path)
    assert str(error.value).count(str(path)) == 1


def test_unreadable_masks_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"absent\.json: the lumi mask cannot be read \(No such file"):
        LumiMask.read(tmp_path / "absent.json")
    path = tmp_path / "mask.json"
    path.write_bytes(b'{"1": [[1, 2]]}\xff')
    with pytest.raises(InputError, match=r"mask\.json is not JSON"):
        LumiMask.read(path)
    monkeypatch.setattr(lumimask, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="has 16 bytes, which is no lumi mask"):
        LumiMask.read(path)


@pytest.mark.parametrize("ranges", [(), ((1, 5, 9), (1, 1, 2)), ((1, 1, 5), (1, 5, 9)), ((1, 3, 2),)])
def test_ranges_given_by_hand_must_be_tidy(ranges):
    with pytest.raises(InputError, match="sorted and disjoint"):
        LumiMask(ranges)


def test_a_mask_of_another_year_is_an_error(caplog):
    mask = LumiMask.from_json({"273158": [[1, 10]], "284044": [[1, 10]]}, "Cert_2016.json")
    good, bad = {"273158": [[1, 3]]}, {"300000": [[1, 3]]}
    between = {"280000": [[1, 3]]}
    require_same_year(mask, {"a.root": [good, {}], "empty.root": [{}], "c.root": []})
    with pytest.raises(
        InputError, match=r"Cert_2016\.json has no run of 1 of 2 inputs, the first: b\.root \(run 300000\)"
    ):
        require_same_year(mask, {"a.root": [good], "b.root": [bad]})
    with pytest.raises(InputError, match=r"runs 280000-300000.*the mask's runs are 273158-284044"):
        require_same_year(mask, {"all": [between, bad]})
    assert not caplog.records
    require_same_year(mask, {"a.root": [good], "b.root": [between]})
    assert "has no certified run of b.root (run 280000)" in caplog.text
    with pytest.raises(InputError, match="no run of 2 of 2 inputs"):
        require_same_year(mask, {"a.root": [between], "b.root": [between]})


def test_events_without_runs_cannot_be_masked():
    mask = LumiMask.from_json({"1": [[1, 10]]})
    with pytest.raises(InputError, match=r"a\.root \(JetHT\) has no run and luminosityBlock"):
        mask.keep(identity([(1, 1)]), Unit("JetHT", "a.root", str(FILE), 0, 1, by_entry=True))


@pytest.mark.parametrize("seed", range(10))
def test_sets_agree_with_python_sets(seed):
    rng = np.random.default_rng(seed)
    a, b = random_ranges(rng), random_ranges(rng, tidy=True)
    one, two = written_out(a), written_out(b)
    for ours, expected in (
        (merge([a, b]), one | two), (intersection(a, b), one & two), (difference(a, b), one - two), (merge([a]), one),
    ):  # fmt: skip
        assert written_out(ours) == expected
        assert count(ours) == len(expected)
        for run, ranges in ours.items():
            assert run == str(int(run))
            assert all(p[1] + 1 < q[0] for p, q in pairwise(ranges)), "not compact"
        assert list(ours) == sorted(ours, key=int)
        assert json.loads(json.dumps(ours)) == ours
    assert merge([a, b]) == merge([b, a, {}])
    assert merge([]) == {}
    assert difference(a, a) == intersection(a, {}) == {}


def test_lumis_of_a_unit_are_compact_whatever_the_order():
    pairs = [(2, 7), (1, 3), (1, 1), (1, 2), (1, 2), (2, 9), (1, 3), (2, 8), (1, 5), (3, 0)]
    assert lumis_of(identity(pairs)) == {"1": [[1, 3], [5, 5]], "2": [[7, 9]], "3": [[0, 0]]}
    assert lumis_of(identity([])) == {}
    edge = from_pairs(np.array([1, 2], np.uint32), np.array([2**32 - 2, 0], np.uint32))
    assert edge == {"1": [[2**32 - 2, 2**32 - 2]], "2": [[0, 0]]}
    with pytest.raises(InputError, match="is not a luminosity section"):
        from_pairs(np.array([1], np.uint32), np.array([2**32 - 1], np.uint32))
    with pytest.raises(InputError, match=r"run 1: \[5, 3\] is not a range"):
        merge([{"1": [[5, 3]]}])


def test_the_report_counts_no_section_that_is_half_done(tmp_path):
    asked = {"1": [[1, 10]], "2": [[1, 4]]}
    mask = {"1": [[1, 8]], "3": [[1, 9]]}
    report = lumi_report(asked, [{"1": [[1, 3]]}, {"1": [[3, 5], [9, 9]]}], [{"1": [[5, 6]]}], mask)
    assert report.processed == {"1": [[1, 4]]}
    assert report.not_finished == {"1": [[5, 8]]}
    assert report.asked == asked
    report.write(tmp_path)
    assert json.loads((tmp_path / "processedLumis.json").read_text()) == report.processed
    assert json.loads((tmp_path / "notFinishedLumis.json").read_text()) == report.not_finished
    assert json.loads((tmp_path / "inputDatasetLumis.json").read_text()) == asked
    whole = lumi_report(asked, [asked])
    assert (whole.processed, whole.not_finished) == (asked, {})


def write_file(path, blocks):
    with uproot.recreate(path) as file:
        file["Events"] = {"run": np.array([1, 1], np.uint32), "luminosityBlock": np.array([1, 1], np.uint32)}
        if blocks is not None:
            file["LuminosityBlocks"] = {k: np.array(v, np.uint32) for k, v in blocks.items()}
    with uproot.open(path) as file:
        return str(path), str(file.file.uuid)


def test_sections_without_an_event_are_in_the_files_own_tree(tmp_path):
    path, uuid = write_file(tmp_path / "a.root", {"run": [1, 1, 2], "luminosityBlock": [2, 1, 5]})
    assert file_lumis(path, uuid) == {"1": [[1, 2]], "2": [[5, 5]]}
    assert file_lumis(*write_file(tmp_path / "b.root", None)) is None
    with pytest.raises(InputError, match=r"LuminosityBlocks has no branch luminosityBlock"):
        file_lumis(*write_file(tmp_path / "c.root", {"run": [1]}))
    with pytest.raises(InputError, match="was replaced since it was checked"):
        file_lumis(path, str(FILE))


class Odd:
    name = "odd"

    def keep(self, identity, unit):
        return np.ones(len(identity), np.int8)


def test_filters_give_one_bool_per_event_and_one_line_each():
    mask = LumiMask.from_json({"1": [[1, 2]]})
    rows = identity([(1, 1), (1, 3), (2, 1)])
    assert apply_filters([mask], rows, UNIT)["golden JSON"].tolist() == [True, False, False]
    with pytest.raises(FeatureError, match=r"filter 'odd' gave int8 of shape \(3,\) for 3 events of a\.root"):
        apply_filters([Odd()], rows, UNIT)
    with pytest.raises(ConfigError, match="two filters are named 'golden JSON'"):
        apply_filters([mask, mask], rows, UNIT)


def test_the_key_changes_with_what_is_let_through_and_not_with_the_place():
    one = LumiMask.from_json({"1": [[1, 2]]}, "here.json")
    same = LumiMask.from_json({"1": [[2, 2], [1, 1]]}, "there.json")
    other = LumiMask.from_json({"1": [[1, 3]]}, "here.json")
    assert filters_key([one]) == filters_key([same])
    assert len({filters_key(f) for f in ([], [one], [other], [one, other], [other, one])}) == 5
