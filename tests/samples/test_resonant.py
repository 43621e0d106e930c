"""Event sets and black boxes with a few events: who belongs where, what repeats, and what a reader must not see."""

import json

import awkward as ak
import numpy as np
import pytest
import uproot

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from elsewhere.errors import ConfigError, InputError
from elsewhere.samples import blackbox, dijets, generate, resonant
from elsewhere.samples.card import Card, EarlyCut, card_names, family_names, load_card, load_family
from elsewhere.samples.detector import simulate_batch
from elsewhere.samples.dijets import dijet_mass, make_dijets
from elsewhere.samples.jets import cluster, shapes, substructure, tracks_inside
from elsewhere.samples.resonant import Part, estimate, make_set, parts_of, read_set, set_names
from elsewhere.workspace import read_json

#: What made the samples that ship: these cards must never become others.
SHIPPED_DIGESTS = {"qcd": "cb8c6700d7a4", "wprime": "13c8ffa70cc2", "qcd_sr": "442e562b9080"}


def test_new_fields_leave_old_cards_what_they_were():
    assert {name: load_card(name).digest[:12] for name in SHIPPED_DIGESTS} == SHIPPED_DIGESTS
    card = load_card("qcd")
    for changed in ({"substructure": "full"}, {"early": EarlyCut(10.0, 1.0)}, {"drawn": {"a": (0.0, 1.0)}}):
        assert Card(**{**card.__dict__, **changed}).digest != card.digest


def test_every_point_of_every_family_has_a_run_of_its_own():
    points = [load_family(n).card(*p) for n in family_names() for p in load_family(n).points()]
    runs = (
        [c.run for c in points]
        # Versions of the same hard processes share their run.
        + list({c.run: c.hard for c in map(load_card, card_names()) if c.hard})
        + [c.run for c in map(load_card, card_names()) if not c.hard]
        + [b.run for b in blackbox.BOXES.values()]
    )
    grids = {"paws_qq": 13**2, "paws_qqq": 13**2, "dark": 9, "w_mass": 4, "top_mass": 2, "h_hh": 2}
    assert {n: len(load_family(n).points()) for n in family_names()} == grids
    assert len(set(runs)) == len(runs)
    assert load_card("paws_qqq_300_50") == load_family("paws_qqq").card(300, 50)
    assert any("300." in c for c in load_card("paws_qq_300_50").commands)


@pytest.mark.parametrize("name", ["paws_qq_300_55", "paws_qqq_0_50"])
def test_a_point_off_the_grid_says_which_values_there_are(name):
    with pytest.raises(ConfigError, match="is not one of 10, 50, 100"):
        load_card(name)


def test_an_unfinished_name_of_a_family_is_explained():
    with pytest.raises(ConfigError, match="did you mean 'paws_qq_m_X_m_Y'"):
        load_card("paws_qq_m_X")


@pytest.fixture(scope="module")
def region():
    return make_dijets(load_card("qcd_region"), 5, 0, 40)


def test_early_cut_counts_what_it_gave_up(region):
    columns, generated = region
    mass = dijet_mass(columns["FatJet"])
    assert np.all((mass >= 3300) & (mass < 3700))
    # 6 % of the hard processes end in the region, most of the others in the middle of their shower.
    assert 8 < generated / 40 < 32


def test_an_early_cut_gives_up_what_is_outside_its_interval():
    card = load_card("qcd_large")
    heavy = Card(**{**card.__dict__, "early": EarlyCut(10.0, 1080.0, (3400.0, 4600.0)), "name": "b"})
    columns, generated = make_dijets(heavy, 1, 0, 12)
    mass = dijet_mass(columns["FatJet"])
    # The detector's resolution and soft radiation move a mass by some per cent.
    assert 3300 < np.median(mass) < 4700
    assert np.mean((mass > 3000) & (mass < 5000)) > 0.8
    loose = Card(**{**card.__dict__, "early": EarlyCut(10.0, 200.0), "name": "a"})
    assert make_dijets(loose, 1, 0, 5)[1] < generated


