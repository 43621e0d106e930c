"""Any correction as a weight: what the evaluator says event by event, and errors in the words of its inputs."""

import cloudpickle
import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.nuisances.corrections import Correction, CorrectionWeight, open_corrections
from elsewhere.workspace import file_digest

from .conftest import binning, category, correction, flat, jet_columns, variable, write

SYST = {"nominal": "central", "up": "up_total", "down": "down_total"}
SIZES = {"central": 1.0, "up_total": 1.1, "down_total": 0.95}


def scale_factors():
    """One factor in |eta| and pT with the names of its systematics and a working point; one per event, in an integer."""

    def table(size):
        return category("wp", {w: binning([0, 1, 3], [binning([20, 50, 2000], [size * k, size * k * 1.01], "pt"), size * k * 0.9], "abseta") for w, k in (("L", 1.02), ("T", 0.97))})  # fmt: skip

    objects = category("syst", {k: table(v) for k, v in SIZES.items()})
    events = category(
        "syst", {k: binning([0, 2, 4, 100], [v, 1.0, 2 - v], "njet", "clamp") for k, v in SIZES.items()}
    )
    return [
        correction("jet_id", [variable("abseta"), variable("pt"), variable("wp", "string"), variable("syst", "string")], objects),
        correction("multiplicity", [variable("njet", "int"), variable("syst", "string")], events),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sf") / "factors.json", *scale_factors())


OBJECT = {"abseta": "abs(eta)", "pt": "pt", "wp": {"value": "T"}, "syst": SYST}


@pytest.mark.parametrize("nu", [0.0, 1.0, -1.0, 0.4])
def test_a_product_over_objects_is_the_loop_over_them(path, nu):
    nuisance = CorrectionWeight("id", str(path), "jet_id", OBJECT, "Jet", min_pt=25.0, max_abs_eta=2.0)
    columns = jet_columns(150)
    assert set(nuisance.branches) == {"Jet_eta", "Jet_pt"}
    evaluate = nuisance.source.evaluator.evaluate
    expected = []
    for pts, etas in zip(columns["Jet_pt"].tolist(), columns["Jet_eta"].tolist(), strict=True):
        weight = 1.0
        for pt, eta in zip(pts, etas, strict=True):
            if pt > 25.0 and abs(eta) < 2.0:
                nominal = evaluate(abs(eta), pt, "T", "central")
                side = evaluate(abs(eta), pt, "T", "down_total" if nu < 0 else "up_total")
                weight *= nominal * (side / nominal) ** abs(nu)
        expected.append(weight)
    made = nuisance.factor(columns, nu)
    assert made.dtype == np.float64
    np.testing.assert_allclose(made, expected, rtol=1e-12)
    assert np.sum(made == 1.0) > 5


@pytest.mark.parametrize("nu", [0.0, 1.0, -1.0])
def test_a_weight_of_the_event_is_the_loop_over_events(path, nu):
    nuisance = CorrectionWeight("mult", str(path), "multiplicity", {"njet": "nJet", "syst": SYST})
    columns = {"nJet": np.array([0, 1, 2, 5, 99, 500], np.uint32)}
    assert nuisance.branches == ("nJet",)
    side = SYST["nominal" if nu == 0 else "up" if nu > 0 else "down"]
    loop = [nuisance.source.evaluator.evaluate(int(v), side) for v in columns["nJet"]]
    np.testing.assert_array_equal(nuisance.factor(columns, nu), loop)
    constant = CorrectionWeight("mult", str(path), "multiplicity", {"njet": 1, "syst": SYST})
    np.testing.assert_array_equal(constant.factor(columns, nu), np.full(6, SIZES[side]))


def test_a_number_of_the_event_is_given_to_each_of_its_objects(path):
    source = Correction(str(path), "multiplicity", {"njet": "event.nJet", "syst": SYST})
    columns = jet_columns(30)
    counts = np.array([len(e) for e in columns["Jet_pt"].tolist()])
    columns["nJet"] = counts
    assert source.branches("Jet") == ("nJet",)
    np.testing.assert_array_equal(
        source.evaluate(columns, "Jet", "up", "x"),
        [source.evaluator.evaluate(int(c), "up_total") for c in counts for _ in range(c)],
    )
    one = Correction(str(path), "multiplicity", {"njet": 3, "syst": SYST})
    assert one.evaluate(columns, "Jet", "up", "x").shape == flat(columns["Jet_pt"]).shape


@pytest.mark.parametrize(
    ("name", "inputs", "text"),
    [
        ("jet_idd", OBJECT, r"factors.json has no correction 'jet_idd'; did you mean 'jet_id'\? There are: jet_id, multiplicity"),
        ("jet_id", {**OBJECT, "absEta": "eta"}, r"'jet_id' has no input 'absEta'; did you mean 'abseta'\? Its inputs: abseta \(real\), pt \(real\), wp \(string\), syst \(string\)"),
        ("jet_id", {k: v for k, v in OBJECT.items() if k != "pt"}, r"input 'pt' is not given. Its inputs: abseta \(real\), pt"),
        ("jet_id", {**OBJECT, "wp": "T"}, r"input wp \(string\): 'T' is taken for a branch; write \{value: T\}"),
        ("jet_id", {**OBJECT, "pt": "pt-1"}, r"input pt \(real\): 'pt-1' is taken for a branch"),
        ("jet_id", {**OBJECT, "wp": {"nominal": "T", "up": "L"}}, r"input wp: found .* expected \{value: ...\} or nominal, up and down"),
    ],
)  # fmt: skip
def test_wrong_names_are_said_with_the_right_ones(path, name, inputs, text):
    with pytest.raises(ConfigError, match=text):
        _ = Correction(str(path), name, inputs).evaluator


def test_values_outside_the_binning_are_named_with_file_and_correction(path):
    nuisance = CorrectionWeight("id", str(path), "jet_id", OBJECT, "Jet")
    columns = jet_columns(50)
    assert flat(columns["Jet_pt"]).min() < 20
    with pytest.raises(
        InputError, match=r"'id': .*factors.json, correction 'jet_id', input pt: Index below bounds.*1\d\.\d"
    ):
        nuisance.factor(columns, 0.0)
    wrong = {**OBJECT, "syst": {**SYST, "up": "sideways"}}
    with pytest.raises(InputError, match=r"correction 'jet_id', input syst: .*sideways"):
        CorrectionWeight("id", str(path), "jet_id", wrong, "Jet", min_pt=25.0).factor(columns, 1.0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"inputs": {"njet": "nJet", "syst": {"value": "central"}}}, "nothing varies"),
        ({"inputs": {"njet": "nJet", "syst": SYST}, "min_pt": 20.0}, "select objects; give a collection"),
    ],
)
def test_settings_that_cannot_be_are_refused(path, settings, text):
    with pytest.raises(ConfigError, match=text):
        CorrectionWeight("w", str(path), "multiplicity", **settings)


