"""Real NanoAOD of others through `process`: events lost, refusals, and the Z peak by the README's own-features example.

    python benchmarks/real.py [FOLDER]

FOLDER (default ../shared/data beside the repository) holds the files that tests/test_real_files.py names; they are not
part of the package. Without them nothing is measured and the figures are null.
"""

import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from common import publish, table
from elsewhere.errors import InputError
from elsewhere.processors.features import Dijet, load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace
from test_real_files import ENTRIES, z_peak

ROOT = Path(__file__).resolve().parents[1]
REFUSED = {"coffea_missing_luminosityBlock": "identity: entry", "coffea_PHYSLITE_example": "is not NanoAOD"}
DIMUON = "agc_open-data-example"


def refused(path: Path, reason: str) -> bool:
    """Whether the file is refused with the reason its reader needs."""
    try:
        preflight({"real": [str(path)]}, Dijet())
    except InputError as error:
        return reason in str(error)
    return False


def dimuon(path: Path, folder: Path) -> tuple[int, float]:
    """(events lost, Z peak in GeV) with the code of the README as it stands."""
    text = (ROOT / "README.md").read_text()
    code = next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if "FunctionFeatures(" in b)
    (folder / "dimuon.py").write_text(code)
    features = load_features("dimuon:FEATURES", folder)
    records = preflight({"mumu": [str(path)]}, features, ["mumu"])
    report = process(records, features, folder, scheduler="loop", chunk=30_000)
    lost = records["mumu"][0].entries - report.datasets["mumu"].read
    return lost, z_peak(Workspace(folder).read_table("mumu").events.mass)


def measure(data: Path) -> dict:
    """The figures; null where the files are not there."""
    if not data.is_dir():
        print(f"{data} is not there: nothing measured")
        return {"events_lost": None, "z_peak_gev": None}
    lost = 0
    features = Dijet(min_pt=50.0, max_eta=5.0)
    for name, entries in ENTRIES.items():
        with tempfile.TemporaryDirectory() as folder:
            records = preflight({"real": [str(data / f"{name}.root")]}, features)
            report = process(records, features, Path(folder), scheduler="loop", chunk=64)
        missing = entries - report.datasets["real"].read
        lost += missing
        print(f"  {name}: {entries} events, {missing} lost, {report.datasets['real'].kept} kept")
    right = 0
    for name, reason in REFUSED.items():
        good = refused(data / f"{name}.root", reason)
        right += good
        print(f"  {name}: {'refused as it should be' if good else 'NOT refused with its reason'}")
    with tempfile.TemporaryDirectory() as folder:
        missing, peak = dimuon(data / f"{DIMUON}.root", Path(folder))
    print(f"  {DIMUON}: {missing} lost, Z peak at {peak:.2f} GeV")
    counts = {"files": len(ENTRIES) + len(REFUSED) + 1, "refused_rightly": right}
    return {**counts, "events_lost": lost + missing, "z_peak_gev": peak}


if __name__ == "__main__":
    figures = measure(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared" / "data")
    wanted = {"events_lost": "0", "z_peak_gev": "91.2 +- 0.5"}
    table([(k, v, wanted.get(k, "")) for k, v in figures.items()])
    publish("real", figures)
