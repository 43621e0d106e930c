"""Reconstructed objects: selection, pile-up, isolation, repeated decays, and that a chunk depends on (card, seed, chunk) alone."""

import math

import awkward as ak
import numpy as np
import pytest
import uproot

pytest.importorskip("pythia8mc")
pytest.importorskip("fastjet")

from elsewhere.errors import InputError
from elsewhere.processors.objects import OBJECTS, ReconstructedObjects
from elsewhere.samples import generate, objects, overlay, reco, redecay, resonant
from elsewhere.samples.card import load_card
from elsewhere.samples.mixture import EVENTS, SHARES
from elsewhere.samples.particles import Particles, generator
from elsewhere.samples.parts import Part
from elsewhere.samples.resonant import parts_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "COLLISIONS", 200)
        yield tmp_path_factory.mktemp("pools")


def make(name, seed, chunk, size, cache):
    return reco.make_reco(load_card(name), seed, chunk, size, cache)


@pytest.fixture(scope="module")
def w(cache):
    return make("adc_w", 3, 0, 60, cache)


def leptons(columns):
    return ak.concatenate([columns["Electron"], columns["Muon"]], axis=1)


def test_selection_holds(w):
    columns, generated = w
    assert generated > len(columns["run"]) == 60
    assert ak.all(ak.max(leptons(columns).pt, axis=1) > 23)
    for name, pt, eta in (("Electron", 3, 3.0), ("Muon", 3, 2.1), ("Jet", 15, 4.0)):
        found = columns[name]
        assert ak.all(found.pt >= pt)
        assert ak.all(abs(found.eta) < eta)
        assert ak.all(found.pt[:, 1:] <= found.pt[:, :-1])
    pairs = ak.cartesian([columns["Jet"], leptons(columns)])
    phi = (pairs["0"].phi - pairs["1"].phi + np.pi) % (2 * np.pi) - np.pi
    assert ak.all(np.hypot(pairs["0"].eta - pairs["1"].eta, phi) >= 0.4 - 1e-5)
    assert ak.all(abs(ak.flatten(leptons(columns).charge)) == 1)
    assert ak.all(ak.any(abs(columns["GenPart"].pdgId) == 24, axis=1))


def test_a_w_looks_like_one(w):
    one = leptons(w[0])[:, 0]
    met, phi = w[0]["MET_pt"], w[0]["MET_phi"]
    mass = np.sqrt(2 * one.pt * met * (1 - np.cos(one.phi - phi)))
    assert 45 < np.median(mass) < 80
    # A plain charge: the first lepton's is that of the W nearly always.
    boson = ak.firsts(w[0]["GenPart"][abs(w[0]["GenPart"].pdgId) == 24].pdgId)
    assert np.mean(np.sign(ak.to_numpy(boson)) == ak.to_numpy(one.charge)) > 0.9


def test_a_chunk_is_a_function_of_card_seed_and_number(w, cache, tmp_path):
    again, generated = make("adc_w", 3, 0, 60, tmp_path)  # its pool is made again too
    assert generated == w[1]
    assert all(ak.array_equal(again[k], w[0][k]) for k in again)
    for other in (make("adc_w", 3, 1, 5, cache), make("adc_w", 4, 0, 5, cache)):
        assert not np.array_equal(other[0]["MET_pt"], w[0]["MET_pt"][:5])


def test_a_damaged_pool_is_named(tmp_path):
    card = load_card("adc_w")
    overlay.pool_path(card, 3, tmp_path).write_bytes(b"PK no pool")
    with pytest.raises(InputError, match="is not a pool"):
        overlay.load_pool(card, 3, tmp_path)


def particles(rows):
    """One event of (pT, eta, phi, pdg)."""
    pt, eta, phi, pdg = np.array(rows, float).T
    return Particles(np.array([0, len(rows)]), pt, eta, phi, np.zeros(len(rows)), pdg.astype(np.int32))


def seen(rows, cache, mean=0.0, times=200):
    """Many reconstructions of one event."""
    p, pool = particles(rows), overlay.load_pool(load_card("adc_w"), 3, cache)
    many = Particles(np.arange(times + 1) * len(rows), *(np.tile(v, times) for v in (p.pt, p.eta, p.phi, p.mass, p.pdg)))  # fmt: skip
    return objects.reconstruct(many.offsets, many.pt, many.eta, many.phi, overlay.kinds(many), many.charge, pool, mean, np.arange(times))  # fmt: skip


