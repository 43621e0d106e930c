"""Jets with constituents: what a reader of PFNano sees, what the cut lets through, and the physics of the cards."""

import awkward as ak
import numpy as np
import pytest
import uproot

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from elsewhere.errors import ConfigError
from elsewhere.samples import constituents, generate
from elsewhere.samples.card import Card, JetCut, card_names, load_card, load_family
from elsewhere.samples.constituents import make_jets
from elsewhere.samples.detector import KINEMATIC, LABELLED, simulate_batch
from elsewhere.samples.generate import simulate
from elsewhere.samples.jetsets import JET_SETS
from elsewhere.samples.particles import Particles, generator
from elsewhere.samples.partons import Partons, partons
from elsewhere.samples.resonant import parts_of, set_folder


@pytest.fixture(scope="module")
def top():
    return make_jets(load_card("top"), 5, 0, 60)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A file of 40 QCD jets."""
    folder = tmp_path_factory.mktemp("jets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "CHUNK", 40)
        simulate("qcd_150", 40, folder / "a.root", 3, cache=folder)
    return folder / "a.root"


def test_constituents_sum_to_their_jet(top):
    columns = top[0]
    jet, parts = columns["FatJet"], columns["PFCands"]
    whole = ak.to_numpy(jet.nConstituents == jet.nAllConstituents)[:, 0]
    assert whole.sum() > 50
    px, py = (ak.to_numpy(ak.sum(parts.pt * f(parts.phi), axis=1)) for f in (np.cos, np.sin))
    pz, e = (ak.to_numpy(ak.sum(parts.pt * f(parts.eta), axis=1)) for f in (np.sinh, np.cosh))
    np.testing.assert_allclose(np.hypot(px, py)[whole], ak.to_numpy(jet.pt)[whole, 0], rtol=1e-4)
    mass = np.sqrt(e**2 - px**2 - py**2 - pz**2)
    np.testing.assert_allclose(mass[whole], ak.to_numpy(jet.mass)[whole, 0], rtol=1e-3)
    assert np.all(np.hypot(px, py)[~whole] < ak.to_numpy(jet.pt)[~whole, 0])


def test_links_count_what_is_stored(top, monkeypatch):
    monkeypatch.setattr(constituents, "STORED", 5)
    short = make_jets(load_card("top"), 5, 0, 60)[0]
    jet, links, parts = short["FatJet"], short["FatJetPFCands"], short["PFCands"]
    assert set(ak.flatten(jet.nConstituents).tolist()) == {5}
    assert ak.all(ak.num(links.jetIdx) == 5)
    assert ak.all(links.pFCandsIdx == ak.local_index(links.pFCandsIdx))
    assert ak.array_equal(jet.nAllConstituents, top[0]["FatJet"].nAllConstituents)
    # The hardest, in order, of the same jets.
    assert ak.array_equal(parts.pt, top[0]["PFCands"].pt[:, :5])
    assert ak.all(parts.pt[:, 1:] <= parts.pt[:, :-1])
    # The substructure is that of all of them.
    assert ak.array_equal(jet.tau3, top[0]["FatJet"].tau3)


def test_coffea_reads_constituents(written):
    from coffea.nanoevents import NanoEventsFactory, PFNanoAODSchema

    events = NanoEventsFactory.from_root(
        {str(written): "Events"}, schemaclass=PFNanoAODSchema, mode="eager"
    ).events()
    jets = events.FatJet[:, 0]
    assert ak.all(jets.nConstituents == jets.nAllConstituents)
    total = jets.constituents.pf.sum()
    np.testing.assert_allclose(ak.to_numpy(total.pt), ak.to_numpy(jets.pt), rtol=1e-3)
    assert ak.all(ak.num(jets.constituents.pf) == jets.nConstituents)
    with uproot.open(written) as file:
        tree = file["Events"]
        codes = set(np.abs(ak.flatten(tree["PFCands_pdgId"].array()).to_numpy()).tolist())
        charge = ak.flatten(tree["PFCands_charge"].array()).to_numpy()
        assert {211, 22, 130} <= codes <= {11, 13, 22, 130, 211}
        assert set(charge.tolist()) == {-1, 0, 1}
        pion = np.abs(ak.flatten(tree["PFCands_pdgId"].array()).to_numpy()) == 211
        assert np.all(charge[pion] == np.sign(ak.flatten(tree["PFCands_pdgId"].array()).to_numpy()[pion]))
        assert tree["FatJetPFCands_jetIdx"].array().ndim == 2


def test_labels_do_not_change_the_detector():
    """One of each kind, far apart: electron, muon, pion (all negative), photon and neutral hadron."""
    pt, eta = np.full(5, 50.0), np.array([-1.2, -0.6, 0.0, 0.6, 1.2])
    kind, charge = np.array([1, 2, 0, 1, 0], np.int8), np.array([-1, -1, -1, 0, 0], np.int8)
    for seed in range(40):
        given = (np.array([0, 5]), pt, eta, np.zeros(5), kind, charge, np.array([seed]), 500)
        plain, labelled = simulate_batch(*given, KINEMATIC), simulate_batch(*given, LABELLED)
        np.testing.assert_array_equal(plain[1], labelled[1][:, :3])
        found = labelled[1]
        for at, code in zip(eta, (11, 13, -211, 22, 130), strict=True):
            near = found[np.abs(found[:, 1] - at) < 0.1]
            # What a track leaves over in the calorimeter is neutral, and a lost track too.
            assert set(near[:, 3]) <= ({code} if code in (13, 22, 130) else {code, 22, 130})


def test_the_cut_holds(top):
    columns, generated = top
    jet = columns["FatJet"]
    assert generated > 3 * len(jet)
    assert ak.all((jet.pt >= 550) & (jet.pt < 650) & (abs(jet.eta) < 2))
    assert ak.all(ak.num(jet.pt) == 1)
    assert columns["run"].tolist() == [load_card("top").run] * 60
    assert columns["event"].tolist() == list(range(1, 61))


def _distance(jet, particles):
    turn = (particles.phi - jet.phi[:, 0] + np.pi) % (2 * np.pi) - np.pi
    return np.hypot(particles.eta - jet.eta[:, 0], turn)


def test_a_matched_jet_holds_its_top_and_its_three_quarks(top):
    jet, particles = top[0]["FatJet"], top[0]["GenPart"]
    near = _distance(jet, particles) < 0.8
    tops = near & (abs(particles.pdgId) == 6)
    assert ak.all(ak.any(tops, axis=1))
    # Quarks below the top in the jet: by mothers, W and b below the top, two quarks below that W.
    for k in range(len(jet)):
        mothers, inside = particles.genPartIdxMother[k].tolist(), near[k].tolist()
        (first, *_) = np.flatnonzero(ak.to_numpy(tops[k]))
        below = [i for i, m in enumerate(mothers) if m == first]
        w = next(i for i in below if abs(particles.pdgId[k][i]) == 24)
        quarks = [i for i in below if i != w] + [i for i, m in enumerate(mothers) if m == w]
        assert len(quarks) == 3
        assert all(inside[i] for i in quarks)


def test_containment_needs_every_end_of_the_decay():
    """A top (row 0) to b (row 1) and W (row 2), W to rows 3 and 4; one quark is outside."""
    eta = np.array([0.0, 0.2, -0.2, -0.5, 0.9])
    particles = Particles(
        np.array([0, 5]), np.ones(5), eta, np.zeros(5), np.zeros(5), np.array([6, 5, 24, 1, -2])
    )
    hard = Partons(particles, np.array([-1, 0, 0, 2, 2], np.int16), np.full(5, 22, np.int32))
    assert hard.inside(0, 0.0, 0.0, 0.8, (6,), contained=False)
    assert not hard.inside(0, 0.0, 0.0, 0.8, (6,), contained=True)
    assert hard.inside(0, 0.0, 0.0, 1.0, (6,), contained=True)
    assert not hard.inside(0, 0.0, 0.0, 1.0, (25,), contained=False)
    # the angle wraps
    assert hard.inside(0, 0.0, 2 * np.pi - 0.1, 1.0, (6,), contained=True)


def test_mothers_are_found_through_the_copies_of_the_shower():
    pythia = generator(load_card("top_600").commands, 4)
    hard = partons(pythia.nextBatch(30))
    p = hard.particles
    for i in range(len(hard)):
        a, b = p.offsets[i : i + 2]
        codes, mothers = p.pdg[a:b], hard.mothers[a:b]
        for code in (24, -24):
            (w,) = np.flatnonzero(codes == code)
            assert codes[mothers[w]] == np.sign(code) * 6
            assert np.sum(mothers == w) == 2
        assert np.sum(mothers < 0) == 2  # the incoming


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("w_600", 76, 92), ("w_mass_59", 56, 70), ("w_mass_174", 164, 186), ("top_600", 160, 195), ("top_mass_80", 75, 115),
        ("h_hh_20", 160, 185), ("h_hh_80", 160, 185), ("top_w20", 150, 195),
    ],
)  # fmt: skip
def test_jets_have_the_mass_of_what_they_hold(name, low, high):
    columns, _ = make_jets(load_card(name), 2, 0, 40)
    assert low < np.median(ak.to_numpy(columns["FatJet"].mass)) < high
    (wanted,) = load_card(name).jet.match
    assert ak.all(ak.any(abs(columns["GenPart"].pdgId) == wanted, axis=1))


@pytest.mark.parametrize(
    ("name", "point"), [("w_600", None), ("qcd_150", None), ("w_mass_59", 59), ("dark_75_5", "75_5")]
)
def test_cards_give_their_reference_numbers(name, point):
    card = load_card(name)
    stated = card.reference if point is None else card.reference[point]
    columns, generated = make_jets(card, 2, 0, 100)
    jet = columns["FatJet"]
    assert np.median(ak.to_numpy(jet.mass)) == pytest.approx(stated["median_mass_gev"], rel=0.2)
    assert ak.mean(jet.nAllConstituents) == pytest.approx(stated["mean_constituents"], rel=0.12)
    # four standard deviations of a hundred kept
    assert 100 / generated == pytest.approx(stated["efficiency"], rel=0.4)


@pytest.mark.parametrize("r_inv", [25, 75])
def test_invisible_fraction_of_dark_showers(r_inv):
    """Of the dark mesons' energy and of their number, r_inv goes to what no detector sees."""
    batch = generator(load_card(f"dark_{r_inv}_5").commands, 3).nextBatch(120)
    code = abs(batch.prt.id)
    mesons = (code == 4900111) | (code == 4900113) | (code == 4900211) | (code == 4900213)
    unseen = code[batch.prt.daughter1[mesons]] == 12
    n = ak.sum(mesons)
    sigma = np.sqrt(r_inv / 100 * (1 - r_inv / 100) / n)
    assert n > 1500
    assert ak.sum(unseen) / n == pytest.approx(r_inv / 100, abs=4 * sigma)
    energy = batch.prt.p.e[mesons]
    assert ak.sum(energy[unseen]) / ak.sum(energy) == pytest.approx(r_inv / 100, abs=0.06)
    assert not ak.any((batch.prt.status > 0) & (code > 4900000))
    assert set(np.round(ak.to_numpy(ak.flatten(batch.prt.m[mesons])), 6).tolist()) == {5.0}