def test_extended_jets_have_what_the_feature_sets_read(region):
    jets = region[0]["FatJet"]
    assert set(jets.fields) == {
        "pt", "eta", "phi", "mass", *(f"tau{i}" for i in range(1, 6)), "tau1_b2", "nTracks", "nConstituents",
    }  # fmt: skip
    assert "Jet" not in region[0]
    assert ak.all((jets.nTracks > 0) & (jets.nTracks < jets.nConstituents))
    # Jensen: the mean of squared distances is not below the square of the mean.
    assert ak.all(np.sqrt(jets.tau1_b2) >= 0.999 * jets.tau1)


def test_width_of_a_jet_of_two_particles():
    """Two equal particles at distance d, axis between them: tau1 is d/2 at beta 1, (d/2)^2 at beta 2 (R0 = 1)."""
    candidates = np.array([[100.0, 0.2, 0.0], [100.0, -0.2, 0.0]])
    jets = cluster(np.array([0, 2]), candidates, 1.0, 50.0, 2)
    flat = ak.flatten(jets.constituents, axis=1)
    made = shapes(flat, 1.0, "full")
    assert len(made) == 27
    assert made["tau1_b2"][0] == pytest.approx(0.2**2, rel=1e-3)
    assert made["tau1_b05"][0] <= 1.001 * np.sqrt(0.2)
    assert made["tau1"][0] == pytest.approx(0.2, rel=1e-3)
    assert made["tau2"][0] == pytest.approx(0.0, abs=1e-6)
    short = shapes(flat, 1.0, "extended")
    assert all(short[name][0] == made[name][0] for name in short)
    assert short["tau1"][0] == substructure(flat, 1.0).tau[0, 0]
    with pytest.raises(InputError, match="extended or full"):
        shapes(flat, 1.0, "all")


def test_tracks_are_the_charged_particles_seen():
    pt = np.full(40, 30.0)
    eta, phi = np.linspace(-0.2, 0.2, 40), np.linspace(-0.2, 0.2, 40)
    charge = np.repeat([1, 0], 20).astype(np.int8)
    kind = np.repeat([0, 1], 20).astype(np.int8)
    offsets, candidates, tracks = simulate_batch(
        np.array([0, 40]), pt, eta, phi, kind, charge, np.array([3]), 500
    )
    assert 14 <= tracks[0] <= 20
    jets = cluster(offsets, candidates, 1.0, 50.0, 2, numbered=True)
    assert tracks_inside(jets, tracks).sum() == tracks[0]
    with pytest.raises(InputError, match="numbered"):
        tracks_inside(cluster(offsets, candidates, 1.0, 50.0, 2), tracks)


@pytest.mark.parametrize(
    ("name", "heavy", "light"), [("wprime_qqq", 500, 100), ("paws_qqq_400_200", 400, 200)]
)
def test_scalars_decay_with_their_masses(name, heavy, light):
    columns, _ = make_dijets(load_card(name), 2, 0, 60)
    masses = np.sort(ak.to_numpy(columns["FatJet"].mass), axis=1)
    assert np.median(masses[:, 1]) == pytest.approx(heavy, rel=0.06)
    assert light < np.median(masses[:, 0]) < 1.25 * light
    particles = columns["GenPart"]
    assert np.mean(ak.to_numpy(ak.flatten(particles.mass[abs(particles.pdgId) == 9000002]))) == pytest.approx(
        light, rel=0.02
    )
    quarks = ak.to_numpy(ak.sum(abs(particles.pdgId) < 6, axis=1))
    assert np.all(quarks >= (8 if name == "wprime_qqq" else 7))


@pytest.fixture
def few(monkeypatch):
    """A few events generated at a time, where a few are wanted."""
    monkeypatch.setattr(dijets, "BATCH", 12)


@pytest.fixture
def tiny(monkeypatch):
    """Sets of a few events: chunks of three."""
    monkeypatch.setattr(generate, "CHUNK", 3)
    parts = (
        Part("data", "wprime_qq", 0, 2, "x"),
        Part("test", "wprime_qq", 1000, 1, "x"),
        Part("three", "wprime_qqq", 0, 1, "x"),
    )
    sets = {"tiny": parts, "data": parts[:1], "short": (Part("data", "wprime_qq", 0, 1, "x"),)}
    monkeypatch.setattr(resonant, "_sets", lambda: sets)


