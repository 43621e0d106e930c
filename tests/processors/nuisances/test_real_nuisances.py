"""Real NanoAOD made by others: the branches are there, and the physics comes out with the right sign."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.nuisances.base import vary
from elsewhere.processors.nuisances.jets import JetEnergyResolution, JetEnergyScale
from elsewhere.processors.nuisances.met import UnclusteredMET
from elsewhere.processors.nuisances.weights import PDFWeight, PileupProfileWeight, ScaleWeight, ShowerWeight

from .conftest import DATA, flat, identities, real_columns


def columns_of(name: str, *nuisances) -> dict:
    wanted = {b for n in nuisances for b in (*n.branches, *n.optional)}
    columns = real_columns(name, sorted(wanted | {"Jet_pt", "event"}))
    missing = {b for n in nuisances for b in n.branches} - set(columns)
    assert not missing
    return columns


@pytest.mark.parametrize(
    ("name", "met"),
    [("coffea_nano_tt_v12", "PuppiMET"), ("coffea_nano_tt_v12", "MET"), ("coffea_nano_tt_v15", "PuppiMET"),
     ("coffea_nano_tt_v15", "PFMET"), ("coffea_nano_dy", "MET")],
)  # fmt: skip
def test_jets_and_missing_energy_of_every_version(name, met):
    jes = JetEnergyScale("jes", "Jet", 0.02, met)
    jer = JetEnergyResolution("jer", "Jet", 1.1, 0.05, 0.15, met=met)
    loose = UnclusteredMET("unclustered", met)
    columns = columns_of(name, jes, jer, loose)
    assert {"GenJet_pt", "Jet_genJetIdx"} <= set(columns)
    n = len(columns["event"])
    for nus in ({"jes": 1.0}, {"jer": -1.0}, {"unclustered": 1.0}):
        moved = vary(columns, [jes, jer, loose], nus, identities(n))
        assert moved[f"{met}_pt"].shape == (n,)
        assert np.isfinite(moved[f"{met}_pt"]).all()
        assert np.median(np.abs(moved[f"{met}_pt"] - columns[f"{met}_pt"])) > 0.1
        assert flat(moved["Jet_pt"]).min() > 0
    up, down = (jer.factors(columns, nu, identities(n)) for nu in (1.0, -1.0))
    alone = JetEnergyResolution("jer", "Jet", 1.1, 0.05, 0.15, match=False).factors(
        columns, 1.0, identities(n)
    )
    matched = flat(columns["Jet_genJetIdx"]) >= 0
    assert matched.mean() > 0.4
    assert np.mean(up[matched] != alone[matched]) > 0.9
    np.testing.assert_array_equal(up[~matched], alone[~matched])
    assert np.std(up) > np.std(down)


def test_the_stored_up_vector_is_reached():
    loose = UnclusteredMET("unclustered", "PuppiMET")
    columns = columns_of("coffea_nano_tt_v12", loose)
    moved = loose.shift(columns, 1.0, identities(len(columns["event"])))
    np.testing.assert_allclose(
        moved["PuppiMET_pt"], columns["PuppiMET_ptUnclusteredUp"], rtol=2e-6, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "first"), [("coffea_nano_tt_v12", 2.0), ("coffea_nano_tt_v15", 2.0), ("coffea_nano_dy", 0.5), ("unroot_NanoAODv5_sample", 0.5)]
)  # fmt: skip
def test_a_lower_shower_scale_makes_more_jets_in_either_order(name, first):
    """What [0] means is read off the events: half the scale is more radiation."""
    isr = ShowerWeight("isr", "ISR", first)
    columns = columns_of(name, isr)
    jets = ak.to_numpy(ak.num(columns["Jet_pt"]))
    up, down = (np.corrcoef(jets, isr.factor(columns, nu))[0, 1] for nu in (1.0, -1.0))
    assert up < -0.1
    assert down > 0.1


def test_the_shower_order_of_old_files_is_in_their_documentation():
    import uproot

    path = DATA / "coffea_nano_dy.root"
    if not path.exists():
        pytest.skip(f"{path} is not there: the real files are not part of the package")
    title = uproot.open(path)["Events"]["PSWeight"].title
    assert "[0] is ISR=0.5 FSR=1; [1] is ISR=1 FSR=0.5; [2] is ISR=2 FSR=1; [3] is ISR=1 FSR=2" in title
    scales = uproot.open(path)["Events"]["LHEScaleWeight"].title
    assert "[1] is muR=0.50000E+00 muF=0.10000E+01" in scales
    assert "[3] is muR=0.10000E+01 muF=0.50000E+00" in scales


@pytest.mark.parametrize("name", ["coffea_nano_tt_v12", "coffea_nano_tt_v15", "coffea_nano_dy"])
def test_theory_weights_are_near_one(name):
    count = 32 if name == "coffea_nano_dy" else 100
    weights = (
        ScaleWeight("a", "muR"), ScaleWeight("b", "muF"), ScaleWeight("c"), PDFWeight("d", eigenvector=3),
        PDFWeight("e", "replicas", count=count),
    )  # fmt: skip
    columns = columns_of(name, *weights)
    for nuisance in weights:
        values = nuisance.factor(columns, 1.0)
        assert values.shape == (len(columns["event"]),)
        assert 0.5 < values.mean() < 1.5
        assert np.ptp(values) > 0
    if "tt" in name:
        # A higher renormalisation scale is a smaller coupling, and so fewer pairs.
        assert weights[0].factor(columns, 1.0).mean() < 1 < weights[0].factor(columns, -1.0).mean()


def test_a_sample_without_matrix_element_weights_is_refused():
    nuisance = ScaleWeight("scale")
    columns = columns_of("unroot_NanoAODv5_sample", nuisance)
    with pytest.raises(InputError, match="1000 of 1000 events' lists in LHEScaleWeight are empty"):
        nuisance.factor(columns, 1.0)


def test_pileup_of_a_real_file_becomes_the_target():
    flat_profile = PileupProfileWeight("pu", [1.0] * 100, [1.0] * 100, [1.0] * 100, [1.0] * 100)
    columns = columns_of("coffea_nano_tt_v12", flat_profile)
    np.testing.assert_array_equal(flat_profile.factor(columns, 1.0), 1.0)
    simulated = np.bincount(columns["Pileup_nTrueInt"].astype(int), minlength=100)
    # Twice as often above the median as below it.
    target = simulated * np.where(np.arange(100) > np.median(columns["Pileup_nTrueInt"]), 2.0, 1.0)
    weights = PileupProfileWeight("pu", target, target, target, simulated.astype(float)).factor(columns, 0.0)
    made = np.bincount(columns["Pileup_nTrueInt"].astype(int), weights=weights, minlength=100)
    np.testing.assert_allclose(made / made.sum(), target / target.sum())


def test_coffeas_own_events_shift_alike(monkeypatch):
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

    monkeypatch.setattr(NanoAODSchema, "warn_missing_crossrefs", False)
    jer = JetEnergyResolution("jer", "Jet", 1.1, 0.05, 0.15, met="PuppiMET")
    columns = columns_of("coffea_nano_tt_v12", jer)
    events = NanoEventsFactory.from_root(
        {str(DATA / "coffea_nano_tt_v12.root"): "Events"}, schemaclass=NanoAODSchema, mode="virtual"
    ).events()
    lazy = {}
    for branch in columns:
        collection, _, field = branch.partition("_")
        values = events[collection][field] if field else events[branch]
        lazy[branch] = np.asarray(ak.to_numpy(values)) if values.ndim == 1 else ak.Array(values)
    who = identities(len(columns["event"]))
    plain, made = jer.shift(columns, 1.0, who), jer.shift(lazy, 1.0, who)
    for branch in plain:
        assert ak.to_list(plain[branch]) == ak.to_list(made[branch])
