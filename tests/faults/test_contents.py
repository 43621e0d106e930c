"""Files that can be read and hold something odd: not a number, constants, nothing, negative and huge weights."""

import json
import re
import shutil

import awkward as ak
import numpy as np
import pytest
import uproot
from elsewhere import hunting
from elsewhere.analysis.dijet import basis, fit_background
from elsewhere.analysis.hunt import hunt
from elsewhere.analysis.rates import rate_at, threshold_for
from elsewhere.analysis.spectrum import Spectra
from elsewhere.errors import ElsewhereError, FitError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.scores.autoencoder import Autoencoder
from elsewhere.models.scores.weak_network import WeakNetwork
from elsewhere.models.scores.weak_trees import WeakTrees
from elsewhere.models.wrappers import Standardized
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process
from elsewhere.search import open_search
from elsewhere.stages import silent
from elsewhere.workspace import Workspace

from .conftest import EVENTS, checked, columns, write

EDGES = np.arange(2500.0, 6501.0, 100.0)


def spoiled(raw, branch, value, events=(5, 50, 250, 400, 599)):
    """``value`` for the hardest jet (or the event) of five events."""
    out = dict(raw)
    if isinstance(raw[branch], ak.Array):
        counts, flat = ak.num(raw[branch]), ak.to_numpy(ak.flatten(raw[branch])).copy()
        hardest = ak.to_numpy(ak.argmax(raw["FatJet_pt"], axis=1))
        flat[(np.cumsum(counts) - counts + hardest)[list(events)]] = value
        out[branch] = ak.unflatten(flat, counts)
    else:
        out[branch] = raw[branch].copy()
        out[branch][list(events)] = value
    return out


@pytest.mark.fault(13)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("branch", ["FatJet_tau2", "FatJet_mass", "FatJet_pt", "genWeight"])
def test_five_values_that_are_no_numbers_are_never_lost_in_silence(small, good, branch, value):
    bad = write(small.folder / "bad.root", spoiled(columns(seed=3), branch, value))
    code, said = small.write(bad, good.a).call("process", "--strict")
    assert code == 1, said
    assert re.search(r"bad\.root.*not finite", said.replace("\n", " "))
    code, said = small.call("process")
    counts = small.counts()
    if code == 3:
        assert [q["path"] for q in counts["quarantine"]] == [str(bad)]
        assert counts["datasets"]["data"]["kept"] == EVENTS
    else:
        # A policy that masks: the five are counted, by name, and the others are there.
        assert code == 0
        assert "not finite" in str(counts)
        assert counts["datasets"]["data"]["kept"] == 2 * EVENTS - 5
    with uproot.open(small.space / "histograms.root") as file:
        assert np.isfinite(file["data/nominal/all"].values(flow=True)).all()


@pytest.mark.fault(13)
def test_strict_names_column_number_and_first_event(tmp_path):
    bad = write(tmp_path / "bad.root", spoiled(columns(), "FatJet_tau2", np.nan, events=(5, 50, 60, 70, 199)))
    with pytest.raises(InputError, match=r"bad\.root.*tau.* not finite in 5 .*run 1, event 6"):
        process(checked(bad), Dijet(), tmp_path / "out", chunk=200, scheduler="loop")
    assert not (tmp_path / "out" / "histograms.root").exists()