@pytest.mark.parametrize(("code", "eta", "efficiency", "width"), [
    (13, 0.3, 0.99 * 0.95, math.hypot(0.01, 1e-4 * 40)), (-11, 0.3, 0.95 * 0.95, math.hypot(0.03, 1.3e-3 * 40)),
    (11, 2.0, 0.83 * 0.85, math.hypot(0.15, 3.1e-3 * 40)), (13, 2.3, 0.0, 0.0), (11, 2.7, 0.0, 0.0),
])  # fmt: skip
def test_efficiency_and_resolution_are_those_of_the_card(cache, code, eta, efficiency, width):
    found = seen([(40.0, eta, 1.0, code)], cache, times=4000)
    assert found.count.mean() == pytest.approx(efficiency, abs=4 * math.sqrt(efficiency * (1 - efficiency) / 4000) + 1e-9)  # fmt: skip
    if efficiency:
        one = found.leptons[found.count == 1, 0]
        assert one[:, 0].std() / 40 == pytest.approx(width, rel=0.08)
        assert one[:, 0].mean() == pytest.approx(40, rel=0.01)
        assert set(one[:, 3]) == {-np.sign(code)}
        assert set(one[:, 4]) == {abs(code)}


def test_company_ends_isolation(cache):
    alone = seen([(40.0, 0.3, 1.0, 13)], cache)
    # 30 GeV: more than 0.45 of the lepton's pT where its track is seen, which is in 95 % of the events; outside the cone nothing.
    near = seen([(40.0, 0.3, 1.0, 13), (30.0, 0.4, 1.1, 211)], cache)
    far = seen([(40.0, 0.3, 1.0, 13), (30.0, 0.8, 1.1, 211)], cache)
    neutral = seen([(40.0, 0.3, 1.0, 13), (30.0, 0.4, 1.1, 22)], cache)
    little = seen([(40.0, 0.3, 1.0, 13), (10.0, 0.4, 1.1, 211)], cache)
    assert near.count.mean() < 0.1
    assert neutral.count.mean() == 0
    for other in (far, little):
        assert other.count.mean() == pytest.approx(alone.count.mean(), abs=0.05)


def test_isolation_is_the_sum_of_its_parts():
    muon = np.array([20.0, 0.3, 3.1, 1.0, 13.0, 0.0])
    own, track, near, soft, far = (
        (20.0, 0.3, 3.1),
        (2.0, 0.4, -3.1),
        (3.0, 0.3, 3.15),
        (0.4, 0.3, 3.1),
        (9.0, 0.3, 2.7),
    )
    candidates = np.array([own, track, far, near, soft, far])
    pileup = np.array([(2.0, 0.2, 3.1), (9.0, 0.7, 3.1), (0.4, 0.3, 3.1)])
    found = [objects._isolation(muon, 0, electron, candidates, 3, pileup) for electron in (False, True)]
    assert found[0] == pytest.approx((2.0 + 3.0 - 0.55 * 2.0) / 20)
    # What lies in an electron's own cluster is its own; nothing is less than nothing.
    assert found[1] == pytest.approx(2.0 / 20)


def test_pile_up_is_laid_over_and_taken_off(cache):
    lone = [(60.0, 0.3, 1.0, 13)]
    without, with_ = seen(lone, cache), seen(lone, cache, mean=20.0, times=400)
    assert with_.pileup.mean() == pytest.approx(20, abs=4 * math.sqrt(20 / 400))
    assert without.pileup.max() == 0
    assert np.all(with_.density[:, 1].mean() > 1.0)
    # Isolation is corrected for it: next to no muon is lost.
    assert with_.count.mean() > 0.97 * without.count.mean()
    # Tracks of pile-up are no candidates: at most the muon and what the calorimeter keeps.
    rest = with_.candidates[np.abs(with_.candidates[:, 1]) < 2.5]
    assert np.median(rest[:, 0]) < 3


def test_density_is_the_median_over_cells():
    rng = np.random.default_rng(1)
    n = 40_000
    candidates = np.stack([np.full(n, 0.1), rng.uniform(-5, 5, n), rng.uniform(-np.pi, np.pi, n)], axis=1)
    candidates[:n, 0] *= np.where(np.abs(candidates[:, 1]) < 2.5, 1.0, 2.0)
    candidates = np.concatenate([candidates, [[500.0, 1.0, 1.0]]])  # a hard jet does not move it
    out = np.zeros(2)
    objects.density(candidates, out)
    even = 0.1 * n / (10 * 2 * np.pi)
    np.testing.assert_allclose(out, [even, 2 * even], rtol=0.03)


