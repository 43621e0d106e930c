"""Where a reference that starts from simulation gets it from."""

import numpy as np
import pytest
import yaml
from elsewhere import resonance
from elsewhere.config import SearchConfig
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window
from elsewhere.models.store import load
from elsewhere.search import template
from elsewhere.workspace import Table, Workspace


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
    record = resonance.fit_window(
        events(), events(6000, 2, 0.2), asked, Window(3300.0, 3700.0), tmp_path / "m", "k"
    )
    inside = Window(3300.0, 3700.0).contains(events(6000, 2, 0.2).mass).sum()
    assert record["reference_events"] == inside  # the simulation of the window, not the data's sidebands


def test_windows_learnt_together_are_those_learnt_alone(tmp_path):
    asked = config({"method": "Sidebands", "width": 200.0}).model_dump()
    network = {"method": "NetworkEnsemble", "members": 2, "hidden": [8], "epochs": 2, "best": 1}
    asked = SearchConfig.model_validate(
        {**asked, "score": network, "representation": {"method": "Identity"}, "folds": 2}
    )
    windows = [(Window(low, low + 300.0), tmp_path / f"{low:g}") for low in (3200.0, 3500.0)]
    records = resonance.fit_windows(events(), None, asked, windows, "k")
    for (window, folder), record in zip(windows, records, strict=True):
        assert record == resonance.fit_window(events(), None, asked, window, tmp_path / "alone", "k")
        mine = events().take(window.contains(events().mass))
        assert np.array_equal(load(folder)[0].score(mine), load(tmp_path / "alone")[0].score(mine))
