"""The CMS emulator: its scores are the firmware's through the virtual interface, and what is refused."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from elsewhere.deploy import cms_emulator
from elsewhere.deploy.cms_emulator import (
    CmsEmulator,
    compare_cms_emulator,
    compile_cms_emulator,
    write_cms_emulator,
)
from elsewhere.deploy.cms_sources import CMS_RESULT
from elsewhere.deploy.emulator import FirmwareScore, InputScale, content_digest, open_folder
from elsewhere.deploy.firmware import export
from elsewhere.deploy.precision import FirmwareSettings
from elsewhere.errors import ConfigError, ElsewhereError, InputError
from elsewhere.fixed import Fixed
from elsewhere.models.networks.quantised import Types
from elsewhere.models.scores.axol1tl import Axol1tl
from elsewhere.workspace import file_digest

from ..models.conftest import make
from .test_firmware import FEATURES, SCALE, Trained, events, raw_events

RAW = Fixed(18, 13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("cms") / "firmware"
    export(Trained(), FEATURES, SCALE, place, raw_events(1000))
    return place


@pytest.fixture(scope="module")
def built(folder):
    source = write_cms_emulator(folder, "GTADModel", 7)
    made = compile_cms_emulator(source)
    assert (made.bits.events, made.bits.mismatches, made.bits.exact) == (5000, 0, True)
    assert made.path == folder / "cms" / "GTADModel_v7.so"
    return CmsEmulator(made.path)


def raw_codes(n, columns, seed=0):
    """Integers of the raw type: all of it, near the data, both ends, zeros, one column at an end."""
    rng = np.random.default_rng(seed)
    ends = np.array([RAW.low, RAW.high, 0, RAW.low + 1, RAW.high - 1, -1, 1])
    hot = np.concatenate([np.eye(columns, dtype=np.int64) * v for v in ends])
    parts = [
        rng.integers(RAW.low, RAW.high + 1, (n // 3, columns)),
        rng.integers(-200, 200, (n // 3, columns)),
        rng.choice(ends, (n // 3, columns)),
        np.repeat(ends[:, None], columns, axis=1),
        hot,
    ]
    return np.concatenate(parts)


def test_every_score_is_the_firmwares(folder, built):
    opened = open_folder(folder)
    assert (built.n_in, built.raw) == (6, RAW)
    x = RAW.to_float(raw_codes(9000, 6))
    found, wanted = built.score(x), opened.library().score(opened.scale.apply(x))
    assert len(x) > 9000
    assert np.count_nonzero(found != wanted) == 0
    assert len(np.unique(found)) > 1000
    inputs = opened.scale.apply(x)
    assert (np.abs(inputs) > 128).any(), "the network's input type must saturate to mean anything"
    score_type = Fixed.parse(opened.record["score_type"])
    assert (score_type.from_float(found) == score_type.from_float(wanted)).all()


def test_fresh_events_score_as_in_the_stream(folder, built):
    x = RAW.to_float(RAW.from_float(raw_events(3000, seed=9).astype(np.float64)))
    np.testing.assert_array_equal(built.score(x), FirmwareScore(folder).score(events(x.astype(np.float32))))


def test_a_number_between_two_of_the_raw_type_is_cut_as_cmssw_does(built):
    x = np.full((1, 6), 1.0)
    assert built.score(x + 0.03) == built.score(x)
    assert built.score(x - 2**-20) == built.score(x - 2**-5)


def test_the_loss_is_the_score_in_the_types_of_the_condition(folder, built):
    kind = Fixed.parse(open_folder(folder).record["score_type"])
    x = RAW.to_float(raw_codes(3000, 6, 5))
    wanted = CMS_RESULT.cast(kind.from_float(built.score(x)), kind.fraction)
    np.testing.assert_array_equal(built.losses(x), CMS_RESULT.to_float(wanted))
    assert wanted.max() == CMS_RESULT.high
    assert "rounds the score to 0.0625" in (folder / "cms" / "README.md").read_text()


def test_with_the_conditions_type_the_loss_is_the_score(tmp_path):
    """The level-1 encoder: trained score, emulator, and what the condition reads are one number."""
    types = Types(score=str(CMS_RESULT))
    trained = Axol1tl(hidden=(8,), latent=2, decoder=(8,), epochs=3, batch=128, types=types)
    trained.fit(make(1500, 1), make(10, 2))
    scale = InputScale(tuple(map(float, trained.offset_)), tuple((2.0**-trained.shift_).tolist()))
    sample, place = make(1000, 3), tmp_path / "firmware"
    settings = FirmwareSettings(**trained.firmware_types())
    export(trained, sample.features, scale, place, sample.x, settings=settings)
    emulator = CmsEmulator(compile_cms_emulator(write_cms_emulator(place, "Other", 1)).path)
    x = RAW.to_float(raw_codes(3000, 4, 6))
    np.testing.assert_array_equal(emulator.losses(x), emulator.score(x))
    given = replace(sample, x=RAW.to_float(RAW.from_float(sample.x.astype(np.float64))).astype(np.float32))
    np.testing.assert_array_equal(emulator.losses(given.x), trained.score(given))
    assert len(np.unique(trained.score(given))) > 20
    assert "holds every score" in (place / "cms" / "README.md").read_text()


def test_the_library_needs_no_other_file_and_leaves_the_record_alone(folder, built, tmp_path):
    x = RAW.to_float(raw_codes(300, 6, 2))
    for name in ("GTADModel_v7.so", "GTADModel_v7_driver.so"):
        shutil.copy(folder / "cms" / name, tmp_path)
    np.testing.assert_array_equal(CmsEmulator(tmp_path / "GTADModel_v7.so").score(x), built.score(x))
    assert str(folder.parent).encode() not in built.path.read_bytes()
    assert open_folder(folder).record["library"].startswith("emulator-")
    assert not [p for p in (folder / "cms").iterdir() if p.name.startswith(".build")]


def test_the_makefile_builds_the_same_model(folder, built, tmp_path):
    copy = tmp_path / "firmware"
    shutil.copytree(folder, copy)
    (copy / "cms" / "GTADModel_v7.so").unlink()
    subprocess.run(["make", "-s", "-C", str(copy / "cms")], check=True)
    assert compare_cms_emulator(copy, CmsEmulator(copy / "cms" / "GTADModel_v7.so"), 2000).exact


def test_a_wrong_offset_is_seen_and_nothing_is_left(folder, tmp_path):
    copy = tmp_path / "firmware"
    shutil.copytree(folder, copy)
    source = write_cms_emulator(copy, "GTADModel", 8)
    text = source.read_text()
    source.write_text(text.replace("- offset[i])", "- offset[0])"))
    assert source.read_text() != text
    with pytest.raises(ElsewhereError, match=r"GTADModel_v8\.cpp: \d+ of 300 scores differ: event"):
        compile_cms_emulator(source, events=300)
    assert not list((copy / "cms").rglob("*.so"))
    assert not list((copy / "cms").glob(".build*"))


def edited(folder, copy, **values):
    """A copy of the folder whose record says something else and is sealed again."""
    if not copy.exists():
        shutil.copytree(folder, copy)
    record = json.loads((copy / "firmware.json").read_text()) | values
    record["digest"] = content_digest(record)
    (copy / "firmware.json").write_text(json.dumps(record))
    return copy


def test_headers_and_weights_must_agree(folder, tmp_path):
    copy = tmp_path / "firmware"
    shutil.copytree(folder, copy)
    header = copy / "hls" / "firmware" / "weights" / "w2.h"
    header.write_text(header.read_text().replace("= {", "= {9", 1))
    with pytest.raises(InputError, match=r"w2\.h was changed after the export"):
        write_cms_emulator(copy, "GTADModel", 1)
    files = open_folder(folder).record["files"] | {"hls/firmware/weights/w2.h": file_digest(header)}
    edited(folder, copy, files=files)
    with pytest.raises(InputError, match=r"w2\.h does not hold the numbers of w2\.txt"):
        write_cms_emulator(copy, "GTADModel", 1)


def test_trees_are_refused(folder, tmp_path):
    copy = edited(folder, tmp_path / "firmware", trees={"number": 12})
    with pytest.raises(ConfigError, match=r"firmware\.json is of trees \(conifer\); only networks"):
        write_cms_emulator(copy, "GTADModel", 1)


@pytest.mark.parametrize(("offset", "factor"), [(0.1, 1.0), (0.0, 1 / 3), (2.0**-40, 1.0)])
def test_a_scale_that_hardware_cannot_hold_is_refused(folder, tmp_path, offset, factor):
    scale = {"offset": [offset] * 6, "factor": [factor] * 6}
    copy = edited(folder, tmp_path / "firmware", scale=scale)
    with pytest.raises(ConfigError, match=r"more than 52 bits.*powers of two"):
        write_cms_emulator(copy, "GTADModel", 1)
    assert not [p for p in copy.iterdir() if p.name.startswith("cms.")]


@pytest.mark.parametrize(("name", "version"), [("GTAD-Model", 1), ("", 1), ("7up", 2), ("GTADModel", 0)])
def test_names_and_versions(folder, name, version):
    with pytest.raises(ConfigError, match="GTADModel"):
        write_cms_emulator(folder, name, version)


def test_what_cannot_be_loaded_or_run_is_an_input_error(folder, built, tmp_path):
    with pytest.raises(InputError, match=r"None_v1_driver\.so cannot be loaded"):
        CmsEmulator(tmp_path / "None_v1.so")
    shutil.copy(folder / "cms" / "GTADModel_v7_driver.so", tmp_path)
    with pytest.raises(InputError, match=r"GTADModel_v7\.so cannot be run .*No such file"):
        CmsEmulator(tmp_path / "GTADModel_v7.so").score(np.zeros((1, 6)))
    shutil.copy(folder / "cms" / "GTADModel_v7_driver.so", tmp_path / "GTADModel_v7.so")
    with pytest.raises(InputError, match="lacks create_model"):
        CmsEmulator(tmp_path / "GTADModel_v7.so").score(np.zeros((1, 6)))
    for bad in (np.zeros((2, 3)), np.zeros(4), np.full((1, 6), np.nan)):
        with pytest.raises(InputError, match="takes 6 finite numbers"):
            built.score(bad)
    assert built.score(np.zeros((0, 6))).shape == (0,)


def test_another_type_than_the_caller_hands_over_is_an_error(folder, built, tmp_path):
    copy = tmp_path / "firmware"
    shutil.copytree(folder, copy)
    model = copy / "cms" / "GTADModel_v7.so"
    driver = (
        (copy / "cms" / "GTADModel_v7_driver.cpp").read_text().replace("ap_fixed<18,13,", "ap_fixed<19,14,")
    )
    (copy / "cms" / "GTADModel_v7_driver.cpp").write_text(driver)
    cms_emulator._compile(copy / "cms" / "GTADModel_v7_driver.cpp", copy / "cms")
    with pytest.raises(InputError, match="bad any_cast"):
        CmsEmulator(model).score(np.zeros((1, 6)))


def test_without_a_compiler_the_cure_is_named(folder, built, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"g\+\+.*install"):
        compile_cms_emulator(folder / "cms" / "GTADModel_v7.cpp")
    assert built.path.exists()


def test_what_does_not_compile_is_an_input_error(folder, tmp_path):
    copy = tmp_path / "firmware"
    shutil.copytree(folder, copy)
    source = write_cms_emulator(copy, "GTADModel", 3)
    source.write_text("#error no\n")
    with pytest.raises(InputError, match=r"could not compile .*GTADModel_v3\.cpp"):
        compile_cms_emulator(source)
