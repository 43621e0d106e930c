"""From a configuration to a nuisance: every kind, its defaults, and what is said where something is wrong."""

import dataclasses
import re

import cloudpickle
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.nuisances.base import Kinematic, WeightNuisance
from elsewhere.processors.nuisances.registry import NUISANCES, build_nuisance
from elsewhere.workspace import file_digest

from .conftest import binning, category, correction, jet_corrections, variable, write

SIDES = {"nominal": "nom", "up": "up", "down": "down"}
FACTOR = {"JetEta": "eta", "systematic": SIDES}
EVERY = [
    {"kind": "JetEnergyScale", "jets": "FatJet", "uncertainty": 0.02, "met": "PuppiMET"},
    {"kind": "JetEnergyScale", "uncertainty": {"file": "jec.json.gz", "correction": "Total", "inputs": {"JetEta": "eta", "JetPt": "pt"}}},
    {"kind": "JetEnergyResolution", "uncertainty": 0.05, "seed": 3},
    {"kind": "JetEnergyResolution", "scale_factor": {"file": "jec.json.gz", "correction": "ScaleFactor", "inputs": FACTOR}, "match": False},
    {"kind": "UnclusteredMET", "met": "MET"},
    {"kind": "PileupWeight", "file": "pu.json", "correction": "pileup"},
    {"kind": "PileupProfileWeight", "target": [1, 2], "up": [1, 2.5], "down": [1, 1], "simulated": [1, 1]},
    {"kind": "ScaleWeight", "scale": "muR"},
    {"kind": "PDFWeight", "eigenvector": 4},
    {"kind": "ShowerWeight", "radiation": "FSR", "first": 0.5},
    {"kind": "CorrectionWeight", "file": "jec.json.gz", "correction": "ScaleFactor", "inputs": FACTOR, "collection": "Jet"},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("search")
    write(path / "jec.json.gz", *jet_corrections())
    inputs = [variable("NumTrueInteractions"), variable("weights", "string")]
    data = category(
        "weights", {k: binning([0, 99], [1.0], "NumTrueInteractions") for k in ("nominal", "up", "down")}
    )
    write(path / "pu.json", correction("pileup", inputs, data))
    return path


def test_every_kind_is_built_here():
    assert {s["kind"] for s in EVERY} == {cls.__name__ for cls in NUISANCES}


@pytest.mark.parametrize("settings", EVERY, ids=lambda s: s["kind"])
def test_every_kind_is_built_and_travels(settings, folder):
    made = build_nuisance("some_name", settings, folder)
    assert type(made).__name__ == settings["kind"]
    assert made.name == "some_name"
    assert isinstance(made, Kinematic) != isinstance(made, WeightNuisance)
    assert all(re.fullmatch(r"[A-Za-z]\w+", b) for b in (*made.branches, *made.optional))
    for key, value in settings.items():
        if key not in ("kind", "file") and not isinstance(value, (dict, list)):
            assert getattr(made, key) == value
    packed = cloudpickle.dumps(made)
    assert len(packed) < 3000, "an open correction file must not travel"
    assert cloudpickle.loads(packed) == made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.name = "other"


def test_files_are_found_beside_the_configuration_and_their_sums_kept(folder):
    made = build_nuisance("pu", EVERY[5], folder)
    assert made.file == str(folder / "pu.json")
    assert made.sha256 == file_digest(folder / "pu.json")
    nested = build_nuisance("jes", EVERY[1], folder)
    assert nested.uncertainty.sha256 == file_digest(folder / "jec.json.gz")
    with pytest.raises(InputError, match=r"nuisances\.pu\.file: .*no\.json does not exist"):
        build_nuisance("pu", {**EVERY[5], "file": "no.json"}, folder)
    with pytest.raises(InputError, match="expected 0123"):
        build_nuisance("pu", {**EVERY[5], "sha256": "0123"}, folder)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kind": "JetEnergyScal"}, r"nuisances\.n\.kind: no nuisance 'JetEnergyScal'; did you mean 'JetEnergyScale'\? There are: JetEnergyScale, "),
        ({}, r"nuisances\.n\.kind: no nuisance 'None'"),
        ({"kind": "JetEnergyScale", "uncertanty": 0.1}, r"nuisances\.n\.uncertanty: unknown setting of JetEnergyScale; did you mean 'uncertainty'\?"),
        ({"kind": "ScaleWeight", "branches": ["x"]}, r"branches: unknown setting of ScaleWeight"),
        ({"kind": "ScaleWeight", "name": "x"}, r"name: unknown setting of ScaleWeight"),
        ({"kind": "JetEnergyScale", "met_threshold": "high"}, r"nuisances\.n\.met_threshold: found 'high', expected: a valid number"),
        ({"kind": "JetEnergyScale", "uncertainty": -1}, r"nuisances\.n: nuisance 'n': uncertainty is -1"),
        ({"kind": "PDFWeight"}, r"nuisances\.n: nuisance 'n': hessian and pairs take an eigenvector"),
        ({"kind": "JetEnergyScale", "uncertainty": {**EVERY[1]["uncertainty"], "inputz": {}}}, r"unknown setting 'inputz' of a correction; did you mean 'inputs'\?"),
        ({"kind": "JetEnergyScale", "uncertainty": {**EVERY[1]["uncertainty"], "correction": "Totl"}}, r"no correction 'Totl'; did you mean 'Total'\?"),
        ({"kind": "JetEnergyScale", "uncertainty": {**EVERY[1]["uncertainty"], "inputs": {"JetEta": "eta", "JetPT": "pt"}}}, r"no input 'JetPT'; did you mean 'JetPt'\? Its inputs: JetEta \(real\), JetPt \(real\)"),
        ({"kind": "PileupWeight"}, r"nuisances\.n\.file: .*[Mm]issing|nuisances\.n\.file: .*required"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_is_right(settings, text, folder):
    with pytest.raises(ConfigError, match=text):
        build_nuisance("n", settings, folder)


def test_a_bad_name_is_refused(folder):
    with pytest.raises(ConfigError, match="a name has letters"):
        build_nuisance("a.b", {"kind": "ScaleWeight"}, folder)
