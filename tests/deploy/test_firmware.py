"""Export, emulator and bit-by-bit comparison of a tiny autoencoder, 6-4-2-4-6."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from elsewhere.deploy import lanes
from elsewhere.deploy.emulator import FirmwareScore, InputScale, open_folder
from elsewhere.deploy.firmware import export, write_thresholds
from elsewhere.deploy.fixedpoint import compare, compare_inputs, extreme_inputs
from elsewhere.deploy.library import open_library
from elsewhere.deploy.precision import FirmwareSettings, plan_network
from elsewhere.deploy.project import read_project
from elsewhere.errors import ConfigError, ElsewhereError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.fixed import Fixed
from scipy.stats import spearmanr

SIZES = (6, 4, 2, 4, 6)
FEATURES = FeatureSet("toy", tuple(Column(f"x{i}", "GeV", "a toy input") for i in range(6)))
SCALE = InputScale((4.5, 20.0, 7.0, 0.0, -3.0, 16.0), (0.25, 0.125, 0.5, 2.0, 1.0, 0.125))


class Distance(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x: Any) -> Any:  # annotations as texts once broke the export
        d = self.layers(x) - x
        return torch.einsum("bi,bi->b", d, d).unsqueeze(1)


class Trained:
    """An Exportable trained a little on correlated numbers."""

    def __init__(self, seed=1, big=1.0):
        generator = torch.Generator().manual_seed(seed)
        layers = []
        for i in range(len(SIZES) - 1):
            linear = torch.nn.utils.skip_init(torch.nn.Linear, SIZES[i], SIZES[i + 1])
            with torch.no_grad():
                linear.weight.copy_(
                    big * torch.randn(linear.weight.shape, generator=generator) / SIZES[i] ** 0.5
                )
                linear.bias.copy_(0.1 * torch.randn(linear.bias.shape, generator=generator))
            layers += [linear] + ([torch.nn.ReLU()] if i in (0, 2) else [])
        self.module = Distance(torch.nn.Sequential(*layers))
        optimiser = torch.optim.SGD(self.module.parameters(), lr=0.01)
        x = torch.randn((512, 2), generator=generator) @ torch.randn((2, 6), generator=generator)
        for _ in range(30 if big == 1.0 else 0):
            optimiser.zero_grad()
            self.module(x).mean().backward()
            optimiser.step()

    def network(self):
        return self.module.eval()


def raw_events(n, seed=7):
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 2, (n, 6)) / SCALE.factor + SCALE.offset).astype(np.float32)


def events(x, features=FEATURES):
    n = len(x)
    return Events(x, np.full(n, np.nan), np.ones(n), np.zeros(n, IDENTITY), features)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "firmware"
    made = export(Trained(), FEATURES, SCALE, path, raw_events(1000), thresholds={"loose": 3.14})
    assert made.bits.exact
    assert made.bits.events == 2000
    assert [p.name for p in path.parent.iterdir()] == ["firmware"]
    return path


def test_emulator_and_evaluation_agree_in_every_bit_of_every_layer(folder):
    report = compare(folder, raw_events(3000), extremes=1000)
    assert (report.events, report.mismatches, report.value_mismatches, report.first) == (4000, 0, 0, None)
    layer_widths = 4 + 4 + 2 + 4 + 4 + 6 + 6 + 1
    assert report.values == 4000 * (layer_widths + 2)  # the score by itself and in the stream


def test_a_stream_that_differs_from_the_exported_project_is_no_export(tmp_path, monkeypatch):
    honest = lanes.lanes_source

    def dishonest(project):
        text = honest(project)
        assert "std::rint(scaled)" in text
        return text.replace("std::rint(scaled)", "std::rint(scaled + 0.25)")

    monkeypatch.setattr(lanes, "lanes_source", dishonest)
    with pytest.raises(ElsewhereError, match="layer score in the stream"):
        export(Trained(), FEATURES, SCALE, tmp_path / "firmware", raw_events(500))
    assert not list(tmp_path.iterdir())


def test_the_firmware_follows_the_float_network(folder):
    x = raw_events(2000)
    firmware = FirmwareScore(folder).score(events(x))
    network = Trained().network()
    with torch.inference_mode():
        software = network(torch.from_numpy(SCALE.apply(x).astype(np.float32))).numpy()[:, 0]
    assert spearmanr(firmware, software).statistic > 0.999
    np.testing.assert_allclose(firmware, software, rtol=0.02, atol=0.05)
    step = Fixed.parse(FirmwareSettings().score).step
    assert (firmware / step == np.rint(firmware / step)).all()


def test_an_events_score_does_not_depend_on_its_company(folder):
    x, score = raw_events(64), FirmwareScore(folder)
    whole = score.score(events(x))
    np.testing.assert_array_equal(
        whole, np.concatenate([score.score(events(x[i : i + 1])) for i in range(64)])
    )
    assert score.score(events(x[:0])).shape == (0,)


def test_saturation_and_wrap_of_inputs(folder):
    opened = open_folder(folder)
    project, library = read_project(opened.hls), opened.library()
    top = 128.0
    at_the_border, beyond = (library.score(np.full((1, 6), v)) for v in (top - 2**-8, 1e18))
    assert at_the_border == beyond == project.score(np.full((1, 6), 1e18))
    assert library.score(np.full((1, 6), -1e300)) == library.score(np.full((1, 6), -top))


def test_a_changed_weight_is_seen_in_its_layer(folder, tmp_path):
    opened = open_folder(folder)
    shutil.copytree(opened.hls, tmp_path / "hls")
    weights = tmp_path / "hls" / "firmware" / "weights" / "w4.txt"
    first, _, rest = weights.read_text().partition(",")
    weights.write_text(f"{float(first) + 2**-9},{rest}")
    inputs = SCALE.apply(raw_events(500))
    report = compare_inputs(opened.library(), read_project(tmp_path / "hls"), inputs)
    assert report.mismatches > 0
    assert report.first is not None
    assert report.first.layer == "layers_2"
    assert "layers_2" in str(report.first)


@pytest.mark.parametrize("field", ["input_type", "weight", "relu"])
def test_a_wrong_rounding_mode_is_seen(folder, field):
    opened = open_folder(folder)
    project = read_project(opened.hls)
    if field == "input_type":
        wrong = replace(project, input_type=replace(project.input_type, quantisation="TRN"))
    else:
        index = next(
            i
            for i, op in enumerate(project.operations)
            if op.kind == ("relu" if field == "relu" else "dense")
        )
        op = project.operations[index]
        bad = (
            replace(op, result=replace(op.result, quantisation="TRN"))
            if field == "relu"
            else replace(op, weight=-op.weight)
        )
        wrong = replace(
            project, operations=(*project.operations[:index], bad, *project.operations[index + 1 :])
        )
    report = compare_inputs(opened.library(), wrong, SCALE.apply(raw_events(500)))
    assert report.mismatches > 0
    assert not report.exact


@pytest.mark.parametrize(
    ("accumulator", "inner"),
    [("fixed<14,6>", "fixed<10,5>"), ("fixed<13,5,RND_CONV,SAT>", "fixed<10,5,RND,SAT_SYM>")],
)
def test_narrow_accumulators_that_wrap_or_saturate_are_still_exact(tmp_path, accumulator, inner):
    settings = FirmwareSettings(
        input="fixed<10,6>", accumulator=accumulator, linear=inner, activation="ufixed<8,4,TRN,WRAP>", difference=inner,
        score="ufixed<12,6>",
    )  # fmt: skip
    made = export(Trained(big=3.0), FEATURES, SCALE, tmp_path / "narrow", raw_events(1500), settings=settings)
    assert made.bits.exact
    project = read_project(tmp_path / "narrow" / "hls")
    arrays = project.evaluate(SCALE.apply(raw_events(500)))
    dense = next(op for op in project.operations if op.kind == "dense")
    x = project.input_type.to_float(arrays[project.input_name])
    sums = x @ dense.weight_type.to_float(dense.weight) + dense.bias_type.to_float(dense.bias)
    assert (np.abs(sums) > dense.accum.to_float(np.array(dense.accum.high))).any(), (
        "the test must overflow to mean anything"
    )


def test_an_altered_file_is_an_input_error(folder, tmp_path):
    for name in ("hls/firmware/weights/w2.txt", "vectors/scores.npy"):
        copy = tmp_path / name.replace("/", "_")
        shutil.copytree(folder, copy)
        target = copy / name
        target.write_bytes(target.read_bytes()[:-1] + b"7")
        with pytest.raises(InputError, match=target.name):
            FirmwareScore(copy)
        target.unlink()
        with pytest.raises(InputError, match="missing"):
            compare(copy, raw_events(1))
    copy = tmp_path / "record"
    shutil.copytree(folder, copy)
    record = json.loads((copy / "firmware.json").read_text())
    record["scale"]["offset"][0] += 1.0
    (copy / "firmware.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="changed after the export"):
        FirmwareScore(copy)


def test_a_moved_folder_still_works(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    x = raw_events(10)
    np.testing.assert_array_equal(
        FirmwareScore(tmp_path / "elsewhere").score(events(x)), FirmwareScore(folder).score(events(x))
    )


def test_the_score_travels_to_a_process_without_torch_and_hls4ml(folder, tmp_path):
    score, x = FirmwareScore(folder), raw_events(200)
    expected = score.score(events(x))
    payload = cloudpickle.dumps((score, events(x)))
    assert len(cloudpickle.dumps(score)) < 2000
    (tmp_path / "job").write_bytes(payload)
    code = (
        "import sys, cloudpickle, numpy as np\n"
        f"score, events = cloudpickle.loads(open({str(tmp_path / 'job')!r}, 'rb').read())\n"
        f"np.save({str(tmp_path / 'out.npy')!r}, score.score(events))\n"
        "assert not {'torch', 'hls4ml'} & set(sys.modules), 'a worker must not need them'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_other_columns_are_a_feature_error(folder):
    columns = (*FEATURES.columns[:5], Column("phi", "rad", "not x5"))
    with pytest.raises(FeatureError, match=r"column 5.*x5.*phi"):
        FirmwareScore(folder).score(events(raw_events(3), FeatureSet("other", columns)))


def test_inputs_that_are_not_finite_are_refused(folder):
    x = raw_events(3)
    x[1, 2] = np.nan
    with pytest.raises(InputError, match="event 1: input 2"):
        FirmwareScore(folder).score(events(x))


def test_a_score_of_an_older_export_is_refused(folder):
    with pytest.raises(InputError, match="exported again"):
        FirmwareScore(folder, sha256="0" * 64)


def test_thresholds_are_added_without_changing_the_score(folder):
    before = FirmwareScore(folder)
    record = json.loads((folder / "firmware.json").read_text())
    assert record["thresholds"]["loose"] == {"score": 3.14, "integer": 804}
    write_thresholds(folder, {"1 kHz": 10.5})
    after = FirmwareScore(folder)
    assert after.sha256 == before.sha256
    assert json.loads((folder / "firmware.json").read_text())["thresholds"]["1 kHz"] == {
        "score": 10.5,
        "integer": 2688,
    }


def test_the_test_vectors_are_the_firmwares_own(folder):
    project = read_project(folder / "hls")
    raw, inputs, scores = (np.load(folder / "vectors" / f"{n}.npy") for n in ("raw", "inputs", "scores"))
    np.testing.assert_array_equal(raw, raw_events(1000))
    np.testing.assert_array_equal(project.input_type.from_float(SCALE.apply(raw)), inputs)
    np.testing.assert_array_equal(
        project.output_type.to_float(scores), FirmwareScore(folder).score(events(raw))
    )
    bench = np.loadtxt(folder / "hls" / "tb_data" / "tb_output_predictions.dat")
    np.testing.assert_array_equal(bench, project.output_type.to_float(scores))


def test_the_folder_holds_no_path_of_this_machine_and_nothing_that_runs(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert str(folder.parent).encode() not in path.read_bytes(), path
            assert b"!!python" not in path.read_bytes(), path


def test_without_a_compiler_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"g\+\+.*install"):
        export(Trained(), FEATURES, SCALE, tmp_path / "firmware", raw_events(10))


def test_a_failed_export_leaves_the_old_folder(folder, tmp_path, monkeypatch):
    path = tmp_path / "firmware"
    shutil.copytree(folder, path)
    monkeypatch.setattr(
        "elsewhere.deploy.folder.FirmwareRecord.write",
        lambda *a, **k: (_ for _ in ()).throw(InputError("stop")),
    )
    with pytest.raises(InputError, match="stop"):
        export(Trained(2), FEATURES, SCALE, path, raw_events(10), extremes=10)
    assert FirmwareScore(path).sha256 == FirmwareScore(folder).sha256
    assert [p.name for p in tmp_path.iterdir()] == ["firmware"]


def test_columns_and_scale_must_agree(tmp_path):
    with pytest.raises(FeatureError, match="6 columns"):
        export(Trained(), FEATURES, InputScale((0.0,), (1.0,)), tmp_path / "f", raw_events(10))


@pytest.mark.parametrize(
    ("layer", "name"),
    [(torch.nn.Sigmoid(), "Sigmoid"), (torch.nn.LayerNorm(6), "LayerNorm"), (torch.nn.GELU(), "GELU")],
)
def test_what_firmware_cannot_do_is_refused_by_name(layer, name):
    with pytest.raises(ConfigError, match=name):
        plan_network(Distance(torch.nn.Sequential(layer, torch.nn.Linear(6, 6))), FirmwareSettings())


def test_accumulators_are_wide_enough_for_every_input():
    plan = plan_network(Trained(big=3.0).network(), FirmwareSettings())
    dense = [layer for layer in plan.layers if layer.kind == "dense"]
    linear = plan.module.get_submodule("layers.0")
    largest = (linear.weight.abs().sum(dim=1) * 128.0 + linear.bias.abs()).max().item()
    accum = dense[0].types["accum"]
    assert accum.to_float(np.array(accum.high)) >= largest > accum.to_float(np.array(accum.high // 2))
    held = max(abs(v) for v in linear.weight.flatten().tolist())
    assert dense[0].types["weight"].to_float(np.array(dense[0].types["weight"].high)) >= held


def test_settings_name_their_bad_field():
    with pytest.raises(ConfigError, match=r"firmware\.score"):
        FirmwareSettings(score="float")
    with pytest.raises(ConfigError, match="clock_ns"):
        FirmwareSettings(clock_ns=0)


def test_a_library_of_another_platform_is_refused(tmp_path):
    (tmp_path / "emulator.so").write_bytes(b"not a library")
    with pytest.raises(InputError, match="cannot be loaded"):
        open_library(tmp_path / "emulator.so", tmp_path, 6)


def test_the_extreme_patterns_hold_zeros_and_both_saturations():
    patterns = extreme_inputs(Fixed.parse("fixed<16,8,RND_CONV,SAT>"), 57, 1000, np.random.default_rng(0))
    assert patterns.shape == (1000, 57)
    for value in (0.0, 128.0, -128.0):
        assert (patterns == value).all(axis=1).any()


def test_a_missing_project_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_project(Path(tmp_path))