def test_dark_jets_have_fewer_constituents_than_qcd(written):
    dark = make_jets(load_card("dark_75_5"), 1, 0, 60)[0]["FatJet"]
    with uproot.open(written) as file:
        qcd = ak.mean(file["Events"]["FatJet_nAllConstituents"].array())
    assert ak.mean(dark.nAllConstituents) < qcd - 3


def test_a_chunk_is_a_function_of_card_seed_and_number():
    card = load_card("w_600")
    first, second = make_jets(card, 1, 0, 4), make_jets(card, 1, 0, 4)
    assert first[1] == second[1]
    assert all(ak.array_equal(first[0][k], second[0][k]) for k in first[0])
    for other in (make_jets(card, 2, 0, 4), make_jets(card, 1, 1, 4)):
        assert not ak.array_equal(other[0]["PFCands"].pt, first[0]["PFCands"].pt)


def test_an_early_cut_counts_what_it_gave_up():
    card = load_card("qcd_top")
    made, generated = make_jets(card, 1, 0, 20)
    plain = Card(**{**card.__dict__, "early": None, "name": "plain"})
    assert generated > 80
    # One in twelve hard processes passes, with and without it.
    assert 0.4 < generated / make_jets(plain, 1, 0, 20)[1] < 2.5
    assert len(made["FatJet"]) == 20


