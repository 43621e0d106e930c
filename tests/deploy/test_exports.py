"""Every export read back by the program it is for (or by its published schema), with the numbers it was made from."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import uproot
import yaml
from elsewhere.analysis.likelihood import BinnedModel
from elsewhere.analysis.limits import upper_limit
from elsewhere.deploy.exports.combine import datacard
from elsewhere.deploy.exports.hepdata import tables, write_hepdata
from elsewhere.deploy.exports.histograms import write_uhi
from elsewhere.deploy.exports.statement import Efficiency, LimitRow, Scan, Statement
from elsewhere.deploy.exports.workspace_pyhf import pyhf_workspace
from elsewhere.deploy.exports.write import write_exports
from elsewhere.errors import InputError

EDGES = np.array([3000.0, 3200.0, 3400.0, 3700.0])
COUNTS = [22.0, 15.0, 3.0]
MODEL = BinnedModel([1.0, 5.0, 2.0], [20.0, 12.0, 4.0], [3.0, 2.0, 1.0], "gauss", [[1.0, 0.5, -0.2]], 0.1)


def statement(model=MODEL, **more):
    return Statement.of(
        "search", "A made-up search", EDGES, COUNTS, model, cross_section=2.0, luminosity=100.0, **more
    )


def full():
    rows = tuple(
        LimitRow(m, 3.0 if m < 4000 else math.inf, (1.5, 2.0, 3.0, 4.0, 5.5 if m < 4000 else math.inf))
        for m in (3000.0, 3500.0, 4000.0)
    )
    scan = Scan(np.array([3000.0, 3500.0]), np.array([0.4, 1e-3]), 0.03, 0.02, 0.04, 4000)
    curve = Efficiency(
        np.array([0.0, 3.0]), np.array([0.01, 0.2]), np.array([0.0, 0.15]), np.array([0.02, 0.25])
    )
    return statement(limits=rows, scan=scan, efficiency=curve)


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")
@pytest.mark.parametrize("constraint", ["poisson", "gauss"])
def test_pyhf_loads_the_workspace_and_finds_the_same_limit(constraint, tmp_path):
    pyhf = pytest.importorskip("pyhf")
    model = replace(MODEL, constraint=constraint)
    path = write_exports(statement(model), tmp_path).pyhf
    workspace = pyhf.Workspace(json.loads(path.read_text()))
    other = workspace.model()
    found = upper_limit(model, COUNTS)
    observed = pyhf.infer.hypotest(found.observed, workspace.data(other), other)
    assert float(observed) == pytest.approx(0.05, rel=0.01)
    _, bands = pyhf.infer.hypotest(found.expected[3], workspace.data(other), other, return_expected_set=True)
    assert float(bands[3]) == pytest.approx(0.05, rel=0.01)


def test_a_known_background_and_signal_have_no_modifiers():
    workspace = pyhf_workspace(statement(BinnedModel([1.0, 5.0, 2.0], [20.0, 12.0, 4.0], [0.0, 0.0, 0.0])))
    samples = workspace["channels"][0]["samples"]
    assert samples[1]["modifiers"] == []
    assert [m["type"] for m in samples[0]["modifiers"]] == ["normfactor"]
    (parameter,) = workspace["measurements"][0]["config"]["parameters"]
    assert parameter["bounds"][0][1] > 2 * (40 + 36) / 8


def test_shapes_are_read_back_by_uproot_and_the_card_names_them(tmp_path):
    made = write_exports(full(), tmp_path)
    lines = [line.split() for line in made.card.read_text().splitlines() if not line.startswith(("#", "-"))]
    card = {line[0]: line[1:] for line in lines}
    channel, file, nominal, varied = card["shapes"][1:]
    assert (made.card.parent / file) == made.shapes
    processes = next(line[1:] for line in lines if line[0] == "process" and line[1] == "signal")
    with uproot.open(made.shapes) as root:
        for process, want in zip(processes, (MODEL.signal, MODEL.background), strict=True):
            values, edges = root[nominal.replace("$PROCESS", process)].to_numpy()
            np.testing.assert_array_equal(values, want)
            np.testing.assert_array_equal(edges, EDGES)
        np.testing.assert_array_equal(root[f"{channel}/data_obs"].values(), COUNTS)
        np.testing.assert_allclose(root[f"{channel}/background"].variances(), MODEL.uncertainty**2)
        for end, sign in (("Up", 1), ("Down", -1)):
            name = varied.replace("$PROCESS", "background").replace("$SYSTEMATIC", "mode_0") + end
            np.testing.assert_allclose(root[name].values(), MODEL.background + sign * MODEL.modes[0])
    assert card["mode_0"] == ["shape", "-", "1"]
    assert card["signal_efficiency"] == ["lnN", "1.1", "-"]
    assert card["search"] == ["autoMCStats", "0", "0", "1"]
    assert (card["imax"], card["jmax"], card["observation"], card["rate"]) == (
        ["1"],
        ["1"],
        ["-1"],
        ["-1", "-1"],
    )


def test_a_poisson_constraint_asks_combine_for_one():
    model = BinnedModel(MODEL.signal, MODEL.background, MODEL.uncertainty, "poisson")
    assert "search autoMCStats 1000000000 0 1" in datacard(statement(model), "x.root")
    known = BinnedModel(MODEL.signal, MODEL.background, 0 * MODEL.uncertainty)
    assert "autoMCStats" not in datacard(statement(known), "x.root")


def test_uhi_histograms_come_back_equal(tmp_path):
    import hist
    from uhi.io.json import object_hook

    path = write_uhi(statement(), tmp_path / "h.json")
    raw = json.loads(path.read_text(), object_hook=object_hook)
    back = {name: hist.Hist(one) for name, one in raw.items()}
    assert set(back) == {"data_obs", "signal", "background", "background_mode_0Up", "background_mode_0Down"}
    np.testing.assert_array_equal(back["background"].values(), MODEL.background)
    np.testing.assert_allclose(back["background"].variances(), MODEL.uncertainty**2)
    np.testing.assert_array_equal(back["data_obs"].values(), COUNTS)
    np.testing.assert_array_equal(back["signal"].axes[0].edges, EDGES)
    assert back["signal"].axes[0].name == "mass"
    assert all(one["uhi_schema"] == 1 for one in raw.values())


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_submission_is_valid_by_hepdatas_own_schema(tmp_path):
    validator = pytest.importorskip("hepdata_validator.full_submission_validator")
    made = write_exports(full(), tmp_path)
    check = validator.FullSubmissionValidator(schema_version="1.1.1", autoload_remote_schemas=False)
    assert check.validate(directory=str(made.hepdata.parent)), check.get_messages()


def test_the_submission_holds_the_numbers(tmp_path):
    path = write_exports(full(), tmp_path).hepdata
    head, *entries = yaml.safe_load_all(path.read_text())
    assert head["additional_resources"][0]["location"] == "likelihood.json"
    assert [e["data_file"] for e in entries] == [
        "spectrum.yaml",
        "limits.yaml",
        "pvalues.yaml",
        "efficiency.yaml",
    ]
    read = {e["data_file"]: yaml.safe_load((path.parent / e["data_file"]).read_text()) for e in entries}
    for table in read.values():
        rows = {len(v["values"]) for v in table["independent_variables"] + table["dependent_variables"]}
        assert len(rows) == 1
    spectrum = read["spectrum.yaml"]["dependent_variables"]
    assert [v["value"] for v in spectrum[0]["values"]] == COUNTS
    error = spectrum[1]["values"][0]["errors"][0]["symerror"]
    assert error == pytest.approx(math.hypot(3.0, 1.0), rel=1e-5)
    observed, expected = read["limits.yaml"]["dependent_variables"]
    assert [v["value"] for v in observed["values"]] == [3.0, 3.0, "-"]
    one = expected["values"][0]
    assert one["value"] == 3.0
    assert [e["asymerror"] for e in one["errors"]] == [
        {"minus": -1.0, "plus": 1.0},
        {"minus": -1.5, "plus": 2.5},
    ]
    assert read["pvalues.yaml"]["dependent_variables"][0]["qualifiers"][-1]["value"].startswith(
        "0.03 [0.02, 0.04]"
    )
    assert all(math.isfinite(v["value"]) for v in read["efficiency.yaml"]["dependent_variables"][0]["values"])


def test_only_tables_with_numbers_are_written(tmp_path):
    assert [t.file for t in tables(statement())] == ["spectrum.yaml"]
    with pytest.raises(InputError, match="does not exist"):
        write_hepdata(statement(), tmp_path, resources=[("nothing.json", "")])


def test_two_writings_are_the_same_text(tmp_path):
    one, two = write_exports(full(), tmp_path / "a"), write_exports(full(), tmp_path / "b")
    for a, b in (
        (one.pyhf, two.pyhf),
        (one.card, two.card),
        (one.histograms, two.histograms),
        (one.hepdata, two.hepdata),
    ):
        assert Path(a).read_text() == Path(b).read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "my search"}, "no name for an export"),
        ({"observed": [1.0, 2.0]}, "expected 3 finite numbers"),
        ({"signal": [1.0, -2.0, 1.0]}, "not negative"),
        ({"edges": [3.0, 2.0, 4.0, 5.0]}, "increase"),
        ({"mode_names": ()}, "different names"),
        ({"luminosity": 0.0}, "must be positive"),
    ],
)
def test_a_statement_that_cannot_be_exported_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        replace(statement(), **change)
