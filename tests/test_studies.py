"""Studies of a finished hunt: their arithmetic against known answers, and a small search of made-up events end to end."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from elsewhere import report_studies, resonance, studies
from elsewhere.analysis.hunt import WindowResult, scan
from elsewhere.analysis.spectrum import nested_spectra, passing
from elsewhere.analysis.studies_scores import importances, oddest
from elsewhere.analysis.studies_stability import binnings, edges_for, shifts, stability
from elsewhere.analysis.studies_trials import (
    CutCount,
    counted,
    injection_row,
    passing_others,
    signal_halves,
    significance_scan,
    windows_of_signal,
)
from elsewhere.chunks import Chunk
from elsewhere.config import SearchConfig
from elsewhere.errors import ConfigError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of, identity_hash
from elsewhere.hunting import run_hunt
from elsewhere.models.store import load
from elsewhere.search import stages, template
from elsewhere.stages import Search, silent
from elsewhere.workspace import Workspace, read_json, write_chunk, write_json
from scipy import stats

FEATURES = FeatureSet("two", (Column("a", "", ""), Column("b", "GeV", "")), Column("m", "GeV", ""))
LOW, HIGH, ENERGY = 2500.0, 6500.0, 13_000.0


def falling(n, seed):
    """Masses of a steeply falling spectrum in the fit range, GeV."""
    u = np.random.default_rng(seed).uniform(size=n)
    power = -5.0
    return (LOW**power + u * (HIGH**power - LOW**power)) ** (1 / power)


def events(mass, run=1, shift=0.0, seed=0):
    """Two normal features about ``shift``; events of a run are told apart by their number."""
    n, rng = len(mass), np.random.default_rng([seed, run])
    identity = np.zeros(n, IDENTITY)
    identity["run"], identity["luminosityBlock"], identity["event"] = run, 7, np.arange(n)
    return Events(
        rng.normal(shift, 1.0, (n, 2)).astype(np.float32), mass, np.ones(n), identity, FEATURES
    )  # fmt: skip


# Efficiency of events that were not in the data


def test_others_pass_where_the_datas_own_threshold_lets_them():
    data = events(falling(4000, 1))
    score, fold, tie = (
        data.x[:, 0].round(1).astype(float),
        fold_of(data.identity, 3, 5),
        identity_hash(data.identity, 5),
    )
    chosen = passing(score, 0.05, fold, np.ones(4000, bool), tie)
    # The data against their own threshold: those that were chosen, ties included, and no others.
    assert np.array_equal(passing_others(score, chosen, fold, tie, score, fold, tie), chosen)
    other, where = np.array([9.0, -9.0, 9.0]), np.array([0, 0, 2])
    none = chosen & (fold != 2)
    got = passing_others(score, none, fold, tie, other, where, np.zeros(3, np.uint64))
    assert got.tolist() == [True, False, False]  # a fold that chose nothing lets nothing pass


def test_rows_that_measure_are_never_hidden_and_the_searchs_own_are_among_the_hidden():
    signal = events(np.full(1001, 3500.0), run=2)
    pool, rest = signal_halves(signal, seed=4, injected=700)
    assert (pool.sum(), rest.sum(), (pool & rest).any()) == (700, 301, False)
    from elsewhere.workspace import Table

    assert not (resonance.injected_rows(Table(signal, {}, {}), 700, 4) & rest).any()
    assert signal_halves(signal, seed=4, injected=3)[0].sum() == 501


def test_the_excess_is_compared_with_the_signal_that_passes():
    trials = [CutCount(0.01, n, 100.0, 5.0, 0.0, 0.25) for n in (145.0, 155.0, 150.0)]
    row = injection_row(200, trials, failed=2)
    assert (row.injected, row.found, row.spread, row.fits, row.failed) == pytest.approx((50, 50, 5, 3, 2))
    # pulls: (n - 150) / sqrt(n + 25)
    assert row.pull_sd == pytest.approx(np.std([-5 / 170**0.5, 5 / 180**0.5, 0.0], ddof=1))
    # A classifier that selects no signal at all still has an excess, of nothing.
    assert injection_row(0, [CutCount(0.01, 103.0, 100.0, 5.0, 0.0, 0.0)]).found == pytest.approx(3.0)
    assert injection_row(200, [], failed=3).failed == 3
    made = significance_scan("x", 400.0, [0.0, 20.0], [[0.1], [1.0, 1.2]])
    np.testing.assert_allclose(made.s_over_b, [0.0, 0.05])
    np.testing.assert_allclose(made.per_sqrt_b, [0.0, 1.0])
    assert np.isnan(made.z[0, 1])


def test_a_trial_is_counted_with_the_bias_of_the_hunt():
    window, none = Window(3300.0, 3700.0), np.zeros(1)
    fitted = WindowResult(
        window, 0.01, 130.0, 100.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.1, 2, 1.0, 5, 0.5, none, none, none
    )  # fmt: skip
    made = counted(fitted, (0.3, 0.0), 0.2)
    assert (made.n, made.b, made.b_error, made.z) == pytest.approx((130.0, 130.0, 30.0, 0.0), abs=1e-9)
    assert (made.excess, made.error) == pytest.approx((0.0, np.sqrt(130 + 900)), abs=1e-9)
    # 30 on 100: sqrt(2 (n ln(n/b) - (n - b)))
    alone = counted(fitted, (0.0, 0.0), 0.2)
    assert alone.z == pytest.approx(np.sqrt(2 * (130 * np.log(1.3) - 30)), rel=0.01)


def test_the_windows_of_a_signal_are_those_that_hold_its_median():
    mass = np.array([3000.0, 3450.0, 3500.0, 3550.0, 3690.0])
    asked = [Window(c - 200.0, c + 200.0) for c in (3100.0, 3300.0, 3500.0, 3700.0)]
    assert windows_of_signal(asked, mass) == [Window(3300.0, 3700.0), Window(3500.0, 3900.0)]
    assert windows_of_signal(asked[:1], mass) == []


# Importance, oddest


class First:
    """The first feature as score."""

    def score(self, given):
        return given.x[:, 0].astype(float)


def test_a_feature_alone_has_all_of_the_auc_and_an_unused_one_none():
    first, second = events(np.ones(20_000), 1, 1.0), events(np.ones(20_000), 2)
    made = importances(First().score, first, second, "auc", repeats=3, seed=1)
    auc = stats.norm.cdf(1 / np.sqrt(2))  # two unit normals a unit apart
    assert made.whole == pytest.approx(auc, abs=0.01)
    a, b = made.rows
    assert (a.feature, a.value) == ("a", pytest.approx(auc - 0.5, abs=0.015))
    assert (b.feature, b.value, b.error) == ("b", 0.0, 0.0)
    assert 0 < a.error < 0.01
    assert made == importances(First().score, first, second, "auc", repeats=3, seed=1)
    assert made.rows[0] != importances(First().score, first, second, "auc", repeats=3, seed=2).rows[0]


def test_the_oddest_come_first_and_ties_go_by_the_hash():
    score, tie = np.array([0.1, 0.9, 0.5, 0.9]), np.array([1, 2, 3, 4], np.uint64)
    assert oddest(score, tie, 3).tolist() == [3, 1, 2]


# Stability


def test_other_bins_meet_the_windows_edges():
    assert binnings(100.0, 400.0) == [50.0, 100.0, 200.0]
    assert binnings(100.0, 300.0) == [50.0, 100.0]
    assert shifts(100.0, 400.0) == [-100.0, 0.0, 100.0]
    edges = edges_for(Window(3400.0, 3800.0), 200.0, 2500.0, 6500.0)
    assert (edges[0], edges[-1]) == (2500.0, 6500.0)
    assert {3400.0, 3800.0} <= set(edges)
    assert np.diff(edges).min() >= 50.0
    np.testing.assert_allclose(
        edges_for(Window(3400.0, 3800.0), 100.0, LOW, HIGH), np.arange(LOW, HIGH + 1, 100.0)
    )


def test_the_quoted_choice_has_the_hunts_own_z_and_all_choices_agree_on_a_clear_signal():
    rng = np.random.default_rng(3)
    mass = np.concatenate([falling(60_000, 1), rng.normal(3500.0, 90.0, 700)])
    mass = mass[(mass >= LOW) & (mass < HIGH)]
    windows = [Window(c - 200.0, c + 200.0) for c in (2900.0, 3300.0, 3500.0, 3700.0, 4100.0, 4500.0)]
    tie, fold = np.arange(len(mass), dtype=np.uint64), np.zeros(len(mass), np.int64)
    edges, scores = np.arange(LOW, HIGH + 1, 100.0), [rng.uniform(size=len(mass)) for _ in windows]
    spectra = [nested_spectra(mass, s, (1.0, 0.3), edges, fold, tie) for s in scores]
    results, failed = scan(windows, spectra, ENERGY)
    assert failed == []
    for cut in (1.0, 0.3):
        quoted = next(r for r in results if r.window == windows[2] and r.cut == cut)
        inside = np.ones(len(mass), bool)
        masses = [mass[passing(s, cut, fold, inside, tie)] for s in scores]
        cells = stability(
            windows, masses, 2, cut, quoted.order, low=LOW, high=HIGH, bin_width=100.0, energy=ENERGY
        )
        assert len(cells) == 3 * 3 * 4
        (nominal,) = [c for c in cells if c.nominal]
        assert nominal.z == pytest.approx(quoted.z, rel=1e-9)
        assert nominal.gof_p == pytest.approx(quoted.gof_p, rel=1e-9)
        same = [c for c in cells if c.window == windows[2] and c.order <= 3]
        assert np.ptp([c.z for c in same]) < 1.0
    # 700 events on the known background of the window; the fit's error makes Z smaller than counting alone.
    b = 60_000 * (3300.0**-5 - 3700.0**-5) / (LOW**-5 - HIGH**-5)
    plain = next(c for c in stability(
        windows, [mass] * 6, 2, 1.0, 2, low=LOW, high=HIGH, bin_width=100.0, energy=ENERGY
    ) if c.nominal)  # fmt: skip
    seen = ((mass >= 3300) & (mass < 3700)).sum()
    assert plain.z == pytest.approx((seen - b) / np.sqrt(b), rel=0.25)


# A search of made-up events

ASKED = """
name: made-up
seed: 5
events:
  features: dijet
  datasets:
    data: {files: a.root}
    bump: {files: b.root, role: signal, inject: 250}