def test_a_card_of_jets_needs_its_cut():
    with pytest.raises(ConfigError, match="has no jet: give radius, pt and max_eta"):
        make_jets(Card("x", "jets", "", 1, ("HardQCD:all = on",)), 1, 0, 1)


def test_the_cut_is_part_of_what_a_card_is():
    card = load_card("top")
    for changed in (
        {"jet": JetCut(0.8, (550.0, 650.0), 2.0)}, {"shower_weights": 2.0}, {"hard": "top_600"},
    ):  # fmt: skip
        assert Card(**{**card.__dict__, **changed}).digest != card.digest


def test_names_of_what_a_parameter_decides():
    commands = load_card("dark_25_10").commands
    assert "4900111:oneChannel = 1 0.25 0 12 -12" in commands
    assert commands.count("4900211:addChannel = 1 0.375 91 2 -2") == 1
    assert "HiddenValley:pTminFSR = 11.0" in commands
    assert "24:m0 = 37" in load_card("top_mass_80").commands
    assert load_family("dark").card(75, 5) == load_card("dark_75_5")


def test_jet_sets_have_their_own_folder_and_known_cards():
    for name in JET_SETS:
        assert set_folder(name, 1).parent.name == "jets"
        assert all(load_card(p.card).kind == "jets" for p in parts_of(name))
    assert sum(p.events for p in parts_of("jets")) == 40_000
    unknown = [p for p in parts_of("classes") if p.name.startswith("unknown")]
    assert len(unknown) == 6
    assert len([n for n in card_names() if load_card(n).jet]) >= 18
