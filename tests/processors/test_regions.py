"""The calorimeter image: order of its columns, places, and what a file without regions is told."""

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import FeatureError, InputError
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.regions import REGIONS, Regions
from elsewhere.samples.nano import collection, write_nano
from elsewhere.samples.regions import REGIONS as MADE
from elsewhere.samples.shipped import shipped


def image(n, seed):
    return np.random.default_rng(seed).integers(0, 1024, (n, 18, 14)).astype(np.uint16)


def jagged(values):
    return ak.unflatten(values.ravel(), np.full(len(values), REGIONS))


def test_columns_are_the_image_phi_by_phi():
    assert MADE == REGIONS
    et = image(7, 1)
    made = Regions().compute({"L1CaloRegion_et": jagged(et), "Pileup_nPU": np.arange(7)})
    np.testing.assert_array_equal(made.x.reshape(7, 18, 14), et)
    names = Regions().features.names
    assert made.x[3, names.index("region_17_2")] == et[3, 17, 2]
    np.testing.assert_array_equal(made.extras["total_ET"], et.sum(axis=(1, 2), dtype=np.int64) / 2)
    assert made.extras["n_pileup"].tolist() == list(range(7))
    assert Regions().compute({"L1CaloRegion_et": jagged(et)}).extras["n_pileup"].tolist() == [-1] * 7


def test_regions_with_places_may_come_in_any_order_and_incomplete():
    et = image(5, 2)
    rng = np.random.default_rng(3)
    rows = [rng.permutation(REGIONS)[: rng.integers(0, REGIONS)] for _ in range(5)]
    counts = [len(r) for r in rows]
    flat = np.concatenate(rows)
    columns = {
        "L1CaloRegion_et": ak.unflatten(np.concatenate([e.ravel()[r] for e, r in zip(et, rows, strict=True)]), counts),
        "L1CaloRegion_iphi": ak.unflatten((flat // 14).astype(np.uint8), counts),
        "L1CaloRegion_ieta": ak.unflatten((flat % 14).astype(np.int16), counts),
    }  # fmt: skip
    want = np.zeros((5, REGIONS))
    for i, r in enumerate(rows):
        want[i, r] = et[i].ravel()[r]
    np.testing.assert_array_equal(Regions().compute(columns).x, want)
    columns["L1CaloRegion_ieta"] = ak.unflatten(np.full(len(flat), 14), counts)
    with pytest.raises(FeatureError, match="ieta 14"):
        Regions().compute(columns)


def test_a_crossing_without_all_regions_is_told():
    short = ak.unflatten(np.ones(REGIONS + 251, np.uint16), [REGIONS, 251])
    with pytest.raises(FeatureError, match="has 251 regions, expected 252"):
        Regions().compute({"L1CaloRegion_et": short})


def test_a_file_with_regions_is_read_and_one_without_names_the_branch(tmp_path):
    features = load_features("regions")
    et = image(30, 4)
    write_nano(tmp_path / "a.root", {
        "run": np.ones(30, np.uint32), "luminosityBlock": np.ones(30, np.uint32), "event": np.arange(1, 31, dtype=np.uint64),
        "genWeight": np.ones(30, np.float32), "L1CaloRegion": collection(np.full(30, REGIONS), et=et.ravel()),
    })  # fmt: skip
    records = preflight({"data": [str(tmp_path / "a.root")]}, features)
    assert records is not None
    with pytest.raises(InputError, match="no branch L1CaloRegion_et"):
        preflight({"data": [str(shipped("zerobias"))]}, features)
