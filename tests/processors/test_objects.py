"""The feature set of reconstructed objects: against a slow reference, through the stream, and taken by the representations."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import FeatureError, InputError
from elsewhere.events import IDENTITY, Events
from elsewhere.models.networks.object_table import KINDS, object_columns
from elsewhere.models.representations.anomclr import AnomClr
from elsewhere.models.representations.vicreg import VicReg
from elsewhere.processors.features import load_features
from elsewhere.processors.objects import OBJECTS, ReconstructedObjects
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.nano import collection, write_nano
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace

FIELDS = ("pt", "eta", "phi")


def made(n, seed):
    """Branches of events with 0 to 13 objects of each kind in no order of pT, some out of acceptance."""
    rng = np.random.default_rng(seed)
    out = {
        "MET_pt": rng.exponential(30, n).astype(np.float32),
        "MET_phi": rng.uniform(-3, 3, n).astype(np.float32),
    }
    for name, _, _ in OBJECTS:
        counts = rng.integers(0, 14, n)
        total = counts.sum()
        out[name] = collection(counts, pt=3 + rng.exponential(30, total), eta=rng.uniform(-4.5, 4.5, total), phi=rng.uniform(-3.1, 3.1, total))  # fmt: skip
    return out


def branches(columns):
    """As a reader hands them over."""
    flat = {k: v for k, v in columns.items() if not isinstance(v, ak.Array)}
    return flat | {f"{k}_{f}": v[f] for k, v in columns.items() if isinstance(v, ak.Array) for f in v.fields}


def slow(columns):
    """The definition, event by event."""
    rows, ht, count = [], [], []
    for i in range(len(columns["MET_pt"])):
        row = [columns["MET_pt"][i], 0.0, columns["MET_phi"][i]]
        for name, most, eta in (("Electron", 4, 3.0), ("Muon", 4, 2.1), ("Jet", 10, 4.0)):
            inside = [o for o in ak.to_list(columns[name][i]) if abs(o["eta"]) < eta]
            inside.sort(key=lambda o: -o["pt"])
            for o in inside[:most]:
                row += [o[f] for f in FIELDS]
            row += [0.0] * 3 * (most - min(len(inside), most))
        rows.append(row)
        ht.append(sum(o["pt"] for o in inside))
        count.append(len(inside))
    return np.array(rows, np.float32), np.array(ht), np.array(count)


def test_a_handmade_event():
    columns = {
        "MET_pt": np.array([31.0], np.float32), "MET_phi": np.array([-2.0], np.float32),
        "Electron": collection(np.array([0]), pt=np.zeros(0), eta=np.zeros(0), phi=np.zeros(0)),
        "Muon": collection(np.array([3]), pt=np.array([5.0, 40.0, 90.0]), eta=np.array([1.0, -2.0, 2.2]), phi=np.array([0.1, 0.2, 0.3])),
        "Jet": collection(np.array([2]), pt=np.array([60.0, 20.0]), eta=np.array([-3.9, 4.1]), phi=np.array([3.0, 0.0])),
    }  # fmt: skip
    found = ReconstructedObjects().compute(branches(columns))
    named = dict(zip(ReconstructedObjects().features.names, found.x[0].tolist(), strict=True))
    wanted = {"MET_pt": 31.0, "MET_phi": -2.0, "Muon0_pt": 40.0, "Muon0_eta": -2.0, "Muon0_phi": 0.2, "Muon1_pt": 5.0,
              "Muon1_eta": 1.0, "Muon1_phi": 0.1, "Jet0_pt": 60.0, "Jet0_eta": -3.9, "Jet0_phi": 3.0}  # fmt: skip
    assert len(named) == 57
    assert {k: v for k, v in named.items() if v} == pytest.approx(wanted, rel=1e-6)
    assert (found.extras["HT"].tolist(), found.extras["n_jets"].tolist()) == ([60.0], [1])
    assert np.isnan(found.mass).all()


def test_it_is_what_the_definition_says():
    columns = made(300, 1)
    found = ReconstructedObjects().compute(branches(columns))
    x, ht, count = slow(columns)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_allclose(found.extras["HT"], ht, rtol=1e-5)
    np.testing.assert_array_equal(found.extras["n_jets"], count)


def test_branches_that_do_not_fit_are_told():
    columns = branches(made(5, 1))
    with pytest.raises(FeatureError, match="Jet_pt has 4 events, MET_pt 5"):
        ReconstructedObjects().compute({k: v[:4] if k.startswith("Jet") else v for k, v in columns.items()})
    with pytest.raises(InputError, match="no branch MET_pt"):
        preflight({"data": [str(shipped("qcd"))]}, load_features("objects"))


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """The file's branches, and the events that the stream made of them."""
    folder, n, columns = tmp_path_factory.mktemp("objects"), 1500, made(1500, 2)
    own = {"run": np.ones(n, np.uint32), "luminosityBlock": np.ones(n, np.uint32), "event": np.arange(1, n + 1, dtype=np.uint64),
           "genWeight": np.ones(n, np.float32)}  # fmt: skip
    write_nano(folder / "a.root", own | columns)
    features = load_features("objects")
    records = preflight({"data": [str(folder / "a.root")]}, features)
    process(records, features, folder / "out", scheduler="loop", chunk=400, key="k")
    return folder / "a.root", Workspace(folder / "out")


def test_the_stream_gives_the_same(streamed):
    import uproot

    path, workspace = streamed
    with uproot.open(path) as file:
        stored = file["Events"].arrays(list(ReconstructedObjects().branches))
    wanted = ReconstructedObjects().compute({k: stored[k] for k in stored.fields}).x
    events = workspace.read_table("data").events
    order = np.argsort(events.identity["event"])
    np.testing.assert_array_equal(events.x[order], wanted)


def test_representations_of_objects_take_it():
    features = ReconstructedObjects()
    columns, kinds = object_columns(features.features)
    assert columns.shape == (19, 3)
    assert [list(kinds).count(KINDS[k]) for k in ("MET", "Electron", "Muon", "Jet")] == [1, 4, 4, 10]
    x = features.compute(branches(made(200, 3))).x
    identity = np.zeros(200, IDENTITY)
    identity["event"] = np.arange(200)
    events = Events(x, np.full(200, np.nan), np.ones(200), identity, features.features)
    small = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "out": 4, "epochs": 1, "batch": 100}
    for method in (AnomClr(**small), VicReg(backbone=(16, 4), projector=16, epochs=1, batch=100)):
        latent = method.fit(events, events).transform(events)
        assert latent.x.shape == (200, len(latent.features))
        assert np.isfinite(latent.x).all()
