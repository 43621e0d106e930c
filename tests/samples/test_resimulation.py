"""Hard processes showered again: the same ones in every version, other jets, joined by their identity."""

import awkward as ak
import numpy as np
import pytest
import uproot

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from elsewhere.errors import ConfigError, IncompleteError
from elsewhere.samples import generate, resonant
from elsewhere.samples.card import Card, card_names, load_card
from elsewhere.samples.constituents import VARIATIONS, make_jets, variations
from elsewhere.samples.nano import write_nano
from elsewhere.samples.particles import generator
from elsewhere.samples.partons import partons
from elsewhere.samples.resimulation import hard_events, numbers
from elsewhere.samples.resonant import Part, make_set, read_set

SIZE = 120


@pytest.fixture(scope="module")
def versions():
    return {
        v: make_jets(load_card(f"resim_top_{v}"), 4, 1, SIZE)[0]
        for v in ("nominal", "seed", "fsr_low", "fsr_high")
    }


def joined(one, two):
    """Rows of both with the same identity."""
    keys = [
        list(zip(*(c[k].tolist() for k in ("run", "luminosityBlock", "event")), strict=True))
        for c in (one, two)
    ]
    both = sorted(set(keys[0]) & set(keys[1]))
    return [np.array([k.index(b) for b in both]) for k in keys]


def test_versions_share_hard_process_and_identity_and_not_the_jet(versions):
    nominal = versions["nominal"]
    for name, other in versions.items():
        a, b = joined(nominal, other)
        assert len(a) >= 5
        for field in nominal["GenPart"].fields:
            assert ak.array_equal(nominal["GenPart"][field][a], other["GenPart"][field][b])
        if name != "nominal":
            pt, again = (ak.to_numpy(v["FatJet"].pt)[i, 0] for v, i in ((nominal, a), (other, b)))
            assert not np.any(pt == again)
            # but the same event: the jet of the one is near the jet of the other, or opposite
            phi = [ak.to_numpy(v["FatJet"].phi)[i, 0] for v, i in ((nominal, a), (other, b))]
            turn = np.abs((phi[0] - phi[1] + np.pi / 2) % np.pi - np.pi / 2)
            assert np.median(turn) < 0.15
            shuffled = np.abs((phi[0] - np.roll(phi[1], 1) + np.pi / 2) % np.pi - np.pi / 2)
            assert np.median(turn) < 0.3 * np.median(shuffled)


def test_identities_are_those_of_the_hard_process(versions):
    for columns in versions.values():
        assert set(columns["run"].tolist()) == {95}
        assert set(columns["luminosityBlock"].tolist()) == {2}
        assert np.all(np.diff(columns["event"].astype(int)) > 0)
        assert columns["event"].min() > SIZE
        assert columns["event"].max() <= 2 * SIZE
    # Versions lose other events.
    assert versions["nominal"]["event"].tolist() != versions["seed"]["event"].tolist()


def test_the_hard_process_of_an_event_is_its_own(versions):
    """The jet is along a top of the hard process that the event carries, up to the recoil."""
    for columns in versions.values():
        jet, particles = columns["FatJet"], columns["GenPart"]
        tops = particles[abs(particles.pdgId) == 6]
        turn = (tops.phi - jet.phi[:, 0] + np.pi) % (2 * np.pi) - np.pi
        assert np.mean(ak.to_numpy(ak.min(np.abs(turn), axis=1)) < 0.3) > 0.75
        assert ak.all(ak.num(tops) == 2)
        w = particles[abs(particles.pdgId) == 24]
        assert ak.all(np.abs(particles.pdgId[w.genPartIdxMother]) == 6)
        assert ak.all(abs(particles.pdgId[particles.genPartIdxMother == -1]) < 22)


def test_more_radiation_makes_more_constituents(versions):
    mean = {k: ak.mean(v["FatJet"].nAllConstituents) for k, v in versions.items()}
    assert mean["fsr_low"] > mean["fsr_high"] + 3


def test_hard_processes_depend_on_seed_and_chunk_alone(tmp_path):
    card = load_card("top_600")
    one, two, other = (hard_events(card, *key, 10, tmp_path / "a.lhe") for key in ((1, 0), (1, 0), (1, 1)))
    np.testing.assert_array_equal(one.particles.pt, two.particles.pt)
    assert not np.array_equal(one.particles.phi, other.particles.phi)


