"""Calorimeter regions against sums over towers by hand, and what the cards of the trigger's signals hold."""

import math
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

pytest.importorskip("pythia8mc")

from elsewhere.samples import generate, resonant, towers
from elsewhere.samples.card import card_names, load_card
from elsewhere.samples.detector import ETA_CELLS, ETA_STEP, PHI_CELLS
from elsewhere.samples.level1 import make_crossings
from elsewhere.samples.particles import generator, visible
from elsewhere.samples.regions import BORDERS, FULL, REGIONS, find_regions
from elsewhere.samples.trigger import PT_STEP


def regions_of(et):
    out = np.zeros(REGIONS, np.uint16)
    find_regions(et, out)
    return out.reshape(18, 14)


def row(eta):
    return math.floor(eta / ETA_STEP) + ETA_CELLS // 2


def column(phi):
    return int((phi + math.pi) / (2 * math.pi) * PHI_CELLS) % PHI_CELLS


@pytest.mark.parametrize(
    ("eta", "phi", "where"),
    [
        (0.01, 0.0, (0, 7)),
        (-0.01, math.radians(-9), (0, 6)),
        (0.36, math.radians(11), (1, 8)),
        (-2.9, math.radians(171), (9, 0)),
        (2.9, math.radians(-179), (9, 13)),
        (2.2, math.radians(-11), (17, 13)),
        (2.1, math.radians(91), (5, 12)),
    ],
)
def test_a_tower_is_in_its_region_and_in_no_other(eta, phi, where):
    et = np.zeros((ETA_CELLS, PHI_CELLS))
    et[row(eta), column(phi)] = 7.5
    found = regions_of(et)
    assert found[where] == 15
    assert found.sum() == 15


def test_the_forward_calorimeter_is_in_none_and_every_other_tower_is_in_one():
    et = np.full((ETA_CELLS, PHI_CELLS), PT_STEP)
    found = regions_of(et)
    assert (found == 4 * np.diff(BORDERS)[[6, 5, 4, 3, 2, 1, 0, 0, 1, 2, 3, 4, 5, 6]]).all()
    assert found.sum() == PHI_CELLS * 2 * BORDERS[-1]
    assert BORDERS[-1] * ETA_STEP < 3.0 < (BORDERS[-1] + 1) * ETA_STEP


def test_a_region_stays_full():
    et = np.zeros((ETA_CELLS, PHI_CELLS))
    et[row(0.1), column(0.0)], et[row(0.2), column(0.0)] = 400.0, 111.5
    assert regions_of(et)[0, 7] == FULL
    et[row(0.2), column(0.0)] = 111.0
    assert regions_of(et)[0, 7] == 1022


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "pool_size", lambda card: (60, 30))
        # What lies in the pools is of no interest here: no multiple interactions, which take long to set up.
        plain = ("HardQCD:all = on", "PhaseSpace:pTHatMin = 5.", "PartonLevel:MPI = off")
        patch.setattr(towers, "SOFT", plain)
        patch.setattr(towers, "HARD", plain)
        yield tmp_path_factory.mktemp("pools")


@pytest.fixture(scope="module")
def crossings(pools):
    return make_crossings(load_card("zerobias_regions"), 3, 0, 60, pools)[0]


def test_crossings_have_regions_and_those_of_shipped_cards_do_not(crossings, pools):
    et = crossings["L1CaloRegion"].et
    assert ak.all(ak.num(et) == REGIONS)
    assert ak.to_numpy(ak.flatten(et)).dtype == np.uint16
    total = ak.to_numpy(ak.sum(et, axis=1)) * PT_STEP
    assert np.corrcoef(total, crossings["Pileup_nPU"])[0, 1] > 0.4
    assert not any(load_card(n).regions or load_card(n).pool for n in ("zerobias", "zerobias_train", "ttbar"))


def test_cards_of_one_pool_share_it_and_training_shares_none(crossings, pools):
    make = {n: towers.pool_path(load_card(n), 3, pools) for n in card_names() if load_card(n).kind == "l1"}
    assert make["zerobias_regions"] == make["zerobias_regions_pu30"] == make["zerobias_regions_pu60"]
    assert make["zerobias_regions_train"] not in (make["zerobias_regions"], make["hh_4b"])
    assert make["zerobias"] != make["zerobias_train"]
    few = make_crossings(load_card("zerobias_regions_pu30"), 3, 0, 60, pools)[0]
    assert few["Pileup_nPU"].mean() == pytest.approx(30, abs=4 * math.sqrt(30 / 60))
    assert len(list(pools.glob("pool-*.npz"))) == 1


def events_of(name, n=40):
    batch = generator(load_card(name).commands, 11).nextBatch(n)
    return batch, abs(batch.prt.id)


