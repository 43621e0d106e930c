import shutil
import warnings

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from elsewhere.errors import InputError
from elsewhere.samples import shipped as module
from elsewhere.samples.card import load_card
from elsewhere.samples.shipped import (
    FOLDER,
    SHIPPED,
    check_shipped,
    data_card,
    shipped,
    shipped_names,
    write_card,
)
from elsewhere.workspace import file_digest, write_json

TRIGGER = [n for n in shipped_names() if load_card(n).kind == "l1"]


def test_files_are_those_of_their_checksums():
    assert check_shipped() == []


def test_nothing_else_ships_and_it_is_small():
    assert {p.name for p in FOLDER.iterdir()} == {"card.yaml", *(f"{n}.root" for n in shipped_names())}
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 14.5e6


def test_counts_are_those_promised():
    for name, events, _ in SHIPPED:
        with uproot.open(shipped(name)) as file:
            assert file["Events"].num_entries == events == file["Runs"]["genEventCount"].array()[0]
    counts = {name: events for name, events, _ in SHIPPED}
    assert counts["qcd"] >= 100_000
    assert counts["zerobias"] >= 50_000


def test_no_identity_is_used_twice():
    seen = []
    for name in shipped_names():
        with uproot.open(shipped(name)) as file:
            columns = file["Events"].arrays(["run", "luminosityBlock", "event"], library="np")
        seen.append(
            np.stack([columns[k].astype(np.uint64) for k in ("run", "luminosityBlock", "event")], axis=1)
        )
        assert np.all(columns["run"] == load_card(name).run)
    whole = np.concatenate(seen)
    assert len(np.unique(whole, axis=0)) == len(whole) == sum(events for _, events, _ in SHIPPED)


@pytest.mark.parametrize("name", shipped_names())
def test_coffea_reads_it_without_a_warning(name):
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = {str(shipped(name)): "Events"}
        events = NanoEventsFactory.from_root(
            source, schemaclass=NanoAODSchema, mode="eager", entry_stop=500
        ).events()
        assert len(events) == 500
        if name in TRIGGER:
            assert ak.all(ak.num(events.L1EtSum) == 2)
            assert events.L1EtSum.etSumType[0].tolist() == [1, 2]
            assert ak.max(ak.num(events.L1Jet)) > 2
        else:
            assert ak.all(ak.num(events.FatJet) == 2)
            assert np.all((events.FatJet[:, 0] + events.FatJet[:, 1]).mass > 0)


def test_zero_bias_rates_are_those_of_a_trigger_at_50_collisions():
    """Reference: an independent simulation of the same crossings (kHz, 2544 bunches); a factor two either way."""
    with uproot.open(shipped("zerobias")) as file:
        a = file["Events"].arrays(["genWeight", "L1Jet_pt", "L1EG_pt", "L1EtSum_pt"])
    weight = ak.to_numpy(a.genWeight).astype(float)
    assert weight.mean() == pytest.approx(1.0, abs=0.05)

    def rate(values, threshold):
        passes = ak.to_numpy(ak.fill_none(values, 0.0)) >= threshold
        return 28608.8 * weight[passes].sum() / weight.sum()

    assert 1.6 < rate(ak.max(a.L1Jet_pt, axis=1), 180) < 6.4
    assert 1.75 < rate(a.L1EtSum_pt[:, 0], 360) < 7.0
    assert 28 < rate(ak.max(a.L1EG_pt, axis=1), 28) < 114


def test_signals_stand_out_of_zero_bias():
    ht = {}
    for name in TRIGGER:
        with uproot.open(shipped(name)) as file:
            a = file["Events"].arrays(["genWeight", "L1EtSum_pt"])
        ht[name] = np.average(ak.to_numpy(a.L1EtSum_pt)[:, 0], weights=ak.to_numpy(a.genWeight))
    assert ht["zerobias"] == pytest.approx(ht["zerobias_train"], rel=0.1)
    assert all(ht[n] > 3 * ht["zerobias"] for n in ("higgs_bb", "higgs_tautau"))
    assert ht["ttbar"] > 10 * ht["zerobias"]


def test_card_says_what_made_each_file():
    card = data_card()
    assert card["licence"] == "CC0-1.0"
    for name, events, seed in SHIPPED:
        entry = card["files"][name]
        assert entry["command"] == f"elsewhere simulate {name} --events {events} --seed {seed}"
        assert entry["meaning"] == load_card(name).meaning
        assert 0 < entry["efficiency"] <= 1
        assert "pythia8mc" in entry["versions"]


@pytest.mark.parametrize(("asked", "nearest"), [("zerobais", "zerobias"), ("qdc.root", "qcd")])
def test_unknown_name_gets_the_nearest(asked, nearest):
    with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
        shipped(asked)


def test_name_may_carry_its_suffix():
    assert shipped("qcd.root") == shipped("qcd")


def test_changed_and_missing_files_are_told(tmp_path):
    shutil.copy(FOLDER / "card.yaml", tmp_path)
    for name in shipped_names()[1:]:
        (tmp_path / f"{name}.root").symlink_to(FOLDER / f"{name}.root")
    (tmp_path / "ttbar.root").unlink()
    (tmp_path / "ttbar.root").write_bytes(b"other")
    problems = check_shipped(tmp_path)
    assert len(problems) == 2
    assert "qcd.root is missing" in problems[0]
    assert "ttbar.root differs" in problems[1]
    (tmp_path / "card.yaml").write_text("[")
    with pytest.raises(InputError, match="install again"):
        check_shipped(tmp_path)


def test_making_them_writes_the_card_and_leaves_no_sidecar(tmp_path, monkeypatch):
    def fake(card, events, out, seed, **_):
        out.write_bytes(card.encode())
        report = {"card": {"name": card, "run": load_card(card).run}, "events": events, "seed": seed}
        write_json(
            out.with_suffix(".json"),
            {**report, "generated": 2 * events, "sha256": file_digest(out), "versions": {}},
        )

    monkeypatch.setattr(module, "simulate", fake)
    paths = module.make_shipped(folder=tmp_path)
    assert [p.stem for p in paths] == shipped_names()
    assert check_shipped(tmp_path) == []
    assert not list(tmp_path.glob("*.json"))
    assert yaml.safe_load((tmp_path / "card.yaml").read_text())["files"]["qcd"]["efficiency"] == 0.5
    with pytest.raises(InputError, match="does not exist"):
        write_card(tmp_path)
