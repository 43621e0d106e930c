"""Misbehaving detectors on level-1 columns and calorimeter images, and stored trigger decisions beside them."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.detector_faults import with_fault
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Events
from elsewhere.menus import menu_study, passing, tables
from elsewhere.processors.bits import WithBits
from elsewhere.processors.features import LEVEL1, Level1
from elsewhere.processors.regions import REGION_FEATURES
from elsewhere.sections import FaultSection, SeedSection
from elsewhere.workspace import Table
from pydantic import ValidationError

NAMES = LEVEL1.names


def events(n=4, features=LEVEL1):
    x, identity = np.zeros((n, len(features)), np.float32), np.zeros(n, IDENTITY)
    identity["event"] = np.arange(n)
    return Events(x, np.full(n, np.nan), np.ones(n), identity, features)


def put(e, slot, pt, eta=0.0, phi=0.0, row=0):
    start = NAMES.index(f"{slot}_pt")
    e.x[row, start : start + 3] = pt, eta, phi


def get(e, slot, row=0):
    start = NAMES.index(f"{slot}_pt")
    return e.x[row, start : start + 3].tolist()


def fault(**settings):
    return FaultSection.model_validate(settings)


def test_a_scale_moves_calorimeter_objects_and_met_in_steps():
    e = events()
    put(e, "Jet0", 100.0, 1.0)
    put(e, "Mu0", 20.0)
    put(e, "MET", 50.0, phi=1.0)
    made = with_fault(e, fault(kind="scale", factor=1.013), "a")
    assert get(made, "Jet0") == [101.0, 1.0, 0.0]
    assert get(made, "MET") == [50.5, 0.0, 1.0]
    assert get(made, "Mu0") == get(e, "Mu0")


def test_energies_end_where_level_1_does():
    e = events()
    put(e, "Jet0", 1000.0, 1.0)
    put(e, "EG0", 250.0)
    put(e, "MET", 2000.0)
    made = with_fault(e, fault(kind="scale", factor=1.1), "a")
    assert [get(made, slot)[0] for slot in ("Jet0", "EG0", "MET")] == [1023.5, 255.5, 2047.5]
    hot = fault(kind="hot", eta=[0.0, 0.1], phi=[0.0, 0.1], et=5000.0, objects=["EG"])
    assert get(with_fault(e, hot, "a"), "EG0")[0] == 255.5


def test_a_fault_with_every_default_written_out_is_the_same():
    for given in ({"kind": "dead", "regions": [[4, 5]]}, {"kind": "scale", "factor": 0.98}):
        written = fault(**fault(**given).model_dump())
        assert written == fault(**given)
        some = events(3, REGION_FEATURES)
        some.x[:] = 100.0
        np.testing.assert_array_equal(
            with_fault(some, written, "a").x, with_fault(some, fault(**given), "a").x
        )


def test_a_dead_area_loses_its_jets_and_met_points_to_them():
    e = events()
    put(e, "Jet0", 100.0, 0.5, 3.1)
    put(e, "Jet1", 40.0, 0.5, 0.0)
    put(e, "Jet0", 60.0, 0.5, 0.0, row=1)
    put(e, "MET", 7.5, phi=0.3, row=1)
    made = with_fault(e, fault(kind="dead", eta=[0.0, 1.0], phi=[3.0, -3.0]), "a")
    assert get(made, "Jet0") == [40.0, 0.5, 0.0]
    assert get(made, "Jet1") == [0.0, 0.0, 0.0]
    assert get(made, "MET")[0] == 100.0
    assert get(made, "MET")[2] == pytest.approx(3.1, abs=0.03)
    assert np.array_equal(made.x[1], e.x[1])


def test_a_hot_area_fires_as_often_as_asked_and_is_sorted_in():
    e = events(20_000)
    for i in range(10):
        e.x[:, NAMES.index(f"Jet{i}_pt")] = 100.0 - 8 * i
    made = with_fault(
        e, fault(kind="hot", eta=[2.0, 2.2], phi=[1.0, 1.2], et=50.0, occupancy=0.2, objects=["Jet"]), "a"
    )
    fired = (made.x != e.x).any(axis=1)
    assert fired.mean() == pytest.approx(0.2, abs=0.01)
    pt = made.x[:, [NAMES.index(f"Jet{i}_pt") for i in range(10)]]
    assert (np.diff(pt, axis=1) <= 0).all()
    assert (pt[fired] == 50.0).sum(axis=1).tolist() == [1] * fired.sum()
    assert np.unique(made.x[fired, NAMES.index("MET_pt")]).tolist() == [50.0]
    swapped = with_fault(
        e.take(slice(None, None, -1)),
        fault(kind="hot", eta=[2.0, 2.2], phi=[1.0, 1.2], et=50.0, occupancy=0.2, objects=["Jet"]),
        "a",
    )
    assert np.array_equal(swapped.x[::-1], made.x)


def test_faults_of_an_image():
    e = events(3, REGION_FEATURES)
    e.x[:] = 10.0
    column = REGION_FEATURES.names.index("region_4_5")
    dead = with_fault(e, fault(kind="dead", regions=[[4, 5]]), "a")
    assert dead.x[:, column].tolist() == [0.0] * 3
    assert (dead.x == 0).sum() == 3
    assert with_fault(e, fault(kind="hot", regions=[[4, 5]], et=600.0), "a").x[0, column] == 1023
    assert (with_fault(e, fault(kind="scale", factor=1.19), "a").x == 11.0).all()
    with pytest.raises(ConfigError, match=r"rates.faults.a: .* no region_18_0"):
        with_fault(e, fault(kind="dead", regions=[[18, 0]]), "a")
    area = {"eta": [0.0, 1.0], "phi": [0.0, 1.0]}
    with pytest.raises(ConfigError, match="give regions"):
        with_fault(e, fault(kind="dead", **area), "a")
    with pytest.raises(ConfigError, match="no eta, phi or objects"):
        with_fault(e, fault(kind="dead", regions=[[4, 5]], **area), "a")
    with pytest.raises(ConfigError, match="no calorimeter regions"):
        with_fault(events(), fault(kind="dead", regions=[[4, 5]]), "a")


def test_a_product_that_is_a_step_stays_one():
    e = events()
    put(e, "Jet0", 30.0)
    for factor in (1.1, 1.15, 0.7):  # 30 * 1.15 is 34.499999999999996 in doubles
        assert get(with_fault(e, fault(kind="scale", factor=factor), "a"), "Jet0")[0] == round(30 * factor, 3)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "scale"},
        {"kind": "scale", "factor": 1.1, "eta": [0.0, 1.0]},
        {"kind": "dead"},
        {"kind": "hot", "et": 5.0},
        {"kind": "dead", "eta": [1.0, 0.0], "phi": [0.0, 1.0]},
        {"kind": "dead", "eta": [0.0, 1.0], "phi": [0.0, 1.0], "et": 5.0},
        {"kind": "hot", "regions": [[1, 2]], "factor": 2.0},
    ],
)
def test_settings_that_make_no_fault_are_refused(bad):
    with pytest.raises(ValidationError):
        fault(**bad)


def test_stored_decisions_ride_along():
    columns = {
        f"{b}_{v}": ak.Array([[1.0], [], [2.0]])
        for b in ("L1EG", "L1Mu", "L1Jet")
        for v in ("pt", "eta", "phi")
    }
    columns |= {f"L1EtSum_{v}": ak.Array([[1.0], [2.0], [3.0]]) for v in ("pt", "phi", "etSumType")}
    columns["L1_AXO_Nominal"] = np.array([True, False, True])
    features = WithBits(Level1(), ("L1_AXO_Nominal",))
    made = features.compute(columns)
    assert made.extras["L1_AXO_Nominal"].tolist() == [1, 0, 1]
    assert "L1_AXO_Nominal" in features.branches
    assert features.features.names == LEVEL1.names
    with pytest.raises(ConfigError, match="'HT' is a column already"):
        WithBits(Level1(), ("HT",))


def test_a_stored_decision_is_a_seed_and_has_efficiencies():
    table = Table(events(), {"L1_AXO_Nominal": np.array([1, 0, 0, 1])}, {"float": np.arange(4.0)})
    menu = {"AXO": SeedSection.model_validate({"object": "Bit", "branch": "L1_AXO_Nominal", "prescale": 2.0})}
    assert passing(table, "AXO", menu["AXO"]).tolist() == [True, False, False, True]
    found = menu_study(table, menu, [{"target_khz": 1.0, "threshold": 1.5}], "float", 2544, {"signal": table})
    assert found["efficiency"]["signal"]["AXO"][0] == found["efficiency"]["signal"]["all"][0] == 0.25
    assert [row[0] for row in tables(found)[-1].rows] == ["AXO", "all"]
    with pytest.raises(ConfigError, match=r"events\.bits"):
        passing(Table(events(), {}, {}), "AXO", menu["AXO"])
    with pytest.raises(ValidationError, match="takes branch"):
        SeedSection.model_validate({"object": "Bit", "branch": "L1_AXO_Nominal", "pt": 3.0})