reference: {method: Sidebands, width: 400.0}
score: {method: WeakTrees, members: 1, rounds: 30, leaves: 8, min_per_leaf: 50, validation: 0.25}
folds: 2
hunt:
  mass_low: 2500.0
  mass_high: 6500.0
  windows: {first: 3100.0, last: 4300.0, step: 400.0, width: 400.0}
  cuts: [0.02]
  toys: 100
  control: false
run: {training: plain, workers: 1}
studies: {injections: [0, 500], trials: 2}
"""


def finished_hunt(folder, **changed):
    """A search whose columns, models, scores and hunt are there, without a file ever having been read."""
    raw = yaml.safe_load(ASKED) | changed
    search = Search(SearchConfig.model_validate(raw), folder, Workspace(folder))
    rng = np.random.default_rng(8)
    made = {"data": events(falling(20_000, 2), run=1), "bump": events(rng.normal(3500.0, 70.0, 2000), 2, 2.5)}
    made = {n: e for n, e in made.items() if n in raw["events"]["datasets"]}
    for name, one in made.items():
        write_chunk(search.space.path("columns", name, "u_0_1.parquet"), Chunk(one, {}, {}, {}))
    resonance.train(search, "key", silent)
    models = {p.name: load(p)[0] for p in search.space.path("models").iterdir()}
    for name, one in made.items():
        scores = {k: m.score(one) for k, m in models.items()}
        write_chunk(search.space.path("scores", name, "u_0_1.parquet"), Chunk(one, {}, scores, {}))
    run_hunt(search, silent)
    write_json(search.space.path("provenance.json"), {"stages": {"score": {"key": "scored"}}})
    return search


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A search with every study made, and what its progress said."""
    search, seen = finished_hunt(tmp_path_factory.mktemp("studies")), []
    written = studies.studies(search, lambda done, total: seen.append((done, total)))
    assert written == (["studies.json"], {"signals": 1})
    return search, read_json(search.space.path("studies.json")), seen