def test_pythia_reads_what_was_written(tmp_path):
    """Without a shower every particle comes back: direction, mass, mother and colours that Pythia accepts."""
    hard = hard_events(load_card("top_600"), 1, 0, 40, tmp_path / "a.lhe")
    commands = ("Beams:frameType = 4", f"Beams:LHEF = {tmp_path / 'a.lhe'}", "PartonLevel:MPI = off")
    back = partons(
        generator((*commands, "PartonLevel:ISR = off", "PartonLevel:FSR = off", "PartonLevel:Remnants = on", "BeamRemnants:primordialKT = off"), 7).nextBatch(40)
    )  # fmt: skip
    assert len(back) == 40
    np.testing.assert_array_equal(back.particles.pdg, hard.particles.pdg)
    np.testing.assert_array_equal(back.mothers, hard.mothers)
    np.testing.assert_allclose(back.particles.mass, hard.particles.mass, atol=1e-3)
    np.testing.assert_allclose(back.particles.pt, hard.particles.pt, rtol=1e-3, atol=1e-2)
    np.testing.assert_array_equal(back.status, hard.status)


def test_a_hard_process_that_was_left_out_moves_no_number():
    wanted = np.array([[1.0, -9.0], [2.0, -8.0], [3.0, -7.0], [4.0, -6.0], [5.0, -5.0]])
    np.testing.assert_array_equal(numbers(wanted, wanted[[1, 2, 4]], 0), [1, 2, 4])
    np.testing.assert_array_equal(numbers(wanted, wanted[[3]], 2), [3])
    with pytest.raises(IncompleteError, match="none of the hard processes"):
        numbers(wanted, np.array([[7.0, -1.0]]), 0)


def test_versions_are_cards_of_one_run():
    found = [n for n in card_names() if load_card(n).hard]
    assert {"resim_top_nominal", "resim_qcd_mpi"} <= set(found)
    assert len({load_card(n).run for n in found}) == 2
    assert len({load_card(n).digest for n in found}) == len(found)
    assert load_card("resim_qcd_mpi").commands[-1] == "PartonLevel:MPI = on"
    bad = Card(**{**load_card("resim_top_seed").__dict__, "hard": "qcd"})
    with pytest.raises(ConfigError, match="must be a card of jets with a process of its own"):
        make_jets(bad, 1, 0, 2)


def test_a_set_counts_what_passed_and_is_not_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 20)
    parts = (Part("a", "resim_qcd_nominal", 0, 2, "x"), Part("b", "resim_qcd_seed", 0, 2, "x"))
    monkeypatch.setattr(resonant, "_sets", lambda: {"pairs": parts})
    made = make_set("pairs", 2, folder=tmp_path / "s", cache=tmp_path / "c")
    with uproot.open(made.paths("a")[0]) as file:
        events = file["Events"]["event"].array(library="np")
    assert made.parts["a"].events == len(events) < 40
    assert made.parts["a"].generated == 40
    assert events.max() <= 40
    stamp = made.paths("a")[0].stat().st_mtime_ns
    assert (
        make_set("pairs", 2, folder=tmp_path / "s", cache=tmp_path / "c").paths("a")[0].stat().st_mtime_ns
        == stamp
    )
    assert read_set("pairs", 2, tmp_path / "s").complete
    report = generate.simulate("resim_qcd_nominal", 30, tmp_path / "a.root", 2, cache=tmp_path / "c")
    assert (report.events, report.generated) == (int(np.sum(events <= 30)), 30)


def test_shower_weights_are_in_the_order_of_nanoaod(tmp_path):
    card = load_card("top_600_weights")
    columns = make_jets(card, 1, 0, 60)[0]
    weights = columns["PSWeight"]
    assert set(ak.num(weights).tolist()) == {4}
    w = ak.to_numpy(weights)
    # ISR matters little to a jet of 600 GeV, FSR much; a scale up is fewer emissions, which jets with few have too.
    spread = np.std(np.log(w), axis=0)
    assert spread[1] > 2 * spread[0]
    assert spread[3] > 2 * spread[2]
    assert np.corrcoef(np.log(w[:, 1]), np.log(w[:, 3]))[0, 1] < -0.5
    n = ak.to_numpy(columns["FatJet"].nAllConstituents)[:, 0]
    assert np.average(n, weights=w[:, 1]) < n.mean()
    write_nano(tmp_path / "a.root", columns)
    with uproot.open(tmp_path / "a.root") as file:
        assert file["Events"]["nPSWeight"].array().tolist() == [4] * 60
        np.testing.assert_allclose(ak.to_numpy(file["Events"]["PSWeight"].array()), w, rtol=1e-3)
    assert list(VARIATIONS) == ["isr_up", "fsr_up", "isr_down", "fsr_down"]
    assert variations(2.0)[1] == (
        "UncertaintyBands:List = {isr_up isr:muRfac=2.0,fsr_up fsr:muRfac=2.0,isr_down isr:muRfac=0.5,fsr_down fsr:muRfac=0.5}"
    )
    assert resonant.content_digest(columns) != resonant.content_digest({**columns, "PSWeight": weights * 1.5})