def test_a_set_is_the_same_whoever_makes_it(tiny, tmp_path):
    one = make_set("tiny", 3, folder=tmp_path / "a", cache=tmp_path / "ca")
    two = make_set("data", 3, workers=2, folder=tmp_path / "b", cache=tmp_path / "cb")
    assert (one.complete, two.complete) == (True, True)
    assert one.parts["data"].content == two.parts["data"].content
    other = make_set("short", 4, folder=tmp_path / "c", cache=tmp_path / "ca")
    assert other.parts["data"].content not in {p.content for p in one.parts.values()}
    assert [p.events for p in one.parts.values()] == [6, 3, 3]
    manifest = read_json(tmp_path / "a" / "manifest.json")
    assert manifest["events"] == 12
    assert manifest["cpu_s"] > 0
    assert manifest["versions"]["pythia8mc"]
    assert read_set("tiny", 3, tmp_path / "a").paths("three") == [tmp_path / "a" / "three_000.root"]
    with pytest.raises(ConfigError, match="it has data, test, three"):
        one.paths("dat")
    rows = []
    for part in one.parts:
        with uproot.open(one.paths(part)[0]) as file:
            columns = file["Events"].arrays(["run", "luminosityBlock", "event"], library="np")
        rows += list(zip(*(columns[k].tolist() for k in columns), strict=True))
    assert len(set(rows)) == len(rows) == 12


def test_a_set_goes_on_where_it_was(tiny, few, tmp_path, monkeypatch):
    cache, folder = tmp_path / "cache", tmp_path / "set"
    make_set("short", 1, folder=tmp_path / "small", cache=cache)
    before = {p.name: p.stat().st_mtime_ns for p in cache.iterdir()}
    made = generate.make_chunk
    calls = []

    def dies(name, seed, chunk, where, size):
        if len(calls) == 3:
            raise RuntimeError("killed")
        calls.append(chunk)
        return made(name, seed, chunk, where, size)

    monkeypatch.setattr(generate, "make_chunk", dies)
    with pytest.raises(RuntimeError, match="killed"):
        make_set("tiny", 1, folder=folder, cache=cache)
    half = read_set("tiny", 1, folder)
    assert (list(half.parts), half.complete) == (["data", "test"], False)
    assert {n: (cache / n).stat().st_mtime_ns for n in before} == before
    monkeypatch.setattr(generate, "make_chunk", made)
    seen = []
    whole = make_set("tiny", 1, folder=folder, cache=cache, progress=lambda *a: seen.append(a))
    assert (whole.complete, seen) == (True, [(12, 12)])
    whole.paths("test")[0].write_bytes(b"damaged")
    assert make_set("tiny", 1, workers=2, folder=folder, cache=cache).parts["test"].intact(folder)


@pytest.mark.parametrize("name", set_names())
def test_parts_of_the_sets_do_not_overlap(name):
    taken = [(p.card, i) for p in parts_of(name) for i in p.numbers]
    assert len(set(taken)) == len(taken)
    assert all(load_card(p.card) for p in parts_of(name))


def test_sizes_are_those_of_the_acceptance_table():
    half = {p.name: p.events for p in parts_of("reduced")}
    assert (half["sr_data"], half["sr_template"]) == (60_000, 60_000)
    assert half["sr_test"] >= 150_000
    assert half["sr_supervised"] >= 100_000
    # three quarters of the signal lie in the region
    assert 0.74 * half["signal_test"] > 20_000
    assert 0.74 * half["signal_supervised"] > 30_000
    full = {p.name: p for p in parts_of("full")}
    assert full["inclusive"].events == 1_000_000
    assert sum(full[n].events for n in full if n.startswith("signal")) >= 100_000
    assert full["three_prong"].events >= 100_000
    assert full["sr_template"].events >= 270_000
    for part in parts_of("half"):
        assert set(part.numbers) <= set(full[part.name].numbers)
    assert sum(p.name.startswith("paws_qqq") for p in parts_of("paws")) == 144 + 1
    with pytest.raises(ConfigError, match="did you mean 'half'"):
        parts_of("hafl")


def test_cost_is_measured_card_by_card(tiny):
    costs = estimate("data", 4)
    assert [(c.card, c.events) for c in costs] == [("wprime_qq", 6)]
    assert all(0 < c.seconds_per_event < 5 for c in costs)