def test_a_file_is_what_its_sum_says(tmp_path):
    path = write(tmp_path / "factors.json", *scale_factors())
    inputs = {"njet": 1, "syst": SYST}
    good = Correction(str(path), "multiplicity", inputs, file_digest(path))
    assert good.evaluate({"a": np.zeros(2)}, None, "up", "x").tolist() == [1.1, 1.1]
    with pytest.raises(InputError, match=f"has sha256 {file_digest(path)}, expected 00ff"):
        _ = Correction(str(path), "multiplicity", inputs, "00ff").evaluator
    for name, text in (("no.json", "does not exist"), ("bad.json", "is not correctionlib JSON")):
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(InputError, match=f"{name} {text}"):
            _ = Correction(str(tmp_path / name), "multiplicity", inputs).evaluator


def test_a_file_is_opened_once_and_stays_behind_when_its_nuisance_travels(path):
    open_corrections.cache_clear()
    nuisance = CorrectionWeight("id", str(path), "jet_id", OBJECT, "Jet", min_pt=25.0)
    columns = jet_columns(20)
    here = nuisance.factor(columns, 1.0)
    there = cloudpickle.loads(cloudpickle.dumps(nuisance))
    np.testing.assert_array_equal(there.factor(columns, 1.0), here)
    assert open_corrections.cache_info().misses == 1
    source = nuisance.source
    _ = source.evaluator
    assert "evaluator" not in cloudpickle.loads(cloudpickle.dumps(source)).__dict__


def test_a_float_is_no_whole_number(path):
    nuisance = CorrectionWeight("mult", str(path), "multiplicity", {"njet": "rho", "syst": SYST})
    with pytest.raises(InputError, match=r"'multiplicity', input njet is an int, but rho is float32"):
        nuisance.factor(jet_columns(5), 1.0)


def test_jagged_and_flat_are_not_mistaken(path):
    columns = {**jet_columns(5), "nJet": np.arange(5)}
    inputs = {**OBJECT, "pt": "Jet_pt", "abseta": "abs(Jet_eta)"}
    with pytest.raises(InputError, match="Jet_eta is jagged; give the collection it belongs to"):
        CorrectionWeight("w", str(path), "jet_id", inputs).factor(columns, 0.0)