def toy(n, seed, constant, first=0):
    """Four columns; those of ``constant`` are one tenth everywhere, which no binary number is."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x[:, list(constant)] = np.float32(0.1)
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    features = FeatureSet("toy", tuple(Column(f"f{i}", "", "") for i in range(4)))
    return Events(x, np.full(n, np.nan), rng.uniform(0.5, 1.5, n), identity, features)


@pytest.mark.fault(14)
@pytest.mark.parametrize("constant", [(2,), (0, 1, 2, 3)], ids=["one", "all"])
@pytest.mark.parametrize(
    "score",
    [WeakTrees(members=1, rounds=20), WeakNetwork(hidden=(8,), epochs=2, best=1), Autoencoder(hidden=(8,), latent=2, epochs=2)],
    ids=["trees", "network", "autoencoder"],
)  # fmt: skip
def test_constant_columns_divide_by_nothing(score, constant):
    fitted = score.fit(toy(400, 1, constant), toy(400, 2, constant, first=1000))
    events = toy(50, 3, constant, first=5000)
    values = fitted.score(events)
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 1e4
    if len(constant) == 4:
        assert np.ptp(values) < 1e-6


@pytest.mark.fault(14)
@pytest.mark.parametrize("value", [1.0, 0.1])
def test_a_scaler_refuses_a_constant_column_by_name(value):
    events = toy(400, 1, (2,))
    events.x[:, 2] = value
    with pytest.raises(InputError, match="column f2 is constant"):
        Standardized(WeakTrees(members=1)).fit(events, events)


def _empty(raw):
    return {k: v[:0] for k, v in raw.items()}


@pytest.mark.fault(15)
def test_a_file_without_events_is_a_file_of_zero_events(small, good):
    empty = write(small.folder / "empty.root", _empty(columns()))
    code, said = small.write(empty, good.a).call("process")
    assert code == 0, said
    counts = small.counts()["datasets"]["data"]
    assert (counts["files"], counts["entries"], counts["read"], counts["kept"]) == (2, EVENTS, EVENTS, EVENTS)
    assert not small.counts().get("quarantine")
    assert small.call("verify")[0] == 0


NOTHING = """
import awkward as ak
import numpy as np
from elsewhere.events import Column, FeatureSet
from elsewhere.processors.features import FunctionFeatures
MASS = Column("m_jj", "GeV", "mass", 0.0, 13000.0)
def nothing(c):
    m = np.full(len(c["FatJet_pt"]), 3000.0)
    return {"a": m / 1000, "m_jj": m, "keep": m > 1e9}
