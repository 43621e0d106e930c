"""Constituents of the leading jet: the kernel against a slow loop, odd files, the stream."""

import math

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import FeatureError, InputError
from elsewhere.models.representations.darkclr import DarkClr
from elsewhere.models.representations.jetclr import JetClr
from elsewhere.models.represented import Represented
from elsewhere.models.scores.mahalanobis import Mahalanobis
from elsewhere.processors.constituents import MOST, Constituents
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.nano import collection, write_nano
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace

from .test_features import flattened


def jet_columns(n, seed, most=130):
    """Events of 0 to 3 jets in no order of pT; links in no order, some candidates of no jet, some links to none."""
    rng = np.random.default_rng(seed)
    jets, candidates = rng.integers(0, 4, n), rng.integers(0, most, n)
    total, cands = int(jets.sum()), int(candidates.sum())
    owner = np.concatenate([rng.integers(-1, j, c) for j, c in zip(jets, candidates, strict=True)])
    place = np.concatenate([np.arange(c) for c in candidates])
    linked = rng.random(cands) < 0.8
    event = np.repeat(np.arange(n), candidates)
    order = np.lexsort((rng.random(int(linked.sum())), event[linked]))
    pt = rng.exponential(10.0, cands) * (rng.random(cands) > 0.05)
    pt[rng.random(cands) < 0.2] = 4.0  # equal ones
    return {
        "run": np.ones(n, np.uint32), "luminosityBlock": np.full(n, seed, np.uint32),
        "event": np.arange(1, n + 1, dtype=np.uint64), "genWeight": np.ones(n, np.float32),
        "FatJet": collection(
            jets, pt=rng.uniform(100, 900, total), eta=rng.uniform(-2, 2, total), phi=rng.uniform(-np.pi, np.pi, total),
            mass=rng.uniform(0, 200, total), **{f"tau{i}": rng.uniform(0, 1, total) for i in (1, 2, 3)},
        ),
        "PFCands": collection(candidates, pt=pt, eta=rng.uniform(-2.5, 2.5, cands), phi=rng.uniform(-np.pi, np.pi, cands)),
        "FatJetPFCands": collection(
            np.bincount(event[linked], minlength=n), jetIdx=owner[linked][order].astype(np.int16),
            pFCandsIdx=place[linked][order].astype(np.int16),
        ),
    }  # fmt: skip


def slow(raw, i):
    """One event from plain lists: the row, the mass and what is carried, or None without a jet."""
    jets = ak.to_list(raw["FatJet"][i])
    if not jets:
        return None
    lead = max(range(len(jets)), key=lambda k: (jets[k]["pt"], -k))
    candidates = ak.to_list(raw["PFCands"][i])
    links = ak.to_list(raw["FatJetPFCands"][i])
    mine = {link["pFCandsIdx"] for link in links if link["jetIdx"] == lead}
    used = sorted((k for k in mine if candidates[k]["pt"] > 0), key=lambda k: (-candidates[k]["pt"], k))
    row = np.zeros((MOST, 3))
    jet = jets[lead]
    for slot, k in enumerate(used[:MOST]):
        one = candidates[k]
        turn = math.remainder(one["phi"] - jet["phi"], 2 * math.pi)
        row[slot] = one["pt"], one["eta"] - jet["eta"], turn
    tau = [jet[f"tau{k}"] for k in (1, 2, 3)]
    carried = [jet["pt"], jet["eta"], len(used), tau[1] / (tau[0] + 1e-5), tau[2] / (tau[1] + 1e-5)]
    return row.ravel(), jet["mass"], carried


def test_columns_are_those_of_a_loop_over_events():
    raw = jet_columns(300, 3)
    made = Constituents().compute(flattened(raw))
    wanted = [slow(raw, i) for i in range(300)]
    one = np.array([w is not None for w in wanted])
    assert 20 < (~one).sum() < 200
    np.testing.assert_array_equal(made.cuts["one jet"], one)
    rows, mass, carried = zip(*(w for w in wanted if w is not None), strict=True)
    np.testing.assert_allclose(made.x, rows, atol=2e-6)
    np.testing.assert_array_equal(made.mass, mass)
    found = np.stack(list(made.extras.values()), axis=1)
    np.testing.assert_allclose(found, carried, rtol=1e-6)
    assert list(made.extras) == ["pt_J", "eta_J", "n_J", "tau21_J", "tau32_J"]
    n = made.extras["n_J"]
    assert n.max() > MOST > n[n > 0].min()
    assert (np.abs(made.x[:, 2::3]) > 3).any()
    filled = made.x[:, ::3] > 0
    np.testing.assert_array_equal(filled.sum(axis=1), np.minimum(n, MOST))
    assert not made.x.reshape(len(made.x), MOST, 3)[~filled].any()


def test_phi_is_wrapped_into_half_open_turns():
    raw = jet_columns(1, 1)
    columns = {name: values[:0] for name, values in flattened(raw).items()}
    columns |= {f"FatJet_{k}": ak.Array([[np.float32(v)]]) for k, v in {
        "pt": 300, "eta": 0.5, "phi": 3.0, "mass": 50, "tau1": 0.4, "tau2": 0.2, "tau3": 0.1}.items()}  # fmt: skip
    phi = np.array([-3.0, 3.0, 3.0 - np.pi, 2.9], np.float32)
    columns |= {
        "PFCands_pt": ak.Array([np.array([4, 3, 2, 1], np.float32)]),
        "PFCands_eta": ak.Array([np.full(4, 0.75, np.float32)]),
        "PFCands_phi": ak.Array([phi]),
        "FatJetPFCands_jetIdx": ak.Array([[0, 0, 0, 0]]),
        "FatJetPFCands_pFCandsIdx": ak.Array([[3, 1, 0, 2]]),
    }
    x = Constituents().compute(columns).x.reshape(MOST, 3)
    np.testing.assert_allclose(x[:4, 2], [2 * np.pi - 6, 0, -np.pi, -0.1], atol=1e-6)
    np.testing.assert_array_equal(x[:4, 1], [0.25] * 4)
    assert bool((x[:, 2] < np.float32(np.pi)).all())