def test_every_trial_is_counted_and_progress_ends_with_all_of_them(done):
    search, made, seen = done
    jobs = 3 * 2 + 2 * 2  # strengths (the search's own beside those asked) and ceilings, two trials each
    assert seen[-1] == (3 + jobs, 3 + jobs)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    (window,) = made["injections"]["bump"]["windows"]
    assert window["window"] == {"low": 3300.0, "high": 3700.0}
    assert [s["injected"] for s in window["strengths"]] == [0, 250, 500]
    mass = search.space.read_table("data").events.mass
    inside = int(((mass >= 3300) & (mass < 3700)).sum())
    assert window["background"] == inside
    for strength in window["strengths"]:
        for trial in strength["trials"]:
            before = next(c for c in trial["counts"] if c["cut"] == 1)
            assert before["n"] == inside + trial["in_window"]
            # Nearly all of a peak of 70 GeV is within 200 GeV of its middle.
            assert trial["in_window"] == pytest.approx(strength["injected"], rel=0.03)
            assert before["efficiency"] == pytest.approx(stats.norm.cdf(200 / 70) * 2 - 1, abs=0.01)


def test_what_is_injected_is_found_and_the_classifier_helps(done):
    none, _, strong = done[1]["injections"]["bump"]["windows"][0]["strengths"]
    cut = {s["injected"]: [t["counts"][1] for t in s["trials"]] for s in (none, strong)}
    row = injection_row(500, [CutCount(**c) for c in cut[500]])
    assert row.injected > 200
    assert row.found == pytest.approx(row.injected, rel=0.25)
    assert all(c["z"] > 8 for c in cut[500])
    assert all(abs(c["z"]) < 4 for c in cut[0])
    assert all(c["z"] > t["counts"][0]["z"] + 3 for c, t in zip(cut[500], strong["trials"], strict=True))


