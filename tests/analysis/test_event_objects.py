"""Events as objects, constituents, regions or numbers, by the names of their columns, and the figures of them."""

import numpy as np
import pytest
from elsewhere.analysis.event_objects import (
    PlacedObject,
    derived,
    kind_of,
    map_columns,
    placed_objects,
    region_image,
    slots_of,
    unit_step,
)
from elsewhere.analysis.plots_displays import (
    EventDisplay,
    EventImage,
    EventNumbers,
    area,
    plot_displays,
    plot_images,
    plot_quantiles,
)
from elsewhere.processors.features import DIJET, LEVEL1
from elsewhere.processors.regions import REGION_FEATURES

CONSTITUENTS = [f"Cand{i}_{v}" for i in range(3) for v in ("pt", "eta", "phi")]
OBJECTS = [
    f"{n}_{v}" for n in ("MET", "Electron0", "Muon0", "Jet0", "Jet1", "FatJet0") for v in ("pt", "eta", "phi")
]


def test_the_columns_say_what_they_are():
    assert kind_of(LEVEL1.names) == kind_of(OBJECTS) == "objects"
    assert kind_of(REGION_FEATURES.names) == "regions"
    assert kind_of(CONSTITUENTS) == "constituents"
    assert kind_of(DIJET.names) == kind_of(()) == kind_of(["pt_1", "eta_1", "phi_1"]) == "numbers"
    assert kind_of(["Jet0_pt", "Jet0_eta"]) == "numbers"  # without phi it has no place
    assert len(slots_of(LEVEL1.names)) == 19
    assert slots_of(LEVEL1.names)["Mu2"] == ("Mu", (21, 22, 23))


def test_objects_are_named_and_empty_slots_are_none():
    x = dict.fromkeys(OBJECTS, 0.0)
    x |= {
        "MET_pt": 40.0,
        "MET_phi": 1.0,
        "Jet1_pt": 50.0,
        "Jet1_eta": -2.0,
        "Jet1_phi": 3.0,
        "FatJet0_pt": 300.0,
        "Muon0_eta": 1.0,
    }
    assert placed_objects(x) == (
        PlacedObject("MET", "MET", 40.0, 0.0, 1.0), PlacedObject("jet 2", "jet", 50.0, -2.0, 3.0),
        PlacedObject("large-R jet 1", "large-R jet", 300.0, 0.0, 0.0),
    )  # fmt: skip
    assert [o.name for o in placed_objects({"EG0_pt": 5.0, "EG0_eta": 0.0, "EG0_phi": 0.0})] == ["e/gamma 1"]


def test_what_follows_of_objects():
    x = np.zeros((2, len(OBJECTS)))
    at = {n: i for i, n in enumerate(OBJECTS)}
    x[0, [at["MET_pt"], at["Electron0_pt"], at["Jet0_pt"], at["Jet1_pt"]]] = 99.0, 10.0, 30.0, 20.0
    found = {d.name: d.values.tolist() for d in derived(OBJECTS, x, {})}
    assert found == {
        "sum pT": [60.0, 0.0],
        "multiplicity": [3.0, 0.0],
        "largest pT": [30.0, 0.0],
        "n jet": [2.0, 0.0],
    }


