"""The interpretation of a finished search: made-up events of a known score, latent spaces, weights, and what the page says."""

import json
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
import yaml
from elsewhere import interpreting, report_interpretation
from elsewhere.chunks import Chunk
from elsewhere.config import SearchConfig
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, fold_of, identity_hash
from elsewhere.models.folds import CrossFit, Guarded
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.vicreg import VicReg
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.models.store import save
from elsewhere.search import outcome, stages
from elsewhere.stages import Search, silent
from elsewhere.workspace import Workspace, read_json, write_chunk, write_json
from scipy import stats

from .models.test_axol1tl_v5 import crossings

HUNT = """
name: hunted
seed: 5
events: {datasets: {data: {files: a.root}}}
reference: {method: Sidebands, width: 400.0}
score: {method: Mahalanobis}
folds: 2
hunt: {mass_low: 2500.0, mass_high: 6500.0, windows: {first: 3100.0, last: 4300.0, step: 400.0, width: 400.0}}
"""
RATES = """
name: triggered
seed: 5
events: {features: l1, datasets: {data: {files: a.root}, other: {files: b.root, role: reference}}}
score: {method: Mahalanobis}
rates: {}
"""
FILE = UUID(int=(7 << 64) + 9)
EXTRA = Column("pt_1", "GeV", ""), Column("pt_2", "GeV", "")
NUMBERS = FeatureSet(
    "numbers",
    (Column("a", "GeV", ""), Column("b", "", ""), Column("c", "", "")),
    Column("m", "GeV", ""),
    EXTRA,
)


def identified(n):
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["luminosityBlock"], identity["event"] = 3, 4, np.arange(n)
    identity["file_hi"], identity["file_lo"] = 7, 9
    return identity


def numbers(n, seed=1):
    """Three normal features, a mass that b knows a little, and two carried pT."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    mass = 4500 + 400 * x[:, 1] + rng.normal(0, 800, n)
    extras = {"pt_1": rng.exponential(100, n) + 50 * x[:, 0], "pt_2": np.full(n, 20.0)}
    return Events(x, mass, np.ones(n), identified(n), NUMBERS), extras


def searched(folder, text, parts, **changed):
    """A search with columns, scores and hunt, without a file ever having been read; ``parts``: (events, extras, scores) per chunk."""
    config = SearchConfig.model_validate(yaml.safe_load(text) | changed)
    search = Search(config, folder, Workspace(folder))
    for i, (events, extras, scores) in enumerate(parts):
        write_chunk(
            search.space.path("scores", "data", f"u_{i}_{i + 1}.parquet"), Chunk(events, extras, scores, {})
        )
    write_json(
        search.space.path("fileset.json"), {"data": [{"path": "/somewhere/a.root", "uuid": str(FILE)}]}
    )
    write_json(
        search.space.path("hunt.json"), {"search": {"best": {"window": {"low": 3500.0, "high": 3900.0}}}}
    )
    return search


def made(search):
    assert interpreting.interpretation(search, silent)[0] == ["interpretation.json"]
    return read_json(search.space.path("interpretation.json"))


def hunted(folder, n=4000, order=None, **changed):
    """A hunt whose score is a - c^2, with a cross-fitted model of the plain features."""
    events, extras = numbers(n)
    score = (events.x[:, 0] - events.x[:, 2] ** 2).astype(float)
    order = np.arange(n) if order is None else order
    parts = [
        (events.take(rows), {k: v[rows] for k, v in extras.items()}, {"search_3700": score[rows]})
        for rows in np.array_split(order, 2)
    ]
    search = searched(folder, HUNT, parts, **changed)
    model = CrossFit(Represented(Identity(), Mahalanobis()), folds=2, seed=5).fit(events, events)
    save(model, search.space.path("models", "search_3700"), events.features, {})
    return search, events, extras, score


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A hunt, its events, and what was found."""
    search, events, extras, score = hunted(tmp_path_factory.mktemp("hunted"))
    return search, events, extras, score, made(search)


