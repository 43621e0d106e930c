"""Hardware integers: the emulator for CMSSW must hand the network the number that the stream's floats give, every one of them."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace

import awkward as ak
import numpy as np
import pytest
import torch
from elsewhere import trigger
from elsewhere.config import load_config
from elsewhere.deploy import cms_emulator, cms_sources
from elsewhere.deploy.cms_emulator import compile_cms_emulator, extreme_counts, write_cms_emulator
from elsewhere.deploy.cms_export import CmsRequest, cms_rows, cms_sentences
from elsewhere.deploy.emulator import FirmwareScore, InputScale
from elsewhere.deploy.firmware import export
from elsewhere.deploy.hardware import HardwareUnits
from elsewhere.deploy.library import compile_shared
from elsewhere.deploy.project import read_project
from elsewhere.errors import ConfigError, ElsewhereError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.processors.features import LEVEL1, Level1
from elsewhere.processors.regions import REGION_FEATURES
from elsewhere.samples import trigger as generator
from elsewhere.samples.nano import truncate
from elsewhere.search import check_search, open_search, run_search

from .test_cms_emulator import edited
from .test_firmware import FEATURES
from .test_rtl import Squares

UNITS = HardwareUnits.of(LEVEL1)
#: Every number that ap_fixed<18,13> can hold as an integer, and so every one of a field of 13 bits.
ALL = np.arange(-4096, 4096)
#: sha256 of the columns of l1 as every release before the steps wrote it.
DIGEST = "78b67f401b191bec31473b88c870d1c2f71ee639bb0968f5ffd8e234a496be6d"
DUMP = """\
#include "@MODEL@.cpp"
API void dump(int column, const int *hw, const double *raw, double *by_int, double *by_raw, long n) {
    using namespace hls4ml_@MODEL@;
    for (long i = 0; i < n; i++) {
        by_int[i] = scaled(column, hw[i]).to_double();
        by_raw[i] = scaled(column, raw_t(raw[i]).to_double() * handed[column]).to_double();
    }
}
"""


class Small:
    """An Exportable on the 57 columns of l1: 57-3 with the sum of squares."""

    def network(self):
        linear = torch.nn.utils.skip_init(torch.nn.Linear, 57, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            linear.weight.copy_(0.3 * torch.randn((3, 57), generator=generator))
            linear.bias.copy_(torch.randn(3, generator=generator))
        return Squares(torch.nn.Sequential(linear)).eval()


def learnt(seed=0):
    """Offsets and shifts of the kind that are learnt, another pair in every column: offsets in 1/32 of 2^shift."""
    rng = np.random.default_rng(seed)
    size = np.where(np.array(UNITS.halved), 5, np.where(np.array(UNITS.turn) > 0, 0, -1))
    shift = size + rng.integers(-2, 3, 57)
    offset = rng.integers(-64, 65, 57) * 2.0 ** (shift - 5)
    return InputScale(tuple(offset.tolist()), tuple((2.0**-shift).tolist()))


def crossings(n, seed=3):
    """Hardware integers (n, 57) of the ranges of the fields, empty slots among them."""
    rng = np.random.default_rng(seed)
    pt, turn = np.array(UNITS.halved), np.array(UNITS.turn)
    k = np.where(pt, np.minimum(rng.geometric(0.02, (n, 57)), 511), rng.integers(-100, 101, (n, 57)))
    k = np.where(turn > 0, rng.integers(0, 576, (n, 57)) % np.maximum(turn, 1), k)
    k[:, 1] = 0
    there = rng.random((n, 19)) < 0.6
    return k * np.repeat(there, 3, axis=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("hardware") / "firmware"
    vectors = UNITS.physical(crossings(1500))
    vectors[:400] = truncate(vectors[:400])  # as a file stores them
    return export(Small(), LEVEL1, learnt(), place, vectors, cms=CmsRequest("axol1tl", 3))


def test_the_steps_are_the_generators():
    steps = {c.name: c.step for c in LEVEL1.columns}
    for name in ("MET", "EG0", "EG3", "Jet0", "Jet9"):
        wanted = (generator.PT_STEP, generator.CALO_ETA, generator.CALO_PHI)
        assert tuple(steps[f"{name}_{v}"] for v in ("pt", "eta", "phi")) == wanted
    wanted = (generator.PT_STEP, generator.MUON_ETA, generator.MUON_PHI)
    assert tuple(steps[f"Mu2_{v}"] for v in ("pt", "eta", "phi")) == wanted
    assert UNITS.turn[:6] == (0, 0, 144, 0, 0, 144)
    assert {t for c, t in zip(LEVEL1.columns, UNITS.turn, strict=True) if c.name.startswith("Mu")} == {0, 576}
    regions = HardwareUnits.of(REGION_FEATURES)
    assert (set(regions.step), set(regions.turn), set(regions.halved)) == ({1.0}, {0}, {False})


@pytest.mark.parametrize(("step", "turn"), [(generator.CALO_PHI, 144), (generator.MUON_PHI, 576)])
def test_phi_is_the_generators_number_for_every_integer(step, turn):
    """What the generator writes for a direction k steps from 0, and what a reader of the file gets back."""
    at = UNITS.turn.index(turn)
    counts = np.zeros((turn, 57), np.int64)
    counts[:, at] = np.arange(turn)
    written = np.array([generator._hardware_phi(k * step, step) for k in range(turn)], np.float32)
    physical = UNITS.physical(counts)
    np.testing.assert_array_equal(physical[:, at], written)
    assert physical[turn // 2, at] == np.float32(-np.pi)
    assert physical.min() >= np.float32(-np.pi)
    assert physical.max() < np.float32(np.pi)
    np.testing.assert_array_equal(UNITS.counts(physical), counts)
    np.testing.assert_array_equal(UNITS.counts(truncate(physical)), counts)
    assert not UNITS.physical(np.zeros((1, 57))).any()


def test_the_features_keep_the_numbers_of_the_file():
    """One jet per crossing with every phi, through the feature definition: the column is the float32 of the step."""
    k = np.arange(144)
    counts = np.zeros((144, 57), np.int64)
    at = LEVEL1.names.index("Jet0_pt")
    counts[:, at], counts[:, at + 1], counts[:, at + 2] = k + 1, k - 72, k
    physical = UNITS.physical(counts)
    none = ak.unflatten(np.zeros(0, np.float32), np.zeros(144, np.int64))
    columns = {f"{b}_{v}": none for b in ("L1EG", "L1Mu") for v in ("pt", "eta", "phi")}
    for i, v in enumerate(("pt", "eta", "phi")):
        columns[f"L1Jet_{v}"] = ak.Array(physical[:, [at + i]])
    columns |= {"L1EtSum_pt": ak.Array(np.zeros((144, 1), np.float32)), "L1EtSum_phi": ak.Array(np.zeros((144, 1), np.float32))}  # fmt: skip
    columns["L1EtSum_etSumType"] = ak.Array(np.full((144, 1), 2))
    np.testing.assert_array_equal(Level1().compute(columns).x, physical)


@pytest.mark.parametrize("kind", ["learnt", "any"])
def test_every_integer_of_every_column_reaches_the_network_as_the_floats_do(made, tmp_path, kind):
    rng = np.random.default_rng(5)
    scale = learnt(8) if kind == "learnt" else InputScale(tuple(rng.normal(0, 3, 57)), (1 / 3,) * 57)
    copy = edited(made.folder, tmp_path / "firmware", scale={"offset": scale.offset, "factor": scale.factor})
    record = json.loads((copy / "firmware.json").read_text())
    record.pop("cms")
    (copy / "firmware.json").write_text(json.dumps(record))
    record["files"] = {name: v for name, v in record["files"].items() if not name.startswith("cms/")}
    edited(copy, copy, files=record["files"])
    source = write_cms_emulator(copy, "axol1tl", 4, hardware=True)
    (copy / "cms" / "dump.cpp").write_text(DUMP.replace("@MODEL@", source.stem))
    hls = copy / "hls"
    compile_shared(
        copy / "cms" / "dump.cpp",
        tmp_path / "dump.so",
        [copy / "cms" / "interface", hls, hls / "firmware" / "ap_types"],
    )
    library, kind_of_input = ctypes.CDLL(str(tmp_path / "dump.so")), read_project(hls).input_type
    distinct = 0
    for i in range(57):
        counts = np.zeros((len(ALL), 57), np.int64)
        counts[:, i] = ALL
        wanted = kind_of_input.to_float(kind_of_input.from_float(scale.apply(UNITS.physical(counts))[:, i]))
        hw, raw = ALL.astype(np.int32), np.ascontiguousarray(UNITS.handed(counts)[:, i])
        out = np.empty((2, len(ALL)))
        library.dump(i, *(ctypes.c_void_p(a.ctypes.data) for a in (hw, raw, out[0], out[1])), ctypes.c_long(len(ALL)))  # fmt: skip
        np.testing.assert_array_equal(out[0], wanted, err_msg=LEVEL1.names[i])
        np.testing.assert_array_equal(out[1], wanted, err_msg=f"{LEVEL1.names[i]}, handed over")
        distinct += len(np.unique(wanted))
    assert distinct > 57 * 100


def test_the_export_makes_compares_and_records_the_emulator(made):
    assert (made.cms.events, made.cms.mismatches) == (4000, 0)
    record = json.loads((made.folder / "firmware.json").read_text())
    found = record["cms"]
    assert (found["name"], found["version"], found["mismatches"]) == ("axol1tl", 3, 0)
    assert found["khz"] > 1
    assert (found["vectors"], 300 < found["off_step"] <= 400) == (1500, True)
    assert 0 < found["changed"] <= found["off_step"]
    assert {"cms/axol1tl_v3.so", "cms/axol1tl_v3.cpp", "cms/README.md"} <= set(record["files"])
    assert record["features"]["columns"][2]["step"] == generator.CALO_PHI
    assert "axol1tl_v3.so" in (made.folder / "README.md").read_text()
    text = (made.folder / "cms" / "README.md").read_text()
    assert "57 `int`" in text
    assert "MET_pt [0.5 GeV], MET_eta [0.0435], MET_phi [0.04363323 rad]" in text
    assert "@" not in text
    assert "0 of 4,000 events in hardware integers differ" in cms_sentences(record)[0]
    assert "kHz" in dict(cms_rows(record))["CMS emulator axol1tl_v3"]
    assert cms_sentences({}) == cms_rows({}) == []
    with pytest.raises(ConfigError, match="exported with its own cms/"):
        write_cms_emulator(made.folder, "axol1tl", 4)


def test_events_of_the_stream_score_as_their_integers(made):
    counts = crossings(2000, seed=11)
    n, x = len(counts), UNITS.physical(counts)
    events = Events(x, np.full(n, np.nan), np.ones(n), np.zeros(n, IDENTITY), LEVEL1)
    wanted = FirmwareScore(made.folder).score(events)
    emulator = cms_emulator.CmsEmulator(made.folder / "cms" / "axol1tl_v3.so")
    assert emulator.hardware
    np.testing.assert_array_equal(emulator.score_integers(counts), wanted)
    np.testing.assert_array_equal(emulator.score(UNITS.handed(counts)), wanted)
    assert len(np.unique(wanted)) > 500
    halves = counts.copy()
    halves[:, list(UNITS.halved)] //= 2  # CMSSW's division of integers
    lost = emulator.score(np.asarray(halves, np.float64))
    assert np.count_nonzero(lost != wanted) > 100, "an odd hwPt loses its half in CMSSW"


def test_a_wrong_wrap_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    text = cms_sources.HARDWARE_SCALING.replace("2 * hw >= turn[i]", "2 * hw > turn[i]")
    assert text != cms_sources.HARDWARE_SCALING
    monkeypatch.setattr(cms_sources, "HARDWARE_SCALING", text)
    with pytest.raises(ElsewhereError, match=r"axol1tl_v3\.cpp: \d+ of 4000 scores differ: event"):
        export(Small(), LEVEL1, learnt(), tmp_path / "firmware", UNITS.physical(crossings(500)), cms=CmsRequest("axol1tl", 3))  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_extreme_integers_hold_what_hurts():
    counts = extreme_counts(UNITS, 3000, np.random.default_rng(0))
    assert counts.shape == (3000, 57)
    for i, turn in enumerate(UNITS.turn):
        assert {0, 4095, -4096} <= set(counts[:, i].tolist())
        if turn:
            assert {turn // 2 - 1, turn // 2, turn - 1, turn} <= set(counts[:, i].tolist())
    assert extreme_counts(UNITS, 5, np.random.default_rng(0)).shape == (5, 57)


def test_columns_without_steps_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"firmware\.cms: column x0 of features 'toy' has no hardware step"):
        HardwareUnits.of(FEATURES)
    crooked = FeatureSet("odd", (Column("a_phi", "rad", "", step=0.04),))
    with pytest.raises(ConfigError, match=r"a_phi has a step of 0\.04 rad"):
        HardwareUnits.of(crooked)
    bare = replace(LEVEL1, columns=tuple(replace(c, step=None) for c in LEVEL1.columns))
    with pytest.raises(ConfigError, match="MET_pt"):
        export(Small(), bare, learnt(), tmp_path / "f", UNITS.physical(crossings(20)), cms=CmsRequest("a", 1))
    assert not list(tmp_path.iterdir())


def test_an_emulator_of_columns_takes_no_integers(made, tmp_path):
    copy = edited(made.folder, tmp_path / "firmware", scale={"offset": [0.0] * 57, "factor": [1.0] * 57})
    record = json.loads((copy / "firmware.json").read_text())
    record.pop("cms")
    (copy / "firmware.json").write_text(json.dumps(record))
    edited(copy, copy, files={n: v for n, v in record["files"].items() if not n.startswith("cms/")})
    built = compile_cms_emulator(write_cms_emulator(copy, "Columns", 1), events=500)
    emulator = cms_emulator.CmsEmulator(built.path)
    assert not emulator.hardware
    with pytest.raises(InputError, match="bad any_cast"):
        emulator.score_integers(np.zeros((1, 57), np.int64))


def test_steps_travel_and_old_columns_stay_good():
    raw = json.loads(json.dumps(LEVEL1.to_json()))
    assert FeatureSet.from_json(raw) == LEVEL1
    assert raw["columns"][0]["step"] == 0.5
    old = json.loads(json.dumps(raw))
    for c in old["columns"]:
        c.pop("step")
    assert FeatureSet.from_json(old).digest == LEVEL1.digest == DIGEST
    assert "step" not in FEATURES.to_json()["columns"][0]


SEARCH = """
name: toy
events:
  features: {features}
  datasets:
    a: {{files: none.root, role: reference}}
    b: {{files: none.root}}
