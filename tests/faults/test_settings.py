"""Settings that cannot be meant: every one is refused before any work, with its key and the numbers that disagree."""

import re

import pytest
from elsewhere.analysis.dijet import basis
from elsewhere.config import load_config
from elsewhere.errors import ConfigError, FitError
from elsewhere.search import check_methods, open_search

BASE = """
name: small
events:
  datasets:
    data: {files: a.root, role: data}
reference: {method: Sidebands, width: 400.0}
score: {method: WeakTrees, members: 1}
hunt:
  mass_low: 2500.0
  mass_high: 6500.0
  windows: {first: 2900.0, last: 4500.0, step: 200.0, width: 400.0}
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "search.yaml").write_text(BASE)
    return tmp_path / "search.yaml"


@pytest.mark.fault(36)
def test_the_settings_without_a_fault_are_accepted(base):
    check_methods(load_config(base))


SPELLING = [
    ("hunt.toyz=100", r"hunt\.toyz: unknown key; did you mean 'toys'"),
    ("hunt.effeciency=0.01", r"hunt\.effeciency: unknown key"),
    ("hunt.windows.witdh=400.0", r"hunt\.windows\.witdh: unknown key; did you mean 'width'"),
    ("evnts.chunk=5", r"evnts: unknown key; did you mean 'events'"),
    ("run.wokers=3", r"run\.wokers: unknown key; did you mean 'workers'"),
    ("score.membres=3", r"score\.membres: .*did you mean 'members'"),
    ("reference.widht=3.0", r"reference\.widht: .*did you mean 'width'"),
    ("score.method=WeakTress", r"did you mean 'WeakTrees'"),
    (
        "events.datasets.data.role=background",
        r"events\.datasets\.data\.role: found 'background'.*'reference'",
    ),
]
KINDS = [
    ("hunt.toys='1e4'", r"hunt\.toys: found '1e4', expected: .*integer"),
    ("hunt.toys=1e4", r"hunt\.toys: found '1e4', expected: .*integer"),
    ("hunt.toys=2.5", r"hunt\.toys: found 2\.5, expected: .*integer"),
    ("hunt.bin_width='100'", r"hunt\.bin_width: found '100', expected: .*number"),
    ("hunt.mass_low='2500 GeV'", r"hunt\.mass_low: found '2500 GeV', expected: .*number"),
    ("hunt.control=maybe", r"hunt\.control: found 'maybe', expected: .*boolean"),
    ("seed=true", r"seed: found True, expected: .*integer"),
    ("folds=1", r"folds: found 1, expected: .*2"),
    ("score.members='4'", r"score\.members: found '4'"),
    ("score.members=0", r"score\.members: found 0|members 0"),
    ("reference.width='400'", r"reference\.width: found '400'"),
    ("format=99", r"format: found 99, expected: 1"),
]
UNITS = [
    # TeV for GeV, percent for a fraction.
    ("hunt.windows.first=2.9", r"2\.9|window"),
    ("hunt.cuts=[10]", r"hunt\.cuts\.0: found 10, expected: .*1"),
    ("hunt.collision_energy=13", r"collision_energy 13 .*mass_high 6500"),
]


@pytest.mark.fault(36)
@pytest.mark.parametrize(("change", "says"), [*SPELLING, *KINDS, *UNITS])
def test_a_setting_that_cannot_be_meant_is_refused_with_its_key(base, change, says):
    with pytest.raises(ConfigError, match=re.compile(says, re.S)):
        check_methods(load_config(base, [change]))


@pytest.mark.fault(36)
def test_the_format_of_the_settings_is_written_down(base):
    assert load_config(base).format == 1
    assert "format" in open_search(base).config.model_dump()


NUMBERS = [
    ("hunt.mass_low=.nan", r"mass_low: found nan"),
    ("hunt.mass_high=.inf", r"mass_high: found inf"),
    ("hunt.bin_width=.nan", r"bin_width: found nan"),
    ("hunt.windows.first=.nan", r"windows\.first: found nan"),
    ("hunt.windows.step=.inf", r"windows\.step: found inf"),
    ("hunt.signal_width=.nan", r"signal_width: found nan"),
    ("hunt.mass_low=7000.0", r"mass_low 7000.* mass_high 6500"),
    ("hunt.windows.first=5000.0", r"windows\.first 5000.* windows\.last 4500"),
    # A window outside the range, one that is the whole range, one with nothing on one side.
    ("hunt.windows={first: 1000.0, last: 1000.0, step: 200.0, width: 400.0}", r"window 800-1200 .*2500-6500"),
    (
        "hunt.windows={first: 4500.0, last: 4500.0, step: 200.0, width: 4000.0}",
        r"window 2500-6500 .*2500-6500",
    ),
    (
        "hunt.windows={first: 2700.0, last: 2700.0, step: 200.0, width: 400.0}",
        r"window 2500-2900 .*2500-6500",
    ),
    ("hunt.windows.width=410.0", r"window edge 2695 .*2500 \+ k x 100"),
    ("hunt.bin_width=800.0", r"window edge .*2500 \+ k x 800|bins of 800"),
    ("hunt.bin_width=300.0", r"mass_high 6500 .*2500 \+ k x 300"),
    ("reference.width=0.0", r"reference.*width.* 0\.0"),
    ("reference.width=-400.0", r"reference.*width.* -400\.0"),
    ("reference.width=.nan", r"reference.*width.* nan"),
]


@pytest.mark.fault(37)
@pytest.mark.parametrize(("change", "says"), NUMBERS)
def test_ranges_that_contradict_each_other_are_refused_with_both_numbers(base, change, says):
    with pytest.raises(ConfigError, match=re.compile(says, re.S)):
        check_methods(load_config(base, [change]))


@pytest.mark.fault(37)
def test_the_command_line_refuses_before_any_file_is_opened(small):
    small.write("absent.root")
    for change in ("hunt.mass_low=.nan", "reference.width=0.0"):
        code, said = small.call("process", "--set", change)
        assert code == 2, said
        assert "absent.root" not in said
    assert not small.space.exists()


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    ("edges", "says"),
    [
        ([2000, 2100, 2050, 2200], "2100 and then 2050"),
        ([2000, 2100, 2100, 2200], "2100 and then 2100"),
        ([2000, float("nan"), 2100, 2200], "2000 and then nan"),
        ([2000, 2100, 2200, float("inf")], "2000 to inf"),
        ([0, 2100, 2200], "0 to 2200"),
        ([2000, 13000], "2000 to 13000"),
    ],
)
def test_bin_edges_that_make_no_bins_are_refused_with_both_numbers(edges, says):
    with pytest.raises(FitError, match=says):
        basis(edges, 2, 13_000.0)