def test_what_the_score_follows_is_what_it_was_made_of(done):
    _, events, extras, score, found = done
    rows = {r["name"]: r for r in found["follows"]}
    assert list(rows) == ["a", "b", "c", "pt_1", "pt_2", "m", "sum pT"]
    assert [r["kind"] for r in rows.values()] == ["feature"] * 3 + ["carried"] * 2 + ["mass", "derived"]
    inside = (events.mass >= 2500) & (events.mass < 6500)
    assert found["total"] == found["events"] == inside.sum()
    for name, values in (("a", events.x[:, 0]), ("m", events.mass), ("sum pT", extras["pt_1"] + 20.0)):
        wanted = stats.spearmanr(score[inside], values[inside]).statistic
        assert rows[name]["rho"] == pytest.approx(wanted, abs=1e-5)
        assert rows[name]["low"] < wanted < rows[name]["high"]
    assert rows["pt_2"]["rho"] is None  # constant
    assert found["most"] == "a"
    # The score is lowest for c far out, which no rank correlation sees.
    assert abs(rows["c"]["rho"]) < 0.1
    assert rows["c"]["top_low"] > 0.2
    assert rows["c"]["top_high"] < 0.8
    assert rows["a"]["top"] > 0.95


def test_the_oddest_are_in_the_window_with_their_names_and_quantiles(done):
    _, events, extras, score, found = done
    window = (events.mass >= 3500) & (events.mass < 3900)
    best = np.flatnonzero(window)[np.argsort(-score[window])][:6]
    assert [e["event"] for e in found["oddest"]] == best.tolist()
    first = found["oddest"][0]
    assert (first["number"], first["run"], first["luminosityBlock"], first["dataset"], first["file"]) == (
        1,
        3,
        4,
        "data",
        "a.root",
    )
    assert first["score"] == pytest.approx(score[best[0]], rel=1e-5)
    assert first["values"]["m"] == pytest.approx(events.mass[best[0]], rel=1e-5)
    assert first["values"]["sum pT"] == pytest.approx(extras["pt_1"][best[0]] + 20, rel=1e-5)
    inside = (events.mass >= 2500) & (events.mass < 6500)
    place = (events.x[inside, 0] < events.x[best[0], 0]).mean()
    assert first["quantiles"]["a"] == pytest.approx(place, abs=1e-3)
    assert first["quantiles"]["pt_2"] == 0.5


def test_without_a_learnt_space_the_features_are_drawn(done):
    found = done[4]
    space = found["space"]
    assert (space["name"], space["learnt"], space["events"], space["columns"]) == (
        "Identity",
        False,
        found["events"],
        ["a", "b", "c"],
    )
    assert space["matrix"] == []
    assert sum(space["shares"]) == pytest.approx(1.0, abs=1e-5)
    assert len(space["map"]["x"]) == interpreting.ON_MAP < found["events"]
    probes = {p["name"]: p["r2"] for p in space["probes"]}
    assert list(probes) == ["pt_1", "pt_2", "m", "sum pT", "rank of the score"]
    # pt_1 is 50 a + an exponential of width 100.
    assert probes["pt_1"] == pytest.approx(2500 / 12_500, abs=0.03)
    assert 0.1 < probes["m"] < 0.25
    assert probes["pt_2"] is None


def test_neither_the_order_of_the_rows_nor_a_second_time_changes_anything(done, tmp_path):
    found = done[4]
    order = np.random.default_rng(3).permutation(4000)
    again = made(hunted(tmp_path / "again", order=order)[0])
    assert again == found
    assert made(done[0]) == found


def test_only_so_many_events_are_looked_at_and_they_are_chosen_by_identity(tmp_path):
    search, events, _, score = hunted(tmp_path, interpretation={"events": 2, "sample": 500})
    found = made(search)
    inside = events.take((events.mass >= 2500) & (events.mass < 6500))
    chosen = inside.identity["event"][np.argsort(identity_hash(inside.identity, 5))[:500]]
    assert (found["events"], found["total"], len(found["oddest"])) == (500, len(inside), 2)
    wanted = stats.spearmanr(score[chosen], events.x[chosen, 0]).statistic
    assert found["follows"][0]["rho"] == pytest.approx(wanted, abs=1e-5)