def test_what_follows_of_constituents():
    x = np.array([[30.0, 0.3, 0.4, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 9])
    found = {d.name: d.values.tolist() for d in derived(CONSTITUENTS, x, {})}
    assert found["width"] == pytest.approx([30 * 0.5 / 40, 0.0])
    assert found["pT dispersion"] == pytest.approx([np.sqrt(1000) / 40, 0.0])
    assert (found["sum pT"], found["multiplicity"]) == ([40.0, 0.0], [2.0, 0.0])


def test_what_follows_of_regions_and_numbers():
    x = np.zeros((1, 252))
    names = list(REGION_FEATURES.names)
    x[0, [names.index("region_2_0"), names.index("region_17_6"), names.index("region_3_7")]] = (
        10.0,
        20.0,
        10.0,
    )
    found = {d.name: d.values.tolist() for d in derived(names, x, {})}
    assert found == {"regions not empty": [3.0], "largest region": [20.0], "central share": [0.75]}
    pts = {"pt_1": np.array([3.0]), "pt_2": np.array([2.0]), "eta_1": np.array([9.0])}
    assert [(d.name, d.values.tolist()) for d in derived(["m"], np.ones((1, 1)), pts)] == [("sum pT", [5.0])]
    assert derived(["m"], np.ones((1, 1)), {"pt_1": np.array([3.0])}) == ()
    assert derived(["MET_pt", "MET_eta", "MET_phi"], np.ones((1, 3)), {}) == ()


def test_a_region_is_found_at_its_place_in_gev():
    image = region_image({n: float(i) for i, n in enumerate(REGION_FEATURES.names)}, unit_step("0.5 GeV"))
    assert image.shape == (18, 14)
    assert image[3, 5] == 0.5 * (3 * 14 + 5)
    assert (unit_step("GeV"), unit_step("")) == (1.0, 1.0)


def test_a_picture_is_drawn_from_energies():
    names, x = map_columns(LEVEL1.names, np.full((2, 57), np.e - 1))
    assert (names[:2], len(names)) == (("ln MET_pt", "ln EG0_pt"), 19)
    np.testing.assert_allclose(x, 1.0)
    assert map_columns(["a"], np.full((1, 1), -2.0))[1].tolist() == [[-2.0]]
    assert map_columns(REGION_FEATURES.names, np.zeros((1, 252)))[1].shape == (1, 252)


# Figures


def objects(*pts):
    return [PlacedObject(f"jet {i + 1}", "jet", pt, 0.5 * i, 1.0) for i, pt in enumerate(pts)]


def texts(ax):
    return [t.get_text() for t in ax.texts]


def test_an_event_shows_every_object_with_its_name_and_an_area_by_its_pt():
    first = [
        *objects(100.0, 25.0),
        PlacedObject("MET", "MET", 30.0, 0.0, -2.0),
        PlacedObject("muon 1", "muon", 5.0, -1.0, 3.1),
    ]
    figure = plot_displays(
        [EventDisplay(1, "one", ["score 3"], first), EventDisplay(2, "two", [], objects(50.0))]
    )
    left, right = [ax for ax in figure.axes if ax.get_visible()]
    areas = [float(c.get_sizes()[0]) for c in left.collections if len(c.get_offsets())]
    assert sorted(areas) == pytest.approx([area(5, 100), area(25, 100), area(100, 100)])
    assert area(25, 100) == pytest.approx(area(100, 100) / 4)
    assert {
        "1",
        "one",
        "score 3",
        "jet 1  100 GeV",
        "MET  30 GeV",
        "muon 1  5 GeV",
        "j1",
        "j2",
        "m1",
        "MET",
    } <= set(texts(left))
    assert [line.get_ydata()[0] for line in left.lines if line.get_linestyle() == "--"] == [-2.0]
    assert left.get_xlim() == right.get_xlim()
    told = [t.get_text() for t in figure.legends[0].get_texts()]
    assert told == ["jet", "muon", "10 GeV", "25 GeV", "100 GeV"]


def test_of_many_objects_the_softest_are_counted():
    figure = plot_displays([EventDisplay(1, "", [], objects(*np.arange(1.0, 15.0)))])
    assert "and 5 softer" in texts(figure.axes[0])
    assert len([c for c in figure.axes[0].collections if len(c.get_offsets())]) == 14


def test_constituents_are_drawn_about_the_axis():
    inside = [PlacedObject(f"constituent {i}", "constituent", 10.0, 0.7, -0.2) for i in range(3)]
    figure = plot_displays([EventDisplay(1, "", [], inside)])
    (ax,) = figure.axes
    assert ax.get_xlim() == pytest.approx((-0.77, 0.77))
    assert ax.get_ylim() == ax.get_xlim()


def test_events_without_objects_are_drawn_too():
    figure = plot_displays([EventDisplay(1, "empty", [], [])])
    figure.canvas.draw()


def test_an_image_is_in_gev_on_one_scale():
    et = np.zeros((18, 14))
    et[3, 5], et[0, 0] = 120.0, 2.0
    figure = plot_images([EventImage(i, "t", et * i) for i in (1, 2, 3, 4)])
    shown = [ax.images[0] for ax in figure.axes if ax.images]
    assert len(shown) == 4
    assert {i.norm.vmax for i in shown} == {480.0}
    assert {i.norm.vmin for i in shown} == {2.0}
    assert shown[0].get_array()[3, 5] == 120.0
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown[0].get_array()))[4, 4]
    plot_images([EventImage(1, "nothing", np.zeros((18, 14)))]).canvas.draw()


def test_quantiles_are_a_line_per_event():
    figure = plot_quantiles(["a", "b"], [EventNumbers(1, "x", [0.1, 0.99]), EventNumbers(2, "y", [0.5, 0.5])])
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in lines] == [[0.1, 0.99], [0.5, 0.5]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["1: x", "2: y"]
