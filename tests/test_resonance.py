"""Where a reference that starts from simulation gets it from, and the hunt that follows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from elsewhere import hunting, report_hunt, resonance
from elsewhere.analysis.spectrum import Spectra
from elsewhere.config import HuntSection, SearchConfig
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.store import load
from elsewhere.search import template
from elsewhere.workspace import Table, Workspace, read_json


def config(reference, **datasets):
    raw = yaml.safe_load(template("dijet"))
    raw["reference"] = reference
    raw["events"]["datasets"] |= datasets
    return SearchConfig.model_validate(raw)


def events(n=4000, run=1, shift=0.0):
    rng = np.random.default_rng(run)
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["event"] = run, np.arange(n)
    x = rng.normal(shift, 1.0, (n, 2)).astype(np.float32)
    features = FeatureSet("two", (Column("a", "", ""), Column("b", "", "")), Column("m", "GeV", ""))
    return Events(x, rng.uniform(2800, 4200, n), np.ones(n), identity, features)


def test_only_a_reference_that_starts_from_simulation_is_given_it(tmp_path, monkeypatch):
    space = Workspace(tmp_path)
    assert resonance.simulation(space, config({"method": "Sidebands"})) is None
    with pytest.raises(ConfigError, match="Salad starts from simulation; add a dataset with role: reference"):
        resonance.simulation(space, config({"method": "Salad"}))
    asked = []
    monkeypatch.setattr(
        Workspace, "read_table", lambda _self, name: asked.append(name) or Table(events(), {}, {})
    )
    both = config(
        {"method": "Salad"},
        one={"files": "a.root", "role": "reference"}, two={"files": "b.root", "role": "reference"},
    )  # fmt: skip
    assert len(resonance.simulation(space, both)) == 8000
    assert asked == ["one", "two"]


def test_a_window_is_learnt_against_the_reweighted_simulation(tmp_path):
    settings = {"method": "Salad", "epochs": 2, "best": 1, "width": 300.0}
    asked = config(settings, mc={"files": "mc.root", "role": "reference"})
    asked = SearchConfig.model_validate(
        {**asked.model_dump(), "score": {"method": "WeakTrees", "members": 1, "rounds": 20},
         "representation": {"method": "Identity"}, "folds": 2}
    )  # fmt: skip
    window = Window(3300.0, 3700.0)
    (record,) = resonance.fit_windows(events(), events(6000, 2, 0.2), asked, [(window, tmp_path / "m")], "k")
    inside = Window(3300.0, 3700.0).contains(events(6000, 2, 0.2).mass).sum()
    assert record["reference_events"] == inside  # the simulation of the window, not the data's sidebands


def test_data_that_the_reference_cannot_make_are_not_learnt_from_but_scored(tmp_path):
    flow = {"method": "Cathode", "kind": "nsf", "transforms": 1, "hidden": [8], "epochs": 1, "best": 1}
    asked = SearchConfig.model_validate(
        {**config(flow).model_dump(), "score": {"method": "WeakTrees", "members": 1, "rounds": 20},
         "representation": {"method": "Identity"}, "folds": 2}
    )  # fmt: skip
    window, data = Window(3300.0, 3700.0), events()
    x = np.abs(data.x)
    x[::20, 0] = 0.0
    data = replace(data, x=x)
    (record,) = resonance.fit_windows(data, None, asked, [(window, tmp_path / "m")], "k")
    inside = data.take(window.contains(data.mass))
    zeros = (inside.x[:, 0] == 0).sum()
    assert record["data_events"] + record["left_out_events"] == len(inside)
    assert zeros <= record["left_out_events"] < zeros + 15
    scored = load(tmp_path / "m")[0].score(inside)
    assert np.isfinite(scored).all()


def test_windows_learnt_together_are_those_learnt_alone(tmp_path):
    asked = config({"method": "Sidebands", "width": 200.0}).model_dump()
    network = {"method": "NetworkEnsemble", "members": 2, "hidden": [8], "epochs": 2, "best": 1}
    asked = SearchConfig.model_validate(
        {**asked, "score": network, "representation": {"method": "Identity"}, "folds": 2}
    )
    windows = [(Window(low, low + 300.0), tmp_path / f"{low:g}") for low in (3200.0, 3500.0)]
    records = resonance.fit_windows(events(), None, asked, windows, "k")
    for (window, folder), record in zip(windows, records, strict=True):
        assert [record] == resonance.fit_windows(events(), None, asked, [(window, tmp_path / "alone")], "k")
        mine = events().take(window.contains(events().mass))
        assert np.array_equal(load(folder)[0].score(mine), load(tmp_path / "alone")[0].score(mine))


def hunted(tmp_path, monkeypatch, **settings):
    """The hunt stage on given spectra: 1 % pass, and 160 more do in 3300-3500 GeV in the window around it."""
    asked = config({"method": "Sidebands"}).model_dump()
    scan = {"first": 3000.0, "last": 4200.0, "step": 400.0, "width": 400.0}
    asked["hunt"] |= {"windows": scan, "cuts": [0.01], "control": False, "toys": 20, **settings}
    search = SimpleNamespace(space=Workspace(tmp_path), config=SearchConfig.model_validate(asked))
    edges = resonance.fit_edges(search.config.hunt)
    centre, rng = 0.5 * (edges[1:] + edges[:-1]), np.random.default_rng(4)
    windows, made = search.config.hunt.windows.windows(), []
    for window in windows:
        tight = rng.poisson(300 * np.exp(-(centre - edges[0]) / 500)).astype(float)
        tight += 80.0 * ((window.centre == 3400) & (centre > 3300) & (centre < 3500))
        loose = tight + rng.poisson(29_700 * np.exp(-(centre - edges[0]) / 500))
        made.append(Spectra(edges, (1.0, 0.01), np.stack([loose, tight])))
    monkeypatch.setattr(hunting, "sample", lambda *_: SimpleNamespace(table=SimpleNamespace(events=events())))
    monkeypatch.setattr(hunting, "spectra_of", lambda *_: (windows, made))
    monkeypatch.setattr(hunting, "_truth", lambda *_: {})
    hunting.run_hunt(search, lambda *_: None)
    return read_json(search.space.path("hunt.json"))["search"], hunting.outcome(search)


@pytest.mark.parametrize("background", ["dijet", "gaussian_process", "abcd"])
def test_the_hunt_runs_with_every_background(tmp_path, monkeypatch, background):
    found, said = hunted(tmp_path, monkeypatch, background=background)
    assert found["background"] == background
    assert found["best"]["window"] == {"low": 3200.0, "high": 3600.0}
    assert found["best"]["cut"] == 0.01
    assert found["best"]["z"] > 4
    assert found["overall"]["toys"] == 20
    assert found["validity"]["valid"]
    # the dijet function has an order, the others have none
    assert (found["best"]["order"] > 0) == (background == "dijet")
    assert "bumphunter" not in found
    assert not any("BumpHunter" in line for line in said)


def test_bumphunter_is_in_the_numbers_the_summary_and_the_report(tmp_path, monkeypatch):
    found, said = hunted(tmp_path, monkeypatch, bumphunter=True)
    before, after = found["bumphunter"]
    assert (before["cut"], after["cut"]) == (1.0, 0.01)
    assert 3200 <= after["low"] < 3400 < after["high"] <= 3600
    assert after["toys"] == 20
    lines = [line for line in said if "BumpHunter" in line]
    assert "before the cut" in lines[0]
    assert "after the cut of 1 %: 3300-3500 GeV" in lines[1]
    tables = report_hunt._scan_part(found, "").tables
    assert [row[0] for row in tables[1].rows] == ["no cut", "cut 1%"]
    assert tables[1].rows[1][5].startswith("< ")
    del found["bumphunter"]
    assert len(report_hunt._scan_part(found, "").tables) == 1


def test_signal_fits_are_in_the_summary_and_the_report(tmp_path, monkeypatch):
    found, said = hunted(tmp_path, monkeypatch, statistic="fit")
    best = found["best"]
    assert best["mass"] in (3300.0, 3400.0)
    assert best["z"] > 4
    text = f"largest excess at {best['mass']:.0f} GeV at a cut of 1 % (window 3200-3600 GeV): {best['signal']:.0f} +-"
    assert any(text in line for line in said)
    table = report_hunt._scan_part(found, "").tables[0]
    assert table.columns[-2:] == ("mass [GeV]", "signal")
    row = next(r for r in table.rows if r[:2] == ("3200–3600", "1%"))
    assert row[-2] == f"{best['mass']:g}"
    assert row[-1].startswith(f"{best['signal']:.1f}")
    counted, lines = hunted(tmp_path, monkeypatch)
    assert counted["best"]["mass"] is None
    assert any("events on" in line and "largest excess in 3200-3600" in line for line in lines)
    assert "signal" not in report_hunt._scan_part(counted, "").tables[0].columns


def test_a_slow_background_has_fewer_toys_unless_they_are_asked_for():
    hunt = config({"method": "Sidebands"}).hunt.model_dump(exclude={"toys"})
    asked = [
        HuntSection.model_validate({**hunt, **more}).toys
        for more in ({}, {"background": "abcd"}, {"background": "gaussian_process"}, {"statistic": "fit"})
    ]
    assert asked == [40_000, 40_000, 2000, 10_000]
    process = HuntSection.model_validate({**hunt, "background": "gaussian_process", "toys": 50_000})
    assert process.toys == 50_000
    with pytest.raises(ValueError, match="background"):
        HuntSection.model_validate({**hunt, "background": "spline"})
    with pytest.raises(
        ValueError, match="statistic: fit puts its signal on the dijet function; background is abcd"
    ):
        HuntSection.model_validate({**hunt, "background": "abcd", "statistic": "fit"})