def test_files_without_jets_or_links_are_events_without_constituents():
    raw = flattened(jet_columns(40, 5))
    alone = {k: v[:, :0] if k.startswith("FatJetPFCands") else v for k, v in raw.items()}
    made = Constituents().compute(alone)
    assert len(made.x) == ak.sum(ak.num(raw["FatJet_pt"]) > 0) > 0
    assert not made.x.any()
    assert not made.extras["n_J"].any()
    bare = {k: v[:, :0] if k.startswith("FatJet_") else v for k, v in alone.items()}
    assert Constituents().compute(bare).x.shape == (0, 3 * MOST)
    assert Constituents().compute({k: v[:0] for k, v in raw.items()}).x.shape == (0, 3 * MOST)


@pytest.mark.parametrize(
    ("branch", "wrong", "message"),
    [
        ("pFCandsIdx", 2, r"FatJetPFCands_pFCandsIdx: found 2 in an event with 2 PFCands; expected 0 to 1"),
        ("pFCandsIdx", -1, r"found -1 in an event with 2 PFCands"),
        ("jetIdx", 1, r"FatJetPFCands_jetIdx: found 1 in an event with 1 FatJet; expected -1 to 0"),
        ("jetIdx", -2, r"found -2 in an event with 1 FatJet"),
    ],
)
def test_a_link_to_nothing_is_told(branch, wrong, message):
    columns = {f"FatJet_{k}": ak.Array([[1.0]]) for k in ("pt", "eta", "phi", "mass", "tau1", "tau2", "tau3")}
    columns |= {f"PFCands_{k}": ak.Array([[1.0, 1.0]]) for k in ("pt", "eta", "phi")}
    links = {"jetIdx": [-1, 0], "pFCandsIdx": [0, 1]}
    columns |= {f"FatJetPFCands_{k}": ak.Array([v]) for k, v in links.items()}
    assert Constituents().compute(columns).extras["n_J"].tolist() == [1]
    columns[f"FatJetPFCands_{branch}"] = ak.Array([[links[branch][0], wrong]])
    with pytest.raises(FeatureError, match=message):
        Constituents().compute(columns)


def test_a_contrastive_score_runs_in_the_stream_as_beside_it(tmp_path):
    raw = jet_columns(600, 8, most=30)
    write_nano(tmp_path / "a.root", raw, basket=200)
    features = load_features("constituents")
    records = preflight({"qcd": [str(tmp_path / "a.root")]}, features)

    def run(name, **settings):
        process(records, features, tmp_path / name, scheduler="loop", chunk=250, key="k", **settings)
        return Workspace(tmp_path / name).read_table("qcd")

    events = run("plain", scorers={}, thresholds={}).events
    small = {"width": 8, "heads": 2, "layers": 1, "feedforward": 8, "epochs": 1, "learning_rate": 1e-3}
    scorers = {
        name: Represented(method(**small, out=8), Mahalanobis()).fit(events, events)
        for name, method in (("jetclr", JetClr), ("darkclr", DarkClr))
    }
    table = run("scored", scorers=scorers, thresholds={name: [1.0] for name in scorers})
    np.testing.assert_array_equal(table.events.x, events.x)
    for name, score in scorers.items():
        wanted = score.score(events)
        np.testing.assert_allclose(table.scores[name], wanted, rtol=1e-6)
        assert wanted.std() > 0.1


class Hardest:
    """pT of the first constituent."""

    def score(self, events):
        return events.x[:, events.features.names.index("Cand0_pt")].astype(np.float64)


def test_files_are_streamed_and_one_without_links_names_the_branch(tmp_path):
    raw = jet_columns(900, 6, most=40)
    write_nano(tmp_path / "a.root", raw, basket=200)
    features = load_features("constituents")
    records = preflight({"qcd": [str(tmp_path / "a.root")]}, features)
    report = process(
        records, features, tmp_path / "out", scheduler="loop", chunk=300, scorers={"hardest": Hardest()},
        thresholds={"hardest": [20.0]}, key="k",
    )  # fmt: skip
    counts = report.datasets["qcd"]
    assert [s[0] for s in counts.cutflow] == ["all", "one jet"]
    assert counts.kept == ak.sum(ak.num(raw["FatJet"]) > 0)
    table = Workspace(tmp_path / "out").read_table("qcd")
    assert table.events.features.names[:3] == ("Cand0_pt", "Cand0_eta", "Cand0_phi")
    made = {int(e["event"]): row for e, row in zip(table.events.identity, table.events.x, strict=True)}
    for i in (3, 411, 899):
        wanted = slow(raw, i)
        assert (wanted is None) == (i + 1 not in made)
        if wanted is not None:
            np.testing.assert_allclose(
                made[i + 1], wanted[0], rtol=1e-3, atol=5e-3
            )  # the file's own precision
    with pytest.raises(InputError, match=r"no branch .*PFCands_pt.*'constituents' needs 12"):
        preflight({"data": [str(shipped("higgs_bb"))]}, features)
