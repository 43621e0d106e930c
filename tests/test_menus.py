"""Seeds of a menu on level-1 columns, and the score as one more of them."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.analysis.rates import crossing_khz
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.menus import menu_study, passing, sentences, tables
from elsewhere.processors.features import LEVEL1
from elsewhere.sections import SCORE, RatesSection, SeedSection
from elsewhere.workspace import Table
from pydantic import ValidationError

N = 6


def empty(features: FeatureSet) -> Events:
    """Six crossings whose columns are 0."""
    x, identity = np.zeros((N, len(features)), np.float32), np.zeros(N, IDENTITY)
    identity["event"] = np.arange(N)
    return Events(x, np.full(N, np.nan), np.ones(N), identity, features)


@pytest.fixture
def crossings():
    """Six crossings without objects, HT 0, and a score that is their number."""
    events = empty(LEVEL1)
    return Table(events, {"HT": np.zeros(N, np.float32)}, {"float": np.arange(N, dtype=float)})


def put(table: Table, row: int, slot: str, pt: float, eta: float = 0.0) -> None:
    """An object in a slot of a crossing."""
    names = table.events.features.names
    table.events.x[row, names.index(f"{slot}_pt")] = pt
    table.events.x[row, names.index(f"{slot}_eta")] = eta


def seed(**settings) -> SeedSection:
    return SeedSection.model_validate(settings)


def test_objects_above_the_threshold_are_counted(crossings):
    put(crossings, 0, "EG0", 30.0)
    put(crossings, 1, "EG0", 29.5)
    put(crossings, 2, "Jet0", 200.0)
    put(crossings, 3, "EG0", 60.0)
    put(crossings, 3, "EG3", 30.0)
    assert passing(crossings, "a", seed(object="EG", pt=30.0)).nonzero()[0].tolist() == [0, 3]
    assert passing(crossings, "a", seed(object="EG", pt=30.0, count=2)).nonzero()[0].tolist() == [3]


def test_an_object_beyond_eta_does_not_count(crossings):
    put(crossings, 0, "Jet0", 150.0, eta=-4.0)
    put(crossings, 1, "Jet0", 150.0, eta=-2.5)
    put(crossings, 2, "Jet9", 150.0, eta=2.4)
    assert passing(crossings, "a", seed(object="Jet", pt=100.0, eta=2.5)).nonzero()[0].tolist() == [1, 2]


def test_sums(crossings):
    put(crossings, 4, "MET", 90.0)
    crossings.extras["HT"][5] = 400.0
    assert passing(crossings, "a", seed(object="MET", pt=90.0)).nonzero()[0].tolist() == [4]
    assert passing(crossings, "a", seed(object="HT", pt=360.0)).nonzero()[0].tolist() == [5]


def test_what_the_columns_do_not_hold_is_refused(crossings):
    with pytest.raises(ConfigError, match=r"rates.menu.five: asks for 5 EG.*4 of them"):
        passing(crossings, "five", seed(object="EG", pt=1.0, count=5))
    with pytest.raises(ConfigError, match=r"rates.menu.ht: .* no HT"):
        passing(replace(crossings, extras={}), "ht", seed(object="HT", pt=1.0))
    other = empty(FeatureSet("other", (Column("f", "", ""),)))
    with pytest.raises(ConfigError, match=r"rates.menu.met: .* 0 of them"):
        passing(Table(other, {}, {}), "met", seed(object="MET", pt=1.0))


@pytest.mark.parametrize(
    "bad",
    [
        {"object": "HT", "pt": 300.0, "count": 2},
        {"object": "MET", "pt": 90.0, "eta": 2.0},
        {"object": "Tau", "pt": 20.0},
        {"object": "EG", "pt": 0.0},
        {"object": "EG", "pt": 20.0, "prescale": 0.5},
    ],
)
def test_settings_that_make_no_seed_are_refused(bad):
    with pytest.raises(ValidationError):
        RatesSection.model_validate({"menu": {"seed": bad}})


def test_a_seed_cannot_take_the_scores_place():
    with pytest.raises(ValidationError, match="rename this seed"):
        RatesSection.model_validate({"menu": {SCORE: {"object": "EG", "pt": 20.0}}})
    with pytest.raises(ValidationError, match="all seeds together"):
        RatesSection.model_validate({"menu": {"all": {"object": "EG", "pt": 20.0}}})


def test_the_score_is_pure_where_no_seed_passes(crossings):
    put(crossings, 5, "Jet0", 300.0)
    put(crossings, 0, "Jet0", 300.0)
    menu = {"SingleJet180": seed(object="Jet", pt=180.0)}
    points = [{"target_khz": 1.0, "threshold": 2.5}, {"target_khz": 0.1, "failed": "too small"}]
    found = menu_study(crossings, menu, points, "float", 2544)
    one = crossing_khz(2544) / N
    (point,) = found["points"]
    assert found["menu"]["overall"]["khz"] == pytest.approx(2 * one)
    assert point["score"]["name"] == SCORE
    assert point["score"]["total"]["khz"] == pytest.approx(3 * one)
    assert point["score"]["pure"]["khz"] == point["score"]["unique"]["khz"] == pytest.approx(2 * one)
    assert point["overall"]["khz"] == pytest.approx(4 * one)
    assert point["overlap"] == {"SingleJet180": pytest.approx(1 / 3)}
    seeds, scores = tables(found)
    assert [row[0] for row in seeds.rows] == ["SingleJet180", "all"]
    assert len(scores.rows) == len(sentences(found)) == 1
    assert "at 1 kHz takes" in sentences(found)[0]