def test_rows_that_are_hidden_never_measure_and_differ_from_trial_to_trial(done):
    search = done[0]
    given = studies._material(
        search, "bump", read_json(search.space.path("hunt.json")), search.config.studies
    )
    assert not np.isin(given.pool.identity["event"], given.measured.identity["event"]).any()
    assert len(given.pool) + len(given.measured) == 2000
    first, again, second = (studies._hidden(given.pool, 250, studies.trial_seed(5, t)) for t in (0, 0, 1))
    assert np.array_equal(first.identity, again.identity)
    assert np.isin(first.identity["event"], second.identity["event"]).sum() < 120  # 62 expected of 250
    more = studies._hidden(given.pool, 500, studies.trial_seed(5, 0))
    assert np.isin(first.identity["event"], more.identity["event"]).all()


def test_a_hidden_row_is_an_event_and_every_trial_draws_anew(done, monkeypatch):
    search, real = done[0], Workspace.read_table
    found = read_json(search.space.path("hunt.json"))

    def weighted(space, name, kind="columns"):
        table = real(space, name, kind)
        return (
            replace(table, events=replace(table.events, weight=np.full(len(table), -0.5)))
            if name == "bump"
            else table
        )

    monkeypatch.setattr(Workspace, "read_table", weighted)
    given = studies._material(search, "bump", found, search.config.studies)
    assert set(given.pool.weight) == {1.0}
    one, two = (studies._seeded(search.config, t) for t in (0, 1))
    assert len({search.config.seed, one.seed, two.seed}) == 3
    assert (one.score.settings["seed"], two.score.settings["seed"]) == (one.seed, two.seed)
    assert one.score.settings | {"seed": 0} == search.config.score.settings | {"seed": 0}


