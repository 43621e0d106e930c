"""Real NanoAOD made by others, read where it lies: every event accounted for, or a refusal that says what to do."""

import re
from pathlib import Path

import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.daskawkward import process_dask_awkward
from elsewhere.processors.features import Dijet, load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.processors.verify import verify
from elsewhere.workspace import Workspace
from scipy.optimize import curve_fit

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
ENTRIES = {
    "coffea_nano_tt_v15": 200, "coffea_nano_tt_v12": 200, "coffea_nano_dimuon": 40, "coffea_nano_dy": 40,
    "coffea_pfnano": 10, "unroot_NanoAODv5_sample": 1000, "skhep_nanoAOD_2015_CMS_Open_Data_ttbar": 200,
}  # fmt: skip


def real(name: str) -> str:
    path = DATA / f"{name}.root"
    if not path.exists():
        pytest.skip(f"{path} is not there: the real files are not part of the package")
    return str(path)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_event_of_a_real_file_is_accounted_for(name, tmp_path):
    features = Dijet(min_pt=50.0, max_eta=5.0)
    records = preflight({"real": [real(name)]}, features)
    report = process(records, features, tmp_path / "a", scheduler="loop", chunk=64)
    counts = report.datasets["real"]
    assert counts.read == counts.entries == ENTRIES[name]
    assert counts.cutflow[0][1] == ENTRIES[name]
    assert verify(tmp_path / "a", records, 64).good
    process_dask_awkward(records, features, tmp_path / "b", scheduler="loop", chunk=64)
    one, two = (Workspace(tmp_path / k).read_table("real").events for k in "ab")
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.identity, two.identity)


def test_a_file_without_luminosity_blocks_is_refused_with_a_way_out():
    path = real("coffea_missing_luminosityBlock")
    with pytest.raises(InputError, match=r"has no branch luminosityBlock.*identity: entry"):
        preflight({"real": [path]}, Dijet())


def test_a_file_that_is_not_nanoaod_is_refused():
    with pytest.raises(InputError, match=r"has no tree Events, so it is not NanoAOD; it has CollectionTree"):
        preflight({"real": [real("coffea_PHYSLITE_example")]}, Dijet())


def z_peak(mass: np.ndarray) -> float:
    """Mean of a Gaussian on a straight line, fitted to 80-102 GeV in 1 GeV bins."""
    counts, edges = np.histogram(mass, np.arange(80.0, 102.5, 1.0))
    centre = 0.5 * (edges[1:] + edges[:-1])

    def shape(m, a, mu, s, b, k):
        return a * np.exp(-0.5 * ((m - mu) / s) ** 2) + b + k * (m - 91)

    start = (counts.max(), 91.0, 3.0, 10.0, 0.0)
    return float(curve_fit(shape, centre, counts, start, sigma=np.sqrt(counts + 1))[0][1])


def test_the_readmes_own_features_give_the_z(tmp_path):
    """The README's dimuon code, run as it stands, on 100,000 real events without run and event numbers."""
    path = real("agc_open-data-example")
    text = (ROOT / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "FunctionFeatures(" in b)
    (tmp_path / "dimuon.py").write_text(code)
    features = load_features("dimuon:FEATURES", tmp_path)
    with pytest.raises(InputError, match="identity: entry"):
        preflight({"mumu": [path]}, features)
    records = preflight({"mumu": [path]}, features, ["mumu"])
    report = process(records, features, tmp_path, scheduler="loop", chunk=30_000)
    assert report.datasets["mumu"].read == 100_000
    assert verify(tmp_path, records, 30_000).good
    events = Workspace(tmp_path).read_table("mumu").events
    peak = z_peak(events.mass)
    assert abs(peak - 91.2) < 0.5
    quoted = re.search(r"Z peak at ([0-9.]+) GeV", text)
    assert quoted is not None
    assert float(quoted[1]) == pytest.approx(peak, abs=0.06)
