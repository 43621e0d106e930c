"""Lumi masks, overlap and quarantine from search.yaml to exit code, on small files of made-up data."""

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from click.testing import CliRunner
from elsewhere.cli import main
from elsewhere.samples.nano import collection
from elsewhere.workspace import Workspace

YAML = """
name: q
events:
  features: dijet
{extra}
  datasets:
    a: {{files: "a*.root"{mask}}}
    b: {{files: "b*.root"{mask}}}
reference: {{method: Sidebands, width: 600.0}}
score: {{method: WeakTrees}}
hunt: {{mass_low: 2500.0, mass_high: 6500.0, windows: {{first: 3100.0, last: 4500.0, step: 200.0, width: 400.0}}}}
run: {{scheduler: loop}}
"""


def data(path: Path, events, run=315_000, seed=1):
    """Events of data (no genWeight), ten to a luminosity section, all of which pass the dijet selection."""
    events = np.asarray(events, dtype=np.uint64)
    n, rng = len(events), np.random.default_rng(seed)
    counts = np.full(n, 2)
    fields = {
        "pt": np.tile([1500.0, 1400.0], n),
        "eta": rng.uniform(-1, 1, 2 * n),
        "phi": np.tile([0.0, 3.0], n),
    }
    fields |= {"mass": rng.uniform(50, 300, 2 * n), "msoftdrop": rng.uniform(50, 300, 2 * n)}
    fields |= {f"tau{i}": rng.uniform(0.1, 1, 2 * n) for i in (1, 2, 3, 4)}
    columns = {
        "run": np.full(n, run, np.uint32), "luminosityBlock": (events // 10 + 1).astype(np.uint32), "event": events,
        "FatJet": collection(counts, **fields),
    }  # fmt: skip
    types = {k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()}
    with uproot.recreate(path) as file:
        file.mktree("Events", types, counter_name=lambda c: f"n{c}")
        file["Events"].extend(columns)


@pytest.fixture
def folder(tmp_path):
    data(tmp_path / "a.root", range(100))
    data(tmp_path / "b.root", range(80, 200))
    return tmp_path


def call(folder, *args, code=0, extra="", mask=""):
    (folder / "search.yaml").write_text(YAML.format(extra=extra, mask=mask))
    result = CliRunner().invoke(main, ["process", str(folder / "search.yaml"), *args])
    assert result.exit_code == code, result.output
    return result.output


def counts(folder):
    return json.loads((folder / "runs/q/counts.json").read_text())


ORDER = "  overlap: {order: [b, a]}"


def test_shared_events_are_refused_until_somebody_says_what_to_keep(folder):
    assert "a and b share 20 events" in call(folder, code=1)


def test_a_shared_event_is_kept_in_the_first_dataset(folder):
    call(folder, extra=ORDER)
    tables = {n: Workspace(folder / "runs/q").read_table(n).events.identity["event"] for n in "ab"}
    assert sorted(tables["a"]) == list(range(80))
    assert sorted(tables["b"]) == list(range(80, 200))
    found = json.loads((folder / "runs/q/overlap.json").read_text())
    assert [(s["first"], s["second"], s["events"]) for s in found["shared"]] == [("b", "a", 20)]


def test_a_mask_and_a_table_give_the_luminosity_of_what_was_processed(folder):
    (folder / "golden.json").write_text(json.dumps({"315000": [[1, 5], [15, 30]]}))
    rows = [f"315000,{ls},{ls / 10}" for ls in range(1, 31)]
    (folder / "lumi.csv").write_text("\n".join(["run,lumi,recorded_pb", *rows]) + "\n")
    call(folder, extra=f"{ORDER}\n  luminosity_table: lumi.csv", mask=", lumi_mask: golden.json")
    events = Workspace(folder / "runs/q").read_table("a").events.identity["event"]
    assert sorted(events) == list(range(50))
    found = json.loads((folder / "runs/q/lumis.json").read_text())
    assert found["a"]["processedLumis"] == {"315000": [[1, 5]]}
    assert found["a"]["recorded_fb"] == pytest.approx(1.5e-3)
    assert found["b"]["processedLumis"] == {"315000": [[15, 20]]}
    assert counts(folder)["datasets"]["a"]["cutflow"][1][:2] == ["golden JSON", 50]


def test_a_mask_of_another_year_is_an_error(folder):
    (folder / "golden.json").write_text(json.dumps({"297050": [[1, 500]]}))
    assert "of the year these data" in call(folder, code=1, extra=ORDER, mask=", lumi_mask: golden.json")


def test_a_bad_file_is_left_out_and_said_or_stops_a_strict_run(folder):
    data(folder / "b2.root", range(300, 400))
    whole = (folder / "b2.root").read_bytes()
    (folder / "b2.root").write_bytes(whole[: len(whole) // 2])
    said = call(folder, code=3, extra=ORDER)
    assert "incomplete: 1 files in quarantine" in said
    assert "b2.root was cut short" in said
    found = counts(folder)
    assert (found["complete"], found["datasets"]["b"]["read"]) == (False, 120)
    assert "b2.root was cut short" in call(folder, "--strict", code=1, extra=ORDER)
    (folder / "b2.root").write_bytes(whole)
    assert "quarantine" not in call(folder, extra=ORDER)
    assert counts(folder)["datasets"]["b"]["read"] == 220