# A learnt space


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A hunt in events made of objects, behind a small VICReg of its own in each of two folds."""
    plain = crossings(1600, 1)
    rng = np.random.default_rng(2)
    mass = 4500 + rng.normal(0, 500, len(plain))
    features = replace(plain.features, mass=Column("m", "GeV", ""), extras=())
    events = Events(plain.x, mass, np.ones(len(plain)), identified(len(plain)), features)
    looking = VicReg(backbone=(16, 6), projector=8, epochs=2, batch=64)
    model = CrossFit(Represented(looking, Mahalanobis()), folds=2, seed=5).fit(events, events)
    folder = tmp_path_factory.mktemp("learnt")
    score = model.score(events)
    search = searched(
        folder, HUNT, [(events, {}, {"search_3700": score})], representation={"method": "VicReg"}
    )
    save(model, search.space.path("models", "search_3700"), events.features, {})
    return search, events, model, made(search)


def test_a_learnt_space_is_looked_at_with_events_it_has_not_seen(learnt):
    search, _, model, found = learnt
    space, given = found["space"], interpreting.material(search, search.config.interpretation)
    seen = interpreting.space_of(given, search.config)
    mine = given.table.events.take(seen.rows)
    assert (fold_of(mine.identity, 2, 5) == 0).all()
    assert not np.isin(identity_hash(mine.identity), model.seen_[0]).any()
    assert (space["learnt"], space["name"], space["events"]) == (True, "VicReg", len(seen.rows))
    assert 600 < space["events"] < 1000
    latent = model.members_[0].representation.transform(mine)
    np.testing.assert_allclose(seen.x, latent.x, rtol=1e-6)
    # Coefficients of coordinates with observables, the spectrum, and the places on the map.
    at = space["observables"].index("sum pT")
    total = mine.x[:, 3::3].sum(axis=1)
    wanted = [stats.spearmanr(latent.x[:, i], total).statistic for i in range(6)]
    np.testing.assert_allclose([row[at] for row in space["matrix"]], wanted, atol=1e-4)
    values = np.linalg.eigvalsh(np.cov(latent.x.astype(float).T))[::-1]
    np.testing.assert_allclose(space["shares"], values / values.sum(), atol=1e-4)
    assert len(space["map"]["x"]) == space["events"]
    assert {p["name"] for p in space["probes"]} >= {"sum pT", "multiplicity", "MET_pt", "rank of the score"}


def test_only_the_oddest_of_the_fold_have_a_place_on_its_map(learnt):
    search, _, _, found = learnt
    identity = interpreting.material(search, search.config.interpretation).odd.events.identity
    there = [all(v is not None for v in place) for place in found["space"]["map"]["odd"]]
    assert there == (fold_of(identity, 2, 5) == 0).tolist()
    assert 0 < sum(there) < 6


def test_the_page_shows_the_latent_space_and_the_objects(learnt):
    follows, space, odd = report_interpretation.interpretation_parts(learnt[0])
    assert [f.name for f in follows.figures] == ["follows", "probes"]
    assert [f.name for f in space.figures] == ["space-map", "space-matrix", "space-spectrum"]
    assert "fold 0" in space.text
    assert [f.name for f in odd.figures] == ["oddest"]
    assert [row[0] for row in odd.tables[0].rows][:6] == ["run", "lumi", "event", "file", "score", "m [GeV]"]
    assert len(odd.tables[0].columns) == 7
    for part in (follows, space, odd):
        for figure in part.figures:
            figure.figure.canvas.draw()


# Weights, and a trigger


def triggered(folder, weight, score):
    events = replace(crossings(len(weight), 4), weight=weight, identity=identified(len(weight)))
    events = replace(events, features=replace(events.features, extras=()))
    search = searched(folder, RATES, [(events, {}, {"float": score})])
    model = Guarded(Mahalanobis()).fit(crossings(300, 9, 10**6), crossings(300, 9, 10**6))
    save(model, search.space.path("models", "trigger"), events.features, {})
    return search, events


def test_the_oddest_of_weighted_events_are_not_those_that_stand_for_none(tmp_path):
    n = 2000
    rng = np.random.default_rng(6)
    score, weight = rng.normal(size=n), np.ones(n)
    odd = np.argsort(-score)
    weight[odd[:5]] = 1e-9  # would hardly ever be seen
    weight[odd[5]], weight[odd[6]] = 0.0, -1.0
    found = made(triggered(tmp_path, weight, score)[0])
    assert found["weighted"]
    assert [e["event"] for e in found["oddest"]] == odd[7:13].tolist()
    assert report_drawn(tmp_path)


def report_drawn(folder):
    search = Search(SearchConfig.model_validate(yaml.safe_load(RATES)), folder, Workspace(folder))
    odd = report_interpretation.interpretation_parts(search)[-1]
    return "drawn as their weights ask" in odd.text and odd.tables[0].rows[4][0] == "weight"


def test_a_triggers_map_is_of_energies_and_its_events_of_objects(tmp_path):
    events = crossings(1500, 4)
    score = events.x[:, 3::3].sum(axis=1).astype(float)
    search, _ = triggered(tmp_path, np.ones(1500), score)
    found = made(search)
    assert (found["kind"], found["most"], found["told"]) == ("objects", "sum pT", "the float score, in data")
    assert next(r["rho"] for r in found["follows"] if r["name"] == "sum pT") == pytest.approx(1.0)
    space = found["space"]
    assert space["axes_of"][0] == "ln MET_pt"
    assert not space["standardised"]
    assert {p["name"]: p["r2"] for p in space["probes"]}["sum pT"] == pytest.approx(1.0, abs=1e-6)
    said = outcome(search, "interpretation")
    assert said[0] == "the float score, in data: 1,500 of 1,500 events looked at"
    assert said[1].startswith("rank correlation with sum pT: +1.000")
    assert said[-1].startswith("oddest: run 3, lumi 4, event ")
    text = "".join(p.text for p in report_interpretation.interpretation_parts(search))
    assert "Most of all it follows sum pT (+1.00)." in text
    assert "ln(1 + pT)" in text


@pytest.mark.parametrize("kind", ["constituents", "regions"])
def test_other_kinds_of_columns_have_their_displays(tmp_path, kind):
    n, rng = 300, np.random.default_rng(7)
    if kind == "regions":
        columns = tuple(Column(f"region_{p}_{e}", "0.5 GeV", "") for p in range(18) for e in range(14))
        x = rng.poisson(0.3, (n, 252))
    else:
        columns = tuple(Column(f"Cand{i}_{v}", "", "") for i in range(5) for v in ("pt", "eta", "phi"))
        x = np.tile(rng.exponential(5, (n, 5))[:, :, None], (1, 1, 3)) * [1.0, 0.01, -0.01]
        x = x.reshape(n, -1)
    features = FeatureSet(kind, columns)
    events = Events(x.astype(np.float32), np.full(n, np.nan), np.ones(n), identified(n), features)
    search = searched(tmp_path, RATES, [(events, {}, {"float": x.sum(axis=1).astype(float)})])
    learnt = Events(events.x[:200], events.mass[:200], np.ones(200), identified(n)[:200], features)
    learnt.identity["run"] = 99
    save(Guarded(Mahalanobis()).fit(learnt, learnt), search.space.path("models", "trigger"), features, {})
    found = made(search)
    assert found["kind"] == kind
    odd = report_interpretation.interpretation_parts(search)[-1]
    assert {"constituents": "constituents about the jet axis", "regions": "calorimeter images"}[
        kind
    ] in odd.figures[0].caption
    odd.figures[0].figure.canvas.draw()


# Too little to say anything, and where it is hooked in


def test_too_few_events_are_said_to_be_too_few(tmp_path):
    search, _ = triggered(tmp_path / "few", np.ones(15), np.arange(15.0))
    assert "fewer than 20 events" in made(search)["why"]
    assert "not looked at" in outcome(search, "interpretation")[0]
    (part,) = report_interpretation.interpretation_parts(search)
    assert "fewer than 20 events" in part.text
    nothing = hunted(tmp_path / "none")[0]
    write_json(nothing.space.path("hunt.json"), {"search": {"best": None}})
    assert "why" in made(nothing)


def test_events_without_weight_are_not_odd(tmp_path):
    search, _ = triggered(tmp_path, np.where(np.arange(100) < 3, 1.0, 0.0), np.arange(100.0))
    found = made(search)
    assert {e["event"] for e in found["oddest"]} <= {0, 1, 2}
    json.dumps(found, allow_nan=False)
    for part in report_interpretation.interpretation_parts(search):
        for figure in part.figures:
            figure.figure.canvas.draw()


def test_a_search_asks_for_it_unless_it_says_null(done):
    search = done[0]
    names = {s.name: s.after for s in stages(search)}
    assert list(names)[-2:] == ["interpretation", "report"]
    assert names["interpretation"] == ("hunt",)
    assert names["report"] == ("limits", "interpretation")
    without = replace(search, config=search.config.model_copy(update={"interpretation": None}))
    assert "interpretation" not in [s.name for s in stages(without)]
    assert report_interpretation.interpretation_parts(without) == ()
    text = yaml.safe_load(HUNT) | {"interpretation": None}
    assert SearchConfig.model_validate(text).interpretation is None
    assert SearchConfig.model_validate(yaml.safe_load(RATES)).interpretation.events == 6


@pytest.mark.parametrize("wrong", [{"events": -1}, {"sample": 10}, {"map": True}])
def test_a_wrong_setting_is_refused(wrong):
    with pytest.raises(ValueError, match="interpretation"):
        SearchConfig.model_validate(yaml.safe_load(RATES) | {"interpretation": wrong})