FEATURES = FunctionFeatures(FeatureSet("none", (Column("a", "GeV", "one"),), MASS), ("FatJet_pt",), nothing)
"""


@pytest.fixture
def nothing(small, good):
    """A search whose selection no event passes."""
    from .conftest import SEARCH

    (small.folder / "nothing.py").write_text(NOTHING)
    return small.write(good.a, text=SEARCH.replace("features: dijet", "features: nothing:FEATURES"))


@pytest.mark.fault(16)
def test_no_event_after_the_cuts_is_a_complete_pass_with_nothing_in_it(nothing):
    code, said = nothing.call("process")
    assert code == 0, said
    counts = nothing.counts()["datasets"]["data"]
    assert (counts["read"], counts["kept"]) == (EVENTS, 0)
    assert [step[1] for step in counts["cutflow"]] == [EVENTS, 0]
    assert len(Workspace(nothing.space).read_table("data")) == 0
    with uproot.open(nothing.space / "histograms.root") as file:
        assert file["data/nominal/all"].values(flow=True).sum() == 0
    assert nothing.call("verify")[0] == 0


@pytest.mark.fault(16)
def test_the_hunt_among_no_events_states_nothing(nothing):
    assert nothing.call("process")[0] == 0
    shutil.copytree(nothing.space / "columns", nothing.space / "scores")
    search = open_search(nothing.folder / "search.yaml")
    hunting.run_hunt(search, silent)
    found = json.loads((nothing.space / "hunt.json").read_text())["search"]
    assert found["overall"] is None
    assert hunting.outcome(search)[1].strip() == "no events in 2500-6500 GeV: no p-value"


@pytest.mark.fault(16)
def test_a_search_without_events_runs_to_a_p_value_of_null(nothing):
    code, said = nothing.call("hunt")
    assert code == 0, said
    found = json.loads((nothing.space / "hunt.json").read_text())["search"]
    assert found["overall"] is None
    assert found["best"] is None
    assert "no events" in said


@pytest.mark.fault(17)
def test_negative_and_zero_weights_are_summed_with_their_squares(tmp_path):
    raw = columns()
    raw["genWeight"] = np.tile(np.array([-1, 0, 2], np.float32), EVENTS // 3)
    found = checked(write(tmp_path / "a.root", raw))
    report = process(found, Dijet(), tmp_path / "out", chunk=200, scheduler="loop").to_json()
    with uproot.open(tmp_path / "out" / "histograms.root") as file:
        one = file["data/nominal/all"]
        assert one.values(flow=True).sum() == pytest.approx(EVENTS / 3)
        assert one.variances(flow=True).sum() == pytest.approx(5 * EVENTS / 3)
    counts = report["datasets"]["data"]
    assert counts["sum_weights"] == pytest.approx(EVENTS / 3)
    assert counts["effective_events"] == pytest.approx((EVENTS / 3) ** 2 / (5 * EVENTS / 3))


@pytest.mark.fault(17)
def test_no_toys_are_thrown_from_negative_bins():
    counts = np.full((1, len(EDGES) - 1), 100.0)
    counts[0, 7] = -3.0
    with pytest.raises(FitError, match=r"3200-3300 GeV holds -3 .*not negative"):
        hunt([Window(3300.0, 3700.0)], [Spectra(EDGES, (1.0,), counts)], energy=13_000.0, signal_width=0.05, toys=10, seed=1)  # fmt: skip
    with pytest.raises(FitError, match="negative"):
        fit_background(counts[0], basis(EDGES, 2, 13_000.0))


@pytest.mark.fault(17)
@pytest.mark.parametrize("weight", [-1.0, 0.0])
def test_the_hunt_refuses_weights_that_are_not_one(small, weight):
    """Training refuses negative weights, the hunt counts events: either says so before a p-value is quoted."""
    raw = columns(2000)
    raw["genWeight"][::7] = weight
    code, said = small.write(write(small.folder / "a.root", raw)).call("hunt")
    assert code == 1, said
    assert "weight" in said
    assert not (small.space / "hunt.json").exists()


@pytest.fixture
def huge(small):
    """A search on 600 events, one of which weighs 1e12."""
    raw = columns()
    raw["genWeight"][77] = 1e12
    return small.write(write(small.folder / "a.root", raw))


@pytest.mark.fault(18)
def test_one_huge_weight_is_reported_with_the_effective_number_of_events(huge):
    code, said = huge.call("process")
    assert code == 0, said
    counts = huge.counts()["datasets"]["data"]
    assert counts["effective_events"] == pytest.approx(1.0, abs=1e-6)
    assert counts["largest_weight_share"] == pytest.approx(1.0, abs=1e-6)
    assert re.search(r"data.*one event.*weight", said), "the outlier is said, not only written"


@pytest.mark.fault(18)
def test_no_p_value_rests_on_one_event(huge):
    code, said = huge.call("hunt")
    assert code == 1, said
    assert "weight" in said
    assert not (huge.space / "hunt.json").exists()


@pytest.mark.fault(18)
def test_no_rate_rests_on_one_crossing():
    score, weight = np.linspace(0, 1, 1000), np.ones(1000)
    assert rate_at(score, weight, 0.5, 2544).n_pass == 500
    weight[700] = 1e12
    for quote in (lambda: rate_at(score, weight, 0.5, 2544), lambda: threshold_for(score, weight, 1.0, 2544)):
        with pytest.raises(FitError, match="one of 1000 crossings carries 100 %"):
            quote()


@pytest.mark.fault(18)
@pytest.mark.parametrize("score", [WeakTrees(members=1, rounds=20), Autoencoder(hidden=(8,), latent=2, epochs=2)], ids=["trees", "autoencoder"])  # fmt: skip
def test_no_model_learns_from_one_event(score):
    reference, data = toy(400, 1, ()), toy(400, 2, (), first=1000)
    reference.weight[77] = 1e12
    with pytest.raises(ElsewhereError, match="one of 400 events carries 100 %"):
        score.fit(reference, data)