def test_a_seal_holds_what_went_in_and_shows_a_change(tmp_path):
    truth = {"box": 1, "masses": [3500.0]}
    path = tmp_path / "s.json"
    path.write_text(json.dumps(blackbox.seal(truth, "salt")))
    assert "3500" not in path.read_text()
    assert blackbox.unseal(path) == truth
    path.write_text(json.dumps({**blackbox.seal(truth, "salt"), "commitment": "0"}))
    with pytest.raises(InputError, match="was changed"):
        blackbox.unseal(path)
    path.write_text(json.dumps({"salt": "x", "sealed": "AAAA", "commitment": ""}))
    with pytest.raises(InputError, match="not a sealed file"):
        blackbox.unseal(path)


def test_masses_of_the_first_box_come_from_the_seed():
    card = load_card("box1_signal")
    values = card.values(1)
    assert values == load_card("box1_signal").values(1) != card.values(2)
    assert all(low <= values[k] <= high for k, (low, high) in card.drawn.items())
    assert f"34:m0 = {values['m_W']:.0f}." in card.resolved(1).commands
    assert not any("{" in c for c in card.resolved(1).commands)


def test_a_box_tells_nothing_and_its_seal_everything(few, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 4)
    box = blackbox.Box(1, "qcd_alt", (("box1_signal", 10),))
    monkeypatch.setitem(blackbox.BOXES, 1, box)
    monkeypatch.setattr(blackbox, "PUBLISHED", 80)
    made = blackbox.make_box(1, 20, tmp_path, seed=5, cache=tmp_path / "c")
    again = blackbox.make_box(1, 20, tmp_path / "again", seed=5, cache=tmp_path / "c")
    with uproot.open(made.path) as file, uproot.open(again.path) as twin:
        columns = file["Events"].arrays(["run", "event", "genWeight", "nGenPart", "FatJet_mass", "FatJet_pt"])
        assert ak.array_equal(columns.FatJet_pt, twin["Events"]["FatJet_pt"].array())
    assert set(columns.run.tolist()) == {31}
    assert columns.event.tolist() == list(range(1, 21))
    assert ak.sum(columns.nGenPart) == 0
    assert set(columns.genWeight.tolist()) == {1.0}
    truth = blackbox.unseal(made.sealed)
    signal = truth["signals"]["box1_signal"]
    assert len(signal["events"]) == 5
    assert signal["masses_gev"] == load_card("box1_signal").values(5)
    # The events that the seal names are those of the signal's chunks.
    path = generate.chunk_path(tmp_path / "c", load_card("box1_signal"), 5, box.first)
    second = generate.chunk_path(tmp_path / "c", load_card("box1_signal"), 5, box.first + 1)
    wanted = ak.concatenate([ak.from_parquet(p).FatJet.pt for p in (path, second)])
    named = columns.FatJet_pt[np.array(signal["events"]) - 1]
    assert np.allclose(
        np.sort(ak.to_numpy(named[:, 0])), np.sort(ak.to_numpy(wanted[: len(named), 0])), rtol=1e-3
    )
    assert str(round(signal["masses_gev"]["m_W"])) not in made.sealed.read_text()


def test_boxes_keep_their_significance_and_have_the_published_content():
    assert blackbox.BOXES[1].injected(1_000_000) == {"box1_signal": 834}
    assert blackbox.BOXES[1].injected(250_000) == {"box1_signal": 417}
    assert blackbox.BOXES[2].injected(1_000_000) == {}
    assert blackbox.BOXES[3].injected(1_000_000) == {"box3_dijet": 1200, "box3_trijet": 2000}
    assert any("PartonShowers:model = 2" in c for c in load_card(blackbox.BOXES[2].background).commands)
    with pytest.raises(ConfigError, match="there are 1, 2, 3"):
        blackbox.make_box(4, 10, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["box3_dijet", "box3_trijet", "qcd_vincia", "qcd_alt_region", "qcd_region_full", "wprime_qq_full"]
)
def test_the_other_cards_make_events(few, name):
    columns, generated = make_dijets(load_card(name), 1, 0, 2)
    assert generated >= 2
    assert len(columns["FatJet"]) == 2
    if name.startswith("box3"):
        particles = columns["GenPart"]
        assert ak.all(ak.any(particles.pdgId == 9000003, axis=1)) == (name == "box3_trijet")
        graviton = particles.mass[particles.pdgId == 5100039]
        assert np.allclose(ak.to_numpy(ak.flatten(graviton)), 4200, rtol=0.03)
