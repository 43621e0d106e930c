import awkward as ak
import numpy as np
import pytest
import uproot
from elsewhere.samples.nano import collection, complete, truncate, write_nano


def columns(n=5):
    return {
        "run": np.full(n, 7, np.uint32),
        "luminosityBlock": np.repeat(np.array([1, 2], np.uint32), [2, n - 2]),
        "event": np.arange(1, n + 1, dtype=np.uint64),
        "genWeight": np.linspace(0.5, 2.0, n).astype(np.float32),
        "L1Jet": collection(np.arange(n), pt=np.arange(n * (n - 1) // 2) + 0.5),
    }


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_truncation_keeps_half_a_step_and_no_bits_below(bits):
    values = np.random.default_rng(1).uniform(-1e4, 1e4, 10_000).astype(np.float32)
    kept = truncate(values, bits)
    assert np.max(np.abs(kept / values - 1)) <= 2.0 ** -(bits + 1) * (1 + 1e-6)
    assert not np.any(kept.view(np.uint32) & ((1 << (23 - bits)) - 1))
    np.testing.assert_array_equal(truncate(kept, bits), kept)


def test_hardware_steps_survive_truncation():
    steps = np.arange(2048) * 0.5
    np.testing.assert_array_equal(truncate(steps.astype(np.float32)), steps)
    eta = np.arange(-230, 231) * 0.010875
    np.testing.assert_array_equal(np.rint(truncate(eta.astype(np.float32)) / 0.010875), np.arange(-230, 231))


@pytest.mark.parametrize("bits", [0, 23])
def test_impossible_precision_is_refused(bits):
    with pytest.raises(ValueError, match="1 to 22"):
        truncate(np.ones(3, np.float32), bits)


def test_absent_collections_are_empty_and_indices_point_nowhere():
    made = complete({**columns(), "FatJet": collection(np.full(5, 2), pt=np.ones(10))})
    assert ak.sum(ak.num(made["Muon"].pt)) == 0
    assert ak.to_list(made["FatJet"].subJetIdx1) == [[-1, -1]] * 5


def test_file_has_the_trees_of_nanoaod(tmp_path):
    write_nano(tmp_path / "a.root", columns(), basket=3)
    with uproot.open(tmp_path / "a.root") as file:
        events, runs, blocks = file["Events"], file["Runs"], file["LuminosityBlocks"]
        assert events["nL1Jet"].array().tolist() == [0, 1, 2, 3, 4]
        assert events["L1Jet_pt"].array().tolist()[3] == [3.5, 4.5, 5.5]
        assert runs["genEventCount"].array().tolist() == [5]
        assert runs["genEventSumw"].array()[0] == pytest.approx(events["genWeight"].array(library="np").sum())
        assert blocks["luminosityBlock"].array().tolist() == [1, 2]
