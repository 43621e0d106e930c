"""Pile-up, scales, parton densities and shower: known weights, every order of the lists, and lists that are not there."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.nuisances.base import WeightNuisance
from elsewhere.processors.nuisances.weights import (
    PDFWeight,
    PileupProfileWeight,
    PileupWeight,
    ScaleWeight,
    ShowerWeight,
)

from .conftest import binning, category, correction, variable, write

RNG = np.random.default_rng(2)
NINE, FOUR, MANY = (RNG.uniform(0.5, 1.5, (20, k)).astype(np.float32) for k in (9, 4, 103))
#: muR, muF of the nine weights, as NanoAOD's documentation string has them.
SCALES = [(r, f) for r in (0.5, 1, 2) for f in (0.5, 1, 2)]


def lists(branch: str, table) -> dict:
    return {branch: ak.Array(np.asarray(table).tolist())}


@pytest.mark.parametrize(
    ("scale", "up", "down"),
    [("muR", (2, 1), (0.5, 1)), ("muF", (1, 2), (1, 0.5)), ("both", (2, 2), (0.5, 0.5))],
)
@pytest.mark.parametrize("count", [9, 8])
def test_scale_weights_are_those_of_their_scales(scale, up, down, count):
    order = [s for s in SCALES if count == 9 or s != (1, 1)]
    table = np.array([[SCALES.index(s) + 1.0 for s in order]] * 3) / 5
    nuisance, columns = ScaleWeight("scale", scale), lists("LHEScaleWeight", table)
    for nu, wanted in ((1.0, up), (-1.0, down)):
        np.testing.assert_allclose(nuisance.factor(columns, nu), table[:, order.index(wanted)])
    np.testing.assert_array_equal(nuisance.factor(columns, 0.0), 1.0)
    np.testing.assert_allclose(nuisance.factor(columns, 0.5), np.sqrt(table[:, order.index(up)]))


def test_scale_lists_of_unknown_order_are_refused():
    with pytest.raises(InputError, match="LHEScaleWeight holds 44 weights per event, expected 9 or 8"):
        ScaleWeight("scale").factor(lists("LHEScaleWeight", np.ones((3, 44))), 1.0)
    with pytest.raises(ConfigError, match="scale is 'mur', expected muR, muF or both"):
        ScaleWeight("scale", "mur")


@pytest.mark.parametrize(
    ("nuisance", "branch"),
    [(ScaleWeight("s"), "LHEScaleWeight"), (PDFWeight("p", eigenvector=1), "LHEPdfWeight"), (ShowerWeight("q"), "PSWeight")],
)  # fmt: skip
def test_lists_that_are_not_there_are_counted(nuisance, branch):
    assert isinstance(nuisance, WeightNuisance)
    assert nuisance.branches == (branch,)
    with pytest.raises(InputError, match=f"3 of 3 events' lists in {branch} are empty"):
        nuisance.factor({branch: ak.values_astype(ak.Array([[1.0], [1.0], [1.0]])[:, :0], "float32")}, 1.0)
    some = ak.Array([[1.0] * 9, [], [1.0] * 9, []])
    with pytest.raises(InputError, match=f"2 of 4 events' lists in {branch} are empty"):
        nuisance.factor({branch: some}, 1.0)
    with pytest.raises(InputError, match=f"1 of 2 events' lists in {branch} do not hold 9 weights"):
        nuisance.factor({branch: ak.Array([[1.0] * 9, [1.0] * 4])}, 1.0)
    with pytest.raises(InputError, match=f"needs branch {branch}"):
        nuisance.factor({}, 1.0)
    assert len(nuisance.factor({branch: some[:0]}, 1.0)) == 0


def test_hessian_members_are_differences_to_the_central_one():
    columns = lists("LHEPdfWeight", MANY)
    table = MANY.astype(float)
    for i, nu in ((1, 1.0), (100, -0.5)):
        made = PDFWeight("pdf", eigenvector=i).factor(columns, nu)
        np.testing.assert_allclose(made, 1 + nu * (table[:, i] - table[:, 0]), rtol=1e-14)
    up, down = (PDFWeight("pdf", "pairs", 3).factor(columns, nu) for nu in (1.0, -1.0))
    np.testing.assert_allclose(up, 1 + table[:, 5] - table[:, 0])
    np.testing.assert_allclose(down, 1 + table[:, 6] - table[:, 0])


def test_replicas_are_their_standard_deviation():
    columns = lists("LHEPdfWeight", MANY)
    every, some = PDFWeight("pdf", "replicas"), PDFWeight("pdf", "replicas", count=100)
    np.testing.assert_allclose(
        every.factor(columns, 1.0) - 1, np.std(MANY[:, 1:].astype(float), axis=1, ddof=1)
    )
    np.testing.assert_allclose(
        some.factor(columns, -2.0) - 1, -2 * np.std(MANY[:, 1:101].astype(float), axis=1, ddof=1)
    )
    np.testing.assert_array_equal(every.factor(columns, 0.0), 1.0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"members": "replica"}, "expected hessian, pairs or replicas"),
        ({}, "hessian and pairs take an eigenvector"),
        ({"members": "replicas", "eigenvector": 1}, "replicas take none"),
        ({"eigenvector": 0}, "eigenvector is 0, the first one is 1"),
        ({"members": "pairs", "eigenvector": 51, "count": 100}, "count is 100, expected 102 or more"),
    ],
)
def test_members_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ConfigError, match=text):
        PDFWeight("pdf", **settings)


def test_a_member_beyond_the_list_is_refused():
    with pytest.raises(InputError, match="LHEPdfWeight holds 103 weights per event, number 103 is wanted"):
        PDFWeight("pdf", eigenvector=103).factor(lists("LHEPdfWeight", MANY), 1.0)


@pytest.mark.parametrize(("radiation", "at"), [("ISR", 0), ("FSR", 1)])
def test_shower_weights_of_both_orders(radiation, at):
    columns, table = lists("PSWeight", FOUR), FOUR.astype(float)
    new, old = (ShowerWeight("ps", radiation, first) for first in (2.0, 0.5))
    np.testing.assert_array_equal(new.factor(columns, 1.0), table[:, at])
    np.testing.assert_array_equal(new.factor(columns, -1.0), table[:, at + 2])
    np.testing.assert_array_equal(old.factor(columns, 1.0), table[:, at + 2])
    np.testing.assert_array_equal(old.factor(columns, -1.0), table[:, at])


def test_a_dummy_shower_weight_is_refused():
    with pytest.raises(InputError, match=r"PSWeight holds 1 weights per event.*dummy"):
        ShowerWeight("ps").factor(lists("PSWeight", np.ones((5, 1))), 1.0)
    with pytest.raises(ConfigError, match=r"first is 1.0, expected 2"):
        ShowerWeight("ps", first=1.0)
    with pytest.raises(ConfigError, match="radiation is 'isr', expected ISR or FSR"):
        ShowerWeight("ps", "isr")


EDGES = [0, 1, 2, 3]
PU = {"nominal": [1.0, 0.5, 0.0], "up": [1.2, 0.4, 0.1], "down": [0.9, 0.6, 0.0]}


@pytest.fixture
def pileup(tmp_path):
    name = "Collisions18_UltraLegacy_goldenJSON"
    data = category("weights", {k: binning(EDGES, v, "NumTrueInteractions") for k, v in PU.items()})
    inputs = [variable("NumTrueInteractions"), variable("weights", "string")]
    path = write(tmp_path / "puWeights.json.gz", correction(name, inputs, data))
    return PileupWeight("pileup", str(path), name)


def test_pileup_weights_are_the_files(pileup):
    columns = {"Pileup_nTrueInt": np.array([0.5, 1.5, 2.5, 1.0], np.float32)}
    assert pileup.branches == ("Pileup_nTrueInt",)
    for nu, key in ((0.0, "nominal"), (1.0, "up"), (-1.0, "down")):
        loop = [pileup.source.evaluator.evaluate(float(v), key) for v in columns["Pileup_nTrueInt"]]
        np.testing.assert_array_equal(pileup.factor(columns, nu), loop)
    np.testing.assert_allclose(pileup.factor(columns, 0.5), [np.sqrt(1.2), np.sqrt(0.2), 0.05, np.sqrt(0.2)])


def test_interactions_beyond_the_binning_are_named(pileup):
    with pytest.raises(
        InputError, match=r"'pileup': .*puWeights.json.gz, correction 'Collisions18.*NumTrueInteractions.*99"
    ):
        pileup.factor({"Pileup_nTrueInt": np.array([0.5, 99.0])}, 0.0)


def test_profiles_give_the_same_weights_without_a_file(pileup):
    simulated = np.array([10.0, 20.0, 30.0])

    def target(key):
        return (np.array(PU[key]) * simulated).tolist()

    nuisance = PileupProfileWeight(
        "pileup", target("nominal"), target("up"), target("down"), simulated.tolist()
    )
    columns = {"Pileup_nTrueInt": np.array([0.5, 1.5, 2.5], np.float32)}
    for nu, key in ((0.0, "nominal"), (1.0, "up"), (-1.0, "down")):
        expected = np.array(PU[key]) * simulated.sum() / sum(target(key))
        np.testing.assert_allclose(nuisance.factor(columns, nu), expected)
    simulated_mean = np.average(nuisance.factor({"Pileup_nTrueInt": np.arange(3)}, 0.0), weights=simulated)
    assert simulated_mean == pytest.approx(1.0)


@pytest.mark.parametrize("value", [-1.0, 3.0, 1.5, np.nan])
def test_an_event_outside_the_simulated_profile_is_an_error(value):
    nuisance = PileupProfileWeight("pileup", [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 1])
    assert len(nuisance.factor({"Pileup_nTrueInt": np.array([0.5, 2.9])}, 1.0)) == 2
    with pytest.raises(
        InputError, match=r"Pileup_nTrueInt is .* \(1 of 2 such\).*profile of 3 bins is empty"
    ):
        nuisance.factor({"Pileup_nTrueInt": np.array([0.5, value])}, 0.0)


@pytest.mark.parametrize(
    ("target", "text"), [([1, 1], "target has 2 bins, simulated has 3"), ([0, 0, 0], "not all zero"), ([1, -1, 1], "not negative")]
)  # fmt: skip
def test_profiles_that_cannot_be_are_refused(target, text):
    with pytest.raises(ConfigError, match=text):
        PileupProfileWeight("pileup", target, [1, 1, 1], [1, 1, 1], [1, 1, 1])