score: {score}
rates: {{}}
firmware: {{cms: {{name: axol1tl, version: 1}}}}
"""


@pytest.mark.parametrize(
    ("features", "score", "says"),
    [
        ("l1", "{method: TreeStudent, inner: {method: Autoencoder}}", r"firmware\.cms: a TreeStudent is of trees"),
        ("dijet", "{method: Autoencoder}", r"firmware\.cms: column m_J1 of features 'dijet' has no hardware step"),
    ],
)  # fmt: skip
def test_what_cannot_become_an_emulator_is_refused_before_any_work(tmp_path, features, score, says):
    (tmp_path / "search.yaml").write_text(SEARCH.format(features=features, score=score))
    search = open_search(tmp_path / "search.yaml")
    for check in (check_search, run_search):
        with pytest.raises(ConfigError, match=says):
            check(search)
    assert not search.space.root.exists()


def test_l1_and_regions_pass_the_check(tmp_path):
    for features in ("l1", "regions"):
        path = tmp_path / f"{features}.yaml"
        path.write_text(SEARCH.format(features=features, score="{method: Autoencoder}"))
        trigger.check_firmware(open_search(path))


@pytest.mark.parametrize(
    ("given", "says"),
    [("{name: 7up}", r"firmware\.cms\.name"), ("{name: a-b}", r"firmware\.cms\.name"), ("{}", r"firmware\.cms\.name"),
     ("{name: a, version: 0}", r"firmware\.cms\.version: found 0"), ("{name: a, versoin: 2}", "did you mean 'version'")],
)  # fmt: skip
def test_a_mistake_in_the_section_names_its_key(tmp_path, given, says):
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH.format(features="l1", score="{method: Autoencoder}"))
    with pytest.raises(ConfigError, match=says):
        load_config(path, [f"firmware.cms={given}"])
