"""Lists of certified luminosity sections that are untidy, wrong, or of another year."""

import json

import numpy as np
import pytest
from elsewhere.errors import ElsewhereError, InputError

from .conftest import EVENTS, SEARCH, columns, write

lumimask = pytest.importorskip("elsewhere.processors.lumimask", reason="the lumi mask is not there yet")


def brute(ranges, run, lumi):
    """Membership section by section."""
    good = {(int(r), s) for r, pairs in ranges.items() for a, b in pairs for s in range(a, b + 1)}
    return np.array([(int(r), int(s)) in good for r, s in zip(run, lumi, strict=True)])


UNTIDY = {
    "tidy": {"1": [[1, 5], [10, 20]], "3": [[7, 7]]},
    "unsorted": {"3": [[30, 40], [1, 5], [10, 20]], "1": [[4, 9]]},
    "nested": {"1": [[1, 50], [10, 20], [45, 60]]},
    "touching": {"1": [[1, 5], [6, 9], [9, 9]]},
    "far apart": {"1": [[1, 1]], "4000000000": [[1, 4000000000]]},
}


@pytest.mark.fault(23)
@pytest.mark.parametrize("name", UNTIDY)
def test_an_untidy_mask_is_what_a_loop_over_its_sections_says(tmp_path, name):
    raw = UNTIDY[name]
    (tmp_path / "mask.json").write_text(json.dumps(raw))
    mask = lumimask.LumiMask.read(tmp_path / "mask.json")
    rng = np.random.default_rng(1)
    runs = [int(r) for r in raw] + [2, 9]
    run = rng.choice(runs, 3000).astype(np.uint32)
    lumi = rng.integers(0, 70, 3000).astype(np.uint32)
    small = {r: [[a, min(b, 100)] for a, b in pairs] for r, pairs in raw.items()}
    want = brute(small, run, lumi)
    assert want.any()
    np.testing.assert_array_equal(mask.contains(run, lumi), want)


@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"1": [[1, 5]], "1": [[7, 9]]}', "run 1 is there twice"),
        ('{"1": [[5, 1]]}', r"\[5, 1\] ends before it begins"),
        ('{"1": [["1", "5"]]}', "'1' in .* is not a whole number"),
        ('{"1": [[1.5, 5]]}', r"1\.5 in .* is not a whole number"),
        ('{"1": [[-3, 5]]}', "-3 in .* is not between"),
        ('{"1": [1, 5]}', "1 is not a range"),
        ('{"one": [[1, 5]]}', "'one' is not a run number"),
        ("{}", "names no run"),
        ("[]", "holds a list"),
        ('{"1": [[1, 5', "is not JSON"),
    ],
)
def test_what_is_no_mask_is_refused_with_file_run_and_value(tmp_path, text, says):
    (tmp_path / "mask.json").write_text(text)
    with pytest.raises(InputError, match=rf"mask\.json.*{says}"):
        lumimask.LumiMask.read(tmp_path / "mask.json")


@pytest.mark.fault(24)
def test_the_mask_of_another_year_is_refused_with_both_ranges_of_runs(tmp_path):
    mask = lumimask.LumiMask.from_json({"273158": [[1, 500]], "284044": [[1, 30]]}, "2016.json")
    lumimask.require_same_year(mask, {"a.root": [{"273158": [[3, 9]]}], "b.root": [{"280000": [[1, 2]]}]})
    with pytest.raises(
        InputError, match=r"2016\.json has no run of 1 of 2 inputs.*c\.root.*297050.*273158-284044"
    ):
        lumimask.require_same_year(mask, {"a.root": [{"273158": [[3, 9]]}], "c.root": [{"297050": [[3, 9]]}]})


def masked(small, mask):
    """A search whose data have this mask."""
    (small.folder / "mask.json").write_text(json.dumps(mask))
    text = SEARCH.replace("role: data}", "role: data, lumi_mask: mask.json}")
    raw = columns(weights=False)
    raw["luminosityBlock"] = np.repeat(np.arange(1, 7, dtype=np.uint32), EVENTS // 6)
    return small.write(write(small.folder / "a.root", raw), text=text)


@pytest.mark.fault(24)
def test_a_search_with_the_mask_of_another_year_is_refused(small):
    code, said = masked(small, {"297050": [[1, 100]]}).call("process")
    assert code == 1, said
    assert "mask.json" in said
    assert "297050" in said
    assert not (small.space / "counts.json").exists()


@pytest.mark.fault(23)
def test_a_search_with_an_untidy_mask_keeps_the_certified_events(small):
    code, said = masked(small, {"1": [[5, 5], [1, 2], [2, 3]]}).call("process")
    assert code == 0, said
    counts = small.counts()["datasets"]["data"]
    assert counts["kept"] == 4 * EVENTS // 6
    found = json.loads((small.space / "lumis.json").read_text())["data"]
    assert found["processedLumis"] == {"1": [[1, 3], [5, 5]]}


@pytest.mark.fault(23)
def test_a_search_with_a_broken_mask_names_it_before_any_event_is_read(small):
    masked(small, {})
    (small.folder / "mask.json").write_text('{"1": [[1, 5]], "1": [[7, 9]]}')
    code, said = small.call("process")
    assert code in (1, 2), said
    assert "run 1 is there twice" in said
    assert small.chunks() == []
    assert issubclass(InputError, ElsewhereError)