def outgoing(batch, code, which):
    """Numbers per event of a particle that comes out of the hard process or of one of its decays."""
    return ak.to_numpy(ak.sum((code == which) & (abs(batch.prt.status) == 23), axis=1))


def test_pairs_of_higgs_bosons_are_four_b_quarks():
    batch, code = events_of("hh_4b", 20)
    assert (outgoing(batch, code, 5) == 4).all()


def test_every_tau_of_a_w_is_three_muons_of_its_mass():
    batch, code = events_of("w_tau_3mu")
    prt = batch.prt
    from_tau = (code == 13) & (prt.status > 0) & (abs(prt.id[prt.mother1]) == 15)
    many = ak.to_numpy(ak.sum(from_tau, axis=1))
    assert ((many >= 3) & (many % 3 == 0)).all()
    one = many == 3  # no further tau of a heavy hadron
    assert one.sum() > 20
    prt, from_tau = prt[one], from_tau[one]
    assert ak.all(abs(ak.sum(ak.where(from_tau, prt.id // 13, 0), axis=1)) == 1)  # charge 1
    four = [ak.to_numpy(ak.sum(ak.where(from_tau, prt.p[k], 0.0), axis=1)) for k in ("e", "px", "py", "pz")]
    mass = np.sqrt(four[0] ** 2 - four[1] ** 2 - four[2] ** 2 - four[3] ** 2)
    np.testing.assert_allclose(mass, 1.777, atol=2e-2)


def test_vector_boson_fusion_has_two_jets_apart_and_two_taus():
    batch, code = events_of("vbf_higgs_tautau")
    assert (outgoing(batch, code, 15) == 2).all()
    hard = batch.prt[(abs(batch.prt.status) == 23) & (code <= 5)]
    eta = np.arcsinh(hard.p.pz / np.hypot(hard.p.px, hard.p.py))
    assert ak.all(ak.num(eta) >= 2)
    assert np.median(ak.to_numpy(abs(eta[:, 0] - eta[:, 1]))) > 2.5


def test_photons_of_a_higgs_boson_have_its_mass():
    batch, code = events_of("higgs_gamgam", 20)
    photons = batch.prt[(code == 22) & (abs(batch.prt.status) == 23)].p
    assert ak.all(ak.num(photons.e) == 2)
    total = {k: ak.to_numpy(ak.sum(photons[k], axis=1)) for k in ("e", "px", "py", "pz")}
    np.testing.assert_allclose(
        np.sqrt(total["e"] ** 2 - total["px"] ** 2 - total["py"] ** 2 - total["pz"] ** 2), 125.0, atol=1.0
    )


def test_soft_unclustered_energy_is_many_soft_particles():
    """Against pairs of Higgs bosons of the same invariant mass: more particles, and softer ones."""
    most, hardest = {}, {}
    for name in ("suep", "hh_4b"):
        seen = visible(events_of(name)[0])
        central = np.abs(seen.eta) < 3
        event = np.repeat(np.arange(40), np.diff(seen.offsets))
        most[name] = np.bincount(event[central], minlength=40).mean()
        hardest[name] = np.median([seen.pt[central & (event == e)].max() for e in range(40)])
    assert most["suep"] > 1.3 * most["hh_4b"]
    assert hardest["suep"] < 0.8 * hardest["hh_4b"]


def test_a_set_of_the_trigger_makes_each_pool_once(crossings, pools, tmp_path, monkeypatch):
    parts = tuple(p for p in resonant.parts_of("trigger") if p.name in ("rates", "rates_pu30", "w_tau_3mu"))
    small = tuple(resonant.Part(p.name, p.card, 0, 1, p.meaning) for p in parts)
    made_pools = []

    def copy(name, seed, folder):
        made_pools.append(name)
        shutil.copy(next(pools.glob("pool-*.npz")), towers.pool_path(load_card(name), seed, Path(folder)))

    monkeypatch.setattr(generate, "make_card_pools", copy)
    monkeypatch.setattr(generate, "CHUNK", 10)
    monkeypatch.setattr(resonant, "_sets", lambda: {"trigger": small})
    made = resonant.make_set("trigger", 3, folder=tmp_path / "set", cache=tmp_path / "chunks")
    assert made.complete
    assert {p.events for p in made.parts.values()} == {10}
    assert len(made_pools) == 2
    with uproot.open(made.paths("w_tau_3mu")[0]) as file:
        assert file["Events"]["nL1CaloRegion"].array(library="np").tolist() == [REGIONS] * 10
    assert resonant.set_folder("trigger", 3).parts[-2:] == ("trigger", "trigger-3")


def test_the_set_has_zero_bias_twice_and_eight_signals():
    parts = {p.name: p for p in resonant.parts_of("trigger")}
    assert parts["train"].events >= 200_000 <= parts["rates"].events
    assert len(resonant.TRIGGER_SIGNALS) == 8
    assert all(load_card(p.card).regions for p in parts.values())
