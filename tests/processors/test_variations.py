"""Variations in the stream: an axis of the histogram, rows or weights of the columns, computed only where something changed."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.core import Recipe, Unit, finish_unit
from elsewhere.processors.features import Dijet, Level1
from elsewhere.processors.nuisances.registry import build_nuisance
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.nano import write_nano
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace, read_chunk

from .conftest import dijet_columns

JES = build_nuisance("jes", {"kind": "JetEnergyScale", "jets": "FatJet", "uncertainty": 0.05})


class Doubled:
    """A weight nuisance without a file: 1.5^nu."""

    name, branches, optional = "doubled", (), ()

    def factor(self, columns, nu):
        return np.full(len(columns["event"]), 1.5**nu)


class Mass:
    """A score that follows the mass, so that it must change with the jets."""

    def score(self, events):
        return events.mass / 1000.0


def flat(n=2000, seed=3):
    raw = dijet_columns(n, seed)
    return {f"FatJet_{f}": raw["FatJet"][f] for f in raw["FatJet"].fields} | {
        k: raw[k] for k in ("run", "luminosityBlock", "event", "genWeight")
    }


def unit(n=2000):
    return Unit("d", "f.root", "00000000-0000-0000-0000-000000000001", 0, n)


def recipe(*nuisances, shifts=(-1.0, 1.0)):
    return Recipe(Dijet(), {"m": Mass()}, {"m": [3.0]}, nuisances={"d": nuisances}, shifts=shifts)


def test_a_scale_moves_masses_scores_selection_and_histogram_as_the_formula_says():
    columns = flat()
    chunk = finish_unit(columns, recipe(JES), unit())
    scaled = {**columns, "FatJet_pt": columns["FatJet_pt"] * np.float32(1.05), "FatJet_mass": columns["FatJet_mass"] * np.float32(1.05)}  # fmt: skip
    want = finish_unit(scaled, recipe(), unit())
    up = next(v for v in chunk.varied if v.label == "jes_up")
    assert len(up.events) == len(want.events) > len(chunk.events)
    np.testing.assert_allclose(up.events.mass, want.events.mass, rtol=1e-6)
    np.testing.assert_allclose(up.scores["m"], want.scores["m"], rtol=1e-6)
    at = chunk.variations.index("jes_up")
    np.testing.assert_allclose(chunk.histograms[:, at], want.histograms[:, 0], rtol=1e-12)
    assert not np.allclose(chunk.histograms[:, at], chunk.histograms[:, 0])


def test_weights_change_nothing_but_weights():
    chunk = finish_unit(flat(), recipe(Doubled()), unit())
    np.testing.assert_allclose(chunk.weights["doubled_up"], 1.5 * chunk.events.weight)
    np.testing.assert_allclose(chunk.weights["doubled_down"], chunk.events.weight / 1.5)
    assert chunk.varied == ()
    at = chunk.variations.index("doubled_up")
    np.testing.assert_allclose(chunk.histograms[0, at], 1.5 * chunk.histograms[0, 0])
    np.testing.assert_allclose(chunk.histograms[1, at], 2.25 * chunk.histograms[1, 0])


def test_nominal_is_the_same_with_and_without_variations():
    one, two = (finish_unit(flat(), recipe(*n), unit()) for n in ((), (JES, Doubled())))
    np.testing.assert_array_equal(one.events.x, two.events.x)
    np.testing.assert_array_equal(one.histograms[:, 0], two.histograms[:, 0])


def test_shifts_are_continuous_and_labelled():
    chunk = finish_unit(flat(), recipe(JES, shifts=(-1.0, 0.5, 1.0)), unit())
    assert chunk.variations == ["nominal", "jes_down", "jes_p0p5", "jes_up"]


def test_level_1_computes_again_what_was_touched_and_gets_the_same():
    found = preflight({"t": [str(shipped("ttbar.root"))]}, Level1())
    from elsewhere.processors.reading import read_columns

    nuisance = build_nuisance("jes", {"kind": "JetEnergyScale", "jets": "L1Jet", "uncertainty": 0.1, "met": "L1EtSum"})  # fmt: skip
    what = Recipe(Level1(), nuisances={"t": (nuisance,)})
    record = found["t"][0]
    one = Unit("t", record.path, record.uuid, 0, 1000)
    columns, _ = read_columns(one, what)
    shifted = {**columns, **nuisance.shift(columns, 1.0, np.zeros(1000))}
    partial = Level1().recompute(
        Level1().compute(columns), shifted, ["L1Jet_pt", "L1EtSum_pt", "L1EtSum_phi"]
    )
    whole = Level1().compute(shifted)
    np.testing.assert_array_equal(partial.x, whole.x)
    np.testing.assert_array_equal(partial.extras["HT"], whole.extras["HT"])
    assert not np.array_equal(partial.x, Level1().compute(columns).x)


def test_a_variation_that_touches_no_feature_computes_nothing_again():
    class Counting(Dijet):
        calls = 0

        def compute(self, columns):
            Counting.calls += 1
            return super().compute(columns)

    other = build_nuisance("ak4", {"kind": "JetEnergyScale", "jets": "Jet", "uncertainty": 0.05})
    columns = flat() | {"Jet_pt": ak.Array([[30.0]] * 2000)}
    chunk = finish_unit(columns, Recipe(Counting(), nuisances={"d": (other,)}), unit())
    assert Counting.calls == 1
    np.testing.assert_array_equal(chunk.varied[0].events.mass, chunk.events.mass)


def test_the_stream_keeps_variations_of_the_datasets_that_have_them(tmp_path):
    for name, seed in (("mc", 1), ("data", 2)):
        write_nano(tmp_path / f"{name}.root", dijet_columns(1500, seed))
    found = preflight({n: [str(tmp_path / f"{n}.root")] for n in ("mc", "data")}, Dijet())
    report = process(
        found, Dijet(), tmp_path / "out", scheduler="loop", chunk=600, nuisances={"mc": (JES, Doubled())}
    )
    h = report.histogram
    assert list(h.axes["variation"]) == ["nominal", "jes_down", "jes_up", "doubled_down", "doubled_up"]
    total = {
        v: h[{"dataset": "mc", "variation": v, "cut": "all"}].sum(flow=True).value
        for v in h.axes["variation"]
    }
    paths = sorted((tmp_path / "out" / "columns" / "mc").glob("*.parquet"))
    for label in ("nominal", "jes_down", "jes_up"):
        assert total[label] == pytest.approx(sum(read_chunk(p, label).events.weight.sum() for p in paths))
    assert total["doubled_up"] == pytest.approx(1.5 * total["nominal"])
    assert h[{"dataset": "data", "variation": "jes_up", "cut": "all"}].sum(flow=True).value == 0
    assert len(Workspace(tmp_path / "out").read_table("mc")) == report.datasets["mc"].kept
    with pytest.raises(InputError, match="no variation 'jes_up'"):
        read_chunk(next((tmp_path / "out" / "columns" / "data").glob("*.parquet")), "jes_up")