def test_labels_bring_more_than_the_search_has(done):
    made, count = (
        done[1]["injections"]["bump"]["bands"],
        done[1]["injections"]["bump"]["windows"][0]["background"],
    )
    sic = {b["name"]: max(v for v in b["median"] if v) for b in made["sic"]}
    assert list(sic) == ["this search, 250 injected", "supervised", "idealised"]
    # Two normal features 2.5 apart each: the best cut on their sum separates by 2.5 sqrt 2.
    cut = np.linspace(-2, 6, 801)
    s, b = stats.norm.sf(cut - 2.5 * np.sqrt(2)), stats.norm.sf(cut)
    best = (s / np.sqrt(b))[b * count >= 25].max()
    assert all(0.6 * best < one < 1.1 * best for one in sic.values())
    # At eps_S = 0.95, where the floor does not matter.
    most = {b["name"]: b["median"][189] for b in made["rejection"]}
    assert most["supervised"] == pytest.approx(1 / b[np.argmin(abs(s - 0.95))], rel=0.25)
    assert all(5 < most[k] < 0.8 * most["supervised"] for k in ("this search, 250 injected", "idealised"))


def test_a_stopped_study_goes_on_and_what_is_done_is_not_done_again(done, monkeypatch):
    search, made, _ = done
    path, ran = search.space.path("studies.json"), []
    real = studies.run_job
    monkeypatch.setattr(studies, "run_job", lambda g, c, j: ran.append(j.name) or real(g, c, j))
    path.unlink()
    search.space.path("studies", "bump_search_3500_500_1.json").unlink()
    search.space.path("studies", "bump_search_3500_0_0.json").write_text("{ half a file")
    studies.studies(search, silent)
    assert sorted(ran) == ["bump_search_3500_0_0", "bump_search_3500_500_1"]
    assert read_json(path) == made  # and the same numbers again
    write_json(search.space.path("provenance.json"), {"stages": {"score": {"key": "scored anew"}}})
    ran.clear()
    monkeypatch.setattr(studies, "run_job", lambda _g, _c, j: ran.append(j.name) or {})
    with pytest.raises(KeyError):
        studies.studies(search, silent)
    assert len(ran) == 10
    write_json(search.space.path("provenance.json"), {"stages": {"score": {"key": "scored"}}})
    write_json(path, made)


def test_the_oddest_events_are_the_data_own_and_nothing_tells_the_truth(done):
    search, made, _ = done
    rows, found = made["oddest"]["events"], read_json(search.space.path("hunt.json"))["search"]["best"]
    assert made["oddest"]["window"] == found["window"] == {"low": 3300.0, "high": 3700.0}
    scores = [r["score"] for r in rows]
    assert (len(rows), scores) == (20, sorted(scores, reverse=True))
    assert set(rows[0]) == {"run", "luminosityBlock", "event", "mass", "score", "features"}
    table = resonance.sample(search.space, search.config, "search", "scores").table
    inside = Window(3300.0, 3700.0).contains(table.events.mass)
    assert scores[0] == table.scores["search_3500"][inside].max()
    at = (table.events.identity["run"] == rows[0]["run"]) & (
        table.events.identity["event"] == rows[0]["event"]
    )
    assert table.events.mass[at] == pytest.approx([rows[0]["mass"]])
    np.testing.assert_allclose(table.events.x[at][0], list(rows[0]["features"].values()))


def test_the_report_shows_every_study(done):
    parts = {p.title: p for p in report_studies.studies_parts(done[0])}
    assert list(parts) == [
        "Injected signal: bump", "Separation over trainings: bump", "Stability", "Feature importance", "The oddest events",
    ]  # fmt: skip
    figures = [f.name for p in parts.values() for f in p.figures]
    assert figures == [
        "significance-bump",
        "injection-bump",
        "sic-bands-bump",
        "roc-bands-bump",
        "stability",
        "importance",
    ]
    assert "2 trials of each strength are too few" in parts["Injected signal: bump"].warnings[0]
    rows = parts["Injected signal: bump"].tables[0].rows
    assert [(r[2], r[5]) for r in rows] == [(s, c) for s in (0, 250, 500) for c in ("no cut", "cut 2%")]
    assert len(parts["The oddest events"].tables[0].rows) == 20
    assert parts["The oddest events"].tables[0].columns[-2:] == ("a", "b [GeV]")


