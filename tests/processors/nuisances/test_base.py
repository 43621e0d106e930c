"""Names, labels, jagged views, the interpolation in nu, and nuisances one after another."""

import re

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.nuisances.base import Jagged, Variation, flat, interpolate, vary
from elsewhere.processors.nuisances.jets import JetEnergyResolution, JetEnergyScale
from elsewhere.processors.nuisances.met import UnclusteredMET

from .conftest import identities, jet_columns


@pytest.mark.parametrize(
    ("nu", "label"),
    [(1, "jes_up"), (-1, "jes_down"), (0.5, "jes_p0p5"), (-2, "jes_m2"), (1e-5, "jes_p1em05"), (-1.25e20, "jes_m1p25e20")],
)  # fmt: skip
def test_a_label_is_good_for_files_and_root(nu, label):
    assert Variation("jes", nu).label == label
    assert re.fullmatch(r"[A-Za-z]\w*", label)


@pytest.mark.parametrize("name", ["", "jes.up", "1jes", "a/b", "nominal", "jes up", "jes\n"])
def test_a_name_that_no_file_could_bear_is_refused(name):
    with pytest.raises(ConfigError, match="a name has letters"):
        JetEnergyScale(name)


def test_views_are_not_copies():
    array = ak.Array([[1.0, 2.0], [], [3.0]])
    one = Jagged.of({"Jet_pt": array}, "Jet_pt", "jes")
    assert np.shares_memory(one.content, ak.to_layout(array).content.data)
    assert np.shares_memory(one.offsets, ak.to_layout(array).offsets.data)
    assert one.like(one.content * 2).tolist() == [[2.0, 4.0], [], [6.0]]
    named = ak.with_parameter(array, "__doc__", "pt of jets")
    again = Jagged.of({"Jet_pt": named}, "Jet_pt", "jes").like(one.content)
    assert ak.parameters(again) == ak.parameters(named)


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[1:3],
        lambda a: a[[2, 0, 1]],
        lambda a: a[np.array([True, False, True])],
        lambda a: ak.to_regular(ak.Array([[1.0, 2.0], [3.0, 4.0]])),
        lambda a: a[a > 1.5],
    ],
    ids=["slice", "taken", "masked", "regular", "objects cut"],
)
def test_lists_however_they_are_kept(make):
    array = make(ak.Array([[1.0, 2.0], [], [3.0]]))
    one = Jagged.of({"Jet_pt": array}, "Jet_pt", "jes")
    assert one.like(one.content).tolist() == array.tolist()
    assert one.offsets[0] == 0
    assert len(one.content) == one.offsets[-1]


@pytest.mark.parametrize("bad", [np.ones(3), ak.Array([[[1.0]]]), ak.Array([[1.0, None]]), ak.Array([["a"]])])
def test_what_is_no_list_of_numbers_is_refused(bad):
    with pytest.raises(InputError, match=r"'jes': Jet_pt is .*expected a list of numbers"):
        Jagged.of({"Jet_pt": bad}, "Jet_pt", "jes")


def test_a_missing_branch_is_named_with_the_nuisance():
    with pytest.raises(InputError, match="'jes' needs branch Jet_pt"):
        Jagged.of({}, "Jet_pt", "jes")
    with pytest.raises(InputError, match="MET_pt is jagged"):
        flat({"MET_pt": ak.Array([[1.0]])}, "MET_pt", "jes")


NOMINAL, UP, DOWN = np.array([1.0, 0.5, 2.0]), np.array([1.3, 0.4, 2.5]), np.array([0.8, 0.7, 1.1])


def test_weights_are_exact_where_they_are_known():
    for nu, expected in ((0.0, NOMINAL), (1.0, UP), (-1.0, DOWN)):
        np.testing.assert_array_equal(interpolate(NOMINAL, UP, DOWN, nu), expected)


@pytest.mark.parametrize(("nu", "side"), [(0.3, UP), (2.0, UP), (-0.3, DOWN), (-1.7, DOWN)])
def test_weights_follow_the_power_law(nu, side):
    expected = NOMINAL * (side / NOMINAL) ** abs(nu)
    np.testing.assert_allclose(interpolate(NOMINAL, UP, DOWN, nu), expected, rtol=1e-14)


def test_zero_and_negative_weights_go_in_straight_lines():
    nominal, up = np.array([0.0, 1.0, -1.0, 1.0, 0.0]), np.array([2.0, 0.0, 0.5, -0.5, 0.0])
    np.testing.assert_allclose(interpolate(nominal, up, up, 0.25), [0.5, 0.75, -0.625, 0.625, 0.0])
    np.testing.assert_allclose(interpolate(nominal, up, up, 2.0), [4.0, 0.0, 2.0, -2.0, 0.0])
    np.testing.assert_array_equal(interpolate(nominal, up, up, 1.0), up)
    np.testing.assert_array_equal(interpolate(nominal, up, up, -1.0), up)


def test_nuisances_act_one_after_another_and_leave_the_columns_alone():
    columns = jet_columns(50)
    before = {k: ak.to_list(v) for k, v in columns.items()}
    one, two = JetEnergyScale("one", uncertainty=0.1), JetEnergyScale("two", uncertainty=0.5)
    out = vary(columns, [one, two], {"one": 1.0, "two": -1.0}, identities(50))
    np.testing.assert_allclose(
        ak.flatten(out["Jet_pt"]), ak.flatten(columns["Jet_pt"]) * 1.1 * 0.5, rtol=1e-6
    )
    assert out["Jet_eta"] is columns["Jet_eta"]
    assert {k: ak.to_list(v) for k, v in columns.items()} == before
    assert vary(columns, [one, two], {}, identities(50)) is columns
    with pytest.raises(ConfigError, match=r"no kinematic nuisance 'three'; known: .*one.*two"):
        vary(columns, [one, two], {"three": 1.0}, identities(50))


def test_a_correction_is_in_every_variation():
    columns, who = jet_columns(50), identities(50)
    smear = JetEnergyResolution("jer", scale_factor=1.2, uncertainty=0.1, resolution=0.2)
    nominal = vary(columns, [smear], {}, who)
    assert nominal["Jet_pt"].tolist() != columns["Jet_pt"].tolist()
    assert nominal["Jet_pt"].tolist() == smear.shift(columns, 0.0, who)["Jet_pt"].tolist()


def test_unclustered_energy_sees_the_missing_energy_of_the_file():
    columns, who = jet_columns(50, met="PuppiMET"), identities(50)
    columns["PuppiMET_ptUnclusteredUp"] = columns["PuppiMET_pt"] * np.float32(1.1)
    columns["PuppiMET_phiUnclusteredUp"] = columns["PuppiMET_phi"]
    jes, unclustered = JetEnergyScale("jes", uncertainty=0.1, met="PuppiMET"), UnclusteredMET("unclustered")
    nus = {"jes": 1.0, "unclustered": 1.0}
    a, b = (vary(columns, order, nus, who) for order in ([jes, unclustered], [unclustered, jes]))
    np.testing.assert_array_equal(a["PuppiMET_pt"], b["PuppiMET_pt"])
    first = unclustered.shift(columns, 1.0, who)
    np.testing.assert_array_equal(a["PuppiMET_pt"], jes.shift({**columns, **first}, 1.0, who)["PuppiMET_pt"])