def test_what_flies_beside_a_lepton():
    others = np.array([[1.0, 0.1, 3.1], [2.0, 0.1, -3.1], [4.0, 0.5, 3.1]])
    assert redecay.beside(0.1, 3.14, others) == 3.0
    assert [redecay.heavy(code) for code in (15, 511, 5122, 421, 211, 13, 3122)] == [True] * 4 + [False] * 3


def test_repeated_decays_are_those_of_a_plain_generation():
    card, events = load_card("adc_h0"), 150
    rates = []
    for tries in (1, 8):
        pythia = generator((*card.commands, *redecay.COMMANDS), 11)
        rng = np.random.default_rng(1)
        rates.append(np.array([redecay.redecayed(pythia, tries, rng) for _ in range(events)]) / tries)
    error = math.sqrt(sum(r.var() for r in rates) / events)
    assert rates[1].mean() == pytest.approx(rates[0].mean(), abs=4 * error)
    assert 0.05 < rates[1].mean() < 0.25
    assert rates[1].var() < rates[0].var() / 3


def test_weighted_events_come_once(cache):
    columns, _ = make("adc_hplus", 3, 0, 8, cache)
    weight = columns["genWeight"]
    assert np.array_equal(weight, np.rint(weight))
    assert 1 <= weight.min() <= weight.max() <= load_card("adc_hplus").redecays
    assert len(np.unique(columns["event"])) == 8
    assert ak.all(ak.any(abs(columns["GenPart"].pdgId) == 37, axis=1))
    hard = ak.to_numpy(columns["GenPart"].pt[:, -1])
    assert len(np.unique(hard)) == 8


def test_four_leptons_have_the_mass_of_their_scalar(cache):
    columns, _ = make("adc_a4l", 3, 0, 60, cache)
    four = leptons(columns)
    four = four[ak.num(four.pt) == 4]
    parts = [ak.sum(v, axis=1) for v in (four.pt * np.cosh(four.eta), four.pt * np.cos(four.phi), four.pt * np.sin(four.phi), four.pt * np.sinh(four.eta))]  # fmt: skip
    mass = np.sqrt(parts[0] ** 2 - parts[1] ** 2 - parts[2] ** 2 - parts[3] ** 2)
    assert len(mass) > 5
    assert np.median(mass) == pytest.approx(50, abs=3)


def test_the_set_has_the_proportions_of_the_challenge():
    parts = {p.card: p for p in parts_of("adc")}
    assert sum(parts[card].events for card in SHARES) == EVENTS
    assert [parts[c].events / EVENTS for c in ("adc_w", "adc_qcd", "adc_z", "adc_tt")] == [0.592, 0.338, 0.067, 0.003]  # fmt: skip
    assert all(p.events <= p.chunks * generate.CHUNK for p in parts.values())


def test_a_part_of_so_many_events_has_no_more(monkeypatch, cache, tmp_path):
    monkeypatch.setattr(generate, "CHUNK", 4)
    part = Part.of("adc_w", 6, "W")
    monkeypatch.setattr(resonant, "parts_of", lambda name: (part,))
    made = resonant.make_set("adc", 3, folder=tmp_path, cache=cache)
    assert (part.chunks, made.parts["adc_w"].events, made.complete) == (2, 6, True)
    with uproot.open(made.paths("adc_w")[0]) as file:
        assert file["Events"]["event"].array(library="np").tolist() == [1, 2, 3, 4, 5, 6]
    written = made.paths("adc_w")[0].stat().st_mtime_ns
    again = resonant.make_set("adc", 3, folder=tmp_path, cache=cache)
    assert again.paths("adc_w")[0].stat().st_mtime_ns == written


def test_the_feature_set_reads_the_events(w):
    columns = {k: v for k, v in w[0].items() if isinstance(v, np.ndarray)}
    columns |= {f"{k}_{f}": w[0][k][f] for k, _, _ in OBJECTS for f in ("pt", "eta", "phi")}
    found = ReconstructedObjects().compute(columns).x
    slots = [
        ak.to_numpy(ak.fill_none(ak.pad_none(w[0][k][f], most, clip=True), 0.0))
        for k, most, _ in OBJECTS
        for f in ("pt", "eta", "phi")
    ]
    wanted = np.concatenate([np.stack(slots[i : i + 3], axis=2).reshape(60, -1) for i in (0, 3, 6)], axis=1)
    np.testing.assert_array_equal(found[:, 3:], wanted)
    np.testing.assert_array_equal(found[:, 0], w[0]["MET_pt"])