def test_without_truth_importance_is_the_data_against_what_is_beside_them(tmp_path):
    datasets = {"data": {"files": "a.root"}}
    search = finished_hunt(tmp_path, events={"features": "dijet", "datasets": datasets}, studies={})
    assert studies.studies(search, silent) == (["studies.json"], {"signals": 0})
    made = read_json(search.space.path("studies.json"))
    assert (made["importance"]["measure"], made["importance"]["second_is"]) == (
        "auc",
        "data beside the window",
    )
    # Nothing depends on the mass, so no feature tells anything.
    assert all(abs(r["value"]) < 0.05 for r in made["importance"]["rows"])
    assert [p.title for p in report_studies.studies_parts(search)] == [
        "Stability",
        "Feature importance",
        "The oddest events",
    ]


def test_a_signal_that_no_window_holds_is_said_and_not_searched(done, monkeypatch):
    search = done[0]
    hunt = search.config.hunt.model_dump() | {
        "windows": {"first": 3900.0, "last": 4300.0, "step": 400.0, "width": 400.0}
    }
    asked = SearchConfig.model_validate(search.config.model_dump() | {"hunt": hunt})
    monkeypatch.setattr(studies, "run_job", None)
    found = read_json(search.space.path("hunt.json"))
    made = studies._injections(Search(asked, search.source, search.space), found, silent)
    assert "no window holds the median mass of bump, 3" in made["bump"]["why"]
    part = report_studies._injection_part("bump", made["bump"], 1.0, "")
    assert "no window holds" in part.warnings[0]


def test_more_than_may_be_hidden_is_an_error_before_any_training(done, monkeypatch):
    search = done[0]
    asked = search.config.model_copy(
        update={"studies": search.config.studies.model_copy(update={"injections": [1001]})}
    )
    monkeypatch.setattr(studies, "run_job", None)
    with pytest.raises(
        ConfigError,
        match=r"studies\.injections: 1001 events asked, but of the 2000 of dataset bump only 1000",
    ):
        studies.studies(Search(asked, search.source, search.space), silent)


# Settings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"studies": {"injections": [100, 100]}}, "must increase strictly"),
        ({"studies": {"injections": [-1]}}, "greater than or equal to 0"),
        ({"studies": {"injections": [5], "trials": 0}}, "greater than or equal to 1"),
        (
            {"studies": {"injections": [5]}, "events": {"datasets": {"d": {"files": "a.root"}}}},
            "role: signal",
        ),
    ],
)
def test_what_cannot_be_studied_is_an_error(change, said):
    with pytest.raises(ValueError, match=said):
        SearchConfig.model_validate(yaml.safe_load(ASKED) | change)


def test_a_trigger_study_has_no_best_window():
    with pytest.raises(ValueError, match="studies needs a hunt"):
        SearchConfig.model_validate(yaml.safe_load(template("trigger")) | {"studies": {}})


def test_studies_are_a_stage_where_they_are_asked_for(tmp_path):
    raw = yaml.safe_load(ASKED)
    search = Search(SearchConfig.model_validate(raw), tmp_path, Workspace(tmp_path))
    names = {s.name: s.after for s in stages(search)}
    assert list(names) == [
        "process",
        "train",
        "score",
        "hunt",
        "limits",
        "studies",
        "interpretation",
        "report",
    ]
    assert names["studies"] == ("hunt",)
    assert names["report"] == ("limits", "studies", "interpretation")
    raw.pop("studies")
    search = Search(SearchConfig.model_validate(raw), tmp_path, Workspace(tmp_path))
    assert "studies" not in [s.name for s in stages(search)]
