from itertools import pairwise

import awkward as ak
import numpy as np
import pytest

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from elsewhere.errors import ConfigError
from elsewhere.samples import generate
from elsewhere.samples.card import card_names, load_card
from elsewhere.samples.dijets import dijet_mass, make_dijets


@pytest.fixture(scope="module")
def wprime():
    return make_dijets(load_card("wprime"), 5, 0, 100)


def test_every_card_is_valid_and_has_a_run_of_its_own():
    cards = [load_card(name) for name in card_names()]
    assert [c.name for c in cards] == card_names()
    assert len({c.digest for c in cards}) == len(cards)
    # Versions of the same hard processes share their run.
    assert len({c.run for c in cards}) == len({f"{c.hard} again" if c.hard else c.name for c in cards})
    assert all(c.kind == "l1" or c.commands for c in cards)


def test_unknown_card_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'wprime'"):
        load_card("wprim")


def test_wprime_has_its_three_masses(wprime):
    jets = wprime[0]["FatJet"]
    masses = np.sort(ak.to_numpy(jets.mass), axis=1)
    # Radiation inside R = 1 adds to the lighter jet's mass; grooming takes it off again.
    assert 105 < np.median(masses[:, 0]) < 130
    assert np.median(np.sort(ak.to_numpy(jets.msoftdrop), axis=1)[:, 0]) == pytest.approx(100, rel=0.1)
    assert np.median(masses[:, 1]) == pytest.approx(500, rel=0.1)
    assert np.median(dijet_mass(jets)) == pytest.approx(3500, rel=0.06)


def test_subjettiness_falls_with_the_number_of_axes(wprime):
    taus = [ak.to_numpy(ak.flatten(wprime[0]["FatJet"][f"tau{i}"])) for i in (1, 2, 3, 4)]
    assert all(np.all(t > 0) for t in taus)
    # One minimisation pass may stop in a local minimum: rarely, one axis more is a little worse.
    for few, many in pairwise(taus):
        assert np.mean(many <= few) > 0.97


def test_selection_holds(wprime):
    columns, generated = wprime
    jets = columns["FatJet"]
    assert generated > len(jets) == 100
    assert np.all(ak.to_numpy(jets.pt)[:, 0] > 1200)
    assert np.all(np.abs(ak.to_numpy(jets.eta)) < 2.5)
    assert np.all(np.diff(ak.to_numpy(jets.pt), axis=1) <= 0)


def test_hard_process_is_the_decay_chain(wprime):
    particles = wprime[0]["GenPart"]
    assert np.all(ak.sum(abs(particles.pdgId) == 34, axis=1) == 1)
    x = particles[abs(particles.pdgId) == 23]
    assert np.median(ak.to_numpy(ak.flatten(x.mass))) == pytest.approx(500, rel=0.05)


def test_a_chunk_is_a_function_of_card_seed_and_number():
    card = load_card("qcd")
    first, second = make_dijets(card, 1, 0, 4), make_dijets(card, 1, 0, 4)
    assert first[1] == second[1]
    assert all(ak.array_equal(first[0][k], second[0][k]) for k in first[0])
    for other in (make_dijets(card, 2, 0, 4), make_dijets(card, 1, 1, 4)):
        assert not np.array_equal(ak.to_numpy(other[0]["FatJet"].pt), ak.to_numpy(first[0]["FatJet"].pt))


def test_a_resumed_run_takes_the_chunks_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 3)
    short = generate.simulate("qcd", 3, tmp_path / "short.root", 1, cache=tmp_path)
    made = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet")}
    long = generate.simulate("qcd", 5, tmp_path / "long.root", 1, cache=tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet") if p.name in made} == made
    assert (short.events, long.events, len(list(tmp_path.glob("*.parquet")))) == (3, 5, 2)
