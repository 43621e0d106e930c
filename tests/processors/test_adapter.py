"""coffea's own runner with our processor gives the columns of our driver."""

import numpy as np
import pytest
from coffea.nanoevents import NanoAODSchema
from coffea.processor import IterativeExecutor, Runner
from elsewhere.errors import IncompleteError
from elsewhere.processors.adapter import FeatureProcessor
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace


def test_coffeas_runner_gives_the_same_columns(folder, records, tmp_path):
    files = {str(folder / n): "Events" for n in ("a.root", "b.root")}
    processor = FeatureProcessor(Dijet(), out=tmp_path / "coffea")
    runner = Runner(IterativeExecutor(status=False), schema=NanoAODSchema, chunksize=800)
    out = runner({"qcd": {"files": files}}, processor)
    ours = process(records, Dijet(), tmp_path / "ours", chunk=800, scheduler="loop")
    assert sum(row["n_in"] for row in out["ledger"]) == 4000
    one, two = (Workspace(tmp_path / n).read_table("qcd").events for n in ("coffea", "ours"))
    order_one, order_two = (
        np.argsort(e.identity, order=["file_hi", "luminosityBlock", "event"]) for e in (one, two)
    )
    np.testing.assert_array_equal(one.x[order_one], two.x[order_two])
    np.testing.assert_array_equal(one.identity[order_one], two.identity[order_two])
    view = out["histograms"]["qcd"].view(flow=True)
    np.testing.assert_allclose(view.value, ours.histogram.view(flow=True).value)


def test_overlapping_ranges_are_refused(records):
    rows = [{"uuid": "u", "path": "f", "start": a, "stop": b, "n_in": b - a} for a, b in ((0, 5), (4, 9))]
    with pytest.raises(IncompleteError, match="counted twice"):
        FeatureProcessor(Dijet()).postprocess({"ledger": rows, "histograms": {}})
